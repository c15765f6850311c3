"""All heads against all heads of two random GPT-2-sized models (12 layers x 12 heads, d_model 768, vocabulary 50257), and parity.

    python benchmarks/lens.py            # prints a table: seconds (wall and processor), peak memory, parity figures
    python benchmarks/lens.py --threads 1 --dtype float32
"""
import argparse, os, platform, resource, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 1024)/2**30


def row(name, wall, cpu, note=''): print(f'{name:58} {wall:8.1f} s wall {cpu:8.1f} s cpu {peak():6.2f} GiB peak  {note}', flush=True)


def timed(name, f, note=lambda x: ''):
    wall, cpu = time.perf_counter(), time.process_time()
    x = f()
    row(name, time.perf_counter() - wall, time.process_time() - cpu, note(x))
    return x


def build(seed):
    "A random GPT-2 of attention layers, in float32, through TransformerLens."
    from transformer_lens import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources import native
    return native.boot(TransformerBridgeConfig(d_model=768, d_head=64, n_heads=12, n_layers=12, n_ctx=64, d_vocab=50257, attn_only=True,
                                               normalization_type='LN', seed=seed))


def parity():
    "Largest difference of logits, and bits of a hooked model."
    import torch
    import tensorsim_nb as ts
    from transformer_lens import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources import native
    for dtype in (torch.float32, torch.float64):
        model = native.boot(TransformerBridgeConfig(d_model=64, d_head=16, n_heads=4, n_layers=4, n_ctx=8, d_vocab=500, d_mlp=256, gated_mlp=True,
                                                    normalization_type=None, seed=0), dtype=dtype)
        for block in model.blocks: block.mlp.original_component.act = torch.nn.Identity()
        made = ts.from_transformer_lens(model)
        ids = torch.arange(500)
        with torch.no_grad(): gap, size = (made(ids) - model(ids[:, None])[:, 0]).abs().max(), made(ids).abs().max()
        print(f'gated identity network -> Model, {str(dtype)[6:]}: logits differ by {float(gap):.2g} at most (they reach {float(size):.2g})')
    ours, ids = ts.transformer(50, 32, 4, 16, 3, d_hidden=64, bias=True), torch.randint(50, (8, 16))
    print('hooked model gives the same bits:', torch.equal(ts.hooked(ours)(ids), ours(ids)))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--dtype', default='float64', choices=['float32', 'float64'])
    a = p.parse_args()
    import torch
    import tensorsim_nb as ts
    torch.set_num_threads(a.threads)
    print(f'torch {torch.__version__}, {a.threads} threads of {os.cpu_count()}, load {os.getloadavg()[0]:.1f}, {platform.machine()}')
    parity()
    models = timed('two models (TransformerLens imported)', lambda: [build(0), build(1)])
    unigrams = 1/torch.arange(1., 50258, dtype=torch.float64)                            # Zipf
    law, dtype = ts.Tokens(unigrams/unigrams.sum()), getattr(torch, a.dtype)
    best = lambda t: f'best match QK {t.match(kind="QK").similarity.max():.3f}, OV {t.match(kind="OV").similarity.max():.3f}'
    timed(f'288 x 288 heads, full QK and OV, tokens, {a.dtype}', lambda: ts.compare_heads(models, law, dtype=dtype), best)
    timed(f'288 x 288 heads, in the stream, isotropic, {a.dtype}', lambda: ts.compare_heads(models, full=False, dtype=dtype), best)
    pair = ts.pair_law(law)
    qk = [ts.qk_circuit(m, 0, 0, full=True) for m in models]
    timed('one pair of full QK circuits as models', lambda: ts.similarity(*qk, pair), lambda e: repr(e))
    ov = [ts.ov_circuit(m, 0, 0, full=True) for m in models]
    timed('one pair of full OV circuits as models', lambda: ts.similarity(*ov, law), lambda e: repr(e))


if __name__ == '__main__': main()
