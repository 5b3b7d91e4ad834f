//! What pages are put together from: icons, badges, times, costs.
//!
//! A state is always said by a word and a shape as well as by its colour.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use maud::{Markup, PreEscaped, html};

use super::plain::{self, About};
use crate::domain::transition::Status;
use crate::store::views::{ProvisionView, RollbackState, RollbackView, StepView};

/// How serious something is; the class of its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// At work.
    Busy,
    /// Being undone.
    Undoing,
    /// Failed, or needs a person.
    Bad,
    /// Neither.
    Calm,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Undoing => "undoing",
            Self::Bad => "bad",
            Self::Calm => "calm",
        }
    }
}

/// A drawing of 16 by 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Icon {
    Check,
    Cross,
    Triangle,
    Undo,
    Half,
    Ring,
    Slash,
    Pause,
    Out,
    Person,
    Robot,
    Cloud,
    Workflow,
    Broom,
    Eye,
}

pub(super) fn icon(icon: Icon) -> Markup {
    let paths = match icon {
        Icon::Check => r#"<path d="M3.5 8.5l3 3 6-7"/>"#,
        Icon::Cross => r#"<path d="M4 4l8 8M12 4l-8 8"/>"#,
        Icon::Triangle => r#"<path d="M8 2.5l6 11H2z"/><path d="M8 7v3M8 11.6v.4"/>"#,
        Icon::Undo => r#"<path d="M3 7.5h7a3 3 0 010 6H6"/><path d="M6 4L2.5 7.5 6 11"/>"#,
        Icon::Half => {
            r#"<circle cx="8" cy="8" r="5.5"/><path class="fill" d="M8 2.5a5.5 5.5 0 010 11z"/>"#
        }
        Icon::Ring => r#"<circle cx="8" cy="8" r="5.5" stroke-dasharray="2.4 2.2"/>"#,
        Icon::Slash => r#"<circle cx="8" cy="8" r="5.5"/><path d="M4.2 11.8l7.6-7.6"/>"#,
        Icon::Pause => r#"<path d="M5.5 3.5v9M10.5 3.5v9"/>"#,
        Icon::Out => r#"<path d="M6 3.5H3.5v9h9V10M9 3.5h3.5V7M12.3 3.7L7.5 8.5"/>"#,
        Icon::Eye => {
            r#"<path d="M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8z"/><circle cx="8" cy="8" r="1.8"/>"#
        }
        Icon::Person => {
            r#"<circle cx="8" cy="5.2" r="2.7"/><path d="M2.8 14c.6-3 2.6-4.4 5.2-4.4s4.6 1.4 5.2 4.4"/>"#
        }
        Icon::Robot => {
            r#"<rect x="3" y="5.5" width="10" height="7.5" rx="2"/><path d="M8 2.5v3M6 9v.5M10 9v.5"/>"#
        }
        Icon::Cloud => r#"<path d="M4.5 12.5a3 3 0 01-.3-6 4 4 0 017.7 0 3 3 0 01-.2 6z"/>"#,
        Icon::Workflow => {
            r#"<circle cx="4" cy="4" r="1.8"/><circle cx="12" cy="12" r="1.8"/><path d="M4 5.8V9a3 3 0 003 3h3.2"/>"#
        }
        Icon::Broom => r#"<path d="M13 3L8.5 7.5M5 7l4 4-2.5 2.5c-1.5.5-3.5-.5-4.5-2z"/>"#,
    };
    html! {
        svg.icon viewBox="0 0 16 16" aria-hidden="true" focusable="false" { (PreEscaped(paths)) }
    }
}

/// A word with its shape and colour.
pub(super) fn badge(tone: Tone, shape: Icon, word: &str) -> Markup {
    html! { span class={ "badge " (tone.class()) } { (icon(shape)) (word) } }
}

pub(super) fn status(status: Status) -> Markup {
    let (tone, shape) = face(status);
    badge(tone, shape, word(status))
}

pub(super) fn face(status: Status) -> (Tone, Icon) {
    match status {
        Status::Queued => (Tone::Calm, Icon::Ring),
        Status::Provisioning => (Tone::Busy, Icon::Half),
        Status::Running => (Tone::Good, Icon::Check),
        Status::Failed => (Tone::Bad, Icon::Cross),
        Status::Destroyed => (Tone::Calm, Icon::Slash),
    }
}

pub(super) fn word(status: Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::Provisioning => "provisioning",
        Status::Running => "running",
        Status::Failed => "failed",
        Status::Destroyed => "destroyed",
    }
}

pub(super) fn rollback(state: RollbackState) -> Markup {
    match state {
        RollbackState::Pending => badge(Tone::Undoing, Icon::Undo, "being undone"),
        RollbackState::Done => badge(Tone::Good, Icon::Check, "all gone"),
        RollbackState::Stuck => badge(Tone::Bad, Icon::Triangle, "needs you"),
    }
}

/// How far each kind of thing has come, over all attempts.
pub(super) fn pips(rollback: &RollbackView) -> Markup {
    let steps = plain::steps(rollback);
    let of = |resource: &str| -> Vec<(About, &StepView)> {
        let steps = steps.iter();
        steps
            .filter(|(_, step)| step.resource == resource)
            .copied()
            .collect()
    };
    html! {
        ul.pips {
            @for (resource, name) in [("auth_key", "key"), ("server", "server"), ("device", "device")] {
                @let steps = of(resource);
                @if !steps.is_empty() {
                    @let (tone, shape, said) = pip(&steps);
                    li class=(tone.class()) { (icon(shape)) (name) span.unseen { " " (said) } }
                }
            }
        }
    }
}

