"""Writes fixtures/: what PyTorch makes of the values that main.rs makes too. Run by hand; needs torch >= 2.7.

Each `<format>.bin` is the memory of a cache of two blocks of two tokens, in which three tokens were written to slots 2, 0, 3
of zeros. `decoded.txt` has per format and token the sum over i of (i + 1) * decoded value i, added up in that order in f64.
`codes.bin` holds the e4m3 and e5m2 codes of 4096 numbers, clamped first, and `values.bin` the values of all codes as f32.
"""
import pathlib, struct, sys
import numpy as np, torch

OUT = pathlib.Path(__file__).parent / "fixtures"
SLOTS, PAGE, BLOCKS = [2, 0, 3], 2, 2
e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2


def values(token, width):
    """±m·1025·2^e, m of 8 bits: not exact in bf16; zeros, tiny and large runs in the second and third token."""
    out = []
    for i in range(width):
        k = token * 1000 + i
        v = (128 + (k * 37 + 11) % 128) * 1025 * 2.0 ** ((k * 13 + token) % 12 - 23)
        if k * 7 % 5 < 2:
            v = -v
        if token == 1 and i < 128:
            v = 0.0
        elif token == 1 and i < 192:
            v *= 2.0 ** -20
        elif token == 2 and i < 128:
            v *= 2.0 ** 12
        out.append(v)
    return torch.tensor(out, dtype=torch.float32)


def cast(x, dtype):
    top = torch.finfo(dtype).max
    return x.clamp(-top, top).to(dtype)


def raw(t):
    return t.contiguous().view(torch.uint8).numpy().tobytes()


def ceil_power(x):
    """2^ceil(log2 x), by frexp: x = m·2^e with 1/2 <= m < 1."""
    m, e = torch.frexp(x)
    return torch.ldexp(torch.ones(()), e - (m == 0.5).int())


def ue8m0(scale):
    return raw(scale.reshape(1).to(torch.float8_e8m0fnu))


def groups(x, n):
    return [x[i : i + n] for i in range(0, len(x), n)]


def quantised(x, scale):
    code = cast(x / scale, e4m3)
    return raw(code), code.float() * scale


def power_e4m3(x, n):
    """Codes, ue8m0 bytes and decoded values, one scale per n."""
    codes, scales, decoded = b"", b"", []
    for g in groups(x, n):
        scale = ceil_power((g.abs().max() / 448).clamp(min=1e-4))
        c, d = quantised(g, scale)
        codes, scales = codes + c, scales + ue8m0(scale)
        decoded.append(d)
    return codes, scales, torch.cat(decoded)


def flat(dtype, k_scale):
    def entry(latent, rope):
        code = cast(torch.cat([latent, rope]) / k_scale, dtype)
        return raw(code), b"", code.float() * k_scale
    return entry


def ds_mla(power):
    def entry(latent, rope):
        codes, scales, decoded = b"", b"", []
        for g in groups(latent, 128):
            s = g.abs().max() / 448
            s = ceil_power(s.clamp(min=1e-4)) if power else s.clamp(min=torch.finfo(torch.float32).tiny)
            c, d = quantised(g, s)
            codes, scales = codes + c, scales + raw(s.reshape(1))
            decoded.append(d)
        tail = rope.bfloat16()
        pad = b"\0" * (128 if len(rope) == 0 else 0)
        return codes + scales + raw(tail) + pad, b"", torch.cat(decoded + [tail.float()])
    return entry


def model1(latent, rope):
    codes, scales, decoded = power_e4m3(latent, 64)
    tail = rope.bfloat16()
    return codes + raw(tail), scales + b"\0" * (-len(scales) % 8), torch.cat([decoded, tail.float()])


def mxfp8(latent, rope):
    codes, scales, decoded = power_e4m3(torch.cat([latent, rope]), 32)
    return codes + scales, b"", decoded


