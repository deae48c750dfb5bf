//! What is said to a person, on stderr, and how data reaches stdout.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use crate::failure::Failure;

const BOLD_RED: &str = "\x1b[1;31m";
const BOLD_GREEN: &str = "\x1b[1;32m";
const RESET: &str = "\x1b[0m";

/// Whether stderr shows colours: a terminal, and nobody asked for none (<https://no-color.org>).
pub(crate) fn color() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stderr().is_terminal() && !set("NO_COLOR") && !dumb
}

/// Writes data to stdout. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn data(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::write(Path::new("<stdout>"), error))
        }
        _ => Ok(()),
    }
}

/// Writes a finished text to stderr as it stands.
pub(crate) fn plain(text: &str) {
    // Nobody is left to be told that stderr can't be written
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// One line of what was done, as cargo says it: a verb and what to.
pub(crate) fn status(verb: &str, what: &str) {
    plain(&format!(
        "{} {what}\n",
        painted(BOLD_GREEN, &format!("{verb:>12}"))
    ));
}

/// A failure, with everything that belongs to it.
pub(crate) fn failure(failure: &Failure) {
    match failure {
        Failure::Refused { findings, .. } => plain(&findings.text),
        Failure::Program { stderr, .. } => plain(stderr),
        _ => {}
    }
    error(&failure.to_string());
}

/// `1 error`, `2 errors`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Something to know, which stops nothing.
pub(crate) fn note(message: &str) {
    plain(&format!("note: {message}\n"));
}

/// One line that says what failed.
pub(crate) fn error(message: &str) {
    plain(&format!("{}: {message}\n", painted(BOLD_RED, "error")));
}

/// Does something that takes long: a spinner where stderr is a terminal, else one line.
pub(crate) fn progress<T>(message: String, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        plain(&format!("{message}\n"));
        return work();
    }
    let spinner = indicatif::ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(120));
    let result = work();
    spinner.finish_and_clear();
    result
}

fn painted(style: &str, text: &str) -> String {
    if color() {
        format!("{style}{text}{RESET}")
    } else {
        text.to_owned()
    }
}
