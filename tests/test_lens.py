"""Circuits, heads, converted networks and hooks, against TransformerLens itself, quadrature, draws and plain matrices."""
import math, subprocess, sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest, torch
from torch import nn

import tensorsim_nb as ts
from conftest import ROOT
from tensorsim_nb.compare_heads import circuits_inner
from tensorsim_nb.lens import from_factored, ov_model, qk_model, read_heads, second_moment
from tensorsim_nb.state_dicts import PRESETS

f64 = torch.float64


@pytest.fixture(scope='module')
def boot():
    "Random networks of TransformerLens, with biases and scales that are not 0 and 1."
    from transformer_lens import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources import native
    def make(seed=0, norm=None, positions='standard', dtype=f64, act=None, **sizes):
        sizes = dict(d_model=8, d_head=4, n_heads=2, n_layers=2, n_ctx=6, d_vocab=11, attn_only=True) | sizes
        cfg = TransformerBridgeConfig(**sizes, normalization_type=norm, positional_embedding_type=positions, seed=seed, initializer_range=.4)
        model = native.boot(cfg, dtype=dtype)
        gen = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.original_model.parameters():
                if p.ndim == 1: p += .3*torch.randn(p.shape, generator=gen, dtype=p.dtype)
        if act is not None:
            for block in model.blocks: block.mlp.original_component.act = act
        return model
    return make


def token_law(n, seed=0):
    p = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=f64)**2
    return ts.Tokens(p/p.sum())


# ---- circuits ---------------------------------------------------------------------------------

def pattern(circuit, x, d_head):
    "The causal pattern of a QK circuit on a stream (position, d_model)."
    n = len(x)
    pairs = torch.cat([x[:, None].expand(n, n, -1), x[None].expand(n, n, -1)], -1)
    scores = circuit(pairs)[..., 0]/d_head**.5
    return scores.masked_fill(~torch.ones(n, n).tril().bool(), -math.inf).softmax(-1)


@pytest.mark.parametrize('norm', [None, 'LN', 'LNPre', 'RMS', 'RMSPre'])
def test_folded_circuits_give_the_pattern_and_the_output_of_the_network(boot, norm):
    model = boot(1, norm)
    atol = 1e-6 if norm in ('LNPre', 'RMS', 'RMSPre') else 1e-12   # these normalise in float32
    _, cache = model.run_with_cache(torch.tensor([[3, 1, 4, 1, 5, 9]]))
    for layer in range(2):
        x = cache[f'blocks.{layer}.hook_resid_pre'][0]
        if norm: x = x/((x.var(-1, unbiased=False, keepdim=True) if 'LN' in norm else x.square().mean(-1, keepdim=True)) + model.cfg.eps).sqrt()
        for head in range(2):
            want = cache[f'blocks.{layer}.attn.hook_pattern'][0, head]
            torch.testing.assert_close(pattern(ts.qk_circuit(model, layer, head, bias=True), x, 4), want, rtol=0, atol=atol)
            z = cache[f'blocks.{layer}.attn.hook_z'][0].reshape(6, 2, 4)[:, head]
            torch.testing.assert_close(want @ ts.ov_circuit(model, layer, head, bias=True)(x), z @ model.W_O[layer, head], rtol=0, atol=atol)
            if norm in ('LN', 'RMS'):   # control: the fold is not nothing
                assert (pattern(ts.qk_circuit(model, layer, head, bias=True, fold_ln=False), x, 4) - want).abs().max() > 1e-3


def test_grouped_queries_share_keys_and_values(boot):
    model = boot(n_heads=4, n_key_value_heads=2)
    h = read_heads(model)
    assert h.V.shape[1] == 4 and torch.equal(h.V[:, 0], h.V[:, 1]) and not torch.equal(h.V[:, 1], h.V[:, 2])
    assert torch.equal(ts.qk_circuit(model, 0, 3).matrix().detach(), model.QK[0, 3].AB.detach())


def older(model):
    "The same weights as an older HookedTransformer has them: only `W_*`, `b_*`, `cfg` and `ln*.w`."
    norm = lambda n: SimpleNamespace(w=n.weight, b=n.bias)
    blocks = [SimpleNamespace(ln1=norm(b.ln1)) for b in model.blocks]
    names = 'W_Q W_K W_V W_O W_E W_U b_Q b_K b_V'.split()
    return SimpleNamespace(cfg=SimpleNamespace(normalization_type='LN', positional_embedding_type='standard'), blocks=blocks, ln_final=norm(model.ln_final), **{n: getattr(model, n) for n in names})


