"""What a serving engine's composition of public kernels takes for whole layers, and for each part of them.

    PEERS_STAGE=S python3 PEERS_DIR/run.py 0                     # unpacks the peers into $PEERS_SITE, and measures the ceilings
    PEERS_DIR=… python3 benches/peers/layer.py [1 2 3 4 5 6]     # those sections, all if none; writes $OUT/layer.json and prints a table

Sections: 1, DeepSeek-V3's layer in bf16, decode of 1, 32 and 128 requests at 8192 cached tokens and prefill of 4096; 2, its decode with weights
in fp8, over caches of bf16 and of 656-byte entries; 3, DeepSeek-V3.2's layer over 656-byte entries and keys in fp8, decode of 128 requests at 32768
and prefill of the last 4096 of 32768 tokens; 4, norms, rotation and the cache's writing; 5, products; 6, each part of the layers of 1 to 3 alone.

A composition is in one CUDA graph where it takes less than 2 ms, as the harness does it. FLOPs and bytes are the least that the work takes: weights,
what is cached of attended tokens, what comes in and goes out; of a part alone also what it hands to the next. Every row is checked against f32
over the same caches, and one whose error is above its tolerance has no time. Of ours over chosen keys the choice is not known: its output is compared, loosely,
with that over the keys that codes of queries and keys choose, of which those near the bar may be others.

PEERS_ONLY, PEERS_SKIP, PEERS_ROUNDS and PEERS_SETTLE_S as in the harness. PEERS_ROUNDS=0 compiles and checks, and times nothing: DeepGEMM and
torch.compile keep what they compiled, so a few such processes side by side, of some sections each, save the time that one would compile. PEERS_COMPILE=0 leaves the indexer's small
kernels to plain torch.

Hooks: `ours.py` on PYTHONPATH may define layer_decode, layer_prefill, layer_v32_decode, layer_v32_prefill, small, small_index and gemm, which
README.md beside this file describes. Each is called once a case, outside of the timing.
"""
import functools
import sys

from harness import hooked, measure  # first: it finds the harness's modules

import layer_compose as compose
import layer_model as model
import layer_small
from layer_reference import Check

BATCHES, CACHED, NEW = (1, 32, 128), 8192, 4096
SPARSE_REQUESTS, SPARSE_CACHED = 128, 32768
FEW = 16  # rows that vLLM's own down projection takes
SETS = 8  # of weights and small caches, for parts of a decode step
# Errors of an output: by weights in bf16, over entries of 656 bytes whose new ones are rounded too, and by products of codes
PLAIN, ENTRIES, CODED = 1.5e-2, 3e-2, 1e-1
CHOSEN, CHOSEN_CODED = 0.2, 0.3  # of an output whose choice is not known
MISSED, MISSED_CODED = 6e-2, 0.15  # the share of the best keys that fp8 logits may leave out


def checked(work):
    if isinstance(work.w, model.CodedWeights):
        return Check(work, CODED, CHOSEN_CODED if work.sparse else None, MISSED_CODED)
    return Check(work, ENTRIES if work.coded else PLAIN, CHOSEN if work.sparse else None, MISSED)


def total(layer):
    return sum(step.flops for step in layer.steps)


def whole(case, work, layers, hook):
    """Rows of a whole layer: {peer: composition}, and ours."""
    check, first = checked(work), next(iter(layers.values()))
    timed = functools.partial(dict, case=case, flops=total(first), nbytes=first.floor(), budget=layer_small.TIMED_S)
    for name, layer in layers.items():
        yield timed(peer=name, fns=layer, check=check.peer(layer))
    for name, fns in hooked(hook, **work.hook()).items():
        yield timed(peer=name, fns=fns, check=check.output)


def parts(case, name, layers, work, only=None):
    """Rows of each part of a composition alone. Several that are alike are used in turn, so that the L2 does not hold their weights."""
    check, first = checked(work).peer(layers[0]), layers[0]
    for part, (flops, nbytes) in first.parts().items():
        if not only or part in only:
            yield dict(case=f"{case}: {part}", peer=name, fns=[layer.part(part) for layer in layers], flops=flops, nbytes=nbytes,
                       check=lambda _: check(first()), budget=layer_small.TIMED_S)


def label(weights, attention):
    products = "DeepGEMM fp8" if isinstance(weights, model.CodedWeights) else "cuBLAS"
    return f"composed: {products} + vLLM + {attention}"


def decodes(weights, work):
    """Compositions of a step of dense decode, by what attends."""
    kinds = [compose.FlashMlaOfAll] if work.coded else [compose.FlashMla, compose.Flash3]
    layers = {label(weights, kind.name): compose.Absorbed(weights, work, kind) for kind in kinds}
    if work.rows <= FEW and not isinstance(weights, model.CodedWeights):
        layers |= {label(weights, kind.name) + ", vLLM's down projection": compose.Absorbed(weights, work, kind, own_down=True) for kind in kinds}
    return layers


def of_decode(requests, cached, work):
    return f"decode b{requests} cached{cached}" + (" fp8_ds_mla" if work.coded else "")


def of_prefill(new, cached):
    return f"prefill new{new} cached{cached}"


def dense():
    weights = model.weights()
    for requests in BATCHES:
        work = model.Workload(weights, requests, CACHED, 1)
        yield from whole("V3 " + of_decode(requests, CACHED, work), work, decodes(weights, work), "layer_decode")
    work = model.Workload(weights, 1, 0, NEW)
    yield from whole("V3 " + of_prefill(NEW, 0), work, {label(weights, "FA3"): compose.Expanded(weights, work)}, "layer_prefill")


