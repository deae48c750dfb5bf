"""What public kernels do on workloads of sparse attention that the peers' harness leaves out.

    PEERS_STAGE=S python3 PEERS_DIR/run.py 0                 # unpacks the peers into $PEERS_SITE, and measures the ceilings
    PEERS_DIR=… python3 benches/peers/sparse.py [1 2 3]      # those sections, all if none; writes $OUT/sparse.json and prints a table

Sections: 1, decode of 16 heads over 2048 chosen tokens of a cache, in bf16 and in 656-byte entries; 2, prefill of 16 heads over entries of 656 bytes;
3, top-k: what a row must be to be right, rows with many equal scores, and rows of 128k and 1M.

FlashMLA's kernels take 64 or 128 heads: 16 are padded to 64 there, and the padding is not counted as work.

Every top-k row is checked for the exact set of scores, and its note says what else holds: whether equal scores are chosen from the lowest position
on ('lowest ties'), and whether 20 runs give the same bytes ('same bytes') or at least the same set ('same set').

Hooks: `ours.py` on PYTHONPATH may define `sparse_decode_bf16`, `sparse_decode_fp8`, `sparse_prefill_fp8` and `topk`, which take what is named at their
calls below.
"""
import functools
import sys

from harness import hooked, measure  # first: it finds the harness's modules

import torch

import attn
import rest
from common import BF16, dev, randn, rel

LATENT, WIDTH, BYTES, TOPK = 512, 576, 656, 2048
HEADS, PADDED = 16, 64


def padded(q):
    """Queries of as many heads as FlashMLA takes."""
    whole = q.new_zeros(*q.shape[:-2], PADDED, WIDTH)
    whole[..., :q.shape[-2], :] = q
    return whole


