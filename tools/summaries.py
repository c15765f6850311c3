"""Published number beside ours: `python tools/summaries.py` reads nbs/experiments/results/ and writes NAME/summary.csv there.

Columns: claim, published, here, low, high, null, agrees, note. `low` and `high` are a 95% bootstrap interval over seeds;
`null` is the same number where the cause is missing. Another experiment adds itself with a function of the same form
(or writes its own summary.csv); nbs/experiments/00_overview.ipynb shows every summary that it finds.
"""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT/'nbs'/'experiments'/'results'

import numpy as np
import pandas as pd

from tensorsim_nb.experiments import CheckpointTable, load_frame
from tensorsim_nb.nulls import headline_table


def row(claim, published, here, low=np.nan, high=np.nan, null=np.nan, agrees='', note=''):
    return dict(claim=claim, published=published, here=here, low=low, high=high, null=null, agrees=agrees, note=note)


def yes(ok): return 'yes' if ok else 'no'


def headline(h, k): return dict(here=h.loc[k, 'value'], low=h.loc[k, 'value low'], high=h.loc[k, 'value high'], null=h.loc[k, 'null'])


# Published: identity and covariance metric (appendix); the reproduction agrees when within .05
ROBUSTNESS = {'gaussian': (.997, .997), 'half gaussian': (.920, .920), 'uniform': (.994, .994), 'correlated gaussian': (.954, .991),
              'permutations': (.964, .933), 'shifted gaussian': (.606, .498)}


def robustness():
    t = load_frame(RESULTS/'robustness'/'table')[0].set_index(['law', 'metric'])
    rows = []
    for law, published in ROBUSTNESS.items():
        for metric, p in zip(('identity', 'covariance'), published):
            r = t.loc[law, metric]
            rows.append(row(f'r of the {metric} metric, {law}', p, r.r, r.low, r.high, r.null, yes(abs(r.r - p) <= .05)))
    for law in ROBUSTNESS:
        metric = 'moments' if law in ('gaussian', 'correlated gaussian', 'shifted gaussian', 'permutations') else 'law'
        r = t.loc[law, metric]
        rows.append(row(f"r of the exact expectation under {'N(mu, Sigma)' if metric == 'moments' else 'the law itself'}, {law}", np.nan, r.r, r.low, r.high, r.null, '', 'not in the paper'))
    return rows


BACKDOOR = {'gap': {'slice 9': .431, 'tensor': .236, 'matrix': .150, 'output clean': .088, 'output poisoned': .620},
            'late gap': {'slice 9': .294, 'tensor': .069, 'matrix': .039, 'output clean': .021, 'output poisoned': .604},
            'across onset': {'slice 9': .835, 'tensor': .979, 'matrix': .991, 'output clean': .898, 'output poisoned': .474}}


def backdoor():
    gaps, rows = load_frame(RESULTS/'backdoor'/'gaps')[0], []
    for measure, published in BACKDOOR.items():
        g = gaps[gaps.measure == measure]
        h = headline_table(g)
        for k, p in published.items():
            apart = h.loc[k, 'difference low'] > 0 if measure != 'across onset' else h.loc[k, 'difference high'] < 0
            rows.append(row(f'{measure}, {k}', p, **headline(h, k), agrees='same sign' if apart else 'no', note='beyond its control' if apart else 'not beyond its control'))
        if measure != 'across onset':
            order = ['slice 9', 'tensor', 'matrix', 'output clean']
            wide = g.pivot(index='seed', columns='quantity', values='value')[order]
            share = float((wide.diff(axis=1).iloc[:, 1:] < 0).all(axis=1).mean())
            rows.append(row(f'order of the {measure}: slice 9 > tensor > matrix > output clean (share of seeds)', 1., share, agrees=yes(share == 1)))
        else:
            others = h.loc[[f'slice {i}' for i in range(9)], 'value']
            rows.append(row('across onset, least of slices 0 to 8', .988, others.min(), null=h.loc[[f'slice {i}' for i in range(9)], 'null'].min(), agrees=yes(others.min() > .95), note='the other slices move too, at three times the learning rate'))
    return rows


FORGETTING = {'add 8 - add 9': (.747, .883, .930), 'add 9 - repeat': (.995, .998, .964), 'add 9 - remove 9': (.815, .931, .930),
              'add 8 - remove 9': (.979, .983, .902), 'remove 9 - re-add 9': (.814, .928, .944), 'add 9 - re-add 9': (.995, .998, .939)}
CONTRAST = {'gaussian': .164, 'CKA': .054, 'matrix': -.035}
SIGNS = dict(zip(['digits 0-4', 'add 5', 'add 6', 'add 7', 'add 8', 'add 9', 'repeat', 'remove 9', 're-add 9'],
                 [-.833, -.869, -.860, -.884, -.890, .382, .350, -.863, .387]))


def forgetting():
    frame, rows = load_frame(RESULTS/'forgetting'/'seeds')[0], []
    h = headline_table(frame[frame.measure == 'contrast'])
    for k, p in CONTRAST.items():
        rows.append(row(f'contrast, {k}', p, **headline(h, k), agrees=yes(np.sign(h.loc[k, 'value']) == np.sign(p)), note='sign compared'))
    wide = frame[frame.measure == 'contrast'].pivot(index='seed', columns='quantity', values='value')
    share = float(((wide.gaussian > wide.CKA) & (wide.CKA > wide.matrix)).mean())
    rows.append(row('order of the contrasts: gaussian > CKA > matrix (share of seeds)', 1., share, agrees=yes(share == 1)))
    for pair, published in FORGETTING.items():
        h = headline_table(frame[frame.measure == pair])
        rows += [row(f'{k}, {pair}', p, **headline(h, k), agrees='', note='null: add 9 - repeat') for k, p in zip(('gaussian', 'CKA', 'matrix'), published)]
    for pair, p in (('add 9 - remove 9', -.07), ('add 8 - remove 9', .98)):
        h = headline_table(frame[frame.measure == pair])
        rows.append(row(f'slice 9, {pair}', p, **headline(h, 'slice 9'), agrees=yes(abs(h.loc['slice 9', 'value'] - p) < .25), note='null: add 9 - repeat'))
    d = load_frame(RESULTS/'forgetting'/'diffing')[0]
    d = d[(d['slice'] == 9) & (d['part'] == 'gaussian')]
    h = headline_table(d, by='stage')
    rows += [row(f'diffing, slice 9, {s}', p, **headline(h, s), agrees=yes(np.sign(h.loc[s, 'value']) == np.sign(p)), note='sign compared; null: placebo') for s, p in SIGNS.items()]
    return rows


SUMMARIES = dict(robustness=robustness, backdoor=backdoor, forgetting=forgetting)

if __name__ == '__main__':
    for name, f in SUMMARIES.items():
        if not (RESULTS/name).is_dir(): continue
        t = pd.DataFrame(f())
        t.round(5).to_csv(RESULTS/name/'summary.csv', index=False)
        print(f'{name}: {len(t)} rows'), print(t.round(3).to_string())
