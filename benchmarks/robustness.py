"""Does the weight-based similarity follow behaviour when the inputs are not standard? Three Gaussian laws of the paper's appendix, and more.

    python benchmarks/robustness.py [--seeds 5] [--steps 4096] [--laws correlated ...] [--json FILE]

Task: 4 numbers in, the position of the second largest out. One bilinear layer (32 hidden units) is trained on inputs of each law (Adam, lr .01, batch 512);
14 checkpoints of each seed; for all pairs of checkpoints the weight-based similarity is set beside the pooled cosine of outputs on fresh inputs of that law.
r is Pearson's correlation of the two. `identity`: as if inputs were N(0, I). `moments`: the exact expectation under N(mu, Sigma) of the law's own mean and
covariance. `exact`: under the law itself where one is exact for one layer (independent coordinates); the same as `moments` for Gaussian laws.
"""
import argparse, json, time

import numpy as np
import torch
from torch import nn

import tensorsim_nb as ts

D, HIDDEN = 4, 32


def draws(name):
    "n, generator -> inputs."
    root = torch.linalg.cholesky(torch.full((D, D), .8) + .2*torch.eye(D))
    normal = lambda n, g: torch.randn(n, D, generator=g)
    return dict(gaussian=normal, correlated=lambda n, g: normal(n, g) @ root.T, shifted=lambda n, g: torch.cat([normal(n, g)[:, :3], torch.full((n, 1), -10.)], 1),
                half_gaussian=lambda n, g: normal(n, g).abs(), uniform=lambda n, g: torch.rand(n, D, generator=g)*2 - 1,
                permutations=lambda n, g: torch.argsort(torch.rand(n, D, generator=g), 1).float() + 1)[name]


def law_of(name):
    "The law as this library knows it: exact moments, not estimated ones."
    if name == 'gaussian': return ts.Gaussian(), None
    if name == 'correlated': return ts.Gaussian(cov=torch.full((D, D), .8) + .2*torch.eye(D)), None
    if name == 'shifted': return ts.Gaussian(mean=[0., 0., 0., -10.], cov=[1., 1., 1., 0.]), None
    if name == 'uniform': return ts.Gaussian(cov=[1/3]*D), ts.Independent.uniform(D)
    if name == 'half_gaussian':
        m = (2/np.pi)**.5
        return ts.Gaussian(mean=[m]*D, cov=[1 - m**2]*D), ts.Independent(torch.tensor([m, 1., 2*m, 3.])[:, None].double().expand(4, D))
    c = torch.full((D, D), -5/12).double().fill_diagonal_(1.25) # permutations of 1..4
    return ts.Gaussian(mean=[2.5]*D, cov=c), None


def train(name, seed, steps, n_checkpoints=14):
    "Checkpoints of one run."
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(1000 + seed)
    model = ts.Model(ts.BilinearMLP(D, HIDDEN, D))
    for p in model.parameters(): nn.init.normal_(p, std=.1)
    optimiser, draw, kept = torch.optim.Adam(model.parameters(), lr=.01), draws(name), []
    marks = {int(steps*(i/(n_checkpoints - 1))**2) for i in range(n_checkpoints)}
    for step in range(steps + 1):
        if step in marks: kept.append({k: v.clone() for k, v in model.state_dict().items()})
        x = draw(512, g)
        loss = nn.functional.cross_entropy(model(x), x.argsort(1)[:, -2])
        optimiser.zero_grad(); loss.backward(); optimiser.step()
    models = []
    for state in kept:
        m = ts.Model(ts.BilinearMLP(D, HIDDEN, D)); m.load_state_dict(state)
        models.append(m.double())
    return models


def cosines(G): return G/np.sqrt(np.outer(G.diagonal(), G.diagonal()))


def weight_based(models, law):
    "N x N cosines: own parts once, then pairs."
    from tensorsim_nb.similarity import make_engine
    engine = make_engine(models, law)
    with torch.no_grad():
        parts = [engine.self_part(m) for m in models]
        G = np.array([[float(engine.pair(p, q).tensor()) for q in parts] for p in parts])
    return cosines(G)


def behaviour(models, name, n=200_000):
    "Pooled cosines of the outputs on fresh inputs."
    x = draws(name)(n, torch.Generator().manual_seed(7)).double()
    with torch.no_grad(): Y = torch.stack([m(x).flatten() for m in models])
    return cosines((Y @ Y.T).numpy())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--steps', type=int, default=4096)
    p.add_argument('--laws', nargs='+', default=['gaussian', 'correlated', 'shifted', 'half_gaussian', 'uniform', 'permutations'])
    p.add_argument('--json')
    args = p.parse_args()
    found = {}
    for name in args.laws:
        start = time.perf_counter()
        models = [m for seed in range(args.seeds) for m in train(name, seed, args.steps)]
        pairs, truth = np.triu_indices(len(models), 1), behaviour(models, name)
        moments, itself = law_of(name)
        r = lambda law: float(np.corrcoef(weight_based(models, law)[pairs], truth[pairs])[0, 1])
        found[name] = row = dict(identity=r(ts.Gaussian()), moments=r(moments), exact=r(itself) if itself else None, pairs=len(pairs[0]))
        row['exact'] = row['moments'] if row['exact'] is None and name in ('gaussian', 'correlated', 'shifted') else row['exact']
        print(f"{name:14} identity {row['identity']:.4f}   moments {row['moments']:.6f}   exact {'-' if row['exact'] is None else format(row['exact'], '.6f')}   {row['pairs']} pairs   {time.perf_counter() - start:.0f} s", flush=True)
    if args.json:
        with open(args.json, 'w') as f: json.dump(found, f, indent=1)


if __name__ == '__main__': main()
