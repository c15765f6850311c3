"""The site, for reading offline: `python docs/build.py` (`make docs`) makes _docs/index.html from the notebooks.

    execute   copies of the notebooks, three at a time; kept in _proc/ until a notebook or the library changes
              (--fresh forgets them); every figure is drawn for light and for dark pages
    process   nbdev's processors: hidden cells go, exported cells get their documentation
    convert   to MyST notebooks, which Sphinx reads
    sphinx    pages, search and maths, with every warning an error
    check     every local link of the built pages has its target, and no page loads anything from the network

Maths comes from a PyPI package (MathJax). Live widgets come from two npm packages, fetched once by `npm pack` into
_proc/ when a page has widgets; without npm such a page shows its pictures only, and the build says so.
"""
import argparse, asyncio, base64, hashlib, json, os, re, shutil, subprocess, sys, tarfile, time
from html import escape
from html.parser import HTMLParser
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NBS, PROC, OUT = ROOT/'nbs', ROOT/'_proc', ROOT/'_docs'
EXECUTED, PAGES, NPM, HTML = PROC/'executed', PROC/'pages', PROC/'npm', PROC/'site'/'html'
SECTIONS = dict(
    tutorials=("Lessons", "Read them in order. Each states its claim first, and each runs from top to bottom."),
    explain=("Explanations", "The derivations, one step at a time. Each is computed and checked on the page."),
    howto=("How-to", "Short answers to one task each."),
    experiments=("Experiments", "The paper's experiments, run again: published numbers beside ours, each with its control."),
    api=("API", "One page per module. The number is the floor: a module imports only smaller numbers."))
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 15 # of reading: prose, and code
MORE = 'glossary', 'elsewhere', 'cite' # pages of docs/pages/ after the sections; `faq` stands beside them
WORKERS, CELL_SECONDS = 3, 600 # one more than cores of a small machine: kernels wait while they start
DARK_MIME = 'image/x-dark-png'
WIDGET_MIME = 'application/vnd.jupyter.widget-state+json'
WIDGET_PACKAGES = {'@jupyter-widgets/html-manager@1.0.15': {'dist/embed-amd.js': 'embed-amd.js'},
                   'requirejs@2.3.8': {'require.js': 'require.js'}}


class Failed(Exception): pass


def fail(need, got, do): raise Failed(f"{need}: got {got}{'' if got.endswith(chr(10)) else '. '}{do}")


def notebooks():
    inside = [p for s in SECTIONS for p in sorted((NBS/s).glob('*.ipynb'))]
    return [NBS/'index.ipynb', *(p for p in inside if p.name[0] not in '._')]


# ---- execute ----------------------------------------------------------------------------------

def library_key():
    files = [*sorted((ROOT/'tensorsim_nb').glob('*.py')), ROOT/'constraints.txt', HERE/'dark.py']
    return hashlib.sha256(b'\0'.join([sys.version.encode(), *(f.read_bytes() for f in files)])).hexdigest()


def runnable(nb):
    "The copy that is executed: no export cell, and cells that nbdev would not run are skipped."
    nb.cells = [c for c in nb.cells if not (c.cell_type == 'code' and 'nbdev_export(' in c.source)]
    for c in nb.cells:
        if c.cell_type == 'code' and re.search(r'^#\|\s*eval:\s*false', c.source, re.M | re.I):
            c.metadata.setdefault('tags', []).append('skip-execution')
    return nb


