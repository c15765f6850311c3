"""The term engine against quadrature: breadth over biases, skip paths, laws, widths, order of layers."""
import itertools
import math

import pytest
import torch
from oracle import expected_product, random_law

from tensorsim_nb.layers import BilinearMLP, Linear
from tensorsim_nb.laws import Gaussian
from tensorsim_nb.models import Model, deep_mlp
from tensorsim_nb.moments import Wick, cross_inner, magnitude, propagate, schedule, shift, tensor_inner

LAWS = ('standard', 'mean', 'cov', 'diag', 'both')


def law(kind, d, seed=0):
    mean, cov = random_law(d, seed)
    return {'standard': (None, None), 'mean': (mean, None), 'cov': (None, cov), 'diag': (mean, cov.diag()), 'both': (mean, cov)}[kind]


def pair(d, seed, bias, residual, hidden=(5, 7), model=4):
    torch.manual_seed(seed)
    return [Model(Linear(d, model, bias=bias), BilinearMLP(model, h, bias=bias, residual=residual), Linear(model, 2, bias=bias)).double() for h in hidden]


@pytest.mark.parametrize('bias,residual,kind', list(itertools.product((False, True), (0., .6), LAWS)))
def test_one_layer_agrees_with_quadrature(bias, residual, kind):
    for seed in range(3):
        a, b = pair(3, seed, bias, residual)
        mean, cov = law(kind, 3, seed)
        full = torch.diag(cov) if cov is not None and cov.ndim == 1 else cov
        want = [expected_product(f, g, 3, 4, mean, full) for f, g in ((a, a), (a, b), (b, b))]
        pa, pb = (propagate(m, Gaussian(mean, cov)) for m in (a, b))
        got = [float(s.tensor().detach()) for s in (pa.power, cross_inner(pa, pb), pb.power)]
        assert got == pytest.approx(want, rel=1e-12, abs=1e-12*math.sqrt(want[0]*want[2]))


def test_self_pair_equals_power():
    a, _ = pair(3, 0, True, .5)
    p = propagate(a)
    assert float(cross_inner(p, p).tensor().detach()) == pytest.approx(float(p.power.tensor().detach()), rel=1e-14)


def test_linear_models_of_any_depth_are_exact():
    torch.manual_seed(1)
    a = Model(Linear(3, 5, bias=True), Linear(5, 4, bias=True), Linear(4, 2)).double()
    b = Model(Linear(3, 2, bias=True)).double()
    mean, cov = random_law(3, 2)
    want = expected_product(a, b, 3, 2, mean, cov)
    assert float(cross_inner(*(propagate(m, Gaussian(mean, cov)) for m in (a, b))).tensor().detach()) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize('first', ('linear', 'bilinear'))
def test_models_with_other_stacks(first):
    "A linear layer more on one side, and a linear model against a bilinear one."
    torch.manual_seed(3)
    a = Model(Linear(3, 4, bias=True), BilinearMLP(4, 6, 2, bias=True)).double()
    b = (Model(Linear(3, 2, bias=True)) if first == 'linear' else Model(BilinearMLP(3, 5, 4, bias=True), Linear(4, 4), Linear(4, 2))).double()
    mean, cov = random_law(3, 4)
    want = expected_product(a, b, 3, 4, mean, cov)
    pa, pb = (propagate(m, Gaussian(mean, cov)) for m in (a, b))
    assert float(cross_inner(pa, pb).tensor().detach()) == pytest.approx(want, rel=1e-12)
    assert float(cross_inner(pb, pa).tensor().detach()) == pytest.approx(want, rel=1e-12)


def brute_closure(model_a, model_b):
    "Closure by quadrature: each layer is integrated exactly under the joint Gaussian of its inputs' first two moments."
    da, db = model_a.d_in, model_b.d_in
    eye = torch.eye(da, dtype=torch.float64)
    mean, cov = torch.zeros(2*da, dtype=torch.float64), torch.cat([torch.cat([eye, eye], 1)]*2)
    for p, q in zip(model_a, model_b):
        values, vectors = torch.linalg.eigh(cov)
        keep = values > 1e-10
        root = vectors[:, keep]*values[keep].sqrt()
        nodes = root.shape[1]
        from oracle import grid
        z, w = grid(nodes, 2*max(p.degree, q.degree))
        x = z @ root.T + mean
        with torch.no_grad(): y = torch.cat([p(x[:, :p.d_in]), q(x[:, p.d_in:])], 1)
        mean = w @ y
        cov = (y - mean).T @ ((y - mean)*w[:, None])
    return float(cov[:p.d_out, p.d_out:].trace() + mean[:p.d_out] @ mean[p.d_out:])


