//! When an empty list proves that there is nothing.
//!
//! A list that is empty now says nothing about later: a create that is still under way, a key
//! that is still valid or a server that is still up can each bring something new. So a search
//! settles only by a list that was begun after all that could create the thing had ended.

use chrono::{DateTime, Utc};

use super::step::{Proof, Resource};

/// What is known, as of a moment before the list was begun, about the attempt that a search
/// belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circumstances {
    /// What became of things of this kind that were the attempt's own.
    pub finds: Finds,
    /// Whether the workflow says that it may have begun to create a server.
    pub server_may_exist: bool,
    /// Whether every server step of the attempt is settled.
    pub servers_settled: bool,
    /// Whether every auth key step of the attempt is settled.
    pub keys_settled: bool,
    /// End of the late-arrival window.
    pub window_ends: DateTime<Utc>,
    /// The moment itself.
    pub now: DateTime<Utc>,
}

/// What became of the things of one kind that the vendor has shown us to be an attempt's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finds {
    /// None was ever seen.
    Nothing,
    /// The step of one is unsettled.
    Unsettled,
    /// All are gone, and how.
    Gone(Proof),
}

/// What an empty list means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is nothing, and nothing can come.
    Proven(Proof),
    /// Something may still arrive until then.
    OpenUntil(DateTime<Utc>),
    /// Something may still arrive for as long as other steps of the attempt are unsettled.
    OpenUntilOthersSettle,
}

/// Judges an empty list of a kind of thing.
#[must_use]
pub fn judge_empty_list(resource: Resource, known: &Circumstances) -> Verdict {
    let (seen, proven) = match known.finds {
        // The list may be ahead of the vendor's own word on the delete.
        Finds::Unsettled => return Verdict::OpenUntilOthersSettle,
        Finds::Gone(proof) => (true, Verdict::Proven(proof)),
        Finds::Nothing => (false, Verdict::Proven(Proof::NeverAppeared)),
    };
    match resource {
        Resource::Server => {
            if seen || !known.server_may_exist || known.window_ends <= known.now {
                proven
            } else {
                Verdict::OpenUntil(known.window_ends)
            }
        }
        Resource::AuthKey if known.servers_settled => proven,
        Resource::Device if known.servers_settled && known.keys_settled => proven,
        Resource::AuthKey | Resource::Device => Verdict::OpenUntilOthersSettle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn unknown() -> Circumstances {
        Circumstances {
            finds: Finds::Nothing,
            server_may_exist: true,
            servers_settled: false,
            keys_settled: false,
            window_ends: at(600),
            now: at(0),
        }
    }

    #[test]
    fn a_server_never_seen_is_watched_for_until_the_window_ends() {
        let judge = |known| judge_empty_list(Resource::Server, &known);
        assert_eq!(judge(unknown()), Verdict::OpenUntil(at(600)));
        assert_eq!(
            judge(Circumstances {
                now: at(600),
                ..unknown()
            }),
            Verdict::Proven(Proof::NeverAppeared)
        );
    }

    #[test]
    fn a_server_that_the_workflow_never_began_needs_no_window() {
        let known = Circumstances {
            server_may_exist: false,
            ..unknown()
        };
        assert_eq!(
            judge_empty_list(Resource::Server, &known),
            Verdict::Proven(Proof::NeverAppeared)
        );
    }

    #[test]
    fn a_server_once_seen_needs_no_window() {
        for proof in [Proof::Deleted, Proof::AlreadyGone] {
            let known = Circumstances {
                finds: Finds::Gone(proof),
                ..unknown()
            };
            assert_eq!(
                judge_empty_list(Resource::Server, &known),
                Verdict::Proven(proof)
            );
        }
    }

    #[test]
    fn a_search_waits_for_the_steps_of_what_was_seen() {
        for resource in Resource::ALL {
            let known = Circumstances {
                finds: Finds::Unsettled,
                server_may_exist: false,
                servers_settled: true,
                keys_settled: true,
                ..unknown()
            };
            assert_eq!(
                judge_empty_list(resource, &known),
                Verdict::OpenUntilOthersSettle
            );
        }
    }

    #[test]
    fn keys_wait_for_servers_and_devices_for_both() {
        let servers = Circumstances {
            servers_settled: true,
            ..unknown()
        };
        let both = Circumstances {
            keys_settled: true,
            ..servers
        };
        let keys = Circumstances {
            keys_settled: true,
            ..unknown()
        };
        let proven = Verdict::Proven(Proof::NeverAppeared);
        let open = Verdict::OpenUntilOthersSettle;
        for (known, key, device) in [
            (unknown(), open, open),
            (keys, open, open),
            (servers, proven, open),
            (both, proven, proven),
        ] {
            assert_eq!(judge_empty_list(Resource::AuthKey, &known), key);
            assert_eq!(judge_empty_list(Resource::Device, &known), device);
        }
    }
}
