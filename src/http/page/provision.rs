//! `GET /provisions/{id}`: all that is known of one provision, from `started` to the receipt; and what
//! an operator can do about it.

use axum::extract::rejection::{FormRejection, PathRejection};
use axum::extract::{Form, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{self, Failure, Here, Page, notice};
use super::parts::{self, Icon, Tone, count, run, title, when};
use super::plain::{self, About};
use super::sign_in::{local, see_other};
use super::timeline::timeline;
use super::{Operator, Viewer};
use crate::domain::names::ProvisionId;
use crate::domain::transition::Status;
use crate::http::provisions::{destroy_now, parse_id, retry_now};
use crate::http::{Api, Problem};
use crate::store::attempts::{AttemptView, attempts};
use crate::store::views::{EventView, ProvisionView, RollbackState, RollbackView, StepView};
use crate::store::{board, views};

type IdInPath = Result<Path<String>, PathRejection>;

#[derive(Deserialize)]
pub(super) struct Said {
    #[serde(default)]
    said: String,
}

#[derive(Deserialize)]
pub(super) struct Back {
    #[serde(default)]
    back: String,
}

/// `GET /provisions/{id}`
pub(super) async fn show(
    viewer: Viewer,
    State(api): State<Api>,
    id: IdInPath,
    Query(said): Query<Said>,
) -> Result<Response, Failure> {
    let id = id_in_path(id)?;
    let mut db = api.pool.acquire().await?;
    let provision = views::provision(&mut db, id, api.stuck_after).await?;
    let provision = provision.ok_or_else(unknown)?;
    let all_attempts = attempts(&mut db, id).await?;
    let events = views::events(&mut db, id).await?.unwrap_or_default();
    let now = board::now(&mut db).await?;
    drop(db);

    let title = title(&provision);
    let rollback = provision.rollback.as_ref();
    let stuck = rollback.is_some_and(|it| it.state == RollbackState::Stuck);
    let page = Page {
        viewer,
        title: &title,
        here: Here::Elsewhere,
        says: &says(&provision),
        alarm: stuck,
        now,
        frame: asked(&said.said),
        live: render(viewer, &api, &provision, &all_attempts, &events, now),
    };
    Ok(page.answer())
}

/// `GET /provisions/{id}/destroy`: asks once more, for whoever has no script.
pub(super) async fn ask(
    viewer: Viewer,
    State(api): State<Api>,
    id: IdInPath,
) -> Result<Response, Failure> {
    if !viewer.operates() {
        return Err(Problem::forbidden().into());
    }
    let id = id_in_path(id)?;
    let mut db = api.pool.acquire().await?;
    let provision = views::provision(&mut db, id, api.stuck_after).await?;
    let provision = provision.ok_or_else(unknown)?;
    let page = html! {
        (layout::wordmark())
        (confirmation(&provision))
        p { a href={ "/provisions/" (provision.id) } { "No, back to it" } }
    };
    Ok(layout::plain_page(StatusCode::OK, "Destroy?", &page))
}

/// `POST /provisions/{id}/destroy`
pub(super) async fn destroy(
    operator: Operator,
    State(api): State<Api>,
    id: IdInPath,
) -> Result<Response, Failure> {
    let id = id_in_path(id)?;
    let mut db = api.pool.acquire().await?;
    destroy_now(&api, &mut db, id, &operator.by).await?;
    Ok(see_other(&format!("/provisions/{id}?said=destroy")))
}

/// `POST /provisions/{id}/rollback`
pub(super) async fn retry(
    operator: Operator,
    State(api): State<Api>,
    id: IdInPath,
    back: Result<Form<Back>, FormRejection>,
) -> Result<Response, Failure> {
    let id = id_in_path(id)?;
    let Form(back) = back.map_err(|error| Problem::invalid_parameter(error.body_text()))?;
    let mut db = api.pool.acquire().await?;
    retry_now(&api, &mut db, id, &operator.by).await?;
    let back = match back.back.as_str() {
        "" => format!("/provisions/{id}"),
        back => local(back).to_owned(),
    };
    Ok(see_other(&format!("{back}?said=retry")))
}

/// What became of the form that led here.
pub(super) fn asked(said: &str) -> Markup {
    let text = match said {
        "retry" => "Whatever was left of it is tried again now.",
        "destroy" => "It is destroyed: whatever it made is deleted and proven gone.",
        _ => return Markup::default(),
    };
    html! { div #asked .notice.good role="status" { (parts::icon(Icon::Check)) div { (text) } } }
}

fn render(
    viewer: Viewer,
    api: &Api,
    provision: &ProvisionView,
    attempts: &[AttemptView],
    events: &[EventView],
    now: DateTime<Utc>,
) -> Markup {
    let runs = api.page.runs_url.as_deref();
    html! {
        (head(viewer, provision, now))
        @if let Some(rollback) = &provision.rollback { (callouts(rollback, now)) }
        (facts(provision, attempts.last(), runs, now))
        @if let Some(rollback) = &provision.rollback { (ledger(rollback, now)) }
        @if attempts.len() > 1 { (side_by_side(attempts, provision.status, runs, now)) }
        (timeline(events, now))
    }
}

fn head(viewer: Viewer, provision: &ProvisionView, now: DateTime<Utc>) -> Markup {
    let unsettled = provision
        .rollback
        .as_ref()
        .is_some_and(|it| it.state != RollbackState::Done);
    html! {
        div.title {
            div {
                p.crumb { a href="/provisions" { "Provisions" } " / " code { (provision.id) } }
                h1 { (title(provision)) }
                p.badges {
                    (parts::status(provision.status))
                    @if let Some(rollback) = &provision.rollback { (parts::rollback(rollback.state)) }
                    span.at { "first heard of " (when(provision.created_at, now)) }
                }
            }
            @if viewer.operates() {
                div.actions {
                    @if unsettled {
                        form method="post" action={ "/provisions/" (provision.id) "/rollback" } {
                            button.primary { "Retry now" }
                        }
                    }
                    @if provision.status != Status::Destroyed {
                        a.button.danger href={ "/provisions/" (provision.id) "/destroy" } data-dialog="destroy" {
                            "Destroy…"
                        }
                    }
                }
            }
        }
        @if viewer.operates() && provision.status != Status::Destroyed {
            dialog #destroy aria-labelledby="destroy-title" {
                (confirmation(provision))
                form method="dialog" { button.quiet { "Cancel" } }
            }
        }
    }
}

fn confirmation(provision: &ProvisionView) -> Markup {
    html! {
        h2 #destroy-title { "Destroy " (title(provision)) "?" }
        p {
            "Its server, device and auth key are deleted and proven gone. "
            @if provision.status == Status::Running { strong { "The machine is in use. " } }
            "There is no way back."
        }
        form method="post" action={ "/provisions/" (provision.id) "/destroy" } {
            button.danger { "Destroy it" }
        }
    }
}

fn callouts(rollback: &RollbackView, now: DateTime<Utc>) -> Markup {
    html! {
        @for (about, step) in plain::steps(rollback).into_iter().filter(|(_, step)| step.stuck) {
            @let plain = plain::step(about, step);
            (notice("bad", Icon::Triangle, &html! {
                strong { (plain.what) }
                @if let Some(todo) = &plain.todo { " " (todo) }
                p.meta {
                    span { (parts::thing(&step.resource)) @if let Some(id) = &step.vendor_id { " " code { (id) } } }
                    span { (count(step.tries.unsigned_abs().into(), "try", "tries")) }
                    @if let Some(next) = step.next_try_at { span { "next " (when(next.max(now), now)) } }
                }
            }))
        }
    }
}

fn facts(
    provision: &ProvisionView,
    attempt: Option<&AttemptView>,
    runs: Option<&str>,
    now: DateTime<Utc>,
) -> Markup {
    let text = |name: &str, value: Option<&str>| {
        html! { @if let Some(value) = value { div { dt { (name) } dd { code { (value) } } } } }
    };
    let time = |name: &str, value: Option<DateTime<Utc>>| {
        html! { @if let Some(value) = value { div { dt { (name) } dd { (when(value, now)) } } } }
    };
    html! {
        dl.facts {
            @if let Some(id) = provision.run_id {
                div { dt { "Run" } dd { (run(runs, id, provision.run_attempt)) } }
            }
            @if let Some(region) = &provision.region { div { dt { "Region" } dd { (region) } } }
            @if let Some(step) = &provision.step { div { dt { "Last step" } dd { (step) } } }
            (text("Server", provision.server_id.as_deref()))
            (text("Address", provision.server_ip.as_deref()))
            (text("Tailnet address", provision.tailscale_ip.as_deref()))
            (time("Deadline", provision.deadline_at))
            (time("Last heartbeat", provision.last_heartbeat_at))
            (text("Device", attempt.and_then(|it| it.tailscale_node_id.as_deref())))
            (text("Auth key", attempt.and_then(|it| it.tailscale_key_id.as_deref())))
            (text("Name of its server and device", provision.server_name.as_deref()))
        }
        @if let Some(rollback) = &provision.rollback {
            p.because {
                strong {
                    @match provision.status {
                        Status::Failed | Status::Destroyed => { (super::overview::why(provision)) "." }
                        _ => { "An earlier attempt was given up." }
                    }
                }
                @if let Some(settled) = rollback.settled_at {
                    " All of it was proven gone " (when(settled, now))
                    @if let Some(started) = rollback.started_at {
                        @if settled > started { ", after " (took(settled - started)) }
                    }
                    "."
                }
            }
        }
    }
}

fn took(length: chrono::TimeDelta) -> String {
    parts::took(length.to_std().unwrap_or_default().as_secs_f64())
}

fn ledger(rollback: &RollbackView, now: DateTime<Utc>) -> Markup {
    html! {
        section aria-labelledby="ledger" {
            h2 #ledger { "Ledger" }
            @if rollback.steps.is_empty() {
                p.empty { "Nothing was made, so nothing has to go." }
            } @else {
                table.list {
                    thead { tr {
                        th scope="col" { "What must go" } th scope="col" { "State" }
                        th scope="col" { "How it stands" } th.num scope="col" { "Tries" }
                        th.num scope="col" { "When" }
                    } }
                    tbody {
                        @for (at, (about, step)) in plain::steps(rollback).into_iter().enumerate() {
                            tr #{ "s-" (step.attempt) "-" (step.resource) "-" (at) }
                                data-state={ (step.state) (step.stuck) } {
                                td.name {
                                    @match (about, &step.vendor_id) {
                                        (About::Thing, Some(id)) => {
                                            (parts::thing(&step.resource)) " " code { (id) }
                                        }
                                        _ => { "any " (parts::thing(&step.resource)) }
                                    }
                                    span.what { "attempt " (step.attempt) }
                                }
                                td { (state(about, step)) }
                                td.why {
                                    (plain::step(about, step).what)
                                    @if let Some(error) = step.last_error.as_ref().filter(|_| step.settled_at.is_none()) {
                                        details { summary { "What was said" } pre { (error) } }
                                    }
                                }
                                td.num { (step.tries) }
                                td.num {
                                    @match (step.settled_at, step.next_try_at) {
                                        (Some(at), _) => { (when(at, now)) }
                                        (None, Some(at)) => { "next " (when(at.max(now), now)) }
                                        (None, None) => { "now" }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn state(about: About, step: &StepView) -> Markup {
    let (tone, shape, word) = match (step.state.as_str(), step.proof.as_deref()) {
        _ if step.stuck => (Tone::Bad, Icon::Triangle, "stuck"),
        ("gone", _) if about == About::Search => (Tone::Good, Icon::Check, "none left"),
        ("gone", Some("deleted")) => (Tone::Good, Icon::Check, "deleted"),
        ("gone", Some("already_gone")) => (Tone::Good, Icon::Check, "already gone"),
        ("gone", _) => (Tone::Good, Icon::Check, "never appeared"),
        ("refused", _) => (Tone::Calm, Icon::Slash, "left alone"),
        ("leased", _) => (Tone::Undoing, Icon::Undo, "at work"),
        ("waiting", _) if about == About::Search => (Tone::Calm, Icon::Eye, "watched for"),
        ("waiting", _) => (Tone::Undoing, Icon::Half, "deleting"),
        _ => (Tone::Undoing, Icon::Ring, "due"),
    };
    parts::badge(tone, shape, word)
}

fn side_by_side(
    attempts: &[AttemptView],
    status: Status,
    runs: Option<&str>,
    now: DateTime<Utc>,
) -> Markup {
    let newest = attempts.last().map(|it| it.number);
    html! {
        section aria-labelledby="attempts" {
            h2 #attempts { @if attempts.len() == 1 { "Attempt" } @else { "Attempts" } }
            div.attempts tabindex="0" role="group" aria-label="Side by side" {
                @for attempt in attempts.iter().rev() {
                    article #{ "a-" (attempt.number) } .current[newest == Some(attempt.number)] {
                        h3 {
                            @if attempt.number == 0 { "Before any run" } @else { "Attempt " (attempt.number) }
                            (ending(attempt, newest == Some(attempt.number), status))
                        }
                        dl {
                            @if let Some(id) = attempt.run_id {
                                dt { "Run" } dd { (run(runs, id, attempt.run_attempt)) }
                            }
                            dt { "Opened" } dd { (when(attempt.started_at, now)) }
                            dt { "Last heard" } dd { (when(attempt.last_message_at, now)) }
                            @if let Some(at) = attempt.finished_at { dt { "Ended" } dd { (when(at, now)) } }
                            @if let Some(step) = &attempt.step { dt { "Reached" } dd { (step) } }
                            @for (name, id) in [
                                ("Auth key", &attempt.tailscale_key_id), ("Server", &attempt.server_id),
                                ("Device", &attempt.tailscale_node_id),
                            ] {
                                @if let Some(id) = id { dt { (name) } dd { code { (id) } } }
                            }
                            @if let Some(reason) = &attempt.reason {
                                dt { "Why" }
                                dd { (plain::reason(reason, attempt.failed_step.as_deref(), attempt.error.as_deref())) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn ending(attempt: &AttemptView, is_current: bool, status: Status) -> Markup {
    if is_current {
        return parts::status(status);
    }
    match attempt.reason.as_deref() {
        Some(reason) => parts::badge(Tone::Bad, Icon::Cross, &reason.replace('_', " ")),
        None => parts::badge(Tone::Calm, Icon::Slash, "over"),
    }
}

/// In one sentence, for whoever listens.
fn says(provision: &ProvisionView) -> String {
    let status = parts::word(provision.status);
    match &provision.rollback {
        Some(rollback) => {
            let settled = rollback
                .steps
                .iter()
                .filter(|it| it.settled_at.is_some())
                .count();
            let state = match rollback.state {
                RollbackState::Stuck => "needs a person",
                RollbackState::Pending => "goes on",
                RollbackState::Done => "is done",
            };
            format!(
                "{status}; the rollback {state}, {settled} of {} steps",
                rollback.steps.len()
            )
        }
        None => match &provision.step {
            Some(step) => format!("{status}, {step}"),
            None => status.to_owned(),
        },
    }
}

/// What is no id is no provision's.
fn id_in_path(id: IdInPath) -> Result<ProvisionId, Problem> {
    let Path(id) = id.map_err(|_| unknown())?;
    parse_id(&id).map_err(|_| unknown())
}

fn unknown() -> Problem {
    Problem::not_found("there is no provision with this id")
}
