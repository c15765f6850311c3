"""The files around the library agree with each other and hold nothing of one machine."""
import json, re, subprocess, sys
from configparser import ConfigParser

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tensorsim_nb
from conftest import ROOT

PYTHONS = '3.10.13', '3.11.7', '3.12.1', '3.13.0'


@pytest.fixture(scope='module')
def cfg():
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


@pytest.fixture(scope='module')
def pins():
    lines = (ROOT/'constraints.txt').read_text(encoding='utf-8').splitlines()
    return [Requirement(l) for l in lines if l and not l.startswith('#')]


def environment(python):
    return dict(python_full_version=python, python_version='.'.join(python.split('.')[:2]), sys_platform='linux',
                os_name='posix', platform_machine='x86_64', extra='')


def pinned(pins, python):
    "Name -> version for one Python on Linux."
    found = {}
    for r in pins:
        if r.marker is None or r.marker.evaluate(environment(python)):
            assert canonicalize_name(r.name) not in found, f'{r.name} is pinned twice for Python {python}'
            found[canonicalize_name(r.name)] = str(r.specifier).removeprefix('==')
    return found


def test_versions_agree(cfg):
    assert cfg['version'] == tensorsim_nb.__version__
    changes = (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')
    assert re.search(rf"^## {re.escape(cfg['version'])}\b", changes, re.M)


def test_setup_py_reads_settings(cfg):
    done = subprocess.run([sys.executable, 'setup.py', '--name', '--version'], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.stdout.split()[-2:] == [cfg['lib_name'], cfg['version']], done.stderr


@pytest.mark.parametrize('python', PYTHONS)
def test_every_requirement_is_pinned_within_its_range(cfg, pins, python):
    versions = pinned(pins, python)
    for key in ('requirements', 'dev_requirements', 'lens_requirements', 'cluster_requirements'):
        for r in map(Requirement, cfg[key].split()):
            name = canonicalize_name(r.name)
            assert name in versions, f'{name} of {key} is not pinned for Python {python}'
            assert r.specifier.contains(versions[name], prereleases=True), f'{name}=={versions[name]} is outside {r}'


def test_constraints_are_plain_pins(pins):
    text = (ROOT/'constraints.txt').read_text(encoding='utf-8')
    assert not re.search(r'://|--hash|^-|@', text, re.M)
    for r in pins: assert re.fullmatch(r'==[\w.]+', str(r.specifier)), r


def tracked():
    done = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT,
                          capture_output=True, text=True)
    if done.returncode: pytest.skip('not a git checkout')
    return [ROOT/p for p in done.stdout.split('\0') if p and (ROOT/p).is_file()]


forbidden = re.compile(r'(?<![\w/.<])/(?:home|work|root|Users)/\w|pypi\.org|files\.pythonhosted|registry\.npmjs')


def test_no_machine_path_in_any_tracked_text():
    here = {ROOT/'tests'/'test_project.py', ROOT/'tests'/'test_notebooks.py'}   # they hold the patterns
    for path in tracked():
        try: text = path.read_text(encoding='utf-8')
        except UnicodeDecodeError: continue
        found = forbidden.search(text)
        assert path in here or found is None, f'{path.relative_to(ROOT)}: {found[0]}'


@pytest.mark.parametrize('text', ['/home/me', 'in /work/x', '"/root/a"', 'https://pypi.org/simple'])
def test_control_a_machine_path_is_caught(text): assert forbidden.search(text)


def test_the_readme_example_runs_as_soon_as_it_can():
    "The index may hold back an example (`eval: false`) only while a name that it uses does not exist."
    nb = json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8'))
    for c in nb['cells']:
        source = ''.join(c['source'])
        if c['cell_type'] == 'code' and '#| eval: false' in source:
            used = set(re.findall(r'\bts\.(\w+)', source))
            assert used - set(tensorsim_nb.__all__), f"remove `#| eval: false` from cell {c['id']} of the index"


def test_tools_refuse_what_they_do_not_know():
    done = subprocess.run([sys.executable, 'tools/gate.py', 'nonsense'], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1 and 'takes check names: got nonsense' in done.stderr


def test_readme_is_made_from_the_index(tmp_path):
    sys.path.insert(0, str(ROOT/'tools'))
    import readme
    nb = dict(cells=[
        dict(cell_type='markdown',
             source=['see [a](x/y.ipynb), [b](../LICENSE), [c](https://a.b/c)\n\n```\n[d](e)\n```']),
        dict(cell_type='code', source=['#| hide\nimport os'], outputs=[]),
        dict(cell_type='code', source=['#| eval: false\n1 + 1'],
             outputs=[dict(output_type='execute_result', data={'text/plain': ['2']}),
                      dict(output_type='display_data', data={'image/png': 'AAAA', 'text/plain': ['<Figure>']})])])
    text, pictures = readme.render(nb)
    assert '[a](nbs/x/y.ipynb), [b](LICENSE), [c](https://a.b/c)' in text and '[d](e)' in text
    assert 'import os' not in text and 'eval' not in text
    assert '```python\n1 + 1\n```\n\n```text\n2\n```\n\n![Figure 1](docs/images/index_0.png)' in text
    assert list(pictures.values()) == [b'\0\0\0'] and '<Figure>' not in text
