"""A layer of DeepSeek's dimensions with random weights, and requests whose tokens are partly in a cache.

Sizes are this module's, so that a rehearsal can shrink them before anything is made.
"""
import functools
import math

import harness  # noqa: F401 first: it finds the harness's modules

import torch
import torch.nn.functional as F

import attn
from common import BF16, dev, randn

HIDDEN, HEADS, Q_LORA, LATENT, NOPE, ROPE, VALUE = 7168, 128, 1536, 512, 128, 64, 128
INDEX_HEADS, INDEX_WIDTH, TOPK = 64, 128, 2048
PAGE, EPS, BLOCK = 64, 1e-6, 128
ENTRY_BYTES, KEY_BYTES = 656, INDEX_WIDTH + 4
POOL = 8192  # hidden states that requests' earlier tokens are drawn from
# YaRN as DeepSeek-V3 has it: its cosines are not scaled, its softmax scale is
FACTOR, ORIGINAL, FAST, SLOW, THETA = 40.0, 4096, 32.0, 1.0, 10000.0
SCALE = (NOPE + ROPE) ** -0.5 * (0.1 * math.log(FACTOR) + 1) ** 2
FP8 = torch.float8_e4m3fn


def frequencies():
    """YaRN's angle for each pair and position step, in f64."""
    plain = THETA ** (-torch.arange(0, ROPE, 2, dtype=torch.float64) / ROPE)

    def pair_of(turns):
        return ROPE * math.log(ORIGINAL / (turns * 2 * math.pi)) / (2 * math.log(THETA))
    low, high = max(math.floor(pair_of(FAST)), 0), min(math.ceil(pair_of(SLOW)), ROPE - 1)
    kept = 1 - ((torch.arange(ROPE // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    return plain * kept + plain / FACTOR * (1 - kept)


def cos_sin(positions):
    """[positions, 64] in f32: cosines, then sines."""
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies()
    return torch.cat([angles.cos(), angles.sin()], -1).float().to(dev)


def rotated_pairs(x, table):
    """Rotates (2i, 2i + 1), as the layer does; `table` has a row for each row of x [rows, (heads,) 64]."""
    cos, sin = table.view(len(x), *[1] * (x.dim() - 2), ROPE).chunk(2, -1)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def rotated_halves(x, table):
    """Rotates (i, i + 32) of the first 64 columns, as the indexer does."""
    cos, sin = table.view(len(x), *[1] * (x.dim() - 2), ROPE).chunk(2, -1)
    a, b = x[..., :ROPE // 2], x[..., ROPE // 2:ROPE]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., ROPE:]], -1)


def block_codes(w):
    """Codes of e4m3 and a scale for each 128 x 128 of them, as DeepSeek's checkpoints have weights."""
    rows, columns = w.shape
    padded = F.pad(w.float(), (0, -columns % BLOCK, 0, -rows % BLOCK)).unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))
    scales = padded.abs().amax((1, 3)).clamp_min(1e-4) / 448
    codes = (padded / scales[:, None, :, None]).to(FP8).flatten(2).flatten(0, 1)
    return codes[:rows, :columns].contiguous(), scales


def block_values(codes, scales):
    rows, columns = codes.shape
    return codes.float() * scales.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]


def nbytes(matrix):
    return sum(part.nbytes for part in matrix) if isinstance(matrix, tuple) else matrix.nbytes


class Weights:
    """`named`: as a checkpoint names them. `matrix`: as an engine multiplies by them, in bf16 or as (codes, scales). `value`: in f32, for checks."""

    def __init__(self, named):
        self.named, self.matrix = named, {
            "down": torch.cat([named["q_a_proj.weight"], named["kv_a_proj_with_mqa.weight"]]),
            "q_b": named["q_b_proj.weight"], "kv_b": named["kv_b_proj.weight"], "o": named["o_proj.weight"]}
        if "indexer.wk.weight" in named:
            self.matrix["index_q"] = named["indexer.wq_b.weight"]
            self.matrix["index_down"] = torch.cat([named["indexer.wk.weight"], named["indexer.weights_proj.weight"]])
        self.absorb(named["kv_b_proj.weight"])

    def absorb(self, kv_b):
        by_head = kv_b.view(HEADS, NOPE + VALUE, LATENT)
        self.keys_up, self.values_up = by_head[:, :NOPE].contiguous(), by_head[:, NOPE:].transpose(1, 2).contiguous()

    def value(self, name):
        return self.named[name].float()

    def copied(self):
        """The same in other memory, which the L2 does not hold."""
        other = object.__new__(type(self))
        other.__dict__ = self.__dict__ | dict(
            matrix={name: tuple(x.clone() for x in m) if isinstance(m, tuple) else m.clone() for name, m in self.matrix.items()},
            keys_up=self.keys_up.clone(), values_up=self.values_up.clone())
        return other

    def floor(self, expanded=False):
        """Bytes that a step has to read: the up projection as it is, or absorbed."""
        up = nbytes(self.matrix["kv_b"]) if expanded else self.keys_up.nbytes + self.values_up.nbytes
        return up + sum(nbytes(m) for name, m in self.matrix.items() if name != "kv_b")


class CodedWeights(Weights):
    """The same in fp8, but for the absorbed matrices and the indexer's narrow one, which engines keep in bf16."""

    def __init__(self, plain):
        self.matrix = {name: m if name == "index_down" else block_codes(m) for name, m in plain.matrix.items()}
        sources = {"q_a_proj": ("down", 0, Q_LORA), "kv_a_proj_with_mqa": ("down", Q_LORA, None), "q_b_proj": ("q_b", 0, None),
                   "kv_b_proj": ("kv_b", 0, None), "o_proj": ("o", 0, None), "indexer.wq_b": ("index_q", 0, None)}
        self.named = dict(plain.named)
        for name, (matrix, first, end) in sources.items():
            if matrix in self.matrix:
                codes, scales = self.matrix[matrix]
                self.named[name + ".weight"] = codes[first:end]
                self.named[name + ".weight_scale_inv"] = scales[first // BLOCK:end and end // BLOCK]
        self.absorb(self.value("kv_b_proj.weight").to(BF16))

    def value(self, name):
        scales = self.named.get(name + "_scale_inv")
        return self.named[name].float() if scales is None else block_values(self.named[name], scales)


def weights(sparse=False, coded=False):
    """A layer's, with an indexer or without; the same in every call."""
    return weights_made(sparse, coded)


@functools.cache
def weights_made(sparse, coded):
    if coded:
        return CodedWeights(weights(sparse))
    shapes = {"q_a_proj": (Q_LORA, HIDDEN), "kv_a_proj_with_mqa": (LATENT + ROPE, HIDDEN), "q_b_proj": (HEADS * (NOPE + ROPE), Q_LORA),
              "kv_b_proj": (HEADS * (NOPE + VALUE), LATENT), "o_proj": (HIDDEN, HEADS * VALUE)}
    norms = {"q_a_layernorm.weight": Q_LORA, "kv_a_layernorm.weight": LATENT}
    if sparse:
        shapes |= {"indexer.wq_b": (INDEX_HEADS * INDEX_WIDTH, Q_LORA), "indexer.wk": (INDEX_WIDTH, HIDDEN),
                   "indexer.weights_proj": (INDEX_HEADS, HIDDEN)}
        norms |= {"indexer.k_norm.weight": INDEX_WIDTH}
    # Scaled so that what a matrix gives has the size of what it takes
    named = {name + ".weight": randn(*shape) * shape[1] ** -0.5 for name, shape in shapes.items()}
    named |= {name: 1 + randn(width) * 0.1 for name, width in norms.items()}
    if sparse:
        named["indexer.k_norm.bias"] = randn(INDEX_WIDTH) * 0.1
    return Weights(named)


def rms_norm(x, weight):
    return F.rms_norm(x, weight.shape, weight, EPS)


def latents_and_keys(w, hidden):
    """In f32: normed latents, and shared keys that are yet to be rotated."""
    down = hidden.float() @ w.value("kv_a_proj_with_mqa.weight").T
    return rms_norm(down[:, :LATENT], w.value("kv_a_layernorm.weight")), down[:, LATENT:]


def index_keys(w, hidden):
    """The indexer's keys in f32, yet to be rotated."""
    return F.layer_norm(hidden.float() @ w.value("indexer.wk.weight").T, (INDEX_WIDTH,), w.value("indexer.k_norm.weight"),
                        w.value("indexer.k_norm.bias"), EPS)


def codes_and_scales(lines):
    """An indexer's keys or queries as codes, a power of two for each."""
    scales = torch.exp2((lines.abs().amax(-1).clamp_min(1e-4) / 448).log2().ceil())
    return (lines / scales[..., None]).to(FP8), scales


def rounded(lines):
    """What codes of them say."""
    codes, scales = codes_and_scales(lines)
    return codes.float() * scales[..., None]


def key_codes(keys):
    """Pages of an index cache, [pages, page * 132] bytes: a page's codes, then its scales."""
    codes, scales = codes_and_scales(keys.view(-1, PAGE, INDEX_WIDTH))
    return torch.cat([codes.view(torch.uint8).flatten(1), scales.contiguous().view(torch.uint8)], 1)


def key_values(pages):
    """The keys of some pages in f32, [keys, 128]."""
    codes = pages[:, :PAGE * INDEX_WIDTH].contiguous().view(FP8).float().view(len(pages), PAGE, INDEX_WIDTH)
    return (codes * pages[:, PAGE * INDEX_WIDTH:].contiguous().view(torch.float32)[..., None]).flatten(0, 1)


class Workload:
    """Requests of as many cached and new tokens each. Token t of request r that is cached has the hidden state pool[(t + shifts[r]) % POOL]."""

    def __init__(self, w, requests, cached, new, coded=False):
        self.w, self.requests, self.cached, self.new, self.coded = w, requests, cached, new, coded
        self.rows, self.total = requests * new, cached + new
        self.sparse = "index_q" in w.matrix
        self.hidden, self.pool = randn(self.rows, HIDDEN), randn(POOL, HIDDEN)
        self.shifts = [61 * r % POOL for r in range(requests)]
        each = math.ceil(self.total / PAGE)
        self.pages, self.longest = requests * each, each * PAGE
        self.table = torch.randperm(self.pages, device=dev, dtype=torch.int32).view(requests, each)
        self.angles = cos_sin(self.longest)
        self.cos_sin = self.angles.to(BF16)
        own = torch.arange(cached, self.total, device=dev)
        self.positions = own.repeat(requests)
        self.slots = (self.table[:, own // PAGE].long() * PAGE + own % PAGE).flatten()
        self.lens = torch.full((requests,), self.total, device=dev, dtype=torch.int32)
        self.fill()

    def fill(self):
        """Caches, as engines lay them out, of what f32 makes of the cached tokens' hidden states."""
        width = (ENTRY_BYTES, torch.uint8) if self.coded else (LATENT + ROPE, BF16)
        self.cache = torch.zeros(self.pages, PAGE, width[0], device=dev, dtype=width[1])
        latents, keys = latents_and_keys(self.w, self.pool)
        if self.sparse:
            self.index = torch.zeros(self.pages, PAGE * KEY_BYTES, device=dev, dtype=torch.uint8)
            index = index_keys(self.w, self.pool)
        for request, shift in enumerate(self.shifts):
            at = (torch.arange(self.longest, device=dev) + shift) % POOL
            pages = self.table[request].long()
            entries = torch.cat([latents[at], rotated_pairs(keys[at], self.angles)], -1).to(BF16).view(-1, PAGE, LATENT + ROPE)
            self.cache[pages] = attn.pack656(entries[:, :, None])[:, :, 0] if self.coded else entries
            if self.sparse:
                self.index[pages] = key_codes(rotated_halves(index[at], self.angles))

    def entries(self, request):
        """What is cached of a request, in f32."""
        own = self.cache[self.table[request].long()].flatten(0, 1)[:self.cached]
        return attn.unpack656(own) if self.coded else own.float()

    def keys(self, request):
        return key_values(self.index[self.table[request].long()])[:self.cached]

    def written(self):
        """What is in the new tokens' slots, in f32."""
        own = self.cache.view(-1, self.cache.shape[-1])[self.slots]
        return attn.unpack656(own) if self.coded else own.float()

    def written_keys(self):
        pages, at = self.index[self.slots // PAGE], (torch.arange(self.rows, device=dev), self.slots % PAGE)
        codes = pages[:, :PAGE * INDEX_WIDTH].contiguous().view(FP8).view(self.rows, PAGE, INDEX_WIDTH)
        scales = pages[:, PAGE * INDEX_WIDTH:].contiguous().view(torch.float32)
        return codes.view(torch.uint8)[at].view(FP8).float() * scales[at][:, None]

    def copied(self):
        """The same with its cache in other memory, where the L2 would hold it."""
        other = object.__new__(type(self))
        other.__dict__ = dict(self.__dict__)
        if self.cache.nbytes < 200e6:
            other.cache = self.cache.clone()
        return other

    def hook(self):
        return dict(weights=self.w.named, hidden=self.hidden, pool=self.pool, shifts=self.shifts, cached=self.cached, new=self.new,
                    table=self.table, coded_cache=self.coded)
