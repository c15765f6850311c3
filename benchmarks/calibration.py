"""Do the printed intervals cover? Every error bar of the library, many runs in a cheap setting, the truth known.

    python benchmarks/calibration.py [sampled] [near] [bootstrap] [runs] [jackknife] [surrogate] [--runs 1000] [--draws 1000] [--json FILE]

sampled     `Estimate.interval` and `Gram.stderr` by draws: one-layer models of 4 inputs (finite moments of every order), truth exact
near        the sampled distance of models that nearly agree (weights or outputs subtracted), truth exact
bootstrap   `nulls.bootstrap_interval`: means of few normal, uniform and exponential values
runs        `robustness_table`: correlations of made-up pairs in five runs, truth from 2,000 runs
jackknife   the `error` of `compare_all`, times Student's t of 9 degrees: outputs of two networks on 400 inputs, truth from 20,000
surrogate   the relative error of a converted model, from 500 of 5,000 tokens, truth from all; and the mean output cosine of sequences

`coverage.py` beside this file has the hard cases of sampling: two and three layers, mixtures.
"""
import argparse, copy, json, time

import numpy as np
import torch

import tensorsim_nb as ts

Z, T9 = 1.959964, 2.262157 # 97.5% quantiles: normal, and Student's t of 9 degrees


def pair():
    torch.manual_seed(0)
    a, b = (ts.classifier(4, 5, 3).double() for _ in range(2))
    return a, a + .5*b


def sampled(runs, draws):
    a, b = pair()
    asked = {f.__name__: f for f in (ts.similarity, ts.inner, ts.distance)} | {'norm': lambda x, y, **o: ts.norm(x, **o)}
    truth, exact = {k: f(a, b).value for k, f in asked.items()}, ts.gram([a, b], progress=False)
    for seed in range(runs):
        o = dict(method='sample', n=draws, seed=seed, progress=False)
        for k, f in asked.items():
            low, high = f(a, b, **o).interval()
            yield k, low <= truth[k] <= high
        g = ts.gram([a, b], **o)
        for k in ('similarity', 'inner', 'distance'):
            yield f'gram {k}', abs(getattr(g, k)[0, 1] - getattr(exact, k)[0, 1]) <= Z*g.stderr(k)[0, 1]


def near(runs, draws):
    torch.manual_seed(0)
    a = ts.deep_mlp(3, 4, 5, 2, 2, residual=1.).double()
    with torch.no_grad():
        for layer in list(a)[1:3]: layer.down.weight.mul_(.05) # light tails
        b = copy.deepcopy(a)
        for p in b.parameters(): p += 1e-5*torch.randn_like(p)
    cases = {'near distance, weights subtracted': (a, b), 'near distance, outputs subtracted': (a + a, 2*b)}
    truth = ts.distance(a, b, method='exact').value
    for seed in range(runs):
        for k, (x, y) in cases.items():
            got = ts.distance(x, y, method='sample', n=draws, seed=seed, progress=False)
            assert k.split(', ')[1] in got.note
            low, high = got.interval()
            yield k, low <= truth*(1 + (x is not a)) <= high


def bootstrap(runs, draws):
    from tensorsim_nb.nulls import bootstrap_interval
    rng = np.random.default_rng(0)
    laws = dict(normal=(rng.normal, 0.), uniform=(rng.random, .5), exponential=(rng.exponential, 1.))
    for seed in range(runs):
        for name, (draw, truth) in laws.items():
            for n in (3, 5, 10, 20):
                low, high = bootstrap_interval(draw(size=n), n=1000, seed=seed)
                yield f'mean of {n} {name} values', low <= truth <= high


