//! Rules of the `read` stage. Those of the 08xx codes have examples in Rust, the others in YAML.

use super::Rule;
use crate::diagnostic::Code;

/// In the order of the codes.
pub const RULES: &[Rule] = &[
    Rule {
        code: Code(1),
        title: "not valid YAML",
        rule: "A spec file is a YAML 1.2 document.",
        why: "The parser gives up at the first error of syntax, so this one is shown alone; the others appear once it is mended.",
        wrong: "name: Small: Attention\n",
        right: "name: SmallAttention\n",
    },
    Rule {
        code: Code(2),
        title: "a key is written twice",
        rule: "A key stands once in its mapping.",
        why: "Most YAML readers keep the last value and say nothing, so a spec could mean something else than it seems to say.",
        wrong: "params:\n  hidden_size: 2048\n  hidden_size: 4096\n",
        right: "params:\n  hidden_size: 4096\n",
    },
    Rule {
        code: Code(3),
        title: "integer out of range",
        rule: "An integer fits 64 bits with a sign.",
        why: "A longer one would have to be rounded to a float, which no size of a layer may be.",
        wrong: "params:\n  hidden_size: 99999999999999999999\n",
        right: "params:\n  hidden_size: 2048\n",
    },
    Rule {
        code: Code(4),
        title: "number not finite",
        rule: "A number is finite: no `.inf`, no `.nan`, nothing above 1.8e308.",
        why: "Not a number or infinity, as an epsilon or a scale, makes every output of the layer NaN.",
        wrong: "params:\n  eps: .nan\n",
        right: "params:\n  eps: 1.0e-6\n",
    },
    Rule {
        code: Code(5),
        title: "key is not a name",
        rule: "Every key is a string.",
        why: "The language has no other keys; a number or a list in this place is a slip of the indentation or the colon.",
        wrong: "params:\n  2048: hidden_size\n",
        right: "params:\n  hidden_size: 2048\n",
    },
    Rule {
        code: Code(6),
        title: "spec too large or too deep",
        rule: "A spec has at most 1 MiB of text and 20000 values, nested at most 32 deep.",
        why: "No layer needs a hundredth of that. The bound keeps a hostile file, such as one of nested aliases, from exhausting memory or stack.",
        wrong: "a: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n",
        right: "a: [1]\n",
    },
    Rule {
        code: Code(7),
        title: "several documents in one file",
        rule: "A file holds one spec.",
        why: "A spec is one layer and becomes one module; which of several was meant would be a guess.",
        wrong: "mla: 1\nname: One\n---\nmla: 1\nname: Two\n",
        right: "mla: 1\nname: One\n",
    },
    Rule {
        code: Code(8),
        title: "empty spec",
        rule: "A spec describes a layer.",
        why: "An empty file is more likely a wrong path than a wish. `mla-gen init` writes a commented spec to start from.",
        wrong: "# nothing here\n",
        right: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\n",
    },
    Rule {
        code: Code(9),
        title: "tag or merge key",
        rule: "Tags other than YAML's own and merge keys (`<<`) are not part of the language. Anchors and aliases are.",
        why: "A tag changes what a value means out of sight, and a merge key what a mapping holds; both make a spec hard to read.",
        wrong: "params:\n  hidden_size: !dims 2048\n",
        right: "params:\n  hidden_size: 2048\n",
    },
    Rule {
        code: Code(10),
        title: "spec is not a mapping",
        rule: "A spec is a mapping with the keys `mla`, `name`, `module`, `params`, `submodules` and `build`, or `mla`, `name`, `model` and `build`.",
        why: "Nothing in a list or a single value says which module is described.",
        wrong: "- mla: 1\n- name: SmallAttention\n",
        right: "mla: 1\nname: SmallAttention\n",
    },
    Rule {
        code: Code(11),
        title: "unknown top-level key",
        rule: "The keys of a spec are `mla`, `name`, `module`, `params`, `submodules` and `build`.",
        why: "A key that is ignored would look as if it did something. Parameters of the layer go below `params`, how it is built below `build`.",
        wrong: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nhidden_size: 2048\n",
        right: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nparams:\n  hidden_size: 2048\n",
    },
    Rule {
        code: Code(12),
        title: "missing top-level key",
        rule: "Every spec has `mla`, `name`, and `module` or `model`.",
        why: "They say which language is spoken, what the generated type is called and what is described.",
        wrong: "mla: 1\nmodule: MLASelfAttention\n",
        right: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\n",
    },
    Rule {
        code: Code(13),
        title: "unknown version of the language",
        rule: "`mla` is the integer 1.",
        why: "The version lets a later release change the language without misreading the specs of this one.",
        wrong: "mla: 2\nname: SmallAttention\nmodule: MLASelfAttention\n",
        right: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\n",
    },
    Rule {
        code: Code(14),
        title: "section or name of the wrong kind",
        rule: "`name` and `module` are strings; `params`, `submodules` and `build` are mappings.",
        why: "An empty section (`params:` with nothing below) is no mapping either: leave the key out where there is nothing to say.",
        wrong: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nparams:\n",
        right: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nparams:\n  hidden_size: 2048\n",
    },
    Rule {
        code: Code(15),
        title: "unknown key in a submodule's spec",
        rule: "A submodule written as a mapping has the keys `module`, `params` and `submodules`.",
        why: "Parameters go below `params`, so that a parameter can never be taken for a part of the language.",
        wrong: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nsubmodules:\n  kv_layernorm: { module: RMSNorm, eps: 1.0e-6 }\n",
        right: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nsubmodules:\n  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n",
    },
    Rule {
        code: Code(16),
        title: "submodule without a module",
        rule: "A submodule written as a mapping says which `module` it is.",
        why: "No slot has a default: what fills it changes the mathematics.",
        wrong: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nsubmodules:\n  kv_layernorm: { params: { eps: 1.0e-6 } }\n",
        right: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nsubmodules:\n  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n",
    },
    Rule {
        code: Code(17),
        title: "submodule neither a name nor a spec",
        rule: "A slot holds a module's name, or a mapping with `module`, `params` and `submodules`.",
        why: "A slot that does nothing is filled with `IdentityOp`, in words, so that an empty value is always a slip.",
        wrong: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nsubmodules:\n  kv_layernorm:\n",
        right: "mla: 1\nname: SmallAttention\nmodule: MLASelfAttention\nsubmodules:\n  kv_layernorm: IdentityOp\n",
    },
    Rule {
        code: Code(18),
        title: "a layer and a model in one spec",
        rule: "A spec has `module`, `params` and `submodules`, or `model`.",
        why: "A file becomes one module of code: a layer's or a model's.",
        wrong: "mla: 1\nname: SmallModel\nmodule: MLASelfAttention\nmodel:\n  num_hidden_layers: 2\n",
        right: "mla: 1\nname: SmallModel\nmodel:\n  num_hidden_layers: 2\n",
    },
    Rule {
        code: Code(801),
        title: "not a struct with named fields",
        rule: "`#[mla_layer]` and `#[derive(MlaLayer)]` stand on a struct with named fields, or without any.",
        why: "A field is a slot, and a slot is known by its name.",
        wrong: "#[mla_layer()]\nstruct SmallAttention(RowParallelLinear);\n",
        right: "#[mla_layer()]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
    },
    Rule {
        code: Code(802),
        title: "described struct is generic",
        rule: "The struct has no type, lifetime or const parameters.",
        why: "Every size of a layer is fixed by its spec; the generated layer is generic over its backend by itself.",
        wrong: "#[mla_layer()]\nstruct SmallAttention<T> { linear_proj: RowParallelLinear }\n",
        right: "#[mla_layer()]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
    },
    Rule {
        code: Code(803),
        title: "not an argument",
        rule: "An argument is `key = value`, or `key(...)` for what YAML writes as a mapping.",
        why: "Every YAML mapping has one spelling in Rust, so that both always mean the same.",
        wrong: "#[mla_layer(hidden_size: 2048)]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
        right: "#[mla_layer(hidden_size = 2048)]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
    },
    Rule {
        code: Code(804),
        title: "not a value",
        rule: "A value is a word, a number without suffix, `true`, `false`, a string, or a list of those.",
        why: "A macro sees tokens, not what they evaluate to: a constant or an expression has no value yet.",
        wrong: "#[mla_layer(hidden_size = 16 * 128)]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
        right: "#[mla_layer(hidden_size = 2048)]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
    },
    Rule {
        code: Code(805),
        title: "`spec` beside another description",
        rule: "`spec = \"path\"` stands alone (but for `crate`), on a struct without fields, in `#[mla_layer]`.",
        why: "The file describes the whole layer. A second description could only repeat or contradict it.",
        wrong: "#[mla_layer(spec = \"small.yaml\", hidden_size = 2048)]\nstruct SmallAttention;\n",
        right: "#[mla_layer(spec = \"small.yaml\")]\nstruct SmallAttention;\n",
    },
    Rule {
        code: Code(806),
        title: "field type is not a module",
        rule: "A field's type is the name of a module, without generic arguments; a path counts by its last segment.",
        why: "The type is only read as a name, so anything more than a name would be ignored.",
        wrong: "#[mla_layer()]\nstruct SmallAttention { linear_proj: Vec<f32> }\n",
        right: "#[mla_layer()]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
    },
    Rule {
        code: Code(807),
        title: "attribute would be lost",
        rule: "Under `#[mla_layer]` the struct has doc comments, lint levels and `cfg`, its fields doc comments, lint levels and `mla`.",
        why: "The struct is replaced by the generated layer; another macro's attribute would apply to something its author never saw. \
              `#[derive(MlaLayer)]` keeps the struct and its attributes.",
        wrong: "#[mla_layer()]\n#[derive(Clone)]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
        right: "#[mla_layer()]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
    },
    Rule {
        code: Code(808),
        title: "argument in the wrong place",
        rule: "What the struct says is not an argument: its name is the layer's name, its fields the slots, their types the modules. \
               Parameters stand in the attribute itself, not below `params`.",
        why: "Two ways to say one thing can contradict each other.",
        wrong: "#[mla_layer(name = SmallAttention)]\nstruct Attention { linear_proj: RowParallelLinear }\n",
        right: "#[mla_layer()]\nstruct SmallAttention { linear_proj: RowParallelLinear }\n",
    },
    Rule {
        code: Code(809),
        title: "spec file can't be read",
        rule: "`spec = \"path\"` is a text file, named relative to the folder of Cargo.toml, else to the source file.",
        why: "The layer is compiled from that file, and recompiled when it changes.",
        wrong: "#[mla_layer(spec = \"missing.yaml\")]\nstruct SmallAttention;\n",
        right: "#[mla_layer(spec = \"spec/small.yaml\")]\nstruct SmallAttention;\n",
    },
    Rule {
        code: Code(810),
        title: "struct and file name different layers",
        rule: "The struct under `#[mla_layer(spec = \"path\")]` has the name that the file gives the layer.",
        why: "One of the two names would be ignored otherwise, and the code, its errors and its documentation would disagree.",
        wrong: "// small.yaml says `name: SmallAttention`\n#[mla_layer(spec = \"small.yaml\")]\nstruct TinyAttention;\n",
        right: "// small.yaml says `name: SmallAttention`\n#[mla_layer(spec = \"small.yaml\")]\nstruct SmallAttention;\n",
    },
    Rule {
        code: Code(811),
        title: "a model where a layer is wanted",
        rule: "A macro describes one layer, so its file has `module`, `params` and `submodules`.",
        why: "A struct becomes one layer, and a model has several.",
        wrong: "// small.yaml has `model:`\n#[mla_layer(spec = \"small.yaml\")]\nstruct SmallModel;\n",
        right: "// small.yaml has `module: MLASelfAttention`\n#[mla_layer(spec = \"small.yaml\")]\nstruct SmallAttention;\n",
    },
];

