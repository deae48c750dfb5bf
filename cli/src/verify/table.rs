//! A case's results as text.

use super::compare::{Row, Verdict};

/// One line per comparison, columns aligned. `error` says what kind of error is shown.
pub(crate) fn table(title: &str, error: &str, rows: &[Row]) -> String {
    let head = ["mode", "form", "cache", "tensor", error, "tolerance", ""];
    let mut lines: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(cells));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = format!("{title}\n");
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(format!("  {}", padded.join("  ")).trim_end());
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let form = match row.run.form {
        mla_spec::Form::Mha => "mha",
        mla_spec::Form::Mqa => "mqa",
    };
    let verdict = match (&row.verdict, row.verdict.passed()) {
        (Verdict::Broken(problem), _) => [String::new(), String::new(), format!("FAIL: {problem}")],
        (Verdict::Measured { error, tolerance }, passed) => [
            format!("{error:.2e}"),
            format!("{tolerance:.2e}"),
            if passed { "pass" } else { "FAIL" }.to_owned(),
        ],
    };
    let mut cells = vec![
        row.run.mode.word().to_owned(),
        form.to_owned(),
        row.run.cache_words(),
        row.tensor.clone(),
    ];
    cells.extend(verdict);
    cells
}
