"""Public attention kernels for prefill, each as a function of q, k and v ([rows, heads, width] in bf16).

A kernel is loaded when it is first called, and one that cannot be loaded raises then, so that its rows say why. The harness's own callers
(attn.py) fix the scale and drop the logsumexp; these do not.
"""
import contextlib
import functools
import os
import sys

import harness  # first: it finds the harness's modules

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import attn
from common import BF16, dev, lib, randn, rel

CACHE = "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED"


@functools.cache
def flash3_op():
    lib("_vllm_fa3_C")
    return torch.ops._vllm_fa3_C.fwd


def flash3(q, k, v, cu_q, cu_k, longest_q, longest_k, causal, scale):
    """FA3 of vLLM over sequences: the output and its logsumexp [heads, rows]. It takes strides."""
    out, lse, *_ = flash3_op()(
        q, k, v, None, None, None, None, cu_q, cu_k, None, None, None, longest_q, longest_k, None, None, None, None, None,
        None, None, None, None, scale, causal, -1, -1, 0.0, True, None, 0, None, 0, None, 1, 0, None)
    return out, lse


@functools.cache
def flash4_functions():
    # kept off PYTHONPATH, as the harness does: with the CuTe DSL in sight FlashInfer imports far more than is staged
    sys.path += [harness.SITE + "/fa4", harness.SITE + "/fa4/nvidia_cutlass_dsl/dsl_packages"]
    from flash_attn.cute import flash_attn_func, flash_attn_varlen_func
    if os.environ.get(CACHE) == "1" and torch.cuda.is_available():
        trust_kernels_compiled_elsewhere(flash_attn_func)
    return flash_attn_func, flash_attn_varlen_func


def trust_kernels_compiled_elsewhere(attention):
    """A kernel of `compile_ahead.py` that does not run here costs one start of this process, which then compiles for itself."""
    q, v = randn(1, 256, 1, 192), randn(1, 256, 1, 128)
    want = F.scaled_dot_product_attention(*(x.float().transpose(1, 2) for x in (q, q, v)), is_causal=True).transpose(1, 2)
    try:
        error = rel(attention(q, q, v, causal=True)[0], want)
        why = f"error {error:.1e}"
    except Exception as e:
        error, why = 1.0, repr(e)[:300]
    if not error < 1e-2:
        print("FA4's kernels compiled elsewhere do not work here, starting again without them:", why, flush=True)
        os.environ[CACHE] = "0"
        os.execv(sys.executable, [sys.executable] + sys.argv)


def flash4(q, k, v, cu, longest, scale, deterministic=False):
    """FA4, causal. One sequence goes to the kernel for a dense batch. It takes strides; its compiled kernels serve all lengths and heads."""
    dense, ragged = flash4_functions()
    options = dict(softmax_scale=scale, causal=True, deterministic=deterministic)
    if cu.numel() == 2:
        return dense(q[None], k[None], v[None], **options)[0][0]
    return ragged(q, k, v, cu_seqlens_q=cu, cu_seqlens_k=cu, max_seqlen_q=longest, max_seqlen_k=longest, **options)[0]


def cudnn(q, k, v, scale):
    """cuDNN through torch's scaled_dot_product_attention, causal, one sequence."""
    q, k, v = (x[None].transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)[0]


@functools.cache
def flash3_upstream():
    """Built by hand, for heads of 192 and 128 and their scale; the harness does not stage it."""
    attention = attn.fa3_upstream()
    return lambda q, k, v: attention(q[None], k[None], v[None])[0]


def flashinfer_ragged(heads, lengths, scale):
    """FlashInfer's plan for these sequences. Its kernel is compiled in the first call, for minutes, so it is asked for by PEERS_FLASHINFER=1."""
    @functools.cache
    def planned():
        import flashinfer
        wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(torch.empty(256 << 20, device=dev, dtype=torch.uint8), "NHD", backend="fa3")
        ends = torch.tensor([0] + lengths, dtype=torch.int32).cumsum(0).int()
        wrapper.plan(ends, ends, heads, heads, 192, 128, causal=True, sm_scale=scale, q_data_type=BF16, kv_data_type=BF16)
        return wrapper
    return lambda q, k, v: planned().run(q, k, v)


