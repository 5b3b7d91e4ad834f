//! Who gets in.
//!
//! There are so many places, and one network gets a quarter of them. When they are taken, whoever comes
//! gets the place of the one that has waited longest without anything in hand: somebody who opens
//! connections and says nothing keeps nobody out, his neighbours at the same address included. Only
//! when every place has a request in hand is whoever comes turned away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::http::client::{Client, Proxies};
use crate::metrics::Metrics;

/// The places that there are.
#[derive(Debug)]
pub(super) struct Door {
    most: usize,
    most_of_one: usize,
    proxies: Proxies,
    metrics: Metrics,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Those that were asked to leave do not count.
    count: usize,
    networks: HashMap<IpAddr, Network>,
    /// Those with nothing in hand, in the order in which they began to wait.
    waiting: BTreeMap<u64, (IpAddr, CancellationToken)>,
    turns: u64,
}

#[derive(Debug, Default)]
struct Network {
    count: usize,
    waiting: BTreeSet<u64>,
}

impl Door {
    pub(super) fn new(most: usize, proxies: Proxies, metrics: Metrics) -> Self {
        Self {
            most,
            most_of_one: most.div_ceil(4),
            proxies,
            metrics,
            inside: Mutex::default(),
        }
    }

    /// A place, if there is one or one can be made. `None`: come again.
    pub(super) fn enter(self: &Arc<Self>, client: Client) -> Option<Seat> {
        let network = client.network();
        let mut inside = self.inside();
        // Many stand behind one that is trusted, and nobody from afar behind loopback.
        let one_of_many = client.is_loopback() || self.proxies.trust(client);
        let of_it = inside.networks.get(&network);
        let waits = of_it.and_then(|it| it.waiting.first().copied());
        let full = of_it.is_some_and(|it| it.count >= self.most_of_one) && !one_of_many;
        let made = if full {
            waits.is_some_and(|turn| self.dismiss(&mut inside, turn))
        } else {
            inside.count < self.most || self.dismiss_oldest(&mut inside)
        };
        if !made {
            self.metrics.refused("turned_away");
            return None;
        }
        inside.count += 1;
        inside.networks.entry(network).or_default().count += 1;
        let taken = Taken {
            door: self.clone(),
            network,
            turn: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
            rounds: AtomicU64::new(0),
            wanted: CancellationToken::new(),
            idle: Notify::new(),
        };
        taken.wait(&mut inside);
        self.metrics.set_http_connections(inside.count);
        Some(Seat(Arc::new(taken)))
    }

    /// Asks the one to leave that has waited longest.
    pub(super) fn make_room(&self) {
        self.dismiss_oldest(&mut self.inside());
    }

    fn dismiss_oldest(&self, inside: &mut Inside) -> bool {
        let oldest = inside.waiting.keys().next().copied();
        oldest.is_some_and(|turn| self.dismiss(inside, turn))
    }

    fn dismiss(&self, inside: &mut Inside, turn: u64) -> bool {
        let Some((network, wanted)) = inside.waiting.remove(&turn) else {
            return false;
        };
        wanted.cancel();
        inside.leave(network, turn);
        self.metrics.refused("dismissed");
        true
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn leave(&mut self, network: IpAddr, turn: u64) {
        self.count -= 1;
        if let Some(of_it) = self.networks.get_mut(&network) {
            of_it.waiting.remove(&turn);
            of_it.count -= 1;
            if of_it.count == 0 {
                self.networks.remove(&network);
            }
        }
    }
}

/// A connection's place; whoever drops the last of its clones leaves it.
#[derive(Debug, Clone)]
pub(super) struct Seat(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    door: Arc<Door>,
    network: IpAddr,
    /// Its place among those that wait.
    turn: AtomicU64,
    requests: AtomicUsize,
    rounds: AtomicU64,
    wanted: CancellationToken,
    /// Told whenever an answer is out.
    idle: Notify,
}

/// That a request is in hand, from its head to the end of its answer.
#[derive(Debug)]
pub(super) struct InHand(Arc<Taken>);

impl Seat {
    /// Notes that a request begins.
    pub(super) fn request(&self) -> InHand {
        let taken = &self.0;
        let mut inside = taken.door.inside();
        if taken.requests.fetch_add(1, Ordering::AcqRel) == 0 {
            let turn = taken.turn.load(Ordering::Acquire);
            inside.waiting.remove(&turn);
            if let Some(of_it) = inside.networks.get_mut(&taken.network) {
                of_it.waiting.remove(&turn);
            }
        }
        InHand(taken.clone())
    }

