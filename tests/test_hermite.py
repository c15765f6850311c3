"Exact depth 2 against quadrature, which shares no code with it."
import copy, itertools

import pytest
import torch

from tensorsim_nb.hermite import _split, hermite_degrees, hermite_inner, hermite_parts, tensors
from tensorsim_nb.laws import Gaussian
from tensorsim_nb.layers import BilinearMLP, Linear
from tensorsim_nb.models import Model, classifier, deep_mlp
from tensorsim_nb.tensors import quadrature

LAWS = {
    'standard': Gaussian(),
    'mean': Gaussian(mean=[.5, -1., .25]),
    'diagonal': Gaussian(cov=[2., .5, 1.]),
    'full': Gaussian(mean=[-.5, .2, 1.], cov=[[2., .6, -.3], [.6, 1., .2], [-.3, .2, .7]]),
    'flat': Gaussian(mean=[1., 0., 0.], cov=[[1., 1., 0.], [1., 1., 0.], [0., 0., 1.]]),
}


def grow(model, scale, seed):
    "Fill a model with weights large enough for every degree to matter."
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters(): p.copy_(scale*torch.randn(p.shape, generator=gen)/max(1, p.shape[-1])**.5)
    return model.double()


def stack(hidden, bias, residual, around, seed, depth=2, d=3, out=2):
    "A model of `depth` bilinear layers; `around` puts linear layers before, between and after."
    width, layers = d, []
    if around: layers, width = [Linear(d, d + seed % 3 - 1, bias=bias)], d + seed % 3 - 1
    for i in range(depth):
        layers.append(BilinearMLP(width, hidden + i, bias=bias, residual=residual))
        if around and i + 1 < depth:
            layers.append(Linear(width, 3, bias=bias))
            width = 3
    return grow(Model(*layers, Linear(width, out, bias=bias)), 1.2, seed)


def truth(a, b, law):
    root = law.root(3)
    return quadrature(lambda x: (a(x)*b(x)).sum(-1), 3 if root is None else root.shape[1], a.degree + b.degree, mean=law.mean, root=root)


def exact(a, b, law, **options):
    return hermite_inner(hermite_parts(a, law), hermite_parts(b, law), **options).tensor()


def size(a, b, law):
    return (truth(a, a, law)*truth(b, b, law)).sqrt()


@pytest.mark.parametrize('law', LAWS)
@pytest.mark.parametrize('around', [False, True])
@pytest.mark.parametrize('bias,residual', list(itertools.product([False, True], [0., .6])))
def test_two_layers_agree_with_quadrature(bias, residual, around, law):
    a, b = stack(4, bias, residual, around, 1), stack(6, bias, residual, around, 2)
    law = LAWS[law]
    with torch.no_grad():
        for p, q in ((a, b), (b, a), (a, a)):
            assert abs(exact(p, q, law) - truth(p, q, law)) < 1e-10*size(p, q, law)