@pytest.mark.parametrize('bias,residual', list(itertools.product((False, True), (0., .6))))
def test_closure_is_what_it_says(bias, residual):
    "Two and three layers: propagate against layer-by-layer quadrature of the same Gaussian assumption."
    for n_layer in (2, 3):
        torch.manual_seed(n_layer)
        a, b = (deep_mlp(2, 3, h, 2, n_layer, bias=bias, residual=residual).double() for h in (3, 4))
        got = float(cross_inner(propagate(a), propagate(b)).tensor().detach())
        assert got == pytest.approx(brute_closure(a, b), rel=1e-10)
        truth = expected_product(a, b, 2, 2*2**n_layer)
        assert abs(got - truth) > 1e-7*abs(truth)  # the control: closure is not the expectation


def dense_tensor(model):
    "The tensor of a bias-free stack of bilinear layers, symmetrised within each layer, by explicit contraction."
    T = None
    for layer in model:
        if isinstance(layer, Linear):
            W = layer.weight.detach()
            T = W if T is None else torch.tensordot(W, T, 1)
        else:
            A = torch.einsum('oh,hi,hj->oij', layer.down.weight, layer.left.weight, layer.right.weight).detach()
            A = (A + A.mT)/2
            if T is None: T = A
            else:
                n = T.ndim - 1
                T = torch.tensordot(torch.tensordot(A, T, ([2], [0])), T, ([1], [0]))
                assert T.ndim == 1 + 2*n
    return T


@pytest.mark.parametrize('n_layer', (1, 2))
def test_tensor_measure_against_dense_tensor(n_layer):
    for seed in range(4):
        torch.manual_seed(seed)
        a, b = (deep_mlp(3, 4, h, 2, n_layer).double() for h in (5, 6))
        want = float((dense_tensor(a)*dense_tensor(b)).sum().detach())
        scale = float(dense_tensor(a).norm()*dense_tensor(b).norm())
        assert float(tensor_inner(a, b).tensor().detach()) == pytest.approx(want, rel=1e-12, abs=1e-13*scale)


def test_tensor_measure_with_biases_is_the_padded_tensor():
    "Append a constant input by hand: the padded, bias-free network has the same tensor inner product."
    torch.manual_seed(0)
    a, b = pair(3, 0, True, .6)
    def padded(m):
        lin, mlp, head = m
        W = torch.zeros(5, 4, dtype=torch.float64); W[0, 0] = 1; W[1:] = torch.cat([lin.bias[:, None], lin.weight], 1).detach()
        e0 = torch.eye(5, dtype=torch.float64)[:1]
        L = torch.cat([torch.cat([mlp.left.bias[:, None], mlp.left.weight], 1), torch.eye(5).double()[1:], e0]).detach()
        R = torch.cat([torch.cat([mlp.right.bias[:, None], mlp.right.weight], 1), e0.expand(4, -1), e0]).detach()
        D = torch.zeros(5, len(L), dtype=torch.float64); D[0, -1] = 1
        D[1:] = torch.cat([mlp.down.weight, mlp.residual*torch.eye(4).double(), mlp.down.bias[:, None]], 1).detach()
        H = torch.cat([head.bias[:, None], head.weight], 1).detach()
        A = torch.einsum('oh,hi,hj->oij', D, L @ W, R @ W)
        return torch.tensordot(H, (A + A.mT)/2, 1)
    want = float((padded(a)*padded(b)).sum().detach())
    assert float(tensor_inner(a, b).tensor().detach()) == pytest.approx(want, rel=1e-12)


