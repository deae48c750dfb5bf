//! What the YAML door accepts and refuses.

use mla_spec::{Body, Document, NodeKind, Place, Scalar, Sources, read, render};

const HEAD: &str = "mla: 1\nname: X\nmodule: M\n";

fn read(text: &str) -> (Result<Document, mla_spec::Diagnostics>, Sources) {
    let mut sources = Sources::default();
    (read::yaml(&mut sources, "x.yaml", text), sources)
}

/// Each diagnostic as its code and the text its primary label underlines.
fn errors(text: &str) -> Vec<(u16, String)> {
    let (result, sources) = read(text);
    let Err(diagnostics) = result else {
        panic!("accepted: {text:?}")
    };
    assert!(render::text(&diagnostics, &sources, false).contains("MLA"));
    let underlined = |span| match sources.place(span) {
        Some(Place::Text { text, range }) => sources
            .text(*text)
            .map(|text| text.content[range.clone()].to_owned())
            .unwrap_or_default(),
        _ => panic!("a diagnostic without a place"),
    };
    diagnostics
        .iter()
        .map(|one| (one.code.0, underlined(one.primary.span)))
        .collect()
}

fn codes(text: &str) -> Vec<u16> {
    errors(text).into_iter().map(|(code, _)| code).collect()
}

fn param(text: &str) -> NodeKind {
    let (result, sources) = read(&format!("{HEAD}params:\n  a: {text}\n"));
    let document =
        result.unwrap_or_else(|errors| panic!("{}", render::text(&errors, &sources, false)));
    let Body::Layer(layer) = document.body else {
        panic!("no layer")
    };
    layer
        .param("a")
        .map(|param| param.value.kind.clone())
        .unwrap_or_else(|| panic!("no `a`"))
}

fn is(text: &str, scalar: Scalar) {
    assert_eq!(param(text), NodeKind::Scalar(scalar), "{text}");
}

#[test]
fn scalars_have_one_reading() {
    is("1", Scalar::Int(1));
    is("-9223372036854775808", Scalar::Int(i64::MIN));
    is("1.0", Scalar::Float(1.0));
    is("1e-6", Scalar::Float(1e-6));
    is("1.0e-6", Scalar::Float(1e-6));
    is("50000.0", Scalar::Float(50000.0));
    is("true", Scalar::Bool(true));
    is("null", Scalar::Null);
    is("~", Scalar::Null);
    is("", Scalar::Null);
    for word in [
        "yes", "no", "on", "off", "y", "0644", "1_000", "1e", "causal", "é",
    ] {
        is(word, Scalar::Str(word.to_owned()));
        is(&format!("\"{word}\""), Scalar::Str(word.to_owned()));
    }
    for quoted in ["'1'", "\"1\"", "!!str 1"] {
        is(quoted, Scalar::Str("1".to_owned()));
    }
}

#[test]
fn line_ends_and_byte_order_marks_change_nothing() {
    let text = format!("{HEAD}submodules:\n  a: Linear\n");
    let plain = read(&text).0;
    assert!(plain.is_ok());
    assert_eq!(plain, read(&text.replace('\n', "\r\n")).0);
    assert_eq!(plain, read(&format!("\u{feff}{text}")).0);
    assert_eq!(plain, read(&format!("---\n{text}...\n")).0);
}

#[test]
fn aliases_stand_for_what_they_name() {
    let aliased = format!(
        "{HEAD}submodules:\n  a: &norm {{ module: RMSNorm, params: {{ eps: 1e-6 }} }}\n  b: *norm\n"
    );
    let written = format!(
        "{HEAD}submodules:\n  a: {{ module: RMSNorm, params: {{ eps: 1e-6 }} }}\n  b: {{ module: RMSNorm, params: {{ eps: 1e-6 }} }}\n"
    );
    assert_eq!(read(&aliased).0, read(&written).0);
}

#[test]
fn every_error_of_a_mapping_is_collected() {
    let text = format!(
        "{HEAD}params:\n  a: 99999999999999999999\n  b: .inf\n  c: 1e999\n  a: 1\n  1.5: 2\n  ? [x]\n  : 3\n  <<: 4\n"
    );
    let expected = [
        (3, "99999999999999999999"),
        (4, ".inf"),
        (4, "1e999"),
        (2, "a"),
        (5, "1.5"),
        (5, "["),
        (9, "<<"),
    ];
    assert_eq!(
        errors(&text),
        expected.map(|(code, text)| (code, text.to_owned()))
    );
}

#[test]
fn every_error_of_shape_is_collected() {
    let text = "\
mla: 2
nmae: X
module: [M]
params:
submodules:
  a:
  b: {params: {}}
  c: {module: X, parms: {}}
  d: [1]
  e: {module: X, params: 3, submodules: {f: 1}}
build: 3
";
    let expected = [
        (12, "mla"),
        (13, "2"),
        (11, "nmae"),
        (14, "["),
        (14, "params"),
        (17, "a"),
        (16, "b"),
        (15, "parms"),
        (17, "["),
        (14, "3"),
        (17, "1"),
        (14, "3"),
    ];
    assert_eq!(
        errors(text),
        expected.map(|(code, text)| (code, text.to_owned()))
    );
}

#[test]
fn what_is_missing_is_listed() {
    assert_eq!(codes("params: {}"), [12, 12, 12]);
    for empty in ["", "\n", "# only\n", "---\n", "null\n", "{}\n", "\u{feff}"] {
        assert_eq!(codes(empty), [8], "{empty:?}");
    }
    for other in ["- a\n", "word\n", "3\n"] {
        assert_eq!(codes(other), [10], "{other:?}");
    }
}

#[test]
fn broken_yaml_is_pointed_at() {
    assert_eq!(errors("a: b: c\n"), [(1, ":".to_owned())]);
    assert_eq!(errors("ä: *nowhere\n"), [(1, "*".to_owned())]);
    for text in [
        "a: [1, 2\nb: 3",
        "a: 'open\n",
        "a: @x\n",
        "a: \0\n",
        "mla: 1\n\tname: X\n",
        "a: \u{1b}[31m\n",
        "a: &x [*x]\n",
        "}",
        "a: !!int x\n",
    ] {
        assert_eq!(codes(text), [1], "{text:?}");
    }
    assert_eq!(codes("a: !foo 3\n"), [9]);
    assert_eq!(codes(&format!("{HEAD}---\n{HEAD}")), [7]);
}

#[test]
fn a_spec_is_bounded() {
    assert_eq!(codes(&"[".repeat(5000)), [6]);
    assert_eq!(codes(&"{a: ".repeat(5000)), [6]);
    assert_eq!(codes(&"- ".repeat(5000)), [6]);
    assert_eq!(
        codes(
            &(0..2000)
                .map(|depth| format!("{}a:\n", " ".repeat(depth)))
                .collect::<String>()
        ),
        [6]
    );
    assert_eq!(codes(&"x".repeat(2 << 20)), [6]);
    let doubled: String = (1..30)
        .map(|n| format!("k{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1))
        .collect();
    assert_eq!(codes(&format!("k0: &a0 [x, x]\n{doubled}")), [6]);
    let many: String = (0..30_000).map(|n| format!("k{n}: 1\n")).collect();
    assert_eq!(codes(&many), [6]);
}
