//! The file behind `spec = "..."`: found, read, and watched for changes.

use std::path::{Path, PathBuf};

use mla_spec::read::{self, SPEC_FILE};
use mla_spec::{Document, Sources};
use proc_macro2::TokenStream;
use quote::quote;

use crate::errors;

/// A spec file that was read.
pub(crate) struct SpecFile {
    /// Its text and the places in it.
    pub(crate) sources: Sources,
    /// What it says; `None` after an error, which `tokens` holds.
    pub(crate) document: Option<Document>,
    /// A constant that makes rustc watch the file, and errors.
    pub(crate) tokens: TokenStream,
}

/// Reads the file that `literal` names.
pub(crate) fn read(literal: &syn::LitStr) -> SpecFile {
    let mut file = SpecFile {
        sources: Sources::default(),
        document: None,
        tokens: TokenStream::new(),
    };
    let (path, text) = match find(literal).and_then(|path| open(&path).map(|text| (path, text))) {
        Ok(found) => found,
        Err(message) => {
            file.tokens = errors::at(literal.span(), &format!("{message} [{SPEC_FILE}]"));
            return file;
        }
    };
    file.tokens = quote!(
        const _: &[u8] = ::core::include_bytes!(#path);
    );
    match read::yaml(&mut file.sources, &literal.value(), &text) {
        Ok(document) => file.document = Some(document),
        Err(diagnostics) => {
            file.tokens
                .extend(errors::of_file(&diagnostics, &file.sources, literal))
        }
    }
    file
}

/// The absolute path of the file: below the folder of `Cargo.toml`, else beside the source file.
///
/// The second place is for compilers that run elsewhere than in the package, such as trybuild's.
fn find(literal: &syn::LitStr) -> Result<String, String> {
    let candidates: Vec<_> = folders(literal)
        .into_iter()
        .map(|folder| folder.join(literal.value()))
        .collect();
    let Some(path) = candidates.iter().find(|path| path.is_file()) else {
        let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
        return Err(format!(
            "no file `{}`, neither in the folder of package `{package}` nor beside this source file",
            literal.value(),
        ));
    };
    let path =
        std::path::absolute(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    match path.to_str() {
        Some(path) => Ok(path.to_owned()),
        None => Err(format!(
            "the path `{}` is not Unicode, which rustc needs it to be",
            path.display()
        )),
    }
}

fn folders(literal: &syn::LitStr) -> Vec<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let source = proc_macro::is_available()
        .then(|| literal.span().unwrap().local_file())
        .flatten();
    let source = source.as_deref().and_then(Path::parent).map(Path::to_owned);
    manifest.into_iter().chain(source).collect()
}

fn open(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("can't read `{path}`: {error}"))
}
