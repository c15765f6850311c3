"""Sphinx's settings; docs/build.py runs Sphinx on the pages that it made in _proc/pages."""
import json, re, sys
from configparser import ConfigParser
from pathlib import Path

here = Path(__file__).resolve().parent
pages = here.parent/'_proc'/'pages'
config = ConfigParser(delimiters=['='], interpolation=None)
config.read(here.parent/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

project, author, copyright, version = cfg['title'], cfg['author'], cfg['copyright'], cfg['version']
release, language = version, 'en'
extensions = ['myst_nb', 'sphinx.ext.mathjax', 'sphinx_copybutton']
exclude_patterns = ['files', '_extra_static', 'source/*.py', '*.svg']

# Notebooks come executed. The processors may put a heading of level 3 right below the title.
nb_execution_mode, nb_ipywidgets_js = 'off', {}
myst_enable_extensions = ['dollarmath', 'amsmath', 'attrs_inline', 'attrs_block', 'colon_fence', 'deflist']
myst_heading_anchors, myst_dmath_double_inline = 4, True
suppress_warnings = ['myst.header', 'misc.highlighting_failure']

html_theme, html_title = 'pydata_sphinx_theme', cfg['title']
html_static_path = [str(here/'static'), str(pages/'_extra_static')]
html_css_files, html_favicon = ['site.css'], str(here/'static'/'logo.svg')
html_copy_source, html_show_sourcelink, html_show_sphinx = False, False, False
html_use_index = False             # nothing is indexed: search does that
html_show_search_summary = False   # it would fetch pages, which a browser forbids for file://
html_sidebars = {name: [] for name in ('index', 'faq', 'glossary', 'cite', 'elsewhere', 'CONTRIBUTING', 'CHANGELOG', 'source/*')}
html_theme_options = dict(
    logo=dict(text=cfg['title'], image_light='_static/logo.svg', image_dark='_static/logo.svg'),
    navbar_align='left', header_links_before_dropdown=6, navigation_with_keys=False, show_toc_level=2,
    show_nav_level=2, back_to_top_button=False, secondary_sidebar_items=['page-toc'],
    footer_start=['copyright'], footer_end=[],
    pygments_light_style='a11y-high-contrast-light', pygments_dark_style='a11y-high-contrast-dark')
mathjax_path = 'mathjax/tex-mml-chtml.js'
copybutton_prompt_text, copybutton_prompt_is_regexp = r'>>> |\.\.\. |\$ ', True


def widget_scripts(app, pagename, templatename, context, doctree):
    "Only a page with widgets loads the widget scripts, after the theme's own."
    if pagename not in app.config.widget_pages: return
    for i, name in enumerate(('widgets/require.js', 'widgets.js', 'widgets/embed-amd.js')):
        app.add_js_file(name, priority=910 + i, loading_method='defer')   # run in this order, after MathJax


def landing_scripts(app, pagename, templatename, context, doctree):
    "The live heatmaps of the first page."
    if pagename != 'index': return
    for name in ('heatmaps.js', 'landing.js'): app.add_js_file(name, priority=900, loading_method='defer')


MATHS = re.compile(r'([(\[“]?)(<span class="math[^>]*>[^<]*</span>)([.,;:!?)\]”]*)')
FIGURE = re.compile(r'<img [^>]*src="([^"]*(?:_images|_static/dark)/[^"]*\.png)"[^>]*>')
CODE = re.compile(r'(<div class="highlight"><pre><span></span>)(.*?)(</pre>)', re.S)


def hang(code):
    "Lines of code as blocks: what does not fit on a line goes on below it, further in."
    def line(text):
        indent = len(re.match(r'(?:<span[^>]*>)*( *)', text)[1])
        return f'<span class="line" style="--indent:{min(indent + 4, 20)}ch">{text}</span>'
    lines = code[2].splitlines(keepends=True)
    if any(text.count('<span') != text.count('</span>') for text in lines): return code[0] # colours that go on
    return code[1] + ''.join(map(line, lines)) + code[3]


def finish(app, pagename, templatename, context, doctree):
    "A formula and the signs around it stay on one line, long code wraps, a figure opens in its own size."
    if 'body' not in context: return
    body = MATHS.sub(r'<span class="nobr">\g<0></span>', context['body'])
    body = CODE.sub(hang, body)
    context['body'] = FIGURE.sub(r'<a class="enlarge" href="\1">\g<0></a>', body)


def setup(app):
    app.add_config_value('widget_pages', json.loads((pages/'widget_pages.json').read_text()), 'env')
    app.connect('html-page-context', widget_scripts)
    app.connect('html-page-context', landing_scripts)
    app.connect('html-page-context', finish)
