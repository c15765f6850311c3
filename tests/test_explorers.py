"The explorer without a browser, and its offline page in one."
import io, json, os, shutil, time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import ROOT
from tensorsim_nb.explorers import CheckpointExplorer
from tensorsim_nb.plots import to_png, toy_table

TABLE, CONTROL = toy_table(), toy_table(jump=0, seed=1)

@pytest.fixture
def explorer(): return CheckpointExplorer(TABLE, CONTROL)

def like(**changes): return SimpleNamespace(**{**vars(toy_table(5)), **changes})

def test_traits_change_what_is_shown(explorer):
    def shown():
        return explorer.image.value, explorer.numbers.value, *(m.data['values'] for m in explorer.maps)
    first = shown()
    explorer.pick = (2, 4)
    assert [a == b for a, b in zip(first, shown())] == [False, False, True, True]
    second = shown()
    explorer.metric = 'slice 3'
    assert [a == b for a, b in zip(second, shown())] == [True, False, False, False]
    explorer.same_colours = False
    assert explorer.maps[0].data['lo'] > .5

def test_the_quick_redraw_is_the_full_one(explorer):
    "Moving artists over kept pixels gives the picture that a new explorer draws."
    for pick in [(0, 0), (3, 17), (20, 2)]:
        explorer.pick = pick
        fresh = CheckpointExplorer(TABLE, CONTROL, state=explorer.state())
        a, b = (np.asarray(Image.open(io.BytesIO(e.image.value))) for e in (explorer, fresh))
        assert (a == b).all()

def test_controls_and_traits_move_each_other(explorer):
    explorer.measure.value = 'matrix'
    explorer.shared.value = False
    explorer.sliders[1].value = 7
    assert explorer.metric == 'matrix' and not explorer.same_colours and explorer.pick == (14, 7)
    explorer.maps[1].pick = [1, 2] # a click in the browser
    assert explorer.pick == (1, 2) and explorer.maps[0].pick == [1, 2]
    assert [s.value for s in explorer.sliders] == [1, 2]
    explorer.metric = 'tensor'
    assert explorer.measure.value == 'tensor'
    assert all(w.description and w.tooltip for w in (explorer.measure, explorer.shared, *explorer.sliders))

def test_value_is_the_numbers_of_the_tables(explorer):
    explorer.pick, explorer.metric = (np.int64(3), 20), 'output poisoned'
    v = explorer.value
    assert v['similarity'] == TABLE.matrices['output poisoned'][3, 20]
    assert v['labels'] == ('300', '2000') and v['steps'] == (300, 2000)
    assert v['numbers'] == {k: m[3, 20] for k, m in TABLE.matrices.items()}
    assert v['control'] == {k: m[3, 20] for k, m in CONTROL.matrices.items()}
    loss = TABLE.curves.query("quantity == 'loss'").set_index('step')['value']
    assert v['curves']['loss'] == (loss[300], loss[2000])
    for k in v['numbers']: assert f"{k} {v['numbers'][k]:.4f}" in explorer.numbers.value

def test_state_comes_back(explorer):
    explorer.pick, explorer.metric, explorer.same_colours = (1, 2), 'slice 4', False
    again = CheckpointExplorer(TABLE, CONTROL, state=json.loads(json.dumps(explorer.state())))
    assert again.state() == explorer.state() and again.value == explorer.value
    assert again.maps[0].data == explorer.maps[0].data
    assert CheckpointExplorer(TABLE, state=dict(metric='matrix')).pick == (14, 20)

SIGNED = like(matrices={'signed': np.cos(np.subtract.outer(range(5), range(5)))}, boundaries={}, meta={})
BARE = like(curves=pd.DataFrame(columns=['step', 'quantity', 'value']))

@pytest.mark.parametrize('table, control', [(TABLE, CONTROL), (TABLE, None), (toy_table(1), None),
                                            (toy_table(2), toy_table(2)), (SIGNED, None), (BARE, None)])
