//! The codes of this stage. Each has a rule in [`crate::explain`]; numbers are never reused.

use crate::diagnostic::Code;

pub(super) const UNKNOWN_KEY: Code = Code(101);
pub(super) const MISSING_KEY: Code = Code(102);
pub(super) const WRONG_KIND: Code = Code(103);
pub(super) const OUT_OF_BOUNDS: Code = Code(104);
pub(super) const LAYER_TOO_LARGE: Code = Code(105);
pub(super) const ODD_ROPE_HEAD_DIM: Code = Code(106);
pub(super) const EMPTY_Q_LORA_RANK: Code = Code(107);
pub(super) const FOREIGN_OPTION: Code = Code(108);
pub(super) const NAME_NOT_AN_IDENTIFIER: Code = Code(109);
pub(super) const NAME_RESERVED: Code = Code(110);
pub(super) const UNKNOWN_WORD: Code = Code(111);
pub(super) const NUMBER_OUT_OF_BOUNDS: Code = Code(112);
pub(super) const LIST_LENGTH: Code = Code(113);

pub(super) const UNKNOWN_MODULE: Code = Code(201);
// 202 was a module of a later release.
pub(super) const UNKNOWN_SLOT: Code = Code(203);
pub(super) const MISSING_SLOT: Code = Code(204);
pub(super) const WRONG_MODULE_IN_SLOT: Code = Code(205);
pub(super) const TWO_QUERY_PATHS: Code = Code(206);
pub(super) const RANK_AGAINST_SLOTS: Code = Code(207);
pub(super) const TWO_DOWN_PROJECTIONS: Code = Code(208);
pub(super) const FUSED_DOWN_WITHOUT_RANK: Code = Code(209);
pub(super) const NORM_OF_THE_INPUT: Code = Code(210);
pub(super) const NO_BIAS_HERE: Code = Code(211);
pub(super) const SUBMODULES_OF_A_LEAF: Code = Code(212);
// 213 was a slot of a later release.
pub(super) const GATE_SLOT_WITHOUT_GATE: Code = Code(214);
pub(super) const GATE_WITHOUT_SLOT: Code = Code(215);
pub(super) const FUSED_GATE_WITHOUT_RANK: Code = Code(216);
pub(super) const TWO_QUERY_UPS: Code = Code(217);
pub(super) const FUSED_GATE_NORM: Code = Code(218);
pub(super) const SLOT_OF_ANOTHER_LAYER: Code = Code(219);
pub(super) const PARAM_OF_ANOTHER_LAYER: Code = Code(220);

pub(super) const MISSING_EPS: Code = Code(301);
pub(super) const EPS_OUT_OF_BOUNDS: Code = Code(302);
pub(super) const TWO_NORMS: Code = Code(303);
pub(super) const NORM_WITHOUT_LATENT: Code = Code(304);
pub(super) const PARAMS_OF_IDENTITY: Code = Code(305);
pub(super) const MISSING_NORMALIZATION: Code = Code(306);
pub(super) const MISSING_NORM_SLOT: Code = Code(307);
pub(super) const LATENT_NOT_NORMED: Code = Code(308);
pub(super) const GATED_NORM_INSIDE_LINEAR: Code = Code(309);
pub(super) const K_ROPE_NORM_WITHOUT_DIMS: Code = Code(310);
pub(super) const SCALE_WITHOUT_LATENT: Code = Code(311);
pub(super) const SCALE_BEHIND_FUSED_NORM: Code = Code(312);

pub(super) const MISSING_ROPE: Code = Code(401);
pub(super) const ROPE_WITHOUT_DIMS: Code = Code(402);
pub(super) const ROPE_TYPE_LATER: Code = Code(403);
pub(super) const MISSING_LAYOUT: Code = Code(404);
pub(super) const KEY_OF_ANOTHER_ROPE: Code = Code(405);
pub(super) const ONE_MAGNITUDE: Code = Code(406);
pub(super) const MISSING_MSCALE_ALL_DIM: Code = Code(407);
pub(super) const ROPE_NUMBER_OUT_OF_BOUNDS: Code = Code(408);
pub(super) const BETAS_SWAPPED: Code = Code(409);
pub(super) const FREQ_FACTORS_SWAPPED: Code = Code(410);
pub(super) const FACTOR_PER_PAIR: Code = Code(411);
pub(super) const ROPE_FOLLOWS_LENGTH: Code = Code(412);

pub(super) const MASK_SAID_OTHERWISE: Code = Code(501);
pub(super) const MASK_NOT_CACHEABLE: Code = Code(502);
pub(super) const WINDOW_AGAINST_MASK: Code = Code(503);
pub(super) const WINDOW_AND_CHUNK: Code = Code(504);
pub(super) const MASK_SAYS_ALL: Code = Code(505);
pub(super) const INPUT_NOT_CACHEABLE: Code = Code(506);
pub(super) const DROPOUT_WITHOUT_TRAINING: Code = Code(507);
pub(super) const TWO_SOFTMAX_SCALES: Code = Code(510);

pub(super) const INDEXER_MASK: Code = Code(520);
pub(super) const INDEXER_HEAD_TOO_SHORT: Code = Code(521);
pub(super) const INDEXER_ROPE_WITHOUT_ROPE: Code = Code(522);
pub(super) const INDEXER_ROPE_MISSING: Code = Code(523);
pub(super) const HADAMARD_SIZE: Code = Code(524);
pub(super) const FORCED_FILLS_TOPK: Code = Code(525);
pub(super) const POOL_SIZE: Code = Code(526);
pub(super) const POOL_UNDEFINED: Code = Code(527);
pub(super) const INDEXER_WITHOUT_LATENT: Code = Code(528);
pub(super) const Q_INPUT_NORM_OF_LATENT: Code = Code(529);
pub(super) const SHARED_INDEXER_HAS_NONE: Code = Code(530);
pub(super) const SPARSE_WITH_BIAS: Code = Code(531);

