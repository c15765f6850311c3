"""Kill -9 at a random moment, resume, and compare the matrix bit for bit with one that nobody disturbed.

    python benchmarks/gram_kill.py                 20 runs killed once each, then one run killed 20 times; a minute on an idle machine
    python benchmarks/gram_kill.py --method exact  other methods: exact (one layer, matrix products), sample

A child process works on a folder of checkpoints with a store. The moment is uniform over the time that the undisturbed run takes, the hashing of files and the
assembly included. What counts: `kept` blocks are found again, `again` are computed, together all of them; the control damages one block and must be noticed.
Needs `os.fork` (Linux, macOS).
"""
import argparse, os, random, shutil, signal, tempfile, time, warnings
from pathlib import Path

import numpy as np
import torch

import tensorsim_nb as ts
from tensorsim_nb.gram import gram
from tensorsim_nb.jobs import Store


def run_folder(folder, method, n):
    "A run of checkpoints whose matrix takes a few dozen blocks."
    torch.manual_seed(0)
    make = (lambda: ts.classifier(64, 32, 10)) if method == 'exact' else (lambda: ts.deep_mlp(16, 8, 12, 4, 2, bias=True, residual=.5))
    for i in range(n): ts.save(make(), folder/f'step_{i:03d}.safetensors', step=i)


def work(run, store, method, out=None):
    "What a child does."
    torch.set_num_threads(1)
    g = gram(run, store=store, method=method, path='kernel' if method == 'exact' else None, progress=False, **(dict(n=65_536, chunk=2048) if method == 'sample' else {}))
    stack = np.stack([g.mantissa, g.inner, g.similarity, g.distance])
    if out is not None: np.save(out, stack)
    return stack


def killed(run, store, method, seconds, folder):
    "Fork a child and kill it after `seconds`; was it still at work?"
    pid = os.fork()
    if not pid:
        try: work(run, store, method, folder/'unused.npy')
        finally: os._exit(0)
    time.sleep(seconds)
    alive = os.waitpid(pid, os.WNOHANG)[0] == 0
    if alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return alive


def blocks(store): return {p.stem for p in Path(store).glob('blocks/*.safetensors')}


def until_killed(run, store, method, duration, rng, folder):
    "Kill a child at a random moment; when it had finished before, start over with an empty store."
    while True:
        moment = rng.uniform(0, duration)
        if killed(run, store, method, moment, folder): return moment
        shutil.rmtree(store)
        duration *= .8


def main(kills, method, n, seed):
    rng = random.Random(seed)
    warnings.simplefilter('ignore')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder/'run').mkdir()
        run_folder(folder/'run', method, n)
        work(folder/'run', folder/'warm', method)
        start = time.perf_counter()
        want = work(folder/'run', folder/'whole', method)
        duration, total = time.perf_counter() - start, len(blocks(folder/'whole'))
        print(f'{n} checkpoints, method {method!r}: {total} blocks, {duration:.2f} s undisturbed, load {os.getloadavg()[0]:.1f}\n{"kill":>6}{"at, s":>8}{"kept":>6}{"again":>7}  identical')
        same = 0
        for k in range(kills):
            store, moment = folder/f'store{k}', until_killed(folder/'run', folder/f'store{k}', method, duration, rng, folder)
            kept, before = len(blocks(store)), {p: p.stat().st_mtime_ns for p in store.glob('blocks/*.safetensors')}
            got = work(folder/'run', store, method)
            untouched = all(p.stat().st_mtime_ns == t for p, t in before.items())
            same += (ok := np.array_equal(got, want) and untouched and len(blocks(store)) == total)
            print(f'{k + 1:6}{moment:8.2f}{kept:6}{total - kept:7}  {ok}', flush=True)
        store, moments = folder/'many', 0
        for _ in range(kills): moments += killed(folder/'run', store, method, rng.uniform(0, duration), folder)
        kept, got = len(blocks(store)), work(folder/'run', store, method)
        print(f'one run with {moments} kills in a row: {kept} blocks kept, identical {np.array_equal(got, want)}')
        victim = min((folder/'whole'/'blocks').glob('*.safetensors'))
        data = bytearray(victim.read_bytes())
        data[-3] ^= 1
        victim.write_bytes(data)
        print(f'control, one bit of a block turned: noticed {Store(folder/"whole").get(victim.stem) is None}, mended {np.array_equal(work(folder/"run", folder/"whole", method), want)}')
        print(f'\n{same} of {kills} resumed matrices identical bit for bit')
        return same == kills


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--method', default='closure', choices=('closure', 'exact', 'sample'))
    parser.add_argument('--models', type=int, default=24, help="checkpoints (24)")
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    raise SystemExit(not main(args.kills, args.method, args.models, args.seed))
