"""Kernels that a serving engine makes a layer of, each as a function that writes where it is told.

vLLM's, FlashMLA's and DeepGEMM's ops are loaded when they are first called, so that the rows of what cannot be loaded say why.
"""
import functools
import os

import layer_model as model  # first: it finds the harness's modules

import torch
import torch.nn.functional as F

import attn
import kernels
import rest
from common import BF16, dev

HALVES, PAIRS = True, False
E4M3 = torch.finfo(model.FP8)


@functools.cache
def vllm():
    return rest.vllm_c()


@functools.cache
def vllm_cache():
    vllm()
    return torch.ops._C_cache_ops


flashmla = functools.cache(attn.flashmla)


@functools.cache
def deep_gemm():
    # It compiles its kernels when they are first called; the harness names the toolkit for its own processes alone
    os.environ.setdefault("CUDA_HOME", "/usr/local/cuda")
    return rest.deep_gemm()


@functools.cache
def one():
    return torch.ones((), device=dev)


@functools.cache
def first_row():
    return torch.zeros(1, device=dev, dtype=torch.int32)


def compiled(function):
    """By torch.compile, as vLLM has what it writes in plain torch. PEERS_COMPILE=0 leaves it as it is."""
    @functools.cache
    def made():
        return function if os.environ.get("PEERS_COMPILE") == "0" else torch.compile(function, dynamic=False)
    return functools.wraps(function)(lambda *arguments: made()(*arguments))


# ---- Norms, rotation, caches ----

def rms_norm(out, x, weight):
    vllm().rms_norm(out, x, weight, model.EPS)


def rotate(positions, q, k, table, style):
    """The first 64 columns of q [rows, heads, ..] and k [rows, 1, ..], where they lie."""
    vllm().rotary_embedding(positions, q, k, model.ROPE, table, style)


def write(latents, keys, cache, slots):
    """Latents and rotated keys, as entries of bf16 or of 656 bytes."""
    vllm_cache().concat_and_cache_mla(latents, keys, cache, slots, "fp8_ds_mla" if cache.dtype == torch.uint8 else "auto", one())


def rotate_and_write(positions, q, keys, latents, table, slots, cache):
    """Both in one kernel, into bf16 alone."""
    vllm_cache().concat_and_cache_mla_rope_fused(positions, q, keys, latents, table, PAIRS, slots, cache, "auto", one())


# ---- Projections ----

def multiply(x, weight, out):
    torch.mm(x, weight.T, out=out)


def multiply_down(x, weight, out):
    """vLLM's kernel for up to 16 rows and the joined down projection."""
    vllm().dsv3_fused_a_gemm(out, x, weight.T)


def quantise(x, codes, scales):
    """A scale for each 128 columns of a row, column-major as DeepGEMM wants them."""
    vllm().per_token_group_fp8_quant(x, codes, scales, model.BLOCK, 1e-10, E4M3.min, E4M3.max, False, True, True)


def multiply_codes(x, weight, out):
    deep_gemm().fp8_gemm_nt(x, weight, out)


def multiply_deep(x, weight, out):
    """DeepGEMM in bf16."""
    deep_gemm().bf16_gemm_nt(x, weight, out)


def multiply_rows_scaled(x, weight):
    """cuBLAS over codes with a scale for each row of either."""
    return torch._scaled_mm(x[0], weight[0].t(), x[1], weight[1].t(), out_dtype=BF16)


class Linear:
    """x [rows, k] by a weight [n, k], in bf16."""

    def __init__(self, weight, rows):
        self.weight, (n, k) = weight, weight.shape
        self.flops, self.nbytes = 2 * rows * n * k, weight.nbytes + 2 * rows * (n + k)

    def __call__(self, x, out):
        multiply(x, self.weight, out)


