//! Lists: read to their last page, or an error, never a part.
//!
//! A list is checked against the vendor's own count, and read again when things came or went between
//! two pages: one that vanishes moves the rest up, and the next page then skips one that exists. The
//! count does not tell when another thing came meanwhile, so a list of several pages counts only once
//! two readings in a row showed the same ids. Whatever the first one skipped would have to be skipped
//! by the second as well, and that takes a change that makes the two differ. Who only wants to see
//! what is there is told so ([`Shown`]).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::shapes::{Meta, WireFloatingIp, WirePrimaryIp, WireServer, WireVolume};
use super::{Hetzner, Ip, Server, Volume, read};
use crate::providers::VendorError;
use crate::providers::http::Answer;

/// The most the vendor puts on a page (<https://docs.hetzner.cloud/reference/cloud#pagination>).
const PER_PAGE: usize = 50;
/// The largest page: some forty times what one is.
const LARGEST_PAGE: usize = 8 * 1024 * 1024;
/// Ten thousand things. A list that goes on longer is not a list.
const MOST_PAGES: u64 = 200;
/// How often a list is read from its start before it counts as one that never stands still.
const READS: u32 = 3;

impl Hetzner {
    /// All servers that match a label selector, by ascending id.
    /// <https://docs.hetzner.cloud/reference/cloud#label-selector>
    ///
    /// # Errors
    /// `Unavailable` also when the list contradicts itself, never ends, or takes longer than
    /// [`Timeouts::list`](crate::providers::Timeouts::list).
    pub async fn servers_by_label(&self, selector: &str) -> Result<Vec<Server>, VendorError> {
        self.list::<WireServer, _>("servers", selector).await
    }

    /// All volumes that match a label selector, by ascending id.
    ///
    /// # Errors
    /// As [`Hetzner::servers_by_label`].
    pub async fn volumes_by_label(&self, selector: &str) -> Result<Vec<Volume>, VendorError> {
        self.list::<WireVolume, _>("volumes", selector).await
    }

    /// All primary IPs that match a label selector, by ascending id.
    ///
    /// # Errors
    /// As [`Hetzner::servers_by_label`].
    pub async fn primary_ips_by_label(&self, selector: &str) -> Result<Vec<Ip>, VendorError> {
        self.list::<WirePrimaryIp, _>("primary_ips", selector).await
    }

    /// All floating IPs that match a label selector, by ascending id.
    ///
    /// # Errors
    /// As [`Hetzner::servers_by_label`].
    pub async fn floating_ips_by_label(&self, selector: &str) -> Result<Vec<Ip>, VendorError> {
        self.list::<WireFloatingIp, _>("floating_ips", selector)
            .await
    }

    /// Servers that match a label selector, for who wants to see what is there and concludes nothing
    /// from what is not: of a list that never stands still, what the last read showed.
    ///
    /// # Errors
    /// As [`Hetzner::servers_by_label`], but for a list that changes.
    pub async fn servers_shown(&self, selector: &str) -> Result<Shown<Server>, VendorError> {
        self.shown::<WireServer, _>("servers", selector).await
    }

    async fn list<W, T>(&self, kind: &str, selector: &str) -> Result<Vec<T>, VendorError>
    where
        W: DeserializeOwned + Into<(u64, T)>,
        T: PartialEq,
    {
        let shown = self.shown::<W, T>(kind, selector).await?;
        shown.not_all.map_or(Ok(shown.things), Err)
    }

    async fn shown<W, T>(&self, kind: &str, selector: &str) -> Result<Shown<T>, VendorError>
    where
        W: DeserializeOwned + Into<(u64, T)>,
        T: PartialEq,
    {
        let reading = async {
            let mut reads = 1;
            let mut before: Option<Reading<T>> = None;
            loop {
                // Boxed: four lists side by side would make their callers' futures large.
                let mut reading = Box::pin(self.read_list::<W, T>(kind, selector)).await?;
                if let Some(before) = before {
                    reading.compare_with(&before);
                }
                if reading.is_proven() || reads == READS {
                    return Ok(reading.into());
                }
                before = Some(reading);
                reads += 1;
            }
        };
        self.http.within_list_time(&[kind], reading).await
    }

