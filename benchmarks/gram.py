"""N x N of checkpoints: against a plain pairwise loop, and against this machine's own matrix product in the same minute.

    python benchmarks/gram.py                about three minutes on two idle cores
    python benchmarks/gram.py --threads 1    where others use the machine: threads that wait for each other are slowed most
    python benchmarks/gram.py --full         also 1 GiB at N = 300 and all pairs of the 100 transformers

Every line is the median of rounds; each round measures the matrix product, `gram` and the loop side by side, because other work may share the machine.
The loop computes three inner products a pair with the same kernel formula in plain torch, without any checks; a part of its pairs is timed and scaled up.
`limit` is counted operations of the chosen path over the speed of a large float64 product (2048, the fastest shape), `of limit` how near the whole call comes to it, checks
and conversion of weights included; `of cpu` is the same by processor seconds, which other work on the machine disturbs less.
"""
import argparse, os, statistics, subprocess, sys, time

import torch

import tensorsim_nb as ts
from tensorsim_nb.gram import gram
from tensorsim_nb.models import transformer

torch.set_grad_enabled(False)


def both(f):
    "Wall and processor seconds."
    start, cpu = time.perf_counter(), time.process_time()
    f()
    return time.perf_counter() - start, time.process_time() - cpu


def seconds(f): return both(f)[0]


def peak(n=2048, least=.6):
    "Operations of a float64 matrix product a wall second, and a processor second, over a while."
    a = torch.randn(n, n, dtype=torch.float64)
    out, done, t, c = torch.empty_like(a), 0, 0., 0.
    torch.mm(a, a, out=out)
    while t < least:
        u, v = both(lambda: torch.mm(a, a, out=out))
        done, t, c = done + 1, t + u, c + v
    return done*2*n**3/t, done*2*n**3/c


def checkpoints(n, d, h, o, seed=0):
    torch.manual_seed(seed)
    return [ts.classifier(d, h, o) for _ in range(n)]


def loop_pair(a, b):
    "Similarity of two one-layer models, all three inner products."
    def inner(p, q):
        (L, R, D), (M, S, E) = p, q
        K = (L @ M.T)*(R @ S.T) + (L @ S.T)*(R @ M.T)
        return (D @ K @ E.T).trace() + (D @ (L*R).sum(1)) @ (E @ (M*S).sum(1))
    return inner(a, b)/(inner(a, a)*inner(b, b)).sqrt()


def loop(models, most=1.5):
    "Seconds for all pairs, from as many as fit in `most` seconds."
    ready = [(m[0].left.weight.double(), m[0].right.weight.double(), (m[1].weight @ m[0].down.weight).double()) for m in models]
    pairs, done, start = len(models)*(len(models) - 1)//2, 0, time.perf_counter()
    while time.perf_counter() - start < most and done < pairs:
        loop_pair(ready[done % len(ready)], ready[(3*done + 1) % len(ready)])
        done += 1
    return (time.perf_counter() - start)/done*pairs


def agreement(models):
    "Largest difference from the pairwise call, over a few pairs."
    g = gram(models[:4], progress=False)
    return max(abs(g.similarity[i, j] - float(ts.similarity(models[i], models[j], method='closure'))) for i in range(4) for j in range(4))


def one_layer(n, d, h, o, rounds):
    models, found = checkpoints(n, d, h, o), []
    for _ in range(rounds):
        before, holder = peak(), []
        t, c = both(lambda: holder.append(gram(models, progress=False)))
        plan, (p, q) = holder[0].plan, ((x + y)/2 for x, y in zip(before, peak()))
        flops = plan.flops[plan.path]
        found.append((t, loop(models)/t, flops/p, flops/p/t, flops/q/c, p))
    t, ratio, limit, share, share_cpu, p = (statistics.median(x) for x in zip(*found))
    print(f'{f"({n}, {d}, {h}, {o})":24}{plan.path:10}{t:8.2f} s{ratio:9.1f}x{limit:8.2f} s{share:9.0%}{share_cpu:8.0%}{p/1e9:9.0f} GF/s{agreement(models):12.1e}', flush=True)
    return t


