//! The host as a device: kernels are compiled by its C++ compiler and run there, thread by thread.
//!
//! It is what tests of kernels run on where there is no GPU. Fresh memory holds NaN, so that what nothing wrote is seen.

use std::alloc::Layout;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use std::{fs, io, process, ptr, slice};

use libloading::Library;
use sha2::{Digest, Sha256};

use super::{
    Address, Clock, Command, Driver, Fence, ForeignStream, Function, Graph, Launch, Matmul, Module,
    Pinned, Source, TensorMap, Tiling,
};
use crate::error::{Error, Result};

/// What stands in for CUDA's built-in names.
const SIMT: &str = include_str!("emulator/simt.hpp");

/// What kernels are compiled with.
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O2",
    "-shared",
    "-fPIC",
    // Texts for other sizes have variables of the same names: each library keeps its own
    "-fno-gnu-unique",
    // Fibers jump between stacks, which the C library takes for a mistake where it checks
    "-U_FORTIFY_SOURCE",
    "-w",
    "-x",
    "c++",
];

const ALIGNMENT: usize = 256;

/// Threads of every block, as `simt.hpp` has it.
const THREADS: u32 = 128;

/// Bytes that there are. The host would promise more than it has, and end the process once that is written to.
const MEMORY: usize = 16 << 30;

/// The host, emulating a device.
#[derive(Debug, Default)]
pub(crate) struct Emulator {
    /// What is allocated, and how large it is.
    memory: Mutex<HashMap<Address, usize>>,
}

impl Emulator {
    /// What it calls its architecture.
    pub(crate) const ARCH: &'static str = "host";
}

impl Driver for Emulator {
    fn name(&self) -> String {
        "the host, emulating a GPU".to_owned()
    }

    fn arch(&self) -> String {
        Self::ARCH.to_owned()
    }

    fn multiprocessors(&self) -> u32 {
        4
    }

    fn allocate(&self, bytes: usize) -> Result<Option<Address>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let left = MEMORY.saturating_sub(memory.values().sum());
        let Ok(layout) = Layout::from_size_align(bytes.max(1), ALIGNMENT) else {
            return Ok(None);
        };
        if layout.size() > left {
            return Ok(None);
        }
        // SAFETY: the layout's size is not 0
        let at = unsafe { std::alloc::alloc(layout) };
        if at.is_null() {
            return Ok(None);
        }
        // SAFETY: so many bytes were allocated there
        unsafe { ptr::write_bytes(at, 0xff, bytes) };
        memory.insert(at as Address, bytes.max(1));
        Ok(Some(at as Address))
    }

    unsafe fn free(&self, at: Address) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bytes) = memory.remove(&at) else {
            return;
        };
        if let Ok(layout) = Layout::from_size_align(bytes, ALIGNMENT) {
            // SAFETY: allocated with this layout, and used by nobody, as the caller says
            unsafe { std::alloc::dealloc(at as *mut u8, layout) };
        }
    }

    fn pin(&self, bytes: usize) -> Result<Pinned> {
        let mut owner: Arc<Vec<u64>> = Arc::new(vec![0; bytes.div_ceil(8).max(1)]);
        let at = Arc::get_mut(&mut owner).map(|values| values.as_mut_ptr().cast());
        Ok(Pinned {
            at: at.ok_or_else(|| Error::Device("a new buffer is shared".to_owned()))?,
            bytes,
            owner,
        })
    }

    fn load(&self, source: &Source<'_>) -> Result<Arc<dyn Module>> {
        let path = compiled(source)?;
        // SAFETY: the library is what was compiled from kernels; loading it runs none of them
        let library = unsafe { Library::new(&path) };
        let library =
            library.map_err(|error| Error::Device(format!("{}: {error}", source.name)))?;
        Ok(Arc::new(Loaded(library)))
    }

    fn load_compiled(&self, name: &str, _: &[u8]) -> Result<Arc<dyn Module>> {
        Err(Error::Device(format!(
            "{name} is compiled for a GPU, and there is none"
        )))
    }

    fn multiplies(&self, _: &Matmul) -> bool {
        false
    }

    fn tensor_map(&self, tiling: &Tiling<'_>) -> Result<TensorMap> {
        tiling.check()?;
        Err(Error::Device("the emulator has no copy engine".to_owned()))
    }

    fn tune(&self) -> Result<()> {
        Err(multiplies_nothing())
    }

    fn tuned(&self) -> Result<String> {
        Err(multiplies_nothing())
    }

    unsafe fn run(&self, command: &Command) -> Result<()> {
        // SAFETY: addresses are valid, as the caller says
        unsafe {
            match command {
                Command::Launch(Launch {
                    function,
                    grid: [x, y, z],
                    args,
                    ..
                }) => {
                    if function.parameter != args.len() {
                        return Err(Error::Device(format!(
                            "the kernel {} takes a parameter of {} bytes and is launched with {}",
                            function.name,
                            function.parameter,
                            args.len()
                        )));
                    }
                    let entry: Entry = std::mem::transmute(function.handle);
                    // The parameter may hold pointers
                    let mut aligned = vec![0_u64; args.len().div_ceil(8)];
                    ptr::copy_nonoverlapping(
                        args.as_ptr(),
                        aligned.as_mut_ptr().cast(),
                        args.len(),
                    );
                    entry(aligned.as_ptr().cast(), *x, *y, *z);
                }
                Command::Matmul(_) => {
                    return Err(multiplies_nothing());
                }
                Command::Upload { from, to, bytes } => {
                    ptr::copy_nonoverlapping(from.at, *to as *mut u8, *bytes);
                }
                Command::Copy { from, to, bytes } => {
                    ptr::copy(*from as *const u8, *to as *mut u8, *bytes);
                }
                Command::Fill { at, bytes, byte } => {
                    ptr::write_bytes(*at as *mut u8, *byte, *bytes);
                }
            }
        }
        Ok(())
    }

    unsafe fn record(&self, commands: &[Command]) -> Result<Box<dyn Graph>> {
        Ok(Box::new(Recorded(commands.to_vec())))
    }

    unsafe fn wait_for(&self, _: ForeignStream) -> Result<()> {
        Ok(())
    }

    unsafe fn be_waited_for(&self, _: ForeignStream) -> Result<()> {
        Ok(())
    }

    unsafe fn run_in(&self, commands: &[Command], _: ForeignStream) -> Result<()> {
        commands
            .iter()
            // SAFETY: as the caller says
            .try_for_each(|command| unsafe { self.run(command) })
    }

    unsafe fn download(&self, from: Address, to: &mut [u8]) -> Result<()> {
        // SAFETY: there is as much memory, as the caller says
        to.copy_from_slice(unsafe { slice::from_raw_parts(from as *const u8, to.len()) });
        Ok(())
    }

    fn fence(&self) -> Result<Box<dyn Fence>> {
        Ok(Box::new(Passed))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn clock(&self) -> Result<Box<dyn Clock>> {
        Ok(Box::new(HostClock::default()))
    }
}

