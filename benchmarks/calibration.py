"""Do the printed intervals cover? Every sampled quantity of a pair and of a Gram, many runs in a cheap setting, truth exact.

    python benchmarks/calibration.py [--runs 1000] [--draws 1000] [--json FILE]

One-layer models of 4 inputs (finite moments of every order). `coverage.py` beside this file has the hard cases: two and three layers, mixtures.
"""
import argparse, json

import torch

import tensorsim_nb as ts


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--runs', type=int, default=1000)
    p.add_argument('--draws', type=int, default=1000)
    p.add_argument('--json')
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    a, b = (ts.classifier(4, 5, 3).double() for _ in range(2))
    b = a + .5*b
    pair = {f.__name__: f for f in (ts.similarity, ts.inner, ts.distance)} | {'norm': lambda x, y, **o: ts.norm(x, **o)}
    truth, exact = {k: f(a, b).value for k, f in pair.items()}, ts.gram([a, b], progress=False)
    hits = {}
    for seed in range(args.runs):
        o = dict(method='sample', n=args.draws, seed=seed, progress=False)
        for k, f in pair.items():
            low, high = f(a, b, **o).interval()
            hits.setdefault(k, []).append(low <= truth[k] <= high)
        g = ts.gram([a, b], **o)
        for k in ('similarity', 'inner', 'distance'):
            hits.setdefault(f'gram {k}', []).append(abs(getattr(g, k)[0, 1] - getattr(exact, k)[0, 1]) <= 1.959964*g.stderr(k)[0, 1])
    found = {k: sum(v)/len(v) for k, v in hits.items()}
    for k, v in found.items(): print(f'{k:16} covered {v:.3f} of {args.runs}')
    if args.json:
        with open(args.json, 'w') as f: json.dump(dict(runs=args.runs, draws=args.draws, covered=found), f, indent=1)


if __name__ == '__main__': main()
