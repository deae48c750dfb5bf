//! Cubins on disk, so that a kernel is compiled once on a machine and not in every process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::compiler::{self, Compiled, Version};
use crate::{Result, Source};

/// How much the cache may hold, unless told otherwise.
const LIMIT: u64 = 512 << 20;

/// What a file begins with. Another format gets another number here.
const MAGIC: &[u8; 8] = b"mlacub\x00\x01";

/// Magic, the two lengths, the digest.
const HEADER: usize = 8 + 8 + 8 + 32;

/// What the names of entries end with.
const ENTRY: &str = ".cubin";

/// What the names of files end with that are still being written.
const UNFINISHED: &str = ".tmp";

/// An unfinished file of this age is one whose writer died.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// A folder of cubins. Several processes may share it; a folder that can't be used makes compiling slow, and nothing else.
#[derive(Debug, Clone)]
pub struct CubinCache {
    /// `None`: nothing is kept.
    folder: Option<PathBuf>,
    /// Bytes that it may hold.
    limit: u64,
}

/// What a cubin depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// Of a source compiled for `arch` by a compiler of this version.
    pub fn new(source: &Source<'_>, arch: &str, version: Version) -> Self {
        let version = format!("{}.{}", version.0, version.1);
        let options = compiler::options(source, arch);
        let mut digest = Sha256::new();
        // The name stands in the lines that profilers show
        for part in [version.as_str(), source.name, source.text]
            .into_iter()
            .chain(options.iter().map(String::as_str))
        {
            // With its length, so that no two lists of parts run together to the same bytes
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Self(digest.finalize().into())
    }

    /// The file's name.
    fn file_name(&self) -> String {
        let mut name = String::with_capacity(64 + ENTRY.len());
        for byte in self.0 {
            name.push_str(&format!("{byte:02x}"));
        }
        name.push_str(ENTRY);
        name
    }
}

impl CubinCache {
    /// The user's: `$MLA_CACHE_DIR`, or `mla-gen/cubins` in `$XDG_CACHE_HOME` or `~/.cache`.
    pub fn of_user() -> Self {
        Self {
            folder: default_folder(|name| std::env::var_os(name)),
            limit: LIMIT,
        }
    }

    /// In a folder, of at most `limit` bytes. It is made when it is first written.
    pub fn at(folder: impl Into<PathBuf>, limit: u64) -> Self {
        Self {
            folder: Some(folder.into()),
            limit,
        }
    }

    /// The source compiled: from the cache, or by the compiler and kept.
    ///
    /// # Errors
    /// There is no compiler, or it refuses.
    pub fn compile(&self, source: &Source<'_>, arch: &str) -> Result<Compiled> {
        let key = Key::new(source, arch, compiler::version()?);
        if let Some(compiled) = self.get(&key) {
            return Ok(compiled);
        }
        let compiled = compiler::compile(source, arch)?;
        self.put(&key, &compiled);
        Ok(compiled)
    }

    /// What was kept, which is now the last to go. A file that is not as it was written counts as absent.
    pub fn get(&self, key: &Key) -> Option<Compiled> {
        let mut file = File::open(self.folder.as_ref()?.join(key.file_name())).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let compiled = decode(&bytes, key)?;
        // Who may not say when it was used may still use it
        let _ = file.set_modified(SystemTime::now());
        Some(compiled)
    }

    /// Keeps what was compiled, if it can, and lets the longest unused go.
    pub fn put(&self, key: &Key, compiled: &Compiled) {
        let Some(folder) = &self.folder else { return };
        let bytes = encode(compiled, key);
        if bytes.len() as u64 > self.limit {
            return;
        }
        if fs::create_dir_all(folder).is_ok() && write(folder, &key.file_name(), &bytes).is_ok() {
            shrink(folder, self.limit);
        }
    }
}

/// The folder in an environment.
fn default_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("MLA_CACHE_DIR").or_else(|| {
        set("XDG_CACHE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .map(|caches| caches.join("mla-gen").join("cubins"))
    })
}

/// An entry as it lies on disk: what follows the header is the cubin, then the log.
fn encode(compiled: &Compiled, key: &Key) -> Vec<u8> {
    let log = compiled.log.as_bytes();
    let mut bytes = Vec::with_capacity(HEADER + compiled.cubin.len() + log.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(compiled.cubin.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(log.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&digest(key, &compiled.cubin, log));
    bytes.extend_from_slice(&compiled.cubin);
    bytes.extend_from_slice(log);
    bytes
}

/// An entry's content, if it is whole and that of this key.
fn decode(bytes: &[u8], key: &Key) -> Option<Compiled> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (cubin_len, rest) = rest.split_first_chunk::<8>()?;
    let (log_len, rest) = rest.split_first_chunk::<8>()?;
    let (expected, content) = rest.split_first_chunk::<32>()?;
    let cubin_len = usize::try_from(u64::from_le_bytes(*cubin_len)).ok()?;
    let log_len = usize::try_from(u64::from_le_bytes(*log_len)).ok()?;
    let (cubin, log) = content.split_at_checked(cubin_len)?;
    if magic != MAGIC || log.len() != log_len || digest(key, cubin, log) != *expected {
        return None;
    }
    Some(Compiled {
        cubin: cubin.to_vec(),
        log: String::from_utf8(log.to_vec()).ok()?,
    })
}

/// What an entry's content must digest to.
fn digest(key: &Key, cubin: &[u8], log: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(key.0);
    digest.update((cubin.len() as u64).to_le_bytes());
    digest.update(cubin);
    digest.update(log);
    digest.finalize().into()
}

/// Writes a file such that a reader sees all of it or none.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    // Threads of this process differ by the count, processes by their number
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let count = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let unfinished = folder.join(format!("{name}.{}.{count}{UNFINISHED}", std::process::id()));
    let written = File::create_new(&unfinished)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&unfinished, folder.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Removes the longest unused entries until the rest fits, and what dead writers left. Another process may do the same meanwhile:
/// what is already gone is no error.
fn shrink(folder: &Path, limit: u64) {
    let now = SystemTime::now();
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        // The folder may be one that holds other things too
        if !name.get(..64).is_some_and(is_hex) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if name.ends_with(ENTRY) {
            entries.push((used, metadata.len(), entry.path()));
        } else if name.ends_with(UNFINISHED)
            && now.duration_since(used).is_ok_and(|age| age > ABANDONED)
        {
            let _ = fs::remove_file(entry.path());
        }
    }
    let mut held: u64 = entries.iter().map(|(_, len, _)| len).sum();
    entries.sort_unstable();
    for (_, len, path) in entries {
        if held <= limit {
            break;
        }
        let _ = fs::remove_file(path);
        held -= len;
    }
}

/// Whether a name's beginning is that of an entry.
fn is_hex(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
