//! How many bytes numbers take: in arithmetic, in memory, in caches (features 1.J).

use mla_spec::{CacheDType, DType, IndexStore, Store};

use crate::plan::{CacheContent, CachePlan, Dim, LinearParams, ModuleKind, Ty};

/// Bytes of an element of arithmetic.
pub(super) fn element(dtype: DType) -> u128 {
    match dtype {
        DType::Bf16 => 2,
        DType::F32 => 4,
        DType::F64 => 8,
    }
}

/// Bytes of a module's parameters, `count` numbers.
pub(super) fn parameters(kind: &ModuleKind, count: u128, dtype: DType) -> u128 {
    match kind {
        ModuleKind::AccumLinear(_) | ModuleKind::Sinks { .. } => count * accumulated(dtype),
        ModuleKind::Fp8Linear(linear) => {
            let bias = u128::from(linear.output.size) * u128::from(linear.bias);
            blocks(linear) + bias * element(dtype)
        }
        _ => count * element(dtype),
    }
}

/// Bytes of a weight in blocks of 128 rows and 128 columns, each with two scales and what aligns the next.
pub(super) fn blocks(linear: &LinearParams) -> u128 {
    let along = |dim: Dim| u128::from(dim.size.div_ceil(128));
    along(linear.output) * along(linear.input) * (128 * 128 + 16)
}

/// Bytes of an element of the accumulation type.
pub(super) fn accumulated(dtype: DType) -> u128 {
    match dtype {
        DType::Bf16 | DType::F32 => 4,
        DType::F64 => 8,
    }
}

/// Bytes of a value of so many rows.
pub(super) fn value(ty: &Ty, rows: u128, dtype: DType) -> u128 {
    let (plain, wide) = (element(dtype), accumulated(dtype));
    let per_row = match ty {
        Ty::Rows(width) | Ty::Columns(width) | Ty::RopeKey(width, _) => {
            u128::from(width.size) * plain
        }
        Ty::Heads(heads, dim) | Ty::HeadPart(heads, dim) => {
            u128::from(heads.size) * u128::from(dim.size) * plain
        }
        Ty::PerHead(heads) => u128::from(heads.size) * wide,
        Ty::Angles(width) => u128::from(width.size) * wide,
        Ty::SharedKv(latent, rope) => (u128::from(latent.size) + u128::from(rope.size)) * plain,
        Ty::Attended(heads, dim) => u128::from(heads.size) * (u128::from(dim.size) + 2) * wide,
        Ty::Segments | Ty::Forms => 0,
        Ty::Selection(width) => u128::from(width.size) * 4,
        Ty::Bias | Ty::Number => 0,
    };
    per_row * rows
}

fn plain(dtype: CacheDType) -> u64 {
    match dtype {
        CacheDType::Bf16 | CacheDType::F16 => 2,
        CacheDType::F32 => 4,
        CacheDType::F64 => 8,
    }
}

/// A part of what is cached per token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it is.
    pub what: String,
    /// Bytes per token, scales included.
    pub bytes: u64,
}

/// What a cache keeps per token, keys and values apart from the indexer's keys.
pub(super) fn stored(plan: &CachePlan) -> Vec<Stored> {
    let rope = plan.rope_elements;
    let latent = plan.elements_per_token - rope;
    let mut all = match plan.content {
        CacheContent::Latent => latent_parts(plan.store, latent, rope),
        CacheContent::Naive | CacheContent::Groups | CacheContent::Context => {
            let bytes = match plan.store {
                Store::Plain(dtype) => plan.elements_per_token * plain(dtype),
                _ => plan.elements_per_token, // check refuses other stores for keys and values
            };
            let what = match plan.content {
                CacheContent::Groups => "keys and values of every group",
                _ => "keys and values of every head",
            };
            vec![part(what, bytes)]
        }
        CacheContent::Index => Vec::new(),
    };
    if let Some(index) = plan.index {
        let width = u64::from(index.width.size);
        let bytes = match index.store {
            IndexStore::Plain(dtype) => width * plain(dtype),
            IndexStore::Fp8(_) => width + width.div_ceil(128) * 4,
            IndexStore::Mxfp4 => width / 2 + width / 32,
        };
        all.push(part("indexer key", bytes));
        if let Some(pool) = index.pool {
            all.push(part("its gate", bytes));
            all.push(part("pooled key", bytes.div_ceil(u64::from(pool.size))));
        }
    }
    all
}

/// Bytes of a cached token's latent and rope key.
pub(crate) fn latent_bytes(store: Store, latent: u32, rope: u32) -> u64 {
    let parts = latent_parts(store, u64::from(latent), u64::from(rope));
    parts.iter().map(|part| part.bytes).sum()
}

/// A latent and its rope key in each format, J-01 to J-05.
fn latent_parts(store: Store, latent: u64, rope: u64) -> Vec<Stored> {
    match store {
        Store::Plain(dtype) => vec![
            part("latent", latent * plain(dtype)),
            part("rope key", rope * plain(dtype)),
        ],
        Store::Fp8(_) => vec![part("latent, fp8", latent), part("rope key, fp8", rope)],
        Store::Fp8DsMla(_) => vec![
            part("latent, e4m3", latent),
            part("a scale per 128", latent / 128 * 4),
            // A layer without a rope part keeps the place of one, as FlashMLA reads it
            part("rope key, bf16", if rope == 0 { 64 } else { rope } * 2),
        ],
        Store::Model1 => vec![
            part("latent, e4m3", latent),
            part("rope key, bf16", rope * 2),
            part("a scale per 64, padded", (latent / 64).next_multiple_of(8)),
        ],
        Store::Mxfp8 => vec![
            part("latent, e4m3", latent),
            part("rope key, e4m3", rope),
            part("a scale per 32", (latent + rope) / 32),
        ],
    }
}

fn part(what: &str, bytes: u64) -> Stored {
    Stored {
        what: what.to_owned(),
        bytes,
    }
}
