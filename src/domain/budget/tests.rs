use proptest::prelude::*;

use super::*;

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap()
}

/// Told at second 0: 3600 an hour, that many left. The reserve is 720, sweeps leave 1440.
fn told(remaining: u64) -> RateBudget {
    RateBudget {
        told: Some(Told {
            limit: 3600,
            remaining,
            told_at: Some(0),
            heard_at: at(0),
        }),
        ..RateBudget::default()
    }
}

const DELETE: Purpose = Purpose::Delete { looks: 3 };

fn ask(budget: &RateBudget, purpose: Purpose, wanted: u32, ms: i64) -> Answer {
    budget
        .clone()
        .ask(purpose, wanted, Reserve::default(), at(ms))
}

/// How many are granted, and whether as an exception; `None`: not now.
fn granted(answer: Answer) -> Option<(u32, bool)> {
    match answer {
        Answer::Granted(grant) => Some((grant.requests, grant.is_exception)),
        Answer::NotNow { .. } => None,
    }
}

fn come_back_in(answer: Answer) -> Option<Duration> {
    match answer {
        Answer::Granted(_) => None,
        Answer::NotNow { come_back_in } => Some(come_back_in),
    }
}

#[test]
fn deletes_leave_the_reserve_and_sweeps_leave_more() {
    let table = [
        // left, a delete's 50 after 3 looks, a sweep's 20
        (3600, Some((50, false)), Some((20, false))),
        (1460, Some((50, false)), Some((20, false))),
        (1450, Some((50, false)), Some((10, false))),
        (1441, Some((50, false)), Some((1, false))),
        (1440, Some((50, false)), None),
        (773, Some((50, false)), None),
        (772, Some((49, false)), None),
        (724, Some((1, false)), None),
        (723, Some((1, true)), None),
        (720, Some((1, true)), None),
        (0, Some((1, true)), None),
    ];
    for (left, delete, sweep) in table {
        let budget = told(left);
        assert_eq!(granted(ask(&budget, DELETE, 50, 0)), delete, "{left}");
        assert_eq!(
            granted(ask(&budget, Purpose::Sweep, 20, 0)),
            sweep,
            "{left}"
        );
    }
}

#[test]
fn the_looks_of_a_batch_without_deletes_are_permitted_like_a_delete() {
    for (left, expected) in [(723, Some((0, false))), (722, Some((0, true)))] {
        assert_eq!(granted(ask(&told(left), DELETE, 0, 0)), expected, "{left}");
    }
}

#[test]
fn who_is_granted_a_part_comes_back_when_the_rest_and_its_looks_are_there() {
    let budget = RateBudget {
        // Or it would come back at once.
        last_exception_at: Some(at(0)),
        ..told(730)
    };
    let Answer::Granted(part) = ask(&budget, DELETE, 12, 0) else {
        panic!("ten are above the reserve");
    };
    assert_eq!((part.requests, part.rest_in), (7, Duration::from_secs(8)));
}

#[test]
fn below_the_reserve_one_delete_is_allowed_every_ten_seconds_and_no_sweep() {
    let mut budget = told(100);
    let Answer::Granted(first) = ask(&budget, DELETE, 50, 0) else {
        panic!("the first is always allowed");
    };
    assert_eq!((first.requests, first.counts), (1, 4));
    budget.hand_out(Uuid::nil(), &first, at(0));
    for ms in [0, 1, 5_000, 9_999] {
        let wait = come_back_in(ask(&budget, DELETE, 50, ms)).unwrap();
        let left = Duration::from_millis(10_000 - ms.unsigned_abs());
        assert_eq!(wait, left.max(Duration::from_secs(1)), "{ms}");
        assert_eq!(granted(ask(&budget, Purpose::Sweep, 1, ms)), None);
    }
    assert_eq!(granted(ask(&budget, DELETE, 50, 10_000)), Some((1, true)));
    // Our clock was set back by an hour: that is no reason to wait for an hour.
    let wait = come_back_in(ask(&budget, DELETE, 50, -3_600_000)).unwrap();
    assert_eq!(wait, EXCEPTION_EVERY);
}

#[test]
fn what_comes_back_between_answers_counts_up_to_the_limit() {
    // One a second at 3600 an hour.
    for (left, ms, expected) in [
        (720, 3_999, Some((1, true))),
        (720, 4_000, Some((1, false))),
        (720, 13_000, Some((10, false))),
        (3590, 3_600_000, Some((2877, false))),
    ] {
        let answer = ask(&told(left), DELETE, 5000, ms);
        assert_eq!(granted(answer), expected, "{left} after {ms} ms");
    }
    assert_eq!(told(3590).remaining(at(3_600_000)), Some(3600));
    assert_eq!(told(3590).remaining(at(-5_000)), Some(3590));
}

