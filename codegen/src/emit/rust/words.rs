//! Documentation of the module and of its functions.

use mla_spec::{CacheDType, Form, Fp8, GateGranularity, IndexStore, MaskKind, Phase, Store};

use super::cache::{index_store, store};
use super::layout::Lines;
use super::signature;
use crate::plan::{
    Argument, CacheContent, CachePlan, Family, IndexCachePlan, ModuleKind, Op, Plan, Program,
};

/// The module's own documentation.
pub(super) fn module(program: &Program) -> String {
    let mut lines = Lines::default();
    lines.prose("//!", &about(program));
    lines.line("//!");
    lines.line("//! | size | value | meaning |");
    lines.line("//! |---|---|---|");
    for constant in program.constants.iter().filter(|constant| constant.public) {
        let doc = constant.doc.trim_end_matches('.');
        lines.line(&format!(
            "//! | [`{}`] | {} | {doc} |",
            constant.name, constant.value
        ));
    }
    lines.line("//!");
    let scale = &program.softmax_scale;
    lines.prose(
        "//!",
        &format!("Softmax scale: {:?}; {}", scale.value, sentence(&scale.doc)),
    );
    lines.line("//!");
    for plan in &program.plans {
        let (phase, reason) = (
            signature::function_name(plan.phase),
            sentence(&plan.form_reason),
        );
        lines.bullet(
            "//!",
            &match plan.form {
                Some(one) => format!("`{phase}` is in the {}: {reason}", form(one)),
                None => format!("`{phase}` attends to each request in its own form: {reason}"),
            },
        );
    }
    if let Some(cache) = &program.cache {
        lines.line("//!");
        lines.prose("//!", &size_per_token(cache));
    }
    lines.into_text()
}

/// What the layer is, in a sentence.
fn about(program: &Program) -> String {
    let kind = match program.family {
        Family::Latent => "Multi-head Latent Attention",
        Family::Grouped => "grouped-query attention",
        Family::Cross => "cross attention",
    };
    let parts = [
        (program.family == Family::Latent).then(|| queries(program).to_owned()),
        program.selected.map(|keys| {
            let most = keys.size;
            match &program.indexer {
                Some(_) => format!("an indexer that picks at most {most} keys per query"),
                None => format!("at most {most} keys per query that another layer's indexer picks"),
            }
        }),
        takes_kv(program).then(|| "another layer's latents".to_owned()),
        has_sinks(program).then(|| "a learned sink per head".to_owned()),
        gate(program).map(str::to_owned),
        program.cache.as_ref().map(|_| "a cache".to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let with = match parts.split_last() {
        None => String::new(),
        Some((only, [])) => format!(" with {only}"),
        Some((last, rest)) => format!(" with {} and {last}", rest.join(", ")),
    };
    format!("[`{}`]: {kind}{with}.", program.name)
}

fn takes_kv(program: &Program) -> bool {
    let mut arguments = program.plans.iter().flat_map(|plan| &plan.arguments);
    arguments.any(|argument| matches!(argument, Argument::TakesKv | Argument::Source))
}

fn has_sinks(program: &Program) -> bool {
    let mut modules = program.modules.iter();
    modules.any(|module| matches!(module.kind, ModuleKind::Sinks { .. }))
}

fn gate(program: &Program) -> Option<&'static str> {
    let mut ops = program.plans.iter().flat_map(Plan::ops);
    ops.find_map(|op| match op {
        Op::Gate { granularity, .. } => Some(match granularity {
            GateGranularity::PerHead => "a gate per head",
            GateGranularity::PerElement => "a gate per element",
        }),
        _ => None,
    })
}

fn queries(program: &Program) -> &'static str {
    let plain = program
        .modules
        .iter()
        .any(|module| module.slot == "linear_q_proj");
    if plain {
        "plain queries"
    } else {
        "low-rank queries"
    }
}

fn form(form: Form) -> &'static str {
    match form {
        Form::Mha => "expanded form (MHA)",
        Form::Mqa => "absorbed form (MQA)",
    }
}

