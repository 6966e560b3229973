//! Who gets into the table, and as whom (discovery §6.4 rules 1–7).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::label::label_of;
use super::entry::{Doubt, Entry, Fate, Place, Record};
use super::{Machine, Node, OWN_CONFLICT_EVERY, Output, key_of};
use crate::{
    AddressPolicy, Claim, Endpoint, Former, Ignored, LeaveReason, Metadata, Peer, Refusal, Selection,
    SourceId, check_node_id,
};

/// An instance without TXT is held back this long: the library reports "resolved" before TXT is known (rule 4).
const TXT_GRACE: Duration = Duration::from_millis(300);
/// A known instance whose TXT became empty keeps its old one this long (rule 4).
const BARE_GRACE: Duration = Duration::from_secs(2);
/// Addresses that are missing so soon after a browse began may still come.
const NARROW_GRACE: Duration = Duration::from_millis(1_500);
/// A listed instance may be without a usable address this long (rule 2).
const HOMELESS_GRACE: Duration = Duration::from_secs(1);

/// What decides about admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gate {
    /// TXT keys that may hold the node id, in this order.
    pub(crate) identity_keys: Vec<String>,
    /// Node ids that are never listed.
    pub(crate) exclude: BTreeSet<String>,
    pub(crate) addresses: AddressPolicy,
}

/// One of our own advertisements, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) node_id: Arc<str>,
    /// Lower-cased, with final dot.
    pub(crate) full_name: Arc<str>,
    /// Lower-cased, with final dot.
    pub(crate) host: Arc<str>,
}

/// What a TXT record says about the identity.
enum Identity<'r> {
    Id(&'r str),
    /// No key holds one: the label counts.
    None,
    /// A key holds control characters: not a peer (SV-M19).
    Hostile,
}

impl Machine {
    pub(super) fn resolved(&mut self, mut record: Record, now: Instant, out: &mut Vec<Output>) {
        let key = key_of(&record.full_name);
        self.room.forget(&key);
        let settled = self.entries.get(&key).is_some_and(|e| !matches!(e.place, Place::Held { .. }));

        if record.port == 0 {
            out.push(Output::Ignored(Ignored::PortZero));
            self.leave(&key, LeaveReason::Removed, now, out);
            return;
        }
        if self.is_self(&record) {
            out.push(Output::Ignored(Ignored::Own));
            self.leave(&key, LeaveReason::Removed, now, out);
            return;
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.generation = self.generation;
            entry.resolved = now;
            // A browse that has just begun knows one family first, and the other a moment later.
            let full_from = self.began.map(|t| t + NARROW_GRACE).filter(|t| now < *t);
            let is_narrower = record.addresses.len() < entry.record.addresses.len()
                && record.addresses.iter().all(|heard| entry.record.addresses.contains(heard));
            entry.narrow = None;
            if let Some(until) = full_from
                && is_narrower
                && entry.place == Place::Listed
            {
                let all = entry.record.addresses.clone();
                entry.narrow = Some((std::mem::replace(&mut record.addresses, all), until));
            }
            // A listed instance whose TXT went missing keeps the old one for a while.
            if record.txt.is_empty() && !entry.record.txt.is_empty() && settled {
                let until = *entry.bare_until.get_or_insert(now + BARE_GRACE);
                if now < until {
                    record.txt.clone_from(&entry.record.txt);
                }
            } else {
                entry.bare_until = None;
            }
        }
        if record.txt.is_empty() && !settled {
            self.hold(&key, record, now, out);
        } else {
            self.admit(&key, record, now, out);
        }
        self.arm(&key);
    }

    /// Takes a record whose TXT is known, or is believed to be empty.
    fn admit(&mut self, key: &Arc<str>, record: Record, now: Instant, out: &mut Vec<Output>) {
        let node_id: Arc<str> = match self.identity(&record) {
            Ok(id) => id.into(),
            Err(()) => {
                out.push(Output::Ignored(Ignored::BadId));
                self.leave(key, LeaveReason::Removed, now, out);
                return;
            }
        };
        if self.own.iter().any(|o| *o.node_id == *node_id) {
            self.own_id_elsewhere(&record, now, out);
            self.leave(key, LeaveReason::Replaced, now, out);
            return;
        }
        if self.options.gate.exclude.contains(&*node_id) {
            self.leave(key, LeaveReason::Removed, now, out);
            return;
        }
        let Selection { endpoints, refused, .. } = self.select(&record, None, now);
        let off_link = refused.iter().filter(|(_, why)| *why == Refusal::OffLink);
        out.extend(off_link.map(|_| Output::Ignored(Ignored::OffLink)));
        if endpoints.is_empty() {
            out.push(Output::Ignored(Ignored::NoUsableAddress));
            self.homeless(key, now, out);
            return;
        }

        match self.entries.get(key).map(|e| (e.place, e.node_id.clone())) {
            Some((Place::Listed, id)) if id == node_id => self.update(key, record, now, out),
            Some((Place::Aside, id)) if id == node_id => {
                if let Some(entry) = self.entries.get_mut(key) {
                    entry.record = record;
                }
            }
            // Its node id changed: the old peer leaves, and a new one comes under the same full name.
            Some((Place::Listed, _)) => {
                self.leave(key, LeaveReason::Renamed, now, out);
                self.newcomer(key, node_id, record, endpoints, now, out);
            }
            Some(_) => {
                // Held, or aside under another id: nobody has seen it yet.
                self.leave(key, LeaveReason::Removed, now, out);
                self.newcomer(key, node_id, record, endpoints, now, out);
            }
            None => self.newcomer(key, node_id, record, endpoints, now, out),
        }
    }