pub(super) const UNTRAINED: Code = Code(540);
pub(super) const CLIP_OF_BENT_LOGITS: Code = Code(541);
pub(super) const CLIP_OF_NORMED_HEADS: Code = Code(542);
pub(super) const LOSS_OF_POOLS: Code = Code(543);
pub(super) const DENSE_LOSS_SHARED: Code = Code(544);

// 601 was a phase of a later release.
pub(super) const EMPTY_LIST: Code = Code(602);
pub(super) const WRITTEN_TWICE: Code = Code(603);
pub(super) const UNUSED_BUILD_KEY: Code = Code(604);
pub(super) const CACHE_FORMAT_LATER: Code = Code(605);
pub(super) const NAIVE_CACHE_ABSORBED: Code = Code(606);
pub(super) const CACHE_LAYOUT_WITHOUT_ROPE: Code = Code(607);
pub(super) const TARGET_LATER: Code = Code(608);
pub(super) const CACHE_WIDER_THAN_VALUES: Code = Code(609);
pub(super) const DTYPE_LATER: Code = Code(610);
pub(super) const SPARSE_EXPANDED: Code = Code(611);
pub(super) const FORMAT_GROUPS: Code = Code(612);
pub(super) const FORMAT_NEEDS_PAGES: Code = Code(613);
pub(super) const SCALE_FORMAT_UNREAD: Code = Code(614);
pub(super) const MISSING_SCALE_FORMAT: Code = Code(615);
pub(super) const INDEX_FORMAT_UNREAD: Code = Code(616);
pub(super) const INDEX_FORMAT_GROUPS: Code = Code(617);
pub(super) const QUANTISED_PROOF: Code = Code(618);
pub(super) const FLASH_DECODE_OF_LATENTS: Code = Code(619);
pub(super) const SHARED_LATENTS_EXPANDED: Code = Code(620);
pub(super) const PAGE_SPLITS_POOLS: Code = Code(621);
pub(super) const RECOMPUTED_AND_OFFLOADED: Code = Code(622);
pub(super) const ACTIVATION_OF_ANOTHER_LAYER: Code = Code(623);
pub(super) const NEVER_KEPT: Code = Code(624);
pub(super) const NOTHING_TO_FOLD: Code = Code(625);
pub(super) const FOLDED_IN_TRAINING: Code = Code(626);
pub(super) const NEVER_FOLDED: Code = Code(627);

pub(super) const GROUPS_DO_NOT_DIVIDE: Code = Code(650);
pub(super) const ROTARY_DIM: Code = Code(651);
pub(super) const ROTARY_DIM_WITHOUT_ROPE: Code = Code(652);
pub(super) const TWO_HEAD_NORMS: Code = Code(653);
pub(super) const L2_EPS_WITHOUT_NORM: Code = Code(654);
pub(super) const TWO_QKV_PROJECTIONS: Code = Code(655);
pub(super) const GATE_OF_QKV: Code = Code(656);
pub(super) const LATENT_PARAMETER: Code = Code(657);
pub(super) const SPARSE_WITHOUT_LATENT: Code = Code(658);
pub(super) const MISSING_KV_CHANNELS: Code = Code(659);
pub(super) const NOT_IN_CROSS_ATTENTION: Code = Code(660);
pub(super) const CROSS_MASK: Code = Code(661);
pub(super) const CROSS_NOT_CACHED: Code = Code(662);
pub(super) const LATENT_CACHE_WITHOUT_LATENT: Code = Code(663);
pub(super) const BUILD_KEY_OF_LATENTS: Code = Code(664);
pub(super) const FLASH_DECODE: Code = Code(665);
pub(super) const CONTEXT_NEVER_CACHED: Code = Code(666);
pub(super) const NOTHING_TO_MIX: Code = Code(667);

pub(super) const LAYER_NAME: Code = Code(670);
pub(super) const UNKNOWN_LAYER: Code = Code(671);
pub(super) const UNUSED_LAYER: Code = Code(672);
pub(super) const LIKE_CYCLE: Code = Code(673);
pub(super) const LIKE_ANOTHER_MODULE: Code = Code(674);
pub(super) const PATTERN_LENGTH: Code = Code(675);
pub(super) const PATTERN_TOO_LONG: Code = Code(676);
pub(super) const SAME_LAYER: Code = Code(677);
pub(super) const HIDDEN_SIZES: Code = Code(678);
pub(super) const STAGES: Code = Code(679);
pub(super) const NO_EARLIER_SOURCE: Code = Code(680);
pub(super) const SOURCE_NOT_EARLIER: Code = Code(681);
pub(super) const SOURCE_PRODUCES_NOTHING: Code = Code(682);
pub(super) const SOURCE_DIFFERS: Code = Code(683);
pub(super) const SHARING_ACROSS_STAGES: Code = Code(684);
pub(super) const SOURCE_OF_NONE: Code = Code(685);
pub(super) const LAYER_BUILD_KEY: Code = Code(686);
pub(super) const PREFIX: Code = Code(687);
pub(super) const NOTHING_TAKEN: Code = Code(688);
