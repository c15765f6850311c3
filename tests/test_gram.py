"""The N x N matrix: agreement with the pairwise calls, one law after the other; then interruption, resuming, workers that die."""
import importlib, itertools, os, re, signal, subprocess, sys, time, warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from oracle import random_law

import tensorsim_nb as ts
from tensorsim_nb import forms
from tensorsim_nb.gram import Gram, gram
from tensorsim_nb.jobs import Store, digest
from tensorsim_nb.laws import LowRank, Mixture, Tokens
from tensorsim_nb.models import info, map_weights, transformer

pytestmark = pytest.mark.filterwarnings('ignore:A closure needs')
gram_module = importlib.import_module('tensorsim_nb.gram') # `ts.gram` is the function
ROOT = Path(__file__).resolve().parent.parent


def one_layer(n=5, d=6, o=3):
    "Models with at most one bilinear layer, of every shape that has a normal form."
    embed = lambda h, **kw: ts.Model(ts.Linear(d, 4, bias=True), ts.BilinearMLP(4, h, bias=True, **kw), ts.Linear(4, o, bias=True))
    kinds = [lambda: ts.classifier(d, 5, o), lambda: embed(3, residual=.7), lambda: ts.Model(ts.BilinearMLP(d, 2, o)),
             lambda: embed(6), lambda: ts.Model(ts.BilinearMLP(d, 4, residual=1., bias=True), ts.Linear(d, o))]
    return [kinds[i % len(kinds)]().double() for i in range(n)]


def laws(d=6):
    mean, cov = random_law(d, 3)
    flat = torch.randn(d, 2, generator=torch.Generator().manual_seed(1)).double()
    return dict(standard=ts.Gaussian(), mean=ts.Gaussian(mean), diagonal=ts.Gaussian(mean, cov.diagonal()), full=ts.Gaussian(mean, cov),
                singular=ts.Gaussian(mean, flat @ flat.T), low_rank=LowRank(flat, 0., mean), low_rank_plus=LowRank(flat, .3),
                mixture=Mixture([ts.Gaussian(mean), ts.Gaussian(-mean, cov)], [.3, .7]))


def pairwise(models, law, **kw):
    found = np.zeros((len(models), len(models)))
    for i, j in itertools.combinations_with_replacement(range(len(models)), 2): found[i, j] = found[j, i] = float(ts.inner(models[i], models[j], law, **kw))
    return found


def close(got, want, tol):
    scale = np.sqrt(np.abs(np.outer(want.diagonal(), want.diagonal())))
    assert np.abs(got - want).max() <= tol*scale.max(), np.abs(got - want).max()/scale.max()


@pytest.mark.parametrize('name', laws())
@pytest.mark.parametrize('method', ['exact', 'tensor'])
def test_normal_forms_agree_with_pairs(name, method):
    ms, law = one_layer(), laws()[name]
    if method == 'tensor': ms = ms[:4]
    want, third = pairwise(ms, law, method=method), pairwise([ts.slice_outputs(m, 2) for m in ms], law, method=method)
    for path, memory in itertools.product(('kernel', 'explicit'), (2**31, 1_700 if 'low_rank' == name or name == 'singular' else 3_600)):
        g = gram(ms, law, method=method, path=path, max_memory=memory, slices=[0, 2])
        assert g.method == method and g.exact and g.plan.path == path
        assert (g.plan.blocks == 1) == (memory == 2**31)
        close(g.inner, want, 1e-12)
        close(g.slices[2].inner, third, 1e-12)