async def execute(path, key, slots, say):
    "Run a copy of one notebook in its own kernel; return what went wrong, or None."
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    import warm

    name = path.relative_to(NBS).as_posix()
    original = nbformat.read(path, as_version=4)
    key = hashlib.sha256((key + json.dumps([c.source for c in original.cells])).encode()).hexdigest()
    target, stamp = EXECUTED/name, EXECUTED/(name + '.key')
    if target.exists() and stamp.exists() and stamp.read_text() == key: return say(f"{name}: unchanged")
    async with slots:
        start, seen = time.time(), []
        kernel = AsyncKernelManager()   # this Python's own kernel, whatever kernels the machine has registered
        command = [sys.executable, '-m', 'ipykernel_launcher', '--log-level=40', '--ext=dark', '-f', '{connection_file}']
        kernel._kernel_spec = KernelSpec(argv=command, display_name='python3', language='python')
        kernel.provisioner = warm.provisioner(kernel)
        nb = runnable(nbformat.from_dict(json.loads(json.dumps(original))))
        client = NotebookClient(nb, km=kernel, timeout=CELL_SECONDS, skip_cells_with_tag='skip-execution',
                                resources=dict(metadata=dict(path=str(path.parent))),
                                on_cell_start=lambda cell, cell_index: seen.append(cell))
        try: await client.async_execute()
        except Exception as e:
            cell = seen[-1] if seen else None
            number = [c.id for c in original.cells].index(cell.id) + 1 if cell else 0
            said = f"{e.ename}: {e.evalue}" if isinstance(e, CellExecutionError) else f"{type(e).__name__}: {e}"
            say(f"{name}: FAILED at cell {number} ({time.time()-start:.1f} s)")
            lines = [l for l in (cell.source if cell else '').split('\n') if l.strip() and not l.startswith('#|')]
            where = f"nbs/{name}, cell {number} (id {cell.id}), `{lines[0][:80]}`" if lines else f"nbs/{name}"
            return f"{where}\n    {said.strip()[:800]}"
        finally:
            if kernel.has_kernel: await kernel.shutdown_kernel()   # or each would keep its memory to the end
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, target)
        stamp.write_text(key)
        say(f"{name}: {time.time()-start:.1f} s")


def execute_all(paths):
    done, key, slots = [], library_key(), asyncio.Semaphore(WORKERS)

    def say(text):
        done.append(text)
        print(f"    [{len(done)}/{len(paths)}] {text}", flush=True)

    async def everything(): return await asyncio.gather(*(execute(p, key, slots, say) for p in paths))
    failures = [f for f in asyncio.run(everything()) if f]
    if failures:
        fail("Every notebook must run to be shown",
             '\n\n'.join([f"{len(failures)} that failed", *failures, '']),
             "Open it with `make lab`, mend that cell, then run `make docs` again.")


# ---- process and convert ----------------------------------------------------------------------

TAGS = [('remove-input', 'echo', 'false'), ('remove-output', 'output', 'false'),
        ('hide-input', 'code-fold', 'true')]
link = re.compile(r'(?<!\\)(\]\()(?!\w+:|#|/)([^)\s"]+)')
doc_link = re.compile(r'\[`([^`\]]+)`\]\((https?://[^)\s]+?)/((?:[\w-]+/)*)(\w+)\.html(?:#([\w.]+))?\)')
callout = re.compile(r'^(:{3,})\s*\{\.callout-(\w+)([^}]*)\}\s*\n(.*?)^\1\s*$', re.M | re.S)


def outside_code(text, change):
    "Apply `change` to the parts of Markdown that are neither fenced nor inline code."
    parts = re.split(r'(^```.*?^```|`[^`\n]+`)', text, flags=re.S | re.M)
    return ''.join(p if i % 2 else change(p) for i, p in enumerate(parts))


def relink(text, path):
    "Links to notebooks stay; a link to another file of the project gets a copy of that file beside the pages."
    def moved(m):
        target, _, fragment = m[2].partition('#')
        file = (path.parent/unquote(target)).resolve()
        anchor = '#' + fragment.lower() if fragment else ''
        if file.is_dir() and file.parent == NBS and file.name in SECTIONS: return f"{m[1]}/{file.name}/index.md"
        if file.suffix == '.ipynb' and file.is_relative_to(NBS): return m[1] + target + anchor
        if file.name in ('CONTRIBUTING.md', 'CHANGELOG.md') and file.parent == ROOT: return f"{m[1]}/{file.name}"
        if file.is_file() and file.is_relative_to(ROOT):
            inside = file.relative_to(NBS) if file.is_relative_to(NBS) else Path('files')/file.relative_to(ROOT)
            (PAGES/inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, PAGES/inside)
            return f"{m[1]}/{inside.as_posix()}"
        return m[0]
    return link.sub(moved, text)


