"""Labels are what users and files say: HTML, maths, escape sequences and broken bytes in them are shown, never obeyed, wherever labels are shown."""
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from explorer_samples import classifiers, images, transformers

import tensorsim_nb as ts
from tensorsim_nb import panels
from tensorsim_nb.core import message, printable
from tensorsim_nb.figures import class_grid, diffing_figure, forgetting_figure, headline_figure
from tensorsim_nb.heads import HeadTable
from tensorsim_nb.plots import (aligned_figure, backdoor_figure, curve_panel, head_heatmap, html_page, report, similarity_heatmap, slice_bars, table_html, to_png, toy_table,
                                training_curves)

PLAIN = 'plain'
NASTY = ('</script><img src=x onerror=alert(1)><b>&"\'', '$\\frac{_^ $x$ \\$ $', '_hidden \x1b[31m\x07\n\r\0\u202e \udc80', ' '.join(['$']*40))


class Tags(HTMLParser):
    "The skeleton of a page: its tags with the names of their attributes."
    def __init__(self):
        super().__init__()
        self.found = []
    def handle_starttag(self, tag, attrs): self.found.append((tag, *sorted(k for k, _ in attrs)))


def tags(text):
    text.encode() # what cannot be written is no page
    p = Tags()
    p.feed(text)
    return p.found


def drawn(fig):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing') # a letter that the font lacks is a box
        assert to_png(fig, 30)[:4] == b'\x89PNG'


def text(s): return s.replace('\udc80', '') # a DataFrame takes no broken bytes in its own names
M = np.eye(3)*.5 + .5
R = lambda s: [s, s + '1', 'c']


def named(s):
    "A made-up run in which everything is called s."
    s, t = text(s), toy_table(5)
    t.labels = [f'{s}{i}' for i in range(5)]
    t.matrices = {f'{s}{i}' if i else 'slice 9': m for i, m in enumerate(t.matrices.values()) if i < 3} | {f'slice {s}': M5}
    t.curves = t.curves.assign(quantity=[s if q == 'loss' else q for q in t.curves['quantity']])
    t.boundaries = {s: 3}
    t.meta = dict(t.meta, name=s, stages=['a', s])
    return t
M5 = np.eye(5)


def frame(s): return pd.DataFrame(dict(index=[0, 1]*3, stage=[text(s), 'b']*3, slice=[9]*6, part=['gaussian']*2 + ['trace']*2 + ['traceless']*2, value=.5, null=.1))
def headline(s): return pd.DataFrame({k: [.1, .2] for k in ('value', 'value low', 'value high', 'null', 'null low', 'null high')}, index=[text(s), 'b'])
def heads(s): return HeadTable([(m, 0, h) for m in (0, 1) for h in (0, 1)], [s, s + '2'], {k: np.eye(4) for k in ('QK', 'OV')}, 'standard', s)
def everything(s):
    return [panels.image(s, M, quantity=s, rows=R(s), columns=R(s), x=s, y=s, stages=[(s, 1)], name=s), panels.bars(s, R(s), {s: [1, 2, 3], s + 'b': [1, 2, 3]}, quantity=s, line=(1, s)),
            panels.lines(s, [panels.curve(s, [1, 2], [1, 2]), panels.curve(s + '2', [1, 2], [1, 2])], x=s, y=s, bands=[(0, 1, s)])]


FIGURES = dict(
    similarity_heatmap=lambda s: similarity_heatmap(M, R(s), title=s, axis=s, quantity=s, boundaries={s: 1}),
    training_curves=lambda s: training_curves(named(s).curves, title=s, boundaries={s: 2}),
    backdoor_figure=lambda s: backdoor_figure(named(s), named(s), names=['slice 9', f'{text(s)}1']),
    aligned_figure=lambda s: aligned_figure(named(s), [(f'{text(s)}1', lambda ax: curve_panel(ax, named(s), {text(s): s}, quantity=s, lines={s: .5}))], title=s),
    slice_bars=lambda s: slice_bars({s: .5, 'b': .2}, control={s: .1, 'b': .2}, highlight=s, title=s, quantity=s),
    head_heatmap=lambda s: head_heatmap(heads(s), title=s),
    forgetting_figure=lambda s: forgetting_figure(named(s), names=[f'{text(s)}1']),
    class_grid=lambda s: class_grid(named(s), title=s),
    diffing_figure=lambda s: diffing_figure(frame(s), slices=[9]),
    headline_figure=lambda s: headline_figure(headline(s), title=s, quantity=s),
    panel_figure=lambda s: panels.panel_figure(everything(s), s),
    attribution=lambda s: replace(ts.attribute(ts.classifier(3, 2, 2), by='layer'), labels=[s, s]).plot(),
)


