"Slices of outputs and inputs: breadth over shapes, dtypes and kinds of model."
import copy, warnings

import numpy as np
import pytest
import torch

from tensorsim_nb.core import generator
from tensorsim_nb.laws import Gaussian
from tensorsim_nb.layers import BilinearMLP, Linear
from tensorsim_nb.models import Model, classifier, deep_mlp, load, parts, save, transformer
from tensorsim_nb.similarity import inner, norm
from tensorsim_nb.slices import (FoldedLinear, HeldPositions, patch, project_inputs, slice_heads,
                                 slice_hidden, slice_inputs,
                                 slice_outputs, slice_path, slice_positions)

DTYPES = [torch.float32, torch.float64]
MODELS = {
    'classifier': lambda: classifier(6, 5, 4),
    'deep, biased': lambda: deep_mlp(6, 5, 7, 4, n_layer=2, bias=True, residual=.5),
    'one linear': lambda: Model(Linear(6, 4, bias=True)),
    'no trailing linear': lambda: Model(BilinearMLP(6, 5, 4, bias=True)),
    'sum': lambda: classifier(6, 5, 4) - 2*deep_mlp(6, 3, 2, 4, n_layer=1, bias=True),
}

def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5 if a.dtype == torch.float32 else 1e-12,
                               atol=1e-6 if a.dtype == torch.float32 else 1e-13)

@pytest.fixture(params=MODELS, ids=str)
def make(request): return MODELS[request.param]

@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_outputs(make, dtype):
    torch.manual_seed(0)
    model = make().to(dtype)
    x, d = torch.randn(8, 6, dtype=dtype), torch.randn(3, 4, dtype=dtype)
    y = model(x)
    for which, want in [(2, y[:, [2]]), (-1, y[:, [3]]), ([3, 0, 3], y[:, [3, 0, 3]]),
                        (slice(None, None, 2), y[:, ::2]),
                        (range(1, 3), y[:, 1:3]), ((1,), y[:, [1]]), (np.int64(1), y[:, [1]]),
                        (np.array([1, 2]), y[:, 1:3]),
                        (torch.tensor(2), y[:, [2]]), (torch.tensor([2, 0]), y[:, [2, 0]]),
                        (d[0], y @ d[:1].T), (d, y @ d.T), (d.numpy(), y @ d.T), (d.tolist(), y @ d.T),
                        (d[0].tolist(), y @ d[:1].T),
                        ([0, 0, 1.5, 0], 1.5*y[:, [2]]), (torch.eye(4, dtype=torch.int64)[1:], y[:, 1:])]:
        part = slice_outputs(model, which)
        assert part(x).dtype == dtype and part.degree == model.degree
        assert (part.d_in, part.d_out) == (6, want.shape[1])
        close(part(x), want)
        for _, m in parts(part): # what similarity reads agrees with forward
            h = x
            for layer in m: h = sum(t(h) for t in layer.terms())
            close(h, m(x))

@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_inputs(make, dtype):
    torch.manual_seed(0)
    model = make().to(dtype)
    z, basis = torch.randn(8, 3, dtype=dtype), torch.randn(6, 3, dtype=dtype)
    close(project_inputs(model, basis)(z), model(z @ basis.T))
    close(project_inputs(model, basis.numpy())(z), model(z @ basis.T))
    close(project_inputs(model, basis[:, 0])(z[:, :1]), model(z[:, :1] @ basis[:, :1].T))
    both = slice_outputs(project_inputs(model, basis), [1, 2])
    close(both(z), model(z @ basis.T)[:, 1:3])
    close(project_inputs(slice_outputs(model, [1, 2]), basis)(z), both(z))
    twice = project_inputs(project_inputs(model, basis), torch.eye(3, dtype=dtype)[:, :2])
    close(twice(z[:, :2]), model(z[:, :2] @ basis[:, :2].T))

def test_sequence_inputs(make):
    model, x = make(), torch.randn(2, 5, 6)
    close(slice_outputs(model, 1)(x), model(x)[..., [1]])
    close(project_inputs(model, torch.eye(6)[:, :2])(x[..., :2]), model(x[..., :2] @ torch.eye(6)[:2]))

def test_gradients_reach_model_and_direction(make):
    model, x = make(), torch.randn(8, 6)
    direction = torch.randn(4, requires_grad=True)
    slice_outputs(model, direction)(x).square().mean().backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters()}
    want_direction, direction.grad = direction.grad.clone(), None
    model.zero_grad()
    (model(x) @ direction).square().mean().backward()
    for n, p in model.named_parameters(): close(got[n], p.grad)
    close(want_direction, direction.grad)
    model.zero_grad()
    project_inputs(model, torch.eye(6)[:, :2])(x[:, :2]).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())