@pytest.mark.parametrize('dtype,tol', [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize('path', ['kernel', 'explicit'])
def test_precision(dtype, tol, path):
    ms = [ts.classifier(20, 8, 4) for _ in range(6)]
    g = gram(ms, path=path, dtype=dtype, slices='all')
    close(g.inner, pairwise(ms, ts.Gaussian(), method='exact'), tol)
    close(sum(s.inner for s in g.slices.values()), g.inner, tol)


@pytest.mark.parametrize('outputs', [2, 40])
@pytest.mark.parametrize('slices', [None, [1], 'all'])
def test_few_and_many_outputs(outputs, slices): # more outputs than hidden units are contracted another way
    ms = [ts.classifier(6, 5, outputs).double() for _ in range(4)]
    got, want = [gram(ms, slices=slices, path=p) for p in ('kernel', 'explicit')], pairwise(ms, ts.Gaussian(), method='exact')
    for g in got: close(g.inner, want, 1e-12)
    for o in got[0].slices: close(got[0].slices[o].inner, got[1].slices[o].inner, 1e-12)


@pytest.mark.parametrize('path', ['kernel', 'explicit'])
@pytest.mark.parametrize('law', [ts.Gaussian(), ts.Gaussian([.3, -.2, .5, 1., .1, 0.]), LowRank(torch.eye(6)[:, :4].double()*.7, 0.)], ids=['standard', 'mean', 'lowrank'])
@pytest.mark.parametrize('power', [0, 12])
def test_single_precision_models_of_any_structure(path, law, power): # their weights are converted late, and only once
    L, B = ts.Linear, ts.BilinearMLP
    ms = [ts.Model(*m) for m in ((L(6, 2), L(2, 9)), (L(6, 3), B(3, 4, residual=.5, bias=True), L(3, 9, bias=True)), (B(6, 5, 3), L(3, 9)), (B(6, 7, 9),),
                                 (B(6, 4, 6, residual=1.), L(6, 2), L(2, 9, bias=True)))]
    with torch.no_grad():
        for m in ms[::2]:
            for p in m[0].parameters(): p.mul_(10.**power)
    g = gram(ms, law, path=path).similarity
    for i, j in itertools.combinations(range(len(ms)), 2): assert g[i, j] == pytest.approx(ts.similarity(ms[i], ms[j], law, method='exact').value, abs=1e-11)


@pytest.mark.parametrize('path', ['kernel', 'explicit'])
def test_a_law_without_variance(path, tmp_path): # all that is left is the value at its mean
    ms, mean = [ts.classifier(3, 4, 2).double() for _ in range(3)], torch.tensor([1., 2., 3.]).double()
    law, y = ts.Gaussian(mean, torch.zeros(3, 3)), torch.stack([m(mean) for m in ms]).detach().numpy()
    for how in ({}, dict(store=tmp_path/'store')): # whole, and cut into blocks
        g = gram(ms, law, path=path, slices='all', **how)
        close(g.inner, y @ y.T, 1e-14)
        close(sum(s.inner for s in g.slices.values()), g.inner, 1e-14)


def test_vocabulary_sized_maps_stay_factored():
    ms = [ts.Model(ts.Linear(60, 4), ts.BilinearMLP(4, 5, residual=1., bias=True), ts.Linear(4, 60)).double() for _ in range(3)]
    shape = forms.Shape(60, 5, 60, factored=True)
    with torch.no_grad(): S = forms.stack(lambda i: forms.quadratic(ms[i]), 3, shape, torch.empty(0).double())
    assert S.lin_out is not None and S.lin_leg.shape[1] < 20
    got = forms.forms_inner(S, S, forms.make_plan(3, shape, 10**7), shape)[0]
    close(np.ldexp(got, S.exponents[:, None] + S.exponents), pairwise(ms, ts.Gaussian(), method='exact'), 1e-12)


def deep(n=4): return [ts.deep_mlp(3, 4, 5, 2, n_layer=2, bias=True, residual=.5).double() for _ in range(n)]
def streams(n=3): return [transformer(5, 4, 2, 3, 1).double() for _ in range(n)]


@pytest.mark.parametrize('make,law', [(deep, ts.Gaussian()), (deep, ts.Gaussian([.1, .2, -.3])), (streams, ts.Gaussian()), (streams, Tokens([.2]*5)),
                                      (one_layer, Tokens([1/6]*6))])
@pytest.mark.parametrize('method', ['auto', 'exact', 'closure', 'tensor', 'sample', 'quadrature'])
def test_every_method_agrees_with_pairs(make, law, method):
    if method == 'closure' and isinstance(law, Tokens): law = ts.Gaussian(law.mean, law.mean)
    ms, kw = make(), dict(n=2000) if method == 'sample' else {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: want = pairwise(ms, law, method=method, **kw)
        except (ValueError, NotImplementedError) as e: # what pairs refuse, the matrix refuses
            with pytest.raises(type(e)): gram(ms, law, method=method, **kw).inner
            return
        g = gram(ms, law, method=method, slices=[1], **kw)
        picked = [ts.slice_outputs(m, 1) for m in ms]
        close(g.inner, want, 1e-9)
        close(g.slices[1].inner, pairwise(picked, law, method=method, **kw), 1e-9)
        e = ts.similarity(ms[0], ms[1], law, method=method, **kw)
    if method == 'sample': assert g.stderr()[0, 1] == pytest.approx(e.stderr, rel=1e-6) and not g.exact
    else: assert g.exact == e.exact


def test_errors_of_distances_and_inner_products():
    ms = deep(3)
    g = gram(ms, method='sample', n=3000)
    for q, f in (('inner', ts.inner), ('distance', ts.distance)):
        assert g.stderr(q)[0, 2] == pytest.approx(f(ms[0], ms[2], method='sample', n=3000).stderr, rel=1e-6)
    assert g.stderr('distance').diagonal().max() == 0 and gram(ms).stderr().max() == 0
    assert np.isnan(gram(ms, method='closure').stderr()).all()


@pytest.mark.parametrize('make,n', [(deep, 3), (streams, 2)])
def test_common_draws_make_it_positive(make, n): # far fewer draws than would make independent entries so
    ms = make(8)
    g = gram(ms, method='sample', n=n, errors=False)
    assert np.linalg.eigvalsh(g.mantissa).min() > -1e-12*np.linalg.eigvalsh(g.mantissa).max()
    apart = np.array([[float(ts.similarity(a, b, method='sample', n=n, seed=100*i + j)) for j, b in enumerate(ms)] for i, a in enumerate(ms)])
    assert np.linalg.eigvalsh((apart + apart.T)/2).min() < -1e-3  # the control


def test_sums_are_models_too():
    a, b, c = one_layer(3)
    ms = [a, a - b, 2*b + c/3, a]
    for method in ('exact', 'sample'):
        kw = dict(n=500) if method == 'sample' else {}
        g = gram(ms, method=method, slices=[0], **kw)
        close(g.inner, pairwise(ms, ts.Gaussian(), method=method, **kw), 1e-12)
        assert g.distance[0, 3] == 0
    with pytest.raises(TypeError, match='plain models'): gram(ms, layers=[1])


def test_scales_do_not_matter():
    ms = one_layer(4)
    want = gram(ms)
    with torch.no_grad():
        for p in ms[1].parameters(): p *= 2.**200
        for p in ms[2].parameters(): p *= 2.**-150
    for path in ('kernel', 'explicit'):
        g = gram(ms[1:3] + ms[:1], path=path)
        assert np.isfinite(g.similarity).all() and (np.abs(g.similarity) <= 1 + 1e-12).all()
        with pytest.raises(OverflowError): g.inner
    homogeneous = [ts.classifier(6, 5, 3).double() for _ in range(3)]
    want = gram(homogeneous).similarity
    with torch.no_grad():
        for p in homogeneous[1].parameters(): p *= 2.**300
    assert np.array_equal(gram(homogeneous).similarity, want)


def test_layers():
    ms = deep(3)
    g = gram(ms, layers='all')
    assert list(g.layers) == [1, 2, 3, 4]
    for k in (2, 4): close(g.layers[k].inner, pairwise([m[:k] for m in ms], ts.Gaussian(), method='exact'), 1e-10)


def test_the_plan_counts():
    ms = [ts.classifier(30, 4, 3) for _ in range(5)]
    p = gram(ms, plan=True)
    assert p.path == 'kernel' and p.blocks == 1 and p.flops['kernel'] == 15*16*(8*30 + 6)
    assert forms.make_plan(100, forms.Shape(10, 256, 784), 2**31).path == 'explicit'
    for memory in (2**31, 10**8, 3*10**7):
        q = forms.make_plan(100, forms.Shape(10, 256, 784), memory)
        assert q.memory <= memory
    with pytest.raises(ValueError, match='max_memory'): forms.make_plan(100, forms.Shape(10, 256, 784), 10**6)


def test_the_plan_is_printed_and_nothing_computed(monkeypatch, capsys):
    calls = count_blocks(monkeypatch)
    p = gram([ts.classifier(30, 4, 3) for _ in range(5)], plan=True)
    assert capsys.readouterr().out == f'{p}\n' and repr(p).startswith('Plan: kernel path for 5 models') and not calls


@pytest.mark.parametrize('make', [deep, streams])
def test_self_terms_are_computed_once_per_model(make, monkeypatch):
    ms, asked = make(5), []
    monkeypatch.setattr(gram_module, '_own', lambda task, engine, s, own=gram_module._own: asked.append(s.name) or own(task, engine, s))
    gram(ms, method='closure', slices=[0])
    assert sorted(asked) == ['0', '1', '2', '3', '4']


@pytest.mark.parametrize('make,method', [(deep, 'tensor'), (deep, 'exact'), (deep, 'closure'), (deep, 'sample'), (streams, 'closure'), (streams, 'sample')])
def test_single_precision(make, method):
    ms, kw = make(3), dict(n=2000) if method == 'sample' else {}
    got, want = (gram(ms, method=method, dtype=dtype, **kw).similarity for dtype in (torch.float32, torch.float64))
    assert 0 < np.abs(got - want).max() < 1e-4


@pytest.mark.parametrize('path', ['kernel', 'explicit'])
def test_threads_share_the_work_of_one_process(path):
    "Large enough that pieces are handed to threads: the same numbers as with one, and as from pairs."
    ms = [ts.Model(ts.BilinearMLP(160, 64, 5, bias=k == 3), ts.Linear(5, 3)) for k in range(14)] # one has a linear part
    law, before, found = LowRank(torch.randn(160, 150).double()/10, 0.), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            g = gram(ms, law, path=path, slices=[1])
            assert g.plan.detail['threads'] == threads == g.plan.detail.get('lanes', threads) and torch.get_num_threads() == threads
            found.append(np.stack([g.inner, g.slices[1].inner]))
            close(gram(ms, law, path=path).inner, g.inner, 1e-13) # without slices, threads take strips of their own
    finally: torch.set_num_threads(before)
    close(found[1][0], found[0][0], 1e-13)
    close(found[1][1], found[0][1], 1e-13)
    close(found[1][0][:4, :4], pairwise(ms[:4], law, method='exact'), 1e-12)


@pytest.mark.parametrize('n,d,h,o,memory', [(20, 130, 40, 3, 2**21), (9, 65, 5, 1, 2**20), (12, 257, 30, 40, 2**24)])
def test_many_strips_and_tiles(n, d, h, o, memory):
    "The explicit path in several strips of rows, of outputs, and in several tiles, whole and by slice."
    ms = [ts.Model(ts.BilinearMLP(d, h, o, bias=k % 2 == 0), ts.Linear(o, o)) for k in range(n)]
    def alone(m, s): # one output as a model
        pick = ts.Linear(o, 1)
        with torch.no_grad(): pick.weight.copy_(torch.eye(o)[s:s + 1])
        return ts.Model(*m, pick)
    g = gram(ms, path='explicit', slices=[0, o - 1], max_memory=memory)
    assert g.plan.detail['high'] < d
    for i, j in ((0, n - 1), (1, 1), (n - 1, 2)):
        assert g.inner[i, j] == pytest.approx(float(ts.inner(ms[i], ms[j], method='exact')), rel=1e-12, abs=0)
        for s in (0, o - 1):
            want = float(ts.inner(alone(ms[i], s), alone(ms[j], s), method='exact'))
            assert g.slices[s].inner[i, j] == pytest.approx(want, rel=1e-12, abs=1e-15*abs(g.inner[i, j]))
    close(gram(ms, path='explicit', max_memory=memory).inner, g.inner, 1e-13)


RETURNED = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0', MALLOC_ARENA_MAX='1') # else what was freed stays resident and hides a peak
PEAK = """
import re, sys, torch
torch.set_num_threads(2)
import tensorsim_nb as ts
make = lambda n, d, h, o: [ts.classifier(d, h, o) for _ in range(n)]
gram = lambda ms: ts.gram(ms, path=sys.argv[1], max_memory=40*2**20, progress=False)
gram(make(4, 32, 8, 3)) # what the first call loads is not counted
models = make(120, 250, 48, 3)
open('/proc/self/clear_refs', 'w').write('5')
rss = lambda name: int(re.search(name + r':\\s+(\\d+)', open('/proc/self/status').read())[1])
before = rss('VmRSS')
plan = gram(models).plan
print((rss('VmHWM') - before)/1024, plan.memory/2**20, plan.blocks)
"""


@pytest.mark.skipif(not os.access('/proc/self/clear_refs', os.W_OK), reason="peak memory is read as Linux tells it")
@pytest.mark.parametrize('path', ['kernel', 'explicit'])
def test_memory_stays_within_the_bound(path):
    env = dict(os.environ, PYTHONPATH=str(ROOT), **RETURNED)
    used, planned, blocks = map(float, subprocess.run([sys.executable, '-c', PEAK, path], env=env, capture_output=True, text=True, check=True).stdout.split())
    assert blocks > 1 and planned <= 40 and used <= 40, (used, planned, blocks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize('make,method', [(deep, 'tensor'), (deep, 'exact'), (deep, 'closure'), (deep, 'sample'), (streams, 'closure'), (streams, 'sample'), (one_layer, 'exact')])
def test_cuda_agrees(make, method):
    ms, kw = make(4), dict(n=2000) if method == 'sample' else {}
    close(gram(ms, method=method, device='cuda', **kw).inner, gram(ms, method=method, **kw).inner, .1 if method == 'sample' else 1e-10) # other draws there


def test_only_means_over_inputs_are_called_exact():
    ms = one_layer(2)
    assert 'weight-space product' in repr(gram(ms, method='tensor')) and 'exact' not in repr(gram(ms, method='tensor'))
    assert repr(gram(ms, method='exact')).endswith('exact)') # the control


def test_save_and_load(tmp_path):
    g = gram(deep(3), method='sample', n=200, slices='all', layers=[2], labels=['a', '<b>', 'c'])
    g.save(tmp_path/'g.safetensors')
    h = Gram.load(tmp_path/'g.safetensors')
    for x, y in ((g, h), (g.slices[1], h.slices[1]), (g.layers[2], h.layers[2])):
        assert np.array_equal(x.similarity, y.similarity) and np.array_equal(x.stderr(), y.stderr(), equal_nan=True) and x.labels == y.labels and repr(x) == repr(y)
    assert h.to_dataframe().loc['a', '<b>'] == g.similarity[0, 1]
    assert '&lt;b&gt;' in h._repr_html_() and '<b>' not in h._repr_html_()
    assert os.listdir(tmp_path) == ['g.safetensors']
    with pytest.raises(ValueError, match='Gram.save'):
        ts.save(deep(1)[0], tmp_path/'m.safetensors')
        Gram.load(tmp_path/'m.safetensors')


# --- long work -------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
    "A run of 10 checkpoints with two layers, so that the work is pairs: 15 blocks."
    folder = tmp_path_factory.mktemp('run')
    for i, m in enumerate(deep(10)): ts.save(m, folder/f'step_{i}.safetensors', step=i)
    return folder


@pytest.fixture(scope='module')
def want(run_dir): return gram(run_dir, method='closure')


SCRIPT = """
import sys, time
from tensorsim_nb.gram import gram
def tick(done, total):
    print('tick', done, flush=True)
    time.sleep(float(sys.argv[3]))
g = gram(sys.argv[1], store=sys.argv[2], method='closure', progress=tick)
print('sum', g.mantissa.sum().hex(), flush=True)
"""


def child(run_dir, store, pause=0.):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    return subprocess.Popen([sys.executable, '-c', SCRIPT, str(run_dir), str(store), str(pause)], env=env, stdout=subprocess.PIPE, text=True)


def count_blocks(monkeypatch):
    calls, compute = [], gram_module.compute_block
    def counting(*args, **kw):
        calls.append(args)
        return compute(*args, **kw)
    monkeypatch.setattr(gram_module, 'compute_block', counting)
    return calls


def test_resume_after_kill(run_dir, want, tmp_path, monkeypatch):
    for k in (3, 5): # each child is killed after k more blocks
        p = child(run_dir, tmp_path/'store', pause=.05)
        for _ in range(k + 1): assert p.stdout.readline().startswith('tick')
        p.send_signal(signal.SIGKILL)
        p.wait()
    kept, calls = len(list((tmp_path/'store'/'blocks').glob('*.safetensors'))), count_blocks(monkeypatch)
    assert 8 <= kept < 15
    g = gram(run_dir, store=tmp_path/'store', method='closure')
    assert len(calls) == 15 - kept and np.array_equal(g.inner, want.inner)


def test_resume_after_ctrl_c(run_dir, want, tmp_path, monkeypatch):
    (tmp_path/'store').mkdir()
    for age, name in ((10**6, f'.old.{0:032x}.tmp'), (0, f'.young.{0:032x}.tmp')): # what a killed writer left behind goes after a day
        (tmp_path/'store'/name).touch()
        os.utime(tmp_path/'store'/name, (time.time() - age,)*2)
    p = child(run_dir, tmp_path/'store', pause=.05)
    for _ in range(5): assert p.stdout.readline().startswith('tick')
    p.send_signal(signal.SIGINT)
    assert p.wait(60) != 0
    kept, calls = len(list((tmp_path/'store'/'blocks').glob('*.safetensors'))), count_blocks(monkeypatch)
    assert 4 <= kept < 15 and [f.name for f in (tmp_path/'store').glob('.*.tmp')] == [f'.young.{0:032x}.tmp']
    g = gram(run_dir, store=tmp_path/'store', method='closure')
    assert len(calls) == 15 - kept and np.array_equal(g.inner, want.inner)


def test_the_bar_tells_the_time_left(run_dir, capsys):
    gram(run_dir, method='closure', progress=True)
    assert re.search(r'100%.* 55/55 pairs \[\d+:\d+<\d+:\d+\]', capsys.readouterr().err)
    gram(run_dir, method='closure', progress=False)
    assert capsys.readouterr().err == ''


def test_two_writers(run_dir, want, tmp_path):
    both = [child(run_dir, tmp_path/'store') for _ in range(2)]
    outs = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert all(f'sum {float(want.mantissa.sum()).hex()}' in out for out in outs)
    store = Store(tmp_path/'store')
    assert sum(store.get(f.stem) is not None for f in (tmp_path/'store'/'blocks').iterdir()) == 15


def test_changed_damaged_and_new_files(tmp_path, monkeypatch):
    ms = [ts.classifier(6, 4, 3) for _ in range(20)]
    for i, m in enumerate(ms): ts.save(m, tmp_path/f'm{i}.safetensors')
    store, calls = tmp_path/'store', count_blocks(monkeypatch)
    ask = lambda: (calls.clear(), gram(tmp_path, store=store, path='kernel'), len(calls))[1:]
    first, n = ask()
    assert n == 15 and ask()[1] == 0 # five tiles of four models
    ts.save(ts.classifier(6, 4, 3), tmp_path/'m5.safetensors')
    with pytest.warns(UserWarning, match='1 checkpoint changed since the last run: m5. 5 of 15'): changed, n = ask()
    assert n == 5 and (changed.inner[5] != first.inner[5]).all()
    keep = [i for i in range(20) if i != 5]
    assert np.array_equal(changed.inner[np.ix_(keep, keep)], first.inner[np.ix_(keep, keep)])
    block = sorted((store/'blocks').iterdir())[0]
    damaged = bytearray(block.read_bytes())
    damaged[-1] ^= 1
    block.write_bytes(damaged)
    again, n = ask()
    assert n <= 1 and np.array_equal(again.inner, changed.inner)
    for i in range(20, 22): ts.save(ts.classifier(6, 4, 3), tmp_path/f'm{i}.safetensors')
    more, n = ask()
    assert n == 6 and np.array_equal(more.inner[:20, :20], changed.inner) # one more row of tiles


def test_a_file_that_changes_meanwhile(tmp_path):
    for i in range(20): ts.save(ts.classifier(6, 4, 3), tmp_path/f'm{i}.safetensors')
    def meddle(done, total):
        if done: ts.save(ts.classifier(6, 4, 3), tmp_path/'m19.safetensors')
    with pytest.raises(ValueError, match='m19.*changed'): gram(tmp_path, store=tmp_path/'store', path='kernel', progress=meddle)
    with pytest.warns(UserWarning, match='m19'): g = gram(tmp_path, store=tmp_path/'store', path='kernel')
    close(g.inner, gram(tmp_path).inner, 1e-12)


def test_stores_keep_questions_apart(tmp_path, monkeypatch):
    ms, law, calls = deep(2), ts.Gaussian([.1, .2, .3]), count_blocks(monkeypatch)
    asks = [dict(method='closure'), dict(method='tensor'), dict(method='sample', n=300), dict(method='sample', n=300, seed=1), dict(method='closure', law=law),
            dict(method='closure', slices=[0]), dict(method='closure', dtype=torch.float32)]
    found = [gram(ms, store=tmp_path/'s', **kw) for kw in asks]
    assert len({g.mantissa.tobytes() for g in found}) == len(asks) - 1 # slices do not change the whole
    n = len(calls)
    for kw, g in zip(asks, found): assert np.array_equal(gram(ms, store=tmp_path/'s', **kw).inner, g.inner)
    assert len(calls) == n


def test_keys_are_the_same_on_any_machine():
    law = ts.Gaussian([1., 2.], [[2., 1.], [1., 2.]])
    before = digest(1, .5, 'a', [None, True], torch.arange(3.), law)
    law.rank(2) # remembers its root
    assert digest(1, .5, 'a', [None, True], torch.arange(3.), law) == before == 'f771ec19898aac09bb721f7cff950504'


@pytest.mark.parametrize('method', ['closure', 'sample'])
def test_threads_equal_serial(run_dir, want, method):
    kw = dict(method=method, n=9000) if method == 'sample' else dict(method=method)
    with ThreadPoolExecutor(2) as pool: assert np.array_equal(gram(run_dir, executor=pool, **kw).inner, gram(run_dir, **kw).inner)


def test_a_killed_process_of_a_pool(run_dir, want):
    with ProcessPoolExecutor(2) as pool:
        killed = []
        def kill(done, total):
            if done and not killed:
                killed.append(next(iter(pool._processes)))
                os.kill(killed[0], signal.SIGKILL)
        with pytest.warns(RuntimeWarning, match='a worker died'): g = gram(run_dir, method='closure', executor=pool, progress=kill)
    assert killed and np.array_equal(g.inner, want.inner)


def test_dask_with_a_killed_worker(run_dir, want, tmp_path):
    distributed = pytest.importorskip('distributed')
    kw = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path), host='127.0.0.1')
    with distributed.LocalCluster(**kw) as cluster, distributed.Client(cluster) as client:
        killed = []
        def kill(done, total):
            if done > total/4 and not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)
        g = gram(run_dir, method='closure', executor=client.get_executor(), store=tmp_path/'store', progress=kill)
    assert killed and np.array_equal(g.inner, want.inner)


def foreign(folder, models, kind='pt'):
    "Checkpoints of another program, and the mapping of their names."
    names = {'0.left.weight': 'mlp.l', '0.right.weight': 'mlp.r', '0.down.weight': 'mlp.p', '1.weight': 'head'}
    for i, m in enumerate(models):
        state = {names[k]: v.contiguous() for k, v in m.state_dict().items()}
        torch.save(dict(state_dict=state, step=i), folder/f'm{i}.pt') if kind == 'pt' else safetensors.torch.save_file(state, folder/f'm{i}.safetensors')
    return names


@pytest.mark.parametrize('kind', ['pt', 'safetensors'])
def test_files_of_other_programs(tmp_path, kind):
    ms = [ts.classifier(6, 4, 3) for _ in range(4)]
    names, want = foreign(tmp_path, ms, kind), gram(ms)
    assert np.array_equal(gram(tmp_path, mapping=names).inner, want.inner)
    g = gram(tmp_path, mapping=lambda state: map_weights(state, names), labels=list('abcd'))
    assert np.array_equal(g.inner, want.inner) and g.labels == list('abcd')
    with pytest.raises(ValueError, match='mapping' if kind == 'pt' else 'written by'): gram(tmp_path)


def test_a_foreign_file_that_changes_is_noticed(tmp_path, monkeypatch):
    (tmp_path/'run').mkdir()
    ms = [ts.classifier(6, 4, 3) for _ in range(20)]
    names, calls = foreign(tmp_path/'run', ms), count_blocks(monkeypatch)
    ask = lambda: (calls.clear(), gram(tmp_path/'run', mapping=names, store=tmp_path/'store', path='kernel'), len(calls))[1:]
    assert ask()[1] == 15 and ask()[1] == 0
    ms[5] = ts.classifier(6, 4, 3)
    foreign(tmp_path/'run', ms)
    with pytest.warns(UserWarning, match='1 checkpoint changed since the last run: m5. 5 of 15'): assert ask()[1] == 5


class Bomb:
    def __reduce__(self): return os.mkdir, (str(BOMB),)


BOMB = None


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    global BOMB
    BOMB = tmp_path/'ran'
    names = foreign(tmp_path, [ts.classifier(6, 4, 3)])
    torch.save(dict(head=Bomb()), tmp_path/'m1.pt')
    with pytest.raises(ValueError, match='weights_only'): gram(tmp_path, mapping=names)
    assert not BOMB.exists() # nothing ran; the control: plain pickle runs it
    torch.load(tmp_path/'m1.pt', weights_only=False)
    assert BOMB.exists()


@pytest.mark.parametrize('change, words', [
    (dict(head='nothing'), 'no nothing'), ({'1.weight': None}, 'left over'), ({'2.weight': 'head', '1.weight': None}, 'without a gap'),
    ({'0.down.bias': 'head'}, 'leads from names'), (dict(architecture=[dict(type='Linear', d_in=6, d_out=3, bias=False)]), 'other names or shapes')])
def test_mappings_that_do_not_fit(tmp_path, change, words):
    names = {**foreign(tmp_path, [ts.classifier(6, 4, 3)]), **change}
    with pytest.raises(ValueError, match=words): gram(tmp_path, mapping={k: v for k, v in names.items() if v is not None})


def test_a_skip_path_is_not_guessed(tmp_path):
    m = ts.Model(ts.BilinearMLP(4, 3, residual=.5, bias=True))
    torch.save(m.state_dict(), tmp_path/'m.pt')
    names = {k: k for k in m.state_dict()}
    with pytest.raises(ValueError, match='skip path'): gram(tmp_path, mapping=names)
    ts.save(m, tmp_path/'m.safetensors')
    g = gram([tmp_path/'m.pt', m], mapping={**names, 'architecture': info(tmp_path/'m.safetensors')['architecture']})
    assert g.similarity[0, 1] == pytest.approx(1, abs=1e-12) and g.distance[0, 1] < 1e-6*g.norm[0]


def test_gradients_through_the_matrix():
    "gram(grad=True): the numbers of the plain matrix, and gradients that finite differences confirm."
    import copy
    torch.manual_seed(0)
    models = [ts.classifier(3, 4, 2).double() for _ in range(3)]
    g = ts.gram(models, grad=True)
    assert np.allclose(g.tensor.detach().numpy(), g.inner, rtol=1e-12) and ts.gram(models).tensor is None
    weight = models[0][1].weight
    def f(w):
        changed = copy.deepcopy(models[0])
        del changed[1].weight
        changed[1].weight = w
        return ts.gram_tensor([changed, *models[1:]])
    assert torch.autograd.gradcheck(f, weight.detach().clone().requires_grad_(), atol=1e-6, fast_mode=True)
    with pytest.raises(ValueError, match='pair by pair'): ts.gram(models, grad=True, slices=[0])


def test_a_bound_too_small_for_a_pair_says_what_would_do():
    ms, room, asked = streams(2), 1_000_000, []
    want = gram(ms, method='closure').inner
    while len(asked) < 4: # one model cannot know what the pair will need
        try: got = gram(ms, method='closure', max_memory=room).inner
        except ValueError as e:
            asked.append(int(re.search(r'Allow max_memory=([\d,]+)', str(e))[1].replace(',', '')))
            assert asked[-1] > room, asked
            room = asked[-1]
        else: break
    assert asked and np.allclose(got, want, rtol=1e-12), asked
