"""Attention in float32, for checks: chosen rows of its output, and all of its gradients. Inputs are [rows, heads, width]."""
import torch

BLOCK_BYTES = 1 << 30  # of one float32 block of scores; a handful of them live at a time


def spans(lengths):
    """[begin, end) of each sequence in rows that lie one sequence behind another."""
    begin, out = 0, []
    for length in lengths:
        out.append((begin, begin + length))
        begin += length
    return out


def sampled(lengths):
    """{row: keys that it sees}: early, middle and last rows of the first, the longest and the last sequence."""
    every = spans(lengths)
    longest = max(every, key=lambda span: span[1] - span[0])
    return {row: (begin, row + 1) for begin, end in {every[0], longest, every[-1]}
            for row in {min(begin + 5, end - 1), (begin + end) // 2, end - 1}}


def rows(q, keys_values, seen, scale):
    """Expected output rows, in the order of `seen`. `keys_values(heads)` gives keys and values of a slice of heads."""
    heads, step, out = q.shape[1], 16, []
    for first in range(0, heads, step):
        part = slice(first, min(first + step, heads))
        k, v = (x.float() for x in keys_values(part))
        scores = lambda row, begin, end: torch.einsum("hd,nhd->hn", q[row, part].float(), k[begin:end]) * scale
        out.append(torch.stack([torch.einsum("hn,nhd->hd", scores(row, *span).softmax(-1), v[span[0]:span[1]]) for row, span in seen.items()]))
    return torch.cat(out, 1)


def gradients(q, k, v, d_out, lengths, scale):
    """d_q, d_k and d_v in float32 of causal attention within each sequence, a block of queries and some heads at a time."""
    grads = tuple(torch.zeros(x.shape, device=x.device) for x in (q, k, v))
    for begin, end in spans(lengths):
        block = min(end - begin, 2048)
        step = max(1, BLOCK_BYTES // (4 * block * (end - begin)))
        for first in range(0, q.shape[1], step):
            part = (slice(begin, end), slice(first, first + step))
            of_heads = [x[part].float().transpose(0, 1) for x in (q, k, v, d_out)]
            for into, grad in zip(grads, sequence_gradients(*of_heads, block, scale)):
                into[part] = grad.transpose(0, 1)
    return grads


def sequence_gradients(q, k, v, d_out, block, scale):
    """The same of one sequence: [heads, rows, width]."""
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    for top in range(0, q.shape[1], block):
        end = min(top + block, q.shape[1])
        here, seen = slice(top, end), slice(0, end)
        later = torch.arange(end, device=q.device) > torch.arange(top, end, device=q.device)[:, None]
        p = (q[:, here] @ k[:, seen].mT * scale).masked_fill_(later, float("-inf")).softmax(-1)
        dv[:, seen] += p.mT @ d_out[:, here]
        delta = (p @ v[:, seen] * d_out[:, here]).sum(-1, keepdim=True)
        ds = (d_out[:, here] @ v[:, seen].mT).sub_(delta).mul_(p).mul_(scale)
        dq[:, here] = ds @ k[:, seen]
        dk[:, seen] += ds.mT @ q[:, here]
    return dq, dk, dv
