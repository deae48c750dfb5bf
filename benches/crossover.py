"""From which context on attention to chosen keys is faster than attention to all: times of the project's own kernels, by context.

    PEERS_DIR=… MLA_OURS_LIBS=… python3 benches/crossover.py      # on a GPU: writes $OUT/crossover.json
    python3 benches/crossover.py --plot FILE.json FILE.svg        # anywhere

DeepSeek dimensions, 128 heads, 2048 chosen keys, caches in bf16 with an index cache in fp8. Dense: absorbed decode; prefill of 4096 new tokens in the
expanded form, its up projection included. Sparse: an indexer's logits, the choice, attention to chosen keys. Projections of queries are in neither.

The plot has what was measured as marks, and what a device that reads 4.39 TB/s and multiplies 680 TFLOP/s in bf16 and 1250 in fp8 takes at least as lines.
"""
import functools
import json
import math
import os
import sys

CONTEXTS = [2048, 4096, 8192, 16384, 32768, 65536, 131072]
HEADS, LATENT, WIDTH, TOPK, BATCH, NEW = 128, 512, 576, 2048, 32, 4096
READ, BF16_RATE, FP8_RATE = 4.39e12, 680e12, 1250e12
SPARSE = ("logits", "choice", "attention")


def seconds_at_least(nbytes, flops, rate=BF16_RATE):
    return max(nbytes / READ, flops / rate)


def floors(kind, context):
    """{part: seconds at least}."""
    chosen = min(context, TOPK)
    if kind == "decode":
        return {
            "dense": seconds_at_least(BATCH * context * WIDTH * 2, BATCH * HEADS * context * (WIDTH + LATENT) * 2),
            "logits": seconds_at_least(BATCH * context * 136, BATCH * context * 64 * 128 * 2, FP8_RATE),
            "choice": seconds_at_least(BATCH * context * 4, 0),
            "attention": seconds_at_least(BATCH * chosen * WIDTH * 2, BATCH * HEADS * chosen * (WIDTH + LATENT) * 2),
        }
    pairs = NEW * (context - NEW) + NEW * (NEW + 1) // 2
    return {
        "dense": seconds_at_least(0, HEADS * pairs * 320 * 2 + context * LATENT * HEADS * 256 * 2),
        "logits": seconds_at_least(pairs * 4, pairs * 64 * 128 * 2, FP8_RATE),
        "choice": seconds_at_least(pairs * 4, 0),
        "attention": seconds_at_least(0, NEW * HEADS * chosen * (WIDTH + LATENT) * 2),
    }