def test_view_follows_training(make):
    model, x = make(), torch.randn(8, 6)
    part, proj = slice_outputs(model, [3, 1]), project_inputs(model, torch.eye(6)[:, :2])
    model(x).square().mean().backward()
    with torch.no_grad():
        for p in model.parameters(): p -= .5*p.grad
    close(part(x), model(x)[:, [3, 1]])
    close(proj(x[:, :2]), model(x[:, :2] @ torch.eye(6)[:2]))

def test_views_do_not_nest():
    part = Model(Linear(6, 4))
    for _ in range(5): part = slice_outputs(part, [1, 0, 2])
    assert type(part[0].base) is Linear and len(part) == 1
    part = project_inputs(part, torch.eye(6)[:, :3])
    assert type(part[0].base) is Linear and part[0].weight.shape == (3, 3)

@pytest.mark.parametrize('name', [n for n in MODELS if n != 'sum'])
def test_copy_and_files(name, tmp_path):
    model, x = MODELS[name](), torch.randn(8, 6)
    for part, v in [(slice_outputs(model, [3, 1]), x), (project_inputs(model, torch.eye(6)[:, :2]), x[:, :2]),
                    (slice_outputs(project_inputs(model, torch.eye(6)[:, :2]), 1), x[:, :2])]:
        save(part, tmp_path/'m.safetensors')
        again = load(tmp_path/'m.safetensors')
        assert torch.equal(again(v), part(v))
        twin = copy.deepcopy(part)
        twin.load_state_dict(part.state_dict())
        with torch.no_grad():
            for p in twin.parameters(): p.mul_(3)
        assert torch.equal(again(v), part(v)) # the copy owns its weights

BAD = [(4, ValueError, 'index 4 for 4'), (-5, ValueError, 'index -5'), ([0, 9], ValueError, 'index 9'),
       ([], ValueError, 'at least one'),
       (slice(9, None), ValueError, 'at least one'), (torch.zeros(0), ValueError, r'\(4,\) or \(n, 4\)'),
       (torch.zeros(2, 3, 4), ValueError, 'shape'), (torch.zeros(4, 2), ValueError, 'shape'),
       ([1., 2.], ValueError, 'shape'),
       ([[1., 0.], [1.]], (ValueError, TypeError), 'numbers'),
       (torch.full((4,), float('nan')), ValueError, 'finite'),
       ([0., 0., float('inf'), 0.], ValueError, 'finite'), (True, TypeError, 'index'),
       ([True, False], TypeError, 'index'),
       (np.array([True, False, False, False]), TypeError, 'index'), (1.0, TypeError, 'index'),
       ('1', TypeError, 'index'),
       (None, TypeError, 'index'), (['a'], TypeError, 'numbers|index'), ({'a': 1}, TypeError, 'numbers')]

@pytest.mark.parametrize('which, kind, text', BAD, ids=lambda v: repr(v)[:30])
def test_refusals(make, which, kind, text):
    with pytest.raises(kind, match=text): slice_outputs(make(), which)

@pytest.mark.parametrize('basis, text', [(torch.zeros(3, 6), 'shape'), (torch.zeros(5), 'shape'),
                                         (torch.zeros(6, 0), 'shape'),
                                         (torch.full((6, 1), float('nan')), 'finite'), ('x', 'numbers'),
                                         (None, 'numbers|shape')],
                         ids=lambda v: repr(v)[:20])
def test_basis_refusals(make, basis, text):
    with pytest.raises((ValueError, TypeError), match=text): project_inputs(make(), basis)

def test_foreign_models_refused():
    for f in (slice_outputs, project_inputs):
        with pytest.raises(TypeError, match='ts.Model'): f(torch.nn.Linear(2, 2), torch.ones(2))


# Parts of layers, inputs at rest, positions: what `forward` says and what the terms say are one function.

def told(model, x):
    for layer in model: x = sum(t(x).expand(*x.shape[:-1], layer.d_out) for t in layer.terms())
    return x