    fn newcomer(
        &mut self,
        key: &Arc<str>,
        node_id: Arc<str>,
        record: Record,
        endpoints: Vec<Endpoint>,
        now: Instant,
        out: &mut Vec<Output>,
    ) {
        if let Some(node) = self.nodes.get(&node_id) {
            let incumbent = Arc::clone(&node.listed);
            let had_claimant = node.aside.is_some();
            self.contest(&incumbent, &record, had_claimant, now, out);
            // One claimant is kept; the first, as it would be with the incumbent gone.
            if !had_claimant {
                let entry = self.new_entry(Arc::clone(&node_id), record, Place::Aside, now);
                self.entries.insert(Arc::clone(key), entry);
                if let Some(node) = self.nodes.get_mut(&node_id) {
                    node.aside = Some(Arc::clone(key));
                }
            }
            return;
        }
        if !self.has_room(now, out) {
            self.refuse(record, now, out);
            return;
        }
        if let Some(peer) = self.list(key, node_id, record, endpoints, now) {
            out.push(Output::Put(peer));
        } else {
            out.push(Output::Ignored(Ignored::BadId));
        }
    }

    /// Takes an instance into the list; its node id must be free.
    fn list(
        &mut self,
        key: &Arc<str>,
        node_id: Arc<str>,
        record: Record,
        endpoints: Vec<Endpoint>,
        now: Instant,
    ) -> Option<Peer> {
        let mut entry = self.new_entry(Arc::clone(&node_id), record, Place::Listed, now);
        entry.endpoints = endpoints;
        let peer = self.build_peer(&entry)?;
        entry.peer = Some(peer.clone());
        self.entries.insert(Arc::clone(key), entry);
        self.nodes.insert(node_id, Node { listed: Arc::clone(key), aside: None });
        Some(peer)
    }

    /// News of a listed peer; any doubt is gone.
    fn update(&mut self, key: &Arc<str>, record: Record, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.record = record;
        entry.homeless_until = None;
        self.settle(key, out);
        self.refresh_peer(key, now, out);
    }

    /// Works the endpoints and the published peer of a listed entry out again.
    pub(super) fn refresh_peer(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.recheck = None;
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        let former = entry.endpoints.first().map(|first| Former {
            first,
            last_alive: entry.alive,
            // A complaint clears `alive`.
            unreachable: entry.alive.is_none(),
        });
        let Selection { endpoints, recheck, .. } = self.select(&entry.record, former, now);
        if endpoints.is_empty() {
            return;
        }
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.recheck = recheck;
        entry.endpoints = endpoints;
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        let Some(fresh) = self.build_peer(entry) else {
            return;
        };
        let changed = entry.peer.as_ref() != Some(&fresh);
        let (id, doubt) = (Arc::clone(&entry.node_id), entry.doubt);
        if !changed {
            out.push(Output::Heard(id));
            return;
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.peer = Some(fresh.clone());
        }
        out.push(Output::Put(fresh));
        if let Some(doubt) = doubt {
            out.push(Output::Suspect(id, doubt.why));
        }
    }

    /// The interfaces changed: which addresses of a listed peer are usable now?
    pub(super) fn readmit(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        if entry.doubt.is_some_and(|d| matches!(d.fate, Fate::Lost { .. })) {
            // Decided when it is heard again.
            return;
        }
        if self.select(&entry.record, None, now).endpoints.is_empty() {
            self.homeless(key, now, out);
        } else {
            self.refresh_peer(key, now, out);
        }
    }

    /// Without a usable address: a listed peer gets a second, anybody else goes.
    fn homeless(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        match self.entries.get_mut(key) {
            // One whose interface is gone waits for that.
            Some(Entry {
                place: Place::Listed, doubt: Some(Doubt { fate: Fate::Lost { .. }, .. }), ..
            }) => {}
            Some(entry) if entry.place == Place::Listed => {
                entry.homeless_until.get_or_insert(now + HOMELESS_GRACE);
            }
            Some(_) => self.leave(key, LeaveReason::Removed, now, out),
            None => {}
        }
    }

