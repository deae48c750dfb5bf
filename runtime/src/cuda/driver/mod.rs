//! What the backend asks of the machine behind it: a GPU's driver, or the host emulating one.

mod blas;
mod emulator;
mod gpu;
mod matmul;
mod tensor_map;

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use super::work::Work;
use crate::error::{Error, Result};

pub(crate) use mla_nvrtc::Source;

pub(crate) use emulator::Emulator;
pub(crate) use gpu::{CallersContext, Gpu};
pub(crate) use matmul::{Matmul, NumberType, Operand};
pub(crate) use tensor_map::{Axis, Swizzle, TensorMap, Tiling};

impl From<mla_nvrtc::Error> for Error {
    fn from(error: mla_nvrtc::Error) -> Self {
        Self::Device(error.to_string())
    }
}

/// A place in the device's memory.
pub(crate) type Address = u64;

/// A kernel that can be launched. It stays loaded as long as `module` lives.
#[derive(Clone)]
pub(crate) struct Function {
    /// What the driver knows it by.
    pub(crate) handle: usize,
    /// Its symbol.
    pub(crate) name: Arc<str>,
    /// Threads of a block, which the kernel itself says.
    pub(crate) threads: u32,
    /// Bytes of its only parameter.
    pub(crate) parameter: usize,
    /// What holds its code.
    pub(crate) module: Arc<dyn Module>,
}

impl Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kernel {} {:#x}", self.name, self.handle)
    }
}

/// Compiled and loaded code.
pub(crate) trait Module: Send + Sync {
    /// The `extern "C"` kernel of this name.
    ///
    /// # Errors
    /// There is none.
    fn function(self: Arc<Self>, name: &str) -> Result<Function>;

    /// The place of a variable, and its size in bytes; `None` where there is none of this name.
    fn variable(&self, name: &str) -> Option<(Address, usize)>;
}

/// Something for the device to do. What it names has to stay valid until it is done.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// Runs a kernel.
    Launch(Launch),
    /// `C = A B`.
    Matmul(Matmul),
    /// Copies pinned memory of the host to the device. No graph holds one.
    Upload {
        /// Where from: it is read when the command runs.
        from: Pinned,
        /// Where to.
        to: Address,
        /// How much.
        bytes: usize,
    },
    /// Copies within the device.
    Copy {
        /// Where from.
        from: Address,
        /// Where to.
        to: Address,
        /// How much.
        bytes: usize,
    },
    /// Sets bytes.
    Fill {
        /// Where.
        at: Address,
        /// How many.
        bytes: usize,
        /// To what.
        byte: u8,
    },
}

/// Beginnings of names of kernels that write what layers compute, and nothing that they are made of.
const WRITE_NO_WEIGHTS: [&str; 13] = [
    "attend",
    "decode_",
    "encode_index_queries",
    "flash_forward",
    "index_logits",
    "join_three",
    "layer_norm",
    "prologue",
    "rms_norm",
    "rotate",
    "skinny",
    "sparse_",
    "topk",
];

impl Command {
    /// Whether it writes no weights, as far as is known: then a kernel behind it may read some ahead.
    pub(crate) fn writes_no_weights(&self) -> bool {
        match self {
            // Gradients are no weights either
            Self::Matmul(_) => true,
            Self::Launch(launch) => {
                let name = &*launch.function.name;
                WRITE_NO_WEIGHTS.iter().any(|begin| name.starts_with(begin))
            }
            _ => false,
        }
    }
}

/// A kernel, what it is told, and how it is spread over the device.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// Which.
    pub(crate) function: Function,
    /// Blocks along x, y and z, none of them 0.
    pub(crate) grid: [u32; 3],
    /// Bytes of shared memory of each block, besides what the kernel declares.
    pub(crate) shared: u32,
    /// Whether blocks wait for each other, so that all of them have to run at the same time.
    pub(crate) together: bool,
    /// What it does before the kernel before has ended.
    pub(crate) begins: Begins,
    /// The parameter.
    pub(crate) args: Vec<u8>,
    /// What it has to do at least.
    pub(crate) work: Work,
}

