//! Writes a layer for every option of the language, with its proofs, and the same layer trained: `tests/language.rs` compiles and runs them.

#[path = "src/language.rs"]
#[allow(
    unreachable_pub,
    reason = "a library's file, of which this script reads a copy"
)]
mod language;

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use mla_codegen::{Files, Kernels, Options, Origin, emit};

/// Layers whose proofs would be those of the layer `plain` over again, and take as long to compile; the oracle judges them.
const COMPARED_ONLY: [&str; 14] = [
    "llama4_scale",
    "log_position",
    "latent_scale",
    "gate_per_element",
    "llama3",
    "longrope",
    "dynamic",
    "softmax",
    "off_by_one",
    "chunk",
    "arbitrary",
    "fp8",
    "fp8_model1",
    "mxfp8",
];

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=src/language.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let (mut modules, mut trained) = (String::new(), String::new());
    for (name, checked) in language::language() {
        let folder = out.join("language").join(&name);
        fs::create_dir_all(&folder)?;
        let origin = Origin {
            spec: name.clone(),
            command: None,
        };
        let options = Options {
            tests: !COMPARED_ONLY.contains(&name.as_str()),
            kernels: Kernels::Always,
            ..Options::new(origin)
        };
        write(&folder, &emit(&checked, &options))?;
        modules.push_str(&module(&name, &folder));
        let folder = out.join("trained").join(&name);
        fs::create_dir_all(&folder)?;
        let options = Options {
            tests: false,
            ..options
        };
        write(
            &folder,
            &emit(&language::trained(&name, &checked), &options),
        )?;
        trained.push_str(&module(&name, &folder));
    }
    fs::write(out.join("trained.rs"), trained)?;
    fs::write(out.join("language.rs"), modules)
}

fn write(folder: &Path, files: &Files) -> io::Result<()> {
    for (file, text) in &files.0 {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, text)?;
    }
    Ok(())
}

/// The declaration of a layer's module.
fn module(name: &str, folder: &Path) -> String {
    format!("#[path = {:?}]\npub mod {name};\n", folder.join("mod.rs"))
}