    // (unknown | Held) -> Held
    fn hold(&mut self, key: &Arc<str>, record: Record, now: Instant, out: &mut Vec<Output>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.record = record;
            return;
        }
        if !self.has_room(now, out) {
            self.refuse(record, now, out);
            return;
        }
        let until = now + TXT_GRACE;
        let entry = self.new_entry("".into(), record, Place::Held { until }, now);
        self.held += 1;
        self.entries.insert(Arc::clone(key), entry);
    }

    /// What time brings to admission.
    pub(super) fn admission_due(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if let Place::Held { until } = entry.place
            && until <= now
        {
            let record = entry.record.clone();
            self.admit(key, record, now, out);
            return;
        }
        if entry.bare_until.is_some_and(|until| until <= now) {
            let mut record = entry.record.clone();
            record.txt.clear();
            entry.bare_until = None;
            self.admit(key, record, now, out);
        }
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry.homeless_until.is_some_and(|until| until <= now) {
            entry.homeless_until = None;
            self.withdraw(key, now, out);
        }
        if let Some(entry) = self.entries.get_mut(key)
            && let Some((addresses, _)) = entry.narrow.take_if(|(_, until)| *until <= now)
        {
            entry.record.addresses = addresses;
            self.refresh_peer(key, now, out);
        }
        if self.entries.get(key).is_some_and(|e| e.recheck.is_some_and(|at| at <= now)) {
            self.refresh_peer(key, now, out);
        }
    }

    /// An instance that waited for the node id of one that left takes its place.
    pub(super) fn promote(&mut self, key: &Arc<str>, now: Instant) -> Option<Peer> {
        let entry = self.entries.remove(key)?;
        let endpoints = self.select(&entry.record, None, now).endpoints;
        let peer = self.list(key, entry.node_id, entry.record, endpoints, now)?;
        if let Some(listed) = self.entries.get_mut(key) {
            listed.since = entry.since;
            listed.first = entry.first;
            listed.generation = entry.generation;
            listed.resolved = entry.resolved;
        }
        Some(peer)
    }

    /// Whether a record is one of our own advertisements: name *and* host (S-125).
    pub(super) fn is_self(&self, record: &Record) -> bool {
        self.own.iter().any(|own| {
            own.full_name.eq_ignore_ascii_case(&record.full_name)
                && own.host.eq_ignore_ascii_case(&record.host)
        })
    }

    /// Somebody else uses our node id: told, at most once a second, and not listed.
    pub(super) fn own_id_elsewhere(&mut self, record: &Record, now: Instant, out: &mut Vec<Output>) {
        if self.own_conflict.is_some_and(|t| now.duration_since(t) < OWN_CONFLICT_EVERY) {
            return;
        }
        let Ok(node_id) = self.identity(record) else {
            return;
        };
        let Some(own) = self.own.iter().find(|o| *o.node_id == *node_id) else {
            return;
        };
        self.own_conflict = Some(now);
        out.push(Output::Conflict {
            node_id: Arc::clone(&own.node_id),
            kept: Claim::new(SourceId::Mdns, "this process", None),
            refused: claim_of(record),
        });
    }

    /// The node id of a record: from TXT, else the label.
    fn identity(&self, record: &Record) -> Result<String, ()> {
        match identity_in(&record.txt, &self.options.gate.identity_keys) {
            Identity::Id(id) => Ok(id.to_owned()),
            Identity::Hostile => Err(()),
            Identity::None => {
                let label = label_of(&record.full_name, self.service.as_str());
                check_node_id(label).map_err(|_| ())?;
                Ok(label.to_owned())
            }
        }
    }

    fn select(&self, record: &Record, former: Option<Former<'_>>, now: Instant) -> Selection {
        self.addresses.select(&record.addresses, record.port, &self.interfaces.links, former, now)
    }

    fn build_peer(&self, entry: &Entry) -> Option<Peer> {
        let pairs = entry.record.txt.iter().map(|(key, value)| (key.as_bytes(), value.as_deref()));
        let (metadata, _cut) = Metadata::received(pairs);
        Peer::builder(Arc::clone(&entry.node_id), &self.service)
            .endpoints(entry.endpoints.iter().cloned())
            .metadata(metadata)
            .source(SourceId::Mdns)
            .origin(origin_of(&entry.record))
            .seen(entry.resolved)
            .build()
            .ok()
    }

    fn new_entry(&self, node_id: Arc<str>, record: Record, place: Place, now: Instant) -> Entry {
        let mut entry = Entry::new(node_id, record, place, now);
        entry.first = self.generation;
        entry.generation = self.generation;
        entry
    }

    /// Whether there is no place left.
    pub(super) fn is_full(&self) -> bool {
        self.nodes.len() + self.held >= self.options.max_peers
    }
}

/// The first identity key with a usable value wins.
fn identity_in<'r>(txt: &'r [(String, Option<Vec<u8>>)], keys: &[String]) -> Identity<'r> {
    for key in keys {
        let value = txt
            .iter()
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .and_then(|(_, value)| value.as_deref())
            .and_then(|value| std::str::from_utf8(value).ok())
            .filter(|value| !value.is_empty());
        let Some(value) = value else { continue };
        if check_node_id(value).is_ok() {
            return Identity::Id(value);
        }
        if value.chars().any(char::is_control) {
            return Identity::Hostile;
        }
    }
    Identity::None
}

fn origin_of(record: &Record) -> String {
    format!("{} on {}", record.full_name, record.host)
}

pub(super) fn claim_of(record: &Record) -> Claim {
    Claim::new(SourceId::Mdns, origin_of(record), None)
}
