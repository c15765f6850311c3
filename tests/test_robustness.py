"""The robustness experiment in its quick form: metrics by hand, what is exact, what a kill leaves."""
import numpy as np
import pytest
import torch

from tensorsim_nb.models import load
from tensorsim_nb.robustness import LAWS, METRICS, RobustnessConfig, input_law, robustness, robustness_table, second_largest
from tensorsim_nb.core import generator

SMALL = dict(n_seed=2, steps=32, n_eval=2000, batch_size=128)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('robustness')
    return folder, robustness(RobustnessConfig.quick(**SMALL), folder, quiet=True)


def test_every_pair_of_every_law_is_there(run):
    _, pairs = run
    assert pairs.groupby('name').size().to_dict() == dict.fromkeys(LAWS, 14*13//2) and set(METRICS) < set(pairs.columns)
    assert pairs.drop(columns='law').notna().all().all() and pairs[pairs.name == 'permutations'].law.isna().all()


def form(path):
    m = load(path)[0]
    left, right, down = (getattr(m, k).weight.detach().double().numpy() for k in ('left', 'right', 'down'))
    t = np.einsum('oh,hi,hj->oij', down, left, right)
    return (t + t.transpose(0, 2, 1))/2


@pytest.mark.parametrize('name', ['shifted gaussian', 'correlated gaussian', 'permutations'])
def test_metrics_by_hand(run, name):
    folder, pairs = run
    row = pairs[(pairs.name == name) & (pairs.step_i == 8) & (pairs.step_j == 32) & (pairs.seed_i == 0) & (pairs.seed_j == 1)].iloc[0]
    A, B = (form(folder/name.replace(' ', '_')/f'seed{s}'/f'step_{t:06d}.safetensors') for s, t in ((0, 8), (1, 32)))
    law = input_law(name).moments
    C = np.eye(4) if law.cov is None else (law.cov if law.cov.ndim == 2 else torch.diag(law.cov)).double().numpy()
    mu = np.zeros(4) if law.mean is None else law.mean.double().numpy()
    cosine = lambda f: f(A, B)/np.sqrt(f(A, A)*f(B, B))
    tensor = lambda S: lambda A, B: np.einsum('oij,jk,okl,li->', A, S, B, S)
    def exact(C, mu):
        mean = lambda A: np.einsum('oij,ij->o', A, C + np.outer(mu, mu))
        return lambda A, B: mean(A) @ mean(B) + 2*np.einsum('oij,jk,okl,li->', A, C, B, C) + 4*np.einsum('i,oij,jk,okl,l->', mu, A, C, B, mu)
    want = dict(identity=cosine(tensor(np.eye(4))), covariance=cosine(tensor(C)), gaussian=cosine(exact(np.eye(4), 0*mu)), moments=cosine(exact(C, mu)))
    for k, v in want.items(): assert row[k] == pytest.approx(v, abs=1e-9), k


def test_exact_metrics_are_behaviour_and_the_null_is_not(run):
    t = robustness_table(run[1], n_boot=20, n_null=5).set_index(['law', 'metric'])
    for name in ('gaussian', 'correlated gaussian', 'shifted gaussian'): assert t.r[name, 'moments'] > .995   # 2,000 inputs for behaviour
    for name in ('half gaussian', 'uniform'): assert t.r[name, 'law'] > .995
    assert (t.null < t.r).all() and (t.low <= t.r + 1e-9).all() and (t.pairs == 91).all()


def test_a_lost_table_comes_back_and_other_settings_are_refused(run):
    folder, pairs = run
    (folder/'tables'/'uniform.csv').unlink()
    (folder/'tables'/'uniform.json').unlink()
    assert robustness(RobustnessConfig.quick(**SMALL), folder, quiet=True).equals(pairs)
    with pytest.raises(ValueError, match='same settings'): robustness(RobustnessConfig.quick(**SMALL | dict(lr=.1)), folder, quiet=True)


def test_the_task():
    x = torch.tensor([[1., 4, 2, 3], [0, -1, -2, -3]])
    assert second_largest(x).tolist() == [3, 1]
    assert input_law('shifted gaussian').draw(5, generator(0))[:, 3].eq(-10).all()
    assert sorted(input_law('permutations').draw(1, generator(0))[0].tolist()) == [1, 2, 3, 4]


def test_intervals_of_few_runs_are_wide_and_stay_correlations():
    from tensorsim_nb.robustness import widened
    low, high = widened(.9, .85, .93, 5)
    assert -1 < low < .85 and .93 < high < 1
    factor = (5/4)**.5*2.7764451/1.9599640
    assert np.arctanh(.9) - np.arctanh(low) == pytest.approx(factor*(np.arctanh(.9) - np.arctanh(.85)), rel=1e-6)
    assert widened(.9, .85, .93, 100_000) == pytest.approx((.85, .93), abs=1e-4)
    assert all(-1 <= x <= 1 for x in widened(1., .999999, 1., 3))
