"""The command line: exit codes, one line on stderr, nothing half-written."""
import json, os, pickle, re, signal, subprocess, sys, time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tensorsim_nb as ts
from conftest import ROOT
from tensorsim_nb import cli
from tensorsim_nb.gram import checkpoint_files
from tensorsim_nb.similarity import METHODS
from tensorsim_nb.state_dicts import PRESETS
from tensorsim_nb.train import seeded

RUN = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tensorsim_nb.cli import main; sys.exit(main())"


def tensorsim(*args, cwd=None, code=RUN):
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], cwd=cwd, text=True,
                          capture_output=True, timeout=120)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('models')
    for s in range(3): ts.save(seeded(lambda: ts.classifier(6, 4, 3), s), d/f"m{s}.safetensors", step=10*s)
    return d


@pytest.fixture
def bad(folder, tmp_path):
    m = ts.load(folder/'m0.safetensors')
    ts.save(ts.classifier(5, 4, 3), tmp_path/'narrow.safetensors')
    (tmp_path/'cut.safetensors').write_bytes((folder/'m0.safetensors').read_bytes()[:-40])
    save_file({'w': torch.ones(2)}, tmp_path/'foreign.safetensors')
    torch.save(m.state_dict(), tmp_path/'torch.safetensors')
    (tmp_path/'pickle.safetensors').write_bytes(pickle.dumps(dict(a=1)))
    (tmp_path/'empty.safetensors').write_bytes(b'')
    (tmp_path/'folder.safetensors').mkdir()
    return tmp_path


BAD = [('nothing', 'which is none'), ('cut', 'cut short'), ('foreign', 'ts.save'), ('torch', 'never loaded'),
       ('pickle', 'never loaded'), ('empty', 'cut short'), ('folder', 'which is none')]


def one_line(err):
    assert err.count('\n') == 1 and err.startswith('tensorsim') and 'error: ' in err and 'Traceback' not in err, err
    return err


@pytest.mark.parametrize('name,words', BAD)
def test_bad_files_in_process(bad, folder, capsys, name, words):
    for args in (['info', f'{bad}/{name}.safetensors'],
                 ['compare', f'{folder}/m0.safetensors', f'{bad}/{name}.safetensors']):
        assert cli.main(args) == 2
        assert words in one_line(capsys.readouterr().err)


@pytest.mark.parametrize('name', ['cut', 'torch'])
def test_bad_files_from_the_shell(bad, name):
    done = tensorsim('info', f'{name}.safetensors', cwd=bad)
    assert done.returncode == 2 and done.stdout == ''
    assert re.search(r'error: .+: got .+\. .+\.', one_line(done.stderr))      # need, got, do


def test_debug_lets_the_error_through(bad):
    with pytest.raises(ValueError, match='cut short'): cli.main(['info', f'{bad}/cut.safetensors', '--debug'])


def test_models_that_do_not_fit(bad, folder, capsys):
    assert cli.main(['compare', f'{folder}/m0.safetensors', f'{bad}/narrow.safetensors']) == 2
    assert 'd_in 6 and 5' in one_line(capsys.readouterr().err)


@pytest.mark.parametrize('args', [[], ['dance'], ['compare', 'a'], ['info'], ['gram'],
                                  ['compare', 'a', 'b', '--method', 'guess'], ['demo', 'x']])
def test_bad_usage(args, capsys):
    with pytest.raises(SystemExit) as e: cli.main(args)
    assert e.value.code == 2
    assert '--help' in one_line(capsys.readouterr().err)


@pytest.mark.parametrize('command', ['', 'demo', 'compare', 'gram', 'info'])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as e: cli.main([*command.split(), '--help'])
    out = capsys.readouterr().out
    assert e.value.code == 0 and 'examples:' in out and f'tensorsim {command}'.strip() in out


def test_help_imports_nothing_heavy():
    code = RUN.replace('sys.exit(main())', """
try: main()
finally: print([m for m in ('torch', 'numpy', 'pandas', 'matplotlib', 'sklearn') if m in sys.modules])""")
    done = tensorsim('--help', code=code)
    assert done.returncode == 0 and done.stdout.endswith('[]\n')


