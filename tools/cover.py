"""Line coverage of tensorsim_nb/ over the gate's work: every notebook, then tests/.

    python tools/cover.py [notebooks] [tests] [FILE ...] [--data FOLDER] [--json FILE]

An exported cell of a notebook is the text of its module: it is run as those lines. Each notebook and each test file has a process of
its own, worker processes are followed, and a failure is named but does not stop the count (tracing slows the tests that race a clock).
With `--data` a run that was stopped goes on. Named files come before the other tests. Needs `coverage` (pip install coverage). About half an hour on one core.
"""
import argparse, json, os, re, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """[run]
data_file = {data}/.coverage
include = {root}/tensorsim_nb/*
parallel = True
concurrency = multiprocessing,thread
patch = subprocess,_exit
sigterm = True
disable_warnings = no-data-collected,module-not-measured
[json]
output = {data}/coverage.json
"""


def places():
    "Cell id -> (module file, line of its code), from the marks that nbdev leaves."
    found = {}
    for path in sorted((ROOT/'tensorsim_nb').glob('*.py')):
        for n, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            mark = re.match(r'# %% (\S+) #(\S+)$', line)
            if mark: found[Path(mark[1]).name, mark[2]] = path, n + 1
    return found


def run_notebook(path):
    "What nbdev_test does with one notebook, its exported cells as lines of their modules."
    import matplotlib
    matplotlib.use('agg')
    from execnb.shell import CaptureShell
    from nbdev.test import test_nb
    marks, plain = places(), CaptureShell.cell

    def cell(self, cell, **kw):
        if cell.cell_type == 'code' and (path.name, cell.id) in marks:
            file, line = marks[path.name, cell.id]
            self._lines = compile('\n'*(line - 1) + cell.source.lstrip('\n'), str(file), 'exec')
            cell.source = 'exec(get_ipython()._lines)'
        return plain(self, cell, **kw)
    CaptureShell.cell = cell
    return test_nb(path, skip_flags=['slow'], basepath=ROOT)[0]


def measured(config, *args):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])), 'MPLBACKEND': 'agg'}
    return subprocess.run([sys.executable, '-m', 'coverage', 'run', f'--rcfile={config}', *map(str, args)], cwd=ROOT, env=env,
                          stdin=subprocess.DEVNULL).returncode


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', nargs='*', default=['notebooks', 'tests'])
    p.add_argument('--data', type=Path)
    p.add_argument('--json', type=Path)
    p.add_argument('--notebook', type=Path, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.notebook: sys.exit(not run_notebook(args.notebook.resolve()))
    data = (args.data or Path(tempfile.mkdtemp(prefix='cover'))).resolve()
    data.mkdir(parents=True, exist_ok=True)
    config = data/'coveragerc'
    config.write_text(CONFIG.format(data=data, root=ROOT))
    notebooks = [q for q in sorted((ROOT/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in q.parts]
    tests = sorted((ROOT/'tests').glob('test_*.py'))
    done = data/'done.json' # path -> did it fail?
    failed = json.loads(done.read_text()) if done.exists() else {}
    named = [ROOT/name for name in args.what if name not in ('notebooks', 'tests')]
    for path in notebooks*('notebooks' in args.what) + named + tests*('tests' in args.what):
        name = path.relative_to(ROOT).as_posix()
        if name in failed: continue
        code = (__file__, '--notebook', path) if path.suffix == '.ipynb' else ('-m', 'pytest', '-q', '-p', 'no:cacheprovider', path)
        failed[name] = measured(config, *code) != 0
        print(name, flush=True)
        done.write_text(json.dumps(failed, indent=1))
    failed = [name for name, bad in failed.items() if bad]
    coverage = [sys.executable, '-m', 'coverage']
    subprocess.run([*coverage, 'combine', '--keep', '-q', f'--rcfile={config}'], cwd=ROOT)
    subprocess.run([*coverage, 'json', '-q', f'--rcfile={config}'], cwd=ROOT, check=True)
    found = json.loads((data/'coverage.json').read_text())
    rows = {Path(name).name: dict(lines=f['summary']['num_statements'], covered=f['summary']['covered_lines'], missing=f['missing_lines'])
            for name, f in sorted(found['files'].items()) if Path(name).name != '_modidx.py'}
    lines, covered = (sum(r[k] for r in rows.values()) for k in ('lines', 'covered'))
    for name, r in rows.items(): print(f"{name:24} {r['lines']:5} {r['covered']/max(r['lines'], 1):7.1%}  {' '.join(map(str, r['missing']))}")
    print(f"{'all':24} {lines:5} {covered/lines:7.1%}" + (f"   failed: {', '.join(failed)}" if failed else ''))
    if args.json: args.json.write_text(json.dumps(dict(lines=lines, covered=covered, modules=rows, failed=failed), indent=1))


if __name__ == '__main__': main()
