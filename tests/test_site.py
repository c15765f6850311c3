"""The site's own parts: Markdown conversion and the link checker. The whole site is built by `make docs`."""
import base64, io, json, os, re, sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.colors
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
    page['cells'][0]['source'] = f'```python\ndef h(x): # {text}\n```\n{text}'
    build.doc_links(page, {('m', 'f'): 'm.f'}, {'m': 'api/01_m.ipynb'}, 'https://x.io/lib/')
    assert page['cells'][0]['source'].startswith('```python\ndef h(x): # `f` and') and '[`f`](#m.f)' in page['cells'][0]['source']


def test_text_below_the_title_of_the_first_cell_is_kept():
    assert build.opening('# T\n\n> claim\n\n**The claim.** x\n\n- a: list\n') == '**The claim.** x\n\n- a: list'
    assert build.opening('# T\n\n> claim') == '' and build.opening('# T\n\n- order: 3\n\ntext') == 'text'


def test_reading_time_counts_words_and_lines():
    cell = lambda kind, source: SimpleNamespace(cell_type=kind, source=source)
    nb = SimpleNamespace(cells=[cell('markdown', 'word '*600), cell('code', 'x\n'*29 + 'x')])
    assert build.minutes(nb) == 3 + 2 and build.minutes(nb, 'word '*200) == 6


def test_pictures_are_told_to_those_who_cannot_see_them():
    assert build.picture_alt({'fig-alt': '"two lines"'}, '') == 'two lines'
    assert build.picture_alt({}, "ax.set(title='Cost of a pair', xlabel='d')") == 'Figure: Cost of a pair'
    assert build.picture_alt({}, 'plt.plot(x)') == 'Figure, described in the text around it'
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    assert re.search(r'!\[[^]]{80,}\]\(docs/images/', readme), "the README's picture has a text"


def test_a_figure_leaves_a_twin_for_dark_pages():
    import dark
    import matplotlib.pyplot as plt
    fig, (ax, image) = plt.subplots(1, 2)
    line, text = ax.plot([0, 1], 'k')[0], image.text(0, 0, 'on the image', color='black')
    image.imshow([[0, 1]])
    before = ax.get_facecolor(), line.get_color(), ax.title.get_color()
    png = dark.dark_picture(fig)
    pixels = plt.imread(io.BytesIO(base64.b64decode(png)))
    assert pixels[0, 0, :3].max() < .2 < .9 < pixels[..., :3].min(2).max() # dark paper, light ink
    assert before == (ax.get_facecolor(), line.get_color(), ax.title.get_color()) and text.get_color() == 'black'
    assert dark.turned('#0072B2') == pytest.approx(matplotlib.colors.to_rgba('#0072B2')) # a hue stays
    plt.close(fig)


def test_both_pictures_come_from_one_output(tmp_path, monkeypatch):
    monkeypatch.setattr(build, 'PAGES', tmp_path)
    out = dict(output_type='display_data', data={'image/png': 'AA==', build.DARK_MIME: 'AA=='})
    light, twin = build.both_pictures([out], 'two <lines>', build.NBS/'explain'/'x.ipynb')
    assert list(light['data']) == ['image/png'] and 'src="../_static/dark/' in twin['data']['text/html']
    assert 'two &lt;lines&gt;' in twin['data']['text/html'] and len(list((tmp_path/'_extra_static'/'dark').iterdir())) == 1
    assert len(list(build.both_pictures([dict(output_type='stream', text='x')], '', build.NBS/'index.ipynb'))) == 1


def test_grey_ink_is_lighter_on_a_dark_page():
    import dark
    assert min(dark.turned('#555555')[:3]) > .6 and dark.turned('#999999')[0] == pytest.approx(.6)


def stream(text): return dict(output_type='stream', name='stdout', text=text)


def test_printed_text_stays_beside_its_table():
    table = dict(output_type='display_data', data={'text/html': '<table>', 'text/plain': 'a  b\n1  2'})
    got = build.merged([stream('a'), stream(['b', 'c']), table, stream('d')])
    assert [''.join(o.get('text', '')) for o in got] == ['abc', '', 'd']


@pytest.mark.parametrize('text, columns', [('law      .9\nother    .8', True), ('one line   only', False), ('long words\nthat may wrap', False)])
def test_columns_are_not_wrapped(text, columns): assert build.aligned([stream(text)]) == columns


