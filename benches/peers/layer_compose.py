"""What a serving engine composes of a layer: steps over buffers of their own, which can be run together or a part alone.

Each step says which part of the layer it belongs to, and the least that the part does: FLOPs, and bytes that it reads and writes.
"""
from typing import Callable, NamedTuple

import layer_kernels as ops  # first: it finds the harness's modules
import layer_model as model

import torch

import kernels
from common import BF16, dev


class Step(NamedTuple):
    part: str
    run: Callable
    flops: float = 0
    nbytes: float = 0


def empty(*shape, dtype=BF16):
    return torch.empty(*shape, device=dev, dtype=dtype)


class FlashMla:
    """Absorbed queries lie in one row, latent and rotated part."""
    name = "FlashMLA"

    def __init__(self, layer):
        self.layer, self.meta = layer, [None, None]
        self.q = empty(layer.work.rows, 1, model.HEADS, model.LATENT + model.ROPE)
        self.q_latent = self.q[:, 0, :, :model.LATENT]

    def join(self):
        self.q[:, 0, :, model.LATENT:].copy_(self.layer.q_rope)

    def __call__(self):
        self.join()
        work = self.layer.work
        return ops.attend_flashmla(self.q, work.cache, work.lens, work.table, model.SCALE, self.meta)[:, 0]


class Flash3:
    """Absorbed queries stay in two parts."""
    name = "FA3"

    def __init__(self, layer):
        self.layer, rows = layer, layer.work.rows
        self.q_latent = empty(rows, model.HEADS, model.LATENT)
        self.ends = torch.arange(rows + 1, device=dev, dtype=torch.int32)

    def __call__(self):
        work = self.layer.work
        return ops.attend_flash3(self.q_latent, self.layer.q_rope, work.cache, self.ends, work.total, work.lens, work.table, model.SCALE)


