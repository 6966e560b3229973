//! All that the gateway remembers, and what each call does to it. Pure: time and ids are arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::names::{SlotKey, is_schema_name};
use crate::refusal::Refusal;
use crate::request::{Checked, Request};
use crate::schema::{Kind, Schema, sha256};
use crate::slots::{Caps, Joined, Slots};
use crate::stable::{Stable, not_registered};
use crate::view::{BindingView, RegistrationView, ServiceView};

/// When the request says 0.
pub(crate) const TTL_DEFAULT: u32 = 30;

/// Everything that a restart forgets.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    registrations: BTreeMap<String, Registration>,
    slots: Slots,
    stable: Stable,
    /// Reasons outlive their slots, and may come before them.
    deprecations: BTreeMap<SlotKey, String>,
}

#[derive(Clone, Debug)]
struct Registration {
    addr: String,
    instance_id: String,
    ttl_seconds: u32,
    asked_ttl_seconds: u32,
    /// Since the Unix epoch.
    last_heartbeat: Duration,
    beats: u64,
    /// In the order of the request.
    keys: Vec<SlotKey>,
    bindings: Vec<BindingView>,
}

/// What a successful Register did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Registered {
    pub(crate) ttl_seconds: u32,
    /// Slots whose occupants were thrown out, and how many they were.
    pub(crate) swapped: Vec<(SlotKey, usize)>,
}

impl State {
    /// A slot of the gateway's own, which nobody can leave.
    pub(crate) fn take(&mut self, key: &SlotKey) -> Result<(), Refusal> {
        let version = crate::names::Version::parse(&key.version)?;
        crate::names::check_namespace(&key.namespace)?;
        let schema = Schema::new(Kind::Internal, sha256([key.to_string().as_bytes()]), None);
        let joined =
            self.slots.join(&key.namespace, &version, &schema, Caps::default(), "", &self.deprecations)?;
        if joined == Joined::Made {
            self.stable.made(&key.namespace, &version);
        }
        Ok(())
    }

    /// Puts every binding into its slot, or none.
    pub(crate) fn register(
        &mut self,
        id: String,
        request: &Request,
        checked: &[Checked],
        ttl_seconds: u32,
        now: Duration,
    ) -> Result<Registered, Refusal> {
        let mut swapped = Vec::new();
        for (at, binding) in checked.iter().enumerate() {
            let joined = self.slots.join(
                &binding.namespace,
                &binding.version,
                &binding.schema,
                binding.caps,
                &id,
                &self.deprecations,
            );
            match joined {
                Ok(Joined::Made) => self.stable.made(&binding.namespace, &binding.version),
                Ok(Joined::Added) => {}
                Ok(Joined::Swapped(gone)) => swapped.push((binding.key(), gone.len())),
                Err(refusal) => {
                    self.leave(&id, checked.iter().take(at).map(Checked::key));
                    return Err(refusal);
                }
            }
        }
        if let Some(refusal) = checked.iter().find_map(unbuildable) {
            // What the arrival did to `unstable` occupants and to the stable number is not taken back: the
            // reference does not either (controlplane §3.12).
            self.leave(&id, checked.iter().map(Checked::key));
            return Err(refusal);
        }
        let registration = Registration {
            addr: request.addr.clone(),
            instance_id: request.instance_id.clone(),
            ttl_seconds,
            asked_ttl_seconds: request.ttl_seconds,
            last_heartbeat: now,
            beats: 0,
            keys: checked.iter().map(Checked::key).collect(),
            bindings: request
                .bindings
                .iter()
                .zip(checked)
                .map(|(sent, checked)| BindingView::new(sent, checked))
                .collect(),
        };
        self.registrations.insert(id, registration);
        Ok(Registered { ttl_seconds, swapped })
    }

    fn leave(&mut self, id: &str, keys: impl Iterator<Item = SlotKey>) {
        for key in keys {
            self.slots.leave(&key, id);
        }
    }

    /// Whether the id is known. Its time is noted then.
    pub(crate) fn heartbeat(&mut self, id: &str, now: Duration) -> bool {
        let Some(registration) = self.registrations.get_mut(id) else { return false };
        registration.last_heartbeat = now;
        registration.beats += 1;
        true
    }

