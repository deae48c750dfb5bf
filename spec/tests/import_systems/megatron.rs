//! Megatron's arguments.

use super::*;

/// DeepSeek-V3's command line, with flags added or in others' places.
fn with(flags: &str) -> String {
    let names: Vec<_> = flags
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
        .collect();
    let text = configs("megatron/deepseek-v3.sh");
    let kept: Vec<_> = text
        .lines()
        .filter(|line| {
            let name = line.split_whitespace().next().unwrap_or_default();
            !names.contains(&name)
        })
        .collect();
    format!("{}\nMORE=(\n{flags}\n)\n", kept.join("\n"))
}

fn without(flag: &str) -> String {
    let text = configs("megatron/deepseek-v3.sh");
    let kept: Vec<_> = text
        .lines()
        .filter(|line| line.split_whitespace().next() != Some(flag))
        .collect();
    kept.join("\n")
}

#[track_caller]
fn of(flags: &str) -> Checked {
    checked(&accept(&with(flags)))
}

#[test]
fn norms_stand_inside_projections_or_not_at_all() {
    let latent = of("").layer.latent().unwrap().clone();
    assert!(
        matches!(latent.kv_norm, Norm::FusedIntoLinear(norm) if norm.kind == NormKind::RmsNorm && norm.eps == 1e-6)
    );
    let none = accept(&without("--qk-layernorm"));
    assert_eq!(
        checked(&none).layer.latent().unwrap().kv_norm,
        Norm::Identity
    );
    assert!(
        none.lints
            .iter()
            .any(|one| one.code.0 == 749 && one.message.contains("not normed"))
    );
    let layer_norm = checked(&accept(&without("--normalization"))).layer;
    let kind = layer_norm.latent().unwrap().kv_norm.params().unwrap().kind;
    assert_eq!(kind, NormKind::LayerNorm, "the command line's default");
    let eps = accept(&without("--norm-epsilon"));
    assert_eq!(
        checked(&eps)
            .layer
            .latent()
            .unwrap()
            .kv_norm
            .params()
            .unwrap()
            .eps,
        1e-5
    );
    assert!(eps.lints.iter().any(|one| one.message.contains("1e-5")));
}

#[test]
fn defaults_depend_on_the_entry_point() {
    let rank = |text: &str| {
        checked(&accept(text))
            .layer
            .latent()
            .unwrap()
            .dims
            .kv_lora_rank
    };
    assert_eq!(rank(&without("--kv-lora-rank")), 32);
    assert!(
        lints(&without("--kv-lora-rank"), 749)
            .iter()
            .any(|said| said.contains("--kv-lora-rank"))
    );
    let fields = configs("megatron/deepseek-v3.2.yaml");
    let absent = |key: &str| {
        let kept: Vec<_> = fields
            .lines()
            .filter(|line| !line.starts_with(key))
            .collect();
        kept.join("\n")
    };
    assert_eq!(rank(&absent("kv_lora_rank:")), 512);
    let plain = checked(&accept(
        &without("--q-lora-rank").replace("    --qk-layernorm\n", ""),
    ));
    assert_eq!(plain.layer.latent().unwrap().query, Query::Plain);
    let classes = checked(&accept(&absent("q_lora_rank:"))).layer;
    assert_eq!(classes.q_lora_rank(), Some(512));
    let factor = |text: &str| match &checked(&accept(text)).layer.rope {
        Rope::Rotary(rotary) => match &rotary.scaling {
            mla_spec::RopeScaling::Yarn(yarn) => yarn.factor,
            other => panic!("{other:?}"),
        },
        Rope::None => panic!("nothing is rotated"),
    };
    assert_eq!(factor(&without("--rotary-scaling-factor")), 1.0);
    assert_eq!(factor(&absent("rotary_scaling_factor:")), 40.0);
}

#[test]
fn a_norm_of_plain_queries_input_is_refused() {
    assert_eq!(refused(&without("--q-lora-rank")), [721]);
}

#[test]
fn rope_without_yarn_corrects_the_softmax_all_the_same() {
    let plain = of("--rope-type rope --no-rope-fusion");
    assert!((plain.layer.softmax_scale() * 192f64.sqrt() - 1.8739).abs() < 1e-4);
    assert!(
        lints(&with("--rope-type rope --no-rope-fusion"), 749)
            .iter()
            .any(|said| said.contains("1.873"))
    );
    let uncorrected = of("--rope-type rope --no-rope-fusion --mscale-all-dim 0.0");
    assert_eq!(uncorrected.layer.logits.scale, None);
    assert_eq!(
        refused(&with(
            "--rope-type rope --no-rope-fusion --rotary-percent 0.5"
        )),
        [721]
    );
    assert_eq!(refused(&with("--beta-fast 1")), [717]);
}

