//! One folder that tests and times the CUDA backend where there is no Rust, and its archive in parts.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::steps::{cargo, copy, root, run};

/// Bytes of a part.
const PART: &str = "--bytes=22000000";

/// What is compiled for the cases: a name, and what `mla-gen verify` is told.
const PROGRAMS: [(&str, &[&str]); 4] = [
    ("outputs-f32", &["--dtype", "f32"]),
    ("outputs-bf16", &["--dtype", "bf16"]),
    ("gradients-f32", &["--dtype", "f32", "--grad"]),
    ("gradients-bf16", &["--dtype", "bf16", "--grad"]),
];

/// Test binaries: a name, and what cargo is told.
const TESTS: [(&str, &[&str]); 9] = [
    (
        "kernels",
        &["-p", "mla-runtime", "--features", "cuda,proof", "--lib"],
    ),
    ("language", &["-p", "mla-tests", "--test", "language"]),
    ("graphs", &["-p", "mla-tests", "--test", "decode_graph"]),
    ("full-size", &["-p", "mla-tests", "--test", "full_size"]),
    ("bits", &["-p", "mla-tests", "--test", "bits"]),
    (
        "out-of-memory",
        &["-p", "mla-tests", "--test", "out_of_memory"],
    ),
    ("tuning", &["-p", "mla-tests", "--test", "tune_products"]),
    (
        "random",
        &[
            "-p",
            "mla-tests",
            "--features",
            "gpu",
            "--test",
            "random_on_cuda",
        ],
    ),
    (
        "proofs",
        &[
            "-p",
            "mla-tests",
            "--features",
            "gpu",
            "--test",
            "proofs_on_cuda",
        ],
    ),
];

/// Specs whose layers are timed, and what `mla-gen bench` is told so that all that is timed is compiled.
const TIMED: [&str; 2] = ["deepseek-v3", "deepseek-v3.2"];
const TIMES: [&str; 6] = ["--dtype", "bf16", "--prefill", "1", "--train", "1"];

/// Modules that make a benchmark of peers one of ours, too.
const HOOKS: [&str; 3] = ["ours.py", "ours_layers.py", "ours_small.py"];

/// Specs of whole layers that say themselves how they are built.
const LAYERS: [&str; 4] = [
    "deepseek-v3-bf16",
    "deepseek-v3-fp8_ds_mla",
    "deepseek-v3.2-bf16",
    "deepseek-v3.2-fp8_ds_mla",
];

/// Specs whose kernels `ours_small.py` launches by themselves, and what those are called.
const LAUNCHED: [&str; 2] = ["deepseek-v3-bf16", "deepseek-v3.2-bf16"];
const KERNELS: [&str; 2] = ["prologue_", "rotate_"];

/// Libraries for the peers' harness, as `benches/ours.py` looks for them: a name, and a spec.
const LIBRARIES: [(&str, &str); 8] = [
    ("deepseek-v3.so", "spec/models/deepseek-v3.yaml"),
    ("deepseek-v3.2.so", "spec/models/deepseek-v3.2.yaml"),
    ("deepseek-v3-plain.so", "benches/deepseek-v3-plain.yaml"),
    ("glm-4.7-flash.so", "spec/models/glm-4.7-flash.yaml"),
    ("mistral-4.so", "spec/models/mistral-4.yaml"),
    ("minicpm3.so", "spec/models/minicpm3.yaml"),
    ("rows-192.so", "benches/rows-192.yaml"),
    ("rows-64.so", "benches/rows-64.yaml"),
];

