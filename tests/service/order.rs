//! In whatever order messages arrive, and however often, they end in the same place. Held for the
//! decisions alone, with the database in memory, and for the service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backstop::domain::callback::{
    Callback, Kind, Message, PROVEN_BY, REFUSED, Refusal, Snapshot, decide,
};
use backstop::domain::fields::{Address, Conclusion, Hint, Reason, VendorId};
use backstop::domain::names::{AttemptNumber, ProvisionId, Run};
use backstop::domain::provision::{Attempt, BY, Failure, NewEvent, Provision, Reported, Rollback};
use backstop::domain::step::Resource;
use backstop::domain::transition::Status;
use backstop::rollback::rollback_failed_provision;
use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::Service;
use crate::support::{said, step_names};

const TIMEOUT: Duration = Duration::from_secs(1800);

/// What the database holds of one provision.
struct Memory {
    id: ProvisionId,
    now: DateTime<Utc>,
    provision: Option<Provision>,
    attempts: BTreeMap<AttemptNumber, Attempt>,
    events: Vec<NewEvent>,
    steps: BTreeSet<(AttemptNumber, Resource, Option<VendorId>)>,
}

impl Memory {
    fn new(id: Uuid) -> Self {
        Self {
            id: ProvisionId::new(id),
            now: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
            provision: None,
            attempts: BTreeMap::new(),
            events: Vec::new(),
            steps: BTreeSet::new(),
        }
    }

    /// Reads, decides and writes, as the service does.
    fn hear(&mut self, run: Run, message: &Message) -> Result<AttemptNumber, Refusal> {
        self.now += TimeDelta::seconds(1);
        let callback = Callback {
            provision: self.id,
            run,
            job: None,
            message: message.clone(),
            unreadable: Vec::new(),
        };
        let current = self
            .provision
            .as_ref()
            .map(|provision| provision.attempt.number);
        let former = self
            .attempts
            .values()
            .find(|a| a.run == Some(run) && Some(a.number) != current)
            .cloned();
        let about = former.as_ref().map(|former| former.number).or(current);
        let data = Value::Object(callback.data());
        let repeated = self.events.iter().any(|event| {
            let mut kept = event.data.clone();
            kept.as_object_mut().unwrap().remove(REFUSED);
            Some(event.attempt) == about && event.kind == message.kind().event() && kept == data
        });
        let snapshot = Snapshot {
            now: self.now,
            provision: self.provision.clone(),
            former,
            repeated,
        };
        let decision = decide(snapshot, &callback, TIMEOUT).unwrap();
        if let Some(mut change) = decision.change {
            rollback_failed_provision(&mut change, &Resource::ALL);
            let steps = change.steps.into_iter();
            self.steps
                .extend(steps.map(|step| (step.attempt, step.resource, step.vendor_id)));
            self.events.extend(change.events);
            let mut provision = change.provision;
            provision.version += 1;
            for attempt in change
                .earlier
                .into_iter()
                .chain([provision.attempt.clone()])
            {
                self.attempts.insert(attempt.number, attempt);
            }
            self.provision = Some(provision);
        }
        decision.answer.map(|accepted| accepted.attempt)
    }

    fn status(&self) -> Status {
        self.provision.as_ref().unwrap().status
    }

    fn step_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .steps
            .iter()
            .map(|(attempt, resource, id)| {
                let id = id.as_ref().map_or("-", VendorId::as_str);
                format!("{} {resource} {id}", attempt.as_i32())
            })
            .collect();
        names.sort();
        names
    }
}

fn vendor_id(resource: Resource) -> BoxedStrategy<Option<VendorId>> {
    let ids = match resource {
        Resource::Server => ["11", "12", "13"],
        Resource::AuthKey => ["kA", "kB", "kC"],
        Resource::Device => ["nA", "nB", "nC"],
    };
    prop::option::of(prop::sample::select(ids.to_vec()))
        .prop_map(move |id| id.map(|id| VendorId::parse(resource, id).unwrap()))
        .boxed()
}

fn reported() -> impl Strategy<Value = Reported> {
    let ids = (
        vendor_id(Resource::Server),
        vendor_id(Resource::AuthKey),
        vendor_id(Resource::Device),
    );
    (ids, 0_u8..4).prop_map(
        |((server_id, tailscale_key_id, tailscale_node_id), ip)| Reported {
            server_id,
            server_ip: (ip > 0).then(|| Address::Ip([192, 0, 2, ip].into())),
            tailscale_ip: (ip > 1).then(|| Address::Ip([100, 64, 0, ip].into())),
            tailscale_key_id,
            tailscale_node_id,
        },
    )
}

