"""What public kernels do on prefill workloads that the peers' harness leaves out.

    PEERS_STAGE=S python3 PEERS_DIR/run.py 0                 # unpacks the peers into $PEERS_SITE, and measures the ceilings
    PEERS_DIR=… python3 benches/peers/prefill.py [1 2 3 4 5]  # those sections, all if none; writes $OUT/prefill.json and prints a table

Sections: 1, causal attention from what an MLA layer's kv-up projection writes; 2, its backward pass; 3, both of a ragged batch; 4, a chunk of
new tokens over a paged cache of latents; 5, other head dimensions, forward and backward. All in bf16; 1 to 4 with heads of 192 (128 without
rotation, 64 rotated) and values of 128. Checks are against float32 on the same inputs: sampled rows forward, all gradients backward.

Peers want keys that are whole, [rows, heads, 192], while a layer has k_nope and v interleaved by head and one rotated key for all heads. A case
'bare' times a kernel over whole keys. A case 'from kv-up' adds what the kernel wants first (keys put together by two copies of 16 bytes a
thread; values are read where they lie, by strides, or are copied where a kernel refuses); 'into kv-up' adds what follows a backward pass: d_k
and d_v copied into the interleaved gradient, and the rotated key's gradient summed over heads, in float32.

PEERS_ONLY, PEERS_SKIP, PEERS_ROUNDS and PEERS_SETTLE_S as in the harness. PEERS_FLASHINFER=1 adds FlashInfer, whose kernels compile for minutes.
FA4 compiles each of its kernels in its first call, unless `compile_ahead.py` did before.

Hooks: `ours.py` on PYTHONPATH may define these, which README.md beside this file describes. Each is called outside of the timing with named inputs and
returns {name: callable}; in the same rounds as the peers, its callables are checked and timed.

    dense_prefill_kv_up(q, kv, k_rope, cu, lengths, scale)                    out [n, heads, 128]
    dense_prefill_kv_up_backward(q, kv, k_rope, cu, lengths, scale, d_out)    d_q [n, heads, 192], d_kv [n, heads, 256], d_k_rope [n, 64]
    chunked_prefill(q, cache, table, cached, latents, k_rope, w_kv, scale)    out [new, heads, 128]
    dense_prefill_dims(q, k, v, cu, lengths, scale)                           out [n, heads, value]
    dense_prefill_dims_backward(q, k, v, cu, lengths, scale, d_out)           d_q, d_k, d_v

q is [n, heads, 192]; kv [n, heads, 256], k_nope and v of each head side by side; k_rope [n, 64]; cu int32 on the device and lengths a list, both of the
sequences; cache [pages, 64, 576] with the request's pages in table; w_kv [512, heads * 256].
"""
import functools
import sys

from harness import hooked, measure  # first: it finds the harness's modules

import torch
import torch.nn.functional as F

import kernels
import reference
from common import BF16, dev, randn, rel

NOPE, ROPE, VALUE, LATENT, PAGE = 128, 64, 128, 512, 64
KEY = NOPE + ROPE
SCALE = KEY ** -0.5
HEADS = (128, 16)
ROWS = (4096, 8192, 16384)
REPEATABLE = (8192,)  # lengths at which deterministic backward passes are timed too
RAGGED_ROWS, RAGGED_SHORTEST, RAGGED_LONGEST, RAGGED_SEED = 32768, 64, 8192, 4
NEW, CACHED, CHUNK = 4096, 32768, 8192
# 16 heads of 8192 rows are 1024 tiles of 128 rows, 7.8 for each of an H200's 132 multiprocessors, so the last wave weighs little
DIMS, DIM_HEADS, DIM_ROWS = ((256, 256), (192, 192), (128, 128), (96, 64), (64, 64)), 16, 8192
TIMED_S = 0.06  # a row and round, after it has settled; a slow call is timed seven times all the same


