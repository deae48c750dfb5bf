"""Runs layer.py on a CPU with small sizes and stand-ins for the kernels, whole and with a fault in each of them, before a GPU is there.

    PEERS_DIR=… python3 benches/peers/rehearse_layer.py
"""
import ctypes
import json
import os
import sys
import types

import rehearse  # first: it sets the environment, and the device

import torch
import torch.nn.functional as F

import attn
import common
import harness
import kernels
import layer
import layer_kernels as ops
import layer_model as model
import layer_small

os.environ["PEERS_COMPILE"] = "0"
model.HIDDEN, model.HEADS, model.Q_LORA, model.INDEX_HEADS, model.TOPK, model.POOL = 256, 4, 128, 8, 64, 150
layer.BATCHES, layer.CACHED, layer.NEW, layer.SETS = (1, 3, 18), 200, 70, 2
layer.SPARSE_REQUESTS, layer.SPARSE_CACHED = 3, 330
layer_small.TOKENS, layer_small.INPUTS_OF_FEW = (192, 64), 2
common.n_sets = layer_small.n_sets = lambda nbytes: 2
# Of so few keys, each that is missed weighs more
layer.MISSED, layer.MISSED_CODED, layer.CHOSEN, layer.CHOSEN_CODED = 0.1, 0.2, 0.6, 0.6
FP8 = model.FP8


# ---- Stand-ins: what each kernel is to do, and what it takes ----

def rms_norm(out, x, weight):
    assert out.is_contiguous() and x.stride(-1) == 1
    out.copy_(model.rms_norm(x.float(), weight.float()))


def rotate(positions, q, k, table, style):
    assert positions.dtype == torch.int64 and q.dim() == k.dim() == 3 and k.shape[1] == 1 and table.dtype == q.dtype
    rotated = model.rotated_halves if style == ops.HALVES else model.rotated_pairs
    for x in (q, k):
        x.copy_(rotated(x.float(), table[positions].float()))


def write(latents, keys, cache, slots):
    assert slots.dtype == torch.int64 and cache.dim() == 3 and latents.shape[1] == 512 and keys.shape[1] == 64
    entries = torch.cat([latents, keys], -1)
    if cache.dtype == torch.uint8:
        assert cache.shape[2] == 656
        whole = F.pad(entries, (0, 0, 0, -len(entries) % 64))
        entries = attn.pack656(whole.view(-1, 64, 1, 576)).view(-1, 656)[:len(entries)]
    cache.view(-1, cache.shape[2])[slots] = entries


def rotate_and_write(positions, q, keys, latents, table, slots, cache):
    assert cache.shape[2] == 576
    rotate(positions, q, keys[:, None], table, ops.PAIRS)
    write(latents, keys, cache, slots)


def multiply(x, weight, out):
    assert out.is_contiguous() and x.is_contiguous()
    out.copy_(x.float() @ weight.float().T)


def quantise(x, codes, scales):
    assert x.is_contiguous() and scales.stride(0) == 1
    groups = x.float().unflatten(1, (-1, 128))
    scales.copy_(groups.abs().amax(-1).clamp_min(1e-10) / 448)
    codes.copy_((groups / scales[..., None]).to(FP8).flatten(1))


def multiply_codes(x, weight, out):
    (codes, scales), rows = x, len(x[0])
    values = (codes.float().unflatten(1, (-1, 128)) * scales[..., None]).flatten(1)
    assert out.shape == (rows, len(weight[0]))
    out.copy_(values @ model.block_values(*weight).T)


def multiply_rows_scaled(x, weight):
    return ((x[0].float() * x[1]) @ (weight[0].float() * weight[1]).T).bfloat16()


def attend(q, entries, scale):
    """One request's absorbed queries [heads, 576]."""
    p = (q.float() @ entries.float().T * scale).softmax(-1)
    return (p @ entries[:, :512].float()).bfloat16()


def attend_flashmla(q, cache, lens, table, scale, meta):
    assert q.dim() == 4 and q.is_contiguous() and lens.dtype == table.dtype == torch.int32
    rows = [attend(one[0], cache[pages.long()].flatten(0, 1)[:n], scale) for one, pages, n in zip(q, table, lens.tolist())]
    return torch.stack(rows)[:, None]