@pytest.mark.parametrize('depths', [(0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize('law', ['standard', 'full'])
def test_unequal_depths(depths, law):
    a, b = (stack(4 + i, True, .5, True, i + 1, depth=n) for i, n in enumerate(depths))
    with torch.no_grad(): assert abs(exact(a, b, LAWS[law]) - truth(a, b, LAWS[law])) < 1e-10*size(a, b, LAWS[law])


def test_wide_and_narrow_heads_meet():
    a, b = stack(4, True, .5, True, 1, out=9), stack(6, True, .5, True, 2, out=9)
    c = grow(Model(BilinearMLP(3, 5, 3), BilinearMLP(3, 4, 9)), 1., 3) # no head at all
    d = grow(Model(BilinearMLP(3, 5, 3), BilinearMLP(3, 4, 12), Linear(12, 9)), 1., 4) # a narrowing head
    law = LAWS['full']
    assert hermite_parts(a, law).out is not None and hermite_parts(d, law).out is None
    with torch.no_grad():
        for p, q in itertools.product((a, b, c, d), repeat=2):
            for memory in (1, 1 << 20): assert abs(exact(p, q, law, max_memory=memory) - truth(p, q, law)) < 1e-10*size(p, q, law)


def test_many_inputs_and_few_rows():
    "When the first layer has few rows they become the coordinates; a rotation of the inputs changes nothing."
    gen = torch.Generator().manual_seed(0)
    a, b = (grow(Model(BilinearMLP(30, h, 4), BilinearMLP(4, 5, 2)), 1., h) for h in (3, 4))
    assert len(hermite_parts(a).embed) == 6
    Q = torch.linalg.qr(torch.randn(30, 30, generator=gen).double())[0]
    turned = [Model(grow(Linear(30, 30), 1., 0), *m) for m in (a, b)]
    for m in turned: m[0].weight.data = Q
    with torch.no_grad(): assert abs(exact(a, b, Gaussian()) - exact(*turned, Gaussian())) < 1e-12*exact(a, a, Gaussian())


@pytest.mark.parametrize('rho', [.3, .8, -.5])
def test_each_degree(rho):
    "A noisy copy of the input weighs degree j by rho ** j."
    a, b = (grow(Model(BilinearMLP(2, h, bias=True, residual=.5), BilinearMLP(2, h, bias=True, residual=.5)), 1., h) for h in (3, 4))
    with torch.no_grad():
        values, n = hermite_degrees(hermite_parts(a), hermite_parts(b))
        want = quadrature(lambda x: (a(x[:, :2])*b(rho*x[:, :2] + (1 - rho**2)**.5*x[:, 2:])).sum(-1), 4, 8)
    got = (values*rho**torch.arange(5).double()).sum()*2.**n
    assert abs(got - want) < 1e-11*size2(a, b) and abs(values.sum()*2.**n - want) > 1e-3*size2(a, b)


def size2(a, b):
    return hermite_inner(hermite_parts(a), hermite_parts(a)).tensor().sqrt()*hermite_inner(hermite_parts(b), hermite_parts(b)).tensor().sqrt()


def test_no_term_is_idle():
    "Controls: without the split matchings, the mean, or one of the parts, the number is wrong."
    a, law = stack(4, True, .5, True, 1), LAWS['full']
    with torch.no_grad():
        m, want = hermite_parts(a, law), truth(a, a, law)
        p, q = m.through(m.p), m.through(m.q)
        values, n = hermite_degrees(m, m)
        assert _split(m, m, m.S, p, q, 1 << 20)*2.**(2*n//2) > 1e-4*want
        assert all(v > 1e-6*values.sum() for v in values)
        assert abs(exact(a, a, Gaussian(cov=law.cov)) - want) > 1e-2*want
        m.memo.clear(); m.memo['tensors'] = tensors(m)._replace(Y=0*tensors(m).Y)
        assert abs(hermite_inner(m, m).tensor() - want) > 1e-4*want


@pytest.mark.parametrize('power', [-200, 200])
def test_no_overflow(power):
    "Weights times 2 ** power everywhere: a model without biases changes its exponent only."
    a = stack(4, False, 0., True, 1)
    b = copy.deepcopy(a)
    with torch.no_grad():
        for p in b.parameters(): p *= 2.**power
        u, v = (hermite_inner(*[hermite_parts(m)]*2) for m in (a, b))
    factors = 4 + 6 + 2 + 3 + 1 # embedding four times, first layer's three matrices twice, between twice, second layer, head
    assert v.exponent - u.exponent == 2*factors*power and v.mantissa == u.mantissa


def test_gradients():
    a, b = stack(3, True, .5, True, 1, out=1), stack(2, True, .5, True, 2, out=1)
    names, values = zip(*[(k, v.detach().clone().requires_grad_()) for k, v in a.named_parameters()])
    def f(*values):
        m = copy.deepcopy(a)
        for k, v in zip(names, values):
            *path, leaf = k.split('.')
            module = m.get_submodule('.'.join(path))
            delattr(module, leaf)
            setattr(module, leaf, v)
        part = hermite_parts(m, LAWS['full'])
        return hermite_inner(part, hermite_parts(b, LAWS['full']), max_memory=1).tensor()/100
    assert torch.autograd.gradcheck(f, values, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_refusals():
    with pytest.raises(NotImplementedError, match='at most two'): hermite_parts(stack(3, False, 0., False, 1, depth=3))
    with pytest.raises(ValueError, match='width'): hermite_parts(classifier(4, 3, 2), LAWS['full'])


def test_gradient_at_zero_weights():
    "A weight matrix of zeros has no scale of its own; its gradient must not lose the scale of the others."
    from tensorsim_nb.similarity import inner
    torch.manual_seed(0)
    b = deep_mlp(4, 5, 6, 3, 2, residual=.5).double()
    for layer in (1, 2):
        a = deep_mlp(4, 5, 6, 3, 2, residual=.5).double()
        weight = a[layer].down.weight
        with torch.no_grad(): weight.zero_()
        inner(a, b, grad=True, method='exact', max_nodes=0).tensor.backward()
        values = []
        for e in (1e-4, -1e-4):
            with torch.no_grad(): weight[0, 0] = e
            values.append(inner(a, b, method='exact', max_nodes=0).value)
        assert weight.grad[0, 0].item() == pytest.approx((values[0] - values[1])/2e-4, rel=1e-5)
