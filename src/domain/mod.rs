//! What backstop knows about provisions, without any I/O.
//!
//! Two state machines and the names that hang off them:
//!
//! - [`provision`]: a provision and its attempts; [`transition`] is its table and [`callback`]
//!   the table of who may say what, when.
//! - [`step`]: one thing that must go; [`step::StepState::after`] is its table.
//! - [`names`]: what everything a provision creates is called, derived from its id and attempt.
//! - [`orphans`]: what the vendors' lists show that should not be there.
//! - [`overdue`]: when a provision has used up its time; [`hearing`]: whether callbacks could be
//!   heard, and whether this database may act on not having heard one.
//! - [`witness`]: what GitHub says of a run, and what follows from it.
//! - [`absence`]: when an empty list is proof.
//! - [`backoff`]: how long to leave a failed delete alone.
//! - [`budget`]: how many requests a vendor may be sent.
//!
//! Everything here is pure: time comes in as an argument, taken from the database by whoever
//! calls. This module imports no other part of the crate.

pub mod absence;
pub mod backoff;
pub mod budget;
pub mod callback;
pub mod fields;
pub mod hearing;
pub mod names;
pub mod orphans;
pub mod overdue;
pub mod provision;
pub(crate) mod spelling;
pub mod step;
pub mod transition;
pub mod witness;
