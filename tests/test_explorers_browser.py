"Explorers in headless Chromium: live through Voila and JupyterLab, and their pages from file://. One server, one browser."
import json, os, time

import nbformat
import numpy as np
import pytest

from conftest import ROOT
from explorer_browser import PATIENCE, at_end, find_chromium, handle, jupyter, move, notebook, open_browser, open_voila, picture
from explorer_samples import LABELS, MOVED, SAMPLES, checkpoint
from tensorsim_nb.plots import html_page, toy_table
from tensorsim_nb.explorers import CheckpointExplorer

pytestmark = pytest.mark.browser
EVIL = '</script><img src=x onerror="document.title=\'broken\'">'


@pytest.fixture(scope='module')
def browser():
    "A browser, or a clear word why there is none: a skip at home, a failure in CI."
    path, found = find_chromium()
    if not path: (pytest.fail if os.environ.get('CI') == 'true' else pytest.skip)(found)
    with open_browser(path, found) as b: yield b

@pytest.fixture(scope='module')
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp('server')
    show = "from explorer_samples import SAMPLES\nfrom IPython.display import display\nfor make in SAMPLES.values(): display(make())"
    (folder/'all.ipynb').write_text(notebook(show))
    (folder/'lab.ipynb').write_text(notebook("from explorer_samples import checkpoint", "checkpoint()"))
    lesson = nbformat.read(ROOT/'nbs'/'tutorials'/'01_first_similarity.ipynb', as_version=4)
    for c in lesson.cells: c.update(dict(outputs=[], execution_count=None) if c.cell_type == 'code' else {})
    lesson.cells.append(nbformat.v4.new_code_cell("print('the end')"))
    nbformat.write(lesson, folder/'lesson.ipynb')
    with jupyter(folder) as address: yield address, folder

@pytest.fixture(scope='module')
def live(browser, server):
    "All explorers on one page, with one kernel."
    page = open_voila(browser, server[0], 'all.ipynb', '.ts-HeadExplorer canvas')
    yield page
    page.close()

# ---- live ----

@pytest.mark.parametrize('name', SAMPLES)
def test_a_slider_redraws_the_picture(live, name):
    "Printed: machines differ. The goal is a median of 150 ms from key to picture."
    label = LABELS[name]
    before, said = picture(live, name), live.locator(f'.ts-{name} [role=status]').text_content()
    first = move(live, name, label)
    live.wait_for_function("([kind, said]) => document.querySelector('.ts-' + kind + ' [role=status]').textContent !== said", arg=[name, said], timeout=PATIENCE)
    assert picture(live, name) != before
    times = [move(live, name, label) for _ in range(6)]
    print(f"\n{name}: first {first:.0f} ms, then median {np.median(times):.0f} ms, worst {max(times):.0f} ms")
    assert live.wrong == []

def test_hover_click_and_keys_on_a_live_map(live):
    canvas = live.locator('.ts-CheckpointExplorer canvas').first
    line, says = live.locator('.ts-CheckpointExplorer .ts-line'), live.locator('.ts-CheckpointExplorer [role=status]')
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    at = lambda i, j: dict(x=box['width']/404*(map_left + map_side*(j+.5)/9), y=box['width']/404*(6 + map_side*(i+.5)/9))
    canvas.hover(position=at(2, 5))
    assert line.first.text_content().startswith('200 · 500: ')
    canvas.click(position=at(2, 5))
    live.wait_for_function("() => document.querySelector('.ts-CheckpointExplorer [role=status]').textContent.startsWith('Checkpoints 200 and 500')", timeout=PATIENCE)
    assert line.nth(1).text_content().startswith('200 · 500: ') # the control's map follows
    live.keyboard.press('ArrowDown')
    live.wait_for_function("() => document.querySelector('.ts-CheckpointExplorer [role=status]').textContent.startsWith('Checkpoints 300 and 500')", timeout=PATIENCE)
    assert 'Checkpoints 300 and 500' in says.text_content()

map_left, map_side = 42, 288 # of a map of nine checkpoints, drawn 404 wide: see tsImage

