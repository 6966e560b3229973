//! Whether a gateway serves what it registered: a clustered one reports no conflict (controlplane §3.19, CB-18).

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest;

use crate::pb;

/// What the gateway should serve.
pub(crate) struct Wanted {
    slots: Vec<Slot>,
}

struct Slot {
    namespace: String,
    version: String,
    /// Of an OpenAPI document, which the gateway hashes as it is; other hashes cannot be computed here.
    hash: Option<String>,
}

/// What was seen of the present registration.
#[derive(Default)]
pub(crate) struct Seen {
    id: Option<Arc<str>>,
    /// The hash that each slot had at the first look: another one later is another schema.
    hashes: HashMap<usize, String>,
}

impl Wanted {
    pub(crate) fn new(request: &pb::RegisterRequest, slots: &[String]) -> Self {
        let slots = request
            .services
            .iter()
            .zip(slots)
            .map(|(binding, slot)| Slot {
                namespace: binding.namespace.clone(),
                version: slot.rsplit_once('/').map(|(_, version)| version.to_owned()).unwrap_or_default(),
                hash: (!binding.openapi_spec.is_empty()).then(|| sha256_hex(&binding.openapi_spec)),
            })
            .collect();
        Self { slots }
    }
}

impl Seen {
    /// Whether `services` hold every slot that is wanted, with our schema as far as that can be told.
    pub(crate) fn look(&mut self, wanted: &Wanted, id: &Arc<str>, services: &[pb::ServiceInfo]) -> bool {
        if self.id.as_ref() != Some(id) {
            self.id = Some(id.clone());
            self.hashes.clear();
        }
        wanted.slots.iter().enumerate().all(|(index, slot)| {
            services.iter().any(|service| {
                // Without a namespace of ours the gateway made one from the title: the hash tells.
                let named = slot.namespace.is_empty() || service.namespace == slot.namespace;
                if !named || service.version != slot.version || service.replica_count == 0 {
                    return false;
                }
                match &slot.hash {
                    Some(hash) => *hash == service.hash_hex,
                    None => {
                        *self.hashes.entry(index).or_insert_with(|| service.hash_hex.clone())
                            == service.hash_hex
                    }
                }
            })
        })
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest::digest(&digest::SHA256, bytes).as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes all");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, hash: &str, replicas: u32) -> pb::ServiceInfo {
        pb::ServiceInfo {
            namespace: namespace.into(),
            version: "v1".into(),
            hash_hex: hash.into(),
            replica_count: replicas,
            ..pb::ServiceInfo::default()
        }
    }

    #[test]
    fn a_slot_that_is_missing_empty_or_anothers_is_not_served() {
        let binding = |namespace: &str| pb::ServiceBinding {
            namespace: namespace.into(),
            ..pb::ServiceBinding::default()
        };
        let mut openapi = binding("o");
        openapi.openapi_spec = "{}".into();
        let mut proto = binding("p");
        proto.proto_source = "x".into();
        let request =
            pb::RegisterRequest { services: vec![openapi, proto], ..pb::RegisterRequest::default() };
        let wanted = Wanted::new(&request, &["o/v1".into(), "p/v1".into()]);
        // sha256sum of `{}`.
        let hash = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        let id: Arc<str> = "1".into();
        let mut seen = Seen::default();
        assert!(seen.look(&wanted, &id, &[service("o", hash, 1), service("p", "aa", 2)]));
        assert!(!seen.look(&wanted, &id, &[service("o", hash, 1)]), "a slot is missing");
        assert!(!seen.look(&wanted, &id, &[service("o", hash, 0), service("p", "aa", 1)]), "a slot is empty");
        assert!(
            !seen.look(&wanted, &id, &[service("o", "00", 1), service("p", "aa", 1)]),
            "another document"
        );
        assert!(
            !seen.look(&wanted, &id, &[service("o", hash, 1), service("p", "bb", 1)]),
            "another proto since"
        );
        let id: Arc<str> = "2".into();
        assert!(
            seen.look(&wanted, &id, &[service("o", hash, 1), service("p", "bb", 1)]),
            "a new registration"
        );
    }
}
