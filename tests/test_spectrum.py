"The degrees of an inner product, and which method is taken and why."
import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.laws import Gaussian, Independent, Mixture
from tensorsim_nb.similarity import LayerEngine, make_engine, plan
from tensorsim_nb.tensors import interaction_tensor, quadrature


def nets(*hidden, depth=2, d=3, seed=0):
    torch.manual_seed(seed)
    return [ts.deep_mlp(d, d, h, 2, depth, bias=True, residual=.5).double() for h in hidden]


LAWS = [Gaussian(), Gaussian([.5, -1., 0.], [[2., .3, 0.], [.3, 1., 0.], [0., 0., .5]])]


@pytest.mark.parametrize('law', LAWS, ids=['standard', 'full'])
@pytest.mark.parametrize('depths', [(0, 0), (1, 1), (1, 2), (2, 2)])
def test_sums_to_the_inner_product(law, depths):
    (a,), (b,) = nets(4, depth=depths[0]), nets(5, depth=depths[1], seed=1)
    got = ts.spectrum(a, b, law)
    assert got.total == pytest.approx(ts.inner(a, b, law, method='quadrature').value, abs=1e-10)
    assert (got.aa >= -1e-12).all() and (got.degrees**2 <= (ts.spectrum(a, a, law).degrees*ts.spectrum(b, b, law).degrees) + 1e-12).all()
    assert (got.degrees[1 + 2**min(depths):] .abs() < 1e-14).all()


@pytest.mark.parametrize('law', LAWS, ids=['standard', 'full'])
def test_trace_part_is_the_projection_on_the_size_of_the_input(law):
    "The trace part is what correlates with (x - mu)^T C^-1 (x - mu); computed here by quadrature."
    a, b = nets(4, 5)
    C = torch.eye(3).double() if law.cov is None else law.cov
    mean = torch.zeros(3).double() if law.mean is None else law.mean
    radial = lambda x: (((x - mean) @ torch.linalg.inv(C))*(x - mean)).sum(-1, keepdim=True) - 3
    f, g = (quadrature(lambda x, m=m: m(x)*radial(x), 3, 6, mean=law.mean, root=law.root(3)).detach() for m in (a, b))
    want = float((f*g).sum()/6) # E radial^2 = 2 r
    values = ts.spectrum(a, b, law).values
    assert values[2] == pytest.approx(want, rel=1e-9) and abs(values[3] - want) > 1e-6


def test_one_layer_by_hand():
    a, b = (ts.classifier(5, h, 3).double() for h in (4, 6))
    A, B = (interaction_tensor(m[0].left.weight, m[0].right.weight, m[1].weight @ m[0].down.weight).detach() for m in (a, b))
    tA, tB = (T.diagonal(dim1=1, dim2=2).sum(-1) for T in (A, B))
    values = ts.spectrum(a, b).values
    assert values[0] == pytest.approx(float(tA @ tB), abs=1e-12) and values[3] == pytest.approx(2*float((A*B).sum() - tA @ tB/5), abs=1e-12)


def test_sums_tables_and_refusals():
    a, b = nets(4, 5)
    assert ts.spectrum(a - b).total == pytest.approx(ts.distance(a, b).value**2, rel=1e-9)
    table = ts.spectrum(a, b).to_dataframe()
    assert list(table.index)[2:4] == ['quadratic, trace', 'quadratic, traceless'] and table['inner'].sum() == pytest.approx(ts.inner(a, b).value)
    assert repr(ts.spectrum(a, b)).count('\n') == 6
    with pytest.raises(NotImplementedError, match='3 bilinear'): ts.spectrum(*nets(2, depth=3))
    with pytest.raises(NotImplementedError, match='component'): ts.spectrum(a, b, Mixture([Gaussian(), Gaussian(cov=[1., 2., 3.])]))


def test_exact_takes_the_cheapest_way_and_says_why_not():
    one, two, three = (nets(8, 8, depth=n, d=12) for n in (1, 2, 3))
    assert [plan(*m).chosen.how if plan(*m).chosen else None for m in (one, two)] == ['layer by layer', 'two layers, Hermite parts']
    assert plan(*three).chosen.method == 'sample' and plan(*three, method='exact').chosen is None
    tiny = nets(40, 40, depth=2, d=1)
    assert plan(*tiny).chosen.method == 'quadrature'
    with pytest.raises(ValueError, match='3 bilinear layers.*grid'): ts.inner(*three, method='exact')
    assert 'because' in repr(plan(*two)) and set(plan(*two).to_dataframe()) >= {'method', 'flops', 'megabytes', 'seconds', 'why_not'}


def test_a_budget_turns_auto_to_sampling_and_never_to_closure():
    two = nets(8, 8, depth=2, d=12)
    assert plan(*two, max_flops=10.).chosen.method == 'sample' and plan(*two, max_seconds=1e-9).chosen.method == 'sample'
    assert ts.similarity(*two, max_flops=10., n=500).method == 'sample'
    assert ts.similarity(*two, max_flops=10., method='exact').exact
    for depth in (1, 2, 3):
        for law in (Gaussian(), Independent.uniform(3)):
            found = plan(*nets(2, 2, depth=depth), law)
            assert found.chosen is None or found.chosen.method != 'closure' and found.chosen.engine is not LayerEngine or depth == 1


def test_engines_make_parts_once_and_meet_in_pairs():
    models = nets(3, 4, 5)
    engine = make_engine(models, Gaussian())
    made = [engine.self_part(m) for m in models]
    for i in range(3):
        for j in range(3): assert engine.pair(made[i], made[j]).tensor().item() == pytest.approx(ts.inner(models[i], models[j]).value, rel=1e-12)
    mixed = make_engine(models, Mixture([Gaussian(), Gaussian(cov=[1., 2., 3.])]))
    x, y = map(mixed.self_part, models[:2])
    want = (ts.inner(*models[:2]).value + ts.inner(*models[:2], Gaussian(cov=[1., 2., 3.])).value)/2
    assert mixed.pair(x, y).tensor().item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize('depth', [1, 2])
@pytest.mark.parametrize('measure', [ts.inner, ts.distance, ts.similarity])
def test_gradients(depth, measure):
    a, b = nets(3, 2, depth=depth, d=2)
    weight = a[1].left.weight
    def f(W):
        del a[1].left.weight
        a[1].left.weight = W
        return measure(a, b, grad=True, method='exact', max_nodes=1).tensor
    assert torch.autograd.gradcheck(f, weight.detach().clone().requires_grad_(), atol=1e-6, fast_mode=True)
    a[1].left.weight = weight
