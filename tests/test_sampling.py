"Sampling: unbiased, honest, reproducible, and it says when it is not to be believed."
import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.laws import Categorical, Empirical, Gaussian, LowRank, Mixture, Tokens
from tensorsim_nb.layers import BilinearMLP, Linear
from tensorsim_nb.models import Model
from tensorsim_nb.sampling import average, spread_draws, weights, widths


def pair(d=4, depth=2, scale=1.5, **kw):
    torch.manual_seed(0)
    models = [ts.deep_mlp(d, d, 2*d, 2, depth, bias=True, residual=.5).double() for _ in 'ab']
    with torch.no_grad():
        for m in models:
            for p in m.parameters(): p *= scale
    return models


LAWS = dict(standard=Gaussian(), full=Gaussian([1., 0., 0., -.5], torch.eye(4) + .5), low=LowRank(torch.eye(4)[:, :2], .1), thin=LowRank(torch.eye(4)[:, :2], 0.),
            mixture=Mixture([Gaussian(), Gaussian(cov=[.1, 2., 1., 1.])], [.3, .7]), blocks=Categorical(2, 2))


@pytest.mark.parametrize('name', LAWS)
@pytest.mark.parametrize('measure', ['inner', 'norm', 'similarity', 'distance'])
def test_converges_to_the_exact_value(name, measure):
    a, b = pair()
    f = dict(inner=ts.inner, norm=lambda a, b, *args, **kw: ts.norm(a, *args, **kw), similarity=ts.similarity, distance=ts.distance)[measure]
    want = f(a, b, LAWS[name], method='exact').value
    errors = []
    for n in (2_000, 32_000):
        got = f(a, b, LAWS[name], method='sample', n=n, seed=n)
        low, high = got.interval(.9999)
        assert low - 1e-12 <= want <= high + 1e-12 and not got.exact
        errors.append(got.stderr)
    assert errors[1] < .5*errors[0]


def test_the_weights_are_a_density_ratio_and_bounded():
    tau, g = widths(5, 16), torch.Generator().manual_seed(0)
    z = torch.randn(400_000, 5, generator=g, dtype=torch.float64)*tau[torch.randint(4, (400_000, 1), generator=g)]
    w, r2 = weights(z, tau), (z**2).sum(1)
    for values, want in ((w, 1), (w*r2, 5), (w*r2**2, 35), (w*r2**4, 5*7*9*11)): assert abs(values.mean() - want) < 5*values.std()/len(w)**.5
    assert w.max() <= len(tau) + 1e-9 and tau[0] == 1 and (tau[1:] > tau[:-1]).all()


def test_control_forgotten_weights_are_wrong():
    a, _ = pair()
    x, w = spread_draws(Gaussian(), 200_000, 4, degree=4, gen=torch.Generator().manual_seed(0))
    with torch.no_grad(): power = (a(x)**2).sum(1)
    truth = ts.inner(a, a).value
    assert abs((w*power).mean() - truth) < 5*(w*power).std()/len(x)**.5 and power.mean() > 1.2*truth


def test_sequences_of_positions():
    "A model that acts on each position alone, read as a model of sequences: the inner product is n_ctx times that of one."
    class Positions(Model):
        n_ctx = 3
    a, b = pair(2)
    fa, fb = (Positions(*m) for m in (a, b))
    for law in (Gaussian([.5, 0.]), Tokens([.3, .7]), Tokens([[.3, .7], [1., 0.], [.5, .5]])):
        want = sum(ts.inner(a, b, law.at(p), method='quadrature').value for p in range(3))
        assert ts.inner(fa, fb, law, method='quadrature').value == pytest.approx(want, rel=1e-9)
        got = ts.inner(fa, fb, law, method='sample', n=30_000)
        assert abs(got.value - want) < 4.5*got.stderr


def test_rows_of_sequences():
    "Whole sequences are read whole; rows of single inputs are drawn apart at every position."
    from tensorsim_nb.models import transformer
    torch.manual_seed(0)
    a, b = (transformer(3, 4, 2, 2, n_layer=2).double() for _ in 'ab')
    data = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        want = float((a(data)*b(data)).flatten(1).sum(1).mean())
        rows = data[:6, 0]
        both = torch.stack([torch.stack([p, q]) for p in rows for q in rows])
        apart = float((a(both)*b(both)).flatten(1).sum(1).mean())
    for method in ('auto', 'exact', 'quadrature'): assert ts.inner(a, b, Empirical(data), method=method).value == pytest.approx(want, rel=1e-10)
    assert ts.inner(a, b, Empirical(rows), method='exact').value == pytest.approx(apart, rel=1e-10)
    got = ts.inner(a, b, Empirical(rows), method='sample')
    assert abs(got.value - apart) < 4.5*got.stderr and '32,768' in got.note
    for law in (Mixture([Gaussian(), Gaussian(cov=[2.]*3)]), Empirical(data[:, :1])):
        with pytest.raises((NotImplementedError, ValueError), match='positions|position apart'): ts.inner(a, b, law, method='closure')


def test_rows_of_data_are_read_once():
    a, b = pair()
    data = torch.randn(700, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = ts.inner(a, b, Empirical(data))
    v = (a(data)*b(data)).sum(1).detach()
    assert got.method == 'sample' and got.value == pytest.approx(float(v.mean()), rel=1e-12)
    assert got.stderr == pytest.approx(float(v.std()/700**.5), rel=1e-10)
    assert '100 draws' in ts.inner(a, b, Empirical(data), n=100, method='sample').note


def test_rel_tol_stops_and_says_when_it_could_not():
    a, b = pair()
    got = ts.norm(a, method='sample', rel_tol=.02)
    assert got.stderr <= .02*got.value and 'not reached' not in got.note
    assert 'not reached' in ts.norm(a, method='sample', rel_tol=1e-6, max_n=20_000).note


def test_heavy_tails_are_announced():
    torch.manual_seed(0)
    wild = ts.deep_mlp(4, 4, 8, 2, 4).double()
    assert 'heavy tails' in ts.norm(wild, method='sample', n=4096).note
    assert 'heavy tails' not in ts.norm(ts.classifier(4, 8, 2), method='sample', n=4096).note


def test_seeds_and_global_state():
    a, b = pair()
    before = torch.random.get_rng_state()
    x, y, z = (ts.inner(a, b, method='sample', n=2000, seed=s).value for s in (1, 1, 2))
    assert x == y != z and torch.equal(before, torch.random.get_rng_state())


def test_huge_weights_do_not_overflow():
    a, b = pair()
    with torch.no_grad():
        for p in a[-1].parameters(): p *= 1e150
        for p in b[-1].parameters(): p *= 1e150
    assert abs(ts.similarity(a, b, method='sample').value) <= 1


@pytest.mark.parametrize('options,words', [(dict(n=1), 'two draws'), (dict(n=10, rel_tol=.1), 'both'), (dict(rel_tol=-1.), 'positive'), (dict(draw=3), 'draw')])
def test_refusals(options, words):
    with pytest.raises((ValueError, TypeError), match=words): ts.inner(*pair(), method='sample', **options)
