//! Who leaves, and what has to be asked before (discovery §6.4 rules 7–12, §6.5).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::label::label_of;
use super::admit::claim_of;
use super::entry::How;
use super::{
    CONFIRM_LIMIT, Check, Doubt, Fate, FreshBrowse, LeaveReason, Machine, Output, Place, Record, Report,
    SuspectWhy,
};

/// A peer whose interface is gone stays this long (rule 8).
const LOST_FOR: Duration = Duration::from_secs(30);
/// How long a verification takes; the library is told the same (6.5).
pub(crate) const VERIFY_WINDOW: Duration = Duration::from_secs(2);
/// The library's "removed" comes a little after its time; only then is silence an answer.
const VERIFY_SLACK: Duration = Duration::from_millis(300);
/// A "removed" this long after a verification began is its result, not a coincidence.
const VERDICT_FROM: Duration = Duration::from_millis(1_900);
/// One peer is verified at most this often.
const VERIFY_EVERY: Duration = Duration::from_secs(5);
/// A responder repeats a record at most once a second, so one that has just spoken may stay silent this long.
const SPOKE_LATELY: Duration = Duration::from_millis(1_100);
/// Silence is void this long after it was seen that packets were lost: the time from the look to the decision.
const LOSSY_FOR: Duration = Duration::from_millis(200);
/// And everybody is asked again after this.
const ASK_AFTER_LOSS: Duration = Duration::from_secs(5);
/// A peer that is missing, but reached by somebody, is asked for this often (rule 11).
const ASK_AGAIN: Duration = Duration::from_secs(10);

impl Machine {
    /// The library forgot an instance.
    pub(super) fn removed(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        self.room.forget(key);
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        if entry.place != Place::Listed {
            self.leave(key, LeaveReason::Removed, now, out);
            return;
        }
        let is_verdict = entry
            .check
            .is_some_and(|c| c.how == How::Library && now.duration_since(c.started) >= VERDICT_FROM);
        if is_verdict {
            self.check_failed(key, now, out);
        } else if self.is_cut_off(key) {
            self.lose(key, now, out);
        } else {
            self.withdraw(key, now, out);
        }
        self.arm(key);
    }

    // (Up | Check) -> Confirm
    /// A reason to think that it has gone: asks everybody, and lets the answer decide (rules 8–10).
    pub(super) fn withdraw(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let (generation, began) = (self.generation, self.began);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if let Some(doubt) = &entry.doubt
            && matches!(doubt.fate, Fate::Confirm { .. } | Fate::Hold { .. })
        {
            return;
        }
        // The questions of a browse that has just begun are still out: they decide about this one too.
        let unanswered = entry.generation < generation;
        let still_out =
            began.map(|t| t + self.options.confirm_window).filter(|until| unanswered && now < *until);
        let fate = Fate::Confirm { until: None };
        match &mut entry.doubt {
            Some(doubt) => doubt.turn(fate),
            none => {
                *none = Some(Doubt::new(SuspectWhy::Withdrawn, fate));
                out.push(Output::Suspect(Arc::clone(&entry.node_id), SuspectWhy::Withdrawn));
            }
        }
        if still_out.is_some() {
            let until = self.confirm_until(key, began.unwrap_or(now)).max(now);
            if let Some(doubt) = self.entries.get_mut(key).and_then(|e| e.doubt.as_mut()) {
                doubt.turn(Fate::Confirm { until: Some(until) });
            }
        } else {
            self.unconfirmed.push(Arc::clone(key));
            self.leaving = true;
            out.push(Output::Fresh(FreshBrowse::Withdrawn));
        }
    }

    /// The end of the confirm window of a browse that began at `began` (rule 10).
    pub(super) fn confirm_until(&self, key: &Arc<str>, began: Instant) -> Instant {
        let peers = u64::try_from(self.nodes.len()).unwrap_or(u64::MAX);
        let window = self
            .options
            .confirm_window
            .saturating_add(Duration::from_millis(peers))
            .min(CONFIRM_LIMIT.max(self.options.confirm_window));
        let spoke = self.entries.get(key).map(|e| e.resolved + SPOKE_LATELY);
        spoke.map_or(began, |t| t.max(began)) + window
    }

