//! Diagnostics look as rustc's do.

use mla_spec::{Code, Diagnostic, Diagnostics, Place, Sources, Span, render};

const TEXT: &str = "mla: 1\nname: Ünicode\nparams:\n  a: 1\n  b: 2\n  c: 3\n  d: 4\n  e: 5\n";

fn sources() -> (Sources, impl Fn(&mut Sources, &str) -> Span) {
    let mut sources = Sources::default();
    let text = sources.add_text("spec/x.yaml", TEXT);
    let place = move |sources: &mut Sources, what: &str| {
        let start = TEXT.find(what).unwrap_or_else(|| panic!("no {what:?}"));
        sources.add_place(Place::Text {
            text,
            range: start..start + what.len(),
        })
    };
    (sources, place)
}

fn shown(diagnostic: Diagnostic, sources: &Sources) -> String {
    let mut diagnostics = Diagnostics::new();
    diagnostics.push(diagnostic);
    render::text(&diagnostics, sources, false)
}

#[test]
fn labels_notes_and_help_stand_where_rustc_puts_them() {
    let (mut sources, place) = sources();
    let (primary, secondary) = (place(&mut sources, "5"), place(&mut sources, "Ünicode"));
    let diagnostic = Diagnostic::error(Code(103), "`e` is wrong", primary, "found this")
        .and(secondary, "because of this")
        .note("a reason")
        .help("a remedy");
    let expected = "\
error[MLA0103]: `e` is wrong
 --> spec/x.yaml:8:6
  |
2 | name: Ünicode
  |       ------- because of this
...
8 |   e: 5
  |      ^ found this
  |
  = note: a reason
  = help: a remedy
";
    assert_eq!(shown(diagnostic, &sources), expected);
}

#[test]
fn places_outside_of_any_text_become_lines() {
    let mut sources = Sources::default();
    let token = sources.add_place(Place::Token(3));
    let diagnostic = Diagnostic::warning(Code(701), "odd", token, "this one")
        .and(Span::NONE, "that one")
        .help("look");
    let expected = "\
warning[MLA0701]: odd
 |
 = note: this one
 = note: that one
 = help: look
";
    assert_eq!(shown(diagnostic.clone(), &sources), expected);
    assert_eq!(
        render::without_source(&diagnostic, |_| Some("line 3".to_owned())),
        "odd [MLA0701]\n  here: this one\n  also: that one (line 3)\n  help: look"
    );
}

#[test]
fn a_place_past_the_end_or_inside_a_character_is_moved() {
    let mut sources = Sources::default();
    let text = sources.add_text("x", "é");
    for range in [1..1, 0..1, 5..9, 2..2] {
        let span = sources.add_place(Place::Text { text, range });
        assert!(
            shown(Diagnostic::error(Code(1), "m", span, "here"), &sources).contains("--> x:1:")
        );
    }
}

#[test]
fn a_message_cannot_move_the_cursor() {
    let text = shown(
        Diagnostic::error(Code(1), "a\u{1b}[2Jb\nc", Span::NONE, ""),
        &Sources::default(),
    );
    assert_eq!(text, "error[MLA0001]: a\\u{1b}[2Jb\\nc\n");
}

#[test]
fn color_is_asked_for() {
    let (mut sources, place) = sources();
    let mut diagnostics = Diagnostics::new();
    diagnostics.push(Diagnostic::error(
        Code(1),
        "m",
        place(&mut sources, "5"),
        "here",
    ));
    assert!(render::text(&diagnostics, &sources, true).contains("\u{1b}["));
    assert!(!render::text(&diagnostics, &sources, false).contains('\u{1b}'));
}

#[test]
fn a_flood_is_cut_short() {
    let mut diagnostics = Diagnostics::new();
    (0..150).for_each(|_| diagnostics.push(Diagnostic::error(Code(1), "m", Span::NONE, "")));
    let text = render::text(&diagnostics, &Sources::default(), false);
    assert_eq!(text.matches("error[MLA0001]").count(), 100);
    assert!(text.ends_with("... and 50 more\n"));
}
