"""Write the rows of the overview page from the stored tables: `python tools/overview_rows.py`.

Reads nbs/experiments/results/, and runs/ for further seeds of modular addition when they are there (their milestones
are kept in results/modular_addition/seeds.csv). Writes results/overview_modular_addition.csv and overview_language.csv
with the columns experiment, quantity, published, measured, note.
"""
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS, RUNS = ROOT/'nbs'/'experiments'/'results', ROOT/'runs'

from tensorsim_nb.experiments import load_table
from tensorsim_nb.language import MEASURES, checkpoint_summary, closure_error, measure_correlations
from tensorsim_nb.modular_addition import agreement, milestones, phase_table

PUBLISHED = {'train accuracy 1': 'about 1374', 'validation loss peak': 'about 1545', 'peak height': 'about 7.8',
             'validation accuracy 0.5': 'about 8200', 'validation accuracy 0.9': 'about 10400',
             'validation accuracy 0.99': 'about 13200', 'validation accuracy 1': 'about 23300'}


def one_seed(table):
    "One row of seeds.csv."
    counts = table.curves[table.curves.quantity == 'effective frequencies'].value
    phases = phase_table(table)
    return {**milestones(table), 'first frequencies': counts.iloc[0], 'last frequencies': counts.iloc[-1], 'tensor with output': agreement(table),
            'tensor with exact': agreement(table, 'tensor', 'exact'), 'phase starts': ' '.join(map(str, phases['first'])),
            'inside': ' '.join(f'{v:.3f}' for v in phases.inside), 'to next': ' '.join(f'{v:.3f}' for v in phases.to_next.dropna())}


def seeds():
    "Milestones of every seed that is there, old rows kept."
    path = RESULTS/'modular_addition'/'seeds.csv'
    old = pd.read_csv(path, index_col='seed') if path.exists() else pd.DataFrame()
    new = {0: one_seed(load_table(RESULTS/'modular_addition'))}
    for folder in sorted(RUNS.glob('modular_addition_seed*')):
        if (folder/'table'/'table.json').exists(): new[int(folder.name.split('seed')[1])] = one_seed(load_table(folder/'table'))
    frame = pd.concat([pd.DataFrame(new).T, old[~old.index.isin(new)]]).sort_index().rename_axis('seed')
    frame.to_csv(path, float_format='%.5g')
    return pd.read_csv(path, index_col='seed')


def modular_rows():
    frame = seeds()
    first, rows = frame.loc[0], []
    spread = lambda k: f"seeds {', '.join(map(str, frame.index))}: {', '.join(f'{v:.5g}' for v in frame[k])}" if len(frame) > 1 else ''
    for k, published in PUBLISHED.items(): rows.append((k, published, f'{first[k]:.5g}', spread(k)))
    rows += [('effective frequencies, first and last', '57 to 36.5', f"{first['first frequencies']:.1f} to {first['last frequencies']:.1f}", spread('last frequencies')),
             ('first step of each phase', '0 124 1545 7517 24953', first['phase starts'], 'cost: dissimilarity'),
             ('mean similarity inside phases', '.903 .889 .899 .808 .940', first['inside'], ''),
             ('mean similarity to the next phase', '.417 .661 .429 .617', first['to next'], ''),
             ('correlation of tensor with output', '.998', f"{first['tensor with output']:.4f}", 'behaviour already shows this one; ' + spread('tensor with output')),
             ('correlation of tensor with exact', '', f"{first['tensor with exact']:.4f}", 'exact: all P^2 inputs, from the weights')]
    return pd.DataFrame([('modular addition', *r) for r in rows], columns=['experiment', 'quantity', 'published', 'measured', 'note'])


def language_rows():
    rows = []
    for folder in sorted(RESULTS.glob('language_*')):
        table = load_table(folder)
        name, last, gap, r = folder.name.replace('language_', 'language, '), checkpoint_summary(table).iloc[-1], closure_error(table), measure_correlations(table)
        rows += [(name, k, '', f'{last[k]:.3f}', 'last checkpoint') for k in last.index if not k.endswith('to last')]
        rows += [(name, f'closure minus sampled, root mean square, {k} pairs', '', f"{g['rms']:.3f}", f"largest {g['largest']:.3f}, {g['pairs']:.0f} pairs")
                 for k, g in gap.iterrows()]
        rows += [(name, f'correlation of sampled with {k}', '', f"{r.loc['sampled', k]:.3f}", 'over pairs of checkpoints') for k in MEASURES if k != 'sampled']
    return pd.DataFrame(rows, columns=['experiment', 'quantity', 'published', 'measured', 'note'])


def main():
    for name, rows in (('modular_addition', modular_rows()), ('language', language_rows())):
        if len(rows): rows.to_csv(RESULTS/f'overview_{name}.csv', index=False)
        print(rows.to_string())


if __name__ == '__main__': main()