def copied(into, x):
    """A copy that moves 16 bytes a thread at a time. Widths here are multiples of 8."""
    whole = x.stride(-1) == 1
    into.view(torch.complex128 if whole else BF16).copy_(x.view(torch.complex128) if whole else x)


class Batch:
    """Sequences as an MLA layer has them before attention: rows of all of them one behind another."""

    def __init__(self, heads, lengths):
        n = sum(lengths)
        self.heads, self.lengths, self.rows = heads, lengths, n
        self.q, self.kv, self.k_rope = randn(n, heads, KEY), randn(n, heads, NOPE + VALUE), randn(n, ROPE)
        self.cu = kernels.ends_of(lengths)
        # For peers: whole keys and values of their own, as a case 'bare' has them
        self.keys = whole_keys(self.kv, self.k_rope, torch.empty(n, heads, KEY, device=dev, dtype=BF16))
        self.values = self.kv[..., NOPE:].contiguous()
        # Under the causal mask, half of all pairs
        self.pairs = sum(length * length for length in lengths) * heads / 2

    def case(self, way, kind):
        shape = f"s{self.rows}"
        if len(self.lengths) > 1:
            shape = f"ragged {len(self.lengths)} of {min(self.lengths)}..{max(self.lengths)} {shape}"
        return f"{way} h{self.heads} {shape} {kind}"

    def hook(self):
        return dict(q=self.q, kv=self.kv, k_rope=self.k_rope, cu=self.cu, lengths=self.lengths, scale=SCALE)

    def nbytes(self, *widths, shared=0):
        """Of tensors that are so wide for each head, and of one that all heads share."""
        return self.rows * (self.heads * sum(widths) + shared) * 2


def whole_keys(kv, k_rope, keys):
    copied(keys[..., :NOPE], kv[..., :NOPE])
    copied(keys[..., NOPE:], k_rope[:, None].expand(-1, kv.shape[1], -1))
    return keys


def worst(outs, wants):
    """NaN, if any of the errors is."""
    return torch.tensor([rel(out, want) for out, want in zip(outs, wants, strict=True)]).max().item()


@functools.cache
def strides_taken(peer):
    return kernels.takes_strides(kernels.forward(2, [256], SCALE)[peer])


def forward_rows(c, batch):
    """Every peer over whole keys, and from what kv-up writes."""
    seen = reference.sampled(batch.lengths)
    want = functools.cache(lambda: reference.rows(batch.q, lambda part: (batch.keys[:, part], batch.values[:, part]), seen, SCALE))
    timed = functools.partial(c, flops=2 * batch.pairs * (KEY + VALUE), budget=TIMED_S,
                             check=lambda out: worst(out.view(batch.rows, batch.heads, VALUE)[list(seen)], want()))
    keys, own_values = torch.empty_like(batch.keys), torch.empty_like(batch.values)
    bare, from_kv_up = batch.nbytes(KEY, KEY, VALUE, VALUE), batch.nbytes(KEY, NOPE + VALUE, VALUE, shared=ROPE)
    for name, kernel in kernels.forward(batch.heads, batch.lengths, SCALE).items():
        def joined(strided=strides_taken(name)):
            values = batch.kv[..., NOPE:]
            if not strided:
                copied(own_values, values)
            return kernel(batch.q, whole_keys(batch.kv, batch.k_rope, keys), values if strided else own_values)
        timed(batch.case("fwd", "bare"), name, lambda: kernel(batch.q, batch.keys, batch.values), nbytes=bare)
        timed(batch.case("fwd", "from kv-up"), name + (" + concat" if strides_taken(name) else " + concat and copy of V"), joined, nbytes=from_kv_up)
    for name, calls in hooked("dense_prefill_kv_up", **batch.hook()).items():
        timed(batch.case("fwd", "from kv-up"), name, calls, nbytes=from_kv_up)


