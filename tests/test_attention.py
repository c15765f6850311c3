"Attention: one layer against quadrature, two layers against a closure that lists every joining, invariances, training."
import copy, itertools, math, os, re, subprocess, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tensorsim_nb.joinings import DESK
from tensorsim_nb.laws import Gaussian, Tokens
from tensorsim_nb.layers import BilinearAttention, BilinearMLP, Linear
from tensorsim_nb.models import Model, load, save, transformer
from tensorsim_nb.moments import cross_inner, propagate
from tensorsim_nb.sequences import propagate_sequence, route_covariance, sequence_inner
from tensorsim_nb.similarity import inner, similarity
from tensorsim_nb.tensors import quadrature
import tensorsim_nb as ts
import tensorsim_nb.sequences as sequences

torch.set_default_dtype(torch.float32)
STANDARD, SHIFTED = Gaussian(), Gaussian(mean=[.5, -.3], cov=[[1., .3], [.3, .5]])

@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    sequences.RECENT.kept.clear()
    with torch.no_grad(): yield

def value(a, b, law=STANDARD, **options):
    p = propagate(a, law, **options)
    return (p.power if a is b else cross_inner(p, propagate(b, law, **options))).tensor().item()

@pytest.fixture(params=['dense', 'independent'])
def path(request, monkeypatch):
    "Both ways through the first layer."
    monkeypatch.setattr(sequences, 'INDEPENDENT', 99 if request.param == 'dense' else 1)

def check(a, b, law, want, tol=1e-10):
    "The three inner products of a pair against an oracle, in units of the norms' product."
    aa, bb = want(a, a), want(b, b)
    for got, exact, size in ((value(a, b, law), want(a, b), math.sqrt(aa*bb)), (value(a, a, law), aa, aa), (value(b, b, law), bb, bb)):
        assert abs(got - exact) <= tol*size, (got, exact)

# ---- one layer: quadrature of the forward pass is exact

def by_quadrature(law, n, d):
    mean = torch.cat([torch.zeros(d).double() if law.mean is None else law.mean]*n)
    root = torch.block_diag(*[torch.eye(d).double() if law.root(d) is None else law.root(d)]*n)
    def want(a, b):
        f = lambda x: (a(x.unflatten(1, (n, d)))*b(x.unflatten(1, (n, d)))).sum((-1, -2))
        return quadrature(f, n*d, a.degree + b.degree, mean=mean, root=root).item()
    return want

def one_layer(heads, mask, bias, residual, rotary, kind, d=2, n=2, scale=3.):
    att = BilinearAttention(d, heads, n, mask=mask, bias=bias, residual=residual, scale=scale, rotary=rotary, d_head=2, kind=kind)
    return Model(Linear(d, d, bias=bias), att, Linear(d, 2, bias=bias)).double()

@pytest.mark.parametrize('mask', ['causal', 'none', 'diagonal', [[0, 1], [1, 1]]], ids=str)
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('residual', [0., .7])
@pytest.mark.parametrize('rotary', [False, True])
def test_one_layer(mask, bias, residual, rotary, path):
    a, b = (one_layer(h, mask, bias, residual, rotary, 'bilinear') for h in (1, 2))
    law = SHIFTED if bias else STANDARD
    check(a, b, law, by_quadrature(law, 2, 2))

@pytest.mark.parametrize('kinds', list(itertools.product(('bilinear', 'quadratic', 'linear'), repeat=2)), ids='-'.join)
def test_kinds(kinds, path):
    a, b = (one_layer(h, 'causal', True, .5, True, k) for h, k in zip((2, 1), kinds))
    check(a, b, SHIFTED, by_quadrature(SHIFTED, 2, 2))

@pytest.mark.parametrize('mask', ['causal', 'none', [[1, 0, 1], [1, 1, 0], [0, 1, 1]]], ids=str)
@pytest.mark.parametrize('bias', [False, True])
def test_three_positions_of_width_one(mask, bias, path):
    "Three positions meet in more ways than two."
    def model(h): return Model(BilinearAttention(1, h, 3, mask=mask, bias=bias, residual=.5, scale=2., rotary=False, d_head=3), Linear(1, 2, bias=bias)).double()
    law = Gaussian(mean=[.4], cov=[[.7]]) if bias else STANDARD
    check(model(1), model(2), law, by_quadrature(law, 3, 1))

