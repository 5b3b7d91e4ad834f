//! What each provision's workflow will do, drawn from the seed.
//!
//! A plan is a script of acts. It says what is sent and made, never what becomes of it: whether a
//! message gets through is up to what is killed meanwhile.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

/// One provision's script.
#[derive(Debug, Clone)]
pub struct Plan {
    pub number: u64,
    pub id: Uuid,
    pub run_id: i64,
    pub acts: Vec<Act>,
    /// Draws what the plan leaves open, such as which replica is asked first.
    pub seed: u64,
}

/// One thing that a workflow, an operator or somebody else does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
    /// An operator asks for the provision; nobody is told to start it.
    Request,
    Started(Delivery),
    /// Somebody else's thing appears that looks like this attempt's.
    LookAlike(LookAlike),
    MintKey,
    CreateServer,
    /// The vendor says no, and makes it all the same after so long.
    CreateServerLate(Duration),
    AwaitDevice,
    /// The machine joins after so long, whatever has become of its server.
    DeviceLate(Duration),
    Heartbeat,
    Progress(Ids, Delivery),
    Success(Delivery),
    Failure {
        ids: Ids,
        may_exist: MayExist,
        conclusion: &'static str,
        delivery: Delivery,
    },
    /// The last message once more, word for word.
    Repeat,
    /// The workflow deletes what it made by itself.
    CleanUp,
    /// The machine is in use.
    Use(Duration),
    Destroy(Delivery),
    /// An operator wants what is unsettled to be tried now.
    Retry,
    /// Another attempt at the same run goes on from here.
    RunAgain,
    /// Another run goes on from here.
    AnotherRun,
    /// The first run speaks once more, when it may long have been replaced.
    FormerRunFails(Ids),
    Pause(Duration),
}

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Repeated until some replica answers.
    Certain,
    /// To two replicas at once.
    Twice,
    /// Once, and whoever sent it has hung up after so few milliseconds.
    Hasty(u64),
}

/// Which ids a message names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    True,
    None,
    /// Somebody else's.
    Foreign,
    /// Of another provision, which may be in use.
    AnotherProvisions,
}

/// What a failure says may exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayExist {
    Unsaid,
    /// What was begun to be created.
    Begun,
    /// All but a server, from somebody who does not know better.
    NoServer,
}

/// Things that look like an attempt's and are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookAlike {
    /// The attempt's labels without one of the five.
    FourLabels(usize),
    /// All five, of another controller.
    OtherController,
    /// All five, of another run.
    OtherRun,
    /// All five, of an attempt that there never was.
    OtherAttempt,
    /// The very name, and no label.
    SameName,
    /// The name and one letter more.
    SimilarName,
    /// The host name without the tag.
    NoTag,
    /// The host name with another tag.
    OtherTag,
    /// The tag, and the host name with `-1` behind it.
    SuffixedName,
    /// The tag alone.
    TagAlone,
    /// The description and some more.
    LongerDescription,
    /// The description of an attempt that there never was.
    OtherDescription,
}

const LOOK_ALIKES: [LookAlike; 16] = [
    LookAlike::FourLabels(0),
    LookAlike::FourLabels(1),
    LookAlike::FourLabels(2),
    LookAlike::FourLabels(3),
    LookAlike::FourLabels(4),
    LookAlike::OtherController,
    LookAlike::OtherRun,
    LookAlike::OtherAttempt,
    LookAlike::SameName,
    LookAlike::SimilarName,
    LookAlike::NoTag,
    LookAlike::OtherTag,
    LookAlike::SuffixedName,
    LookAlike::TagAlone,
    LookAlike::LongerDescription,
    LookAlike::OtherDescription,
];

/// The longest that anything arrives after its workflow has ended.
pub const LATEST_ARRIVAL: Duration = Duration::from_secs(14);

impl Plan {
    /// The script of provision `number` in the campaign of `seed`.
    pub fn draw(seed: u64, number: u64) -> Self {
        let own_seed = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut author = Author {
            rng: StdRng::seed_from_u64(own_seed),
            acts: Vec::new(),
        };
        let id = uuid::Builder::from_random_bytes(author.rng.random()).into_uuid();
        author.write();
        Self {
            number,
            id,
            run_id: 1_000_000 + i64::try_from(number).unwrap_or_default() * 10,
            acts: author.acts,
            seed: author.rng.random(),
        }
    }
}

struct Author {
    rng: StdRng,
    acts: Vec<Act>,
}

impl Author {
    fn write(&mut self) {
        if self.chance(12) {
            self.acts.push(Act::Request);
            if self.chance(20) {
                // Nobody ever takes it; sometimes an operator gives it up.
                if self.chance(50) {
                    self.pause(2000);
                    let delivery = self.delivery();
                    self.acts.push(Act::Destroy(delivery));
                }
                return;
            }
            self.pause(500);
        } else if self.chance(2) {
            // The first that is ever heard of it is that it failed.
            self.fail(Ids::None, Delivery::Certain);
            return;
        }
        if self.chance(4) {
            // Its runner dies before it has heard what to call things.
            let after = self.rng.random_range(0..30);
            self.acts.push(Act::Started(Delivery::Hasty(after)));
            return;
        }
        self.attempt();
        if self.chance(14) {
            self.again();
        }
        if self.chance(6) {
            self.pause(3000);
            self.acts.push(Act::Retry);
        }
        if self.chance(5) {
            self.pause(4000);
            let delivery = self.delivery();
            self.acts.push(Act::Destroy(delivery));
        }
    }

