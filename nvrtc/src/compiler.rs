//! NVIDIA's run-time compiler: CUDA C++ to a cubin, without a driver and without headers.
//!
//! It is loaded by our own hand and not through `cudarc`, which would take whichever library the system's loader likes best, and panic
//! where there is none.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use crate::{Error, Result, Source, libraries};

/// What the compiler made of a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Machine code for one architecture.
    pub cubin: Vec<u8>,
    /// What the compiler and the assembler said: see [`report`](crate::report).
    pub log: String,
}

/// A compiler's version, major and minor.
pub type Version = (i32, i32);

/// Whether there is a compiler.
pub fn present() -> bool {
    nvrtc().is_ok()
}

/// The compiler's version.
///
/// # Errors
/// There is none; the message says what to install.
pub fn version() -> Result<Version> {
    Ok(nvrtc()?.version)
}

/// What the compiler is told. All that a cubin depends on stands here or in the source's text and name.
pub fn options(source: &Source<'_>, arch: &str) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={arch}"),
        "--std=c++17".into(),
        // Profilers then show lines of the source
        "-lineinfo".into(),
        // One option each: a list with commas is refused
        // With a driver at hand it would take cubins from another cache, and say nothing of them
        "--no-cache".into(),
        "--ptxas-options=-v".into(),
        "--ptxas-options=-warn-spills".into(),
        "--ptxas-options=-warn-lmem-usage".into(),
    ];
    options.extend(
        source
            .defines
            .iter()
            .map(|(name, value)| format!("--define-macro={name}={value}")),
    );
    if source.checked {
        options.push("--define-macro=MLA_CHECKED".into());
    }
    options
}

/// Compiles for an architecture as hardware has it, e.g. `sm_90a`.
///
/// # Errors
/// There is no compiler, or it refuses; what it says is in the message.
pub fn compile(source: &Source<'_>, arch: &str) -> Result<Compiled> {
    let nvrtc = nvrtc()?;
    let text = terminated(source.text, source.name)?;
    let name = terminated(source.name, source.name)?;
    let options = options(source, arch)
        .iter()
        .map(|option| terminated(option, source.name))
        .collect::<Result<Vec<_>>>()?;

    let program = Program::new(nvrtc, &text, &name)?;
    let outcome = program.compile(&options);
    let log = program.log();
    if let Err(reason) = outcome {
        return Err(Error(format!(
            "{} does not compile for {arch}: {reason}\n{log}",
            source.name
        )));
    }
    let cubin = program.cubin()?;
    if cubin.is_empty() {
        return Err(Error(format!(
            "{}: NVRTC makes no machine code for {arch}, which is not an architecture of hardware",
            source.name
        )));
    }
    Ok(Compiled { cubin, log })
}

/// A string as C has it.
fn terminated(text: &str, name: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error(format!("{name} holds a byte 0")))
}

/// `nvrtcProgram`.
type Handle = *mut c_void;
/// `nvrtcResult`; 0 is success.
type Status = c_int;

/// The library's functions. The library itself is never closed.
struct Nvrtc {
    version: Version,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    destroy: unsafe extern "C" fn(*mut Handle) -> Status,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Status,
    log_size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
    log: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
    error: unsafe extern "C" fn(Status) -> *const c_char,
}

/// The compiler, looked for once.
fn nvrtc() -> Result<&'static Nvrtc> {
    static NVRTC: OnceLock<std::result::Result<Nvrtc, String>> = OnceLock::new();
    NVRTC
        .get_or_init(load)
        .as_ref()
        .map_err(|reason| Error(reason.clone()))
}

/// What the system's loader may know the library by, the newest first.
#[cfg(not(windows))]
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
#[cfg(windows)]
const NAMES: [&str; 2] = ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];

/// Looks for the library and opens it.
fn load() -> std::result::Result<Nvrtc, String> {
    let mut refusals = Vec::new();
    // Who names a folder means that one
    let named = std::env::var_os(libraries::NVRTC_FOLDER).filter(|folder| !folder.is_empty());
    let folders = match &named {
        Some(folder) => vec![folder.into()],
        None => libraries::folders(),
    };
    for folder in folders {
        // NVRTC opens these by name alone, and finds them where they are already open
        for builtins in libraries::named(&folder, "libnvrtc-builtins.so") {
            libraries::preload(&builtins);
        }
        for name in NAMES {
            let path = folder.join(name);
            if path.is_file() {
                match open(&path) {
                    Ok(nvrtc) => return Ok(nvrtc),
                    Err(reason) => refusals.push(format!("{}: {reason}", path.display())),
                }
            }
        }
    }
    if let Some(folder) = named {
        refusals.push(format!(
            "{} is {}, which has no NVRTC that can be used",
            libraries::NVRTC_FOLDER,
            Path::new(&folder).display()
        ));
    } else {
        for name in NAMES {
            match open(Path::new(name)) {
                Ok(nvrtc) => return Ok(nvrtc),
                Err(reason) => refusals.push(format!("{name}: {reason}")),
            }
        }
    }
    Err(format!(
        "no CUDA compiler: kernels are compiled by NVRTC, which is not found. Install it with `pip install nvidia-cuda-nvrtc` in a \
         virtual environment and activate that, or install the CUDA toolkit and set CUDA_HOME, or set {} to the folder that holds \
         libnvrtc.so.13 and libnvrtc-builtins.so ({})",
        libraries::NVRTC_FOLDER,
        refusals.join("; ")
    ))
}

