"""Small sharp checks of the maths floors (01, 02, 20, 21), each written because a changed program passed the others."""
import copy, math

import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.similarity import PARTS, Spectrum, nearby_distance, products
from tensorsim_nb.tensors import Scaled, hermite_grid, magnitude, n_nodes, quadrature, shift

f64 = lambda x: torch.tensor(x, dtype=torch.float64)


def test_shift_goes_any_distance():
    x = f64([1.5, -3.])
    assert torch.equal(shift(shift(x, 2500), -2500), f64([math.inf, -math.inf]))
    assert torch.equal(shift(shift(x, 1020), -1020), x) and torch.equal(shift(x, -10**18), 0*x)
    assert magnitude(torch.empty(0)) is None and magnitude(f64([-8., 3.])) == 4


def test_scaled_numbers_add_and_multiply():
    a, b = Scaled(f64(1.5), 2000), Scaled(f64(-1.), 1998)
    assert shift((a + b).mantissa, (a + b).exponent - 1998).item() == 5
    for c in (8., .125, -3., 1.): assert shift((a*c).mantissa, (a*c).exponent - 2000).item() == 1.5*c
    assert (Scaled(f64(0.), 5000) + Scaled(f64(2.), 1)).number('x') == 4 == (Scaled(f64(2.), 1) + Scaled(f64(0.), 5000)).number('x')
    for lost in (Scaled(f64(1.), 1024), Scaled(f64(1.), -1080)):
        with pytest.raises(OverflowError): lost.number('x')
    assert Scaled(f64(0.), 5000).number('x') == 0