class CodedLinear:
    """The same by codes: rows are quantised first."""

    def __init__(self, weight, rows):
        self.weight, self.has_codes, (n, k) = weight, False, weight[0].shape
        self.codes = torch.empty(rows, k, device=dev, dtype=model.FP8)
        aligned = -(-rows // 4) * 4
        self.scales = torch.empty_strided((rows, k // model.BLOCK), (1, aligned), device=dev, dtype=torch.float32)
        self.flops, self.nbytes = 2 * rows * n * k, model.nbytes(weight) + 2 * rows * (n + k)

    def __call__(self, x, out):
        self.multiply_all(x, self.weight, out)

    def multiply_all(self, x, weight, out):
        quantise(x, self.codes, self.scales)
        multiply_codes((self.codes, self.scales), weight, out)

    def multiply_once(self, x, weight, out):
        """Rows are quantised in the first call alone."""
        if not self.has_codes:
            quantise(x, self.codes, self.scales)
            self.has_codes = True
        multiply_codes((self.codes, self.scales), weight, out)


def linear(weight, rows):
    return (CodedLinear if isinstance(weight, tuple) else Linear)(weight, rows)


# ---- Attention ----

def attend_flashmla(q, cache, lens, table, scale, meta):
    """Absorbed, over all tokens: q [requests, 1, heads, 576]. `meta` is a server's of the step: made in the first call, and kept."""
    out, _, meta[0], meta[1] = flashmla().dense_decode_fwd(q, cache[:, :, None], model.LATENT, lens, table, scale, False, *meta, None)
    return out


def attend_flash3(q_latent, q_rope, cache, ends, longest, lens, table, scale):
    """The same by FA3, whose queries come in two parts."""
    cache = cache[:, :, None]
    return kernels.flash3_op()(
        q_rope, cache[..., model.LATENT:], cache[..., :model.LATENT], None, None, q_latent, None, ends, None, None, None, lens, 1, longest,
        table, None, None, None, None, None, None, None, None, scale, True, -1, -1, 0.0, True, None, 0, None, 0, None, 1, 0, None)[0]


def attend_chosen_codes(q, cache, slots, scale, meta):
    """Over chosen entries of 656 bytes, by slot [requests, 1, chosen], -1 for none."""
    out, _, meta[0], meta[1] = flashmla().sparse_decode_fwd(q, cache[:, :, None].view(model.FP8), slots, None, None, *meta, None, None, None,
                                                            model.LATENT, scale, None, False)
    return out


def attend_chosen(q, entries, chosen, scale):
    """Over chosen rows of bf16 [keys, 576]: many queries."""
    return flashmla().sparse_prefill_fwd(q, entries[:, None], chosen[:, None], scale, model.LATENT, None, None, None)[0]


def gather(cache, out, table):
    """A request's entries of 656 bytes, as rows of bf16."""
    vllm_cache().cp_gather_and_upconvert_fp8_kv_cache(cache, out, table, first_row(), 1, None)


# ---- Indexer ----

@compiled
def index_key(key, weight, bias, table, positions):
    """LayerNorm and rotation of its keys."""
    normed = F.layer_norm(key.float(), weight.shape, weight.float(), bias.float(), model.EPS)
    return model.rotated_halves(normed, table[positions].float()).to(BF16)


@compiled
def index_query(q, weights, table, positions):
    """Rotation and codes of its queries, whose scales go into the heads' weights."""
    rotated = model.rotated_halves(q.float(), table[positions].float())
    scales = torch.exp2((rotated.abs().amax(-1).clamp_min(1e-10) / E4M3.max).log2().ceil())
    return (rotated / scales[..., None]).to(model.FP8), weights.float() * scales * (q.shape[1] * q.shape[2]) ** -0.5


def index_write(keys, index, slots):
    vllm_cache().indexer_k_quant_and_cache(keys, index.view(-1, model.PAGE, model.KEY_BYTES), slots, model.INDEX_WIDTH, "ue8m0")


def index_gather(index, codes, scales, table, ends):
    """A request's keys as rows. `scales` are bytes."""
    vllm_cache().cp_gather_indexer_k_quant_cache(index.view(-1, model.PAGE, model.KEY_BYTES), codes, scales, table, ends)


def paged_plan(lens):
    return deep_gemm().get_paged_mqa_logits_metadata(lens[:, None], model.PAGE, deep_gemm().get_num_sms())


def paged_logits(q, index, weights, lens, table, plan, width):
    pages = index.view(-1, model.PAGE, 1, model.KEY_BYTES)
    return deep_gemm().fp8_fp4_paged_mqa_logits((q[:, None], None), pages, weights, lens[:, None], table, plan, width)


def row_logits(q, codes, scales, weights, starts, ends, width):
    return deep_gemm().fp8_fp4_mqa_logits((q, None), (codes, scales), weights, starts, ends, width)


def best_of_requests(logits, lens, out, room, longest):
    vllm().persistent_topk(logits, lens, out, room, model.TOPK, longest)


def best_of_rows(logits, starts, ends, out):
    vllm().top_k_per_row_prefill(logits, starts, ends, out, len(logits), logits.stride(0), logits.stride(1), model.TOPK)


@compiled
def slots_of(chosen, table):
    """Slots of chosen positions, a row of them for each row of the table."""
    return (table.gather(1, chosen.long() // model.PAGE) * model.PAGE + chosen % model.PAGE).int()
