//! Examples show what differs from one valid spec; this completes them, so that tests can run them.

/// The valid spec that excerpts differ from.
pub const BASE: &str = "\
mla: 1
name: ExampleAttention
module: MLASelfAttention
params:
  hidden_size: 2048
  num_attention_heads: 16
  q_lora_rank: 768
  kv_lora_rank: 512
  qk_nope_head_dim: 128
  qk_rope_head_dim: 64
  v_head_dim: 128
  attn_mask_type: causal
  rope: { type: plain, theta: 10000.0, layout: interleaved }
submodules:
  linear_q_down_proj: Linear
  q_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
  linear_q_up_proj: ColumnParallelLinear
  linear_kv_down_proj: Linear
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
  linear_kv_up_proj: ColumnParallelLinear
  core_attention: DotProductAttention
  linear_proj: RowParallelLinear
";

/// The valid spec that excerpts with `module: SelfAttention` differ from.
pub const GROUPED: &str = "\
mla: 1
name: ExampleAttention
module: SelfAttention
params:
  hidden_size: 4096
  num_attention_heads: 32
  num_query_groups: 8
  kv_channels: 128
  attn_mask_type: causal
  rope: { type: plain, theta: 500000.0, layout: half }
submodules:
  linear_qkv: ColumnParallelLinear
  core_attention: DotProductAttention
  linear_proj: RowParallelLinear
";

/// The valid spec that excerpts with `module: CrossAttention` differ from.
pub const CROSS: &str = "\
mla: 1
name: ExampleAttention
module: CrossAttention
params:
  hidden_size: 1024
  num_attention_heads: 16
  kv_channels: 64
  context_hidden_size: 768
  attn_mask_type: no_mask
submodules:
  linear_q: ColumnParallelLinear
  linear_kv: ColumnParallelLinear
  core_attention: DotProductAttention
  linear_proj: RowParallelLinear
";

/// The valid spec that excerpts with `model:` differ from.
pub const MODEL: &str = "\
mla: 1
name: ExampleModel
model:
  num_hidden_layers: 4
  layers:
    full:
      module: MLASelfAttention
      params:
        hidden_size: 2048
        num_attention_heads: 16
        q_lora_rank: 768
        kv_lora_rank: 512
        qk_nope_head_dim: 128
        qk_rope_head_dim: 64
        v_head_dim: 128
        attn_mask_type: causal
        rope: { type: plain, theta: 10000.0, layout: interleaved }
      submodules:
        linear_q_down_proj: Linear
        q_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
        linear_q_up_proj: ColumnParallelLinear
        linear_kv_down_proj: Linear
        kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
        linear_kv_up_proj: ColumnParallelLinear
        core_attention: DotProductAttention
        linear_proj: RowParallelLinear
    picking:
      like: full
      submodules:
        core_attention:
          module: SparseAttention
          submodules:
            indexer:
              module: LightningIndexer
              params: { num_heads: 32, head_dim: 128, topk: 1024, rope_layout: half, split_order: rope_first, query_input: q_latent, relu: true, share_topk: true }
              submodules:
                linear_wq_b: Linear
                linear_wk: Linear
                linear_weights_proj: Linear
                k_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
    picked:
      like: picking
      submodules: { core_attention: { submodules: { indexer: { module: SharedIndexer, params: { topk: 1024 } } } } }
  pattern: [full, picking, picked, picked]
";

/// The valid spec that an excerpt differs from.
fn base(example: &str) -> &'static str {
    let module = |name: &str| {
        let line = format!("module: {name}");
        example.lines().any(|text| text == line)
    };
    if has(example, "model") {
        MODEL
    } else if module("SelfAttention") {
        GROUPED
    } else if module("CrossAttention") {
        CROSS
    } else {
        BASE
    }
}

/// Whether an example is not a whole spec by itself.
pub(super) fn is_excerpt(example: &str) -> bool {
    sections(example)
        .iter()
        .any(|section| SECTIONS.contains(&section.key))
        && !has(example, "mla")
}

/// The whole spec that an example stands for: [`BASE`], or the base of the module that it names, with each entry of the example in place of the entry of the
/// same name, and without the entries that a comment such as `# no q_lora_rank` names. An example with a line
/// `mla:` is whole already.
pub fn whole(example: &str) -> String {
    if has(example, "mla") {
        return example.to_owned();
    }
    let absent: Vec<&str> = example
        .lines()
        .filter_map(|line| line.trim().strip_prefix("# no "))
        .collect();
    let mut spec = sections(base(example));
    for section in sections(example) {
        match spec.iter_mut().find(|base| base.key == section.key) {
            Some(base) if !section.entries.is_empty() => base.merge(section),
            Some(base) => *base = section,
            None => spec.push(section),
        }
    }
    for section in &mut spec {
        section.entries.retain(|entry| !absent.contains(&entry.key));
    }
    spec.iter().map(Section::text).collect()
}

const SECTIONS: [&str; 6] = ["name", "module", "params", "submodules", "model", "build"];

fn has(example: &str, key: &str) -> bool {
    sections(example).iter().any(|section| section.key == key)
}

/// A key at the margin and the entries below it.
struct Section<'a> {
    key: &'a str,
    line: &'a str,
    entries: Vec<Entry<'a>>,
}

/// A key indented by two, with the deeper lines that follow it.
struct Entry<'a> {
    key: &'a str,
    lines: Vec<&'a str>,
}

impl<'a> Section<'a> {
    fn merge(&mut self, other: Section<'a>) {
        for entry in other.entries {
            match self.entries.iter_mut().find(|base| base.key == entry.key) {
                Some(base) => *base = entry,
                None => self.entries.push(entry),
            }
        }
    }

    fn text(&self) -> String {
        let lines = self.entries.iter().flat_map(|entry| entry.lines.iter());
        std::iter::once(&self.line)
            .chain(lines)
            .map(|line| format!("{line}\n"))
            .collect()
    }
}

fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#'))
    {
        let key = line.trim().split(':').next().unwrap_or_default();
        let indent = line.len() - line.trim_start().len();
        match (indent, sections.last_mut()) {
            (0, _) | (_, None) => sections.push(Section {
                key,
                line,
                entries: Vec::new(),
            }),
            (2, Some(section)) => section.entries.push(Entry {
                key,
                lines: vec![line],
            }),
            (_, Some(section)) => {
                if let Some(entry) = section.entries.last_mut() {
                    entry.lines.push(line);
                }
            }
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_replace_add_and_vanish() {
        let spec = whole(
            "# no q_lora_rank\nname: Other\nparams:\n  hidden_size: 7\n  new:\n    deep: 1\nbuild:\n  dtype: f32\n",
        );
        assert!(spec.contains("name: Other\n") && !spec.contains("ExampleAttention"));
        assert!(spec.contains("  hidden_size: 7\n") && !spec.contains("2048"));
        assert!(spec.contains("  new:\n    deep: 1\nsubmodules:\n"));
        assert!(!spec.contains("q_lora_rank"));
        assert!(spec.ends_with("build:\n  dtype: f32\n"));
    }

    #[test]
    fn the_base_completes_nothing_to_itself() {
        assert_eq!(whole(""), BASE);
        assert_eq!(whole("mla: 1\nname: A\n"), "mla: 1\nname: A\n");
    }
}
