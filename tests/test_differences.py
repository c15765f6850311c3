"Differences: triggers, peaks, certificates, truncations, canonical forms, invariances, over many random models."
import copy

import numpy as np
import pytest
import torch

from tensorsim_nb.core import generator
from tensorsim_nb.differences import (argmax_certificate, ball_bound, best_scale, canonical, centred,
                                      check_invariances, compress,
                                      eigenfeatures, linear_cka, moebius, prune, recover_trigger,
                                      steepest_input,
                                      symmetric_cp, tail_bound, truncation_curve)
from tensorsim_nb.laws import Gaussian
from tensorsim_nb.layers import BilinearMLP
from tensorsim_nb.models import Model, classifier, deep_mlp, transformer
from tensorsim_nb.similarity import distance, norm, similarity
from tensorsim_nb.slices import slice_outputs
from tensorsim_nb.telescopes import polynomial
from tensorsim_nb.tensors import to_factors

def moved(a, size, seed=0):
    b, gen = copy.deepcopy(a), generator(seed)
    with torch.no_grad():
        for p in b.parameters(): p += size*p.abs().mean()*torch.randn(p.shape, generator=gen, dtype=p.dtype)
    return b

def test_scale_and_moebius():
    a, b = (deep_mlp(3, 4, 5, 2, 1, bias=True).double() for _ in range(2))
    assert best_scale(-2*a, a).scale == pytest.approx(-2) and best_scale(-2*a, a).left < 1e-7
    c = best_scale(a, b)
    assert c.left == pytest.approx((1 - similarity(a, b).value**2)**.5)
    x = torch.randn(5, 3, dtype=torch.float64)
    ms = [moved(a, .5, seed=i) for i in range(8)]
    signs = [-1, 1, 1, -1, 1, -1, -1, 1]
    assert torch.allclose(moebius(ms)(x), sum(s*m(x) for s, m in zip(signs, ms)))
    with pytest.raises(ValueError, match='2\\*\\*k'): moebius(ms[:3])
    with pytest.raises(ValueError, match='zero'): best_scale(a, 0*a)

def test_eigenfeatures_do_not_see_weights():
    a = classifier(5, 7, 3).double()
    b, f = copy.deepcopy(a), eigenfeatures(a)
    with torch.no_grad():
        order = torch.randperm(7)
        b[0].left.weight.copy_(-2*a[0].right.weight[order]), b[0].right.weight.copy_(a[0].left.weight[order]/2)
        b[0].down.weight.copy_(-a[0].down.weight[:, order])
    g = eigenfeatures(b)
    assert torch.allclose(f.values, g.values) and torch.allclose(f.vectors, g.vectors, atol=1e-8)
    A = torch.einsum('ok,oki,okj->oij', f.values, f.vectors, f.vectors)
    assert torch.allclose(A,
                          polynomial(a).quadratic) and ((1 <= f.effective_rank) & (f.effective_rank <= 5)).all()
    same = eigenfeatures(Model(BilinearMLP(4, 1, 1)).double())
    assert same.effective_rank[0] <= 2 + 1e-9 # a product of two directions has two eigenvalues

def test_truncation_curve_and_compression():
    torch.manual_seed(0)
    m, law = deep_mlp(6, 5, 9, 3, 1, bias=True).double(), Gaussian(torch.rand(6), torch.rand(6) + .2)
    table = truncation_curve(m, [1, 3, 6], law)
    assert (np.diff(table.loss) < 0).all() and table.similarity.iloc[-1] == pytest.approx(1)
    small = compress(m, law, max_loss=1e-3)
    assert small.loss <= 1e-3
    assert small.loss == pytest.approx((distance(m, small.model, law).value/norm(m, law).value)**2)
    pruned = prune(deep_mlp(4, 5, 6, 2, 2, residual=.5), 2, max_loss=.1)
    assert pruned.loss <= .1 and pruned.size <= 6
    with pytest.raises(ValueError, match='max_loss'): compress(m, law, max_loss=-1.)

