"""`import tensorsim_nb as ts`: every name of its table is there, in any order of imports, and it is cheap."""
import importlib, json, re, subprocess, sys

import pytest

import tensorsim_nb as ts
from conftest import ROOT

HEAVY = ['transformer_lens', 'matplotlib.pyplot', 'ipywidgets', 'pandas', 'sklearn', 'anywidget', 'dask']
LIGHT = [m for m in ts.PUBLIC if m not in ('plots', 'lens', 'experiments', 'figures', 'cli') and not m.startswith('explore')]   # these compute


def python(code): return subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True)


@pytest.mark.parametrize('module', ts.PUBLIC)
def test_every_listed_name_is_public_in_its_module(module):
    listed, home = ts.PUBLIC[module].split(), importlib.import_module(f'tensorsim_nb.{module}')
    assert set(listed) <= set(home.__all__), f"not in __all__ of {module}: {set(listed) - set(home.__all__)}"
    for name in listed: assert getattr(ts, name) is getattr(home, name)


def test_no_name_is_listed_twice():
    names = ' '.join(ts.PUBLIC.values()).split()
    assert len(names) == len(set(names))


def test_a_function_wins_over_the_module_of_the_same_name():
    "`ts.similarity` is the function even after `tensorsim_nb.similarity`, the module, was imported."
    modules = [p.stem for p in (ROOT/'tensorsim_nb').glob('*.py') if not p.name.startswith('_')]
    code = f"""
import importlib, types, tensorsim_nb as ts
for m in {modules}: importlib.import_module('tensorsim_nb.' + m)
print([n for n in ts.__all__ if isinstance(getattr(ts, n), types.ModuleType)])"""
    done = python(code)
    assert done.stdout.strip() == '[]', done.stdout + done.stderr


def test_control_python_itself_would_bind_the_module(tmp_path):
    "Without `_Package` the module would win: the same loader, that class taken away."
    source = (ROOT/'tensorsim_nb'/'__init__.py').read_text(encoding='utf-8')
    table = re.compile(r"PUBLIC = dict\(.*?\n\)", re.S)
    for keep, kind in ((True, 'function'), (False, 'module')):
        folder = tmp_path/kind/'pack'
        folder.mkdir(parents=True)
        text = table.sub("PUBLIC = dict(same='same')", source)
        if not keep: text = text.replace('sys.modules[__name__].__class__', '_unused')
        (folder/'__init__.py').write_text(text)
        (folder/'same.py').write_text('def same(): pass\n')
        done = subprocess.run([sys.executable, '-c', 'import pack, pack.same; print(type(pack.same).__name__)'],
                              cwd=folder.parent, text=True, capture_output=True)
        assert done.stdout.strip() == kind, done.stderr


def test_unknown_names_fail_and_dir_lists_the_public_ones():
    with pytest.raises(AttributeError, match='no_such_name'): ts.no_such_name
    assert set(ts.__all__) <= set(dir(ts)) and '__version__' in dir(ts)


def test_import_is_light():
    "Neither the package nor the modules that compute pull in plots, widgets, tables or TransformerLens."
    code = f"""
import importlib, json, sys, tensorsim_nb
for m in {LIGHT}: importlib.import_module('tensorsim_nb.' + m)
print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"""
    done = python(code)
    assert done.returncode == 0 and json.loads(done.stdout) == [], done.stdout + done.stderr


def test_import_is_fast():
    "At most 0.3 s over `import torch`, in processor time: other work on the machine does not count."
    code = f"""
import time, importlib, torch
start = time.process_time()
import tensorsim_nb
package = time.process_time() - start
for m in {LIGHT}: importlib.import_module('tensorsim_nb.' + m)
print(package, time.process_time() - start)"""
    package, computing = map(min, zip(*[map(float, python(code).stdout.split()) for _ in range(3)]))
    print(f"\nover `import torch`: tensorsim_nb {package:.3f} s, with every module that computes {computing:.2f} s")
    assert package <= 0.3 and computing <= 1
