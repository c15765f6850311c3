"""A run that was killed, wherever it was killed, continues to the same bits; folders of others are left alone."""
import importlib, json, os, signal, subprocess, sys, time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import tensorsim_nb as ts
from conftest import ROOT
from tensorsim_nb.data import Dataset, Poisoning, digits
from tensorsim_nb.train import TrainConfig, checkpoints, read_curves, seeded, train

module = importlib.import_module('tensorsim_nb.train')     # the module: ts.train is the function
CONFIG = TrainConfig(steps=60, every=20, batch_size=64)


@pytest.fixture(scope='module')
def data(): return digits()


def start(seed=0): return seeded(lambda: ts.classifier(64, 8, 10), seed)


def go(data, folder, config=CONFIG, model=None, **kw):
    return train(model or start(), data[0], config, folder, test=data[1], quiet=True,
                 **(dict(change=Poisoning(start=30)) | kw))


def files(run):
    "Everything that a run leaves, without the order of header entries."
    tensors = {p.name: load_file(p) for p in run.run_dir.glob('*.safetensors')}
    return tensors, {p.name: p.read_bytes() for p in run.run_dir.iterdir() if p.name not in tensors}


def same(a, b):
    (ta, oa), (tb, ob) = files(a), files(b)
    assert oa == ob and ta.keys() == tb.keys()
    for name in ta:
        assert ta[name].keys() == tb[name].keys()
        for k in ta[name]: assert torch.equal(ta[name][k], tb[name][k]), (name, k)


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory): return go(data, tmp_path_factory.mktemp('whole'))


def test_what_a_run_leaves(whole):
    assert [s for s, _ in checkpoints(whole.run_dir)] == [0, 20, 40, 60]
    assert {p.name for p in whole.run_dir.iterdir()} == {'config.json', 'curves.csv', 'state.safetensors',
                                                         *(p.name for _, p in whole.checkpoints)}
    for step, path in whole.checkpoints: assert ts.models.info(path)['step'] == str(step)
    c = read_curves(whole.run_dir)
    assert list(c.columns) == ['step', 'quantity', 'value'] and c.value.notna().all()
    assert c.groupby('quantity').step.apply(list).to_dict() == {
        'test_accuracy': [0, 20, 40, 60], 'test_loss': [0, 20, 40, 60], 'train_loss': [20, 40, 60]}


class Killed(BaseException): pass


@pytest.mark.parametrize('write', ['save', '_write_rows', '_save_state'])
@pytest.mark.parametrize('count', [1, 2, 3])
@pytest.mark.parametrize('before', [True, False])
def test_killed_around_any_write(data, tmp_path, monkeypatch, whole, write, count, before):
    "Die just before or just after the count-th write of each kind; then call again."
    real, calls = getattr(module, write), []
    def deadly(*args, **kw):
        calls.append(0)
        if len(calls) == count and before: raise Killed
        real(*args, **kw)
        if len(calls) == count: raise Killed
    with monkeypatch.context() as m:
        m.setattr(module, write, deadly)
        with pytest.raises(Killed): go(data, tmp_path)
    same(go(data, tmp_path), whole)