def dense_coded():
    weights = model.weights(coded=True)
    for requests in BATCHES:
        for coded_cache in (False, True):
            work = model.Workload(weights, requests, CACHED, 1, coded_cache)
            yield from whole("V3 fp8 weights " + of_decode(requests, CACHED, work), work, decodes(weights, work), "layer_decode")
    work = model.Workload(weights, 1, 0, NEW)
    yield from whole("V3 fp8 weights " + of_prefill(NEW, 0), work, {label(weights, "FA3"): compose.Expanded(weights, work)}, "layer_prefill")


def sparse_step(weights):
    """A step of sparse decode: its case, workload and composition."""
    work = model.Workload(weights, SPARSE_REQUESTS, SPARSE_CACHED, 1, coded=True)
    return of_decode(SPARSE_REQUESTS, SPARSE_CACHED, work), work, compose.SparseDecode(weights, work, compose.FlashMlaOfChosen)


def sparse_chunk(weights):
    """The last new tokens of one request: the same."""
    work = model.Workload(weights, 1, SPARSE_CACHED - NEW, NEW, coded=True)
    return of_prefill(NEW, SPARSE_CACHED - NEW), work, compose.SparsePrefill(weights, work, compose.FlashMlaOfRows)


def sparse():
    for coded, kind in ((False, "V3.2 "), (True, "V3.2 fp8 weights ")):
        weights = model.weights(sparse=True, coded=coded)
        for make, hook in ((sparse_step, "layer_v32_decode"), (sparse_chunk, "layer_v32_prefill")):
            case, work, layer = make(weights)
            yield from whole(kind + case, work, {label(weights, "DeepGEMM logits + " + layer.attention.name): layer}, hook)


@functools.cache
def cold(coded):
    """Equal weights in different memory."""
    weights = model.weights(coded=coded)
    return [weights] + [weights.copied() for _ in range(SETS - 1)]


def alike(work, coded, make):
    """Equal steps over weights of their own, and over caches of their own where those are small."""
    copies = cold(coded)
    works = [work] + [work.copied() for _ in copies[1:]]
    return [make(weights, own) for weights, own in zip(copies, works)]


def parts_of_decode():
    for requests in BATCHES:
        work = model.Workload(model.weights(), requests, CACHED, 1)
        case = "V3 " + of_decode(requests, CACHED, work)
        yield from parts(case, "cuBLAS, vLLM, FlashMLA", alike(work, False, lambda w, own: compose.Absorbed(w, own, compose.FlashMla)), work)
        yield from parts(case, "FA3", alike(work, False, lambda w, own: compose.Absorbed(w, own, compose.Flash3)), work, {"attention"})
        if requests <= FEW:
            own_down = alike(work, False, lambda w, own: compose.Absorbed(w, own, compose.FlashMla, own_down=True))
            yield from parts(case, "vLLM's down projection", own_down, work, {"down"})
        coded = model.Workload(model.weights(coded=True), requests, CACHED, 1, coded=True)
        layers = alike(coded, True, lambda w, own: compose.Absorbed(w, own, compose.FlashMlaOfAll))
        yield from parts(case, "fp8: DeepGEMM with rows quantised, fp8_ds_mla", layers, coded, {"down", "q_b", "o", "attention", "norms, rope, write"})


def parts_of_prefill():
    for coded, name in ((False, "cuBLAS, vLLM, FA3"), (True, "fp8: DeepGEMM with rows quantised")):
        weights = model.weights(coded=coded)
        work = model.Workload(weights, 1, 0, NEW)
        only = {"down", "q_b", "kv_b", "o"} if coded else None
        yield from parts("V3 " + of_prefill(NEW, 0), name, [compose.Expanded(weights, work)], work, only)


def parts_of_sparse():
    weights = model.weights(sparse=True)
    for make in (sparse_step, sparse_chunk):
        case, work, layer = make(weights)
        yield from parts("V3.2 " + case, "cuBLAS, vLLM, DeepGEMM, " + layer.attention.name, [layer], work)


def all_parts():
    yield from parts_of_decode()
    yield from parts_of_prefill()
    yield from parts_of_sparse()


def kept(rows):
    """A section whose rows are made in its first pass, and timed in all others: inputs, weights and caches stay what they were."""
    def section(c):
        for row in made(c, rows) if c.warm else c.kept:
            c(**row)
    return section


def made(c, rows):
    """The rows, which are kept. What cannot be made becomes the last one, so that those before it are timed."""
    c.kept = []
    try:
        for row in rows():
            c.kept.append(row)
            yield row
    except Exception as error:
        def fails(error=error):
            raise error
        c.kept.append(dict(case="the section", peer="all after the rows above", fns=fails))
        yield c.kept[-1]


SECTIONS = {"1-layer": kept(dense), "2-layer-fp8": kept(dense_coded), "3-layer-sparse": kept(sparse), "4-small": kept(layer_small.small),
            "5-gemm": kept(layer_small.gemm), "6-parts": kept(all_parts)}


if __name__ == "__main__":
    wanted = "".join(sys.argv[1:]) or "123456"
    measure({name: section for name, section in SECTIONS.items() if name[0] in wanted}, "layer.json")
