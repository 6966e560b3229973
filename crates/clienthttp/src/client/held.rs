//! Peers that a source lost without a word, and that are kept for a while (B-9.1). Pure.
//!
//! A goodbye is believed at once, silence is not: a source that restarts, or whose network is down, loses
//! peers that are well. Who plainly lives stays, and if most are gone at once it is not them.

use std::collections::{BTreeMap, BTreeSet};

use peerage_discovery::{LeaveReason, Peer};

const SECOND: u64 = 1_000_000_000;
/// A peer that answered a call so lately plainly lives; it is looked at again after as long.
const LIVES: u64 = 10 * SECOND;
/// But not for ever.
const MOST: u64 = 600 * SECOND;
/// When more than half of at least so many are gone at once, they are held so long.
const MANY: usize = 4;
const GUARDED: u64 = 30 * SECOND;
/// When all of fewer are gone, the source is asked at once, and again after this time; then it is believed.
const EMPTY: u64 = 5 * SECOND;

/// The peers that are kept though the source has them no more.
#[derive(Debug, Default)]
pub(super) struct Held {
    peers: BTreeMap<String, Entry>,
    /// How many peers the last list had, those held included.
    known: usize,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    since: u64,
    until: u64,
}

/// What a list did.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Step {
    /// The source is to be asked for the full list now.
    pub(super) refresh: bool,
    /// So many are held because too many were missing at once.
    pub(super) guarded: usize,
}

impl Held {
    /// The source has a new list; `gone` left since the last one. `lives` tells when a call to a peer last
    /// succeeded.
    pub(super) fn list(
        &mut self,
        now: u64,
        list: &[Peer],
        gone: Vec<(Peer, LeaveReason)>,
        lives: impl Fn(&Peer) -> Option<u64>,
    ) -> Step {
        let is_silent = |reason| matches!(reason, LeaveReason::Expired | LeaveReason::Silent);
        let listed: BTreeSet<&str> = list.iter().map(Peer::node_id).collect();
        self.peers.retain(|node_id, _| !listed.contains(&**node_id));
        let lost: Vec<Peer> = gone
            .into_iter()
            .filter(|(peer, reason)| is_silent(*reason) && !listed.contains(peer.node_id()))
            .map(|(peer, _)| peer)
            .collect();
        let is_mass = self.known >= MANY && lost.len() * 2 > self.known;
        let is_all = self.known < MANY && !lost.is_empty() && list.is_empty();
        let mut step = Step { refresh: is_all || is_mass, guarded: if is_mass { lost.len() } else { 0 } };
        for peer in lost {
            let wait = match (is_mass, is_all) {
                (true, _) => GUARDED,
                (_, true) => EMPTY,
                _ if is_alive(lives(&peer), now) => LIVES,
                _ => continue,
            };
            let entry = Entry { since: now, until: now.saturating_add(wait), peer };
            self.peers.entry(entry.peer.node_id().to_owned()).or_insert(entry);
        }
        step.refresh &= !self.peers.is_empty();
        self.known = list.len() + self.peers.len();
        step
    }

    /// Time passes: those whose time is over go, unless they plainly live. Whether some did.
    pub(super) fn tick(&mut self, now: u64, lives: impl Fn(&Peer) -> Option<u64>) -> bool {
        let before = self.peers.len();
        self.peers.retain(|_, entry| {
            if now < entry.until {
                return true;
            }
            let stays = is_alive(lives(&entry.peer), now) && now.saturating_sub(entry.since) < MOST;
            entry.until = now.saturating_add(LIVES);
            stays
        });
        let went = before - self.peers.len();
        self.known = self.known.saturating_sub(went);
        went > 0
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(super) fn next(&self) -> Option<u64> {
        self.peers.values().map(|entry| entry.until).min()
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().map(|entry| &entry.peer)
    }
}

fn is_alive(succeeded: Option<u64>, now: u64) -> bool {
    succeeded.is_some_and(|at| now.saturating_sub(at) <= LIVES)
}

#[cfg(test)]
mod tests {
    use peerage_discovery::{Endpoint, ServiceType};

    use super::*;

    fn peer(number: u16) -> Peer {
        let service = ServiceType::try_from("billing").unwrap();
        let address = Endpoint::Ip(([127, 0, 0, 1], number).into());
        Peer::builder(format!("billing-{number}"), &service).endpoint(address).build().unwrap()
    }

    /// A source that has these peers, in its versions.
    struct Source {
        held: Held,
        has: Vec<u16>,
    }

