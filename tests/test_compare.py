"""`compare_all`: each row is the measure that it names, ignores what it says it ignores, and no more."""
import copy, math

import numpy as np
import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.compare import MEASURES, compare_all, jackknife

COLUMNS = ['value', 'error', 'same', 'group', 'sees', 'ignores', 'needs', 'seconds', 'note']


@pytest.fixture(scope='module')
def pair():
    torch.manual_seed(0)
    a, b = ts.classifier(6, 8, 3).double(), ts.classifier(6, 8, 3).double()
    with torch.no_grad():
        for p, q in zip(b.parameters(), a.parameters()): p.copy_(q + .5*p)
    return a, b, torch.randn(200, 6).double()*torch.tensor([2., 1, 1, 1, 1, .3]).double() + .4


def test_rows_and_columns(pair):
    t = compare_all(*pair)
    assert list(t.columns) == COLUMNS and list(t.index) == [m.name for m in MEASURES] and len(t) == 18
    assert t.value.notna().all() and (t.seconds >= 0).all() and t.ignores.astype(bool).all() and t.needs.astype(bool).all()
    assert ((t.error > 0) == (t.index.str.startswith('sample') | (t.group == 'outputs'))).all()


def test_values_are_those_of_the_functions(pair):
    a, b, x = pair
    v = compare_all(a, b, x).value
    fitted = ts.Gaussian.fit(x)
    assert v['exact, fitted law'] == pytest.approx(ts.similarity(a, b, fitted, method='exact').value, abs=1e-14)
    assert v['tensor, N(0, I)'] == pytest.approx(ts.similarity(a, b, method='tensor').value, abs=1e-14)
    assert v['matrix cosine'] == pytest.approx(ts.matrix_cosine(a, b), abs=1e-14)
    assert v['output cosine, pooled'] == pytest.approx(ts.output_cosine(a, b, x, pooled=True), abs=1e-12)
    assert v['output cosine, per sample'] == pytest.approx(ts.output_cosine(a, b, x), abs=1e-12)
    with torch.no_grad(): f, g = a(x), b(x)
    assert v['RSA'] == pytest.approx(ts.rsa(f, g)) and v['linear CKA'] == pytest.approx(ts.linear_cka(f, g))


def turned(a):
    "Units permuted, scaled, swapped: the same function."
    twin, order = copy.deepcopy(a), torch.randperm(8)
    with torch.no_grad():
        twin[0].left.weight.copy_((3*a[0].right.weight)[order])
        twin[0].right.weight.copy_((-a[0].left.weight/3)[order])
        twin[0].down.weight.copy_(-a[0].down.weight[:, order])
    return twin


def with_head(a, change):
    twin = copy.deepcopy(a)
    with torch.no_grad(): twin[1].weight.copy_(change(a[1].weight))
    return twin


ROTATION = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]


@pytest.mark.parametrize('change, word', [
    (turned, 'hidden units'), (lambda a: with_head(a, lambda w: ROTATION @ w), 'output rotation'),
    (lambda a: with_head(a, lambda w: 4*w), 'scale')])
def test_each_measure_ignores_what_it_says_and_no_more(pair, change, word):
    a, _, x = pair
    t = compare_all(a, change(a), x, n=2000)
    blind = (t.value - t.same).abs() < 1e-6
    says = t.ignores.str.contains(word)
    if word == 'scale': says |= t.ignores.str.contains('keeps the winner')          # a positive scale keeps it
    if word == 'scale': blind['matrix cosine'] = says['matrix cosine']              # all weights together, not the head alone
    if word == 'scale': blind['matrix cosine, units matched'] = says['matrix cosine, units matched']
    assert (blind == says).all(), t[blind != says]


def test_no_row_is_lost_when_a_measure_fails():
    a, b = (ts.transformer(5, 4, 2, 3, 1) for _ in range(2))
    x = torch.nn.functional.one_hot(torch.randint(5, (40, 3)), 5).float()
    t = compare_all(a, b, x, n=500)
    assert len(t) == 18 and 'BilinearAttention' in t.note['matrix cosine, units matched']
    assert t.value[['matrix cosine', 'linear CKA', 'sample, fitted law']].notna().all()
    one = compare_all(*[ts.classifier(5, 4, 1) for _ in range(2)], torch.randn(30, 5))
    assert 'two or more' in one.note['argmax agreement'] and math.isnan(one.value['JS divergence (nats)'])


def test_some_measures_and_a_dataset(pair):
    a, b, x = pair
    class Data: pass
    data = Data()
    data.x = x
    t = compare_all(a, b, data, measures=['RSA', 'matrix cosine'], most=50, seed=1)
    assert list(t.index) == ['matrix cosine', 'RSA']
    assert t.value['RSA'] != compare_all(a, b, data, measures=['RSA'], most=50, seed=2).value['RSA']


@pytest.mark.parametrize('name', ['linear CKA', 'Procrustes', 'output cosine, pooled', 'argmax agreement'])
def test_the_error_is_the_spread_over_data_sets(pair, name):
    "The jackknife's error beside the standard deviation over 40 fresh data sets."
    a, b, _ = pair
    run = next(m.run for m in MEASURES if m.name == name)
    with torch.no_grad(): sets = [(a(x), b(x)) for x in torch.randn(40, 300, 6, dtype=torch.float64)]
    spread = np.std([run(*s) for s in sets])
    errors = np.sqrt(np.mean([jackknife(run, *s)**2 for s in sets[:15]]))
    assert .7 < errors/spread < 1.5
