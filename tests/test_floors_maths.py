"""Small sharp checks of the maths floors (01, 02, 20, 21), each written because a changed program passed the others."""
import math

import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.tensors import Scaled, hermite_grid, magnitude, n_nodes, quadrature, shift

f64 = lambda x: torch.tensor(x, dtype=torch.float64)


def test_shift_goes_any_distance():
    x = f64([1.5, -3.])
    assert torch.equal(shift(shift(x, 2500), -2500), f64([math.inf, -math.inf]))
    assert torch.equal(shift(shift(x, 1020), -1020), x) and torch.equal(shift(x, -10**9), 0*x)
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
    assert _relative_error(quantity)(mean.detach(), errors) == pytest.approx(float((slope @ errors @ slope).sqrt()/abs(v.detach())), rel=1e-12)


def test_a_poor_closure_warns_and_a_good_one_does_not(recwarn):
    torch.manual_seed(0)
    def pair(size):
        for m in (found := [ts.deep_mlp(4, 4, 6, 3, 2, residual=1.).double() for _ in range(2)]):
            with torch.no_grad(): m[1].down.weight.mul_(size)
        return found
    ts.similarity(*pair(1e-3), method='closure')
    assert not [w for w in recwarn if 'active share' in str(w.message)]
    with pytest.warns(UserWarning, match='active share'): ts.similarity(*pair(10.), method='closure')


def test_a_batch_of_one_is_still_a_matrix_product():
    from tensorsim_nb.moments import _dot
    x, y = f64([[[1., 2.], [3., 4.]]]), f64([[[5., 6.], [7., 8.]]])
    assert torch.equal(_dot(x, y), x @ y) and torch.equal(_dot(x[..., :1], y[:, :1]), x[..., :1] @ y[:, :1]) and _dot(None, y) is None