#[test]
fn options_that_latent_attention_passes_over_are_pointed_out() {
    for flags in [
        "--no-rope-freq 4",
        "--add-qkv-bias",
        "--kv-channels 56",
        "--use-rope-scaling",
        "--yarn-beta-fast 1",
        "--apply-query-key-layer-scaling",
        "--dsa-indexer-topk 2048",
        "--num-query-groups 8",
        "--rotary-seq-len-interpolation-factor 4",
    ] {
        let found = lints(&with(flags), 748);
        let name = flags.split(' ').next().unwrap();
        assert!(
            found.len() == 1 && found[0].contains(name),
            "{flags}: {found:?}"
        );
    }
    let scale = format!(
        "{}softmax_scale: 0.1\n",
        configs("megatron/deepseek-v3.2.yaml")
    );
    assert!(lints(&scale, 748)[0].contains("softmax_scale"));
    assert!(lints(&with("--softmax-type learnable"), 749)[0].contains("softmax_type"));
    assert_eq!(
        of("--softmax-type learnable").layer.logits.sink,
        Sink::Learned
    );
    let absolute = lints(&without("--position-embedding-type"), 749);
    assert!(
        absolute
            .iter()
            .any(|said| said.contains("learned_absolute")),
        "{absolute:?}"
    );
}

#[test]
fn refused_options_and_misspelt_ones_are_errors() {
    for flags in [
        "--group-query-attention",
        "--rotary-interleaved",
        "--qk-l2-norm",
        "--attention-output-gate",
        "--transformer-impl local",
        "--apply-layernorm-1p",
        "--hybrid-layer-pattern M*M*",
        "--spec my.module my_spec",
    ] {
        assert_eq!(refused(&with(flags)), [717], "{flags}");
    }
    let misspelt = import(&with("--kv-lora-rnk 512")).unwrap_err();
    let unknown = misspelt.iter().find(|one| one.code.0 == 708).unwrap();
    assert_eq!(
        unknown.help.as_deref(),
        Some("did you mean `--kv-lora-rank`?")
    );
    assert_eq!(refused(&with("--hidden-size wide")), [707]);
    assert_eq!(
        refused(&format!(
            "{}\n--v-head-dim 64\n",
            configs("megatron/deepseek-v3.sh")
        )),
        [703]
    );
    assert_eq!(refused(&without("--multi-latent-attention")), [719]);
    let both = refused(&without("--hidden-size").replace("--num-attention-heads 128", ""));
    assert_eq!(both, [720, 720]);
    let harmless = accept(&with("--favourite-colour blue"));
    assert!(harmless.lints.iter().any(|one| one.code.0 == 709));
}

#[test]
fn windows_dropout_and_biases_are_the_layers() {
    let window = |layer, flags: &str| {
        let options = Options {
            layer: Some(layer),
            ..Options::default()
        };
        let imported = accept_with(&with(flags), &options);
        checked(&imported)
            .layer
            .mask
            .window
            .and_then(|window| window.left)
    };
    assert_eq!(window(0, "--window-size (127,0)"), Some(127));
    let every = "--window-size 127,0 --window-attn-skip-freq 4";
    assert_eq!((window(2, every), window(3, every)), (Some(127), None));
    let listed = "--window-size (127,0) --window-attn-skip-freq ([1]*2+[0])*30";
    assert_eq!((window(1, listed), window(2, listed)), (Some(127), None));
    assert_eq!(refused(&with("--window-size 127")), [707]);
    let dropped = checked(&accept(&without("--attention-dropout")));
    assert_eq!(dropped.layer.logits.dropout, 0.1);
    let biased = checked(&accept(&without("--disable-bias-linear")));
    assert!(biased.layer.output_bias);
    let joined = of("--mla-down-proj-fusion")
        .layer
        .latent()
        .unwrap()
        .down
        .clone();
    assert_eq!(joined, mla_spec::DownProjection::Fused { bias: false });
}

