//! Layers as shared libraries for C.

use std::process::Command;

use crate::book::{PACKAGE, blocks};
use crate::room::{Room, checkout};

/// The chapter that shows all of this, and its layer with all phases.
const CHAPTER: &str = "engines.md";

fn of_the_book(name: &str) -> String {
    blocks::file(PACKAGE, CHAPTER, name)
}

#[test]
fn a_library_is_called_from_python() {
    let room = Room::new();
    room.write("spec.yaml", &of_the_book("for_c.yaml"));
    let told = room.run(&["build", "spec.yaml", "--shared", "for_c.so"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(
        told.stderr.contains("`for_c.so` and `mla.h`"),
        "{}",
        told.stderr
    );
    assert_eq!(room.names("."), ["for_c.so", "mla.h", "spec.yaml"]);
    room.write("call.py", &of_the_book("call.py"));
    let scripts = [
        checkout("cli/tests/command/shared.py"),
        room.path("call.py").to_str().unwrap().to_owned(),
    ];
    for script in scripts {
        let called = Command::new("python3")
            .arg(&script)
            .arg(room.path("for_c.so"))
            .current_dir(room.path("."))
            .output();
        match called {
            Err(error) => println!("skipped: no python3 ({error})"),
            Ok(output) => assert!(
                output.status.success(),
                "{script}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
}

#[test]
fn the_header_is_c() {
    let header = checkout("cli/src/driver/mla.h");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let checked = Command::new(&compiler)
        .args([
            "-fsyntax-only",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-std=c99",
            "-x",
            "c",
        ])
        .arg(header)
        .output();
    match checked {
        Err(error) => println!("skipped: no `{compiler}` ({error})"),
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

#[test]
fn what_can_not_be_a_library_is_refused() {
    let room = Room::new();
    let trained = of_the_book("for_c.yaml")
        .replace("[forward, prefill, decode, mixed]", "[train]")
        .replace("  cache: { format: latent_f32, page_size: 4 }\n", "");
    room.write("trained.yaml", &trained);
    let told = room.run(&["build", "trained.yaml", "--shared", "x.so"]);
    assert_eq!(told.code, 2, "{}", told.stderr);
    assert!(told.stderr.contains("nothing to export"), "{}", told.stderr);
    let model = checkout("spec/models/whole/glm-5.2.yaml");
    let told = room.run(&["build", &model, "--shared", "x.so"]);
    assert_eq!(told.code, 2, "{}", told.stderr);
    assert!(told.stderr.contains("`--layer N`"), "{}", told.stderr);
    let told = room.run(&["build", "trained.yaml", "--dtype", "bf16"]);
    assert_eq!(told.code, 2, "{}", told.stderr);
    assert_eq!(room.names("."), ["trained.yaml"]);
}
