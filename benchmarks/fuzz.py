"""Spoilt and hostile files for everything that reads a file, in one process: how many were refused, how many read, how long it took.

    python benchmarks/fuzz.py                       100,000 inputs over all readers
    python benchmarks/fuzz.py --inputs 1000 --only models gram

Any other error than a refusal with need, got, do in one line stops the reader and is shown with its seed; so does a result that is not sound. Files lie in memory where the
system has a folder for that. Exit code 1 when a reader failed.
"""
import argparse, os, sys, tempfile, time, warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tests'))

import torch

from readers import NAMES_OF_READERS, attack


def main(inputs, only, seed):
    each, failed, total, start = -(-inputs//len(only)), 0, [0, 0], time.process_time()
    print(f'{"reader":18}{"inputs":>8}{"refused":>9}{"read":>7}{"cpu, s":>8}')
    for name in only:
        with tempfile.TemporaryDirectory(dir='/dev/shm' if os.path.isdir('/dev/shm') else None) as folder:
            begin = time.process_time()
            try: got = attack(name, Path(folder), each, seed)
            except AssertionError as e:
                failed += 1
                print(f'{name:18} FAILED {str(e)[:600]}', flush=True)
                continue
            total = [p + q for p, q in zip(total, got)]
            print(f'{name:18}{each:8}{got[0]:9}{got[1]:7}{time.process_time() - begin:8.1f}', flush=True)
    print(f'{"all":18}{sum(total):8}{total[0]:9}{total[1]:7}{time.process_time() - start:8.1f}')
    return failed


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--inputs', type=int, default=100_000, help="of all readers together (100,000)")
    parser.add_argument('--only', nargs='+', choices=NAMES_OF_READERS, default=list(NAMES_OF_READERS), metavar='READER')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    raise SystemExit(main(args.inputs, args.only, args.seed) > 0)
