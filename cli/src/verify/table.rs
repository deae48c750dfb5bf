//! A case's results as text.

use super::measure::{Row, Verdict};

/// One line per comparison, columns aligned. `ways` says what a row's first cells are, `error` what kind of error is shown.
pub(crate) fn table(title: &str, ways: [&str; 3], error: &str, rows: &[Row]) -> String {
    let [first, second, third] = ways;
    let head = [first, second, third, "tensor", error, "tolerance", ""];
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
    let verdict = match &row.verdict {
        Verdict::Broken(problem) => [String::new(), String::new(), format!("FAIL: {problem}")],
        Verdict::Measured {
            error,
            tolerance,
            worst,
        } => {
            let told = match (row.verdict.passed(), worst) {
                (true, _) => "pass".to_owned(),
                (false, None) => "FAIL".to_owned(),
                (false, Some(worst)) => format!(
                    "FAIL: {:e} instead of {:e} at {:?}",
                    worst.found, worst.wanted, worst.at
                ),
            };
            [format!("{error:.2e}"), format!("{tolerance:.2e}"), told]
        }
    };
    let mut cells = row.way.to_vec();
    cells.push(row.tensor.clone());
    cells.extend(verdict);
    cells
}
