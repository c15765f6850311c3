"Every law against its own sample, its grid, or plain enumeration."
import math

import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.blocks import block_inner, block_parts
from tensorsim_nb.laws import Categorical, Empirical, Gaussian, Independent, LowRank, Mixture, Tokens
from tensorsim_nb.layers import BilinearMLP, Linear
from tensorsim_nb.models import Model


def gen(seed=0): return torch.Generator().manual_seed(seed)


def laws():
    data = torch.randn(300, 4, generator=gen(), dtype=torch.float64) @ torch.randn(4, 4, generator=gen(1), dtype=torch.float64) + 1
    return dict(standard=Gaussian(), diagonal=Gaussian(mean=[1., 0., 0., -1.], cov=[1., 2., 0., .5]), full=Gaussian.fit(data), low=Gaussian.fit(data, rank=2), thin=LowRank(torch.eye(4)[:, :2], 0),
                mixture=Mixture([Gaussian(), Gaussian.fit(data)], [.2, .8]), tokens=Tokens([.1, .2, .3, .4]), blocks=Categorical(2, [.3, .7]), rows=Empirical(data))


@pytest.mark.parametrize('name', laws())
def test_covariance_and_mean_are_those_of_the_draws(name):
    law, n = laws()[name], 200_000
    x = law.sample(n, 4, seed=3)
    cov = law.times_cov(torch.eye(4).double())
    mean = torch.zeros(4).double() if law.mean is None else law.mean
    assert (x.mean(0) - mean).abs().max() < 6*(cov.diagonal().max()/n)**.5
    assert (torch.cov(x.T) - cov).abs().max() < 25*cov.diagonal().max()/n**.5
    assert torch.equal(x, law.sample(n, 4, seed=3)) and not torch.equal(x[:9], law.sample(9, 4, seed=4))


@pytest.mark.parametrize('name', laws())
def test_nodes_carry_the_moments(name):
    law = laws()[name]
    x, w = law.node(torch.arange(law.n_nodes(4, 2)), 4, 2)
    mean = torch.zeros(4).double() if law.mean is None else law.mean
    cov = law.times_cov(torch.eye(4).double())
    assert abs(w.sum() - 1) < 1e-12 and (w @ x - mean).abs().max() < 1e-10
    assert (x.T @ (w[:, None]*x) - torch.outer(mean, mean) - cov).abs().max() < 1e-9*max(1, cov.abs().max())


def net(d, hidden, seed, bias=True, out=2):
    torch.manual_seed(seed)
    return Model(Linear(d, 4, bias=bias), BilinearMLP(4, hidden, bias=bias, residual=.5), Linear(4, out, bias=bias)).double()


def enumerated(a, b, law):
    "Every combination of symbols, by plain loops."
    import itertools
    total = 0.
    probs = law.mean.split(law.blocks)
    for ids in itertools.product(*map(range, law.blocks)):
        x = torch.cat([torch.eye(n, dtype=torch.float64)[i] for i, n in zip(ids, law.blocks)])
        weight = math.prod(float(p[i]) for p, i in zip(probs, ids))
        total += weight*float((a(x)*b(x)).sum())
    return total


@pytest.mark.parametrize('law', [Tokens([.1, .2, .3, .4]), Categorical(3, 5), Categorical([.7, .2, .1], 2, 4), Categorical(2, 2, 2, 2, 2)], ids=str)
@pytest.mark.parametrize('bias', [False, True])
def test_one_hot_blocks_against_enumeration(law, bias):
    a, b = net(law.d, 6, 0, bias), net(law.d, 7, 1, bias)
    with torch.no_grad():
        for p, q in ((a, b), (a, a), (a, Model(Linear(law.d, 2, bias=True)).double())):
            want = enumerated(p, q, law)
            size = (enumerated(p, p, law)*enumerated(q, q, law))**.5
            got = ts.inner(p, q, law, method='exact')
            assert got.exact and abs(got.value - want) < 1e-12*size
        as_gauss = ts.inner(a, a, Gaussian(mean=law.mean, cov=law.times_cov(torch.eye(law.d).double())), method='exact').value
        assert abs(as_gauss - enumerated(a, a, law)) > 1e-6*size # the control: mean and covariance are not enough


def test_modular_addition_at_full_size_visits_no_input():
    a, b = (ts.classifier(226, 16, 113) for _ in 'ab')
    law = Categorical(113, 113)
    found = ts.plan(a, b, law)
    assert found.chosen.how == 'independent blocks'
    assert ts.similarity(a, b, law).value == pytest.approx(ts.similarity(a, b, law, method='quadrature').value, abs=1e-12)


