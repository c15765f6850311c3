"""Every notebook is clean: nothing in it that changes from run to run or from machine to machine."""
import copy, json, re
from statistics import median

import pytest

from conftest import ROOT

NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
WIDGET = 'application/vnd.jupyter.widget-view+json'
machine_path = re.compile(r'(?<![\w/.])/(?:(?:home|work|root|Users|var/folders)/|tmp/(?:tmp|ipykernel))[\w.-]+'
                          r'|[A-Z]:\\Users|site-packages/')


def strings(x):
    "All text below `x`, except base64 pictures."
    if isinstance(x, str): yield x
    elif isinstance(x, list):
        for y in x: yield from strings(y)
    elif isinstance(x, dict):
        for k, y in x.items():
            if not k.startswith('image/'): yield from strings(y)


def problems(nb):
    "What is wrong with a parsed notebook, one line each."
    bad, ids = [], [c.get('id') for c in nb['cells']]
    if None in ids or len(set(ids)) < len(ids): bad.append('cell ids are missing or repeated')
    if 'widgets' in nb['metadata']: bad.append('widget state is stored')
    for c in nb['cells']:
        where = f"cell {c.get('id')}"
        found = machine_path.search('\n'.join(strings([c['source'], c.get('outputs', [])])))
        if found: bad.append(f'{where}: a path of one machine, {found[0]}')
        if c['cell_type'] != 'code': continue
        if c['execution_count'] is not None: bad.append(f'{where}: an execution count')
        for o in c['outputs']:
            if o['output_type'] == 'error': bad.append(f'{where}: a stored error')
            if o.get('execution_count') is not None: bad.append(f'{where}: an execution count in an output')
            if WIDGET in o.get('data', {}): bad.append(f'{where}: a live widget is stored')
    code = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    if any('#| default_exp' in s for s in code) and 'nbdev_export()' not in ''.join(nb['cells'][-1]['source']):
        bad.append('the last cell does not export')
    return bad


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT/'nbs').as_posix())
def test_notebook_is_clean(path):
    nb = json.loads(path.read_text(encoding='utf-8'))
    assert problems(nb) == []
    first = ''.join(nb['cells'][0]['source'])
    assert nb['cells'][0]['cell_type'] == 'markdown' and first.startswith('# '), 'the first cell is the title'


def spoil_ids(nb): nb['cells'][1]['id'] = nb['cells'][0]['id']
def spoil_count(nb): nb['cells'][1]['execution_count'] = 3
def spoil_widgets(nb): nb['metadata']['widgets'] = {}
def spoil_path(nb): nb['cells'][0]['source'] = ['see /home/someone/x']
def spoil_last(nb): nb['cells'].pop()
def spoil_error(nb): nb['cells'][1]['outputs'] = [dict(output_type='error', ename='E', evalue='', traceback=[])]
def spoil_view(nb): nb['cells'][1]['outputs'] = [dict(output_type='display_data', metadata={}, data={WIDGET: {}})]


@pytest.mark.parametrize('spoil', [
    spoil_ids, spoil_count, spoil_widgets, spoil_path, spoil_last, spoil_error, spoil_view])
def test_control_a_spoiled_notebook_is_caught(spoil):
    nb = dict(metadata={}, cells=[
        dict(id='a', cell_type='markdown', source=['# title']),
        dict(id='b', cell_type='code', source=['#| default_exp x'], outputs=[], execution_count=None),
        dict(id='c', cell_type='code', source=['nbdev.nbdev_export()'], outputs=[], execution_count=None)])
    assert problems(nb) == []
    spoiled = copy.deepcopy(nb)
    spoil(spoiled)
    assert len(problems(spoiled)) == 1


def left_behind(code:str) -> list:
    "Settings of the whole process that a notebook changes and does not put back: the gate runs many in one process."
    settings = {'set_grad_enabled(False)': 'set_grad_enabled(True)', 'set_default_dtype(torch.float64)': 'set_default_dtype(torch.float32)'}
    lines = [l for l in code.split('\n') if re.match(r'torch\.', l)]
    return [k for k, back in settings.items() if any(k in l for l in lines) and not any(back in l for l in lines[max(i for i, l in enumerate(lines) if k in l):])]


def test_notebooks_leave_the_process_as_it_was():
    code = {p: '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells']
                         if c['cell_type'] == 'code' and 'nbdev_export()' not in ''.join(c['source'])) for p in NOTEBOOKS}
    assert {p.name: found for p, s in code.items() if (found := left_behind(s))} == {}
    assert left_behind('torch.set_grad_enabled(False)\nx = 1') and left_behind('torch.set_default_dtype(torch.float64)')   # the control


def visible_lines(nb) -> list:
    "Lines of each code cell that a reader sees."
    cells = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    return [sum(bool(l.strip()) and not l.startswith('#|') for l in s.split('\n')) for s in cells if '#| hide' not in s]


def test_cells_of_lessons_are_short():
    "Half of all code cells of the lessons and explanations have at most eight lines."
    parsed = [json.loads(p.read_text(encoding='utf-8')) for p in NOTEBOOKS if p.parent.name in ('tutorials', 'explain')]
    assert median(n for nb in parsed for n in visible_lines(nb)) <= 8


@pytest.mark.parametrize('path', [p for p in NOTEBOOKS if p.parent.name == 'tutorials'], ids=lambda p: p.stem)
def test_lessons_state_claim_and_control_first_and_limits_last(path):
    cells = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown']
    assert re.search('[Bb]y the end', cells[0]) and 'control' in cells[0] and re.search(r'[Yy]ou need', cells[0])
    assert any(re.search(r'^## .*[Ll]imits', c, re.M) for c in cells) and len(re.findall(r'\]\(', cells[-1])) >= 3