def callouts(text):
    "Quarto's `:::{.callout-tip title=\"x\" collapse=\"true\"}` is MyST's admonition, or a folded block."
    def admonition(m):
        kind = m[2] if m[2] in ('note', 'tip', 'warning', 'important', 'caution') else 'note'
        title = re.search(r'title="([^"]*)"', m[3])
        title = title[1] if title else kind.capitalize()
        if 'collapse=' in m[3]: return f"<details>\n<summary>{title}</summary>\n\n{m[4]}\n</details>\n"
        return f"{m[1]}{{admonition}} {title}\n:class: {kind}\n\n{m[4]}{m[1]}\n"
    return callout.sub(admonition, text)


def label(module, symbol, taken):
    "The anchor of a symbol; one that differs only in case from an earlier one (`Products`, `products`) gets a tail."
    name = f"{module}.{symbol.lower()}"
    return name if name not in taken else f"{name}-{sum(t.startswith(name) for t in taken) + 1}"


def api_entry(text, module, in_full, titles, labels):
    "show_doc's Markdown: an anchor, one heading, a link to our source page, the docstring, one signature."
    text = re.sub(r'^---\n+', '', text)
    text = re.sub(r'\[source\]\([^)]*\)\{[^}]*\}\n*', '', text)
    head = re.search(r'^(#+) (\S+)\s*?$', text, re.M)
    if not head: return text
    symbol = head[2].replace(chr(92), '')
    if module: labels[symbol] = label(module, symbol, set(labels.values()))
    lines = [f"({labels[symbol]})="] if module else []
    if symbol not in titles: lines += [f"{head[1]} `{symbol}`"]   # a section of that name has just begun
    if module: lines += ['', f"[source](/source/{module}.md){{.api-source}}"]
    text = text.replace(head[0], '\n'.join(lines), 1)
    return re.sub(r'\n```\s*python\n.*?\n```\n', '\n', text, count=1, flags=re.S) if in_full(symbol) else text


def opening(source:str) -> str:
    "What a notebook's first cell says below its title and its one-line claim: nbdev's processors drop it."
    return re.sub(r'\A\s*# .*\n*(?:>.*\n*)?(?:- [\w-]+:.*\n)*', '', source).strip()


def minutes(nb, first='') -> int:
    "Reading time of a processed notebook."
    words = len(first.split()) + sum(len(c.source.split()) for c in nb.cells if c.cell_type == 'markdown' and c.source)
    lines = sum(c.source.count('\n') + 1 for c in nb.cells if c.cell_type == 'code' and c.source)
    return max(1, round(words/WORDS_A_MINUTE + lines/LINES_A_MINUTE))


def picture_alt(marks, source):
    "What a screen reader says of a picture: its `fig-alt`, or the title that the code gives it."
    if marks.get('fig-alt'): return marks['fig-alt'].strip('"')
    title = re.search(r"""(?:suptitle\(|set_title\(|title=)f?(['"])(.+?)\1""", source)
    return f"Figure: {re.sub(r'{.*?}', '...', title[2])}" if title else "Figure, described in the text around it"


def both_pictures(outputs, alt, path):
    "After a picture, its twin for dark pages (dark.py): the page's style shows one of them."
    for o in outputs:
        dark = o.get('data', {}).pop(DARK_MIME, None)
        yield o
        if dark is None: continue
        picture = base64.b64decode(''.join(dark))
        file = PAGES/'_extra_static'/'dark'/f'{hashlib.sha256(picture).hexdigest()[:16]}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
        up = '../'*(len(path.relative_to(NBS).parts) - 1)
        html = f'<img class="dark-picture" alt="{escape(alt)}" src="{up}_static/dark/{file.name}">'
        yield dict(output_type='display_data', metadata={}, data={'text/html': html})


def merged(outputs):
    "Printed text that came in pieces, as one; text before and after a table stays before and after it."
    joined = []
    for o in outputs:
        if joined and o['output_type'] == 'stream' == joined[-1]['output_type'] and o['name'] == joined[-1]['name']:
            joined[-1]['text'] = ''.join(joined[-1]['text']) + ''.join(o['text'])
        else: joined.append(o)
    return joined


