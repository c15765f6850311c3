"""Make or refresh .venv: `python tools/setup_env.py`, called by the Makefile.

Any Python may start it, so the syntax is old; it needs the standard library only. The versions come from
constraints.txt, the list of packages from settings.ini.
"""
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, '.venv')
STAMP = os.path.join(VENV, '.installed')
OLDEST = (3, 10)


def stop(need, got, do):
    sys.stderr.write('\nSetting up .venv needs %s: got %s. %s\n' % (need, got, do))
    sys.exit(1)


def venv_python():
    for parts in (('bin', 'python'), ('Scripts', 'python.exe')):
        path = os.path.join(VENV, *parts)
        if os.path.exists(path):
            return path
    return None


def answer(python, code):
    "What `python -c code` prints, or None when it cannot run."
    try:
        return subprocess.check_output([python, '-c', code], stderr=subprocess.STDOUT).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def make_venv():
    if sys.version_info < OLDEST:
        stop('Python %d.%d or newer' % OLDEST, 'Python %d.%d (%s)' % (sys.version_info[:2] + (sys.executable,)),
             'Name a newer one, for instance `make demo PYTHON=python3.12`.')
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop('the venv module', 'a Python without it (%s)' % sys.executable,
             'Install it (Debian and Ubuntu: `apt install python3-venv`), '
             'or name another Python: `make demo PYTHON=...`.')
    print('Making .venv with Python %d.%d.%d ...' % sys.version_info[:3])
    sys.stdout.flush()
    if subprocess.call([sys.executable, '-m', 'venv', '--clear', VENV]):
        stop('a working venv module', 'the failure above',
             'Mend it, or name another Python: `make demo PYTHON=...`.')


def main():
    os.chdir(ROOT)
    start = time.time()
    python = venv_python()
    version = python and answer(python, 'import sys, pip; print("%d.%d" % sys.version_info[:2])')
    if not version:
        make_venv()
        python = venv_python()
    elif tuple(map(int, version.split('.'))) < OLDEST:
        stop('Python %d.%d or newer' % OLDEST, 'a .venv made with Python ' + version,
             'Remove the folder .venv, then run make again with a newer Python (`PYTHON=python3.12`).')
    print('Installing the packages of constraints.txt into .venv: about 2 GB, some minutes the first time ...')
    sys.stdout.flush()
    install = [python, '-m', 'pip', '--disable-pip-version-check', 'install', '--use-pep517']
    if subprocess.call(install + ['-c', 'constraints.txt', '-e', '.[dev]']):
        stop('every package of constraints.txt', 'the pip error above',
             'Check the connection to your package index and run make again; what was downloaded is kept.')
    with open(STAMP, 'w') as f:
        f.write('installed by tools/setup_env.py\n')
    print('Ready: .venv is up to date (%.0f s).' % (time.time() - start))


if __name__ == '__main__':
    main()
