//! Rules are stated in YAML; a user of the macros is told the same in Rust.

/// Notes, labels and remedies with each piece of YAML between backticks in its Rust spelling: `rope: { type: none }`
/// becomes `rope(type = none)`.
pub fn in_rust(text: &str) -> String {
    let pieces = text.split('`').enumerate();
    let spelled = pieces.map(|(at, piece)| match at % 2 {
        1 => piece_in_rust(piece).unwrap_or_else(|| piece.to_owned()),
        _ => piece.to_owned(),
    });
    spelled.collect::<Vec<_>>().join("`")
}

/// A value in YAML's flow style, as rules write it.
enum Flow<'a> {
    Word(&'a str),
    /// An entry without a key is the `..` that stands for more.
    Map(Vec<(&'a str, Flow<'a>)>),
}

fn piece_in_rust(yaml: &str) -> Option<String> {
    let mut rest = yaml;
    let (key, value) = if yaml.starts_with('{') {
        ("", value(&mut rest)?)
    } else {
        entry(&mut rest)?
    };
    rest.is_empty().then(|| spelled(key, &value))
}

/// Takes `key: value`.
fn entry<'a>(rest: &mut &'a str) -> Option<(&'a str, Flow<'a>)> {
    let (key, behind) = rest.split_once(": ")?;
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    *rest = behind;
    is_key.then_some(key).zip(value(rest))
}

/// Takes a mapping, or a word up to the end of the entry.
fn value<'a>(rest: &mut &'a str) -> Option<Flow<'a>> {
    let Some(mut inside) = rest.strip_prefix("{ ") else {
        let end = match rest.strip_prefix('[') {
            Some(list) => list.find(']')? + 2,
            None => rest.find([',', ' ']).unwrap_or(rest.len()),
        };
        let (word, behind) = rest.split_at(end);
        *rest = behind;
        return Some(Flow::Word(word));
    };
    let mut entries = Vec::new();
    loop {
        entries.push(match inside.strip_prefix("..") {
            Some(behind) => {
                inside = behind;
                ("", Flow::Word(".."))
            }
            None => entry(&mut inside)?,
        });
        if let Some(behind) = inside.strip_prefix(" }") {
            *rest = behind;
            return Some(Flow::Map(entries));
        }
        inside = inside.strip_prefix(", ")?;
    }
}

fn spelled(key: &str, value: &Flow<'_>) -> String {
    match value {
        Flow::Word(word) if key.is_empty() => (*word).to_owned(),
        Flow::Word(word) if is_slot(key) => format!("{key}: {word}"),
        Flow::Word(word) => format!("{key} = {word}"),
        Flow::Map(entries) => {
            let of = |name: &str| {
                entries
                    .iter()
                    .find(|entry| entry.0 == name)
                    .map(|entry| &entry.1)
            };
            match (of("module"), of("params")) {
                (Some(Flow::Word(module)), Some(params)) if !key.is_empty() => {
                    format!("{} {key}: {module}", spelled("params", params))
                }
                (Some(_), Some(params)) => spelled("params", params),
                _ if key == "params" => format!("#[mla({})]", listed(entries)),
                _ => format!("{key}({})", listed(entries)),
            }
        }
    }
}

fn listed(entries: &[(&str, Flow<'_>)]) -> String {
    let entries: Vec<_> = entries
        .iter()
        .map(|(key, value)| spelled(key, value))
        .collect();
    entries.join(", ")
}

/// Slots are fields.
fn is_slot(key: &str) -> bool {
    key.starts_with("linear_") || key.ends_with("_layernorm") || key == "core_attention"
}

#[cfg(test)]
mod tests {
    use super::in_rust;

    #[test]
    fn yaml_in_backticks_becomes_rust() {
        for (yaml, rust) in [
            (
                "write `rope: { type: yarn, .. }`",
                "write `rope(type = yarn, ..)`",
            ),
            ("needs `params: { eps: .. }`", "needs `#[mla(eps = ..)]`"),
            (
                "add `q_layernorm: { module: RMSNorm, params: { eps: .. } }`, or `q_layernorm: IdentityOp` for none",
                "add `#[mla(eps = ..)] q_layernorm: RMSNorm`, or `q_layernorm: IdentityOp` for none",
            ),
            (
                "at each norm: `{ module: RMSNorm, params: { eps: .. } }`",
                "at each norm: `#[mla(eps = ..)]`",
            ),
            (
                "write `phases: [forward, decode]`",
                "write `phases = [forward, decode]`",
            ),
            (
                "`cache: { format: naive_bf16 }` in `build`",
                "`cache(format = naive_bf16)` in `build`",
            ),
            (
                "`bias: true` or `a, b`: `x y: z`",
                "`bias = true` or `a, b`: `x y: z`",
            ),
            ("such as `eps: 1.0e-6`", "such as `eps = 1.0e-6`"),
            ("odd ` tick: { a", "odd ` tick: { a"),
        ] {
            assert_eq!(in_rust(yaml), rust);
        }
    }

    #[test]
    fn anything_else_stays_as_it_is() {
        for text in [
            "`{ a`",
            "`a: { b: c`",
            "`a: { b: c } d`",
            "`a: [b`",
            "`: b`",
            "``",
            "`linear_proj`",
        ] {
            assert_eq!(in_rust(text), text);
        }
    }
}
