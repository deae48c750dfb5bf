//! What the passes leave behind: well-formed plans, the ops that each spec asks for, and nothing unused.

#[path = "../../tests/src/random_spec/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "a library's file, of which a test crate reads a copy"
)]
mod random_spec;

use std::collections::BTreeSet;

use mla_codegen::plan::cost::{Lengths, cheaper, crossover, flops};
use mla_codegen::plan::{
    ModuleKind, Op, Plan, ProbeMode, Program, ValueId, kernels, program, program_with, trace,
};
use mla_codegen::{Options, Origin, cubins, spec_digest};
use mla_spec::{
    CacheDType, Checked, DType, Dims, Form, FormChoice, Fp8, Phase, Projections, ScaleFormat,
    Sources, Store, Target, check, read,
};

use random_spec::{Dice, checked};

fn model(name: &str) -> Checked {
    let path = format!("{}/../spec/models/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the model spec is readable");
    parsed(&text)
}

fn parsed(text: &str) -> Checked {
    let document =
        read::yaml(&mut Sources::default(), "model.yaml", text).expect("the spec is well-formed");
    check::check(&document).0.expect("the spec is valid")
}

fn plan(program: &Program, phase: Phase) -> &Plan {
    program
        .plans
        .iter()
        .find(|plan| plan.phase == phase)
        .expect("the phase is planned")
}

/// The plans of a training step.
fn trained(program: &Program) -> Vec<&Plan> {
    let training = program.training.as_ref();
    training.map_or(vec![], |training| {
        vec![&training.forward, &training.backward]
    })
}

/// The part of a plan's text behind `=`, or all of it where nothing is defined.
fn lines(plan: &Plan) -> Vec<String> {
    let text = plan.to_string();
    let ops = text
        .lines()
        .skip(1)
        .map(str::trim)
        .filter(|line| !line.starts_with('#') && !line.starts_with("return"));
    ops.map(|line| line.split(" = ").last().unwrap_or(line).to_owned())
        .collect()
}

fn has(plan: &Plan, op: &str) -> bool {
    lines(plan).iter().any(|line| line.starts_with(op))
}

