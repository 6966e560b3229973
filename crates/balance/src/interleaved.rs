//! Every interleaving, and every value that a load may see, of the few atomics whose order matters (B-10.2).
//!
//! The same source, with the atomics of `loom` instead of those of the standard library.

use loom::{model::Builder, sync::Arc, thread};

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}
#[path = "permit.rs"]
#[expect(clippy::duplicate_mod, reason = "the same source with other atomics is the point")]
mod permit;
#[path = "waits.rs"]
#[expect(clippy::duplicate_mod, reason = "the same source with other atomics is the point")]
mod waits;

use permit::{FlagWord, ProbeDue};
use waits::Waits;

/// Tries `case` in all ways in which a thread is interrupted at most twice where it need not wait: that
/// is enough for every mistake that was tried here, and takes a second.
fn model(case: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(case);
}

/// The time at which everything here happens. What looks older than that is a stall.
const NOW: u64 = 100;

#[test]
fn b_1_2_a_reader_never_sees_a_false_stall() {
    model(|| {
        let waits = Arc::new(Waits::new());
        let leaving = {
            let waits = Arc::clone(&waits);
            thread::spawn(move || {
                waits.sent(NOW);
                waits.ended(None);
            })
        };
        let staying = {
            let waits = Arc::clone(&waits);
            thread::spawn(move || waits.sent(NOW))
        };
        // Started last, so that the model begins with all that it may see and goes back from there.
        let reader = {
            let waits = Arc::clone(&waits);
            thread::spawn(move || assert_eq!(waits.stalled_for(NOW), 0, "every call was sent just now"))
        };
        leaving.join().unwrap();
        staying.join().unwrap();
        reader.join().unwrap();
        assert_eq!(waits.awaiting(), 1);
    });
}

#[test]
fn b_1_2_who_gives_up_leaves_no_stall_to_who_comes() {
    model(|| {
        let waits = Arc::new(Waits::new());
        waits.sent(0);
        let leaving = {
            let waits = Arc::clone(&waits);
            thread::spawn(move || {
                waits.ended(None);
                waits.awaiting() == 0
            })
        };
        let coming = {
            let waits = Arc::clone(&waits);
            thread::spawn(move || waits.sent(NOW))
        };
        coming.join().unwrap();
        let was_idle = leaving.join().unwrap();
        assert_eq!(waits.awaiting(), 1);
        assert!(!was_idle || waits.stalled_for(NOW) == 0, "the one that waits was sent just now");
    });
}

const EJECTED: u32 = 1;
const PROBING: u32 = 2;

/// One ejected peer, and when a probe is due.
struct Peer {
    flags: FlagWord,
    due: ProbeDue,
    holders: loom::sync::atomic::AtomicU32,
}

impl Peer {
    fn new() -> Arc<Self> {
        let holders = loom::sync::atomic::AtomicU32::new(0);
        let peer = Self { flags: FlagWord::new(), due: ProbeDue::never(), holders };
        peer.flags.set(EJECTED, true);
        peer.due.no_later_than(NOW);
        Arc::new(peer)
    }

    fn look(&self) {
        self.due.look(|| (self.flags.load() == EJECTED).then_some(NOW));
    }

    /// As a pick does it. Whether it had the permit, and gave it back without an outcome.
    fn call(&self) -> bool {
        if self.due.at() > NOW {
            return false;
        }
        let is_probe = self.flags.take(EJECTED, PROBING);
        if is_probe {
            let others = self.holders.fetch_add(1, loom::sync::atomic::Ordering::Relaxed);
            assert_eq!(others, 0, "one holder at a time");
        }
        self.look();
        if is_probe {
            self.holders.fetch_sub(1, loom::sync::atomic::Ordering::Relaxed);
            self.flags.set(PROBING, false);
            self.due.no_later_than(0);
        }
        is_probe
    }
}

#[test]
fn b_3_3_the_permit_to_probe_has_one_holder_and_is_never_lost() {
    model(|| {
        let peer = Peer::new();
        let calls: Vec<_> = (0..2)
            .map(|_| {
                let peer = Arc::clone(&peer);
                thread::spawn(move || peer.call())
            })
            .collect();
        let probes = calls.into_iter().map(|call| call.join().unwrap());
        assert!(probes.filter(|is_probe| *is_probe).count() > 0, "one of them had it");
        assert!(peer.call(), "it was given back, and the next call finds that out");
    });
}

#[test]
fn b_3_3_an_ejection_is_seen_by_who_looks_for_another() {
    model(|| {
        let (first, due) = (FlagWord::new(), ProbeDue::never());
        let both = Arc::new((first, FlagWord::new(), due));
        let ejecting = {
            let both = Arc::clone(&both);
            thread::spawn(move || {
                both.0.set(EJECTED, true);
                both.2.no_later_than(NOW);
            })
        };
        let giving_back = {
            let both = Arc::clone(&both);
            thread::spawn(move || {
                both.1.set(EJECTED, true);
                both.2.no_later_than(0);
            })
        };
        both.2.look(|| [&both.0, &both.1].iter().any(|flags| flags.load() == EJECTED).then_some(NOW));
        ejecting.join().unwrap();
        giving_back.join().unwrap();
        assert!(both.2.at() <= NOW);
    });
}