def test_control_means_matter():
    a = one_layer(1, 'causal', True, .5, True, 'bilinear')
    exact = by_quadrature(SHIFTED, 2, 2)(a, a)
    assert abs(value(a, a, Gaussian(cov=SHIFTED.cov)) - exact) > 1e-3*exact

def test_attention_on_the_input_and_a_widening_embedding():
    for layers in ([BilinearAttention(2, 1, 2, bias=True, scale=3.)], [Linear(2, 4), BilinearAttention(4, 2, 2, bias=True, scale=3.), Linear(4, 3)],
                   [BilinearAttention(2, 1, 2, scale=3.), Linear(2, 5, bias=True), Linear(5, 2, bias=True)], [Linear(2, 3, bias=True), Linear(3, 2, bias=True), BilinearAttention(2, 1, 2, scale=3.)]):
        a, b = (Model(*copy.deepcopy(layers)).double() for _ in 'ab')
        for p in b.parameters(): p.add_(.3*torch.randn_like(p))
        check(a, b, SHIFTED, by_quadrature(SHIFTED, 2, 2))

def test_mlp_over_positions_and_linear_models():
    mlp = lambda h: Model(Linear(2, 2, bias=True), BilinearMLP(2, h, bias=True, residual=.5), Linear(2, 3, bias=True))
    pad = lambda m: Model(*m, BilinearAttention(3, 1, 2, scale=0., rotary=False)).double() # an attention layer that writes nothing
    check(pad(mlp(4)), pad(mlp(3)), SHIFTED, by_quadrature(SHIFTED, 2, 2))

# ---- depth: a closure that lists every joining, one by one, from the weights alone

def expectation(mu, C):
    "E of a product of jointly Gaussian numbers: every joining of the first leg, with its mean or another leg."
    def E(legs):
        if not legs: return 1.
        first, rest = legs[0], legs[1:]
        total = mu[first]*E(rest)
        for j in rest: total = total + C[first][j]*E(tuple(i for i in rest if i != j))
        return total
    return E(tuple(range(len(mu))))