/// What a cached token takes.
fn size_per_token(cache: &CachePlan) -> String {
    let what = match cache.content {
        CacheContent::Latent if cache.rope_elements == 0 => "the latent",
        CacheContent::Latent => "the latent and the shared key",
        CacheContent::Naive => "the keys and values of every head",
        CacheContent::Groups => "the keys and values of every group",
        CacheContent::Context => "the context's keys and values of every head",
        CacheContent::Index => "the indexer's key",
    };
    let elements = cache.elements_per_token;
    let of_index = cache.index.map(index_bytes);
    if cache.content == CacheContent::Index {
        return format!(
            "A cached token takes {} bytes: {}.",
            of_index.unwrap_or(0),
            cache.index.map_or_else(|| what.to_owned(), of_index_words)
        );
    }
    let bytes = kv_bytes(cache);
    let values = format!(
        "{elements} values in the format `{}`, {what}",
        store(cache.store)
    );
    match (of_index, cache.index) {
        (Some(more), Some(index)) => format!(
            "A cached token takes {} bytes: {values}; and {} in the format `{}`, {}.",
            bytes + more,
            index.elements_per_token(),
            index_store(index.store),
            of_index_words(index)
        ),
        _ => format!("A cached token takes {bytes} bytes: {values}."),
    }
}

/// Bytes that keys and values take per token.
fn kv_bytes(cache: &CachePlan) -> u64 {
    let elements = cache.elements_per_token;
    let rope = cache.rope_elements;
    let latent = elements - rope;
    match cache.store {
        Store::Plain(dtype) => elements * bytes(dtype),
        Store::Fp8(Fp8::E4m3 | Fp8::E5m2) => elements,
        // A layer without a rotated part keeps the room of 64 values for it
        Store::Fp8DsMla(_) => latent + latent / 128 * 4 + 2 * if rope == 0 { 64 } else { rope },
        // A token's scales are padded to a multiple of 8 bytes
        Store::Model1 => latent + (latent / 64).next_multiple_of(8) + 2 * rope,
        Store::Mxfp8 => elements + elements / 32,
    }
}

/// What an indexer keeps.
fn of_index_words(index: IndexCachePlan) -> String {
    match index.pool {
        None => "the indexer's key".to_owned(),
        Some(pool) => format!(
            "the indexer's key and the gate that pools it, besides a pooled key for every {} tokens",
            pool.size
        ),
    }
}

/// Bytes that an indexer's key takes, with its gate and its share of a pooled key.
fn index_bytes(index: IndexCachePlan) -> u64 {
    let elements = u64::from(index.elements_per_token());
    match index.store {
        IndexStore::Plain(dtype) => {
            let key = u64::from(index.width.size) * bytes(dtype);
            let pooled = index.pool.map(|pool| key.div_ceil(u64::from(pool.size)));
            elements * bytes(dtype) + pooled.unwrap_or(0)
        }
        IndexStore::Fp8(_) => elements + 4,
        IndexStore::Mxfp4 => elements / 2 + elements / 32,
    }
}

fn bytes(dtype: CacheDType) -> u64 {
    match dtype {
        CacheDType::F64 => 8,
        CacheDType::F32 => 4,
        CacheDType::Bf16 | CacheDType::F16 => 2,
    }
}

fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// The documentation of a phase's function.
pub(super) fn function(program: &Program, plan: &Plan, probes: bool, lines: &mut Lines) {
    let (summary, shapes, errors) = match (program.family, plan.phase) {
        (_, Phase::Forward | Phase::Train) => forward(program, plan),
        (Family::Cross, _) => across(plan.phase),
        (_, Phase::Prefill) => cached(program, "many"),
        (_, Phase::Decode) => cached(program, "few"),
        (_, Phase::Mixed) => mixed(program),
    };
    lines.prose("///", &summary);
    lines.line("///");
    lines.prose("///", &shapes);
    for argument in &plan.arguments {
        lines.prose("///", about_argument(*argument));
    }
    if probes {
        lines.prose("///", "`probe` receives the intermediate values.");
    }
    lines.line("///");
    lines.line("/// # Errors");
    lines.prose("///", &errors);
}