def attend_flash3(q_latent, q_rope, cache, ends, longest, lens, table, scale):
    assert longest == lens.max() and ends.tolist() == list(range(len(q_latent) + 1)) and q_rope.stride(-1) == 1
    return attend_flashmla(torch.cat([q_latent, q_rope], -1)[:, None], cache, lens, table, scale, None)[:, 0]


def attend_chosen_codes(q, cache, slots, scale, meta):
    assert slots.dtype == torch.int32 and slots.shape[:2] == q.shape[:2] and slots.shape[2] % 64 == 0
    rows = [attend(one[0], attn.unpack656(cache.view(-1, 656)[at[0][at[0] >= 0].long()]), scale) for one, at in zip(q, slots)]
    return torch.stack(rows)[:, None]


def attend_chosen(q, entries, chosen, scale):
    assert entries.shape[1] == 576 and chosen.dtype == torch.int32
    return torch.stack([attend(one, entries[at[at >= 0].long()], scale) for one, at in zip(q, chosen)])


def gather(cache, out, table):
    assert len(table) == 1
    out.copy_(attn.unpack656(cache[table[0].long()].flatten(0, 1)[:len(out)]))


def index_write(keys, index, slots):
    assert keys.dtype == torch.bfloat16 and keys.is_contiguous() and slots.dtype == torch.int64
    pages, scales = index[:, :64 * 128].view(len(index), 64, 128), index[:, 64 * 128:].view(len(index), 64, 4)
    of_keys = torch.exp2((keys.float().abs().amax(-1).clamp_min(1e-4) / 448).log2().ceil())
    pages[slots // 64, slots % 64] = (keys.float() / of_keys[:, None]).to(FP8).view(torch.uint8)
    scales[slots // 64, slots % 64] = of_keys[:, None].view(torch.uint8)


def index_gather(index, codes, scales, table, ends):
    own = index[table[0].long()]
    codes.copy_(own[:, :64 * 128].reshape(-1, 128).view(FP8)[:ends[1]])
    scales.copy_(own[:, 64 * 128:].reshape(-1, 4)[:ends[1]])


def logits_of(q, keys, weights):
    return (torch.relu(q.float() @ keys.T) * weights[:, None]).sum(0)


def paged_logits(q, index, weights, lens, table, plan, width):
    assert plan == "plan" and lens.dtype == torch.int32 and weights.dtype == torch.float32
    out = torch.full((len(q), width), float("nan"))
    for row, (one, pages, n) in enumerate(zip(q, table, lens.tolist())):
        out[row, :n] = logits_of(one, model.key_values(index[pages.long()])[:n], weights[row])
    return out


def row_logits(q, codes, scales, weights, starts, ends, width):
    keys, out = codes.float() * scales[:, None], torch.full((len(q), width), float("nan"))
    for row, end in enumerate(ends.tolist()):
        out[row, :end] = logits_of(q[row], keys[:end], weights[row])
    return out


def best_of_rows(logits, starts, ends, out):
    for row, end in enumerate(ends.tolist()):
        best = logits[row, :end].topk(min(model.TOPK, end))[1]
        out[row] = -1
        out[row, :len(best)] = best.int()


def best_of_requests(logits, lens, out, room, longest):
    best_of_rows(logits, None, lens, out)


STAND_INS = dict(
    rms_norm=rms_norm, rotate=rotate, write=write, rotate_and_write=rotate_and_write, multiply=multiply, multiply_deep=multiply,
    multiply_down=multiply, quantise=quantise, multiply_codes=multiply_codes, multiply_rows_scaled=multiply_rows_scaled,
    attend_flashmla=attend_flashmla, attend_flash3=attend_flash3, attend_chosen_codes=attend_chosen_codes, attend_chosen=attend_chosen,
    gather=gather, index_write=index_write, index_gather=index_gather, paged_plan=lambda lens: "plan", paged_logits=paged_logits,
    row_logits=row_logits, best_of_rows=best_of_rows, best_of_requests=best_of_requests)


# ---- Ours: from what hooks are told, by heads' own keys and values ----

def plain(weights, name):
    scales = weights.get(name + ".weight_scale_inv")
    return weights[name + ".weight"].float() if scales is None else model.block_values(weights[name + ".weight"], scales)


def expanded(weights, hidden, pool, shifts, cached, new, table, coded_cache, first_position=0):
    """Each request's whole sequence, in f32."""
    norm = lambda x, name: F.rms_norm(x, x.shape[-1:], weights[name + ".weight"].float(), 1e-6)
    outs = []
    for request, shift in enumerate(shifts):
        own = hidden[request * new:(request + 1) * new]
        x = torch.cat([pool[[(t + shift) % len(pool) for t in range(cached)]], own]).float()
        angles = model.cos_sin(len(x) + first_position)[first_position:]
        q_latent = norm(x[cached:] @ plain(weights, "q_a_proj").T, "q_a_layernorm")
        q = (q_latent @ plain(weights, "q_b_proj").T).view(new, model.HEADS, 192)
        down = x @ plain(weights, "kv_a_proj_with_mqa").T
        kv = (norm(down[:, :512], "kv_a_layernorm") @ plain(weights, "kv_b_proj").T).view(len(x), model.HEADS, 256)
        k = torch.cat([kv[..., :128], model.rotated_pairs(down[:, 512:], angles)[:, None].expand(-1, model.HEADS, -1)], -1)
        q = torch.cat([q[..., :128], model.rotated_pairs(q[..., 128:], angles[cached:])], -1)
        hidden_keys = torch.ones(new, len(x)).triu(1 + cached).bool()
        if "indexer.wk.weight" in weights:
            hidden_keys |= not_chosen(weights, x, q_latent, angles, hidden_keys)
        scores = (torch.einsum("qhd,khd->hqk", q, k) * 192 ** -0.5 * 1.8738542).masked_fill(hidden_keys, float("-inf"))
        heads = torch.einsum("hqk,khd->qhd", scores.softmax(-1), kv[..., 128:])
        outs.append(heads.flatten(1) @ plain(weights, "o_proj").T)
    return torch.cat(outs).bfloat16()


def not_chosen(weights, x, q_latent, angles, hidden_keys):
    keys = F.layer_norm(x @ plain(weights, "indexer.wk").T, (128,), weights["indexer.k_norm.weight"].float(), weights["indexer.k_norm.bias"].float())
    keys, new = model.rotated_halves(keys, angles), len(q_latent)
    q = model.rotated_halves((q_latent @ plain(weights, "indexer.wq_b").T).view(new, -1, 128), angles[-new:])
    heads = x[-new:] @ plain(weights, "indexer.weights_proj").T
    scores = torch.einsum("qh,qhk->qk", heads, torch.relu(torch.einsum("qhd,kd->qhk", q, keys))).masked_fill(hidden_keys, float("-inf"))
    return torch.ones_like(hidden_keys).scatter(1, scores.topk(model.TOPK)[1], False)


def of_layer(**inputs):
    return {"ours": lambda: expanded(**inputs), "ours, wrong": lambda: expanded(**inputs, first_position=0) * 1.7}


def of_small(w_q, w_kv, cos_sin, positions, slots, cache, w_k=None, b_k=None, index=None):
    def run(a, q, *key):
        normed, latents = torch.empty(len(a), a.shape[1] - 576).bfloat16(), torch.empty(len(a), 512).bfloat16()
        rms_norm(normed, a[:, :-576], w_q), rms_norm(latents, a[:, -576:-64], w_kv)
        rotate_and_write(positions, q[..., 128:], a[:, -64:], latents, cos_sin, slots, cache)
        if key:
            index_write(INDEX_KEY(*key, w_k, b_k, cos_sin, positions), index, slots)
        return normed
    return {"ours": run, "ours, wrong": lambda a, q, *key: run(a, q, *(k * 0 for k in key)) * 1.1}


def of_gemm(x, weights):
    if isinstance(x, tuple):
        values = (x[0].float().unflatten(1, (-1, 128)) * x[1][..., None]).flatten(1)
        return {"ours": [lambda w=w: values @ model.block_values(*w).T for w in weights]}
    return {"ours": [lambda w=w: (x.float() @ w.float().T).bfloat16() for w in weights], "ours, wrong": lambda: x.float() @ weights[0].float().T * 1.1}


INDEX_KEY = ops.index_key
OURS = types.SimpleNamespace(layer_decode=of_layer, layer_prefill=rehearse.refuses, layer_v32_decode=of_layer, layer_v32_prefill=of_layer,
                             small=of_small, small_index=of_small, gemm=of_gemm)


# ---- Faults: each has to cost some row, that is right without it, its time ----

def off_by_one(slots):
    return (slots + 1) % (slots.max() + 1)


FAULTS = {  # the kernel: the sections that call it, and what is wrong
    "rms_norm": ("124", lambda out, x, weight: rms_norm(out, x, torch.ones_like(weight) * 1.05)),
    "rotate": ("24", lambda positions, q, k, table, style: rotate(positions, q, k, table, not style)),
    "write": ("234", lambda latents, keys, cache, slots: write(latents, keys, cache, off_by_one(slots))),
    "rotate_and_write": ("14", lambda p, q, k, latents, table, slots, cache: rotate_and_write(p + 1, q, k, latents, table.roll(1, 0).roll(3, 1), slots, cache)),
    "multiply": ("1356", lambda x, weight, out: multiply(x, weight.roll(1, 0), out)),
    "multiply_down": ("16", lambda x, weight, out: multiply(x, weight.roll(1, 0), out)),
    "multiply_deep": ("5", lambda x, weight, out: multiply(x * 1.03, weight, out)),
    "multiply_rows_scaled": ("5", lambda x, weight: multiply_rows_scaled((x[0], x[1] * 1.2), weight)),
    "quantise": ("256", lambda x, codes, scales: (quantise(x, codes, scales), scales.copy_(scales.roll(1, 1) * 1.5))),
    "multiply_codes": ("256", lambda x, weight, out: multiply_codes(x, (weight[0], weight[1] * 1.3), out)),
    "attend_flashmla": ("16", lambda q, cache, lens, table, scale, meta: attend_flashmla(q, cache, lens, table, 192 ** -0.5, meta)),
    "attend_flash3": ("16", lambda q, r, cache, ends, n, lens, table, scale: attend_flash3(q, r * 1.5, cache, ends, n, lens, table, scale)),
    "attend_chosen_codes": ("236", lambda q, cache, slots, scale, meta: attend_chosen_codes(q, cache, slots // 64 * 64, scale, meta)),
    "attend_chosen": ("36", lambda q, entries, chosen, scale: attend_chosen(q, entries.roll(1, 0), chosen, scale)),
    "gather": ("36", lambda cache, out, table: gather(cache, out, table.flip(1))),
    "index_key": ("346", lambda key, weight, bias, table, positions: INDEX_KEY(key, weight, bias * 0, table, positions * 0)),
    "index_query": ("36", lambda q, w, table, positions: STRAIGHT(q, w, table, positions * 0)),
    "index_write": ("346", lambda keys, index, slots: index_write(keys, index, off_by_one(slots))),
    "index_gather": ("36", lambda index, codes, scales, table, ends: index_gather(index, codes, scales, table.flip(1), ends)),
    "paged_logits": ("36", lambda q, *rest: paged_logits(q.roll(1, 1), *rest)),
    "row_logits": ("36", lambda q, codes, scales, *rest: row_logits(q, codes.view(torch.uint8).roll(1, 0).view(FP8), scales, *rest)),
    "best_of_requests": ("36", lambda logits, *rest: best_of_requests(-logits, *rest)),
    "best_of_rows": ("36", lambda logits, starts, ends, out: best_of_rows(logits.nan_to_num(9), starts, ends * 0 + logits.shape[1], out)),
    "slots_of": ("36", lambda chosen, table: chosen),
}
STRAIGHT = ops.index_query


def section_named(number):
    return next(name for name in layer.SECTIONS if name[0] == number)


def failing(number):
    """Rows of a section that have no time, once each kernel was called."""
    section = common.Section(section_named(number))
    torch.manual_seed(0)
    quietly(lambda: layer.SECTIONS[section.name](section))
    return {key for key, error in section.err.items() if isinstance(error, str)}


def quietly(function):
    """Tracebacks of what is meant to fail would hide all else."""
    kept, sys.stdout, sys.stderr = (sys.stdout, sys.stderr), open(os.devnull, "w"), open(os.devnull, "w")
    try:
        function()
    finally:
        sys.stdout, sys.stderr = kept


def check_faults(numbers="123456"):
    right = {number: failing(number) for number in numbers}
    for kernel, (sections, fault) in FAULTS.items():
        good = getattr(ops, kernel)
        setattr(ops, kernel, fault)
        for number in set(sections) & set(numbers):
            found = failing(number) - right[number]
            print(f"{kernel} in {section_named(number)}: {len(found)} rows", flush=True)
            assert found, (kernel, number)
        setattr(ops, kernel, good)


# ---- Rows ----

def check_rows(rows):
    for row in rows:
        why = row["err"]
        if "wrong" in row["peer"]:
            assert isinstance(why, str) and "tolerance" in why, row
        else:
            assert isinstance(why, float) and 0 < why < 0.6 and row["us"] > 0 and row["tbs"] > 0, row
            assert row["tflops"] > 0 or row["section"][0] == "4" or any(part in row["case"] for part in ("norm", "top-k")), row


def check_counts(rows):
    """Rows per section."""
    counts = {name[0]: sum(row["section"] == name for row in rows) for name in layer.SECTIONS}
    # Composed by FlashMLA and FA3, twice with few rows, and two of ours for each batch; prefill, whose hook refuses
    assert counts["1"] == 3 * (2 + 2) + 2 * 2 + 1, counts
    assert counts["2"] == 3 * (2 + 2 + 1 + 2) + 1 and counts["3"] == 2 * 2 * 3, counts
    assert counts["4"] == 2 * 2 * 4 and counts["5"] == 3 * (8 + 7), counts
    assert counts["6"] == 3 * (7 + 1 + 5) + 2 + 6 + 4 + 2 * 11, counts


# ---- Ours, over a library that is not there ----

class Pretended:
    """A library whose cache remembers by slot which hidden state and position it was told."""
    device = None

    def __init__(self):
        self.slots, self.asked = {}, None

    def call(self, function, *arguments):
        if function == "mla_prefill":
            batch, hidden = arguments[3]._obj, arguments[4]._obj
            rows = (ctypes.c_uint16 * (hidden.shape[0] * hidden.shape[1])).from_address(hidden.data)[::hidden.shape[1]]
            at = 0
            for request in range(batch.requests):
                assert batch.cached[request] == 0 and batch.block_counts[request] == 1 and batch.added[request] <= 64
                for i in range(batch.added[request]):
                    self.slots[batch.blocks[request], i] = rows[at], batch.positions[at]
                    at += 1

    def step(self, function, arguments, out, of=None):
        self.asked = function, arguments[1]._obj
        return lambda: out


def check_filling(cached=200, new=3):
    """What a library is told of cached tokens, as the harness has them."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))
    hooks = sys.modules.pop("ours")
    import ours
    import ours_layers
    sys.modules["ours"] = hooks
    library, ours_layers.stream = Pretended(), lambda: None
    ours.library = lambda name: library if name == "deepseek-v3-bf16.so" else None
    pool = torch.arange(100.).bfloat16()[:, None].expand(-1, 8).contiguous()
    given = dict(hidden=pool[:2 * new], pool=pool, shifts=[0, 61], cached=cached, new=new, table=torch.tensor([[5, 0, 3, 7], [2, 1, 6, 4]]))
    assert list(ours.layer_decode(weights={"w": pool}, coded_cache=True, **given)) == ["mla-gen, caches of bf16"]
    for request, (shift, blocks) in enumerate(zip(given["shifts"], given["table"].tolist())):
        for t in range(cached):
            state = torch.tensor(float((t + shift) % 100)).bfloat16().view(torch.int16).item()
            assert library.slots[blocks[t // 64], t % 64] == (state, t), (request, t)
    assert len(library.slots) == 2 * cached
    function, batch = library.asked
    assert function == "mla_step_decode" and batch.cached[:2] == [cached] * 2 and batch.added[:2] == [new] * 2
    assert batch.blocks[:8] == given["table"].flatten().tolist() and not batch.positions
    assert ours.layer_v32_decode(weights={"w_scale_inv": pool}, coded_cache=True, **given) == {}


def main():
    rehearse.without_a_gpu()
    for name, stand_in in STAND_INS.items():
        setattr(ops, name, stand_in)
    kernels.flash3 = rehearse.flash3
    sys.modules["ours"] = OURS
    check_filling()
    harness.measure(layer.SECTIONS, "layer.json")
    with open(os.path.join(os.environ["OUT"], "layer.json")) as f:
        rows = json.load(f)["rows"]
    check_rows(rows)
    check_counts(rows)
    check_faults()
    print("rehearsed")


if __name__ == "__main__":
    main()
