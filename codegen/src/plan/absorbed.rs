//! Which kernel attends to cached latents on Hopper, and why.
//!
//! A product of its tensor cores has 64 rows on the left. `decode_wide` puts queries there, `decode_tall` two times as many, `decode_narrow` keys, with
//! 16 or 32 rows of queries as columns. All read the same bytes from memory; what differs is how much is multiplied for nothing, and what goes through
//! shared memory. `decode_deep` is as the narrow one, but two warpgroups share an entry's columns: for latents whose output is too much for one.

use mla_spec::{Fp8, Store};

use super::cost::BF16;
use super::machine::{Machine, Roof, Work, time};

/// Keys of a tile.
const KEYS: f64 = 64.0;
/// Bytes of a sum.
const F32: f64 = 4.0;
/// Columns of its queries that `decode_tall` holds in registers.
const HELD: f64 = 128.0;

/// A kernel of absorbed attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absorbed {
    /// Its unit.
    pub unit: &'static str,
    /// Rows of queries that a block has, a query's heads each.
    pub rows: u32,
}

/// For latents of 128 and 256, and without the last for those of 512, from few rows to many.
pub(super) const ABSORBED: [Absorbed; 4] = [
    Absorbed {
        unit: "decode_narrow",
        rows: 16,
    },
    Absorbed {
        unit: "decode_narrow",
        rows: 32,
    },
    Absorbed {
        unit: "decode_wide",
        rows: 64,
    },
    Absorbed {
        unit: "decode_tall",
        rows: 128,
    },
];

/// For other multiples of 128, up to 1024.
const DEEP: [Absorbed; 2] = [
    Absorbed {
        unit: "decode_deep",
        rows: 16,
    },
    Absorbed {
        unit: "decode_deep",
        rows: 32,
    },
];

impl Absorbed {
    /// Whether there are any for latents and a rotated part of these widths.
    pub fn takes(latent: u32, rope: u32) -> bool {
        !Self::of_latent(latent).is_empty() && rope.is_multiple_of(16) && rope <= 64
    }

    /// Those for latents of a width, from few rows to many.
    pub(super) fn of_latent(latent: u32) -> &'static [Self] {
        match latent {
            128 | 256 => &ABSORBED,
            // 64 rows of output are up to 128 of a thread's registers: wider ones need a second warpgroup
            512 => &ABSORBED[..3],
            384 | 640 | 768 | 896 | 1024 => &DEEP,
            _ => &[],
        }
    }

    /// Those of them with room for so many rows at once, or the one with the most.
    pub fn with_room_for(rows: u32, latent: u32) -> impl Iterator<Item = Self> {
        with_room_in(Self::of_latent(latent), rows)
    }

    /// What a tile of 64 keys costs, for so many rows of queries: `rows` at a time, which share what comes from memory.
    pub(super) fn tile(self, rows: u32, latent: f64, rope: f64) -> Work {
        let at_once = f64::from(self.rows);
        let blocks = f64::from(rows.div_ceil(self.rows));
        let entries = KEYS * (latent + rope) * BF16;
        let latents = KEYS * latent * BF16;
        let weights = KEYS * at_once * BF16;
        // Tiles come to shared memory, and are read for logits and for values; probabilities are written once
        let through = 2.0 * entries + latents + weights;
        // Two warpgroups with half of the columns each exchange sums of logits: each leaves half of them, and reads as many
        let exchanged = if self.unit == "decode_deep" {
            2.0 * KEYS * at_once * F32
        } else {
            0.0
        };
        let shared = match self.rows {
            // Queries are read for each tile, and probabilities for each 64 columns of latents
            16 | 32 => {
                through + at_once * (latent + rope) * BF16 + weights * latent / 64.0 + exchanged
            }
            // Queries' latents are held; their rotated part and, for each half of the latents, probabilities are read
            64 => through + at_once * rope * BF16 + 2.0 * weights,
            // Each half of the rows reads all of a tile, and what is not held of its queries; narrow latents are met by two tiles at a time.
            // Probabilities stay in registers
            _ => {
                let kept = at_once * (latent + rope - HELD) * BF16;
                let tiles_at_once = if latent > HELD { 1.0 } else { 2.0 };
                entries + 2.0 * (entries + latents) + kept / tiles_at_once
            }
        };
        Work {
            read: entries,
            flops: blocks * 2.0 * KEYS * at_once * (2.0 * latent + rope),
            shared: blocks * shared,
            exponentials: blocks * KEYS * at_once,
            l2: blocks * entries,
            ..Work::default()
        }
    }
}

