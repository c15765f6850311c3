"""Readers of files meet damaged and hostile ones: a clear refusal or a finite object, and nothing is run or written."""
import os
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from fuzz import campaign

import tensorsim_nb as ts
from tensorsim_nb.cli import read_law
from tensorsim_nb.experiments import CheckpointTable
from tensorsim_nb.heads import HeadTable
from tensorsim_nb.jobs import Store
from tensorsim_nb.models import info

MODELS = (lambda: ts.classifier(3, 4, 2), lambda: ts.transformer(4, 4, 2, 3, 1, d_hidden=2, bias=True), lambda: ts.Model(ts.Linear(2, 2, bias=True)))
N = int(os.environ.get('FUZZ', 200)) # FUZZ=100000 python -m pytest -q tests/test_fuzz.py


@pytest.fixture
def good(tmp_path):
    "The bytes of good model files, and an empty folder."
    files = []
    for make in MODELS:
        ts.save(make(), tmp_path/'m', step=3)
        files.append((tmp_path/'m').read_bytes())
    (tmp_path/'m').unlink()
    return files


def is_sound(m):
    "What was read computes finite outputs of the shape it promises."
    assert isinstance(m, ts.Model) and all(torch.isfinite(p).all() and p.is_floating_point() for p in m.parameters())
    if m.d_in*max(m.n_ctx or 1, 1) > 10**6: return
    x = torch.ones(1, *([m.n_ctx] if m.n_ctx else []), m.d_in, dtype=next(m.parameters()).dtype)
    with torch.no_grad(): assert m(x).shape[-1] == m.d_out


def test_models(good, tmp_path):
    refused, read = campaign(ts.load, good, tmp_path, N, inner=('architecture',), check=is_sound)
    assert refused > N//2 and read > 0 # both kinds are met


def test_headers(good, tmp_path): campaign(info, good, tmp_path, N, seed=1, inner=('architecture',))


def test_grams(tmp_path):
    ts.gram([ts.classifier(3, 4, 2) for _ in range(3)], slices='all', progress=False).save(tmp_path/'g')
    data = (tmp_path/'g').read_bytes()
    campaign(ts.Gram.load, [data], tmp_path, N, seed=2, inner=('about', 'labels'))


def test_head_tables(tmp_path):
    heads, inner = [(0, 0, h) for h in range(3)], {k: np.eye(3) + .1 for k in ('QK', 'OV')}
    table = HeadTable(heads, ['m'], inner, 'Gaussian()', '')
    table.save(tmp_path/'t')
    data = (tmp_path/'t').read_bytes()
    def check(got): assert got.heads == heads and all((got.inner[k] == inner[k]).all() for k in inner) # one wrong bit and it is refused
    campaign(HeadTable.load, [data], tmp_path, N, seed=6, inner=('heads', 'models'), check=check)
    assert HeadTable.load(tmp_path/'t').labels == table.labels


def test_blocks(tmp_path):
    store = Store(tmp_path/'store')
    store.put('key', dict(inner=torch.eye(3).numpy()))
    path = store.file('key')
    data = path.read_bytes()
    def read(p):
        path.write_bytes(p.read_bytes())
        got = store.get('key')
        if got is None: raise ValueError('not there, or damaged')
        return got
    def check(got): assert (got['inner'] == torch.eye(3).numpy()).all()
    campaign(read, [data], tmp_path, N, seed=3, check=check)


def table(folder):
    "A small table on disk; the bytes of its files."
    curves = pd.DataFrame(dict(step=[0, 1, 2], quantity=['loss']*3, value=[1., .5, .2]))
    CheckpointTable(['0', '1', '2'], [0, 1, 2], dict(tensor=np.eye(3)), curves, dict(poison=1), dict(target=1)).save(folder)
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize('name', ('table.json', 'matrices.npz', 'curves.csv'))
def test_tables(tmp_path, name):
    files = table(tmp_path/'table')
    def read(p):
        (tmp_path/'table'/name).write_bytes(p.read_bytes())
        return CheckpointTable.load(tmp_path/'table')
    campaign(read, [files[name]], tmp_path, N//4, seed=4, suffix='')
    names = sorted(p.name for p in (tmp_path/'table').iterdir())
    assert names == sorted(files)


def test_laws(tmp_path):
    good = []
    for i, what in enumerate((dict(mean=np.zeros(3), cov=np.eye(3)), dict(x=np.random.default_rng(0).normal(size=(9, 3))))):
        np.savez(tmp_path/'law.npz', **what)
        good.append((tmp_path/'law.npz').read_bytes())
    (tmp_path/'law.npz').unlink()
    campaign(lambda p: read_law(str(p)), good, tmp_path, N, seed=5, suffix='.npz')


class Payload:
    "A pickle that would leave a file behind."
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('name', ('m.safetensors', 'm.pt', 'm.bin', 'm'))
@pytest.mark.parametrize('dump', (lambda x, p: p.write_bytes(pickle.dumps(x)), lambda x, p: torch.save(x, p)))
def test_pickles_are_not_run(tmp_path, name, dump):
    dump({'0.weight': Payload(tmp_path/'run')}, tmp_path/name)
    for read in (ts.load, info, ts.Gram.load, ts.gram):
        with pytest.raises((ValueError, TypeError, FileNotFoundError)): read(tmp_path/name)
    assert not (tmp_path/'run').exists()


def test_names_that_climb_and_links(tmp_path):
    (tmp_path/'inside').mkdir()
    ts.save(ts.classifier(2, 2, 2), tmp_path/'real.safetensors')
    os.symlink(tmp_path/'real.safetensors', tmp_path/'inside'/'link.safetensors')
    os.symlink(tmp_path/'nowhere', tmp_path/'inside'/'dangling.safetensors')
    assert ts.load(tmp_path/'inside'/'link.safetensors').d_in == 2 # a link that a user made is followed
    with pytest.raises(FileNotFoundError): ts.load(tmp_path/'inside'/'dangling.safetensors')
    with pytest.raises(ValueError, match='other shapes'): # a tensor's name is a key, never a path
        from safetensors.torch import safe_open, save_file
        with safe_open(tmp_path/'real.safetensors', 'pt') as f: meta, state = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
        save_file({'../../evil': state.pop('1.weight'), **state}, tmp_path/'climb', metadata=meta)
        ts.load(tmp_path/'climb')
    assert not (tmp_path.parent/'evil').exists()