def aligned(outputs) -> bool:
    "Whether printed lines stand in columns, as in a table: then wrapping them would spoil it."
    text = '\n'.join(''.join(o.get('text', '') or o.get('data', {}).get('text/plain', '')) for o in outputs
                     if 'text/html' not in o.get('data', {}) and 'image/png' not in o.get('data', {}) and o.get('name') != 'stderr')
    return sum(bool(re.search(r'\S {2,}\S', line)) for line in text.split('\n')) > 1


def convert(nb, path, first=''):
    "A processed notebook as a plain dict that MyST-NB reads."
    module = re.search(r'^\d+_(\w+)$', path.stem)[1] if path.parent.name == 'api' else ''
    shown = ''.join(c.source for c in nb.cells if c.cell_type == 'code' and 'Exported source' in c.source)
    in_full = lambda name: re.search(rf'^(?:def|class) {re.escape(name)}\b', shown, re.M)
    front, cells, titles, labels = getattr(nb, 'frontmatter_', {}), [], set(), {}
    landing = (HERE/'landing.md').read_text(encoding='utf-8') if path.name == 'index.ipynb' else ''

    def add(kind, source, **more):
        cells.append(dict(id=f'c{len(cells)}', cell_type=kind, source=source, metadata={}, **more))


    def prose(text): add('markdown', outside_code(callouts(text), lambda t: relink(t, path)))

    lead = f"\n\n{{.lead}}\n{front['description']}" if front.get('description') else ''
    prose(f"# {front.get('title', path.stem)}{lead}" + (f'\n\n{first}' if first else ''))
    for c in nb.cells:
        if not c.get('source') or c.cell_type == 'raw' or 'WARNING: THIS FILE' in c.source: continue
        if c.cell_type == 'code' and landing:
            add('markdown', landing)
            landing = ''
        if c.cell_type == 'markdown':
            titles |= set(re.findall(r'^#+ `?([\w.]+)`?\s*$', c.source, re.M))
            prose(c.source)
            continue
        marks = dict(re.findall(r'^#\|\s*([\w-]+):?\s*(.*?)\s*$', c.source, re.M))
        source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
        if marks.get('include') == 'false' or not source: continue
        outputs = merged(json.loads(json.dumps(c.get('outputs', []))))
        if marks.get('output') == 'asis':
            for o in outputs:
                text = ''.join(o.get('data', {}).get('text/markdown', o.get('text', '')))
                if source.startswith('show_doc'): text = api_entry(text, module, in_full, titles, labels)
                if text: prose(text)
            if marks.get('echo') == 'false': continue
            outputs = []
        tags = [tag for tag, mark, value in TAGS if marks.get(mark) == value]
        for o in outputs:
            o.pop('jetTransient', None)
            if o.get('name') == 'stderr': o['text'] = re.sub(r'^\S*ipykernel_\S+?:\d+: ', '', ''.join(o['text']), flags=re.M)
        tags += ['aligned']*aligned(outputs)
        outputs = list(both_pictures(outputs, picture_alt(marks, source), path))
        add('code', source, outputs=outputs, execution_count=None)
        cells[-1]['metadata'] = dict(tags=tags)
        if any('image/png' in o.get('data', {}) for o in outputs):
            cells[-1]['metadata']['mystnb'] = dict(image=dict(alt=picture_alt(marks, source)))
    meta = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    state = nb.metadata.get('widgets', {}).get(WIDGET_MIME, {})
    if state.get('state') and 'widget-view+json' in json.dumps(cells): meta['widgets'] = {WIDGET_MIME: state}
    page = dict(cells=cells, metadata=meta, nbformat=4, nbformat_minor=5)
    return page, front, {(module, symbol): l for symbol, l in labels.items()}


def doc_links(page, anchors, homes, site):
    "nbdev's links to the published site become links between our pages."
    def local(m):
        text, url, folder, module, wanted = m.groups()
        if f"{url}/{folder}" != site + 'api/' or module not in homes: return m[0]
        symbol = text.removesuffix('()').split(module + '.')[-1]
        for s in (symbol, symbol.split('.')[0]):
            if (module, s) in anchors: return f"[`{text}`](#{anchors[module, s]})"
        return f"[`{text}`](/{homes[module]})"
    for c in page['cells']:
        if c['cell_type'] != 'markdown': continue
        parts = re.split(r'(^```.*?^```)', c['source'], flags=re.S | re.M) # code has no links: a signature's comments
        c['source'] = ''.join(doc_link.sub(r'`\1`' if i % 2 else local, part) for i, part in enumerate(parts))


