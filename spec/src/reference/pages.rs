//! The book's pages on the language: which keys are told where.

use super::build::BUILD;
use super::grouped::{CROSS_PARAMS, CROSS_SLOTS, SELF_PARAMS, SELF_SLOTS};
use super::latent::{LATENT_SLOTS, PARAMS};
use super::layer::SPEC;
use super::model::MODEL;
use super::rope::ROPE;
use super::scores::{BOUNDS, LOGITS, QK_CLIP, QUERY_SCALING, SELF_MASK};
use super::sparse::{INDEXER_SLOTS, LIGHTNING_SECTION, SHARED_SECTION, SPARSE_SLOTS};
use super::{Key, Section, modules};

/// A page.
pub(super) struct Page {
    /// Its file, below the book's `src/language/`.
    pub(super) file: &'static str,
    pub(super) title: &'static str,
    /// What stands before its parts, in Markdown.
    pub(super) intro: &'static str,
    pub(super) parts: &'static [Part],
}

/// A mapping's keys on a page.
pub(super) struct Part {
    pub(super) title: &'static str,
    /// The mapping; what of it is told on an earlier page is linked to from here.
    pub(super) section: &'static Section,
}

const fn part(title: &'static str, section: &'static Section) -> Part {
    Part { title, section }
}

static MASKS: Section = Section {
    about: "Which keys a query sees.",
    groups: &[SELF_MASK, BOUNDS],
};

static ALL_LOGITS: Section = Section {
    about: "What happens to logits and probabilities, in this order: scale, soft cap, bias, mask, softmax, dropout.",
    groups: &[LOGITS],
};

static SCALINGS: Section = Section {
    about: "What queries are multiplied by.",
    groups: &[&[QUERY_SCALING]],
};

static CLIPS: Section = Section {
    about: "What bounds logits in training.",
    groups: &[QK_CLIP],
};

static MODULE_PARAMS: Section = Section {
    about: "Parameters of modules in slots. Which module takes which of them, each slot says.",
    groups: &[modules::PARAMS],
};

/// Every page, in the order in which keys are told: once each, on the first page that has them.
pub(super) static PAGES: [Page; 10] = [
    Page {
        file: "spec-file.md",
        title: "A spec file",
        intro: "A spec is a YAML mapping. Unknown keys are errors, with a suggestion.\n",
        parts: &[part("Top level", &SPEC)],
    },
    Page {
        file: "masks-and-logits.md",
        title: "Masks, logits and QK-clip",
        intro: "These parameters stand in `params` of the attention modules. `CrossAttention` has masks of its own, no bounds beside them and no query scaling.\n\n\
                Symbols: t a query's position, u a key's; s logits, p probabilities, τ the softmax scale, o what a head attended to.\n",
        parts: &[
            part("Masks", &MASKS),
            part("Logits", &ALL_LOGITS),
            part("Query scaling", &SCALINGS),
            part("QK-clip", &CLIPS),
        ],
    },
    Page {
        file: "rope.md",
        title: "Rope",
        intro: "`rope` stands in `params` of `MLASelfAttention` and `SelfAttention`. In the formulas d_r is the number of rotated elements: \
                `qk_rope_head_dim`, or `rotary_dim`.\n",
        parts: &[part("`params.rope`", &ROPE)],
    },
    Page {
        file: "modules.md",
        title: "Modules in slots",
        intro: "A slot is filled with a module's name, or with a mapping that has `module`, `params` and `submodules`. ε is `eps`, γ and β are \
                weights.\n",
        parts: &[part("Parameters", &MODULE_PARAMS)],
    },
    Page {
        file: "sparse-attention.md",
        title: "Sparse attention",
        intro: "`core_attention` of `MLASelfAttention` may be `SparseAttention`, whose slot `indexer` picks the keys that a query attends to.\n\n\
                Symbols: h_i heads of d_i elements; Q the indexer's queries, K its key, w the weights of its heads, I the scores.\n",
        parts: &[
            part("Slots of `SparseAttention`", &SPARSE_SLOTS),
            part("Parameters of `LightningIndexer`", &LIGHTNING_SECTION),
            part("Slots of `LightningIndexer`", &INDEXER_SLOTS),
            part("Parameters of `SharedIndexer`", &SHARED_SECTION),
        ],
    },
    Page {
        file: "mla-self-attention.md",
        title: "MLASelfAttention",
        intro: "Multi-head Latent Attention over one sequence: keys and values come from a latent that all heads share.\n\n\
                Symbols: x the layer's input, h its width, H heads; c the latent, ĉ the normed one, k_r the shared rope key; q_n and q_r the parts \
                of a head's query without and with position. A spec of this module, whole:\n\n",
        parts: &[part("Parameters", &PARAMS), part("Slots", &LATENT_SLOTS)],
    },
    Page {
        file: "self-attention.md",
        title: "SelfAttention",
        intro: "Grouped-query attention over one sequence; with as many groups as heads it is multi-head, with one it is multi-query attention.\n\n\
                Symbols: x the layer's input, h its width, H query heads, G groups, d the length of a head. A spec of this module, whole:\n\n",
        parts: &[part("Parameters", &SELF_PARAMS), part("Slots", &SELF_SLOTS)],
    },
    Page {
        file: "cross-attention.md",
        title: "CrossAttention",
        intro: "Attention from one sequence to another, both without a cache. Positions of two sequences don't compare, so nothing is rotated.\n\n\
                Symbols: x the layer's input, c the sequence attended to; S its length, T the queries'. A spec of this module, whole:\n\n",
        parts: &[
            part("Parameters", &CROSS_PARAMS),
            part("Slots", &CROSS_SLOTS),
        ],
    },
    Page {
        file: "build.md",
        title: "build",
        intro: "`build` says how a layer is computed. Nothing in it changes the mathematics, and emitted tests show that.\n",
        parts: &[part("Keys", &BUILD)],
    },
    Page {
        file: "model.md",
        title: "model",
        intro: "A spec with a `model` section describes the attention layers of a whole model. A spec of this kind, whole:\n\n",
        parts: &[part("Keys", &MODEL)],
    },
];

/// The whole spec that stands at a page's head.
pub(super) fn specimen(page: &Page) -> &'static str {
    match page.file {
        "mla-self-attention.md" => crate::explain::BASE,
        "self-attention.md" => crate::explain::GROUPED,
        "cross-attention.md" => crate::explain::CROSS,
        "model.md" => crate::explain::MODEL,
        _ => "",
    }
}

/// The page that tells a mapping's keys as its own part.
pub(super) fn page_of(section: &Section) -> Option<&'static Page> {
    let first = section.keys().next()?;
    let is_it = |key: Option<&'static Key>| {
        key.is_some_and(|key| key.name == first.name && key.means == first.means)
    };
    PAGES.iter().find(|page| {
        page.parts
            .iter()
            .any(|part| is_it(part.section.keys().next()) && part.section.about == section.about)
    })
}
