"""Everything that reads a file, each with good files to spoil and what must hold of what it read."""
import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

import tensorsim_nb as ts
from fuzz import ONE_LINE, campaign
from tensorsim_nb import cli
from tensorsim_nb.data import _read_svhn
from tensorsim_nb.experiments import CheckpointTable, _digest, load_frame, save_frame
from tensorsim_nb.gram import checkpoint_files
from tensorsim_nb.heads import HeadTable
from tensorsim_nb.jobs import Store
from tensorsim_nb.models import info, load
from tensorsim_nb.train import _load_state, _read_json, _save_state, read_curves

MODELS = (lambda: ts.classifier(3, 4, 2), lambda: ts.transformer(4, 4, 2, 3, 1, d_hidden=2, bias=True), lambda: ts.Model(ts.Linear(2, 2, bias=True)))
NAMES = {'0.left.weight': 'a.l', '0.right.weight': 'a.r', '0.down.weight': 'a.d', '1.weight': 'head'} # ours -> theirs


def sound_model(m):
    "What was read computes finite outputs of the shape it promises."
    assert isinstance(m, ts.Model) and all(torch.isfinite(p).all() and p.is_floating_point() for p in m.parameters())
    if m.d_in*max(m.n_ctx or 1, 1) > 10**6: return
    x = torch.ones(1, *([m.n_ctx] if m.n_ctx else []), m.d_in, dtype=next(m.parameters()).dtype)
    with torch.no_grad(): assert m(x).shape[-1] == m.d_out


def sound_gram(g): assert g.similarity.shape == (len(g), len(g)) and np.isfinite(g.similarity).all()


def sound_table(t):
    assert len(t.labels) == len(t.steps) and all(np.isfinite(m).all() and m.dtype == float for m in t.matrices.values()) and (not t.matrices or len(t.to_dataframe()))
    sound_curves(t.curves)


def sound_curves(c): assert list(c.columns) == ['step', 'quantity', 'value'] and (c.empty or (c['step'].dtype.kind, c['value'].dtype.kind) == ('i', 'f'))


def sound_law(law):
    assert torch.isfinite(law.mean).all() if law.mean is not None else True
    if law.cov is not None: assert torch.isfinite(law.cov).all()


def file_of(write, folder):
    "The bytes that `write(path)` writes."
    write(folder/'made')
    data = (folder/'made').read_bytes()
    (folder/'made').unlink()
    return data


def npz(**arrays):
    f = io.BytesIO()
    np.savez(f, **arrays)
    return f.getvalue()


def like(read, path, then):
    "A reader of one file that stands at `path`, among others."
    def placed(p):
        path.write_bytes(p.read_bytes())
        then(path)
        return read(path.parent)
    return placed


def _tables(folder):
    "A table, and readers of it with one of its files spoilt; the digests are made to fit, as an attacker would."
    home = folder/'table'
    curves = pd.DataFrame(dict(step=[0, 1, 2], quantity=['loss']*3, value=[1., .5, .2]))
    table = CheckpointTable(['0', '1', '2'], [0, 1, 2], dict(tensor=np.eye(3)), curves, dict(poison=1), dict(target=1))
    def again(_=None): table.save(home)
    again()
    files = {p.name: p.read_bytes() for p in home.iterdir()}
    def fit(path):
        what = json.loads(files['table.json'])
        what['digests'][path.name] = _digest(path.read_bytes())
        (home/'table.json').write_text(json.dumps(what))
    def reader(name):
        def read(p):
            for k, v in files.items(): (home/k).write_bytes(v)
            return like(CheckpointTable.load, home/name, fit if name != 'table.json' else lambda path: None)(p)
        return read
    for name, kind in (('table.json', 'json'), ('matrices.npz', 'zip'), ('curves.csv', 'bytes')):
        yield name, SimpleNamespace(read=reader(name), good=[files[name]], kind=kind, check=sound_table)


