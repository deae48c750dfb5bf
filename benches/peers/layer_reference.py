"""What a layer's rows should be, in float32, over what is cached as it is cached."""
import functools

import layer_model as model  # first: it finds the harness's modules

import torch

from common import dev, rel


class Expected:
    """Rows of a workload: their latents, queries, choices and outputs."""

    def __init__(self, work):
        self.work, self.w = work, work.w

    @functools.cached_property
    def own_entries(self):
        """Of the new tokens: rows of latents and rotated keys."""
        latents, keys = model.latents_and_keys(self.w, self.work.hidden)
        return torch.cat([latents, model.rotated_pairs(keys, self.work.angles[self.work.positions])], -1)

    @functools.cached_property
    def own_keys(self):
        return model.rotated_halves(model.index_keys(self.w, self.work.hidden), self.work.angles[self.work.positions])

    def seen(self, request):
        """All entries of a request, the new ones included."""
        own = slice(request * self.work.new, (request + 1) * self.work.new)
        return torch.cat([self.work.entries(request), self.own_entries[own]])

    def seen_keys(self, request):
        own = slice(request * self.work.new, (request + 1) * self.work.new)
        return torch.cat([self.work.keys(request), self.own_keys[own]])

    def q_latent(self, row):
        down = self.work.hidden[row].float() @ self.w.value("q_a_proj.weight").T
        return model.rms_norm(down, self.w.value("q_a_layernorm.weight"))

    def angles(self, row):
        return self.work.angles[self.work.positions[row]][None]

    def ends(self, row):
        """The row's request, and how many tokens it sees."""
        return row // self.work.new, self.work.cached + row % self.work.new + 1

    def scores(self, row, as_codes=False):
        """The indexer's logits, but for a factor that all of them share; of what codes of queries and keys say, perhaps."""
        request, end = self.ends(row)
        q = (self.q_latent(row) @ self.w.value("indexer.wq_b.weight").T).view(1, model.INDEX_HEADS, model.INDEX_WIDTH)
        q, keys = model.rotated_halves(q, self.angles(row))[0], self.seen_keys(request)[:end]
        if as_codes:
            # Cached keys are codes already, and this changes nothing of them
            q, keys = model.rounded(q), model.rounded(keys)
        weights = self.work.hidden[row].float() @ self.w.value("indexer.weights_proj.weight").T
        return weights @ torch.relu(q @ keys.T)

    def choice(self, row, as_codes=False):
        scores = self.scores(row, as_codes)
        return scores.topk(min(model.TOPK, len(scores)))[1]

    def row(self, row, chosen=None):
        """An output row, over all tokens that it sees or over chosen ones."""
        request, end = self.ends(row)
        entries = self.seen(request)[:end] if chosen is None else self.seen(request)[chosen]
        q = (self.q_latent(row) @ self.w.value("q_b_proj.weight").T).view(1, model.HEADS, -1)
        up = self.w.value("kv_b_proj.weight").view(model.HEADS, model.NOPE + model.VALUE, model.LATENT)
        latent = torch.einsum("hd,hdl->hl", q[0, :, :model.NOPE], up[:, :model.NOPE])
        rotated = model.rotated_pairs(q[..., model.NOPE:], self.angles(row))[0]
        p = (torch.cat([latent, rotated], -1) @ entries.T * model.SCALE).softmax(-1)
        heads = torch.einsum("hl,hvl->hv", p @ entries[:, :model.LATENT], up[:, model.NOPE:])
        return heads.flatten() @ self.w.value("o_proj.weight").T


def sampled(rows):
    return sorted({0, min(5, rows - 1), rows // 2, rows - 1})


def within(error, tolerance, what):
    """The error, where it is no larger than that; a NaN is."""
    if not error <= tolerance:
        raise AssertionError(f"{what}: {error:.1e}, tolerance {tolerance:.0e}")
    return error


class Check:
    """Compares an output's sampled rows. Of a peer, whose buffers are at hand, also what it wrote and chose: its output then has to be that
    of its own choice, since random keys' logits lie close to each other and fp8 takes some for others."""

    def __init__(self, work, tolerance, of_choice=None, missed=None):
        """`of_choice`: of an output whose choice is not known. `missed`: the share of the best keys that may be left out."""
        self.expected, self.work, self.tolerance, self.of_choice, self.may_miss = Expected(work), work, tolerance, of_choice, missed
        self.at = sampled(work.rows)

    @functools.cached_property
    def own_choice(self):
        """Rows over the keys that codes choose, as ours has queries and keys rounded; over all keys of a dense layer."""
        choice = functools.partial(self.expected.choice, as_codes=True)
        return torch.stack([self.expected.row(row, choice(row) if self.work.sparse else None) for row in self.at])

    def output(self, out):
        """Ours, of which the output is known alone."""
        return within(rel(out.view(self.work.rows, -1)[self.at], self.own_choice), self.of_choice or self.tolerance, "output")

    def peer(self, composition):
        def of(out):
            self.written(composition)
            if not self.work.sparse:
                return within(rel(out[self.at], self.own_choice), self.tolerance, "output")
            chosen = [composition.positions_chosen(row) for row in self.at]
            for row, mine in zip(self.at, chosen):
                within(self.missed(row, mine), self.may_miss, "chosen keys that are not the best")
            want = torch.stack([self.expected.row(row, mine) for row, mine in zip(self.at, chosen)])
            return within(rel(out[self.at], want), self.tolerance, "output")
        return of

    def written(self, composition):
        work = composition.work
        # Codes have three bits behind their first
        within(rel(work.written(), self.expected.own_entries), max(self.tolerance, 4e-2 if work.coded else 0), "what was cached")
        if work.sparse:
            within(rel(work.written_keys(), self.expected.own_keys), 6e-2, "keys that were cached")

    def missed(self, row, chosen):
        """The share of the best scores that is not among the chosen."""
        best, end = self.expected.choice(row), self.expected.ends(row)[1]
        if len(chosen) != len(best) or len(chosen.unique()) != len(best) or not (0 <= chosen.min() and chosen.max() < end):
            return 1.0
        found = torch.zeros(end, device=dev, dtype=torch.bool)
        found[chosen] = True
        return 1 - found[best].double().mean().item()