@pytest.mark.parametrize('seed', range(3))
def test_independent_coordinates(seed):
    "Against a distribution with three values a coordinate, enumerated; the Gaussian formula must fail."
    g = gen(seed)
    points, probs = torch.randn(3, 3, generator=g, dtype=torch.float64), torch.rand(3, 3, generator=g, dtype=torch.float64)
    probs = probs/probs.sum(1, keepdim=True)
    law = Independent(torch.stack([(probs*points**k).sum(1) for k in (1, 2, 3, 4)]))
    which = torch.cartesian_prod(*[torch.arange(3)]*3)
    x = points[torch.arange(3), which]
    w = probs[torch.arange(3), which].prod(1)
    a, b = net(3, 5, seed), net(3, 6, seed + 10)
    with torch.no_grad():
        for p, q in ((a, b), (a, a)):
            want = float((w*(p(x)*q(x)).sum(1)).sum())
            assert ts.inner(p, q, law).value == pytest.approx(want, abs=1e-12)
            assert ts.inner(p, q, law, method='quadrature').value == pytest.approx(want, abs=1e-11)
        assert abs(ts.inner(a, a, Gaussian(law.mean, law.var)).value - want) > 1e-6*abs(want)
    with pytest.raises(ValueError, match='four moments'): ts.inner(a, b, law, method='sample')


@pytest.mark.parametrize('depth', [1, 2])
def test_mixture_is_the_weighted_sum(depth):
    a, b = (ts.deep_mlp(3, 3, h, 2, depth, bias=True).double() for h in (4, 5))
    kinds, weights = [Gaussian(), Gaussian(mean=[1., 2., 0.]), Gaussian(cov=[3., 1., .1])], [.5, .2, .3]
    law = Mixture([kinds[0], Mixture(kinds[1:], [.4, .6])], [.5, .5])
    got = ts.inner(a, b, law, method='exact')
    assert got.value == pytest.approx(sum(w*ts.inner(a, b, k, method='quadrature').value for w, k in zip(weights, kinds)), rel=1e-10)
    x, w = law.node(torch.arange(law.n_nodes(3, 8)), 3, 8)
    with torch.no_grad(): assert got.value == pytest.approx(float((w*(a(x)*b(x)).sum(1)).sum()), rel=1e-9)
    one = Gaussian(law.mean, law.times_cov(torch.eye(3).double()))
    assert abs(ts.inner(a, a, one).value - ts.inner(a, a, law).value) > 1e-4*ts.inner(a, a, law).value # the control


def test_fits():
    x = torch.randn(50, 6, generator=gen(), dtype=torch.float64)
    assert torch.allclose(Gaussian.fit(x, ridge=0, rank=6).cov, Gaussian.fit(x, ridge=0).cov)
    assert torch.allclose(Gaussian.fit(x, rank=0).cov, torch.diag(Gaussian.fit(x).cov.diagonal()))
    a, b = ts.classifier(6, 4, 2).double(), ts.classifier(6, 3, 2).double()
    assert ts.inner(a, b, Gaussian.fit(x, rank=6)).value == pytest.approx(ts.inner(a, b, Gaussian.fit(x)).value, rel=1e-10)
    assert ts.inner(a, b, Empirical(x), method='exact').value == pytest.approx(float((a(x)*b(x)).sum(1).mean().detach()), rel=1e-12)


@pytest.mark.parametrize('make,words', [
    (lambda: Mixture([]), 'component'), (lambda: Mixture([Gaussian()], [.5]), 'sum to 1'), (lambda: Mixture([Gaussian(cov=[1.]), Gaussian(cov=[1., 1.])]), 'one width'),
    (lambda: Mixture(['x']), 'mixes laws'), (lambda: Categorical(), 'one block'), (lambda: Categorical([.5, .6]), 'sum to 1'), (lambda: LowRank([[1.]], [-1.]), 'not negative'),
    (lambda: Independent([[0.], [1.], [0.], [.5]]), 'kurtosis'), (lambda: Independent([0., 1.]), 'four moments'), (lambda: Empirical([[1., float('nan')], [0., 0.]]), 'finite'),
    (lambda: ts.inner(ts.classifier(3, 2, 2), ts.classifier(3, 2, 2), Categorical(2, 2)), 'width 4')])
def test_refusals(make, words):
    with pytest.raises((ValueError, TypeError), match=words): make()
