//! `GET /provisions`: all of them, by filters that live in the address.

use std::fmt::Write as _;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Failure, Here, Page};
use super::parts::{self, Icon, icon, pips, run, title, when};
use super::{Viewer, overview};
use crate::domain::transition::Status;
use crate::http::provisions::{decode_cursor, encode_cursor};
use crate::http::{Api, Problem};
use crate::store::board;
use crate::store::search::{Found, Search, Text, search};
use crate::store::views::{ProvisionView, RollbackState};

const PAGE: u32 = 50;

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    q: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    rollback: String,
    #[serde(default)]
    cursor: String,
}

/// What is asked for, as addresses say it.
#[derive(Clone, Copy)]
struct Filter<'a> {
    text: &'a str,
    status: Option<Status>,
    rollback: Option<RollbackState>,
}

/// `GET /provisions`
pub(super) async fn show(
    viewer: Viewer,
    State(api): State<Api>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(asked) = asked.map_err(|error| Problem::invalid_parameter(error.body_text()))?;
    // What an address cannot mean does not restrict: it may be an old one.
    let filter = Filter {
        text: asked.q.trim(),
        status: asked.status.parse().ok(),
        rollback: asked.rollback.parse().ok(),
    };
    let wanted = Search {
        status: filter.status,
        rollback: filter.rollback,
        text: Text::parse(filter.text),
        ..Search::default()
    };
    let after = decode_cursor(&asked.cursor);

    let mut db = api.pool.acquire().await?;
    let Found {
        provisions: found,
        more,
    } = search(&mut db, &wanted, after, PAGE, api.stuck_after).await?;
    let now = board::now(&mut db).await?;
    drop(db);
    let older = found.last().filter(|_| more).map(encode_cursor);

    let says = match (found.len(), more) {
        (0, _) => "no provision matches".to_owned(),
        (1, _) => "one provision".to_owned(),
        (n, false) => format!("{n} provisions"),
        (n, true) => format!("the newest {n} provisions"),
    };
    let runs = api.page.runs_url.as_deref();
    let live = html! {
        @if found.is_empty() {
            (nothing(filter))
        } @else {
            p.unseen { (says) }
            (table(&found, runs, now))
        }
        nav.pages aria-label="More" {
            @if after.is_some() { a.button href=(filter.address("")) { "Newest" } }
            @if let Some(cursor) = &older { a.button href=(filter.address(cursor)) { "Older" } }
        }
    };
    let page = Page {
        viewer,
        title: "Provisions",
        here: Here::Provisions,
        says: &says,
        alarm: false,
        now,
        frame: html! { h1 { "Provisions" } (form(filter)) },
        live,
    };
    Ok(page.answer())
}

impl Filter<'_> {
    fn address(self, cursor: &str) -> String {
        let status = self.status.map(|status| status.to_string());
        let rollback = self.rollback.map(|state| state.to_string());
        let pairs = [
            ("q", self.text),
            ("status", status.as_deref().unwrap_or_default()),
            ("rollback", rollback.as_deref().unwrap_or_default()),
            ("cursor", cursor),
        ];
        let mut address = "/provisions".to_owned();
        let given = pairs.iter().filter(|(_, value)| !value.is_empty());
        for (at, (name, value)) in given.enumerate() {
            address.push(if at == 0 { '?' } else { '&' });
            address.push_str(name);
            address.push('=');
            for byte in value.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    address.push(char::from(byte));
                } else {
                    let _ = write!(address, "%{byte:02X}");
                }
            }
        }
        address
    }
}