def test_anything_with_the_same_attributes_is_read(boot):
    model = boot(2, 'LN')
    a, b = read_heads(model), read_heads(older(model))
    for name in ('Q', 'K', 'V', 'O', 'E', 'U', 'bQ', 'bK', 'bV'): assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize('seed', range(3))
def test_inner_products_of_circuits_are_traces(seed):
    gen = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=gen, dtype=f64)
    mean, root = r(3), r(3, 3)
    law, S = ts.Gaussian(mean, root @ root.T), root @ root.T + torch.outer(mean, mean)
    a, b = qk_model(r(3, 2), r(2, 3)), qk_model(r(3, 1), r(1, 3))
    W, X = a.matrix().detach(), b.matrix().detach()
    pair = ts.pair_law(law)
    want = float((S @ W @ S @ X.T).trace().detach())
    assert float(ts.inner(a, b, pair)) == pytest.approx(want, rel=1e-12)
    assert float(ts.inner(a, b, pair, method='quadrature')) == pytest.approx(want, rel=1e-10)
    other = ts.pair_law(ts.Gaussian(), law)   # queries and keys of different laws
    assert float(ts.inner(a, b, other)) == pytest.approx(float((W @ S @ X.T).trace()), rel=1e-12)
    M, N = ov_model(r(3, 2), r(2, 4)), ov_model(r(3, 2), r(2, 4))
    assert float(ts.inner(M, N, law)) == pytest.approx(float((M.matrix().T @ S @ N.matrix()).trace().detach()), rel=1e-12)
    got = ts.similarity(a, b, pair, method='sample', n=20_000, seed=seed)
    assert abs(float(got) - float(ts.similarity(a, b, pair))) < 5*got.stderr


def test_laws_of_pairs():
    low = ts.LowRank(torch.randn(3, 1), .5, torch.randn(3))
    for p, q in ((low, low), (low, ts.Gaussian()), (ts.Gaussian(cov=torch.ones(3)), ts.Gaussian(torch.ones(3))), (ts.Independent.uniform(3), ts.Independent.uniform(3))):
        W = torch.randn(4, 6, dtype=f64)
        got = ts.pair_law(p, q).times_cov(W)
        torch.testing.assert_close(got, torch.cat([p.times_cov(W[:, :3]), q.times_cov(W[:, 3:])], 1))
    assert ts.pair_law(ts.Tokens([.2, .8]), ts.Tokens([.5, .25, .25])).blocks == [2, 3]
    assert ts.pair_law(ts.Gaussian()).d is None
    mixed = ts.pair_law(ts.Mixture([low, ts.Gaussian(torch.ones(3))], [.25, .75]))
    assert sorted(w for w, _ in mixed.components()) == pytest.approx([.0625, .1875, .1875, .5625])
    with pytest.raises(NotImplementedError, match='rows of pairs'): ts.pair_law(ts.Empirical(torch.randn(5, 3)))


@pytest.mark.parametrize('chunk', [3, 1000])
def test_second_moments_of_embedded_tokens(chunk):
    E, F, mean, root = torch.randn(7, 4), torch.randn(7, 3), torch.randn(7), torch.randn(7, 7)
    p = token_law(7)
    whole = {p: torch.diag(p.probs), ts.Gaussian(): torch.eye(7), ts.Gaussian(mean, root @ root.T): root @ root.T + torch.outer(mean, mean),
             ts.Gaussian(mean, p.probs): torch.diag(p.probs) + torch.outer(mean, mean), ts.LowRank(root[:, :2], .3, mean): .3*torch.eye(7) + root[:, :2] @ root[:, :2].T + torch.outer(mean, mean)}
    for law, S in whole.items():
        torch.testing.assert_close(second_moment(law, E, F, chunk=chunk), E.double().T @ S.double() @ F.double(), rtol=1e-6, atol=1e-6)