    /// One attempt, to some ending.
    fn attempt(&mut self) {
        let started = self.delivery();
        self.acts.push(Act::Started(match started {
            Delivery::Hasty(_) => Delivery::Certain,
            sure => sure,
        }));
        if self.chance(22) {
            let look_alike = *LOOK_ALIKES.choose(&mut self.rng).expect("there are some");
            self.acts.push(Act::LookAlike(look_alike));
        }
        let heartbeats = self.chance(60);
        let far = self.rng.random_range(0..=9_u32);
        if far >= 1 {
            self.step(heartbeats, Act::MintKey);
        }
        if far >= 2 {
            let late = far == 2 || self.chance(6);
            if late {
                let after = self.arrival();
                self.step(heartbeats, Act::CreateServerLate(after));
                if self.chance(30) {
                    let after = self.arrival();
                    self.acts.push(Act::DeviceLate(after));
                }
                if self.chance(25) {
                    self.learn_better();
                } else {
                    self.end_badly();
                }
                return;
            }
            self.step(heartbeats, Act::CreateServer);
        }
        if far >= 4 {
            self.step(heartbeats, Act::AwaitDevice);
        }
        if far == 3 && self.chance(50) {
            let after = self.arrival();
            self.acts.push(Act::DeviceLate(after));
        }
        if self.chance(5) {
            let delivery = self.delivery();
            self.acts.push(Act::Destroy(delivery));
        }
        if far >= 6 && self.chance(75) {
            self.succeed();
        } else {
            self.end_badly();
        }
    }

    /// Something is done, and said in most cases.
    fn step(&mut self, heartbeats: bool, act: Act) {
        self.pause(150);
        if heartbeats {
            self.acts.push(Act::Heartbeat);
        }
        self.acts.push(act);
        if self.chance(60) {
            let (ids, delivery) = (self.ids(), self.delivery());
            self.acts.push(Act::Progress(ids, delivery));
        }
    }

    fn succeed(&mut self) {
        self.pause(200);
        let delivery = self.delivery();
        self.acts.push(Act::Success(delivery));
        if self.chance(20) {
            let delivery = self.delivery();
            self.acts.push(Act::Progress(Ids::True, delivery));
        }
        // Most machines are given back, or the list of what runs would only ever grow.
        let used = self.rng.random_range(200..6000);
        self.acts.push(Act::Use(Duration::from_millis(used)));
        match self.rng.random_range(0..100) {
            0..70 => {
                let delivery = self.delivery();
                self.acts.push(Act::Destroy(delivery));
            }
            70..85 => {
                let (ids, delivery) = (self.ids(), self.delivery());
                self.fail(ids, delivery);
            }
            _ => {}
        }
    }

    fn end_badly(&mut self) {
        self.pause(400);
        let ids = self.ids();
        match self.rng.random_range(0..100) {
            // Its runner is lost, or the whole of GitHub.
            0..24 => {}
            24..34 => {
                let after = self.rng.random_range(0..25);
                self.fail(ids, Delivery::Hasty(after));
            }
            34..48 => {
                self.acts.push(Act::CleanUp);
                if self.chance(75) {
                    let delivery = self.delivery();
                    self.fail(ids, delivery);
                }
            }
            _ => {
                let delivery = self.delivery();
                self.fail(ids, delivery);
                self.echo();
            }
        }
    }

    /// Whoever fails it first knows of no server, and somebody else does a moment later.
    fn learn_better(&mut self) {
        for (may_exist, longest_ms) in [(MayExist::NoServer, 100), (MayExist::Unsaid, 120)] {
            self.pause(longest_ms);
            self.acts.push(Act::Failure {
                ids: Ids::None,
                may_exist,
                conclusion: "failure",
                delivery: Delivery::Certain,
            });
        }
    }

    fn fail(&mut self, ids: Ids, delivery: Delivery) {
        let conclusion = *["failure", "cancelled", "timed_out"]
            .choose(&mut self.rng)
            .expect("there are three");
        let may_exist = if self.chance(30) {
            MayExist::Begun
        } else {
            MayExist::Unsaid
        };
        self.acts.push(Act::Failure {
            ids,
            may_exist,
            conclusion,
            delivery,
        });
    }

    /// Messages that come when all is over, or once more.
    fn echo(&mut self) {
        match self.rng.random_range(0..10) {
            0 => self.acts.push(Act::Success(Delivery::Certain)),
            1 => self.acts.push(Act::Progress(Ids::True, Delivery::Certain)),
            2 => {
                self.pause(3000);
                self.acts.push(Act::Repeat);
            }
            3 => self.fail(Ids::True, Delivery::Certain),
            4 => self.acts.push(Act::Heartbeat),
            _ => {}
        }
    }

    /// Once more, by the same run or another, and perhaps the first is heard again.
    fn again(&mut self) {
        self.pause(1500);
        let same_run = self.chance(65);
        self.acts.push(if same_run {
            Act::RunAgain
        } else {
            Act::AnotherRun
        });
        self.attempt();
        if self.chance(30) {
            let ids = self.ids();
            self.acts.push(Act::FormerRunFails(ids));
        }
    }

    fn ids(&mut self) -> Ids {
        match self.rng.random_range(0..100) {
            0..60 => Ids::True,
            60..90 => Ids::None,
            90..95 => Ids::Foreign,
            _ => Ids::AnotherProvisions,
        }
    }

    fn delivery(&mut self) -> Delivery {
        match self.rng.random_range(0..100) {
            0..76 => Delivery::Certain,
            76..92 => Delivery::Twice,
            _ => Delivery::Hasty(self.rng.random_range(0..25)),
        }
    }

    fn arrival(&mut self) -> Duration {
        let longest = u64::try_from(LATEST_ARRIVAL.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.rng.random_range(200..longest))
    }

    fn pause(&mut self, longest_ms: u64) {
        let ms = self.rng.random_range(0..longest_ms);
        self.acts.push(Act::Pause(Duration::from_millis(ms)));
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }
}