/// The documentation of `forward_train`.
pub(super) fn forward_train(program: &Program, plan: &Plan, lines: &mut Lines) {
    let (_, shapes, errors) = forward(program, plan);
    let summary =
        "What [`forward`](Self::forward) computes, and what its backward pass needs of it.";
    let summary = match program
        .plans
        .iter()
        .any(|plan| plan.phase == Phase::Forward)
    {
        true => summary.to_owned(),
        false => format!(
            "Attention within whole sequences, with what its backward pass needs: {}.",
            sees(program)
        ),
    };
    lines.prose("///", &summary);
    lines.line("///");
    lines.prose("///", &shapes);
    for argument in &plan.arguments {
        lines.prose("///", about_argument(*argument));
    }
    lines.line("///");
    lines.line("/// # Errors");
    lines.prose("///", &errors);
}

/// The documentation of a backward function.
pub(super) fn backward(name: &str, plan: &Plan, lines: &mut Lines) {
    let summary = match name {
        "backward" => {
            "The gradients of the layer's inputs; those of its parameters are added to `gradients`."
        }
        "backward_input" => {
            "As [`backward`](Self::backward), without the gradients of the linears' weights, which [`backward_dw`](Self::backward_dw) adds later."
        }
        _ => "Adds some of the weights' gradients: a part of [`backward_dw`](Self::backward_dw).",
    };
    lines.prose("///", summary);
    if name != "backward" && name != "backward_input" {
        lines.line("///");
        lines.line("/// # Errors");
        lines.line("/// The device refuses.");
        return;
    }
    lines.line("///");
    for given in super::training::given(plan) {
        lines.prose("///", about_given(given));
    }
    lines.line("///");
    lines.line("/// # Errors");
    lines.prose(
        "///",
        "An argument has another number of rows than the forward pass had. The device refuses.",
    );
}

fn about_given(given: super::training::Given) -> &'static str {
    use super::training::Given;
    match given {
        Given::Hidden => "`hidden` is what the forward pass was given.",
        Given::Context => "`context` is what the forward pass was given.",
        Given::SharedKv => "`shared_kv` is what the forward pass was given.",
        Given::Bias => "`bias` is what the forward pass was given.",
        Given::OutputGradient => "`d_output` is `[rows, HIDDEN_SIZE]`, the gradient of the output.",
        Given::SharedKvGradients => {
            "`d_shared_kv` sums the gradients of the layers that attended to this one's latents."
        }
        Given::LossScale => {
            "`loss_scale` multiplies the gradients of the indexer's loss, as the caller has multiplied `d_output`."
        }
    }
}

fn about_argument(argument: Argument) -> &'static str {
    match argument {
        Argument::Context => {
            "`context` is `[rows, CONTEXT_HIDDEN_SIZE]`, the other sequences' rows."
        }
        Argument::ContextMask => "`context_mask` says which rows of `context` make a sequence.",
        Argument::GivesKv => {
            "`shared_kv` receives the latents and rotated keys, for layers that attend to them too."
        }
        Argument::TakesKv => "`shared_kv` holds the latents and rotated keys of an earlier layer.",
        Argument::Source => {
            "`source` is the cache of an earlier layer, which has written the batch's tokens already."
        }
        Argument::GivesSelection => {
            "`topk` receives the selected keys, for layers that attend to them too."
        }
        Argument::TakesSelection => "`topk` holds the keys that an earlier layer selected.",
        Argument::Bias => "`bias` is added to the scaled logits.",
        Argument::Dropout => {
            "`dropout` drops probabilities in training, the spec's being `ATTENTION_DROPOUT`; `None` drops none."
        }
    }
}

