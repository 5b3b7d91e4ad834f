//! What the vendors say: how many requests are left, and what should not be there.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::parts::{self, Tone, number, when};
use crate::domain::budget::RateBudget;
use crate::http::Api;
use crate::store::sweeps::{OrphanView, SweepView};

/// How many orphans are shown before it is left to the API.
const SHOWN: usize = 25;

/// What is left of the vendors' rate limits, and when their lists were last looked at.
pub(super) fn vendors(
    sweep: &SweepView,
    budgets: &[(&str, RateBudget)],
    api: &Api,
    now: DateTime<Utc>,
) -> Markup {
    html! {
        section.panel aria-labelledby="vendors" {
            h2 #vendors { "Vendors" }
            dl.vendors {
                @for (vendor, budget) in budgets {
                    dt { (vendor_name(vendor)) }
                    dd { (rate(budget, now, api)) }
                }
                dt { "Sweep" }
                dd {
                    @match sweep.swept_at {
                        None => { "none yet" }
                        Some(at) => {
                            (when(at, now)) ", "
                            @if sweep.complete { "complete" } @else {
                                strong.bad-text { "incomplete" }
                            }
                            @if sweep.not_ours > 0 {
                                " · " (sweep.not_ours) " of other controllers left alone"
                            }
                        }
                    }
                    @for error in &sweep.errors { p.why { (error) } }
                }
            }
        }
    }
}

/// What the last sweep found, and what it costs.
pub(super) fn orphans(sweep: &SweepView, now: DateTime<Utc>) -> Markup {
    let orphans = &sweep.orphans;
    let currency = sweep.currency.as_deref();
    html! {
        @if !orphans.is_empty() {
            section aria-labelledby="orphans" {
                h2 #orphans {
                    "Orphans " span.n { (orphans.len()) }
                    @if sweep.hourly_cost > 0.0 {
                        span.aside { (parts::cost(sweep.hourly_cost, currency)) }
                    }
                }
                table.list {
                    thead { tr {
                        th scope="col" { "What" } th scope="col" { "Why, and what becomes of it" }
                        th scope="col" { "Since" } th.num scope="col" { "Cost" }
                    } }
                    tbody {
                        @for orphan in orphans.iter().take(SHOWN) {
                            tr #{ "orphan-" (orphan.kind) "-" (orphan.id) } {
                                td.name title=(orphan.name) {
                                    (parts::thing(&orphan.kind)) " " code { (orphan.id) }
                                    @if let Some(id) = orphan.provision_id.filter(|_| orphan.why != "unknown_provision") {
                                        " " a href={ "/provisions/" (id) } { (parts::short(&id.to_string())) }
                                    }
                                }
                                td.why { (because(orphan)) }
                                td { (when(orphan.since, now)) }
                                td.num {
                                    @if let Some(cost) = orphan.hourly_cost { (parts::cost(cost, currency)) }
                                    @else { "–" }
                                }
                            }
                        }
                    }
                }
                @if orphans.len() > SHOWN {
                    p.more { "The oldest " (SHOWN) " are shown; " a href="/v1/orphans" { "all as JSON" } }
                }
            }
        }
    }
}

fn vendor_name(vendor: &str) -> &str {
    match vendor {
        "hetzner" => "Hetzner",
        "tailscale" => "Tailscale",
        other => other,
    }
}

fn rate(budget: &RateBudget, now: DateTime<Utc>, api: &Api) -> Markup {
    html! {
        @match (budget.told, budget.remaining(now)) {
            (Some(told), Some(left)) => {
                @let reserve = api.page.reserve.of(told.limit);
                @let tone = if left <= reserve { Tone::Bad } else { Tone::Good };
                span.level { strong { (number(left)) } " of " (number(told.limit)) " requests left" }
                svg.gauge viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
                    rect.track width="100" height="6" {}
                    rect class=(tone.class()) width=(percent(left, told.limit)) height="6" {}
                    rect.mark x=(percent(reserve, told.limit)) width="0.6" height="6" {}
                }
                span.why { (number(reserve)) " are left to the workflows" }
            }
            _ => { span.why { "tells no limit" } }
        }
        @if let Some(until) = budget.paused_until.filter(|until| *until > now) {
            p.bad-text { "asked us to wait; goes on " (when(until, now)) }
        }
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    (part.min(whole) * 100)
        .checked_div(whole)
        .unwrap_or_default()
}

fn because(orphan: &OrphanView) -> String {
    let why = match orphan.why.as_str() {
        "attempt_over" => "its attempt is over",
        "older_attempt" => "its attempt was followed by another",
        "rollback_stuck" => "its rollback needs you",
        "unknown_provision" => "no provision knows it",
        "unknown_attempt" => "its provision has not come to this attempt: is this an old database?",
        "labels_incomplete" => "it has our controller id and not all labels",
        "outlived_server" => "it has outlived its server",
        "running_without_server" => "a provision runs, and its server is not there",
        other => other,
    };
    let action = match orphan.action.as_str() {
        "rolled_back" => "being rolled back",
        "deleted_when_told" => "goes with backstop sweep --delete",
        _ => "only reported",
    };
    format!("{why}; {action}")
}
