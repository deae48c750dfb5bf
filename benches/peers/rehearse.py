"""Runs prefill.py on a CPU with small sizes and stand-ins for the kernels: shapes, checks, hooks, rows and files, before a GPU is there.

    PEERS_DIR=… python3 benches/peers/rehearse.py
"""
import json
import os
import sys
import tempfile
import time
import types

os.environ.update(OUT=tempfile.mkdtemp(), PEERS_ROUNDS="2", PEERS_FLASHINFER="1")
os.environ["PEERS_SITE"] = os.environ["OUT"]

import harness

import torch

import common
common.dev = "cpu"

import kernels
import prefill
import reference

prefill.HEADS, prefill.ROWS, prefill.REPEATABLE = (4, 2), (64, 136), (136,)
prefill.RAGGED_ROWS, prefill.RAGGED_SHORTEST, prefill.RAGGED_LONGEST = 300, 8, 100
prefill.NEW, prefill.CACHED, prefill.CHUNK = 64, 320, 128
prefill.DIM_HEADS, prefill.DIM_ROWS = 2, 96


def without_a_gpu():
    torch.cuda.synchronize = torch.cuda.empty_cache = lambda: None
    torch.cuda.get_device_name = lambda: "no GPU"

    def seconds(fns, budget, graph):
        begun = time.perf_counter()
        for f in fns:
            f()
        return (time.perf_counter() - begun) / len(fns)
    common.seconds = seconds


def attention(q, k, v, causal, scale):
    """The output and logsumexp of one sequence; the last query sees all keys."""
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float()) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1 + len(k) - len(q)).bool(), float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v.float()).to(q.dtype), scores.logsumexp(-1)


def flash3(q, k, v, cu_q, cu_k, longest_q, longest_k, causal, scale):
    assert q.shape[-1] == v.shape[-1] or q.shape[-1] == 192, "these head dimensions are not supported"
    lengths = cu_q.diff().tolist(), cu_k.diff().tolist()
    assert max(lengths[0]) == longest_q and max(lengths[1]) == longest_k
    outs = [attention(*parts, causal, scale) for parts in zip(q.split(lengths[0]), k.split(lengths[1]), v.split(lengths[1]))]
    return torch.cat([out for out, _ in outs]), torch.cat([lse for _, lse in outs], 1)


def flash4(q, k, v, cu, longest, scale, deterministic=False):
    return flash3(q, k, v, cu, cu, longest, longest, True, scale)[0] if q.shape[-1] == 192 else attention(q, k, v, True, scale)[0]


def cudnn(q, k, v, scale):
    if q.shape[-1] > 192:
        raise RuntimeError("no kernel for these widths\nsecond line")
    assert v.is_contiguous(), "values with strides"
    return attention(q, k, v, True, scale)[0]


def of_batch(q, kv, k_rope, cu, lengths, scale):
    assert cu.tolist() == [0] + torch.tensor(lengths).cumsum(0).tolist() and k_rope.shape == (sum(lengths), 64)
    k = torch.cat([kv[..., :128], k_rope[:, None].expand(-1, kv.shape[1], -1)], -1)
    return flash4(q, k, kv[..., 128:], cu, max(lengths), scale)


def kv_up_backward(q, kv, k_rope, cu, lengths, scale, d_out):
    """Straight through autograd, so that what `into_kv_up` puts together has something else to agree with."""
    leaves = [x.detach().requires_grad_() for x in (q, kv, k_rope)]
    return {"ours": lambda: torch.autograd.grad(of_batch(*leaves, cu, lengths, scale), leaves, d_out)}


def chunked_prefill(q, cache, table, cached, latents, k_rope, w_kv, scale):
    entries = cache[table.long()].flatten(0, 1)[:cached + len(q)]
    assert torch.equal(entries[cached:], torch.cat([latents, k_rope], -1))
    kv = (entries[:, :512].float() @ w_kv.float()).view(len(entries), -1, 256)
    k = torch.cat([kv[..., :128], entries[:, None, 512:].expand(-1, kv.shape[1], -1)], -1)
    return {"ours": lambda: attention(q, k, kv[..., 128:], True, scale)[0]}


def dims_backward(q, k, v, cu, lengths, scale, d_out):
    return {"ours": prefill.Backward(lambda *x: attention(*x, True, scale)[0], kernels.contextlib.nullcontext, (q, k, v), d_out),
            "ours, wrong": lambda: [torch.randn(x.shape) for x in (q, k, v)]}


def refuses(**_):
    raise NotImplementedError("a hook that fails")


