"""Modular addition in its smallest form: it is understood late, the phases are found, and every matrix has an oracle."""
import itertools, sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import ROOT
from tensorsim_nb.experiments import load_table
from tensorsim_nb.models import load
from tensorsim_nb.modular_addition import (ModularConfig, agreement, effective_count, frequency_weights, measure_pairs, milestones, modular_addition,
                                           modular_model, modular_pairs, modular_task, one_hot_pairs, pair_logits, phase_table, quick_modular,
                                           segment, segment_costs, split_pairs)
from tensorsim_nb.train import Task, checkpoints, train

CONFIG = quick_modular(p=17, d_hidden=48, train_fraction=.7, steps=1200, batch_size=128, lr=5e-3, n_checkpoints=16, n_phases=3)
COSTS = ('dissimilarity', 'scatter', 'blocks')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('modular')
    return folder, modular_addition(CONFIG, folder, quiet=True)


def test_learnt_by_heart_first_and_understood_later(run):
    reached = milestones(run[1])
    assert reached['train accuracy 1'] < reached['validation accuracy 0.5'] < reached['validation accuracy 0.9'] <= 1200
    assert reached['train accuracy 1'] < 500 and reached['peak height'] > 3
    counts = run[1].curves.query("quantity == 'effective frequencies'").value
    assert counts.iloc[0] > 8.5 and counts.iloc[-1] < counts.iloc[0] - .3         # of 9


def test_control_labels_without_a_rule_are_never_understood(tmp_path):
    "The same network on shuffled sums: learnt by heart, no validation accuracy."
    ids, sums = modular_pairs(17)
    sums = sums[torch.randperm(len(sums), generator=torch.Generator().manual_seed(0))]
    seen, held = split_pairs(CONFIG)
    def draw(n, gen):
        i = seen[torch.randint(len(seen), (n,), generator=gen)]
        return ids[i], sums[i]
    task = Task('shuffled', (ids, sums), draw, lambda net, i, s: cross_entropy(pair_logits(net, i), s))
    net = train(modular_model(CONFIG), task, replace(CONFIG.training, weight_decay=.05), tmp_path, quiet=True).model
    right = (pair_logits(net, ids).argmax(1) == sums).double()
    assert right[seen].mean() > .9 and right[held].mean() < .2


def test_matrices_against_dense_tensors_and_all_inputs(run):
    folder, table = run
    models = [load(p).double() for _, p in checkpoints(folder)]
    x, outputs, forms = one_hot_pairs(17), [], []
    for m in models:
        l, r, d = (getattr(m[0], k).weight.detach() for k in ('left', 'right', 'down'))
        B = torch.einsum('ch,hi,hj->cij', d, l, r)
        forms.append(((B + B.mT)/2).flatten().numpy())
        outputs.append(m(x).detach().numpy())
    def cosines(v):
        v = np.stack([w/np.linalg.norm(w) for w in v])
        return v @ v.T
    assert np.allclose(table.matrices['tensor'], cosines(forms), atol=1e-10)
    assert np.allclose(table.matrices['exact'], cosines([y.ravel() for y in outputs]), atol=1e-10)
    unit = np.stack([y/np.linalg.norm(y, axis=1, keepdims=True) for y in outputs])
    assert np.allclose(table.matrices['output'], np.einsum('isc,jsc->ij', unit, unit)/len(x), atol=1e-10)
    assert agreement(table, 'tensor', 'exact') > .9


def test_a_second_call_reads_and_a_killed_run_goes_on(run, tmp_path):
    folder, table = run
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
    again = modular_addition(CONFIG, folder, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()} == stamps
    assert again.curves.equals(table.curves) and again.boundaries == table.boundaries
    with pytest.raises(ValueError, match='same settings'):
        modular_addition(quick_modular(p=17, seed=3), folder, quiet=True)
    small = quick_modular(p=5, d_hidden=6, steps=60, batch_size=16, n_checkpoints=5, n_phases=2)
    real, calls = measure_pairs, []
    def deadly(*args):
        calls.append(0)
        if len(calls) == 4: raise KeyboardInterrupt
        return real(*args)
    with pytest.MonkeyPatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(sys.modules['tensorsim_nb.modular_addition'], 'measure_pairs', deadly)
        modular_addition(small, tmp_path/'a', quiet=True)
    killed, straight = (modular_addition(small, tmp_path/k, quiet=True) for k in 'ab')
    assert killed.curves.equals(straight.curves)
    assert all(np.array_equal(killed.matrices[k], straight.matrices[k]) for k in straight.matrices)


@pytest.mark.parametrize('cost', COSTS)
@pytest.mark.parametrize('seed', range(4))
def test_segments_against_every_cut(seed, cost):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 10))
    v = rng.normal(size=(n, 3)).cumsum(0)
    m = np.corrcoef(v + .1*rng.normal(size=v.shape))
    def price(starts): # straight from the definitions
        total = 0
        for a, b in zip(starts, [*starts[1:], n]):
            part, size = m[a:b, a:b], b - a
            total += {'dissimilarity': (1 - part).sum(), 'scatter': np.trace(part) - part.sum()/size, 'blocks': ((part - part.mean())**2).sum()}[cost]
        return total
    for k in range(1, n + 1):
        best = min(price([0, *c]) for c in itertools.combinations(range(1, n), k - 1))
        got = segment(m, k, cost=cost)
        assert len(got) == k and got[0] == 0 and got == sorted(set(got))
        assert price(got) == pytest.approx(best, abs=1e-10)
    assert segment(m, 1, cost=cost) == [0] and segment(m, n, cost=cost) == list(range(n))