def of_one_sequence(scale):
    """Peers that take no batch of unlike lengths, and have a backward pass."""
    peers = {"cuDNN (torch SDPA)": lambda q, k, v: cudnn(q, k, v, scale)}
    if os.path.exists(harness.SITE + "/so/fa3_up.so") and scale == attn.SCALE:
        peers["FA3 upstream"] = lambda q, k, v: flash3_upstream()(q, k, v)
    return peers


def forward(heads, lengths, scale):
    """{peer: kernel} for causal attention of these sequences, keys 192 and values 128 wide."""
    cu, longest = ends_of(lengths), max(lengths)
    peers = {"FA3 (vLLM)": lambda q, k, v: flash3(q, k, v, cu, cu, longest, longest, True, scale)[0],
             "FA4": lambda q, k, v: flash4(q, k, v, cu, longest, scale)}
    if len(lengths) == 1:
        peers |= of_one_sequence(scale)
    if os.environ.get("PEERS_FLASHINFER") == "1":
        peers["FlashInfer fa3 ragged"] = flashinfer_ragged(heads, lengths, scale)
    return peers


def training(lengths, scale, deterministic=False):
    """{peer: (kernel that has a backward pass, the context in which that pass runs)}."""
    cu, longest = ends_of(lengths), max(lengths)
    peers = {"FA4": lambda q, k, v: flash4(q, k, v, cu, longest, scale)}
    if len(lengths) == 1:
        peers |= of_one_sequence(scale)
    peers = {name: (kernel, contextlib.nullcontext) for name, kernel in peers.items()}
    if deterministic:
        peers["FA4 deterministic"] = (lambda q, k, v: flash4(q, k, v, cu, longest, scale, deterministic=True), contextlib.nullcontext)
        if len(lengths) == 1:
            peers["cuDNN (torch SDPA) deterministic"] = (peers["cuDNN (torch SDPA)"][0], deterministic_algorithms)
    return peers


@contextlib.contextmanager
def deterministic_algorithms():
    """torch's switch. It would also fill every new tensor, which is no part of what is timed."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def ends_of(lengths):
    return torch.tensor([0] + list(lengths), device=dev, dtype=torch.int32).cumsum(0).int()


def takes_strides(kernel, heads=2):
    """Whether a kernel for one sequence reads values that lie between keys, as kv-up writes them. Asked of a small case."""
    q, k, kv = randn(256, heads, 192), randn(256, heads, 192), randn(256, heads, 256)
    try:
        return rel(kernel(q, k, kv[..., 128:]), kernel(q, k, kv[..., 128:].contiguous())) < 1e-2
    except Exception as error:
        print(f"values with strides: {error!r}"[:300], flush=True)
        return False


class VllmCache:
    """What vLLM gathers cached latents and merges parts of attention with. Pages hold rows 576 wide."""
    name = "vLLM gather and merge"

    def __init__(self, cache, table):
        lib("_C_stable_libtorch")
        self.cache, self.table, self.steps, self.one = cache, table[None], {}, torch.ones((), device=dev)

    def step(self, start, count):
        """What a server computes once for all layers; here in the first call, which is not timed."""
        if (start, count) not in self.steps:
            request = torch.zeros(count, device=dev, dtype=torch.int32)
            self.steps[start, count] = ends_of([count]), request, torch.tensor([start], device=dev, dtype=torch.int32)
        return self.steps[start, count]

    def gather(self, start, count, out):
        ends, request, first = self.step(start, count)
        torch.ops._C_cache_ops.gather_and_maybe_dequant_cache(self.cache, out, self.table, ends, request, count, "auto", self.one, first)

    def merge(self, out, out_lse, a, a_lse, b, b_lse):
        torch.ops._C.merge_attn_states(out, out_lse, a, a_lse, b, b_lse, None, None)


class TorchCache:
    """The same in plain torch. Chunks are whole pages."""
    name = "torch gather and merge"

    def __init__(self, cache, table):
        self.cache, self.table = cache, table

    def gather(self, start, count, out):
        page = self.cache.shape[1]
        torch.index_select(self.cache, 0, self.table[start // page:(start + count) // page], out=out.view(-1, page, out.shape[-1]))

    def merge(self, out, out_lse, a, a_lse, b, b_lse):
        lse = torch.logaddexp(a_lse, b_lse)

        def share(part):
            return (part - lse).exp().t()[..., None]
        out.copy_(a * share(a_lse) + b * share(b_lse))
        if out_lse is not None:
            out_lse.copy_(lse)