@pytest.mark.parametrize('name', FIGURES)
def test_figures(name):
    for s in NASTY[1:]: drawn(FIGURES[name](s))


@pytest.fixture(scope='module')
def gram(): return ts.gram([ts.classifier(3, 2, 2) for _ in range(3)], progress=False)


HTML = dict(
    gram=lambda s, g, d: replace(g, labels=R(s), note=s)._repr_html_(),
    empty_gram=lambda s, g, d: replace(g, labels=R(s), mantissa=np.zeros((3, 3)), note=s)._repr_html_(),
    html_page=lambda s, g, d: html_page(s, ''),
    table_html=lambda s, g, d: table_html(pd.DataFrame({text(s): [text(s), 1.], 'b': [2, 3]}, index=[text(s), 'c'])) + table_html({s: s}),
    report=lambda s, g, d: report(d/'page.html', s, [(s, [s, {s: s}, pd.DataFrame({text(s): [text(s)]}), FIGURES['slice_bars'](s)])]).read_text(encoding='utf-8'),
)


@pytest.mark.parametrize('name', HTML)
def test_html(name, gram, tmp_path):
    def show(s): # a zero byte ends a name for some parsers, and surrogates can be no part of a file
        return HTML[name](s, gram, tmp_path)
    want = tags(printable(show(PLAIN), '\n'))
    for s in NASTY: assert tags(show(s).encode('utf-8', 'backslashreplace').decode()) == want, s


A, B = classifiers(16, 6)
def shown_image(s): return SimpleNamespace(x=images(16).x, y=images(16).y, image_shape=None)
EXPLORERS = dict(
    CheckpointExplorer=lambda s: ts.CheckpointExplorer(named(s), named(s)),
    SliceExplorer=lambda s: ts.SliceExplorer(A, B, names=(s, s + '2'), outputs=[f'{s}{i}' for i in range(10)]),
    EigenExplorer=lambda s: ts.EigenExplorer(A, shown_image(s), outputs=[f'{s}{i}' for i in range(10)]),
    DifferenceExplorer=lambda s: ts.DifferenceExplorer(A, B, shown_image(s), outputs=[f'{s}{i}' for i in range(10)]),
    HeadExplorer=lambda s: ts.HeadExplorer({f'QK {s}': M, f'OV{s}': M}, labels=R(s)),
    HeadExplorer_of_models=lambda s: ts.HeadExplorer(*transformers(), names=(s, s + '2')),
)


@pytest.mark.parametrize('name', EXPLORERS)
def test_explorers(name, tmp_path):
    "The line of words, the help, the page with its data, the static twin."
    def made(s):
        e = EXPLORERS[name](s)
        assert "role='alert'" not in e.says.value, e.says.value
        text = [w.value for w in e.children if isinstance(getattr(w, 'value', None), str)]
        page = e.save_html(tmp_path/'page.html', s, frames=4).read_text(encoding='utf-8')
        data = re.search(r'<script type="application/json" id="ts-data">(.*?)</script>', page, re.S)[1]
        assert '<' not in data and page.count('<script') == page.count('</script>')
        return e, [tags(x.encode('utf-8', 'backslashreplace').decode()) for x in (*text, page)]
    _, want = made(PLAIN)
    for s in NASTY[:3]:
        e, got = made(s)
        assert got == want, s
    drawn(EXPLORERS[name](NASTY[1]).figure())


def test_messages_are_one_line():
    for s in NASTY:
        text = message(s, s, s)
        assert text.isprintable()
    with pytest.raises(FileNotFoundError) as e: ts.load('\x1b[2J\n\udc80')
    assert str(e.value).isprintable()


def test_control_unescaped_labels_are_caught():
    assert tags(f'<p>{NASTY[0]}</p>') != tags(f'<p>{PLAIN}</p>')
    from tensorsim_nb.plots import new_figure
    fig = new_figure(2, 2)
    fig.add_subplot().set_title(NASTY[1])
    with pytest.raises(ValueError): to_png(fig, 30)


def test_names_survive_files(gram, tmp_path):
    for s in NASTY:
        replace(gram, labels=R(s)).save(tmp_path/'g')
        assert ts.Gram.load(tmp_path/'g').labels == R(s)
    ts.save(ts.classifier(2, 2, 2), tmp_path/'m', note=NASTY[2])
    from tensorsim_nb.models import info
    assert info(tmp_path/'m')['note'] == NASTY[2].encode('utf-8', 'backslashreplace').decode()
