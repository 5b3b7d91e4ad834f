//! What a vendor's list shows of an attempt that is over, or that no provision knows, gets a
//! rollback: reopened, or planned for the first time. Nothing is deleted here, and nothing by id
//! alone: whoever carries the steps out looks at labels, tag, host name and description again.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use super::rollback_failed_provision;
use crate::domain::fields::Hint;
use crate::domain::names::{Names, Run};
use crate::domain::provision::Provision;
use crate::domain::step::Resource;
use crate::store::StoreError;
use crate::store::ledger::{OfAttempt, mark_seen, not_pursued};
use crate::store::provisions::{Written, owns_an_attempt, read, read_attempt, write};

/// What became of a wish to roll back what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopened {
    /// It is written, and due now. The caller announces it.
    Yes,
    /// There is nothing to write: it is being rolled back, or the database knows better by now.
    NotNeeded,
}

/// Reopens the rollback of an attempt that is over, for things of it that a list begun at
/// `listed_at` shows to be its own. While a rollback is after them nothing is written again.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then nothing was.
pub async fn reopen_rollback(
    db: &mut PgConnection,
    names: Names,
    things: &[Hint],
    listed_at: DateTime<Utc>,
    managed: &[Resource],
) -> Result<Reopened, StoreError> {
    let of = of(names);
    loop {
        let mut transaction = db.begin().await?;
        let found = read_attempt(&mut transaction, of.provision, of.attempt).await?;
        let Some(provision) = found.provision else {
            return Ok(Reopened::NotNeeded);
        };
        let attempt = found.earlier.as_ref().unwrap_or(&provision.attempt);
        let disowned = provision.disowned_at.is_some();
        if disowned || attempt.number != of.attempt || attempt.rollback.is_none() {
            return Ok(Reopened::NotNeeded);
        }
        let things = not_pursued(&mut transaction, of, things, listed_at).await?;
        if things.is_empty() {
            return Ok(Reopened::NotNeeded);
        }
        let mut change = provision.seen_again(found.earlier, &things, found.now)?;
        rollback_failed_provision(&mut change, managed);
        if write(&mut transaction, &change).await? == Written::Yes {
            mark_seen(&mut transaction, of, &things, listed_at, found.now).await?;
            transaction.commit().await?;
            return Ok(Reopened::Yes);
        }
    }
}

/// Takes over an attempt that no provision knows, with the run that its labels name, as one that was
/// destroyed: so that the ledger, its checks and its receipts are the same for it as for any other.
///
/// # Errors
/// [`StoreError`] if the database cannot be written; then nothing was.
pub async fn adopt(
    db: &mut PgConnection,
    names: Names,
    run: Run,
    things: &[Hint],
    listed_at: DateTime<Utc>,
    managed: &[Resource],
) -> Result<Reopened, StoreError> {
    let of = of(names);
    loop {
        let mut transaction = db.begin().await?;
        let found = read_attempt(&mut transaction, of.provision, of.attempt).await?;
        let now = found.now;
        let written = match found.provision {
            None => {
                let first = Provision::adopt(of.provision, of.attempt, run, things, now)?;
                match write(&mut transaction, &first).await? {
                    Written::Yes => destroy(&mut transaction, of, managed).await?,
                    Written::Outrun => Written::Outrun,
                }
            }
            Some(provision)
                if provision.disowned_at.is_none()
                    && of.attempt < provision.attempt.number
                    && found.earlier.is_none()
                    && !owns_an_attempt(&mut transaction, of.provision, run).await? =>
            {
                let mut change = provision.adopt_earlier(of.attempt, run, things, now)?;
                rollback_failed_provision(&mut change, managed);
                write(&mut transaction, &change).await?
            }
            Some(_) => return Ok(Reopened::NotNeeded),
        };
        if written == Written::Yes {
            mark_seen(&mut transaction, of, things, listed_at, now).await?;
            transaction.commit().await?;
            return Ok(Reopened::Yes);
        }
    }
}

/// Destroys what was just taken over.
async fn destroy(
    db: &mut PgConnection,
    of: OfAttempt,
    managed: &[Resource],
) -> Result<Written, StoreError> {
    let (provision, now) = read(db, of.provision).await?;
    let Some(mut change) = provision
        .map(|provision| provision.destroy(now))
        .transpose()?
        .flatten()
    else {
        return Ok(Written::Outrun);
    };
    rollback_failed_provision(&mut change, managed);
    write(db, &change).await
}

fn of(names: Names) -> OfAttempt {
    OfAttempt {
        provision: names.provision(),
        attempt: names.attempt(),
    }
}
