"Figures and reports: drawn without a screen, without pyplot, with every refusal in words."
import io, subprocess, sys, warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tensorsim_nb.plots import (backdoor_figure, colour_range, figure_rows, html_page, new_figure, report,
                                similarity_heatmap,
                                slice_bars, table_html, to_png, toy_table, training_curves)

TABLE, CONTROL = toy_table(), toy_table(jump=0, seed=1)

def pixels(fig): return np.asarray(Image.open(io.BytesIO(to_png(fig, 60))).convert('RGB')).astype(float)

FIGURES = {
    'heatmap': lambda t: similarity_heatmap(t.matrices['slice 9'], t.labels, title="t",
                                            boundaries=t.boundaries),
    'curves': lambda t: training_curves(t.curves, boundaries={'poison': 1500}),
    'curves by checkpoint': lambda t: training_curves(t.curves, boundaries=t.boundaries, steps=t.steps),
    'backdoor': lambda t: backdoor_figure(t),
    'bars': lambda t: slice_bars({k: t.matrices[k][3, -1] for k in t.matrices}, highlight='slice 9'),
}

@pytest.mark.parametrize('name', FIGURES)
def test_figures_draw_without_warnings_and_depend_on_the_numbers(name):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        a, again, b = (pixels(FIGURES[name](t)) for t in (TABLE, TABLE, CONTROL))
    assert a.std() > 5 and (a == again).all()
    assert a.shape != b.shape or (a != b).any()

def test_no_pyplot_anywhere():
    code = """
import sys
from tensorsim_nb.plots import *
t = toy_table(9)
to_png(backdoor_figure(t, t)); to_png(slice_bars({'a': 1.0}))
assert 'matplotlib.pyplot' not in sys.modules"""
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

def test_given_axes_are_used():
    fig = new_figure()
    one, two = fig.subplots(1, 2)
    assert similarity_heatmap(np.eye(3), 'abc', title="", ax=one) is fig
    assert training_curves(TABLE.curves, ax=two) is fig and isinstance(fig, Figure)

@pytest.mark.parametrize('n', [1, 2, 8, 9, 40, 200])
def test_heatmap_of_any_size_has_few_ticks(n):
    m = np.clip(np.random.default_rng(0).normal(.8, .1, (n, n)), 0, 1)
    ax = similarity_heatmap(m, [str(100*i) for i in range(n)], title="t").axes[0]
    assert 1 <= len(ax.get_xticks()) <= 10 and ax.get_aspect() == 1
    assert len(ax.texts) == (n*n if n <= 8 else 0)

def test_colours():
    for m, want in [([[.3, 1.]], (.3, 1, 'viridis')), ([[-.01, 1.]], (-.01, 1, 'viridis')),
                    ([[-.2, .1]], (-.2, .2, 'RdBu_r'))]:
        assert colour_range(np.array(m)) == want
    lo, hi, _ = colour_range(np.ones((2, 2)) - 1e-9)
    assert hi - lo == pytest.approx(1e-3) # rounding errors get no colours

def test_dollars_and_long_names_are_text():
    labels = ['$x$ unclosed $', 'a'*100, '<b>']
    warnings.simplefilter('error') # a label that leaves no room for the picture would warn
    for fig in (similarity_heatmap(np.eye(3), labels, title='$'), slice_bars(dict.fromkeys(labels, 1.)),
                training_curves(pd.DataFrame(dict(step=[0, 1], quantity='$\\frac',
                                                  value=[0, 1.])))): to_png(fig)

def test_boundary_lines_stand_before_their_checkpoint():
    ax = similarity_heatmap(np.eye(10), list(range(10)), title="", boundaries={'b': 7}).axes[0]
    assert {tuple(l.get_xdata()) for l in ax.lines if l.get_ydata()[0] == 0} == {(6.5, 6.5)}

def test_backdoor_columns_line_up():
    fig = backdoor_figure(TABLE, CONTROL)
    maps = [a for a in fig.axes if a.images]
    assert [a.get_title() for a in maps[:5]] == figure_rows(TABLE) == ['tensor', 'slice 9', 'matrix',
                                                                       'output poisoned', 'output clean']
    curves = fig.axes[0]
    assert curves.get_position().x0 == pytest.approx(maps[0].get_position().x0)
    assert curves.get_xlim() == maps[0].get_xlim()
    fig.draw_without_rendering()
    box = maps[0].get_window_extent()
    assert box.width == pytest.approx(box.height) == pytest.approx(curves.get_window_extent().width)
    assert len({im.get_clim() for a in maps for im in a.images}) == 1 # one range of colours
    for runs in ((TABLE,), (TABLE, CONTROL)): # titles of axes at the outer edges
        fig = backdoor_figure(*runs, names=['tensor'])
        assert [a.get_ylabel() for a in fig.axes if a.get_ylabel() in ('fraction', 'loss')] == ['fraction',
                                                                                                'loss']
    rows = backdoor_figure(TABLE, CONTROL, same_colours=False)
    assert len({im.get_clim() for a in rows.axes for im in a.images}) == 5

