"""Readers of files meet damaged and hostile ones: a clear refusal in one line or a sound object, and nothing is run or written."""
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from fuzz import ONE_LINE, join, split
from readers import MODELS, NAMES, NAMES_OF_READERS, attack, file_of, sound_model, targets
from safetensors.torch import save_file

import tensorsim_nb as ts
from tensorsim_nb.jobs import Store
from tensorsim_nb.models import info, load, read_weights

N = int(os.environ.get('FUZZ', 60)) # inputs of each reader; benchmarks/fuzz.py counts and times them, 100,000 in all


@pytest.fixture(autouse=True)
def quietly(recwarn): pass # what hostile files make numpy and torch warn about


def test_every_reader_is_attacked(tmp_path): assert set(targets(tmp_path)) == set(NAMES_OF_READERS)


@pytest.mark.parametrize('name', NAMES_OF_READERS)
def test_spoilt_files(tmp_path, name):
    refused, read = attack(name, tmp_path, N)
    assert name == 'store note' or refused > 0 # which takes what it cannot read for nothing


def test_control_a_reader_that_trusts_is_caught(tmp_path):
    def trusting(p): # reads a header as if nobody could have touched it
        header, _ = split(p.read_bytes())
        return json.loads(header['__metadata__']['architecture'])[0]['d_in'] + 1
    from types import SimpleNamespace
    good = [file_of(lambda p: ts.save(MODELS[0](), p), tmp_path)]
    with pytest.raises(AssertionError, match='seed'): attack(SimpleNamespace(read=trusting, good=good), tmp_path, 60)


def refused(f, *words):
    with pytest.raises((ValueError, TypeError, OSError)) as e: f()
    assert ONE_LINE.fullmatch(str(e.value)) and all(w in str(e.value) for w in words), str(e.value)


@pytest.fixture
def model(tmp_path):
    "A good model file, and its header and body."
    ts.save(ts.classifier(3, 4, 2), tmp_path/'m')
    return tmp_path/'m', *split((tmp_path/'m').read_bytes())


def test_a_tensor_named_twice_or_declared_huge(model):
    path, header, body = model
    text = json.dumps(header)
    one = json.dumps({'1.weight': header['1.weight']})[1:-1]
    for bad in (text[:-1] + ', ' + one.replace('"F32"', '"I32"') + '}', text[:-1] + ', "1.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
                text.replace('[2, 4]', '[2, 4000000000000]'), text.replace('[2, 4]', '[0, 4]'), text.replace('[2, 4]', '[18446744073709551615, 4]')):
        assert bad != text
        path.write_bytes(struct.pack('<Q', len(bad)) + bad.encode() + body)
        refused(lambda: load(path))
    path.write_bytes(struct.pack('<Q', 2**40) + b'{' + b' '*1000) # a header longer than the file
    for read in (load, info, ts.Gram.load): refused(lambda: read(path))


@pytest.mark.parametrize('change', (dict(d_in=[3]), dict(d_in=10**9), dict(d_in=3.5), dict(d_in=True), dict(bias='no'), dict(residual='nan'), dict(type='__class__'), dict(extra=1)))
def test_other_architectures(model, change):
    path, header, body = model
    spec = json.loads(header['__metadata__']['architecture'])
    spec[0].update(change)
    header['__metadata__']['architecture'] = json.dumps(spec)
    path.write_bytes(join(header, body))
    refused(lambda: load(path), 'm')
    refused(lambda: ts.gram([path], progress=False))


def test_a_key_that_comes_twice(model):
    path, header, body = model
    header['__metadata__']['architecture'] = header['__metadata__']['architecture'].replace('"d_in": 3', '"d_in": 3, "d_in": 3', 1)
    path.write_bytes(join(header, body))
    refused(lambda: load(path), 'twice')
    refused(lambda: info(path))


def test_kinds_of_numbers_that_no_layer_computes_with(model, tmp_path):
    path, header, _ = model
    state, meta = {k: v.detach() for k, v in load(path).state_dict().items()}, header['__metadata__']
    for k, v, words in (('1.weight', state['1.weight'].half(), 'one kind'), ('1.weight', state['1.weight'].int(), 'floating'),
                        ('1.weight', state['1.weight'].to(torch.float8_e4m3fn), 'floating'), ('1.weight', state['1.weight']*float('nan'), 'finite')):
        save_file({**state, k: v}, path, metadata=meta)
        refused(lambda: load(path), words)
        save_file({NAMES[a]: b for a, b in {**state, k: v}.items()}, path)
        refused(lambda: load(path, NAMES))
    mixed = ts.classifier(3, 4, 2)
    mixed[1].double()
    refused(lambda: ts.save(mixed, tmp_path/'mixed'), 'one kind')
    assert not (tmp_path/'mixed').exists()


