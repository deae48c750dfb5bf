"""Calls the library of `shared.rs` as a C program would, on the host emulating a GPU, whose memory is the host's."""
import ctypes
import random
import sys

HIDDEN, HEADS, LATENT, NOPE, ROPE, VALUE, PAGE = 24, 2, 8, 6, 4, 5, 4
ROWS = 6
SHAPES = {
    "q_proj.weight": (HEADS * (NOPE + ROPE), HIDDEN),
    "kv_a_proj_with_mqa.weight": (LATENT + ROPE, HIDDEN),
    "kv_a_layernorm.weight": (LATENT,),
    "kv_b_proj.weight": (HEADS * (NOPE + VALUE), LATENT),
    "o_proj.weight": (HIDDEN, HEADS * VALUE),
}


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int32), ("rank", ctypes.c_int32),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64))]


class NamedTensor(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("tensor", Tensor)]


class Batch(ctypes.Structure):
    _fields_ = [("requests", ctypes.c_int64), ("cached", ctypes.POINTER(ctypes.c_int64)), ("added", ctypes.POINTER(ctypes.c_int64)),
                ("block_counts", ctypes.POINTER(ctypes.c_int64)), ("blocks", ctypes.POINTER(ctypes.c_uint32)),
                ("positions", ctypes.POINTER(ctypes.c_uint32))]


class Description(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("hidden_size", ctypes.c_int64), ("dtype", ctypes.c_int32), ("phases", ctypes.c_uint32)]


def numbers(count):
    return (ctypes.c_float * count)(*(random.uniform(-1, 1) for _ in range(count)))


def tensor(values, *shape):
    return Tensor(ctypes.addressof(values), 0, len(shape), (ctypes.c_int64 * len(shape))(*shape), None)


def rows(values, first, count):
    part = (ctypes.c_float * (count * HIDDEN))
    return part(*values[first * HIDDEN:(first + count) * HIDDEN])


def near(found, wanted):
    assert len(found) == len(wanted)
    assert all(abs(a - b) < 1e-4 for a, b in zip(found, wanted)), list(zip(found, wanted))[:5]


def main():
    random.seed(0)
    lib = ctypes.CDLL(sys.argv[1])
    lib.mla_last_error.restype = ctypes.c_char_p

    def call(name, *arguments):
        status = getattr(lib, name)(*arguments)
        assert status == 0, f"{name}: {lib.mla_last_error().decode()}"

    said = Description()
    call("mla_describe", ctypes.byref(said))
    assert (said.name, said.hidden_size, said.dtype, said.phases) == (b"ForC", HIDDEN, 0, 15)

    device, layer, cache, step = (ctypes.c_void_p() for _ in range(4))
    call("mla_device_open", ctypes.c_int32(-1), ctypes.byref(device))
    weights = {name: numbers(shape[0] * (shape[1] if len(shape) > 1 else 1)) for name, shape in SHAPES.items()}
    named = (NamedTensor * len(SHAPES))(*(NamedTensor(name.encode(), tensor(weights[name], *shape)) for name, shape in SHAPES.items()))
    call("mla_layer_from_tensors", device, named, ctypes.c_int64(len(SHAPES)), None, ctypes.byref(layer))

    # All rows at once
    hidden, whole = numbers(ROWS * HIDDEN), numbers(ROWS * HIDDEN)
    x, y = tensor(hidden, ROWS, HIDDEN), tensor(whole, ROWS, HIDDEN)
    positions = (ctypes.c_uint32 * ROWS)(*range(ROWS))
    call("mla_forward", layer, None, ctypes.byref(x), positions, None, ctypes.c_int64(0), ctypes.byref(y))

    # The same through a cache: a prompt, then a step of one token, which is written down
    call("mla_cache_new", device, ctypes.c_int64(3), ctypes.c_int64(PAGE), ctypes.byref(cache))
    one, blocks = ctypes.c_int64 * 1, (ctypes.c_uint32 * 2)(2, 0)

    def batch(cached, added):
        return Batch(1, one(cached), one(added), one(2), blocks, None)
    prompt, out = rows(hidden, 0, ROWS - 1), numbers((ROWS - 1) * HIDDEN)
    x, y = tensor(prompt, ROWS - 1, HIDDEN), tensor(out, ROWS - 1, HIDDEN)
    call("mla_prefill", layer, cache, None, ctypes.byref(batch(0, ROWS - 1)), ctypes.byref(x), ctypes.byref(y))
    near(out[:], whole[:(ROWS - 1) * HIDDEN])
    last, out = (ctypes.c_float * HIDDEN)(), numbers(HIDDEN)
    x, y = tensor(last, 1, HIDDEN), tensor(out, 1, HIDDEN)
    call("mla_step_decode", layer, cache, ctypes.byref(batch(ROWS - 1, 1)), ctypes.byref(x), ctypes.byref(y), ctypes.byref(step))
    last[:] = hidden[(ROWS - 1) * HIDDEN:]
    call("mla_step_run", step, None)
    near(out[:], whole[(ROWS - 1) * HIDDEN:])

    # One batch in two forms: the last token behind a prompt, and all of them at once
    other, two, prompt = ctypes.c_void_p(), ctypes.c_int64 * 2, rows(hidden, 0, ROWS - 1)
    call("mla_cache_new", device, ctypes.c_int64(4), ctypes.c_int64(PAGE), ctypes.byref(other))
    out = numbers((ROWS - 1) * HIDDEN)
    x, y = tensor(prompt, ROWS - 1, HIDDEN), tensor(out, ROWS - 1, HIDDEN)
    call("mla_mixed", layer, other, None, ctypes.byref(batch(0, ROWS - 1)), ctypes.byref(x), ctypes.byref(y))
    near(out[:], whole[:(ROWS - 1) * HIDDEN])
    both = Batch(2, two(ROWS - 1, 0), two(1, ROWS), two(2, 2), (ctypes.c_uint32 * 4)(2, 0, 3, 1), None)
    mixed, out = rows(hidden[(ROWS - 1) * HIDDEN:] + hidden[:], 0, ROWS + 1), numbers((ROWS + 1) * HIDDEN)
    x, y = tensor(mixed, ROWS + 1, HIDDEN), tensor(out, ROWS + 1, HIDDEN)
    call("mla_mixed", layer, other, None, ctypes.byref(both), ctypes.byref(x), ctypes.byref(y))
    near(out[:], whole[(ROWS - 1) * HIDDEN:] + whole[:])
    call("mla_cache_free", other)

    # What is wrong is named
    assert lib.mla_forward(layer, None, None, positions, None, ctypes.c_int64(0), ctypes.byref(y)) == 1
    assert b"`hidden`: is null" in lib.mla_last_error()

    for function, handle in [("mla_step_free", step), ("mla_cache_free", cache), ("mla_layer_free", layer), ("mla_device_free", device)]:
        call(function, handle)


main()