def test_any_good_table(table, control, tmp_path):
    e = CheckpointExplorer(table, control)
    for k in table.matrices: e.metric = k
    assert len(e.image.value) > 1000 and len(to_png(e.figure())) > 1000
    assert 'ts-data' in e.save_html(tmp_path/'x.html').read_text()

def test_nothing_is_copied_or_changed(explorer):
    before = {k: m.copy() for k, m in TABLE.matrices.items()}
    explorer.pick = (0, 1); explorer.figure(); explorer.value
    assert all((TABLE.matrices[k] == m).all() for k, m in before.items())

BAD = [
    (lambda: CheckpointExplorer(3), TypeError, 'int without labels'),
    (lambda: CheckpointExplorer(like(matrices={})), ValueError, 'at least one matrix'),
    (lambda: CheckpointExplorer(like(matrices={'a': np.ones((5, 4))})), ValueError, "Matrix 'a' is square"),
    (lambda: CheckpointExplorer(like(matrices={'a': np.full((5, 5), np.nan)})), ValueError, '25 NaN'),
    (lambda: CheckpointExplorer(like(labels=['a'])), ValueError, '1 labels for 5'),
    (lambda: CheckpointExplorer(like(steps=[1, 2])), ValueError, '2 steps for 5'),
    (lambda: CheckpointExplorer(like(steps=[5, 4, 3, 2, 1])), ValueError, 'increase'),
    (lambda: CheckpointExplorer(like(curves=pd.DataFrame())), ValueError, 'step, quantity, value'),
    (lambda: CheckpointExplorer(like(boundaries={'x': 77})), ValueError, "'x' at 77"),
    (lambda: CheckpointExplorer(toy_table(5), toy_table(6)), ValueError, '6 and 5'),
    (lambda: CheckpointExplorer(toy_table(5), like(matrices=dict(tensor=np.eye(5)))), ValueError,
     "no 'matrix'"),
    (lambda: CheckpointExplorer(TABLE, state=3), ValueError, 'state'),
    (lambda: CheckpointExplorer(TABLE, state=dict(pick=(0, 99))), ValueError, '0 to 20'),
    (lambda: CheckpointExplorer(TABLE, state=dict(pick=3)), ValueError, 'state'),
    (lambda: CheckpointExplorer(TABLE, state=dict(pick=(1, 2, 3))), ValueError, 'state'),
    (lambda: CheckpointExplorer(TABLE, state=dict(metric='cka')), ValueError, "'cka'"),
]

@pytest.mark.parametrize('call, kind, text', BAD, ids=[t for *_, t in BAD])
def test_refusals(call, kind, text):
    with pytest.raises(kind, match=text): call()

def test_redraw_time(explorer):
    "Printed, not asserted: machines differ. The goal is 150 ms from slider to picture."
    def ms(change):
        start = time.perf_counter()
        change()
        return 1000*(time.perf_counter() - start)
    picks = [ms(lambda: explorer.set_trait('pick', (k, 20-k))) for k in range(20)]
    metrics = [ms(lambda: explorer.set_trait('metric', k)) for k in TABLE.matrices]
    print(f"\nnew pair: median {np.median(picks):.0f} ms, worst {max(picks):.0f}; "
          f"new measure: median {np.median(metrics):.0f} ms")

EVIL = '</script><img src=x onerror="document.title=\'broken\'">'

def test_labels_are_escaped(tmp_path):
    t = toy_table(4)
    t.labels[3], t.meta['name'] = EVIL, EVIL
    t.matrices = {EVIL: t.matrices['tensor']}
    e = CheckpointExplorer(t)
    text = e.save_html(tmp_path/'x.html', EVIL).read_text()
    assert '<img' not in text and text.count('</script>') == 2 and '<img' not in e.numbers.value

# ---- in a browser ----

def chromium_or_skip():
    "A browser, or a clear word why there is none; in CI a missing browser fails once .ci/run installs it."
    path = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('google-chrome')
    try: from playwright.sync_api import sync_playwright
    except ImportError: sync_playwright = None
    if path and sync_playwright: return path, sync_playwright
    lost = ["chromium (apt-get install chromium, or set CHROMIUM)"]*(not path)
    lost += ["playwright (pip install playwright)"]*(not sync_playwright)
    why = "The browser tests need " + " and ".join(lost)
    script = ROOT/'.ci'/'run'
    installed = script.exists() and 'chromium' in script.read_text()
    if os.environ.get('CI') == 'true' and installed: pytest.fail(why)
    pytest.skip(why)