def stand_ins():
    kernels.flash3, kernels.flash4, kernels.cudnn = flash3, flash4, cudnn
    sys.modules["ours"] = types.SimpleNamespace(
        dense_prefill_kv_up=lambda **inputs: {"ours": lambda: of_batch(**inputs), "ours, wrong": lambda: of_batch(**inputs | dict(scale=0.1))},
        dense_prefill_kv_up_backward=kv_up_backward, chunked_prefill=chunked_prefill, dense_prefill_dims=refuses,
        dense_prefill_dims_backward=dims_backward)


def check_rows(rows):
    """Every row is right, but for those that are meant not to be."""
    for row in rows:
        why, name = row["err"], row["peer"]
        absent = name.startswith("FlashInfer") or "vLLM gather" in name or name.startswith("cuDNN") and "d256" in row["case"]
        if absent:
            assert isinstance(why, str) and why.startswith("failed: "), row
        elif "wrong" in name:
            assert why > 0.1, row
        else:
            assert isinstance(why, float) and 0 < why < 6e-3 and row["us"] > 0 and row["tflops"] > 0 and row["tbs"] > 0, row
            assert not "deterministic" in name or row["note"] == "two runs agree bit for bit", row
            assert ("copy of V" in name) == (name.startswith("cuDNN") and " + concat" in name), row


def check_counts(rows):
    """Rows per section: of forward passes and of backward ones."""
    counts = {section: [sum(r["section"] == section and r["case"].startswith("bwd") == back for r in rows) for back in (False, True)]
              for section in prefill.SECTIONS}
    # Peers bare and from kv-up, and two of ours, for each shape; the deterministic ones at one length
    assert counts["1-kv-up"] == [4 * (4 * 2 + 2), 0] and counts["2-kv-up-backward"] == [0, 4 * (2 * 2 + 1) + 2 * 2], counts
    assert counts["3-ragged"] == [2 * (3 * 2 + 2), 2 * (2 + 1 + 1)] and counts["4-chunked"] == [2 * 3, 0], counts
    assert counts["5-dims"] == [5 * 3, 5 * 4], counts


def check_gradients():
    """The reference's own gradients against autograd in float64, over several blocks and groups of heads."""
    reference.BLOCK_BYTES = 4 * 40 * 40 * 2
    q, k, v, d_out = (torch.randn(70, 5, width, dtype=torch.float64) for width in (24, 24, 16, 16))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    for begin, end in reference.spans([30, 40]):
        scores = torch.einsum("qhd,khd->hqk", leaves[0][begin:end], leaves[1][begin:end]) * 0.3
        p = scores.masked_fill(torch.ones(end - begin, end - begin).triu(1).bool(), float("-inf")).softmax(-1)
        torch.einsum("hqk,khd->qhd", p, leaves[2][begin:end]).backward(d_out[begin:end])
    for got, leaf in zip(reference.gradients(q, k, v, d_out, [30, 40], 0.3), leaves):
        assert common.rel(got, leaf.grad) < 1e-6
    ones = [torch.randn(3, 50, 8) for _ in range(4)]
    for whole, blocks in zip(reference.sequence_gradients(*ones, 50, 0.2), reference.sequence_gradients(*ones, 16, 0.2)):
        assert common.rel(blocks, whole) < 1e-5


def check_restart():
    """A process that starts again keeps earlier sections' rows, and says which kernel lost the context."""
    path = os.path.join(os.environ["OUT"], "again.json")
    with open(path, "w") as f:
        json.dump(dict(meta={}, rows=[dict(section="a", case="c", peer="p", err=None, note="")]), f)
    os.environ["PEERS_LOST"] = "b:a case:a peer"
    ran = []
    harness.measure({"a": lambda c: ran.append("a"), "b": lambda c: ran.append("b") or 1 / len(c.rows)}, "again.json")
    del os.environ["PEERS_LOST"]
    with open(path) as f:
        rows = json.load(f)["rows"]
    assert ran == ["b"] and [row["section"] for row in rows] == ["a", "b", "b"], rows
    assert rows[1]["err"] == "failed: division by zero" and rows[2]["peer"] == "a peer" and "context" in rows[2]["err"], rows


def main():
    without_a_gpu()
    stand_ins()
    check_gradients()
    reference.BLOCK_BYTES = 1 << 16
    harness.measure(prefill.SECTIONS, "prefill.json")
    with open(os.path.join(os.environ["OUT"], "prefill.json")) as f:
        rows = json.load(f)["rows"]
    check_rows(rows)
    check_counts(rows)
    check_restart()
    print("rehearsed")


if __name__ == "__main__":
    main()
