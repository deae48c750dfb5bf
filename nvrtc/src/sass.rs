//! What a cubin's kernels are made of, instruction by instruction: NVIDIA's disassembler, and counting in what it prints.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, io, process};

use crate::{Error, Result, libraries};

/// The disassembler's name.
const NVDISASM: &str = if cfg!(windows) {
    "nvdisasm.exe"
} else {
    "nvdisasm"
};

/// A kernel as the hardware runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disassembly {
    /// Its name.
    pub kernel: String,
    /// Its instructions in order, without predicates and operands: `HGMMA.64x128x16.F32.BF16`. The padding behind the end is left out.
    pub instructions: Vec<String>,
}

impl Disassembly {
    /// How many instructions are `opcode`, whatever its modifiers: `LDL`, or `WARPGROUP.DEPBAR`.
    pub fn count(&self, opcode: &str) -> usize {
        let is_one = |instruction: &&String| {
            instruction
                .strip_prefix(opcode)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.instructions.iter().filter(is_one).count()
    }
}

/// Whether there is a disassembler.
pub fn disassembles() -> bool {
    nvdisasm().is_some()
}

/// The kernels of a cubin, in the order in which they stand in it.
///
/// # Errors
/// There is no disassembler, or it refuses; what it says is in the message.
pub fn disassemble(cubin: &[u8]) -> Result<Vec<Disassembly>> {
    let program = nvdisasm().ok_or_else(|| {
        Error(format!(
            "no disassembler: {NVDISASM} is not found. Install it with `pip install nvidia-cuda-nvdisasm` beside NVRTC, or install \
             the CUDA toolkit and set CUDA_HOME"
        ))
    })?;
    let failed = |reason: io::Error| Error(format!("{}: {reason}", program.display()));
    // It reads files alone
    let file = Unnamed::write(cubin).map_err(failed)?;
    let output = Command::new(program)
        .arg("--print-code")
        .arg(&file.0)
        .output()
        .map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error(format!("{}: {}", program.display(), said.trim())));
    }
    Ok(read(&String::from_utf8_lossy(&output.stdout)))
}

/// The kernels in what the disassembler prints.
fn read(text: &str) -> Vec<Disassembly> {
    let mut kernels: Vec<Disassembly> = Vec::new();
    for line in text.lines() {
        if let Some(name) = section(line) {
            kernels.push(Disassembly {
                kernel: name.to_owned(),
                instructions: Vec::new(),
            });
        } else if let (Some(kernel), Some(opcode)) = (kernels.last_mut(), opcode(line)) {
            kernel.instructions.push(opcode.to_owned());
        }
    }
    for kernel in &mut kernels {
        // Code ends with a branch to itself, and after it is filled up
        let used = kernel.instructions.iter().rposition(|one| one != "NOP");
        kernel
            .instructions
            .truncate(used.map_or(0, |last| last + 1));
    }
    kernels
}

/// The kernel whose code begins here: `.section .text.NAME,"ax",@progbits`.
fn section(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix(".section")?.trim_start();
    Some(rest.strip_prefix(".text.")?.split(',').next()?.trim())
}

/// The opcode in a line of code: `/*0a30*/ @!P0 BRA `(.L_x_7) ;`.
fn opcode(line: &str) -> Option<&str> {
    let (place, code) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    if place.is_empty() || !place.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    code.split([' ', '\t', ';'])
        .find(|word| !word.is_empty() && !word.starts_with('@') && *word != "{")
}

/// Where the disassembler is, looked for once.
fn nvdisasm() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let systems = env::var_os("PATH").unwrap_or_default();
            found_in(libraries::program_folders(), &systems)
        })
        .as_deref()
}

/// The disassembler in the first of these folders that has it, or of those in a search path.
fn found_in(folders: Vec<PathBuf>, systems: &OsStr) -> Option<PathBuf> {
    folders
        .into_iter()
        .chain(env::split_paths(systems))
        .map(|folder| folder.join(NVDISASM))
        .find(|path| path.is_file())
}

/// A file that is gone with the value.
struct Unnamed(PathBuf);

impl Unnamed {
    fn write(bytes: &[u8]) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mla-nvrtc-{}-{next}.cubin", process::id());
        let file = Self(env::temp_dir().join(name));
        fs::write(&file.0, bytes)?;
        Ok(file)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // What is left behind lies among temporary files
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, compile, present};

    /// nvdisasm 13.5's words.
    const TEXT: &str = "\
\t.headerflags\t@\"EF_CUDA_TEXMODE_UNIFIED EF_CUDA_64BIT_ADDRESS\"
//--------------------- .text.multiply            --------------------------
\t.section\t.text.multiply,\"ax\",@progbits
\t.align\t128
        .global         multiply
        .type           multiply,@function
multiply:
.text.multiply:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_7:
\t//## File \"multiply.cu\", line 12
        /*09a0*/                   WARPGROUP.ARRIVE ;
        /*0a30*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0ac0*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*0ad0*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0ae0*/              @!P0 BRA `(.L_x_7) ;
        /*0af0*/                   EXIT ;
.L_x_8:
        /*0b00*/                   BRA `(.L_x_8);
        /*0b10*/                   NOP;
\t.section\t.text.add,\"ax\",@progbits
        /*0000*/                   EXIT ;";

    #[test]
    fn instructions_are_counted_by_kernel_and_opcode() {
        let kernels = read(TEXT);
        let [multiply, add] = &kernels[..] else {
            panic!("{kernels:?}");
        };
        assert_eq!(
            (multiply.kernel.as_str(), add.kernel.as_str()),
            ("multiply", "add")
        );
        assert_eq!(multiply.instructions.len(), 8);
        assert_eq!(multiply.instructions[2], "HGMMA.64x128x16.F32.BF16");
        assert_eq!(multiply.count("HGMMA"), 2);
        assert_eq!(multiply.count("WARPGROUP.DEPBAR"), 1);
        assert_eq!(multiply.count("WARPGROUP"), 2);
        assert_eq!(multiply.count("BRA"), 2);
        // A name is no beginning of another
        assert_eq!((multiply.count("LD"), multiply.count("NOP")), (0, 0));
        assert_eq!(add.instructions, ["EXIT"]);
        assert!(read("").is_empty());
    }

    #[test]
    fn the_first_disassembler_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str| root.path().join(name);
        for name in ["package", "system"] {
            fs::create_dir(folder(name)).unwrap();
            fs::write(folder(name).join(NVDISASM), "").unwrap();
        }
        let (package, systems) = (folder("package"), folder("system"));
        let path = Some(package.join(NVDISASM));
        let folders = vec![folder("absent"), package];
        assert_eq!(found_in(folders, systems.as_os_str()), path);
        let path = Some(systems.join(NVDISASM));
        assert_eq!(found_in(Vec::new(), systems.as_os_str()), path);
        assert_eq!(found_in(Vec::new(), OsStr::new("")), None);
    }

    #[test]
    fn a_cubin_is_taken_apart() {
        if !present() || !disassembles() {
            eprintln!("no NVRTC or no nvdisasm here: skipped");
            return;
        }
        let source = Source {
            name: "twice.cu",
            text: "extern \"C\" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }",
            defines: &[],
            checked: false,
        };
        let compiled = compile(&source, "sm_90a").unwrap();
        let kernels = disassemble(&compiled.cubin).unwrap();
        assert_eq!(kernels.len(), 1);
        assert_eq!(kernels[0].kernel, "twice");
        assert_eq!((kernels[0].count("LDG"), kernels[0].count("STG")), (1, 1));
        assert!(disassemble(b"no cubin").is_err());
    }
}
