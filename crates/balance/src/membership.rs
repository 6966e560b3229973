//! From what a source says to the peers that are announced (B-9.1).
//!
//! Sources lie by accident: a list arrives empty, half of it is missing, the registry is restarted. An error
//! is never an empty list, and peers that are missing without a goodbye are doubted before they are dropped.

use std::collections::BTreeMap;

use crate::{PeerKey, SECOND, unit};

/// A peer that is missing is dropped after this, and after a further list without it.
const DOUBTED: u64 = 10 * SECOND;
/// A peer that answers calls is kept this long, though no list has it.
const KEPT_ALIVE: u64 = 600 * SECOND;
/// An empty list is believed if one after this is empty, too; asked for at once and then.
const EMPTY_BELIEVED: u64 = 5 * SECOND;
/// Up to so many peers an empty list is only asked about; from one more on half of them are guarded.
const FEW: usize = 3;
/// Peers of a step that would remove most of them are held so long.
const GUARDED: u64 = 30 * SECOND;
/// A source that fails for so long is stale.
const STALE: u64 = 300 * SECOND;
/// The full list is asked for so often, also of a source that tells every change.
const RESYNC: u64 = 30 * SECOND;
/// And at most so often because peers cannot be reached.
const REFRESH_EVERY: u64 = SECOND;

/// The peers a source knows, as a state machine: told what happens, it says who is announced.
///
/// `T` is the caller's peer. Each method returns the [`Step`] it made.
#[derive(Clone, Debug)]
pub struct Membership<T> {
    peers: BTreeMap<PeerKey, Entry<T>>,
    source: Source,
    /// When the source last spoke.
    heard_at: Option<u64>,
    began: Option<u64>,
    refresh_at: Option<u64>,
    refreshed: Option<u64>,
    recheck_empty: Option<u64>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    peer: T,
    succeeded: Option<u64>,
    doubt: Option<Doubt>,
}

/// Why a peer may be gone.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: u64,
    /// It is not dropped before.
    until: u64,
    /// A list without it counts from this time on.
    counts_from: u64,
    /// Such a list has come.
    is_confirmed: bool,
}

/// How the source is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// It has not spoken yet, or does.
    #[default]
    Ok,
    /// It failed lately; the peers are those it last spoke of.
    Failing,
    /// It has failed for five minutes. The peers are still used.
    Stale,
}

/// How a peer is announced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Standing {
    /// The source has it.
    Live,
    /// It may be gone; it is still used.
    Suspect,
}

/// What an event changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use = "the peers may have changed, and the source may have to be asked"]
#[non_exhaustive]
pub struct Step {
    /// What happened to whom; empty if the announced peers are the same.
    pub deltas: Vec<(PeerKey, Delta)>,
    /// The source is to be asked for the full list now.
    pub refresh: bool,
    /// The source's state, if it is another now.
    pub source: Option<Source>,
    /// So many peers are held because too many were missing at once.
    pub guarded: usize,
}

/// What happened to a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Delta {
    /// It is new.
    Joined,
    /// What the source says of it is new.
    Changed,
    /// It may be gone.
    Doubted,
    /// It is there after all.
    Back,
    /// It is gone: running calls finish, new ones go elsewhere.
    Left,
}

impl<T> Default for Membership<T> {
    fn default() -> Self {
        Self {
            peers: BTreeMap::new(),
            source: Source::Ok,
            heard_at: None,
            began: None,
            refresh_at: None,
            refreshed: None,
            recheck_empty: None,
        }
    }
}

impl<T: PartialEq> Membership<T> {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The announced peers, in the order of their keys.
    pub fn peers(&self) -> impl Iterator<Item = (&PeerKey, &T, Standing)> {
        self.peers.iter().map(|(key, entry)| {
            (key, &entry.peer, if entry.doubt.is_none() { Standing::Live } else { Standing::Suspect })
        })
    }

    /// How the source is.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }

    /// The source gave its full list.
    pub fn list(&mut self, now: u64, list: impl IntoIterator<Item = (PeerKey, T)>) -> Step {
        let mut step = self.spoke(now);
        let mut listed = BTreeMap::new();
        for (key, peer) in list {
            listed.entry(key).or_insert(peer);
        }
        let is_empty = listed.is_empty();
        let known = self.peers.len();
        let is_missing = |key: &PeerKey, entry: &Entry<T>| !listed.contains_key(key) && entry.doubt.is_none();
        let missing = self.peers.iter().filter(|(key, entry)| is_missing(key, entry)).count();
        let is_guarded = known > FEW && missing * 2 > known;
        let is_few_and_empty = is_empty && (1..=FEW).contains(&known) && missing > 0;
        if is_guarded {
            step.guarded = missing;
        }
        if is_few_and_empty {
            step.refresh = true;
            self.refreshed = Some(now);
            self.recheck_empty = Some(now.saturating_add(EMPTY_BELIEVED));
        }
        for (key, entry) in &mut self.peers {
            if listed.contains_key(key) {
                continue;
            }
            match &mut entry.doubt {
                Some(doubt) => doubt.is_confirmed |= now >= doubt.counts_from && now > doubt.since,
                None => {
                    let (wait, after) = if is_guarded {
                        (GUARDED, 0)
                    } else if is_few_and_empty {
                        (EMPTY_BELIEVED, EMPTY_BELIEVED)
                    } else {
                        (DOUBTED, 0)
                    };
                    entry.doubt = Some(Doubt {
                        since: now,
                        until: now.saturating_add(wait),
                        counts_from: now.saturating_add(after),
                        is_confirmed: false,
                    });
                    step.deltas.push((key.clone(), Delta::Doubted));
                }
            }
        }
        for (key, peer) in listed {
            self.there(key, peer, &mut step);
        }
        if !is_empty {
            self.recheck_empty = None;
        }
        self.drop_gone(now, &mut step);
        step
    }