/// A success names its server, its address, and its address in the tailnet.
fn complete(mut reported: Reported) -> Reported {
    reported
        .server_id
        .get_or_insert(VendorId::parse(Resource::Server, "11").unwrap());
    reported
        .server_ip
        .get_or_insert(Address::Ip([192, 0, 2, 9].into()));
    reported
        .tailscale_ip
        .get_or_insert(Address::Ip([100, 64, 0, 9].into()));
    reported
}

fn started() -> impl Strategy<Value = Message> {
    prop::option::of("[a-z]{1,3}").prop_map(|agent_id| Message::Started {
        agent_id,
        region: None,
    })
}

fn failure() -> impl Strategy<Value = Message> {
    let conclusion = prop::option::of(prop_oneof![
        Just(Conclusion::Failure),
        Just(Conclusion::Cancelled),
        Just(Conclusion::TimedOut)
    ]);
    let may_exist = subsequence(Resource::ALL.to_vec(), 0..=3);
    (
        reported(),
        conclusion,
        may_exist,
        prop::option::of("[a-z]{1,3}"),
    )
        .prop_map(|(reported, conclusion, may_exist, error)| {
            Message::Failure(Failure {
                reported,
                failed_step: error.clone(),
                error,
                conclusion,
                may_exist: may_exist.into_iter().collect(),
            })
        })
}

fn other_than_started() -> impl Strategy<Value = Message> {
    prop_oneof![
        3 => (prop::option::of("[a-z]{1,3}"), reported())
            .prop_map(|(step, reported)| Message::Progress { step, reported }),
        1 => reported().prop_map(|reported| Message::Success { reported: complete(reported) }),
        1 => failure(),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![1 => started(), 4 => other_than_started()]
}

/// All ids that messages name.
fn named<'a>(messages: impl IntoIterator<Item = &'a Message>) -> BTreeSet<Hint> {
    let mut named = BTreeSet::new();
    for message in messages {
        let reported = match message {
            Message::Started { .. } => continue,
            Message::Progress { reported, .. } | Message::Success { reported } => reported,
            Message::Failure(failure) => &failure.reported,
        };
        let ids = [
            (Resource::Server, &reported.server_id),
            (Resource::AuthKey, &reported.tailscale_key_id),
            (Resource::Device, &reported.tailscale_node_id),
        ];
        named.extend(ids.into_iter().filter_map(|(resource, id)| {
            id.clone().map(|vendor_id| Hint {
                resource,
                vendor_id,
            })
        }));
    }
    named
}

const RUN: Run = Run { id: 1, attempt: 1 };