/// Opens the library at a path, or of a name.
fn open(path: &Path) -> std::result::Result<Nvrtc, String> {
    let library = libraries::open(path).map_err(|error| error.to_string())?;
    /// The function of this name, of the type that the place it is put in has.
    macro_rules! function {
        ($name:literal) => {
            // SAFETY: the types are those of nvrtc.h, unchanged since CUDA 11.1
            *unsafe { library.get(concat!($name, "\0")) }.map_err(|error| error.to_string())?
        };
    }
    let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status = function!("nvrtcVersion");
    let (mut major, mut minor) = (0, 0);
    // SAFETY: it writes two numbers
    let status = unsafe { version(&mut major, &mut minor) };
    if status != 0 {
        return Err(format!("nvrtcVersion fails with {status}"));
    }
    let nvrtc = Nvrtc {
        version: (major, minor),
        create: function!("nvrtcCreateProgram"),
        destroy: function!("nvrtcDestroyProgram"),
        compile: function!("nvrtcCompileProgram"),
        log_size: function!("nvrtcGetProgramLogSize"),
        log: function!("nvrtcGetProgramLog"),
        cubin_size: function!("nvrtcGetCUBINSize"),
        cubin: function!("nvrtcGetCUBIN"),
        error: function!("nvrtcGetErrorString"),
    };
    // The functions are good as long as the library is open: for good
    std::mem::forget(library);
    Ok(nvrtc)
}

impl Nvrtc {
    /// The name of an error, as an error.
    fn check(&self, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: it returns a constant string for every number
        let name = unsafe { (self.error)(status) };
        if name.is_null() {
            return Err(Error(format!("NVRTC fails with {status}")));
        }
        // SAFETY: not null, so such a string
        let name = unsafe { CStr::from_ptr(name) };
        Err(Error(name.to_string_lossy().into_owned()))
    }
}

/// A text in the compiler's hands.
struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: Handle,
}

impl<'a> Program<'a> {
    fn new(nvrtc: &'a Nvrtc, text: &CStr, name: &CStr) -> Result<Self> {
        let mut handle = ptr::null_mut();
        // SAFETY: the strings end with 0, and there are no headers
        let status = unsafe {
            (nvrtc.create)(
                &mut handle,
                text.as_ptr(),
                name.as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
            )
        };
        nvrtc.check(status)?;
        Ok(Self { nvrtc, handle })
    }

    fn compile(&self, options: &[CString]) -> Result<()> {
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: as many strings as are announced
        let status =
            unsafe { (self.nvrtc.compile)(self.handle, options.len() as c_int, options.as_ptr()) };
        self.nvrtc.check(status)
    }

    /// What was said; nothing where even that fails, which is never what is worth reporting.
    fn log(&self) -> String {
        let bytes = self
            .bytes(self.nvrtc.log_size, self.nvrtc.log)
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.trim_end_matches('\0').trim_end().to_string()
    }

    fn cubin(&self) -> Result<Vec<u8>> {
        self.bytes(self.nvrtc.cubin_size, self.nvrtc.cubin)
    }

    /// What a pair of functions tells: how long it is, and what.
    fn bytes(
        &self,
        size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
        read: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
    ) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: it writes a number
        let status = unsafe { size(self.handle, &mut len) };
        self.nvrtc.check(status)?;
        let mut bytes = vec![0_u8; len];
        // SAFETY: there is as much room as it asked for
        let status = unsafe { read(self.handle, bytes.as_mut_ptr().cast()) };
        self.nvrtc.check(status)?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `create`, and destroyed only here
        unsafe { (self.nvrtc.destroy)(&mut self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    fn source(text: &str) -> Source<'_> {
        Source {
            name: "add.cu",
            text,
            defines: &[("NUMBER", "float")],
            checked: false,
        }
    }

    const ADD: &str = r#"
extern "C" __global__ void __launch_bounds__(128) add(NUMBER* x) {
  __shared__ NUMBER s[128];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] += s[127 - threadIdx.x];
}
"#;

    #[test]
    fn a_kernel_is_compiled_without_driver_and_headers() {
        if !present() {
            eprintln!("no NVRTC here: skipped");
            return;
        }
        assert!(version().unwrap() >= (12, 0));
        for arch in ["sm_90a", "sm_80"] {
            let compiled = compile(&source(ADD), arch).unwrap();
            assert_eq!(&compiled.cubin[..4], b"\x7fELF");
            let report = report(&compiled.log);
            let add = report.function("add").unwrap();
            assert!(add.registers > 0, "{report:?}");
            assert_eq!(add.shared_bytes, 512);
            assert_eq!(report.spilled(), None);
        }
    }

    #[test]
    fn what_the_compiler_says_is_in_the_error() {
        if !present() {
            eprintln!("no NVRTC here: skipped");
            return;
        }
        let refused = |text, arch| compile(&source(text), arch).unwrap_err().to_string();
        let undefined = refused("extern \"C\" __global__ void f() { g(); }", "sm_90a");
        assert!(undefined.contains("add.cu"), "{undefined}");
        assert!(
            undefined.contains("identifier \"g\" is undefined"),
            "{undefined}"
        );
        assert!(refused(ADD, "sm_1").contains("--gpu-architecture"));
        assert!(refused(ADD, "compute_90a").contains("compute_90a"));
        assert!(refused("\0", "sm_90a").contains("a byte 0"));
    }

    #[test]
    fn every_option_is_one_of_a_kind() {
        let mut checked = source(ADD);
        checked.checked = true;
        let options = options(&checked, "sm_90a");
        assert_eq!(options[0], "--gpu-architecture=sm_90a");
        assert!(options.contains(&"--define-macro=NUMBER=float".into()));
        assert!(options.contains(&"--define-macro=MLA_CHECKED".into()));
    }
}
