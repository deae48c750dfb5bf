//! A crate of generated code that is written, compiled, and kept under a digest of everything that it is compiled from.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cargo;
use super::home::{self, Home};
use crate::failure::Failure;
use crate::folder::{self, Files};
use crate::package::{self, Runtime};
use crate::talk;

/// What a crate is compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An executable, from `main.rs`.
    Program,
    /// A shared library for C, from `lib.rs`.
    Library,
}

/// A crate.
#[derive(Debug)]
pub(super) struct KeptCrate {
    pub(super) kind: Kind,
    /// The files of `src`.
    pub(super) sources: Files,
    /// Of the runtime, as a manifest lists them.
    pub(super) features: &'static str,
    /// What is said while it compiles.
    pub(super) message: String,
}

impl KeptCrate {
    /// Compiles the crate, or finds it compiled; returns what it was compiled to.
    pub(super) fn compile(&self) -> Result<PathBuf, Failure> {
        let runtime = Runtime::find(None)?;
        let lock = package::checkout().and_then(|root| std::fs::read(root.join("Cargo.lock")).ok());
        let key = self.key(&runtime, lock.as_deref())?;
        if let Some(path) = home::kept(&key) {
            return Ok(path);
        }
        let home = Home::open()?;
        if let Some(path) = home::kept(&key) {
            return Ok(path); // somebody else compiled it while this process waited
        }
        let folder = home.folder(&key);
        self.write(&folder, &self.manifest(&key, &runtime), lock.as_deref())?;
        let build = || cargo::build(&folder, &home.target(), self.kind);
        let built = talk::progress(self.message.clone(), build)?;
        home.keep(&key, &built)
    }

    fn manifest(&self, key: &str, runtime: &Runtime) -> String {
        let target = match self.kind {
            Kind::Program => {
                format!("[[bin]]\nname = \"mla-program-{key}\"\npath = \"src/main.rs\"\n")
            }
            Kind::Library => {
                format!("[lib]\nname = \"mla_library_{key}\"\ncrate-type = [\"cdylib\"]\n")
            }
        };
        let features = self.features;
        format!(
            "# {marker} {version}. Do not edit.\n\
         [package]\n\
         name = \"mla-generated-{key}\"\n\
         version = \"0.0.0\"\n\
         edition = \"2024\"\n\
         publish = false\n\
         \n\
         {target}\
         \n\
         [dependencies]\n\
         mla-runtime = {{ {source}, default-features = false, features = [{features}] }}\n\
         \n\
         [workspace]\n\
         \n\
         [profile.release]\n\
         opt-level = 3\n\
         debug = false\n\
         incremental = false\n\
         codegen-units = 16\n",
            marker = folder::MARKER,
            version = env!("CARGO_PKG_VERSION"),
            source = runtime.source(),
        )
    }

    /// What it is found again by: everything that it is compiled from.
    fn key(&self, runtime: &Runtime, lock: Option<&[u8]>) -> Result<String, Failure> {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        self.sources.iter().for_each(|(name, text)| {
            part(name.as_bytes());
            part(text);
        });
        part(self.manifest("", runtime).as_bytes());
        part(lock.unwrap_or_default());
        for flags in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
            part(
                std::env::var_os(flags)
                    .unwrap_or_default()
                    .as_encoded_bytes(),
            );
        }
        if let Runtime::Path(path) = runtime {
            for folder in crates_of(path) {
                for file in files_below(&folder)? {
                    part(file.as_os_str().as_encoded_bytes());
                    part(&std::fs::read(&file).map_err(|error| Failure::read(&file, error))?);
                }
            }
        }
        Ok(hex(&hash.finalize())[..16].to_owned())
    }

    fn write(&self, folder: &Path, manifest: &str, lock: Option<&[u8]>) -> Result<(), Failure> {
        let src = folder.join("src");
        std::fs::create_dir_all(&src).map_err(|error| Failure::write(&src, error))?;
        for (name, text) in &self.sources {
            folder::write_file(&src.join(name), text)?;
        }
        folder::write_file(&folder.join(package::MANIFEST), manifest.as_bytes())?;
        match lock {
            Some(lock) => folder::write_file(&folder.join("Cargo.lock"), lock),
            None => Ok(()),
        }
    }
}

/// The runtime's folder, and those of the crates beside it that it is made of.
fn crates_of(runtime: &Path) -> impl Iterator<Item = PathBuf> {
    let beside = ["nvrtc", "tuned"].map(|name| runtime.with_file_name(name));
    let there = beside.into_iter().filter(|folder| folder.is_dir());
    std::iter::once(runtime.to_owned()).chain(there)
}

/// Every file of a crate but what was built from it, sorted.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![folder.join("src")];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).map_err(|error| Failure::read(&next, error))? {
            let entry = entry.map_err(|error| Failure::read(&next, error))?;
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.push(folder.join(package::MANIFEST));
    found.sort();
    Ok(found)
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
