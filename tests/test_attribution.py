"Attribution: parts sum to the whole on random stacks, and they are what they are said to be."
import copy, warnings

import numpy as np
import pytest
import torch

from oracle import expected_product
from tensorsim_nb.attribution import Attribution, attribute, gates
from tensorsim_nb.core import generator
from tensorsim_nb.laws import Gaussian
from tensorsim_nb.models import classifier, deep_mlp, transformer
from tensorsim_nb.similarity import distance, inner, norm
from tensorsim_nb.slices import slice_heads, slice_hidden, slice_outputs
from tensorsim_nb.telescopes import telescope

pytestmark = pytest.mark.filterwarnings('ignore:A closure needs layers') # closures of strong layers are complete too

STACKS = {
    'one layer': lambda: classifier(5, 4, 3),
    'one layer, bias, skip': lambda: deep_mlp(5, 4, 6, 3, 1, bias=True, residual=.5),
    'two layers': lambda: deep_mlp(5, 4, 6, 3, 2),
    'three layers, bias, skip': lambda: deep_mlp(5, 3, 4, 2, 3, bias=True, residual=.7),
    'attention': lambda: transformer(5, 4, 2, 3, 1, bias=True),
    'attention and MLP': lambda: transformer(5, 4, 2, 2, 1, d_hidden=4, bias=True),
    'linear attention, two layers': lambda: transformer(5, 4, 2, 2, 2, kind='linear', scale=.5),
}
LAWS = {'standard': Gaussian(), 'full': Gaussian(torch.linspace(-1, 1, 5), (r := torch.randn(5, 5, generator=generator(0))) @ r.T)}

def pair(name):
    torch.manual_seed(0)
    return [STACKS[name]().double() for _ in range(2)]

def kinds(name): return ['layer', 'output', 'input'] + ['head']*('attention' in name) + ['neuron']*('attention' not in name or 'MLP' in name)

@pytest.mark.parametrize('law', LAWS)
@pytest.mark.parametrize('name', STACKS)
def test_complete(name, law):
    a, b = pair(name)
    for i, by in enumerate(kinds(name)): # every kind with one quantity, every quantity with some kind
        of = ('inner', 'norm', 'distance')[(i + len(name) + (law == 'full')) % 3]
        got = attribute(a, None if of == 'norm' else b, LAWS[law], by=by, of=of, method='closure', leave_one_out=False)
        assert got.error <= 1e-10 and np.isclose(got.parts.sum(), got.total, rtol=1e-9), got
        if of == 'inner': assert np.allclose([got.a.sum(), got.b.sum()], got.total, rtol=1e-9)

@pytest.mark.parametrize('law', LAWS)
@pytest.mark.parametrize('name', ['one layer, bias, skip', 'three layers, bias, skip', 'attention', 'attention and MLP'])
def test_degrees_complete(name, law):
    a, b = pair(name)
    for of in ('inner', 'norm', 'distance')[:1 if 'MLP' in name or 'three' in name else 3]:
        got = attribute(a, None if of == 'norm' else b, LAWS[law], by='degree', of=of, method='closure')
        assert abs(got.parts.sum() - got.total) <= 1e-10*np.abs(got.parts).sum(), got
        if of != 'inner' and got.exact: assert (got.parts > -1e-10*got.total).all() # squares

def test_degrees_against_quadrature():
    "Degree parts of a two-layer model: the correlated copy is integrated on a grid over both inputs."
    a, b = (deep_mlp(2, 3, 4, 2, 2, bias=True).double() for _ in range(2))
    got = attribute(a, b, by='degree')
    for rho in (.3, -.8):
        both = lambda m, mix: lambda z: m(mix(z[:, :2], z[:, 2:]))
        want = expected_product(both(a, lambda x, y: x), both(b, lambda x, y: rho*x + (1 - rho**2)**.5*y), 4, 8)
        assert abs(sum(c*rho**k for k, c in enumerate(got.parts)) - want) < 1e-10*abs(want)

def test_parts_are_slices_where_gates_are_linear():
    a, b = pair('one layer')
    got = attribute(a, b, by='neuron')
    assert np.allclose(got.b[:-1], [inner(a, slice_hidden(b, 0, u)).value for u in range(4)], rtol=1e-10)
    got = attribute(a, b, by='output', of='distance')
    assert np.allclose(got.parts, [distance(slice_outputs(a, o), slice_outputs(b, o)).value**2 for o in range(3)], rtol=1e-10)
    assert np.allclose(got.left_out, got.parts, rtol=1e-8) # outputs do not interact
    t, u = pair('attention')
    want = [inner(slice_heads(t, 1, [1 - h]), u).value for h in range(2)]
    got = attribute(t, u, by='head')
    assert np.allclose([got.total - got.a[h] for h in range(2)], want, rtol=1e-9)