#[test]
fn an_indexers_sharing_counts_layers_from_1() {
    let text = format!(
        "{}dsa_indexer_topk_freq: 4\ndsa_indexer_skip_topk_offset: 3\n",
        configs("megatron/deepseek-v3.2.yaml")
    );
    let picks: Vec<u32> = (0..12)
        .filter(|layer| {
            let options = Options {
                layer: Some(*layer),
                ..Options::default()
            };
            let layer = checked(&accept_with(&text, &options)).layer;
            matches!(layer.indexer(), Some(mla_spec::Indexer::Lightning(_)))
        })
        .collect();
    assert_eq!(picks, [0, 1, 2, 6, 10]);
    let loss = format!(
        "{}dsa_indexer_loss_coeff: 0.5\ndsa_indexer_use_sparse_loss: true\n",
        configs("megatron/deepseek-v3.2.yaml")
    );
    let trained = checked(&accept(&loss));
    assert!(trained.build.phases.contains(&Phase::Train));
}

#[test]
fn what_is_computed_again_is_read() {
    let selected =
        of("--recompute-granularity selective --recompute-modules core_attn mla_up_proj");
    let wanted = [Activation::QUp, Activation::KvUp, Activation::CoreAttn];
    assert_eq!(selected.build.recompute, wanted);
    assert_eq!(
        of("--recompute-activations").build.recompute,
        [Activation::CoreAttn]
    );
    assert!(import(&with("--recompute-modules core_atn")).is_err());
    let clip = of("--qk-clip --qk-clip-threshold 50")
        .layer
        .qk_clip
        .unwrap();
    assert_eq!((clip.threshold, clip.alpha), (50.0, 0.5));
}

#[test]
fn sections_of_yaml_lose_what_latent_attention_adds() {
    let text = "language_model:\n  num_layers: 2\n  hidden_size: 2048\n  num_attention_heads: 16\n  multi_latent_attention: true\n  \
                q_lora_rank: 768\n  kv_lora_rank: 256\n  qk_layernorm: true\n  normalization: RMSNorm\n  layernorm_epsilon: 1.0e-6\n\
                model_parallel:\n  tensor_model_parallel_size: 1\n";
    let found = lints(text, 748);
    assert!(
        found.len() == 1 && found[0].contains("`q_lora_rank`, `kv_lora_rank`"),
        "{found:?}"
    );
}

#[test]
fn caches_are_what_megatron_has_where_this_language_has_them() {
    let cache = |text: &str| checked(&accept(text)).build.cache;
    let latents = cache(&with("--cache-mla-latents --no-rope-fusion"));
    assert_eq!(
        (latents.kind, latents.page_size),
        (CacheKind::Latent, Some(64))
    );
    let fields = configs("megatron/deepseek-v3.2.yaml");
    let stated = format!("{fields}cache_mla_latents: false\n");
    assert_eq!(cache(&stated).kind, CacheKind::Latent, "beside an indexer");
    let dense: Vec<_> = stated
        .lines()
        .filter(|line| !line.contains("dsa"))
        .collect();
    assert_eq!(cache(&dense.join("\n")).kind, CacheKind::Naive);
    let dropped = fields.replace("attention_dropout: 0.0", "attention_dropout: 0.1");
    assert!(
        accept(&dropped).document.build.is_some(),
        "an indexer, and dropout"
    );
}

#[test]
fn what_megatron_refuses_beside_its_kernels_and_indexers_is_refused() {
    assert_eq!(
        refused(&with("--rope-type rope --mscale-all-dim 0.0")),
        [717]
    );
    assert_eq!(refused(&with("--cache-mla-latents")), [717]);
    let fields = configs("megatron/deepseek-v3.2.yaml");
    for line in [
        "cache_mla_latents: true",
        "qk_clip: true",
        "mla_down_proj_fusion: true",
        "apply_rope_fusion: true",
    ] {
        assert_eq!(refused(&format!("{fields}{line}\n")), [717], "{line}");
    }
    let biased = fields.replace("add_bias_linear: false\n", "");
    assert_eq!(refused(&biased), [717], "biases are Megatron's default");
    assert_eq!(
        refused(&format!("{fields}dsa_indexer_topk_freq: 0\n")),
        [707]
    );
}

#[test]
fn a_long_command_line_takes_no_longer_per_flag() {
    let flags: Vec<_> = (0..50_000).map(|index| format!("--k{index} 0")).collect();
    let text = format!("--multi-latent-attention {}", flags.join(" "));
    assert_eq!(refused(&text), [720, 720]);
    let programs = format!("{} --hidden-size 4", "a.py ".repeat(100_000));
    assert_eq!(refused(&programs), [719, 720]);
}
