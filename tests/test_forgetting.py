"""Forgetting and diffing in their quick form: the protocol, every matrix by hand, the signs, what a kill leaves."""
import numpy as np
import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.data import digits
from tensorsim_nb.forgetting import (CONTROL, MEASURES, STAGES, ForgettingConfig, contrast_table, diffing, diffing_seeds, forgetting,
                                     forgetting_seeds, stage_ends, stage_table)
from tensorsim_nb.models import load

CONFIG = ForgettingConfig.quick(epochs=12)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('forgetting')
    return folder, *forgetting(CONFIG, folder/'seed0', quiet=True)


def test_the_stages(run):
    _, table, control = run
    assert len(table.steps) == 1 + 2*len(STAGES) and len(control.steps) == 1 + 2*len(CONTROL)
    assert list(stage_ends(table)) == list(STAGES) and list(stage_ends(control)) == CONTROL
    shared = len(control.steps) - 2                       # both runs are the same to the bit until 9 is taken away
    assert np.array_equal(table.matrices['gaussian'][:shared, :shared], control.matrices['gaussian'][:shared, :shared])
    acc = table.curves[table.curves.quantity == 'accuracy 9'].set_index('step').value
    at = {s: acc[table.steps[i]] for s, i in stage_ends(table).items()}
    assert at['add 8'] == at['remove 9'] == 0 and min(at['add 9'], at['re-add 9']) > .4


def ends(run):
    folder, table, _ = run
    def last(stage): return load(sorted((folder/'seed0'/'stages'/stage.replace(' ', '_')).glob('step_*'))[-1])
    return table, stage_ends(table), last


def form(m):
    E, L, R, D, U = (w.detach().double().numpy() for w in (m[0].weight, m[1].left.weight, m[1].right.weight, m[1].down.weight, m[2].weight))
    t = np.einsum('oh,hi,hj->oij', U @ D, L @ E, R @ E)
    return (t + t.transpose(0, 2, 1))/2


def test_matrices_by_hand(run):
    table, at, last = ends(run)
    a, b, i, j = last('add 5'), last('remove 9'), at['add 5'], at['remove 9']
    A, B, x = form(a), form(b), digits()[1].x
    gauss = lambda A, B: 2*(A*B).sum() + np.trace(A, axis1=1, axis2=2) @ np.trace(B, axis1=1, axis2=2)
    cosine = lambda f, A, B: f(A, B)/np.sqrt(f(A, A)*f(B, B))
    assert table.matrices['gaussian'][i, j] == pytest.approx(cosine(gauss, A, B), abs=1e-10)
    assert table.matrices['tensor'][i, j] == pytest.approx(cosine(lambda A, B: (A*B).sum(), A, B), abs=1e-10)
    assert table.matrices['slice 9'][i, j] == pytest.approx(cosine(gauss, A[9:], B[9:]), abs=1e-10)
    assert table.matrices['matrix'][i, j] == pytest.approx(ts.matrix_cosine(a, b), abs=1e-12)
    with torch.no_grad(): assert table.matrices['CKA'][i, j] == pytest.approx(ts.linear_cka(a(x), b(x)), abs=1e-6)


def test_contrast_and_pairs_are_entries_of_the_matrices(run):
    _, table, control = run
    at, c = stage_ends(table), contrast_table(table, control)
    m = table.matrices['CKA']
    assert c.loc['CKA', 'contrast'] == pytest.approx(m[at['remove 9'], at['add 8']] - m[at['remove 9'], at['repeat']])
    assert (c['null'] < c['contrast']).loc[['gaussian', 'CKA', 'slice 9']].all() and c.loc['slice 9', 'contrast'] > .1
    assert stage_table(table).loc['matrix', 'add 8 - remove 9'] == table.matrices['matrix'][at['add 8'], at['remove 9']]


def test_diffing_by_hand_and_its_signs(run):
    folder = run[0]/'seed0'
    frame = diffing(CONFIG, folder, quiet=True)
    last = frame.loc[frame.groupby(['stage', 'slice', 'part'], sort=False)['index'].idxmax()].set_index(['stage', 'slice', 'part'])
    def model(name, stage): return form(load(sorted((folder/'second'/name/stage.replace(' ', '_')).glob('step_*'))[-1]))
    A = (model('tuned', 'add 9') - model('base', 'add 8'))[9]
    B = form(ends(run)[2]('repeat'))[9]
    split = lambda A, B: (np.trace(A)*np.trace(B)*(1 + 2/64), 2*((A - np.trace(A)/64*np.eye(64))*(B - np.trace(B)/64*np.eye(64))).sum())
    size = np.sqrt(sum(split(A, A))*sum(split(B, B)))
    for part, want in zip(('trace', 'traceless'), split(A, B)): assert last.value['repeat', 9, part] == pytest.approx(want/size, abs=1e-9)
    assert last.value['add 8', 9, 'gaussian'] < 0 < last.value['repeat', 9, 'gaussian']
    assert last.value['remove 9', 9, 'gaussian'] < last.value['re-add 9', 9, 'gaussian']


def test_a_second_call_reads_and_seeds_are_tidy(run):
    folder, table, _ = run
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
    frame, ends = forgetting_seeds(CONFIG, 1, folder, quiet=True), diffing_seeds(CONFIG, 1, folder, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert set(frame.quantity) == {*MEASURES, *(f'slice {k}' for k in range(10))} and frame.notna().all().all()
    assert len(ends) == 9*10*3 and frame[frame.measure == 'contrast'].value.notna().all()
    with pytest.raises(ValueError, match='same settings'): forgetting(ForgettingConfig.quick(epochs=12, lr=1e-3), folder/'seed0', quiet=True)