/// Several run attempts of two runs, each with its own messages after its `started`, interleaved.
fn interleaved() -> impl Strategy<Value = Vec<(Run, Message)>> {
    let says = |run: Run| {
        (started(), prop::collection::vec(other_than_started(), 0..5)).prop_map(
            move |(first, rest)| {
                let all = std::iter::once(first).chain(rest);
                all.map(|message| (run, message)).collect::<Vec<_>>()
            },
        )
    };
    let runs =
        [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)].map(|(id, attempt)| says(Run { id, attempt }));
    (runs, prop::collection::vec(any::<Index>(), 30)).prop_map(|(queues, picks)| {
        let mut queues: Vec<_> = queues
            .into_iter()
            .map(|queue| queue.into_iter().peekable())
            .collect();
        let mut sequence = Vec::new();
        for pick in picks {
            queues.retain_mut(|queue| queue.peek().is_some());
            if !queues.is_empty() {
                let queue = pick.index(queues.len());
                sequence.extend(queues[queue].next());
            }
        }
        sequence
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_attempts_messages_end_alike_in_any_order_however_often(
        messages in prop::collection::vec(message(), 1..8),
        extra in prop::collection::vec(any::<Index>(), 0..6),
        order in any::<u64>(),
    ) {
        let mut shuffled = messages.clone();
        shuffled.extend(extra.iter().map(|index| index.get(&messages).clone()));
        // Any order: each goes where a number drawn for it says.
        let mut seed = order;
        shuffled.sort_by_cached_key(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        });
        let ends = [&messages, &shuffled].map(|sequence| {
            let mut memory = Memory::new(Uuid::nil());
            for message in sequence {
                let _ = memory.hear(RUN, message);
            }
            memory
        });
        for end in &ends {
            prop_assert_eq!(end.attempts.len(), 1);
            let attempt = &end.provision.as_ref().unwrap().attempt;
            let failed = messages.iter().any(|message| matches!(message, Message::Failure(_)));
            let succeeded = messages.iter().any(|message| matches!(message, Message::Success { .. }));
            let expected = match (failed, succeeded) {
                (true, _) => Status::Failed,
                (false, true) => Status::Running,
                (false, false) => Status::Provisioning,
            };
            prop_assert_eq!(end.status(), expected);
            prop_assert_eq!(&attempt.hints, &named(&messages));
            prop_assert_eq!(end.steps.is_empty(), !failed);
            if failed {
                let hinted = attempt.hints.iter().map(|hint| (hint.resource, Some(hint.vendor_id.clone())));
                let searches = Resource::ALL.map(|resource| (resource, None));
                let all: BTreeSet<_> = hinted.chain(searches).map(|(r, id)| (attempt.number, r, id)).collect();
                prop_assert_eq!(&end.steps, &all);
            }
        }
        prop_assert_eq!(&ends[0].steps, &ends[1].steps);
        let may_exist = |end: &Memory| end.provision.as_ref().unwrap().attempt.may_exist.clone();
        prop_assert_eq!(may_exist(&ends[0]), may_exist(&ends[1]));
    }

    #[test]
    fn attempts_never_touch_each_other(sequence in interleaved()) {
        let mut memory = Memory::new(Uuid::nil());
        let mut opened: Vec<Run> = Vec::new();
        let mut heard: BTreeMap<AttemptNumber, Vec<Message>> = BTreeMap::new();
        for (run, message) in &sequence {
            let before = memory.attempts.clone();
            let answer = memory.hear(*run, message);
            let current = memory.provision.as_ref().unwrap().attempt.clone();
            // The newest attempt belongs to whoever was accepted last.
            if opened.len() < usize::try_from(current.number.as_i32()).unwrap() {
                prop_assert_eq!(message.kind(), Kind::Started);
                prop_assert!(!opened.contains(run), "an attempt is opened once");
                opened.push(*run);
            }
            prop_assert_eq!(current.run.as_ref(), opened.last());
            let owned = opened.iter().position(|owner| owner == run);
            if let Ok(attempt) = answer {
                prop_assert_eq!(Some(usize::try_from(attempt.as_i32()).unwrap() - 1), owned);
            }
            if let Some(owned) = owned {
                let number = AttemptNumber::new(i32::try_from(owned).unwrap() + 1).unwrap();
                heard.entry(number).or_default().push(message.clone());
            }
            for (number, attempt) in &memory.attempts {
                let live = attempt.rollback.is_none();
                prop_assert!(!live || *number == current.number, "an older attempt is live");
                for resource in Resource::ALL {
                    prop_assert_eq!(memory.steps.contains(&(*number, resource, None)), !live);
                }
                // Only its own run changes it, but for the one time when it is superseded.
                let mut was = before.get(number).cloned();
                if attempt.run != Some(*run) {
                    if let Some(was) = was.as_mut().filter(|was| was.rollback.is_none() && !live) {
                        let reason = attempt.rollback.map(|rollback| rollback.reason);
                        prop_assert_eq!(reason, Some(Reason::Superseded));
                        was.rollback = attempt.rollback;
                        was.finished_at = attempt.finished_at;
                        was.may_exist.extend(Resource::ALL);
                    }
                    prop_assert_eq!(was.as_ref(), Some(attempt));
                }
                // No id that its run named is lost, and none of another's is taken for its own.
                let hints = named(heard.get(number).into_iter().flatten());
                prop_assert_eq!(&attempt.hints, &hints);
                let steps = memory.steps.iter().filter(|step| step.0 == *number && step.2.is_some()).count();
                prop_assert_eq!(steps, if live { 0 } else { hints.len() });
            }
        }
    }

    #[test]
    fn a_workflows_reason_replaces_a_watchers_and_no_other(message in failure(), second in failure()) {
        for (reason, replaced) in [
            (Reason::Silent, true), (Reason::Deadline, true), (Reason::NeverStarted, true),
            (Reason::DispatchFailed, true), (Reason::Failure, false), (Reason::Cancelled, false),
            (Reason::TimedOut, false), (Reason::Superseded, false), (Reason::Destroyed, false),
        ] {
            let mut memory = Memory::new(Uuid::nil());
            let _ = memory.hear(RUN, &Message::Started { agent_id: None, region: None });
            let provision = memory.provision.as_mut().unwrap();
            provision.status = Status::Failed;
            let since = memory.now;
            provision.attempt.rollback = Some(Rollback { reason, started_at: since });
            let _ = memory.hear(RUN, &message);
            let _ = memory.hear(RUN, &second);
            let Message::Failure(Failure { conclusion, .. }) = &message else { unreachable!() };
            let expected = match (replaced, conclusion) {
                (false, _) => reason,
                (true, None | Some(Conclusion::Failure)) => Reason::Failure,
                (true, Some(Conclusion::Cancelled)) => Reason::Cancelled,
                (true, Some(Conclusion::TimedOut)) => Reason::TimedOut,
            };
            let rollback = memory.provision.unwrap().attempt.rollback.unwrap();
            prop_assert_eq!((rollback.reason, rollback.started_at), (expected, since));
        }
    }
}

