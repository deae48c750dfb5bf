//! Where CUDA's libraries lie, and opening them for the rest of the process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use libloading::Library;

/// Names the one folder in which NVRTC is looked for.
pub const NVRTC_FOLDER: &str = "MLA_NVRTC_DIR";

/// Where pip's packages put libraries below `site-packages/nvidia`: those of CUDA 13 all together, those of CUDA 12 one by one.
const PIP_FOLDERS: [&str; 3] = ["cu13/lib", "cuda_nvrtc/lib", "cublas/lib"];

/// The folders to look in before the system's own, the likeliest first.
pub fn folders() -> Vec<PathBuf> {
    let mut folders = folders_of(|name| std::env::var_os(name));
    folders.retain(|folder| folder.is_dir());
    folders
}

/// The folders of programs that belong to those of libraries, whether or not these are there.
pub(crate) fn program_folders() -> Vec<PathBuf> {
    folders_of(|name| std::env::var_os(name))
        .iter()
        .filter_map(|folder| Some(folder.parent()?.join("bin")))
        .collect()
}

/// Where libraries may be, in an environment.
fn folders_of(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let mut folders: Vec<_> = set(NVRTC_FOLDER).into_iter().collect();
    if let Some(venv) = set("VIRTUAL_ENV") {
        for packages in site_packages(&venv) {
            folders.extend(
                PIP_FOLDERS
                    .iter()
                    .map(|folder| packages.join("nvidia").join(folder)),
            );
        }
    }
    for toolkit in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(set) {
        folders.extend([toolkit.join("lib64"), toolkit.join("lib")]);
    }
    folders
}

/// The `site-packages` of a virtual environment, of every Python in it.
fn site_packages(venv: &Path) -> Vec<PathBuf> {
    names_in(&venv.join("lib"))
        .into_iter()
        .filter(|name| name.starts_with("python"))
        .map(|name| venv.join("lib").join(name).join("site-packages"))
        .collect()
}

/// The files of a folder whose names begin so, the last in the order of names first: `lib.so.13.0` comes before `lib.so`.
pub fn named(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    names_in(folder)
        .into_iter()
        .filter(|name| name.starts_with(beginning))
        .map(|name| folder.join(name))
        .collect()
}

/// What a folder holds, the last name first; nothing where it can't be read.
fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable_by(|one, other| other.cmp(one));
    names
}

/// Opens a library whose symbols the libraries opened later can use, and which they find by its name wherever it lies.
pub fn open(path: &Path) -> Result<Library, libloading::Error> {
    #[cfg(unix)]
    {
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        // SAFETY: CUDA's libraries do nothing on loading that needs care
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?;
        Ok(library.into())
    }
    #[cfg(not(unix))]
    {
        // SAFETY: as above
        unsafe { Library::new(path) }
    }
}

/// Opens a library for good, if it is there.
pub fn preload(path: &Path) -> bool {
    match open(path) {
        Ok(library) => {
            // Others hold on to what is in it, and nobody tells when they are done
            std::mem::forget(library);
            true
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_in_the_order_of_what_the_user_said() {
        let root = tempfile::tempdir().unwrap();
        let here = |path: &str| root.path().join(path);
        for folder in [
            "mine",
            "venv/lib/python3.12/site-packages/nvidia/cu13/lib",
            "cuda/lib64",
        ] {
            std::fs::create_dir_all(here(folder)).unwrap();
        }
        let mut folders = folders_of(|name| match name {
            "MLA_NVRTC_DIR" => Some(here("mine").into()),
            "VIRTUAL_ENV" => Some(here("venv").into()),
            "CUDA_HOME" => Some(here("cuda").into()),
            _ => Some(OsString::new()),
        });
        folders.retain(|folder| folder.is_dir());
        assert_eq!(
            folders,
            [
                here("mine"),
                here("venv/lib/python3.12/site-packages/nvidia/cu13/lib"),
                here("cuda/lib64"),
            ]
        );
    }

    #[test]
    fn the_longest_version_comes_first() {
        let root = tempfile::tempdir().unwrap();
        for name in ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0"] {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        assert_eq!(
            named(root.path(), "libnvrtc.so"),
            [
                root.path().join("libnvrtc.so.13"),
                root.path().join("libnvrtc.so")
            ]
        );
        assert!(named(&root.path().join("absent"), "lib").is_empty());
    }
}
