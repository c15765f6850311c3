"""The four questions against quadrature, over methods; invariances with controls; refusals."""
import copy
import itertools
import math

import pytest
import torch
from oracle import expected_product, random_law

import tensorsim_nb as ts
from tensorsim_nb.models import Combination


def truth(a, b, degree, mean=None, cov=None):
    aa, ab, bb = (expected_product(f, g, a.d_in, degree, mean, cov) for f, g in ((a, a), (a, b), (b, b)))
    return dict(inner=ab, norm=math.sqrt(aa), similarity=ab/math.sqrt(aa*bb), distance=math.sqrt(aa - 2*ab + bb))


def measures(a, b, *args, **kw):
    return dict(inner=ts.inner(a, b, *args, **kw), norm=ts.norm(a, *args, **kw), similarity=ts.similarity(a, b, *args, **kw), distance=ts.distance(a, b, *args, **kw))


@pytest.mark.parametrize('n_layer,method', list(itertools.product((1, 2), ('auto', 'exact', 'quadrature'))))
def test_exact_methods_agree_with_quadrature(n_layer, method):
    torch.manual_seed(n_layer)
    a, b = (ts.deep_mlp(3, 4, h, 2, n_layer, bias=True, residual=.5).double() for h in (5, 6))
    mean, cov = random_law(3, 1)
    want, got = truth(a, b, 2*2**n_layer, mean, cov), measures(a, b, ts.Gaussian(mean, cov), method=method)
    for k in want:
        assert got[k].exact and got[k].stderr == 0 and got[k].value == pytest.approx(want[k], rel=1e-9), k


def test_sampling_covers_the_truth():
    torch.manual_seed(0)
    a, b = (ts.deep_mlp(3, 4, 6, 2, 2, bias=True, residual=.5).double() for _ in 'ab')
    want = truth(a, b, 8)
    for k, got in measures(a, b, method='sample', n=40_000, seed=1).items():
        assert not got.exact and abs(got.value - want[k]) < 4*got.stderr and got.stderr < .2*abs(want[k]) + .05, k


def test_sums_of_models_expand():
    torch.manual_seed(0)
    a, b, c = (ts.classifier(3, h, 2).double() for h in (2, 3, 4))
    f, g = a - 2*b, .5*c + a
    for method in ('exact', 'quadrature'):
        assert ts.inner(f, g, method=method).value == pytest.approx(expected_product(f, g, 3, 4), rel=1e-11)
    assert ts.norm(a - b).value == pytest.approx(ts.distance(a, b).value, rel=1e-10)
    assert isinstance(f, Combination)


def twins(m, gen):
    "The same function with other weights, and one that is another function."
    m = m.double()
    same = copy.deepcopy(m)
    order = torch.randperm(m[1].d_hidden, generator=gen)
    with torch.no_grad():
        same[1].left.weight.copy_(3*m[1].right.weight[order]); same[1].left.bias.copy_(3*m[1].right.bias[order])
        same[1].right.weight.copy_(m[1].left.weight[order]/3); same[1].right.bias.copy_(m[1].left.bias[order]/3)
        same[1].down.weight.copy_(m[1].down.weight[:, order])
    other = copy.deepcopy(m)
    mix = torch.randn(m[1].d_hidden, m[1].d_hidden, generator=gen, dtype=torch.float64)
    with torch.no_grad():
        for p in (other[1].left, other[1].right): p.weight.copy_(mix @ p.weight)
        other[1].down.weight.copy_(other[1].down.weight @ torch.linalg.inv(mix))
    return same, other


@pytest.mark.parametrize('method', ('exact', 'closure', 'tensor', 'quadrature', 'sample'))
def test_invariances_and_their_control(method):
    torch.manual_seed(0)
    m = ts.deep_mlp(3, 4, 6, 2, 2, bias=True, residual=.5)
    same, other = twins(m, torch.Generator().manual_seed(0))
    assert ts.similarity(m, same, method=method).value == pytest.approx(1, abs=1e-9)
    assert ts.similarity(m, other, method=method).value < .999


def test_near_equal_models_say_what_rounding_leaves():
    a = ts.classifier(8, 6, 3).double()
    b = copy.deepcopy(a)
    with torch.no_grad(): b[1].weight[0, 0] += 1e-9
    d = ts.distance(a, b)
    assert not d.exact and 'subtracted' in repr(d) and 0 < d.stderr < 1e-4*d.value   # most digits are kept (test_distances)
    assert ts.distance(a, a).value == 0


def test_float32_is_close_and_gradients_flow():
    torch.manual_seed(0)
    a, b = (ts.deep_mlp(5, 4, 6, 3, 2, bias=True) for _ in 'ab')
    for method in ('closure', 'tensor'):
        single, double = (ts.similarity(a, b, method=method, dtype=t).value for t in (torch.float32, torch.float64))
        assert single == pytest.approx(double, abs=1e-5)
        s = ts.similarity(a, b, method=method, grad=True)
        assert s.tensor.requires_grad and ts.similarity(a, b, method=method).tensor is None
        grads = torch.autograd.grad(s.tensor, list(a.parameters()))
        assert all(torch.isfinite(g).all() for g in grads) and sum(float(g.abs().sum()) for g in grads) > 0


def test_refusals():
    a = ts.classifier(4, 3, 2)
    with pytest.raises(ValueError, match='d_in 4 and 5'): ts.similarity(a, ts.classifier(5, 3, 2))
    with pytest.raises(ValueError, match='d_out 2 and 3'): ts.similarity(a, ts.classifier(4, 3, 3))
    with pytest.raises(ValueError, match='width 3'): ts.similarity(a, a, ts.Gaussian(mean=[0., 0, 0]))
    with pytest.raises(ValueError, match='one of'): ts.similarity(a, a, method='best')
    with pytest.raises(TypeError, match='law'): ts.similarity(a, a, torch.eye(4))
    with pytest.raises(TypeError, match='ts.Model'): ts.similarity(a, torch.nn.Linear(4, 2))
    with pytest.raises(ValueError, match='sample'): ts.norm(ts.deep_mlp(64, 8, 8, 2, 3), method='exact')
    zero = copy.deepcopy(a)
    torch.nn.init.zeros_(zero[0].left.weight)
    with pytest.raises(ValueError, match='zero under this law'): ts.similarity(a, zero)
    assert ts.norm(zero).value == 0 and ts.inner(a, zero).value == 0
    for bad in (float('nan'), float('inf')):
        torch.nn.init.constant_(zero[0].left.weight, bad)
        with pytest.raises(ValueError, match='finite'): ts.similarity(a, zero)


def test_the_tensor_measure_is_not_called_exact():
    a, b = (ts.deep_mlp(3, 4, 5, 2, 2).double() for _ in 'ab')
    assert 'weight-space product' in repr(ts.similarity(a, b, method='tensor'))
    assert '(exact' in repr(ts.similarity(a, b, method='exact'))


def test_many_inputs_need_no_grid():
    "The count of a grid's nodes may be larger than any float; nobody asked for the grid."
    torch.manual_seed(0)
    a, b = ts.classifier(784, 3, 2), ts.classifier(784, 3, 2)
    assert ts.similarity(a, b).exact and ts.gram([a, b]).exact and '1e374 nodes' in repr(ts.plan(a, b))
    with pytest.raises(ValueError, match='1e374'): ts.inner(a, b, method='quadrature')