#[test]
fn who_gets_nothing_is_told_when_there_is_enough() {
    let mut budget = told(700);
    budget.last_exception_at = Some(at(-4_000));
    // Missing: the reserve, the looks and all deletes.
    assert_eq!(
        come_back_in(ask(&budget, DELETE, 50, 0)),
        Some(Duration::from_secs(6))
    );
    let mut budget = told(720);
    budget.last_exception_at = Some(at(0));
    assert_eq!(
        come_back_in(ask(&budget, DELETE, 1, 0)),
        Some(Duration::from_secs(4))
    );
    assert_eq!(
        come_back_in(ask(&told(1435), Purpose::Sweep, 1, 0)),
        Some(Duration::from_secs(6))
    );
    assert_eq!(
        come_back_in(ask(&told(0), Purpose::Sweep, 1, 0)),
        Some(Duration::from_secs(60))
    );
}

#[test]
fn what_is_permitted_is_not_permitted_again_until_it_is_reported_or_lapses() {
    let mut budget = told(820);
    let Answer::Granted(first) = budget.ask(DELETE, 50, Reserve::default(), at(0)) else {
        panic!("100 are left");
    };
    budget.hand_out(Uuid::nil(), &first, at(0));
    assert_eq!(granted(ask(&budget, DELETE, 50, 0)), Some((44, false)));

    // Reported with an answer: what was not sent is there again.
    let mut reported = budget.clone();
    let answer = Told {
        limit: 3600,
        remaining: 800,
        told_at: Some(1),
        heard_at: at(1_000),
    };
    reported.settle(Uuid::nil(), 20, Some(answer), at(1_000));
    assert_eq!(
        granted(ask(&reported, DELETE, 90, 1_000)),
        Some((77, false))
    );

    // Reported without one: what was sent is taken off.
    let mut unanswered = budget.clone();
    unanswered.settle(Uuid::nil(), 20, None, at(0));
    assert_eq!(granted(ask(&unanswered, DELETE, 90, 0)), Some((77, false)));

    // Never reported: it counts as used up, and comes back like anything that was.
    let lapsed = 240_000;
    assert_eq!(
        granted(ask(&budget, DELETE, 500, lapsed - 1)),
        Some((100 - 53 + 239 - 3, false))
    );
    assert_eq!(
        granted(ask(&budget, DELETE, 500, lapsed + 10_000)),
        Some((100 - 53 + 250 - 3, false))
    );
    assert_eq!(
        granted(ask(&budget, DELETE, 5000, 3_700_000)),
        Some((2877, false))
    );
}

#[test]
fn an_answer_of_a_holder_that_was_not_done_in_time_is_not_believed() {
    let generous = Told {
        limit: 3600,
        remaining: 3600,
        told_at: Some(1),
        heard_at: at(1_000),
    };
    for (ms, left) in [
        (120_000, 3600),
        // What is known without it, and what its holder sent.
        (120_001, 1000 + 120 - 20),
        (239_999, 1000 + 239 - 20),
    ] {
        let mut budget = told(1000);
        let Answer::Granted(grant) = budget.ask(DELETE, 50, Reserve::default(), at(0)) else {
            panic!("280 are left");
        };
        budget.hand_out(Uuid::nil(), &grant, at(0));
        budget.settle(Uuid::nil(), 20, Some(generous), at(ms));
        let known = budget.remaining(at(ms)).unwrap() - budget.handed_out();
        assert_eq!(known, left, "{ms}");
    }
}

#[test]
fn a_permit_ends_when_it_is_reported_unless_what_was_sent_is_in_no_answer() {
    let table = [
        // of a vendor that told something, sent; still held back
        (true, 0, 0),
        (true, 20, 20),
        (false, 0, 0),
        (false, 20, 0),
    ];
    for (has_told, sent, held_back) in table {
        let mut budget = told(1000);
        budget.told = budget.told.filter(|_| has_told);
        let grant = Grant {
            requests: 50,
            rest_in: SOONEST,
            counts: 53,
            is_exception: false,
        };
        budget.hand_out(Uuid::nil(), &grant, at(0));
        budget.settle(Uuid::nil(), sent, None, at(1_000));
        assert_eq!(budget.handed_out(), held_back, "{has_told} {sent}");
        assert_eq!(budget.permits.is_empty(), held_back == 0);
    }
}

