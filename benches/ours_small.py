"""The pass over rows in front of attention, and the rotation of queries, beside the kernels that engines have for them: hooks of `peers/layer.py`, which
`ours.py` offers as its own.

Both are kernels of a layer's own, and the C ABI has no operation for them alone, so they are launched as they are: compiled ahead of time by
`mla-gen build SPEC --cubin`, `prologue_*.cubin` and `rotate_*.cubin` of the folder that `ours.py` takes libraries from.
"""
import ctypes
import struct

import torch

import ours as abi

THREADS = 128
HEADS, QUERIES, LATENT, ROPE, NOPE, KEY = 128, 1536, 512, 64, 128, 128
PAIRS = ROPE // 2
NUMBERS, INDEX_FP8_POWERS = 0, 8  # as `stores.cuh` counts them
PAGE, SCALE_BYTES = 64, 4
EPS = 1e-6


class Kernel:
    """A kernel of a file that was compiled ahead of time."""

    def __init__(self, name):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        code = next(abi.FOLDER.glob(f"{name}.*.cubin"), None)
        if code is None:
            raise LookupError(f"no {name}.*.cubin in {abi.FOLDER}")
        code = code.read_bytes()
        self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        self.checked(self.cuda.cuModuleLoadData(ctypes.byref(self.module), code))
        self.checked(self.cuda.cuModuleGetFunction(ctypes.byref(self.function), self.module, name.encode()))

    @staticmethod
    def checked(status):
        if status:
            raise RuntimeError(f"the driver says {status}")

    def __call__(self, blocks, arguments):
        held = ctypes.create_string_buffer(arguments, len(arguments))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(held))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self.checked(self.cuda.cuLaunchKernel(self.function, *blocks, THREADS, 1, 1, 0, stream, pointers, None))


def window(x):
    """`Window` of rows of one head."""
    return struct.pack("<QqqqII", x.data_ptr(), x.shape[0], x.stride(0), 0, 1, x.shape[1])


def normed(x, gamma, beta=None):
    return window(x) + struct.pack("<QQd", gamma.data_ptr(), 0 if beta is None else beta.data_ptr(), EPS)


def turn(cos, sin, half):
    return struct.pack("<QQiiii", cos.data_ptr(), sin.data_ptr(), PAIRS, 0, half, half)


def store(memory, slots, page, block_bytes, data, scales):
    count = memory.nbytes // block_bytes * page
    return struct.pack("<QQqqqqqd", memory.data_ptr(), slots.data_ptr(), count, page, block_bytes, data, scales, 1.0)


NOTHING = {"normed": bytes(64), "turn": bytes(32), "store": bytes(64)}


class Small:
    """Both kernels over the tensors of a case."""

    def __init__(self, w_q, w_kv, cos_sin, slots, cache, w_k=None, b_k=None, index=None):
        key_width, key_store = (0, NUMBERS) if index is None else (KEY, INDEX_FP8_POWERS)
        self.prologue = Kernel(f"prologue_{QUERIES}_{LATENT}_{ROPE}_{NUMBERS}_{key_width}_{key_store}")
        self.rotate = Kernel(f"rotate_{NOPE + ROPE}_{NOPE}_{PAIRS}_0_0")
        self.weights, self.norm_of_keys, self.index = (w_q, w_kv), (w_k, b_k), index
        self.cos, self.sin = (part.float().contiguous() for part in cos_sin.chunk(2, -1))
        self.slots, self.cache = slots.long().contiguous(), cache
        self.out = torch.empty(len(slots), QUERIES, device=slots.device, dtype=torch.bfloat16)
        entry = cache.element_size() * cache.shape[-1]
        self.entries = store(cache, self.slots, 1, entry, entry, 0)
        # Codes of a page's keys stand before their scales
        self.keys = NOTHING["store"] if index is None else store(index, self.slots, PAGE, PAGE * (KEY + SCALE_BYTES), KEY, SCALE_BYTES)

    def __call__(self, a, q, key=None):
        rows, (w_q, w_kv) = a.shape[0], self.weights
        latent, rope = a[:, QUERIES:QUERIES + LATENT], a[:, QUERIES + LATENT:]
        arguments = normed(a[:, :QUERIES], w_q) + normed(latent, w_kv)
        arguments += NOTHING["normed"] if key is None else normed(key, *self.norm_of_keys)
        arguments += window(rope) + turn(self.cos, self.sin, 0)
        arguments += NOTHING["turn"] if key is None else turn(self.cos, self.sin, 1)
        arguments += self.entries + self.keys + struct.pack("<QQQq", self.out.data_ptr(), 0, 0, 0)
        self.prologue((rows, 2 if key is None else 3, 1), arguments)
        lines = rows * HEADS
        turning = struct.pack("<QQQqqq", q.data_ptr(), self.cos.data_ptr(), self.sin.data_ptr(), lines, HEADS, 0)
        self.rotate((lines * (PAIRS // 4) // THREADS, 1, 1), turning)
        return self.out


@abi.polite
def small(w_q, w_kv, cos_sin, positions, slots, cache):
    """Positions count from 0, as `cos_sin` was made."""
    return {abi.PREFIX: Small(w_q, w_kv, cos_sin, slots, cache)}


@abi.polite
def small_index(w_q, w_kv, cos_sin, positions, slots, cache, w_k, b_k, index):
    return {abi.PREFIX: Small(w_q, w_kv, cos_sin, slots, cache, w_k, b_k, index)}