class Backward:
    """A kernel's backward pass alone. Its forward pass runs once, in the first call, so that what it raises is caught where rows are made."""

    def __init__(self, kernel, context, inputs, d_out):
        self.kernel, self.context, self.d_out = kernel, context, d_out
        self.inputs, self.out = [x.detach().requires_grad_() for x in inputs], None

    def __call__(self):
        if self.out is None:
            self.out = self.kernel(*self.inputs)
        with self.context():
            return torch.autograd.grad(self.out, self.inputs, self.d_out, retain_graph=True)


def agreement(grads, again):
    return "two runs agree bit for bit" if all(torch.equal(a, b) for a, b in zip(grads, again)) else "two runs differ"


def into_kv_up(grads, d_kv):
    """A layer's gradients out of those of whole keys: of q, of kv-up's output, and of the rotated key in float32."""
    d_q, d_k, d_v = grads
    copied(d_kv[..., :NOPE], d_k[..., :NOPE])
    copied(d_kv[..., NOPE:], d_v)
    return d_q, d_kv, d_k[..., NOPE:].sum(1, dtype=torch.float32)


def backward_rows(c, batch, deterministic):
    """Every peer's backward pass over whole keys, and with what a layer does next."""
    d_out, d_kv = randn(batch.rows, batch.heads, VALUE), torch.empty_like(batch.kv)
    inputs = (batch.q, batch.keys, batch.values)
    want = functools.cache(lambda: reference.gradients(*inputs, d_out, batch.lengths, SCALE))
    timed = functools.partial(c, flops=2 * batch.pairs * (3 * KEY + 2 * VALUE), graph=False, budget=TIMED_S)
    # Read: q, k, v, the output and its gradient; written: three gradients
    bare = batch.nbytes(KEY, KEY, VALUE, VALUE, VALUE, KEY, KEY, VALUE)
    whole = batch.nbytes(KEY, NOPE + VALUE, VALUE, VALUE, KEY, NOPE + VALUE, shared=3 * ROPE)
    notes = c.__dict__.setdefault("notes", {})

    def of_layer(grads):
        d_q, d_k, d_v = want()
        return worst(grads, (d_q, torch.cat([d_k[..., :NOPE], d_v], -1), d_k[..., NOPE:].sum(1)))
    for name, (kernel, context) in kernels.training(batch.lengths, SCALE, deterministic).items():
        run, repeats = Backward(kernel, context, inputs, d_out), "deterministic" in name

        def of_whole_keys(grads):
            if repeats:
                notes[batch.heads, batch.rows, name] = agreement(grads, run())
            return worst(grads, want())
        timed(batch.case("bwd", "bare"), name, run, nbytes=bare, check=of_whole_keys, note=notes.get((batch.heads, batch.rows, name), ""))
        if not repeats:
            timed(batch.case("bwd", "into kv-up"), name + " + scatter and sum", lambda: into_kv_up(run(), d_kv), nbytes=whole, check=of_layer)
    for name, calls in hooked("dense_prefill_kv_up_backward", **batch.hook(), d_out=d_out).items():
        timed(batch.case("bwd", "into kv-up"), name, calls, nbytes=whole, check=of_layer)


def kv_up(c):
    for heads in HEADS:
        for rows in ROWS:
            forward_rows(c, Batch(heads, [rows]))


def kv_up_backward(c):
    for heads in HEADS:
        for rows in ROWS:
            backward_rows(c, Batch(heads, [rows]), rows in REPEATABLE)


def ragged_lengths():
    """Log-uniform, drawn until they fill the batch and the last one cut to it; the same every time."""
    drawn, lengths = torch.Generator().manual_seed(RAGGED_SEED), []
    while sum(lengths) < RAGGED_ROWS:
        share = torch.rand((), generator=drawn, dtype=torch.float64).item()
        lengths.append(round(RAGGED_SHORTEST * (RAGGED_LONGEST / RAGGED_SHORTEST) ** share))
    lengths[-1] -= sum(lengths) - RAGGED_ROWS
    return lengths