@pytest.mark.parametrize('tensor', (lambda: torch.ones(1, 1).expand(10**6, 10**6), lambda: torch.eye(3).to_sparse(), lambda: torch.quantize_per_tensor(torch.ones(2, 2), 1., 0, torch.qint8),
                                    lambda: torch.ones(2, 2, device='meta'), lambda: torch.zeros(0, 3), lambda: torch.ones(2, 2, dtype=torch.complex64)))
def test_tensors_that_are_not_what_they_seem(tmp_path, tensor):
    torch.save({'w': tensor()}, tmp_path/'m.pt') # the first declares a terabyte in a kilobyte
    refused(lambda: load(tmp_path/'m.pt', {'0.weight': 'w'}))


def test_a_program_in_a_pt_file_is_not_loaded(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path/'m.pt')
    refused(lambda: read_weights(tmp_path/'m.pt'), 'weights_only')


class Payload:
    "A pickle that would leave a file behind."
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('name', ('m.safetensors', 'm.pt', 'm.bin', 'm'))
@pytest.mark.parametrize('dump', (lambda x, p: p.write_bytes(pickle.dumps(x)), lambda x, p: torch.save(x, p)))
def test_pickles_are_not_run(tmp_path, name, dump):
    dump({'0.weight': Payload(tmp_path/'run')}, tmp_path/name)
    for read in (ts.load, info, ts.Gram.load, ts.gram):
        with pytest.raises((ValueError, TypeError, FileNotFoundError)): read(tmp_path/name)
    assert not (tmp_path/'run').exists()


def test_links_that_others_planted(tmp_path):
    "What a writer finds at its place is replaced, never followed; what a store finds is checked."
    theirs = tmp_path/'theirs'
    theirs.write_text('theirs')
    for name, write in (('m', lambda p: ts.save(ts.classifier(2, 2, 2), p)), ('g', ts.gram([ts.classifier(2, 2, 2)], progress=False).save)):
        (tmp_path/name).symlink_to(theirs)
        write(tmp_path/name)
        assert theirs.read_text() == 'theirs' and not (tmp_path/name).is_symlink()
    store = Store(tmp_path/'store')
    store.file('key').symlink_to(theirs)
    assert 'key' in store and store.get('key') is None
    store.put('key', dict(x=np.ones(2)))
    assert theirs.read_text() == 'theirs' and (store.get('key')['x'] == 1).all()
    (tmp_path/'linked').symlink_to(store.path)
    assert Store(tmp_path/'linked').get('key') is not None # a link that the user made is followed


def test_what_is_no_plain_file(tmp_path):
    os.mkfifo(tmp_path/'pipe.safetensors') # reading it would wait for ever
    (tmp_path/'folder.safetensors').mkdir()
    from tensorsim_nb.cli import read_law, read_mapping
    for p in (tmp_path/'pipe.safetensors', tmp_path/'folder.safetensors', tmp_path/'none'):
        for read in (load, info, read_weights, ts.Gram.load, lambda p: read_law(str(p)), lambda p: read_mapping(str(p))): refused(lambda: read(p))


def test_names_that_climb_and_links(tmp_path):
    (tmp_path/'inside').mkdir()
    ts.save(ts.classifier(2, 2, 2), tmp_path/'real.safetensors')
    os.symlink(tmp_path/'real.safetensors', tmp_path/'inside'/'link.safetensors')
    os.symlink(tmp_path/'nowhere', tmp_path/'inside'/'dangling.safetensors')
    assert ts.load(tmp_path/'inside'/'link.safetensors').d_in == 2 # a link that a user made is followed
    with pytest.raises(FileNotFoundError): ts.load(tmp_path/'inside'/'dangling.safetensors')
    with pytest.raises(ValueError, match='other shapes'): # a tensor's name is a key, never a path
        from safetensors.torch import safe_open, save_file
        with safe_open(tmp_path/'real.safetensors', 'pt') as f: meta, state = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
        save_file({'../../evil': state.pop('1.weight'), **state}, tmp_path/'climb', metadata=meta)
        ts.load(tmp_path/'climb')
    assert not (tmp_path.parent/'evil').exists()