fn pip(steps: &[(About, &StepView)]) -> (Tone, Icon, &'static str) {
    let settled = |step: &StepView| step.settled_at.is_some();
    let mut things = steps.iter().filter(|(about, _)| *about == About::Thing);
    let has_things = things.clone().next().is_some();
    if steps.iter().any(|(_, step)| step.stuck) {
        (Tone::Bad, Icon::Triangle, "needs you")
    } else if steps.iter().all(|(_, step)| settled(step)) {
        (Tone::Good, Icon::Check, "gone")
    } else if has_things && things.all(|(_, step)| settled(step)) {
        (Tone::Calm, Icon::Eye, "gone, and any other is watched for")
    } else if has_things {
        (Tone::Undoing, Icon::Undo, "not yet gone")
    } else {
        (Tone::Calm, Icon::Eye, "not seen, and watched for")
    }
}

/// What people call a provision.
pub(super) fn title(provision: &ProvisionView) -> String {
    provision
        .agent_id
        .clone()
        .unwrap_or_else(|| short(&provision.id.to_string()).to_owned())
}

/// The beginning of an id, enough to find it by.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// What people call a kind of thing.
pub(super) fn thing(resource: &str) -> &str {
    match resource {
        "auth_key" => "auth key",
        "primary_ip" => "primary IP",
        "floating_ip" => "floating IP",
        other => other,
    }
}

/// A moment, said as how long ago or ahead it is; the script lets it tick.
pub(super) fn when(at: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    html! {
        time.ago datetime=(at.to_rfc3339_opts(SecondsFormat::Millis, true)) title=(exact(at)) {
            (relative(at - now))
        }
    }
}

/// Since when something goes on, said as how long that is.
pub(super) fn lasting(since: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    html! {
        time.for datetime=(since.to_rfc3339_opts(SecondsFormat::Millis, true))
            title={ "since " (exact(since)) } {
            (span(now - since))
        }
    }
}

pub(super) fn exact(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `4 min ago`, `in 12 s`. The script says it in the same words.
fn relative(from_now: TimeDelta) -> String {
    let seconds = from_now.num_seconds();
    if seconds > 0 {
        format!("in {}", span(from_now))
    } else if seconds > -2 {
        "just now".to_owned()
    } else {
        format!("{} ago", span(-from_now))
    }
}

/// The two largest units are not needed to see how bad it is: one is.
pub(super) fn span(length: TimeDelta) -> String {
    let seconds = length.num_seconds().max(0);
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5_999 => format!("{} min", seconds / 60),
        6_000..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Seconds as people read them, to a tenth where that matters.
pub(super) fn took(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float becomes the nearest whole number there is"
        )]
        let whole = seconds.round() as i64;
        span(TimeDelta::try_seconds(whole).unwrap_or(TimeDelta::MAX))
    }
}

/// Hours in a month, as Hetzner counts its monthly caps.
const HOURS_A_MONTH: f64 = 730.0;

/// What something costs, an hour and a month.
pub(super) fn cost(hourly: f64, currency: Option<&str>) -> Markup {
    let currency = currency.unwrap_or_default();
    html! {
        span.cost title={ "about " (format!("{:.2}", hourly * HOURS_A_MONTH)) " " (currency) " a month, net" } {
            (format!("{hourly:.4}")) " " (currency) "/h"
        }
    }
}

/// A number with its thousands apart.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

pub(super) fn count(number_of: u64, one: &str, several: &str) -> String {
    let word = if number_of == 1 { one } else { several };
    format!("{} {word}", number(number_of))
}

/// The page of a run at GitHub, or its number where we do not know whose it is.
pub(super) fn run(runs: Option<&str>, id: i64, attempt: Option<i32>) -> Markup {
    let re_run = attempt.filter(|attempt| *attempt > 1);
    html! {
        @match runs {
            Some(runs) => {
                a.run href={ (runs) "/" (id) @if let Some(attempt) = re_run { "/attempts/" (attempt) } }
                    rel="noreferrer" {
                    "run " (id) @if let Some(attempt) = re_run { " · try " (attempt) } (icon(Icon::Out))
                    span.unseen { " at GitHub" }
                }
            }
            None => {
                span.run { "run " (id) @if let Some(attempt) = re_run { " · try " (attempt) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_said_as_people_say_them() {
        let seconds = |seconds| TimeDelta::try_seconds(seconds).unwrap();
        for (from_now, said) in [
            (0, "just now"),
            (-45, "45 s ago"),
            (-99, "99 s ago"),
            (-600, "10 min ago"),
            (-5_999, "99 min ago"),
            (-7_300, "2 h ago"),
            (-200_000, "2 d ago"),
            (90, "in 90 s"),
        ] {
            assert_eq!(relative(seconds(from_now)), said);
        }
        assert_eq!(number(7), "7");
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(took(1.25), "1.2 s");
        assert_eq!(took(3_725.0), "62 min");
    }
}