#[test]
fn answers_that_are_overtaken_are_ignored() {
    let heard = |told_at, remaining| Told {
        limit: 3600,
        remaining,
        told_at,
        heard_at: at(0),
    };
    let table = [
        // known, then; what counts
        ((Some(100), 900), (Some(101), 950), 950),
        ((Some(100), 900), (Some(99), 950), 900),
        ((Some(100), 900), (Some(99), 850), 900),
        // within a second nobody knows: the least
        ((Some(100), 900), (Some(100), 950), 900),
        ((Some(100), 900), (Some(100), 850), 850),
        // no answer is reported two minutes late: the vendor's clock was wrong
        ((Some(221), 900), (Some(101), 950), 900),
        ((Some(222), 900), (Some(101), 950), 950),
        ((Some(i64::MAX), 900), (Some(i64::MIN), 950), 950),
        // without a date
        ((Some(100), 900), (None, 950), 900),
        ((None, 900), (Some(100), 950), 950),
        ((None, 900), (None, 950), 950),
    ];
    for ((known_at, known), (then_at, then), counts) in table {
        let mut budget = RateBudget::default();
        budget.hear(heard(known_at, known));
        budget.hear(heard(then_at, then));
        assert_eq!(
            budget.remaining(at(0)),
            Some(counts),
            "{known_at:?} then {then_at:?}"
        );
    }
}

#[test]
fn nothing_is_sent_while_the_vendor_asks_for_that() {
    let mut budget = told(3600);
    budget.pause(at(30_000));
    budget.pause(at(20_000));
    for purpose in [DELETE, Purpose::Sweep] {
        assert_eq!(
            come_back_in(ask(&budget, purpose, 1, 0)),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            come_back_in(ask(&budget, purpose, 1, 29_999)),
            Some(Duration::from_millis(1))
        );
        assert_eq!(granted(ask(&budget, purpose, 1, 30_000)), Some((1, false)));
    }
}

#[test]
fn a_vendor_that_tells_nothing_is_asked_freely_and_nothing_is_counted() {
    let budget = RateBudget::default();
    for purpose in [DELETE, Purpose::Sweep] {
        let Answer::Granted(grant) = ask(&budget, purpose, 5000, 0) else {
            panic!("nothing is in the way");
        };
        assert_eq!((grant.requests, grant.counts), (5000, 0));
    }
    assert_eq!(budget.remaining(at(0)), None);
}

