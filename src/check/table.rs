//! What `backstop check` prints.

use std::fmt::Write;

use super::{Finding, Verdict};

/// The findings for people: a line for each, and how many want something done.
#[must_use]
pub fn table(findings: &[Finding]) -> String {
    let heads = ["credential", "ability", "", "why, and what to do"];
    let rows: Vec<[&str; 4]> = std::iter::once(heads)
        .chain(findings.iter().map(|it| {
            let verdict = it.verdict.words();
            [it.credential, it.ability, verdict, it.sentence.as_str()]
        }))
        .collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let [a, b, c] = [0, 1, 2].map(width);
    let mut text = String::new();
    for [credential, ability, verdict, sentence] in rows {
        let _ = writeln!(
            text,
            "{credential:<a$}  {ability:<b$}  {verdict:<c$}  {sentence}"
        );
    }
    let count = |verdict| findings.iter().filter(|it| it.verdict == verdict).count();
    let _ = writeln!(text);
    let _ = writeln!(
        text,
        "{} missing, {} more than needed; nothing was changed",
        count(Verdict::Missing),
        count(Verdict::MoreThanNeeded),
    );
    text
}

/// The same for programs.
#[must_use]
pub fn json(findings: &[Finding]) -> String {
    format!("{}\n", serde_json::json!({"findings": findings}))
}
