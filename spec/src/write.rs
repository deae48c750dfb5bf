//! Writes a document as YAML.

/// Comments to print behind values: path of keys (`params.rope.layout`, `submodules.kv_layernorm.params.eps`) and text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comments(pub std::collections::BTreeMap<String, String>);