    /// Whether it waits for a request, and for which: they are counted.
    pub(super) fn waits_for(&self) -> Option<u64> {
        let taken = &self.0;
        let busy = taken.requests.load(Ordering::Acquire) > 0;
        (!busy).then(|| taken.rounds.load(Ordering::Acquire))
    }

    /// Until somebody else is to have it.
    pub(super) async fn wanted(&self) {
        self.0.wanted.cancelled().await;
    }

    /// Until it has waited for a request for so long.
    pub(super) async fn waited(&self, patience: Duration) {
        loop {
            let waits_for = self.waits_for();
            let next = self.0.idle.notified();
            if waits_for.is_none() {
                next.await;
            } else if timeout(patience, next).await.is_err() && self.waits_for() == waits_for {
                return;
            }
        }
    }

    /// Until somebody else is to have it, and nothing is in hand.
    pub(super) async fn wanted_and_idle(&self) {
        self.wanted().await;
        while self.waits_for().is_none() {
            self.0.idle.notified().await;
        }
    }
}

impl Taken {
    fn wait(&self, inside: &mut Inside) {
        if self.wanted.is_cancelled() {
            return;
        }
        inside.turns += 1;
        let turn = inside.turns;
        self.turn.store(turn, Ordering::Release);
        inside
            .waiting
            .insert(turn, (self.network, self.wanted.clone()));
        let of_it = inside.networks.entry(self.network).or_default();
        of_it.waiting.insert(turn);
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let taken = &self.0;
        let mut inside = taken.door.inside();
        if taken.requests.fetch_sub(1, Ordering::AcqRel) == 1 {
            taken.rounds.fetch_add(1, Ordering::AcqRel);
            taken.wait(&mut inside);
            taken.idle.notify_one();
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut inside = self.door.inside();
        // Whoever was asked to leave has been counted out.
        if !self.wanted.is_cancelled() {
            let turn = self.turn.load(Ordering::Acquire);
            inside.waiting.remove(&turn);
            inside.leave(self.network, turn);
        }
        self.door.metrics.set_http_connections(inside.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(most: usize) -> Arc<Door> {
        let proxies = "198.51.100.1".parse().unwrap();
        Arc::new(Door::new(most, proxies, Metrics::new()))
    }

    fn of(text: &str) -> Client {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn is_wanted(seat: &Seat) -> bool {
        seat.0.wanted.is_cancelled()
    }

    #[test]
    fn who_has_waited_longest_makes_room() {
        let door = door(4);
        let seats: Vec<Seat> = (1..=4)
            .map(|n| door.enter(of(&format!("192.0.2.{n}"))).unwrap())
            .collect();
        // Whoever spoke last waits for the shortest time, and whoever speaks stays.
        drop(seats[0].request());
        let speaks = seats[1].request();
        let next = door.enter(of("192.0.2.5")).unwrap();
        let wanted: Vec<bool> = seats.iter().map(is_wanted).collect();
        assert_eq!(wanted, [false, false, true, false]);
        let all: Vec<InHand> = [&seats[0], &seats[3], &next].map(Seat::request).into();
        assert!(door.enter(of("192.0.2.6")).is_none());
        drop(speaks);
        assert!(door.enter(of("192.0.2.6")).is_some());
        assert!(is_wanted(&seats[1]));
        drop((all, seats, next));
        let inside = door.inside();
        assert_eq!(
            (inside.count, inside.networks.len(), inside.waiting.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn one_network_takes_a_quarter_and_makes_room_for_itself() {
        let door = door(8);
        let other = door.enter(of("192.0.2.1")).unwrap();
        let one = door.enter(of("2001:db8::1")).unwrap();
        let two = door.enter(of("2001:db8::2")).unwrap();
        let three = door.enter(of("2001:db8::3")).unwrap();
        let wanted = [&other, &one, &two, &three].map(is_wanted);
        assert_eq!(wanted, [false, true, false, false]);
        let both = [two.request(), three.request()];
        assert!(door.enter(of("2001:db8::4")).is_none());
        assert!(door.enter(of("192.0.2.2")).is_some());
        drop(both);
        assert!(door.enter(of("2001:db8::4")).is_some());
    }

    #[test]
    fn many_may_stand_behind_a_proxy_and_on_this_machine() {
        for client in ["127.0.0.1", "::1", "198.51.100.1"] {
            let door = door(8);
            let seats: Vec<Option<Seat>> = (0..8).map(|_| door.enter(of(client))).collect();
            assert!(seats.iter().flatten().all(|seat| !is_wanted(seat)));
            assert!(door.enter(of(client)).is_some(), "the oldest makes room");
        }
    }
}
