//! Constants and positions that queries and latents are multiplied by.

use super::codes;
use super::foreign::Place;
use super::text::{shown, wrong_kind};
use super::value::{Field, Stated, Table};
use super::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{LatentScale, QueryScaleSite, QueryScaling};
use crate::node::{NodeKind, Scalar};
use crate::span::Span;

/// Longest original context and largest offset accepted, in tokens.
const LONGEST: u32 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Llama4,
    LogPosition,
}

const KINDS: Words<'static, Kind> = Words {
    choices: &[
        ("llama4", Kind::Llama4),
        ("log_position", Kind::LogPosition),
    ],
    aliases: &[
        ("llama_4", "llama4"),
        ("temperature_tuning", "llama4"),
        ("softmax_scaling", "log_position"),
        ("log", "log_position"),
    ],
    others: None,
};

const LOG_POSITION: Words<'static, Kind> = Words {
    choices: &[("log_position", Kind::LogPosition)],
    aliases: &[("softmax_scaling", "log_position"), ("log", "log_position")],
    others: None,
};

const SITES: Words<'static, QueryScaleSite> = Words {
    choices: &[
        ("latent", QueryScaleSite::Latent),
        ("query", QueryScaleSite::Query),
    ],
    aliases: &[],
    others: None,
};

const LLAMA4_KEYS: [&str; 3] = [
    "beta",
    "original_max_position_embeddings",
    "position_offset",
];

/// Reads `query_scaling` of an attention module. `None`: refused.
pub(super) fn of_queries(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<QueryScaling> {
    table
        .stated("query_scaling", |field| query_scaling(&field, &KINDS, out))
        .or(QueryScaling::None)
}

/// Reads `query_scaling` of an indexer: whether it scales by the logarithm of positions. `None`: refused.
pub(super) fn of_an_indexer(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<bool> {
    let scaling = table
        .stated("query_scaling", |field| {
            query_scaling(&field, &LOG_POSITION, out)
        })
        .or(QueryScaling::None)?;
    Some(scaling == QueryScaling::LogPosition)
}

fn query_scaling(
    field: &Field<'_>,
    kinds: &Words<'_, Kind>,
    out: &mut Diagnostics,
) -> Option<QueryScaling> {
    let mut table = Table::map(
        "query_scaling",
        Some("type"),
        field.value,
        field.key.span,
        Place::Scaling,
        out,
    )?;
    let kind = table
        .require("type")
        .and_then(|field| field.word(kinds, out))
        .map(|kind| kind.value);
    let scaling = match kind {
        Some(Kind::Llama4) => llama4(&mut table, out),
        Some(Kind::LogPosition) => Some(QueryScaling::LogPosition),
        None => {
            // Without a type nothing can be said about the other keys but whether any type has them.
            for key in LLAMA4_KEYS {
                table.take(key);
            }
            None
        }
    };
    table.finish(out);
    scaling
}

fn llama4(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<QueryScaling> {
    let beta = table.require("beta").and_then(|field| {
        field.bounded(
            "greater than 0 and at most 1e3",
            |beta| beta > 0.0 && beta <= 1e3,
            out,
        )
    });
    let original = table
        .require("original_max_position_embeddings")
        .and_then(|field| field.integer(1, LONGEST, out));
    let offset = table
        .require("position_offset")
        .and_then(|field| field.integer(0, LONGEST, out));
    Some(QueryScaling::Llama4 {
        beta: beta?,
        original_max_position_embeddings: original?.value,
        position_offset: offset?.value,
    })
}

/// Reads `q_lora_scale`: what queries are multiplied by, and where; `sizes` are `h` and `r_q` where they are known.
pub(super) fn of_the_query_latent(
    table: &mut Table<'_>,
    sizes: Option<(u32, u32)>,
    out: &mut Diagnostics,
) -> Stated<(LatentScale, QueryScaleSite)> {
    table.stated("q_lora_scale", |field| {
        let mut scale = Table::map(
            field.name(),
            Some("factor"),
            field.value,
            field.key.span,
            Place::Scaling,
            out,
        )?;
        let factor = factor(&mut scale, sizes, out);
        let at = scale
            .require("at")
            .and_then(|field| field.word(&SITES, out));
        scale.finish(out);
        Some((factor?, at?.value))
    })
}

/// Reads `kv_lora_scale`: what the normed key-value latent is multiplied by; `sizes` are `h` and `r_kv` where they are known.
pub(super) fn of_the_kv_latent(
    table: &mut Table<'_>,
    sizes: Option<(u32, u32)>,
    out: &mut Diagnostics,
) -> Stated<LatentScale> {
    table.stated("kv_lora_scale", |field| {
        let mut scale = Table::map(
            field.name(),
            Some("factor"),
            field.value,
            field.key.span,
            Place::Scaling,
            out,
        )?;
        let factor = factor(&mut scale, sizes, out);
        scale.finish(out);
        factor
    })
}

/// `factor`: a number, or `hidden_over_rank` for `sqrt(h / r)`.
fn factor(
    table: &mut Table<'_>,
    sizes: Option<(u32, u32)>,
    out: &mut Diagnostics,
) -> Option<LatentScale> {
    let field = table.require("factor")?;
    match &field.value.kind {
        NodeKind::Scalar(Scalar::Str(word)) if word == "hidden_over_rank" => {
            let (hidden, rank) = sizes?;
            Some(LatentScale {
                factor: (f64::from(hidden) / f64::from(rank)).sqrt(),
                hidden_over_rank: true,
            })
        }
        NodeKind::Scalar(Scalar::Str(_)) => {
            let wrong = wrong_kind(field.name(), "a number or `hidden_over_rank`", field.value);
            out.push(wrong.help(format!(
                "write `hidden_over_rank` for sqrt(h / r), or a number, in place of {}",
                shown(field.value)
            )));
            None
        }
        _ => field
            .bounded(
                "greater than 0 and at most 1e6",
                |factor| factor > 0.0 && factor <= 1e6,
                out,
            )
            .map(|factor| LatentScale {
                factor,
                hidden_over_rank: false,
            }),
    }
}

/// Refuses a scale that has no place of its own, because the latent's norm stands in the projection behind it.
pub(super) fn refuse_behind_fused_norm(key: &str, scale: Span, norm: Span, out: &mut Diagnostics) {
    let message = format!("`{key}` stands between a norm and a projection that are one module");
    let behind = Diagnostic::error(
        codes::SCALE_BEHIND_FUSED_NORM,
        message,
        scale,
        "nothing can stand there",
    );
    out.push(
        behind
            .and(norm, "has the norm inside")
            .help("write `ColumnParallelLinear` for the projection, and the norm in its own slot"),
    );
}