/// Those over keys that a list names for each query, from few rows to many: rows are one query's heads, since no two queries share keys.
const OVER_CHOSEN: [Absorbed; 3] = [
    Absorbed {
        unit: "sparse_narrow",
        rows: 16,
    },
    Absorbed {
        unit: "sparse_narrow",
        rows: 32,
    },
    Absorbed {
        unit: "sparse_wide",
        rows: 64,
    },
];

/// The kernel over chosen keys for so many heads, and latents and a rotated part of these widths.
pub fn kernel_over_chosen(heads: u32, latent: u32, rope: u32) -> Option<Absorbed> {
    let fits = matches!(latent, 128 | 256 | 512) && rope.is_multiple_of(16) && rope <= 64;
    with_room_in(&OVER_CHOSEN, heads).next().filter(|_| fits)
}

/// Those over a cache of codes, from few rows to many. They run where the rows of a step's requests, heads times new tokens, fit: both convert codes
/// in registers, twice.
const OVER_CODES: [Absorbed; 2] = [
    Absorbed {
        unit: "decode_narrow_fp8",
        rows: 16,
    },
    Absorbed {
        unit: "decode_wide_fp8",
        rows: 64,
    },
];

/// The same over keys that a list names for each query: rows are one query's heads.
const OVER_CHOSEN_CODES: [Absorbed; 2] = [
    Absorbed {
        unit: "sparse_narrow_fp8",
        rows: 16,
    },
    Absorbed {
        unit: "sparse_wide_fp8",
        rows: 64,
    },
];

/// Those of some kernels with room for so many rows at once, or the last one.
fn with_room_in(kernels: &'static [Absorbed], rows: u32) -> impl Iterator<Item = Absorbed> {
    let most = kernels.last();
    let has_room = move |one: &Absorbed| one.rows >= rows || Some(one) == most;
    kernels.iter().copied().filter(has_room)
}

/// The codes that kernels of absorbed attention read, by the numbers that `decode_codes.cuh` knows them by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codes {
    /// One byte for each value, latents and rotated part, and one scale.
    E4m3 = 1,
    /// The same.
    E5m2 = 2,
    /// e4m3 with a scale for each 128 latents, and the rotated part in bf16.
    DsMla = 3,
}

impl Codes {
    /// Those of a store; `None` where it has none, or others.
    pub fn of(store: Store) -> Option<Self> {
        match store {
            Store::Fp8(Fp8::E4m3) => Some(Self::E4m3),
            Store::Fp8(Fp8::E5m2) => Some(Self::E5m2),
            Store::Fp8DsMla(_) => Some(Self::DsMla),
            Store::Plain(_) | Store::Model1 | Store::Mxfp8 => None,
        }
    }

    /// The kernels that read them with room for so many rows at once, or the one with the most, and for latents of this width.
    pub fn kernels(self, rows: u32, latent: u32) -> impl Iterator<Item = Absorbed> {
        let fits = self.fits(latent);
        with_room_in(&OVER_CODES, rows).filter(move |_| fits)
    }

    /// The kernel that reads chosen keys of them, for so many heads, and latents and a rotated part of these widths.
    pub fn kernel_over_chosen(self, heads: u32, latent: u32, rope: u32) -> Option<Absorbed> {
        let fits_rope = match self {
            Self::E4m3 | Self::E5m2 => rope.is_multiple_of(32),
            Self::DsMla => rope.is_multiple_of(16),
        };
        let fits = self.fits(latent) && fits_rope && rope <= 64;
        with_room_in(&OVER_CHOSEN_CODES, heads)
            .next()
            .filter(|_| fits)
    }

    fn fits(self, latent: u32) -> bool {
        match self {
            Self::E4m3 | Self::E5m2 => matches!(latent, 128 | 256 | 512),
            Self::DsMla => latent == 512,
        }
    }

    /// `Cfg::STORE`.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Bytes of an entry.
    fn entry(self, latent: f64, rope: f64) -> f64 {
        match self {
            Self::E4m3 | Self::E5m2 => latent + rope,
            Self::DsMla => latent + 16.0 + rope * BF16,
        }
    }

