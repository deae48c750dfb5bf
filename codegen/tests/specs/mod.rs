//! Layers for the tests of emission: the models, and variants of the odd ones.

#[path = "../../../tests/src/language.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "a library's file, of which each test crate reads a copy"
)]
pub(crate) mod language;

use std::path::Path;

use mla_spec::{
    AttnMask, CacheDType, CacheKind, Checked, CheckedModel, DType, DownProjection, Form,
    FormChoice, Latent, Norm, NormKind, NormParams, Phase, Projections, Query, QueryUp, Rope,
    RopeLayout, Sources, Store, check, check_model, read,
};

/// The layer of a YAML spec.
pub(crate) fn checked(name: &str, yaml: &str) -> Checked {
    let mut sources = Sources::default();
    let document =
        read::yaml(&mut sources, name, yaml).unwrap_or_else(|_| panic!("{name} can't be read"));
    let (checked, found) = check(&document);
    checked.unwrap_or_else(|| panic!("{}", mla_spec::render::text(&found, &sources, false)))
}

/// The models of spec/models and spec/models/whole, by file stem.
#[allow(dead_code)] // not every test file that includes this module uses it
pub(crate) fn whole_models() -> Vec<(String, CheckedModel)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/models");
    let whole = std::fs::read_dir(folder.join("whole")).unwrap();
    let mut models: Vec<(String, CheckedModel)> = whole
        .map(|entry| entry.unwrap().path())
        .chain([folder.join("small-shared.yaml")])
        .map(|path| {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let model = checked_model(&stem, &std::fs::read_to_string(&path).unwrap());
            (stem, model)
        })
        .collect();
    models.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(models.len() > 5, "found only {} models", models.len());
    models
}

/// The model of a YAML spec.
#[allow(dead_code)] // as above
pub(crate) fn checked_model(name: &str, yaml: &str) -> CheckedModel {
    let mut sources = Sources::default();
    let document =
        read::yaml(&mut sources, name, yaml).unwrap_or_else(|_| panic!("{name} can't be read"));
    let (model, found) = check_model(&document);
    model.unwrap_or_else(|| panic!("{}", mla_spec::render::text(&found, &sources, false)))
}

/// The latent projections, to be changed.
fn latent(checked: &mut Checked) -> &mut Latent {
    match &mut checked.layer.projections {
        Projections::Latent(latent) => latent,
        other => panic!("{other:?}"),
    }
}

/// All of spec/models, by file stem.
pub(crate) fn models() -> Vec<(String, Checked)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/models");
    let mut models: Vec<(String, Checked)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .filter_map(|path| {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let is_layer = !text.lines().any(|line| line.starts_with("model:"));
            is_layer.then(|| {
                let checked = checked(&stem, &text);
                (stem, checked)
            })
        })
        .collect();
    models.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(models.len() > 8, "found only {} models", models.len());
    models
}

