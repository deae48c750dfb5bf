//! Files that may change while the command runs.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

/// How often files are looked at. Looking sees a file that an editor has replaced as well as one that it has written, on every file system.
const PAUSE: Duration = Duration::from_millis(100);

/// What shows that a file has changed; `None`: there is none.
type Stamp = Option<(SystemTime, u64)>;

/// Files, as they were when they were last looked at.
pub(crate) struct Watched {
    files: Vec<(PathBuf, Stamp)>,
}

impl Watched {
    pub(crate) fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files = files.into_iter();
        Self {
            files: files.map(|file| (file.clone(), stamp(&file))).collect(),
        }
    }

    /// Waits until a file is another one, is gone or is there again, and all have stayed as they are for a while: who writes a file empties it first.
    pub(crate) fn wait(&mut self) {
        while !self.look() {
            thread::sleep(PAUSE);
        }
        thread::sleep(PAUSE);
        while self.look() {
            thread::sleep(PAUSE);
        }
    }

    /// Whether any has changed since.
    fn look(&mut self) -> bool {
        let mut changed = false;
        for (file, before) in &mut self.files {
            let now = stamp(file);
            changed |= now != *before;
            *before = now;
        }
        changed
    }
}

fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::Watched;

    #[test]
    fn files_change_come_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a");
        let mut watched = Watched::new([file.clone()]);
        assert!(!watched.look());
        std::fs::write(&file, "1").expect("written");
        assert!(watched.look());
        assert!(!watched.look());
        std::fs::write(&file, "12").expect("written");
        assert!(watched.look());
        std::fs::remove_file(&file).expect("removed");
        assert!(watched.look());
        assert!(!watched.look());
    }
}
