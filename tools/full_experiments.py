"""Run an experiment at full size and keep its table: `python tools/full_experiments.py modular_addition`.

Checkpoints go to runs/ (not in git; an unfinished run is continued), the table, with numbers rounded to 5 digits,
to nbs/experiments/results/NAME. The seconds of training and of comparing are written beside it.
Name several to run them one after the other; `--seed N` runs another seed (and keeps it under NAME_seedN).
"""
import argparse, dataclasses, json, os, sys, time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RESULTS = ROOT/'nbs'/'experiments'/'results'


def modular_addition(seed, run_dir):
    from tensorsim_nb.modular_addition import ModularConfig, modular_addition
    return modular_addition(ModularConfig(seed=seed), run_dir)


def robustness(seed, run_dir):
    from tensorsim_nb.robustness import RobustnessConfig, robustness, robustness_table
    config = RobustnessConfig(seed=seed)
    pairs = robustness(config, run_dir)
    some = pairs.groupby('name', sort=False).sample(300, random_state=0)   # enough for a picture
    return dict(settings=dataclasses.asdict(config), table=robustness_table(pairs), some_pairs=some)


def language(**settings):
    def run(seed, run_dir):
        from tensorsim_nb.language import LanguageConfig, language
        return language(LanguageConfig(seed=seed, **settings), run_dir)
    return run


def only(table, names):
    "A table of checkpoints with some of its matrices."
    return dataclasses.replace(table, matrices={k: table.matrices[k] for k in names})


def backdoor(seed, run_dir):
    from tensorsim_nb.experiments import BackdoorConfig, backdoor, backdoor_seeds
    from tensorsim_nb.models import load
    from tensorsim_nb.nulls import null_levels
    from tensorsim_nb.train import checkpoints
    config = BackdoorConfig(seed=seed)
    gaps = backdoor_seeds(config, 5, run_dir)
    ends = [load(checkpoints(run_dir/f'seed{s}'/'backdoor')[-1][1]) for s in range(seed, seed + 5)]
    table, control = backdoor(config, run_dir/f'seed{seed}')
    return dict(settings=dataclasses.asdict(config), gaps=gaps, levels=null_levels(ends[0], ends[1:], seed=1000), table=table, control=control)


def forgetting(seed, run_dir):
    import pandas as pd
    from tensorsim_nb.forgetting import MEASURES, ForgettingConfig, contrast_table, diffing, diffing_seeds, forgetting, forgetting_seeds
    config = ForgettingConfig(seed=seed)
    values = forgetting_seeds(config, 5, run_dir/'seeds')
    ends = diffing_seeds(config, 5, run_dir/'seeds')
    table, _ = forgetting(config, run_dir/'seeds'/f'seed{seed}')
    scan = []
    for decay in (.5,): # the published one
        t = contrast_table(*forgetting(dataclasses.replace(config, weight_decay=decay, n_checkpoint=2), run_dir/f'decay{decay}'), MEASURES)
        scan.append(t.reset_index().assign(weight_decay=decay))
    return dict(settings=dataclasses.asdict(config), seeds=values, diffing=ends, decay=pd.concat(scan),
                run=diffing(config, run_dir/'seeds'/f'seed{seed}'), table=only(table, ['gaussian', 'CKA', 'matrix', 'slice 9', 'slice 3']))


EXPERIMENTS = dict(
    backdoor=backdoor,
    forgetting=forgetting,
    robustness=robustness,
    modular_addition=modular_addition,
    language_english=language(),
    language_ngrams=language(source='ngrams', d_vocab=16, n_ctx=4, steps=6000, n_train=200_000),
    language_repeats=language(source='repeats', d_vocab=8, n_ctx=8, d_model=16, steps=2000, lr=5e-3))


def rounded(table, digits=5):
    "The same table with fewer digits, so that it is small on disk."
    curves = table.curves.assign(value=table.curves.value.map(lambda v: float(f'{v:.{digits}g}')))
    return dataclasses.replace(table, curves=curves, matrices={k: m.round(digits) for k, m in table.matrices.items()})


def keep(result, folder, meta):
    "Write a table of checkpoints, or several tables by name, with few digits."
    from tensorsim_nb.experiments import CheckpointTable, save_frame
    if isinstance(result, CheckpointTable): return rounded(result).save(folder)
    meta = meta | dict(settings=result.pop('settings', None))
    for name, part in result.items():
        if isinstance(part, CheckpointTable): rounded(part).save(folder/name)
        else: save_frame(part.map(lambda v: float(f'{v:.6g}') if isinstance(v, float) else v), folder/name, meta)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='+', choices=EXPERIMENTS)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    for name in args.names:
        folder = name + (f'_seed{args.seed}' if args.seed else '')
        wall, cpu = time.time(), time.process_time()
        table = EXPERIMENTS[name](args.seed, ROOT/'runs'/folder)
        spent = dict(wall_seconds=round(time.time() - wall), cpu_seconds=round(time.process_time() - cpu),
                     command=f"python tools/full_experiments.py {name}" + (f' --seed {args.seed}' if args.seed else ''))
        keep(table, RESULTS/folder, spent)
        (RESULTS/folder/'time.json').write_text(json.dumps(spent, indent=1) + '\n', encoding='utf-8')
        print(folder, spent)


if __name__ == '__main__': main()
