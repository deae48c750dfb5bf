//! A generated layer as a shared library with a C ABI, and the header that says how it is called.

use std::path::{Path, PathBuf};

use mla_codegen::{Kernels, Options, Origin, plan};
use mla_spec::{Checked, Phase};

use super::kept::{KeptCrate, Kind};
use super::program::{element, kernel_list};
use crate::failure::Failure;
use crate::folder::{self, Files};

/// Name of the header, which is the same for all libraries.
const HEADER: &str = "mla.h";
/// The header.
const HEADER_TEXT: &str = include_str!("mla.h");

/// Compiles a layer to a shared library and writes it, with the header beside it; returns where the header is.
pub(crate) fn build(checked: &Checked, file: &Path) -> Result<PathBuf, Failure> {
    let kept = KeptCrate {
        kind: Kind::Library,
        sources: sources(checked)?,
        features: "\"cuda\"",
        message: format!("compiling `{}` as a library", checked.layer.name),
    };
    let built = kept.compile()?;
    std::fs::copy(built, file).map_err(|error| Failure::write(file, error))?;
    let header = file.with_file_name(HEADER);
    folder::write_file(&header, HEADER_TEXT.as_bytes())?;
    Ok(header)
}

/// `lib.rs`, the layer, and the kernels that single operations take.
fn sources(checked: &Checked) -> Result<Files, Failure> {
    let phases = exported(&checked.build.phases);
    if phases.is_empty() {
        let message = "`--shared` has nothing to export: the spec's `phases` name none of forward, prefill, decode and mixed";
        return Err(Failure::Usage(message.to_owned()));
    }
    let origin = Origin {
        spec: checked.layer.name.clone(),
        command: None,
    };
    let options = Options {
        tests: false,
        kernels: Kernels::Always,
        ..Options::new(origin)
    };
    let name = &checked.layer.name;
    let element = element(checked);
    let lib = format!(
        "// {marker} {version}: a generated layer behind `{HEADER}`.\n\n\
         mod layer;\n\
         mod operations;\n\n\
         mla_runtime::export_layer!(layer::{name}<mla_runtime::Cuda<{element}>> as \"{name}\" in {element}:\n    \
         {phases}; prepared by operations::add);\n",
        marker = folder::MARKER,
        version = env!("CARGO_PKG_VERSION"),
        phases = phases.join(", "),
    );
    Ok(folder::texts([
        ("lib.rs".to_owned(), lib),
        (
            "layer.rs".to_owned(),
            mla_codegen::emit_module_text(checked, &options),
        ),
        ("operations.rs".to_owned(), operations(checked, element)),
    ]))
}

/// Phases as `export_layer!` lists them.
fn exported(phases: &[Phase]) -> Vec<&'static str> {
    let mut listed = Vec::new();
    if phases.contains(&Phase::Forward) {
        listed.push("forward");
    }
    let cached = [
        (Phase::Prefill, "prefill"),
        (Phase::Decode, "decode"),
        (Phase::Mixed, "mixed"),
    ];
    let cached = cached.map(|(phase, word)| phases.contains(&phase).then_some(word));
    if cached.iter().any(Option::is_some) {
        listed.push("cache");
    }
    listed.extend(cached.into_iter().flatten());
    listed
}

/// Kernels, and the function that gives them to a device.
fn operations(checked: &Checked, element: &str) -> String {
    let units = plan::operation_kernels(&plan::program(checked), checked.layer.latent());
    let kernels = units.iter().map(|unit| (unit.name(), unit.text()));
    format!(
        "//! Kernels of single operations.\n\n\
         use mla_runtime::{{Backend, Cuda, CudaDevice, Result}};\n\n\
         {}\n\
         /// Gives a device the kernels.\n\
         pub(crate) fn add(device: &CudaDevice) -> Result<()> {{\n    \
         Cuda::<{element}>::add_kernels(device, KERNELS, &[])\n}}\n",
        kernel_list("KERNELS", kernels)
    )
}
