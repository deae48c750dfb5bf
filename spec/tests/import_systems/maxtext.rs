//! MaxText's models.

use super::*;

/// DeepSeek-V3 with some lines changed or added.
fn with(lines: &str) -> String {
    let changed: Vec<_> = lines
        .lines()
        .filter_map(|line| line.split(':').next())
        .collect();
    let text = configs("maxtext/deepseek3-671b.yml");
    let kept = text.lines().filter(|line| {
        let key = line.split(':').next().unwrap_or_default();
        !changed.contains(&key)
    });
    kept.chain(lines.lines()).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn of(lines: &str) -> Checked {
    checked(&accept(&with(lines)))
}

#[test]
fn a_rank_of_0_means_plain_queries() {
    let layer = of("q_lora_rank: 0").layer;
    assert_eq!(layer.latent().unwrap().query, Query::Plain);
}

#[test]
fn the_softmax_scale_is_corrected_by_lengths() {
    let tau = |lines: &str| of(lines).layer.softmax_scale() * 192f64.sqrt();
    assert!((tau("") - 1.8739).abs() < 1e-4);
    let is_one = |found: f64| (found - 1.0).abs() < 1e-12;
    assert!(is_one(tau("max_position_embeddings: 4096")));
    // Even where nothing is stretched
    let plain = "rope_type: default";
    assert!((tau(plain) - 1.8739).abs() < 1e-4);
    assert!(
        lints(&with(plain), 749)
            .iter()
            .any(|said| said.contains("1.873"))
    );
    assert!(is_one(tau(
        "rope_type: default\nmax_position_embeddings: 4096"
    )));
}

#[test]
fn ropes_are_what_maxtext_builds() {
    let rotary = |lines: &str| match of(lines).layer.rope {
        Rope::Rotary(rotary) => rotary,
        Rope::None => panic!("nothing is rotated"),
    };
    assert_eq!(rotary("").layout, RopeLayout::Interleaved);
    assert_eq!(rotary("rope_interleave: false").layout, RopeLayout::Half);
    assert_eq!(rotary("rope_type: default").layout, RopeLayout::Half);
    let scaled = rotary("rope_attention_scaling: true").cos_sin_factor();
    assert!((scaled - 1.3689).abs() < 1e-4);
    assert_eq!(rotary("").cos_sin_factor(), 1.0);
    assert_eq!(refused(&with("rope_type: yarm")), [710]);
    assert_eq!(refused(&with("rope_min_timescale: 2")), [717]);
    let halves = "rope_interleave: false\nrope_pairwise: true";
    assert_eq!(refused(&with(halves)), [717]);
}

#[test]
fn options_that_latent_attention_passes_over_are_pointed_out() {
    for key in [
        "use_qk_norm: true",
        "temperature_tuning: true",
        "nope_layer_interval: 4",
        "sliding_window_size: 128",
        "attention_sink: true",
        "use_ragged_attention: true",
        "query_pre_attn_scalar: 144",
        "indexer_topk: 512",
    ] {
        let found = lints(&with(key), 748);
        let name = key.split(':').next().unwrap();
        assert!(
            found.len() == 1 && found[0].contains(name),
            "{key}: {found:?}"
        );
    }
    assert!(lints(&with("use_qk_norm: false\nattention_sink: false"), 748).is_empty());
}

#[test]
fn refused_options_and_misspelt_ones_are_errors() {
    assert_eq!(refused(&with("base_num_kv_heads: 1")), [717]);
    assert_eq!(refused(&with("attention_type: global")), [719]);
    assert_eq!(refused(&with("decoder_block: llama2")), [719]);
    assert_eq!(refused(&with("use_indexer: true\nq_lora_rank: 0")), [717]);
    assert_eq!(refused(&with("kv_lora_rank: none")), [707]);
    let misspelt = import(&with("kv_lora_rnk: 512")).unwrap_err();
    let unknown = misspelt.iter().find(|one| one.code.0 == 708).unwrap();
    assert_eq!(
        unknown.help.as_deref(),
        Some("did you mean `kv_lora_rank`?")
    );
    let several = refused(&with("kv_lora_rnk: 512\nfused_qkv: true\nrope_type: x"));
    assert_eq!(several, [710, 708, 717]);
    let harmless = accept(&with("favourite_colour: blue"));
    assert!(harmless.lints.iter().any(|one| one.code.0 == 709));
    let strict = Options {
        strict: true,
        ..Options::default()
    };
    let text = with("favourite_colour: blue");
    assert!(import::maxtext(&mut Sources::default(), "m", &text, &strict).is_err());
}

#[test]
fn training_is_said_too() {
    let clipped = of("use_qk_clip: true\nqk_clip_threshold: 50.0");
    let clip = clipped.layer.qk_clip.unwrap();
    assert_eq!((clip.threshold, clip.alpha), (50.0, 0.5));
    assert!(clipped.build.phases.contains(&Phase::Train));
    let plain = "use_qk_clip: true\nq_lora_rank: 0";
    assert!(
        lints(&with(plain), 749)
            .iter()
            .any(|said| said.contains("QK-clip"))
    );
    let remat = of(
        "remat_policy: custom\nmla_kv: device\nmla_q: device\nkey_proj: remat\nvalue_proj: remat",
    );
    assert!(remat.build.recompute.contains(&Activation::KvUp));
    assert!(!remat.build.recompute.contains(&Activation::Layernorm));
    let dropped = "enable_dropout: true\ndropout_rate: 0.1";
    assert_eq!(
        of(dropped).layer.logits.dropout,
        0.0,
        "most kernels drop nothing"
    );
    assert!(lints(&with(dropped), 748)[0].contains("dropout_rate"));
    let kernel = format!("{dropped}\nattention: cudnn_flash_te");
    assert_eq!(of(&kernel).layer.logits.dropout, 0.1);
    assert_eq!(
        of("attn_logits_soft_cap: 30.0").layer.logits.soft_cap,
        Some(30.0)
    );
}

#[test]
fn layers_stand_where_maxtext_puts_them() {
    for (layer, prefix) in [
        (0, "decoder.dense_layers_0.self_attention"),
        (3, "decoder.moe_layers_0.self_attention"),
        (60, "decoder.moe_layers_57.self_attention"),
    ] {
        let options = Options {
            layer: Some(layer),
            ..Options::default()
        };
        assert_eq!(accept_with(&with(""), &options).weight_prefix, prefix);
    }
    let beyond = Options {
        layer: Some(61),
        ..Options::default()
    };
    assert!(import::maxtext(&mut Sources::default(), "m", &with(""), &beyond).is_err());
}

#[test]
fn caches_are_what_maxtext_has_where_this_language_has_them() {
    let kind = |lines: &str| of(lines).build.cache.kind;
    assert_eq!(kind("mla_naive_kvcache: true"), CacheKind::Naive);
    assert_eq!(kind("mla_naive_kvcache: false"), CacheKind::Latent);
    let picking = "mla_naive_kvcache: true\nuse_indexer: true";
    assert_eq!(kind(picking), CacheKind::Latent);
    assert_eq!(lints(&with(picking), 749).len(), 1);
    assert!(lints(&with("mla_naive_kvcache: false"), 749).is_empty());
}