def test_pages_are_finished():
    import importlib.util
    spec = importlib.util.spec_from_file_location('site_conf', ROOT/'docs'/'conf.py')
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    code = '<div class="highlight"><pre><span></span><span class="k">if</span> x:\n    <span class="n">y</span>\n</pre>'
    body = f'(<span class="math notranslate">\\(x\\)</span>).<img alt="a" src="../_images/b.png" />{code}'
    context = SimpleNamespace(body=body).__dict__
    conf.finish(None, 'a', '', context, None)
    assert '<span class="nobr">(<span class="math notranslate">\\(x\\)</span>).</span>' in context['body']
    assert '<a class="enlarge" href="../_images/b.png"><img' in context['body']
    assert [l for l in re.findall(r'--indent:(\d+)ch', context['body'])] == ['4', '8']
    bare = lambda html: re.sub('<[^>]*>', '', html)
    assert bare(context['body']) == bare(body) # no word is lost or moved


def test_every_cell_runs_in_a_kernel_of_its_own_and_a_failing_one_fails_the_build(tmp_path, monkeypatch, capsys):
    import nbformat.v4 as v4
    from nbformat import read, write
    for name, cells in dict(good=['import os, sys; (os.getcwd(), os.getpid())', "'torch' in sys.modules"], other=['x = 1', 'x/0', 'y = 2']).items():
        write(v4.new_notebook(cells=[v4.new_code_cell(c) for c in cells]), tmp_path/f'{name}.ipynb')
    monkeypatch.setattr(build, 'NBS', tmp_path)
    monkeypatch.setattr(build, 'EXECUTED', tmp_path/'executed')
    monkeypatch.setenv('PYTHONPATH', f"{ROOT}{os.pathsep}{ROOT/'docs'}")
    with pytest.raises(build.Failed, match='1 that failed(.|\n)*other.ipynb, cell 2(.|\n)*ZeroDivisionError'):
        build.execute_all([tmp_path/'good.ipynb', tmp_path/'other.ipynb'])
    first, warm = (c.outputs[0].data['text/plain'] for c in read(tmp_path/'executed'/'good.ipynb', 4).cells)
    folder, pid = eval(first)
    assert Path(folder) == tmp_path and pid != os.getpid() and warm == str(sys.platform == 'linux')
    assert not (tmp_path/'executed'/'other.ipynb').exists()
    with pytest.raises(OSError): os.kill(pid, 0) # it has ended


def test_first_page_needs_its_data(tmp_path):
    page = lambda outputs: json.dumps(dict(cells=[dict(cell_type='code', source='', outputs=outputs)]))
    (tmp_path/'a.ipynb').write_text(page([dict(output_type='display_data', data={'application/json': dict(steps=[1])})]))
    (tmp_path/'b.ipynb').write_text(page([]))
    build.heatmaps(tmp_path/'a.ipynb', tmp_path/'static')
    assert (tmp_path/'static'/'heatmaps.js').read_text() == 'window.HEATMAPS = {"steps":[1]};\n'
    with pytest.raises(build.Failed, match='landing page'): build.heatmaps(tmp_path/'b.ipynb', tmp_path/'static')


def test_pages_of_the_site_name_public_things_and_existing_pages():
    import tensorsim_nb as ts
    for p in [build.HERE/'landing.md', *(build.HERE/'pages').glob('*.md')]:
        text = p.read_text(encoding='utf-8')
        lost = {n for n in re.findall(r'\bts\.(\w+)', text)} - set(dir(ts))
        assert not lost, f'{p.name} names {lost}'
        for target in re.findall(r'\]\(/([^)#]+)\)', text):
            assert (ROOT/'nbs'/target).exists() or (build.HERE/'pages'/target).exists(), f'{p.name}: {target}'


@pytest.mark.parametrize('body, fault', [
    ('<a href="b.html#there">x</a> <a href="https://far.org">x</a> <img src="data:image/png;base64,AA">', None),
    ('<a href="gone.html">x</a>', 'no file for gone.html'),
    ('<a href="b.html#nowhere">x</a>', 'no target for b.html#nowhere'),
    (f'<pre>File {ROOT}/x.py</pre>', 'shows a path of this machine'),
    ('<a href="#nowhere">x</a>', 'no target for #nowhere'),
    ('<img src="gone.png">', 'no file for gone.png'),
    ('<script src="https://cdn.org/x.js"></script>', 'from the network'),
    ('<link rel="stylesheet" href="//cdn.org/x.css">', 'from the network')])
def test_link_checker_finds_what_is_broken(tmp_path, body, fault):
    (tmp_path/'a.html').write_text(body)
    (tmp_path/'b.html').write_text('<p id="there">')
    bad, n_links, n_pages = build.check_site(tmp_path)
    assert n_pages == 2 and len(bad) == (fault is not None) and all(fault in b for b in bad)