fn multiplies_nothing() -> Error {
    Error::Device("the emulator multiplies no matrices".to_owned())
}

/// A kernel: its parameter, and the blocks of the grid.
type Entry = unsafe extern "C" fn(*const u8, u32, u32, u32);

struct Loaded(Library);

impl Module for Loaded {
    fn function(self: Arc<Self>, name: &str) -> Result<Function> {
        // SAFETY: what `with_entries` wrote has this type
        let entry = unsafe { self.0.get::<Entry>(format!("simt_{name}")) };
        let entry = entry.map_err(|error| Error::Device(format!("kernel `{name}`: {error}")))?;
        // SAFETY: as above
        let parameter = unsafe { self.0.get::<*const u64>(format!("simt_bytes_{name}")) };
        let parameter =
            parameter.map_err(|error| Error::Device(format!("kernel `{name}`: {error}")))?;
        Ok(Function {
            handle: *entry as usize,
            name: name.into(),
            threads: THREADS,
            // SAFETY: the variable is such a number
            parameter: unsafe { **parameter } as usize,
            module: self,
        })
    }

    fn variable(&self, name: &str) -> Option<(Address, usize)> {
        // SAFETY: the address is taken, nothing is read
        let at = unsafe { self.0.get::<*mut u8>(name) }.ok()?;
        Some((*at as Address, 0))
    }
}

/// Nothing is ever queued.
struct Passed;

