"""Independent oracles: quadrature of forward passes, and dense tensors built with plain einsum. They share no code with the engine."""
import itertools

import numpy as np
import torch


def grid(d, degree):
    "Tensor-product Gauss-Hermite nodes and weights, exact up to `degree`, by a plain product (not the library's stream)."
    t, w = np.polynomial.hermite_e.hermegauss(degree//2 + 1)
    w = w/w.sum()
    nodes = torch.tensor(list(itertools.product(t, repeat=d)), dtype=torch.float64)
    weights = torch.tensor([np.prod(c) for c in itertools.product(w, repeat=d)], dtype=torch.float64)
    return nodes, weights


def expected_product(f, g, d, degree, mean=None, cov=None):
    "E[f(x)·g(x)] for x ~ N(mean, cov)."
    z, w = grid(d, degree)
    x = z if cov is None else z @ torch.linalg.cholesky(cov).T
    if mean is not None: x = x + mean
    with torch.no_grad(): return float((w*(f(x)*g(x)).sum(-1)).sum())


def random_law(d, seed):
    "A mean and a full covariance."
    gen = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d, generator=gen, dtype=torch.float64)
    return torch.randn(d, generator=gen, dtype=torch.float64), root @ root.T + .1*torch.eye(d, dtype=torch.float64)