    // any -> Lost
    /// Its interface is gone: kept for a while, as nobody can tell.
    pub(super) fn lose(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let fate = Fate::Lost { until: now + LOST_FOR };
        entry.check = None;
        entry.check_again = None;
        entry.homeless_until = None;
        match &mut entry.doubt {
            Some(doubt) if matches!(doubt.fate, Fate::Lost { .. }) => {}
            Some(doubt) => doubt.turn(fate),
            none => {
                *none = Some(Doubt::new(SuspectWhy::SourceLost, fate));
                out.push(Output::Suspect(Arc::clone(&entry.node_id), SuspectWhy::SourceLost));
            }
        }
    }

    /// Whether every interface on which its records came in is down or gone.
    pub(super) fn is_cut_off(&self, key: &Arc<str>) -> bool {
        self.entries.get(key).is_some_and(|entry| {
            entry.record.addresses.iter().all(|heard| self.interfaces.get(heard.link).is_none())
        })
    }

    /// It was heard: no doubt is left.
    pub(super) fn settle(&mut self, key: &Arc<str>, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.check = None;
        entry.check_again = None;
        if entry.doubt.take().is_some() {
            out.push(Output::Clear(Arc::clone(&entry.node_id)));
        }
    }

    /// Events or packets are missing, so a missing answer proves nothing (rule 14).
    fn silence_is_void(&self, now: Instant) -> bool {
        self.freeze.is_on(now) || self.lossy.is_some_and(|t| now.duration_since(t) <= LOSSY_FOR)
    }

    /// The socket lost packets since the last browse began: perhaps the answers of those that seem to be silent.
    pub(crate) fn lost_packets(&mut self, now: Instant) {
        self.lossy = Some(now);
        let again = now + ASK_AFTER_LOSS;
        self.next_resync = Some(self.next_resync.map_or(again, |at| at.min(again)));
    }

    /// Shortly before a judgement: is there anybody to be judged?
    pub(super) fn before_judgement(&self, generation: u64, out: &mut Vec<Output>) {
        let is_missing = |key: &Arc<str>| {
            self.entries.get(key).is_some_and(|e| {
                let waits = e.doubt.is_some_and(|d| matches!(d.fate, Fate::Lost { .. } | Fate::Hold { .. }));
                e.generation < generation && !waits
            })
        };
        if self.nodes.values().any(|n| is_missing(&n.listed)) {
            out.push(Output::Peek);
        }
    }

    /// 5 s after a browse began: who has not been heard in it is gone (rule 12).
    pub(super) fn judge(&mut self, generation: u64, now: Instant, out: &mut Vec<Output>) {
        if self.silence_is_void(now) {
            for entry in self.entries.values_mut() {
                if entry.doubt.is_some_and(|d| d.fate == Fate::Judgement) {
                    entry.doubt = None;
                    out.push(Output::Clear(Arc::clone(&entry.node_id)));
                }
            }
            return;
        }
        // First those that only wait for a node id, so that none of them moves up who is gone itself.
        let mut missing: Vec<Arc<str>> = self.nodes.values().filter_map(|n| n.aside.clone()).collect();
        missing.retain(|key| self.entries.get(key).is_some_and(|e| e.generation < generation));
        for key in missing {
            self.leave(&key, LeaveReason::Silent, now, out);
        }
        for key in self.listed_keys() {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let is_lost =
                entry.doubt.is_some_and(|d| matches!(d.fate, Fate::Lost { .. } | Fate::Hold { .. }));
            if entry.generation >= generation || is_lost {
                continue;
            }
            match entry.alive_until(now) {
                Some(until) => {
                    let fate = Fate::Hold { until, asked: now };
                    match &mut entry.doubt {
                        Some(doubt) => doubt.turn(fate),
                        none => {
                            *none = Some(Doubt::new(SuspectWhy::Silent, fate));
                            out.push(Output::Suspect(Arc::clone(&entry.node_id), SuspectWhy::Silent));
                        }
                    }
                    self.arm(&key);
                }
                None => {
                    let reason = match entry.doubt {
                        Some(doubt) if doubt.reported => LeaveReason::Unreachable,
                        _ => LeaveReason::Silent,
                    };
                    self.leave(&key, reason, now, out);
                }
            }
        }
    }