def test_killed_by_the_system_half_way(data, tmp_path):
    "SIGKILL: no clean-up runs in the killed process."
    config = TrainConfig(steps=40_000, every=20, batch_size=64)
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import tensorsim_nb as ts
from tensorsim_nb.data import Poisoning, digits
from tensorsim_nb.train import TrainConfig, seeded, train
a, b = digits()
train(seeded(lambda: ts.classifier(64, 8, 10), 0), a, {config!r}, {str(tmp_path/'run')!r}, test=b, quiet=True,
      change=Poisoning(start=30))"""
    child = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path/'run'/'step_000100.safetensors').exists():
        assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
        time.sleep(.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(); child.stderr.close()
    # go on to the next two checkpoints in this process, and compare with a run that was never stopped
    got = max(s for s, _ in checkpoints(tmp_path/'run'))
    assert got < config.steps
    until = got + 40
    for name in ('run', 'straight'):
        class Enough(Exception): pass
        def stop(net, folder=tmp_path/name):
            if (folder/f'step_{until:06d}.safetensors').exists(): raise Enough
            return {}
        with pytest.raises(Enough): go(data, tmp_path/name, config, measure=stop)
    a, b = (load_file(tmp_path/name/f'step_{until:06d}.safetensors') for name in ('run', 'straight'))
    assert all(torch.equal(a[k], b[k]) for k in b)


def test_a_finished_run_is_only_read(data, whole):
    before = {p.name: p.stat().st_mtime_ns for p in whole.run_dir.iterdir()}
    again = go(data, whole.run_dir)
    assert {p.name: p.stat().st_mtime_ns for p in whole.run_dir.iterdir()} == before
    same(again, whole)
    assert all(torch.equal(p, q) for p, q in zip(again.model.parameters(), whole.model.parameters()))


def test_poison_changes_nothing_before_it_starts(data, whole, tmp_path):
    clean = go(data, tmp_path, change=None)
    pairs = [(load_file(p), load_file(q)) for (_, p), (_, q) in zip(whole.checkpoints, clean.checkpoints)]
    equal = [all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs]
    assert equal == [True, True, False, False]          # steps 0 and 20 are before 30


def test_the_model_and_the_global_generator_stay_as_they_were(data, tmp_path):
    model = start()
    keep, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    run = go(data, tmp_path, model=model)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), keep)) and run.model is not model
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_are_given_back(data, tmp_path):
    before = torch.get_num_threads()
    go(data, tmp_path)
    assert torch.get_num_threads() == before


def test_float64_models_train_in_float64(data, tmp_path):
    run = go(data, tmp_path, model=start().double())
    assert next(run.model.parameters()).dtype == torch.float64


@pytest.mark.parametrize('what,kw', [
    ('lr', dict(config=replace(CONFIG, lr=.1))), ('seed', dict(config=replace(CONFIG, seed=4))),
    ('steps', dict(config=replace(CONFIG, steps=80))),
    ('change', dict(change=None)), ('change', dict(change=Poisoning(start=31))), ('model_digest',
                                                                                  dict(model=start(1)))])
def test_another_run_is_refused_and_left_alone(data, whole, what, kw):
    before = files(whole)[1]
    with pytest.raises(ValueError, match=f'another.* {what}'): go(data, whole.run_dir, **kw)
    assert files(whole)[1] == before


def test_other_data_are_refused(data, whole):
    train_set = data[0]
    other = Dataset(train_set.x.flip(0), train_set.y.flip(0), 'digits', (8, 8), 'train')
    with pytest.raises(ValueError, match='another data_digest'): go((other, data[1]), whole.run_dir)


def test_folders_of_others_are_left_alone(data, tmp_path):
    (tmp_path/'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='notes.txt and no config.json'): go(data, tmp_path)
    (tmp_path/'config.json').write_text('[1, 2]')
    with pytest.raises(ValueError, match='no JSON object'): go(data, tmp_path)
    (tmp_path/'config.json').write_text(json.dumps(dict(theirs=1)))
    with pytest.raises(ValueError, match='same settings'): go(data, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['config.json', 'notes.txt']


@pytest.mark.parametrize('damage', ['cut', 'foreign', 'gone'])
def test_a_damaged_state_is_refused(data, tmp_path, damage):
    run = go(data, tmp_path)
    path = run.run_dir/'state.safetensors'
    if damage == 'cut': path.write_bytes(path.read_bytes()[:-100])
    if damage == 'foreign': path.write_bytes(run.checkpoints[0][1].read_bytes())
    if damage == 'gone': run.checkpoints[-1][1].unlink()
    with pytest.raises((ValueError, FileNotFoundError), match='train again|which is none'): go(data, tmp_path)


def test_a_diverging_run_says_so_and_keeps_what_was_good(data, tmp_path):
    with pytest.raises(ValueError, match='finite loss.*at step.*learning rate'):
        go(data, tmp_path, replace(CONFIG, lr=1e25))
    assert [s for s, _ in checkpoints(tmp_path)] == [0]


def test_the_progress_bar_can_be_silenced(data, tmp_path, capfd):
    go(data, tmp_path/'a')
    assert capfd.readouterr() == ('', '')
    train(start(), data[0], CONFIG, tmp_path/'b', title='digits')
    assert '60/60' in (err := capfd.readouterr().err) and 'digits' in err


def test_training_switches_gradients_on_by_itself(data, tmp_path):
    "Some libraries, and many notebooks, switch gradients off for the whole process."
    with torch.no_grad(): inside = go(data, tmp_path/'inside')
    same(inside, go(data, tmp_path/'outside'))
