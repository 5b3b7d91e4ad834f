//! What the token may do, found out without doing it.

use serde::Deserialize;
use serde_json::json;

use super::shapes::Meta;
use super::{Hetzner, is_absent, read, refusal};
use crate::providers::VendorError;

/// The largest id that there can be (the vendor's own document has it as `maximum`). Ids are counted
/// up from 1, and no server will ever have it.
const NO_SERVER: &str = "9007199254740991";

impl Hetzner {
    /// How many servers the token's project has; `None` if the vendor does not say.
    ///
    /// # Errors
    /// Any error: then the token cannot read, or nobody could be asked.
    pub async fn count_servers(&self) -> Result<Option<u64>, VendorError> {
        let call = self.http.get(&["servers"]).query(&[("per_page", "1")]);
        let answer = self.send(call).await?;
        let page: Counted = read(&answer)?;
        Ok(page.meta.pagination.total_entries)
    }

    /// Whether the token may do more than look. There is no call that says so, and a token that only
    /// reads is refused for its method before anything is looked for. So an update that names nothing
    /// to update is sent, for a server that cannot be: it would change nothing if it were there.
    /// <https://docs.hetzner.cloud/reference/cloud#servers-update-a-server>
    ///
    /// # Errors
    /// `Forbidden` for a token that only reads.
    pub async fn may_write(&self) -> Result<(), VendorError> {
        let call = self.http.put(&["servers", NO_SERVER]).json(&json!({}));
        let answer = self.send(call).await?;
        if is_absent(&answer) || answer.status.is_success() {
            Ok(())
        } else {
            Err(refusal(&answer))
        }
    }
}

#[derive(Deserialize)]
struct Counted {
    meta: Meta,
}
