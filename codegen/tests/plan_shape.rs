//! What the passes leave behind: well-formed plans, the ops that each spec asks for, and nothing unused.

mod models;
#[path = "../../tests/src/random_spec/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "a library's file, of which a test crate reads a copy"
)]
mod random_spec;

use std::collections::BTreeSet;

use mla_codegen::plan::{
    ModuleKind, Op, Plan, ProbeMode, Program, ValueId, kernels, program, program_with, trace,
};
use mla_codegen::spec_digest;
use mla_spec::{Form, FormChoice, Phase};

use models::{model, parsed, plan};
use random_spec::checked;

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
            if let Some(formula) = &constant.formula {
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
            "fold",
            "fp8-weights",
            "differentiate",
            "prologue",
            "fuse-queries",
            "fuse-norm",
            "fuse-round"
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
    let fused = prefill.steps.iter().filter(|step| step.fused);
    let written = fused.flat_map(|step| &step.ops).last();
    assert!(
        matches!(written, Some(Op::WriteLatent { .. })),
        "what is cached is made in one pass:\n{prefill}"
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
fn queries_that_are_rounded_are_turned_in_the_same_pass() {
    let mut layer = model("deepseek-v3.2");
    fn of_decode(layer: &mla_spec::Checked, probes: ProbeMode) -> Plan {
        plan(&program_with(layer, probes), Phase::Decode).clone()
    }
    let selects = |op: &Op| matches!(op, Op::SelectCached { .. });
    let passes = |plan: &Plan| {
        let fused = plan.steps.iter().filter(|step| step.fused);
        fused.filter(|step| step.ops.iter().any(selects)).count()
    };
    assert_eq!(passes(&of_decode(&layer, ProbeMode::Drop)), 0);

    layer.build.cache.rounds_index_queries = true;
    let decode = of_decode(&layer, ProbeMode::Drop);
    let step = decode
        .steps
        .iter()
        .find(|step| step.ops.iter().any(selects));
    let ops = &step.expect("a selection").ops;
    assert!(
        matches!(&ops[..], [Op::RotateHeads { .. }, Op::SelectCached { .. }]),
        "{decode}"
    );
    assert_eq!(passes(&decode), 1);
    // A probe shows scores of turned queries
    assert_eq!(passes(&of_decode(&layer, ProbeMode::Keep)), 0);
}

#[test]
fn weights_are_codes_but_for_those_that_are_read_in_parts_or_never_rounded() {
    let mut layer = model("deepseek-v3.2");
    layer.build.weights = mla_spec::WeightStore::Fp8Blocks;
    layer.build.dtype = mla_spec::DType::Bf16;
    layer.build.targets = vec![mla_spec::Target::Sm90a];
    let coded = program(&layer);
    let slots = |is_it: fn(&ModuleKind) -> bool| -> Vec<&str> {
        let modules = coded.modules.iter().filter(|module| is_it(&module.kind));
        modules.map(|module| module.slot).collect()
    };
    assert_eq!(
        slots(|kind| matches!(kind, ModuleKind::Fp8Linear(_))),
        [
            "linear_q_down_proj",
            "linear_q_up_proj",
            "indexer_wq_b",
            "indexer_wk",
            "linear_kv_down_proj",
            "linear_proj"
        ]
    );
    assert_eq!(
        slots(|kind| matches!(kind, ModuleKind::Linear(_))),
        ["linear_kv_up_proj"]
    );
    let units = mla_codegen::plan::kernels(&coded);
    let of_codes: Vec<_> = units
        .iter()
        .filter(|unit| unit.unit == "skinny_fp8")
        .collect();
    let sizes: Vec<_> = of_codes.iter().map(|unit| unit.dims[0]).collect();
    assert_eq!(sizes, [16, 32, 64, 128]);
    assert!(units.iter().any(|unit| unit.unit == "fp8_weight"));
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
