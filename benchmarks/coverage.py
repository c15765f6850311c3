"""Do the intervals cover? Four reference pairs whose truth is known, many runs each, the share of 95% intervals that hold the truth.

    python benchmarks/coverage.py [--runs 1000] [--draws 32768] [--threads 1] [--plain] [--json FILE]

Truth: exact for two layers and for a mixture; for three layers a grid (3 inputs). `--plain` adds the control, plain sampling with the same
number of draws, which is known to cover too little where tails are heavy.
"""
import argparse, copy, json, math, time

import torch

import tensorsim_nb as ts
from tensorsim_nb.sampling import average
from tensorsim_nb.similarity import PairValues


def perturbed(a, share, seed=1):
    torch.manual_seed(seed)
    b = copy.deepcopy(a)
    with torch.no_grad():
        for p in b.parameters(): p += share*p.std()*torch.randn_like(p)
    return b


def grow(m, scale):
    with torch.no_grad():
        for p in m.parameters(): p *= scale
    return m


def references():
    "Name -> (a, b, law)."
    torch.manual_seed(0)
    two = grow(ts.deep_mlp(16, 16, 32, 4, 2, bias=True, residual=.5).double(), 1.5)
    pure = ts.deep_mlp(8, 8, 16, 3, 2).double()
    three = grow(ts.deep_mlp(3, 3, 6, 2, 3, bias=True, residual=.7).double(), .8)
    law = ts.Mixture([ts.Gaussian(), ts.Gaussian(mean=[.5]*8, cov=torch.linspace(.2, 2, 8))], [.6, .4])
    return dict(two_layers=(two, perturbed(two, .5), ts.Gaussian()), two_layers_no_skip=(pure, perturbed(pure, .2), ts.Gaussian()),
                three_layers=(three, perturbed(three, .3), ts.Gaussian()), mixture=(pure, perturbed(pure, .2), law))


def cosine(mean, errors, z=1.959964):
    "Similarity, and the interval's half width, by the delta method."
    aa, ab, bb = map(float, mean)
    s = ab/math.sqrt(aa*bb)
    g = torch.tensor([-s/(2*aa), 1/math.sqrt(aa*bb), -s/(2*bb)], dtype=torch.float64)
    return s, z*math.sqrt(max(0., float(g @ errors @ g)))


def run(a, b, law, runs, draws, plain):
    truth = ts.similarity(a, b, law, method='exact', max_nodes=10**7).value
    opts = dict(dtype=torch.float64, device='cpu')
    hits, crude_hits, widths, start = 0, 0, [], time.perf_counter()
    for seed in range(runs):
        with torch.no_grad():
            got = average(PairValues(a, b, opts), law, a.d_in, degree=a.degree, n=draws, seed=seed, progress=False)
            s, half = cosine(got.mean, got.errors)
            hits += abs(s - truth) <= half
            widths.append(half)
            if plain:
                v = PairValues(a, b, opts)(law.sample(draws, a.d_in, seed=seed))
                s, half = cosine(v.mean(0), torch.cov(v.T)/draws)
                crude_hits += abs(s - truth) <= half
    return dict(truth=truth, coverage=hits/runs, plain_coverage=crude_hits/runs if plain else None, half_width=sum(widths)/runs, runs=runs, draws=draws,
                seconds=time.perf_counter() - start)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--runs', type=int, default=1000)
    p.add_argument('--draws', type=int, default=32_768)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--plain', action='store_true')
    p.add_argument('--only')
    p.add_argument('--json')
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    found = {}
    for name, (a, b, law) in references().items():
        if args.only and args.only != name: continue
        r = found[name] = run(a, b, law, args.runs, args.draws, args.plain)
        control = '' if r['plain_coverage'] is None else f"   plain {r['plain_coverage']:.3f}"
        print(f"{name:20} similarity {r['truth']:+.4f}   covered {r['coverage']:.3f} of {r['runs']}   half width {r['half_width']:.2e}{control}   {r['seconds']:.0f} s", flush=True)
    if args.json:
        with open(args.json, 'w') as f: json.dump(found, f, indent=1)


if __name__ == '__main__': main()
