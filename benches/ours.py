"""The project's kernels beside its peers', through the C ABI of generated layers (`mla.h`).

A harness that times attention kernels imports this module as `ours`, calls a function by what it times, and gets {name: callable}, or a
list of callables, one for each set of inputs. Each callable queues a prepared step in torch's current stream, so it may be captured in a
CUDA graph.

MLA_OURS_LIBS names a folder of libraries that `mla-gen build SPEC --dtype bf16 --shared FILE.so` made (default: the folder of this
file). The operations of `deepseek-v3.so` serve 128 heads, and 64, 32 and 16: latents of 512, rotated parts of 64, heads of 192 and 128. The
layer is `deepseek-v3-plain.so`, whose rope is the plain one of a default config. Attention over rows of other widths is an operation of a
layer with such heads, whatever their number: `WIDTHS` says which. An indexer's logits are those of `deepseek-v3.2.so`. Specs are in spec/models and in this folder. Where a library is missing,
or made for other sizes, a function returns {}.

Whole layers over a cache are in `ours_layers.py`, norms, rotation and the cache's writing in `ours_small.py`.

Left out, and why:
- gemm: products are a layer's own too; the C ABI has none.
- backward passes through a callable: it refuses tensors that want gradients. Those that a harness asks for as such are below.
"""
import ctypes
import functools
import os
import pathlib

import torch

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3, torch.int32: 4, torch.float8_e4m3fn: 5, torch.uint8: 6}
PREFIX = "mla-gen"
FOLDER = pathlib.Path(os.environ.get("MLA_OURS_LIBS") or pathlib.Path(__file__).parent)
LATENT, NOPE, BYTES = 512, 128, 656
# Whose indexer has 64 heads of 128
INDEXER = "deepseek-v3.2.so"
# Whose heads are as wide, keys and values
WIDTHS = {(256, 256): "glm-4.7-flash.so", (192, 192): "rows-192.so", (128, 128): "mistral-4.so", (96, 64): "minicpm3.so", (64, 64): "rows-64.so"}


class Tensor(ctypes.Structure):
    """`mla_tensor`, which keeps its shape and strides."""
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("rank", ctypes.c_int32),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64))]

    @classmethod
    def of(cls, tensor):
        sizes = ctypes.c_int64 * tensor.dim()
        return cls(tensor.data_ptr(), DTYPES[tensor.dtype], tensor.dim(), sizes(*tensor.shape), sizes(*tensor.stride()))


class NamedTensor(ctypes.Structure):
    """`mla_named_tensor`."""
    _fields_ = [("name", ctypes.c_char_p), ("tensor", Tensor)]


class Step:
    """A prepared step. Called, it runs in torch's current stream and returns the tensor that it writes."""

    def __init__(self, library, function, arguments, tensors, out):
        self.library, self.tensors, self.out = library, tensors, out
        self.handle = ctypes.c_void_p()
        library.call(function, *arguments, ctypes.byref(self.handle))

    def __call__(self):
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.library.call("mla_step_run", self.handle, stream)
        return self.out

    def __del__(self):
        # While a graph is captured nothing can be freed: that little stays with the process
        if self.handle and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()
            self.library.call("mla_step_free", self.handle)


class Library:
    """A generated layer's library, on torch's current device."""

    def __init__(self, path):
        self.functions = ctypes.CDLL(str(path), mode=os.RTLD_LOCAL)
        self.functions.mla_last_error.restype = ctypes.c_char_p
        self.device = ctypes.c_void_p()
        self.call("mla_device_open", ctypes.c_int32(torch.cuda.current_device()), ctypes.byref(self.device))

    def call(self, function, *arguments):
        if getattr(self.functions, function)(*arguments):
            raise RuntimeError(f"{function}: {self.functions.mla_last_error().decode()}")

    def step(self, function, arguments, out, of=None):
        """A step of a handle, the device's where none is named, over tensors and numbers; tensors are kept as long as the step."""
        described = [ctypes.byref(Tensor.of(a)) if isinstance(a, torch.Tensor) else a for a in arguments]
        tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
        return Step(self, function, [of or self.device, *described], tensors, out)


@functools.cache
def library(name):
    """A library of the folder, or None where there is none that can be used."""
    path = FOLDER / name
    if not path.exists():
        print(f"ours: no {path}", flush=True)
        return None
    return Library(path)


def polite(function):
    """Returns nothing where a library is missing, or refuses the sizes or the device; says why."""
    @functools.wraps(function)
    def asked(**inputs):
        try:
            return function(**inputs)
        except (LookupError, OSError, RuntimeError) as error:
            print(f"ours: no {function.__name__}: {error}", flush=True)
            return {}
    return asked


def operations(name="deepseek-v3.so"):
    found = library(name)
    if found is None:
        raise LookupError("no library of operations")
    return found


def host_array(tensor, dtype, ctype):
    """A tensor's values in the host's memory, as an argument; they are there as long as the second result is."""
    values = tensor.to("cpu", dtype).contiguous()
    return ctypes.cast(values.data_ptr(), ctypes.POINTER(ctype)), values


def flag(value):
    return ctypes.c_int32(int(value))


