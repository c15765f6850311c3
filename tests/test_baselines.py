"""Every baseline against formulas written out here in numpy, and what each must not see."""
import copy

import numpy as np
import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.alignment import aligned_cosine, balance, circuits
from tensorsim_nb.baselines import (agreement_rate, js_divergence, linear_cka, matrix_cosine, matrix_cosines, output_cosine,
                                    output_cosines, procrustes_similarity, rsa)


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


# ---- activations, logits ------------------------------------------------------------------------

def tables(n=40, p=3, q=5):
    x = np.random.default_rng(0).normal(size=(n, p)) + 2
    return x, np.concatenate([x, np.random.default_rng(1).normal(size=(n, q - p))], 1)


def kernels(x, y): return [(z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y)]


def u_inner(K, L):
    "The unbiased HSIC of Song et al. (2012), Eq. 5, term by term."
    K, L, n, one = K - np.diag(np.diag(K)), L - np.diag(np.diag(L)), len(K), np.ones(len(K))
    return np.trace(K @ L) + (one @ K @ one)*(one @ L @ one)/((n - 1)*(n - 2)) - 2/(n - 2)*(one @ K @ L @ one)


def test_cka_by_kernels():
    x, y = tables()
    K, L = kernels(x, y)
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx((K*L).sum()/np.sqrt((K*K).sum()*(L*L).sum()), abs=1e-12)
    want = u_inner(K, L)/np.sqrt(u_inner(K, K)*u_inner(L, L))
    assert linear_cka(torch.tensor(x), torch.tensor(y), debiased=True) == pytest.approx(want, abs=1e-12)


def test_debiasing_removes_the_bias():
    "Unrelated activations, few samples: plain CKA far above zero, debiased zero on average."
    rng = np.random.default_rng(2)
    pairs = [(torch.tensor(rng.normal(size=(12, 4))), torch.tensor(rng.normal(size=(12, 4)))) for _ in range(300)]
    plain, debiased = ([linear_cka(x, y, debiased=d) for x, y in pairs] for d in (False, True))
    assert np.mean(plain) > .2 and abs(np.mean(debiased)) < 4*np.std(debiased)/300**.5


def test_procrustes_by_optimisation():
    "The best of many rotations, turned by descent on a skew matrix, reaches the singular values."
    x, y = (torch.tensor(z[:, :3]) for z in tables())
    y = y @ torch.tensor([[1., 2, 0], [0, 1, 1], [1, 0, -1]]).double()
    u, v = (z - z.mean(0) for z in (x, y))
    u, v = u/u.norm(), v/v.norm()
    best = -1
    for flip in (1, -1):
        s = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        opt = torch.optim.LBFGS([s], max_iter=500, line_search_fn='strong_wolfe', tolerance_grad=1e-12, tolerance_change=1e-15)
        def loss():
            opt.zero_grad()
            out = -((u*torch.tensor([flip, 1., 1.]).double()) @ torch.matrix_exp(s - s.T)*v).sum()
            out.backward()
            return out
        opt.step(loss)
        best = max(best, -float(loss().detach()))
    assert procrustes_similarity(x, y) == pytest.approx(best, abs=1e-7)


def test_rsa_by_hand():
    x, y = tables(12)
    d = lambda z: [np.linalg.norm(z[i] - z[j]) for i in range(12) for j in range(i + 1, 12)]
    rank = lambda v: np.argsort(np.argsort(v))
    assert rsa(torch.tensor(x), torch.tensor(y)) == pytest.approx(np.corrcoef(rank(d(x)), rank(d(y)))[0, 1], abs=1e-12)


def test_decisions_by_hand():
    x, y = (torch.tensor(z[:, :3]) for z in tables())
    y = y @ torch.tensor([[1., 2, 0], [0, 1, 1], [1, 0, -1]]).double()
    p, q = (np.exp(z)/np.exp(z).sum(1, keepdims=True) for z in (x.numpy(), y.numpy()))
    kl = lambda a, b: (a*np.log(a/b)).sum(1)
    assert js_divergence(x, y) == pytest.approx(np.mean(kl(p, (p+q)/2) + kl(q, (p+q)/2))/2, abs=1e-12)
    assert agreement_rate(x, y) == np.mean(p.argmax(1) == q.argmax(1))
    assert 0 <= js_divergence(x, y) <= np.log(2) and abs(js_divergence(x, x*(1 + 1e-12))) < 1e-12


@pytest.mark.parametrize('f', [linear_cka, lambda x, y: linear_cka(x, y, debiased=True), procrustes_similarity, rsa])
def test_changes_of_coordinates_are_not_seen(f):
    x, y = map(torch.tensor, tables())
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    assert f(x, 3*y @ turn + 7) == pytest.approx(f(x, y), abs=1e-10) and f(y, y @ turn - 1) == pytest.approx(1, abs=1e-10)
    assert f(y, y @ torch.diag(torch.tensor([5., 1, 1, 1, 1]).double())) < .999   # control: stretching one of them is


# ---- units matched ------------------------------------------------------------------------------

def test_matching_beats_every_other_matching_and_is_symmetric():
    for seed in range(5):
        torch.manual_seed(seed)
        a, b = ts.classifier(5, 7, 3), ts.classifier(5, 7, 3)
        s = aligned_cosine(a, b)
        assert s == pytest.approx(aligned_cosine(b, a), abs=1e-12) and 0 < s < 1
        A, B = balance(circuits(a)), balance(circuits(b))
        dot = lambda A, B: float(sum((A[k]*B[k]).sum() for k in A))
        plain = dot(A, B)/(dot(A, A)*dot(B, B))**.5
        assert s >= plain


def test_a_turned_stream_is_not_seen():
    "The circuits do not know the stream: any invertible map between layers, undone by the next, leaves them."
    m = ts.deep_mlp(5, 4, 6, 3, 2, residual=.5).double()
    twin = copy.deepcopy(m)
    T = torch.randn(4, 4, dtype=torch.float64)
    with torch.no_grad():
        for layer in twin[1:3]:
            for side in (layer.left, layer.right): side.weight.copy_(side.weight @ T.inverse())
            layer.down.weight.copy_(T @ layer.down.weight)
        twin[0].weight.copy_(T @ twin[0].weight)
        twin[3].weight.copy_(twin[3].weight @ T.inverse())
    assert matrix_cosine(m, twin) < .9 and aligned_cosine(m, twin) == pytest.approx(1, abs=1e-9)


def test_a_dead_unit_counts_nothing():
    a = ts.classifier(5, 4, 3)
    wide = ts.classifier(5, 6, 3)
    with torch.no_grad():
        for p in wide.parameters(): p.zero_()
        for side in ('left', 'right'): getattr(wide[0], side).weight[:4] = getattr(a[0], side).weight
        wide[0].left.weight[4:] = 9                                # reads, and multiplies nothing
        wide[0].down.weight[:4, :4] = a[0].down.weight
        wide[1].weight[:, :4] = a[1].weight
    assert aligned_cosine(a, wide) == pytest.approx(1, abs=1e-9)