def _frames(folder):
    home = folder/'frame'
    save_frame(pd.DataFrame(dict(law=['a', 'b'], r=[.1, .2])), home/'t', dict(seed=1))
    files = {p.name: p.read_bytes() for p in home.iterdir()}
    def fit(path): (home/'t.json').write_text(json.dumps(dict(json.loads(files['t.json']), digest=_digest(path.read_bytes()))))
    def reader(name):
        def read(p):
            for k, v in files.items(): (home/k).write_bytes(v)
            return like(lambda d: load_frame(d/'t'), home/name, fit if name != 't.json' else lambda path: None)(p)
        return read
    for name, kind in (('t.json', 'json'), ('t.csv', 'bytes')):
        yield 'frame ' + name, SimpleNamespace(read=reader(name), good=[files[name]], kind=kind, check=lambda got: isinstance(got[0], pd.DataFrame))


def _run(folder):
    "The state, settings and curves of a run."
    home = folder/'run'
    home.mkdir()
    gens = dict(batch=torch.Generator(), change=torch.Generator())
    def optimizer():
        net = ts.classifier(3, 2, 2)
        return net, torch.optim.AdamW(net.parameters())
    net, opt = optimizer()
    net(torch.ones(2, 3)).sum().backward()
    opt.step()
    _save_state(home, 5, opt, gens)
    state = (home/'state.safetensors').read_bytes()
    def read_state(d):
        opt = optimizer()[1]
        return _load_state(d, opt, dict(batch=torch.Generator(), change=torch.Generator()), {0, 5}), opt.state_dict()
    def sound(got):
        assert got[0] in (0, 5) and all(torch.isfinite(v).all() for s in got[1]['state'].values() for v in s.values())
    yield 'run state', SimpleNamespace(read=like(read_state, home/'state.safetensors', lambda p: None), good=[state], check=sound)
    yield 'run settings', SimpleNamespace(read=_read_json, good=[b'{"format": "tensorsim_nb.run/1", "lr": 0.1, "model": ["Linear"]}'], kind='json', check=lambda got: got.items())
    yield 'run curves', SimpleNamespace(read=like(read_curves, home/'curves.csv', lambda p: None), good=[b'step,quantity,value\r\n0,loss,1.5\r\n10,"a, b",0.25\r\n'], kind='bytes', check=sound_curves)


def _heads(folder):
    r = np.random.default_rng(0)
    A, B = ({k: (lambda X: X @ X.T)(r.normal(size=(4, 6))) for k in ('QK', 'OV')} for _ in range(2))
    table = HeadTable([(0, 0, h) for h in range(4)], ['m'], A, 'standard', '')
    data = file_of(table.save, folder)
    def sound(t): assert np.isfinite(t.similarity(t.kinds[0], zero=0.)).all() and len(t.labels) == len(t.heads)
    yield 'heads', SimpleNamespace(read=HeadTable.load, good=[data], inner=('heads', 'models'), check=sound)


def _cli(path):
    "`tensorsim info`, which refuses in one line."
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = cli.main(['info', str(path)])
    text, said = err.getvalue(), out.getvalue()
    assert all(c.isprintable() or c == '\n' for c in text + said), (text, said)
    if not code: return said
    assert code == 2 and text.startswith('tensorsim: error: ') and text.count('\n') == 1, (code, text)
    raise ValueError(text.removeprefix('tensorsim: error: ').strip())


