//! Attention layers of well-known models, and one small model of several layers, as mla-gen emits them.
//!
//! Each module is one spec of `spec/models`, compiled. They are committed so that they can be read, and so that a change of the
//! compiler shows what it changes: a test emits them anew and compares. To write them after such a change:
//!
//! ```text
//! BLESS=1 cargo test -p mla-codegen --test generated_is_current
//! ```

pub mod axk2;
pub mod bailing_ling_3;
pub mod bart_large_cross;
pub mod bart_large_cross_train;
pub mod deepseek_v2_lite;
pub mod deepseek_v3;
pub mod deepseek_v3_2;
pub mod deepseek_v3_2_train;
pub mod deepseek_v3_2_warmup;
pub mod dots3_note;
pub mod dots3_note_sliding;
pub mod glm_4_7_flash;
pub mod glm_5;
pub mod glm_5_2_shared;
pub mod glm_5_3_flash;
pub mod hy_v4;
pub mod kimi_k2;
pub mod kimi_linear;
pub mod llama3_8b;
pub mod llama3_8b_train;
pub mod longcat_flash;
pub mod minicpm3;
pub mod mistral_4;
pub mod mistral_large_4;
pub mod mistral_large_4_nope;
pub mod moonlight;
pub mod moonlight_train;
pub mod moonlight_train_lean;
pub mod nope_odd;
pub mod odd_small;
pub mod qwen3_8b;
pub mod small_shared;
pub mod tiny_dense;
pub mod tiny_sparse;
pub mod youtu;
