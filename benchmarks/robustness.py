"""Does the weight-based similarity follow behaviour when the inputs are not standard? Six laws of the paper's appendix, five metrics.

    python benchmarks/robustness.py [--quick] [--seeds 5] [--steps 4096] [--laws 'correlated gaussian' ...] [--run-dir DIR] [--csv FILE]

The experiment itself is `tensorsim_nb.robustness`; this prints its table and the processor time. r is Pearson's correlation of a
metric with the pooled cosine of outputs on fresh inputs, over all pairs of checkpoints; low and high resample the runs; null is the
largest of 20 correlations with shuffled checkpoints. nbs/experiments/05_robustness.ipynb sets it beside the published numbers.
"""
import argparse, tempfile, time

import torch

from tensorsim_nb.robustness import LAWS, METRICS, RobustnessConfig, robustness, robustness_table


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help="2 seeds of 256 steps")
    p.add_argument('--seeds', type=int)
    p.add_argument('--steps', type=int)
    p.add_argument('--laws', nargs='+', choices=LAWS, default=LAWS)
    p.add_argument('--run-dir', help="keep checkpoints there, and go on from them")
    p.add_argument('--csv')
    args = p.parse_args()
    torch.set_num_threads(1)
    given = {k: v for k, v in dict(n_seed=args.seeds, steps=args.steps, laws=tuple(args.laws)).items() if v is not None}
    config = RobustnessConfig.quick(**given) if args.quick else RobustnessConfig(**given)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        table = robustness_table(robustness(config, args.run_dir or folder))
        print(table.pivot(index='law', columns='metric', values='r').loc[list(args.laws), [m for m in METRICS if m in set(table.metric)]].round(6).to_string())
        print(f"{time.process_time() - cpu:.0f} s of processor time, {time.perf_counter() - wall:.0f} s; {int(table.pairs.max())} pairs a law")
    if args.csv: table.to_csv(args.csv, index=False)


if __name__ == '__main__': main()