@pytest.mark.parametrize('command', ['compare', 'gram'])
def test_help_explains_mappings(command, capsys):
    with pytest.raises(SystemExit): cli.main([command, '--help'])
    out = capsys.readouterr().out
    assert all(repr(p) in out for p in PRESETS) and '"0.left.weight"' in out and 'weights_only' in out


def test_the_methods_are_those_of_the_library(): assert cli.METHODS == tuple(METHODS)


def test_info(folder, capsys):
    assert cli.main(['info', f'{folder}/m1.safetensors']) == 0
    out = capsys.readouterr().out
    for words in ('BilinearMLP 6-4-4, Linear 4-3', 'step     10', '76 (float32)', 'degree   2'):
        assert words in out


@pytest.mark.parametrize('method', ['auto', 'tensor', 'closure', 'sample'])
def test_compare_prints_what_python_computes(folder, capsys, method):
    assert cli.main(['compare', f'{folder}/m0.safetensors', f'{folder}/m1.safetensors', '--method', method,
                     '--slices', '0,2']) == 0
    out = capsys.readouterr().out
    a, b = (ts.load(folder/f'm{i}.safetensors') for i in (0, 1))
    from tensorsim_nb.similarity import distance, similarity
    from tensorsim_nb.slices import slice_outputs
    assert repr(similarity(a, b, method=method)) in out and repr(distance(a, b, method=method)) in out
    rows = re.findall(r'^ +(\d) +(-?[\d.]+) ', out, re.M)
    assert [(int(k), float(v)) for k, v in rows] == [
        (k, pytest.approx(similarity(slice_outputs(a, k), slice_outputs(b, k), method=method).value,
                          abs=1e-6)) for k in (0, 2)]


def test_a_law_from_a_file(folder, tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path/'data.npz', x=rng.normal(2, 1, (200, 6)))
    pair = ['compare', f'{folder}/m0.safetensors', f'{folder}/m1.safetensors']
    assert cli.main(pair) == 0 and cli.main([*pair, '--law', f'{tmp_path}/data.npz']) == 0
    first, second = re.findall('similarity (\\S+)', capsys.readouterr().out)
    assert first != second
    np.savez(tmp_path/'wide.npz', mean=np.zeros(7))
    assert cli.main([*pair, '--law', f'{tmp_path}/wide.npz']) == 2
    one_line(capsys.readouterr().err)
    np.savez(tmp_path/'pickle.npz', x=np.array([dict()]))
    assert cli.main([*pair, '--law', f'{tmp_path}/pickle.npz']) == 2
    assert 'of numbers' in one_line(capsys.readouterr().err)


def test_gram_prints_and_writes(folder, tmp_path, capsys):
    for kind in ('npz', 'csv', 'png'):
        assert cli.main(['gram', str(folder), '--slices', 'all', '--out', f'{tmp_path}/pairs.{kind}']) == 0
    out = capsys.readouterr().out
    assert 'output 2: similarities of 3 models' in out
    with np.load(tmp_path/'pairs.npz', allow_pickle=False) as z: got = dict(z)
    assert list(got['labels']) == ['m0', 'm1', 'm2'] and {'similarity', 'inner', 'distance', 'slice_0',
                                                          'slice_2'} <= got.keys()
    from tensorsim_nb.similarity import similarity
    want = similarity(*(ts.load(folder/f'm{i}.safetensors') for i in (0, 1))).value
    assert got['similarity'][0, 1] == pytest.approx(want, abs=1e-12) and f'{want:.4f}' in out
    assert (tmp_path/'pairs.png').read_bytes()[:4] == b'\x89PNG'
    assert (tmp_path/'pairs.csv').read_text().splitlines()[0] == ',m0,m1,m2'


