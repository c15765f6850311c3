"""The command line: exit codes, one line on stderr, nothing half-written."""
import json, pickle, re, subprocess, sys

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
