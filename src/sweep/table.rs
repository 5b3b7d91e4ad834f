//! What `backstop sweep` prints: a line for each orphan, then what becomes of them.

use std::fmt::Write;

use crate::domain::orphans::{Action, Mandate, Orphan, Why};
use crate::store::sweeps::Findings;

/// The findings of a sweep with this mandate, for people.
#[must_use]
pub fn table(findings: &Findings, mandate: Mandate) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        let _ = writeln!(text, "{}", line.trim_end());
    };
    if !findings.orphans.is_empty() {
        let rows: Vec<[String; 5]> = std::iter::once(
            [
                "kind",
                "id",
                "name",
                "cost an hour",
                "why, and what becomes of it",
            ]
            .map(str::to_owned),
        )
        .chain(findings.orphans.iter().map(|orphan| {
            let currency = findings.currency.as_deref().unwrap_or_default();
            [
                orphan.seen.kind.to_string(),
                orphan.seen.id.to_string(),
                orphan.seen.name.clone(),
                orphan
                    .hourly_cost
                    .map_or("-".to_owned(), |cost| format!("{cost:.4} {currency}")),
                format!("{}; {}", why(orphan), becomes(orphan, mandate)),
            ]
        }))
        .collect();
        let width = |column: usize| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths = [0, 1, 2, 3].map(width);
        for [kind, id, name, cost, why] in &rows {
            let [a, b, c, d] = widths;
            line(format!(
                "{kind:<a$}  {id:<b$}  {name:<c$}  {cost:<d$}  {why}"
            ));
        }
        line(String::new());
    }
    line(summary(findings));
    let rolled_back = |orphan: &Orphan| orphan.action == Action::RolledBack;
    if mandate == Mandate::Report {
        line("dry run: nothing was written, and no rollback was reopened".to_owned());
    } else if findings.orphans.iter().any(rolled_back) {
        line("what is rolled back is written down; the running service carries it out".to_owned());
    }
    text
}

fn summary(findings: &Findings) -> String {
    let mut parts = vec![match findings.orphans.len() {
        0 if findings.unread.is_empty() => "nothing found that should not be there".to_owned(),
        0 => "nothing found in the lists that could be read".to_owned(),
        1 => "1 orphan".to_owned(),
        count => format!("{count} orphans"),
    }];
    let cost: f64 = findings
        .orphans
        .iter()
        .filter_map(|orphan| orphan.hourly_cost)
        .sum();
    if let Some(currency) = &findings.currency {
        parts.push(format!("{cost:.4} {currency} an hour"));
    }
    if !findings.under_way.is_empty() {
        parts.push(format!("{} being rolled back", findings.under_way.len()));
    }
    if findings.not_ours > 0 {
        parts.push(format!(
            "{} of another controller's, left alone",
            findings.not_ours
        ));
    }
    parts.join("; ")
}

fn why(orphan: &Orphan) -> String {
    match orphan.why {
        Why::AttemptOver => "its attempt is over".to_owned(),
        Why::OlderAttempt => "a later attempt has taken over".to_owned(),
        Why::RollbackStuck => "its rollback is stuck".to_owned(),
        Why::UnknownProvision => "no provision of ours knows it".to_owned(),
        Why::UnknownAttempt => "its provision has no such attempt".to_owned(),
        Why::LabelsIncomplete => "it carries our controller id, and not all five labels".to_owned(),
        Why::OutlivedServer => "no server has it any more".to_owned(),
        Why::RunningWithoutServer => match orphan.provision() {
            Some(provision) => format!("{provision} runs, and no server carries its labels"),
            None => "its provision runs, and no server carries its labels".to_owned(),
        },
    }
}

fn becomes(orphan: &Orphan, mandate: Mandate) -> &'static str {
    match (orphan.action, mandate) {
        (Action::Reported, _) => "reported only",
        (Action::RolledBack, Mandate::Report) if orphan.why != Why::RollbackStuck => {
            "a sweep reopens its rollback"
        }
        (Action::RolledBack, _) => "rolled back",
        (Action::DeletedWhenTold, Mandate::Delete) => {
            "left for the next sweep: not too many at once"
        }
        (Action::DeletedWhenTold, _) => "deleted by --delete",
    }
}
