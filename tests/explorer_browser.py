"""A headless Chromium and one Jupyter server (Lab, with Voila as its extension), for tests and timings of explorers."""
import contextlib, json, os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

TESTS = Path(__file__).resolve().parent
FLAGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync').split()
PATIENCE = 120_000 # ms; a busy machine is slow


def find_chromium():
    "Path of a browser and playwright's entry, or (None, why there is none)."
    path = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('google-chrome')
    try: from playwright.sync_api import sync_playwright
    except ImportError: sync_playwright = None
    lost = ["chromium (apt-get install chromium, or set CHROMIUM)"]*(not path)
    lost += ["playwright (pip install playwright)"]*(not sync_playwright)
    return (None, "The browser tests need " + " and ".join(lost)) if lost else (path, sync_playwright)


@contextlib.contextmanager
def open_browser(path, sync_playwright):
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=FLAGS)
        try: yield b
        finally: b.close()


def notebook(*sources):
    cells = [dict(cell_type='code', execution_count=None, id=f'c{i}', metadata={}, outputs=[], source=s) for i, s in enumerate(sources)]
    return json.dumps(dict(cells=cells, metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')), nbformat=4, nbformat_minor=5))


@contextlib.contextmanager
def jupyter(folder):
    "Yield the address of a private server whose files are in `folder`."
    folder = Path(folder)
    settings = folder/'settings'/'@jupyterlab'/'notebook-extension'
    settings.mkdir(parents=True)
    (settings/'tracker.jupyterlab-settings').write_text('{"windowingMode":"none"}')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get('PYTHONPATH', '')]), 'OMP_NUM_THREADS': '1',
           'JUPYTERLAB_SETTINGS_DIR': str(folder/'settings'), **{f'JUPYTER_{k}_DIR': str(folder/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}}
    options = ['--no-browser', '--allow-root', f'--port={port}', '--ServerApp.ip=127.0.0.1', f'--ServerApp.root_dir={folder}', '--IdentityProvider.token=',
               '--ServerApp.password=', '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    address = f'http://127.0.0.1:{port}'
    with open(folder/'server.log', 'w') as log:
        server = subprocess.Popen([sys.executable, '-m', 'jupyter', 'lab', *options], env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f'{address}/api', timeout=2)
                    break
                if server.poll() is not None: raise RuntimeError((folder/'server.log').read_text()[-2000:])
                time.sleep(.2)
            yield address
        finally:
            server.terminate()
            server.wait(30)


def open_voila(browser, address, name, ready, width=900):
    "The page of a notebook when `ready` is on it."
    page = browser.new_page(viewport=dict(width=width, height=1000))
    page.wrong = []
    page.on('pageerror', lambda e: page.wrong.append(str(e)))
    page.goto(f'{address}/voila/render/{name}', timeout=PATIENCE)
    page.wait_for_selector(ready, timeout=PATIENCE)
    return page


def handle(page, kind, label):
    "The handle of a slider of one explorer."
    return page.locator(f'.ts-{kind} .widget-hslider').filter(has=page.get_by_text(label, exact=True)).locator('.noUi-handle').first


def at_end(h): return h.get_attribute('aria-valuenow') == h.get_attribute('aria-valuemax')


WATCH = """(kind) => {
  const host = document.querySelector('.ts-' + kind + ' .ts-panels');
  window.tsTimes = {};
  if (!host.tsWatched) {
    host.tsWatched = true;
    host.addEventListener('ts-drawn', () => { if (window.tsTimes.from && !window.tsTimes.to) requestAnimationFrame(() => { window.tsTimes.to = performance.now(); }); });
    document.addEventListener('keydown', () => { window.tsTimes = { from: performance.now() }; }, { capture: true });
  }
}"""


def move(page, kind, label):
    "Move a slider one step right, or left at its end; milliseconds until the redrawn picture was on the screen."
    page.evaluate(WATCH, kind)
    h = handle(page, kind, label)
    h.focus()
    page.keyboard.press('ArrowLeft' if at_end(h) else 'ArrowRight')
    page.wait_for_function("() => window.tsTimes.to", timeout=PATIENCE)
    return page.evaluate("() => window.tsTimes.to - window.tsTimes.from")


def picture(page, kind):
    "What the canvases of an explorer show."
    return page.evaluate("(kind) => [...document.querySelectorAll('.ts-' + kind + ' canvas')].map(c => c.toDataURL()).join()", kind)