    /// Forgets a registration: what it was, if it was known.
    pub(crate) fn deregister(&mut self, id: &str) -> Option<RegistrationView> {
        let registration = self.registrations.remove(id)?;
        self.leave(id, registration.keys.iter().cloned());
        Some(view(id, &registration))
    }

    /// The janitor: forgets who was silent for longer than its TTL, to the millisecond.
    pub(crate) fn sweep(&mut self, now: Duration) -> Vec<RegistrationView> {
        let silent = |registration: &Registration| {
            let since = now.as_millis().saturating_sub(registration.last_heartbeat.as_millis());
            since > u128::from(registration.ttl_seconds) * 1_000
        };
        let gone: Vec<String> =
            self.registrations.iter().filter(|(_, held)| silent(held)).map(|(id, _)| id.clone()).collect();
        gone.iter().filter_map(|id| self.deregister(id)).collect()
    }

    pub(crate) fn registrations(&self) -> Vec<RegistrationView> {
        self.registrations.iter().map(|(id, registration)| view(id, registration)).collect()
    }

    /// One registration, if it is known.
    pub(crate) fn registration(&self, id: &str) -> Option<RegistrationView> {
        self.registrations.get(id).map(|registration| view(id, registration))
    }

    /// Sorted by namespace, then version, as texts.
    pub(crate) fn services(&self) -> Vec<ServiceView> {
        self.slots.iter().map(|(key, slot)| ServiceView::new(key, slot)).collect()
    }

    pub(crate) fn stable(&self) -> &BTreeMap<String, u32> {
        self.stable.all()
    }

    pub(crate) fn retract_stable(&mut self, namespace: &str, target: u32) -> Result<(u32, u32), Refusal> {
        self.stable.retract(namespace, target, &self.slots)
    }

    pub(crate) fn deprecate(&mut self, namespace: &str, version: &str, reason: &str) -> Result<(), Refusal> {
        let key = named(namespace, version)?;
        if reason.is_empty() {
            return Err(Refusal::control("reason is required (use Undeprecate to clear)"));
        }
        // Remembered even when it is refused: the slot is born deprecated then (C-101).
        self.deprecations.insert(key.clone(), reason.to_owned());
        let slot = self.slots.get_mut(&key).ok_or_else(|| not_registered(&key))?;
        reason.clone_into(&mut slot.reason);
        Ok(())
    }

    /// The reason that was in force.
    pub(crate) fn undeprecate(&mut self, namespace: &str, version: &str) -> Result<String, Refusal> {
        let key = named(namespace, version)?;
        let prior = self.deprecations.remove(&key).unwrap_or_default();
        let slot = self.slots.get_mut(&key).ok_or_else(|| not_registered(&key))?;
        slot.reason.clear();
        Ok(prior)
    }
}

fn named(namespace: &str, version: &str) -> Result<SlotKey, Refusal> {
    if namespace.is_empty() || version.is_empty() {
        return Err(Refusal::control("namespace and version are required"));
    }
    Ok(SlotKey::new(namespace, version))
}

/// Why the schema of all services cannot be built with this binding in it.
fn unbuildable(binding: &Checked) -> Option<Refusal> {
    let namespace = &binding.namespace;
    if namespace.starts_with('_') {
        return None;
    }
    if !is_schema_name(namespace) {
        return Some(Refusal::of(
            "graphql.NewSchema",
            format_args!("Names must match /^[_a-zA-Z][_a-zA-Z0-9]*$/ but {namespace:?} does not."),
        ));
    }
    binding.schema.unbuildable.as_ref().map(|text| Refusal::of("gateway", text))
}

fn view(id: &str, registration: &Registration) -> RegistrationView {
    RegistrationView {
        id: id.to_owned(),
        addr: registration.addr.clone(),
        instance_id: registration.instance_id.clone(),
        ttl: Duration::from_secs(registration.ttl_seconds.into()),
        asked_ttl: Duration::from_secs(registration.asked_ttl_seconds.into()),
        last_heartbeat: registration.last_heartbeat,
        beats: registration.beats,
        slots: registration.keys.iter().map(SlotKey::to_string).collect(),
        bindings: registration.bindings.clone(),
    }
}