#[tokio::test]
async fn the_service_ends_where_the_decisions_alone_end() {
    let service = Service::start().await;
    let mut runner = TestRunner::deterministic();
    let one_run = prop::collection::vec(message(), 1..8).prop_map(|messages| {
        let messages = messages.into_iter();
        messages.map(|message| (RUN, message)).collect::<Vec<_>>()
    });
    let sequences = prop_oneof![one_run, interleaved()];
    for _ in 0..60 {
        let sequence = sequences.new_tree(&mut runner).unwrap().current();
        let id = Uuid::new_v4();
        let mut memory = Memory::new(id);
        for (run, message) in &sequence {
            let expected = memory.hear(*run, message);
            let kind = message.kind().as_str();
            let callback = Callback {
                provision: ProvisionId::new(id),
                run: *run,
                job: None,
                message: message.clone(),
                unreadable: Vec::new(),
            };
            let fields = Value::Object(callback.data());
            let sender = crate::harness::Run(run.id, run.attempt);
            let answer = service.callback(kind, id, sender, fields).await;
            let context = format!("{callback:?} of {sequence:#?}: {answer:?}");
            match expected {
                Ok(attempt) => {
                    assert_eq!(
                        answer.status,
                        if kind == "failure" { 202 } else { 200 },
                        "{context}"
                    );
                    if kind == "started" {
                        assert_eq!(answer.body["attempt"], attempt.as_i32(), "{context}");
                    }
                }
                Err(refusal) => assert_eq!(
                    (answer.status, answer.code()),
                    (409, refusal.code()),
                    "{context}"
                ),
            }
            let shown = service.provision(id).await;
            let provision = memory.provision.as_ref().unwrap();
            let attempt = &provision.attempt;
            assert_eq!(shown["status"], json!(provision.status), "{context}");
            assert_eq!(shown["attempt"], attempt.number.as_i32(), "{context}");
            assert_eq!(
                shown["run_id"],
                json!(attempt.run.map(|run| run.id)),
                "{context}"
            );
            assert_eq!(shown["step"], json!(attempt.step), "{context}");
            assert_eq!(shown["server_id"], json!(attempt.server_id), "{context}");
            assert_eq!(shown["server_ip"], json!(attempt.server_ip), "{context}");
            assert_eq!(shown["error"], json!(attempt.error), "{context}");
            assert_eq!(step_names(&shown), memory.step_names(), "{context}");
        }
        let mut events = said(&service, id).await;
        for event in &mut events {
            // The decisions do not know who asked.
            let data = event["data"].as_object_mut().unwrap();
            data.retain(|key, _| key != BY && key != PROVEN_BY);
        }
        let told: Vec<_> = events
            .iter()
            .map(|e| json!([e["attempt"], e["kind"], e["data"]]))
            .collect();
        let kept: Vec<_> = memory
            .events
            .iter()
            .map(|e| json!([e.attempt, e.kind, e.data]))
            .collect();
        assert_eq!(told, kept, "{sequence:#?}");
    }
}
