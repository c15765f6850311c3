"""Layers and models: terms against forward, the vector space, files that must be refused."""
import itertools
import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tensorsim_nb as ts
from tensorsim_nb.models import FORMAT, Combination, info, load, parts, save

ts_layers = dict(BilinearMLP=ts.BilinearMLP, Linear=ts.Linear)


@pytest.mark.parametrize('bias,residual,shape', list(itertools.product((False, True), (0., -.7), ((5,), (2, 3)))))
def test_terms_add_up_to_forward(bias, residual, shape):
    torch.manual_seed(0)
    for layer in (ts.BilinearMLP(4, 6, bias=bias, residual=residual), ts.Linear(4, 3, bias=bias), ts.Linear(4, 7, bias=bias)):
        layer, x = layer.double(), torch.randn(*shape, 4).double()
        assert torch.allclose(layer(x), sum(t(x) for t in layer.terms()), atol=1e-13)


def test_sizes_and_names():
    m = ts.deep_mlp(6, 4, 8, 3, 2)
    assert (m.d_in, m.d_out, m.degree, m.n_ctx) == (6, 3, 4, None) and m(torch.randn(2, 5, 6)).shape == (2, 5, 3)
    assert isinstance(m[1:3], ts.Model) and m[1:3].degree == 4
    mlp = ts.BilinearMLP(4, 6)
    assert {n for n, _ in mlp.named_children()} == {'left', 'right', 'down'} and mlp.d_out == 4


@pytest.mark.parametrize('layer', (nn.ReLU(), nn.LayerNorm(4), nn.Softmax(-1), nn.Linear(4, 4), 'text'))
def test_foreign_layers_are_refused(layer):
    with pytest.raises(TypeError, match='polynomial layers'): ts.Model(ts.Linear(4, 4), layer)


def test_vector_space():
    a, b, c = (ts.classifier(3, h, 2).double() for h in (2, 3, 4))
    x = torch.randn(5, 3).double()
    combos = {'a - b': a - b, '2*(a + b)/3 - -c': 2*(a + b)/3 - -c, 'a*0.5': a*.5}
    want = {'a - b': a(x) - b(x), '2*(a + b)/3 - -c': 2*(a(x) + b(x))/3 + c(x), 'a*0.5': .5*a(x)}
    for k in combos: assert torch.allclose(combos[k](x), want[k], atol=1e-13), k
    before = a
    a += b
    assert isinstance(a, Combination) and isinstance(before, ts.Model) and len(before) == 2
    assert len(parts(a)) == 2


def test_file_round_trip_keeps_bits(tmp_path):
    for dtype in (torch.float32, torch.float64):
        m = ts.deep_mlp(5, 4, 8, 3, 2, bias=True, residual=.25).to(dtype)
        save(m, tmp_path/'m.safetensors', step=7, note='<b>')
        again = load(tmp_path/'m.safetensors')
        assert all(torch.equal(p, q) for p, q in zip(m.parameters(), again.parameters()))
        assert all(p.requires_grad for p in again.parameters()) and again[1].residual == .25
        assert info(tmp_path/'m.safetensors')['step'] == '7'


def bad_files(folder):
    m = ts.classifier(3, 4, 2)
    save(m, folder/'good')
    good = (folder/'good').read_bytes()
    state = {k: v.detach().clone() for k, v in m.state_dict().items()}
    arch = json.dumps([dict(type=type(layer).__name__, **layer.config()) for layer in m])
    write = lambda name, tensors, **meta: save_file(tensors, folder/name, metadata=meta) or folder/name
    (folder/'pickle').write_bytes(pickle.dumps(state)); yield folder/'pickle', 'never loaded'
    torch.save(state, folder/'zip'); yield folder/'zip', 'never loaded'
    for n in (0, 4, 100, len(good) - 1):
        (folder/f'cut{n}').write_bytes(good[:n]); yield folder/f'cut{n}', 'safetensors'
    (folder/'huge').write_bytes((2**62).to_bytes(8, 'little') + b'{}'); yield folder/'huge', 'safetensors'
    yield write('foreign', state), 'written by `ts.save`'
    yield write('no-arch', state, format=FORMAT), 'header'
    yield write('odd-arch', state, format=FORMAT, architecture='[{"type": "os.system"}]'), 'header'
    yield write('no-json', state, format=FORMAT, architecture='['), 'header'
    yield write('list', state, format=FORMAT, architecture='"text"'), 'header'
    yield write('shape', {**state, '1.weight': torch.ones(2, 5)}, format=FORMAT, architecture=arch), 'other shapes'
    yield write('missing', {k: v for k, v in state.items() if k != '1.weight'}, format=FORMAT, architecture=arch), 'other shapes'
    yield write('nan', {**state, '1.weight': torch.full((2, 4), float('nan'))}, format=FORMAT, architecture=arch), 'finite'


def test_bad_files_are_refused(tmp_path):
    for path, words in bad_files(tmp_path):
        with pytest.raises(ValueError, match=words): load(path)
    with pytest.raises(FileNotFoundError): load(tmp_path/'absent')
    with pytest.raises(FileNotFoundError): load(tmp_path)
    with pytest.raises(ValueError, match='written by'): info(tmp_path/'foreign')


def test_failed_save_leaves_the_old_file(tmp_path):
    m = ts.classifier(3, 4, 2)
    save(m, tmp_path/'m')
    before = (tmp_path/'m').read_bytes()
    with torch.no_grad(): m[1].weight[0, 0] = float('inf')
    with pytest.raises(ValueError, match='finite'): save(m, tmp_path/'m')
    with pytest.raises(FileNotFoundError): save(ts.classifier(3, 4, 2), tmp_path/'none'/'m')
    with pytest.raises(TypeError, match='plain'): save(m - m, tmp_path/'m')
    assert (tmp_path/'m').read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['m']