#[cfg(test)]
mod tests {
    use super::RULES;
    use crate::diagnostic::Diagnostics;
    use crate::span::Sources;

    fn found(text: &str) -> Vec<u16> {
        let errors = crate::read::yaml(&mut Sources::default(), "example.yaml", text).err();
        errors
            .iter()
            .flat_map(Diagnostics::iter)
            .map(|diagnostic| diagnostic.code.0)
            .collect()
    }

    #[test]
    fn every_yaml_example_shows_its_rule() {
        for rule in RULES.iter().filter(|rule| rule.code.0 < 800) {
            assert!(
                found(rule.wrong).contains(&rule.code.0),
                "{}: {:?}",
                rule.code,
                found(rule.wrong)
            );
            assert!(!found(rule.right).contains(&rule.code.0), "{}", rule.code);
        }
    }

    #[cfg(feature = "tokens")]
    #[test]
    fn every_rust_example_shows_its_rule() {
        for rule in RULES
            .iter()
            .filter(|rule| (801..809).contains(&rule.code.0))
        {
            assert!(
                found_in_rust(rule.wrong).contains(&rule.code.0),
                "{}: {:?}",
                rule.code,
                found_in_rust(rule.wrong)
            );
            assert_eq!(found_in_rust(rule.right), [0; 0], "{}", rule.code);
        }
    }

    #[cfg(feature = "tokens")]
    fn found_in_rust(text: &str) -> Vec<u16> {
        let mut item: syn::ItemStruct =
            syn::parse_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let syn::Meta::List(list) = item.attrs.remove(0).meta else {
            panic!("no arguments: {text}")
        };
        let outcome = crate::read::tokens::attribute(
            list.tokens,
            &syn::Item::Struct(item),
            &mut Sources::default(),
        );
        outcome
            .read
            .err()
            .iter()
            .flat_map(Diagnostics::iter)
            .map(|diagnostic| diagnostic.code.0)
            .collect()
    }
}
