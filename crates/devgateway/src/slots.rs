//! The slots: who may join which, what evicts what (controlplane §3.10–§3.12). Pure.

use std::collections::BTreeMap;

use crate::names::{SlotKey, Version};
use crate::refusal::Refusal;
use crate::schema::{Kind, Schema};

/// Limits of calls in flight, fixed by the first registration of a slot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Caps {
    /// In all; 0 is the gateway's default.
    pub(crate) total: u32,
    /// For each replica; 0 is none.
    pub(crate) per_instance: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) kind: Kind,
    pub(crate) hash: [u8; 32],
    pub(crate) caps: Caps,
    /// Ids of the registrations that have a replica here. Invariant: not empty.
    replicas: Vec<String>,
    /// Shown until the slot goes or is swapped.
    pub(crate) reason: String,
}

impl Slot {
    pub(crate) fn replica_count(&self) -> usize {
        self.replicas.len()
    }
}

/// What a replica's arrival did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Joined {
    /// The slot is new.
    Made,
    /// One replica more.
    Added,
    /// The `unstable` slot had another schema: the registrations that were thrown out of it.
    Swapped(Vec<String>),
}

/// Every slot of the gateway.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(BTreeMap<SlotKey, Slot>);

impl Slots {
    /// Puts a replica of registration `id` into the slot, or says why not. Nothing changed then.
    pub(crate) fn join(
        &mut self,
        namespace: &str,
        version: &Version,
        schema: &Schema,
        caps: Caps,
        id: &str,
        remembered: &BTreeMap<SlotKey, String>,
    ) -> Result<Joined, Refusal> {
        let key = SlotKey::new(namespace, version.as_str());
        let kind = schema.kind();
        let part = kind.prefix();
        let fresh = || Slot {
            kind,
            hash: *schema.hash(),
            caps,
            replicas: vec![id.to_owned()],
            reason: String::new(),
        };
        let Some(held) = self.0.get_mut(&key) else {
            schema.validate(&key)?;
            // The reason given for an earlier life of the slot, or for none at all, is still in force.
            let reason = remembered.get(&key).cloned().unwrap_or_default();
            self.0.insert(key, Slot { reason, ..fresh() });
            return Ok(Joined::Made);
        };
        if held.kind == kind && held.hash == *schema.hash() && held.caps == caps {
            held.replicas.push(id.to_owned());
            return Ok(Joined::Added);
        }
        if version.is_unstable() {
            schema.validate(&key)?;
            // Those thrown out stay registered, and the new occupant has no reason: both are the reference's.
            let gone = std::mem::replace(held, fresh());
            return Ok(Joined::Swapped(gone.replicas));
        }
        let registered = format_args!("{key} already registered").to_string();
        if held.kind != kind {
            let (old, new) = (held.kind.name(), kind.name());
            return Err(Refusal::of(
                part,
                format_args!("{registered} as {old}; cannot re-register as {new}"),
            ));
        }
        if held.hash != *schema.hash() {
            return Err(Refusal::of(
                part,
                format_args!(
                    "{registered} with different schema hash; vN is locked once registered \
                     (cut v(N+1) for a new schema, or use unstable for the mutable slot)"
                ),
            ));
        }
        Err(Refusal::of(
            part,
            format_args!(
                "{registered} with different concurrency caps (have max={}/inst={}, got max={}/inst={})",
                held.caps.total, held.caps.per_instance, caps.total, caps.per_instance
            ),
        ))
    }

    /// Takes the replicas of `id` out of `key`; an empty slot goes.
    pub(crate) fn leave(&mut self, key: &SlotKey, id: &str) {
        if let Some(slot) = self.0.get_mut(key) {
            slot.replicas.retain(|replica| replica != id);
            if slot.replicas.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(crate) fn get(&self, key: &SlotKey) -> Option<&Slot> {
        self.0.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &SlotKey) -> Option<&mut Slot> {
        self.0.get_mut(key)
    }

    /// Sorted by namespace, then version, as texts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&SlotKey, &Slot)> {
        self.0.iter()
    }
}