/// What a kernel does that is started while the one before ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begins {
    /// Its work: it knows nothing of the one before, and may not be started then.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "kernels that tests write begin so")
    )]
    AtOnce,
    /// Nothing: first of all it waits.
    InTurn,
    /// It reads weights, then waits.
    Ahead,
}

impl Begins {
    /// Whether a kernel that begins so may be started while a command ends.
    pub(crate) fn may_follow(self, before: &Command) -> bool {
        let is_kernel = matches!(before, Command::Launch(_) | Command::Matmul(_));
        match self {
            Self::AtOnce => false,
            Self::InTurn => is_kernel,
            Self::Ahead => before.writes_no_weights(),
        }
    }
}

/// Memory of the host that the device can read.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    /// Where it begins.
    pub(crate) at: *mut u8,
    /// How long it is.
    pub(crate) bytes: usize,
    /// What frees it.
    #[allow(dead_code, reason = "held for its drop")]
    pub(crate) owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a `Pinned` is a pointer and what keeps it valid; who writes through it sees to it that nobody else does
unsafe impl Send for Pinned {}
// SAFETY: as above
unsafe impl Sync for Pinned {}

/// A stream that somebody else made in the device's primary context, as CUDA's driver names it; 0 is the default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForeignStream(pub(crate) usize);

/// Commands that run together, again and again.
pub(crate) trait Graph: Debug + Send + Sync {
    /// Runs them.
    ///
    /// # Errors
    /// The device refuses.
    ///
    /// # Safety
    /// As [`Driver::run`], of all its commands.
    unsafe fn launch(&self) -> Result<()>;
}

/// A point in the queue.
pub(crate) trait Fence: Send + Sync {
    /// Waits until everything queued before it is done.
    ///
    /// # Errors
    /// The device refuses.
    fn wait(&self) -> Result<()>;
}

/// Events on the device's clock.
pub(crate) trait Clock: Debug + Send + Sync {
    /// Notes the time once everything queued before is done. Returns a number for it.
    ///
    /// # Errors
    /// The device refuses.
    fn mark(&self) -> Result<usize>;

    /// Milliseconds between two marks; waits for both.
    ///
    /// # Errors
    /// The device refuses, or there is no such mark.
    fn between(&self, from: usize, to: usize) -> Result<f64>;
}

/// A machine that runs kernels. Commands run in the order in which they are queued.
pub(crate) trait Driver: Debug + Send + Sync {
    /// Its name, e.g. `NVIDIA H200`.
    fn name(&self) -> String;

    /// Its architecture as compilers call it, e.g. `sm_90a`.
    fn arch(&self) -> String;

    /// Whether it runs kernels that are written for Hopper alone.
    fn is_hopper(&self) -> bool {
        self.arch() == "sm_90a"
    }

    /// Multiprocessors.
    fn multiprocessors(&self) -> u32;

    /// Memory, aligned to 256 bytes; `Ok(None)` where there is no room.
    ///
    /// # Errors
    /// The device refuses for another reason.
    fn allocate(&self, bytes: usize) -> Result<Option<Address>>;

    /// Gives memory back, once everything queued is done.
    ///
    /// # Safety
    /// It is [`allocate`](Self::allocate)'s, and nobody uses it.
    unsafe fn free(&self, at: Address);

    /// Memory of the host that the device can read.
    ///
    /// # Errors
    /// There is no room.
    fn pin(&self, bytes: usize) -> Result<Pinned>;

