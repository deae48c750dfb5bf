//! Random layers over the whole language: emitted, compiled, their own tests run, and their numbers compared with the oracle's.
//!
//! Sixteen of them, or as many as `MLA_RANDOM_SPECS` says. They are compiled many to a crate, in a workspace of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use mla_codegen::{Options, Origin, emit, module_name};
use mla_spec::{Checked, Phase};
use mla_tests::random_spec;

/// Layers per crate: a crate is compiled on one core, and two crates side by side.
const PER_CRATE: u64 = 8;

fn wanted() -> u64 {
    match env::var("MLA_RANDOM_SPECS") {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("`MLA_RANDOM_SPECS` is a number of layers, found `{text}`")),
        Err(_) => 16,
    }
}

#[test]
fn emitted_tests_of_random_layers_pass() {
    let wanted = wanted();
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("random_layers");
    let parts = wanted.div_ceil(PER_CRATE);
    write_workspace(&root, parts);
    for part in 0..parts {
        let seeds = part * PER_CRATE..wanted.min((part + 1) * PER_CRATE);
        write_crate(&root.join(format!("part_{part}")), part, seeds);
    }
    let output = Command::new(env!("CARGO"))
        .args([
            "test",
            "--workspace",
            "--offline",
            "--quiet",
            "--no-fail-fast",
        ])
        .current_dir(&root)
        .env("CARGO_TARGET_DIR", root.join("target"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let passed = passed_tests(&String::from_utf8_lossy(&output.stdout));
    assert!(
        passed >= 5 * wanted,
        "{passed} tests passed in {wanted} layers"
    );
}

/// Tests that cargo's closing lines count as passed.
fn passed_tests(stdout: &str) -> u64 {
    let counts = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. "));
    counts
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn write_workspace(root: &Path, parts: u64) {
    let members: Vec<String> = (0..parts).map(|part| format!("\"part_{part}\"")).collect();
    write(
        &root.join("Cargo.toml"),
        &format!(
            "[workspace]\nresolver = \"3\"\nmembers = [{}]\n\n[profile.dev]\ndebug = false\n\n[profile.dev.package.\"*\"]\nopt-level = 2\n",
            members.join(", ")
        ),
    );
    let lock =
        fs::read_to_string(repository().join("Cargo.lock")).expect("the lock file is committed");
    write(&root.join("Cargo.lock"), &lock);
}

fn write_crate(folder: &Path, part: u64, seeds: std::ops::Range<u64>) {
    let room = |name: &str| repository().join(name);
    let (runtime, spec, codegen) = (room("runtime"), room("spec"), room("codegen"));
    write(
        &folder.join("Cargo.toml"),
        &format!(
            "[package]\nname = \"part_{part}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lib]\ndoctest = false\n\n\
             [lints.rust]\nwarnings = \"deny\"\n\n[dependencies]\n\
             mla-runtime = {{ path = {runtime:?}, default-features = false, features = [\"proof\"] }}\n\n\
             [dev-dependencies]\nmla-spec = {{ path = {spec:?} }}\nmla-codegen = {{ path = {codegen:?} }}\n"
        ),
    );
    let mut lib = String::from("//! Random layers.\n\n");
    let mut oracle = comparison(part);
    for seed in seeds {
        let checked = random_spec::checked(seed);
        let name = module_name(&checked.layer.name);
        lib.push_str(&format!("pub mod {name};\n"));
        oracle.push_str(&compared(seed, &name, &checked));
        let origin = Origin {
            spec: format!("random spec {seed}"),
            command: None,
        };
        for (file, text) in &emit(&checked, &Options::new(origin)).0 {
            write(&folder.join("src").join(&name).join(file), text);
        }
    }
    write(&folder.join("src/lib.rs"), &lib);
    write(&folder.join("tests/oracle.rs"), &oracle);
}

/// The head of a crate's comparison with the oracle: how layers are compared, as these tests do it.
fn comparison(part: u64) -> String {
    let source = |file: &str| repository().join("tests/src").join(file);
    format!(
        "//! Random layers against the oracle.\n\n\
         #[path = {:?}]\n#[allow(dead_code, unreachable_pub)]\nmod against_oracle;\n\
         #[path = {:?}]\n#[allow(dead_code, unreachable_pub)]\nmod random_spec;\n\n\
         use part_{part} as layers;\n",
        source("against_oracle.rs"),
        source("random_spec/mod.rs"),
    )
}

/// Tests of a layer in each of its phases; in the cached ones where it has both.
fn compared(seed: u64, name: &str, checked: &Checked) -> String {
    let phases = &checked.build.phases;
    let layer = format!(
        "layers::{name}::{}<mla_runtime::Cpu<f64>>, mla_runtime::Cpu<f64>",
        checked.layer.name
    );
    let mut calls = Vec::new();
    if phases.contains(&Phase::Forward) {
        calls.push(("forward", "forward_is_the_oracles", String::new()));
    }
    if phases.contains(&Phase::Train) {
        calls.push(("train", "training_is_the_oracles", String::new()));
    }
    if phases.contains(&Phase::Prefill) && phases.contains(&Phase::Decode) {
        for (word, phase) in [("prefill", "Prefill"), ("decode", "Decode")] {
            let phase = format!(", mla_spec::Phase::{phase}");
            calls.push((word, "cached_is_the_oracles", phase));
        }
    }
    if phases.contains(&Phase::Mixed) {
        calls.push(("mixed", "mixed_is_the_oracles", String::new()));
    }
    let tests = calls.into_iter().map(|(word, judge, phase)| {
        format!(
            "\n#[test]\nfn {word}_{seed}() {{\n    against_oracle::{judge}::<{layer}>(\"seed {seed}\", \
             &random_spec::checked({seed}){phase});\n}}\n"
        )
    });
    tests.collect()
}

/// Writes a file unless it holds this text, so that cargo compiles only what changed.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return;
    }
    fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the checkout")
}