def test_segments_do_not_depend_on_the_direction_of_time():
    v = np.random.default_rng(1).normal(size=(12, 3)).cumsum(0)
    m = np.corrcoef(v)
    for cost in COSTS:
        forth, back = segment(m, 4, cost=cost), segment(m[::-1, ::-1], 4, cost=cost)
        assert sorted(12 - b for b in back[1:]) == forth[1:]


@pytest.mark.parametrize('bad,why', [((np.eye(3), 4), '1 to N phases'), ((np.eye(3), 0), '1 to N phases'), ((np.ones((2, 3)), 1), 'symmetric'),
                                     ((np.triu(np.ones((3, 3))), 2), 'symmetric'), ((np.full((2, 2), np.nan), 1), 'finite')])
def test_matrices_that_cannot_be_cut_are_refused(bad, why):
    with pytest.raises(ValueError, match=why): segment(*bad)
    with pytest.raises(ValueError, match='dissimilarity, scatter or blocks'): segment(np.eye(3), 2, cost='other')


@pytest.mark.parametrize('seed', range(3))
def test_look_up_is_the_model(seed):
    p = 6 + seed
    model = modular_model(ModularConfig(p=p, d_hidden=5, n_phases=1, seed=seed)).double()
    ids, sums = modular_pairs(p)
    assert torch.allclose(pair_logits(model, ids), model(one_hot_pairs(p)), atol=1e-13)
    assert torch.equal(one_hot_pairs(p)[:, :p].argmax(1) + one_hot_pairs(p)[:, p:].argmax(1) - sums, p*((ids.sum(1) - p) >= p))


@pytest.mark.parametrize('seed,p,h', [(0, 7, 3), (1, 10, 6), (2, 5, 12)])
def test_frequencies_against_dense_forms(seed, p, h):
    "Also where the 2h rows do not fit in 2p dimensions."
    model = modular_model(ModularConfig(p=p, d_hidden=h, n_phases=1, seed=seed))
    l, r, d = (getattr(model[0], k).weight.detach().double().numpy() for k in ('left', 'right', 'down'))
    total = 0
    for c in range(p):
        B = np.einsum('h,hi,hj->ij', d[c], l, r)
        values, vectors = np.linalg.eigh((B + B.T)/2)
        for i in np.argsort(-abs(values))[:3]: total = total + abs(values[i])*abs(np.fft.rfft(vectors[:p, i]))
    assert np.allclose(frequency_weights(model, 3), total/total.sum(), atol=1e-10)


def test_effective_count_counts():
    assert effective_count(torch.tensor([[.5, .5, 0, 0], [.25]*4, [1., 0, 0, 0]], dtype=torch.float64)).tolist() == pytest.approx([2, 4, 1])


def test_the_split_is_the_seeds():
    seen, held = split_pairs(CONFIG)
    assert len(seen) == int(.7*17**2) and not set(seen.tolist()) & set(held.tolist())
    assert torch.equal(seen, split_pairs(CONFIG)[0]) and not torch.equal(seen, split_pairs(quick_modular(p=17, train_fraction=.7, seed=1))[0])
    task = modular_task(CONFIG)
    ids, sums = task.draw(500, torch.Generator().manual_seed(0))
    allowed = {tuple(i) for i in modular_pairs(17)[0][seen].tolist()}
    assert {tuple(i) for i in ids.tolist()} <= allowed and torch.equal((ids[:, 0] + ids[:, 1] - 17) % 17, sums)


@pytest.mark.parametrize('bad', [dict(p=2), dict(train_fraction=0.), dict(n_checkpoints=1), dict(exponent=0.), dict(n_eigenvectors=200),
                                 dict(n_phases=99), dict(d_hidden=0), dict(lr=-1.)])
def test_configs_that_make_no_sense_are_refused(bad, tmp_path):
    with pytest.raises(ValueError): modular_addition(quick_modular(**bad), tmp_path, quiet=True)


def test_the_stored_full_run_says_what_the_page_says():
    table = load_table(ROOT/'nbs'/'experiments'/'results'/'modular_addition')
    reached, phases = milestones(table), phase_table(table)
    assert table.meta['config'] == dict(ModularConfig().__dict__) and len(table.steps) == 90
    assert abs(reached['validation accuracy 0.5'] - 8000) <= 3000 and abs(reached['validation accuracy 0.99'] - 13000) <= 4000
    assert agreement(table) == pytest.approx(.998, abs=.001)
    assert list(phases['inside'].round(2)) == pytest.approx([.90, .89, .90, .81, .94], abs=.025)
    counts = table.curves.query("quantity == 'effective frequencies'").value
    assert (counts.iloc[0], counts.iloc[-1]) == pytest.approx((57, 36.5), abs=.5)