@pytest.mark.parametrize('quantities', [['loss'], ['accuracy'], ['train loss', 'accuracy', 'test loss'], []])
def test_any_mix_of_curves(quantities):
    frame = pd.DataFrame([dict(step=s, quantity=q, value=.5) for q in quantities for s in (0, 10, 20)],
                         columns=['step', 'quantity', 'value'])
    to_png(training_curves(frame)); to_png(training_curves(frame, steps=[0, 10, 20]))
    table = toy_table(3)
    table.curves = frame
    to_png(backdoor_figure(table, table))

BAD = [
    (lambda: similarity_heatmap(np.ones((2, 3)), 'ab', title=""), ValueError, r'shape \(2, 3\)'),
    (lambda: similarity_heatmap(np.ones((0, 0)), '', title=""), ValueError, 'square'),
    (lambda: similarity_heatmap([['a']], 'a', title=""), TypeError, 'holds numbers'),
    (lambda: similarity_heatmap(np.full((2, 2), np.inf), 'ab', title=""), ValueError, '4 NaN or Inf'),
    (lambda: similarity_heatmap(np.eye(2), 'abc', title=""), ValueError, '3 labels for 2 rows'),
    (lambda: similarity_heatmap(np.eye(2), 'ab', title="", boundaries={'x': 5}), ValueError, "'x' at 5"),
    (lambda: similarity_heatmap(np.eye(2), 'ab', title="", vmin=2, vmax=1), ValueError, 'vmin <= vmax'),
    (lambda: training_curves(3), ValueError, 'got int'),
    (lambda: training_curves(TABLE.curves, steps=[0, 0]), ValueError, 'increase'),
    (lambda: training_curves(TABLE.curves, steps=[]), ValueError, 'increase'),
    (lambda: backdoor_figure(TABLE, names=[]), ValueError, 'needs a matrix'),
    (lambda: backdoor_figure(TABLE, names=['cka']), ValueError, "no 'cka'"),
    (lambda: slice_bars({}), ValueError, 'at least one'),
    (lambda: slice_bars({'a': 1}, errors={}), ValueError, "no 'a'"),
]

@pytest.mark.parametrize('call, kind, text', BAD, ids=[t for *_, t in BAD])
def test_refusals(call, kind, text):
    with pytest.raises(kind, match=text): call()

EVIL = '</title><script>alert("&")</script>'

def test_report_is_self_contained_and_escaped(tmp_path):
    frame = pd.DataFrame({EVIL: [EVIL, 'x'], 'number': [.5, 1e-12]}, index=pd.Index(['a', EVIL], name=EVIL))
    path = report(tmp_path/'r.html', EVIL, [(EVIL, [EVIL, slice_bars({'a': 1.}), frame, {EVIL: 1}]),
                                            ("plain", "one\n\ntwo")])
    text = path.read_text(encoding='utf-8')
    assert '<script' not in text and text.count('data:image/png;base64,') == 1 and text.count('<p>') == 3
    for outside in ('http:', 'https:', 'src="//', '@import', 'url('): assert outside not in text
    for inside in ("default-src 'none'", '1e-12', '0.5000', 'prefers-color-scheme:dark'): assert inside in text
    assert [p.name for p in tmp_path.iterdir()] == ['r.html']

def test_report_leaves_nothing_behind_when_refused(tmp_path):
    for sections, text in [([("a", object())], 'got object'), (["abc"], 'pair'), ([("a",)], 'pair')]:
        with pytest.raises(TypeError, match=text): report(tmp_path/'r.html', "t", sections)
    with pytest.raises(FileNotFoundError, match='folder'): report(tmp_path/'no'/'r.html', "t", [])
    assert not list(tmp_path.iterdir())

def test_tables_show_named_indices_only():
    assert table_html(pd.DataFrame(dict(a=[1]))).count('<th>') == 1
    assert table_html(pd.DataFrame(dict(a=[1]), index=['x'])).count('<th>') == 2
    assert "script-src" not in html_page("t", "") and "script-src" in html_page("t", "", script="1")