@pytest.mark.parametrize('d, degree, size', ((1, 0, 1), (1, 1, 1), (3, 6, 64), (2, 7, 16), (4, 2, 16)))
def test_nodes_are_counted_and_all_handed_out(d, degree, size):
    assert n_nodes(d, degree) == size
    for chunk in (3, 1 << 14):
        parts = list(hermite_grid(d, degree, chunk=chunk))
        assert sum(len(w) for _, w in parts) == size and abs(sum(float(w.sum()) for _, w in parts) - 1) < 1e-12
        assert len({tuple(row) for x, _ in parts for row in x.tolist()}) == size and len(parts) == -(-size//chunk)


def test_quadrature_under_a_law_and_at_its_limit():
    root, mean = f64([[1., 2.], [0., 3.]]), f64([.5, -1.]) # not symmetric, not centred
    first, second = quadrature(lambda x: x, 2, 2, mean=mean, root=root), quadrature(lambda x: x[:, :, None]*x[:, None], 2, 2, mean=mean, root=root, max_nodes=4)
    assert torch.allclose(first, mean, atol=1e-13) and torch.allclose(second, root @ root.T + torch.outer(mean, mean), atol=1e-12)
    with pytest.raises(ValueError, match='at most 3'): quadrature(lambda x: x, 2, 2, max_nodes=3)


def test_rows_of_data_have_a_width_and_a_length():
    with pytest.raises(ValueError, match='width 2'): ts.laws.Empirical(torch.ones(4, 2)).sample(3, 5)
    law = ts.laws.Empirical(torch.arange(24.).reshape(4, 3, 2))
    assert law.sample_sequence(5, 3, 2).shape == (5, 3, 2)
    with pytest.raises(ValueError, match='n_ctx 2'): law.sample_sequence(5, 2, 2)


@pytest.mark.filterwarnings('ignore:A closure needs')
def test_without_skip_paths_all_is_active():
    from tensorsim_nb.moments import propagate
    for law in (ts.Gaussian(), ts.Gaussian(mean=[1., -2., .5])): assert abs(propagate(ts.deep_mlp(3, 4, 5, 2, 2).double(), law).reliability - 1) < 1e-12


def test_precision_asked_of_a_distance_of_unequal_models():
    a, b = ts.classifier(3, 4, 2).double(), 1e-3*ts.classifier(3, 4, 2).double()
    got = [ts.distance(x, y, method='sample', rel_tol=.02, progress=False) for x, y in ((a, b), (b, a))]
    for e in got: assert e.stderr <= .02*e.value and abs(e.value - ts.distance(a, b).value) < 5*e.stderr
    assert got[0].note == got[1].note # the same draws, whichever comes first


@pytest.mark.parametrize('quantity', ('inner', 'norm', 'distance', 'similarity'))
def test_relative_errors_follow_the_chain_rule(quantity):
    "Against gradients that autograd takes of the quantity itself: what `rel_tol` stops at."
    from tensorsim_nb.similarity import _relative_error
    value = dict(inner=lambda v: v[1], norm=lambda v: v[0].sqrt(), distance=lambda v: (v[0] - 2*v[1] + v[2]).sqrt(), similarity=lambda v: v[1]/(v[0]*v[2]).sqrt())[quantity]
    mean, root = f64([3., 1.2, 2.]).requires_grad_(), f64([[1., 0, 0], [.4, .7, 0], [-.3, .5, 1.1]])
    errors, v = root @ root.T, value(mean)
    (slope,) = torch.autograd.grad(v, mean)
    for c in (1., 1e-6): # no scale
        assert _relative_error(quantity)(c*mean.detach(), c*c*errors) == pytest.approx(float((slope @ errors @ slope).sqrt()/abs(v.detach())), rel=1e-12)


def test_relative_errors_of_nothing_are_never_reached():
    from tensorsim_nb.similarity import _relative_error
    errors = torch.eye(3, dtype=torch.float64)
    for quantity, mean in (('inner', [1., 0., 1.]), ('distance', [1., 1., 1.]), ('distance', [1., 1. + 1e-15, 1.])):
        assert 1e200 < _relative_error(quantity)(f64(mean), errors) < math.inf
    for mean in ([0., 0., 1.], [1., 0., 0.]): assert _relative_error('similarity')(f64(mean), errors) == 0


def test_a_poor_closure_warns_and_a_good_one_does_not(recwarn, monkeypatch):
    torch.manual_seed(0)
    def pair(size):
        for m in (found := [ts.deep_mlp(4, 4, 6, 3, 2, residual=1.).double() for _ in range(2)]):
            with torch.no_grad(): m[1].down.weight.mul_(size)
        return found
    ts.similarity(*pair(1e-3), method='closure')
    assert not [w for w in recwarn if 'active share' in str(w.message)]
    poor = pair(10.)
    with pytest.warns(UserWarning, match='active share'): got = ts.similarity(*poor, method='closure')
    import sys
    module = sys.modules['tensorsim_nb.similarity']
    monkeypatch.setattr(module, 'POOR', got.reliability) # poor begins at the bound, in words and in the warning
    assert 'poor' in repr(got)
    with pytest.warns(UserWarning, match='active share'): ts.similarity(*poor, method='closure')
    monkeypatch.setattr(module, 'POOR', got.reliability*1.001)
    ts.similarity(*poor, method='closure')
    assert 'doubtful' in repr(got) and not [w for w in recwarn if 'active share' in str(w.message)]


def test_an_engine_without_parts_refuses():
    from tensorsim_nb.similarity import Engine
    for ask in (lambda e: e.self_part(None), lambda e: e.pair(None, None)):
        with pytest.raises(NotImplementedError): ask(Engine(ts.Gaussian()))


def test_a_batch_of_one_is_still_a_matrix_product():
    from tensorsim_nb.moments import _dot
    x, y = f64([[[1., 2.], [3., 4.]]]), f64([[[5., 6.], [7., 8.]]])
    assert torch.equal(_dot(x, y), x @ y) and torch.equal(_dot(x[..., :1], y[:, :1]), x[..., :1] @ y[:, :1]) and _dot(None, y) is None


@pytest.mark.parametrize('quantity', ('inner', 'norm', 'distance', 'similarity'))
@pytest.mark.parametrize('sizes', ((1., .05), (.05, 1.)), ids=('first larger', 'second larger'))
def test_standard_errors_follow_the_chain_rule(quantity, sizes):
    "The error that is printed, against gradients that autograd takes of the quantity in the three products."
    a, b = (c*ts.classifier(3, 4, 2).double() for c in sizes)
    o = dict(method='sample', n=500, seed=3, progress=False)
    p = products(a, a if quantity == 'norm' else b, **o)
    unit = f64([2.**s.exponent for s in (p.aa, p.ab, p.bb)])
    mean = (torch.stack([s.mantissa for s in (p.aa, p.ab, p.bb)])*unit).requires_grad_()
    value = dict(inner=lambda v: v[1], norm=lambda v: v[0].sqrt(), distance=lambda v: (v[0] - 2*v[1] + v[2]).sqrt(), similarity=lambda v: v[1]/(v[0]*v[2]).sqrt())[quantity](mean)
    (slope,) = torch.autograd.grad(value, mean)
    got = ts.norm(a, **o) if quantity == 'norm' else getattr(ts, quantity)(a, b, **o)
    assert got.value == pytest.approx(value.item(), rel=1e-12)
    assert got.stderr == pytest.approx(float((slope*unit) @ p.errors @ (slope*unit))**.5, rel=1e-9)


@pytest.mark.parametrize('kind', ('coefficients', 'weights'))
def test_what_is_unsure_of_a_distance_scales_with_the_models(kind):
    "Sizes on both sides of a power of two: value and allowance are those of the models, times the factor."
    make = (lambda: ts.classifier(4, 3, 2)) if kind == 'coefficients' else (lambda: ts.deep_mlp(3, 4, 5, 2, 2))
    a = make().double()
    b = copy.deepcopy(a)
    with torch.no_grad():
        for p in b.parameters(): p += 1e-9*torch.randn_like(p)
        if kind == 'weights': # hidden units in another order: differences of weights are large, the functions near
            for w in (b[1].left, b[1].right): w.weight.copy_(w.weight.flip(0))
            b[1].down.weight.copy_(b[1].down.weight.flip(1))
        b[-1].weight.mul_(1 + 4e-9)
    def far(c, order=1):
        pair = [copy.deepcopy(m) for m in (a, b)][::order]
        with torch.no_grad():
            for m in pair: m[-1].weight.mul_(c)
        return ts.distance(*pair)
    one, size = far(1.), math.sqrt(float(ts.norm(a))*float(ts.norm(b)))
    assert not one.exact and one.stderr > 0
    powers = [k*2.**math.ceil(math.log2(size))/size for k in (1, math.sqrt(2))]
    for c in (*powers, powers[0]*.9, 1e3, 1e-5): # at one of the first two, a and b have other powers of two
        for order in (1, -1):
            got = far(c, order)
            assert got.note == one.note and got.value == pytest.approx(c*one.value, rel=1e-5, abs=0)
            assert not got.exact and got.stderr == pytest.approx(c*one.stderr, rel=1e-3, abs=0)


def test_zero_models_are_exactly_no_distance_apart():
    for make in (lambda: ts.classifier(3, 4, 2), lambda: ts.deep_mlp(3, 4, 5, 2, 2)):
        a, b = (make().double() for _ in range(2))
        with torch.no_grad():
            for m in (a, b):
                for q in m.parameters(): q.zero_()
        got = nearby_distance(a, b, ts.Gaussian(), products(a, b), 0.)
        assert got.value == 0 and got.exact and got.stderr == 0 and 'subtracted' in got.note


def test_degrees_of_a_spectrum():
    assert len(PARTS) == 6 and Spectrum(torch.arange(1., 7.)).degrees.tolist() == [1, 2, 7, 5, 6]


@pytest.mark.parametrize('method', ('sample', 'quadrature'))
def test_distance_of_near_sums_subtracts_outputs(method):
    "Sums have no difference of weights; the three products cancel, the outputs do not."
    a, o = ts.deep_mlp(2, 4, 5, 2, 2).double(), dict(n=1000, progress=False) if method == 'sample' else {}
    for size in (1e-6, 1e-9, 0.):
        b = copy.deepcopy(a)
        with torch.no_grad():
            for p in b.parameters(): p += size*torch.randn_like(p)
        want, got = ts.distance(a, b, method=method, **o), ts.distance(a + a, 2*b, method=method, **o) # the first subtracts weights
        assert 'weights subtracted' in want.note and 'outputs subtracted' in got.note
        if size: assert got.value == pytest.approx(2*want.value, rel=1e-5) and got.stderr == pytest.approx(2*want.stderr, rel=1e-4, abs=1e-13)
        else: assert want.value == 0 == want.stderr and got.value <= 3*got.stderr < 1e-12
        assert got.exact == (method == 'quadrature' and got.stderr == 0)
    zero = 0*a
    for x in (zero, a): assert ts.distance(x, x, method='sample', n=100, progress=False).stderr == 0
    assert ts.norm(zero, method='sample', n=100, progress=False).stderr == 0


def test_covariances_are_judged_by_their_own_scale():
    for c in (1e-12, 1., 1e12):
        for bad in (c*f64([[1., 2.], [2., 1.]]), c*f64([1., -1e-3]), c*f64([[-1., 0.], [0., -2.]])):
            with pytest.raises(ValueError, match='no negative eigenvalue'): ts.Gaussian(cov=bad)
        with pytest.raises(ValueError, match='symmetric'): ts.Gaussian(cov=c*f64([[1., 0.], [1e-6, 1.]]))
        assert ts.Gaussian(cov=c*f64([1., -1e-12])).d == 2 # rounding of an empty direction is let be
    with pytest.raises(ValueError, match='square'): ts.Gaussian(cov=torch.ones(2, 3))
    assert ts.Gaussian(cov=torch.zeros(2, 2)).sample(3, 2).abs().max() == 0


def test_a_law_without_a_gift_says_so():
    law = ts.laws.Law()
    for ask in (lambda: law.sample(1, 2), lambda: law.times_cov(None)):
        with pytest.raises(NotImplementedError, match='a Law'): ask()
    for ask in (lambda: law.root(2), lambda: law.n_nodes(2, 2), lambda: law.node(torch.arange(1), 2, 2)):
        with pytest.raises(ValueError, match='a Law'): ask()


def test_a_degenerate_gaussian_is_drawn_in_its_own_directions():
    root = f64([[1.], [2.], [-1.]])
    law = ts.Gaussian(cov=root @ root.T)
    x = law.sample(2000, 3)
    assert law.rank(3) == 1 and torch.allclose(x[:, :1]*f64([1., 2., -1.]), x, atol=1e-12) and abs(float(x[:, 0].var()) - 1) < .15


def test_laws_check_the_width_and_the_rows_of_data():
    for law in (ts.laws.Tokens([.5, .5]), ts.laws.Categorical(2, 3)):
        with pytest.raises(ValueError, match='width'): law.sample(3, 7)
    two = [[1., 2.], [3., 5.]]
    assert ts.Gaussian.fit(torch.tensor(two)).mean.tolist() == [2., 3.5] and ts.laws.Empirical(two).sample(3, 2).shape == (3, 2)
    for make in (ts.Gaussian.fit, ts.laws.Empirical):
        with pytest.raises(ValueError, match='two rows'): make(torch.ones(1, 2))
        with pytest.raises(ValueError, match='Data'): make(torch.tensor([[1., math.nan], [2., 3.], [4., 5.]]))
    x = 100 + torch.rand(9, 2)
    assert torch.equal(ts.Gaussian.fit(x).cov, ts.Gaussian.fit(x.double()).cov) # float32 rows, float64 moments


def test_probabilities_are_made_to_sum_to_one():
    p = f64([.25, .75])*(1 + 5e-7)
    assert torch.allclose(ts.laws.Tokens(p).probs, f64([.25, .75]), rtol=0, atol=1e-15)
    rows = torch.stack([p, f64([.5, .5])*(1 - 3e-7), f64([1., 0.])])
    assert torch.allclose(ts.laws.Tokens(rows).probs, f64([[.25, .75], [.5, .5], [1., 0.]]), rtol=0, atol=1e-15)
    assert ts.laws.Tokens(p).blocks == [2] and ts.laws.Tokens(torch.stack([p, p])).blocks is None


@pytest.mark.parametrize('shape', ((5,), (4, 5), (2, 4, 5)))
def test_covariance_of_one_hot_blocks(shape):
    p, q, W = f64([.2, .8]), f64([.5, .3, .2]), torch.randn(shape, dtype=torch.float64)
    one = lambda p: torch.diag(p) - torch.outer(p, p)
    assert torch.allclose(ts.laws.Categorical(p, q).times_cov(W), W @ torch.block_diag(one(p), one(q)), atol=1e-14)


def test_moments_that_no_distribution_has():
    law = ts.laws.Independent
    fine = lambda *m: law(f64(m)[:, None]).d == 1
    assert fine(0., 1., 0., 1.) and fine(0., 1., 0., 3.) # a fair coin is the edge
    for m in ((1., 1., 1., 1.), (0., 1., 0., .9), (0., 1., .5, 1.2), (0., 1., -.5, 1.2)): # a constant; kurtosis below skewness^2 + 1
        with pytest.raises(ValueError, match='belong to a distribution'): fine(*m)
    for low, high in ((-1., 1.), (2., 5.), (0., .5)):
        x = torch.linspace(low, high, 20001, dtype=torch.float64)
        moments = torch.stack([torch.trapezoid(x**k, x)/(high - low) for k in (1, 2, 3, 4)])
        assert torch.allclose(law.uniform(3, low, high).moments, moments[:, None].expand(4, 3), rtol=1e-7, atol=1e-12)
    x = 1 + torch.rand(50, 2)
    assert torch.allclose(law.fit(x).moments[3], (x.double()**4).mean(0), rtol=1e-14) # float32 rows, float64 moments


def test_dot_and_trace_of_any_shape():
    from tensorsim_nb.moments import _dot, _trace
    x, y = torch.randn(1, 1, 2).double(), torch.randn(1, 2, 2).double()
    assert torch.equal(_dot(x, y), x @ y)
    for shape in ((3, 3), (2, 2), (2, 3, 3), (2, 4, 3, 3), (2, 4, 1, 1)):
        z = torch.randn(shape)
        assert torch.allclose(_trace(z)[..., 0, 0], torch.einsum('...ii->...', z)) and _trace(z).shape == (*shape[:-2], 1, 1)


def test_reliability_is_asked_of_layers_whose_input_is_closed():
    from tensorsim_nb.moments import propagate
    for m in (ts.classifier(3, 4, 2), ts.deep_mlp(3, 4, 5, 2, 1)): assert propagate(m.double()).reliability is None # one nonlinear layer: nothing is closed
    m = ts.deep_mlp(3, 4, 5, 2, 2, residual=1.).double()
    with torch.no_grad(): m[2].down.weight.mul_(100.) # the last nonlinear layer may be as active as it likes
    assert 0 < propagate(m).reliability < .9
    with torch.no_grad():
        for p in m.parameters(): p.zero_()
    assert propagate(ts.deep_mlp(3, 4, 5, 2, 2).double()).reliability == pytest.approx(1) and propagate(m).reliability == 0
    with pytest.raises(ValueError, match='width'): propagate(m, ts.Gaussian(mean=torch.zeros(4)))


class Constant(torch.nn.Module):
    "A layer that does not look at its input."
    def __init__(self, d_in, value):
        super().__init__()
        self.d_in, self.d_out, self.degree, self.value = d_in, len(value), 1, torch.nn.Parameter(value)
    def terms(self): return [ts.layers.Term(self.value[None, :, None])]
    def forward(self, x): return self.value.expand(*x.shape[:-1], -1)


@pytest.mark.parametrize('where', ('first', 'last'))
def test_a_layer_of_constants(where):
    from tensorsim_nb.models import Model
    value, W = f64([1., -2., .5]), f64([[1., 0., 2.], [3., 1., 1.]])
    head = ts.layers.Linear(3, 2).double()
    with torch.no_grad(): head.weight.copy_(W)
    m, power = (Model(Constant(2, value), head), (W @ value).square().sum()) if where == 'first' else (Model(ts.layers.Linear(2, 4).double(), Constant(4, value)), value.square().sum())
    got = ts.norm(m, method='closure').value
    assert got**2 == pytest.approx(power.item(), rel=1e-12)


@pytest.mark.filterwarnings('ignore:A closure needs')
@pytest.mark.parametrize('residual', (0., 1.))
@pytest.mark.parametrize('depths', ((2, 1), (1, 2), (3, 1), (2, 3)))
def test_without_a_mean_is_the_limit_of_a_small_one(depths, residual):
    "Products of odd and even parts vanish: zeros that are never computed, against zeros that are."
    a, b = (ts.deep_mlp(3, 4 + k, 5, 2, k, residual=residual).double() for k in depths)
    small = ts.Gaussian(mean=torch.full((3,), 1e-9))
    for x, y in ((a, b), (a, a)):
        assert ts.inner(x, y, method='closure').value == pytest.approx(ts.inner(x, y, small, method='closure').value, rel=1e-6, abs=1e-14)


@pytest.mark.parametrize('bias', (True, False))
def test_the_tensor_measure_of_affine_models_is_the_expectation(bias):
    from tensorsim_nb.models import Model
    a, b = (Model(ts.layers.Linear(3, 4, bias=bias), ts.layers.Linear(4, 2, bias=True)).double() for _ in range(2))
    law = ts.Gaussian(mean=[1., -2., .5], cov=[1., .5, 2.])
    assert ts.inner(a, b, law, method='tensor').value == pytest.approx(ts.inner(a, b, law, method='exact').value, rel=1e-12)
    plain = Model(ts.layers.Linear(3, 4), ts.layers.Linear(4, 2)).double() # nothing but one of the pair asks for constants
    for x, y in ((a, plain), (plain, a)): assert ts.inner(x, y, method='tensor').value == pytest.approx(ts.inner(a, plain, method='exact').value, rel=1e-12)
    longer = Model(*b, ts.layers.Linear(2, 2)).double()
    with torch.no_grad(): longer[2].weight.copy_(torch.eye(2))
    for x, y in ((a, longer), (longer, a)): assert ts.inner(x, y, law, method='tensor').value == pytest.approx(ts.inner(a, b, law, method='tensor').value, rel=1e-12)


def test_what_the_tensor_measure_refuses():
    a, b = (ts.deep_mlp(3, 4, 5, 2, k).double() for k in (1, 2))
    for x, y in ((a, b), (b, a)):
        with pytest.raises(ValueError, match='equally many bilinear'): ts.inner(x, y, method='tensor')
    from tensorsim_nb.models import Model
    for m in (ts.transformer(3, 4, 2, 2, 1), Model(Scores(2, 3, 3, 2)), Model(Cubic(3, 2)), Model(Scores(2, 1, 3, 2, times=2))):
        with pytest.raises(NotImplementedError, match='linear and bilinear'): ts.inner(m.double(), m, method='tensor')


def test_a_closure_under_a_mixture_is_doubted_like_its_worst_component():
    from tensorsim_nb.similarity import LayerEngine, MixedEngine
    a, b = (ts.deep_mlp(3, 4, 5, 2, 2, residual=1.).double() for _ in range(2))
    laws = ts.Gaussian(), ts.Gaussian(cov=torch.full((3,), 25.))
    mixed = ts.laws.Mixture(laws)
    with pytest.warns(UserWarning, match='active share'): parts = [ts.similarity(a, b, law, method='closure').reliability for law in laws]
    with pytest.warns(UserWarning, match='active share'): got = ts.similarity(a, b, mixed, method='closure')
    assert got.reliability == max(parts) > min(parts) > 0 and not got.exact
    engine = MixedEngine(LayerEngine, mixed)
    assert engine.how == LayerEngine.how and engine.law is mixed and len(engine.engines) == 2
    m = ts.classifier(3, 4, 2).double()
    assert ts.inner(m, m, mixed, method='closure').reliability is None # one layer: exact in each component


@pytest.mark.parametrize('sizes', ((1e3, 1e-4), (1e-4, 1e3)))
def test_products_of_draws_in_one_unit(sizes):
    from tensorsim_nb.similarity import PairValues
    a, b = (c*ts.classifier(3, 4, 2).double() for c in sizes)
    values, x = PairValues(a, b, dict(dtype=torch.float64, device='cpu')), torch.randn(50, 3).double()
    mean = values(x).mean(0)
    level, errors = values.level(mean, torch.diag(mean**2))
    f, g = a(x), b(x)
    want = torch.stack([(u*v).sum(-1).mean() for u, v in ((f, f), (f, g), (g, g))])
    assert torch.allclose(level/level[0], want/want[0], rtol=1e-10, atol=0) and torch.allclose(errors.diagonal(), level**2, rtol=1e-12, atol=0)
    k = 0 if sizes[0] > 1 else 2
    assert level[k] == mean[k] and level.max() == level[k] # the larger keeps its unit, however large


def test_quadrature_over_rows_of_sequences():
    m = ts.transformer(3, 4, 2, 2, 2).double()
    n_ctx = m.n_ctx or 2
    data = torch.randn(7, n_ctx, 3).double()
    law = ts.laws.Empirical(data)
    assert ts.inner(m, m, law, method='quadrature').value == pytest.approx(m(data).square().flatten(1).sum(1).mean().item(), rel=1e-10)


def test_counted_costs_by_hand():
    "What `plan` shows: three products of a pair (one of them symmetric: 3/4 of four), for hidden units and for memory."
    a, b = ts.classifier(4, 5, 3), ts.classifier(4, 7, 3)
    layer, hermite, blocks, grid = ts.plan(a, b, ts.laws.Tokens([.25]*4)).options[:4]
    assert blocks.flops == (5 + 7)**2*(8*2*4 + 2*3)*3/4 and blocks.memory == 3*8*4*3
    layer, hermite, *_ = ts.plan(a, b).options
    assert layer.flops == (5 + 7)**2*(8*4 + 2*3)*3/4 and layer.memory == 3*8*4**2
    counts = [ts.plan(ts.deep_mlp(d, 4, 5, 3, 2)).options[1].flops for d in (4, 100)]
    assert counts[0] == counts[1] # the embedding has 4 outputs, however wide the input
    assert ts.plan(a).options[0].flops == 5**2*(8*4 + 2*3)*3//4
    from tensorsim_nb.layers import BilinearMLP, Linear
    from tensorsim_nb.models import Model
    counts = [ts.plan(Model(Linear(d, 4), BilinearMLP(4, 5, 9), Linear(9, 3))).options[1].flops for d in (4, 100)]
    assert counts[0] == counts[1]
    from tensorsim_nb.hermite import split_flops
    assert ts.plan(a).options[1].flops == (min(3, 2*4)*2*6*5*5*4 + split_flops(5, 4, 5, 0))*3//4 # no second layer
    assert ts.plan(ts.classifier(4, 5, 30)).options[1].flops == (2*4*2*6*5*5*4 + split_flops(5, 4, 5, 0))*3//4 # outputs beyond twice the inputs cost nothing
    assert ts.plan(ts.deep_mlp(3, 4, 5, 3, 2)).options[1].flops == (3*2*(5*5*5 + 6*5*5*3) + split_flops(5, 3, 5, 5))*3//4
    assert ts.plan(Model(Linear(3, 2)), ts.classifier(3, 4, 2)).options[1].flops == 2*2*6*4*4*3*3//4 # a linear model has nothing to match
    assert grid.memory == 8*4096*4 and all(isinstance(o.flops, int) for o in ts.plan(a).options if not o.refusal) # counts are whole numbers
    draws = ts.plan(a, b).options[-1]
    assert draws.memory == 8*4096*4
    assert draws.flops == 2*(1 << 15)*sum(p.numel() for m in (a, b) for p in m.parameters())


def test_words_and_units_of_a_plan():
    m = ts.transformer(3, 4, 2, 2, 1)
    why = lambda law: {o.how: o.refusal for o in ts.plan(m, m, law).options}
    law = ts.laws.Independent.uniform(3)
    assert f'{law} is not Gaussian' in why(law).values()
    assert 'positions are drawn apart from a mixture' in why(ts.laws.Mixture([ts.Gaussian(), ts.Gaussian(cov=[1., 2., 3.])])).values()
    p = ts.plan(ts.classifier(4, 5, 3))
    frame = p.to_dataframe()
    assert frame.megabytes.tolist() == [o.memory/2**20 for o in p.options] and frame.seconds[0] == p.options[0].flops/2e10
    assert list(frame.applies) == [not o.refusal for o in p.options]


def test_a_budget_that_just_suffices_and_errors_that_are_unknown():
    a, b = ts.classifier(4, 5, 3), ts.classifier(4, 7, 3)
    best = ts.plan(a, b).chosen
    assert best.method == 'exact' and ts.plan(a, b, max_flops=best.flops).chosen == best and ts.plan(a, b, max_flops=best.flops - 1).chosen.method == 'sample'
    from tensorsim_nb.similarity import SPEED
    assert [ts.plan(a, b, max_seconds=k*best.flops/SPEED).chosen.method for k in (1.001, .999)] == ['exact', 'sample']
    m = ts.deep_mlp(3, 4, 5, 2, 3, residual=1.)
    with pytest.raises(ValueError, match='known error'): ts.inner(m, m, method='closure').interval()
    low, high = ts.inner(a, b, method='sample', n=100, progress=False).interval(.5)
    assert high - low == pytest.approx(2*.6744898*ts.inner(a, b, method='sample', n=100, progress=False).stderr, rel=1e-6)


def test_shares_and_cosines_of_a_spectrum():
    a, b = (ts.deep_mlp(3, 4, 5, 2, 2, bias=True).double() for _ in range(2))
    s = ts.spectrum(a, b)
    t = s.to_dataframe()
    assert t.share.sum() == pytest.approx(1) and t.inner.sum() == pytest.approx(float(ts.inner(a, b)), rel=1e-10)
    assert t.aa.sum() == pytest.approx(float(ts.norm(a))**2, rel=1e-10) and t.bb.sum() == pytest.approx(float(ts.norm(b))**2, rel=1e-10)
    assert (t.cosine - t.inner/(t.aa*t.bb)**.5).abs().max() < 1e-12 and (t.share*s.total - t.inner).abs().max() < 1e-12 and t.cosine.abs().max() <= 1 + 1e-12


def test_large_differences_of_coefficients_give_way_to_weights(monkeypatch):
    import sys
    module = sys.modules['tensorsim_nb.similarity']
    a = ts.classifier(4, 3, 2).double()
    b = copy.deepcopy(a)
    with torch.no_grad(): b[-1].weight[0, 0] += 1e-5
    one = ts.distance(a, b)
    assert one.note == 'coefficients subtracted' and one.tensor is None # no graph unless asked
    monkeypatch.setattr(module, 'DENSE', 2*4**2)
    assert ts.distance(a, b).note == one.note
    monkeypatch.setattr(module, 'DENSE', 2*4**2 - 1)
    two = ts.distance(a, b)
    assert two.note == 'weights subtracted' and two.value == pytest.approx(one.value, rel=1e-8)


@pytest.mark.filterwarnings('ignore:A closure needs')
def test_odd_and_even_functions_are_orthogonal():
    from tensorsim_nb.models import Model
    even, odd = ts.deep_mlp(3, 4, 5, 2, 1).double(), Model(ts.layers.Linear(3, 6), ts.layers.Linear(6, 5), ts.layers.Linear(5, 2)).double()
    for x, y in ((even, odd), (odd, even)):
        assert ts.inner(x, y, method='closure').value == 0 == ts.inner(x, y, method='exact').value
        assert abs(ts.inner(x, y, ts.Gaussian(mean=torch.full((3,), 1e-9)), method='closure').value) < 1e-7


def test_shapes_of_a_grid():
    from tensorsim_nb.similarity import grid
    x, w = next(grid(ts.Gaussian(), 2, 2))
    assert x.shape == (4, 2) and w.shape == (4,) and w.sum() == pytest.approx(1)
    x, w = next(grid(ts.Gaussian(), 2, 2, n_ctx=3))
    assert x.shape == (64, 3, 2) and w.shape == (64,) and torch.allclose(torch.einsum('n,nip,njq->ipjq', w, x, x).reshape(6, 6), torch.eye(6).double())
    x, w = next(grid(ts.laws.Empirical(torch.randn(7, 3, 2)), 2, 2, n_ctx=3))
    assert x.shape == (7, 3, 2) and w.tolist() == [1/7]*7


def test_laws_refuse_shapes_that_do_not_fit():
    refused = lambda match: pytest.raises(ValueError, match=match)
    for bad in (dict(mean=torch.zeros(2, 2)), dict(cov=torch.ones(2, 2, 2)), dict(cov=2.)):
        with refused('axes'): ts.Gaussian(**bad)
    factor = torch.ones(3, 1)
    with refused('axes'): ts.laws.LowRank(torch.ones(3), 1.)
    with refused('one width'): ts.laws.LowRank(factor, 1., mean=torch.zeros(1)) # a single number would spread
    for law in (ts.Gaussian(mean=torch.zeros(3)), ts.laws.LowRank(factor, 1.)):
        with refused('width 3'): law.sample(2, 5)
    for bad in (torch.ones(3, 2), torch.ones(5, 2), torch.ones(4), torch.ones(4, 2, 2)):
        with refused('four moments'): ts.laws.Independent(bad)
    two = ts.Gaussian(mean=torch.zeros(3)), ts.Gaussian()
    for weights in ([1.], [.5, .3, .2]):
        with refused('one weight'): ts.laws.Mixture(two, weights)
    for mixed in (ts.laws.Mixture(two), ts.laws.Mixture(two[::-1])):
        assert mixed.d == 3
        with refused('width 3'): mixed.check(4)


def test_a_low_rank_law_places_normals():
    factor, variances, z = f64([[1.], [2.], [-1.]]), f64([.25, 4., 0.]), f64([[1., 2., 3., 4.], [-1., 0., 1., 0.]])
    law = ts.laws.LowRank(factor, variances, mean=[1., 0., 0.])
    assert law.place(z, 3).tolist() == [[3., 8., -1.], [0., 0., 1.]] and law.rank(3) == 4
    thin = ts.laws.LowRank(factor, 0)
    assert thin.place(z[:, :1], 3).tolist() == [[1., 2., -1.], [-1., -2., 1.]] and thin.rank(3) == 1


def test_tokens_of_each_position_have_no_single_mean():
    law = ts.laws.Tokens([[.5, .5], [.2, .8]])
    for ask in (lambda: law.mean, lambda: law.sample(3, 2), lambda: law.times_cov(torch.eye(2))):
        with pytest.raises(ValueError, match='position'): ask()
    assert law.at(1).mean.tolist() == [.2, .8]


def test_independent_coordinates_have_a_diagonal_covariance_and_four_moments():
    law, W = ts.laws.Independent.uniform(3, 0., 6.), torch.randn(2, 3).double()
    assert torch.allclose(law.times_cov(W), 3*W, rtol=1e-12)
    assert law.n_nodes(3, 4) == 27
    with pytest.raises(ValueError, match='degree 5'): law.n_nodes(3, 5)


def test_a_mixture_asks_each_law_for_its_own_nodes():
    law = ts.laws.Mixture([ts.laws.Tokens([.5, .5]), ts.laws.Tokens([.2, .8])], [.75, .25])
    x, w = law.node(torch.arange(4), 2, 2)
    assert x.tolist() == [[1, 0], [0, 1]]*2 and torch.allclose(w, f64([.375, .375, .05, .2]))
    rows = ts.laws.Empirical([[1., 2.], [3., 5.]])
    assert ts.laws.Mixture([rows, rows]).node(torch.tensor([2, 1]), 2, 2)[0].tolist() == [[1, 2], [3, 5]]


def test_rows_of_sequences_are_drawn_whole():
    with pytest.raises(ValueError, match='whole'): ts.laws.Empirical(torch.randn(4, 3, 2)).sample(5, 2)


def test_words_for_an_estimate():
    from tensorsim_nb.similarity import Estimate
    sure, sampled, closed = (Estimate(1.25, e, e == 0, 'm') for e in (0., .5, math.nan))
    assert f'{sampled:.1f}' == '1.2' and f'{sampled}' == repr(sampled) == str(sampled)
    assert '± 0.5' in repr(sampled) and 'unknown' not in repr(sampled) and 'unknown' in repr(closed) and '±' not in repr(closed)
    assert 'exact' in repr(sure) and 'exact' not in repr(sampled) + repr(closed)


def test_a_grid_as_large_as_allowed(monkeypatch):
    import sys
    module, rows = sys.modules['tensorsim_nb.similarity'], []
    class Counted(module.PairValues):
        def __call__(self, x):
            rows.append(len(x))
            return super().__call__(x)
    monkeypatch.setattr(module, 'PairValues', Counted)
    m = ts.classifier(2, 4, 2).double()
    assert ts.inner(m, m, method='quadrature', max_nodes=9).value == pytest.approx(ts.inner(m, m).value, rel=1e-12) # degree 4: three nodes each way
    assert sum(rows) == 9
    with pytest.raises(ValueError, match='at most 8'): ts.inner(m, m, method='quadrature', max_nodes=8)
    ways = [ts.plan(m, max_nodes=k).options[3] for k in (9, 8)]
    assert [o.refusal for o in ways] == ['', 'a grid of 9 nodes'] and [o.how for o in ways] == ['9 nodes', 'every node of a grid']


class Scores(torch.nn.Module):
    "A layer of `heads` powers of a squared length: scores with legs of more than one row."
    def __init__(self, heads, width, d_in, d_out, times=1):
        super().__init__()
        self.d_in, self.d_out, self.degree = d_in, d_out, 2*times
        self.legs, self.out = torch.nn.Parameter(torch.randn(heads, width, d_in).double()), torch.nn.Parameter(torch.randn(heads, d_out, 1).double())
    def terms(self):
        leg = ts.layers.Leg(self.legs)
        return [ts.layers.Term(self.out, None, ((leg, leg),)*(self.degree//2))]
    def forward(self, x): return self.terms()[0](x)


def test_counted_hidden_units_and_positions():
    from tensorsim_nb.models import Model
    from tensorsim_nb.similarity import _hidden
    assert _hidden(Model(Scores(2, 3, 4, 2))) == [6] and _hidden(ts.deep_mlp(3, 4, 5, 2, 2)) == [5, 5]
    m = ts.transformer(3, 4, 2, 2, 2)
    assert ts.plan(m).options[-1].flops == 2*(1 << 15)*sum(p.numel() for p in m.parameters())*m.n_ctx


def line(*w):
    "A linear model of one input."
    from tensorsim_nb.models import Model
    m = Model(ts.layers.Linear(1, len(w))).double()
    with torch.no_grad(): m[0].weight.copy_(f64(w)[:, None])
    return m


@pytest.mark.parametrize('units', (63, 64, 65, 63999, 64000, 64001))
def test_allowance_for_rounding_by_hand(units):
    "Two vectors of length 1 whose squared distance is so many units of rounding, on the nose; 64 of them are the allowance."
    p, tiny = 1 - units*2.**-53, 2.**-26
    q = math.sqrt(1 - p*p)
    for c in (1., 2.**300, -2.**-301):
        a, b = line(c, 0.), line(c*p, c*q)
        for x, y in ((a, b), (b, a)):
            got = ts.distance(x, y, method='tensor')
            assert got.value == pytest.approx(abs(c)*tiny*math.sqrt(units), rel=1e-14, abs=0)
            allowed = 8. if units < 64 else 32/math.sqrt(units) if units < 64000 else 0.
            assert got.stderr == pytest.approx(abs(c)*tiny*allowed, rel=1e-9, abs=0) and got.exact == (units >= 64000) == ('rounding' not in got.note)


def test_allowance_for_rounding_across_a_power_of_two():
    for k in (20, 22, 24):
        a, b = line(1., 1 - 2.**-k), line(1., 1.) # squared lengths just below 2, and 2
        for x, y in ((a, b), (b, a)):
            got, R, D = ts.distance(x, y, method='tensor'), 128*2.**-52, 2.**-k
            assert got.value == D and got.stderr == pytest.approx(R**.5 if D**2 < R else R/(2*D), rel=1e-5, abs=0) and not got.exact


@pytest.mark.parametrize('sizes', ((1., 1.), (math.sqrt(2) - 1e-6, math.sqrt(2) + 1e-6)))
def test_where_subtracting_first_begins(sizes):
    "At a squared distance of 1e-4 of the squared sizes, wherever powers of two lie."
    x, y = sizes
    for share in (.97, 1.03):
        cos = (1 - 1e-4*share)*(x*x + y*y)/(2*x*y)
        a, b = line(x, 0.), line(y*cos, y*math.sqrt(1 - cos**2))
        for p, q in ((a, b), (b, a)): assert ts.distance(p, q).note == ('coefficients subtracted' if share < 1 else '')


def test_a_model_is_no_distance_from_itself_and_the_slope_there_is_finite():
    a = ts.classifier(3, 4, 2).double()
    for method in ('exact', 'tensor'):
        got = ts.distance(a, a, method=method)
        assert (got.value, got.stderr, got.exact, got.note) == (0., 0., True, '')
    got = ts.distance(a, copy.deepcopy(a), method='tensor', grad=True)
    assert got.value == 0 and not got.exact
    got.tensor.backward()
    assert all(torch.equal(p.grad, 0*p) for p in a.parameters())


def test_which_laws_each_way_serves():
    from tensorsim_nb.models import Model
    laws = dict(normal=ts.Gaussian(), mixture=ts.laws.Mixture([ts.Gaussian(), ts.Gaussian(cov=[4., 1., 1.])]), tokens=ts.laws.Tokens([.2, .3, .5]),
                moments=ts.laws.Independent.uniform(3), rows=ts.laws.Empirical(torch.randn(5, 3)))
    served = lambda m, way: [name for name, law in laws.items() if not ts.plan(m, law=law).options[way].refusal]
    by_depth = Model(ts.layers.Linear(3, 2)), ts.classifier(3, 4, 2), *(ts.deep_mlp(3, 4, 5, 2, k) for k in (2, 3))
    normal, blocks = ['normal', 'mixture'], ['tokens', 'moments']
    assert [served(m, 0) for m in by_depth] == [normal + blocks, normal, [], []] # for linear models mean and covariance are enough
    assert [served(m, 1) for m in by_depth] == [normal, normal, normal, []] and [served(m, 2) for m in by_depth] == [blocks, blocks, [], []]
    option = ts.plan(ts.transformer(3, 4, 2, 2, 1)).options[0]
    assert not option.refusal and option.flops == 1e9 # not counted, never too dear


def test_layers_of_higher_degree_go_layer_by_layer():
    from tensorsim_nb.models import Model
    for m, law in ((m, law) for m in (Model(Scores(2, 3, 3, 2, times=2)), Model(Cubic(3, 2))) for law in (ts.Gaussian(), ts.laws.Tokens([.2, .3, .5]))):
        ways = ts.plan(m, law=law).options
        assert type(m[0]).__name__ in ways[1].refusal + ways[2].refusal
        assert ts.inner(m, m, law).value == pytest.approx(ts.inner(m, m, law, method='quadrature').value, rel=1e-12)


def test_a_mixture_costs_its_components():
    a, law = ts.classifier(3, 4, 2), ts.laws.Mixture([ts.Gaussian(), ts.Gaussian(cov=[4., 1., 1.])])
    one, two = (ts.plan(a, law=x).options[1] for x in (ts.Gaussian(), law))
    assert two.flops == 2*one.flops and two.memory == one.memory == 2**28 # one after the other, in chunks


@pytest.mark.parametrize('mean, variance', ((0., 1.), (1., 0.), (1., 1.)))
def test_no_scale_of_the_inputs_spoils_moments(mean, variance):
    "A layer of degree 4: its mean square goes with the eighth power."
    from tensorsim_nb.models import Model
    from tensorsim_nb.moments import propagate
    m = Model(Scores(2, 1, 2, 2, times=2))
    with torch.no_grad(): m[0].legs[..., 1] = 0.
    law = lambda c: ts.Gaussian(mean=[c*mean]*2 if mean else None, cov=[c*c*variance]*2)
    one = propagate(m, law(1.)).power
    assert one.number('x') == pytest.approx(ts.norm(m, law(1.), method='quadrature').value**2, rel=1e-12)
    for k in (500, -500):
        p = propagate(m, law(2.**k)).power
        assert shift(p.mantissa, p.exponent - 8*k).item() == pytest.approx(one.number('x'), rel=1e-12) and isinstance(p.exponent, int)


class Cubic(torch.nn.Module):
    "The input and a cubic of it."
    def __init__(self, d, width):
        super().__init__()
        self.d_in, self.d_out, self.degree = d, d, 3
        self.legs, self.out = torch.nn.Parameter(torch.randn(width, 1, d).double()), torch.nn.Parameter(torch.randn(width, d, 1).double())
    def terms(self):
        leg, eye = ts.layers.Leg(self.legs), torch.eye(self.d_in).double()[None]
        return [ts.layers.Term(eye, ts.layers.Leg(eye)), ts.layers.Term(self.out, leg, ((leg, leg),))]
    def forward(self, x): return sum(t(x) for t in self.terms())


@pytest.mark.parametrize('mean', (None, [.5, -1., .2]))
@pytest.mark.parametrize('make', (lambda: Cubic(3, 2), lambda: ts.layers.BilinearMLP(3, 4, 3, bias=True, residual=.5), lambda: ts.layers.BilinearMLP(3, 4, 3, residual=2.)), ids=('odd', 'biased', 'even'))
def test_the_active_share_is_a_share_of_energy(make, mean):
    "Of the outputs' mean square, by quadrature, before the last nonlinear layer."
    from tensorsim_nb.models import Model
    from tensorsim_nb.moments import propagate
    layer, root = make().double(), f64([[1., .5, 0.], [0., 2., 0.], [0., 0., .3]])
    energy = lambda f: quadrature(lambda x: f(x)**2, 3, 2*layer.degree, mean=None if mean is None else f64(mean), root=root).sum().item()
    bent = lambda x: sum(t(x) for t in layer.terms() if t.scores)
    for m in (Model(layer, ts.layers.BilinearMLP(3, 2, 2)), Model(layer, ts.layers.Linear(3, 2), ts.layers.BilinearMLP(2, 2, 2))):
        assert propagate(m.double(), ts.Gaussian(mean, root @ root.T)).reliability == pytest.approx(energy(bent)/energy(layer), rel=1e-10)


def test_a_pair_is_served_by_what_both_allow():
    a, b = ts.classifier(3, 4, 2).double(), ts.deep_mlp(3, 4, 5, 2, 2).double()
    for x, y in ((a, b), (b, a)):
        got = ts.inner(x, y)
        assert got.exact and 'Hermite' in got.note and got.value == pytest.approx(ts.inner(x, y, method='quadrature').value, rel=1e-10)
    best = ts.plan(a).chosen
    assert [ts.norm(a, max_flops=best.flops - k, n=100, progress=False).method for k in (0, 1)] == ['exact', 'sample']


def test_options_of_other_methods_are_let_be():
    a, b = (ts.deep_mlp(3, 4, 5, 2, 2).double() for _ in range(2))
    every = dict(n=100, seed=1, chunk=50, progress=False, max_nodes=10**6, max_memory=10**9, max_flops=1e15)
    for method, own in (('auto', ()), ('exact', ()), ('quadrature', ()), ('tensor', ()), ('sample', ('n', 'seed', 'chunk', 'progress'))):
        assert ts.inner(a, b, method=method, **every) == ts.inner(a, b, method=method, **{k: every[k] for k in own})


@pytest.mark.filterwarnings('ignore:A closure needs')
def test_what_is_called_exact():
    from tensorsim_nb.models import Model
    linear, one, two = Model(ts.layers.Linear(3, 2)).double(), ts.classifier(3, 4, 2).double(), ts.deep_mlp(3, 4, 5, 2, 2).double()
    mixed = ts.laws.Mixture([ts.Gaussian(), ts.Gaussian(cov=[4., 1., 1.])])
    for a, b, below in ((linear, linear, True), (linear, one, True), (one, one, True), (one, two, False), (two, linear, False)):
        exact = {(x, y): ts.inner(x, y, method='closure').exact for x, y in ((a, b), (b, a))}
        assert set(exact.values()) == {below}
        assert not ts.inner(a, b, method='sample', n=100, progress=False).exact and not ts.inner(a, b, mixed, method='closure').exact
        for method in ('exact', 'quadrature'): assert ts.inner(a, b, method=method).exact


def test_a_warning_names_the_line_that_asked(monkeypatch):
    import inspect, sys
    module, named = sys.modules['tensorsim_nb.similarity'], []
    def warn(text, category=None, stacklevel=1): # frames of type checks in between do not count
        files = [f.filename for f in inspect.stack()[1:] if f.filename in (module.__file__, __file__)]
        named.append(files[stacklevel - 2:stacklevel])
    monkeypatch.setattr(module.warnings, 'warn', warn)
    m = ts.deep_mlp(4, 4, 6, 3, 2).double()
    for f in (ts.similarity, ts.inner, ts.distance): f(m, 2*m, method='closure')
    assert named == [[module.__file__, __file__]]*3


def test_products_are_brought_to_order_one():
    from tensorsim_nb.similarity import Products, _common
    for m, e in ((2.**600, 0), (2.**-601, 0), (3., -300), (.3, 7)):
        (aa, ab, bb), (ea, eb), errors = _common(Products(Scaled(f64(m), e), Scaled(f64(-m), e), Scaled(f64(1.), 0), 'exact', True))
        assert .5 <= aa < 2 and bb == 1 and errors is None and isinstance(ea, int) and isinstance(eb, int)
        assert shift(aa, 2*ea - e) == m and shift(ab, ea + eb - e) == -m


def test_numbers_that_float64_cannot_hold():
    for c in (2.**600, 2.**-600):
        m = line(c)
        assert ts.norm(m).value == c and ts.distance(m, 2*m).value == c and ts.similarity(m, 3*m).value == pytest.approx(1, rel=1e-15)
        with pytest.raises(OverflowError): ts.inner(m, m)
    assert ts.inner(line(2.), line(.5)).value == 1 and ts.norm(line(0.)).value == 0


def test_what_is_unsure_of_a_distance_by_hand():
    "Coefficients are right to 8, weights and outputs to 32 units of rounding; below 1e-8 of the distance that is nothing."
    from tensorsim_nb.models import Model
    def chain(*w): # a product of numbers, whose factors may differ where it does not
        m = Model(*(ts.layers.Linear(1, 1) for _ in w)).double()
        with torch.no_grad():
            for layer, x in zip(m, w): layer.weight.fill_(x)
        return m
    signs = ts.laws.Empirical([[1.], [-1.]]) # not Gaussian: no coefficients
    for k, sure in ((30, False), (22, False), (19, True)):
        d, size = 2.**-k, math.sqrt(2.)
        for x, y in ((line(1.), line(1 + d)), (line(1 + d), line(1.))):
            for way in ({}, dict(max_flops=1e12, n=100, dtype=torch.float64)):
                got = ts.distance(x, y, **way)
                assert got.note == 'coefficients subtracted' and got.value == d and got.exact == sure
                assert got.stderr == pytest.approx(0 if sure else 8*2.**-52*size, rel=1e-5, abs=0)
            single = ts.distance(x.float(), y.float(), dtype=torch.float32)
            x.double(), y.double()
            if k < 23: assert single.stderr == pytest.approx(8*2.**-23*size, rel=1e-5) and not single.exact
        got = ts.distance(chain(1., 1.), chain(2., .5 + d/2), signs, method='quadrature') # half of a weight changed
        assert got.note == 'weights subtracted' and got.value == d and got.exact == sure
        assert got.stderr == pytest.approx(0 if sure else 16*2.**-52*size, rel=1e-5, abs=0)
        got = ts.distance(line(.5) + line(.5), 2*line(.5 + d/2), signs, method='quadrature')
        assert got.note == 'outputs subtracted' and got.value == d and got.exact == sure
        assert got.stderr == pytest.approx(0 if sure else 32*2.**-52*size, rel=1e-5, abs=0)


def test_near_models_of_higher_degree_subtract_weights():
    from tensorsim_nb.models import Model
    a = Model(Cubic(3, 2))
    b = copy.deepcopy(a)
    with torch.no_grad(): b[0].out += 1e-5
    got = ts.distance(a, b)
    assert got.note == 'weights subtracted' and got.value**2 == pytest.approx(quadrature(lambda x: (a(x) - b(x))**2, 3, 6).sum().item(), rel=1e-8)


@pytest.mark.parametrize('k', (0, 1, 2))
@pytest.mark.parametrize('rank', (3, 2, 1, 0))
def test_parts_of_a_spectrum_by_quadrature(k, rank):
    "Constant, linear and trace part of outputs as functions of a standard normal z: E f, E f z and E f (|z|^2 - rank)/2."
    root, mean = torch.randn(3, rank).double(), f64([.5, -1., .2])
    a, b = (ts.deep_mlp(3, 4, 5, 2, k, bias=True).double() for _ in range(2)) if k else (line(1., 2.), line(-1., .5))
    if not k: root, mean, rank = root[:1, :min(rank, 1)], mean[:1], min(rank, 1)
    got = ts.spectrum(a, b, ts.Gaussian(mean, root @ root.T))
    def parts(f):
        e = lambda g: quadrature(lambda z: f(mean + z @ root.T)[:, :, None]*g(z)[:, None], rank, 2**k + 2) if rank else f(mean[None])[0, :, None]*g(torch.zeros(1, 0).double())
        return e(lambda z: torch.ones(len(z), 1).double()), e(lambda z: z), e(lambda z: ((z**2).sum(1, keepdim=True) - rank)/2)
    (c, v, t), (d, w, u) = parts(a), parts(b)
    assert torch.allclose(got.values[:3], torch.stack([(c*d).sum(), (v*w).sum(), 2*(t*u).sum()/max(rank, 1)]), rtol=1e-9, atol=1e-12)
    assert got.total == pytest.approx(ts.inner(a, b, ts.Gaussian(mean, root @ root.T)).value, rel=1e-9)


def test_a_spectrum_is_bilinear_and_a_models_own_by_default():
    a, b = (ts.deep_mlp(3, 4, 5, 2, k).double() for k in (1, 2))
    part = lambda x, y: ts.spectrum(x, y).values
    assert torch.allclose(part(2*a - b, 3*b), 6*part(a, b) - 3*part(b, b), rtol=1e-10, atol=1e-12)
    assert torch.equal(ts.spectrum(a).values, part(a, a)) and torch.equal(ts.spectrum(a).bb, part(a, a))


def test_a_spectrum_refuses():
    m = ts.classifier(3, 4, 2).double()
    with pytest.raises(ValueError, match='width'): ts.spectrum(m, law=ts.Gaussian(mean=torch.zeros(4)))
    with pytest.raises(ValueError, match='same spaces'): ts.spectrum(m, ts.classifier(4, 4, 2).double())
    for c in (2.**600, 2.**-600):
        with pytest.raises(OverflowError): ts.spectrum(line(c))
    assert ts.spectrum(line(1.)).values.tolist() == [0, 1, 0, 0, 0, 0]


def test_zero_and_deep_models_in_the_tensor_measure():
    m = ts.deep_mlp(3, 4, 5, 2, 2).double()
    with torch.no_grad():
        for p in m[1].parameters(): p.zero_()
    assert ts.norm(m, method='tensor').value == 0 == ts.inner(m, ts.deep_mlp(3, 4, 5, 2, 2).double(), method='tensor').value
    deep = ts.deep_mlp(3, 4, 5, 2, 14).double() # sizes square at each layer
    assert ts.similarity(deep, 2*deep, method='tensor').value == pytest.approx(1, rel=1e-12)


def test_why_a_way_is_taken():
    why = lambda *a: ts.plan(*a).why
    a, deep = ts.classifier(3, 4, 2), ts.deep_mlp(60, 4, 5, 2, 3)
    assert 'cheapest exact' in why(a) and 'nothing exact' in why(deep) and 'draws' in why(a, None, ts.laws.Empirical(torch.randn(5, 3)))
    with pytest.raises(ValueError, match='same spaces'): ts.plan(a, ts.classifier(4, 4, 2))
    no_grid = ts.plan(ts.deep_mlp(3, 4, 5, 2, 2), None, ts.laws.Independent.uniform(3)).options[3]
    from tensorsim_nb.similarity import _about
    assert [_about(n) for n in (1200, 1e299, 1e300, 10**400)] == ['1.2e+03', '1e+299', '1e300', '1e400']
    assert no_grid.refusal == '`Independent` knows four moments' and math.isnan(no_grid.flops)


def test_every_way_asks_for_a_law_of_the_models_width():
    m = ts.classifier(3, 4, 2).double()
    for law in (ts.Gaussian(mean=torch.zeros(4)), ts.laws.Tokens([.25]*4), ts.laws.Empirical(torch.randn(5, 4)), ts.laws.Mixture([ts.Gaussian(cov=torch.ones(4)), ts.Gaussian()])):
        for ask in (*(lambda law, way=way: ts.inner(m, m, law, method=way) for way in ('auto', 'exact', 'closure', 'tensor', 'sample', 'quadrature')), lambda law: ts.plan(m, law=law)):
            with pytest.raises(ValueError, match='width 4'): ask(law)


def test_engines_are_made_or_refused():
    from tensorsim_nb.similarity import HermiteEngine, LayerEngine, MixedEngine, make_engine
    one, two, three = ts.classifier(3, 4, 2), *(ts.deep_mlp(3, 4, 5, 2, k) for k in (2, 3))
    mixed, point = ts.laws.Mixture([ts.Gaussian(), ts.Gaussian(cov=[4., 1., 1.])]), ts.Gaussian(mean=[1., 2., 3.], cov=torch.zeros(3))
    assert type(make_engine([one], ts.Gaussian())) is LayerEngine and type(make_engine([two], ts.Gaussian())) is HermiteEngine
    assert type(made := make_engine([one], mixed)) is MixedEngine and type(made.engines[0][1]) is LayerEngine
    for law in (ts.Gaussian(), mixed, point): # grids, even of one node, have no engine
        with pytest.raises(ValueError, match='closed form'): make_engine([three], law)
