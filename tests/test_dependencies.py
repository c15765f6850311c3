"""Every dependency is declared, used, licensed and pinned; the audit that needs no network."""
import ast, sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, metadata

import pytest
from packaging.requirements import Requirement

from conftest import ROOT

REASONS = dict( # requirement -> what it is imported as, and what for
    torch=('torch', 'tensors, autograd, training'), numpy=('numpy', 'Grams and tables'), scipy=('scipy', 'assignment, bootstrap, baselines'),
    matplotlib=('matplotlib', 'figures'), ipywidgets=('ipywidgets', 'explorers'), anywidget=('anywidget', 'heatmaps with hover and click'),
    safetensors=('safetensors', 'files without code'), **{'scikit-learn': ('sklearn', 'the digits data')}, jaxtyping=('jaxtyping', 'shapes in signatures'),
    fastcore=('fastcore', 'checks of the notebooks'), tqdm=('tqdm', 'progress bars'), pandas=('pandas', 'tables'))
OPTIONAL = {'transformer_lens', 'dask', 'distributed', 'datasets', 'IPython', 'PIL', 'requests', 'huggingface_hub', 'traitlets', 'threadpoolctl', 'packaging', 'typing_extensions', 'beartype', 'nbformat', 'tensorsim_nb'} # the last: in code that a string holds for another process


def declared():
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return [Requirement(r).name for r in config['DEFAULT']['requirements'].split()]


def imported(paths):
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import): found |= {a.name.partition('.')[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level: found.add(node.module.partition('.')[0])
    return found - set(sys.stdlib_module_names)


def test_requirements_are_those_that_are_imported():
    names, used = declared(), imported((ROOT/'tensorsim_nb').glob('*.py'))
    assert sorted(names) == sorted(REASONS)
    notebooks = '\n'.join(p.read_text(encoding='utf-8') for p in (ROOT/'nbs'/'api').glob('*.ipynb'))
    unused = [n for n, (module, _) in REASONS.items() if module not in used and f'from {module}' not in notebooks]
    assert unused == []
    assert used - {m for m, _ in REASONS.values()} <= OPTIONAL, used - {m for m, _ in REASONS.values()} - OPTIONAL


@pytest.mark.parametrize('name', sorted(REASONS))
def test_licences_are_open(name):
    try: about = metadata(name)
    except PackageNotFoundError: pytest.fail(f'{name} is not installed')
    said = ' '.join(filter(None, [about.get('License-Expression'), about.get('License'), *[c for c in about.get_all('Classifier', []) if c.startswith('License')]]))
    assert any(word in said for word in ('BSD', 'MIT', 'Apache', 'PSF', 'Python Software Foundation', 'MPL')), said[:200]