def memory(n, d, h, o, bound):
    "Peak memory of one call beyond what was in use, in a fresh process (Linux)."
    code = f"""
import re, sys, torch
torch.set_num_threads({torch.get_num_threads()})
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from gram import checkpoints
from tensorsim_nb.gram import gram
gram(checkpoints(4, 32, 8, 3), progress=False) # what the first call loads is not counted
models = checkpoints({n}, {d}, {h}, {o})
open('/proc/self/clear_refs', 'w').write('5') # the peak starts again at what is in use now
rss = lambda name: int(re.search(name + r':\\s+(\\d+)', open('/proc/self/status').read())[1])
before = rss('VmRSS')
g = gram(models, max_memory={bound}, progress=False)
print(rss('VmHWM') - before, g.plan.memory, g.plan.blocks, g.plan.path)
"""
    t = time.perf_counter()
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    print(f'{f"({n}, {d}, {h}, {o})":24}{bound/2**20:10.0f}{int(out[1])/2**20:10.0f}{int(out[0])/1024:10.0f}{out[2]:>9} {out[3]:10}{time.perf_counter() - t:7.0f} s', flush=True)


def growth(d, h, o, sizes):
    before = None
    for n in sizes:
        models = checkpoints(n, d, h, o)
        t = min(seconds(lambda: gram(models, progress=False)) for _ in range(2))
        print(f'{f"({n}, {d}, {h}, {o})":24}{t:8.2f} s{t/n**2*1e6:12.1f}{"" if before is None else f"{t/before:10.1f}x"}', flush=True)
        before = t


def products_of(f):
    "Operations of the matrix products that `f` calls, counted by torch."
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as count: f()
    return count.get_total_flops()


def deep(n, full):
    torch.manual_seed(0)
    models = [transformer(32, 16, 2, 4, 2) for _ in range(n)]
    ts.similarity(*models[:2], method='sample', n=1024)
    def line(name, few, loops, **options):
        flops = products_of(lambda: gram(few, progress=False, **options))
        before = peak()
        t, c = both(lambda: gram(few, progress=False, **options))
        p, q = ((x + y)/2 for x, y in zip(before, peak()))
        pair = statistics.median(seconds(lambda: ts.similarity(models[0], models[1], **options)) for _ in range(loops))
        whole = pair*len(few)*(len(few) - 1)/2
        print(f'{name}: {t:.1f} s ({c:.1f} s processor) for {len(few)} models; the pairwise loop {whole:.0f} s ({whole/t:.1f}x); '
              f'{flops/1e9:.2f} GF of matrix products, {flops/p/t:.0%} of their peak ({flops/q/c:.0%} by processor time)', flush=True)
    line('sample, 8192 draws', models, 3, method='sample', n=8192)
    line('closure', models if full else models[:12], 3, method='closure')


def main(full):
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}\n')
    print(f'{"(N, d, hidden, out)":24}{"path":10}{"gram":>10}{"loop":>10}{"limit":>10}{"of limit":>9}{"of cpu":>8}{"matmul":>14}{"difference":>12}')
    for size, rounds in (((41, 1024, 64, 10), 7), ((90, 226, 64, 113), 7), ((100, 784, 256, 10), 3), ((300, 784, 256, 10), 1)): one_layer(*size, rounds)
    print(f'\n{"peak memory, MiB":24}{"bound":>10}{"planned":>10}{"measured":>10}{"blocks":>9} path')
    for bound in (2**31, 2**30) if full else (2**31,): memory(300, 784, 256, 10, bound)
    for bound in (2**31, 2**27, 2**25): memory(90, 226, 64, 113, bound)
    print(f'\n{"time against N":24}{"gram":>10}{"us per N^2":>12}{"growth":>10}')
    growth(226, 64, 113, (25, 50, 100, 200, 400))
    growth(784, 256, 10, (12, 25, 50))
    print('\n100 transformers (vocabulary 32, width 16, 2 heads, context 4, 2 layers)')
    deep(100, full)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--full', action='store_true', help="the long lines too")
    parser.add_argument('--threads', type=int, default=2, help="threads of torch (2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    main(args.full)
