"""Whole layers of the project beside what engines compose, through the C ABI: hooks of `peers/layer.py`, which `ours.py` offers as its own.

Libraries are those of `ours.py`'s folder, made of the specs of the same names beside this file: `deepseek-v3-bf16.so` and `deepseek-v3.2-bf16.so`, and with caches
of bytes `deepseek-v3-fp8_ds_mla.so` and `deepseek-v3.2-fp8_ds_mla.so`. Where one of bytes is missing, that of bf16 stands in, and its row says so.

A cache is the library's own: it is not told the harness's entries but makes its own, from the hidden states of all cached tokens. So that this does not pay for
attention to all that came before, each page of a request is told as a request of its own, whose positions begin where the page does: what is
cached of a token is made of its hidden state and its position alone.

Layers multiply in bf16, so weights of fp8 are widened before one is loaded (the C ABI takes none), and offered over caches of bytes alone: elsewhere the row of
weights in bf16 says the same.
"""
import ctypes
import functools

import torch

import ours as abi

PAGE, BLOCK = 64, 128
SCALES = "_scale_inv"  # behind the name of a weight in fp8
PAGES_AT_ONCE = 128  # when a cache is filled


class Batch(ctypes.Structure):
    """`mla_batch`, which keeps its arrays."""
    _fields_ = [("requests", ctypes.c_int64), ("cached", ctypes.POINTER(ctypes.c_int64)), ("added", ctypes.POINTER(ctypes.c_int64)),
                ("block_counts", ctypes.POINTER(ctypes.c_int64)), ("blocks", ctypes.POINTER(ctypes.c_uint32)),
                ("positions", ctypes.POINTER(ctypes.c_uint32))]

    @classmethod
    def of(cls, cached, added, blocks, positions=None):
        flat = [block for own in blocks for block in own]
        return cls(len(cached), numbers(cached), numbers(added), numbers([len(own) for own in blocks]), numbers(flat, ctypes.c_uint32),
                   None if positions is None else numbers(positions, ctypes.c_uint32))


def numbers(values, ctype=ctypes.c_int64):
    return (ctype * len(values))(*values)


def stream():
    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)


class Cache:
    """A paged cache of a library's own."""

    def __init__(self, lib, pages):
        self.lib, self.handle = lib, ctypes.c_void_p()
        lib.call("mla_cache_new", lib.device, ctypes.c_int64(pages), ctypes.c_int64(PAGE), ctypes.byref(self.handle))

    def __del__(self):
        if self.handle:
            self.lib.call("mla_cache_free", self.handle)


def widened(weights):
    """Weights in bf16, of codes with a scale for each 128 x 128 of them where a weight is in fp8."""
    def wide(codes, scales):
        return (codes.float() * scales.repeat_interleave(BLOCK, 0)[:len(codes)].repeat_interleave(BLOCK, 1)[:, :codes.shape[1]]).bfloat16()
    return {at: wide(weight, weights[at + SCALES]) if at + SCALES in weights else weight for at, weight in weights.items() if not at.endswith(SCALES)}


loaded = {}


def layer_of(lib, name, weights, as_codes):
    """The layer with these weights; it stays, since a harness asks for it again."""
    key = name, tuple(weight.data_ptr() for weight in weights.values())
    if key not in loaded:
        weights = weights if as_codes else widened(weights)
        named = (abi.NamedTensor * len(weights))(*(abi.NamedTensor(at.encode(), abi.Tensor.of(weight)) for at, weight in weights.items()))
        handle = ctypes.c_void_p()
        lib.call("mla_layer_from_tensors", lib.device, named, ctypes.c_int64(len(weights)), stream(), ctypes.byref(handle))
        loaded[key] = handle
    return loaded[key]


def pages_of(cached, table):
    """(request, block, first token, tokens) of every page that holds cached tokens."""
    return [(request, block, start, min(PAGE, cached - start)) for request, blocks in enumerate(table.tolist())
            for block, start in zip(blocks, range(0, cached, PAGE))]


def fill(lib, layer, cache, pool, shifts, cached, table):
    """Puts cached tokens into a cache. Token t of request r has the hidden state pool[(t + shifts[r]) % len(pool)]."""
    pages = pages_of(cached, table)
    for first in range(0, len(pages), PAGES_AT_ONCE):
        some = pages[first:first + PAGES_AT_ONCE]
        positions = [start + i for _, _, start, count in some for i in range(count)]
        at = [(start + i + shifts[request]) % len(pool) for request, _, start, count in some for i in range(count)]
        hidden = pool[torch.tensor(at, device=pool.device)]
        batch = Batch.of([0] * len(some), [count for *_, count in some], [[block] for _, block, *_ in some], positions)
        lib.call("mla_prefill", layer, cache.handle, stream(), ctypes.byref(batch), ctypes.byref(abi.Tensor.of(hidden)),
                 ctypes.byref(abi.Tensor.of(torch.empty_like(hidden))))


def opened(name, coded_cache, coded_weights):
    """A layer's library, its file's name, how its row is named, and whether its weights are codes."""
    if coded_weights:
        cache = "fp8_ds_mla" if coded_cache else "bf16"
        file = f"{name}-fp8_weights-{cache}.so"
        lib = abi.library(file)
        if lib is None:
            raise LookupError(f"no {file}: with weights widened to bf16 it is the row of those")
        return lib, file, abi.PREFIX, True
    coded = f"{name}-fp8_ds_mla.so"
    if coded_cache and (lib := abi.library(coded)):
        return lib, coded, abi.PREFIX, False
    plain = f"{name}-bf16.so"
    lib = abi.library(plain)
    if lib is None:
        raise LookupError(f"no {plain}")
    return lib, plain, abi.PREFIX + (", caches of bf16" if coded_cache else ""), False


def over_cache(function, name, weights, hidden, pool, shifts, cached, new, table, coded_cache):
    """A step of new tokens against a cache that holds the others."""
    lib, file, row, as_codes = opened(name, coded_cache, any(at.endswith(SCALES) for at in weights))
    layer, cache, out = layer_of(lib, file, weights, as_codes), Cache(lib, table.numel()), torch.empty_like(hidden)
    fill(lib, layer, cache, pool, shifts, cached, table)
    batch = Batch.of([cached] * len(shifts), [new] * len(shifts), table.tolist())
    # The step keeps the cache
    return {row: lib.step(function, [cache.handle, ctypes.byref(batch), hidden, out], out, of=layer)}


def hook(name, function, library):
    @functools.wraps(over_cache)
    def asked(**inputs):
        return over_cache(function, library, **inputs)
    asked.__name__ = name
    return abi.polite(asked)


layer_decode = hook("layer_decode", "mla_step_decode", "deepseek-v3")
layer_prefill = hook("layer_prefill", "mla_step_prefill", "deepseek-v3")
layer_v32_decode = hook("layer_v32_decode", "mla_step_decode", "deepseek-v3.2")
layer_v32_prefill = hook("layer_v32_prefill", "mla_step_prefill", "deepseek-v3.2")
