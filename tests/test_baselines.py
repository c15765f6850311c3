"""Cosines of weights and outputs against formulas written out here in numpy."""
import numpy as np
import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.baselines import matrix_cosine, matrix_cosines, output_cosine, output_cosines


def models(n=4, **kw): return [ts.deep_mlp(5, 4, 6, 3, 2, bias=True, residual=.5) for _ in range(n)]
def flat(m): return np.concatenate([p.detach().double().numpy().ravel() for p in m.parameters()])
def outputs(m, x): return m(x).detach().double().numpy().reshape(len(x), -1)


def test_matrix_cosines_by_hand():
    ms = models()
    want = [[flat(a) @ flat(b) / np.sqrt((flat(a) @ flat(a)) * (flat(b) @ flat(b))) for b in ms] for a in ms]
    assert np.allclose(matrix_cosines(ms), want, atol=1e-14)
    assert matrix_cosine(ms[0], ms[2]) == pytest.approx(want[0][2], abs=1e-14)
    assert matrix_cosines(ms).dtype == torch.float64


@pytest.mark.parametrize('shape', [(50, 5), (20, 3, 5)])
@pytest.mark.parametrize('pooled', [False, True])
def test_output_cosines_by_hand(pooled, shape):
    ms, x = models(), torch.randn(*shape)
    def one(a, b):
        f, g = outputs(a, x), outputs(b, x)
        if pooled: return (f*g).sum() / np.sqrt((f*f).sum() * (g*g).sum())
        return np.mean([u @ v / np.sqrt((u @ u)*(v @ v)) for u, v in zip(f, g)])
    want = [[one(a, b) for b in ms] for a in ms]
    got = output_cosines(ms, x, pooled=pooled)
    assert np.allclose(got, want, atol=1e-12) and torch.allclose(got, got.T, atol=1e-14)
    assert output_cosine(ms[1], ms[3], x, pooled=pooled) == pytest.approx(want[1][3], abs=1e-12)


def test_scale_does_not_matter_and_sign_does():
    a, = models(1)
    x = torch.randn(30, 5)
    twice, minus = ts.Model(*a), -1*a
    assert output_cosine(a, minus, x) == pytest.approx(-1, abs=1e-12)
    assert output_cosine(3*a, twice, x) == pytest.approx(1, abs=1e-6)


def test_pooled_and_per_sample_are_two_quantities():
    "A strong sample rules the pooled cosine and counts once per sample."
    a, b = ts.Model(ts.Linear(2, 2)), ts.Model(ts.Linear(2, 2))
    with torch.no_grad():
        a[0].weight.copy_(torch.eye(2)); b[0].weight.copy_(torch.tensor([[1., 0], [0, -1]]))
    x = torch.tensor([[100., 0], [0, 1]])
    assert output_cosine(a, b,
                         x) == pytest.approx(0, abs=1e-12) and output_cosine(a, b, x, pooled=True) > .999


def test_refusals():
    a, b = models(2)
    zero = ts.classifier(5, 4, 3)
    for p in zero.parameters(): torch.nn.init.zeros_(p)
    nan = ts.classifier(5, 4, 3)
    with torch.no_grad(): nan[1].weight[0, 0] = float('nan')
    x = torch.randn(6, 5)
    for call, words in [(lambda: matrix_cosine(a, ts.deep_mlp(5, 4, 7, 3, 2)), 'one architecture'),
                        (lambda: matrix_cosine(zero, zero),
                         'zero weight'), (lambda: matrix_cosine(nan, nan), 'finite'),
                        (lambda: output_cosine(a, ts.classifier(5, 4, 2), x), 'same inputs and outputs'),
                        (lambda: output_cosine(a, zero, x),
                         'zero outputs'), (lambda: output_cosine(nan, a, x), 'finite'),
                        (lambda: output_cosine(a, b, x/0),
                         'finite'), (lambda: output_cosines([], x), '0 models')]:
        with pytest.raises(ValueError, match=words): call()
