//! What reports say of known layers, against the numbers that features.md's rows 0.1-7, H, I and J give.

mod models;

use mla_codegen::report::{Group, Report, report};
use mla_spec::{CacheDType, CacheKind, Form, Fp8, IndexStore, Phase, ScaleFormat, Store};

use models::model;

fn with_store(stem: &str, store: Store) -> Report {
    let mut checked = model(stem);
    checked.build.cache.store = store;
    report(&checked)
}

fn cached(report: &Report) -> u64 {
    report.cache.as_ref().unwrap().bytes_per_token()
}

#[test]
fn crossovers_and_pairs_are_those_of_the_papers() {
    for (stem, expanded, absorbed, crossover) in [
        ("deepseek-v3", 640, 2176, 171.0),
        ("glm-5", 1024, 2176, 398.0),
        ("minicpm3", 320, 1088, 85.0),
    ] {
        let forms = report(&model(stem)).forms.unwrap();
        assert_eq!(forms.expanded_pair, expanded, "{stem}");
        assert_eq!(forms.absorbed_pair, absorbed, "{stem}");
        assert_eq!(forms.crossover.unwrap().round(), crossover, "{stem}");
    }
}

#[test]
fn a_token_takes_what_each_format_says() {
    let plain = Store::Plain(CacheDType::Bf16);
    let stem = "deepseek-v3";
    for (store, bytes) in [
        (plain, 1152),
        (Store::Plain(CacheDType::F32), 2304),
        (Store::Fp8(Fp8::E4m3), 576),
        (Store::Fp8DsMla(ScaleFormat::F32), 656),
    ] {
        assert_eq!(cached(&with_store(stem, store)), bytes, "{store:?}");
    }
    let kinds = with_store(stem, plain).cache.unwrap().kinds;
    assert_eq!(kinds, Some((1152, 81_920)));
    let mut naive = model(stem);
    naive.build.cache.kind = CacheKind::Naive;
    naive.build.cache.store = plain;
    assert_eq!(cached(&report(&naive)), 81_920);
    let mut v4 = model(stem);
    if let mla_spec::Projections::Latent(latent) = &mut v4.layer.projections {
        latent.dims.kv_lora_rank = 448;
    }
    for (store, bytes) in [(Store::Model1, 584), (Store::Mxfp8, 528)] {
        v4.build.cache.store = store;
        assert_eq!(cached(&report(&v4)), bytes, "{store:?}");
    }
}

#[test]
fn an_indexer_caches_its_keys_beside() {
    let mut checked = model("deepseek-v3.2");
    checked.build.cache.store = Store::Plain(CacheDType::Bf16);
    for (index, bytes) in [
        (IndexStore::Plain(CacheDType::Bf16), 256),
        (IndexStore::Fp8(ScaleFormat::F32), 132),
        (IndexStore::Mxfp4, 68),
    ] {
        checked.build.cache.index = index;
        assert_eq!(cached(&report(&checked)), 1152 + bytes, "{index:?}");
    }
}

#[test]
fn a_mixed_batch_is_a_prefill_and_a_decode_that_share_their_projections() {
    let report = report(&model("deepseek-v3"));
    let phase = |phase| {
        let mut phases = report.phases.iter();
        phases.find(|one| one.phase == phase).unwrap()
    };
    let [prefill, decode, mixed] = [Phase::Prefill, Phase::Decode, Phase::Mixed].map(phase);
    assert_eq!(mixed.parts, Some([prefill.lengths, decode.lengths]));
    for group in Group::ALL {
        let alone = prefill.of(group).flops + decode.of(group).flops;
        assert_eq!(mixed.of(group).flops, alone, "{group:?}");
    }
    // Weights of the projections are read once, not twice
    let projections = Group::Projections;
    let alone = prefill.of(projections).bytes + decode.of(projections).bytes;
    assert!(mixed.of(projections).bytes < alone);
}

