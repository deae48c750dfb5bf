//! The layer's name, which becomes the name of a Rust type.

use super::codes;
use super::text::quoted;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::span::Spanned;

/// Longest name accepted, in bytes: kernels, files and types derive theirs from it.
const LONGEST: usize = 64;

/// Names that are in scope in every generated module, so that a layer called so would hide them: the prelude, and
/// what generated code takes from the runtime.
#[rustfmt::skip] // a list of words
const RESERVED: &[&str] = &[
    "AccumLinear", "Angles", "AnyScale", "AsMut", "AsRef", "Attended", "AttentionBias", "B", "Backend", "Batch",
    "Bf16", "Box", "ByteFormat", "ByteLayout", "Cache", "CacheElement", "CacheFormat", "CacheLayout", "Caches",
    "ClipQk", "Clone", "ContextChunk", "Contiguous", "Copy", "Cpu", "CpuDevice", "CpuElement", "Debug", "Decode",
    "Default", "Deferred", "Describes", "DoubleEndedIterator", "Drop", "Dropout", "E", "Element", "EntryKind",
    "EntryShape", "Eq", "ErasedGradients", "Err", "Error", "ExactSizeIterator", "Extend", "Extras", "F", "F16", "Fn",
    "FnMut", "FnOnce", "Forward", "Fp8DsMla", "Fp8E4m3", "Fp8E5m2", "Fp8Linear", "Fp8Model1", "From", "FromIterator",
    "GatedNormParameters", "GatedRmsNorm", "GroupPart", "Half", "Handover", "Hash", "Heads", "HeadsView", "I",
    "IndexCache", "IndexFp8", "IndexMxfp4", "IndexStore", "IndexedCache", "IndexerGradients", "IndexerLoss",
    "InputGradients", "Interleaved", "Into", "IntoIterator", "Iterator", "KeyPoolParameters", "KeyPools", "KvCache",
    "LatentCache", "LayerAt", "LayerNorm", "LayerNormLinear", "Linear", "LinearParameters", "Load",
    "LogPositionParameters", "LogPositionScale", "LossEpsilon", "LossReduction", "Mask", "Mistake", "MlaLayer",
    "MlaRuntime", "Mxfp8", "NaiveCache", "Naming", "NoCache", "NoProbe", "None", "Norm", "NormLinearParameters",
    "NormParameters", "Offloaded", "Ok", "Option", "Ord", "Padding", "Paged", "ParameterSet", "Parameters",
    "PartialEq", "PartialOrd", "PerHead", "PooledIndexCache", "PowerOfTwo", "Prefill", "Probe", "Probed", "QkClip",
    "Real", "Result", "RmsNorm", "RopeKey", "RopeLayout", "Rotary", "Rows", "RowsView", "Saved", "Scalar", "ScaleKind",
    "Segment", "Segments", "Selected", "Selecting", "SelectingPools", "Selection", "Self", "Send", "Sequence",
    "SharedKv", "SharedKvGradients", "SinkParameters", "Sinks", "Sized", "Softmax", "Some", "SourceCache", "String",
    "Sync", "Tensor", "TensorShape", "ToOwned", "ToString", "TopK", "Train", "Trainable", "TryFrom", "TryInto",
    "Unpin", "Unrotated", "Vec", "Visibility", "WeightSet", "Weights",
];

/// The name, if it can be a type's.
pub(super) fn check(name: &Spanned<String>, out: &mut Diagnostics) -> Option<String> {
    let text = name.value.as_str();
    if let Some(complaint) = complaint(text) {
        let message = format!(
            "`name` must be an upper camel case Rust identifier, found `{}`",
            quoted(text)
        );
        let refused =
            Diagnostic::error(codes::NAME_NOT_AN_IDENTIFIER, message, name.span, complaint);
        out.push(match camel_case(text) {
            Some(better) => refused.help(format!("call it `{better}`")),
            None => {
                refused.help("start with a capital letter and go on with ASCII letters and digits")
            }
        });
        return None;
    }
    if RESERVED.contains(&text) {
        let message = format!("`{text}` can't be the name of a layer");
        let label = "generated code needs this name for something else";
        let refused = Diagnostic::error(codes::NAME_RESERVED, message, name.span, label);
        out.push(refused.help(format!("call it `{text}Attention`")));
        return None;
    }
    Some(text.to_owned())
}

/// Why a text can't be a type's name.
pub(super) fn why_not(text: &str) -> Option<String> {
    let reserved = || "generated code needs this name for something else".to_owned();
    complaint(text).or_else(|| RESERVED.contains(&text).then(reserved))
}

/// Why a text is no upper camel case identifier. Such an identifier is never a keyword but `Self`.
fn complaint(text: &str) -> Option<String> {
    let Some(first) = text.chars().next() else {
        return Some("this is empty".to_owned());
    };
    if text.len() > LONGEST {
        return Some(format!("longer than {LONGEST} characters"));
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_alphanumeric()) {
        return Some(match bad {
            '_' => "has an underscore".to_owned(),
            _ => format!("`{}` can't stand in it", bad.escape_debug()),
        });
    }
    (!first.is_ascii_uppercase()).then(|| "doesn't start with a capital letter".to_owned())
}

/// The name that the user may have meant: its words, each with a capital.
fn camel_case(text: &str) -> Option<String> {
    let mut better = String::new();
    for part in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        let mut letters = part.chars();
        better.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        better.push_str(letters.as_str());
    }
    (complaint(&better).is_none() && !RESERVED.contains(&better.as_str())).then_some(better)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str) -> bool {
        let mut out = Diagnostics::new();
        let accepted = check(&Spanned::unplaced(name.to_owned()), &mut out);
        assert_eq!(accepted.is_none(), out.has_errors());
        accepted.is_none()
    }

    #[test]
    fn identifiers_pass() {
        for name in ["DeepSeekV3Attention", "A", "MLA", "V32", &"A".repeat(64)] {
            assert!(!refused(name), "{name}");
        }
    }

    #[test]
    fn nothing_else_gets_into_generated_text() {
        let hostile = [
            "",
            "a",
            "_A",
            "1A",
            "A_b",
            "A B",
            "A;",
            "A{}",
            "r#A",
            "A\n",
            "A\u{0}",
            "Ä",
            "Аttention",
            "A\"",
            "A/*",
            "A::B",
            "Self",
            "Option",
            "Rows",
            &"A".repeat(65),
        ];
        for name in hostile {
            assert!(refused(name), "{name:?}");
        }
    }

    #[test]
    fn a_better_name_is_offered_where_there_is_one() {
        assert_eq!(
            camel_case("deepseek_v3 attention").as_deref(),
            Some("DeepseekV3Attention")
        );
        assert_eq!(camel_case("self"), None);
        assert_eq!(camel_case("::"), None);
    }
}
