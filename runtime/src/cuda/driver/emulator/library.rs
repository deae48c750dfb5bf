//! Kernels' texts as libraries of the host.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::{fs, io, process};

use libloading::Library;
use sha2::{Digest, Sha256};

use super::super::{Address, Function, Module, Source};
use crate::error::{Error, Result};

/// What stands in for CUDA's built-in names.
const SIMT: [&str; 4] = [
    include_str!("fibers.hpp"),
    include_str!("late.hpp"),
    include_str!("blocks.hpp"),
    include_str!("simt.hpp"),
];

/// What stands in for instructions that C++ has no word for, in texts that have some: they leave them out where this is defined.
const EMULATED: &str = "MLA_EMULATED";
const ROOMS: [&str; 5] = [
    include_str!("ptx.hpp"),
    include_str!("shared.hpp"),
    include_str!("convert.hpp"),
    include_str!("copies.hpp"),
    include_str!("wgmma.hpp"),
];

/// What kernels are compiled with.
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-pthread",
    // Texts for other sizes have variables of the same names: each library keeps its own
    "-fno-gnu-unique",
    // Fibers jump between stacks, which the C library takes for a mistake where it checks
    "-U_FORTIFY_SOURCE",
    "-w",
    "-x",
    "c++",
];

/// How much kernels are optimised. Compiling takes longer than running, and twice as long with more.
const PLAIN: &str = "-O1";
/// The same where they do their work in instructions that are emulated: those are optimised, and what stands between them is not worth it.
const INSTRUCTED: &str = "-O0";
const OPTIMISED: &str = "#pragma GCC push_options\n#pragma GCC optimize(\"O2\")\n";
const NO_LONGER: &str = "#pragma GCC pop_options\n";

/// A kernel: its parameter, the blocks of the grid, whether they run at the same time, and what chance begins with.
pub(super) type Entry = unsafe extern "C" fn(*const u8, u32, u32, u32, bool, u32);

/// Kernels that can be launched.
pub(super) struct Loaded(Library);

impl Loaded {
    /// Compiles a text, or finds what was compiled of it before, and loads it.
    pub(super) fn new(source: &Source<'_>) -> Result<Self> {
        let path = compiled(source)?;
        // SAFETY: the library is what was compiled from kernels; loading it runs none of them
        let library = unsafe { Library::new(&path) };
        let library =
            library.map_err(|error| Error::Device(format!("{}: {error}", source.name)))?;
        Ok(Self(library))
    }
}

impl Module for Loaded {
    fn function(self: Arc<Self>, name: &str) -> Result<Function> {
        // SAFETY: what `with_entries` wrote has this type
        let entry = unsafe { self.0.get::<Entry>(format!("simt_{name}")) };
        let entry = entry.map_err(|error| Error::Device(format!("kernel `{name}`: {error}")))?;
        let number = |what: &str| -> Result<u32> {
            // SAFETY: as above
            let at = unsafe { self.0.get::<*const u32>(format!("simt_{what}_{name}")) };
            let at = at.map_err(|error| Error::Device(format!("kernel `{name}`: {error}")))?;
            // SAFETY: the variable is such a number
            Ok(unsafe { **at })
        };
        Ok(Function {
            handle: *entry as usize,
            name: name.into(),
            threads: number("threads")?,
            parameter: number("bytes")? as usize,
            module: self,
        })
    }

    fn variable(&self, name: &str) -> Option<(Address, usize)> {
        // SAFETY: the address is taken, nothing is read
        let at = unsafe { self.0.get::<*mut u8>(name) }.ok()?;
        Some((*at as Address, 0))
    }
}

/// The compiled library, from the cache where it is there.
fn compiled(source: &Source<'_>) -> Result<PathBuf> {
    let text = whole(source);
    let optimised = match is_instructed(source) {
        true => INSTRUCTED,
        false => PLAIN,
    };
    let mut digest = Sha256::new();
    for part in FLAGS
        .iter()
        .copied()
        .chain([optimised, compiler().as_str(), &text])
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
        .arg(optimised)
        .arg("-o")
        .arg(&made)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = process.stdin.take() {
        // A compiler that stops reading says why
        let _ = input.write_all(text.as_bytes());
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

/// Whether a text has instructions that C++ has no word for.
fn is_instructed(source: &Source<'_>) -> bool {
    source.text.contains(EMULATED)
}

/// The text with its macros, what it stands on before it, and behind it a function for each kernel that runs it over a grid.
fn whole(source: &Source<'_>) -> String {
    let mut text = SIMT.concat();
    if is_instructed(source) {
        text.insert_str(0, OPTIMISED);
        text.extend(ROOMS);
        text.push_str(NO_LONGER);
    }
    for (name, value) in source.defines {
        let _ = writeln!(text, "#define {name} {value}");
    }
    if source.checked {
        text.push_str("#define MLA_CHECKED 1\n");
    }
    let own = with_room(source.text, &mut text);
    let _ = writeln!(text, "#line 1 {:?}", source.name);
    text.push_str(&own);
    text.push('\n');
    for Kernel {
        name,
        args,
        threads,
    } in kernels(source.text)
    {
        let _ = writeln!(
            text,
            "extern \"C\" const unsigned simt_bytes_{name} = sizeof({args}), simt_threads_{name} = {threads};\n\
             extern \"C\" void simt_{name}(const void* args, unsigned x, unsigned y, unsigned z, bool together, unsigned seed) {{\n  \
             const auto body = [](const void* args) {{ {name}(*static_cast<const {args}*>(args)); }};\n  \
             simt::launch({{body, args, {threads}, {{x, y, z}}, seed}}, together);\n}}"
        );
    }
    text
}

/// The text with room for shared memory whose size a launch says. It is as much as there is, and appended to what stands before the text.
fn with_room(text: &str, before: &mut String) -> String {
    const ASKED: &str = "extern __shared__ u8 ";
    let mut names: Vec<&str> = text
        .split(ASKED)
        .skip(1)
        .filter_map(|rest| rest.split_once("[]").map(|(name, _)| name))
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let _ = writeln!(
            before,
            "alignas(1024) static __thread unsigned char {name}[{}];",
            super::SHARED_BYTES
        );
    }
    text.replace(ASKED, "extern __thread u8 ")
}

/// What a text says of a kernel.
struct Kernel<'a> {
    name: &'a str,
    /// The type of its parameter.
    args: &'a str,
    threads: &'a str,
}

/// A text's kernels: `extern "C" __global__ void __launch_bounds__(THREADS) NAME(const … ARGS args)`.
fn kernels(text: &str) -> impl Iterator<Item = Kernel<'_>> {
    text.split("extern \"C\" __global__")
        .skip(1)
        .filter_map(|kernel| {
            let (head, _) = kernel.split_once(" args)")?;
            let (head, args) = head.rsplit_once("(const ")?;
            let (_, bounds) = head.split_once("__launch_bounds__(")?;
            Some(Kernel {
                name: head.rsplit(' ').next()?,
                args: args.rsplit(' ').next()?,
                threads: bounds.split([',', ')']).next()?,
            })
        })
}