/// Packs it. Without cases, those of `tests/golden`.
pub(crate) fn bundle(cases: &[PathBuf], out: Option<PathBuf>) -> Result<(), String> {
    let out = out.unwrap_or_else(|| root().join("target/bundle"));
    let folder = out.join("mla-bundle");
    let failed = |error: std::io::Error| format!("{}: {error}", out.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    for inside in ["bin", "programs", "tests", "cases", "specs", "peers"] {
        fs::create_dir_all(folder.join(inside)).map_err(failed)?;
    }
    let cases = match cases {
        [] => golden()?,
        cases => cases.to_vec(),
    };
    for case in &cases {
        let name = case
            .file_name()
            .ok_or_else(|| format!("{} has no name", case.display()))?;
        copy(case, &folder.join("cases").join(name))?;
    }
    let command = one(cargo(&["build", "--release", "-p", "mla-gen"])?)?;
    stripped(&command, &folder.join("bin/mla-gen"))?;
    for (name, arguments) in TESTS {
        let built = cargo(&[&["test", "--no-run"], arguments].concat())?;
        stripped(&one(built)?, &folder.join("tests").join(name))?;
    }
    for (name, arguments) in PROGRAMS {
        let program = folder.join("programs").join(name);
        let fixed = ["verify", "--backend", "cuda", "--compile-to"].map(OsStr::new);
        let mut words = fixed.to_vec();
        words.push(program.as_os_str());
        words.extend(arguments.iter().map(OsStr::new));
        words.extend(cases.iter().map(|case| case.as_os_str()));
        run(&command, &words)?;
        stripped(&program, &program)?;
    }
    timed(&command, &folder)?;
    tuner(&command, &folder)?;
    libraries(&command, &folder.join("peers"))?;
    copy(&root().join("xtask/run.sh"), &folder.join("run.sh"))?;
    archive(&out)
}

/// Programs that time layers, and the layers' specs.
fn timed(command: &Path, folder: &Path) -> Result<(), String> {
    for name in TIMED {
        let spec = root().join(format!("spec/models/{name}.yaml"));
        let program = folder.join("programs").join(format!("bench-{name}"));
        let fixed = ["bench", "--backend", "cuda", "--compile-to"].map(OsStr::new);
        let mut words = fixed.to_vec();
        words.push(program.as_os_str());
        words.extend(TIMES.iter().map(OsStr::new));
        words.push(spec.as_os_str());
        run(command, &words)?;
        stripped(&program, &program)?;
        copy(&spec, &folder.join("specs").join(format!("{name}.yaml")))?;
    }
    Ok(())
}

/// The program that measures decode kernels: the same for every layer.
fn tuner(command: &Path, folder: &Path) -> Result<(), String> {
    let program = folder.join("programs/tune");
    let spec = root().join(format!("spec/models/{}.yaml", TIMED[0]));
    let words: [&OsStr; 4] = [
        "tune".as_ref(),
        "--compile-to".as_ref(),
        program.as_os_str(),
        spec.as_os_str(),
    ];
    run(command, &words)?;
    stripped(&program, &program)
}

/// Layers as shared libraries, the kernels that are launched by themselves, and the modules that a benchmark of their peers imports.
fn libraries(command: &Path, folder: &Path) -> Result<(), String> {
    let shared = |name: &str, spec: &Path, dtype: &[&str]| {
        let library = folder.join(name);
        let mut words: Vec<&OsStr> = vec!["build".as_ref(), spec.as_os_str()];
        words.extend(dtype.iter().map(OsStr::new));
        words.extend([OsStr::new("--shared"), library.as_os_str()]);
        run(command, &words)?;
        stripped(&library, &library)
    };
    for (name, spec) in LIBRARIES {
        shared(name, &root().join(spec), &["--dtype", "bf16"])?;
    }
    for name in LAYERS {
        let spec = root().join(format!("benches/{name}.yaml"));
        shared(&format!("{name}.so"), &spec, &[])?;
    }
    for name in LAUNCHED {
        kernels(
            command,
            &root().join(format!("benches/{name}.yaml")),
            folder,
        )?;
    }
    for module in HOOKS {
        copy(&root().join("benches").join(module), &folder.join(module))?;
    }
    Ok(())
}

/// What a layer's kernels of some names were compiled to.
fn kernels(command: &Path, spec: &Path, folder: &Path) -> Result<(), String> {
    let layer = folder.join("layer");
    let words: [&OsStr; 5] = [
        "build".as_ref(),
        spec.as_os_str(),
        "--cubin".as_ref(),
        "-o".as_ref(),
        layer.as_os_str(),
    ];
    run(command, &words)?;
    let failed = |error: std::io::Error| format!("{}: {error}", layer.display());
    for entry in fs::read_dir(layer.join("cuda")).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str) else {
            continue;
        };
        let is_wanted = KERNELS.iter().any(|kernel| name.starts_with(kernel));
        if is_wanted && name.ends_with(".cubin") {
            copy(&path, &folder.join(name))?;
        }
    }
    fs::remove_dir_all(&layer).map_err(failed)
}

/// The cases of `tests/golden`.
fn golden() -> Result<Vec<PathBuf>, String> {
    let folder = root().join("tests/golden");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.join("manifest.json").exists() {
            cases.push(path);
        }
    }
    cases.sort();
    Ok(cases)
}

fn one(built: Vec<PathBuf>) -> Result<PathBuf, String> {
    let mut built = built.into_iter();
    match (built.next(), built.next()) {
        (Some(path), None) => Ok(path),
        _ => Err("cargo built no executable, or several".to_owned()),
    }
}

fn stripped(from: &Path, to: &Path) -> Result<(), String> {
    if from != to {
        copy(from, to)?;
    }
    run("strip", &[to.as_os_str()])
}

/// Packs the folder, and cuts the archive into parts.
fn archive(out: &Path) -> Result<(), String> {
    let whole = out.join("mla-bundle.tar.xz");
    for part in parts(out)? {
        fs::remove_file(&part).map_err(|error| format!("{}: {error}", part.display()))?;
    }
    // The binaries have most of their code in common, and lie further apart than a usual dictionary reaches
    let compressed = "--use-compress-program=xz --lzma2=preset=2,dict=192MiB";
    let packed = ["--create", compressed, "--file"].map(OsStr::new);
    let from = [
        "--directory".as_ref(),
        out.as_os_str(),
        "mla-bundle".as_ref(),
    ];
    run("tar", &[&packed[..], &[whole.as_os_str()], &from].concat())?;
    let beginning = out.join("mla-bundle.tar.xz.");
    run(
        "split",
        &[PART.as_ref(), whole.as_os_str(), beginning.as_os_str()],
    )?;
    fs::remove_file(&whole).map_err(|error| format!("{}: {error}", whole.display()))?;
    for part in parts(out)? {
        let bytes = fs::metadata(&part).map_or(0, |data| data.len());
        println!("{} {:.1} MB", part.display(), bytes as f64 / 1e6);
    }
    Ok(())
}

fn parts(out: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let mut parts: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("mla-bundle.tar.xz."))
        })
        .collect();
    parts.sort();
    Ok(parts)
}
