"""Slider to redrawn picture, in headless Chromium through Voila: `python benchmarks/explorers.py`.

Each explorer runs twice: on models of the size of the digits (64 inputs) and on 1024 inputs. A key moves a slider; the
clock stops when the canvas that was drawn from the answer is on the screen. Beside it stands the processor time that
Python takes for the same event, which other work on the machine does not change. The goal is a median of 150 ms at 64.
"""
import os, sys, tempfile, time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent/'tests')]
import numpy as np
import torch

from explorer_browser import find_chromium, jupyter, move, notebook, open_browser, open_voila
from explorer_samples import LABELS, MOVED, SAMPLES

WIDE = 'CheckpointExplorer', 'SliceExplorer', 'SymmetryExplorer', 'EigenExplorer', 'DifferenceExplorer' # models with inputs to widen
MOVES = 25


def python_ms(name, d):
    "Seconds to make an explorer, and processor time of one event in ms."
    start = time.process_time()
    e = SAMPLES[name](d)
    made, control, found = time.process_time() - start, e.controls[MOVED[name]], []
    for v in [v for _, v in control.options][:MOVES]*2:
        if v == control.value: continue
        start = time.process_time()
        control.value = v
        found.append(1000*(time.process_time() - start))
    return made, found


def browser_ms(browser, address, d):
    "Name -> times from key to picture in ms."
    names = SAMPLES if d == 64 else WIDE
    page = open_voila(browser, address, f'at{d}.ipynb', f'.ts-{list(names)[-1]} canvas')
    found = {name: [move(page, name, LABELS[name]) for _ in range(MOVES + 2)][2:] for name in names}
    page.close()
    return found


def main():
    path, entry = find_chromium()
    if not path: raise SystemExit(entry)
    torch.set_num_threads(1)
    folder, show = Path(tempfile.mkdtemp()), "from explorer_samples import SAMPLES\nfrom IPython.display import display\nfor n in {names}: display(SAMPLES[n]({d}))"
    for d, names in ((64, tuple(SAMPLES)), (1024, WIDE)): (folder/f'at{d}.ipynb').write_text(notebook(show.format(names=names, d=d)))
    print(f"{'explorer':20}{'inputs':>7}{'median':>9}{'95%':>8}{'Python: make':>15}{'median':>9}{'95%':>8}    load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with jupyter(folder) as address, open_browser(path, entry) as browser:
        for d in (64, 1024):
            shown = browser_ms(browser, address, d)
            for name, times in shown.items():
                made, cost = python_ms(name, d)
                print(f"{name:20}{d:7}{np.median(times):6.0f} ms{np.percentile(times, 95):5.0f} ms{made:13.2f} s{np.median(cost):6.0f} ms{np.percentile(cost, 95):5.0f} ms", flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == '__main__': main()