#[test]
fn what_expansion_needs_room_for_is_said() {
    let report = report(&model("deepseek-v3"));
    for one in &report.phases {
        let expands = matches!(one.phase, Phase::Prefill | Phase::Mixed);
        assert_eq!(one.expansion.is_some(), expands, "{:?}", one.phase);
        let Some(room) = one.expansion else { continue };
        // In f32: a key without its rope part and a value for each of 128 heads
        assert_eq!((room.chunk, room.token), (32768, 128 * (128 + 128) * 4));
        assert_eq!(room.merged, 128 * (128 + 2) * 4);
        let text = one.to_string();
        let said =
            "4.29 GB for keys and values of 32768 cached tokens at a time, whatever the batch";
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn products_are_counted() {
    let mut checked = model("deepseek-v3");
    checked.build.expect.prefill_tokens = 100;
    checked.build.expect.decode_context = 999;
    let report = report(&checked);
    let phase = |phase| {
        let mut phases = report.phases.iter();
        phases.find(|one| one.phase == phase).unwrap()
    };
    let (forward, decode) = (phase(Phase::Forward), phase(Phase::Decode));
    let weights = |slot: &str| {
        let mut modules = report.parameters.iter();
        modules.find(|module| module.slot == slot).unwrap().count
    };
    assert_eq!(weights("linear_proj"), 7168 * 128 * 128);
    assert_eq!(
        forward.of(Group::Output).flops,
        2 * 100 * weights("linear_proj")
    );
    let down = weights("linear_q_down_proj") + weights("linear_kv_down_proj");
    let queries = down + weights("linear_q_up_proj");
    assert_eq!(decode.of(Group::Projections).flops, 2 * queries);
    assert_eq!(decode.form, Some(Form::Mqa));
    assert_eq!(decode.of(Group::Attention).flops, 2176 * 128 * 1000);
    assert_eq!(decode.of(Group::Up).flops, 2 * 128 * 512 * 256);
    // Whichever form forward has, a causal triangle of 100 tokens is met
    let pair = if forward.form == Some(Form::Mha) {
        640
    } else {
        2176
    };
    assert_eq!(forward.of(Group::Attention).flops, pair * 128 * 5050);
    assert!(decode.total().bytes > 2 * (queries + weights("linear_proj")));
}

#[test]
fn a_sparse_layer_meets_only_what_its_indexer_picks() {
    let mut checked = model("deepseek-v3.2");
    checked.build.expect.decode_context = 99_999;
    let report = report(&checked);
    let decode = report
        .phases
        .iter()
        .find(|one| one.phase == Phase::Decode)
        .unwrap();
    assert_eq!(decode.of(Group::Attention).flops, 2176 * 128 * 2048);
    let scores = 2 * 64 * 129 * 100_000;
    assert!(decode.of(Group::Indexer).flops > scores);
    assert!(
        report
            .text(Some(Phase::Decode))
            .contains("the indexer takes")
    );
}

#[test]
fn passes_say_what_they_absorbed() {
    let report = report(&model("deepseek-v3"));
    let absorbed = report
        .changes
        .iter()
        .find(|change| change.pass == "absorb" && change.phase == Phase::Decode);
    let absorbed = absorbed.expect("decode is absorbed");
    assert!(
        absorbed
            .new
            .iter()
            .any(|op| op.starts_with("absorb_queries"))
    );
    assert!(
        absorbed
            .gone
            .iter()
            .any(|op| op.starts_with("attend_expanded"))
    );
}

/// `mla-gen show spec/models/NAME.yaml > codegen/tests/report/NAME.txt` writes them anew.
#[test]
fn texts_are_as_recorded() {
    for (stem, text) in [
        (
            "deepseek-v2-lite",
            include_str!("report/deepseek-v2-lite.txt"),
        ),
        ("deepseek-v3.2", include_str!("report/deepseek-v3.2.txt")),
    ] {
        assert_eq!(report(&model(stem)).text(None), text, "{stem}");
    }
}

#[test]
fn grouped_attention_is_counted_for_every_query_head() {
    let report = report(&model("llama3-8b"));
    let mut phases = report.phases.iter();
    let decode = phases.find(|one| one.phase == Phase::Decode).unwrap();
    assert_eq!(decode.of(Group::Attention).flops, 2 * 256 * 32 * 4097);
    assert_eq!(cached(&report), 2 * 2 * 8 * 128);
}

#[test]
fn floors_name_the_roof_that_binds() {
    use mla_codegen::plan::machine::{H200, Roof};
    use mla_codegen::report::floors;

    let mut checked = model("deepseek-v3");
    checked.build.expect.decode_context = 131_071;
    checked.build.expect.prefill_tokens = 8192;
    let floors = floors(&checked, &H200);
    let attention = |phase| {
        let floor = floors.iter().find(|floor| floor.phase == phase).unwrap();
        let mut groups = floor.groups.iter();
        let found = groups.find(|(group, ..)| *group == Group::Attention);
        let (_, roof, seconds) = found.unwrap();
        assert!(floor.seconds() > *seconds);
        (*roof, seconds * 1e6)
    };
    // 128 heads meet 131,072 latents: 36.5 GFLOP and 151 MB, so products bind, or shared memory that feeds them
    let (roof, decode) = attention(Phase::Decode);
    assert!(matches!(roof, Roof::TensorCores | Roof::SharedMemory));
    assert!((53.0..60.0).contains(&decode), "{decode}");
    // Half of 8192 by 8192 pairs, 640 operations each, of 128 heads: 2.75 TFLOP
    let (roof, prefill) = attention(Phase::Prefill);
    assert_eq!(roof, Roof::TensorCores);
    assert!((4000.0..4200.0).contains(&prefill), "{prefill}");
}