    impl Source {
        fn of(peers: impl IntoIterator<Item = u16>) -> Self {
            let mut source = Self { held: Held::default(), has: Vec::new() };
            source.change(0, peers, LeaveReason::Silent);
            source
        }

        /// Nobody was called lately.
        fn change(&mut self, now: u64, peers: impl IntoIterator<Item = u16>, reason: LeaveReason) -> Step {
            self.change_while(now, peers, reason, |_| None)
        }

        fn change_while(
            &mut self,
            now: u64,
            peers: impl IntoIterator<Item = u16>,
            reason: LeaveReason,
            lives: impl Fn(&Peer) -> Option<u64>,
        ) -> Step {
            let before = std::mem::replace(&mut self.has, peers.into_iter().collect());
            let gone = before.into_iter().filter(|number| !self.has.contains(number));
            let gone = gone.map(|number| (peer(number), reason)).collect();
            let list: Vec<Peer> = self.has.iter().copied().map(peer).collect();
            self.held.list(now * SECOND, &list, gone, lives)
        }

        fn held(&self) -> Vec<&str> {
            self.held.peers().map(Peer::node_id).collect()
        }

        fn tick(&mut self, now: u64) -> bool {
            self.held.tick(now * SECOND, |_| None)
        }
    }

    #[test]
    fn b_9_1_more_than_half_of_four_at_once_are_held_for_30_s() {
        let mut source = Source::of(1..=5);
        let step = source.change(10, [1, 2], LeaveReason::Silent);
        assert_eq!((step, source.held().len()), (Step { refresh: true, guarded: 3 }, 3));
        assert!(!source.tick(39) && source.held().len() == 3);
        source.change(39, [1, 2, 4], LeaveReason::Silent);
        assert_eq!(source.held(), ["billing-3", "billing-5"], "the source has it again");
        assert!(source.tick(40) && source.held().is_empty(), "believed");

        let mut source = Source::of(1..=4);
        assert_eq!(source.change(10, [1, 2], LeaveReason::Expired).guarded, 0, "half is not more than half");
        assert!(source.held().is_empty());
        let mut source = Source::of(1..=4);
        assert_eq!(source.change(10, [], LeaveReason::Goodbye), Step::default(), "they said so");
        assert!(source.held().is_empty());
        let mut source = Source::of(1..=4);
        source.change(10, [], LeaveReason::Removed);
        assert!(source.held().is_empty(), "somebody deleted them");
    }

    #[test]
    fn b_9_1_an_empty_list_for_a_few_is_asked_about_and_believed_after_5_s() {
        let mut source = Source::of(1..=3);
        assert!(source.change(10, [], LeaveReason::Expired).refresh, "at once");
        assert_eq!((source.held().len(), source.held.next()), (3, Some(15 * SECOND)), "and again then");
        assert!(source.tick(15) && source.held().is_empty());
        let mut source = Source::of(1..=3);
        source.change(10, [1], LeaveReason::Expired);
        assert!(source.held().is_empty(), "two of three may go");
    }

    #[test]
    fn b_9_1_who_answers_calls_stays_for_ten_minutes_at_most() {
        let mut source = Source::of(1..=6);
        let lives = |now: u64| move |peer: &Peer| (peer.node_id() == "billing-1").then_some(now * SECOND);
        source.change_while(10, [3, 4, 5, 6], LeaveReason::Expired, lives(1));
        assert_eq!(source.held(), ["billing-1"], "it answered 9 s ago");
        for now in (20..610).step_by(10) {
            assert!(!source.held.tick(now * SECOND, lives(now - 10)), "{now}");
        }
        assert!(source.held.tick(610 * SECOND, lives(609)), "a source that is wrong for so long is right");

        let mut source = Source::of(1..=6);
        source.change_while(10, [2, 3, 4, 5, 6], LeaveReason::Silent, lives(1));
        assert!(source.held.tick(20 * SECOND, lives(9)), "11 s of silence");
    }

    #[test]
    fn b_9_5_a_source_that_flaps_every_second_loses_nobody() {
        for count in [1, 3, 4, 10] {
            let mut source = Source::of(1..=count);
            for now in 1..600 {
                let listed = if now % 2 == 0 { count } else { 0 };
                source.change(now, 1..=listed, LeaveReason::Silent);
                source.tick(now);
                let there = source.has.len() + source.held().len();
                assert_eq!(there, usize::from(count), "{count} peers after {now} s");
            }
        }
    }
}