def test_full_circuits_stay_in_factors():
    V = 30_000   # vocabulary x vocabulary would be 3.6 GB in float32
    E, U, law = torch.randn(V, 4), torch.randn(4, V), token_law(V)
    h = replace(read_heads(ts.transformer(6, 4, 2, 3, 1, kind='linear', rotary=False)), E=E, U=U)
    qk, ov = (f(h, 0, 1, full=True) for f in (ts.qk_circuit, ts.ov_circuit))
    assert max(p.numel() for m in (qk, ov) for p in m.parameters()) == 2*V*2
    assert max(x.numel() for t in ov[1].terms() for x in (t.out, t.open.weight)) == 2*V
    stream = ts.stream_law(law, h)
    assert float(ts.norm(qk, ts.pair_law(law))) == pytest.approx(float(ts.norm(ts.qk_circuit(h, 0, 1), ts.pair_law(stream))), rel=1e-6)
    assert float(ts.norm(ov, law))**2 == pytest.approx(ts.compare_heads(h, law).inner['OV'][1, 1], rel=1e-6)


def test_slices_differences_and_grams_work_on_circuits(boot, tmp_path):
    model = boot(3)
    a, b = ts.ov_circuit(model, 0, 0), ts.ov_circuit(model, 0, 1)
    M, N = a.matrix().detach(), b.matrix().detach()
    assert float(ts.distance(a, b)) == pytest.approx(float((M - N).norm()), rel=1e-12)
    assert float(ts.norm(.5*a - 2*b)) == pytest.approx(float((.5*M - 2*N).norm()), rel=1e-12)
    assert float(ts.norm(ts.slice_outputs(a, [1, 5]))) == pytest.approx(float(M[:, [1, 5]].norm()), rel=1e-12)
    assert ts.attribute(a, b, by='output').total == pytest.approx(float((M*N).sum()), rel=1e-10)
    q, k = ts.qk_circuit(model, 0, 0), ts.qk_circuit(model, 1, 1)
    assert float(ts.distance(q, k)) == pytest.approx(float((q.matrix() - k.matrix()).norm()), rel=1e-12)
    np.testing.assert_allclose(ts.gram([q, k, q - k]).inner[0, 2], float((q.matrix()*(q.matrix() - k.matrix())).sum()), rtol=1e-10)
    ts.save(q, tmp_path/'q.safetensors')
    assert float(ts.similarity(ts.load(tmp_path/'q.safetensors'), q)) == pytest.approx(1, abs=1e-12)
    back = from_factored(q.to_factored(), 'QK')
    assert torch.equal(back.matrix(), q.matrix())


def test_composition_is_that_of_transformer_lens(boot):
    model = boot(4, n_layers=3)
    for kind in 'QKV': torch.testing.assert_close(ts.composition_scores(model, kind), model.all_composition_scores(kind).scores.detach(), rtol=0, atol=1e-6)
    M = ts.ov_circuit(model, 0, 1).matrix() @ ts.ov_circuit(model, 1, 0).matrix() @ ts.ov_circuit(model, 2, 1).matrix()
    torch.testing.assert_close(ts.virtual_head(model, [(0, 1), (1, 0), (2, 1)]).matrix(), M)
    full = ts.compose(model, (0, 1), (2, 0), 'K', full=True)
    assert full.d_in == 22 and full[0].left.weight.shape == (4, 22)


# ---- all heads --------------------------------------------------------------------------------

@pytest.mark.parametrize('norm, positions, full', [(None, 'standard', True), ('LN', 'standard', True), ('RMS', 'rotary', False), ('LN', 'rotary', True)])
def test_every_pair_of_heads_against_the_circuits_themselves(boot, norm, positions, full):
    models = [boot(s, norm, positions, n_heads=h) for s, h in ((5, 2), (6, 3))]
    law, offsets = (token_law(11) if full else ts.Gaussian(torch.randn(8), torch.rand(8) + .1)), (0, 2) if positions == 'rotary' else (0,)
    table = ts.compare_heads(models, law, full=full, offsets=offsets)
    assert len(table) == 10 and table.labels[4] == 'b.L0H0'
    qk = [[ts.qk_circuit(models[m], l, k, full=full, offset=o) for m, l, k in table.heads] for o in offsets]
    want = np.mean([ts.gram(one, ts.pair_law(law)).inner for one in qk], axis=0)
    np.testing.assert_allclose(table.inner['QK'], want, atol=1e-10*np.abs(want).max())
    want = ts.gram([ts.ov_circuit(models[m], l, k, full=full) for m, l, k in table.heads], law).inner
    np.testing.assert_allclose(table.inner['OV'], want, atol=1e-10*np.abs(want).max())