def test_a_bad_word_gets_a_message_and_not_a_traceback(live):
    box = live.locator('.ts-SliceExplorer input[type=text]').first
    while not at_end(handle(live, 'SliceExplorer', 'Slice')): move(live, 'SliceExplorer', 'Slice')
    box.fill('cat'); box.press('Enter')
    live.wait_for_selector('.ts-SliceExplorer [role=alert]', timeout=PATIENCE)
    assert "got 'cat'" in live.locator('.ts-SliceExplorer [role=alert]').text_content()
    box.fill('9 - 4'); box.press('Enter')
    live.wait_for_selector('.ts-SliceExplorer [role=status]', timeout=PATIENCE)

def test_controls_are_reached_by_keys_and_fit(live):
    live.locator('.ts-EigenExplorer summary').focus()
    reached = []
    for _ in range(6):
        live.keyboard.press('Tab')
        reached.append(live.evaluate("() => document.activeElement.className + ' ' + (document.activeElement.getAttribute('role') || '')"))
    assert sum('noUi-handle' in r for r in reached) == 2 and sum('ts-canvas' in r for r in reached) >= 2, reached
    assert live.evaluate("() => document.documentElement.scrollWidth") <= 900

def run_all(page, sign):
    "Run all cells until `sign` shows; asked again, as a person would, when a page that is still starting lets the click go."
    from playwright.sync_api import TimeoutError as PlaywrightTimeout
    for _ in range(4):
        page.keyboard.press('Escape')
        page.locator('.lm-MenuBar-itemLabel', has_text='Run').first.click()
        page.locator('[data-command="runmenu:run-all"]').click()
        try: return page.wait_for_selector(sign, timeout=PATIENCE//3)
        except PlaywrightTimeout: continue
    raise AssertionError(f"{sign} did not show: {page.locator('.jp-Notebook').first.inner_text()[-2000:]}")


def test_jupyterlab_from_start_to_click(browser, server):
    "Open the notebook, run all, move a slider, click the map: the picture changes."
    page = browser.new_page(viewport=dict(width=1300, height=1400))
    page.goto(f'{server[0]}/lab/tree/lab.ipynb?reset', timeout=PATIENCE)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=PATIENCE)
    run_all(page, '.ts-CheckpointExplorer canvas')
    before = picture(page, 'CheckpointExplorer')
    move(page, 'CheckpointExplorer', 'Row')
    moved = picture(page, 'CheckpointExplorer')
    assert moved != before
    says = page.locator('.ts-CheckpointExplorer [role=status]')
    page.locator('.ts-CheckpointExplorer canvas').first.click(position=dict(x=120, y=100))
    page.wait_for_function("(old) => [...document.querySelectorAll('.ts-CheckpointExplorer canvas')].map(c => c.toDataURL()).join() !== old", arg=moved, timeout=PATIENCE)
    assert 'Checkpoints' in says.text_content()
    page.close()

def test_a_newcomer_runs_the_first_lesson(browser, server):
    "Run All in JupyterLab, save, and read the file: every cell has run, and none has failed. benchmarks/newcomer.py does four lessons."
    address, folder = server
    page = browser.new_page(viewport=dict(width=1300, height=1400))
    page.goto(f'{address}/lab/tree/lesson.ipynb?reset', timeout=PATIENCE)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=PATIENCE)
    run_all(page, '.jp-OutputArea-output')
    end = time.time() + PATIENCE/1000
    while time.time() < end:
        page.keyboard.press('Control+s')
        page.wait_for_timeout(1000)
        cells = [c for c in json.loads((folder/'lesson.ipynb').read_text())['cells'] if c['cell_type'] == 'code']
        if cells[-1]['outputs']: break
    failed = [o for c in cells for o in c['outputs'] if o['output_type'] == 'error']
    assert not failed and all(c['execution_count'] for c in cells), (failed, [c['execution_count'] for c in cells])
    page.close()

# ---- pages without Python ----

def opened(browser, path, width=900, scheme='light'):
    page = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
    page.wrong, page.asked = [], []
    page.on('request', lambda r: page.asked.append(r.url))
    page.on('pageerror', lambda e: page.wrong.append(str(e)))
    page.on('console', lambda m: page.wrong.append(m.text) if m.type == 'error' else None)
    page.goto(path.as_uri())
    return page