def processors():
    "nbdev's processors, with one change: show_doc reads the exported module, so no example cell runs twice."
    import ast, importlib, importlib.util
    from fastcore.xtras import dict2obj
    from nbdev import processors as nbdev

    def mk_output(data): return dict2obj(dict(output_type='display_data', metadata={}, data=data))

    class show_docs_from_module(nbdev.exec_show_docs):
        def begin(self):
            super().begin()
            name = nbdev._default_exp(self.nb)
            self.module = importlib.import_module(f'tensorsim_nb.{name}') if name else None
            if name: self.k.user_ns.update(vars(self.module))

        def show(self, cell):
            "An annotation may name a package that the module imports late, such as 'pandas.DataFrame'."
            for _ in range(5):
                self.k.cell(cell)
                late = self.k.exc and re.search(r"NameError.*name '(\w+)' is not defined", repr(self.k.exc))
                if not (late and self.module and importlib.util.find_spec(late[1])): break
                setattr(self.module, late[1], importlib.import_module(late[1]))
            name = re.search(r'show_doc\((\w+)\)', cell.source)
            if isinstance(self.k.exc, SyntaxError) and name:   # it cannot read the inherited __init__: the docstring then
                about = (self.k.user_ns[name[1]].__doc__ or '').strip()
                cell.outputs = [mk_output({'text/markdown': f"---\n\n### {name[1]}\n\n*{about}*"})]
                self.k.exc = None

        def __call__(self, cell):
            trees = cell.parsed_() if self.nb.has_docs_ and cell.source and cell.cell_type == 'code' else None
            if not trees or 'nbdev_export()' in cell.source: return
            for node in trees:
                if isinstance(node, (ast.Import, ast.ImportFrom)): self.k.run_cell(ast.unparse(node))
            if nbdev._show_docs(trees): self.show(cell)
            if self.k.exc:
                fail("show_doc documents what the module exports", f"{self.k.exc!r} at `{cell.source[:80]}`",
                     "Run `make export`; if the error stays, mend that cell.")

    class Processors(nbdev.FilterDefaults):
        def base_procs(self):
            return [show_docs_from_module if p is nbdev.exec_show_docs else p for p in super().base_procs()]
    return Processors()