def monomials(layer, n):
    "A layer on flattened sequences as products of affine numbers: groups (rows (N, legs, n*d), offsets (N, legs), outputs (N, n*d_out))."
    d, num = layer.d_in, lambda p: p.detach().double().numpy()
    place = lambda w, p: np.concatenate([np.zeros(p*d), w, np.zeros((n - 1 - p)*d)])
    write = lambda w, p: np.concatenate([np.zeros(p*layer.d_out), w, np.zeros((n - 1 - p)*layer.d_out)])
    groups = {}
    def add(out, *legs): groups.setdefault(len(legs), []).append(([l[0] for l in legs], [l[1] for l in legs], out))
    for p in range(n):
        if isinstance(layer, Linear):
            W, c = num(layer.weight), np.zeros(layer.d_out) if layer.bias is None else num(layer.bias)
            for i in range(d): add(write(W[:, i], p), (place(np.eye(d)[i], p), 0.))
            add(write(c, p))
            continue
        for i in range(d): add(write(layer.residual*np.eye(d)[i], p), (place(np.eye(d)[i], p), 0.))
        if isinstance(layer, BilinearMLP):
            for h in range(layer.d_hidden):
                add(write(num(layer.down.weight)[:, h], p), *((place(num(f.weight)[h], p), num(f.bias)[h]) for f in (layer.left, layer.right)))
            add(write(num(layer.down.bias), p))
            continue
        e, H = layer.d_head, layer.n_head
        def turned(f, pos):
            W, c = num(f.weight).reshape(H, e, d), num(f.bias).reshape(H, e)
            if not layer.rotary: return W, c
            w = np.exp(1j*pos*10_000.**(-np.arange(e//2)/(e//2))) # plane j is the complex number (j, j + e/2)
            turn = lambda z: (lambda t: np.concatenate([t.real, t.imag], 1))((z[:, :e//2] + 1j*z[:, e//2:])*(w[:, None] if z.ndim == 3 else w))
            return turn(W), turn(c)
        for k in range(n):
            if not layer.mask[p, k]: continue
            maps = [(turned(layer.q1, p), turned(layer.k1, k)), (turned(layer.q2, p), turned(layer.k2, k))]
            for h, v, c, f in itertools.product(range(H), range(e), range(e), range(e)):
                legs = [(place(num(layer.v.weight)[h*e + v], k), 0.)]
                for (Q, K), x in zip(maps, (c, f)): legs += [(place(Q[0][h, x], p), Q[1][h, x]), (place(K[0][h, x], k), K[1][h, x])]
                add(write(num(layer.o.weight)[:, h*e + v]*layer.scale/e**2, p), *legs)
    return [tuple(np.array(z) for z in zip(*g)) if m else (np.zeros((len(g), 0, n*d)), np.zeros((len(g), 0)), np.array([x[2] for x in g])) for m, g in groups.items()]

def push(f, g, ma, mb, Caa, Cab, Cbb):
    "Mean of f, and E[f g^T], for Gaussian inputs."
    mean, second = 0, 0
    for W, c, O in f:
        mu, m = W @ ma + c, W.shape[1]
        C = [[np.einsum('nx,xy,ny->n', W[:, i], Caa, W[:, j]) for j in range(m)] for i in range(m)]
        mean = mean + (expectation(list(mu.T), C)*np.ones(len(O))) @ O
        for V, k, P in g:
            nu, l = V @ mb + k, V.shape[1]
            D = [[np.einsum('nx,xy,ny->n', V[:, i], Cbb, V[:, j])[None] for j in range(l)] for i in range(l)]
            X = [[W[:, i] @ Cab @ V[:, j].T for j in range(l)] for i in range(m)]
            Z = [[*(c[:, None] for c in C[i]), *X[i]] for i in range(m)] + [[*(X[i][j] for i in range(m)), *D[j]] for j in range(l)]
            E = expectation([*(x[:, None] for x in mu.T), *(x[None] for x in nu.T)], Z)
            second = second + O.T @ (E*np.ones((len(O), len(P)))) @ P
    return mean, second

def by_listing(law, n, d):
    "Closure of two stacks of equal length, from the weights."
    def want(a, b):
        mean = np.concatenate([np.zeros(d) if law.mean is None else law.mean.numpy()]*n)
        cov = np.kron(np.eye(n), np.eye(d) if law.cov is None else law.cov.numpy())
        ms, Cs = (mean, mean), (cov, cov, cov)
        for x, y in zip(a, b):
            f, g = monomials(x, n), monomials(y, n)
            (p, aa), (_, ab), (q, bb) = (push(s, t, ms[i], ms[j], Cs[2*i], C, Cs[2*j]) for s, t, i, j, C in ((f, f, 0, 0, Cs[0]), (f, g, 0, 1, Cs[1]), (g, g, 1, 1, Cs[2])))
            ms, Cs, last = (p, q), (aa - np.outer(p, p), ab - np.outer(p, q), bb - np.outer(q, q)), ab
        return np.trace(last)
    return want

def layer(kind, mask='causal', heads=1):
    if kind == 'mlp': return BilinearMLP(2, 3, bias=True, residual=.6)
    return BilinearAttention(2, heads, 2, mask=mask, bias=True, residual=.6, scale=2., d_head=2)

@pytest.mark.parametrize('kinds', [('att att', 'att att'), ('att mlp', 'att mlp'), ('att mlp', 'mlp att'), ('mlp att', 'att att')], ids='-'.join)
@pytest.mark.parametrize('mask', ['causal', 'none'])
def test_two_layers(kinds, mask):
    a, b = (Model(Linear(2, 2, bias=True), *(layer(k, mask) for k in ks.split()), Linear(2, 2, bias=True)).double() for ks in kinds)
    check(a, b, SHIFTED, by_listing(SHIFTED, 2, 2))

def test_two_layers_unequal_heads_no_biases_in_the_law(path):
    a, b = (Model(layer('att', heads=h), layer('att', heads=3 - h)).double() for h in (1, 2))
    check(a, b, STANDARD, by_listing(STANDARD, 2, 2))

def test_control_listing_sees_one_wrong_weight():
    a = Model(layer('att'), layer('att')).double()
    want = by_listing(STANDARD, 2, 2)(a, a)
    a[0].k2.weight[0, 0] += 1e-3
    assert abs(value(a, a) - want) > 1e-7*want

def test_listing_agrees_with_quadrature_for_one_layer():
    a = one_layer(1, 'causal', True, .5, True, 'bilinear')
    exact = by_quadrature(SHIFTED, 2, 2)(a, a)
    assert abs(by_listing(SHIFTED, 2, 2)(a, a) - exact) < 1e-11*exact

def test_stacks_of_different_depth():
    "The shorter stack waits, as an identity; an attention layer that writes nothing changes nothing."
    a, b = Model(layer('att')).double(), Model(layer('att', heads=2), layer('att')).double()
    wait = Linear(2, 2).double()
    wait.weight.copy_(torch.eye(2))
    size = math.sqrt(value(a, a)*value(b, b))
    assert abs(value(a, b, SHIFTED) - by_listing(SHIFTED, 2, 2)([*a, wait], b)) < 1e-10*size
    idle = BilinearAttention(2, 1, 2, scale=0.).double()
    assert abs(value(a, Model(b[0], idle)) - value(a, Model(b[0]))) < 1e-12*size

# ---- ways of computing

@pytest.mark.parametrize('kinds', [('bilinear', 'bilinear'), ('bilinear', 'quadratic'), ('linear', 'bilinear'), ('linear', 'linear')], ids='-'.join)
@pytest.mark.parametrize('bias', [False, True])
def test_independent_positions_give_what_all_pairs_give(kinds, bias, monkeypatch):
    mask = (torch.rand(4, 4) > .4).float()
    mask[0, 0] = 1
    atts = [BilinearAttention(4, h, 4, mask=mask, bias=bias, scale=2., kind=k, d_head=2) for h, k in zip((1, 2), kinds)]
    a, b = (Model(Linear(6, 4, bias=bias), x, BilinearAttention(4, 2, 4, mask=mask, bias=bias)).double() for x in atts)
    law = Gaussian(mean=torch.randn(6)) if bias else STANDARD
    for x, y in ((a, b), (a, a)):
        p = propagate(x, law)
        q = p if x is y else propagate(y, law)
        r, s = p.layers[0].routes[0], q.layers[0].routes[0]
        C = torch.randn(4, 4, 4).double() if x is not y else r.within
        for metric in (None, torch.randn(4, 4).double() if x is not y else torch.eye(4).double()): # full, and trace
            monkeypatch.setattr(sequences, 'INDEPENDENT', 99)
            want = route_covariance(r, s, C, metric=metric)
            monkeypatch.setattr(sequences, 'INDEPENDENT', 1)
            assert (route_covariance(r, s, C, metric=metric) - want).abs().max() < 1e-12*want.abs().max()

def bounded(a, b, room):
    "Inner products and the bound they were made under; the error's own number when the bound is too small."
    try: return value(a, b, max_memory=room), value(a, a, max_memory=room), room
    except ValueError as e:
        more = int(re.search(r'Allow max_memory=([\d,]+)', str(e))[1].replace(',', ''))
        assert more > room
        return bounded(a, b, more)

def test_tiles_and_memory_do_not_change_the_number(monkeypatch, path):
    a, b = (transformer(6, 4, h, 3, 2, bias=True, scale=3.).double() for h in (1, 2))
    want = value(a, b), value(a, a)
    monkeypatch.setattr(sequences, 'FEW', 0)
    monkeypatch.setattr(sequences, 'ODDS', 0)
    made = []
    monkeypatch.setattr(sequences, '_tables_of', lambda *args, f=sequences._tables_of: made.append(1) or f(*args))
    for tile, room in ((100_000, 2_000_000), (1000, 1000)): # the second is too small for anything: what the error asks for is given
        monkeypatch.setattr(sequences, 'TILE', tile)
        *got, room = bounded(a, b, room)
        assert np.allclose(got, want, rtol=1e-12)
    assert made and room < 300_000, room # tiles made their own tables

@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('kinds', [('bilinear', 'quadratic'), ('linear', 'bilinear')], ids='-'.join)
def test_little_memory_gives_the_same_number(kinds, bias, monkeypatch, path):
    "Sides, pieces and tables that are not kept, pairs of positions with a few heads at a time, units a few at a time."
    law = Gaussian(mean=torch.randn(5)) if bias else STANDARD
    a, b = (Model(Linear(5, 4, bias=bias), BilinearAttention(4, h, 3, bias=bias, scale=2., kind=k, residual=1.), BilinearMLP(4, 3, bias=bias, residual=1.), Linear(4, 3)).double()
            for h, k in zip((1, 2), kinds))
    want = value(a, b, law), value(a, a, law)
    for name in ('ODDS', 'FEW'): monkeypatch.setattr(sequences, name, 0)
    monkeypatch.setattr(sequences, 'TILE', 1)
    kept = []
    monkeypatch.setattr(sequences, '_ready_route', lambda r, *args, f=sequences._ready_route: (f(r, *args), kept.append((r.side is not None, r.keep))))
    got = value(a, b, law, max_memory=3_000_000), value(a, a, law, max_memory=3_000_000)
    assert np.allclose(got, want, rtol=1e-10, atol=1e-12*max(map(abs, want)))
    p, q = (propagate_sequence(m, law, max_memory=150_000) for m in (a, b))
    assert not any(side or pieces for side, pieces in kept[-2:]) # nothing was kept: all is made again
    assert math.isclose(sequence_inner(p, q, max_memory=1_000_000).tensor().item(), want[0], rel_tol=1e-10, abs_tol=1e-12*max(map(abs, want)))

RETURNED = dict(MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0', MALLOC_ARENA_MAX='1') # else what was freed stays resident and hides a peak
PEAK = """
import re, torch
import tensorsim_nb as ts
from tensorsim_nb import sequences
torch.set_num_threads(2)
def rss(name): return int(re.search(name + r':\\s+(\\d+)', open('/proc/self/status').read())[1])*1024
def peak(size, **options):
    torch.manual_seed(0)
    a, b = (ts.transformer(*size, bias=True) for _ in 'ab')
    sequences.RECENT.kept.clear()
    open('/proc/self/clear_refs', 'w').write('5')
    before = rss('VmRSS')
    with torch.no_grad(): value = float(ts.similarity(a, b, method='closure', **options))
    return rss('VmHWM') - before, value
peak((8, 8, 2, 7, 2)) # what the first call loads is not counted
for size in ((32, 64, 4, 4, 2), (32, 32, 2, 6, 2)): print(*peak(size, max_memory=40_000_000), *peak(size))
"""

@pytest.mark.skipif(not os.access('/proc/self/clear_refs', os.W_OK), reason="peak memory is read as Linux tells it")
def test_memory_stays_within_the_bound():
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parent.parent), **RETURNED)
    said = subprocess.run([sys.executable, '-c', PEAK], env=env, capture_output=True, text=True, check=True).stdout
    for line in said.splitlines():
        used, got, free, want = map(float, line.split())
        assert used <= 40_000_000 < free and math.isclose(got, want, rel_tol=1e-9), line # the control: the bound is not idle

def test_a_bound_that_cannot_be_kept_is_refused():
    a, b = (transformer(8, 8, 2, 4, 2, bias=True) for _ in 'ab')
    with pytest.raises(ValueError, match=r"keeps within `max_memory`: got max_memory=1,000,000, about [\d,]+ bytes too few. Allow max_memory="):
        ts.similarity(a, b, method='closure', max_memory=1_000_000)

def used_again(pairs):
    "Inner products one after the other, each in the memory of the one before."
    return [sequence_inner(propagate(a, STANDARD), propagate(b, STANDARD)).tensor().item() for a, b in pairs]

def different_pairs(number=4):
    torch.manual_seed(7)
    return [tuple(transformer(5 + k, 4, 2, 3, 2, bias=bool(k % 2)) for _ in 'ab') for k in range(number)]

def test_memory_used_again_does_not_leak():
    "A result is not touched by the next; no result depends on what was there before."
    p, q = (propagate(m, STANDARD) for m in different_pairs(1)[0])
    r, s = p.layers[0].routes[0], q.layers[0].routes[0]
    C = torch.eye(4).double().expand(3, -1, -1)
    first = route_covariance(r, s, C)
    want = first.clone()
    assert not torch.equal(route_covariance(r, s, 2*C), want)   # the control: other numbers in the same memory
    assert torch.equal(first, want)
    pairs = different_pairs()
    want = used_again(pairs)
    assert np.allclose(used_again(pairs[::-1])[::-1], want, rtol=1e-12)
    DESK.buffer.fill_(math.nan)
    assert np.allclose(used_again(pairs), want, rtol=1e-12)

def test_threads_have_memory_of_their_own():
    "Two Python threads at once give the numbers of one, each in its own buffer."
    pairs, start = different_pairs(), threading.Barrier(2, timeout=60)
    want = used_again(pairs)
    def work(turn):
        start.wait()
        with torch.no_grad(): got = used_again(3*(pairs[turn:] + pairs[:turn]))
        start.wait()
        return got, DESK.buffer.data_ptr()
    with ThreadPoolExecutor(2) as pool: (x, at), (y, bt) = pool.map(work, range(2), timeout=60)
    assert np.allclose(x, 3*want, rtol=1e-12) and np.allclose(y, 3*(want[1:] + want[:1]), rtol=1e-12)
    assert len({at, bt, DESK.buffer.data_ptr()}) == 3
    with DESK.lend(torch.zeros(0).double()) as new, DESK.lend(torch.zeros(0).double()) as second:
        assert new is not None and second is None                # lent once at a time

def test_memory_kept_is_bounded(monkeypatch):
    "No more is kept than allowed; the rest is fresh each time, and the numbers stay."
    pairs = different_pairs(2)
    want = used_again(pairs)
    monkeypatch.setattr(DESK, 'buffer', None)
    monkeypatch.setattr(DESK, 'size', 50_000)
    for _ in range(2): assert np.allclose(used_again(pairs), want, rtol=1e-12)
    assert 0 < DESK.buffer.nbytes <= 50_000

@pytest.mark.parametrize('few', [0, 1024])
def test_threads_share_the_work_and_are_given_back(few, monkeypatch, path):
    a, b = (transformer(6, 4, h, 3, 2, bias=True, scale=3.).double() for h in (1, 2))
    monkeypatch.setattr(sequences, 'FEW', few)
    monkeypatch.setattr(sequences, 'TILE', 200_000)
    before, got = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            sequences.RECENT.kept.clear()
            got.append((value(a, b), value(a, a)))
            assert torch.get_num_threads() == threads
    finally: torch.set_num_threads(before)
    assert np.allclose(*got, rtol=1e-13)

def test_float32():
    a, b = (transformer(6, 4, 2, 3, 2, bias=True, scale=3.) for _ in 'ab')
    assert abs(value(a, b, dtype=torch.float32) - value(a, b)) < 1e-5*math.sqrt(value(a, a)*value(b, b))

def test_extreme_scales():
    a, b = (transformer(6, 4, 2, 3, 1, scale=3.).double() for _ in 'ab')
    want = float(similarity(a, b))
    for m in (a, b): m[0].weight *= 2.**80
    b[2].weight *= 2.**-300
    a[1].residual = b[1].residual = a[1].residual # the residual path is left far behind
    big = float(similarity(a, b))
    for m in (a, b): m[1].residual = 0.
    assert abs(float(similarity(a, b)) - big) < 1e-9 and abs(big) <= 1 and math.isfinite(want)

def test_combinations_are_expanded():
    a, b = (transformer(5, 4, 2, 3, 1, scale=3.).double() for _ in 'ab')
    want = value(a, a) - 2*value(a, b) + value(b, b)
    assert abs(float(inner(a - b, a - b)) - want) < 1e-10*want

# ---- laws

def test_tokens():
    a, b = (transformer(3, 4, h, 2, 1, bias=True, scale=4.).double() for h in (1, 2))
    probs = torch.tensor([[.5, .25, .25], [.1, .6, .3]], dtype=torch.float64)
    law = Tokens(probs)
    ids = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    weight = probs[0, ids[:, 0]]*probs[1, ids[:, 1]]
    exact = lambda f, g: (weight*(f(ids)*g(ids)).sum((1, 2))).sum().item()
    cosine = exact(a, b)/math.sqrt(exact(a, a)*exact(b, b))
    sampled = similarity(a, b, law, method='sample', n=20_000)
    assert abs(float(sampled) - cosine) < 4*sampled.stderr < .1
    # the closure reads a law of tokens as the Gaussian of the same mean and covariance at each position
    laws = [Gaussian(p, torch.diag(p) - torch.outer(p, p)) for p in probs]
    class Each(Gaussian):
        def at(self, p): return laws[p]
    each = Each()
    each.d = 3
    mean, root = torch.cat([l.mean for l in laws]), torch.block_diag(*[l.root(3) for l in laws])
    gauss = lambda f, g: quadrature(lambda x: (f(x.unflatten(1, (2, 3)))*g(x.unflatten(1, (2, 3)))).sum((1, 2)), root.shape[1], 10, mean=mean, root=root).item()
    size = math.sqrt(gauss(a, a)*gauss(b, b))
    assert abs(value(a, b, law) - gauss(a, b)) < 1e-10*size and abs(value(a, b, each) - gauss(a, b)) < 1e-10*size
    assert abs(gauss(a, b) - exact(a, b)) > 1e-6*size # the control: they are two laws

# ---- invariances: W is what a similarity must not see

def changed(model, how):
    m = copy.deepcopy(model)
    for att in (x for x in m if isinstance(x, BilinearAttention)):
        H, e = att.n_head, att.d_head
        heads = lambda f: f.weight.view(H, e, -1)
        per_head = lambda f, T: [p.copy_((T @ p.view(H, e, -1)).view_as(p)) for p in (f.weight, f.bias) if p is not None]
        if how == 'head order':
            order = torch.arange(H - 1, -1, -1)
            for f in (att.q1, att.k1, att.q2, att.k2, att.v):
                for p in (f.weight, f.bias):
                    if p is not None: p.copy_(p.view(H, e, -1)[order].view_as(p).clone())
            att.o.weight.copy_(att.o.weight.view(-1, H, e)[:, order].flatten(1).clone())
        if how == 'V and O gauge':
            A = torch.randn(H, e, e).double()
            per_head(att.v, A)
            att.o.weight.copy_(torch.einsum('ohe,hef->ohf', att.o.weight.view(-1, H, e), torch.linalg.inv(A)).flatten(1))
        if how == 'scores swapped': att.q1, att.k1, att.q2, att.k2 = att.q2, att.k2, att.q1, att.k1
        if how == 'q up, k down':
            for p in att.q1.parameters(): p.mul_(3)
            for p in att.k1.parameters(): p.div_(3)
        plane = lambda t, s: s*torch.cat([torch.cat([torch.diag(t.cos()), -torch.diag(t.sin())], 1), torch.cat([torch.diag(t.sin()), torch.diag(t.cos())], 1)])
        if how in ('turn and scale planes', 'turn q alone'):
            T = plane(torch.randn(e//2).double(), 1.7)
            per_head(att.q1, T)
            if how != 'turn q alone': per_head(att.k1, torch.linalg.inv(T).T)
        if how == 'any matrix':
            T = torch.randn(e, e).double()
            per_head(att.q1, T)
            per_head(att.k1, torch.linalg.inv(T).T)
    return m

GAUGES = ['head order', 'V and O gauge', 'scores swapped', 'q up, k down', 'turn and scale planes']

@pytest.mark.parametrize('how', GAUGES)
@pytest.mark.parametrize('depth', [1, 2])
def test_invariances(how, depth):
    a = transformer(5, 8, 2, 3, depth, bias=True, residual=.1, scale=3.).double()
    b, x = changed(a, how), torch.randn(4, 3, 5).double()
    assert (a(x) - b(x)).abs().max() < 1e-10*a(x).abs().max()
    assert abs(float(similarity(a, b, method='closure')) - 1) < 1e-10

@pytest.mark.parametrize('how, rotary, holds', [('turn q alone', True, False), ('any matrix', True, False), ('any matrix', False, True)])
def test_what_is_no_gauge(how, rotary, holds):
    a = transformer(5, 8, 2, 3, 1, bias=True, residual=.1, scale=30., rotary=rotary).double()
    far = 1 - float(similarity(a, changed(a, how)))
    assert far < 1e-10 if holds else far > 1e-3

# ---- self moments are remembered by content

def test_remembered_moments_notice_every_edit():
    a, b = (transformer(6, 4, 2, 3, 1, bias=True, scale=3.).double() for _ in 'ab')
    fresh = lambda: sequence_inner(propagate_sequence(a, STANDARD), propagate_sequence(b, STANDARD)).tensor().item()
    a.requires_grad_(), b.requires_grad_()
    want = value(a, b)
    assert value(a, b) == want == fresh() and len(sequences.RECENT.kept) == 2
    edits = [lambda: a[1].k2.weight.data.mul_(2), lambda: setattr(a[1], 'residual', .5), lambda: a[1].mask.data[2, 0].zero_(), lambda: b[2].weight.data.numpy().__setitem__((0, 0), 3.)]
    for edit in edits:
        before = value(a, b)
        edit()
        assert value(a, b) == fresh() != before
    law = Gaussian(mean=torch.ones(6))
    one = value(a, b, law)
    law.mean[2] = 5.
    assert value(a, b, law) != one == value(a, b, Gaussian(mean=torch.ones(6)))

def test_remembered_moments_are_left_alone_by_later_edits():
    a = transformer(6, 4, 2, 3, 1, bias=True, scale=3.).double()
    twin, want = copy.deepcopy(a), value(a, a)
    for p in a.parameters(): p.data.zero_()
    kept, length = propagate(twin), len(sequences.RECENT.kept)
    assert sequence_inner(kept, kept).tensor().item() == pytest.approx(want, rel=1e-12) and length == 1
    a[1].register_forward_hook(lambda *_: None)
    value(a, a) # what a hook does is not known
    with torch.enable_grad(): assert propagate(twin).variance.requires_grad
    assert len(sequences.RECENT.kept) == 1

# ---- training, reliability, files

@torch.enable_grad()
def test_train_towards_higher_similarity():
    teacher = transformer(4, 4, 2, 3, 1, residual=.2, scale=20.).double()
    student = transformer(4, 4, 2, 3, 1, residual=.2, scale=20.).double()
    opt, start = torch.optim.Adam(student.parameters(), 3e-2), float(similarity(teacher, student))
    for step in range(25):
        s = similarity(teacher, student, method='exact', grad=True)
        opt.zero_grad()
        (1 - s.tensor).backward()
        opt.step()
    assert float(similarity(teacher, student)) > max(start + .3, .7)

@torch.enable_grad()
def test_gradient_of_two_layers():
    a, b = (transformer(4, 4, 1, 2, 2, bias=True, scale=3.).double() for _ in 'ab')
    f = lambda: similarity(a, b, method='closure', grad=True)
    f().tensor.backward()
    for p in (a[0].weight, a[1].k2.bias, a[2].v.weight):
        g, h = p.grad[(0,)*p.ndim].item(), 1e-5
        with torch.no_grad():
            p[(0,)*p.ndim] += h
            up = float(f())
            p[(0,)*p.ndim] -= 2*h
            down = float(f())
            p[(0,)*p.ndim] += h
        assert abs((up - down)/(2*h) - g) < 1e-7 + 1e-5*abs(g)

def test_reliability_follows_the_activity():
    shares = []
    for scale in (.1, 10., 100.):
        torch.manual_seed(0)
        a, b = (transformer(5, 8, 2, 3, 2, bias=True, scale=scale).double() for _ in 'ab')
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter('always')
            e = similarity(a, b, method='closure')
        shares.append(e.reliability)
        assert bool(heard) == (e.reliability >= .12) and 'active share' in repr(e)
    assert shares[0] < .02 < .12 < shares[2] and shares == sorted(shares)
    assert similarity(*(transformer(5, 8, 2, 3, 1) for _ in 'ab')).reliability is None

def test_active_share_is_the_energy_of_the_attention_path():
    m = transformer(5, 4, 2, 3, 2, bias=True, scale=5.).double()
    x = torch.randn(100_000, 3, 5).double()
    y = m[1](h := m[0](x))
    want = ((y - m[1].residual*h)**2).sum()/(y**2).sum()
    assert abs(propagate(m).reliability - want) < .03*want

def test_files(tmp_path):
    m = transformer(5, 4, 2, 3, 2, d_hidden=6, bias=True, mask=[[1, 0, 0], [0, 1, 0], [1, 1, 1]], kind='quadratic')
    save(m, tmp_path/'m.safetensors')
    x = torch.randn(2, 3, 5)
    assert torch.equal(load(tmp_path/'m.safetensors')(x), m(x))
    assert m.degree == (5*2)**2 and m.n_ctx == 3