def test_scales_do_not_matter():
    "Weights times powers of two move the exponent only; extreme weights neither overflow nor vanish."
    torch.manual_seed(0)
    a, b = (deep_mlp(3, 4, 5, 2, 3, residual=0.).double() for _ in 'ab')
    def cosine(a, b):
        pa, pb = propagate(a), propagate(b)
        aa, ab, bb = pa.power, cross_inner(pa, pb), pb.power
        return float(shift(ab.mantissa.detach()/(aa.mantissa*bb.mantissa).detach().sqrt(), ab.exponent - (aa.exponent + bb.exponent)//2)) if (aa.exponent + bb.exponent) % 2 == 0 else float('nan')
    before = cosine(a, b)
    for n in (100, -100):
        with torch.no_grad():
            for p in a.parameters(): p *= 2.**n
        assert cosine(a, b) == pytest.approx(before, rel=1e-13)
        with torch.no_grad():
            for p in a.parameters(): p *= 2.**-n


def test_shift_and_magnitude():
    assert float(shift(torch.tensor(1.5, dtype=torch.float64), 1023)) == 1.5*2.**1023
    assert float(shift(shift(torch.tensor(1., dtype=torch.float64), -900), 900)) == 1
    assert float(shift(torch.tensor(1., dtype=torch.float64), 10**9)) == math.inf and float(shift(torch.tensor(1.), -10**9)) == 0
    assert magnitude(torch.zeros(3)) is None and magnitude(torch.tensor([3., -9.])) == 4


@pytest.mark.parametrize('mean', (0., 1.))
def test_joinings_by_enumeration(mean):
    "All legs one variable N(mean, 1): the engine's sum is a raw moment, for every number of scores on either side."
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    raw = lambda n: sum(math.comb(n, 2*k)*math.prod(range(1, 2*k, 2))*mean**(n - 2*k) for k in range(n//2 + 1))
    for na, nb in itertools.product(range(4), range(3)):
        w = Wick(lambda f, e: one, lambda f: one*mean if mean else None, [('a', i) for i in range(na)] + [('b', i) for i in range(nb)])
        value = lambda x: 0. if x is None else float(x)
        assert value(w.moment(w.scores)) == raw(2*na + 2*nb)
        assert value(w.covariance(w.scores)) == raw(2*na + 2*nb) - raw(2*na)*raw(2*nb)
        assert value(w.open_covariance(('a', 'open'), ('b', 'open'))) == raw(2*na + 2*nb + 2) - raw(2*na + 1)*raw(2*nb + 1)
        assert value(w.open_covariance(('a', 'open'), None)) == raw(2*na + 2*nb + 1) - raw(2*na + 1)*raw(2*nb)
        assert value(w.open_covariance(None, ('b', 'open'))) == raw(2*na + 2*nb + 1) - raw(2*na)*raw(2*nb + 1)


def test_scores_of_any_width_against_sampling_free_enumeration():
    "Three scores of width 2 on jointly Gaussian legs against quadrature of the product itself."
    gen = torch.Generator().manual_seed(5)
    W, c = torch.randn(8, 2, 3, generator=gen, dtype=torch.float64), torch.randn(8, 2, generator=gen, dtype=torch.float64)
    legs = [('a', 'open'), ('a', 0, 0), ('a', 0, 1), ('a', 1, 0), ('a', 1, 1), ('b', 'open'), ('b', 0, 0), ('b', 0, 1)]
    index = {leg: i for i, leg in enumerate(legs)}
    wick = Wick(lambda f, e: (W[index[f]] @ W[index[e]].T)[None, None], lambda f: c[index[f]][None, None, :, None], [('a', 0), ('a', 1), ('b', 0)])
    from oracle import grid
    x, w = grid(3, 8)
    y = {leg: x @ W[i].T + c[i] for leg, i in index.items()}
    score = lambda s, i: (y[s, i, 0]*y[s, i, 1]).sum(-1, keepdim=True)
    left, right = y['a', 'open']*score('a', 0)*score('a', 1), y['b', 'open']*score('b', 0)
    want = torch.einsum('n,ni,nj->ij', w, left, right) - torch.outer(w @ left, w @ right)
    got = wick.open_covariance(('a', 'open'), ('b', 'open'))[0, 0]
    assert (got - want).abs().max() < 1e-12*want.abs().max()


def test_schedule_covers_every_layer_once():
    for a, b in itertools.product(itertools.product((1, 2), repeat=3), itertools.product((1, 2), repeat=2)):
        steps = schedule(list(a), list(b))
        assert [i for i, _ in steps if i is not None] == [0, 1, 2] and [j for _, j in steps if j is not None] == [0, 1]