def process_all(paths, config):
    "From _proc/executed to _proc/pages."
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    from execnb.nbio import read_nb
    process = processors()
    shutil.rmtree(PAGES, ignore_errors=True)
    pages, fronts, times, anchors, homes, widget_pages = {}, {}, {}, {}, {}, []
    for path in paths:
        name = path.relative_to(NBS).as_posix()
        nb = read_nb(EXECUTED/name)
        first = opening(nb.cells[0].source)
        process(nb)
        times[name] = minutes(nb, first)
        pages[name], fronts[name], found = convert(nb, path, first)
        anchors.update(found)
        if path.parent.name == 'api': homes[re.sub(r'^\d+_', '', path.stem)] = name
        if 'widgets' in pages[name]['metadata']: widget_pages.append(name.removesuffix('.ipynb'))
    site = f"{config['doc_host']}{config['doc_baseurl']}/"
    hidden = "```{toctree}\n:hidden:\n\n%s\n```\n"
    present = {s: [p.relative_to(NBS).as_posix() for p in paths if p.parent.name == s] for s in SECTIONS}
    sections = [f"{s}/index" for s in SECTIONS if present[s]]
    top = [*sections, 'faq', *MORE, 'CONTRIBUTING', 'CHANGELOG']
    contents = dict(id='toc', cell_type='markdown', metadata={}, source=hidden % '\n'.join(top))
    pages['index.ipynb']['cells'].append(contents)
    for name, page in pages.items():
        doc_links(page, anchors, homes, site)
        (PAGES/name).parent.mkdir(parents=True, exist_ok=True)
        (PAGES/name).write_text(json.dumps(page), encoding='utf-8')
    for s, names in present.items():
        if not names: continue
        title, about = SECTIONS[s]
        about_page = lambda n: f": {fronts[n]['description']}" if fronts[n].get('description') else ''
        timed = lambda n: f" [{times[n]} minutes]{{.minutes}}" if s != 'api' else ''
        rows = '\n'.join(f"- [{fronts[n].get('title', n)}](/{n}){about_page(n)}{timed(n)}" for n in names)
        contents = hidden % '\n'.join(n.split('/')[1].removesuffix('.ipynb') for n in names)
        (PAGES/s/'index.md').write_text(f"# {title}\n\n{about}\n\n{rows}\n\n{contents}", encoding='utf-8')
    for name in ('CONTRIBUTING.md', 'CHANGELOG.md'):
        text = (ROOT/name).read_text(encoding='utf-8')
        (PAGES/name).write_text(outside_code(text, lambda t: relink(t, ROOT/name)), encoding='utf-8')
    for p in sorted((HERE/'pages').iterdir()): shutil.copyfile(p, PAGES/p.name)
    heatmaps(EXECUTED/'index.ipynb', PAGES/'_extra_static')
    (PAGES/'source').mkdir()
    for p in sorted((ROOT/'tensorsim_nb').glob('[a-z]*.py')):
        shutil.copyfile(p, PAGES/'source'/p.name)
        (PAGES/'source'/f'{p.stem}.md').write_text(
            f"---\norphan: true\nnosearch: true\n---\n# Source of tensorsim_nb.{p.stem}\n\n"
            "Exported from the notebook; edit it there.\n\n"
            f"```{{literalinclude}} {p.name}\n:language: python\n:linenos:\n```\n", encoding='utf-8')
    return widget_pages


def heatmaps(executed, static):
    "The data of the landing page's live heatmaps: what a hidden cell of nbs/index.ipynb displays as JSON."
    nb = json.loads(executed.read_text(encoding='utf-8'))
    found = [o['data']['application/json'] for c in nb['cells'] for o in c.get('outputs', []) if 'application/json' in o.get('data', {})]
    if not found: fail("The landing page draws the heatmaps of nbs/index.ipynb", "no cell that displays JSON there",
                       "Keep its hidden cell that ends in `display({'application/json': ...}, raw=True)`.")
    static.mkdir(parents=True, exist_ok=True)
    (static/'heatmaps.js').write_text(f"window.HEATMAPS = {json.dumps(found[0], separators=(',', ':'))};\n")


# ---- scripts, Sphinx --------------------------------------------------------------------------

def mathjax(static):
    "MathJax 3 and its fonts, from the PyPI package sphinx-mathjax-offline (the files of npm's mathjax@3.2.2)."
    files = {str(f): f for f in distribution('sphinx-mathjax-offline').files}
    mark = 'sphinx-mathjax-offline/static/mathjax/'
    wanted = [f for f in files if f == mark + 'tex-mml-chtml.js' or f.startswith(mark + 'output/chtml/fonts/')]
    for f in wanted:
        to = static/'mathjax'/f.removeprefix(mark)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[f].locate(), to)


def widgets(static):
    "The scripts that bring stored widgets to life without a kernel; False when npm cannot bring them."
    missing = [f for names in WIDGET_PACKAGES.values() for f in names.values() if not (NPM/f).exists()]
    if missing:
        NPM.mkdir(parents=True, exist_ok=True)
        if not shutil.which('npm'): return "npm is not installed"
        for package, names in WIDGET_PACKAGES.items():
            done = subprocess.run(['npm', 'pack', '--silent', package], cwd=NPM, capture_output=True, text=True)
            if done.returncode: return f"npm could not fetch {package}: {done.stderr.strip()[-200:]}"
            with tarfile.open(NPM/done.stdout.strip().split('\n')[-1]) as tar:
                for inside, name in names.items():
                    (NPM/name).write_bytes(tar.extractfile('package/' + inside).read())
    (static/'widgets').mkdir(parents=True)
    for names in WIDGET_PACKAGES.values():
        for name in names.values(): shutil.copyfile(NPM/name, static/'widgets'/name)
    anywidget = next(f for f in distribution('anywidget').files if str(f) == 'anywidget/nbextension/index.js')
    shutil.copyfile(anywidget.locate(), static/'widgets'/'anywidget.js')
    return ''


