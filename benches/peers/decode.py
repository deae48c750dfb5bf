"""What public kernels do on decode workloads that the peers' harness leaves out.

    PEERS_STAGE=S python3 PEERS_DIR/run.py 0        # unpacks the peers into $PEERS_SITE, and measures the ceilings
    PEERS_DIR=… python3 benches/peers/decode.py     # writes $OUT/decode.json and prints a table

Its sections stand beside the harness's own, whose modules it imports: inputs, checks and timing are the same. `ours.py` on PYTHONPATH adds the
project's own kernels to the same rounds. Sections: one request of 16 heads; a ragged batch; caches of fp8.
"""
import functools
import math

from harness import measure  # first: it finds the harness's modules

import torch

import attn
from common import BF16, dev, n_sets, ours, randn, rel

PAGE, LATENT, WIDTH, BYTES = 64, 512, 576, 656


def paged(lengths):
    """A shuffled table of pages for requests of these lengths, and how many pages there are. Entries behind the last page repeat the first."""
    pages = [math.ceil(n / PAGE) for n in lengths]
    order = torch.randperm(sum(pages), device=dev, dtype=torch.int32)
    lists = torch.split(order, pages)
    rows = torch.stack([torch.cat([own, own[:1].expand(max(pages) - len(own))]) for own in lists])
    return rows.contiguous(), sum(pages), lists


def dense(c, case, heads, lengths):
    """Absorbed attention of one new token for each request over a bf16 cache."""
    b, tokens = len(lengths), sum(lengths)
    tab, nblk, lists = paged(lengths)
    caches = [randn(nblk, PAGE, 1, WIDTH) for _ in range(n_sets(nblk * PAGE * WIDTH * 2))]
    lens = torch.tensor(lengths, device=dev, dtype=torch.int32)
    q = randn(b, 1, heads, WIDTH)
    q_nope, q_pe = q[..., :LATENT].reshape(-1, heads, LATENT).contiguous(), q[..., LATENT:].reshape(-1, heads, 64).contiguous()
    cu = torch.arange(b + 1, device=dev, dtype=torch.int32)
    flops, nbytes = 2 * heads * tokens * (WIDTH + LATENT), tokens * WIDTH * 2 + b * heads * (WIDTH + LATENT) * 2

    def check(out):
        out = out.view(b, heads, LATENT)
        return max(rel(out[i:i + 1], attn.mqa_ref(q[i], caches[0][tab[i].long()].view(-1, WIDTH)[:lengths[i]])) for i in {0, b // 2, b - 1})

    run = functools.partial(c, case, flops=flops, nbytes=nbytes, check=check)
    fm, fa3, fi = attn.maybe(attn.flashmla), attn.maybe(attn.fa3_op), attn.maybe(attn.flashinfer)
    if fm:
        meta = [None, None]

        def with_flashmla(kv):
            o, _, meta[0], meta[1] = fm.dense_decode_fwd(q, kv, LATENT, lens, tab, attn.SCALE, False, *meta, None)
            return o
        run("FlashMLA (vLLM)", [functools.partial(with_flashmla, kv) for kv in caches])
    if fa3:
        run("FA3 qv (vLLM)", [functools.partial(fa3, q_pe, kv[..., LATENT:], kv[..., :LATENT], cu, 1, max(lengths), True, qv=q_nope,
                                                used_k=lens, table=tab) for kv in caches])
    if fi:
        def plan():
            w = fi.mla.BatchMLAPagedAttentionWrapper(torch.empty(256 << 20, device=dev, dtype=torch.uint8), backend="fa3")
            counts = torch.tensor([0] + [len(own) for own in lists], device=dev).cumsum(0).int()
            w.plan(cu, counts, torch.cat(lists), lens, heads, LATENT, 64, PAGE, False, attn.SCALE, BF16, BF16)
            return w
        w = attn.maybe(plan)
        if w:
            run("FlashInfer fa3", [functools.partial(lambda kv: w.run(q_nope, q_pe, kv.squeeze(2)[..., :LATENT], kv.squeeze(2)[..., LATENT:]), kv)
                                   for kv in caches])
    for name, calls in ours("dense_decode", q=q, caches=caches, table=tab, lens=lens, scale=attn.SCALE, causal=False).items():
        run(name, calls)


def one_request(c):
    for ctx in (8192, 131072):
        dense(c, f"h16 b1 ctx{ctx}", 16, [ctx])


def ragged(c):
    """64 requests of 200 to 60000 tokens, log-uniform, the same every time."""
    drawn = torch.rand(64, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    lengths = [int(round(200 * 300 ** x)) for x in drawn.tolist()]
    for heads in (16, 128):
        dense(c, f"h{heads} b64 ragged 200..60000 ({sum(lengths)} tokens)", heads, lengths)


def fp8(c):
    """Every cached token of the 656-byte format. FlashMLA has no dense kernel for it: its sparse one is told all tokens, as 64 or 128 heads."""
    fm = attn.maybe(attn.flashmla)
    b, ctx = 128, 8192
    tab, nblk, _ = paged([ctx] * b)
    cache = attn.pack656(randn(nblk, PAGE, 1, WIDTH))
    at = torch.arange(ctx, device=dev)
    slots = (tab[:, at // PAGE] * PAGE + at % PAGE).int().view(b, 1, ctx).contiguous()
    for heads in (16, 64, 128):
        q = randn(b, 1, heads, WIDTH)

        def check(out):
            return max(rel(out.view(b, heads, LATENT)[i:i + 1], attn.mqa_ref(q[i], attn.unpack656(cache.view(-1, BYTES)[slots[i, 0].long()])))
                       for i in (0, b - 1))
        if fm:
            meta = [None, None]

            def with_flashmla():
                o, _, meta[0], meta[1] = fm.sparse_decode_fwd(q, cache.view(torch.float8_e4m3fn), slots, None, None, *meta, None, None, None,
                                                              LATENT, attn.SCALE, None, False)
                return o
            c(f"h{heads} b{b} ctx{ctx} fp8_ds_mla, all tokens", "FlashMLA fp8 656B, sparse kernel (vLLM)", with_flashmla,
              2 * b * heads * ctx * (WIDTH + LATENT), b * ctx * BYTES + b * heads * (WIDTH + LATENT) * 2, check)


SECTIONS = {"one-request": one_request, "ragged": ragged, "fp8": fp8}


if __name__ == "__main__":
    measure(SECTIONS, "decode.json")
