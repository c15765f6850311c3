"Distances of models that nearly agree, against arithmetic with 50 digits and against scaling laws."
import copy

import numpy as np
import pytest
import torch
from mpmath import mp, mpf

from tensorsim_nb.core import generator
from tensorsim_nb.laws import Gaussian
from tensorsim_nb.models import Combination, classifier, deep_mlp, transformer
from tensorsim_nb.similarity import distance, inner, norm
from tensorsim_nb.telescopes import telescope

def moved(a, size, seed=0):
    b, gen = copy.deepcopy(a), generator(seed)
    with torch.no_grad():
        for p in b.parameters(): p += size*p.abs().mean()*torch.randn(p.shape, generator=gen, dtype=p.dtype)
    return b

def exact_square(a, b):
    "E|f - g|^2 of two `classifier`s under N(0, I), with 50 digits."
    mp.dps = 50
    big = lambda t: np.array([[mpf(float(v)) for v in row] for row in t.detach()], dtype=object)
    def forms(m):
        L, R, D = big(m[0].left.weight), big(m[0].right.weight), big(m[1].weight).dot(big(m[0].down.weight))
        return [(L.T*D[o]).dot(R) for o in range(len(D))]
    total = mpf(0)
    for P, Q in zip(forms(a), forms(b)):
        S = P - Q
        S = (S + S.T)/2
        total += np.trace(S)**2 + 2*(S*S).sum()
    return total

@pytest.mark.parametrize('size', [1e-2, 1e-4, 1e-6, 1e-8, 1e-10])
def test_one_layer_against_50_digits(size):
    a = classifier(5, 4, 3).double()
    b = moved(a, size)
    want = float(mp.sqrt(exact_square(a, b)))
    got = distance(a, b)
    assert abs(got.value/want - 1) < (1e-8 if size >= 1e-7 else 1e-15/size*100)
    assert got.exact or got.stderr > abs(got.value - want)
    telescoped = norm(telescope(a, b)).value
    assert abs(telescoped/want - 1) < 1e-13 # differences of weights lose nothing

def test_one_layer_in_other_weights():
    a = classifier(5, 4, 3).double()
    b, order = moved(a, 1e-6), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        want = float(mp.sqrt(exact_square(a, b)))
        for m, c in ((b[0].left, 3.), (b[0].right, 1/3)): m.weight.copy_(c*m.weight[order])
        b[0].down.weight.copy_(b[0].down.weight[:, order])
    assert abs(distance(a, b).value/want - 1) < 1e-8 # hidden units in another order and scale

MODELS = {'two layers': (lambda: deep_mlp(3, 4, 5, 2, 2, bias=True, residual=.5), 'exact'),
          'three layers': (lambda: deep_mlp(3, 3, 4, 2, 3, residual=.5), 'closure'),
          'attention': (lambda: transformer(3, 4, 2, 2, 1, bias=True), 'closure'),
          'quadrature': (lambda: deep_mlp(2, 3, 4, 2, 3), 'quadrature'),
          'draws': (lambda: deep_mlp(3, 3, 4, 2, 3), 'sample')}

@pytest.mark.filterwarnings('ignore:A closure needs layers')
@pytest.mark.parametrize('name', MODELS)
def test_deep_models_scale(name):
    "Half the change is half as far, to second order (weights are rounded so that adding the change loses nothing)."
    make, method = MODELS[name]
    a, snap = make().double(), lambda p: (p*2**10).round()/2**10
    with torch.no_grad():
        for p in a.parameters(): p.copy_(snap(p))
    def far(size):
        b, gen = copy.deepcopy(a), generator(1)
        with torch.no_grad():
            for p in b.parameters(): p += size*snap(torch.randn(p.shape, generator=gen, dtype=p.dtype))
        options = dict(sample=dict(n=1000), exact=dict(max_nodes=0)).get(method, {})
        return distance(a, b, method=method, **options)
    one, half = far(2.**-30), far(2.**-31)
    assert one.exact == half.exact and one.method == method and abs(one.value/half.value - 2) < 1e-7
    big, small = far(2.**-14), far(2.**-15)
    assert abs(big.value/small.value - 2) < 1e-2 and abs(big.value/one.value/2**16 - 1) < 1e-2

def test_both_ways_meet_the_plain_one():
    a = deep_mlp(3, 4, 5, 2, 2, residual=.5).double()
    b = moved(a, 3e-3)
    plain = (norm(a).value**2 - 2*inner(a, b).value + norm(b).value**2)**.5
    assert distance(a, b).note == 'weights subtracted' and abs(distance(a, b).value/plain - 1) < 1e-9

def test_zero_sums_laws_and_gradients():
    a = classifier(4, 3, 2).double()
    assert distance(a, copy.deepcopy(a)).value == 0
    law, b = Gaussian(torch.tensor([.5, 0., 1., -1.]), torch.tensor([1., 2., .5, .1])), moved(a, 1e-3)
    plain = (norm(a, law).value**2 - 2*inner(a, b, law).value + norm(b, law).value**2)**.5
    assert abs(distance(a, b, law).value/plain - 1) < 1e-8
    assert distance(Combination([1., 1.], [a, b]), 2*a).value > 0 # sums
    distance(a, b, grad=True).tensor.backward()
    assert b[0].left.weight.grad.abs().sum() > 0

def test_what_is_unsure_is_said():
    "Different weights, nearly equal function, two layers: subtracting weights does not help, and this is said."
    a = deep_mlp(3, 4, 5, 2, 2).double()
    b = moved(a, 1e-9)
    with torch.no_grad():
        order = torch.tensor([1, 2, 3, 4, 0])
        for m in (b[1].left, b[1].right): m.weight.copy_(m.weight[order])
        b[1].down.weight.copy_(b[1].down.weight[:, order])
    got = distance(a, b)
    assert not got.exact and got.stderr > 1e-8*got.value


@pytest.mark.parametrize('make', [lambda: classifier(4, 5, 3), lambda: deep_mlp(3, 4, 5, 2, 2, bias=True), lambda: transformer(3, 4, 2, 2, 1)],
                         ids=['coefficients', 'weights', 'attention'])
@pytest.mark.filterwarnings('ignore:A closure needs layers')
def test_distance_of_near_models_keeps_its_graph(make):
    torch.manual_seed(0)
    a, step = make().double(), 1e-8
    b = copy.deepcopy(a)
    with torch.no_grad():
        for p in b.parameters(): p += 1e-6*torch.randn_like(p)
    got = distance(a, b, grad=True)
    assert 'subtracted' in got.note and got.tensor is not None
    weight = next(p for p in b.parameters() if p.ndim == 2)
    slope, = torch.autograd.grad(got.tensor, weight)
    at = divmod(int(slope.abs().argmax()), slope.shape[1])
    def moved(h):
        with torch.no_grad(): weight[at] += h
        return distance(a, b).value
    assert float(slope[at]) == pytest.approx((moved(step) - moved(-2*step))/(2*step), rel=1e-4)