#[test]
fn odd_limits_are_no_reason_to_panic_or_to_wait_for_ever() {
    for limit in [0, 1, 7, u64::MAX] {
        for remaining in [0, 1, limit, u64::MAX] {
            for share in ["0", "0.2", "1"] {
                let mut budget = told(0);
                budget.told = Some(Told {
                    limit,
                    remaining,
                    told_at: None,
                    heard_at: at(0),
                });
                budget.last_exception_at = Some(at(0));
                let reserve = share.parse().unwrap();
                for purpose in [DELETE, Purpose::Sweep] {
                    for ms in [0, 5_000, i64::from(u32::MAX)] {
                        let answer = budget.clone().ask(purpose, u32::MAX, reserve, at(ms));
                        let wait = come_back_in(answer).unwrap_or_default();
                        assert!(wait <= LATEST, "{limit} {remaining} {share}: {wait:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_reserve_is_a_share_and_is_rounded_up() {
    for (text, limit, expected) in [
        ("0.2", 3600, 720),
        ("0", 3600, 0),
        ("1", 3600, 3600),
        ("1.0", u64::MAX, u64::MAX),
        ("0.333333", 10, 4),
        (".5", 3, 2),
        ("1e-6", 3600, 1),
    ] {
        assert_eq!(
            text.parse::<Reserve>().unwrap().of(limit),
            expected,
            "{text}"
        );
    }
    for text in ["", "20%", "-0.1", "1.0001", "NaN", "inf", "0,2"] {
        assert!(text.parse::<Reserve>().is_err(), "{text}");
    }
    assert_eq!(Ok(Reserve::default()), "0.2".parse());
}

/// A vendor as it really is, and replicas that share a budget for it.
struct World {
    limit: u64,
    /// In requests times the milliseconds of an hour, so that nothing is rounded.
    level: u128,
    now_ms: i64,
    budget: RateBudget,
    reserve: Reserve,
    holders: [Option<Holder>; 3],
    by_exception: u64,
    last_exception_ms: Option<i64>,
}

struct Holder {
    id: Uuid,
    left: u64,
    sent: u64,
    is_exception: bool,
    since_ms: i64,
    answer: Option<Told>,
}

#[derive(Debug, Clone, Copy)]
enum Move {
    Wait(i64),
    Ask(usize, Purpose, u32),
    Send(usize, u64),
    Report(usize),
    Crash(usize),
}

impl World {
    fn make(&mut self, step: Move, id: u128) {
        match step {
            Move::Wait(ms) => {
                self.now_ms += ms;
                let full = u128::from(self.limit) * HOUR_MS;
                let back = u128::from(ms.unsigned_abs()) * u128::from(self.limit);
                self.level = (self.level + back).min(full);
            }
            Move::Ask(who, purpose, wanted) if self.holders[who].is_none() => {
                self.ask(who, purpose, wanted, Uuid::from_u128(id));
            }
            Move::Send(who, requests) => {
                for _ in 0..requests {
                    self.send(who);
                }
            }
            Move::Report(who) => {
                if let Some(holder) = self.holders[who].take() {
                    let heard_at = at(self.now_ms);
                    let answer = holder.answer.map(|told| Told { heard_at, ..told });
                    self.budget
                        .settle(holder.id, holder.sent, answer, at(self.now_ms));
                }
            }
            Move::Crash(who) => self.holders[who] = None,
            Move::Ask(..) => {}
        }
    }

    fn ask(&mut self, who: usize, purpose: Purpose, wanted: u32, id: Uuid) {
        let now = at(self.now_ms);
        let Answer::Granted(grant) = self.budget.ask(purpose, wanted, self.reserve, now) else {
            return;
        };
        self.budget.hand_out(id, &grant, now);
        if grant.is_exception {
            assert!(matches!(purpose, Purpose::Delete { .. }));
            assert!(grant.requests <= 1);
            let last = self.last_exception_ms.replace(self.now_ms);
            assert!(last.is_none_or(|last| self.now_ms - last >= 10_000));
        }
        self.holders[who] = Some(Holder {
            id,
            left: grant.counts,
            sent: 0,
            is_exception: grant.is_exception,
            since_ms: self.now_ms,
            answer: None,
        });
    }

    /// Sends a request that was permitted, as long as the permit holds.
    fn send(&mut self, who: usize) {
        let now_ms = self.now_ms;
        let Some(holder) = &mut self.holders[who] else {
            return;
        };
        if holder.left == 0 || now_ms - holder.since_ms >= 120_000 {
            return;
        }
        (holder.left, holder.sent) = (holder.left - 1, holder.sent + 1);
        if self.level >= HOUR_MS {
            self.level -= HOUR_MS;
        }
        holder.answer = Some(Told {
            limit: self.limit,
            remaining: u64::try_from(self.level / HOUR_MS).unwrap(),
            told_at: Some(now_ms.div_euclid(1000)),
            heard_at: at(now_ms),
        });
        if holder.is_exception {
            self.by_exception += 1;
        } else {
            let reserve = self.reserve.of(self.limit);
            let left = self.level / HOUR_MS;
            assert!(
                left + u128::from(self.by_exception) >= u128::from(reserve),
                "{left} left, {} by exception",
                self.by_exception
            );
        }
    }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let who = 0..3_usize;
    let purpose = prop_oneof![
        4 => (1..4_u32).prop_map(|looks| Purpose::Delete { looks }),
        1 => Just(Purpose::Sweep),
    ];
    let step = prop_oneof![
        3 => (0..2_000_i64).prop_map(Move::Wait),
        1 => (0..90_000_i64).prop_map(Move::Wait),
        4 => (who.clone(), purpose, 0..60_u32).prop_map(|(w, p, n)| Move::Ask(w, p, n)),
        6 => (who.clone(), 1..40_u64).prop_map(|(w, n)| Move::Send(w, n)),
        3 => who.clone().prop_map(Move::Report),
        1 => who.prop_map(Move::Crash),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever asks, sends, reports late or never: nothing but the exceptions goes below the
    /// reserve of what the vendor really has left.
    #[test]
    fn replicas_together_never_go_below_the_reserve(
        limit in prop_oneof![Just(3600_u64), 10..5000_u64],
        above in 0..200_u64,
        moves in moves(),
    ) {
        let reserve = Reserve::default();
        let level = (reserve.of(limit) + above).min(limit);
        let mut world = World {
            limit,
            level: u128::from(level) * HOUR_MS,
            now_ms: 0,
            budget: RateBudget {
                told: Some(Told { limit, remaining: level, told_at: Some(0), heard_at: at(0) }),
                ..RateBudget::default()
            },
            reserve,
            holders: [None, None, None],
            by_exception: 0,
            last_exception_ms: None,
        };
        for (step, id) in moves.into_iter().zip(1..) {
            world.make(step, id);
        }
    }
}