def ragged(c):
    for heads in HEADS:
        batch = Batch(heads, ragged_lengths())
        forward_rows(c, batch)
        backward_rows(c, batch, True)


class Chunk:
    """New tokens of one request whose earlier tokens, and these too, lie in a paged cache of latents."""

    def __init__(self, heads):
        self.heads, total = heads, CACHED + NEW
        pages = -(-total // PAGE)
        self.cache = randn(pages, PAGE, LATENT + ROPE)
        self.table = torch.randperm(pages, device=dev, dtype=torch.int32)
        entries = self.cache[self.table.long()].view(-1, LATENT + ROPE)[:total]
        self.entries, self.latents, self.k_rope = entries, entries[CACHED:, :LATENT].contiguous(), entries[CACHED:, LATENT:].contiguous()
        # Scaled so that keys and values have the size of q's elements
        self.q, self.w_kv = randn(NEW, heads, KEY), randn(LATENT, heads * (NOPE + VALUE)) * LATENT ** -0.5
        self.flops = 2 * heads * ((NEW * CACHED + NEW * NEW / 2) * (KEY + VALUE) + total * LATENT * (NOPE + VALUE))
        self.nbytes = 2 * (total * (LATENT + ROPE) + NEW * heads * (KEY + VALUE) + self.w_kv.numel())

    def hook(self):
        return dict(q=self.q, cache=self.cache, table=self.table, cached=CACHED, latents=self.latents, k_rope=self.k_rope, w_kv=self.w_kv,
                    scale=SCALE)

    def expected(self, at):
        """Output rows in float32, keys and values too."""
        weights = self.w_kv.view(LATENT, self.heads, NOPE + VALUE)

        def keys_values(part):
            kv = torch.einsum("nl,lhd->nhd", self.entries[:, :LATENT].float(), weights[:, part].float())
            rope = self.entries[:, None, LATENT:].float().expand(-1, kv.shape[1], -1)
            return torch.cat([kv[..., :NOPE], rope], -1), kv[..., NOPE:]
        return reference.rows(self.q, keys_values, {row: (0, CACHED + row + 1) for row in at}, SCALE)


class Composed:
    """What a serving engine composes: cached latents are gathered a chunk at a time and expanded into keys and values, FA3 attends each chunk
    without a mask and the new tokens with one, and the parts are merged by their logsumexps. Memory is that of one chunk."""

    def __init__(self, chunk, cache):
        self.chunk, self.cache, heads = chunk, cache, chunk.heads
        empty = functools.partial(torch.empty, device=dev)
        rows = max(min(CHUNK, CACHED), NEW)
        self.entries = empty(rows, LATENT + ROPE, dtype=BF16)
        self.kv, self.keys = empty(rows, heads * (NOPE + VALUE), dtype=BF16), empty(rows, heads, KEY, dtype=BF16)
        # Merged parts alternate between these: a merge reads the one and writes the other
        self.parts = [(empty(NEW, heads, VALUE, dtype=BF16), empty(heads, NEW)) for _ in range(2)]
        self.out, self.new = empty(NEW, heads, VALUE, dtype=BF16), kernels.ends_of([NEW])
        self.spans = [(start, min(CHUNK, CACHED - start)) for start in range(0, CACHED, CHUNK)]
        self.ends = {count: kernels.ends_of([count]) for _, count in self.spans}

    def attend(self, latents, k_rope, ends, causal):
        count, heads = len(latents), self.chunk.heads
        kv = torch.mm(latents, self.chunk.w_kv, out=self.kv[:count]).view(count, heads, NOPE + VALUE)
        keys = whole_keys(kv, k_rope, self.keys[:count])
        return kernels.flash3(self.chunk.q, keys, kv[..., NOPE:], self.new, ends, NEW, count, causal, SCALE)

    def __call__(self):
        own = self.attend(self.chunk.latents, self.chunk.k_rope, self.new, True)
        context = None
        for i, (start, count) in enumerate(self.spans):
            entries = self.entries[:count]
            self.cache.gather(start, count, entries)
            part = self.attend(entries[:, :LATENT], entries[:, LATENT:], self.ends[count], False)
            if context:
                self.cache.merge(*self.parts[i % 2], *context, *part)
                part = self.parts[i % 2]
            context = part
        self.cache.merge(self.out, None, *context, *own)
        return self.out


def chunked(c):
    at = (0, NEW // 2, NEW - 1)
    for heads in HEADS:
        chunk = Chunk(heads)
        want = functools.cache(lambda: chunk.expected(at))
        timed = functools.partial(c, f"h{heads} new{NEW} cached{CACHED}", flops=chunk.flops, nbytes=chunk.nbytes, budget=TIMED_S,
                                 check=lambda out: worst(out.view(NEW, heads, VALUE)[list(at)], want()))
        for kind in (kernels.VllmCache, kernels.TorchCache):
            timed(f"composed of cuBLAS + FA3 + {kind.name}", Lazily(lambda: Composed(chunk, kind(chunk.cache, chunk.table))))
        for name, calls in hooked("chunked_prefill", **chunk.hook()).items():
            timed(name, calls)


class Lazily:
    """A callable that is made in its first call, where what its making raises becomes a row."""

    def __init__(self, make):
        self.make, self.made = make, None

    def __call__(self):
        self.made = self.made or self.make()
        return self.made()


def dims(c):
    """Forward and backward of other widths."""
    n, heads, lengths = DIM_ROWS, DIM_HEADS, [DIM_ROWS]
    cu, pairs = kernels.ends_of(lengths), n * n * heads / 2
    for key, value in DIMS:
        scale, case = key ** -0.5, f"h{heads} s{n} d{key}/{value}"
        inputs = randn(n, heads, key), randn(n, heads, key), randn(n, heads, value)
        q, k, v = inputs
        d_out, seen = randn(n, heads, value), reference.sampled(lengths)
        want = functools.cache(lambda: reference.rows(q, lambda part: (k[:, part], v[:, part]), seen, scale))
        grads = functools.cache(lambda: reference.gradients(*inputs, d_out, lengths, scale))
        forward = functools.partial(c, "fwd " + case, flops=2 * pairs * (key + value), nbytes=2 * n * heads * 2 * (key + value), budget=TIMED_S,
                                    check=lambda out: worst(out.view(n, heads, value)[list(seen)], want()))
        backward = functools.partial(c, "bwd " + case, flops=2 * pairs * (3 * key + 2 * value), nbytes=2 * n * heads * (4 * key + 4 * value),
                                     budget=TIMED_S, graph=False, check=lambda out: worst(out, grads()))
        # FA3 has no kernel for values that are narrower than keys of up to 128
        pad = key - value if key <= 128 else 0
        forward("FA3 (vLLM)" + (f" V padded to {key}" if pad else ""),
                lambda: kernels.flash3(q, k, F.pad(v, (0, pad)) if pad else v, cu, cu, n, n, True, scale)[0][..., :value])
        for name, (kernel, context) in kernels.training(lengths, scale).items():
            forward(name, lambda: kernel(q, k, v))
            backward(name, Backward(kernel, context, inputs, d_out))
        described = dict(q=q, k=k, v=v, cu=cu, lengths=lengths, scale=scale)
        for name, calls in hooked("dense_prefill_dims", **described).items():
            forward(name, calls)
        for name, calls in hooked("dense_prefill_dims_backward", **described, d_out=d_out).items():
            backward(name, calls)


SECTIONS = {"1-kv-up": kv_up, "2-kv-up-backward": kv_up_backward, "3-ragged": ragged, "4-chunked": chunked, "5-dims": dims}


if __name__ == "__main__":
    wanted = "".join(sys.argv[1:]) or "12345"
    measure({name: section for name, section in SECTIONS.items() if name[0] in wanted}, "prefill.json")
