//! Rules of the `build` section.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(602),
        title: "an empty list",
        rule: "`phases`, `recompute`, `offload` and `targets` list at least one choice.",
        why: "a list of nothing is mostly one that was meant to be filled. An absent key means its default.",
        wrong: r"build:
  phases: []
",
        right: r"build:
  phases: [forward]
",
    },
    Rule {
        code: Code(603),
        title: "a choice listed twice",
        rule: "each phase, each target and each part to recompute or offload is listed once.",
        why: "the second would be ignored, or generated twice under one name.",
        wrong: r"build:
  phases: [forward, forward]
",
        right: r"build:
  phases: [forward]
",
    },
    Rule {
        code: Code(604),
        title: "a build key that nothing reads",
        rule: "`recompute` and `offload` need `train`, `cache` and `context_chunk` need `prefill`, `decode` or `mixed`, the lengths in `expect` the \
              phases that they describe and a form that is not forced, `context_chunk` a latent cache \
              that some phase may expand.",
        why: "a key that has no effect is mostly a sign that another one is wrong.",
        wrong: r"build:
  phases: [forward]
  cache: { format: latent_bf16 }
",
        right: r"build:
  phases: [prefill, decode]
  dtype: bf16
  cache: { format: latent_bf16 }
",
    },
    Rule {
        code: Code(605),
        title: "a cache format of another release, or of two meanings",
        rule: "4-bit and integer caches are known, but this release can't generate them; `fp8` alone says too little, and `auto` nothing.",
        why: "formats of the same name differ between systems byte by byte.",
        wrong: r"build:
  dtype: bf16
  cache: { format: fp8 }
",
        right: r"build:
  dtype: bf16
  cache: { format: fp8_ds_mla, scale_format: ue8m0 }
",
    },
    Rule {
        code: Code(606),
        title: "the absorbed form over a naive cache",
        rule: "`form: mqa` needs a `latent_*` cache.",
        why: "absorbed queries meet the latent itself, and a naive cache holds expanded keys and \
              values only.",
        wrong: r"build:
  form: mqa
  cache: { format: naive_f32 }
",
        right: r"build:
  form: mha
  cache: { format: naive_f32 }
",
    },
    Rule {
        code: Code(607),
        title: "`rope_layout` of a cache without rotated keys",
        rule: "`cache.rope_layout` needs a rotary embedding.",
        why: "it says in which order rotated keys are kept, and this layer rotates none.",
        wrong: r"params:
  rope: { type: none }
build:
  cache: { format: latent_f32, rope_layout: half }
",
        right: r"build:
  cache: { format: latent_f32, rope_layout: half }
",
    },
    Rule {
        code: Code(608),
        title: "a target that there are no kernels for",
        rule: "targets are `cpu` and the architectures of NVIDIA's GPUs from `sm_80` on.",
        why: "a target decides on kernels, not on numbers, but a missing kernel can't be made up.",
        wrong: r"build:
  targets: [cpu, cuda]
",
        right: r"build:
  targets: [cpu, sm_90a]
",
    },
    Rule {
        code: Code(609),
        title: "a cache wider than its values (warning)",
        rule: "the cache's type is no wider than `dtype`.",
        why: "the values were rounded to `dtype` before they are stored: the wider cache costs memory \
              and adds no digit.",
        wrong: r"build:
  dtype: bf16
  cache: { format: latent_f32 }
",
        right: r"build:
  dtype: bf16
  cache: { format: latent_bf16 }
",
    },
    Rule {
        code: Code(610),
        title: "a type of arithmetic of another release",
        rule: "arithmetic is `f32`, `bf16` or, for proofs, `f64`.",
        why: "f16 overflows at 65504 in unnormed activations, and quantised arithmetic needs scales \
              that a spec can't state yet. Weights stored in f16 load into either type.",
        wrong: r"build:
  dtype: f16
",
        right: r"build:
  dtype: bf16
",
    },
];
