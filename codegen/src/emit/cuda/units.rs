//! The bodies of kernels: what each is called, the sizes that it is written for, and the kernels that it holds.

/// A body in `kernels/`.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    /// What it is asked for by.
    pub name: &'static str,
    /// CUDA C++.
    pub(super) body: &'static str,
    /// Members of `Cfg`, in the order in which sizes are given.
    pub(super) sizes: &'static [&'static str],
    /// Threads of a block.
    pub(super) threads: u32,
    /// Blocks that a multiprocessor has registers for at least.
    pub(super) beside: u32,
    /// Its kernels, each with the type of its parameter.
    pub(super) entries: &'static [(&'static str, &'static str)],
    /// Whether it reads weights before the kernel before has ended, and waits for that by itself.
    pub(super) reads_ahead: bool,
    /// Whether only Hopper runs it.
    hopper: bool,
    /// The only number type of a layer's values that it is written for; `None`: any.
    only: Option<&'static str>,
}

impl Unit {
    /// Whether it is written for values of this type, `bf16`, on this architecture, `sm_90a`.
    pub fn is_for(&self, values: &str, arch: &str) -> bool {
        (!self.hopper || arch == HOPPER) && self.only.is_none_or(|only| only == values)
    }

    /// The same, of instructions or of a size that only Hopper has.
    const fn on_hopper(self) -> Self {
        Self {
            hopper: true,
            ..self
        }
    }

    /// The same, of which a multiprocessor has registers for so many blocks.
    const fn beside(self, beside: u32) -> Self {
        Self { beside, ..self }
    }

    /// The same, of what reads weights ahead.
    const fn reading_ahead(self) -> Self {
        Self {
            reads_ahead: true,
            ..self
        }
    }

    /// The same, for values of bf16 alone.
    const fn of_bf16(self) -> Self {
        Self {
            only: Some("bf16"),
            ..self
        }
    }
}

/// What compilers call Hopper with its own instructions.
const HOPPER: &str = "sm_90a";

/// Threads of a block where a unit says nothing else, as `THREADS` of `prelude.cuh`.
const THREADS: u32 = 128;

macro_rules! unit {
    ($name:literal, $sizes:expr, $entries:expr) => {
        unit!($name, $sizes, $entries, THREADS)
    };
    ($name:literal, $sizes:expr, $entries:expr, $threads:expr) => {
        Unit {
            name: $name,
            body: include_str!(concat!("../../../kernels/", $name, ".cuh")),
            sizes: $sizes,
            threads: $threads,
            beside: 1,
            entries: $entries,
            reads_ahead: false,
            hopper: false,
            only: None,
        }
    };
}

