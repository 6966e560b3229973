//! The status page of `peerage gateway`: what is registered.

use std::sync::{Arc, Weak};

use futures_util::stream::{self, BoxStream, StreamExt};
use peerage_devgateway::{DevGateway, RegistrationView, Rpc, ServiceView};
use serde_json::{Value, json};

use crate::page::{Metrics, Shown};

/// A gateway as its page shows it. The page keeps it from nothing: it ends with its owner.
pub(super) struct Registered(Weak<DevGateway>);

impl Registered {
    pub(super) fn new(gateway: &Arc<DevGateway>) -> Self {
        Self(Arc::downgrade(gateway))
    }
}

impl Shown for Registered {
    fn title(&self) -> &'static str {
        "Peerage gateway"
    }

    fn sections(&self) -> Vec<(&'static str, Value)> {
        let Some(gateway) = self.0.upgrade() else { return Vec::new() };
        vec![("registrations", registrations(&gateway)), ("services", services(&gateway))]
    }

    fn news(&self) -> BoxStream<'static, ()> {
        let Some(gateway) = self.0.upgrade() else { return stream::empty().boxed() };
        let events = gateway.events();
        stream::unfold(events, |mut events| async move { events.next().await.map(|_| ((), events)) }).boxed()
    }

    fn measure(&self, metrics: &mut Metrics) {
        let Some(gateway) = self.0.upgrade() else { return };
        for (name, count) in [
            ("peerage_gateway_registrations", gateway.registrations().len()),
            ("peerage_gateway_slots", gateway.services().len()),
            ("peerage_gateway_connections", gateway.connections()),
        ] {
            metrics.gauge(name, &[], count as f64);
        }
        for rpc in Rpc::ALL {
            let count = gateway.count(rpc) as f64;
            metrics.counter("peerage_gateway_calls", &[("rpc", rpc.name())], count);
        }
    }
}

fn registrations(gateway: &DevGateway) -> Value {
    let now = gateway.now();
    let one = |registration: &RegistrationView| {
        let ends = registration.last_heartbeat + registration.ttl;
        let left = u64::try_from(ends.saturating_sub(now).as_millis()).unwrap_or(u64::MAX);
        json!({
            "registration_id": registration.id,
            "addr": registration.addr,
            "instance_id": registration.instance_id,
            "slots": registration.slots,
            "ttl_seconds": registration.ttl.as_secs(),
            "lease_left_ms": left,
            "heartbeats": registration.beats,
        })
    };
    json!({ "registrations": gateway.registrations().iter().map(one).collect::<Vec<_>>() })
}

fn services(gateway: &DevGateway) -> Value {
    let one = |service: &ServiceView| {
        json!({
            "namespace": service.namespace,
            "version": service.version,
            "kind": service.kind.name(),
            "hash": service.hash,
            "replicas": service.replica_count,
            "deprecation": service.deprecation,
        })
    };
    json!({
        "services": gateway.services().iter().map(one).collect::<Vec<_>>(),
        "stable": gateway.stable(),
    })
}
