"""A newcomer follows the lessons in JupyterLab: each is opened in a browser and run by Run All; no cell may fail.

    python benchmarks/newcomer.py              # lessons 01 to 04; needs chromium and playwright
    python benchmarks/newcomer.py 07 09        # others, by number

Works on copies in a temporary folder with its own Jupyter settings; prints seconds from Run All to the last cell.
"""
import argparse, json, os, shutil, socket, subprocess, sys, tempfile, time
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
BROWSER = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync'
LIMIT, PATIENCE = 600, 15 # seconds for one lesson, and until its first cell is asked to run


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def server(folder, port):
    "JupyterLab with settings of its own; every cell is rendered, so that it can be looked at."
    settings = folder/'config'/'lab'/'user-settings'/'@jupyterlab'/'notebook-extension'
    settings.mkdir(parents=True)
    (settings/'tracker.jupyterlab-settings').write_text(json.dumps(dict(windowingMode='none')))
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PATH': f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env |= {f'JUPYTER_{k}_DIR': str(folder/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    env['JUPYTERLAB_SETTINGS_DIR'] = str(folder/'config'/'lab'/'user-settings')
    flags = ['--no-browser', '--allow-root', f'--port={port}', '--IdentityProvider.token=', '--ServerApp.password=',
             '--LabApp.news_url=None', f'--ServerApp.root_dir={folder/"lessons"}']
    return subprocess.Popen([sys.executable, '-m', 'jupyterlab', *flags], env=env, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for(url, seconds=120):
    end = time.time() + seconds
    while time.time() < end:
        try: return urlopen(url, timeout=5).status
        except OSError: time.sleep(.5)
    raise SystemExit(f"JupyterLab must answer within {seconds} s: got nothing at {url}. Start it by hand to see why.")


def run_all(page, url, name):
    "Open a lesson, run it, return (seconds, cells run, failures)."
    page.goto(f'{url}/lab/tree/{name}?reset', wait_until='domcontentloaded')
    idle = page.locator('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator[data-status="idle"]').first
    idle.wait_for(timeout=120_000, state='attached')
    begun = lambda: page.evaluate("""() => [...document.querySelectorAll(
        '.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputArea-prompt')].some(e => /[*\\d]/.test(e.textContent))""")
    for _ in range(4): # asked again, as a person would, when a page that is still starting lets the click go
        start = time.time()
        page.keyboard.press('Escape')
        page.locator('.lm-MenuBar-itemLabel', has_text='Run').first.click()
        page.locator('[data-command="runmenu:run-all"]').click()
        while not begun() and time.time() < start + PATIENCE: time.sleep(.2)
        if begun(): break
    prompts = page.locator('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputArea-prompt')
    waiting = lambda: page.evaluate("""() => [...document.querySelectorAll(
        '.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputArea-prompt')].filter(e => !/\\d/.test(e.textContent)).length""")
    end = start + LIMIT
    errors = lambda: page.locator('.jp-NotebookPanel:not(.lm-mod-hidden) [data-mime-type="application/vnd.jupyter.stderr"] >> text=Traceback').count() \
        + page.locator('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]').count()
    while waiting() and time.time() < end and not errors(): time.sleep(.5)
    return time.time() - start, prompts.count() - waiting(), waiting() + errors()


def main():
    parser = argparse.ArgumentParser(description="Run lessons in JupyterLab, in a browser.")
    parser.add_argument('lessons', nargs='*', default=['01', '02', '03', '04'])
    numbers, path = parser.parse_args().lessons, os.environ.get('CHROMIUM') or shutil.which('chromium')
    if not path: raise SystemExit("The newcomer needs a browser: got no chromium. Install it, or set CHROMIUM.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        folder, port = Path(folder), free_port()
        shutil.copytree(ROOT/'nbs'/'tutorials', folder/'lessons')
        lab = server(folder, port)
        try:
            wait_for(f'http://127.0.0.1:{port}/api')
            page = p.chromium.launch(executable_path=path, args=BROWSER.split()).new_page(viewport=dict(width=1400, height=1000))
            page.set_default_timeout(120_000)
            failed, total = 0, 0
            for name in sorted(f.name for f in (folder/'lessons').glob('*.ipynb') if f.name[:2] in numbers):
                seconds, cells, bad = run_all(page, f'http://127.0.0.1:{port}', name)
                failed, total = failed + bad, total + seconds
                print(f"{name}: {cells} code cells in {seconds:.0f} s, {'no failure' if not bad else f'{bad} FAILED'}", flush=True)
            print(f"{total:.0f} s in all")
        finally:
            lab.terminate()
            lab.wait(30)
    return int(bool(failed))


if __name__ == '__main__': sys.exit(main())