@pytest.mark.parametrize('seed', range(3))
def test_matching_undoes_gauges_permutations_and_turns_of_the_stream(seed):
    torch.manual_seed(seed)
    h = read_heads(ts.transformer(15, 9, 3, 4, 2, kind='linear', rotary=False).double())
    G = torch.randn(2, 3, 3, 3, dtype=f64) + 2*torch.eye(3)
    T = torch.linalg.qr(torch.randn(9, 9, dtype=f64))[0]
    order = [torch.randperm(3) for _ in range(2)]
    mix = lambda W: torch.stack([w[o] for w, o in zip(W, order)])
    back = torch.linalg.inv(G)
    twin = replace(h, Q=mix((T.T @ h.Q @ G)[0])[None], K=mix((T.T @ h.K @ back.mT)[0])[None], V=mix(T.T @ h.V @ G), O=mix(back @ h.O @ T), E=h.E @ T, U=T.T @ h.U)
    for kind in ('QK', 'OV', 'both'):
        found = ts.compare_heads([h, twin], token_law(15, seed)).match(kind=kind)
        np.testing.assert_allclose(found.similarity, 1, atol=1e-9)
        assert [(j - 6) % 3 for _, j in found.index.tolist()] == [int((order[i//3] == i % 3).nonzero()) for i in range(6)]
    scrambled = replace(twin, Q=twin.Q @ G[0, 0])   # control: the query alone is turned
    assert ts.compare_heads([h, scrambled]).match(kind='QK').mean < .99


def test_both_ways_to_compute_a_block_and_single_precision():
    torch.manual_seed(1)
    A, B, C, D = torch.randn(5, 12, 3), torch.randn(5, 3, 12), torch.randn(4, 12, 3), torch.randn(4, 3, 12)
    want = torch.einsum('aij,bij->ab', (A @ B).double(), (C @ D).double())
    for path in (None, 'multiplied', 'factored'):
        for memory in (1, 5000, 1 << 28): torch.testing.assert_close(circuits_inner(A, B, C, D, path=path, memory=memory).double(), want, rtol=0, atol=1e-3)
    model = ts.transformer(9, 8, 2, 4, 2)
    exact, single = (ts.compare_heads(model, dtype=t) for t in (f64, torch.float32))
    np.testing.assert_allclose(single.similarity(), exact.similarity(), atol=1e-5)


def test_heads_that_are_zero_are_said():
    model = ts.transformer(9, 8, 2, 4, 1, kind='linear')
    with torch.no_grad(): model[1].o.weight[:, :4] = 0
    table = ts.compare_heads(model)
    with pytest.raises(ValueError, match='L0H0'): table.similarity('OV')
    assert table.similarity('OV', zero=0.)[0].tolist() == [0, 0] and table.match(0, 0).similarity.min() == 0


# ---- networks as polynomials ------------------------------------------------------------------

@pytest.mark.parametrize('dtype, limit', [(torch.float32, 1e-6), (f64, 1e-12)])
@pytest.mark.parametrize('positions', ['standard', 'rotary'])
def test_gated_identity_networks_become_models_exactly(boot, dtype, limit, positions):
    model = boot(7, positions=positions, dtype=dtype, act=nn.Identity(), attn_only=False, gated_mlp=True, d_mlp=10)
    with torch.no_grad():
        for p in model.original_model.parameters(): p *= .7   # logits of order one
    made = ts.from_transformer_lens(model)
    ids = torch.arange(11)
    got, want = made(ids), model(ids[:, None])[:, 0]
    assert made.parity.exact and made.parity.error <= limit and (got - want).abs().max() <= limit
    assert got.dtype == dtype and want.abs().max() > .05
    if positions == 'rotary':   # attention that writes nothing: sequences of any length
        with torch.no_grad():
            for b in model.blocks: b.attn.o.weight.zero_(), b.attn.o.bias.zero_()
        seq = torch.randint(11, (3, 6))
        assert (ts.from_transformer_lens(model)(seq) - model(seq)).abs().max() <= limit


def test_what_is_no_polynomial_is_refused_or_stated(boot):
    swiglu, relu = boot(attn_only=False, gated_mlp=True, act_fn='silu', d_mlp=10), boot(attn_only=False, act_fn='relu', d_mlp=10)
    for model in (swiglu, relu):
        with pytest.raises(NotImplementedError, match='is no polynomial'): ts.from_transformer_lens(model)
    with pytest.raises(NotImplementedError, match='divides by a length'): ts.from_transformer_lens(boot(norm='RMS'))
    law = token_law(11)
    for model in (swiglu, relu):
        made = ts.from_transformer_lens(model, surrogate=law)
        with torch.no_grad(): theirs, ours = model(torch.arange(11)[:, None])[:, 0], made(torch.arange(11))
        error = ((law.probs[:, None]*(theirs - ours)**2).sum()/(law.probs[:, None]*theirs**2).sum()).sqrt()
        assert made.parity.error == pytest.approx(float(error)) and not made.parity.exact
        assert 0 < made.parity.error < .5 and all(s.worst > 0 for s in made.parity.layers)


def test_surrogates_are_the_best_of_their_degree():
    torch.manual_seed(0)
    W, law = torch.randn(5, 7, dtype=f64), ts.Gaussian(torch.randn(5), torch.rand(5) + .5)
    made = ts.hermite_mlp(W, torch.eye(7, dtype=f64), torch.relu, law, b_in=torch.randn(7, dtype=f64))
    x = law.sample(200_000, 5)
    u = made.layer.left(x).detach()   # the pre-activations themselves
    y = torch.relu(u)
    fitted = torch.stack([torch.ones_like(u), u, u*u], -1).permute(1, 0, 2)
    best = torch.linalg.lstsq(fitted, y.T[..., None]).solution
    left = ((fitted @ best)[..., 0].T - y).square().mean(0)/y.square().mean(0)
    torch.testing.assert_close(made.unit_error, left, rtol=0, atol=2e-3)
    torch.testing.assert_close(made.layer(x).detach(), (fitted @ best)[..., 0].T, rtol=0, atol=.05*float(y.abs().mean())*10)


# ---- state dicts ------------------------------------------------------------------------------

NAMES = {'left right down': {}, 'l r d': dict(left='l', right='r', down='d'), 'w_l w_r w_p': dict(left='w_l', right='w_r', down='w_p')}


def renamed(model, names):
    return {'.'.join(['blocks', i, *(names.get(r, r) for r in rest)]): v for k, v in model.state_dict().items() for i, *rest in [k.split('.')]}


@pytest.mark.parametrize('preset', NAMES)
@pytest.mark.parametrize('bias', [False, True])
def test_presets(preset, bias):
    model = ts.deep_mlp(5, 6, 7, 3, 11, bias=bias, residual=.5)   # eleven layers: blocks.10 after blocks.2
    state = dict(sorted(renamed(model, NAMES[preset]).items()))
    for given in (preset, None, [preset]): assert torch.equal(ts.from_state_dict(state, given, residual=.5)(torch.ones(2, 5)), model(torch.ones(2, 5)))
    with pytest.raises(ValueError, match='residual=0. or residual=1.'): ts.from_state_dict(state, preset)


@pytest.mark.parametrize('ends', [('w_lr', 'w_p'), ('lr', 'd'), ('w', 'p'), ('packed', 'down')])
def test_packed(ends):
    mlp = ts.BilinearMLP(4, 3, 2, bias=True)
    part = lambda n: {'weight': getattr(mlp, n).weight, 'bias': getattr(mlp, n).bias}
    state = {f'x.1.{ends[0]}.{k}': torch.cat([part('left')[k], part('right')[k]]) for k in ('weight', 'bias')} | {f'x.1.{ends[1]}.{k}': v for k, v in part('down').items()}
    x = torch.randn(6, 4)
    assert torch.equal(ts.from_state_dict(state)(x), mlp(x)) and torch.equal(ts.from_state_dict(state, 'packed')(x), mlp(x))
    flipped = {k: torch.cat(v.chunk(2)[::-1]) if ends[0] in k.split('.') else v for k, v in state.items()}
    torch.testing.assert_close(ts.from_state_dict(flipped)(x), mlp(x))   # left and right may be exchanged
    assert not torch.allclose(ts.from_state_dict({k: v.roll(1, 0) if k.endswith(f'{ends[0]}.weight') else v for k, v in state.items()})(x), mlp(x))   # control


@pytest.mark.parametrize('kind', ['bilinear', 'quadratic', 'linear'])
def test_attention_from_elsewhere_and_back(kind, tmp_path):
    model = ts.transformer(6, 8, 2, 4, 2, d_hidden=5, bias=True, kind=kind, mask='none', rotary=False, scale=.5)
    state = renamed(model, {} if kind == 'bilinear' else dict(q1='q', k1='k'))
    load = partial(ts.from_state_dict, n_head=2, n_ctx=4, residual=1., mask='none', rotary=False, scale=.5, kind=None if kind == 'bilinear' else kind)
    ids = torch.randint(6, (3, 4))
    assert torch.equal(load(state)(ids), model(ids))
    ts.save(load(state), tmp_path/'m.safetensors')
    assert torch.equal(ts.load(tmp_path/'m.safetensors')(ids), model(ids))
    assert not torch.equal(load(state, rotary=True)(ids), model(ids))   # control: what the state does not hold matters
    assert set(PRESETS) >= {'q1 k1 q2 k2 v o', 'packed', *NAMES}


# ---- hooks and imports ------------------------------------------------------------------------

@pytest.mark.parametrize('dtype', [torch.float32, f64])
@pytest.mark.parametrize('kind', ['bilinear', 'quadratic', 'linear'])
def test_hooked_models_compute_the_same_bits(dtype, kind):
    model = ts.transformer(7, 8, 2, 5, 2, d_hidden=6, bias=True, kind=kind, residual=.5, scale=.7).to(dtype)
    seen, ids = ts.hooked(model), torch.randint(7, (3, 5))
    out, cache = seen.run_with_cache(ids)
    assert torch.equal(out, model(ids)) and torch.equal(seen(ids), model(ids))
    inside = 'q1 k1 q2 k2 v scores1 scores2 pattern z resid_pre resid_post out'.split()
    want = {f'layers.1.hook_{n}' for n in inside if kind == 'bilinear' or n not in ('q2', 'k2') and (n != 'scores2' or kind == 'quadratic')}
    assert {n for n in cache if n.startswith('layers.1.')} == want
    assert {n for n in cache if n.startswith('layers.2.')} == {f'layers.2.hook_{n}' for n in 'left right hidden out resid_pre resid_post'.split()}
    pattern = torch.ones(5, 5).tril().to(dtype)
    for n in ('scores1', 'scores2'): pattern = pattern*cache[f'layers.1.hook_{n}']/4 if f'layers.1.hook_{n}' in cache else pattern
    assert torch.equal(pattern, cache['layers.1.hook_pattern'])


def test_patching_every_name_changes_what_comes_after():
    torch.manual_seed(2)
    model = ts.transformer(7, 8, 2, 5, 1, d_hidden=6).double()
    seen, a, b = ts.hooked(model), torch.randint(7, (2, 5)), torch.randint(7, (2, 5))
    _, cache = seen.run_with_cache(b)
    for name in seen.hook_dict:
        if name == 'layers.0.hook_resid_pre': continue   # the ids themselves
        got = seen.run_with_hooks(a, fwd_hooks=[(name, lambda value, hook, name=name: cache[name])])
        assert not torch.equal(got, model(a)), name
        if name.endswith('resid_post'): assert torch.equal(got, model(b)), name
    assert torch.equal(seen(a), model(a))


def test_transformer_lens_is_imported_only_where_it_is_needed():
    code = """
import sys, tensorsim_nb as ts, tensorsim_nb.lens, tensorsim_nb.hooks, tensorsim_nb.polynomials, tensorsim_nb.state_dicts
m = ts.transformer(6, 4, 2, 3, 1, kind='linear')
ts.compare_heads(m), ts.qk_circuit(m, 0, 0), ts.from_state_dict(ts.classifier(3, 2, 2).state_dict())
print('transformer_lens' in sys.modules)
sys.modules['transformer_lens'] = None # as if it were not installed
try: ts.hooked(m)
except ImportError as e: print('[lens]' in str(e))"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout.split() == ['False', 'True'], done.stdout + done.stderr