    /// The browse that confirms one goodbye makes the library forget others that were said in the same second, and it
    /// will never report them. Whoever did not answer while everybody alive had time to is in doubt, and asked once
    /// more; only the judgement takes it away, for in a flood of packets the answers of the living are lost, too.
    pub(super) fn ask_stragglers(&mut self, generation: u64, now: Instant, out: &mut Vec<Output>) {
        /// More are not a few that left together but a slow network.
        const FEW: usize = 16;
        let is_silent = |key: &Arc<str>| {
            self.entries.get(key).is_some_and(|e| {
                e.generation < generation && e.doubt.is_none() && e.alive_until(now).is_none()
            })
        };
        let silent: Vec<Arc<str>> =
            self.nodes.values().map(|n| &n.listed).filter(|key| is_silent(key)).cloned().collect();
        if silent.is_empty() || silent.len() > FEW || self.silence_is_void(now) {
            return;
        }
        for key in silent {
            if let Some(entry) = self.entries.get_mut(&key) {
                let why = SuspectWhy::Silent;
                entry.doubt = Some(Doubt::new(why, Fate::Judgement));
                out.push(Output::Suspect(Arc::clone(&entry.node_id), why));
            }
        }
        out.push(Output::Fresh(FreshBrowse::Withdrawn));
    }

    /// The daemon is gone: what was asked will not be answered, and silence proves nothing until the next browse.
    pub(super) fn deafened(&mut self) {
        self.judgements.clear();
        self.peeks.clear();
        self.stragglers = None;
        self.unconfirmed.clear();
        for key in self.listed_keys() {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if let Some(check) = &mut entry.check {
                check.how = How::Fresh;
                check.due = None;
            }
            if let Some(doubt) = &mut entry.doubt
                && matches!(doubt.fate, Fate::Confirm { .. } | Fate::Judgement)
            {
                doubt.turn(Fate::Confirm { until: None });
                self.unconfirmed.push(key);
            }
        }
    }

    /// What time brings to a doubt.
    pub(super) fn doubt_due(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let silence_is_void = self.silence_is_void(now);
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Some(doubt) = &mut entry.doubt else { return };
        if doubt.due().is_none_or(|due| now < due) {
            return;
        }
        let is_lost = matches!(doubt.fate, Fate::Lost { .. });
        if !is_lost && !doubt.peeked {
            doubt.peeked = true;
            out.push(Output::Peek);
        }
        let (until, asked) = match doubt.fate {
            Fate::Check | Fate::Judgement | Fate::Confirm { until: None } => return,
            Fate::Confirm { until: Some(until) } => (until, None),
            Fate::Hold { until, asked } => (until, Some(asked)),
            Fate::Lost { until } => (until, None),
        };
        if now < until {
            return;
        }
        let why = doubt.why;
        if silence_is_void && !is_lost {
            // Events are missing, so the missing answer proves nothing.
            entry.doubt = None;
            out.push(Output::Clear(Arc::clone(&entry.node_id)));
            return;
        }
        if let Some(alive) = entry.alive_until(now) {
            let ask = asked.is_none_or(|t| now.duration_since(t) >= ASK_AGAIN);
            let fate = Fate::Hold { until: alive, asked: asked.filter(|_| !ask).unwrap_or(now) };
            if let Some(doubt) = &mut entry.doubt {
                doubt.turn(fate);
            }
            if ask {
                out.push(Output::Fresh(FreshBrowse::Withdrawn));
            }
            return;
        }
        let reason =
            if is_lost || why == SuspectWhy::Silent { LeaveReason::Silent } else { entry.reason(now) };
        self.leave(key, reason, now, out);
    }

    /// A caller's experience (6.5).
    pub(super) fn report(&mut self, node_id: &str, report: Report, now: Instant, out: &mut Vec<Output>) {
        let Some(key) = self.nodes.get(node_id).map(|n| Arc::clone(&n.listed)) else {
            return;
        };
        match report {
            Report::Alive => self.reached(&key, now, out),
            Report::Unreachable => self.unreachable(&key, now, out),
        }
        self.arm(&key);
    }

    fn reached(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.alive = Some(now);
        entry.was_reached = true;
        out.push(Output::Heard(Arc::clone(&entry.node_id)));
        if let Some(check) = &mut entry.check {
            check.reported = false;
            if !check.contested {
                entry.check = None;
            }
        }
        entry.check_again = None;
        match &mut entry.doubt {
            Some(Doubt { fate: Fate::Check | Fate::Judgement, .. }) => {
                entry.doubt = None;
                out.push(Output::Clear(Arc::clone(&entry.node_id)));
            }
            Some(doubt) => doubt.reported = false,
            None => {}
        }
    }