def targets(folder):
    "Name -> reader, good files, and more for `campaign`; `folder` is empty."
    models = [file_of(lambda p: ts.save(make(), p, step=3), folder) for make in MODELS]
    theirs = {NAMES[k]: v for k, v in MODELS[0]().state_dict().items()}
    foreign, pt = file_of(lambda p: save_file(theirs, p), folder), file_of(lambda p: torch.save(theirs, p), folder)
    old = file_of(lambda p: torch.save(dict(model=theirs), p, _use_new_zipfile_serialization=False), folder)
    found = dict(models=SimpleNamespace(read=load, good=models, inner=('architecture',), check=sound_model),
                 info=SimpleNamespace(read=info, good=models, inner=('architecture',)),
                 cli=SimpleNamespace(read=_cli, good=models, inner=('architecture',), suffix='.safetensors'))
    for name, data, kind in (('safetensors', foreign, 'safetensors'), ('pt', pt, 'zip'), ('old pt', old, 'bytes')):
        found[f'mapped {name}'] = SimpleNamespace(read=lambda p: load(p, NAMES), good=[data], kind=kind, check=sound_model)
    found['state dict'] = SimpleNamespace(read=lambda p: ts.from_state_dict(load_weights(p), dict(left='a.l', right='a.r', down='a.d', head='head'), residual=0.), good=[foreign], check=sound_model)
    (folder/'foreign').mkdir()
    (folder/'foreign'/'theirs').write_bytes(foreign)
    spec = dict(NAMES, architecture=info_of(models[0], folder), ignore=['other'])
    found['mapping'] = SimpleNamespace(read=lambda p: load(folder/'foreign'/'theirs', cli.read_mapping(str(p))), good=[json.dumps(x).encode() for x in (NAMES, spec)], kind='json', check=sound_model)
    gram = ts.gram([ts.classifier(3, 4, 2) for _ in range(3)], slices='all', progress=False)
    found['gram'] = SimpleNamespace(read=ts.Gram.load, good=[file_of(gram.save, folder)], inner=('about', 'labels'), check=sound_gram)
    found |= dict(_heads(folder))
    store = Store(folder/'store')
    store.put('key', dict(inner=np.eye(3)))
    block = store.file('key')
    def block_or_none(p):
        block.write_bytes(p.read_bytes())
        got = store.get('key')
        if got is None: raise ValueError('A block is whole: got a damaged one. Compute it again.')
        return got
    def sound_block(got): assert (got['inner'] == np.eye(3)).all()
    found['store block'] = SimpleNamespace(read=block_or_none, good=[block.read_bytes()], check=sound_block)
    def note(p):
        (store.path/'note.json').write_bytes(p.read_bytes())
        return store.read_json('note')
    def dict_or_none(got): assert got is None or isinstance(got, dict)
    found['store note'] = SimpleNamespace(read=note, good=[b'{"format": "tensorsim_nb/store/1", "models": {"a": "0123"}, "blocks": ["x"]}'], kind='json', check=dict_or_none)
    found |= dict(_tables(folder)) | dict(_frames(folder)) | dict(_run(folder))
    laws = [npz(mean=np.zeros(3), cov=np.eye(3)), npz(x=np.random.default_rng(0).normal(size=(9, 3)))]
    found['law'] = SimpleNamespace(read=lambda p: cli.read_law(str(p)), good=laws, kind='zip', check=sound_law)
    from scipy.io import savemat
    mat = io.BytesIO()
    savemat(mat, dict(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.array([[1], [10]], np.uint8)), do_compression=True)
    def sound_digits(got): assert len(got[0]) == len(got[1]) and ((got[1] >= 0) & (got[1] < 10)).all() and torch.isfinite(got[0]).all()
    found['svhn'] = SimpleNamespace(read=_read_svhn, good=[mat.getvalue()], kind='bytes', check=sound_digits)
    (folder/'checkpoints').mkdir()
    (folder/'checkpoints'/'b.safetensors').write_bytes(models[0])
    found['folder'] = SimpleNamespace(read=like(lambda d: [load(p) for p in checkpoint_files(d)], folder/'checkpoints'/'a.safetensors', lambda p: None), good=models, inner=('architecture',))
    return found


def load_weights(p):
    from tensorsim_nb.models import read_weights
    return read_weights(p)


def info_of(data, folder):
    (folder/'m').write_bytes(data)
    try: return info(folder/'m')['architecture']
    finally: (folder/'m').unlink()


def attack(name, folder, n, seed=0):
    "n spoilt files for one reader; how many were refused and read."
    (folder/'in').mkdir(exist_ok=True)
    t = vars(targets(folder)[name]) if not isinstance(name, SimpleNamespace) else vars(name)
    return campaign(t['read'], t['good'], folder/'in', n, seed=f'{seed}', **{k: v for k, v in t.items() if k not in ('read', 'good')})


NAMES_OF_READERS = ('models', 'info', 'cli', 'mapped safetensors', 'mapped pt', 'mapped old pt', 'state dict', 'mapping', 'gram', 'heads', 'store block', 'store note', 'table.json',
                    'matrices.npz', 'curves.csv', 'frame t.json', 'frame t.csv', 'run state', 'run settings', 'run curves', 'law', 'svhn', 'folder')
