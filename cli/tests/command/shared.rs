//! Layers as shared libraries for C.

use std::process::Command;

use crate::room::{Room, checkout};

/// A small layer with all phases.
const SPEC: &str = "\
mla: 1
name: ForC
module: MLASelfAttention
params:
  hidden_size: 24
  num_attention_heads: 2
  kv_lora_rank: 8
  qk_nope_head_dim: 6
  qk_rope_head_dim: 4
  v_head_dim: 5
  attn_mask_type: causal
  rope: { type: plain, theta: 10000.0, layout: interleaved }
submodules:
  linear_q_proj: ColumnParallelLinear
  linear_kv_down_proj: Linear
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
  linear_kv_up_proj: ColumnParallelLinear
  core_attention: DotProductAttention
  linear_proj: RowParallelLinear
build:
  phases: [forward, prefill, decode, mixed]
  dtype: f32
  cache: { format: latent_f32, page_size: 4 }
  targets: [cpu]
";

#[test]
fn a_library_is_called_from_python() {
    let room = Room::new();
    room.write("spec.yaml", SPEC);
    let told = room.run(&["build", "spec.yaml", "--shared", "for_c.so"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(
        told.stderr.contains("`for_c.so` and `mla.h`"),
        "{}",
        told.stderr
    );
    assert_eq!(room.names("."), ["for_c.so", "mla.h", "spec.yaml"]);
    let script = checkout("cli/tests/command/shared.py");
    let called = Command::new("python3")
        .arg(script)
        .arg(room.path("for_c.so"))
        .output();
    match called {
        Err(error) => println!("skipped: no python3 ({error})"),
        Ok(output) => assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
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
    let trained = SPEC
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
