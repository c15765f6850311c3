"""N x N of checkpoints: against a plain pairwise loop, and against this machine's own matrix product in the same minute.

    python benchmarks/gram.py                about three minutes on two idle cores
    python benchmarks/gram.py --threads 1    where others use the machine: threads that wait for each other are slowed most
    python benchmarks/gram.py --full         also 1 GiB at N = 300 and all pairs of the 100 transformers

Every line is the median of rounds; each round measures the matrix product, `gram` and the loops side by side, because other work may share the machine.
Four loops over the pairs, all in float64; of each a part of the pairs is timed, for a second or so, and scaled up to all:

    plain     the one to beat: each pair on its own, from the weights of its two models, three inner products, nothing remembered; the kernel formula in plain torch
              without checks (N (N + 1)/2 pairs: with a model and itself, as the published scripts loop)
    prepared  the same products, with every model's weights converted and its head folded in before the clock starts, and without the pairs of a model with itself
    ours      `ts.similarity`, pair by pair, with all its checks (self terms are remembered for models over positions, not for these)
    dense     as the published one-layer scripts do: the (out, d, d) tensors of both models are formed for every pair

`limit` is counted operations of the chosen path over the speed of a large float64 product (2048, the fastest shape), `of limit` how near the whole call comes to it, checks
and conversion of weights included; `of cpu` is the same by processor seconds, which other work on the machine disturbs less.
For the transformers the loop calls `ts.similarity`: `plain` forgets before each pair, `remembered` finds both self terms by content.
"""
import argparse, os, statistics, subprocess, sys, time

import torch

import tensorsim_nb as ts
from tensorsim_nb.gram import gram
from tensorsim_nb.models import transformer
from tensorsim_nb.sequences import RECENT

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


def factors(m):
    "Left, right and output weights of a one-layer model, in float64."
    return m[0].left.weight.double(), m[0].right.weight.double(), m[1].weight.double() @ m[0].down.weight.double()


def kernel_inner(p, q):
    "E[f(x) g(x)] by the kernel formula."
    (L, R, D), (M, S, E) = p, q
    K = (L @ M.T)*(R @ S.T) + (L @ S.T)*(R @ M.T)
    return (D @ K @ E.T).trace() + (D @ (L*R).sum(1)) @ (E @ (M*S).sum(1))


def dense(p):
    "The interaction matrices of all outputs."
    L, R, D = p
    M = torch.einsum('oh,hi,hj->oij', D, L, R)
    return (M + M.transpose(1, 2))/2


def dense_inner(A, B): return 2*(A*B).sum() + A.diagonal(dim1=1, dim2=2).sum(1) @ B.diagonal(dim1=1, dim2=2).sum(1)


def cosine(a, b, inner): return inner(a, b)/(inner(a, a)*inner(b, b)).sqrt()


def plain_pair(a, b): return cosine(factors(a), factors(b), kernel_inner)
def prepared_pair(p, q): return cosine(p, q, kernel_inner)
def dense_pair(a, b): return cosine(dense(factors(a)), dense(factors(b)), dense_inner)
def our_pair(a, b): return ts.similarity(a, b, method='exact')


def loop(pair, models, selves=1, most=1.):
    "Seconds for all pairs, from as many as fit in `most` seconds."
    n, done = len(models), 0
    pairs, start = n*(n - 1)//2 + selves*n, time.perf_counter()
    while time.perf_counter() - start < most and done < pairs:
        pair(models[done % n], models[(3*done + 1) % n])
        done += 1
    return (time.perf_counter() - start)/done*pairs


def loops(models):
    "Seconds of each loop, by name."
    our_pair(models[0], models[1])
    return dict(plain=loop(plain_pair, models), prepared=loop(prepared_pair, [factors(m) for m in models], 0), ours=loop(our_pair, models), dense=loop(dense_pair, models))


def agreement(models):
    "Largest difference from the pairwise call, over a few pairs."
    g = gram(models[:4], progress=False)
    pairs = [(i, j) for i in range(4) for j in range(4)]
    ours = max(abs(g.similarity[i, j] - float(ts.similarity(models[i], models[j], method='closure'))) for i, j in pairs)
    return max(ours, *(abs(g.similarity[0, 1] - float(f(models[0], models[1]))) for f in (plain_pair, dense_pair)))


def one_layer(n, d, h, o, rounds):
    models, found = checkpoints(n, d, h, o), []
    for _ in range(rounds):
        before, holder = peak(), []
        t, c = both(lambda: holder.append(gram(models, progress=False)))
        plan, (p, q) = holder[0].plan, ((x + y)/2 for x, y in zip(before, peak()))
        flops = plan.flops[plan.path]
        found.append((t, *(s/t for s in loops(models).values()), flops/p, flops/p/t, flops/q/c, p))
    t, *ratios, limit, share, share_cpu, p = (statistics.median(x) for x in zip(*found))
    print(f'{f"({n}, {d}, {h}, {o})":24}{plan.path:10}{t:8.2f} s{"".join(f"{r:9.1f}x" for r in ratios)}{limit:8.2f} s{share:9.0%}{share_cpu:8.0%}{p/1e9:9.0f} GF/s{agreement(models):12.1e}', flush=True)
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
        quiet = dict(progress=False) if options['method'] == 'sample' else {}
        pairs, ask = len(few)*(len(few) - 1)/2, lambda: ts.similarity(models[0], models[1], **options, **quiet)
        plain = pairs*statistics.median(seconds(lambda: (RECENT.kept.clear(), ask())) for _ in range(loops))
        known = pairs*statistics.median(seconds(ask) for _ in range(loops))
        print(f'{name}: {t:.1f} s ({c:.1f} s processor) for {len(few)} models; pair by pair plain {plain:.0f} s ({plain/t:.1f}x), remembered {known:.0f} s ({known/t:.1f}x); '
              f'{flops/1e9:.2f} GF of matrix products, {flops/p/t:.0%} of their peak ({flops/q/c:.0%} by processor time)', flush=True)
    line('sample, 8192 draws', models, 3, method='sample', n=8192)
    line('closure', models if full else models[:12], 3, method='closure')


def main(full):
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}\n')
    print(f'{"(N, d, hidden, out)":24}{"path":10}{"gram":>10}{"plain":>10}{"prepared":>10}{"ours":>10}{"dense":>10}{"limit":>10}{"of limit":>9}{"of cpu":>8}{"matmul":>14}{"difference":>12}')
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
