//! Codes of the `import` stage, all explained in [`crate::explain::import`].

use crate::diagnostic::Code;

pub(super) const NOT_JSON: Code = Code(701);
pub(super) const NOT_AN_OBJECT: Code = Code(702);
pub(super) const DUPLICATE_KEY: Code = Code(703);
pub(super) const NO_FAMILY: Code = Code(704);
pub(super) const UNKNOWN_FAMILY: Code = Code(705);
pub(super) const LATER_FAMILY: Code = Code(706);
pub(super) const WRONG_VALUE: Code = Code(707);
pub(super) const UNKNOWN_ATTENTION_KEY: Code = Code(708);
pub(super) const UNKNOWN_KEYS: Code = Code(709);
pub(super) const ROPE_TYPE: Code = Code(710);
pub(super) const ROPE_KEY_MISSING: Code = Code(711);
pub(super) const ROPE_NOT_EXPRESSIBLE: Code = Code(712);
pub(super) const LAYER_OUT_OF_RANGE: Code = Code(713);
pub(super) const NOT_AN_MLA_LAYER: Code = Code(714);
pub(super) const LAYER_LISTS: Code = Code(715);
pub(super) const CONTRADICTION: Code = Code(716);
pub(super) const REFUSED_THERE: Code = Code(717);
pub(super) const NOT_ARGUMENTS: Code = Code(718);
pub(super) const NO_LATENT_ATTENTION: Code = Code(719);
pub(super) const SIZE_MISSING: Code = Code(720);
pub(super) const NOT_SAID_HERE: Code = Code(721);

pub(super) const EPS_DIFFERS: Code = Code(730);
pub(super) const LAYOUT_ASSUMED: Code = Code(731);
pub(super) const MSCALES_DIFFER: Code = Code(732);
pub(super) const HEAD_DIM_MISLEADS: Code = Code(733);
pub(super) const KV_HEADS: Code = Code(734);
pub(super) const PARTIAL_ROTARY: Code = Code(735);
pub(super) const THETA_ABSENT: Code = Code(736);
pub(super) const QUANTIZED: Code = Code(737);
pub(super) const SIZES_ABSENT: Code = Code(738);
pub(super) const UNUSED_ROPE_KEYS: Code = Code(739);
pub(super) const FAMILY_INFERRED: Code = Code(740);
pub(super) const INDEX_NUMBERING: Code = Code(741);
pub(super) const INDEXER_LAYOUT: Code = Code(742);
pub(super) const LEARNED_FREQUENCIES: Code = Code(743);
pub(super) const SECOND_HAND: Code = Code(744);
pub(super) const RELEASED_NAMES: Code = Code(745);
pub(super) const OUTER_NORM: Code = Code(746);
pub(super) const READ_OTHERWISE: Code = Code(747);
pub(super) const IGNORED_THERE: Code = Code(748);
pub(super) const DIFFERS_THERE: Code = Code(749);

pub(super) const UNKNOWN_SCHEDULE_KEY: Code = Code(750);
pub(super) const UNKNOWN_SCHEDULE_WORD: Code = Code(751);
pub(super) const SCHEDULE_CONTRADICTION: Code = Code(752);
pub(super) const SCHEDULE_OF_ANOTHER_LAYER: Code = Code(753);
pub(super) const SCHEDULE_OF_NOTHING: Code = Code(754);