def test_gram_of_foreign_files_with_a_store_and_workers(tmp_path, capsys):
    import torch
    from tensorsim_nb.models import info, load
    (tmp_path/'run').mkdir()
    names = {'0.left.weight': 'l', '0.right.weight': 'r', '0.down.weight': 'p', '1.weight': 'head'}
    models = [ts.classifier(6, 4, 3) for _ in range(3)]
    for i, m in enumerate(models): torch.save({names[k]: v for k, v in m.state_dict().items()}, tmp_path/'run'/f'm{i}.pt')
    (tmp_path/'names.json').write_text(json.dumps(names))
    base = ['gram', f'{tmp_path}/run', '--mapping', f'{tmp_path}/names.json', '--out', f'{tmp_path}/g.npz']
    for more in ([], ['--store', f'{tmp_path}/store'], ['--store', f'{tmp_path}/store', '--workers', '2', '--executor', 'threads'], ['--workers', '1']):
        assert cli.main(base + more) == 0
        np.testing.assert_allclose(np.load(tmp_path/'g.npz')['inner'], ts.gram(models).inner, rtol=1e-12)
    assert list((tmp_path/'store').glob('blocks/*.safetensors'))
    assert cli.main(['compare', f'{tmp_path}/run/m0.pt', f'{tmp_path}/run/m1.pt', '--mapping', f'{tmp_path}/names.json']) == 0
    assert f'{float(ts.similarity(*models[:2])):.4f}' in capsys.readouterr().out
    for wrong, words in ((['--executor', 'moon'], '--executor'), (['--workers', '-1'], '--workers'), (['--mapping', f'{tmp_path}/g.npz'], '--mapping'),
                         (['--executor', 'tcp://127.0.0.1:1'], 'scheduler')):
        if wrong[0] == '--executor' and '://' in wrong[1]: pytest.importorskip('distributed')
        assert cli.main(base + wrong) == 2
        assert words in one_line(capsys.readouterr().err)


def test_gram_sorts_by_step_or_number_and_leaves_the_state_of_a_run_out(tmp_path, capsys):
    for name in ('step_10', 'step_9', 'state', '.hidden'): (tmp_path/f'{name}.safetensors').touch()
    assert [p.stem for p in checkpoint_files(tmp_path, foreign=True)] == ['step_9', 'step_10'] # other programs tell no step
    for name, step in (('first', 5), ('last', 7), ('a', 9)): ts.save(ts.classifier(6, 4, 3), tmp_path/f'{name}.safetensors', step=step)
    for name in ('step_10', 'step_9'): (tmp_path/f'{name}.safetensors').unlink()
    assert cli.main(['gram', str(tmp_path), '--out', f'{tmp_path}/g.npz']) == 0
    assert list(np.load(tmp_path/'g.npz')['labels']) == ['first', 'last', 'a']


def test_mappings_by_convention(tmp_path, capsys):
    "Foreign .pt files by the name of a convention, and by one with what names do not tell."
    assert cli.PRESETS == tuple(PRESETS)
    models = [ts.classifier(6, 4, 3) for _ in range(2)] + [ts.Model(ts.BilinearMLP(6, 4, 6, residual=.5), ts.Linear(6, 3))]
    names = {'0.left.weight': 'mlp.l.weight', '0.right.weight': 'mlp.r.weight', '0.down.weight': 'mlp.d.weight', '1.weight': 'head.weight'}
    for i, m in enumerate(models): torch.save({names[k]: v for k, v in m.state_dict().items()}, tmp_path/f'm{i}.pt')
    (tmp_path/'skip.json').write_text(json.dumps(dict(preset='l r d', residual=.5)))
    (tmp_path/'odd.json').write_text(json.dumps(dict(preset='l r d', colour='red')))
    skip = ['--mapping', f'{tmp_path}/skip.json']
    assert cli.main(['gram', str(tmp_path), '--out', f'{tmp_path}/g.npz', *skip]) == 0
    np.testing.assert_allclose(np.load(tmp_path/'g.npz')['inner'], ts.gram(models).inner, rtol=1e-12)
    assert cli.main(['gram', str(tmp_path), '--mapping', 'l r d']) == 2 # is there a skip path? names do not tell
    assert 'residual' in one_line(capsys.readouterr().err)
    (tmp_path/'m2.pt').unlink()
    for name in ('l r d', 'auto'):
        assert cli.main(['gram', str(tmp_path), '--out', f'{tmp_path}/g.npz', '--mapping', name]) == 0
        np.testing.assert_allclose(np.load(tmp_path/'g.npz')['inner'], ts.gram(models[:2]).inner, rtol=1e-12)
    assert cli.main(['compare', f'{tmp_path}/m0.pt', f'{tmp_path}/m1.pt', *skip]) == 0
    assert f'{float(ts.similarity(*models[:2])):.4f}' in capsys.readouterr().out
    for wrong, words in (('r l d', "'l r d'"), (f'{tmp_path}/odd.json', 'colour')):
        assert cli.main(['compare', f'{tmp_path}/m0.pt', f'{tmp_path}/m1.pt', '--mapping', wrong]) == 2
        assert words in one_line(capsys.readouterr().err)


