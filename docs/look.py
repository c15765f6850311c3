"""Every page of the built site in a browser, at two widths, light and dark: `python docs/look.py` after `make docs`.

    python docs/look.py                              # faults of all pages, a line each; exit code 1 when there are any
    python docs/look.py tutorials explain/04         # pages whose address begins so
    python docs/look.py --pictures _looks            # and a picture of every page in every dress, to be looked at

A fault is a page wider than its window, a picture that is not there or has no text for those who cannot see it, words
that stand out from their background by less than 4.5 to 1 (3 to 1 when large), an error of a script, or a request to
the network. Needs chromium and playwright.
"""
import argparse, os, shutil, sys
from pathlib import Path

from playwright.sync_api import sync_playwright

OUT = Path(__file__).resolve().parent.parent/'_docs'
BROWSER = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync'
DRESSES = {f'{name}-{scheme}': dict(viewport=dict(width=w, height=h), color_scheme=scheme)
           for name, w, h in (('desktop', 1280, 900), ('phone', 390, 844)) for scheme in ('light', 'dark')}
FAULTS = r"""() => {
  const found = [], seen = new Set(), name = e => e.tagName.toLowerCase() + (e.className && e.className.split ? '.' + e.className.trim().split(/\s+/).join('.') : '');
  if (document.documentElement.scrollWidth > innerWidth) found.push('page is ' + document.documentElement.scrollWidth + ' px wide in a window of ' + innerWidth);
  for (const i of document.images) {
    if (i.complete && !i.naturalWidth) found.push('picture is not there: ' + i.src.slice(-60));
    if (!i.hasAttribute('alt')) found.push('picture without text: ' + i.src.slice(-60));
  }
  const parse = c => { const n = c.match(/[\d.]+/g).map(Number); return c.startsWith('color(srgb') ? [...n.slice(0, 3).map(x => 255*x), n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (a, b) => [0, 1, 2].map(k => a[k]*a[3] + b[k]*(1 - a[3])).concat(1);
  const light = c => { const f = c.slice(0, 3).map(v => { v /= 255; return v <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4; }); return .2126*f[0] + .7152*f[1] + .0722*f[2]; };
  const behind = e => { const stack = []; for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0) stack.push(c); if (c[3] === 1) break; }
    return stack.reverse().reduce((b, c) => over(c, b), [255, 255, 255, 1]); };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let t; t = walk.nextNode();) {
    const e = t.parentElement, s = getComputedStyle(e);
    if (!t.data.trim() || !e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || e.closest('svg, canvas, mjx-assistive-mml, .visually-hidden, [aria-hidden=true]')) continue;
    const back = behind(e), front = over(parse(s.color), back), [a, b] = [light(front), light(back)].sort((x, y) => y - x), ratio = (a + .05)/(b + .05);
    const large = parseFloat(s.fontSize) >= 24 || (parseFloat(s.fontSize) >= 18.66 && +s.fontWeight >= 700);
    const key = name(e) + s.color;
    if (ratio < (large ? 3 : 4.5) && !seen.has(key)) { seen.add(key); found.push('contrast ' + ratio.toFixed(1) + ' of "' + t.data.trim().slice(0, 30) + '" in ' + name(e) + ' ' + s.color); }
  }
  return found;
}"""


def faults(page, url:str) -> 'list[str]':
    "Open a page and say what is wrong with it."
    found = []
    watch = dict(pageerror=lambda e: found.append(f"script: {str(e)[:100]}"),
                 request=lambda r: found.append(f"network: {r.url[:100]}") if r.url.startswith('http') else None,
                 requestfailed=lambda r: found.append(f"not there: {r.url[-80:]}"))
    for name, see in watch.items(): page.on(name, see)
    page.goto(url, wait_until='load', timeout=120_000)
    page.wait_for_timeout(250) # maths and widgets
    found += page.evaluate(FAULTS)
    for name, see in watch.items(): page.remove_listener(name, see)
    return found


def picture(page, path:Path, most=16000):
    "The page from top to bottom, or as much of it as a picture can hold."
    size = page.viewport_size
    height = min(page.evaluate("document.documentElement.scrollHeight"), most)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, full_page=True, clip=dict(x=0, y=0, width=size['width'], height=height))


def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument('pages', nargs='*', help="beginnings of addresses, like tutorials/04; all when left out")
    ask.add_argument('--pictures', type=Path, help="folder for pictures")
    ask.add_argument('--dress', nargs='+', choices=DRESSES, default=list(DRESSES))
    args, path = ask.parse_args(), os.environ.get('CHROMIUM') or shutil.which('chromium')
    if not path: raise SystemExit("Pages are looked at in a browser: got no chromium. Install it, or set CHROMIUM.")
    names = [p.relative_to(OUT).with_suffix('').as_posix() for p in sorted(OUT.rglob('*.html')) if '_static' not in p.parts]
    names = [n for n in names if not args.pages or n.startswith(tuple(args.pages))]
    if not names: raise SystemExit(f"No page to look at: got {args.pages or 'no site'}. Run `make docs` first.")
    bad = 0
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=BROWSER.split())
        for dress in args.dress:
            page = browser.new_context(**DRESSES[dress]).new_page()
            for name in names:
                found = faults(page, (OUT/f'{name}.html').as_uri())
                bad += bool(found)
                for f in found: print(f"{dress} {name}: {f}", flush=True)
                if args.pictures: picture(page, args.pictures/dress/f"{name.replace('/', '_')}.png")
    print(f"{len(names)} pages in {len(args.dress)} dresses: {bad or 'none'} with faults")
    return int(bool(bad))


if __name__ == '__main__': sys.exit(main())
