//! The kernels of absorbed attention that there are, and what of a tensor each has brought at once.

/// A kernel of absorbed attention, by the rows of queries that a block has, a query's heads each.
///
/// `mla_codegen::plan::absorbed` says why which: few rows are columns of the tensor cores' products, so that they don't fill up to 64. Where
/// a table of `mla_tuned` has measured times of a shape on this device, they choose instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// Up to 16 rows.
    Narrow16,
    /// Up to 32.
    Narrow32,
    /// 64 at a time.
    Wide,
    /// 128 at a time, of latents up to 256 wide.
    Tall,
    /// Up to 16, two warpgroups with half of the latents each.
    Deep16,
    /// The same, up to 32.
    Deep32,
}

impl Variant {
    /// Those for latents of a width, from few rows to many.
    pub(super) const fn of_latent(latent: usize) -> &'static [Self] {
        match latent {
            128 | 256 => &[Self::Narrow16, Self::Narrow32, Self::Wide, Self::Tall],
            512 => &[Self::Narrow16, Self::Narrow32, Self::Wide],
            384 | 640 | 768 | 896 | 1024 => &[Self::Deep16, Self::Deep32],
            _ => &[],
        }
    }

    /// Bytes of shared memory that a block takes: all that there are.
    pub(super) const SHARED_BYTES: u32 = 232_448;

    /// Of those for a width the one with the fewest rows that are enough; where none has enough, the one with the most.
    pub(super) fn of_rows(wanted: usize, latent: usize) -> Option<Self> {
        let all = Self::of_latent(latent);
        let enough = all.iter().find(|one| one.rows() >= wanted);
        enough.or(all.last()).copied()
    }

    /// The one for a width whose blocks have so many rows, if there is any.
    pub(super) fn with_rows(rows: u32, latent: u32) -> Option<Self> {
        let has = |one: &&Self| one.rows() == rows as usize;
        Self::of_latent(latent as usize).iter().find(has).copied()
    }

    /// The kernel, and the unit that it stands in.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Narrow16 | Self::Narrow32 => "decode_narrow",
            Self::Wide => "decode_wide",
            Self::Tall => "decode_tall",
            Self::Deep16 | Self::Deep32 => "decode_deep",
        }
    }

    /// The kernel over a cache of codes, of all keys or of those that are chosen for each query. `choice` takes these two alone.
    pub(super) const fn unit_for_codes(self, chooses: bool) -> &'static str {
        match (self, chooses) {
            (Self::Narrow16, false) => "decode_narrow_fp8",
            (Self::Narrow16, true) => "sparse_narrow_fp8",
            (_, false) => "decode_wide_fp8",
            (_, true) => "sparse_wide_fp8",
        }
    }

    /// The kernel over keys that are chosen for each query. `choice` takes the narrow ones and the wide one.
    pub(super) const fn unit_for_chosen(self) -> &'static str {
        match self {
            Self::Narrow16 | Self::Narrow32 => "sparse_narrow",
            _ => "sparse_wide",
        }
    }

    /// Rows of queries that a block has.
    pub(super) const fn rows(self) -> usize {
        match self {
            Self::Narrow16 | Self::Deep16 => 16,
            Self::Narrow32 | Self::Deep32 => 32,
            Self::Wide => 64,
            Self::Tall => 128,
        }
    }

    /// Tiles of 64 columns of latents that queries come by at once: all that go to one place, where a tile's rows are a block's.
    pub(super) const fn query_tiles(self, heads: usize, latent: usize) -> usize {
        if heads < self.rows() {
            return 1;
        }
        match self {
            Self::Narrow16 | Self::Narrow32 | Self::Wide => latent / 64,
            Self::Tall => 2,
            Self::Deep16 | Self::Deep32 => latent / 128,
        }
    }

    /// The same of keys, `at_once` of which are brought: tiles of fewer than 64 do not lie one after the other.
    pub(super) const fn key_tiles(self, latent: usize, at_once: usize) -> usize {
        if at_once < 64 {
            return 1;
        }
        match self {
            Self::Narrow16 | Self::Narrow32 => 2,
            Self::Wide => latent / 64,
            // Of narrow latents, a tile has twice as many keys
            Self::Tall if latent == 128 => 1,
            Self::Tall => latent / 64,
            Self::Deep16 | Self::Deep32 => 1,
        }
    }

    /// The same of lines of 128 codes.
    pub(super) const fn code_lines(self, latent: usize, at_once: usize) -> usize {
        match self {
            Self::Wide if at_once == 64 => latent / 128,
            _ => 1,
        }
    }

    /// Bytes of memory that a block keeps what it has no registers for in.
    pub(super) const fn spare_bytes(self) -> usize {
        match self {
            Self::Wide => 256 * 16,
            _ => 0,
        }
    }
}
