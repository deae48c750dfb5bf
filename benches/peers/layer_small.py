"""Rows of what stands between a layer's products, and of the products by themselves."""
import functools

from harness import hooked  # first: it finds the harness's modules

import torch

import layer_kernels as ops
import layer_model as model
from common import BF16, dev, n_sets, randn, rel
from layer_reference import within

TOKENS, INPUTS_OF_FEW = (4096, 128), 24
TIMED_S = 0.06  # a row and round, after it has settled
ROUNDED, CODED = 6e-3, 6e-2  # errors of bf16 results, and of products of codes


class Small:
    """Inputs of both RMSNorms, the rotation and the cache's writing, and of the same for an indexer's keys."""

    def __init__(self, tokens):
        self.tokens, width = tokens, model.Q_LORA + model.LATENT + model.ROPE
        self.bytes = tokens * 2 * (width + model.Q_LORA + model.LATENT + 2 * model.HEADS * model.ROPE + model.LATENT + model.ROPE)
        self.index_bytes = tokens * (2 * model.INDEX_WIDTH + model.KEY_BYTES)
        copies = n_sets(self.bytes) if tokens > 128 else INPUTS_OF_FEW
        # The keys are columns of a product that makes the heads' weights too
        self.inputs = [(randn(tokens, width), randn(tokens, model.HEADS, model.NOPE + model.ROPE),
                        randn(tokens, model.INDEX_WIDTH + model.INDEX_HEADS)[:, :model.INDEX_WIDTH]) for _ in range(copies)]
        self.first = [x.clone() for x in self.inputs[0]]  # before anything is rotated
        self.w_q, self.w_kv, self.w_k, self.b_k = (randn(n) for n in (model.Q_LORA, model.LATENT, model.INDEX_WIDTH, model.INDEX_WIDTH))
        self.angles = model.cos_sin(tokens)
        self.cos_sin, self.positions = self.angles.to(BF16), torch.arange(tokens, device=dev)
        self.slots = torch.randperm(4 * tokens, device=dev)[:tokens]
        pages = 4 * tokens // model.PAGE
        self.cache = torch.zeros(pages, model.PAGE, model.LATENT + model.ROPE, device=dev, dtype=BF16)
        self.index = torch.zeros(pages, model.PAGE * model.KEY_BYTES, device=dev, dtype=torch.uint8)
        self.q_normed, self.latents = (torch.empty(tokens, n, device=dev, dtype=BF16) for n in (model.Q_LORA, model.LATENT))

    def norms(self, a):
        ops.rms_norm(self.q_normed, a[:, :model.Q_LORA], self.w_q)
        ops.rms_norm(self.latents, a[:, model.Q_LORA:model.Q_LORA + model.LATENT], self.w_kv)

    def three(self, a, q):
        self.norms(a)
        ops.rotate_and_write(self.positions, q[..., model.NOPE:], a[:, -model.ROPE:], self.latents, self.cos_sin, self.slots, self.cache)
        return self.q_normed

    def four(self, a, q):
        self.norms(a)
        ops.rotate(self.positions, q[..., model.NOPE:], a[:, -model.ROPE:].unsqueeze(1), self.cos_sin, ops.PAIRS)
        ops.write(self.latents, a[:, -model.ROPE:], self.cache, self.slots)
        return self.q_normed

    def and_index(self, layer):
        def run(a, q, key):
            ops.index_write(ops.index_key(key, self.w_k, self.b_k, self.cos_sin, self.positions), self.index, self.slots)
            return layer(a, q)
        return run

    def expected(self, a, q, key):
        """In f32: normed queries, rotated ones, entries, and keys."""
        a, q, key = a.float(), q.float(), key.float()
        normed = model.rms_norm(a[:, :model.Q_LORA], self.w_q.float())
        latents = model.rms_norm(a[:, model.Q_LORA:model.Q_LORA + model.LATENT], self.w_kv.float())
        entries = torch.cat([latents, model.rotated_pairs(a[:, -model.ROPE:], self.angles)], -1)
        keys = torch.nn.functional.layer_norm(key, key.shape[1:], self.w_k.float(), self.b_k.float(), model.EPS)
        return normed, model.rotated_pairs(q[..., model.NOPE:], self.angles), entries, model.rotated_halves(keys, self.angles)

    def check(self, run, with_index):
        """Runs on copies, since queries and keys are rotated where they lie."""
        def of(_):
            a, q, key = (x.clone() for x in self.first)
            want = self.expected(a, q, key)
            self.cache.zero_(), self.index.zero_()
            normed = run(a, q, key) if with_index else run(a, q)
            got = normed, q[..., model.NOPE:], self.cache.view(-1, self.cache.shape[-1])[self.slots]
            error = max(within(rel(x, y), ROUNDED, "norms, rotation, writing") for x, y in zip(got, want))
            if with_index:
                # Codes have three bits behind their first
                within(rel(model.key_values(self.index)[self.slots], want[3]), CODED, "keys that were cached")
            return error
        return of


