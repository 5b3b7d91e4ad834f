//! Small charts of the last 24 hours, drawn here as SVG: nothing is loaded, and without colours the
//! heights still tell.

#![expect(clippy::cast_precision_loss, reason = "nobody sees a part of a pixel")]

use maud::{Markup, html};

use super::parts::{count, number, took};
use crate::store::board::{HOURS, Hour};

const HEIGHT: f64 = 56.0;
const STEP: f64 = 10.0;
const BAR: f64 = 7.0;

/// Failures an hour.
pub(super) fn failures(day: &[Hour; HOURS]) -> Markup {
    let total: u64 = day.iter().map(|hour| hour.failed).sum();
    let most = day.iter().map(|hour| hour.failed).max().unwrap_or_default();
    let summary = match total {
        0 => "None in the last 24 hours".to_owned(),
        _ => format!(
            "{} in the last 24 hours, at most {} an hour",
            number(total),
            number(most)
        ),
    };
    let bars = html! {
        @for (x, hour) in columns(day) {
            (bar(x, share(hour.failed, most.max(4)), "bad"))
        }
    };
    let label = |hour: &Hour| count(hour.failed, "failure", "failures");
    figure(
        "Failures an hour",
        &summary,
        &number(most),
        day,
        &bars,
        &label,
    )
}

/// How long it took from a failure to the proof that all is gone.
pub(super) fn settle_times(day: &[Hour; HOURS]) -> Markup {
    let settled: u64 = day.iter().map(|hour| hour.settled).sum();
    let longest = day.iter().map(|hour| hour.longest_s).fold(0.0, f64::max);
    let summary = match settled {
        0 => "No rollback ended in the last 24 hours".to_owned(),
        _ => format!(
            "{} done, the longest in {}",
            count(settled, "rollback", "rollbacks"),
            took(longest)
        ),
    };
    // From a second to hours: only a logarithm shows both.
    let height = |seconds: f64| (1.0 + seconds).ln() / (1.0 + longest.max(10.0)).ln();
    let bars = html! {
        @for (x, hour) in columns(day) {
            @if hour.settled > 0 {
                (bar(x, height(hour.longest_s), "good pale"))
                (bar(x, height(hour.median_s), "good"))
            }
        }
    };
    let label = |hour: &Hour| match hour.settled {
        0 => "no rollback ended".to_owned(),
        n => format!(
            "{} done: half within {}, the longest {}",
            count(n, "rollback", "rollbacks"),
            took(hour.median_s),
            took(hour.longest_s)
        ),
    };
    let scale = if settled == 0 {
        "–".to_owned()
    } else {
        took(longest)
    };
    figure(
        "Failure to proven gone",
        &summary,
        &scale,
        day,
        &bars,
        &label,
    )
}

fn figure(
    title: &str,
    summary: &str,
    scale: &str,
    day: &[Hour; HOURS],
    bars: &Markup,
    label: &dyn Fn(&Hour) -> String,
) -> Markup {
    let width = STEP * HOURS as f64;
    html! {
        figure.chart {
            figcaption { h2 { (title) } p { (summary) } }
            div.plot {
                span.scale aria-hidden="true" { (scale) }
                svg viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none"
                    role="img" aria-label={ (title) ": " (summary) } {
                    line.base x1="0" x2=(width) y1=(HEIGHT - 0.5) y2=(HEIGHT - 0.5) {}
                    (bars)
                    @for (at, (x, hour)) in columns(day).enumerate() {
                        rect.touch x=(x) y="0" width=(STEP) height=(HEIGHT) {
                            title { (ago(at)) ": " (label(hour)) }
                        }
                    }
                }
                div.axis aria-hidden="true" { span { "24 h ago" } span { "12 h" } span { "now" } }
            }
        }
    }
}

fn columns(day: &[Hour; HOURS]) -> impl Iterator<Item = (f64, &Hour)> {
    day.iter()
        .enumerate()
        .map(|(at, hour)| (STEP * at as f64, hour))
}

/// What happened at all can be seen at all.
fn bar(x: f64, share: f64, class: &str) -> Markup {
    let height = if share > 0.0 {
        (share * (HEIGHT - 4.0)).max(3.0)
    } else {
        0.0
    };
    html! {
        @if height > 0.0 {
            rect class=(class) x=(x + (STEP - BAR) / 2.0) width=(BAR) rx="1.5"
                y=(format!("{:.1}", HEIGHT - height)) height=(format!("{height:.1}")) {}
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn ago(at: usize) -> String {
    match HOURS - 1 - at {
        0 => "the last hour".to_owned(),
        hours => format!("{hours} to {} h ago", hours + 1),
    }
}
