"""The same seed gives the same numbers: in another process, under another hash seed, with another number of threads."""
import json, os, subprocess, sys

import pytest

from conftest import ROOT

CODE = """
import json, sys, tempfile, torch
torch.set_num_threads(int(sys.argv[1]))
import tensorsim_nb as ts
from tensorsim_nb.data import digits
from tensorsim_nb.train import TrainConfig, checkpoints, seeded, train
torch.manual_seed(0)
a, b = (ts.deep_mlp(4, 6, 8, 3, 3, bias=True, residual=.5) for _ in range(2))
e = ts.similarity(a, b, method='sample', n=20_000, seed=5)
g = ts.gram([a, b, a + b], method='sample', n=5000, seed=5, progress=False)
with tempfile.TemporaryDirectory() as folder:
    train(seeded(lambda: ts.classifier(64, 8, 10), 1), digits()[0], TrainConfig(steps=10, every=5, batch_size=64, seed=3), folder, quiet=True, threads=int(sys.argv[1]))
    runs = [ts.load(p) for _, p in checkpoints(folder)]
kept = ts.gram(runs, progress=False).similarity
print(json.dumps([e.value, e.stderr, *g.inner.flatten().tolist(), *g.stderr().flatten().tolist(), *kept.flatten().tolist(),
                  ts.steepest_input(a, steps=20, starts=4).value]))
"""


def numbers(threads, hashseed):
    env = dict(os.environ, PYTHONHASHSEED=str(hashseed), OMP_NUM_THREADS=str(threads), PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, '-c', CODE, str(threads)], cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_seeds_decide_every_number():
    first, again, two = numbers(1, 1), numbers(1, 2), numbers(2, 3)
    assert again == first # to the last bit
    assert two == pytest.approx(first, rel=2e-5, abs=1e-7) # sums of float32 training steps are cut otherwise
    assert two[:20] == pytest.approx(first[:20], rel=1e-10) # sampling works in float64