    /// The source told of one peer.
    pub fn heard(&mut self, now: u64, key: PeerKey, peer: T) -> Step {
        let mut step = self.spoke(now);
        self.there(key, peer, &mut step);
        step
    }

    /// The peer said goodbye, or its entry was deleted.
    pub fn goodbye(&mut self, now: u64, key: &PeerKey) -> Step {
        let mut step = self.spoke(now);
        if self.peers.remove(key).is_some() {
            step.deltas.push((key.clone(), Delta::Left));
        }
        step
    }

    /// What the source said of the peer is too old.
    pub fn expired(&mut self, now: u64, key: &PeerKey) -> Step {
        let mut step = Step::default();
        if let Some(entry) = self.peers.get_mut(key)
            && entry.doubt.is_none()
        {
            let until = now.saturating_add(DOUBTED);
            entry.doubt = Some(Doubt { since: now, until, counts_from: now, is_confirmed: false });
            step.deltas.push((key.clone(), Delta::Doubted));
        }
        step
    }

    /// The source failed. Nobody leaves for that.
    pub fn failed(&mut self, now: u64) -> Step {
        self.began.get_or_insert(now);
        let mut step = Step::default();
        if self.source == Source::Ok {
            self.source = Source::Failing;
            step.source = Some(Source::Failing);
        }
        self.age(now, &mut step);
        step
    }

    /// A dial to the peer failed.
    pub fn dial_failed(&mut self, now: u64, key: &PeerKey) -> Step {
        let mut step = Step::default();
        if self.peers.get(key).is_some_and(|entry| entry.doubt.is_some()) {
            self.peers.remove(key);
            step.deltas.push((key.clone(), Delta::Left));
        }
        if self.refreshed.is_none_or(|at| now.saturating_sub(at) >= REFRESH_EVERY) {
            self.refreshed = Some(now);
            step.refresh = true;
        }
        step
    }

    /// A call to the peer succeeded.
    pub fn succeeded(&mut self, now: u64, key: &PeerKey) {
        if let Some(entry) = self.peers.get_mut(key) {
            entry.succeeded = Some(now);
        }
    }

    /// Time passes; `z` is a random number. To be called at [`next_tick`](Self::next_tick) or more often.
    pub fn tick(&mut self, now: u64, z: u64) -> Step {
        self.began.get_or_insert(now);
        let mut step = Step::default();
        self.drop_gone(now, &mut step);
        self.age(now, &mut step);
        let resync = (RESYNC as f64 * (0.9 + 0.2 * unit(z))) as u64;
        let refresh_at = *self.refresh_at.get_or_insert_with(|| now.saturating_add(resync));
        if now >= refresh_at {
            self.refresh_at = Some(now.saturating_add(resync));
            step.refresh = true;
        }
        if self.recheck_empty.is_some_and(|at| now >= at) {
            self.recheck_empty = None;
            step.refresh = true;
        }
        if step.refresh {
            self.refreshed = Some(now);
        }
        step
    }

    /// When [`tick`](Self::tick) has something to do; `None` before the first one.
    #[must_use]
    pub fn next_tick(&self) -> Option<u64> {
        let doubts = self.peers.values().filter_map(|entry| entry.doubt);
        // One without a confirmation waits for a list, not for the time.
        let doubts = doubts.filter(|doubt| doubt.is_confirmed).map(|doubt| doubt.until);
        let stale = (self.source == Source::Failing).then(|| self.silent_since().saturating_add(STALE));
        doubts.chain(self.refresh_at).chain(self.recheck_empty).chain(stale).min()
    }

    fn silent_since(&self) -> u64 {
        self.heard_at.or(self.began).unwrap_or(0)
    }

    fn spoke(&mut self, now: u64) -> Step {
        self.began.get_or_insert(now);
        self.heard_at = Some(now);
        let recovered = std::mem::take(&mut self.source) != Source::Ok;
        Step { source: recovered.then_some(Source::Ok), ..Step::default() }
    }

    fn age(&mut self, now: u64, step: &mut Step) {
        if self.source == Source::Failing && now.saturating_sub(self.silent_since()) >= STALE {
            self.source = Source::Stale;
            step.source = Some(Source::Stale);
        }
    }

    fn there(&mut self, key: PeerKey, peer: T, step: &mut Step) {
        match self.peers.get_mut(&key) {
            None => {
                self.peers.insert(key.clone(), Entry { peer, succeeded: None, doubt: None });
                step.deltas.push((key, Delta::Joined));
            }
            Some(entry) => {
                if entry.doubt.take().is_some() {
                    step.deltas.push((key.clone(), Delta::Back));
                }
                if entry.peer != peer {
                    entry.peer = peer;
                    step.deltas.push((key, Delta::Changed));
                }
            }
        }
    }

    fn drop_gone(&mut self, now: u64, step: &mut Step) {
        self.peers.retain(|key, entry| {
            let Some(doubt) = &mut entry.doubt else { return true };
            if !doubt.is_confirmed || now < doubt.until {
                return true;
            }
            let lives = entry.succeeded.is_some_and(|at| now.saturating_sub(at) <= DOUBTED);
            if lives && now.saturating_sub(doubt.since) < KEPT_ALIVE {
                doubt.until = now.saturating_add(DOUBTED);
                return true;
            }
            step.deltas.push((key.clone(), Delta::Left));
            false
        });
    }
}
