"""Intervals cover, nulls have nothing of the model, and a quiet run has no gap."""
import numpy as np
import pandas as pd
import pytest
import torch

import tensorsim_nb as ts
from tensorsim_nb.nulls import bootstrap_interval, fresh, headline_table, matched_gap, null_levels, shuffled, window_gap


def test_bootstrap_of_a_mean_by_hand():
    v = np.random.default_rng(0).normal(3, 2, 60)
    low, high = bootstrap_interval(v, n=4000)
    half = 1.96*v.std()/60**.5
    assert low == pytest.approx(v.mean() - half, abs=.1) and high == pytest.approx(v.mean() + half, abs=.1)
    assert bootstrap_interval(v) == bootstrap_interval(v) and bootstrap_interval([2., 2, 2]) == (2., 2.)


@pytest.mark.parametrize('bad', [[], [1.], [1., float('nan')]])
def test_bootstrap_refuses_what_it_cannot_resample(bad):
    with pytest.raises(ValueError, match='two or more finite'): bootstrap_interval(bad)


def test_headlines_are_paired():
    "The difference uses that each seed has its own null: a shared shift does not widen it."
    shift = np.random.default_rng(0).normal(0, 5, 12)
    noise = np.random.default_rng(1).normal(0, .01, 12)
    t = headline_table(pd.DataFrame(dict(quantity='x', value=1 + shift + noise, null=shift)))
    row = t.loc['x']
    assert row['difference low'] > .98 and row['difference high'] < 1.02 and row['value low'] < 0 and row['n'] == 12
    one = headline_table(pd.DataFrame(dict(quantity=['x'], value=[1.], null=[0.])))
    assert one.loc['x', 'value'] == 1 and np.isnan(one.loc['x', 'value low'])


def test_fresh_and_shuffled_models():
    torch.manual_seed(0)
    m = ts.transformer(5, 4, 2, 3, 1, d_hidden=6, bias=True).double()
    f, s = fresh(m, 1), shuffled(m, 1)
    assert [p.shape for p in f.parameters()] == [p.shape for p in m.parameters()] and next(f.parameters()).dtype == torch.float64
    for p, q in zip(m.parameters(), s.parameters()): assert torch.equal(p.sort(dim=-1)[0].flatten().sort()[0], q.flatten().sort()[0])
    assert ts.matrix_cosine(m, fresh(m, 1)) == ts.matrix_cosine(m, f) != ts.matrix_cosine(m, fresh(m, 2))
    state = torch.get_rng_state()
    fresh(m, 3), shuffled(m, 3)
    assert torch.equal(state, torch.get_rng_state())


def test_levels():
    torch.manual_seed(5)
    a = ts.classifier(12, 8, 3)
    t = null_levels(a, [a], n=4, seed=7).groupby(['null', 'measure'])['value'].mean()
    assert t['other seed', 'tensor'] == pytest.approx(1) and abs(t['shuffled', 'tensor']) < .4 and len(t) == 12


def test_a_gap_by_hand_and_its_null():
    s = np.array([[1, .9, .5, .4], [.9, 1, .6, .5], [.5, .6, 1, .8], [.4, .5, .8, 1]])
    assert window_gap(s, 2, 2) == pytest.approx((.9 + .8)/2 - .5)
    t = np.arange(24.)
    drift = np.exp(-np.abs(np.subtract.outer(t, t))/9)
    found = matched_gap(drift, 16, window=3, skip=2)
    assert len(found['null']) == 16 - 3 + 1 - (2 + 3) and found['gap'] == pytest.approx(found['largest'])
    drift[16:, :16] *= .7
    drift[:16, 16:] *= .7
    assert matched_gap(drift, 16, window=3)['exceeded'] == 0


def test_few_values_get_wide_intervals():
    "Of five normal values: Student's t, in place of the resamples' own spread, which covers in 83 of 100 runs."
    draws = np.random.default_rng(0).normal(size=(200, 5))
    ends = np.array([bootstrap_interval(d, n=400, seed=i) for i, d in enumerate(draws)])
    half = 2.7764*draws.std(1, ddof=1)/5**.5
    assert np.mean((ends[:, 1] - ends[:, 0])/(2*half)) == pytest.approx(1, abs=.06) # on average; the quantile of each wobbles
    assert .91 <= np.mean((ends[:, 0] < 0) & (0 < ends[:, 1])) <= .985
