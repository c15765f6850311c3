"""The gate: `python tools/gate.py` runs every check in order and stops at the first that fails.

    sync        nbdev_export and nbdev_clean change nothing in nbs/, tensorsim_nb/, README.md
    readme      README.md is what nbs/index.ipynb makes
    notebooks   every notebook runs (two at a time)
    pytest      tests/ (two files at a time)

Name some of them to run only those: `python tools/gate.py sync readme`. With CI=true the git tree must be
clean too. `gate.py export` is no check: it writes the modules and README.md and cleans the notebooks.
"""
import hashlib, os, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
WATCHED = 'nbs', 'tensorsim_nb', 'README.md'


class Failed(Exception): pass


def fail(
    need, # What must hold
    got, # What was found
    do, # How to mend it
):
    raise Failed(f"{need}: got {got}. {do}")


def run(*args, quiet=False):
    "Run a command in the project folder; its output is shown, or kept for the failure if `quiet`."
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))}
    done = subprocess.run([str(a) for a in args], cwd=ROOT, env=env, text=True, stdin=subprocess.DEVNULL,
                          **(dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT) if quiet else {}))
    if done.returncode and quiet: print(done.stdout)
    return done.returncode


def fingerprint(root=ROOT):
    "Path -> hash of every watched file."
    found = {}
    for name in WATCHED:
        top = root/name
        for path in ([top] if top.is_file() else sorted(top.rglob('*'))):
            parts = path.relative_to(root).parts
            if path.is_file() and not {'__pycache__', '.ipynb_checkpoints'} & set(parts):
                found['/'.join(parts)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def changed(before, after):
    return sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))


def tidy():
    "Export the modules and clean the notebooks."
    for tool in ('nbdev_export', 'nbdev_clean'):
        if run(BIN/tool, quiet=True):
            fail(f"`{tool}` must run", "the error above", "Mend the notebook that it names.")


def sync():
    before = fingerprint()
    tidy()
    moved = changed(before, fingerprint())
    if moved:
        fail("Notebooks and modules must be in sync and clean",
             f"{len(moved)} file(s) out of date: {', '.join(moved)}",
             "They have just been rewritten: look at `git diff` and commit them.")


def readme():
    if run(sys.executable, 'tools/readme.py', '--check'): raise Failed("README.md is out of date.")


def notebooks():
    if run(BIN/'nbdev_test', '--n_workers', '2', '--do_print', '--timing'):
        fail("Every notebook must run", "the failure above",
             "Run that notebook in JupyterLab (`make lab`) to see the cell.")


def pytest():
    if run(sys.executable, '-m', 'pytest', '-q', '-n', '2', '--dist', 'loadfile', 'tests'):
        fail("Every test must pass", "the failures above",
             "Run one alone with `.venv/bin/python -m pytest -q tests/FILE -k NAME`.")


def clean_tree():
    status = subprocess.run(['git', 'status', '--porcelain'], cwd=ROOT, text=True, capture_output=True)
    dirty = status.stdout.strip()
    if dirty:
        fail("After all checks the git tree must be clean", f"\n{dirty}\n",
             "Commit these files or add them to .gitignore.")


def export():
    tidy()
    if run(sys.executable, 'tools/readme.py'): raise Failed("README.md was not written.")


STEPS = dict(
    sync="notebooks and modules in sync and clean", readme="README.md made from nbs/index.ipynb",
    notebooks="every notebook runs", pytest="tests/")


def main(names):
    if names == ['export']: return export()
    unknown = [n for n in names if n not in STEPS]
    if unknown:
        fail("`gate.py` takes check names", ' '.join(unknown), f"Choose from: {' '.join(STEPS)}, or export.")
    names = names or list(STEPS)
    for i, name in enumerate(names):
        print(f"[{i+1}/{len(names)}] {name}: {STEPS[name]} ...", flush=True)
        start = time.time()
        globals()[name]()
        if name != 'pytest':   # pytest's own summary stays the last line
            print(f"    ok, {time.time()-start:.1f} s", flush=True)
    if os.environ.get('CI') == 'true': clean_tree()


if __name__ == '__main__':
    try: main(sys.argv[1:])
    except Failed as e:
        print(f"\nFAILED: {e}", file=sys.stderr)
        sys.exit(1)
