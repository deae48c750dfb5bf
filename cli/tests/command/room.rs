//! A folder to work in, and the command run there.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// A folder that goes away with it.
pub(crate) struct Room {
    folder: tempfile::TempDir,
}

/// How a command went.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Files and folders in here, by name.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Runs `mla-gen` in here. Compiled programs are shared by all tests.
    pub(crate) fn run(&self, words: &[&str]) -> Told {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../mla-gen");
        self.run_with(words, &[("MLA_CACHE_DIR", cache.to_str().unwrap())])
    }

    pub(crate) fn run_with(&self, words: &[&str], environment: &[(&str, &str)]) -> Told {
        let output = Command::new(env!("CARGO_BIN_EXE_mla-gen"))
            .args(words)
            .envs(environment.iter().copied())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Told {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts `mla-gen` in here.
    pub(crate) fn start(&self, words: &[&str]) -> Running {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mla-gen"))
            .args(words)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Nobody listens once the test is over
            let _ = stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line));
        });
        Running { child, lines }
    }
}

/// A command that goes on until it is dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// What it says on stderr up to a line with this word.
    pub(crate) fn until(&mut self, word: &str) -> String {
        let mut told = String::new();
        while !told.lines().last().is_some_and(|line| line.contains(word)) {
            // Longer than the busiest machine takes: who says nothing fails, and doesn't hang
            let line = self.lines.recv_timeout(Duration::from_secs(120));
            let line = line.unwrap_or_else(|_| panic!("no `{word}` after `{told}`"));
            told.push_str(&(line + "\n"));
        }
        told
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file of the checkout.
pub(crate) fn checkout(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join(path)
        .to_str()
        .unwrap()
        .to_owned()
}
