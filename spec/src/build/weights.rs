//! How weights lie in memory.

/// How the weights of projections lie in memory. That of `linear_kv_up_proj` is always numbers: absorbed attention multiplies by parts of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WeightStore {
    /// As numbers of `dtype`; codes of a checkpoint are multiplied by their scales when they are loaded.
    #[default]
    Numbers,
    /// `fp8_blocks`: codes of e4m3 and an f32 scale for each block of 64 rows and 128 columns. Blocks of an fp8 checkpoint (K-02) keep their codes and scales;
    /// others are rounded when they are loaded.
    Fp8Blocks,
}

impl WeightStore {
    /// Both of them, the default first.
    pub const ALL: [Self; 2] = [Self::Numbers, Self::Fp8Blocks];

    /// Its word in a spec.
    pub fn word(self) -> &'static str {
        match self {
            Self::Numbers => "numbers",
            Self::Fp8Blocks => "fp8_blocks",
        }
    }
}
