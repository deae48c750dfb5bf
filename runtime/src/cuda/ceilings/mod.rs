//! What a device reaches when it does one thing only: the ceilings under which every kernel works.

pub(super) mod args;
mod measure;
mod random;

use std::fmt::{self, Display};

use serde::Serialize;

use super::CudaDevice;
use crate::error::Result;

/// What a device reached. Rates of products and conversions are those of a device that has been at work for a while: a GPU at its power cap
/// lowers its clock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ceilings {
    /// The device's name.
    pub device: String,
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// Bytes a second that are read from a part of memory much larger than the caches.
    pub read: f64,
    /// Bytes a second that a copy within memory reads and writes, both counted.
    pub copy: f64,
    /// Bytes a second of rows of 1152 and of 656 bytes (a token's latent and rope key in bf16; the same as `fp8_ds_mla`) in random order, from a
    /// set of 38 MB, which the L2 holds, to registers; `None` where the host emulates a device.
    pub rows: Option<[f64; 2]>,
    /// Products of 8192 × 8192 by 8192 × 8192 matrices by cuBLASLt, in bf16; `None` where it is not installed.
    pub bf16: Option<Paced>,
    /// The same in fp8 (e4m3, summed in f32, made bf16).
    pub fp8: Option<Paced>,
    /// What Hopper's own instructions reach; `None` elsewhere.
    pub hopper: Option<Hopper>,
}

/// Floating-point operations a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Paced {
    /// In the first 30 milliseconds, from an idle device on.
    pub burst: f64,
    /// From 50 milliseconds of work on.
    pub settled: f64,
}

/// What Hopper's own instructions reach.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hopper {
    /// Bytes a second that the copy engine brings to shared memory in tiles of 64 by 64 bf16, from a set of 38 MB, which the L2 holds.
    pub tiles: f64,
    /// Numbers of e4m3 that become f16 in a second, on all multiprocessors.
    pub conversions: f64,
    /// The same on one multiprocessor in one cycle of its clock.
    pub conversions_per_cycle: f64,
    /// Products of warpgroups.
    pub products: Vec<ProductRate>,
}

/// How fast all tensor cores multiply 64 rows by some columns, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProductRate {
    /// What is multiplied, and where the left factor stands. The right one stands in shared memory.
    pub factors: Factors,
    /// Columns of one product.
    pub columns: usize,
    /// Floating-point operations a second, settled.
    pub flops: f64,
    /// Cycles of a multiprocessor's clock for one product. The tensor cores need `columns / 2`; reading `A` and `B` at 128 bytes a cycle,
    /// `16 + columns / 4`, of which 16 are A's.
    pub cycles: f64,
}

/// What a product multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Factors {
    /// 16 terms of bf16, both factors in shared memory.
    Shared,
    /// The same with the left one in registers.
    Held,
    /// 32 terms of e4m3, both in shared memory.
    E4m3,
}

impl Factors {
    /// How many terms one product sums.
    fn terms(self) -> usize {
        match self {
            Self::Shared | Self::Held => 16,
            Self::E4m3 => 32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Shared => "bf16, both in shared memory",
            Self::Held => "bf16, left in registers",
            Self::E4m3 => "e4m3, both in shared memory",
        }
    }
}

impl CudaDevice {
    /// Measures what the device reaches. It takes four gigabytes and some three seconds, in two of which the device is at work; what else runs
    /// on it disturbs.
    ///
    /// The kernels are those of `mla_codegen::cuda::CEILINGS`, which someone has to have given to the device, by
    /// [`add_kernels`](Self::add_kernels) or [`provide`](Self::provide).
    ///
    /// # Errors
    /// Kernels are missing (the message says which), there is no room, or the device refuses.
    pub fn ceilings(&self) -> Result<Ceilings> {
        measure::ceilings(self)
    }
}

impl Display for Ceilings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![
            ("memory, read".to_owned(), terabytes(self.read)),
            ("memory, copy".to_owned(), terabytes(self.copy)),
        ];
        if let Some([wide, narrow]) = self.rows {
            lines.push(("L2, rows of 1152 bytes".to_owned(), terabytes(wide)));
            lines.push(("L2, rows of 656 bytes".to_owned(), terabytes(narrow)));
        }
        for (name, paced) in [("bf16", self.bf16), ("fp8", self.fp8)] {
            let Some(paced) = paced else { continue };
            lines.push((format!("{name} 8192^3, settled"), teraflops(paced.settled)));
            lines.push((format!("{name} 8192^3, burst"), teraflops(paced.burst)));
        }
        if let Some(hopper) = &self.hopper {
            lines.push((
                "L2, tiles of 64x64 bf16".to_owned(),
                terabytes(hopper.tiles),
            ));
            lines.push((
                "e4m3 to f16".to_owned(),
                format!(
                    "{:8.2} Tnumbers/s  {:6.1} a cycle",
                    hopper.conversions / 1e12,
                    hopper.conversions_per_cycle
                ),
            ));
            for rate in &hopper.products {
                lines.push((
                    format!("64x{} {}", rate.columns, rate.factors.name()),
                    format!("{}  {:6.1} cycles", teraflops(rate.flops), rate.cycles),
                ));
            }
        }
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        writeln!(
            f,
            "{}, {} multiprocessors",
            self.device, self.multiprocessors
        )?;
        for (name, value) in lines {
            writeln!(f, "{name:<width$}  {value}")?;
        }
        Ok(())
    }
}

fn terabytes(rate: f64) -> String {
    format!("{:8.3} TB/s", rate / 1e12)
}

fn teraflops(rate: f64) -> String {
    format!("{:8.1} TFLOP/s", rate / 1e12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_leaves_out_what_is_unknown() {
        let mut ceilings = Ceilings {
            device: "A".to_owned(),
            multiprocessors: 132,
            read: 4.39e12,
            copy: 4.3e12,
            rows: Some([9e12, 8.8e12]),
            bf16: Some(Paced {
                burst: 776e12,
                settled: 679e12,
            }),
            fp8: None,
            hopper: None,
        };
        let text = ceilings.to_string();
        assert_eq!(text.lines().count(), 7);
        assert!(
            text.contains("memory, read               4.390 TB/s"),
            "{text}"
        );
        assert!(
            text.contains("bf16 8192^3, settled       679.0 TFLOP/s"),
            "{text}"
        );
        assert!(!text.contains("fp8"), "{text}");
        ceilings.hopper = Some(Hopper {
            tiles: 6e12,
            conversions: 15e12,
            conversions_per_cycle: 64.0,
            products: vec![ProductRate {
                factors: Factors::Held,
                columns: 256,
                flops: 700e12,
                cycles: 128.0,
            }],
        });
        let text = ceilings.to_string();
        assert_eq!(text.lines().count(), 10);
        assert!(text.contains("64x256 bf16, left in registers"), "{text}");
        let units: Vec<_> = text.lines().skip(1).map(|line| line.find(" T")).collect();
        assert!(units.iter().all(|at| *at == units[0]), "{text}");
    }
}
