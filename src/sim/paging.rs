//! Hetzner's pagination: which part of a list is answered, and how the rest is found.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    exchange::{Answer, Request},
    hetzner_problem::Problem,
};

/// As many as fit a page, however many were asked for.
const LONGEST_PAGE: usize = 50;

/// Which part of a list was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    number: usize,
    size: usize,
}

impl Page {
    /// Reads `page` and `per_page`.
    pub(super) fn from_query(query: &[(String, String)]) -> Result<Page, Problem> {
        let number = |name: &str, default: usize| match query.iter().find(|(key, _)| key == name) {
            None => Ok(default),
            Some((_, value)) => value
                .parse::<usize>()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| Problem::invalid_input(name, "must be a positive number")),
        };
        Ok(Page {
            number: number("page", 1)?,
            size: number("per_page", 25)?.min(LONGEST_PAGE),
        })
    }

    /// That part of `items`.
    pub(super) fn cut<'a, T>(&self, items: &'a [T]) -> &'a [T] {
        let start = (self.number - 1).saturating_mul(self.size).min(items.len());
        let end = start.saturating_add(self.size).min(items.len());
        &items[start..end]
    }
}

/// One page of `items`.
pub(super) fn paged(key: &str, items: &[Value], page: Page, request: &Request) -> Answer {
    let shown = page.cut(items).to_vec();
    answer(key, &shown, items.len(), page, request)
}

/// A page that has been cut already, of a list with `total` entries.
pub(super) fn answer(
    key: &str,
    shown: &[Value],
    total: usize,
    page: Page,
    request: &Request,
) -> Answer {
    let last = total.div_ceil(page.size).max(1);
    let previous = (page.number > 1).then(|| (page.number - 1).min(last));
    let next = (page.number < last).then(|| page.number + 1);
    let body = json!({
        key: shown,
        "meta": {"pagination": {
            "page": page.number,
            "per_page": page.size,
            "previous_page": previous,
            "next_page": next,
            "last_page": last,
            "total_entries": total,
        }},
    });
    let links: Vec<String> = [("prev", previous), ("next", next), ("last", Some(last))]
        .into_iter()
        .filter_map(|(rel, number)| Some((rel, number?)))
        .map(|(rel, number)| format!("<{}>; rel=\"{rel}\"", address(request, number, page.size)))
        .collect();
    let mut answer = Answer::json(StatusCode::OK, body);
    answer.headers.push(("link", links.join(", ")));
    answer
}

/// The same list at another page.
fn address(request: &Request, number: usize, size: usize) -> String {
    let mut url = reqwest::Url::parse("https://api.hetzner.cloud/v1")
        .expect("the address is written right here");
    url.set_path(&format!("/v1{}", request.path));
    let kept = request
        .query()
        .into_iter()
        .filter(|(key, _)| key != "page" && key != "per_page");
    url.query_pairs_mut()
        .extend_pairs(kept)
        .append_pair("page", &number.to_string())
        .append_pair("per_page", &size.to_string());
    url.into()
}