fn form(filter: Filter<'_>) -> Markup {
    let chip = |to: Filter<'_>, here: bool, name: Markup| {
        html! { a.chip href=(to.address("")) aria-current=[here.then_some("true")] { (name) } }
    };
    html! {
        form.search role="search" method="get" action="/provisions" {
            label.unseen for="q" { "Search" }
            input #q type="search" name="q" value=(filter.text) maxlength="200" spellcheck="false"
                autocapitalize="none" placeholder="Agent, server, IP, run or id";
            @if let Some(status) = filter.status { input type="hidden" name="status" value=(status); }
            @if let Some(state) = filter.rollback { input type="hidden" name="rollback" value=(state); }
            button { "Search" }
        }
        nav.chips aria-label="Status" {
            (chip(Filter { status: None, ..filter }, filter.status.is_none(), html! { "any status" }))
            @for status in Status::ALL {
                @let here = filter.status == Some(status);
                (chip(Filter { status: Some(status), ..filter }, here, html! {
                    (icon(parts::face(status).1)) (parts::word(status))
                }))
            }
        }
        nav.chips aria-label="Rollback" {
            (chip(Filter { rollback: None, ..filter }, filter.rollback.is_none(), html! { "any rollback" }))
            @for (state, shape, name) in [
                (RollbackState::Stuck, Icon::Triangle, "needs you"),
                (RollbackState::Pending, Icon::Undo, "being undone"),
                (RollbackState::Done, Icon::Check, "all gone"),
            ] {
                @let here = filter.rollback == Some(state);
                (chip(Filter { rollback: Some(state), ..filter }, here, html! { (icon(shape)) (name) }))
            }
        }
    }
}

fn table(found: &[ProvisionView], runs: Option<&str>, now: DateTime<Utc>) -> Markup {
    html! {
        table.list {
            thead { tr {
                th scope="col" { "Agent" } th scope="col" { "Status" } th scope="col" { "How it stands" }
                th scope="col" { "Rollback" } th scope="col" { "Run" } th.num scope="col" { "Changed" }
            } }
            tbody {
                @for provision in found {
                    tr #{ "p-" (provision.id) } data-state={ (provision.status) } {
                        td.name {
                            a href={ "/provisions/" (provision.id) } { (title(provision)) }
                            span.what {
                                code { (parts::short(&provision.id.to_string())) }
                                @if let Some(region) = &provision.region { " " (region) }
                            }
                        }
                        td { (parts::status(provision.status)) }
                        td.why { (stands(provision, now)) }
                        td {
                            @if let Some(rollback) = &provision.rollback {
                                @match rollback.state {
                                    RollbackState::Pending => { (pips(rollback)) }
                                    state => { (parts::rollback(state)) }
                                }
                            } @else { span.none { "–" } }
                        }
                        td {
                            @if let Some(id) = provision.run_id { (run(runs, id, provision.run_attempt)) }
                            @else { span.none { "–" } }
                        }
                        td.num { (when(provision.updated_at, now)) }
                    }
                }
            }
        }
    }
}

fn stands(provision: &ProvisionView, now: DateTime<Utc>) -> Markup {
    html! {
        @match provision.status {
            Status::Queued => { "no run has taken it" }
            Status::Provisioning => { (provision.step.as_deref().unwrap_or("started")) }
            Status::Running => {
                @match (&provision.server_ip, &provision.tailscale_ip) {
                    (Some(ip), _) | (None, Some(ip)) => { code { (ip) } }
                    (None, None) => { "in use" }
                }
            }
            Status::Failed | Status::Destroyed => { (overview::why(provision)) }
        }
        @if let Some(deadline) = provision.deadline_at { " · deadline " (when(deadline, now)) }
    }
}

fn nothing(filter: Filter<'_>) -> Markup {
    let restricted =
        !filter.text.is_empty() || filter.status.is_some() || filter.rollback.is_some();
    html! {
        section.hello {
            @if restricted {
                h2 { "No provision matches" }
                @if !filter.text.is_empty() {
                    p {
                        "Searched for agents that begin with " code { (filter.text) } " (anywhere in the name \
                         among the newest 5000), and for a server, address, run or provision of that name."
                    }
                }
                p { a.button href="/provisions" { "Show all" } }
            } @else {
                h2 { "No provision yet" }
                p { "The first one appears here when its workflow says " code { "started" } "." }
            }
        }
    }
}