@pytest.mark.parametrize('name', SAMPLES)
def test_pages_work_from_a_file(browser, tmp_path, name):
    e = SAMPLES[name]()
    path = e.save_html(tmp_path/'x.html', frames=8)
    page = opened(browser, path)
    canvas, line, says = page.locator('canvas'), page.locator('.ts-line'), page.locator('#ts-says')
    assert page.locator('.ts-panel').count() == len(e.view.panels) and says.text_content()
    for k in range(min(3, canvas.count())): # hover reads a number
        box = canvas.nth(k).bounding_box()
        canvas.nth(k).hover(position=dict(x=.4*box['width'], y=.4*box['height']))
        if e.view.panels[k]['kind'] != 'lines': assert any(c.isdigit() for c in line.nth(k).text_content())
    canvas.first.focus()
    page.keyboard.press('ArrowRight') # and so do keys
    assert any(c.isdigit() for c in line.first.text_content())
    said, moved = says.text_content(), page.locator(f'#ts-{MOVED[name]}')
    moved.focus()
    page.keyboard.press('ArrowLeft'); page.keyboard.press('ArrowLeft')
    if says.text_content() == said: [page.keyboard.press('ArrowRight') for _ in range(2)]
    assert says.text_content() != said
    assert page.evaluate("document.documentElement.scrollWidth") <= 900 and page.title() == e.heading
    assert page.asked == [path.as_uri()] and page.wrong == [], (page.asked, page.wrong)
    page.close()

@pytest.mark.parametrize('width, scheme', [(900, 'light'), (390, 'dark')])
def test_every_pair_of_checkpoints_on_its_page(browser, tmp_path, width, scheme):
    t, control = toy_table(), toy_table(jump=0, seed=1)
    t.labels[0] = EVIL
    path = CheckpointExplorer(t, control, state=dict(slice='slice 9')).save_html(tmp_path/'x.html', "Toy")
    page = opened(browser, path, width, scheme)
    line, canvas, says = page.locator('.ts-line'), page.locator('canvas').first, page.locator('#ts-says')
    assert line.first.text_content() == f"1400 · 2000: {t.matrices['slice 9'][14, 20]:.4f}"
    box = canvas.bounding_box()
    def cell(i, j): # names of more than three letters leave a margin of 66, cells fill 280 of 404
        s = box['width']/404
        return dict(x=s*(66 + 280*(j+.5)/21), y=s*(6 + 280*(i+.5)/21))
    canvas.hover(position=cell(5, 8)) # hover reads a cell and picks nothing
    assert line.first.text_content() == f"500 · 800: {t.matrices['slice 9'][5, 8]:.4f}"
    assert line.nth(1).text_content().startswith('1400 · 2000')
    canvas.click(position=cell(5, 8)) # a click picks, in both maps
    assert line.nth(1).text_content() == f"500 · 800: {control.matrices['slice 9'][5, 8]:.4f}"
    page.keyboard.press('ArrowRight'); page.keyboard.press('ArrowUp')
    assert line.nth(1).text_content().startswith('400 · 900') and f"{t.matrices['slice 9'][4, 9]:.4f}" in says.text_content()
    pixels = canvas.screenshot()
    page.locator('#ts-slice').select_option(label='all outputs'); page.locator('#ts-measure').select_option(label='matrix')
    assert f"matrix: toy run {t.matrices['matrix'][4, 9]:.4f}" in says.text_content() and canvas.screenshot() != pixels
    pixels = canvas.screenshot()
    page.locator('#ts-same_colours').uncheck()
    assert canvas.screenshot() != pixels
    assert page.evaluate("document.documentElement.scrollWidth") <= width and page.title() == "Toy"
    assert page.asked == [path.as_uri()] and not page.wrong, (page.asked, page.wrong)
    page.close()

def test_what_the_weights_say_is_on_the_page(browser, tmp_path):
    e = checkpoint()
    page = opened(browser, e.save_html(tmp_path/'x.html'))
    titles = page.locator('.ts-title').all_text_contents()
    assert any(t.startswith('Difference direction') for t in titles) and any(t.startswith('Hermite spectrum') for t in titles)
    page.close()

def test_control_the_policy_blocks_requests(browser, tmp_path):
    "A page of ours with a foreign picture in it does not fetch it."
    (tmp_path/'p.html').write_text(html_page("t", '<img src="http://127.0.0.1:9/x.png">'))
    page, asked, said = browser.new_page(), [], []
    page.on('console', lambda m: said.append(m.text))
    page.on('requestfinished', lambda r: asked.append(r.url))
    page.goto((tmp_path/'p.html').as_uri())
    assert len(asked) == 1 and any('Content Security Policy' in s for s in said)
    page.close()
