//! A place for those who come to a full table.
//!
//! A flood of forged announcements fills the table, and after it the forged entries stay as long as silence proves
//! nothing (rule 14). A newcomer that is heard takes the place of one that is not: of the youngest first, and only of
//! such as were heard in one browse alone, so that whoever was there before the flood and answered once more is safe.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Doubt, Fate, LeaveReason, Machine, Output, Place, Record};

/// From the start of a browse until silence in it counts for this. Its second question goes out after 1.12 s at most,
/// and an answer may take 0.12 s more.
const ROOM_AFTER: Duration = Duration::from_millis(1_300);
/// As many places are given away in one browse: a flood cannot turn the table over.
const ROOMS: usize = 16;
/// A full table asks at most this often whether its peers are still there, and not before the places of the running
/// browse are given away.
const FULL_EVERY: Duration = Duration::from_millis(1_700);

/// What a full table knows about those who come.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// When places may be given away; `None` once they have been.
    opens: Option<Instant>,
    /// Heard in the running browse before that. Invariant: at most [`ROOMS`], none without `opens`.
    waiting: Vec<Record>,
    /// Who gives a place up, the first at the end. Looked for once in a browse.
    silent: Option<Vec<Arc<str>>>,
    /// When everybody was asked last, because the table was full.
    asked: Option<Instant>,
    /// When to ask again, because somebody came meanwhile.
    ask_again: Option<Instant>,
    /// More came than can wait.
    is_crowded: bool,
}

impl Room {
    pub(super) fn began(&mut self, now: Instant) {
        self.opens = Some(now + ROOM_AFTER);
        self.waiting.clear();
        self.silent = None;
        self.ask_again = None;
        self.is_crowded = false;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let opens = self.opens.filter(|_| !self.waiting.is_empty());
        [opens, self.ask_again].into_iter().flatten().min()
    }

    /// `true` if it may wait, or others wait in its stead.
    fn wait(&mut self, record: Record, now: Instant) -> bool {
        if self.opens.is_none_or(|opens| opens <= now) {
            return false;
        }
        if self.waiting.len() < ROOMS {
            self.waiting.push(record);
        } else {
            self.is_crowded = true;
        }
        true
    }

    /// There is news of this instance: what was known of it is out of date.
    pub(super) fn forget(&mut self, key: &str) {
        self.waiting.retain(|record| !record.full_name.eq_ignore_ascii_case(key));
    }

    /// `true` if everybody is to be asked now.
    fn ask(&mut self, now: Instant) -> bool {
        let next = self.asked.map(|t| t + FULL_EVERY).filter(|next| now < *next);
        if next.is_none() {
            self.asked = Some(now);
        }
        self.ask_again = next;
        next.is_none()
    }
}

impl Machine {
    /// Whether there is a place for a newcomer, given up by another if need be. A peer that is heard never loses its
    /// place (S-123).
    pub(super) fn has_room(&mut self, now: Instant, out: &mut Vec<Output>) -> bool {
        if !self.is_full() {
            return true;
        }
        if self.began.is_none_or(|began| now < began + ROOM_AFTER) {
            return false;
        }
        let mut silent = match self.room.silent.take() {
            Some(silent) => silent,
            None => self.silent_newcomers(),
        };
        while let Some(key) = silent.pop() {
            if self.may_give_room(&key) {
                self.room.silent = Some(silent);
                self.leave(&key, LeaveReason::Silent, now, out);
                return true;
            }
        }
        self.room.silent = Some(silent);
        false
    }

    /// The youngest that may give a place up, the very youngest at the end. Never one of the oldest quarter: those were
    /// there before the table became full, and it is the flood that keeps them from being heard.
    fn silent_newcomers(&self) -> Vec<Arc<str>> {
        let mut all: Vec<(Instant, &Arc<str>)> = self
            .nodes
            .values()
            .filter_map(|node| Some((self.entries.get(&node.listed)?.since, &node.listed)))
            .collect();
        all.sort_unstable();
        let young = all.iter().skip(self.options.max_peers / 4).rev().map(|(_, key)| *key);
        let mut silent: Vec<_> = young.filter(|key| self.may_give_room(key)).take(ROOMS).cloned().collect();
        silent.reverse();
        silent
    }

    /// Whether an instance was heard in one browse only, and not in the running one. One that somebody reached, or whose
    /// interface is gone, keeps its place, and so does one whose place another instance would inherit.
    fn may_give_room(&self, key: &Arc<str>) -> bool {
        self.entries.get(key).is_some_and(|entry| {
            entry.place == Place::Listed
                && entry.first == entry.generation
                && entry.generation < self.generation
                && !entry.was_reached
                && !matches!(entry.doubt, Some(Doubt { fate: Fate::Lost { .. }, .. }))
                && self.nodes.get(&entry.node_id).is_some_and(|node| node.aside.is_none())
        })
    }

    /// There is no place: it may wait for one.
    pub(super) fn refuse(&mut self, record: Record, now: Instant, out: &mut Vec<Output>) {
        out.push(Output::Ignored(crate::Ignored::Limit));
        // Perhaps many of those in the table are gone.
        if !self.room.wait(record, now) && self.room.ask(now) {
            out.push(Output::Fresh(crate::FreshBrowse::Recovery));
        }
    }

    /// What time brings to those who wait.
    pub(super) fn room_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.room.opens.is_some_and(|opens| opens <= now) {
            self.room.opens = None;
            for record in std::mem::take(&mut self.room.waiting) {
                self.resolved(record, now, out);
            }
            if std::mem::take(&mut self.room.is_crowded) && self.room.ask_again.is_none() {
                self.room.ask_again = Some(now);
            }
        }
        if self.room.ask_again.is_some_and(|at| at <= now) && self.room.ask(now) {
            out.push(Output::Fresh(crate::FreshBrowse::Recovery));
        }
    }
}