@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_inputs_at_rest(make, dtype):
    torch.manual_seed(0)
    model, x, r = make().to(dtype), torch.randn(8, 6, dtype=dtype), torch.randn(6, dtype=dtype)
    held = torch.where(torch.tensor([1, 0, 1, 0, 0, 0], dtype=torch.bool), x, r)
    for which in ([0, 2], torch.tensor([True, False, True, False, False, False]),
                  torch.eye(6)[[2, 0]].to(dtype)):
        close(slice_inputs(model, which, rest=r)(x), model(held))
        close(slice_inputs(model, which)(x), model(torch.where(held == x, x, torch.zeros_like(x))))
    twice = slice_inputs(slice_inputs(model, [0, 2], rest=r), [0, 1],
                         rest=2*r) # the outer rest passes through the inner slice
    close(twice(x),
          model(torch.stack([x[:, 0], r[1].expand(8), 2*r[2].expand(8), *r[3:, None].expand(3, 8)], 1)))

def test_input_slices_in_similarity():
    model, law = classifier(6, 5, 4).double(), Gaussian(torch.rand(6), torch.rand(6) + .1)
    part = slice_inputs(model, [0, 3], rest=law.mean)
    x = law.sample(400_000, 6, seed=1)
    got, want = norm(part, law).value**2, part(x).square().sum(-1).detach()
    assert abs(got - float(want.mean())) < 5*float(want.std())/len(x)**.5

def test_patch(): assert patch(slice(1, 3), slice(-2, None), (4, 5)) == [8, 9, 13, 14]

@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('d_hidden', [None, 5])
def test_parts_of_a_transformer(bias, d_hidden):
    tf = transformer(3, 4, 2, 3, 1, bias=bias, d_hidden=d_hidden).double()
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    for part in (slice_heads(tf, 1, 1), slice_path(tf, 1, 'active'), slice_path(tf, 1, 'residual'),
                 slice_positions(tf, [0, 2]),
                 *([slice_hidden(tf, 2, [0, 3]), slice_path(tf, 2, 'residual')] if d_hidden else [])):
        close(part(x), told(part, x))
    blank = tf(x)
    blank[:, 1] = 0
    close(slice_positions(tf, [0, 2])(x), blank)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # the closure says how far it is to be trusted
        total = norm(tf, method='closure').value**2
        assert abs(sum(norm(slice_positions(tf, p),
                            method='closure').value**2 for p in range(3))/total - 1) < 1e-10

@pytest.mark.parametrize('bias', [False, True])
def test_position_slices_of_attention_are_exact(bias):
    tf = transformer(3, 4, 2, 2, 1, bias=bias, kind='linear').double()
    for p in (0, 1):
        got, want = (norm(slice_positions(tf, p), method=m).value for m in ('closure', 'quadrature'))
        assert abs(got/want - 1) < 1e-10

def test_held_positions_against_quadrature():
    tf = transformer(2, 4, 2, 3, 1, bias=True, kind='linear').double()
    rest = torch.tensor([.3, -1.], dtype=torch.float64)
    law = HeldPositions(Gaussian(torch.tensor([.1, .2])), [0, 2], 2, rest)
    assert (law.sample_sequence(4, 3, 2)[:, 1] == rest).all()
    got, want = (norm(tf, law, method=m).value for m in ('closure', 'quadrature'))
    assert abs(got/want - 1) < 1e-10

def test_block_gram_of_a_partition():
    for model, layer, n in ((classifier(6, 5, 4), 0, 5), (deep_mlp(2, 3, 4, 2, 2), 2, 4)):
        model = model.double()
        halves = [slice_hidden(model, layer, list(u)) for u in (range(2), range(2, n))]
        total = sum(inner(p, q).value for p in halves for q in halves)
        assert abs(total/norm(model).value**2 - 1) < 1e-10
        outputs = sum(norm(slice_outputs(model, o)).value**2 for o in range(model.d_out))
        assert abs(outputs/norm(model).value**2 - 1) < 1e-10

def test_part_refusals(tmp_path):
    tf = transformer(3, 4, 2, 3, 1)
    for f, kind, text in [(lambda: slice_heads(tf, 0, 0), ValueError, r'at \[1\]'),
                          (lambda: slice_heads(tf, 1, 2), ValueError, 'index 2'),
                          (lambda: slice_path(tf, 1, 'no'), ValueError, 'active'),
                          (lambda: slice_positions(tf, 3), ValueError, 'index 3'),
                          (lambda: slice_positions(classifier(2, 2, 2), 0), ValueError, 'sequences'),
                          (lambda: save(slice_heads(tf, 1, 0), tmp_path/'x.safetensors'), NotImplementedError,
                           'whole layers')]:
        with pytest.raises(kind, match=text): f()
