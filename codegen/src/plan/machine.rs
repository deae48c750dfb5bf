//! What a device reaches, and how long work takes there at least: the highest of five roofs.
//!
//! Memory, tensor cores, shared memory, exponentials and the L2 work side by side, so the one that takes longest says how long the whole
//! takes, if nothing else is lost. A kernel's share of that time is what it is judged by.

use mla_spec::Target;

/// What a device reaches when it does one thing only, for long enough that its clock has settled under its power cap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Its name.
    pub name: &'static str,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Cycles a second while tensor cores are at work.
    pub clock: f64,
    /// Bytes a second that are read from memory.
    pub read: f64,
    /// Bytes a second that a copy reads and writes, both counted.
    pub copy: f64,
    /// Floating-point operations a second of large products of bf16.
    pub bf16: f64,
    /// The same of e4m3.
    pub fp8: f64,
    /// Bytes a second from the L2 to multiprocessors, in tiles or in rows that chance names.
    pub l2: f64,
    /// Bytes of shared memory that a multiprocessor reads or writes in a cycle.
    pub shared: f64,
    /// Exponentials of a multiprocessor in a cycle.
    pub exponentials: f64,
}

/// One NVIDIA H200 SXM at 700 W.
///
/// As `CudaDevice::ceilings` measured it on 2026-11-29 (`docs/perf-log.md`), settled: products are cuBLASLt's, the L2's rate is that of
/// 1152-byte rows from a set of 38 MB (tiles of the copy engine reach 7.5e12), and the clock is that of products that nothing but shared
/// memory feeds. The copy is PyTorch's, which is faster than ours. The last two are the hardware's: 32 banks of 4 bytes, and four units of
/// 4 lanes.
pub const H200: Machine = Machine {
    name: "NVIDIA H200",
    multiprocessors: 132,
    clock: 1.66e9,
    read: 4.49e12,
    copy: 4.30e12,
    bf16: 675e12,
    fp8: 1253e12,
    l2: 9.07e12,
    shared: 128.0,
    exponentials: 16.0,
};

impl Machine {
    /// The device that a target stands for; `None` where nobody has measured one.
    pub fn of(target: Target) -> Option<&'static Self> {
        match target {
            Target::Sm90a => Some(&H200),
            _ => None,
        }
    }
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Bytes read from memory.
    pub read: f64,
    /// Bytes written to memory.
    pub written: f64,
    /// Multiplications and additions of products of bf16.
    pub flops: f64,
    /// The same of e4m3.
    pub fp8_flops: f64,
    /// Bytes that go to and come from shared memory, the tensor cores' own reads included.
    pub shared: f64,
    /// Exponentials.
    pub exponentials: f64,
    /// Bytes that go from the L2 to multiprocessors.
    pub l2: f64,
}

/// What can keep a kernel from being faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roof {
    /// Bytes from and to memory.
    Memory,
    /// Products.
    TensorCores,
    /// Bytes from and to shared memory.
    SharedMemory,
    /// Exponentials.
    Exponentials,
    /// Bytes from the L2.
    L2,
}

impl Roof {
    /// What it is called in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::TensorCores => "tensor cores",
            Self::SharedMemory => "shared memory",
            Self::Exponentials => "exponentials",
            Self::L2 => "the L2",
        }
    }
}

/// Seconds that work takes under each roof.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Roofs {
    /// Of memory.
    pub memory: f64,
    /// Of tensor cores.
    pub tensor_cores: f64,
    /// Of shared memory.
    pub shared_memory: f64,
    /// Of exponentials.
    pub exponentials: f64,
    /// Of the L2.
    pub l2: f64,
}

impl Roofs {
    /// The roof that binds, and its seconds: no kernel is faster.
    pub fn binding(&self) -> (Roof, f64) {
        let all = [
            (Roof::Memory, self.memory),
            (Roof::TensorCores, self.tensor_cores),
            (Roof::SharedMemory, self.shared_memory),
            (Roof::Exponentials, self.exponentials),
            (Roof::L2, self.l2),
        ];
        let longer = |one: (Roof, f64), other: (Roof, f64)| {
            if other.1 > one.1 { other } else { one }
        };
        all.into_iter().fold(all[0], longer)
    }
}