/// What a token sees.
fn sees(program: &Program) -> String {
    let mask = program.mask;
    let across = program.family == Family::Cross;
    let mut text = match mask.kind {
        MaskKind::CausalBottomRight if across => {
            "a token sees its sequence's context up to its own place, counted from both ends"
        }
        MaskKind::Full if across => "a token sees its sequence's whole context",
        MaskKind::Causal | MaskKind::CausalBottomRight => {
            "a token sees itself and what came before it"
        }
        MaskKind::Full => "a token sees its whole sequence",
        MaskKind::Arbitrary => "a token sees what `mask` says",
    }
    .to_owned();
    if let Some(window) = mask.window {
        let side = |tokens: Option<u32>, place| match tokens {
            Some(0) | None => None,
            Some(tokens) => Some(format!("{tokens} tokens {place}")),
        };
        let sides = [side(window.left, "back"), side(window.right, "ahead")];
        let sides: Vec<String> = sides.into_iter().flatten().collect();
        text.push_str(&format!(", at most {}", sides.join(" and ")));
    }
    if let Some(chunk) = mask.chunk {
        text.push_str(&format!(", within its chunk of {chunk}"));
    }
    if mask.bidirectional_blocks {
        text.push_str(", and its whole block");
    }
    if mask.allows_padding() {
        text.push_str("; rows may be padding");
    }
    text
}

fn forward(program: &Program, plan: &Plan) -> (String, String, String) {
    let sees = sees(program);
    let (positions, about) = if signature::reads_positions(plan) {
        ("`positions` one per row", "`positions` or `mask` speaks")
    } else {
        (
            "the positions are not used, since nothing is rotated",
            "`mask` speaks",
        )
    };
    let refused = if program.mask.allows_padding() {
        ""
    } else {
        "has padding or "
    };
    let what = match program.family {
        Family::Cross => "Attention from whole sequences to others",
        Family::Latent | Family::Grouped => "Attention within whole sequences",
    };
    (
        format!("{what}, without a cache: {sees}."),
        format!(
            "`hidden` is `[rows, HIDDEN_SIZE]`, {positions}; `mask` says which rows make a sequence."
        ),
        format!(
            "{about} of another number of rows; `mask` {refused}splits a sequence. The device refuses."
        ),
    )
}

fn cached(program: &Program, tokens: &str) -> (String, String, String) {
    let (cache, kept) = match (&program.source, &program.cache) {
        (None, _) => ("`cache`", " The new tokens are cached."),
        (Some(_), Some(_)) => ("`source`", " The new tokens' indexer keys are cached."),
        (Some(_), None) => ("`source`", ""),
    };
    (
        format!("Attention of a ragged batch's new tokens, planned for {tokens} per request: each sees what {cache} holds of its request, the new tokens before it, and itself.{kept}"),
        "`hidden` is `[rows, HIDDEN_SIZE]`, one row per new token of `batch`, request by request.".to_owned(),
        "`hidden` has another number of rows than `batch` new tokens. The cache can't hold the batch: a block is out of range or named twice, or a request lacks room. The device refuses.".to_owned(),
    )
}

/// A batch in which each request has its own form.
fn mixed(program: &Program) -> (String, String, String) {
    let (summary, shapes, errors) = cached(program, "any number");
    let forms = " Requests with as many of them as [`MHA_FROM`] says are attended to in the expanded form, all others in the absorbed one.";
    (format!("{summary}{forms}"), shapes, errors)
}

/// A cached phase of a cross attention.
fn across(phase: Phase) -> (String, String, String) {
    let summary = match phase {
        Phase::Prefill => {
            "Attention of a ragged batch's tokens to their requests' contexts, whose keys and values are cached first."
        }
        Phase::Forward | Phase::Decode | Phase::Mixed | Phase::Train => {
            "Attention of a ragged batch's tokens to their requests' contexts, whose keys and values a prefill has cached."
        }
    };
    (
        summary.to_owned(),
        "`hidden` is `[rows, HIDDEN_SIZE]`, one row per new token of `batch`, request by request; a request's cached tokens are its context."
            .to_owned(),
        "`hidden` has another number of rows than `batch` new tokens. A request's blocks hold fewer tokens than its context. The device refuses."
            .to_owned(),
    )
}