    /// What a tile of 64 entries costs a kernel, as [`Absorbed::tile`] counts it.
    fn tile(self, kernel: Absorbed, rows: u32, latent: f64, rope: f64) -> Work {
        let at_once = f64::from(kernel.rows);
        let blocks = f64::from(rows.div_ceil(kernel.rows));
        let entries = KEYS * self.entry(latent, rope);
        // Codes come to shared memory, and are read as keys and as latents; probabilities are written once and read for each 64 columns
        let codes = 2.0 * entries + KEYS * latent;
        let weights = KEYS * at_once * BF16 * (1.0 + latent / 64.0);
        // Few queries are held, and the four warps that share their columns exchange sums; many are read for each tile
        let queries = if kernel.rows < 64 {
            2.0 * 0.75 * 4.0 * KEYS * at_once * F32
        } else {
            at_once * (latent + rope) * BF16
        };
        Work {
            read: entries,
            flops: blocks * 2.0 * KEYS * at_once * (2.0 * latent + rope),
            shared: blocks * (codes + weights + queries),
            exponentials: blocks * KEYS * at_once,
            l2: blocks * entries,
            ..Work::default()
        }
    }
}

/// A choice, and what it was made by.
#[derive(Debug, Clone, PartialEq)]
pub struct AbsorbedChoice {
    /// The kernel.
    pub kernel: Absorbed,
    /// Each that has rows enough, or the one with the most: the roof that binds it, the seconds of a tile of 64 keys on a whole device, and
    /// those of its products alone.
    pub times: Vec<(Absorbed, Roof, f64, f64)>,
    rows: u32,
}

/// The kernel for so many rows of queries, heads times new tokens, over a cache in bf16.
pub fn absorbed_kernel(
    machine: &Machine,
    rows: u32,
    latent: u32,
    rope: u32,
) -> Option<AbsorbedChoice> {
    if !Absorbed::takes(latent, rope) {
        return None;
    }
    let kernels = Absorbed::with_room_for(rows, latent);
    let tile = |one: Absorbed| one.tile(rows, latent.into(), rope.into());
    choose(machine, rows, kernels, tile)
}

/// The same over a cache of codes.
pub fn coded_kernel(
    machine: &Machine,
    codes: Codes,
    rows: u32,
    latent: u32,
    rope: u32,
) -> Option<AbsorbedChoice> {
    if !Absorbed::takes(latent, rope) {
        return None;
    }
    let kernels = codes.kernels(rows, latent);
    let tile = |one: Absorbed| codes.tile(one, rows, latent.into(), rope.into());
    choose(machine, rows, kernels, tile)
}

/// The one of some kernels whose nearest roof is the highest. Where that makes no difference, the one that multiplies least: products cost power, and with
/// it the clock, even where they cost no time. `tile`: what a tile costs each.
fn choose(
    machine: &Machine,
    rows: u32,
    kernels: impl Iterator<Item = Absorbed>,
    tile: impl Fn(Absorbed) -> Work,
) -> Option<AbsorbedChoice> {
    /// By how much times have to differ to count.
    const SAME: f64 = 1.02;
    let times: Vec<_> = kernels
        .map(|one| {
            let roofs = time(machine, &tile(one));
            let (roof, seconds) = roofs.binding();
            (one, roof, seconds, roofs.tensor_cores)
        })
        .collect();
    let least = times
        .iter()
        .fold(f64::INFINITY, |least, time| least.min(time.2));
    let (kernel, ..) = *times
        .iter()
        .filter(|time| time.2 <= least * SAME)
        .min_by(|one, other| one.3.total_cmp(&other.3))?;
    Some(AbsorbedChoice {
        kernel,
        times,
        rows,
    })
}

