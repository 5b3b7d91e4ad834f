//! Tables and lines for a terminal.

use std::fmt::Write;

use serde_json::Value;

const HEAD: [&str; 7] = [
    "provision",
    "agent",
    "status",
    "attempt",
    "step",
    "rollback",
    "updated",
];

/// A line for each provision.
pub(super) fn list(provisions: &Value) -> String {
    let provisions = provisions.as_array().map(Vec::as_slice).unwrap_or_default();
    if provisions.is_empty() {
        return "no provisions\n".to_owned();
    }
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(provisions.iter().map(cells));
    table(&rows)
}

/// The columns of [`line()`].
pub(super) fn line_head() -> String {
    columns(&HEAD.map(str::to_owned), &WIDTHS)
}

/// A provision on a line, in columns that do not depend on what else there is.
pub(super) fn line(provision: &Value) -> String {
    columns(&cells(provision), &WIDTHS)
}

/// The usual: a UUID, a name, a status, a number, a step, a rollback.
const WIDTHS: [usize; 7] = [36, 16, 12, 7, 20, 20, 0];

fn cells(provision: &Value) -> [String; 7] {
    [
        cell(&provision["id"]),
        cell(&provision["agent_id"]),
        cell(&provision["status"]),
        cell(&provision["attempt"]),
        cell(&provision["step"]),
        rollback(&provision["rollback"]),
        time(&provision["updated_at"]),
    ]
}

fn rollback(rollback: &Value) -> String {
    if rollback.is_null() {
        return "-".to_owned();
    }
    let steps = rollback["steps"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let settled = steps.iter().filter(|step| !step["settled_at"].is_null());
    format!(
        "{} {}/{}",
        cell(&rollback["state"]),
        settled.count(),
        steps.len()
    )
}

/// All of a provision but its history.
pub(super) fn provision(provision: &Value) -> String {
    let mut text = String::new();
    let mut rows = Vec::new();
    for (name, value) in provision.as_object().into_iter().flatten() {
        if name != "rollback" && !value.is_null() {
            let value = if name.ends_with("_at") {
                time(value)
            } else {
                cell(value)
            };
            rows.push([name.clone(), value]);
        }
    }
    text.push_str(&table(&rows));
    let rollback = &provision["rollback"];
    if rollback.is_null() {
        return text;
    }
    let _ = writeln!(
        text,
        "\nrollback {}: {}, since {}",
        cell(&rollback["state"]),
        cell(&rollback["reason"]),
        time(&rollback["started_at"]),
    );
    let names = [
        "attempt",
        "resource",
        "id",
        "state",
        "proof",
        "tries",
        "next try",
        "last error",
    ];
    let mut rows = vec![names.map(str::to_owned)];
    for step in rollback["steps"].as_array().into_iter().flatten() {
        let mut state = cell(&step["state"]);
        if step["stuck"] == true {
            state.push_str(", stuck");
        }
        rows.push([
            cell(&step["attempt"]),
            cell(&step["resource"]),
            cell(&step["vendor_id"]),
            state,
            cell(&step["proof"]),
            cell(&step["tries"]),
            time(&step["next_try_at"]),
            cell(&step["last_error"]),
        ]);
    }
    text + &table(&rows)
}

/// A line for each event.
pub(super) fn history(events: &Value) -> String {
    let mut rows = Vec::new();
    for event in events.as_array().into_iter().flatten() {
        let said = event["data"].as_object().into_iter().flatten();
        let said: Vec<String> = said
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{name}={}", cell(value)))
            .collect();
        rows.push([
            time(&event["at"]),
            cell(&event["attempt"]),
            cell(&event["kind"]),
            said.join(" "),
        ]);
    }
    format!("\nhistory\n{}", table(&rows))
}

/// Without control characters: a line stays a line, and the terminal as it is.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

/// To the second.
fn time(value: &Value) -> String {
    let text = cell(value);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    rows.iter().map(|row| columns(row, &widths)).collect()
}

fn columns<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let mut line = String::new();
    for (cell, &width) in row.iter().zip(widths) {
        let _ = write!(line, "{cell:<width$}  ");
    }
    line.truncate(line.trim_end().len());
    line + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_workflow_says_cannot_leave_its_line() {
        let provision = json!({
            "id": "1", "agent_id": "a\u{1b}[2J\nb", "status": "failed", "attempt": 1, "step": null,
            "updated_at": "2026-11-23T14:31:07.512345Z",
            "rollback": {"state": "pending", "steps": [{"settled_at": null}, {"settled_at": "x"}]},
        });
        let text = list(&json!([provision]));
        assert_eq!(
            text,
            "provision  agent    status  attempt  step  rollback     updated\n\
             1          a [2J b  failed  1        -     pending 1/2  2026-11-23T14:31:07Z\n"
        );
        assert_eq!(line(&provision).lines().count(), 1);
        assert_eq!(list(&json!([])), "no provisions\n");
    }
}
