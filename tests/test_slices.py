"Slices of outputs and inputs: breadth over shapes, dtypes and kinds of model."
import copy

import numpy as np
import pytest
import torch

from tensorsim_nb.core import generator
from tensorsim_nb.layers import BilinearMLP, Linear
from tensorsim_nb.models import Model, classifier, deep_mlp, load, parts, save
from tensorsim_nb.slices import FoldedLinear, project_inputs, slice_outputs

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
