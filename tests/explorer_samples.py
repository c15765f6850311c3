"""One small explorer of each kind, on made-up weights of the size of the digits: for tests, pages and timings."""
import copy
from types import SimpleNamespace

import torch

import tensorsim_nb as ts
from tensorsim_nb.plots import toy_table


def classifiers(d=64, h=32, seed=0):
    "A classifier and its twin with noise in every weight."
    torch.manual_seed(seed)
    a = ts.classifier(d, h, 10)
    return a, noisy(a, .4)


def noisy(model, size):
    twin = copy.deepcopy(model)
    with torch.no_grad(): [p.add_(size*p.std()*torch.randn_like(p)) for p in twin.parameters()]
    return twin


def backdoored(d=64, h=32):
    "A classifier and the same one with a unit that reads five inputs and writes class 9."
    before, _ = classifiers(d, h)
    with torch.no_grad(): before[0].left.weight.mul_(.3)
    after, stamp = copy.deepcopy(before), torch.zeros(d)
    stamp[[5, 6, 7, 15, 23]] = 1
    with torch.no_grad():
        for side in (after[0].left, after[0].right): side.weight[0] = 2*stamp
        after[0].down.weight[:, 0], after[0].down.weight[0, 0] = 0, 3
        after[1].weight[:, 0], after[1].weight[9, 0] = 0, 1
    return before, after


def images(d=64, n=60):
    g = torch.Generator().manual_seed(0)
    return SimpleNamespace(x=torch.rand(n, d, generator=g), y=torch.arange(n) % 10, image_shape=None)


def run(n=9, d=64):
    "Checkpoints on the way from one model to another, with a table."
    a, b = backdoored(d)
    def between(t):
        m = copy.deepcopy(a)
        with torch.no_grad(): [p.copy_((1-t)*p + t*q) for p, q in zip(m.parameters(), b.parameters())]
        return m
    return toy_table(n), toy_table(n, jump=0, seed=1), [between(k/(n-1)) for k in range(n)]


def stack(depth=3):
    torch.manual_seed(0)
    a = ts.deep_mlp(8, 8, 8, 3, depth, residual=.7)
    return a, noisy(a, .5)


def transformers():
    torch.manual_seed(0)
    a = ts.transformer(12, 8, 2, 6, 2)
    return a, noisy(a, .3)


def checkpoint(d=64, **state):
    table, control, models = run(d=d)
    return ts.CheckpointExplorer(table, control, models=models, **state)


SAMPLES = dict(
    CheckpointExplorer=checkpoint,
    SliceExplorer=lambda d=64, **state: ts.SliceExplorer(*classifiers(d), names=('model', 'noisy'), **state),
    SymmetryExplorer=lambda d=64, **state: ts.SymmetryExplorer(classifiers(d)[0], **state),
    GaussianExplorer=lambda d=64, **state: ts.GaussianExplorer(5000, **state),
    RecursionExplorer=lambda d=64, **state: ts.RecursionExplorer(*stack(), scales=(.5, 1., 2.), n=512, **state),
    EigenExplorer=lambda d=64, **state: ts.EigenExplorer(classifiers(d)[0], images(d), **state),
    DifferenceExplorer=lambda d=64, **state: ts.DifferenceExplorer(*backdoored(d), images(d), **state),
    HeadExplorer=lambda d=64, **state: ts.HeadExplorer(*transformers(), **state),
)
# The control that is moved to time an explorer, and one where numbers must change with it
MOVED = dict(CheckpointExplorer='row', SliceExplorer='slice', SymmetryExplorer='permute', GaussianExplorer='rho', RecursionExplorer='scale',
             EigenExplorer='rank', DifferenceExplorer='pixels', HeadExplorer='row')
LABELS = dict(CheckpointExplorer='Row', SliceExplorer='Slice', SymmetryExplorer='Permute units', GaussianExplorer='Correlation', RecursionExplorer='Scale',
              EigenExplorer='Rank', DifferenceExplorer='Pixels', HeadExplorer='Head')
