"""Writers meet full disks, limits, locked folders, SIGKILL, Ctrl-C and each other: whole files, one line that says what to do, and nothing lost."""
import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fuzz import ONE_LINE
from safetensors.torch import load_file

import tensorsim_nb as ts
from tensorsim_nb.cli import _write_gram
from tensorsim_nb.core import atomic_path
from tensorsim_nb.data import Dataset
from tensorsim_nb.experiments import CheckpointTable, kept_frame, kept_table, load_frame, save_frame
from tensorsim_nb.gram import gram
from tensorsim_nb.heads import HeadTable
from tensorsim_nb.jobs import Store
from tensorsim_nb.plots import report, toy_table
from tensorsim_nb.train import TrainConfig, seeded, train

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason="the system has no fork, which makes cheap processes to kill")


def forked(work):
    "Run `work` in a process of its own; its exit code is 0, 1 for an OSError and 2 for anything else."
    pid = os.fork()
    if pid: return pid
    code = 2
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.simplefilter('ignore')
        work()
        code = 0
    except OSError: code = 1
    except KeyboardInterrupt: code = 130
    finally: os._exit(code)


def ended(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def table(k=0):
    curves = pd.DataFrame(dict(step=[0, 1, 2], quantity=['loss']*3, value=[1., .5, .2]))
    return CheckpointTable(['0', '1', '2'], [0, 1, 2], dict(tensor=np.eye(3)), curves, dict(poison=1), dict(version=k))


def model(k): return seeded(lambda: ts.classifier(20, 20, 5), k)
def some_gram(k): return gram([model(k), model(k + 1)], progress=False)
def heads(k): return HeadTable([(0, 0, h) for h in range(9)], [f'm{k}'], {kind: np.eye(9) for kind in ('QK', 'OV')}, 'standard', '')
def explorer(k):
    from tensorsim_nb.explorers import CheckpointExplorer
    return CheckpointExplorer(toy_table(4, seed=k))
def csv(g, path): _write_gram(path.with_suffix('.csv'), g)


# name -> (the k-th thing, function that writes it, function that reads the file and says which k it is)
WRITERS = dict(
    model=(model, ts.save, lambda p: next(k for k in (0, 1) if torch.equal(ts.load(p)[1].weight, model(k)[1].weight))),
    gram=(some_gram, lambda g, p: g.save(p), lambda p: next(k for k in (0, 1) if np.array_equal(ts.Gram.load(p).inner, some_gram(k).inner))),
    heads=(heads, lambda t, p: t.save(p), lambda p: int(HeadTable.load(p).models[0][1:])),
    page=(lambda k: [(str(k), dict(a=k))]*40, lambda s, p: report(p, 'page', s), lambda p: int(re.fullmatch(r'<!DOCTYPE.*?<h2>(\d).*</html>\n', p.read_text(), re.S)[1])),
)


@pytest.mark.parametrize('name', WRITERS)
def test_killed_while_writing(name, tmp_path):
    "SIGKILL at random moments: the file is one of the two, whole, and no reader takes what is left behind for a file."
    make, write, which = WRITERS[name]
    things, path, rng, seen, left = [make(0), make(1)], tmp_path/'file', random.Random(0), set(), 0
    write(things[0], path)
    def for_ever():
        k = 1
        while True: write(things[k], path); k = 1 - k
    for _ in range(20):
        pid = forked(for_ever)
        time.sleep(rng.uniform(.001, .02))
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        seen.add(which(path))
        assert all(p.name.startswith('.') for p in tmp_path.iterdir() if p != path)
        left = sum(p != path for p in tmp_path.iterdir())
    for p in tmp_path.glob('.*'): os.utime(p, (0, 0))
    from tensorsim_nb.core import tidy
    tidy(tmp_path)
    assert seen <= {0, 1} and [p.name for p in tmp_path.iterdir()] == ['file'], left


def test_control_a_plain_writer_leaves_halves(tmp_path):
    "What the test above would find without the temporary name."
    data, halves, rng = b'x'*2**22, 0, random.Random(0)
    def for_ever():
        while True: (tmp_path/'file').write_bytes(data)
    for _ in range(60):
        pid = forked(for_ever)
        time.sleep(rng.uniform(.005, .03))
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        if (halves := halves + ((tmp_path/'file').stat().st_size != len(data) if (tmp_path/'file').exists() else 0)): break
    assert halves


def test_killed_between_the_files_of_a_table(tmp_path):
    "Three files make a table: whatever the moment, it is read whole or computed again."
    rng, damaged = random.Random(0), 0
    def for_ever():
        k = 0
        while True: k += 1; table(k).save(tmp_path/'t'); save_frame(pd.DataFrame(dict(x=[k])), tmp_path/'f', dict(k=k))
    for _ in range(20):
        pid = forked(for_ever)
        time.sleep(rng.uniform(.005, .03))
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            kept = kept_table(tmp_path/'t', dict(version=-1), lambda: table(-1))
            frame = kept_frame(tmp_path/'f', dict(k=-1), lambda: pd.DataFrame(dict(x=[-1])))
        damaged += len(said)
        assert kept.meta == dict(version=-1) == CheckpointTable.load(tmp_path/'t').meta and frame.x[0] == -1 and load_frame(tmp_path/'f')[1] == dict(k=-1)
        assert all('computed again' in str(w.message) for w in said)


# ---- disks ----

@pytest.fixture(scope='module')
def disk(tmp_path_factory):
    "A disk of 256 KB of our own; `full(True)` fills it, `locked(True)` makes it read-only."
    folder = tmp_path_factory.mktemp('disk')
    done = shutil.which('mount') and subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', str(folder)], capture_output=True, text=True)
    if not done or done.returncode: pytest.skip(f"no small disk can be mounted here ({done.stderr.strip() if done else 'no mount'}); test_no_room_simulated stands in")
    class Disk:
        path = folder
        def full(self, yes):
            (folder/'filler').unlink(missing_ok=True)
            if yes:
                with open(folder/'filler', 'wb', buffering=0) as f, pytest.raises(OSError):
                    while True: f.write(b'x'*512)
        def locked(self, yes): subprocess.run(['mount', '-o', f"remount,{'ro' if yes else 'rw'}", str(folder)], check=True)
        def empty(self):
            for p in folder.iterdir(): shutil.rmtree(p) if p.is_dir() else p.unlink()
    yield Disk()
    subprocess.run(['umount', str(folder)])


def refused(f, code):
    with pytest.raises(OSError) as e: f()
    assert e.value.errno == code and ONE_LINE.fullmatch(str(e.value)), str(e.value)
    return str(e.value)


ALL = {**{k: (make, write) for k, (make, write, _) in WRITERS.items()}, 'block': (lambda k: dict(x=np.full(9000, float(k))), lambda a, p: _store(p).put('key', a)),
       'note': (lambda k: dict(a=['x'*9000]*k), lambda v, p: _store(p).write_json('note', v)), 'table': (table, lambda t, p: t.save(p.parent)),
       'frame': (lambda k: pd.DataFrame(dict(x=np.arange(5000.) + k)), lambda f, p: save_frame(f, p, {})), 'csv': (some_gram, csv), 'html': (explorer, lambda e, p: e.save_html(p))}
def _store(p):
    (p.parent/'store'/'blocks').mkdir(parents=True, exist_ok=True)
    return Store(p.parent/'store')


def contents(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file() and p.name != 'filler'}


@pytest.mark.parametrize('name', ALL)
def test_full_and_locked(disk, name):
    make, write = ALL[name]
    disk.empty()
    (disk.path/'in').mkdir()
    write(make(0), disk.path/'in'/'file')
    before, new = contents(disk.path), make(1)
    disk.full(True)
    assert 'Make room' in refused(lambda: write(new, disk.path/'in'/'file'), errno.ENOSPC)
    assert contents(disk.path) == before # the old file is whole, and no litter
    disk.full(False)
    disk.locked(True)
    try: assert 'folder of your own' in refused(lambda: write(new, disk.path/'in'/'file'), errno.EROFS)
    finally: disk.locked(False)
    assert contents(disk.path) == before
    write(new, disk.path/'in'/'file')
    assert contents(disk.path) != before or name == 'table'


@pytest.mark.parametrize('name', ALL)
def test_no_room_simulated(name, tmp_path):
    "A limit on the size of files, in a process of its own: needs no disk."
    make, write = ALL[name]
    (tmp_path/'in').mkdir()
    new, limit = make(1), 20
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        text = refused(lambda: write(new, tmp_path/'in'/'file'), errno.EFBIG)
        assert 'ulimit' in text and not contents(tmp_path)
    assert ended(forked(limited)) == 0


def test_places_that_are_no_places(tmp_path):
    (tmp_path/'file').write_text('mine')
    inside = tmp_path/'file'/'inside'
    for f in (lambda: Store(inside), lambda: ts.save(model(0), inside), lambda: table().save(inside), lambda: save_frame(pd.DataFrame(), inside/'t', {}),
              lambda: ts.save(model(0), tmp_path), lambda: ts.save(model(0), tmp_path/('x'*300)), lambda: table().save(tmp_path/'file')):
        with pytest.raises((ValueError, OSError)) as e: f()
        assert ONE_LINE.fullmatch(str(e.value)), str(e.value)
    assert contents(tmp_path) == dict(file=b'mine')
    ts.save(model(0), tmp_path/('x'*250)) # a long name leaves little room for a temporary one
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_has_the_mode_of_its_folder(tmp_path):
    old = os.umask(0o022)
    try:
        ts.save(model(0), tmp_path/'m')
        Store(tmp_path/'s').put('k', dict(x=np.ones(2)))
    finally: os.umask(old)
    assert {oct((p.stat().st_mode) & 0o777) for p in (tmp_path/'m', tmp_path/'s'/'blocks'/'k.safetensors')} == {'0o644'} # others may read a shared store


# ---- long work ----

@pytest.fixture(scope='module')
def many(): return [seeded(lambda: ts.deep_mlp(6, 5, 5, 3, 2), k) for k in range(18)]


def test_a_gram_goes_on_after_a_full_disk(disk, many):
    want = gram(many, method='closure', progress=False).inner
    disk.empty()
    stops = 0
    with open(disk.path/'filler', 'wb') as f: f.write(b'x'*(2**18 - 40_000))
    for room in (30_000, 60_000, 2**18):
        try: got = gram(many, method='closure', store=disk.path/'store', progress=False).inner
        except OSError as e:
            assert e.errno == errno.ENOSPC and ONE_LINE.fullmatch(str(e)), str(e)
            stops += 1
            kept = {p.name: p.stat().st_mtime_ns for p in disk.path.glob('store/blocks/*')}
            os.truncate(disk.path/'filler', 2**18 - 40_000 - room if room < 2**17 else 0)
        else: break
    assert stops and np.array_equal(got, want) and kept
    assert all((disk.path/'store'/'blocks'/n).stat().st_mtime_ns == t for n, t in kept.items()) # found, not computed again
    disk.locked(True)
    try: refused(lambda: gram(many, method='closure', store=disk.path/'store', progress=False), errno.EROFS)
    finally: disk.locked(False)


DATA = Dataset(torch.rand(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3, 'made up', None, 'train')
CONFIG = TrainConfig(steps=200, every=20, batch_size=8)


def run(folder, pause=0., config=CONFIG, measure=None):
    return train(seeded(lambda: ts.classifier(8, 6, 3), 0), DATA, config, folder, quiet=True, measure=measure or (lambda net: time.sleep(pause) or {'norm': float(net[1].weight.norm())}))


def left(folder):
    return {p.name: load_file(p) if p.suffix == '.safetensors' else p.read_bytes() for p in folder.iterdir()}


def same(a, b):
    a, b = left(a), left(b)
    assert a.keys() == b.keys()
    for k in a: assert a[k] == b[k] if isinstance(a[k], bytes) else all(torch.equal(a[k][n], b[k][n]) for n in b[k]), k


@pytest.fixture(scope='module')
def straight(tmp_path_factory): return run(tmp_path_factory.mktemp('runs')/'straight').run_dir


def test_training_goes_on_after_a_full_disk(disk, straight):
    disk.empty()
    (disk.path/'filler').write_bytes(b'x'*(2**18 - 24_000))
    text = refused(lambda: run(disk.path/'run'), errno.ENOSPC)
    assert 'Make room' in text and list((disk.path/'run').glob('step_*')) and not list((disk.path/'run').glob('.*'))
    disk.full(False)
    same(run(disk.path/'run').run_dir, straight)
    disk.locked(True) # a finished run is only read
    try: same(run(disk.path/'run').run_dir, straight)
    finally: disk.locked(False)


@pytest.mark.parametrize('how', (signal.SIGINT, signal.SIGKILL))
def test_training_goes_on_after_a_signal(how, straight, tmp_path):
    rng, stopped = random.Random(0), 0
    for _ in range(6):
        pid = forked(lambda: run(tmp_path/'run', .03))
        until = time.monotonic() + rng.uniform(.05, .4)
        while time.monotonic() < until: time.sleep(.01)
        os.kill(pid, how)
        stopped += ended(pid) in (130, -signal.SIGKILL)
        assert all(p.name.startswith('.') or p.suffix in ('.safetensors', '.csv', '.json') for p in (tmp_path/'run').iterdir())
    assert stopped
    for p in run(tmp_path/'run').run_dir.glob('.*'): p.unlink()
    same(tmp_path/'run', straight)


def test_a_gram_goes_on_after_control_c(many, tmp_path):
    pid = forked(lambda: gram(many, method='closure', store=tmp_path/'store', progress=lambda done, total: time.sleep(.05)))
    until = time.monotonic() + 60
    while time.monotonic() < until and len(list(tmp_path.glob('store/blocks/*.safetensors'))) < 2: time.sleep(.005)
    os.kill(pid, signal.SIGINT)
    assert ended(pid) == 130 and not list((tmp_path/'store'/'blocks').glob('.*'))
    kept = len(list((tmp_path/'store'/'blocks').iterdir()))
    assert kept >= 2 and np.array_equal(gram(many, method='closure', store=tmp_path/'store', progress=False).inner, gram(many, method='closure', progress=False).inner)


def test_two_who_train_the_same_run(straight, tmp_path):
    "The second is told so; nothing is mixed."
    def slowly():
        def wait(net):
            while (tmp_path/'run'/'step_000020.safetensors').exists() and not (tmp_path/'go').exists(): time.sleep(.01)
            return {'norm': float(net[1].weight.norm())}
        run(tmp_path/'run', measure=wait)
    first = forked(slowly)
    until = time.monotonic() + 60
    while time.monotonic() < until and not (tmp_path/'run'/'step_000020.safetensors').exists(): time.sleep(.01)
    with pytest.raises(BlockingIOError, match='another process trains') as e: run(tmp_path/'run')
    assert ONE_LINE.fullmatch(str(e.value))
    (tmp_path/'go').touch()
    assert ended(first) == 0
    same(run(tmp_path/'run').run_dir, straight)


def test_two_who_keep_the_same_table(tmp_path):
    def keep():
        for k in range(12):
            assert kept_table(tmp_path/'t', dict(version=k), lambda: table(k)).meta == dict(version=k)
            kept_frame(tmp_path/'f', dict(k=k), lambda: pd.DataFrame(dict(x=[k])))
    both = [forked(keep) for _ in range(2)]
    codes = [ended(p) for p in both]
    assert codes == [0, 0] # who meets the other's half-written table computes it again
    assert CheckpointTable.load(tmp_path/'t').meta['version'] <= 11
    assert kept_frame(tmp_path/'f', dict(k=99), lambda: pd.DataFrame(dict(x=[99]))).x[0] == 99


def test_a_run_that_lost_rows_or_moments_is_refused(tmp_path):
    done = run(tmp_path/'run', config=TrainConfig(steps=40, every=20, batch_size=8)).run_dir
    again = lambda: run(tmp_path/'run', config=TrainConfig(steps=40, every=20, batch_size=8))
    curves, state = (done/'curves.csv').read_text(), (done/'state.safetensors').read_bytes()
    (done/'curves.csv').write_text(''.join(l for l in curves.splitlines(True) if not l.startswith('20,')))
    with pytest.raises(ValueError, match='without step 20'): again()
    (done/'curves.csv').write_bytes(b'\xff\xfe')
    with pytest.raises(ValueError, match='curves.csv'): again()
    (done/'curves.csv').write_text(curves)
    from safetensors import safe_open
    from safetensors.torch import save_file
    with safe_open(done/'state.safetensors', 'pt') as f: meta, tensors = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    moments = {k for k in tensors if k.startswith('optimizer')}
    for spoilt, header in (({k: v for k, v in tensors.items() if k not in moments}, meta), (tensors, dict(meta, step='7')), (tensors, dict(meta, step='0')),
                           ({k: v*float('nan') if k.endswith('avg') else v for k, v in tensors.items()}, meta), ({k: v[:1] if v.ndim == 2 else v for k, v in tensors.items()}, meta),
                           ({k: v[:9] if k.startswith('gen') else v for k, v in tensors.items()}, meta)):
        save_file({k: v.contiguous() for k, v in spoilt.items()}, done/'state.safetensors', metadata=header)
        with pytest.raises(ValueError, match='whole state.safetensors'): again()
    (done/'state.safetensors').write_bytes(state)
    again()


def test_a_note_in_a_store_is_not_trusted(many, tmp_path):
    gram(many[:2], method='closure', store=tmp_path/'s', progress=False)
    note = next((tmp_path/'s').glob('*.json'))
    for text in ('[1]', '{"models": [1]}', '{"models": {"0": 3}}', '{', '\udc80', '['*100_000):
        note.write_bytes(text.encode('utf8', 'surrogateescape'))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            gram(many[:2], method='closure', store=tmp_path/'s', progress=False)
    assert json.loads(note.read_text())['models'].keys() == {'0', '1'}


def test_a_link_where_a_run_writes(tmp_path):
    (tmp_path/'theirs').write_text('theirs')
    (tmp_path/'link').symlink_to(tmp_path/'theirs')
    with atomic_path(tmp_path/'link') as tmp: tmp.write_text('ours')
    assert (tmp_path/'theirs').read_text() == 'theirs' and Path(tmp_path/'link').read_text() == 'ours'