    /// Compiles, or finds in the cache, and loads.
    ///
    /// # Errors
    /// The compiler or the device refuses; what it says is in the message.
    fn load(&self, source: &Source<'_>) -> Result<Arc<dyn Module>>;

    /// Loads what was compiled for [`arch`](Self::arch) before.
    ///
    /// # Errors
    /// The device refuses.
    fn load_compiled(&self, name: &str, cubin: &[u8]) -> Result<Arc<dyn Module>>;

    /// Whether it multiplies these matrices without a kernel of ours.
    fn multiplies(&self, matmul: &Matmul) -> bool;

    /// A tensor and its tiles as kernels hand them to the copy engine.
    ///
    /// # Errors
    /// There is no such engine, or it can't take such tiles.
    fn tensor_map(&self, tiling: &Tiling<'_>) -> Result<TensorMap>;

    /// From now on, times the algorithms that there are for a product whose shape is met for the first time.
    ///
    /// # Errors
    /// It multiplies no matrices.
    fn tune(&self) -> Result<()>;

    /// The table of the algorithms that were the fastest.
    ///
    /// # Errors
    /// Nothing was to be timed.
    fn tuned(&self) -> Result<String>;

    /// Queues a command.
    ///
    /// # Errors
    /// The device refuses.
    ///
    /// # Safety
    /// All addresses in it, those in a launch's parameter and in tables that it reads included, are those of enough memory.
    unsafe fn run(&self, command: &Command) -> Result<()>;

    /// Makes a graph of commands. Nothing runs yet. The matrices in it are multiplied by algorithms that are already chosen.
    ///
    /// # Errors
    /// The device refuses.
    ///
    /// # Safety
    /// As [`run`](Self::run), for as long as the graph lives.
    unsafe fn record(&self, commands: &[Command]) -> Result<Box<dyn Graph>>;

    /// Lets what is queued from here on wait for all that a foreign stream holds now; the host waits for nothing.
    ///
    /// # Errors
    /// The device refuses, or the stream is being captured into a graph.
    ///
    /// # Safety
    /// There is such a stream.
    unsafe fn wait_for(&self, stream: ForeignStream) -> Result<()>;

    /// Lets what a foreign stream gets from here on wait for everything queued; the host waits for nothing.
    ///
    /// # Errors
    /// The device refuses.
    ///
    /// # Safety
    /// There is such a stream.
    unsafe fn be_waited_for(&self, stream: ForeignStream) -> Result<()>;

    /// Queues commands in a foreign stream, which may be one that is being captured. None of them is an upload.
    ///
    /// # Errors
    /// The device refuses.
    ///
    /// # Safety
    /// There is such a stream, and as [`run`](Self::run). Products of matrices share memory: those of other streams, the driver's
    /// own included, are not to run at the same time.
    unsafe fn run_in(&self, commands: &[Command], stream: ForeignStream) -> Result<()>;

    /// Copies memory to the host once everything queued before is done.
    ///
    /// # Errors
    /// The device refuses, or something queued before failed.
    ///
    /// # Safety
    /// There is as much memory at `from`.
    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()>;

    /// A point behind everything queued so far.
    ///
    /// # Errors
    /// The device refuses.
    fn fence(&self) -> Result<Box<dyn Fence>>;

    /// Waits until everything queued is done.
    ///
    /// # Errors
    /// Something queued failed.
    fn synchronize(&self) -> Result<()>;

    /// A clock.
    ///
    /// # Errors
    /// The device refuses.
    fn clock(&self) -> Result<Box<dyn Clock>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Module for Nothing {
        fn function(self: Arc<Self>, name: &str) -> Result<Function> {
            Ok(Function {
                handle: 0,
                name: name.into(),
                threads: 1,
                parameter: 0,
                module: self,
            })
        }

        fn variable(&self, _: &str) -> Option<(Address, usize)> {
            None
        }
    }

    fn launch_of(name: &str) -> Command {
        Command::Launch(Launch {
            function: Arc::new(Nothing).function(name).expect("a function"),
            grid: [1; 3],
            shared: 0,
            together: false,
            begins: Begins::InTurn,
            args: Vec::new(),
            work: Work::default(),
        })
    }

    #[test]
    fn what_reads_weights_ahead_follows_nothing_that_may_write_some() {
        let may_follow = |before: &Command| {
            let all = [Begins::AtOnce, Begins::InTurn, Begins::Ahead];
            all.map(|begins| begins.may_follow(before))
        };
        assert_eq!(may_follow(&launch_of("rms_norm_512")), [false, true, true]);
        assert_eq!(may_follow(&launch_of("skinny_16_4")), [false, true, true]);
        // Of parameters it makes weights
        assert_eq!(may_follow(&launch_of("narrowed")), [false, true, false]);
        let fill = Command::Fill {
            at: 0,
            bytes: 4,
            byte: 0,
        };
        assert_eq!(may_follow(&fill), [false; 3]);
    }
}
