//! The stable alias: per namespace the highest N that ever had a slot (controlplane §3.17). Pure.

use std::collections::BTreeMap;

use crate::names::{SlotKey, Version};
use crate::refusal::Refusal;
use crate::slots::Slots;

#[derive(Clone, Debug, Default)]
pub(crate) struct Stable(BTreeMap<String, u32>);

impl Stable {
    /// A slot was made. `unstable` has no number and changes nothing.
    pub(crate) fn made(&mut self, namespace: &str, version: &Version) {
        let Some(number) = version.number() else { return };
        // The gateway keeps 32 bits of it: after v4294967297 it says 1.
        let number = u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let held = self.0.entry(namespace.to_owned()).or_default();
        *held = number.max(*held);
    }

    /// Lowers the number: the one before, and the new one.
    pub(crate) fn retract(
        &mut self,
        namespace: &str,
        target: u32,
        slots: &Slots,
    ) -> Result<(u32, u32), Refusal> {
        if namespace.is_empty() {
            return Err(Refusal::control("namespace is required"));
        }
        if target == 0 {
            return Err(Refusal::control("target_vN must be >= 1 (clearing stable is not supported)"));
        }
        let Some(held) = self.0.get_mut(namespace) else {
            return Err(Refusal::control(format_args!("no stable set for namespace {namespace:?}")));
        };
        if target >= *held {
            return Err(Refusal::control(format_args!(
                "target v{target} is not lower than current stable v{held} of {namespace:?}"
            )));
        }
        let key = SlotKey::new(namespace, format!("v{target}"));
        if slots.get(&key).is_none() {
            return Err(not_registered(&key));
        }
        Ok((std::mem::replace(held, target), target))
    }

    pub(crate) fn all(&self) -> &BTreeMap<String, u32> {
        &self.0
    }
}

/// The refusal of what needs a slot.
pub(crate) fn not_registered(key: &SlotKey) -> Refusal {
    Refusal::control(format_args!("{key} is not currently registered on this gateway"))
}