/// All bodies.
pub const UNITS: &[Unit] = &[
    unit!("copy", &[], &[("copy", "Copying")]),
    unit!(
        "pointwise",
        &[],
        &[
            ("concat", "Side"),
            ("widened", "Widening"),
            ("narrowed", "Rounding"),
            ("placed", "Placing"),
            ("scale", "Scaling"),
            ("scale_accum", "AccumScaling"),
            ("scale_parts", "Parts"),
            ("gate_parts", "Parts"),
            ("gate", "Gating"),
            ("silu", "Scaling"),
            ("add_window", "Adding"),
            ("split_in_three", "Splitting"),
            ("join_three", "Joining"),
            ("end_lists", "Ending"),
        ]
    ),
    unit!(
        "norm",
        &["WIDTH"],
        &[("rms_norm", "Norm"), ("layer_norm", "Norm")]
    ),
    unit!(
        "rotate",
        &["WIDTH", "START", "PAIRS", "HALF_IN", "HALF_OUT"],
        &[("rotate", "Turning")]
    ),
    unit!(
        "prologue",
        &["QUERIES", "LATENT", "ROPE", "STORE", "KEY", "KEY_STORE"],
        &[("prologue", "Prologue")]
    ),
    unit!("poison", &[], &[("poison", "Poison")]),
    unit!("random", &[], &[("uniform", "Drawing")]),
    unit!("swizzles", &[], &[("swizzles", "Swizzles")]),
    unit!(
        "tensor_core",
        &[],
        &[
            ("tensor_core_rows", "TensorCore"),
            ("tensor_core_rows_128", "TensorCore"),
            ("tensor_core_rows_256", "TensorCore"),
            ("tensor_core_b_turned", "TensorCore"),
            ("tensor_core_b_turned_128", "TensorCore"),
            ("tensor_core_b_turned_256", "TensorCore"),
            ("tensor_core_a_turned", "TensorCore"),
            ("tensor_core_a_held", "TensorCore"),
            ("tensor_core_a_held_128", "TensorCore"),
            ("tensor_core_a_held_256", "TensorCore"),
            ("tensor_core_tiles_of_32", "TensorCore"),
            ("tensor_core_tiles_of_16", "TensorCore"),
            ("tensor_core_fetched", "Fetched"),
            ("tensor_core_e4m3", "TensorCore"),
            ("tensor_core_e4m3_128", "TensorCore"),
            ("tensor_core_e4m3_256", "TensorCore"),
        ]
    )
    .on_hopper(),
    unit!(
        "instructions",
        &[],
        &[
            ("copy_by_engine", "Engine"),
            ("add_by_engine", "Adding"),
            ("add_in_turn", "Counting"),
            ("copy_by_threads", "Parts"),
            ("convert_numbers", "Numbers"),
        ]
    )
    .on_hopper(),
    unit!("warpgroups", &[], &[("hand_on", "Handing")], 384).on_hopper(),
    unit!(
        "ceiling_memory",
        &[],
        &[("read_memory", "Reading"), ("copy_memory", "Moving")]
    ),
    unit!("ceiling_rows", &["ROW"], &[("read_rows", "Rows")]),
    unit!("ceiling_tiles", &["STAGES"], &[("read_tiles", "Tiles")]).on_hopper(),
    unit!("ceiling_convert", &[], &[("convert_e4m3", "Converting")]).on_hopper(),
    unit!(
        "ceiling_wgmma",
        &["COLUMNS"],
        &[
            ("multiply_shared", "Multiplying"),
            ("multiply_held", "Multiplying"),
            ("multiply_e4m3", "Multiplying"),
        ],
        256
    )
    .on_hopper(),
    unit!("hadamard", &["WIDTH"], &[("hadamard", "Transform")]),
    unit!(
        "product",
        &[],
        &[
            ("product", "ElemProduct"),
            ("accum_product", "AccumProduct"),
        ]
    ),
    unit!(
        "entries",
        &[],
        &[("scatter", "Scatter"), ("gather", "Gather")]
    ),
    unit!(
        "attend",
        &["H", "GK", "GR", "GV", "A", "R", "V"],
        &[("attend", "Attending")]
    ),
    unit!(
        "decode_wide",
        &["ROWS", "H", "LATENT", "ROPE"],
        &[("decode_wide", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "decode_tall",
        &["ROWS", "H", "LATENT", "ROPE"],
        &[("decode_tall", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "decode_narrow",
        &["ROWS", "H", "LATENT", "ROPE"],
        &[("decode_narrow", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "decode_deep",
        &["ROWS", "H", "LATENT", "ROPE"],
        &[("decode_deep", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "decode_wide_fp8",
        &["ROWS", "H", "LATENT", "ROPE", "STORE"],
        &[("decode_wide_fp8", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "decode_narrow_fp8",
        &["ROWS", "H", "LATENT", "ROPE", "STORE"],
        &[("decode_narrow_fp8", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "sparse_wide",
        &["ROWS", "H", "LATENT", "ROPE", "CHOSEN"],
        &[("sparse_wide", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "sparse_narrow",
        &["ROWS", "H", "LATENT", "ROPE", "CHOSEN"],
        &[("sparse_narrow", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "sparse_narrow_fp8",
        &["ROWS", "H", "LATENT", "ROPE", "STORE", "CHOSEN"],
        &[("sparse_narrow_fp8", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "sparse_wide_fp8",
        &["ROWS", "H", "LATENT", "ROPE", "STORE", "CHOSEN"],
        &[("sparse_wide_fp8", "Decoding")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "flash_forward",
        &["A", "R", "V", "CAP", "MOST", "PAGED"],
        &[("flash_forward", "FlashForward")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "skinny",
        &["COLUMNS", "STEPS"],
        &[("skinny", "Skinny")],
        160
    )
    .reading_ahead()
    .on_hopper()
    .of_bf16(),
    unit!(
        "skinny_fp8",
        &["COLUMNS"],
        &[("skinny_fp8", "SkinnyFp8")],
        288
    )
    .reading_ahead()
    .on_hopper()
    .of_bf16(),
    unit!(
        "skinny_heads",
        &["COLUMNS", "K", "TURNED"],
        &[("skinny_heads", "SkinnyHeads")],
        256
    )
    .reading_ahead()
    .on_hopper()
    .of_bf16(),
    unit!("fp8_weight", &[], &[("widen_fp8_weight", "WidenWeight")]),
    unit!("decode_schedule", &[], &[("decode_schedule", "Scheduling")])
        .on_hopper()
        .of_bf16(),
    unit!(
        "merge",
        &[],
        &[
            ("merge", "Merging"),
            ("sink", "Sinking"),
            ("merge_splits", "Joining"),
        ]
    ),
    unit!(
        "attend_delta",
        &[],
        &[("delta", "Delta"), ("sink_backward", "SinkBackward")]
    ),
    unit!(
        "attend_backward",
        &["H", "GK", "GR", "A", "R", "V"],
        &[
            ("backward_queries", "Backward"),
            ("backward_keys", "Backward"),
            ("backward_bias", "Backward"),
            ("backward_rope_sums", "RopeSums"),
        ]
    ),
    unit!(
        "backward_chosen",
        &["H", "GK", "GR", "A", "R", "V"],
        &[
            ("backward_chosen", "ChosenBackward"),
            ("add_pieces", "ChosenBackward"),
        ]
    ),
    unit!(
        "choosers",
        &[],
        &[
            ("count_choosers", "Turning"),
            ("add_chunks", "Turning"),
            ("begin_lists", "Turning"),
            ("list_choosers", "Turning"),
        ]
    ),
    unit!(
        "flash_delta",
        &["A", "R", "V", "QUERIES", "DETERMINISTIC"],
        &[("flash_delta", "FlashDelta")]
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "flash_backward",
        &["A", "R", "V", "QUERIES", "CAP", "DETERMINISTIC"],
        &[("flash_backward", "FlashBackward")],
        384
    )
    .on_hopper()
    .of_bf16(),
    unit!(
        "flash_queries",
        &["A", "R", "V", "QUERIES"],
        &[("flash_queries", "FlashQueries")]
    )
    .on_hopper()
    .of_bf16(),
    unit!("index_scores", &["HI", "D"], &[("index_scores", "Scoring")]),
    unit!(
        "index_logits",
        &["HI", "D", "OPERANDS", "COLUMNS", "UNITS"],
        &[("index_logits", "Logits")],
        512
    )
    .on_hopper()
    .of_bf16(),
    unit!("topk", &[], &[("topk", "Choosing")], 512).beside(3),
    unit!("topk_few", &[], &[("topk_few", "Choosing")], 1024),
    unit!("pool_keys", &[], &[("pool_keys", "Pooling")]),
    unit!(
        "index_target",
        &[],
        &[
            ("target", "Target"),
            ("seeing", "Seeing"),
            ("sum", "Summing"),
            ("lose", "Losing"),
        ]
    ),
    unit!(
        "index_spread",
        &["HI", "D"],
        &[
            ("spread_queries", "Spreading"),
            ("spread_keys", "Spreading"),
            ("spread_chosen_keys", "ChosenSpreading"),
        ]
    ),
    unit!(
        "norm_backward",
        &["WIDTH"],
        &[
            ("rms_norm_backward", "NormBackward"),
            ("layer_norm_backward", "NormBackward"),
            ("norm_columns", "NormColumns"),
        ]
    ),
    unit!(
        "gradients",
        &[],
        &[
            ("partial_column_sums", "Columns"),
            ("add_partials", "Partials"),
            ("gate_backward", "GateBackward"),
            ("shared_gate_backward", "GateBackward"),
            ("silu_backward", "SiluBackward"),
            ("dots", "Dots"),
        ]
    ),
    unit!(
        "parameters",
        &[],
        &[
            ("widen_parameters", "Exact"),
            ("add_parameters", "Sum"),
            ("scale_rows", "RowScaling"),
            ("square_sums", "Squares"),
            ("find_not_finite", "Finding"),
        ]
    ),
    unit!(
        "fp8_flat",
        &["LATENT", "ROPE"],
        &[
            ("encode_fp8_e4m3", "Encode"),
            ("decode_fp8_e4m3", "Decode"),
            ("encode_fp8_e5m2", "Encode"),
            ("decode_fp8_e5m2", "Decode")
        ]
    ),
    unit!(
        "fp8_ds_mla",
        &["LATENT", "ROPE", "POWER_OF_TWO"],
        &[
            ("encode_fp8_ds_mla", "Encode"),
            ("decode_fp8_ds_mla", "Decode")
        ]
    ),
    unit!(
        "fp8_model1",
        &["LATENT", "ROPE"],
        &[
            ("encode_fp8_model1", "Encode"),
            ("decode_fp8_model1", "Decode")
        ]
    ),
    unit!(
        "mxfp8",
        &["LATENT", "ROPE"],
        &[("encode_mxfp8", "Encode"), ("decode_mxfp8", "Decode")]
    ),
    unit!(
        "index_fp8",
        &["KEY", "POWER_OF_TWO"],
        &[
            ("encode_index_fp8", "Encode"),
            ("decode_index_fp8", "Decode"),
            ("encode_index_queries", "EncodeQueries")
        ]
    ),
    unit!(
        "index_mxfp4",
        &["KEY"],
        &[
            ("encode_index_mxfp4", "Encode"),
            ("decode_index_mxfp4", "Decode")
        ]
    ),
];

/// What measures a device: units and their sizes. The runtime's `CudaDevice::ceilings` asks for these.
pub const CEILINGS: &[(&str, &[usize])] = &[
    ("ceiling_memory", &[]),
    ("ceiling_rows", &[1152]),
    ("ceiling_rows", &[656]),
    ("ceiling_tiles", &[24]),
    ("ceiling_convert", &[]),
    ("ceiling_wgmma", &[64]),
    ("ceiling_wgmma", &[128]),
    ("ceiling_wgmma", &[256]),
];
