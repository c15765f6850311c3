"""How complete is attribution, and how tight are certificates?

    python benchmarks/differences.py [--stacks 60] [--pairs 200]

Attribution: random stacks (MLPs of one to three layers, attention, both; with and without bias and skip path), every
kind of part, inner product, norm and distance; the largest |sum of parts - whole| / sum of |parts|.
Certificates: random pairs of one- and two-layer classifiers from very near to far apart; the sampled rate at which the
argmax changes (100,000 other draws) beside the bound.
"""
import argparse, copy, time, warnings

import numpy as np
import torch

from tensorsim_nb.attribution import attribute
from tensorsim_nb.core import generator
from tensorsim_nb.differences import argmax_certificate
from tensorsim_nb.laws import Gaussian
from tensorsim_nb.models import classifier, deep_mlp, transformer


def stack(i, gen):
    "One of six kinds of random stack."
    flag = lambda: bool(torch.rand(1, generator=gen) < .5)
    bias, skip = flag(), .5*flag()
    torch.manual_seed(int(torch.randint(2**30, (1,), generator=gen)))
    kinds = [lambda: classifier(5, 6, 3), lambda: deep_mlp(5, 4, 6, 3, 2, bias=bias, residual=skip),
             lambda: deep_mlp(4, 3, 4, 2, 3, bias=bias, residual=skip), lambda: transformer(4, 4, 2, 2, 1, bias=bias),
             lambda: transformer(4, 4, 2, 2, 1, bias=bias, d_hidden=3), lambda: transformer(3, 4, 2, 2, 2, kind='linear', scale=.5)]
    return [kinds[i % 6]().double() for _ in range(2)]


def completeness(n):
    worst, gen = {}, generator(0)
    for i in range(n):
        a, b = stack(i, gen)
        law = Gaussian(torch.randn(a.d_in, generator=gen), torch.rand(a.d_in, generator=gen) + .1) if i % 2 else Gaussian()
        kinds = ['layer', 'output', 'input'] + ['degree']*(a.degree < 10) + ['head' if a.n_ctx else 'neuron']
        by, of = kinds[i//6 % len(kinds)], ('inner', 'norm', 'distance')[i % 3]
        got = attribute(a, None if of == 'norm' else b, law, by=by, of=of, method='closure', leave_one_out=False)
        worst[by] = max(worst.get(by, 0.), got.error)
    print(f"attribution, {n} random stacks: largest error " + ', '.join(f'{k} {v:.1e}' for k, v in worst.items()))


def certificates(n):
    rows, gen = [], generator(1)
    for i in range(n):
        torch.manual_seed(i)
        f = (classifier(8, 12, 4) if i % 2 else deep_mlp(6, 5, 8, 3, 1 + i//2 % 2, bias=i % 4 == 0)).double()
        g, size = copy.deepcopy(f), 10**(-4 + 3.5*torch.rand(1, generator=gen).item())
        with torch.no_grad():
            for p in g.parameters(): p += size*p.abs().mean()*torch.randn_like(p)
        got = argmax_certificate(f, g, max_nodes=0)
        x = torch.randn(100_000, f.d_in, generator=gen, dtype=torch.float64)
        with torch.no_grad(): rate = float((f(x).argmax(1) != g(x).argmax(1)).double().mean())
        rows.append((size, got.relative**.5, rate, got.bound, got.margin, got.tail))
    size, rel, rate, bound, margin, tail = np.array(rows).T
    print(f"certificates, {n} pairs: violated {int((rate > bound).sum())}, median slack {np.median(bound - rate):.4f}")
    for lo, hi in ((0, 1e-3), (1e-3, 1e-2), (1e-2, 1e-1), (1e-1, np.inf)):
        k = (rel >= lo) & (rel < hi)
        if k.any():
            print(f"  relative distance {lo:g} to {hi:g}: {k.sum()} pairs, median rate {np.median(rate[k]):.5f}, bound {np.median(bound[k]):.4f}, "
                  f"median bound/rate {np.median(bound[k]/np.maximum(rate[k], 1e-5)):.0f}, below 1 in {(bound[k] < 1).sum()}")


if __name__ == '__main__':
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument('--stacks', type=int, default=60)
    ask.add_argument('--pairs', type=int, default=200)
    args, start = ask.parse_args(), time.time()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')  # closures of strong layers say that they are closures; their parts must add up all the same
    completeness(args.stacks)
    certificates(args.pairs)
    print(f"{time.time() - start:.0f} s")
