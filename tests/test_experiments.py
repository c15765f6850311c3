"""The backdoor experiment in its quick form: what stands out, that the control does not, and tables that survive."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import savemat

from tensorsim_nb.data import digits
from tensorsim_nb.experiments import (BackdoorConfig, CheckpointTable, backdoor, backdoor_seeds, gap_table, kept_frame, largest_break,
                                      load_frame, outcome_table, save_frame)
from tensorsim_nb.models import load
from tensorsim_nb.train import checkpoints

QUICK = dict(clean_steps=300, poison_steps=100, every=25)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('backdoor')
    return folder, *backdoor(BackdoorConfig(**QUICK), folder, quiet=True)


def test_the_attack_works_and_hides(run):
    out = outcome_table(*run[1:])
    assert out.loc['poisoned',
                   'attack success, onset'] < .1 and out.loc['poisoned', 'attack success, end'] > .95
    assert out.loc['control', 'attack success, end'] < .1
    assert abs(out.loc['poisoned', 'clean accuracy, end'] - out.loc['control', 'clean accuracy, end']) < .02


def test_the_order_of_the_paper(run):
    g = gap_table(*run[1:])
    late = g.loc[['slice 9', 'tensor', 'matrix', 'output clean'], 'late gap']
    assert (late.diff().dropna() < 0).all() and late.iloc[0] > 2*late.iloc[1]
    assert g.index[0] == 'slice 9' and len(g) == 15


def test_only_the_target_slice_breaks_and_the_control_does_not(run):
    g = gap_table(*run[1:])
    others = [f'slice {k}' for k in range(9)]
    assert g.loc['slice 9', 'across onset'] < .7 and g.loc[others, 'across onset'].min() > .85
    assert (g['control across onset'] > .98).all() and (g['control late gap'] < .05).all()
    assert g.loc['slice 9', 'late gap'] > 5*g.loc['slice 9', 'control late gap']


@pytest.mark.parametrize('seed,target', [(1, 8), (3, 6)])
def test_other_seeds_and_classes(tmp_path, seed, target):
    table, control = backdoor(BackdoorConfig(seed=seed, target=target, **QUICK), tmp_path, quiet=True)
    found, nothing = largest_break(table), largest_break(control)
    assert (found['slice'], found['before'], found['after']) == (f'slice {target}', 300, 325)
    assert found['fall'] > 2*nothing['fall']


def dense(path):
    "Symmetrised interaction tensor (out, d, d), written out."
    m = load(path)
    left, right, down = (getattr(m[0], k).weight.detach().double().numpy() for k in ('left', 'right', 'down'))
    t = np.einsum('oh,hi,hj->oij', m[1].weight.detach().double().numpy() @ down, left, right)
    return (t + t.transpose(0, 2, 1))/2


def cosine(f, a, b): return f(a, b)/np.sqrt(f(a, a)*f(b, b))
def tensor(a, b): return (a*b).sum()
def gaussian(a, b): return 2*(a*b).sum() + np.trace(a, axis1=1, axis2=2) @ np.trace(b, axis1=1, axis2=2)


def test_matrices_against_dense_tensors(run):
    folder, table, _ = run
    paths = [p for _, p in checkpoints(folder/'backdoor')]
    for i, j in [(0, 5), (12, 13), (16, 3)]:
        a, b = dense(paths[i]), dense(paths[j])
        assert table.matrices['tensor'][i, j] == pytest.approx(cosine(tensor, a, b), abs=1e-12)
        assert table.matrices['gaussian'][i, j] == pytest.approx(cosine(gaussian, a, b), abs=1e-12)
        assert table.matrices['slice 4'][i, j] == pytest.approx(cosine(tensor, a[4], b[4]), abs=1e-12)
        f, g = (load(paths[k])(digits()[1].x).detach().double().numpy() for k in (i, j))
        want = np.mean((f*g).sum(1)/np.sqrt((f*f).sum(1)*(g*g).sum(1)))
        assert table.matrices['output clean'][i, j] == pytest.approx(want, abs=1e-9)


def test_both_runs_are_the_same_until_the_onset(run):
    folder, table, _ = run
    a, b = ([load(p).state_dict() for _, p in checkpoints(folder/k)] for k in ('backdoor', 'control'))
    equal = [all(torch.equal(p[k], q[k]) for k in p) for p, q in zip(a, b)]
    assert equal == [True]*table.boundaries['poison'] + [False]*(len(equal) - table.boundaries['poison'])


def test_a_second_call_reads_and_a_lost_table_comes_back(run):
    folder, table, _ = run
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
    again, _ = backdoor(BackdoorConfig(**QUICK), folder, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()} == stamps
    shutil.rmtree(folder/'backdoor'/'table')
    back, _ = backdoor(BackdoorConfig(**QUICK), folder, quiet=True)
    for t in (again, back):
        assert t.matrices.keys() == table.matrices.keys() and t.curves.equals(table.curves) and t.meta == table.meta
        assert all(np.array_equal(t.matrices[k], table.matrices[k]) for k in table.matrices)


def test_another_config_is_refused(run):
    with pytest.raises(ValueError, match='same settings'):
        backdoor(BackdoorConfig(seed=5, **QUICK), run[0], quiet=True)


def toy(n=4, **kw):
    m = np.array([[1, .8, .3, .2], [.8, 1, .5, .4], [.3, .5, 1, .9], [.2, .4, .9, 1]])[:n, :n]
    return CheckpointTable(**(dict(labels=list('abcd')[:n], steps=[0, 10, 20, 30][:n],
                                   matrices={'tensor': m, 'slice 0': m, 'matrix': m.T},
                                   curves=pd.DataFrame(dict(step=[0], quantity=['x'],
                                                            value=[1/3])), boundaries=dict(poison=2),
                                   meta=dict(target=0)) | kw))


def test_gaps_by_hand():
    row = gap_table(toy()).loc['tensor']
    assert row.to_dict() == pytest.approx({'before-before': .8, 'after-after': .9, 'before-after': .35,
                                           'gap': .55,
                                           'late gap': .45, 'across onset': .5})   # late: step 10 alone


def test_a_single_checkpoint_after_the_onset_has_no_gap():
    row = gap_table(toy(3)).loc['tensor']
    assert np.isnan(row['gap']) and row['across onset'] == .5


def test_tables_survive_the_disk(tmp_path):
    t = toy()
    t.save(tmp_path/'new'/'folder')
    back = CheckpointTable.load(tmp_path/'new'/'folder')
    assert (back.labels, back.steps, back.boundaries, back.meta) == (t.labels, t.steps, t.boundaries, t.meta)
    assert all((back.matrices[k] == t.matrices[k]).all() for k in t.matrices) and back.curves.equals(t.curves)
    assert sorted(p.name for p in (tmp_path/'new'/'folder').iterdir()) == ['curves.csv', 'matrices.npz',
                                                                           'table.json']


def spoil_mix(d):
    (d/'curves.csv').write_text('step,quantity,value\n')
def spoil_cut(d): (d/'matrices.npz').write_bytes((d/'matrices.npz').read_bytes()[:50])
def spoil_json(d): (d/'table.json').write_text('{"format"')
def spoil_foreign(d): (d/'table.json').write_text(json.dumps(dict(format='other')))
def spoil_gone(d): (d/'matrices.npz').unlink()


@pytest.mark.parametrize('spoil', [spoil_mix, spoil_cut, spoil_json, spoil_foreign, spoil_gone])
def test_damaged_tables_are_refused(tmp_path, spoil):
    toy().save(tmp_path)
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match='CheckpointTable|belong together'):
        CheckpointTable.load(tmp_path)


@pytest.mark.parametrize('bad', [dict(steps=[0, 20, 10, 30]), dict(steps=[0, 10]), dict(labels=['a']),
                                 dict(boundaries=dict(late=4)),
                                 dict(matrices=dict(tensor=np.eye(3))), dict(matrices=dict(tensor=np.full((4, 4), np.nan)))])
def test_tables_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError): toy(**bad)


@pytest.mark.parametrize('bad', [dict(every=400), dict(clean_steps=0), dict(poison_steps=0), dict(target=10),
                                 dict(fraction=2.)])
def test_configs_that_make_no_sense_are_refused(bad, tmp_path):
    with pytest.raises(ValueError): backdoor(BackdoorConfig(**(QUICK | bad)), tmp_path, quiet=True)


def test_sizes():
    assert BackdoorConfig.quick() == BackdoorConfig(**QUICK) and BackdoorConfig.quick(seed=3).seed == 3
    c = BackdoorConfig.svhn()
    assert (c.d_hidden, c.training.steps, c.training.batch_size, c.stamp.shape, c.data) == (64, 10_000, 512, (32, 32), 'svhn')
    with pytest.raises(ValueError, match="'mnist'"): BackdoorConfig(data='mnist')


def test_house_numbers_run_through_the_same_code(tmp_path):
    "Tiny files of the published form: 1024 inputs, the rhombus, a table of the same shape."
    rng = np.random.default_rng(0)
    for split in ('train', 'test'):
        savemat(tmp_path/f'{split}_32x32.mat', dict(X=rng.integers(0, 256, (32, 32, 3, 30), dtype=np.uint8), y=(np.arange(30) % 10 + 1)[:, None]))
    config = BackdoorConfig.svhn(d_hidden=4, clean_steps=4, poison_steps=2, every=2, batch_size=8)
    table, control = backdoor(config, tmp_path/'run', data_dir=tmp_path, quiet=True)
    assert table.steps == [0, 2, 4, 6] and table.boundaries == {'poison': 3} and 'slice 9' in table.matrices
    with pytest.raises(ValueError, match='SVHN comes from files'): backdoor(config, tmp_path/'other', quiet=True)
    with pytest.raises(FileNotFoundError, match='no train_32x32.mat'): backdoor(config, tmp_path/'other', data_dir=tmp_path/'gone', quiet=True)


def test_seeds_are_the_gaps_of_each_run(run):
    folder, table, control = run
    frame = backdoor_seeds(BackdoorConfig(**QUICK), 1, folder.parent/'seeds', quiet=True)
    gaps = gap_table(table, control)
    for k, m, v, null in frame[['quantity', 'measure', 'value', 'null']].itertuples(index=False):
        assert v == pytest.approx(gaps.loc[k, m], abs=1e-12) and null == pytest.approx(gaps.loc[k, f'control {m}'], abs=1e-12)


def test_pairs_as_a_tidy_table():
    t = toy().to_dataframe()
    assert len(t) == 3*6 and t[(t.quantity == 'matrix') & (t.i == 1) & (t.step_j == 30)].value.item() == .4


def test_tidy_tables_survive_the_disk_and_are_kept(tmp_path):
    frame = pd.DataFrame(dict(law=['a', 'b'], r=[1/3, 2**-40]))
    save_frame(frame, tmp_path/'new'/'t', dict(seed=1))
    back, meta = load_frame(tmp_path/'new'/'t')
    assert back.equals(frame) and meta == dict(seed=1)
    calls = []
    def make(): calls.append(1); return frame
    assert kept_frame(tmp_path/'new'/'t', dict(seed=1), make).equals(frame) and not calls
    kept_frame(tmp_path/'new'/'t', dict(seed=2), make)
    assert calls == [1] and load_frame(tmp_path/'new'/'t')[1] == dict(seed=2)


@pytest.mark.parametrize('spoil', [lambda d: (d/'t.csv').write_text('law\n'), lambda d: (d/'t.json').write_text('{"format": 1}'),
                                   lambda d: (d/'t.json').write_text('{'), lambda d: (d/'t.csv').unlink()])
def test_damaged_tidy_tables_are_refused(tmp_path, spoil):
    save_frame(pd.DataFrame(dict(x=[1.])), tmp_path/'t', {})
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match='format|belong together|no t.csv'): load_frame(tmp_path/'t')