impl AbsorbedChoice {
    /// Why, as a sentence without its end.
    pub fn reason(&self) -> String {
        let times = self.times.iter().map(|(kernel, roof, seconds, products)| {
            format!(
                "{} of {} rows takes {:.1} ns ({}), {:.1} ns of products",
                kernel.unit,
                kernel.rows,
                seconds * 1e9,
                roof.name(),
                products * 1e9
            )
        });
        format!(
            "{} rows of queries meet a tile of {KEYS} keys by {} of {} rows: {}",
            self.rows,
            self.kernel.unit,
            self.kernel.rows,
            times.collect::<Vec<_>>().join("; ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::H200;
    use super::*;

    fn chosen(rows: u32, latent: u32, rope: u32) -> Absorbed {
        absorbed_kernel(&H200, rows, latent, rope)
            .expect("widths that there are kernels for")
            .kernel
    }

    #[test]
    fn few_rows_are_not_padded_and_many_fill_a_product() {
        // A rank of DeepSeek-V3 with 16 heads, one and two new tokens; all heads; MiniCPM3
        assert_eq!(chosen(16, 512, 64), ABSORBED[0]);
        assert_eq!(chosen(8, 512, 64), ABSORBED[0]);
        assert_eq!(chosen(32, 512, 64), ABSORBED[1]);
        assert_eq!(chosen(128, 512, 64), ABSORBED[2]);
        assert_eq!(chosen(40, 256, 32), ABSORBED[2]);
        assert_eq!(chosen(33, 128, 32), ABSORBED[2]);
        assert_eq!(chosen(64, 256, 32), ABSORBED[2]);
    }

    #[test]
    fn two_blocks_of_64_rows_are_one_where_registers_suffice_for_the_output() {
        for (latent, rope) in [(128, 32), (256, 32), (256, 64), (256, 0)] {
            assert_eq!(chosen(128, latent, rope), ABSORBED[3]);
            // MiniCPM3 with two and four new tokens
            assert_eq!(chosen(80, latent, rope), ABSORBED[3]);
            assert_eq!(chosen(160, latent, rope), ABSORBED[3]);
            // The same products, and less through shared memory
            let [wide, tall] = [2, 3].map(|i| ABSORBED[i].tile(128, latent.into(), rope.into()));
            assert_eq!(wide.flops, tall.flops);
            assert!(tall.shared < wide.shared, "{latent} + {rope}");
        }
        assert_eq!(chosen(128, 512, 0), ABSORBED[2]);
    }

    #[test]
    fn memory_binds_few_rows_and_products_bind_many() {
        let few = absorbed_kernel(&H200, 16, 512, 64).expect("there are kernels");
        assert!(
            few.times.iter().all(|time| time.1 == Roof::Memory),
            "{few:?}"
        );
        let many = absorbed_kernel(&H200, 256, 512, 64).expect("there are kernels");
        assert_eq!(many.times[0].1, Roof::TensorCores);
        assert!(
            few.reason().contains("16 rows of queries"),
            "{}",
            few.reason()
        );
    }

    #[test]
    fn latents_too_wide_for_one_warpgroup_have_a_kernel_with_two() {
        for latent in [384, 640, 1024] {
            assert_eq!(chosen(16, latent, 64), DEEP[0]);
            assert_eq!(chosen(32, latent, 64), DEEP[1]);
            // Blocks of 32 rows side by side
            assert_eq!(chosen(128, latent, 0), DEEP[1]);
        }
        let few = absorbed_kernel(&H200, 16, 1024, 64).expect("there are kernels");
        assert_eq!(few.times.len(), 2);
        assert_eq!(few.times[0].1, Roof::Memory);
        for codes in [Codes::E4m3, Codes::DsMla] {
            assert_eq!(codes.kernels(16, 1024).next(), None);
            assert_eq!(codes.kernels(128, 384).next(), None);
        }
    }

    #[test]
    fn caches_of_codes_have_the_kernels_that_the_runtime_takes() {
        let chosen = |codes, rows, latent| {
            let choice = coded_kernel(&H200, codes, rows, latent, 64)?;
            Some((choice.kernel, choice.times[0].1))
        };
        for codes in [Codes::E4m3, Codes::E5m2, Codes::DsMla] {
            // The rule of the runtime: up to 16 rows, and more
            assert_eq!(
                chosen(codes, 16, 512),
                Some((OVER_CODES[0], Roof::Memory)),
                "{codes:?}"
            );
            assert_eq!(chosen(codes, 17, 512).expect("a kernel").0, OVER_CODES[1]);
            assert_eq!(
                chosen(codes, 128, 512),
                Some((OVER_CODES[1], Roof::TensorCores)),
                "{codes:?}"
            );
        }
        assert_eq!(
            chosen(Codes::E4m3, 128, 128).expect("a kernel").0,
            OVER_CODES[1]
        );
        assert_eq!(chosen(Codes::DsMla, 16, 256), None);
        assert_eq!(chosen(Codes::E4m3, 16, 1024), None);
        assert_eq!(coded_kernel(&H200, Codes::E4m3, 16, 512, 40), None);
    }

    #[test]
    fn widths_without_a_kernel_have_none() {
        for (latent, rope) in [
            (0, 64),
            (192, 64),
            (1152, 64),
            (512, 40),
            (512, 128),
            (1024, 8),
        ] {
            assert!(absorbed_kernel(&H200, 16, latent, rope).is_none());
        }
    }
}
