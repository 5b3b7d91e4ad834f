//! What each of Hetzner's lists can be asked for: labels, names, an order and a part of it.

use super::{
    exchange::Request,
    hetzner_problem::Problem,
    paging::Page,
    selector::{Labels, Selector},
};

/// The query of one list, read.
pub(super) struct Listing {
    query: Vec<(String, String)>,
    selectors: Vec<Selector>,
    pub(super) page: Page,
}

impl Listing {
    /// An error if a selector or a number does not parse, as the vendor answers it.
    pub(super) fn read(request: &Request) -> Result<Listing, Problem> {
        let query = request.query();
        let page = Page::from_query(&query)?;
        let selectors = values(&query, "label_selector").map(|selector| {
            Selector::parse(selector)
                .map_err(|bad| Problem::invalid_input("label_selector", &bad.0))
        });
        Ok(Listing {
            selectors: selectors.collect::<Result<_, _>>()?,
            page,
            query,
        })
    }

    /// What was said for `parameter`, which may be repeated.
    pub(super) fn values(&self, parameter: &str) -> impl DoubleEndedIterator<Item = &str> {
        values(&self.query, parameter)
    }

    /// Whether the labels are picked by each selector, and the name is one of those that were asked for.
    pub(super) fn picks(&self, name: &str, labels: &Labels) -> bool {
        self.selectors.iter().all(|it| it.picks(labels)) && self.allows("name", name)
    }

    /// Whether `value` is one of those that were said for `parameter`, or none was.
    pub(super) fn allows(&self, parameter: &str, value: &str) -> bool {
        let mut said = self.values(parameter).peekable();
        said.peek().is_none() || said.any(|it| it == value)
    }
}

fn values<'a>(
    query: &'a [(String, String)],
    parameter: &str,
) -> impl DoubleEndedIterator<Item = &'a str> {
    query
        .iter()
        .filter(move |(key, _)| key == parameter)
        .map(|(_, value)| value.as_str())
}