def made_up_pairs(rng, n_runs, steps=6):
    "Checkpoints of runs: two coordinates of weights that grow with the steps, and a behaviour that follows one with noise of the run and of the pair."
    import pandas as pd
    x = np.stack([np.cumsum(rng.normal(1, .5, (n_runs, steps)), 1), rng.normal(0, 2, (n_runs, 1)).repeat(steps, 1) + rng.normal(0, 1, (n_runs, steps))], -1).reshape(-1, 2)
    hidden = x + np.repeat(rng.normal(0, 1., (n_runs, 1, 2)), steps, 1).reshape(-1, 2)
    far = lambda v: np.linalg.norm(v[:, None] - v[None], axis=-1)
    i, j = np.triu_indices(len(x), 1)
    noise = rng.normal(0, .3, len(i))
    return pd.DataFrame(dict(name='made up', seed_i=i//steps, step_i=i % steps, seed_j=j//steps, step_j=j % steps, behaviour=-far(hidden)[i, j] + noise, identity=-far(x)[i, j]))


def runs_of_robustness(runs, draws):
    from tensorsim_nb.robustness import METRICS, robustness_table
    rng = np.random.default_rng(0)
    def frame(n):
        f = made_up_pairs(rng, n)
        return f.assign(**{k: np.nan for k in METRICS if k != 'identity'})
    big = made_up_pairs(rng, 250)
    truth = np.corrcoef(big.identity, big.behaviour)[0, 1]
    for seed in range(runs):
        row = robustness_table(frame(5), seed=seed, n_null=1).iloc[0]
        yield 'correlation in five runs', row.low <= truth <= row.high


def jackknife(runs, draws):
    from tensorsim_nb.compare import LOGITS, jackknife
    torch.manual_seed(0)
    a, b = (ts.deep_mlp(6, 8, 8, 4, 2, residual=1.).double() for _ in range(2))
    for p, q in zip(a.parameters(), b.parameters()): q.data = .7*p.data + .7*q.data
    outputs = lambda n, seed: [m(ts.Gaussian().sample(n, 6, seed=seed)).detach() for m in (a, b)]
    far = outputs(20_000, 10**6)
    truth = {m.name: float(m.run(*(x[:4000] for x in far) if m.name == 'RSA' else far)) for m in LOGITS}
    for seed in range(runs):
        x, y = outputs(400, seed)
        for m in LOGITS:
            if m.name != 'RSA' or seed < 100: # distances of all pairs: dear
                yield f'jackknife, {m.name}', abs(float(m.run(x, y)) - truth[m.name]) <= T9*jackknife(m.run, x, y, seed=seed)


def surrogate(runs, draws):
    from tensorsim_nb.language import output_cosines_with_error
    from tensorsim_nb.polynomials import _parity
    gen = torch.Generator().manual_seed(0)
    theirs = torch.randn(5000, 10, generator=gen, dtype=torch.float64)
    ours = theirs + .1*torch.randn(5000, 10, generator=gen, dtype=torch.float64)*(1 + theirs.abs())
    truth = ((theirs - ours).square().sum()/theirs.square().sum()).sqrt().item()
    class Table(torch.nn.Module):
        def __init__(self, rows): super().__init__(); self.rows, self.d_in = torch.nn.Parameter(rows), len(rows)
        def forward(self, ids): return self.rows[ids]
    rows = torch.randn(20_000, 2, 12, generator=gen, dtype=torch.float64)
    rows[:, 1] += .8*rows[:, 0]
    cosine = torch.nn.functional.cosine_similarity(rows[:, 0], rows[:, 1]).mean().item()
    for seed in range(runs):
        order = torch.randperm(5000, generator=gen) # the tokens are drawn by a fixed seed, so they are shuffled here
        got = _parity(Table(theirs[order]), Table(ours[order]), None, [], False, 500, 0)
        yield 'relative error of a surrogate', abs(got.error - truth) <= Z*got.stderr
        some = torch.randint(20_000, (300,), generator=gen)
        mean, error = output_cosines_with_error([lambda i, k=k: rows[i, k] for k in (0, 1)], some)
        yield 'mean output cosine', abs(mean[0, 1] - cosine) <= Z*error[0, 1]


PARTS = dict(sampled=sampled, near=near, bootstrap=bootstrap, runs=runs_of_robustness, jackknife=jackknife, surrogate=surrogate)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('parts', nargs='*', default=list(PARTS))
    p.add_argument('--runs', type=int, default=1000)
    p.add_argument('--draws', type=int, default=1000)
    p.add_argument('--json')
    args = p.parse_args()
    torch.set_num_threads(1)
    found = {}
    for part in args.parts:
        hits, start = {}, time.process_time()
        for k, hit in PARTS[part](args.runs, args.draws): hits.setdefault(k, []).append(bool(hit))
        for k, v in hits.items():
            found[k] = dict(covered=round(sum(v)/len(v), 4), runs=len(v))
            print(f'{k:40} covered {sum(v)/len(v):.3f} of {len(v)}', flush=True)
        print(f'{part}: {time.process_time() - start:.0f} s of processor time', flush=True)
        if args.json:
            with open(args.json, 'w') as f: json.dump(dict(draws=args.draws, intervals=found), f, indent=1)


if __name__ == '__main__': main()
