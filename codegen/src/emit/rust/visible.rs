//! Which keys a query may see, as Rust.

use mla_spec::{AttnMask, MaskKind, Window};

use super::parts::Look;

/// The visibility as an argument: a constant where it is more than a rule.
pub(super) fn argument(mask: AttnMask) -> &'static str {
    if is_plain(mask) {
        rule(mask.kind)
    } else {
        "VISIBILITY"
    }
}

/// The constant that [`argument`] names; `None` where it names none.
pub(super) fn constant(mask: AttnMask, look: Look) -> Option<String> {
    if is_plain(mask) {
        return None;
    }
    let mut lines = look.lines();
    look.doc("What a query sees.", &mut lines);
    let visibility = if look.documented { "" } else { look.visibility };
    let window = mask
        .window
        .map(|Window { left, right }| format!(".window({}, {})", bound(left), bound(right)));
    let chunk = mask.chunk.map(|tokens| format!(".chunk({tokens})"));
    let blocks = mask.bidirectional_blocks.then(|| ".blocks()".to_owned());
    let links: Vec<String> = [window, chunk, blocks].into_iter().flatten().collect();
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    lines.chain(
        &format!("{visibility}const VISIBILITY: Visibility = "),
        rule(mask.kind),
        &links,
    );
    Some(lines.into_text())
}

fn is_plain(mask: AttnMask) -> bool {
    mask.window.is_none() && mask.chunk.is_none() && !mask.bidirectional_blocks
}

fn rule(kind: MaskKind) -> &'static str {
    match kind {
        // With as many keys as queries the two are one, and the runtime aligns the last ones
        MaskKind::Causal | MaskKind::CausalBottomRight => "Visibility::CAUSAL",
        MaskKind::Full => "Visibility::FULL",
        MaskKind::Arbitrary => "Visibility::GIVEN",
    }
}

fn bound(tokens: Option<u32>) -> String {
    tokens.map_or("None".to_owned(), |tokens| format!("Some({tokens})"))
}
