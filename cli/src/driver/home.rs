//! Where compiled programs and libraries are kept.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::package;

/// The folder, and the lock that keeps other processes out of it until it is dropped.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    _lock: File,
}

/// What was kept under `key`. Nothing is locked: one that is there is finished.
pub(super) fn kept(key: &str) -> Option<PathBuf> {
    candidates()
        .into_iter()
        .map(|home| program(&home, key))
        .find(|path| path.is_file())
}

/// Where what was compiled is kept.
fn program(home: &Path, key: &str) -> PathBuf {
    home.join("programs")
        .join(key)
        .join(format!("program{}", std::env::consts::EXE_SUFFIX))
}

impl Home {
    /// Where the crate of a program is written.
    pub(super) fn folder(&self, key: &str) -> PathBuf {
        self.path.join("programs").join(key)
    }

    /// What cargo builds in, shared by all programs so that the runtime is compiled once.
    pub(super) fn target(&self) -> PathBuf {
        self.path.join("target")
    }

    /// Keeps what was built, whole or not at all, and removes what cargo left of it.
    pub(super) fn keep(&self, key: &str, built: &Path) -> Result<PathBuf, Failure> {
        let program = program(&self.path, key);
        let temporary = program.with_extension("tmp");
        std::fs::copy(built, &temporary)
            .and_then(|_| std::fs::rename(&temporary, &program))
            .map_err(|error| Failure::write(&program, error))?;
        let release = built.parent().unwrap_or(Path::new(""));
        for folder in [release.to_owned(), release.join("deps")] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().contains(key) {
                    // Only space is lost where it can't be removed
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
        Ok(program)
    }

    /// Opens the first folder that can be written: `$MLA_CACHE_DIR` alone where it is set, else `mla-gen` in cargo's target
    /// folder, else in the user's cache.
    pub(super) fn open() -> Result<Self, Failure> {
        let mut first_failure = None;
        for path in candidates() {
            match Self::at(&path) {
                Ok(home) => return Ok(home),
                Err(failure) => first_failure = first_failure.or(Some(failure)),
            }
        }
        Err(first_failure.unwrap_or_else(|| {
            Failure::write(
                Path::new("mla-gen"),
                "no folder for compiled programs is known; set `MLA_CACHE_DIR`",
            )
        }))
    }

    fn at(path: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::write(path, error);
        let path = std::path::absolute(path).map_err(failed)?;
        std::fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        if lock.try_lock().is_err() {
            let message = format!(
                "waiting for another mla-gen that compiles in `{}`",
                path.display()
            );
            crate::talk::progress(message, || lock.lock()).map_err(failed)?;
        }
        Ok(Self { path, _lock: lock })
    }
}

fn candidates() -> Vec<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = set("MLA_CACHE_DIR") {
        return vec![path];
    }
    let target =
        set("CARGO_TARGET_DIR").or_else(|| package::checkout().map(|root| root.join("target")));
    let user = set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .or_else(|| set("LOCALAPPDATA"));
    target
        .into_iter()
        .chain(user)
        .map(|path| path.join("mla-gen"))
        .collect()
}
