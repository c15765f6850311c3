"""Sources with known truth, scores against perfect models, the roles product against its written-out tensor, and a tiny run."""
from copy import deepcopy

import numpy as np
import pytest
import torch

from conftest import ROOT
from tensorsim_nb.experiments import load_table
from tensorsim_nb.language import (MEASURES, LanguageConfig, checkpoint_summary, closure_error, copy_score, count_ngrams, language, language_model,
                                   language_task, make_source, measure_correlations, ngram_scores, ngram_source, output_cosines_with_error, overlap,
                                   quick_language, repeated_source, roles_inner, roles_matrix, stationary_pairs, text_source, token_loss,
                                   tokenize, truth_table)
from tensorsim_nb.layers import ROTARY_BASE, BilinearAttention, rotate
from tensorsim_nb.laws import Tokens
from tensorsim_nb.models import Model, load, transformer
from tensorsim_nb.similarity import similarity
from tensorsim_nb.train import checkpoints

CONFIG = quick_language(d_vocab=6, d_model=8, n_ctx=3, steps=250, batch_size=64, n_checkpoints=4, n_draws=2048, n_test=200, n_train=5000)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('language')
    return folder, language(CONFIG, folder, quiet=True)


def test_the_model_learns_its_bigrams_and_then_some(run):
    s, truth = checkpoint_summary(run[1]), truth_table(make_source(CONFIG))
    assert s['test_loss'].iloc[-1] < s['test_loss'].iloc[0] - .1
    assert s['bigram score'].iloc[-1] > s['bigram score'].iloc[0] + .1
    assert s['trigram score'].iloc[-1] > truth.loc['unigram', 'trigram score'] + .05


def test_matrices_against_pairs_of_models(run):
    folder, table = run
    models, source = [load(p).double() for _, p in checkpoints(folder)], make_source(CONFIG)
    law, a, b = Tokens(source.unigram), models[1], models[-1]
    m = {k: v[1, -1] for k, v in table.matrices.items()}
    with pytest.warns(UserWarning, match='closure'):
        assert m['closure'] == pytest.approx(similarity(a, b, law, method='closure').value, abs=1e-9)
    exact = similarity(a, b, law, method='quadrature').value              # 6^3 sequences: the truth
    assert abs(m['sampled'] - exact) < 5*m['sampled error']
    assert m['roles'] == pytest.approx(roles_inner(a, b)/np.sqrt(roles_inner(a, a)*roles_inner(b, b)), abs=1e-12)
    f, g = (x(source.test[:, :-1]).flatten(1).detach().numpy() for x in (a, b))
    cosines = (f*g).sum(1)/np.linalg.norm(f, axis=1)/np.linalg.norm(g, axis=1)
    assert m['output'] == pytest.approx(cosines.mean(), abs=1e-10)
    assert m['output error'] == pytest.approx(cosines.std(ddof=1)/np.sqrt(len(cosines)), rel=1e-6)


def test_tables_describe_the_run(run):
    s, gap = checkpoint_summary(run[1]), closure_error(run[1])
    assert s.index.tolist() == CONFIG.checkpoint_steps and s['active share'].between(0, 1).all()
    assert s[[f'{k} to last' for k in MEASURES]].iloc[-1].tolist() == pytest.approx([1]*5, abs=1e-6)
    assert (gap['rms'] <= gap['largest']).all() and gap.loc['all', 'pairs'] == gap['pairs'].iloc[:-1].sum() == 6
    r = measure_correlations(run[1])
    assert np.allclose(r, r.T) and r.loc['sampled', 'output'] > .9


def test_a_second_call_reads(run):
    stamps = {p: p.stat().st_mtime_ns for p in run[0].rglob('*') if p.is_file()}
    again = language(CONFIG, run[0], quiet=True)
    assert {p: p.stat().st_mtime_ns for p in run[0].rglob('*') if p.is_file()} == stamps and again.curves.equals(run[1].curves)
    with pytest.raises(ValueError, match='same settings'):
        language(quick_language(d_vocab=6, d_model=8, n_ctx=3, n_train=5000, seed=1), run[0], quiet=True)


