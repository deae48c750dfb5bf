"""The peer of `cargo bench`: one MLA layer in plain PyTorch, f32 on the CPU, timed on request.

Prefill is the expanded form: all projections and norms, rope, and `scaled_dot_product_attention`, causal. Decode is the
absorbed form: the up projection folded into the query and the output, attention over the latents themselves, and one new
entry written into the cache. Weights are random; only time is compared.

Requests come on standard input, one per line: a phase, a number of tokens, and how many calls to time after one that
warms up. Each is answered by a line of JSON, with the milliseconds of each call:

    $ echo "decode 4096 3" | python torch_peer.py --threads 2 --hidden 2048 --heads 16 --kv-lora 512 --nope 128 --rope 64 --v 128
    {"torch": "2.15.0", "threads": 2}
    {"phase": "decode", "tokens": 4096, "ms": [4.71, 4.63, 4.66]}

Needs torch and nothing else. Without it, exits with status 3.
"""

import argparse
import json
import os
import sys
import time
import warnings

MISSING_TORCH = 3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: the time of all threads together")
    for size in ("hidden", "heads", "kv-lora", "nope", "rope", "v"):
        parser.add_argument(f"--{size}", type=int, required=True)
    parser.add_argument("--q-lora", type=int, default=0, help="0: queries straight from the hidden state")
    return parser.parse_args()


sizes = arguments()
# Read when torch's thread pool starts
os.environ["OMP_NUM_THREADS"] = str(sizes.threads)
warnings.filterwarnings("ignore")
try:
    import torch
    from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention
except ImportError:
    sys.exit(MISSING_TORCH)


def rotated(x, angles):
    """Interleaved rope: neighbours (2i, 2i + 1) turned by angle i."""
    cos, sin = angles
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Layer:
    def __init__(self, sizes):
        self.heads, self.latent = sizes.heads, sizes.kv_lora
        self.nope, self.rope, self.value = sizes.nope, sizes.rope, sizes.v
        self.scale = (self.nope + self.rope) ** -0.5
        self.hidden = sizes.hidden
        query = self.heads * (self.nope + self.rope)
        self.q_down = self.weight(sizes.q_lora, self.hidden) if sizes.q_lora else None
        self.q_up = self.weight(query, sizes.q_lora or self.hidden)
        self.kv_down = self.weight(self.latent + self.rope, self.hidden)
        self.kv_up = self.weight(self.heads * (self.nope + self.value), self.latent)
        self.out = self.weight(self.hidden, self.heads * self.value)
        # The absorbed form's halves of kv_up, laid out for batched products
        by_head = self.kv_up.view(self.heads, self.nope + self.value, self.latent)
        self.key_up = by_head[:, : self.nope].contiguous()
        self.value_up = by_head[:, self.nope :].transpose(1, 2).contiguous()

    @staticmethod
    def weight(rows, columns):
        return torch.randn(rows, columns) * columns**-0.5

    def queries(self, x, angles):
        """[tokens, heads, nope + rope], the rope part rotated in place."""
        if self.q_down is not None:
            x = linear(x, self.q_down)
            x = rms_norm(x, x.shape[-1:])
        q = linear(x, self.q_up).view(-1, self.heads, self.nope + self.rope)
        q[..., self.nope :] = rotated(q[..., self.nope :], [part[:, None] for part in angles])
        return q

    def entries(self, x, angles):
        """What a cache would keep: normalised latents and the rotated key that all heads share."""
        latent, key = linear(x, self.kv_down).split([self.latent, self.rope], -1)
        return rms_norm(latent, (self.latent,)), rotated(key, angles)

    def prefill(self, tokens):
        x, angles = torch.randn(tokens, self.hidden), self.angles(tokens)

        def call():
            q = self.queries(x, angles)
            latent, key = self.entries(x, angles)
            expanded = linear(latent, self.kv_up).view(tokens, self.heads, self.nope + self.value)
            k, v = expanded.split([self.nope, self.value], -1)
            k = torch.cat((k, key[:, None].expand(-1, self.heads, -1)), -1)
            q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
            out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
            return linear(out[0].transpose(0, 1).reshape(tokens, -1), self.out)

        return call

    def decode(self, cached):
        x, angles = torch.randn(1, self.hidden), self.angles(1)
        cache = torch.randn(cached + 1, self.latent + self.rope)

        def call():
            q = self.queries(x, angles)[0]
            latent, key = self.entries(x, angles)
            cache[cached, : self.latent] = latent[0]
            cache[cached, self.latent :] = key[0]
            in_latents = torch.bmm(q[:, None, : self.nope], self.key_up)[:, 0]
            logits = torch.cat((in_latents, q[:, self.nope :]), -1) @ cache.T
            seen = (logits * self.scale).softmax(-1) @ cache[:, : self.latent]
            values = torch.bmm(seen[:, None], self.value_up)
            return linear(values.reshape(1, -1), self.out)

        return call

    def angles(self, tokens):
        return torch.rand(tokens, self.rope // 2), torch.rand(tokens, self.rope // 2)


def answer(line, calls_of, clock):
    phase, tokens, count = line.split()
    tokens, count = int(tokens), int(count)
    call = calls_of(phase, tokens)
    call()
    spent = []
    for _ in range(count):
        start = clock()
        call()
        spent.append(round((clock() - start) * 1e3, 4))
    return dict(phase=phase, tokens=tokens, ms=spent)


def main():
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    layer, made = Layer(sizes), {}

    def calls_of(phase, tokens):
        if (phase, tokens) not in made:
            made[phase, tokens] = {"prefill": layer.prefill, "decode": layer.decode}[phase](tokens)
        return made[phase, tokens]

    clock = time.process_time if sizes.clock == "cpu" else time.perf_counter
    print(json.dumps(dict(torch=torch.__version__, threads=torch.get_num_threads())), flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            print(json.dumps(answer(line, calls_of, clock)), flush=True)


main()