def chosen_of(table, tokens, requests):
    """Slots of tokens chosen at random, in random order, for each request."""
    positions = torch.rand(requests, tokens, device=dev).topk(TOPK, sorted=False)[1]
    return (table.gather(1, positions // 64) * 64 + positions % 64).int().view(requests, 1, TOPK)


def decode(c):
    fm, fa3, fi = attn.maybe(attn.flashmla), attn.maybe(attn.fa3_op), attn.maybe(attn.flashinfer)
    b, ctx = 128, 32768
    kv = randn(b * ctx // 64, 64, 1, WIDTH)
    kv8 = attn.pack656(kv)
    table = torch.randperm(b * ctx // 64, device=dev, dtype=torch.int32).view(b, -1)
    q = randn(b, 1, HEADS, WIDTH)
    wide = padded(q)
    slots = [chosen_of(table, ctx, b) for _ in range(2)]
    io = b * HEADS * (WIDTH + LATENT) * 2
    case, flops = f"h{HEADS} b{b} ctx{ctx} topk{TOPK} sq1", 2 * b * HEADS * TOPK * (WIDTH + LATENT)

    def check(entries):
        def of(out):
            out = out.reshape(b, -1, LATENT)[:, :HEADS]
            return max(rel(out[i:i + 1], attn.mqa_ref(q[i], entries(slots[0][i, 0].long()))) for i in (0, b - 1))
        return of
    bf16, fp8 = check(lambda at: kv.view(-1, WIDTH)[at]), check(lambda at: attn.unpack656(kv8.view(-1, BYTES)[at]))
    over_bf16 = functools.partial(c, case, flops=flops, nbytes=b * TOPK * WIDTH * 2 + io, check=bf16)
    over_fp8 = functools.partial(c, case, flops=flops, nbytes=b * TOPK * BYTES + io, check=fp8)
    if fm:
        meta = [None, None]

        def with_codes(at):
            o, _, meta[0], meta[1] = fm.sparse_decode_fwd(wide, kv8.view(torch.float8_e4m3fn), at, None, None, *meta, None, None, None, LATENT,
                                                          attn.SCALE, None, False)
            return o
        over_fp8("FlashMLA fp8 656B, padded to 64 heads (vLLM)", [functools.partial(with_codes, at) for at in slots])

        def with_elements(at):
            return fm.sparse_prefill_fwd(wide.view(-1, PADDED, WIDTH), kv.view(-1, 1, WIDTH), at, attn.SCALE, LATENT, None, None, None)[0]
        over_bf16("FlashMLA sparse-prefill kernel, padded to 64 heads, bf16 (vLLM)", [functools.partial(with_elements, at) for at in slots])
    cu = torch.arange(b + 1, device=dev, dtype=torch.int32)
    used = torch.full((b,), TOPK, device=dev, dtype=torch.int32)
    q_nope, q_pe, rows = q[..., :LATENT].reshape(b, HEADS, LATENT).contiguous(), q[..., LATENT:].reshape(b, HEADS, 64).contiguous(), kv.view(-1, 1, 1, WIDTH)
    if fa3:
        def with_fa3(at):
            return fa3(q_pe, rows[..., LATENT:], rows[..., :LATENT], cu, 1, TOPK, False, qv=q_nope, used_k=used, table=at.view(b, TOPK))
        over_bf16("FA3 qv page 1, bf16 cache (vLLM)", [functools.partial(with_fa3, at) for at in slots])
    w = attn.maybe(functools.partial(attn.page1, fi, cu, slots[0].flatten(), used, HEADS)) if fi else None
    if w:
        over_bf16("FlashInfer fa3 page 1, bf16 cache", lambda: w.run(q_nope, q_pe, rows[:, 0, :, :LATENT], rows[:, 0, :, LATENT:]))
    for name, fns in hooked("sparse_decode_bf16", q=q, cache=kv, indices=slots, scale=attn.SCALE).items():
        over_bf16(name + " bf16", fns)
    for name, fns in hooked("sparse_decode_fp8", q=q, cache=kv8, indices=slots, scale=attn.SCALE).items():
        over_fp8(name + " fp8", fns)


def prefill(c):
    fm = attn.maybe(attn.flashmla)
    sq, skv = 4096, 32768
    kv8 = attn.pack656(randn(skv // 64, 64, 1, WIDTH))
    for heads in (HEADS, 128):
        q = randn(sq, heads, WIDTH)
        idx = torch.empty(sq, 1, TOPK, device=dev, dtype=torch.int32)
        for i in range(0, sq, 1024):  # random distinct causal tokens, in random order
            drawn = torch.rand(1024, skv, device=dev)
            seen = torch.arange(skv - sq + i, skv - sq + i + 1024, device=dev)[:, None]
            idx[i:i + 1024, 0] = drawn.masked_fill_(torch.arange(skv, device=dev) > seen, -1).topk(TOPK)[1].int()
        del drawn

        def check(out):
            out = out.reshape(sq, -1, LATENT)[:, :heads]
            return max(rel(out[i:i + 1], attn.mqa_ref(q[i:i + 1], attn.unpack656(kv8.view(-1, BYTES)[idx[i, 0].long()]))) for i in (0, 2047, sq - 1))
        over = functools.partial(c, f"h{heads} sq{sq} skv{skv} topk{TOPK} fp8_ds_mla", flops=2 * sq * heads * TOPK * (WIDTH + LATENT),
                                 nbytes=sq * (TOPK * BYTES + heads * (WIDTH + LATENT) * 2), check=check)
        if fm:  # its only kernel over such a cache: the one of decode, told all queries as requests of one
            meta, wide = [None, None], (padded(q) if heads < PADDED else q)[:, None]

            def with_codes():
                o, _, meta[0], meta[1] = fm.sparse_decode_fwd(wide, kv8.view(torch.float8_e4m3fn), idx, None, None, *meta, None, None, None, LATENT,
                                                              attn.SCALE, None, False)
                return o
            over("FlashMLA fp8 656B, its decode kernel" + (", padded to 64 heads" if heads < PADDED else "") + " (vLLM)", with_codes)
        for name, fns in hooked("sparse_prefill_fp8", q=q, cache=kv8, indices=idx, scale=attn.SCALE).items():
            over(name, fns)


def facts(run, scores, ends, k):
    """What is missed of the best scores, and what holds of the choice besides."""
    first = run().clone()
    want_set, missed, ties = None, 0.0, True
    for row in range(0, len(ends), max(1, len(ends) // 8)):
        own = scores[row, :ends[row]]
        order = torch.sort(own, descending=True, stable=True)[1][:k]
        got = first[row].long()
        got = got[got >= 0]
        if len(set(got.tolist())) != min(k, len(own)):
            return 1.0, "wrong count"
        missed = max(missed, (own[got].sort(descending=True)[0] != own[order]).double().mean().item())
        ties &= set(got.tolist()) == set(order.tolist())
    runs = [run().clone() for _ in range(20)]
    same = all(torch.equal(first, other) for other in runs)
    same_set = same or all(torch.equal(first.sort(-1)[0], other.sort(-1)[0]) for other in runs)
    note = ("lowest ties" if ties else "other ties") + ", " + ("same bytes" if same else "same set" if same_set else "differs")
    return missed, note


def top_k(c):
    vc, sg = attn.maybe(rest.vllm_c), attn.maybe(rest.sgl)
    noted = c.__dict__.setdefault("noted", {})
    for rows, width, kind in [(4096, 32768, "causal"), (128, 32768, "whole"), (128, 32768, "of 64 values"), (128, 32768, "half zeros"),
                              (8, 131072, "whole"), (8, 131072, "of 64 values"), (8, 1 << 20, "whole"), (8, 1 << 20, "half zeros")]:
        copies = max(1, round(2e8 / (rows * width * 4)))
        drawn = [torch.randn(rows, width, device=dev) for _ in range(copies)]
        if kind == "of 64 values":
            drawn = [(x * 10).round().clamp(-32, 31) for x in drawn]
        elif kind == "half zeros":
            drawn = [torch.relu(x) for x in drawn]
        first_end = width - rows + 1 if kind == "causal" else width
        ends = [min(width, first_end + i) for i in range(rows)]
        lens = torch.tensor(ends, device=dev, dtype=torch.int32)
        starts = torch.zeros_like(lens)
        out = torch.empty(rows, TOPK, device=dev, dtype=torch.int32)
        work = torch.zeros(1 << 20, device=dev, dtype=torch.uint8)
        case, read = f"top-{TOPK} of {rows}x{width}, {kind}", sum(ends) * 4

        def into(f):
            def run(x):
                f(x)
                return out
            return run
        peers = {"torch.topk": lambda x: x.topk(TOPK, sorted=False)[1]} if kind != "causal" else {}
        if vc and kind == "causal":
            peers["vLLM top_k_per_row_prefill"] = into(lambda x: vc.top_k_per_row_prefill(x, starts, lens, out, rows, width, 1, TOPK))
        elif vc:
            peers["vLLM persistent_topk"] = into(lambda x: vc.persistent_topk(x, lens, out, work, TOPK, width))
            peers["vLLM top_k_per_row_decode"] = into(lambda x: vc.top_k_per_row_decode(x, 1, lens, out, rows, width, 1, TOPK))
        if sg:
            peers["SGLang fast_topk"] = into(lambda x: sg.fast_topk(x, out, lens, None))
        calls = {name: [functools.partial(f, x) for x in drawn] for name, f in peers.items()}
        calls |= hooked("topk", logits=drawn, ends=lens, k=TOPK)
        for name, fns in calls.items():
            fns = fns if isinstance(fns, list) else [fns]
            if c.warm:
                try:
                    noted[case, name] = facts(fns[0], drawn[0], ends, TOPK)
                except Exception as error:
                    noted[case, name] = (1.0, f"failed: {error}"[:80])
            missed, note = noted[case, name]
            c(case, name, fns, nbytes=read, check=lambda _: missed, note=note)


SECTIONS = {"1": ("sparse-decode-16", decode), "2": ("sparse-prefill-fp8", prefill), "3": ("top-k", top_k)}


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(SECTIONS)
    measure(dict(SECTIONS[name] for name in chosen), "sparse.json")
