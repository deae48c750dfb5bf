"""From which context on attention to chosen keys is faster than attention to all: times of the project's own kernels, by context.

    PEERS_DIR=… MLA_OURS_LIBS=… python3 benches/crossover.py      # on a GPU: writes $OUT/crossover.json
    python3 benches/crossover.py --plot FILE.json FILE.svg        # anywhere

DeepSeek dimensions, 128 heads, 2048 chosen keys, caches in bf16 with an index cache in fp8. Dense: absorbed decode; prefill of 4096 new tokens in the
expanded form, its up projection included. Sparse: an indexer's logits, the choice, attention to chosen keys. Projections of queries are in neither.

The plot has what was measured as marks, and what a device that reads 4.39 TB/s and multiplies 680 TFLOP/s in bf16 and 1250 in fp8 takes at least as lines.
"""
import json
import os
import sys

CONTEXTS = [2048, 4096, 8192, 16384, 32768, 65536, 131072]
HEADS, LATENT, WIDTH, TOPK, BATCH, NEW = 128, 512, 576, 2048, 32, 4096
READ, BF16_RATE, FP8_RATE = 4.39e12, 680e12, 1250e12


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
                                                k_rope=new[:, LATENT:].contiguous(), w_kv=randn(LATENT, HEADS * 256), scale=attn.SCALE)),
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
  text { font: 13px sans-serif; fill: #222 } .title { font-weight: bold } .axis { stroke: #888; fill: none } .grid { stroke: #ddd }
  .dense { stroke: #b5472f; fill: #b5472f } .sparse { stroke: #2a6f97; fill: #2a6f97 } .part { stroke: #2a6f97; stroke-opacity: .45; fill: none }
  .floor { stroke-dasharray: 5 4; fill: none; stroke-width: 1.5 } .seen { fill: none; stroke-width: 2 } text.dense, text.sparse { stroke: none }
  @media (prefers-color-scheme: dark) { svg { background: #181818 } text { fill: #ddd } .grid { stroke: #333 } .dense { stroke: #f08a6c; fill: #f08a6c }
    .sparse { stroke: #78b7dd; fill: #78b7dd } .part { stroke: #78b7dd } .floor, .seen { fill: none } text.dense, text.sparse { stroke: none } }
"""


def sparse_of(parts):
    return sum(s for part, s in parts.items() if part != "dense")


def crossing(of, contexts):
    """The least context from which on sparse is no slower, between measured ones by powers."""
    import math
    gaps = [(c, math.log(of(c)["dense"] / sparse_of(of(c)))) for c in contexts]
    for (c0, g0), (c1, g1) in zip(gaps, gaps[1:]):
        if g0 < 0 <= g1:
            return c0 * (c1 / c0) ** (-g0 / (g1 - g0))
    return contexts[0] if gaps[0][1] >= 0 else None


def panel(found, kind, x0):
    import math
    contexts = sorted(map(int, found))
    seen = lambda c: found[str(c)] if str(c) in found else found[c]
    least = lambda c: floors(kind, c)
    all_times = [s for c in contexts for of in (seen, least) for s in (of(c)["dense"], sparse_of(of(c)))]
    low, high = math.floor(math.log10(min(all_times))), math.ceil(math.log10(max(all_times)))
    x = lambda c: x0 + LEFT + (PANEL - LEFT - 20) * (math.log2(c) - math.log2(contexts[0])) / (math.log2(contexts[-1]) - math.log2(contexts[0]))
    y = lambda s: TOP + HIGH - HIGH * (math.log10(s) - low) / (high - low)
    out = []
    what = f"decode, {BATCH} requests" if kind == "decode" else f"prefill, {NEW} new tokens"
    out.append(f'<text class="title" x="{x0 + LEFT}" y="{TOP - 22}">{what}</text>')
    for power in range(low, high + 1):
        s = 10.0 ** power
        name = f"{s * 1e6:g} µs" if s < 1e-3 else f"{s * 1e3:g} ms"
        out.append(f'<line class="grid" x1="{x0 + LEFT}" x2="{x0 + PANEL - 20}" y1="{y(s):.1f}" y2="{y(s):.1f}"/><text text-anchor="end" x="{x0 + LEFT - 6}" y="{y(s) + 4:.1f}">{name}</text>')
    for c in contexts:
        out.append(f'<text text-anchor="middle" x="{x(c):.1f}" y="{TOP + HIGH + 18}">{c // 1024}k</text>')
    for name, value in (("dense", lambda parts: parts["dense"]), ("sparse", sparse_of)):
        line = lambda of: " ".join(f"{x(c):.1f},{y(value(of(c))):.1f}" for c in contexts)
        out.append(f'<polyline class="{name} floor" points="{line(least)}"/><polyline class="{name} seen" points="{line(seen)}"/>')
        out += [f'<circle class="{name}" cx="{x(c):.1f}" cy="{y(value(seen(c))):.1f}" r="3"/>' for c in contexts]
        last = value(seen(contexts[-1]))
        out.append(f'<text class="{name}" text-anchor="end" x="{x0 + PANEL - 24}" y="{y(last) - 8:.1f}">{name}</text>')
    both = [crossing(least, contexts), crossing(seen, contexts)]
    words = [f"{c / 1024:.1f}k" if c else "nowhere" for c in both]
    out.append(f'<text x="{x0 + LEFT}" y="{TOP + HIGH + 40}">sparse wins from {words[0]} on by the floors, {words[1]} measured</text>')
    return out


def plot(source, target):
    with open(source) as f:
        found = json.load(f)
    body = panel(found["decode"], "decode", 0) + panel(found["prefill"], "prefill", PANEL + 20)
    wide, tall = 2 * PANEL + 20, TOP + HIGH + 56
    with open(target, "w") as f:
        f.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" role="img" aria-label="Time of dense and sparse attention by context">\n<style>{STYLE}</style>\n')
        f.write("\n".join(body) + "\n</svg>\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plot"]:
        plot(*sys.argv[2:])
    else:
        measured()