    // Up -> Check, Hold -> left
    fn unreachable(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.alive = None;
        let dropped_address = entry.recheck.take().is_some();
        match &mut entry.doubt {
            Some(doubt) if matches!(doubt.fate, Fate::Hold { .. }) => {
                // It was missing, and only the calls that it answered kept it (rule 11).
                self.leave(key, LeaveReason::Unreachable, now, out);
                return;
            }
            Some(doubt) => doubt.reported = true,
            none => {
                *none = Some(Doubt { reported: true, ..Doubt::new(SuspectWhy::Unreachable, Fate::Check) });
                out.push(Output::Suspect(Arc::clone(&entry.node_id), SuspectWhy::Unreachable));
            }
        }
        if dropped_address {
            self.refresh_peer(key, now, out);
        }
        self.start_check(key, true, false, now, out);
    }

    /// Another instance claims the node id of a listed one: the listed one stays and is asked (rule 7).
    pub(super) fn contest(
        &mut self,
        incumbent: &Arc<str>,
        claimant: &Record,
        known: bool,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let Some(entry) = self.entries.get(incumbent) else {
            return;
        };
        if !known {
            out.push(Output::Conflict {
                node_id: Arc::clone(&entry.node_id),
                kept: claim_of(&entry.record),
                refused: claim_of(claimant),
            });
        }
        self.start_check(incumbent, false, true, now, out);
        self.arm(incumbent);
    }

    fn start_check(
        &mut self,
        key: &Arc<str>,
        reported: bool,
        contested: bool,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if let Some(check) = &mut entry.check {
            check.reported |= reported;
            check.contested |= contested;
            return;
        }
        if entry.doubt.is_some_and(|d| !matches!(d.fate, Fate::Check | Fate::Judgement)) {
            // Its being there is in question already.
            return;
        }
        if let Some(last) = entry.checked
            && now.duration_since(last) < VERIFY_EVERY
        {
            if reported {
                entry.check_again = Some(last + VERIFY_EVERY);
            }
            return;
        }
        // For a label with a dot the library asks for a wrong name, and would drop a live peer.
        let dotted = label_of(&entry.record.full_name, self.service.as_str()).contains('.');
        let (how, due) = if dotted {
            (How::Fresh, None)
        } else {
            (How::Library, Some(now + VERIFY_WINDOW + VERIFY_SLACK))
        };
        entry.checked = Some(now);
        entry.check = Some(Check { due, started: now, how, reported, contested, peeked: false });
        out.push(match how {
            How::Library => Output::Verify(entry.record.full_name.clone()),
            How::Fresh => Output::Fresh(FreshBrowse::Verify),
        });
    }

    /// A browse began: the library forgot what it was verifying, so the answer must come in this browse.
    pub(super) fn checks_began(&mut self, now: Instant) {
        for key in self.listed_keys() {
            let Some(check) = self.entries.get_mut(&key).and_then(|e| e.check.as_mut()) else {
                continue;
            };
            check.how = How::Fresh;
            check.peeked = false;
            if check.due.is_none_or(|due| due < now + VERIFY_WINDOW) {
                check.due = Some(now + VERIFY_WINDOW);
            }
            self.arm(&key);
        }
    }

    /// What time brings to a verification.
    pub(super) fn check_due(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.check_again.is_some_and(|at| at <= now) {
            entry.check_again = None;
            self.start_check(key, true, false, now, out);
        }
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Some(check) = &mut entry.check else { return };
        if check.due().is_none_or(|due| now < due) {
            return;
        }
        if check.how == How::Fresh && !check.peeked {
            check.peeked = true;
            out.push(Output::Peek);
        }
        if check.due.is_none_or(|due| now < due) {
            return;
        }
        match check.how {
            // The library would have said "removed" by now.
            How::Library => {
                entry.check = None;
                if entry.doubt.is_some_and(|d| d.fate == Fate::Check) {
                    entry.doubt = None;
                    out.push(Output::Clear(Arc::clone(&entry.node_id)));
                }
            }
            How::Fresh => self.check_failed(key, now, out),
        }
    }

    fn check_failed(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Some(check) = entry.check.take() else {
            return;
        };
        if entry.alive_until(now).is_some() && !check.reported {
            // Somebody reaches it: then it is there, whatever the link says.
            self.withdraw(key, now, out);
            return;
        }
        let reason = if check.reported { LeaveReason::Unreachable } else { LeaveReason::Replaced };
        self.leave(key, reason, now, out);
    }
}
