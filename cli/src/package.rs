//! The crate form of a generated module: `Cargo.toml` and `lib.rs` beside it.

use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::folder::{self, Files, MARKER};

/// Root file of a generated crate.
pub(crate) const LIB: &str = "lib.rs";
/// Manifest of a generated crate.
pub(crate) const MANIFEST: &str = "Cargo.toml";

/// Where a generated crate finds its runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// The folder of the crate.
    Path(PathBuf),
    /// This exact version of the published crate.
    Version(&'static str),
}

/// Root of the checkout that this program was built from, where it still exists.
pub(crate) fn checkout() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let runtime = root.join("runtime");
    (is_runtime(&runtime) && root.join("cli").is_dir()).then(|| root.to_owned())
}

impl Runtime {
    /// The one asked for, else the checkout's, else the published one.
    pub(crate) fn find(asked: Option<&Path>) -> Result<Self, Failure> {
        match (asked, checkout()) {
            (Some(path), _) if !is_runtime(path) => Err(Failure::read(
                path,
                "it is not the folder of the crate `mla-runtime`",
            )),
            (Some(path), _) => {
                let path = std::path::absolute(path).map_err(|error| Failure::read(path, error))?;
                Ok(Runtime::Path(path))
            }
            (None, Some(root)) => Ok(Runtime::Path(root.join("runtime"))),
            (None, None) => Ok(Runtime::Version(env!("CARGO_PKG_VERSION"))),
        }
    }

    /// `path = "..."` or `version = "=..."`.
    pub(crate) fn source(&self) -> String {
        match self {
            Runtime::Path(path) => format!("path = {}", quoted(&path.display().to_string())),
            Runtime::Version(version) => format!("version = \"={version}\""),
        }
    }
}

/// Whether a folder holds the crate `mla-runtime`.
fn is_runtime(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join(MANIFEST))
        .is_ok_and(|text| text.contains("name = \"mla-runtime\""))
}

/// `Cargo.toml` and `lib.rs` of a crate named after the layer or model.
pub(crate) fn files(folder: &Path, snake_name: &str, name: &str, runtime: &Runtime) -> Files {
    let workspace = if lies_in_workspace(folder) {
        ""
    } else {
        "\n# A workspace of its own: no Cargo.toml above is asked.\n[workspace]\n\
         \n# Numerical code is too slow to test unoptimised.\n[profile.dev]\nopt-level = 2\n"
    };
    let source = runtime.source();
    let manifest = format!(
        "# {MARKER} {version}. Do not edit.\n\
         [package]\n\
         name = \"{name}\"\n\
         version = \"0.1.0\"\n\
         edition = \"2024\"\n\
         publish = false\n\
         \n\
         [lib]\n\
         path = \"{LIB}\"\n\
         \n\
         [dependencies]\n\
         mla-runtime = {{ {source}, default-features = false }}\n\
         \n\
         [dev-dependencies]\n\
         # What the generated tests state lives in the runtime.\n\
         mla-runtime = {{ {source}, default-features = false, features = [\"proof\"] }}\n\
         {workspace}",
        version = env!("CARGO_PKG_VERSION"),
        name = snake_name.replace('_', "-"),
    );
    let lib = format!(
        "// {MARKER} {version}. Do not edit.\n\n\
         //! {name} as a crate.\n\n\
         #[path = \"mod.rs\"]\n\
         mod layer;\n\n\
         pub use layer::*;\n",
        version = env!("CARGO_PKG_VERSION"),
    );
    folder::texts([(MANIFEST.to_owned(), manifest), (LIB.to_owned(), lib)])
}

/// Whether a folder above has a `Cargo.toml` with a workspace.
pub(crate) fn lies_in_workspace(folder: &Path) -> bool {
    let Ok(folder) = std::path::absolute(folder) else {
        return false;
    };
    folder.ancestors().skip(1).any(|above| {
        std::fs::read_to_string(above.join(MANIFEST)).is_ok_and(|text| {
            text.lines()
                .any(|line| line.trim_start().starts_with("[workspace"))
        })
    })
}

/// A TOML string. JSON's escapes are TOML's.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_has_its_own_workspace_unless_it_lies_in_one() {
        let room = tempfile::tempdir().unwrap();
        let alone = room.path().join("alone");
        let runtime = Runtime::Version("0.1.0");
        let manifest = files(&alone, "my_layer", "MyLayer", &runtime)
            .remove(MANIFEST)
            .and_then(|text| String::from_utf8(text).ok())
            .unwrap();
        assert!(
            manifest.contains("\n[workspace]\n") && manifest.contains("name = \"my-layer\""),
            "{manifest}"
        );
        assert!(manifest.contains("version = \"=0.1.0\""), "{manifest}");

        std::fs::write(room.path().join(MANIFEST), "[workspace]\nmembers = []\n").unwrap();
        let manifest = files(&alone, "my_layer", "MyLayer", &runtime)
            .remove(MANIFEST)
            .and_then(|text| String::from_utf8(text).ok())
            .unwrap();
        assert!(!manifest.contains("[workspace]"), "{manifest}");
    }

    #[test]
    fn this_checkout_is_found() {
        assert!(
            matches!(Runtime::find(None), Ok(Runtime::Path(path)) if path.ends_with("runtime"))
        );
        assert!(Runtime::find(Some(Path::new("/nowhere"))).is_err());
    }
}