def small():
    """2x RMSNorm, rotation and the cache's writing; and the same beside an indexer's keys."""
    for tokens in TOKENS:
        case, layer = f"2x RMSNorm + RoPE + cache write, {tokens} tokens", Small(tokens)
        given = dict(w_q=layer.w_q, w_kv=layer.w_kv, cos_sin=layer.cos_sin, positions=layer.positions, slots=layer.slots, cache=layer.cache)
        peers = {"vLLM, 3 kernels (RoPE fused with the write)": layer.three, "vLLM, 4 kernels": layer.four}
        for name, run in (peers | hooked("small", **given)).items():
            yield dict(case=case, peer=name, fns=[functools.partial(run, a, q) for a, q, _ in layer.inputs], nbytes=layer.bytes,
                       check=layer.check(run, False), budget=TIMED_S)
        case = f"the same + index key (LayerNorm, RoPE, fp8, write), {tokens} tokens"
        peers = {f"{name}; torch.compile, vLLM's fp8 write": layer.and_index(run) for name, run in peers.items()}
        for name, run in (peers | hooked("small_index", **given, w_k=layer.w_k, b_k=layer.b_k, index=layer.index)).items():
            yield dict(case=case, peer=name, fns=[functools.partial(run, *inputs) for inputs in layer.inputs],
                       nbytes=layer.bytes + layer.index_bytes, check=layer.check(run, True), budget=TIMED_S)


def row_codes(x):
    scales = x.abs().amax(1, keepdim=True).float() / 448
    return (x / scales).to(model.FP8), scales


def gemm():
    """A layer's three products, in bf16 and in fp8. Weights are used in turn, so that none is in the L2."""
    joined = model.Q_LORA + model.LATENT + model.ROPE
    shapes = ((joined, model.HIDDEN), (model.HEADS * (model.NOPE + model.ROPE), model.Q_LORA), (model.HIDDEN, model.HEADS * model.VALUE))
    for rows in TOKENS:
        for n, k in shapes:
            yield from product(rows, n, k)


def product(rows, n, k):
    x, first, out = randn(rows, k), randn(n, k), torch.empty(rows, n, device=dev, dtype=BF16)
    copies = n_sets(first.nbytes)
    weights = [first] + [first.clone() for _ in range(copies - 1)]
    want = x[:64].float() @ first.float().T
    flops = 2 * rows * n * k

    def row(peer, fns, nbytes, tolerance):
        def check(got):
            return within(rel((out if got is None else got)[:64], want), tolerance, "product")
        return dict(case=f"{rows}x{n}x{k}", peer=peer, fns=fns, flops=flops, nbytes=nbytes, check=check, budget=TIMED_S)

    def into(multiply, x, weights):
        return [functools.partial(multiply, x, w, out) for w in weights]
    of_bf16 = functools.partial(row, nbytes=2 * (rows * k + n * k + rows * n), tolerance=ROUNDED)
    of_codes = functools.partial(row, nbytes=rows * k + n * k + 2 * rows * n, tolerance=CODED)
    yield of_bf16("torch.mm bf16 (cuBLAS)", into(ops.multiply, x, weights))
    if rows > 128:
        yield of_bf16("DeepGEMM bf16 (vLLM)", into(ops.multiply_deep, x, weights))
    for name, fns in hooked("gemm", x=x, weights=weights).items():
        yield of_bf16(name, fns)
    by_block = model.block_codes(first)
    coded = [by_block] + [(by_block[0].clone(), by_block[1].clone()) for _ in range(2 * copies - 1)]
    codes = ops.CodedLinear(by_block, rows)
    yield of_codes("DeepGEMM fp8 1x128/128x128 (vLLM)", into(codes.multiply_once, x, coded))
    yield of_codes("the same, rows quantised in it", into(codes.multiply_all, x, coded))
    of_rows, by_row = row_codes(x), row_codes(first)
    rows_coded = [by_row] + [(by_row[0].clone(), by_row[1]) for _ in range(2 * copies - 1)]
    yield of_codes("torch._scaled_mm fp8 row-wise", [functools.partial(ops.multiply_rows_scaled, of_rows, w) for w in rows_coded])
    # Quantised here by torch, a scale for each 128 columns of a row: a hook is not timed with that
    groups = x.float().unflatten(1, (-1, model.BLOCK))
    scales = groups.abs().amax(-1).clamp_min(1e-4) / 448
    given = (groups / scales[..., None]).to(model.FP8).flatten(1), scales
    for name, fns in hooked("gemm", x=given, weights=coded).items():
        yield of_codes(name + " fp8", fns)
