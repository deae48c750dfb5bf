//! Which form a phase takes: what either costs, and from where on one is cheaper.

mod models;
#[path = "../../tests/src/random_spec/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "a library's file, of which a test crate reads a copy"
)]
mod random_spec;

use mla_codegen::plan::cost::{Lengths, cheaper, crossover, flops};
use mla_codegen::plan::program;
use mla_spec::{CacheDType, DType, Dims, Form, Phase, Store, Target};

use models::{model, plan};
use random_spec::Dice;

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
fn on_a_device_the_faster_form_is_chosen_by_time() {
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