def no_gradients(*tensors):
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise NotImplementedError("a step has no backward pass of its own")


@polite
def dense_decode(q, caches, table, lens, scale, causal):
    lib = operations()
    out = q.new_empty(*q.shape[:-1], LATENT)
    blocks, kept_blocks = host_array(table, torch.int32, ctypes.c_uint32)
    lengths, kept_lengths = host_array(lens, torch.int64, ctypes.c_int64)

    def over(cache):
        arguments = [q, cache, ctypes.c_int64(LATENT), blocks, ctypes.c_int64(table.shape[1]), lengths,
                     ctypes.c_double(scale), flag(causal), out]
        return lib.step("mla_step_attend_paged", arguments, out)
    return {PREFIX: [over(cache) for cache in caches]}


def selected(lib, q, entries, indices, scale, counts=None):
    """`counts`: how many of each query's indices count; all, where it is None."""
    out = q.new_empty(*q.shape[:-1], LATENT)
    arguments = [q, entries, ctypes.c_int64(LATENT), indices, counts, ctypes.c_double(scale), out]
    return lib.step("mla_step_attend_selected", arguments, out)


@polite
def sparse_prefill(q, kv, indices, scale):
    return {PREFIX: selected(operations(), q, kv, indices, scale)}


@polite
def sparse_decode_bf16(q, cache, indices, scale):
    """Indices name slots of the whole cache, so its pages are rows like any others."""
    lib = operations()
    return {PREFIX: [selected(lib, q, cache, chosen, scale) for chosen in indices]}


def as_entries(cache):
    """Bytes of a cache, an entry a row."""
    return cache.view(torch.uint8).view(-1, BYTES)


@polite
def sparse_decode_fp8(q, cache, indices, scale):
    lib, entries = operations(), as_entries(cache)
    # A harness has a row for a name: not that of entries in bf16
    return {f"{PREFIX} {BYTES}B": [selected(lib, q, entries, chosen, scale) for chosen in indices]}


@polite
def sparse_prefill_fp8(q, cache, indices, scale):
    return {PREFIX: selected(operations(), q, as_entries(cache), indices, scale)}


def key_of(*tensors):
    return tuple((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) for tensor in tensors)


def over_rows(lib, q, k, k_shared, v, ends, scale):
    """Causal attention within the sequences that end where the host says. Keys and values may be columns of one tensor."""
    out = q.new_empty(*q.shape[:-1], v.shape[-1])
    pointer, kept = host_array(ends, torch.int32, ctypes.c_uint32)
    arguments = [q, k, k_shared, v, pointer, ctypes.c_int64(len(ends) - 1), ctypes.c_double(scale), flag(True), out]
    return lib.step("mla_step_attend_rows", arguments, out)


@polite
def dense_prefill(scale):
    lib = operations()
    last = {}  # the harness keeps this function for all of its sizes; an older size's step would keep its memory

    def attend(q, k, v):
        no_gradients(q, k, v)
        key = key_of(q, k, v)
        if key not in last:
            last.clear()
            sequences = q.shape[0] if q.dim() == 4 else 1
            last[key] = over_rows(lib, q, k, None, v, torch.arange(sequences + 1) * q.shape[-3], scale)
        return last[key]()
    return {PREFIX: attend}


@polite
def dense_prefill_kv_up(q, kv, k_rope, cu, lengths, scale):
    """Keys and values where kv-up wrote them: no copy of either, and none of the rotated key."""
    no_gradients(q, kv, k_rope)
    return {PREFIX: over_rows(operations(), q, kv[..., :NOPE], k_rope[:, None], kv[..., NOPE:], cu, scale)}


@polite
def dense_prefill_dims(q, k, v, cu, lengths, scale):
    no_gradients(q, k, v)
    return {PREFIX: over_rows(operations(WIDTHS[q.shape[-1], v.shape[-1]]), q, k, None, v, cu, scale)}