def test_homogeneous_stacks_share_by_degree():
    "Without skip paths every layer's share is its exponent: 2 of 3 for the first, which the second squares."
    a, b = pair('two layers')
    got = attribute(a, b, by='layer', method='closure')
    assert np.allclose(got.parts, np.array([2, 1, 0])/3*got.total)

def test_layer_parts_against_brute_force():
    "The integral over gates, by quadrature of forward passes and many nodes."
    a, b = (deep_mlp(2, 3, 3, 2, 2, bias=True, residual=.5).double() for _ in range(2))
    g, one = gates(a, 'layer'), torch.ones(2, dtype=torch.float64)
    got = attribute(a, b, by='layer', method='quadrature')
    nodes, w = np.polynomial.legendre.leggauss(6)
    for i, want in enumerate(got.a[:-1]):
        step = 1e-4*torch.eye(2, dtype=torch.float64)[i]
        slope = [(expected_product(g.build(t*one + step), b, 2, 8) - expected_product(g.build(t*one - step), b, 2, 8))/2e-4 for t in (nodes + 1)/2]
        assert np.isclose(want, (w/2*slope).sum(), rtol=1e-6)

def test_leave_one_out():
    a, b = pair('three layers, bias, skip')
    got = attribute(a, b, by='layer', method='closure')
    from tensorsim_nb.slices import PartLayer
    from tensorsim_nb.models import Model
    off = lambda m, i: Model(*(PartLayer(x, lambda k, t: [] if t.scores else None) if j == i else x for j, x in enumerate(m)))
    want = [got.total - inner(off(a, i), off(b, i), method='closure').value for i in (1, 2, 3)]
    assert np.allclose(got.left_out[:3], want) and np.isnan(got.left_out[3])

def test_near_models_keep_their_digits():
    a = deep_mlp(3, 4, 5, 2, 2, bias=True, residual=.5).double()
    b = copy.deepcopy(a)
    with torch.no_grad():
        for p in b.parameters(): p += 1e-7*torch.randn_like(p)
    want = norm(telescope(a, b), method='closure').value**2
    for by in ('layer', 'input', 'degree'):
        got = attribute(a, b, by=by, of='distance', method='closure', leave_one_out=False)
        if by != 'degree': assert abs(got.total/want - 1) < 1e-9
        assert got.error < 1e-8, got # backward passes subtract numbers of the models' size: 1e-16*|a|/|a - b|

def test_models_of_different_depth():
    a, b = deep_mlp(4, 4, 5, 2, 1, residual=.5).double(), deep_mlp(4, 4, 5, 2, 2, residual=.5).double()
    got = attribute(a, b, by='layer', method='closure')
    assert got.labels == ['layer 1', 'layer 2', 'rest'] and got.a[1] == 0 and got.error < 1e-12
    both = attribute(a + b, 2*a, by='layer', method='closure') # sums of models
    assert both.error < 1e-12

@pytest.mark.parametrize('method', ['sample', 'quadrature', 'tensor'])
def test_other_methods_are_complete(method):
    a, b = (deep_mlp(2, 3, 4, 2, 2).double() for _ in range(2))
    got = attribute(a, b, by='neuron', method=method, leave_one_out=False, **(dict(n=2000) if method == 'sample' else {}))
    assert got.error < 1e-10 and got.method == method

def test_table_and_plot():
    import matplotlib
    matplotlib.use('Agg')
    a, b = pair('one layer')
    got = attribute(a, b, by='input')
    table = got.to_dataframe()
    assert list(table.columns) == ['part', 'share', 'sign', 'a', 'b', 'left_out'] and list(table.index) == got.labels
    assert abs(table.share.sum() - 1) < 1e-10 and set(table.sign) <= {-1, 0, 1} and 'by input' in repr(got)
    for fig in (got.plot(), got.plot(n=2), attribute(classifier(4, 3, 2), by='input').plot(image_shape=(2, 2))):
        assert fig.axes[0].get_title() and fig.axes[0].get_xlabel()

@pytest.mark.parametrize('args, text', [(dict(by='x'), '`by` is one of'), (dict(of='x'), '`of` is'), (dict(of='norm'), 'one model'), (dict(by='head'), 'a model without any')])
def test_refusals(args, text):
    with pytest.raises(ValueError, match=text): attribute(*pair('one layer'), **args)
