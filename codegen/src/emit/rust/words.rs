//! Documentation of the module and of its functions.

use mla_spec::{AttnMask, CacheDType, CacheKind, Form, Phase};

use super::layout::Lines;
use super::parts;
use crate::plan::{Plan, Program};

/// The module's own documentation.
pub(super) fn module(program: &Program) -> String {
    let mut lines = Lines::default();
    let cached = if program.cache.is_some() {
        " and a cache"
    } else {
        ""
    };
    let about = format!(
        "[`{}`]: Multi-head Latent Attention with {}{cached}.",
        program.name,
        queries(program)
    );
    lines.prose("//!", &about);
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
            parts::function_name(plan.phase),
            sentence(&plan.form_reason),
        );
        lines.bullet(
            "//!",
            &format!("`{phase}` is in the {}: {reason}", form(plan.form)),
        );
    }
    if let Some(cache) = &program.cache {
        let bytes = cache.elements_per_token * bytes(cache.dtype);
        let what = match cache.kind {
            CacheKind::Latent => "latent and the shared key",
            CacheKind::Naive => "keys and values of every head",
        };
        lines.line("//!");
        lines.prose(
            "//!",
            &format!(
                "A cached token takes {bytes} bytes: {} elements of type `{}`, the {what}.",
                cache.elements_per_token,
                parts::cache_element(cache.dtype)
            ),
        );
    }
    lines.into_text()
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
    let (summary, shapes, errors) = match plan.phase {
        Phase::Forward => forward(program, plan),
        Phase::Prefill => cached("many"),
        Phase::Decode => cached("few"),
    };
    lines.prose("///", &summary);
    lines.line("///");
    lines.prose("///", &shapes);
    if probes {
        lines.prose("///", "`probe` receives the intermediate values.");
    }
    lines.line("///");
    lines.line("/// # Errors");
    lines.prose("///", &errors);
}

fn forward(program: &Program, plan: &Plan) -> (String, String, String) {
    let sees = match program.mask {
        AttnMask::CAUSAL => "a token sees itself and what came before it",
        AttnMask::PADDING_CAUSAL => {
            "a token sees itself and what came before it; rows may be padding"
        }
        AttnMask::FULL => "a token sees its whole sequence",
        AttnMask::PADDING => "a token sees its whole sequence; rows may be padding",
        _ => unreachable!("check makes none yet"),
    };
    let (positions, about) = if parts::reads_positions(plan) {
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
    (
        format!("Attention within whole sequences, without a cache: {sees}."),
        format!(
            "`hidden` is `[rows, HIDDEN_SIZE]`, {positions}; `mask` says which rows make a sequence."
        ),
        format!(
            "{about} of another number of rows; `mask` {refused}splits a sequence. The device refuses."
        ),
    )
}

fn cached(tokens: &str) -> (String, String, String) {
    (
        format!("Attention of a ragged batch's new tokens, planned for {tokens} per request: each sees what `cache` holds of its request, the new tokens before it, and itself. The new tokens are cached."),
        "`hidden` is `[rows, HIDDEN_SIZE]`, one row per new token of `batch`, request by request.".to_owned(),
        "`hidden` has another number of rows than `batch` new tokens. The cache can't hold the batch: a block is out of range or named twice, or a request lacks room. The device refuses.".to_owned(),
    )
}
