//! Writes a layer for every option of the language, with its proofs, and the same layer trained: `tests/language.rs` compiles and runs them.

#[path = "../spec/tests/book/blocks.rs"]
#[allow(dead_code, unreachable_pub, reason = "a file that several tests read")]
mod blocks;
#[path = "src/language.rs"]
#[allow(
    unreachable_pub,
    reason = "a library's file, of which this script reads a copy"
)]
mod language;
#[path = "src/random_spec/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "a library's file, of which this script reads a copy"
)]
mod random_spec;

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use mla_codegen::{Files, Kernels, Options, Origin, ProofsOn, emit, module_name};
use mla_spec::Phase;

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

/// Layers whose training is handed something, which proofs of training don't bring.
const HANDED: [&str; 9] = [
    "all_taken",
    "cross",
    "cross_padded",
    "gives_kv",
    "sparse_over_taken_kv",
    "sparse_taken",
    "sparse_taken_pooled",
    "takes_kv",
    "takes_kv_expanded",
];

/// Layers whose results are compared bit by bit: a dense one, a sparse one, one of grouped heads.
const IN_BITS: [&str; 3] = ["plain", "sparse", "grouped"];

/// Random layers that a GPU is judged by.
const RANDOM_LAYERS: u64 = 100;

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=src/language.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let (mut modules, mut trained, mut bits) = (String::new(), String::new(), String::new());
    for (name, checked) in language::language() {
        let folder = out.join("language").join(&name);
        fs::create_dir_all(&folder)?;
        let options = Options {
            tests: !COMPARED_ONLY.contains(&name.as_str()),
            kernels: Kernels::Always,
            ..Options::new(origin(&name))
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
        if IN_BITS.contains(&name.as_str()) {
            let folders = [out.join("bits").join(&name), folder];
            write(&folders[0], &emit(&checked, &options))?;
            bits.push_str(&module(&name, &folders[0]));
            bits.push_str(&module(&format!("{name}_trained"), &folders[1]));
        }
    }
    fs::write(out.join("bits.rs"), bits)?;
    real_training(&out)?;
    book(&out)?;
    fs::write(out.join("trained.rs"), trained)?;
    fs::write(out.join("language.rs"), modules)?;
    println!("cargo:rerun-if-changed=src/random_spec");
    if env::var_os("CARGO_FEATURE_GPU").is_some() {
        random_layers(&out)?;
        proofs(&out)?;
    }
    Ok(())
}

/// DeepSeek-V3's layer as it is trained, in the file `real_training.rs`.
fn real_training(out: &Path) -> io::Result<()> {
    const SPEC: &str = "../spec/models/deepseek-v3.yaml";
    const NAME: &str = "deepseek_v3";
    println!("cargo:rerun-if-changed={SPEC}");
    let checked = language::checked(NAME, &fs::read_to_string(SPEC)?);
    let folder = out.join("real_training").join(NAME);
    let options = Options {
        tests: false,
        kernels: Kernels::Always,
        ..Options::new(origin(NAME))
    };
    write(&folder, &emit(&language::trained(NAME, &checked), &options))?;
    fs::write(out.join("real_training.rs"), module(NAME, &folder))
}

/// The layer of the book's first chapter, which its Rust uses, in the file `book.rs`.
fn book(out: &Path) -> io::Result<()> {
    const CHAPTER: &str = "first-layer.md";
    const NAME: &str = "my_layer";
    println!("cargo:rerun-if-changed=../docs/book/src/{CHAPTER}");
    let spec = blocks::file(env!("CARGO_MANIFEST_DIR"), CHAPTER, "my_layer.yaml");
    let folder = out.join("book").join(NAME);
    let options = Options {
        tests: false,
        kernels: Kernels::Always,
        ..Options::new(origin(NAME))
    };
    let mut checked = language::checked(NAME, &spec);
    checked.layer.name = "MyLayer".to_owned();
    write(&folder, &emit(&checked, &options))?;
    fs::write(out.join("book.rs"), module(NAME, &folder))
}

/// Random layers in the file `random.rs`, with comparisons with the oracle on the backend `Here`.
fn random_layers(out: &Path) -> io::Result<()> {
    let mut text = String::new();
    for seed in 0..RANDOM_LAYERS {
        let checked = random_spec::checked(seed);
        let name = module_name(&checked.layer.name);
        let folder = out.join("random").join(&name);
        let options = Options {
            tests: false,
            kernels: Kernels::Always,
            ..Options::new(origin(&name))
        };
        write(&folder, &emit(&checked, &options))?;
        text.push_str(&module(&name, &folder));
        let layer = format!("{name}::{}<Here>, Here", checked.layer.name);
        let phases = &checked.build.phases;
        let cached = phases.contains(&Phase::Prefill) && phases.contains(&Phase::Decode);
        for (is_there, word, judge, phase) in [
            (
                phases.contains(&Phase::Forward),
                "forward",
                "forward_is",
                "",
            ),
            (phases.contains(&Phase::Train), "train", "training_is", ""),
            (phases.contains(&Phase::Mixed), "mixed", "mixed_is", ""),
            (cached, "prefill", "cached_is", ", Phase::Prefill"),
            (cached, "decode", "cached_is", ", Phase::Decode"),
        ] {
            if is_there {
                text.push_str(&format!(
                    "#[test]\nfn {word}_{seed}() {{\n    {judge}_the_oracles::<{layer}>(\"seed {seed}\", &checked({seed}){phase});\n}}\n"
                ));
            }
        }
    }
    fs::write(out.join("random.rs"), text)
}

/// The language's layers with proofs that run on CUDA, in the file `proofs.rs`.
fn proofs(out: &Path) -> io::Result<()> {
    let mut modules = String::new();
    for (name, checked) in language::language() {
        if COMPARED_ONLY.contains(&name.as_str()) {
            continue;
        }
        let folder = out.join("proofs").join(&name);
        let trained = language::trained(&name, &checked);
        let handed = HANDED.contains(&name.as_str());
        let kinds = [("cached", checked), ("trained", trained)];
        for (kind, checked) in kinds.into_iter().take(if handed { 1 } else { 2 }) {
            let folder = folder.join(kind);
            let options = Options {
                kernels: Kernels::Always,
                proofs: ProofsOn::Cuda,
                ..Options::new(origin(&name))
            };
            write(&folder, &emit(&checked, &options))?;
            modules.push_str(&module(&format!("{name}_{kind}"), &folder));
        }
    }
    fs::write(out.join("proofs.rs"), modules)
}

fn origin(name: &str) -> Origin {
    Origin {
        spec: name.to_owned(),
        command: None,
    }
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