def test_gram_refuses_and_leaves_nothing(bad, folder, tmp_path, capsys):
    (tmp_path/'none').mkdir()
    for args, words in [([f'{tmp_path}/none'], 'no .safetensors'), ([f'{tmp_path}/gone'], 'which is none'),
                        ([str(folder), '--out', f'{tmp_path}/x.txt'], '.npz, .csv or .png'),
                        ([str(folder), '--out', f'{tmp_path}/gone/x.npz'], 'folder that exists'),
                        ([str(folder), '--out', f'{tmp_path}/x.npz', '--slices', '7'], 'from 0 to 2'),
                        ([str(bad), '--out', f'{tmp_path}/x.npz'], 'got ')]:
        assert cli.main(['gram', *args]) == 2
        assert words in one_line(capsys.readouterr().err)
    assert not list(tmp_path.glob('*.npz')) and not list(tmp_path.glob('.*'))


def test_a_fault_of_the_program_is_code_1(folder, monkeypatch, capsys):
    def broken(args): raise ZeroDivisionError("one\ntwo")
    monkeypatch.setattr(cli, 'info_command', broken)
    assert cli.main(['info', f'{folder}/m0.safetensors']) == 1
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'ZeroDivisionError: one two' in err and '--debug' in err


def test_the_quick_demo_from_the_shell(tmp_path, monkeypatch, capsys):
    done = tensorsim('demo', '--quick', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ('slice 9', 'control gap', 'Attack success', 'That is the poisoned class', 'demo/index.html',
                  'make lab'):
        assert words in done.stdout
    assert 'Traceback' not in done.stderr and '400/400' in done.stderr          # the bar
    page = (tmp_path/'demo'/'index.html').read_text(encoding='utf-8')
    assert page.count('data:image/png;base64,') == 2 and '://' not in page       # self-contained
    assert (tmp_path/'demo'/'heatmap.png').read_bytes()[:4] == b'\x89PNG'
    pair = re.search(r'tensorsim (compare .*)', done.stdout)[1].split()
    monkeypatch.chdir(tmp_path)
    assert cli.main(pair) == 0      # what it says to try next works
    assert len(re.findall(r'^ +\d ', capsys.readouterr().out, re.M)) == 10


def test_the_demo_does_not_write_over_a_file(tmp_path, capsys):
    (tmp_path/'demo').write_text('mine')
    assert cli.main(['demo', '--quick', '--quiet', '--out', f'{tmp_path}/demo']) == 2
    one_line(capsys.readouterr().err)
    assert (tmp_path/'demo').read_text() == 'mine'


# ---- names that act, readers that leave, disks that are full, Ctrl-C ----

ACTS = 'a\x1b[31m\n\u202e'


def test_names_and_headers_are_shown_and_not_obeyed(folder, tmp_path, capsys):
    (tmp_path/'run').mkdir()
    for k, name in enumerate((ACTS, ACTS + 'b')): ts.save(ts.load(folder/f'm{k}.safetensors'), tmp_path/'run'/f'{name}.safetensors', **{ACTS: ACTS})
    broken = os.fsdecode(os.fsencode(str(tmp_path)) + b'/\xff.safetensors') # a name that is no text: safetensors cannot read it
    first = str(tmp_path/'run'/f'{ACTS}.safetensors')
    for args in (['info', first], ['compare', first, first], ['gram', f'{tmp_path}/run'], ['gram', f'{tmp_path}/run', '--out', f'{tmp_path}/g.csv']):
        assert cli.main(args) == 0
        out, err = capsys.readouterr()
        assert all(c.isprintable() or c == '\n' for c in out + err) and '\x1b' not in out
    for args in (['info', ACTS], ['info', broken], ['gram', ACTS], ['gram', f'{tmp_path}/run', '--law', ACTS], ['gram', f'{tmp_path}/run', '--mapping', ACTS], ['gram', f'{tmp_path}/run', '--slices', ACTS],
                 ['gram', f'{tmp_path}/run', '--out', f'{ACTS}/x.csv'], ['gram', f'{tmp_path}/run', '--executor', ACTS]):
        assert cli.main(args) == 2
        assert one_line(capsys.readouterr().err)[:-1].isprintable()
    for args in ([ACTS], ['info', 'x', ACTS], ['info', 'x', '--method', ACTS]):
        with pytest.raises(SystemExit): cli.main(args)
        assert one_line(capsys.readouterr().err)[:-1].isprintable()


def test_every_help_and_its_exit_codes(capsys):
    for args in (['--help'], *([c, '--help'] for c in ('demo', 'compare', 'gram', 'info')), ['--version']):
        try: assert cli.main(args) == 0
        except SystemExit as e: assert e.code == 0
        assert capsys.readouterr().err == ''
    with pytest.raises(SystemExit): cli.main(['--help'])
    out = capsys.readouterr().out
    assert all(words in out for words in ('0 done', '1 failed', '2 bad usage or input', '130 stopped'))


def test_mixed_architectures_and_empty_places(folder, tmp_path, capsys):
    (tmp_path/'mixed').mkdir()
    ts.save(ts.classifier(6, 4, 3), tmp_path/'mixed'/'a.safetensors')
    ts.save(ts.transformer(6, 4, 2, 3, 1), tmp_path/'mixed'/'b.safetensors')
    (tmp_path/'empty').mkdir()
    m = f'{folder}/m0.safetensors'
    for args, words in ((['gram', f'{tmp_path}/mixed'], 'd_out'), (['compare', f'{tmp_path}/mixed/a.safetensors', f'{tmp_path}/mixed/b.safetensors'], 'got '), (['gram', f'{tmp_path}/empty'], 'no .safetensors'),
                        (['gram', m], 'which is none'), (['compare', m, str(folder)], 'which is none'), (['info', str(folder)], 'which is none'), (['info', ''], 'got '),
                        (['compare', m, m, '--law', str(folder)], '--law'), (['compare', m, m, '--mapping', str(folder)], '--mapping'), (['gram', str(folder), '--out', f'{tmp_path}/mixed/x.npz/y.npz'], 'folder that exists'),
                        (['gram', str(folder), '--store', m], 'folder'), (['demo', '--quick', '--quiet', '--out', f'{m}/x'], 'got ')):
        assert cli.main(args) == 2, args
        assert words in one_line(capsys.readouterr().err), args


def test_debug_shows_the_traceback(tmp_path):
    for args in (['info', f'{tmp_path}/none'], ['gram', f'{tmp_path}/none'], ['compare', f'{tmp_path}/a', f'{tmp_path}/b']):
        with pytest.raises((ValueError, OSError)): cli.main([*args, '--debug'])


def test_a_full_disk_is_a_failure_and_not_bad_input(folder, tmp_path, monkeypatch, capsys):
    import errno
    from tensorsim_nb import core
    def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(core.os, 'replace', full)
    assert cli.main(['gram', str(folder), '--out', f'{tmp_path}/g.npz']) == 1
    assert 'Make room' in one_line(capsys.readouterr().err) and not list(tmp_path.iterdir())


def test_warnings_are_one_line(folder, tmp_path, capsys):
    import shutil
    shutil.copytree(folder, tmp_path/'run')
    args = ['gram', f'{tmp_path}/run', '--store', f'{tmp_path}/store']
    assert cli.main(args) == 0
    capsys.readouterr()
    ts.save(ts.classifier(6, 4, 3), tmp_path/'run'/'m0.safetensors')
    assert cli.main(args) == 0
    err = capsys.readouterr().err
    assert err.startswith('tensorsim: warning: ') and err.count('\n') == 1


def test_control_c_is_130_and_one_line(folder, monkeypatch, capsys):
    def stopped(args): raise KeyboardInterrupt
    monkeypatch.setattr(cli, 'info_command', stopped)
    assert cli.main(['info', f'{folder}/m0.safetensors']) == 130
    assert capsys.readouterr().err == 'tensorsim: stopped\n'


def started(*args, out, err):
    "`tensorsim` in a forked process, its streams in files or pipes: as from the shell, without the seconds of importing."
    pid = os.fork()
    if pid: return pid
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(out, 1); os.dup2(err, 2)
        sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', buffering=1, closefd=False)
        sys.argv = ['tensorsim', *args]
        try: code = cli.main()
        except SystemExit as e: code = e.code
        try: sys.stdout.flush() # as the interpreter does when it ends
        except BaseException: code = 120
    finally: os._exit(code)


def code_of(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, 'fork'), reason="the system has no fork")
def test_a_reader_that_leaves_and_a_full_disk_behind_stdout(folder, tmp_path):
    for args in (['--help'], ['gram', '--help'], ['--version'], ['info', f'{folder}/m0.safetensors'], ['gram', str(folder), '--slices', 'all']):
        for where in ('pipe', '/dev/full'):
            if where == '/dev/full' and not os.path.exists(where): continue
            with open(tmp_path/'err', 'wb') as err:
                if where == 'pipe':
                    r, out = os.pipe()
                    os.close(r) # `| head -1` that has seen enough
                else: out = os.open(where, os.O_WRONLY)
                code = code_of(started(*args, out=out, err=err.fileno()))
                os.close(out)
            said = (tmp_path/'err').read_text()
            if where == 'pipe': assert (code, said) == (0, ''), args
            else: assert code == 1 and said.count('\n') == 1 and 'Traceback' not in said, (args, code, said)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason="the system has no fork")