/// How long work takes on a device under each of its roofs.
pub fn time(machine: &Machine, work: &Work) -> Roofs {
    // What each multiprocessor does in a cycle, all of them do in a second
    let cycles = f64::from(machine.multiprocessors) * machine.clock;
    Roofs {
        memory: work.read / machine.read + work.written / machine.copy,
        tensor_cores: work.flops / machine.bf16 + work.fp8_flops / machine.fp8,
        shared_memory: work.shared / (machine.shared * cycles),
        exponentials: work.exponentials / (machine.exponentials * cycles),
        l2: work.l2 / machine.l2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates that published figures of short runs lead to.
    const BURST: Machine = Machine {
        read: 4.3e12,
        bf16: 790e12,
        clock: 1.83e9,
        ..H200
    };

    /// 64 requests over 8192 tokens, a latent of 512 and a rope key of 64 each.
    fn decode(heads: f64, token_bytes: f64) -> Work {
        let tokens = 64.0 * 8192.0;
        Work {
            read: tokens * token_bytes,
            flops: tokens * heads * 2176.0,
            exponentials: tokens * heads,
            ..Work::default()
        }
    }

    fn microseconds(work: &Work) -> (Roof, f64) {
        let (roof, seconds) = time(&BURST, work).binding();
        (roof, seconds * 1e6)
    }

    #[test]
    fn decode_is_bound_by_memory_up_to_97_heads_and_by_tensor_cores_beyond() {
        for heads in [16.0, 64.0, 97.0] {
            let (roof, floor) = microseconds(&decode(heads, 1152.0));
            assert_eq!(roof, Roof::Memory);
            assert!((floor - 140.5).abs() < 0.5, "{floor}");
        }
        assert_eq!(microseconds(&decode(98.0, 1152.0)).0, Roof::TensorCores);
        let (roof, floor) = microseconds(&decode(128.0, 1152.0));
        assert_eq!(roof, Roof::TensorCores);
        assert!((floor - 185.0).abs() < 0.5, "{floor}");
        // A cache of fp8 that is multiplied in bf16
        assert_eq!(microseconds(&decode(55.0, 656.0)).0, Roof::Memory);
        assert_eq!(microseconds(&decode(56.0, 656.0)).0, Roof::TensorCores);
    }

    #[test]
    fn one_long_request_is_bound_as_many_short_ones() {
        let of = |heads| {
            let tokens = 131_072.0;
            let work = Work {
                read: tokens * 1152.0,
                flops: tokens * heads * 2176.0,
                ..Work::default()
            };
            microseconds(&work).1
        };
        assert!((of(64.0) - 35.1).abs() < 0.1, "{}", of(64.0));
        assert!((of(128.0) - 46.2).abs() < 0.1, "{}", of(128.0));
    }

    #[test]
    fn shared_memory_binds_where_left_factors_are_short() {
        // 64 queries' rows meet 64 latents: 2176 cycles of products, 2432 of shared memory
        let block = Work {
            flops: 2.0 * 64.0 * 64.0 * 1088.0,
            shared: 2432.0 * 128.0,
            ..Work::default()
        };
        // Tensor cores at 4096 operations a cycle
        let ideal = Machine {
            bf16: 4096.0 * 132.0 * H200.clock,
            ..H200
        };
        let roofs = time(&ideal, &block);
        assert_eq!(roofs.binding().0, Roof::SharedMemory);
        let share = roofs.tensor_cores / roofs.shared_memory;
        assert!((share - 0.895).abs() < 1e-3, "{share}");
    }

    #[test]
    fn every_roof_binds_where_there_is_nothing_else_to_do() {
        let works = [
            (
                Roof::Memory,
                Work {
                    written: 1.0,
                    ..Work::default()
                },
            ),
            (
                Roof::TensorCores,
                Work {
                    fp8_flops: 1.0,
                    ..Work::default()
                },
            ),
            (
                Roof::SharedMemory,
                Work {
                    shared: 1.0,
                    ..Work::default()
                },
            ),
            (
                Roof::Exponentials,
                Work {
                    exponentials: 1.0,
                    ..Work::default()
                },
            ),
            (
                Roof::L2,
                Work {
                    l2: 1.0,
                    ..Work::default()
                },
            ),
        ];
        for (roof, work) in works {
            assert_eq!(time(&H200, &work).binding().0, roof);
        }
        assert_eq!(time(&H200, &Work::default()).binding(), (Roof::Memory, 0.0));
    }

    #[test]
    fn targets_are_machines_where_one_was_measured() {
        assert_eq!(Machine::of(Target::Sm90a), Some(&H200));
        assert_eq!(Machine::of(Target::Cpu), None);
        assert_eq!(Machine::of(Target::Sm80), None);
    }
}
