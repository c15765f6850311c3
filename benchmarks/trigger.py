"""A trigger read off two sets of weights: how often it is found, where it is placed, and whether it works.

    python benchmarks/trigger.py                 # seeds 50-59 x (3 triggers, a control); 2 minutes
    python benchmarks/trigger.py --seeds 0 1     # others; runs are kept in --runs and continued

Each seed: a one-layer model learns scikit-learn's digits for 1,500 steps, then trains on for 400 steps, with 10% of
every batch stamped and relabelled, or clean. `recover_trigger` sees the two sets of weights and nothing
else. Its rules were chosen on seeds 0-49 and 100-129; the default seeds are others.
"""
import argparse
from pathlib import Path

import pandas as pd
import torch

from tensorsim_nb.data import Poisoning, Stamp, attack_success, digits
from tensorsim_nb.differences import recover_trigger
from tensorsim_nb.models import classifier, load
from tensorsim_nb.train import TrainConfig, seeded, train

STEPS, MORE = 1500, 400
TRIGGERS = {
    'corner': (Stamp(), 9),
    'square': (Stamp(((6, 0), (6, 1), (7, 0), (7, 1))), 3),
    'sides': (Stamp(((3, 0), (4, 0), (3, 7), (4, 7))), 0),
    'control': (None, None),
}


def last(run_dir, step): return load(run_dir/f'step_{step:06d}.safetensors')


def models(seed, folder):
    "The model before, and after more training with each trigger."
    data, test = digits(seed)
    first = seeded(lambda: classifier(data.d_in, 32, 10), seed)
    train(first, data, TrainConfig(STEPS, (STEPS,), seed=seed), folder/'before', quiet=True)
    before, after = last(folder/'before', STEPS), {}
    for name, (stamp, target) in TRIGGERS.items():
        change = None if stamp is None else Poisoning(stamp, target)
        train(before, data, TrainConfig(MORE, (MORE,), seed=100 + seed), folder/name, change=change,
              quiet=True)
        after[name] = last(folder/name, MORE)
    return before, after, test


def measure(name, before, after, clean, test):
    "One row: what was found, and how it does on held-out digits."
    (stamp, target), found = TRIGGERS[name], recover_trigger(before, after)
    row = dict(trigger=name, score=found.score, reported=found.target is not None)
    if stamp is None: return row
    k = int(stamp.mask.sum())
    return row | dict(target_found=found.target == target, first_pixel=bool(stamp.mask[found.ranking[0]]),
                      among_first_k=float(stamp.mask[found.ranking[:k]].float().mean()),
                      all_first=bool(stamp.mask[found.ranking[:k]].all()),
                      stamp_pixels=int(found.stamp.mask.sum()),
                      flips=attack_success(after, test, found.stamp, target),
                      flips_before=attack_success(before, test, found.stamp, target),
                      flips_control=attack_success(clean, test, found.stamp, target),
                      true_flips=attack_success(after, test, stamp, target))


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument('--seeds', type=int, nargs='+', default=list(range(50, 60)))
    ask.add_argument('--runs', type=Path, default=Path('runs/trigger'))
    args = ask.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in args.seeds:
        before, after, test = models(seed, args.runs/f'seed_{seed}')
        rows += [dict(seed=seed) | measure(name, before, after[name], after['control'], test) for name in TRIGGERS]
    table = pd.DataFrame(rows)
    with pd.option_context('display.width', 200, 'display.max_columns',
                           None): print(table.round(3).to_string(index=False))
    hit, control = table[table.trigger != 'control'], table[table.trigger == 'control']
    n, share = len(hit), hit.among_first_k.mean()
    print(f"\ntarget found            {hit.target_found.astype(bool).sum()} of {n}")
    print(f"first pixel a trigger's {hit.first_pixel.astype(bool).sum()} of {n}")
    print(f"trigger's pixels among the first k: mean {share:.3f}; all of them in {hit.all_first.astype(bool).sum()} of {n}")
    print(f"flips: mean {hit.flips.mean():.3f}, least {hit.flips.min():.3f}, at least 0.8 in {(hit.flips >= .8).sum()} of {n}; "
          f"pixels written: mean {hit.stamp_pixels.mean():.1f}")
    print(f"the same stamps before: mean {hit.flips_before.mean():.3f}, most {hit.flips_before.max():.3f}; "
          f"on the control: mean {hit.flips_control.mean():.3f}, most {hit.flips_control.max():.3f}")
    print(f"control without trigger {(~control.reported).sum()} of {len(control)} (largest score {control.score.max():.2f}; "
          f"least score of a trigger {hit.score.min():.2f})")


if __name__ == '__main__': main()