def index_fp8(power):
    def entry(key, _):
        amax = key.abs().max()
        s = ceil_power(amax.clamp(min=1e-10) / 448) if power else amax.clamp(min=1e-4) / 448
        c, d = quantised(key, s)
        return c, raw(s.reshape(1)), d
    return entry


E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def e2m1(v):
    """Nearest, ties to the even code."""
    code = min(range(8), key=lambda c: (abs(E2M1[c] - min(abs(v), 6.0)), c & 1))
    return code | (8 if np.signbit(v) else 0)


def mxfp4(key, _):
    codes, scales, decoded = [], b"", []
    for g in groups(key, 32):
        s = ceil_power(g.abs().max().clamp(min=1e-4) / 6)
        c = [e2m1(v) for v in (g / s).tolist()]
        codes += [a | b << 4 for a, b in zip(c[::2], c[1::2])]
        scales += ue8m0(s)
        decoded += [E2M1[x & 7] * (-1 if x & 8 else 1) * s.item() for x in c]
    return bytes(codes), scales, torch.tensor(decoded, dtype=torch.float32)


def cache(entry, latent, rope, multiple=1):
    blocks, sums = None, []
    for token, slot in enumerate(SLOTS):
        v = values(token, latent + rope)
        data, scales, decoded = entry(v[:latent], v[latent:])
        if blocks is None:
            size = -(-PAGE * (len(data) + len(scales)) // multiple) * multiple
            blocks = [bytearray(size) for _ in range(BLOCKS)]
        block, at = blocks[slot // PAGE], slot % PAGE
        block[at * len(data) : (at + 1) * len(data)] = data
        start = PAGE * len(data) + at * len(scales)
        block[start : start + len(scales)] = scales
        total = 0.0
        for i, x in enumerate(decoded.tolist()):
            total += (i + 1) * x
        sums.append(total)
    return b"".join(blocks), sums


FORMATS = {
    "plain_bf16": (lambda l, r: (raw(torch.cat([l, r]).bfloat16()), b"", torch.cat([l, r]).bfloat16().float()), 512, 64, 1),
    "fp8_e4m3": (flat(e4m3, 0.25), 512, 64, 1),
    "fp8_e5m2": (flat(e5m2, 0.25), 512, 64, 1),
    "fp8_ds_mla": (ds_mla(False), 512, 64, 1),
    "fp8_ds_mla_ue8m0": (ds_mla(True), 512, 64, 1),
    "fp8_ds_mla_nope": (ds_mla(False), 512, 0, 1),
    "fp8_model1": (model1, 448, 64, 576),
    "mxfp8": (mxfp8, 448, 64, 1),
    "index_fp8": (index_fp8(False), 128, 0, 1),
    "index_fp8_ue8m0": (index_fp8(True), 128, 0, 1),
    "index_mxfp4": (mxfp4, 128, 0, 1),
}


def numbers(count):
    """Floats with exponents from -20 to 19 and all kinds of mantissas."""
    k = np.arange(count, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(1 << 32)
    bits = (k >> np.uint64(31) << np.uint64(31)) | ((k >> np.uint64(23)) % np.uint64(40) + np.uint64(107) << np.uint64(23)) | (k % np.uint64(1 << 23))
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32).copy())


OUT.mkdir(exist_ok=True)
lines = []
for name, (entry, latent, rope, multiple) in FORMATS.items():
    data, sums = cache(entry, latent, rope, multiple)
    (OUT / f"{name}.bin").write_bytes(data)
    lines.append(" ".join([name] + [repr(s) for s in sums]))
(OUT / "decoded.txt").write_text("\n".join(lines) + "\n")
x = numbers(4096)
(OUT / "codes.bin").write_bytes(raw(cast(x, e4m3)) + raw(cast(x, e5m2)))
every = torch.arange(256, dtype=torch.int32).to(torch.uint8)
(OUT / "values.bin").write_bytes(raw(every.view(e4m3).float()) + raw(every.view(e5m2).float()))