def test_cp_is_what_it_says():
    torch.manual_seed(0)
    a = classifier(5, 6, 3).double()
    values = []
    for rank in (1, 2, 4):
        fit, value = symmetric_cp(a, rank, starts=2, steps=60)
        assert similarity(a, fit).value == pytest.approx(value, abs=1e-6)
        assert torch.equal(fit[0].left.weight, fit[0].right.weight)
        values.append(value)
    assert values == sorted(values)

@pytest.mark.parametrize('bias', [False, True])
def test_canonical(bias):
    a = deep_mlp(3, 4, 6, 2, 2, bias=bias, residual=.5).double()
    b, order = copy.deepcopy(a), torch.randperm(6)
    with torch.no_grad():
        for layer in (b[1], b[2]):
            c, s = .5 + torch.rand(6, dtype=torch.float64), torch.where(torch.rand(6) < .5, -1., 1.).double()
            for m, k in ((layer.left, c*s), (layer.right, 1/c)):
                m.weight.copy_((k[:, None]*m.weight)[order])
                if bias: m.bias.copy_((k*m.bias)[order])
            layer.down.weight.copy_((layer.down.weight*s)[:, order])
            layer.left, layer.right = layer.right, layer.left
    x = torch.randn(5, 3, dtype=torch.float64)
    assert torch.allclose(canonical(b)(x), a(x))
    for p, q in zip(canonical(a).parameters(), canonical(b).parameters()):
        assert torch.allclose(p, q, atol=1e-12)
    with pytest.raises(NotImplementedError, match='BilinearAttention'): canonical(transformer(2, 4, 2, 2, 1))

def test_peaks():
    torch.manual_seed(0)
    for seed in range(5):
        gap = slice_outputs(classifier(6, 5, 3).double() - classifier(6, 4, 3).double(), seed % 3)
        top = steepest_input(gap, radius=2., seed=seed)
        assert top.value == pytest.approx(4*float(eigenfeatures(gap).values.abs().max()), rel=1e-9)
        assert top.input.norm().item() == pytest.approx(2) and 0 < top.reached <= 1
    deep = deep_mlp(4, 5, 6, 2, 2).double()
    x = torch.randn(20_000, 4, generator=generator(1), dtype=torch.float64)
    with torch.no_grad(): best = float(deep(x/x.norm(dim=1, keepdim=True)).norm(dim=1).max())
    assert steepest_input(deep).value >= best
    assert steepest_input(transformer(3, 4, 2, 2, 1), starts=4, steps=20).input.shape == (2, 3)

def test_ball_bounds_hold():
    for seed in range(8):
        torch.manual_seed(seed)
        a, b = deep_mlp(4, 3, 5, 3, 1, bias=True).double(), deep_mlp(4, 3, 5, 3, 1, bias=True).double()
        got = ball_bound(a, b, radius=1.5, seed=seed)
        assert got.lower <= got.upper and got.input.norm() <= 1.5 + 1e-9
        x = torch.randn(2000, 4, dtype=torch.float64)
        x = 1.5*torch.rand(2000, 1, dtype=torch.float64)*x/x.norm(dim=1, keepdim=True)
        with torch.no_grad(): assert (a(x) - b(x)).norm(dim=1).max() <= got.upper

def test_tail_bound_holds():
    z = torch.randn(200_000, 4, generator=generator(0), dtype=torch.float64)
    w = torch.randn(4, 4, dtype=torch.float64)
    for degree, y in ((1, z[:, 0]), (2, torch.einsum('ni,ij,nj->n', z, w, z)), (4, (z[:, 0]*z[:, 1])**2 - 1)):
        size = float(y.square().mean().sqrt())
        for u in (1.5, 3., 6.):
            assert float((y.abs() >= u*size).double().mean()) <= tail_bound(u*size, size, degree)
    assert tail_bound([0., 1.], 0., 2).tolist() == [1., 0.]

