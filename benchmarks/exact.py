"""Exact depth 2 against sampling: seconds for a similarity, and what sampling needs for the same with a relative error of 1e-3.

    python benchmarks/exact.py [--threads 2] [--sizes 16,32,10 32,64,10 64,128,10 128,256,10] [--json FILE]

The pair is a random two-layer model (embedding, two bilinear layers with a skip path, head) and the same with 50% noise on its weights.
Wall time is the best of `--repeat` runs; processor time is printed beside it, since a shared machine stretches the first only.
"""
import argparse, copy, json, time

import torch

from tensorsim_nb.hermite import hermite_parts, split_flops
from tensorsim_nb.laws import Gaussian
from tensorsim_nb.models import deep_mlp
from tensorsim_nb.similarity import inner, plan, products, similarity

TARGET = 1e-3


def pair(d, hidden, out):
    "A model and a perturbed copy."
    torch.manual_seed(0)
    a = deep_mlp(d, d, hidden, out, n_layer=2, residual=.5).double()
    b = copy.deepcopy(a)
    with torch.no_grad():
        for p in b.parameters(): p += .5*p.std()*torch.randn_like(p)
    return a, b


def timed(f, repeat):
    "Best wall time, least processor time, and the result."
    walls, cpus = [], []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        result = f()
        walls.append(time.perf_counter() - wall), cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus), result


def draws_needed(got, n):
    "Draws for the target, from the standard error at n draws."
    return n*(got.stderr/abs(got.value)/TARGET)**2


def plain(a, b, n):
    "Plain sampling, without the mixture: the similarity's relative error at n draws, by the delta method."
    x = Gaussian().sample(n, a.d_in, seed=1)
    with torch.no_grad(): f, g = a(x), b(x)
    v = torch.stack([(f*f).sum(1), (f*g).sum(1), (g*g).sum(1)], 1)
    aa, ab, bb = v.mean(0)
    grad = torch.stack([-.5/aa, 1/ab, -.5/bb])
    return float((grad @ torch.cov(v.T) @ grad/n).sqrt())


def row(d, hidden, out, repeat, n):
    a, b = pair(d, hidden, out)
    wall, cpu, exact = timed(lambda: similarity(a, b, method='exact'), repeat)
    with torch.no_grad(): one, one_cpu, _ = timed(lambda: inner(a, b, method='exact'), 1)
    with torch.no_grad(): parts, _, _ = timed(lambda: hermite_parts(a), repeat)
    sample, sample_cpu, got = timed(lambda: similarity(a, b, method='sample', n=n, seed=1), repeat)
    crude, crude_cpu, error = timed(lambda: plain(a, b, n), repeat)
    return dict(d=d, hidden=hidden, out=out, similarity=exact.value, seconds=wall, cpu_seconds=cpu, part_seconds=parts,
                gflop_counted=plan(a, b).chosen.flops/1e9, gflop_split_one_product=split_flops(hidden, d, hidden, hidden)/1e9,
                sampled=got.value, stderr=got.stderr, off_by_stderr=(got.value - exact.value)/got.stderr,
                plain_seconds_for_1e3=crude*(error/TARGET)**2, plain_draws_for_1e3=n*(error/TARGET)**2,
                weighted_seconds_for_1e3=sample*draws_needed(got, n)/n, weighted_draws_for_1e3=draws_needed(got, n))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--sizes', nargs='+', default=['16,32,10', '32,64,10', '64,128,10', '128,256,10'])
    p.add_argument('--repeat', type=int, default=3)
    p.add_argument('--draws', type=int, default=20_000)
    p.add_argument('--json')
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads. All three products of a pair, own parts included.")
    print(f"{'d,hidden,out':>14} {'exact s':>8} {'cpu s':>7} {'Gflop':>7} | {'plain sampling to 1e-3':>24} | {'weighted sampling':>20} | sampled - exact")
    rows = []
    for size in args.sizes:
        r = row(*map(int, size.split(',')), args.repeat, args.draws)
        rows.append(r)
        print(f"{size:>14} {r['seconds']:8.3f} {r['cpu_seconds']:7.3f} {r['gflop_counted']:7.2f} | {r['plain_seconds_for_1e3']:8.2f} s {r['plain_draws_for_1e3']:11,.0f} d | "
              f"{r['weighted_seconds_for_1e3']:6.2f} s {r['weighted_draws_for_1e3']:9,.0f} d | {r['off_by_stderr']:+.1f} standard errors", flush=True)
    if args.json:
        with open(args.json, 'w') as f: json.dump(rows, f, indent=1)


if __name__ == '__main__': main()