@polite
def chunked_prefill(q, cache, table, cached, latents, k_rope, w_kv, scale):
    """All cached tokens at a time: room for the keys and values of all tokens, and no merge. The weight is that of a linear layer, made outside of
    the timing."""
    no_gradients(q, cache, latents, k_rope, w_kv)
    out = q.new_empty(*q.shape[:-1], w_kv.shape[1] // q.shape[1] - NOPE)
    blocks, kept = host_array(table, torch.int32, ctypes.c_uint32)
    arguments = [q, cache, blocks, ctypes.c_int64(len(table)), ctypes.c_int64(cached), latents, k_rope, w_kv.t().contiguous(),
                 ctypes.c_int64(max(cached, 1)), ctypes.c_double(scale), out]
    return {PREFIX: operations().step("mla_step_attend_chunked", arguments, out)}


@polite
def mqa_logits(q, k, k_scale, weights, start, end):
    """Queries and keys in fp8; a query's scale is in its weights."""
    out = torch.empty(q.shape[0], k.shape[0], device=q.device, dtype=torch.float32)
    starts, kept_starts = host_array(start, torch.int64, ctypes.c_int64)
    ends, kept_ends = host_array(end, torch.int64, ctypes.c_int64)
    arguments = [q, k, k_scale, weights, starts, ends, ctypes.c_double(1), out]
    return {PREFIX: operations(INDEXER).step("mla_step_index_logits", arguments, out)}


@polite
def paged_mqa_logits(q, cache, weights, lens, table):
    """The same over pages of codes with their scales behind them; all requests have room for as many keys."""
    requests, new, heads, _ = q.shape
    page = cache[0].numel() // (q.shape[-1] + 4)
    out = torch.empty(requests * new, table.shape[1] * page, device=q.device, dtype=torch.float32)
    blocks, kept_blocks = host_array(table, torch.int32, ctypes.c_uint32)
    # A request's last new token sees all of its keys
    lengths, kept_lengths = host_array(lens.view(requests, -1)[:, -1], torch.int64, ctypes.c_int64)
    arguments = [q, cache, weights.view(requests, new, heads), blocks, ctypes.c_int64(table.shape[1]), lengths, ctypes.c_double(1), out]
    return {PREFIX: operations(INDEXER).step("mla_step_index_logits_paged", arguments, out)}


@polite
def topk(logits, ends, k):
    lib = operations()
    pointer, kept = host_array(ends, torch.int64, ctypes.c_int64)

    def over(scores):
        out = torch.empty(scores.shape[0], k, device=scores.device, dtype=torch.int32)
        return lib.step("mla_step_topk", [scores, pointer, None, ctypes.c_int64(0), ctypes.c_int64(0), out], out)
    return {PREFIX: [over(scores) for scores in logits]}


@polite
def layer(module, pos):
    """Hugging Face's module with plain rope, its weights copied. Positions count from 0, as `pos` was made."""
    lib = library("deepseek-v3-plain.so")
    if lib is None:
        raise LookupError("no library of the layer")
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    named = (NamedTensor * len(weights))(*(NamedTensor(name.encode(), Tensor.of(weight)) for name, weight in weights.items()))
    handle = ctypes.c_void_p()
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    lib.call("mla_layer_from_tensors", lib.device, named, ctypes.c_int64(len(weights)), stream, ctypes.byref(handle))
    last = {}

    def forward(x):
        no_gradients(x)
        key = key_of(x)
        if key not in last:
            last.clear()
            out = torch.empty_like(x)
            positions, kept = host_array(torch.arange(x.shape[-2]), torch.int32, ctypes.c_uint32)
            arguments = [x, positions, None, ctypes.c_int64(0), out]
            last[key] = lib.step("mla_step_forward", arguments, out, of=handle)
        return last[key]()
    return {PREFIX: forward}


# ---- Backward passes: hooks of benches/peers/prefill.py ----

class RowsBackward:
    """Gradients of attention over rows, of which the forward pass has run. Called, it returns them as `gives` has them."""

    def __init__(self, lib, operands, cu, scale, d_out, gradients, gives, deterministic):
        q, v = operands[0], operands[3]
        out, lse = q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=torch.float32)
        ends, kept = host_array(cu, torch.int32, ctypes.c_uint32)
        asked = [*operands, ends, ctypes.c_int64(len(cu) - 1), ctypes.c_double(scale), flag(True)]
        lib.step("mla_step_attend_rows_lse", [*asked, out, lse], out)()
        arguments = [*asked, out, lse, d_out, flag(deterministic), *gradients]
        self.step, self.gives = lib.step("mla_step_attend_rows_backward", arguments, gradients[0]), gives

    def __call__(self):
        self.step()
        return self.gives


def both_orders(backward):
    """Added up in whatever order is the fastest, and in the same order in every run."""
    return {PREFIX: backward(False), PREFIX + " deterministic": backward(True)}


@polite
def dense_prefill_kv_up_backward(q, kv, k_rope, cu, lengths, scale, d_out):
    lib = operations()

    def backward(deterministic):
        d_q, d_kv, d_k_rope = torch.empty_like(q), torch.empty_like(kv), torch.empty_like(k_rope, dtype=torch.float32)
        operands = [q, kv[..., :NOPE], k_rope[:, None], kv[..., NOPE:]]
        gradients = [d_q, d_kv[..., :NOPE], d_k_rope[:, None], d_kv[..., NOPE:]]
        return RowsBackward(lib, operands, cu, scale, d_out, gradients, (d_q, d_kv, d_k_rope), deterministic)
    return both_orders(backward)


@polite
def dense_prefill_dims_backward(q, k, v, cu, lengths, scale, d_out):
    lib = operations(WIDTHS[q.shape[-1], v.shape[-1]])

    def backward(deterministic):
        d_q, d_k, d_v = map(torch.empty_like, (q, k, v))
        gradients = [d_q, d_k, None, d_v]
        return RowsBackward(lib, [q, k, None, v], cu, scale, d_out, gradients, (d_q, d_k, d_v), deterministic)
    return both_orders(backward)


# ---- Whole layers over a cache, and what stands between their products: hooks of benches/peers/layer.py ----

# Last: they are made of what is above
from ours_layers import layer_decode, layer_prefill, layer_v32_decode, layer_v32_prefill  # noqa: E402, F401
from ours_small import small, small_index  # noqa: E402, F401
