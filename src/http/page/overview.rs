//! `GET /`: within a second, what is running, what failed, what is being undone, what cannot be.

use axum::extract::{Query, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use uuid::Uuid;

use super::layout::{Failure, Here, Page, notice};
use super::parts::{self, Icon, Tone, count, icon, number, pips, run, title, when};
use super::plain::{self, Plain};
use super::{Viewer, chart, vendors};
use crate::domain::budget::RateBudget;
use crate::domain::hearing::Hold;
use crate::domain::step::Resource;
use crate::domain::transition::Status;
use crate::http::Api;
use crate::store::board::{self, HOURS, Hour, InHand};
use crate::store::gauges::Totals;
use crate::store::search::{Search, in_order, search};
use crate::store::sweeps::{self, SweepView};
use crate::store::views::{ProvisionView, StepView};
use crate::store::{StoreError, budgets, hold};

/// How many of a kind are shown before it is left to the list.
const SHOWN: u32 = 8;

/// Everything that the overview shows.
struct Board {
    now: DateTime<Utc>,
    totals: Totals,
    day: [Hour; HOURS],
    in_hand: InHand,
    stuck: Vec<ProvisionView>,
    pending: Vec<ProvisionView>,
    under_way: Vec<ProvisionView>,
    failed: Vec<ProvisionView>,
    budgets: Vec<(&'static str, RateBudget)>,
    sweep: SweepView,
    hold: Option<Hold>,
}

#[derive(Deserialize)]
pub(super) struct Said {
    #[serde(default)]
    said: String,
}

/// `GET /`
pub(super) async fn show(
    viewer: Viewer,
    State(api): State<Api>,
    Query(said): Query<Said>,
) -> Result<Response, Failure> {
    let board = load(&api).await?;
    let in_hand = &board.in_hand;
    let says = format!(
        "{} {} a person, {} being undone, {} running, {} failed",
        count(in_hand.stuck, "rollback", "rollbacks"),
        if in_hand.stuck == 1 { "needs" } else { "need" },
        number(in_hand.pending),
        number(board.of(Status::Running)),
        number(board.of(Status::Failed)),
    );
    let page = Page {
        viewer,
        title: "Overview",
        here: Here::Overview,
        says: &says,
        alarm: in_hand.stuck > 0,
        now: board.now,
        frame: super::provision::asked(&said.said),
        live: board.render(viewer, &api),
    };
    Ok(page.answer())
}

async fn load(api: &Api) -> Result<Board, StoreError> {
    let mut db = api.pool.acquire().await?;
    let totals = api.counted.totals(&mut db).await?;
    let day = api.counted.last_day(&mut db).await?;
    let in_hand = board::in_hand(&mut db, SHOWN, api.stuck_after).await?;
    let stuck = in_order(&mut db, &in_hand.first_stuck, api.stuck_after).await?;
    let pending = in_order(&mut db, &in_hand.first_pending, api.stuck_after).await?;
    let mut under_way = Vec::new();
    for status in [Status::Provisioning, Status::Queued] {
        under_way.extend(in_status(&mut db, status, api).await?);
    }
    let failed = in_status(&mut db, Status::Failed, api).await?;
    let mut told = Vec::new();
    let tailscale = api
        .managed
        .contains(&Resource::Device)
        .then_some("tailscale");
    for vendor in ["hetzner"].into_iter().chain(tailscale) {
        told.push((vendor, budgets::read(&mut db, vendor).await?.budget));
    }
    Ok(Board {
        sweep: sweeps::latest(&mut db).await?,
        hold: hold::current(&mut db).await?,
        now: board::now(&mut db).await?,
        budgets: told,
        totals,
        day,
        in_hand,
        stuck,
        pending,
        under_way,
        failed,
    })
}

async fn in_status(
    db: &mut sqlx::PgConnection,
    status: Status,
    api: &Api,
) -> Result<Vec<ProvisionView>, StoreError> {
    let wanted = Search {
        status: Some(status),
        ..Search::default()
    };
    let found = search(db, &wanted, None, SHOWN, api.stuck_after).await?;
    Ok(found.provisions)
}

impl Board {
    fn of(&self, status: Status) -> u64 {
        let status = status.to_string();
        let totals = &self.totals.provisions;
        totals
            .iter()
            .find(|(of, _)| *of == status)
            .map_or(0, |(_, n)| *n)
    }

    fn render(&self, viewer: Viewer, api: &Api) -> Markup {
        if self.totals.provisions.is_empty() && self.sweep.orphans.is_empty() {
            return html! {
                @if let Some(hold) = &self.hold { (held(hold, self.now)) }
                (nothing_yet(api))
            };
        }
        let runs = api.page.runs_url.as_deref();
        html! {
            @if let Some(hold) = &self.hold { (held(hold, self.now)) }
            (self.verdict())
            (self.tiles())
            @if !self.stuck.is_empty() { (self.needs_you(viewer)) }
            div.columns {
                (self.being_undone())
                (self.under_way(runs))
            }
            div.columns {
                (self.failed_lately(runs))
                div.stack {
                    (chart::failures(&self.day))
                    (chart::settle_times(&self.day))
                    (vendors::vendors(&self.sweep, &self.budgets, api, self.now))
                }
            }
            (vendors::orphans(&self.sweep, self.now))
        }
    }

    /// The one thing to read.
    fn verdict(&self) -> Markup {
        let in_hand = &self.in_hand;
        let orphans = self.sweep.orphans.len() as u64;
        let (tone, shape, head) = if in_hand.stuck > 0 {
            let verb = if in_hand.stuck == 1 {
                "needs you"
            } else {
                "need you"
            };
            let head = format!("{} {verb}", count(in_hand.stuck, "rollback", "rollbacks"));
            (Tone::Bad, Icon::Triangle, head)
        } else if in_hand.pending > 0 {
            let head = format!(
                "{} being undone",
                count(in_hand.pending, "provision", "provisions")
            );
            (Tone::Undoing, Icon::Undo, head)
        } else if orphans > 0 {
            let head = format!(
                "{} found by the last sweep",
                count(orphans, "orphan", "orphans")
            );
            (Tone::Undoing, Icon::Broom, head)
        } else {
            (Tone::Good, Icon::Check, "Nothing is left behind".to_owned())
        };
        html! {
            section #verdict class={ "verdict " (tone.class()) } {
                (icon(shape))
                div {
                    h1 { (head) }
                    p {
                        @if in_hand.stuck > 0 {
                            @if in_hand.stuck == 1 { "It is still retried. " } @else { "Each is still retried. " }
                            @if in_hand.pending > 0 { (number(in_hand.pending)) " more being undone. " }
                        } @else if in_hand.pending > 0 {
                            "It goes on by itself. "
                        } @else if orphans == 0 {
                            "Whatever failed is proven gone. "
                        }
                        @if let Some(oldest) = in_hand.oldest {
                            "The oldest has been waiting for " (parts::lasting(oldest, self.now)) ". "
                        }
                        @if self.sweep.hourly_cost > 0.0 {
                            "What should not be there costs "
                            (parts::cost(self.sweep.hourly_cost, self.sweep.currency.as_deref())) "."
                        }
                    }
                }
            }
        }
    }

    fn tiles(&self) -> Markup {
        html! {
            nav.tiles aria-label="Provisions by status" {
                @for status in Status::ALL {
                    @let (tone, shape) = parts::face(status);
                    a class={ "tile " (tone.class()) } href={ "/provisions?status=" (status) } {
                        span.of { (icon(shape)) (parts::word(status)) }
                        strong { (number(self.of(status))) }
                    }
                }
                a.tile.undoing href="/provisions?rollback=pending" {
                    span.of { (icon(Icon::Undo)) "being undone" }
                    strong { (number(self.in_hand.pending)) }
                }
            }
        }
    }

    fn needs_you(&self, viewer: Viewer) -> Markup {
        html! {
            section aria-labelledby="needs-you" {
                h2 #needs-you { "Needs you" }
                ul.cards {
                    @for provision in &self.stuck {
                        @if let Some((worst, plain)) = provision.rollback.as_ref().and_then(plain::worst) {
                            (self.stuck_card(viewer, provision, worst, &plain))
                        }
                    }
                }
                @if self.in_hand.stuck > self.stuck.len() as u64 {
                    p.more { a href="/provisions?rollback=stuck" { "All " (number(self.in_hand.stuck)) } }
                }
            }
        }
    }

    fn stuck_card(
        &self,
        viewer: Viewer,
        provision: &ProvisionView,
        worst: &StepView,
        plain: &Plain,
    ) -> Markup {
        let stuck = provision
            .rollback
            .iter()
            .flat_map(|it| &it.steps)
            .filter(|it| it.stuck)
            .count();
        html! {
            li #{ "stuck-" (provision.id) } .card.bad data-state=(plain.what) {
                div.body {
                    p.of {
                        a.name href={ "/provisions/" (provision.id) } { (title(provision)) }
                        " " span.what { (parts::thing(&worst.resource))
                            @if let Some(id) = &worst.vendor_id { " " code { (id) } } }
                        @if stuck > 1 { span.what { " and " (stuck - 1) " more" } }
                    }
                    p.reason { strong { (plain.what) } @if let Some(todo) = &plain.todo { " " (todo) } }
                    p.meta {
                        @if let Some(since) = provision.rollback.as_ref().and_then(|it| it.started_at) {
                            span { "for " (parts::lasting(since, self.now)) }
                        }
                        span { (count(worst.tries.unsigned_abs().into(), "try", "tries")) }
                        @if let Some(next) = worst.next_try_at {
                            span { "next " (when(next.max(self.now), self.now)) }
                        }
                        @if let Some(cost) = self.cost_of(provision.id) {
                            span { (parts::cost(cost, self.sweep.currency.as_deref())) }
                        }
                    }
                    @if let Some(error) = &worst.last_error {
                        details { summary { "What was said" } pre { (error) } }
                    }
                }
                @if viewer.operates() {
                    form method="post" action={ "/provisions/" (provision.id) "/rollback" } {
                        input type="hidden" name="back" value="/";
                        button { "Retry now" span.unseen { " " (title(provision)) } }
                    }
                }
            }
        }
    }

    /// What the things of a provision that should be gone cost an hour, as the last sweep saw them.
    fn cost_of(&self, id: Uuid) -> Option<f64> {
        let of = self
            .sweep
            .orphans
            .iter()
            .filter(|orphan| orphan.provision_id == Some(id));
        let costs: Vec<f64> = of.filter_map(|orphan| orphan.hourly_cost).collect();
        (!costs.is_empty()).then(|| costs.iter().sum())
    }

    fn being_undone(&self) -> Markup {
        html! {
            section.panel aria-labelledby="undone" {
                h2 #undone { "Being undone" @if self.in_hand.pending > 0 { " " span.n { (number(self.in_hand.pending)) } } }
                @if self.pending.is_empty() {
                    p.empty { "Nothing. What fails next shows up here, and goes by itself." }
                }
                ul.rows {
                    @for provision in &self.pending {
                        @if let Some(rollback) = &provision.rollback {
                            li #{ "undone-" (provision.id) } {
                                a.name href={ "/provisions/" (provision.id) } { (title(provision)) }
                                (pips(rollback))
                                @if let Some(since) = rollback.started_at {
                                    span.at { "for " (parts::lasting(since, self.now)) }
                                }
                                @if let Some((_, plain)) = plain::worst(rollback) {
                                    p.why { (plain.what) }
                                }
                            }
                        }
                    }
                }
                @if self.in_hand.pending > self.pending.len() as u64 {
                    p.more { a href="/provisions?rollback=pending" { "All " (number(self.in_hand.pending)) } }
                }
            }
        }
    }

    fn under_way(&self, runs: Option<&str>) -> Markup {
        let waiting = self.of(Status::Provisioning) + self.of(Status::Queued);
        html! {
            section.panel aria-labelledby="under-way" {
                h2 #under-way { "Under way" @if waiting > 0 { " " span.n { (number(waiting)) } } }
                @if self.under_way.is_empty() {
                    p.empty { "No workflow is at work." }
                }
                ul.rows {
                    @for provision in &self.under_way {
                        li #{ "way-" (provision.id) } data-state=(provision.step.as_deref().unwrap_or_default()) {
                            a.name href={ "/provisions/" (provision.id) } { (title(provision)) }
                            (parts::status(provision.status))
                            span.at { "for " (parts::lasting(provision.created_at, self.now)) }
                            p.why {
                                span { (provision.step.as_deref().unwrap_or("nothing reported yet")) }
                                @if let Some(deadline) = provision.deadline_at {
                                    span { "deadline " (when(deadline, self.now)) }
                                }
                                @if let Some(id) = provision.run_id { (run(runs, id, provision.run_attempt)) }
                            }
                        }
                    }
                }
            }
        }
    }

    fn failed_lately(&self, runs: Option<&str>) -> Markup {
        html! {
            section.panel aria-labelledby="failed" {
                h2 #failed { "Failed lately" }
                @if self.failed.is_empty() {
                    p.empty { "Nothing has failed." }
                }
                ul.rows {
                    @for provision in &self.failed {
                        li #{ "failed-" (provision.id) } {
                            a.name href={ "/provisions/" (provision.id) } { (title(provision)) }
                            @if let Some(rollback) = &provision.rollback {
                                (parts::rollback(rollback.state))
                            }
                            span.at { (when(provision.finished_at.unwrap_or(provision.updated_at), self.now)) }
                            p.why {
                                span { (why(provision)) }
                                @if let Some(id) = provision.run_id { (run(runs, id, provision.run_attempt)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn held(hold: &Hold, now: DateTime<Utc>) -> Markup {
    notice(
        "bad",
        Icon::Pause,
        &html! {
            strong { "Held for " (parts::lasting(hold.since, now)) ": " (hold.reason.sentence()) "." }
            " Nothing is failed for its time, dispatched or swept until somebody who knows runs "
            code { "backstop resume" } "."
        },
    )
}

fn nothing_yet(api: &Api) -> Markup {
    let url = api
        .page
        .public_url
        .as_deref()
        .unwrap_or("https://backstop.example");
    html! {
        section.hello {
            (icon(Icon::Check))
            h1 { "Ready, and nothing to look after yet" }
            p {
                "When a workflow says " code { "started" } ", its provision appears here. Whatever it leaves \
                 behind is deleted and proven gone, and each step of that can be followed on this page."
            }
            pre { "POST " (url) "/v1/provisions/" "$ID" "/callbacks/started" }
        }
    }
}

/// Why a provision failed, for a line.
pub(super) fn why(provision: &ProvisionView) -> String {
    let reason = provision
        .rollback
        .as_ref()
        .and_then(|it| it.reason.as_deref());
    reason.map_or_else(
        || provision.error.clone().unwrap_or_default(),
        |reason| {
            plain::reason(
                reason,
                provision.failed_step.as_deref(),
                provision.error.as_deref(),
            )
        },
    )
}