def measured():
    sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers"), os.path.dirname(os.path.abspath(__file__))]
    import harness  # noqa: F401, which finds the harness's modules
    import torch

    import attn
    import common
    import ours
    from common import dev, randn

    def timed(calls):
        (fns,) = calls.values()
        fns = fns if isinstance(fns, list) else [fns]
        return common.seconds(fns, budget=0.08)

    def codes(x):
        scale = x.abs().amax(-1).float().clamp_min(1e-4) / 448
        return (x / scale[..., None]).to(torch.float8_e4m3fn), scale

    def decode(context):
        pages = BATCH * context // 64
        table = torch.randperm(pages, device=dev, dtype=torch.int32).view(BATCH, -1)
        lens = torch.full((BATCH,), context, device=dev, dtype=torch.int32)
        cache, q = randn(pages, 64, 1, WIDTH), randn(BATCH, 1, HEADS, WIDTH)
        k, scale = codes(randn(pages, 64, 128))
        index = torch.cat([k.view(torch.uint8).view(pages, -1), scale.view(torch.uint8).view(pages, -1)], 1).view(pages, 64, 1, 132)
        scores = torch.randn(BATCH, context, device=dev)
        width = min(context, TOPK)
        at = torch.rand(BATCH, context, device=dev).topk(width, sorted=False)[1].sort(-1)[0]
        slots = (table.gather(1, at // 64) * 64 + at % 64).int().view(BATCH, 1, width)
        return {
            "dense": timed(ours.dense_decode(q=q, caches=[cache], table=table, lens=lens, scale=attn.SCALE, causal=False)),
            "logits": timed(ours.paged_mqa_logits(q=randn(BATCH, 1, 64, 128).to(torch.float8_e4m3fn), cache=index, weights=torch.randn(BATCH, 64, device=dev),
                                                  lens=lens[:, None], table=table)),
            "choice": timed(ours.topk(logits=[scores], ends=lens, k=width)),
            "attention": timed(ours.sparse_decode_bf16(q=q, cache=cache, indices=[slots], scale=attn.SCALE)),
        }

    def prefill(context):
        cached = context - NEW
        end = torch.arange(cached + 1, context + 1, device=dev, dtype=torch.int32)
        pages = context // 64
        cache = randn(pages, 64, WIDTH)
        table = torch.randperm(pages, device=dev, dtype=torch.int32)
        new = cache[table.long()].view(-1, WIDTH)[cached:]
        k, scale = codes(randn(context, 128))
        chosen = torch.empty(NEW, 1, TOPK, device=dev, dtype=torch.int32)
        for i in range(0, NEW, 512):
            drawn = torch.rand(512, context, device=dev).masked_fill_(torch.arange(context, device=dev) >= end[i:i + 512, None], -1)
            chosen[i:i + 512, 0] = drawn.topk(TOPK)[1].sort(-1)[0].int()
        del drawn
        scores = torch.randn(NEW, context, device=dev)
        return {
            "dense": timed(ours.chunked_prefill(q=randn(NEW, HEADS, 192), cache=cache, table=table, cached=cached, latents=new[:, :LATENT].contiguous(),
                                                k_rope=new[:, LATENT:].contiguous(), w_kv=randn(LATENT, HEADS * 256) * LATENT ** -0.5, scale=attn.SCALE)),
            "logits": timed(ours.mqa_logits(q=randn(NEW, 64, 128).to(torch.float8_e4m3fn), k=k, k_scale=scale, weights=torch.randn(NEW, 64, device=dev),
                                            start=torch.zeros_like(end), end=end)),
            "choice": timed(ours.topk(logits=[scores], ends=end, k=TOPK)),
            "attention": timed(ours.sparse_prefill(q=randn(NEW, HEADS, WIDTH), kv=cache.view(-1, 1, WIDTH), indices=chosen, scale=attn.SCALE)),
        }

    found = {"decode": {}, "prefill": {}}
    for context in CONTEXTS:
        for kind, run in (("decode", decode), ("prefill", prefill)):
            if kind == "prefill" and context < 2 * NEW:
                continue
            try:
                found[kind][context] = run(context)
            except Exception as error:
                print(kind, context, repr(error)[:300], flush=True)
                continue
            print(kind, context, {part: round(1e6 * s, 1) for part, s in found[kind][context].items()}, flush=True)
            torch.cuda.empty_cache()
    with open(os.path.join(os.environ.get("OUT", "."), "crossover.json"), "w") as f:
        json.dump(found, f, indent=1)


# ---- The plot: two panels, both axes by powers, readable in light and dark ----

PANEL, LEFT, TOP, HIGH = 380, 70, 50, 300
STYLE = """
  text { font: 13px sans-serif; fill: #222 } .title { font-weight: bold } .grid { stroke: #ddd }
  .dense { stroke: #b5472f; fill: #b5472f } .sparse { stroke: #2a6f97; fill: #2a6f97 }
  .floor { stroke-dasharray: 5 4; fill: none; stroke-width: 1.5 } .seen { fill: none; stroke-width: 2 } text.dense, text.sparse { stroke: none }
  @media (prefers-color-scheme: dark) { svg { background: #181818 } text { fill: #ddd } .grid { stroke: #333 } .dense { stroke: #f08a6c; fill: #f08a6c }
    .sparse { stroke: #78b7dd; fill: #78b7dd } .floor, .seen { fill: none } text.dense, text.sparse { stroke: none } }
"""


def dense_of(parts):
    return parts.get("dense")


def sparse_of(parts):
    """All parts together; None where one was not measured."""
    return sum(parts[part] for part in SPARSE) if all(part in parts for part in SPARSE) else None


def points(of, contexts, value):
    return [(c, value(of(c))) for c in contexts if value(of(c)) is not None]


def crossing(of, contexts):
    """The context from which on sparse is no slower, between two by powers; None where it is not among these."""
    both = [c for c in contexts if dense_of(of(c)) is not None and sparse_of(of(c)) is not None]
    gaps = [(c, math.log(dense_of(of(c)) / sparse_of(of(c)))) for c in both]
    for (c0, g0), (c1, g1) in zip(gaps, gaps[1:]):
        if g0 < 0 <= g1:
            return c0 * (c1 / c0) ** (-g0 / (g1 - g0))
    return None


def panel(found, kind, x0):
    contexts = sorted(map(int, found))
    of_kind = functools.partial(floors, kind)
    lines = {(name, way): points(of, contexts, value) for way, of in (("floor", of_kind), ("seen", lambda c: found[str(c)]))
             for name, value in (("dense", dense_of), ("sparse", sparse_of))}
    times = [s for line in lines.values() for _, s in line]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))

    def x(context):
        first, last = math.log2(contexts[0]), math.log2(contexts[-1])
        return x0 + LEFT + (PANEL - LEFT - 20) * (math.log2(context) - first) / (last - first)

    def y(s):
        return TOP + HIGH - HIGH * (math.log10(s) - low) / (high - low)
    what = f"decode, {BATCH} requests" if kind == "decode" else f"prefill, {NEW} new tokens"
    out = [f'<text class="title" x="{x0 + LEFT}" y="{TOP - 22}">{what}</text>']
    for power in range(low, high + 1):
        s = 10.0 ** power
        name = f"{s * 1e6:g} µs" if s < 1e-3 else f"{s * 1e3:g} ms"
        out.append(f'<line class="grid" x1="{x0 + LEFT}" x2="{x0 + PANEL - 20}" y1="{y(s):.1f}" y2="{y(s):.1f}"/>')
        out.append(f'<text text-anchor="end" x="{x0 + LEFT - 6}" y="{y(s) + 4:.1f}">{name}</text>')
    for c in contexts:
        if c & (c - 1) == 0:
            out.append(f'<text text-anchor="middle" x="{x(c):.1f}" y="{TOP + HIGH + 18}">{c // 1024}k</text>')
    for (name, way), line in lines.items():
        out.append(f'<polyline class="{name} {way}" points="{" ".join(f"{x(c):.1f},{y(s):.1f}" for c, s in line)}"/>')
        if way == "seen":
            out += [f'<circle class="{name}" cx="{x(c):.1f}" cy="{y(s):.1f}" r="3"/>' for c, s in line]
            c, s = line[-1]
            out.append(f'<text class="{name}" text-anchor="end" x="{x(c) - 6:.1f}" y="{y(s) - 8:.1f}">{name}</text>')
    words = [f"{c / 1024:.1f}k" if c else None for c in (crossing(of_kind, contexts), crossing(lambda c: found[str(c)], contexts))]
    if words[0]:
        said = f"sparse wins from {words[0]} on by the floors" + (f", from {words[1]} measured" if words[1] else "")
        out.append(f'<text x="{x0 + LEFT}" y="{TOP + HIGH + 40}">{said}</text>')
    return out


def plot(source, target):
    with open(source) as f:
        found = json.load(f)
    body = panel(found["decode"], "decode", 0) + panel(found["prefill"], "prefill", PANEL + 20)
    wide, tall = 2 * PANEL + 20, TOP + HIGH + 56
    with open(target, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" role="img" aria-label="Time of dense and sparse attention by context">\n')
        f.write(f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plot"]:
        plot(*sys.argv[2:])
    else:
        measured()