    async fn read_list<W, T>(&self, kind: &str, selector: &str) -> Result<Reading<T>, VendorError>
    where
        W: DeserializeOwned + Into<(u64, T)>,
        T: PartialEq,
    {
        let per_page = PER_PAGE.to_string();
        let mut things = BTreeMap::new();
        let mut first_total = None;
        let mut not_all = None;
        let mut page = 1;
        loop {
            // By id, so that what is made meanwhile comes last and moves nothing.
            let number = page.to_string();
            let query = [
                ("label_selector", selector),
                ("sort", "id:asc"),
                ("per_page", &per_page),
                ("page", &number),
            ];
            let call = self.http.get(&[kind]).query(&query);
            let answer = self.send(call.at_most(LARGEST_PAGE)).await?;
            let (listed, meta) = read_page::<W>(&answer, kind)?;
            let told = meta.pagination;

            if told.page != page {
                return Err(answer.unusable("a list that answers with another page"));
            }
            if listed.len() > PER_PAGE {
                return Err(answer.unusable("a page with more than was asked for"));
            }
            let known = things.len();
            let mut on_this_page = BTreeMap::new();
            for (id, thing) in listed.into_iter().map(Into::into) {
                // Whichever of the two is believed, it may be the wrong one.
                if on_this_page.get(&id).is_some_and(|other| *other != thing) {
                    return Err(answer.unusable("a list that contradicts itself"));
                }
                on_this_page.insert(id, thing);
            }
            things.extend(on_this_page);
            let nothing_new = things.len() == known;

            if told.total_entries != *first_total.get_or_insert(told.total_entries) {
                not_all = Some(answer.unusable("the list changed while it was read"));
            }
            let Some(next) = told.next_page else {
                let count = u64::try_from(things.len()).ok();
                if told.total_entries.is_some() && told.total_entries != count {
                    let does_not_add_up =
                        || answer.unusable("the list does not add up to its total");
                    not_all.get_or_insert_with(does_not_add_up);
                }
                let may_have_shifted = (page > 1)
                    .then(|| answer.unusable("the list changed between two readings of it"));
                return Ok(Reading {
                    things,
                    changed: not_all,
                    may_have_shifted,
                });
            };
            let repeats = nothing_new && not_all.is_none();
            if next != page + 1 || repeats || next > MOST_PAGES {
                return Err(answer.unusable("a list that repeats itself or never ends"));
            }
            page = next;
        }
    }
}

/// A list, read once from its first page to its last.
struct Reading<T> {
    things: BTreeMap<u64, T>,
    /// It changed while it was read, as the vendor's own count shows.
    changed: Option<VendorError>,
    /// Between two of its pages one thing may have come and another gone, which no count shows.
    may_have_shifted: Option<VendorError>,
}

impl<T> Reading<T> {
    /// A list of one page is the vendor's answer at one moment; one of several has to be compared.
    fn is_proven(&self) -> bool {
        self.changed.is_none() && self.may_have_shifted.is_none()
    }

    /// Nothing shifted if the reading before this one showed the same ids.
    fn compare_with(&mut self, before: &Self) {
        if before.changed.is_none() && before.things.keys().eq(self.things.keys()) {
            self.may_have_shifted = None;
        }
    }
}

impl<T> From<Reading<T>> for Shown<T> {
    fn from(reading: Reading<T>) -> Self {
        Self {
            things: reading.things.into_values().collect(),
            not_all: reading.changed.or(reading.may_have_shifted),
        }
    }
}

/// What a list showed, by ascending id.
#[derive(Debug)]
pub struct Shown<T> {
    /// All of it was there.
    pub things: Vec<T>,
    /// Things came or went between the pages each time it was read, so that there may be more.
    pub not_all: Option<VendorError>,
}

/// `meta` must be there: without it nobody knows whether the list ends here.
#[derive(Deserialize)]
struct Page {
    meta: Meta,
    #[serde(flatten)]
    lists: BTreeMap<String, Value>,
}

/// The list has the name of its kind. One that is missing is not an empty one.
fn read_page<W: DeserializeOwned>(
    answer: &Answer,
    kind: &str,
) -> Result<(Vec<W>, Meta), VendorError> {
    let mut page: Page = read(answer)?;
    let list = page
        .lists
        .remove(kind)
        .and_then(|list| serde_json::from_value(list).ok());
    match list {
        Some(list) => Ok((list, page.meta)),
        // serde's own message would quote the body.
        None => Err(answer.unusable(&format!("no list of {kind} as it is documented"))),
    }
}