def test_control_c_from_outside(tmp_path):
    with open(tmp_path/'err', 'wb') as err:
        pid = started('demo', '--quick', '--quiet', '--out', f'{tmp_path}/demo', out=err.fileno(), err=err.fileno())
        until = time.monotonic() + 100
        while time.monotonic() < until and not (tmp_path/'demo'/'quick'/'backdoor'/'step_000025.safetensors').exists(): time.sleep(.01)
        os.kill(pid, signal.SIGINT)
        assert code_of(pid) == 130
    said = (tmp_path/'err').read_text()
    assert said.endswith('tensorsim: stopped; the same command goes on where it was\n') and 'Traceback' not in said
    assert not [p for p in (tmp_path/'demo').rglob('.*')]


def test_a_large_matrix_is_told_in_three_lines(capsys):
    import numpy as np
    from tensorsim_nb.cli import _print_matrix
    m = .9*np.ones((9, 9)) + .1*np.eye(9)
    m[2, 7] = m[7, 2] = .1
    m[4, 5] = m[5, 4] = .2
    _print_matrix('all outputs', m, [f'step{k}' for k in range(9)])
    out = capsys.readouterr().out
    assert 'least alike         0.1000  step2, step7' in out and 'least neighbours    0.2000  step4, step5' in out
    assert f'mean of all pairs   {(34*.9 + .3)/36:.4f}' in out and len(out.splitlines()) == 4