def test_certificates_hold():
    "Sampled changes of the argmax, on other draws, stay below the bound; a control that forgets thin margins fails."
    broken = 0
    for seed in range(20):
        torch.manual_seed(seed)
        make = (lambda: classifier(6, 12, 4)) if seed % 2 else (lambda: deep_mlp(5, 4, 6, 3, 1, bias=True))
        f = make().double()
        g = moved(f, 10**(-1 - 2*torch.rand(1).item()), seed)
        got = argmax_certificate(f, g, n=4000)
        x = torch.randn(20_000, f.d_in, generator=generator(7), dtype=torch.float64)
        with torch.no_grad(): rate = float((f(x).argmax(1) != g(x).argmax(1)).double().mean())
        assert rate <= got.bound and 0 <= got.relative < 1
        size = distance(centred(f), centred(g)).value # control: as if every margin were the median one
        top = f(x).topk(2).values
        median = float((top[:, 0] - top[:, 1]).detach().median())
        broken += rate > tail_bound(median/2**.5, size, f.degree)[0]
    assert broken > 0
    seq = [transformer(3, 4, 2, 2, 1) for _ in range(2)]
    with pytest.raises(NotImplementedError, match='one Gaussian input'): argmax_certificate(*seq)
    with pytest.raises(ValueError, match='exact'): argmax_certificate(f, moved(f, .1), method='sample', n=200)

def shifted(clean, trigger=None, drift=.02, seed=0):
    gen, A = generator(seed), polynomial(clean).quadratic.detach()
    size = A.flatten(1).norm(dim=1)[:, None, None]
    A = A + drift*size*torch.randn(A.shape, generator=gen, dtype=torch.float64)
    if trigger is not None: A[2] += size[2]*torch.outer(trigger, trigger)
    L, R, D = to_factors((A + A.mT)/2)
    mlp = BilinearMLP(A.shape[1], len(L), len(D)).double()
    with torch.no_grad(): mlp.left.weight.copy_(L), mlp.right.weight.copy_(R), mlp.down.weight.copy_(D)
    return Model(mlp)

def test_triggers():
    for seed in range(5):
        torch.manual_seed(seed)
        clean, ink = classifier(16, 12, 6).double(), torch.zeros(16, dtype=torch.float64)
        ink[[3, 7, 8]] = 1
        found = recover_trigger(clean, shifted(clean, ink, seed=seed))
        assert found.target == 2 and 'target 2' in repr(found)
        assert set(found.ranking[:3].tolist()) == {3, 7, 8}
        assert found.stamp(torch.zeros(2, 16))[:, [3, 7, 8]].eq(1).all()
        assert found.direction.norm().item() == pytest.approx(1)
        assert recover_trigger(clean, shifted(clean, seed=seed)).target is None
    assert recover_trigger(clean, clean).target is None
    biased = deep_mlp(6, 5, 7, 4, 1, bias=True)
    assert recover_trigger(biased, moved(biased, .01)).ranking.shape == (6,)

@pytest.mark.parametrize('model', [lambda: classifier(4, 5, 3),
                                   lambda: deep_mlp(3, 4, 5, 2, 2, bias=True, residual=.5),
                                   lambda: transformer(3, 8, 2, 2, 1, bias=True),
                                   lambda: transformer(3, 4, 2, 2, 1, rotary=False),
                                   lambda: transformer(2, 4, 2, 2, 1, kind='linear', d_hidden=3)],
                         ids=['one layer', 'two layers', 'rotary', 'plain positions', 'attention and MLP'])
@pytest.mark.filterwarnings('ignore:A closure needs layers')
def test_invariances(model):
    model = model()
    method = 'closure' if model.n_ctx else 'auto'
    table = check_invariances(model, method=method)
    assert table.passed.all(), table
    held = table['must hold']
    assert (table.outputs[held] < 1e-9).all() and (table.outputs[~held] > 1e-6).all() and (~held).any()
    assert (table['CKA of outputs'][held] > 1 - 1e-9).all() and (table['matrix cosine'][held] < .99).any()

def test_invariance_refusals():
    a = classifier(3, 4, 2)
    for m in (a - a, 2*a):
        with pytest.raises(TypeError, match='plain model'): check_invariances(m)

def test_cka():
    x = torch.randn(50, 4, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert linear_cka(x, 3*x @ q) == pytest.approx(1)
    assert linear_cka(x, torch.randn(50, 4, dtype=torch.float64)) < .5