impl Fence for Passed {
    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Recorded(Vec<Command>);

impl Graph for Recorded {
    unsafe fn launch(&self) -> Result<()> {
        let emulator = Emulator::default();
        for command in &self.0 {
            // SAFETY: as the caller says
            unsafe { emulator.run(command)? };
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct HostClock(Mutex<Vec<Instant>>);

impl Clock for HostClock {
    fn mark(&self) -> Result<usize> {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.push(Instant::now());
        Ok(marks.len() - 1)
    }

    fn between(&self, from: usize, to: usize) -> Result<f64> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (marks.get(from), marks.get(to)) {
            (Some(from), Some(to)) => Ok(to.saturating_duration_since(*from).as_secs_f64() * 1e3),
            _ => Err(Error::Device(
                "there is no such mark of the clock".to_owned(),
            )),
        }
    }
}

/// The compiled library, from the cache where it is there.
fn compiled(source: &Source<'_>) -> Result<PathBuf> {
    let text = with_entries(source);
    let mut digest = Sha256::new();
    for part in FLAGS
        .iter()
        .copied()
        .chain([compiler().as_str(), SIMT, &text])
    {
        digest.update(part);
        digest.update([0]);
    }
    let name = digest
        .finalize()
        .iter()
        .fold(String::new(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        });
    let folder = std::env::temp_dir().join("mla-gen-emulator");
    let path = folder.join(format!("{name}.so"));
    if path.exists() {
        return Ok(path);
    }
    let failed = |reason: io::Error| {
        Error::Device(format!(
            "emulating a GPU takes a C++ compiler: `{}` did not run ({reason}). Install one, or name it in `CXX`",
            compiler()
        ))
    };
    let at = |source: io::Error| Error::Io {
        path: folder.clone(),
        source,
    };
    fs::create_dir_all(&folder).map_err(at)?;
    // Renamed once it is whole: another process may be compiling the same text
    let made = tempfile_name(&folder);
    let mut process = Process::new(compiler())
        .args(FLAGS)
        .arg("-o")
        .arg(&made)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = process.stdin.take() {
        // A compiler that stops reading says why
        let _ = input
            .write_all(SIMT.as_bytes())
            .and_then(|()| input.write_all(text.as_bytes()));
    }
    let output = process.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(Error::Device(format!(
            "{} does not compile for the host:\n{}",
            source.name,
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    fs::rename(&made, &path).map_err(at)?;
    Ok(path)
}

fn tempfile_name(folder: &std::path::Path) -> PathBuf {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    folder.join(format!("{}-{next}.part", process::id()))
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

/// The text with its macros, and behind it a function for each kernel that runs it over a grid.
fn with_entries(source: &Source<'_>) -> String {
    let mut text = String::new();
    for (name, value) in source.defines {
        let _ = writeln!(text, "#define {name} {value}");
    }
    if source.checked {
        text.push_str("#define MLA_CHECKED 1\n");
    }
    let _ = writeln!(text, "#line 1 {:?}", source.name);
    text.push_str(source.text);
    text.push('\n');
    for (kernel, args) in kernels(source.text) {
        let _ = writeln!(
            text,
            "extern \"C\" const unsigned long long simt_bytes_{kernel} = sizeof({args});\n\
             extern \"C\" void simt_{kernel}(const void* args, unsigned x, unsigned y, unsigned z) {{\n  \
             simt::launch([](const void* args) {{ {kernel}(*static_cast<const {args}*>(args)); }}, args, x, y, z);\n}}"
        );
    }
    text
}

/// The names of a text's kernels, and the types of their parameters: `extern "C" __global__ … NAME(const … ARGS args)`.
fn kernels(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("extern \"C\" __global__")
        .skip(1)
        .filter_map(|kernel| {
            let (head, _) = kernel.split_once(" args)")?;
            let (name, args) = head.rsplit_once("(const ")?;
            Some((name.rsplit(' ').next()?, args.rsplit(' ').next()?))
        })
}

#[cfg(test)]
mod tests {
    use super::super::Work;
    use super::*;

    const REVERSED: &str = r#"
struct Reversed { int* at; };
extern "C" __global__ void __launch_bounds__(128) reversed(const Reversed args) {
  __shared__ int all[128];
  int* own = args.at + blockIdx.x * 128;
  all[threadIdx.x] = own[threadIdx.x];
  __syncthreads();
  int x = all[127 - threadIdx.x];
  // Lanes of a warp swapped twice are where they were
  x = __shfl_xor_sync(0xffffffffu, __shfl_xor_sync(0xffffffffu, x, 5), 5);
  own[threadIdx.x] = x + (__ballot_sync(0xffffffffu, threadIdx.x % 2) == 0xaaaaaaaau ? 0 : 1000);
}
"#;

    #[test]
    fn threads_of_a_block_and_lanes_of_a_warp_exchange_values() {
        let emulator = Emulator::default();
        let source = Source {
            name: "reversed.cu",
            text: REVERSED,
            defines: &[],
            checked: false,
        };
        let function = emulator
            .load(&source)
            .and_then(|module| module.function("reversed"))
            .expect("the kernel compiles");
        let mut values: Vec<i32> = (0..256).collect();
        let command = Command::Launch(Launch {
            function,
            grid: [2, 1, 1],
            shared: 0,
            together: false,
            args: (values.as_mut_ptr() as u64).to_ne_bytes().to_vec(),
            work: Work::default(),
        });
        // SAFETY: the kernel writes 2 · 128 values
        unsafe { emulator.run(&command) }.expect("it runs");
        let wanted: Vec<i32> = (0..128).rev().chain((128..256).rev()).collect();
        assert_eq!(values, wanted);
    }

    #[test]
    fn what_does_not_compile_is_an_error() {
        let source = Source {
            name: "broken.cu",
            text: "int broken( {",
            defines: &[],
            checked: false,
        };
        let error = Emulator::default()
            .load(&source)
            .map(|_| ())
            .expect_err("no C++");
        assert!(error.to_string().contains("broken.cu:1"), "{error}");
    }
}