#[test]
fn values_are_defined_once_and_before_they_are_read() {
    for seed in 0..300 {
        for mode in [ProbeMode::Drop, ProbeMode::Keep] {
            for plan in &program_with(&checked(seed), mode).plans {
                let mut defined = BTreeSet::new();
                for op in plan.ops() {
                    for read in op.reads() {
                        assert!(
                            defined.contains(&read),
                            "seed {seed}: {read:?} is read too early in\n{plan}"
                        );
                    }
                    for out in op.defines() {
                        assert!(
                            defined.insert(out),
                            "seed {seed}: {out:?} is defined twice in\n{plan}"
                        );
                    }
                }
                let all: BTreeSet<ValueId> = (0..plan.values.len()).map(ValueId).collect();
                assert_eq!(
                    defined, all,
                    "seed {seed}: values and definitions differ in\n{plan}"
                );
                assert!(
                    plan.outputs.iter().all(|output| defined.contains(output)),
                    "seed {seed}"
                );
                assert!(
                    plan.steps.iter().all(|step| !step.ops.is_empty()),
                    "seed {seed}: an empty step in\n{plan}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_computed_for_nobody() {
    for seed in 0..300 {
        for plan in &program(&checked(seed)).plans {
            let read: BTreeSet<ValueId> = plan
                .ops()
                .flat_map(Op::reads)
                .chain(plan.outputs.clone())
                .collect();
            for op in plan.ops().filter(|op| !matches!(op, Op::Hidden { .. })) {
                assert!(
                    op.defines().is_empty() || op.defines().iter().any(|out| read.contains(out)),
                    "seed {seed}: {op:?} is unused in\n{plan}"
                );
                assert!(
                    !matches!(op, Op::Probe { .. }),
                    "seed {seed}: a probe is left in\n{plan}"
                );
            }
        }
    }
}

#[test]
fn every_constant_is_used_and_declared_after_what_it_derives_from() {
    for seed in 0..300 {
        let program = program(&checked(seed));
        let mut used = format!("{:?} {:?}", program.modules, program.rotary);
        let topk = program.indexer.as_ref().map(|plan| plan.topk); // what it will pick, also while it only learns to
        used.push_str(&format!("{topk:?}"));
        for plan in program.plans.iter().chain(trained(&program)) {
            used.push_str(&format!("{:?} {:?}", plan.steps, plan.values));
        }
        let mut declared = BTreeSet::new();
        for constant in &program.constants {
            if let Some(formula) = constant.formula {
                let names: Vec<&str> = formula
                    .split([' ', '+', '*'])
                    .filter(|name| !name.is_empty())
                    .collect();
                assert!(
                    names.iter().all(|name| declared.contains(name)),
                    "seed {seed}: {formula}"
                );
                let values = names.iter().map(|name| {
                    program
                        .constants
                        .iter()
                        .find(|constant| constant.name == *name)
                        .map_or(0, |constant| constant.value)
                });
                let value: u32 = if formula.contains('*') {
                    values.product()
                } else {
                    values.sum()
                };
                assert_eq!(
                    value, constant.value,
                    "seed {seed}: {} = {formula}",
                    constant.name
                );
                used.push_str(&format!(" {formula}"));
            }
            declared.insert(constant.name);
        }
        for name in &declared {
            let word = |text: &str| {
                text.split(|c: char| !c.is_ascii_uppercase() && c != '_')
                    .any(|word| word == *name)
            };
            assert!(word(&used), "seed {seed}: nothing uses {name}");
        }
    }
}

#[test]
fn a_trace_names_every_pass() {
    let trace = trace(&model("odd-small"));
    let names: Vec<&str> = trace.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "lower",
            "choose-form",
            "absorb",
            "cache",
            "drop-probes",
            "drop-unused",
            "differentiate",
            "fuse-norm"
        ]
    );
    let last = &trace.last().expect("there is a last pass").1;
    assert_eq!(*last, program(&model("odd-small")).to_string());
    assert!(trace[0].1.contains("probe mid.q") && !last.contains("probe"));
}

#[test]
fn deepseek_v3_expands_its_prefill_and_absorbs_its_decode() {
    let program = program(&model("deepseek-v3"));
    let prefill = plan(&program, Phase::Prefill);
    assert_eq!(prefill.form, Some(Form::Mha));
    assert!(
        has(prefill, "attend_context") && !has(prefill, "attend_expanded"),
        "{prefill}"
    );
    let order: Vec<String> = lines(prefill);
    let position = |op: &str| order.iter().position(|line| line.starts_with(op));
    assert!(
        position("write_latent") > position("attend_context"),
        "the context is read before the write:\n{prefill}"
    );
    let decode = plan(&program, Phase::Decode);
    assert_eq!(decode.form, Some(Form::Mqa));
    assert!(
        has(decode, "attend_latent_cache") && !has(decode, "attend_expanded"),
        "{decode}"
    );
    assert!(
        decode.form_reason.contains("171 new tokens"),
        "{}",
        decode.form_reason
    );
}

#[test]
fn deepseek_v3_mixes_forms_request_by_request() {
    let program = program(&model("deepseek-v3"));
    let mixed = plan(&program, Phase::Mixed);
    assert_eq!(mixed.form, None);
    assert!(mixed.form_reason.contains("171 new tokens"), "{mixed}");
    let parts = |wanted| -> Vec<&Op> {
        let steps = mixed.steps.iter().filter(|step| step.part == wanted);
        steps.flat_map(|step| &step.ops).collect()
    };
    let of = |part, is: fn(&Op) -> bool| parts(part).into_iter().filter(|op| is(op)).count();
    // What both share is done once, for all rows
    let projects = |op: &Op| matches!(op, Op::Linear { slot, .. } if *slot != "linear_kv_up_proj");
    assert_eq!(of(None, projects), 4, "{mixed}");
    assert_eq!(of(None, |op| matches!(op, Op::WriteLatent { .. })), 1);
    assert_eq!(of(None, |op| matches!(op, Op::Join { .. })), 1);
    let attends = |op: &Op| matches!(op, Op::AttendContext { .. });
    assert_eq!(of(Some(Form::Mha), attends), 1);
    assert_eq!(of(Some(Form::Mha), |op| matches!(op, Op::Pick { .. })), 0);
    let attends = |op: &Op| matches!(op, Op::AbsorbQueries { .. } | Op::AttendLatentCache { .. });
    assert_eq!(of(Some(Form::Mqa), attends), 2);
    assert_eq!(of(Some(Form::Mqa), |op| matches!(op, Op::Pick { .. })), 1);
    let order: Vec<String> = lines(mixed);
    let position = |op: &str| order.iter().position(|line| line.starts_with(op));
    assert!(
        position("write_latent") < position("forms of batch"),
        "the absorbed form reads new latents out of the cache:\n{mixed}"
    );
    // It asks for the kernels of both forms, and for no other
    let mut alone = model("deepseek-v3");
    alone.build.phases = vec![Phase::Prefill, Phase::Decode];
    let mut checked = model("deepseek-v3");
    checked.build.phases = vec![Phase::Mixed];
    assert_eq!(
        kernels(&mla_codegen::plan::program(&checked)),
        kernels(&mla_codegen::plan::program(&alone))
    );
}

#[test]
fn where_forms_part_depends_on_the_device() {
    let mut checked = model("deepseek-v3");
    let by_operations = program(&checked).mha_from.expect("two forms");
    assert_eq!(by_operations.form(1, 0), Form::Mha);
    assert_eq!(by_operations.form(1, 1), Form::Mqa);
    assert_eq!(by_operations.form(170, 1 << 30), Form::Mqa);
    assert_eq!(by_operations.form(171, 1 << 30), Form::Mha);
    checked.build.dtype = DType::Bf16;
    checked.build.cache.store = Store::Plain(CacheDType::Bf16);
    checked.build.targets = vec![Target::Sm90a];
    let by_time = program(&checked).mha_from.expect("two forms");
    assert!(
        by_time.doc.contains("roofs of an NVIDIA H200"),
        "{}",
        by_time.doc
    );
    assert_eq!(by_time.form(1, 8192), Form::Mqa);
    assert_eq!(by_time.form(4096, 8192), Form::Mha);
    assert_ne!(by_time.from, by_operations.from);
}

#[test]
fn a_fused_norm_is_split_only_where_the_latent_itself_is_needed() {
    let mut layer = model("odd-small");
    layer.build.form = FormChoice::Forced(Form::Mha);
    let forward = plan(&program(&layer), Phase::Forward).clone();
    assert!(!has(&forward, "norm"), "both norms stay inside:\n{forward}");
    let probed = plan(&program_with(&layer, ProbeMode::Keep), Phase::Forward).clone();
    assert!(
        probed.to_string().contains("linear_kv_up_proj.norm"),
        "a probe wants the latent:\n{probed}"
    );
    assert!(
        !probed.to_string().contains("linear_q_up_proj.norm"),
        "nobody wants the query latent:\n{probed}"
    );
    let prefill = plan(&program(&layer), Phase::Prefill).clone();
    assert!(
        prefill.to_string().contains("linear_kv_up_proj.norm"),
        "the latent is cached:\n{prefill}"
    );
    layer.build.form = FormChoice::Forced(Form::Mqa);
    let absorbed = plan(&program(&layer), Phase::Forward).clone();
    assert!(
        absorbed.to_string().contains("linear_kv_up_proj.norm"),
        "the latent is attended to:\n{absorbed}"
    );
    assert!(
        absorbed.values.iter().all(|value| value.name != "kv"),
        "no key or value is expanded:\n{absorbed}"
    );
}

#[test]
fn a_naive_cache_holds_expanded_keys_whatever_the_lengths() {
    let program = program(&model("nope-odd"));
    for phase in [Phase::Prefill, Phase::Decode] {
        let plan = plan(&program, phase);
        assert_eq!(plan.form, Some(Form::Mha));
        assert!(
            has(plan, "write_naive") && has(plan, "attend_naive_cache") && !has(plan, "segments"),
            "{plan}"
        );
        assert!(
            plan.form_reason.contains("naive cache"),
            "{}",
            plan.form_reason
        );
    }
    assert!(
        program
            .constants
            .iter()
            .all(|constant| constant.name != "CONTEXT_CHUNK")
    );
    assert_eq!(
        program.cache.map(|cache| cache.elements_per_token),
        Some(3 * (9 + 15))
    );
}

#[test]
fn a_fused_down_projection_stacks_both_sources() {
    let program = program(&model("odd-small"));
    let first = &program.modules[0];
    let ModuleKind::Linear(params) = &first.kind else {
        panic!("{first:?}")
    };
    let sources: Vec<(&str, u32)> = params
        .sources()
        .iter()
        .map(|(name, rows)| (*name, rows.size))
        .collect();
    assert_eq!(
        (first.slot, params.output.size),
        ("linear_qkv_down_proj", 27 + 21 + 6)
    );
    assert_eq!(sources, [("q_a_proj", 27), ("kv_a_proj_with_mqa", 27)]);
    let names: Vec<String> = program
        .tensors()
        .into_iter()
        .map(|tensor| tensor.name)
        .collect();
    let wanted = "q_a_proj.weight q_a_proj.bias kv_a_proj_with_mqa.weight kv_a_proj_with_mqa.bias q_a_layernorm.weight q_b_proj.weight \
                  kv_a_layernorm.weight kv_a_layernorm.bias kv_b_proj.weight o_proj.weight o_proj.bias";
    assert_eq!(names, wanted.split_whitespace().collect::<Vec<_>>());
}

fn dims(kv_lora_rank: u32, qk_nope_head_dim: u32, qk_rope_head_dim: u32, v_head_dim: u32) -> Dims {
    Dims {
        hidden_size: 1,
        num_attention_heads: 1,
        kv_lora_rank,
        qk_nope_head_dim,
        qk_rope_head_dim,
        v_head_dim,
    }
}

#[test]
fn crossovers_are_those_of_the_literature() {
    let deepseek = dims(512, 128, 64, 128);
    let rounded = |dims| crossover(&dims).map(f64::round);
    assert_eq!(rounded(deepseek), Some(171.0));
    assert_eq!(rounded(dims(512, 192, 64, 256)), Some(398.0), "GLM-5");
    assert_eq!(rounded(dims(256, 64, 32, 64)), Some(85.0), "MiniCPM3");
    assert_eq!(
        crossover(&dims(4, 64, 0, 64)),
        None,
        "a tiny latent is never dearer to meet"
    );
    let met = 1 << 24;
    assert_eq!(
        cheaper(
            &deepseek,
            Lengths {
                new: 170,
                met,
                picked: None
            }
        ),
        Form::Mqa
    );
    assert_eq!(
        cheaper(
            &deepseek,
            Lengths {
                new: 171,
                met,
                picked: None
            }
        ),
        Form::Mha
    );
}

#[test]
fn costs_count_what_the_forms_multiply() {
    let mut dice = Dice::new(7);
    for _ in 0..100 {
        let [rank, nope, rope, v] = [(); 4].map(|()| dice.within(1, 40));
        let lengths = Lengths {
            new: u64::from(dice.within(1, 50)),
            met: u64::from(dice.within(1, 50)),
            picked: None,
        };
        let (new, met) = (lengths.new as u128, lengths.met as u128);
        let (up, key) = (u128::from(rank * (nope + v)), u128::from(nope + rope));
        let dims = dims(rank, nope, rope, v);
        assert_eq!(
            flops(&dims, Form::Mha, lengths),
            2 * (up * met + (key + u128::from(v)) * new * met)
        );
        let absorbed = (u128::from(rank + rope) + u128::from(rank)) * new * met + up * new;
        assert_eq!(flops(&dims, Form::Mqa, lengths), 2 * absorbed);
    }
}

#[test]
fn a_digest_sees_values_and_nothing_else() {
    let text = std::fs::read_to_string(format!(
        "{}/../spec/models/odd-small.yaml",
        env!("CARGO_MANIFEST_DIR")
    ));
    let text = text.expect("the model spec is readable");
    let digest = spec_digest(&parsed(&text));
    assert_eq!(digest.len(), 16);
    assert!(digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let swapped = text.replace(
        "  hidden_size: 75\n  num_attention_heads: 5\n",
        "  num_attention_heads: 5 # H\n  hidden_size: 75\n",
    );
    assert_ne!(swapped, text);
    assert_eq!(spec_digest(&parsed(&swapped)), digest, "order and comments");
    for (from, to) in [
        ("hidden_size: 75", "hidden_size: 76"),
        ("eps: 3.0e-6", "eps: 3.1e-6"),
        ("page_size: 3", "page_size: 4"),
        ("OddSmall", "OddTiny"),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(spec_digest(&parsed(&changed)), digest, "{from} -> {to}");
    }
}

#[test]
fn on_a_device_the_faster_form_is_chosen_by_time() {
    use mla_spec::{DType, Target};

    let mut checked = model("deepseek-v3");
    let by_work = program(&checked);
    checked.build.targets = vec![Target::Cpu, Target::Sm90a];
    checked.build.dtype = DType::Bf16;
    checked.build.expect.decode_context = 8191;
    let by_time = program(&checked);
    let decode = plan(&by_time, Phase::Decode);
    assert_eq!(decode.form, Some(Form::Mqa));
    let reason = &decode.form_reason;
    assert!(
        reason.starts_with("on an NVIDIA H200 1 new token takes "),
        "{reason}"
    );
    assert!(reason.contains("as MHA and "), "{reason}");
    assert!(
        reason.contains("(bound by memory) as MQA, over 8192 tokens"),
        "{reason}"
    );
    assert_eq!(plan(&by_time, Phase::Prefill).form, Some(Form::Mha));
    // Of f32 nothing is known there, and on a CPU operations are counted
    checked.build.dtype = DType::F32;
    let counted = program(&checked);
    for program in [&by_work, &counted] {
        let reason = &plan(program, Phase::Decode).form_reason;
        assert!(reason.contains("FLOP as MQA"), "{reason}");
    }
}

#[test]
fn training_in_bf16_has_kernels_for_hopper_where_it_may_run_there() {
    let gradients = |name: &str, change: &dyn Fn(&mut Checked)| {
        let mut checked = model(name);
        checked.build.dtype = DType::Bf16;
        change(&mut checked);
        let units = kernels(&program(&checked)).into_iter();
        let names = units.map(|unit| unit.name());
        names
            .filter(|name| name.starts_with("flash_") && !name.starts_with("flash_forward"))
            .collect::<Vec<_>>()
    };
    // Blocks that add as they come, and those that do in turn
    let of_moonlight = [
        "flash_backward_128_64_128_64_0_0",
        "flash_backward_128_64_128_64_0_1",
        "flash_delta_128_64_128_64_0",
        "flash_delta_128_64_128_64_1",
        "flash_queries_128_64_128_64",
    ];
    assert_eq!(gradients("moonlight-train", &|_| {}), of_moonlight);
    let of_llama = gradients("llama3-8b-train", &|_| {});
    assert!(of_llama.contains(&"flash_backward_128_0_128_64_0_1".to_owned()));
    let elsewhere = |checked: &mut Checked| checked.build.targets = vec![Target::Sm80];
    assert!(gradients("moonlight-train", &elsewhere).is_empty());
    let in_f32 = |checked: &mut Checked| checked.build.dtype = DType::F32;
    assert!(gradients("moonlight-train", &in_f32).is_empty());
    // Keys that are selected, and layers that are not trained
    assert!(gradients("deepseek-v3.2-train", &|_| {}).is_empty());
    assert!(gradients("deepseek-v3", &|_| {}).is_empty());
}

#[test]
fn decode_in_bf16_has_kernels_for_hopper_where_it_may_run_there() {
    let decoding = |change: &dyn Fn(&mut Checked), model: Checked| {
        let mut checked = model;
        let build = &mut checked.build;
        build.dtype = DType::Bf16;
        build.cache.store = Store::Plain(CacheDType::Bf16);
        change(&mut checked);
        let units = kernels(&program(&checked)).into_iter();
        let names = units.map(|unit| unit.name());
        names
            .filter(|name| name.starts_with("decode_"))
            .collect::<Vec<_>>()
    };
    let both = ["decode_schedule", "decode_wide_64_128_512_64"];
    let of_v3 = |change: &dyn Fn(&mut Checked)| decoding(change, model("deepseek-v3"));
    assert_eq!(of_v3(&|_| {}), both);
    let targets = |targets: &[Target]| {
        let targets = targets.to_vec();
        of_v3(&|checked| checked.build.targets.clone_from(&targets))
    };
    assert_eq!(targets(&[Target::Sm80, Target::Sm90a]), both);
    assert!(targets(&[Target::Cpu, Target::Sm80]).is_empty());
    assert!(of_v3(&|checked| checked.build.dtype = DType::F32).is_empty());
    let expands = |checked: &mut Checked| {
        checked.build.form = FormChoice::Forced(Form::Mha);
        checked.build.phases.retain(|phase| *phase != Phase::Mixed);
    };
    assert!(of_v3(&expands).is_empty());
    let mixes = |checked: &mut Checked| checked.build.phases = vec![Phase::Mixed];
    assert_eq!(of_v3(&mixes), both);
    let stored = |store| of_v3(&|checked| checked.build.cache.store = store);
    assert!(stored(Store::Plain(CacheDType::F32)).is_empty());
    assert!(stored(Store::Mxfp8).is_empty());
    for (store, number) in [
        (Store::Fp8(Fp8::E4m3), 1),
        (Store::Fp8(Fp8::E5m2), 2),
        (Store::Fp8DsMla(ScaleFormat::F32), 3),
    ] {
        let wide = format!("decode_wide_fp8_64_128_512_64_{number}");
        assert_eq!(stored(store), ["decode_schedule", &wide]);
    }
    // Latents that two warpgroups share, of codes not
    let deep = |heads, store| {
        of_v3(&|checked| {
            checked.build.cache.store = store;
            if let Projections::Latent(latent) = &mut checked.layer.projections {
                latent.dims.num_attention_heads = heads;
                latent.dims.kv_lora_rank = 1024;
            }
        })
    };
    let bf16 = Store::Plain(CacheDType::Bf16);
    let of_32 = "decode_deep_32_128_1024_64";
    assert_eq!(deep(128, bf16), [of_32, "decode_schedule"]);
    assert_eq!(deep(16, bf16).len(), 3);
    assert!(deep(128, Store::Fp8(Fp8::E4m3)).is_empty());
    // Few heads are a block of their own, but several new tokens of them are not
    let few = of_v3(&|checked| {
        checked.build.cache.store = Store::Fp8(Fp8::E4m3);
        if let Projections::Latent(latent) = &mut checked.layer.projections {
            latent.dims.num_attention_heads = 16;
        }
    });
    assert_eq!(few.len(), 3, "{few:?}");
    // 40 heads fit in a block, and several new tokens of them in larger ones that there are for narrow latents
    assert_eq!(
        decoding(&|_| {}, model("minicpm3")),
        [
            "decode_schedule",
            "decode_tall_128_40_256_32",
            "decode_wide_64_40_256_32"
        ]
    );
    // Keys are chosen there
    assert!(decoding(&|_| {}, model("deepseek-v3.2")).is_empty());
}

#[test]
fn what_only_hopper_runs_is_compiled_ahead_of_time_for_nothing_else() {
    let mut checked = model("deepseek-v3");
    let build = &mut checked.build;
    (build.dtype, build.targets) = (DType::Bf16, vec![Target::Sm80, Target::Sm90a]);
    build.cache.store = Store::Plain(CacheDType::Bf16);
    let origin = Origin {
        spec: "deepseek-v3".to_owned(),
        command: None,
    };
    let architectures = ["sm_80", "sm_90a"].map(str::to_owned);
    let options = Options {
        cubins: architectures.into(),
        ..Options::new(origin)
    };
    let files = cubins(&checked, &options).into_iter();
    let decoding: Vec<String> = files
        .map(|cubin| cubin.file)
        .filter(|file| file.contains("decode_"))
        .collect();
    assert_eq!(
        decoding,
        [
            "cuda/decode_schedule.bf16.bf16.sm_90a.cubin",
            "cuda/decode_wide_64_128_512_64.bf16.bf16.sm_90a.cubin"
        ]
    );
}