/// Every form, fusion, mask, cache, dtype and choice of phases at least once, on the odd layers.
#[allow(dead_code)] // each test file that includes this module uses a part of it
pub(crate) fn variants() -> Vec<(String, Checked)> {
    let models = models();
    let model = |stem: &str| {
        models
            .iter()
            .find(|(name, _)| name == stem)
            .unwrap()
            .1
            .clone()
    };
    let mut all: Vec<(String, Checked)> = Vec::new();
    let mut add = |name: &str, base: &str, change: &dyn Fn(&mut Checked)| {
        let mut checked = model(base);
        change(&mut checked);
        all.push((name.to_owned(), checked));
    };
    let norm = |eps| NormParams {
        kind: NormKind::LayerNorm,
        eps,
    };
    let cached = [Phase::Prefill, Phase::Decode];
    add("mha", "odd-small", &|c| {
        c.build.form = FormChoice::Forced(Form::Mha)
    });
    add("mqa", "odd-small", &|c| {
        c.build.form = FormChoice::Forced(Form::Mqa)
    });
    add("mqa-v3", "deepseek-v3", &|c| {
        c.build.form = FormChoice::Forced(Form::Mqa)
    });
    add("mha-nope", "kimi-linear", &|c| {
        c.build.form = FormChoice::Forced(Form::Mha)
    });
    add("mqa-nope", "kimi-linear", &|c| {
        c.build.form = FormChoice::Forced(Form::Mqa)
    });
    add("naive", "odd-small", &|c| {
        c.build.cache.kind = CacheKind::Naive;
        c.build.cache.page_size = None;
    });
    add("latent-without-rope", "nope-odd", &|c| {
        c.build.cache.kind = CacheKind::Latent;
        c.build.cache.store = Store::Plain(CacheDType::F16);
    });
    add("forward-only", "odd-small", &|c| {
        c.build.phases = vec![Phase::Forward]
    });
    add("forward-only-nope", "nope-odd", &|c| {
        c.build.phases = vec![Phase::Forward]
    });
    add("prefill-only", "odd-small", &|c| {
        c.build.phases = vec![Phase::Prefill]
    });
    add("decode-only", "deepseek-v3", &|c| {
        c.build.phases = vec![Phase::Decode]
    });
    add("decode-prefill", "moonlight", &|c| {
        c.build.phases = cached.iter().rev().copied().collect()
    });
    add("full", "odd-small", &|c| {
        c.layer.mask = AttnMask::FULL;
        c.build.phases = vec![Phase::Forward];
    });
    add("padding", "odd-small", &|c| {
        c.layer.mask = AttnMask::PADDING;
        c.build.phases = vec![Phase::Forward];
    });
    add("f64", "odd-small", &|c| {
        c.build.dtype = DType::F64;
        c.build.cache.store = Store::Plain(CacheDType::F64);
    });
    add("bf16", "youtu", &|c| {
        c.build.dtype = DType::Bf16;
        c.build.cache.store = Store::Plain(CacheDType::Bf16);
        c.build.cache.rope_layout = Some(RopeLayout::Half);
    });
    add("identity", "deepseek-v3", &|c| {
        latent(c).kv_norm = Norm::Identity;
        latent(c).query = Query::Lora {
            rank: 1536,
            norm: Norm::Identity,
            scale: None,
            up: QueryUp::Query,
        };
        latent(c).down = DownProjection::Separate {
            q_bias: true,
            kv_bias: false,
        };
    });
    add("fused-norms-v3", "deepseek-v3", &|c| {
        latent(c).kv_norm = Norm::FusedIntoLinear(norm(1e-300));
        latent(c).query = Query::Lora {
            rank: 1536,
            norm: Norm::FusedIntoLinear(norm(0.000123)),
            scale: None,
            up: QueryUp::Query,
        };
    });
    add("fused-down-identity", "odd-small", &|c| {
        latent(c).kv_norm = Norm::Identity;
        latent(c).query = Query::Lora {
            rank: 9,
            norm: Norm::Separate(norm(0.25)),
            scale: None,
            up: QueryUp::Query,
        };
    });
    add("one-pair", "odd-small", &|c| {
        latent(c).dims.qk_rope_head_dim = 2
    });
    add("two-pairs", "moonlight", &|c| {
        latent(c).dims.qk_rope_head_dim = 4
    });
    add("known-constant", "nope-odd", &|c| {
        latent(c).dims.qk_nope_head_dim = 2
    });
    add("one-head", "odd-small", &|c| {
        latent(c).dims.num_attention_heads = 1
    });
    add("ones", "nope-odd", &|c| {
        let dims = &mut latent(c).dims;
        (
            dims.hidden_size,
            dims.num_attention_heads,
            dims.kv_lora_rank,
        ) = (1, 1, 1);
        (dims.qk_nope_head_dim, dims.v_head_dim) = (1, 1);
    });
    add("rope-off", "odd-small", &|c| {
        c.layer.rope = Rope::None;
        c.build.cache.rope_layout = None;
    });
    for length in [40, 58, 62, 63, 64] {
        add(&format!("name-{length}"), "youtu", &|c| {
            c.layer.name = format!("A{}", "b".repeat(length - 1));
            c.build.dtype = DType::Bf16;
        });
    }
    all
}
