//! Which kernels a layer brings along.

mod models;

use mla_codegen::plan::{kernels, program};
use mla_codegen::{Options, Origin, cubins};
use mla_spec::{
    CacheDType, Checked, DType, Form, FormChoice, Fp8, Phase, Projections, ScaleFormat, Store,
    Target,
};

use models::model;

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
fn kernels_tell_the_largest_logit_where_more_than_the_output_is_read() {
    let flashes = |name: &str, phases: &[Phase]| {
        let mut checked = model(name);
        checked.build.dtype = DType::Bf16;
        checked.build.phases.retain(|phase| phases.contains(phase));
        let units = kernels(&program(&checked)).into_iter();
        let names = units.map(|unit| unit.name());
        names
            .filter(|name| name.starts_with("flash_forward"))
            .collect::<Vec<_>>()
    };
    let (untold, told) = (
        "flash_forward_128_64_128_0_0_0",
        "flash_forward_128_64_128_0_1_0",
    );
    assert_eq!(flashes("deepseek-v3", &[Phase::Forward]), [untold]);
    // Where chunks of a context are merged
    assert_eq!(flashes("deepseek-v3", &[Phase::Prefill]), [untold, told]);
    assert_eq!(flashes("moonlight-train", &[Phase::Train]), [told]);
    assert_eq!(
        flashes("moonlight-train", &[Phase::Forward, Phase::Train]),
        [untold, told]
    );
}

#[test]
fn training_over_chosen_keys_has_the_kernels_that_turn_lists_around() {
    let of_lists = |name: &str| {
        let units = kernels(&program(&model(name))).into_iter();
        let names = units.map(|unit| unit.unit);
        names
            .filter(|&name| name == "choosers" || name == "backward_chosen")
            .collect::<Vec<_>>()
    };
    let both = ["backward_chosen", "choosers"];
    assert_eq!(of_lists("deepseek-v3.2-train"), both);
    assert!(of_lists("moonlight-train").is_empty());
    assert!(of_lists("deepseek-v3.2").is_empty());
}

#[test]
fn products_of_few_rows_have_kernels_for_hopper_where_weights_are_large() {
    let products = |change: &dyn Fn(&mut Checked)| {
        let mut checked = model("deepseek-v3");
        checked.build.dtype = DType::Bf16;
        change(&mut checked);
        let units = kernels(&program(&checked)).into_iter();
        let names = units.map(|unit| unit.name());
        names
            .filter(|name| name.starts_with("skinny_"))
            .collect::<Vec<_>>()
    };
    let rows = ["skinny_16_4", "skinny_32_4"];
    // Absorbed queries and values, in decode
    let heads = [
        "skinny_heads_16_128_1",
        "skinny_heads_16_512_0",
        "skinny_heads_32_128_1",
        "skinny_heads_32_512_0",
    ];
    assert_eq!(products(&|_| {}), [&rows[..], &heads].concat());
    let expanded = |checked: &mut Checked| checked.build.phases = vec![Phase::Forward];
    assert_eq!(products(&expanded), rows);
    assert!(products(&|checked| checked.build.dtype = DType::F32).is_empty());
    assert!(products(&|checked| checked.build.targets = vec![Target::Sm80]).is_empty());
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
            .filter(|name| name.starts_with("decode_") || name.starts_with("sparse_"))
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
    // Where keys are chosen, a block has one query's heads, whatever the number of new tokens
    let of_v32 = |change: &dyn Fn(&mut Checked)| decoding(change, model("deepseek-v3.2"));
    assert_eq!(
        of_v32(&|_| {}),
        ["decode_schedule", "sparse_wide_64_128_512_64_1"]
    );
    assert!(of_v32(&|checked| checked.build.targets = vec![Target::Sm80]).is_empty());
    assert!(of_v32(&|checked| checked.build.dtype = DType::F32).is_empty());
    let codes =
        |checked: &mut Checked| checked.build.cache.store = Store::Fp8DsMla(ScaleFormat::F32);
    let over_codes = "sparse_wide_fp8_64_128_512_64_3_1";
    let over_numbers = "sparse_wide_64_128_512_64_1";
    assert_eq!(
        of_v32(&codes),
        ["decode_schedule", over_numbers, over_codes]
    );
    let few = |checked: &mut Checked| {
        if let Projections::Latent(latent) = &mut checked.layer.projections {
            latent.dims.num_attention_heads = 20;
        }
    };
    assert_eq!(
        of_v32(&few),
        ["decode_schedule", "sparse_narrow_32_20_512_64_1"]
    );
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