@pytest.fixture
def browser():
    path, sync_playwright = chromium_or_skip()
    args = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
            '--disable-component-update --disable-sync')
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=args.split())
        yield b
        b.close()

@pytest.mark.browser
@pytest.mark.parametrize('width, scheme', [(900, 'light'), (390, 'dark')])
def test_offline_page_in_a_browser(browser, tmp_path, width, scheme):
    t = toy_table()
    t.labels[0] = EVIL
    path = CheckpointExplorer(t, CONTROL, state=dict(metric='slice 9')).save_html(tmp_path/'x.html', "Toy")
    page, wrong, asked = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme), [], []
    page.on('request', lambda r: asked.append(r.url))
    page.on('pageerror', lambda e: wrong.append(str(e)))
    page.on('console', lambda m: wrong.append(m.text) if m.type == 'error' else None)
    page.goto(path.as_uri())
    line, canvas = page.locator('.ts-line'), page.locator('.ts-canvas').first
    assert line.first.text_content() == f"1400 · 2000: {TABLE.matrices['slice 9'][14, 20]:.4f}"

    box = canvas.bounding_box()
    def cell(i, j): # middle of a cell: margins are 52 left and 6 above, cells fill 266 of 380
        s = box['width']/380
        return dict(x=s*(52 + 266*(j+.5)/21), y=s*(6 + 266*(i+.5)/21))
    canvas.hover(position=cell(5, 8)) # hover reads a cell and picks nothing
    assert line.first.text_content() == f"500 · 800: {TABLE.matrices['slice 9'][5, 8]:.4f}"
    assert line.nth(1).text_content().startswith('1400 · 2000')
    canvas.click(position=cell(5, 8)) # a click picks, in both maps
    assert line.nth(1).text_content() == f"500 · 800: {CONTROL.matrices['slice 9'][5, 8]:.4f}"
    page.keyboard.press('ArrowRight'); page.keyboard.press('ArrowUp')
    assert line.nth(1).text_content().startswith('400 · 900')
    assert f"{TABLE.matrices['slice 9'][4, 9]:.4f}" in page.locator('#ts-pair').text_content()
    pixels = canvas.screenshot()
    page.locator('#ts-measure').select_option('matrix')
    assert f"{TABLE.matrices['matrix'][4, 9]:.4f}" in page.locator('#ts-pair').text_content()
    assert canvas.screenshot() != pixels
    numbers = page.locator('#ts-numbers tr').all_text_contents()
    assert len(numbers) == 1 + len(TABLE.matrices)
    assert f"{TABLE.matrices['slice 3'][4, 9]:.4f}" in ' '.join(numbers)
    pixels = canvas.screenshot()
    page.locator('#ts-shared').uncheck()
    assert canvas.screenshot() != pixels
    page.keyboard.press('Tab') # every control is reached by keys
    assert page.evaluate("document.activeElement.className") == 'ts-canvas'
    assert page.evaluate("document.documentElement.scrollWidth") <= width and page.title() == "Toy"
    assert asked == [path.as_uri()] and not wrong, (asked, wrong)

@pytest.mark.browser
def test_control_the_policy_blocks_requests(browser, tmp_path):
    "A page of ours with a foreign picture in it does not fetch it."
    from tensorsim_nb.plots import html_page
    (tmp_path/'p.html').write_text(html_page("t", '<img src="http://127.0.0.1:9/x.png">'))
    page, asked, said = browser.new_page(), [], []
    page.on('console', lambda m: said.append(m.text))
    page.on('requestfinished', lambda r: asked.append(r.url))
    page.goto((tmp_path/'p.html').as_uri())
    assert len(asked) == 1 and any('Content Security Policy' in s for s in said)
