"""README.md from nbs/index.ipynb: `python tools/readme.py` writes it, `--check` only compares.

Markdown cells are copied, code cells are fenced, text outputs follow them. Hidden cells and directives go.
A picture output goes to docs/images/, with the text of the cell's `#| fig-alt:`. Links are rewritten from nbs/ to the project folder.
"""
import base64, json, posixpath, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, TARGET, IMAGES = 'nbs/index.ipynb', 'README.md', 'docs/images'
NOTE = f"<!-- Made from {SOURCE} by tools/readme.py: edit the notebook, then `make export`. -->"

link = re.compile(r'(\]\(|src=")([^)"\s#]+)')


def relink(
    text, # Markdown of a cell
): # The same, with links that work from the project folder
    "`](tutorials/x.ipynb)` in nbs/ is `](nbs/tutorials/x.ipynb)` in README.md; `../LICENSE` is `LICENSE`."
    def moved(m):
        if re.match(r'[a-z]+:|/', m[2]): return m[0]
        return m[1] + posixpath.normpath(posixpath.join(posixpath.dirname(SOURCE), m[2]))
    parts = re.split(r'(```.*?```)', text, flags=re.S)
    return ''.join(p if p.startswith('```') else link.sub(moved, p) for p in parts)


def split_directives(source):
    "The `#|` lines of a code cell, as a set, and the rest."
    lines = source.split('\n')
    marks = {re.sub(r'^#\|\s*', '', l).strip() for l in lines if l.startswith('#|')}
    return marks, '\n'.join(l for l in lines if not l.startswith('#|')).strip()


def picture(png, number):
    return f"{IMAGES}/index_{number}.png", base64.b64decode(''.join(png))


def render(
    nb, # Parsed notebook
): # Text of the README and its pictures: path -> bytes
    "Turn a notebook into Markdown."
    out, pictures = [NOTE], {}
    for cell in nb['cells']:
        source = ''.join(cell['source']).strip()
        if cell['cell_type'] == 'markdown': out.append(relink(source))
        if cell['cell_type'] != 'code' or not source: continue
        marks, code = split_directives(source)
        if {'hide', 'export', 'exporti'} & marks or any(m.startswith('default_exp') for m in marks): continue
        if 'echo: false' not in marks: out.append(f"```python\n{code}\n```")
        for o in cell.get('outputs', []):
            data = o.get('data', {})
            if 'image/png' in data:
                path, content = picture(data['image/png'], len(pictures))
                pictures[path] = content
                alt = next((m.split(':', 1)[1].strip(' "') for m in marks if m.startswith('fig-alt:')), None)
                out.append(f"![{alt or f'Figure {len(pictures)}'}]({path})")
            elif 'text/markdown' in data: out.append(''.join(data['text/markdown']).strip())
            else:
                text = ''.join(o.get('text', data.get('text/plain', ''))).rstrip()
                if text: out.append('```text\n' + text + '\n```')
    return '\n\n'.join(out) + '\n', pictures


def main(args):
    text, pictures = render(json.loads((ROOT/SOURCE).read_text(encoding='utf-8')))
    want = {TARGET: text.encode(), **pictures}
    stale = [p for p, content in want.items() if not (ROOT/p).exists() or (ROOT/p).read_bytes() != content]
    orphans = [p for p in (ROOT/IMAGES).glob('index_*.png') if p.relative_to(ROOT).as_posix() not in pictures]
    stale += [p.relative_to(ROOT).as_posix() for p in orphans]
    if '--check' in args:
        if not stale: return 0
        print(f"README.md must be what {SOURCE} makes: got other content in {', '.join(stale)}. "
              "Run `make export` and commit.", file=sys.stderr)
        return 1
    for p, content in want.items():
        (ROOT/p).parent.mkdir(parents=True, exist_ok=True)
        (ROOT/p).write_bytes(content)
    for p in orphans: p.unlink()
    news = f"{len(stale)} file(s) changed" if stale else "unchanged"
    print(f"{TARGET}: {len(text.splitlines())} lines, {news}")
    return 0


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