@pytest.mark.parametrize('seed', range(3))
def test_stationary_pairs_are_an_eigenvector(seed):
    T = torch.rand(4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    T = T/T.sum(-1, keepdim=True)
    pairs = stationary_pairs(T)
    step = torch.einsum('abc,bd->abcd', T, torch.eye(4, dtype=torch.float64)).permute(0, 1, 3, 2).reshape(16, 16) # (a, b) -> (b, c)
    values, vectors = np.linalg.eig(step.numpy().T)
    v = vectors[:, np.argmin(abs(values - 1))].real
    assert np.allclose(pairs.flatten(), v/v.sum(), atol=1e-10)


def test_known_ngrams_agree_with_counts():
    src = ngram_source(5, 6, n_train=40_000, seed=3)
    uni, bi, tri = count_ngrams(src.train, 5)
    often = src.unigram > .02
    assert (uni - src.unigram).abs().max() < .01 and (bi - src.bigram)[often].abs().max() < .03
    assert torch.allclose(src.unigram @ src.bigram, src.unigram, atol=1e-9)
    other = ngram_source(5, 6, n_train=10, seed=4)
    assert (other.trigram - src.trigram).abs().max() > .1


@pytest.mark.parametrize('order', [1, 2, 3])
def test_scores_of_perfect_models(order):
    src = ngram_source(6, 5, n_train=10, n_test=300)
    logits = {1: lambda i: src.unigram.log().expand(*i.shape, -1), 2: lambda i: src.bigram[i].log(), 3: lambda i: src.trigram[i[:, :-1], i[:, 1:]].log()}[order]
    name, scores, truth = ('unigram', 'bigram', 'trigram')[order - 1], ngram_scores(logits, src), truth_table(src)
    assert scores[f'{name} score'] == pytest.approx(1, abs=1e-9)
    assert scores == pytest.approx(truth.loc[name].drop('loss').to_dict(), abs=1e-9)
    losses = truth['loss'].tolist()
    assert losses == sorted(losses, reverse=True)


def test_a_perfect_copier_scores_one():
    src = repeated_source(8, 9, n_train=10)
    def copier(ids):
        out = torch.zeros(*ids.shape, 8)
        for w, row in enumerate(ids):
            for j in range(len(row)):
                before = (row[:j] == row[j]).nonzero()
                if len(before): out[w, j, row[before[-1, 0] + 1]] = 50.
        return out
    assert copy_score(copier, src) == pytest.approx(1, abs=1e-9)
    assert copy_score(lambda i: torch.zeros(*i.shape, 8), src) == pytest.approx(1/8)


def test_overlap_is_one_minus_the_total_variation():
    p, q = torch.rand(2, 50, 7, dtype=torch.float64).softmax(-1)
    assert torch.allclose(overlap(p, q), 1 - (p - q).abs().sum(-1)/2)


def test_tokens_spell_the_text():
    text = text_source(38, 7, n_merges=24, text="the cat sat on the mat; the rat ate the oat. " * 40)
    spelt = ''.join(text.symbols[i] for i in text.train[0]) + ''.join(text.symbols[i] for i in text.train[7])
    assert spelt.startswith("the cat") and text.d_vocab == len(text.symbols) == len(text.unigram)
    ids, symbols = tokenize("aaaaa b", 5, 1)
    assert [symbols[i] for i in ids] == ['aa', 'aa', 'a', ' ', 'b']
    ids, symbols = tokenize("xyzzy", 3)
    assert [symbols[i] for i in ids] == ['·', 'y', 'z', 'z', 'y'] and symbols == ('y', 'z', '·')


def test_english_comes_with_python_and_the_test_is_its_end():
    src = text_source(32, 7)
    assert src.train.shape[0] > 300_000 and src.test.shape == (1000, 7) and src.symbols[:3] == (' ', 'e', 't')
    assert truth_table(src)['loss'].is_monotonic_decreasing


def noisy(model, size, seed):
    out = deepcopy(model)
    gen = torch.Generator().manual_seed(seed)
    for p in out.parameters(): p.data += size*torch.randn(p.shape, generator=gen, dtype=p.dtype)
    return out


@pytest.mark.parametrize('rotary', [True, False])
@pytest.mark.parametrize('heads,mask', [(1, 'causal'), (2, 'causal'), (2, 'none')])
def test_roles_against_the_written_out_tensor(rotary, heads, mask):
    "Entry by entry, for each query and key, symmetrised over the two scores."
    torch.manual_seed(heads)
    a, b = (BilinearAttention(4, heads, 3, mask=mask, residual=0., scale=.7, rotary=rotary).double() for _ in 'ab')
    eye = torch.eye(4, dtype=torch.float64)
    def entries(layer, p, k): # the term of one query and key, read off unit vectors: T[o, v, q1, k1, q2, k2]
        e = layer.d_head
        def leg(linear, at, turn): # (head, width, d)
            w = linear.weight.unflatten(0, (heads, e)).permute(2, 0, 1)[:, None].expand(-1, 3, -1, -1)
            return rotate(w, ROTARY_BASE*(rotary and turn))[:, at].permute(1, 2, 0)
        s = [torch.einsum('hea,heb->hab', leg(getattr(layer, f'q{i}'), p, True), leg(getattr(layer, f'k{i}'), k, True)) for i in (1, 2)]
        ov = torch.einsum('ohe,hei->hoi', layer.o.weight.unflatten(1, (heads, e)), leg(layer.v, k, False))
        t = torch.einsum('hoi,hab,hcd->oiabcd', ov, *s)*layer.scale/e**2
        return (t + t.permute(0, 1, 4, 5, 2, 3))/2
    cells = [(p, k) for p in range(3) for k in range(3) if a.mask[p, k]]
    want = sum((entries(a, p, k)*entries(b, p, k)).sum() for p, k in cells)
    assert roles_inner(Model(a), Model(b)) == pytest.approx(want.item(), rel=1e-10)
    x = torch.randn(3, 4, dtype=torch.float64)                            # and these entries are the layer
    y = torch.stack([sum(torch.einsum('oiabcd,i,a,b,c,d->o', entries(a, p, k), x[k], x[p], x[k], x[p], x[k]) for q, k in cells if q == p) for p in range(3)])
    assert torch.allclose(y, a(x), atol=1e-10)


def test_roles_see_the_function_and_not_the_gauge():
    torch.manual_seed(0)
    t, u = (noisy(transformer(5, 8, 2, 3, 2, scale=.35).double(), .5, s) for s in range(2))
    same = deepcopy(t)
    for layer, old in ((same[1], t[1]), (same[2], t[2])):
        for i, j in ((1, 2), (2, 1)):
            for k in 'qk': getattr(layer, f'{k}{i}').weight.data = getattr(old, f'{k}{j}').weight.data.roll(4, 0)
        layer.v.weight.data, layer.o.weight.data = old.v.weight.data.roll(4, 0), old.o.weight.data.roll(4, 1)
        layer.q1.weight.data *= -2; layer.k1.weight.data /= -2
    ids = torch.randint(5, (20, 3))
    assert torch.allclose(same(ids), t(ids), atol=1e-9)
    assert roles_inner(same, u) == pytest.approx(roles_inner(t, u), rel=1e-10)
    m = roles_matrix([t, same, u])
    assert m[0, 1] == pytest.approx(1, abs=1e-10) and abs(m[0, 2]) < .9 and np.allclose(m, m.T)
    same[1].q1.weight.data = same[1].q1.weight.data.roll(1, 0)            # the control: a query turned alone
    assert roles_matrix([t, same])[0, 1] < .999


def test_error_bars_cover():
    torch.manual_seed(0)
    a, b = (noisy(transformer(5, 8, 2, 3, 1, scale=.35).double(), .5, s) for s in range(2))
    x = torch.randint(5, (10_000, 3))
    truth = output_cosines_with_error([a, b], x)[0][0, 1]
    z = [(m[0, 1] - truth)/e[0, 1] for m, e in (output_cosines_with_error([a, b], part) for part in x[:5000].split(50))]
    assert .8 < np.std(z) < 1.25


@pytest.mark.parametrize('bad', [dict(source='x'), dict(n_ctx=2), dict(n_checkpoints=1), dict(n_merges=2), dict(n_test=1), dict(exponent=-1.), dict(lr=0.)])
def test_configs_that_make_no_sense_are_refused(bad, tmp_path):
    with pytest.raises(ValueError): language(quick_language(**bad), tmp_path, quiet=True)


def test_refusals():
    with pytest.raises(ValueError, match='room for a repeat'): repeated_source(8, 4)
    with pytest.raises(ValueError, match='distinct tokens'): repeated_source(3, 11)
    with pytest.raises(ValueError, match='needs repeats'): copy_score(None, ngram_source(4, 5, n_train=5))
    with pytest.raises(ValueError, match='layer by layer'): roles_inner(transformer(5, 4, 1, 3, 1), transformer(5, 4, 1, 3, 2))
    for odd in (transformer(5, 4, 1, 3, 1, bias=True), transformer(5, 4, 1, 3, 1, kind='linear'), transformer(5, 4, 1, 3, 1, d_hidden=3)):
        with pytest.raises(NotImplementedError, match='without biases'): roles_inner(odd, odd)


def test_the_loss_is_of_the_next_token():
    src = ngram_source(6, 5, n_train=50, n_test=20)
    model = language_model(LanguageConfig(source='ngrams', d_vocab=6, d_model=4, n_ctx=4))
    logp = model(src.test[:, :-1]).log_softmax(-1)
    want = -torch.stack([logp[w, j, src.test[w, j + 1]] for w in range(20) for j in range(4)]).mean()
    assert token_loss(model, src.test).item() == pytest.approx(want.item(), rel=1e-5)
    (windows,) = language_task(src).draw(100, torch.Generator().manual_seed(0))
    rows = {tuple(r) for r in src.train.tolist()}
    assert {tuple(r) for r in windows.tolist()} <= rows
