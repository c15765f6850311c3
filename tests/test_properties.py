"""What must hold for every model and law: drawn stacks against the axioms of an inner product, and against quadrature."""
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from oracle import grid, random_law

import tensorsim_nb as ts
from tensorsim_nb.similarity import products

EVERY = ('tensor', 'closure', 'exact')
fewer = settings(max_examples=max(settings.default.max_examples//3, 1)) # for checks that compare several models at once
sizes, signs = st.integers(1, 8), st.sampled_from((0., -.7, 1.))


def randomise(model, seed, dtype=torch.float64):
    "Every parameter, biases too, drawn at a size that keeps deep models tame."
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters(): p.copy_(torch.randn(p.shape, generator=gen)/math.sqrt(p.shape[-1]))
    return model.to(dtype)


@st.composite
def mlps(draw, d_in=None, d_out=None, depth=st.integers(1, 4), widths=sizes):
    "A stack of bilinear layers and a head."
    d, layers = d_in or draw(widths), []
    for _ in range(draw(depth)):
        residual = draw(signs)
        layers.append(ts.BilinearMLP(d, draw(widths), d if residual else draw(widths), bias=draw(st.booleans()), residual=residual))
        d = layers[-1].d_out
    out = d_out or draw(widths)
    return randomise(ts.Model(*layers, ts.Linear(d, out, bias=draw(st.booleans()))), draw(st.integers(0, 10**6)))


@st.composite
def streams(draw, d=2, n_ctx=2, depth=1, d_out=2):
    "A stack with attention."
    layers = []
    for _ in range(draw(st.integers(1, depth))):
        kind, mask = draw(st.sampled_from(('bilinear', 'quadratic', 'linear'))), draw(st.sampled_from(('causal', 'none', 'diagonal')))
        layers.append(ts.BilinearAttention(d, draw(st.integers(1, 2)), n_ctx, mask=mask, bias=draw(st.booleans()), kind=kind,
                                           residual=draw(signs), scale=.7, rotary=draw(st.booleans()), d_head=2))
        if draw(st.booleans()): layers.append(ts.BilinearMLP(d, draw(st.integers(1, 3)), bias=draw(st.booleans()), residual=draw(signs)))
    return randomise(ts.Model(*layers, ts.Linear(d, d_out)), draw(st.integers(0, 10**6)))


@st.composite
def laws(draw, d):
    "Gaussian laws: standard, shifted, diagonal, dense."
    mean, cov = random_law(d, draw(st.integers(0, 10**6)))
    return draw(st.sampled_from((ts.Gaussian(), ts.Gaussian(mean=mean), ts.Gaussian(cov=cov.diagonal()), ts.Gaussian(mean, cov))))


@st.composite
def several(draw, n, methods=EVERY):
    "n models of the same spaces, a law and a method that serves them."
    method = draw(st.sampled_from((*methods, 'closure of streams')))
    if method == 'closure of streams': return [draw(streams(depth=2)) for _ in range(n)], draw(laws(2)), 'closure'
    d_in, d_out = draw(sizes), draw(sizes)
    depth = dict(exact=st.integers(1, 2), closure=st.integers(1, 4), tensor=st.just(draw(st.integers(1, 4))))[method]
    return [draw(mlps(d_in, d_out, depth)) for _ in range(n)], draw(laws(d_in)), method


def three(a, b, law, method):
    "<f,f>, <f,g>, <g,g> and the size that errors are measured by."
    aa, ab, bb = (float(v.tensor()) for v in (lambda p: (p.aa, p.ab, p.bb))(products(a, b, law, method=method)))
    return aa, ab, bb, math.sqrt(aa*bb)


no_warning = pytest.mark.filterwarnings('ignore:A closure needs') # closures are asked for by name here


@given(several(2))
@no_warning
def test_symmetric_and_within_cauchy_schwarz(case):
    (a, b), law, method = case
    aa, ab, bb, size = three(a, b, law, method)
    assert aa >= 0 and bb >= 0 and abs(ab) <= size*(1 + 1e-9)
    assert abs(ab - three(b, a, law, method)[1]) <= 1e-10*size


@fewer
@given(several(3), st.floats(-3, 3), st.floats(-3, 3))
@no_warning
def test_bilinear(case, s, t):
    (a, b, c), law, method = case
    want = s*three(a, c, law, method)[1] + t*three(b, c, law, method)[1]
    norms = [math.sqrt(three(m, m, law, method)[0]) for m in (a, b, c)]
    assert abs(three(s*a + t*b, c, law, method)[1] - want) <= 1e-9*(abs(s)*norms[0] + abs(t)*norms[1])*norms[2] + 1e-300


@fewer
@given(several(3))
@no_warning
def test_triangle(case):
    (a, b, c), law, method = case
    ab, bc, ac = (ts.distance(p, q, law, method=method) for p, q in ((a, b), (b, c), (a, c)))
    slack = 1e-6*(ab.value + bc.value) + 3*sum(0 if math.isnan(e.stderr) else e.stderr for e in (ab, bc, ac))
    assert ac.value <= ab.value + bc.value + slack


@fewer
@given(several(4))
@no_warning
def test_grams_are_positive(case):
    models, law, method = case
    G = torch.as_tensor(ts.gram(models, law, method=method, progress=False).inner).double()
    scale = G.diagonal().clamp(min=1e-300).sqrt()
    assert torch.linalg.eigvalsh(G/torch.outer(scale, scale))[0] >= -1e-8
    assert torch.allclose(G, G.T, atol=0)


def by_quadrature(a, b, law, n_ctx, d, degree):
    "E[f·g] over independent Gaussian positions, on a plain grid."
    z, w = grid(d*(n_ctx or 1), degree)
    x = law.place(z.reshape(-1, d), d).reshape(len(z), n_ctx, d) if n_ctx else law.place(z, d)
    with torch.no_grad(): return float((w*(a(x)*b(x)).flatten(1).sum(1)).sum())


@given(st.data())
@no_warning
def test_exact_is_exact(data):
    d, out = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    a, b = (data.draw(mlps(d, out, st.integers(1, 2), st.integers(1, 4))) for _ in range(2))
    law, degree = data.draw(laws(d)), a.degree + b.degree
    *_, size = three(a, b, law, 'exact')
    exact, truth = ts.inner(a, b, law, method='exact'), by_quadrature(a, b, law, None, d, degree)
    assert exact.exact and abs(exact.value - truth) <= 1e-10*size
    if max(a.degree, b.degree) > 2: # the control: the closure is a guess
        assert not ts.inner(a, b, law, method='closure').exact


@given(st.data())
@no_warning
def test_one_attention_layer_is_exact(data):
    a, b = (data.draw(streams()) for _ in range(2))
    a, b = (ts.Model(*[m[0], m[-1]]) for m in (a, b)) # attention and head: one layer
    law = data.draw(laws(2))
    *_, size = three(a, b, law, 'closure')
    got = ts.inner(a, b, law, method='closure')
    assert got.exact and abs(got.value - by_quadrature(a, b, law, 2, 2, a.degree + b.degree)) <= 1e-10*size


@fewer
@given(mlps(depth=st.integers(1, 2)), st.integers(0, 10**6))
@no_warning
def test_disguises_of_a_model_are_the_model(model, seed):
    rows = ts.check_invariances(model, seed=seed)
    held = rows[rows['must hold']]
    assert held.passed.all(), held


@fewer
@given(several(2, methods=('closure', 'tensor')))
@no_warning
def test_single_precision(case):
    (a, b), law, method = case
    wide, narrow = (products(a, b, law, method=method, dtype=t) for t in (torch.float64, torch.float32))
    size = math.sqrt(float(wide.aa.tensor())*float(wide.bb.tensor()))
    if a.n_ctx and max(a.degree, b.degree) > 5: return # the closure of two attention layers cancels more
    assert abs(float(wide.ab.tensor()) - float(narrow.ab.tensor())) <= 2e-3*size + 1e-300


def scaled(model, power):
    "Every weight of every layer times 10**power."
    with torch.no_grad():
        for p in model.parameters(): p.mul_(10.**power)
    return model


@pytest.mark.parametrize('power', (-30, -12, 0, 12, 30))
@pytest.mark.parametrize('method', EVERY)
def test_scales(power, method):
    make = lambda s, **kw: randomise(ts.deep_mlp(3, 4, 5, 2, 2, **kw), s)
    a, b = make(0), make(1)
    want = ts.similarity(a, b, method=method).value
    got = ts.similarity(scaled(make(0), power), scaled(make(1), power), method=method).value
    assert abs(got - want) < 1e-12 # without biases every product has one power of the scale


@pytest.mark.parametrize('power', (200, -200))
def test_what_no_float_holds_is_an_error(power):
    a = scaled(randomise(ts.deep_mlp(3, 4, 5, 2, 2), 0), power)
    with pytest.raises((OverflowError, ValueError)): print(ts.inner(a, a, method='tensor'), ts.similarity(a, a).value)


@pytest.mark.parametrize('make', (
    lambda: ts.classifier(1, 1, 1), lambda: ts.classifier(1, 64, 1), lambda: ts.classifier(64, 1, 3),
    lambda: ts.deep_mlp(1, 1, 1, 1, 2), lambda: ts.deep_mlp(2, 1, 3, 1, 3, bias=True, residual=1.),
    lambda: ts.transformer(3, 2, 1, 1, 1), lambda: ts.transformer(3, 2, 1, 2, 2, d_hidden=1, bias=True)))
def test_narrow_and_single(make):
    a, b = (randomise(make(), s) for s in (0, 1))
    aa, ab, bb, size = three(a, b, ts.Gaussian(), 'closure')
    assert aa > 0 and bb > 0 and abs(ab) <= size*(1 + 1e-9) and abs(three(a, a, ts.Gaussian(), 'closure')[1]/aa - 1) < 1e-12


def test_zero_and_rank_deficient_layers():
    a, b = (randomise(ts.deep_mlp(3, 4, 5, 2, 2, bias=True, residual=1.), s) for s in (0, 1))
    with torch.no_grad():
        a[1].left.weight.zero_(), a[1].left.bias.zero_()           # a layer that writes its bias alone
        a[2].down.weight.copy_(a[2].down.weight[:, :1].expand(-1, 5)) # rank one
    exact, truth = ts.inner(a, b, method='exact').value, by_quadrature(a, b, ts.Gaussian(), None, 3, 8)
    assert abs(exact - truth) <= 1e-10*three(a, b, ts.Gaussian(), 'exact')[3]
    with torch.no_grad(): [p.zero_() for p in a.parameters()]
    assert ts.inner(a, b).value == 0 and ts.norm(a).value == 0 and abs(ts.distance(a, b).value/ts.norm(b).value - 1) < 1e-12
    with pytest.raises(ValueError, match='zero'): ts.similarity(a, b)


def test_nearly_equal_models_keep_their_distance():
    a = randomise(ts.deep_mlp(3, 4, 5, 2, 2, bias=True), 0)
    for size in (1e-3, 1e-6, 1e-9):
        b = ts.Model(*ts.deep_mlp(3, 4, 5, 2, 2, bias=True).double())
        b.load_state_dict(a.state_dict())
        with torch.no_grad(): b[-1].weight.mul_(1 + size)
        with torch.no_grad(): b[-1].bias.mul_(1 + size)
        got = ts.distance(a, b)
        assert abs(got.value/(size*ts.norm(a).value) - 1) < 1e-6 + 4e-16/size + 4*got.stderr/(size*ts.norm(a).value)


@pytest.mark.parametrize('value', (float('nan'), float('inf'), -float('inf')))
def test_weights_that_are_no_numbers_are_refused(value):
    a = randomise(ts.classifier(3, 4, 2), 0)
    with torch.no_grad(): a[0].left.weight[0, 0] = value
    for f in (lambda: ts.inner(a, a), lambda: ts.gram([a, a]), lambda: ts.distance(a, randomise(ts.classifier(3, 4, 2), 1))):
        with pytest.raises(ValueError, match='finite'): f()