def sphinx(widget_pages):
    static = PAGES/'_extra_static'
    static.mkdir(exist_ok=True)
    mathjax(static)
    lost = widgets(static) if widget_pages else ''
    if lost: print(f"    note: {lost}. The widgets of {', '.join(widget_pages)} will be still pictures; with npm, "
                   "run `make docs` again to bring them to life.")
    (PAGES/'widget_pages.json').write_text(json.dumps([] if lost else widget_pages))
    shutil.rmtree(HTML.parent, ignore_errors=True)
    done = subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', '-j', '2',
                           '-c', 'docs', '-d', str(PROC/'doctrees'), str(PAGES), str(HTML)], cwd=ROOT)
    if done.returncode: fail("The pages must build without a warning", "those above",
                             "The path tells the notebook: _proc/pages/X.ipynb comes from nbs/X.ipynb.")


# ---- check ------------------------------------------------------------------------------------

class Page(HTMLParser):
    "Text, ids, links and loaded files of one HTML page."
    def __init__(self, text):
        super().__init__()
        self.text, self.ids, self.links, self.loads = text, set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        if tag == 'a' and a.get('name'): self.ids.add(a['name'])
        if tag == 'a' and a.get('href'): self.links.add(a['href'])
        if a.get('src') and not a['src'].startswith('data:'): self.loads.add(a['src'])
        if tag == 'link' and a.get('href') and a.get('rel') not in ('canonical', 'next', 'prev'):
            self.loads.add(a['href'])


def check_site(folder):
    "What is broken in a built site: missing targets of local links, files from the network, paths of this machine."
    folder = Path(folder).resolve()
    files = [p for p in sorted(folder.rglob('*.html')) if '_static' not in p.parts]
    pages = {p.resolve(): Page(p.read_text(encoding='utf-8')) for p in files}
    bad = []
    for path, page in pages.items():
        where = path.relative_to(folder).as_posix()
        if str(ROOT) in page.text: bad.append(f"{where} shows a path of this machine")
        for url in sorted(page.links | page.loads):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                if url in page.loads: bad.append(f"{where} loads {url} from the network")
                continue
            target = (path.parent/unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file(): bad.append(f"{where}: no file for {url}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                bad.append(f"{where}: no target for {url}")
    return bad, sum(len(p.links) for p in pages.values()), len(pages)


def main():
    parser = argparse.ArgumentParser(description="Build the site into _docs/.")
    parser.add_argument('--fresh', action='store_true', help="execute every notebook again")
    if parser.parse_args().fresh: shutil.rmtree(EXECUTED, ignore_errors=True)
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), str(HERE), os.environ.get('PYTHONPATH')]))
    from configparser import ConfigParser
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT/'settings.ini', encoding='utf-8')
    paths, start = notebooks(), time.time()
    print(f"[1/4] execute {len(paths)} notebooks, {WORKERS} at a time")
    execute_all(paths)
    print("[2/4] process and convert", flush=True)
    widget_pages = process_all(paths, config['DEFAULT'])
    print("[3/4] Sphinx", flush=True)
    sphinx(widget_pages)
    print("[4/4] check links", flush=True)
    bad, n_links, n_pages = check_site(HTML)
    if bad: fail("Every page must work offline", '\n    '.join([f"{len(bad)} fault(s)", *bad[:30], '']).rstrip(' '),
                 "Mend those links.")
    shutil.rmtree(OUT, ignore_errors=True)   # only a site that passed takes the place of the old one
    HTML.rename(OUT)
    print(f"Ready in {time.time()-start:.0f} s: {n_pages} pages, {n_links} links, all local ones work. "
          "Open _docs/index.html")


if __name__ == '__main__':
    try: main()
    except Failed as e:
        print(f"\nFAILED: {e}", file=sys.stderr)
        sys.exit(1)
