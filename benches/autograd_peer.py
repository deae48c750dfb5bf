"""The peer of `cargo bench -- --train`: PyTorch's autograd over Hugging Face's DeepseekV3Attention, f32 on the CPU.

Requests come on standard input, one per line: an attention implementation (eager, sdpa), a number of tokens, and how many steps
to take after one that warms up. A step is the forward pass, then the backward pass from a given gradient of the output, with
fresh gradients of all weights and of the input. Each request is answered by a line of JSON: the least milliseconds of a step, and
the least of how far the resident set's peak stood above what it was before the step.

Needs torch and transformers. Without them, exits with status 3.
"""

import argparse
import ctypes
import gc
import json
import os
import sys
import time
import warnings

MISSING = 3

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--threads", type=int, required=True)
for size in ("hidden", "heads", "kv-lora", "nope", "rope", "v"):
    parser.add_argument(f"--{size}", type=int, required=True)
sizes = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(sizes.threads)
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")
try:
    import torch
    import transformers
    from transformers import DeepseekV3Config
    from transformers.masking_utils import create_causal_mask
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding
except ImportError:
    sys.exit(MISSING)
torch.set_num_threads(sizes.threads)


def layer(attention):
    config = DeepseekV3Config(
        hidden_size=sizes.hidden, num_attention_heads=sizes.heads, num_key_value_heads=sizes.heads, q_lora_rank=None,
        kv_lora_rank=sizes.kv_lora, qk_nope_head_dim=sizes.nope, qk_rope_head_dim=sizes.rope, v_head_dim=sizes.v,
        num_hidden_layers=1, rope_theta=50000.0, max_position_embeddings=8192,
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    return config, DeepseekV3Attention(config, 0).train(), DeepseekV3RotaryEmbedding(config)


def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def trim():
    """Gives freed memory back, so that a peak is that of the step alone."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except OSError:
        pass


def steps(attention, tokens, count):
    config, module, rotary = layer(attention)
    hidden = torch.randn(1, tokens, sizes.hidden, requires_grad=True)
    d_output = torch.randn(1, tokens, sizes.hidden)
    positions = torch.arange(tokens)[None]
    mask = create_causal_mask(
        config=config, inputs_embeds=hidden, attention_mask=None, past_key_values=None, position_ids=positions
    )
    angles = rotary(hidden, position_ids=positions)

    def step():
        module.zero_grad(set_to_none=True)
        hidden.grad = None
        output = module(hidden_states=hidden, position_embeddings=angles, attention_mask=mask, position_ids=positions)[0]
        output.backward(d_output)

    step()
    milliseconds, peaks = [], []
    for _ in range(count):
        module.zero_grad(set_to_none=True)
        hidden.grad = None
        trim()
        with open("/proc/self/clear_refs", "w") as clear:
            clear.write("5")
        before = status("VmRSS")
        start = time.perf_counter()
        step()
        milliseconds.append((time.perf_counter() - start) * 1e3)
        peaks.append(status("VmHWM") - before)
    return {"ms": min(milliseconds), "bytes": min(peaks)}


print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}), flush=True)
for request in sys.stdin:
    attention, tokens, count = request.split()
    print(json.dumps(steps(attention, int(tokens), int(count))), flush=True)