class FlashMlaOfAll(FlashMla):
    """FlashMLA has no dense kernel for entries of 656 bytes: its sparse one is told all tokens."""
    name = "FlashMLA's sparse kernel, told all tokens"

    def __init__(self, layer):
        super().__init__(layer)
        work = layer.work
        # As many as the kernel takes at a time, twice
        at = torch.arange(-(-work.longest // 128) * 128, device=dev).expand(work.requests, -1)
        slots = work.table.gather(1, (at // model.PAGE).clamp(max=work.table.shape[1] - 1)) * model.PAGE + at % model.PAGE
        self.slots = slots.masked_fill(at >= work.total, -1).int()[:, None]

    def __call__(self):
        self.join()
        return ops.attend_chosen_codes(self.q, self.layer.work.cache, self.slots, model.SCALE, self.meta)[:, 0]


class FlashMlaOfChosen(FlashMla):
    """Over what the indexer chose, of a paged cache."""
    name = "FlashMLA sparse"

    def __call__(self):
        self.join()
        slots = ops.slots_of(self.layer.chosen, self.layer.work.table)
        return ops.attend_chosen_codes(self.q, self.layer.work.cache, slots[:, None], model.SCALE, self.meta)[:, 0]


class FlashMlaOfRows(FlashMla):
    """The same of many queries of one request, whose entries are gathered into rows of bf16 first."""
    name = "FlashMLA sparse prefill"

    def __init__(self, layer):
        super().__init__(layer)
        self.entries = empty(layer.work.total, model.LATENT + model.ROPE)

    def __call__(self):
        self.join()
        ops.gather(self.layer.work.cache, self.entries, self.layer.work.table)
        return ops.attend_chosen(self.q[:, 0], self.entries, self.layer.chosen, model.SCALE)


class Layer:
    """Projections, norms, rotation and the cache's writing, which all phases share. `own_down`: vLLM's kernel for few rows."""

    def __init__(self, w, work, own_down=False):
        self.w, self.work, self.own_down, rows = w, work, own_down, work.rows
        self.a = empty(rows, model.Q_LORA + model.LATENT + model.ROPE)
        self.q_normed, self.latents = empty(rows, model.Q_LORA), empty(rows, model.LATENT)
        self.q = empty(rows, model.HEADS, model.NOPE + model.ROPE)
        self.q_rope, self.key = self.q[..., model.NOPE:], self.a[:, model.Q_LORA + model.LATENT:]
        self.heads, self.out = empty(rows, model.HEADS, model.VALUE), empty(rows, model.HIDDEN)
        self.by = {name: ops.linear(matrix, rows) for name, matrix in w.matrix.items()}
        self.steps, self.has_run = [], False

    def __call__(self):
        for step in self.steps:
            step.run()
        self.has_run = True
        return self.out

    def part(self, name):
        """The part alone. Its inputs are those of a whole run, which comes before the first."""
        runs = [step.run for step in self.steps if step.part == name]

        def alone():
            if not self.has_run:
                self()
            for run in runs:
                run()
            return self.out
        return alone

    def parts(self):
        """{part: (FLOPs, bytes)} in the order in which parts begin."""
        sums = {}
        for step in self.steps:
            flops, nbytes = sums.get(step.part, (0, 0))
            sums[step.part] = flops + step.flops, nbytes + step.nbytes
        return sums

    def projected(self, part, name, x, out):
        by = self.by[name]
        return Step(part, lambda: by(x, out), by.flops, by.nbytes)

    def down(self):
        if not self.own_down:
            return self.projected("down", "down", self.work.hidden, self.a)
        by = self.by["down"]
        return Step("down", lambda: ops.multiply_down(self.work.hidden, by.weight, self.a), by.flops, by.nbytes)

    def begin(self):
        """Up to queries that are rotated and entries that are written."""
        rows, small = self.work.rows, "norms, rope, write"
        of_norms = 2 * rows * (2 * (model.Q_LORA + model.LATENT))
        of_rope = rows * (4 * (model.HEADS + 1) * model.ROPE + 2 * model.LATENT + self.work.cache.shape[-1] * self.work.cache.element_size())
        return [self.down(), Step(small, self.normed, 0, of_norms), self.projected("q_b", "q_b", self.q_normed, self.q.flatten(1)),
                Step(small, self.rotated_and_written, 0, of_rope)]

    def normed(self):
        ops.rms_norm(self.q_normed, self.a[:, :model.Q_LORA], self.w.named["q_a_layernorm.weight"])
        ops.rms_norm(self.latents, self.a[:, model.Q_LORA:model.Q_LORA + model.LATENT], self.w.named["kv_a_layernorm.weight"])

    def rotated_and_written(self):
        work = self.work
        if not work.coded:
            ops.rotate_and_write(work.positions, self.q_rope, self.key, self.latents, work.cos_sin, work.slots, work.cache)
            return
        ops.rotate(work.positions, self.q_rope, self.key[:, None], work.cos_sin, ops.PAIRS)
        ops.write(self.latents, self.key, work.cache, work.slots)

    def end(self):
        by = self.by["o"]
        return [Step("o", lambda: by(self.heads.flatten(1), self.out), by.flops, by.nbytes)]

    def floor(self, expanded=False):
        """Bytes that the whole has to move: weights, what is cached of attended tokens, what comes in and goes out."""
        return self.w.floor(expanded) + 2 * self.work.hidden.nbytes


class Absorbed(Layer):
    """Attention over latents: decode, and whatever goes over chosen tokens."""

    def __init__(self, w, work, attention, own_down=False):
        super().__init__(w, work, own_down)
        self.attention, rows = attention(self), work.rows
        self.attended = None
        up = 2 * rows * model.HEADS * model.LATENT
        attends = min(model.TOPK, work.total) if work.sparse else work.total
        entry = work.cache.shape[-1] * work.cache.element_size()
        self.read = (rows if work.sparse else work.requests) * attends * entry
        joined = rows * model.HEADS * (2 * model.LATENT + model.ROPE)
        self.steps = self.begin() + self.choose() + [
            Step("absorb", self.absorb, up * model.NOPE, w.keys_up.nbytes + 2 * rows * model.HEADS * (model.NOPE + model.LATENT)),
            Step("attention", self.attend, 2 * joined * attends, self.read + 2 * joined),
            Step("values", self.values, up * model.VALUE, w.values_up.nbytes + 2 * rows * model.HEADS * (model.VALUE + model.LATENT)),
        ] + self.end()

    def choose(self):
        return []

    def absorb(self):
        torch.bmm(self.q[..., :model.NOPE].transpose(0, 1), self.w.keys_up, out=self.attention.q_latent.transpose(0, 1))

    def attend(self):
        self.attended = self.attention()

    def values(self):
        torch.bmm(self.attended.transpose(0, 1), self.w.values_up, out=self.heads.transpose(0, 1))

    def floor(self):
        return super().floor() + self.read


class Sparse(Absorbed):
    """With an indexer, which chooses by fp8 logits."""

    def __init__(self, w, work, attention, own_down=False):
        rows = work.rows
        self.index_q, self.index_a = empty(rows, model.INDEX_HEADS, model.INDEX_WIDTH), empty(rows, model.INDEX_WIDTH + model.INDEX_HEADS)
        self.chosen = torch.zeros(rows, model.TOPK, device=dev, dtype=torch.int32)
        self.room = torch.zeros(1 << 20, device=dev, dtype=torch.uint8)
        super().__init__(w, work, attention, own_down)

    def seen(self):
        """Keys that all rows see, and those that have to be read."""
        new = self.work.new
        return self.work.requests * (new * self.work.cached + new * (new + 1) // 2), self.work.requests * self.work.total

    def choose(self):
        rows, (seen, keys) = self.work.rows, self.seen()
        width = model.INDEX_HEADS * model.INDEX_WIDTH
        small = rows * (3 * width + 2 * model.INDEX_WIDTH + model.KEY_BYTES + 6 * model.INDEX_HEADS)
        self.read_keys = keys * model.KEY_BYTES
        return [self.projected("index projections", "index_q", self.q_normed, self.index_q.flatten(1)),
                self.projected("index projections", "index_down", self.work.hidden, self.index_a),
                Step("index norm, rope, codes, write", self.index_small, 0, small),
                Step("index logits", self.index_logits, 2 * seen * width, self.read_keys + rows * width + 4 * seen),
                Step("top-k", self.best, 0, 4 * seen + 4 * rows * model.TOPK)]

    def index_small(self):
        work, named = self.work, self.w.named
        keys, weights = self.index_a[:, :model.INDEX_WIDTH], self.index_a[:, model.INDEX_WIDTH:]
        keys = ops.index_key(keys, named["indexer.k_norm.weight"], named["indexer.k_norm.bias"], work.cos_sin, work.positions)
        ops.index_write(keys, work.index, work.slots)
        self.codes, self.head_weights = ops.index_query(self.index_q, weights, work.cos_sin, work.positions)

    def positions_chosen(self, row):
        return self.chosen[row][self.chosen[row] >= 0].long()

    def floor(self):
        return super().floor() + self.read_keys


class SparseDecode(Sparse):
    """One new token a request."""
    plan = None

    def index_logits(self):
        work = self.work
        if self.plan is None:
            self.plan = ops.paged_plan(work.lens)
        self.logits = ops.paged_logits(self.codes, work.index, self.head_weights, work.lens, work.table, self.plan, work.longest)

    def best(self):
        ops.best_of_requests(self.logits, self.work.lens, self.chosen, self.room, self.work.total)


class SparsePrefill(Sparse):
    """Many new tokens of one request."""

    def __init__(self, w, work, attention):
        self.starts = torch.zeros(work.rows, device=dev, dtype=torch.int32)
        self.ends = torch.arange(work.cached + 1, work.total + 1, device=dev, dtype=torch.int32)
        self.whole = torch.tensor([0, work.total], device=dev, dtype=torch.int32)
        self.key_codes, self.key_scales = empty(work.total, model.INDEX_WIDTH, dtype=model.FP8), empty(work.total, 4, dtype=torch.uint8)
        super().__init__(w, work, attention)

    def index_logits(self):
        ops.index_gather(self.work.index, self.key_codes, self.key_scales, self.work.table, self.whole)
        scales = self.key_scales.view(torch.float32)[:, 0]
        self.logits = ops.row_logits(self.codes, self.key_codes, scales, self.head_weights, self.starts, self.ends, self.work.total)

    def best(self):
        ops.best_of_rows(self.logits, self.starts, self.ends, self.chosen)


class Expanded(Layer):
    """Prefill of whole prompts: every head's keys and values, attended by FA3."""

    def __init__(self, w, work):
        super().__init__(w, work)
        rows, wide = work.rows, model.HEADS * (model.NOPE + model.ROPE + model.VALUE)
        self.kv = empty(rows, model.HEADS, model.NOPE + model.VALUE)
        self.keys = empty(rows, model.HEADS, model.NOPE + model.ROPE)
        self.ends = kernels.ends_of([work.new] * work.requests)
        pairs = work.requests * work.new * (work.new + 1) / 2
        moved = 2 * rows * (wide + model.HEADS * (model.NOPE + model.ROPE + model.VALUE))
        self.steps = self.begin() + [self.projected("kv_b", "kv_b", self.latents, self.kv.flatten(1)),
                                     Step("attention", self.attend, 2 * pairs * wide, moved)] + self.end()

    def attend(self):
        """Keys are put together first, by two copies."""
        self.keys[..., :model.NOPE].copy_(self.kv[..., :model.NOPE])
        self.keys[..., model.NOPE:].copy_(self.key[:, None].expand(-1, model.HEADS, -1))
        new = self.work.new
        self.heads, _ = kernels.flash3(self.q, self.keys, self.kv[..., model.NOPE:], self.ends, self.ends, new, new, True, model.SCALE)

    def floor(self):
        entry = self.work.cache.shape[-1] * self.work.cache.element_size()
        return super().floor(expanded=True) + self.work.rows * entry
