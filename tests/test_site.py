"""The site's own parts: Markdown conversion and the link checker. The whole site is built by `make docs`."""
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT/'docs'))
import build


def test_callouts_become_admonitions_and_folds():
    text = ':::{.callout-note title="Predict"}\nWhat is it?\n:::\n\n:::{.callout-tip collapse="true"}\nFour.\n:::\n'
    out = build.callouts(text)
    assert ':::{admonition} Predict\n:class: note\n\nWhat is it?\n:::' in out
    assert '<details>\n<summary>Tip</summary>\n\nFour.\n\n</details>' in out


def test_code_is_left_alone():
    text = 'a `[x](y.md)` [x](y.md)\n```\n[x](y.md)\n```\n'
    changed = build.outside_code(text, lambda t: t.replace('y.md', 'z.md'))
    assert changed == 'a `[x](y.md)` [x](z.md)\n```\n[x](y.md)\n```\n'


def test_names_that_differ_in_case_get_their_own_anchor():
    first = build.label('m', 'Products', set())
    assert first == 'm.products' and build.label('m', 'products', {first}) == 'm.products-2'
    assert build.label('m', 'product', {first}) == 'm.product'


def test_doc_links_become_local():
    text = '[`f`](https://x.io/lib/api/m.html#f) and [`g`](https://else.io/api/m.html#g)'
    page = dict(cells=[dict(cell_type='markdown', source=text)])
    build.doc_links(page, {('m', 'f'): 'm.f'}, {'m': 'api/01_m.ipynb'}, 'https://x.io/lib/')
    assert page['cells'][0]['source'] == '[`f`](#m.f) and [`g`](https://else.io/api/m.html#g)'


@pytest.mark.parametrize('body, fault', [
    ('<a href="b.html#there">x</a> <a href="https://far.org">x</a> <img src="data:image/png;base64,AA">', None),
    ('<a href="gone.html">x</a>', 'no file for gone.html'),
    ('<a href="b.html#nowhere">x</a>', 'no target for b.html#nowhere'),
    ('<a href="#nowhere">x</a>', 'no target for #nowhere'),
    ('<img src="gone.png">', 'no file for gone.png'),
    ('<script src="https://cdn.org/x.js"></script>', 'from the network'),
    ('<link rel="stylesheet" href="//cdn.org/x.css">', 'from the network')])
def test_link_checker_finds_what_is_broken(tmp_path, body, fault):
    (tmp_path/'a.html').write_text(body)
    (tmp_path/'b.html').write_text('<p id="there">')
    bad, n_links, n_pages = build.check_site(tmp_path)
    assert n_pages == 2 and len(bad) == (fault is not None) and all(fault in b for b in bad)
