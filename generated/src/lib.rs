//! Attention layers of well-known models, and one small model of several layers, as mla-gen emits them.
//!
//! Each module is one spec of `spec/models`, compiled. They are committed so that they can be read, and so that a change of the
//! compiler shows what it changes: a test emits them anew and compares. To write them after such a change:
//!
//! ```text
//! BLESS=1 cargo test -p mla-codegen --test generated_is_current
//! ```

pub mod deepseek_v2_lite;
pub mod deepseek_v3;
pub mod kimi_k2;
pub mod moonlight;
pub mod nope_odd;
pub mod odd_small;
pub mod small_shared;
pub mod youtu;
