"""Cosine of two transformers: time, counted work, memory, and plain sampling beside it.

python benchmarks/attention.py                     the five sizes
python benchmarks/attention.py --growth out.png    growth with context, depth, width of a head and heads, against the count
Wall time depends on who else uses the cores; processor time and the count do not (much). Give --threads 1 on a shared machine.
"""
import argparse, math, os, resource, statistics, time

import torch

from tensorsim_nb.laws import Gaussian
from tensorsim_nb.models import transformer
from tensorsim_nb.moments import cross_inner, propagate
from tensorsim_nb.similarity import similarity
from tensorsim_nb import sequences

SIZES = { # vocabulary, d_model, heads, context, layers, bias; the goal in seconds on two idle cores
    'tiny': ((32, 16, 2, 4, 2, True), .06), 'small': ((256, 64, 4, 4, 2, True), .45), 'long': ((64, 32, 2, 32, 1, False), .9),
    'deep': ((64, 64, 4, 16, 2, False), 9.), 'language': ((4096, 256, 8, 4, 2, True), None)}

def pair_flops(e:int, n:int=4) -> float:
    "Floating point operations for one pair of terms with `n` scores in all, of width e."
    walk = sum(4*(n - t)*t*math.comb(n, t) for t in range(1, n))  # t scores stacked, n - t new ones, 2e x 2e each, e rows
    loops = {1: 0, 2: 0, 3: 1, 4: 7}[n]*8                      # products of 2e x 2e
    close = 2*{1: 1, 2: 2, 3: 5, 4: 8}[n]                       # e x 2e by 2e x e, once for each set of last scores
    return 2*(walk + loops + close)*e**3

def counted(v, d, h, n, layers, bias) -> float:
    "Operations of one inner product between two causal models of one size (a self product needs about half)."
    e, total = d//h, 0.
    for layer in range(layers):
        last, first = layer == layers - 1, layer == 0
        if first and n >= sequences.INDEPENDENT:
            total += n*h*h*pair_flops(e)                                                     # q = k
            total += n*(n - 1)/2*h*h*(2*pair_flops(e) if bias else 3*pair_flops(e, 2) + 124*e**3) # pairs that meet twice
            if not last: total += sum((n - 1 - p)**2 for p in range(n))*h*h*pair_flops(e, 2) # what keys explain
            continue
        sets = [{q, k} for q in range(n) for k in range(q + 1)]
        pairs = sum((q + 1)**2 for q in range(n)) if last else sum(bool(s & t) or not first for s in sets for t in sets)
        total += pairs*h*h*pair_flops(e)
    return total

def cosine(a, b, dtype=torch.float64):
    with torch.no_grad():
        p, q = propagate(a, Gaussian(), dtype=dtype), propagate(b, Gaussian(), dtype=dtype)
        ab, aa, bb = cross_inner(p, q), p.power, q.power
        return float(ab.mantissa/(aa.mantissa*bb.mantissa).sqrt())*2.**(ab.exponent - (aa.exponent + bb.exponent)/2)

def measure(size, runs, dtype=torch.float64, seed=0):
    v, d, h, n, layers, bias = size
    torch.manual_seed(seed)
    a, b = (transformer(v, d, h, n, layers, bias=bias) for _ in 'ab')
    times = {'cold': [], 'warm': []} # wall, processor
    for _ in range(runs + 1): # the first warms up
        sequences.RECENT.kept.clear()
        for state in times: # warm: the self moments of both models are remembered
            s, c = time.perf_counter(), time.process_time()
            value = cosine(a, b, dtype)
            times[state].append((time.perf_counter() - s, time.process_time() - c))
    (cold, cold_cpu), (warm, warm_cpu) = (zip(*(x[1:] or x)) for x in times.values())
    return a, b, value, statistics.median(cold), min(cold_cpu), statistics.median(warm), min(warm_cpu)

def sampling(a, b, goal=1e-3, n=2048):
    "Seconds that plain sampling would need for a standard error of `goal`."
    s = time.perf_counter()
    e = similarity(a, b, method='sample', n=n)
    return (time.perf_counter() - s)*(e.stderr/goal)**2

def peak(n=1024, runs=4) -> float:
    "Operations a second of a large matrix product, in processor time, so that threads count once each."
    x = torch.randn(n, n, dtype=torch.float64)
    x @ x
    s = time.process_time()
    for _ in range(runs): x @ x
    return 2*runs*n**3/(time.process_time() - s)

def sizes(names, runs):
    print(f"threads {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}; cold: nothing remembered; warm: self moments remembered (median wall, least processor time of {runs} runs)")
    print("Gflop: counted work of the warm run, one product between the two models; peak: a product of two 1024 x 1024 matrices in the same run; bound: Gflop at that peak on one core; sampling: plain, to a standard error of .001")
    print(f"{'size':9s} {'(vocab, d, heads, ctx, layers, bias)':38s} {'cosine':>10s} {'cold s':>8s} {'cpu':>8s} {'warm s':>8s} {'cpu':>8s} {'goal':>6s} {'Gflop':>8s} {'GF/s cpu':>8s} {'peak':>6s} {'bound s':>8s} {'MB':>6s} {'sampling s':>10s}")
    for name in names:
        size, goal = SIZES[name]
        a, b, value, cold, cpu, warm, warm_cpu = measure(size, runs)
        work, top = counted(*size)/1e9, peak()/1e9
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
        print(f"{name:9s} {str(size):38s} {value:10.6f} {cold:8.3f} {cpu:8.3f} {warm:8.3f} {warm_cpu:8.3f} {goal or '':>6} {work:8.2f} {work/warm_cpu:8.1f} {top:6.1f} {work/top:8.3f} {memory:6d} {sampling(a, b):10.1f}", flush=True)

def growth(path, runs):
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    base = dict(v=16, d=16, h=2, n=4, layers=2, bias=False)
    sweeps = {'context': [dict(base, n=n, layers=1) for n in (6, 12, 24, 48)], 'context, two layers': [dict(base, n=n) for n in (6, 9, 12, 16)], 'layers': [dict(base, layers=x) for x in (2, 3, 4)],
              'width of a head': [dict(base, d=d) for d in (16, 32, 64)], 'heads': [dict(base, h=h, d=8*h) for h in (1, 2, 4, 8)]}
    axis = {'context': 'n', 'context, two layers': 'n', 'layers': 'layers', 'width of a head': 'd', 'heads': 'h'}
    fig, axes = plt.subplots(1, len(sweeps), figsize=(4*len(sweeps), 3.4), layout='constrained')
    for ax, (name, models) in zip(axes, sweeps.items()):
        xs = [m[axis[name]]//(m['h'] if name == 'width of a head' else 1) for m in models]
        got = [measure(tuple(m.values()), runs)[6] for m in models]
        want = [counted(*m.values())/1e9 for m in models]
        print(name, *(f"({x}, {t:.4f}, {w:.4f})," for x, t, w in zip(xs, got, want)), flush=True)
        ax.loglog(xs, got, 'o-', color='#0072B2', label='measured')
        ax.loglog(xs, [w*got[-1]/want[-1] for w in want], 's--', color='#D55E00', label='count, scaled to the last point')
        ax.set(title=f'Growth with {name}', xlabel=name, ylabel='processor time (s)')
    axes[0].legend()
    fig.savefig(path, dpi=120)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', default=list(SIZES))
    p.add_argument('--runs', type=int, default=5)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--growth', metavar='PNG')
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    growth(args.growth, args.runs) if args.growth else sizes(args.names, args.runs)
