"""Compiles the FA4 kernels that prefill.py calls on a machine without a GPU: they take seconds each, which a GPU machine need not spend.

    PEERS_DIR=… PEERS_SITE=… python3 benches/peers/compile_ahead.py FOLDER

Needs here what FA4 imports: torch (a CUDA build, with no GPU), cuda-bindings, einops and apache-tvm-ffi; and the GPU machine's minor version of
Python, since FA4 files a kernel under a fingerprint of its sources and of such versions. There FLASH_ATTENTION_CUTE_DSL_CACHE_DIR=FOLDER and
FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED=1 bring the kernels back; one that is not found is compiled.
"""
import os
import sys
import time
import warnings

if len(sys.argv) != 2:
    sys.exit(__doc__)
os.environ.update(FLASH_ATTENTION_ARCH="sm_90", CUTE_DSL_ARCH="sm_90a", FLASH_ATTENTION_NUM_SMS="132",
                  FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED="1", FLASH_ATTENTION_CUTE_DSL_CACHE_DIR=os.path.abspath(sys.argv[1]))
warnings.simplefilter("ignore")

import kernels  # noqa: E402
import prefill  # noqa: E402

import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from common import BF16, dev  # noqa: E402

HEADS, ROWS, SEQUENCES = 16, 2048, 4  # none of them is compiled into a kernel


def empty(*shape, **options):
    return torch.empty(*shape, device=dev, dtype=BF16, **options)


def ends(sequences):
    return torch.empty(sequences + 1, device=dev, dtype=torch.int32)


def forward(key, value, sequences, trained):
    """A kernel that keeps the logsumexp for a backward pass is another one."""
    q, k, v = (empty(ROWS, HEADS, width, requires_grad=trained) for width in (key, key, value))
    kernels.flash4(q, k, v, ends(sequences), ROWS // 2, key ** -0.5)


def backward(key, value, sequences, deterministic):
    """As FA4's autograd function calls it: the engine itself will not run for a GPU that is not there."""
    from flash_attn.cute import interface
    lead, of_rows, options = ((1, ROWS), (1, HEADS, ROWS), {}) if sequences == 1 else ((ROWS,), (HEADS, ROWS), dict(
        cu_seqlens_q=ends(sequences), cu_seqlens_k=ends(sequences), max_seqlen_q=ROWS // 2, max_seqlen_k=ROWS // 2))
    q, k, v, out, d_out = (empty(*lead, HEADS, width) for width in (key, key, value, value, value))
    interface._flash_attn_bwd(q, k, v, out, d_out, torch.empty(of_rows, device=dev), key ** -0.5, True, 0.0,
                              deterministic=deterministic, **options)


def main():
    torch.cuda.current_device = lambda: 0  # DLPack asks for it
    kernels.flash4_functions()
    for key, value in ((prefill.KEY, prefill.VALUE), *prefill.DIMS):
        of_layer = (key, value) == (prefill.KEY, prefill.VALUE)
        for sequences in (1, SEQUENCES) if of_layer else (1,):
            begun = time.time()
            with FakeTensorMode():
                forward(key, value, sequences, trained=False)
                forward(key, value, sequences, trained=True)
                for deterministic in (False, True) if of_layer else (False,):
                    backward(key, value, sequences, deterministic)
            print(f"{key}/{value}, {sequences} sequences: {time.time() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
