//! Services and their peers, as the page, its JSON and its metrics have them.

use std::collections::BTreeMap;

use peerage::clienthttp::ClientView;
use peerage::discovery::{Discovery, Metric, Snapshot};
use serde_json::{Value, json};

use super::Metrics;
use crate::cmd::peers;
use crate::explain;

/// What discovery knows of a service whom nobody calls from here.
pub(crate) fn seen(service: &dyn Discovery, snapshot: &Snapshot) -> Value {
    let peers: Vec<Value> = snapshot.peers().iter().map(peers::as_json).collect();
    json!({
        "service": service.service_type().to_string(),
        "discovery": snapshot.status().as_str(),
        "why": why(snapshot.status().as_str(), || service.explain(), peers.is_empty()),
        "peers": peers,
    })
}

/// What a client knows of the service that it calls.
pub(crate) fn called(view: &ClientView) -> Value {
    let peer = |known: &peerage::clienthttp::PeerView| {
        let mut value = peers::as_json(&known.peer);
        if let (Some(object), Value::Object(known)) = (value.as_object_mut(), explain::peer(known)) {
            // The client's word goes: it knows what discovery knows.
            object.extend(known.into_iter().filter(|(key, _)| key != "event" && key != "address"));
        }
        value
    };
    let status = view.discovery.as_str();
    json!({
        "service": view.service.to_string(),
        "discovery": status,
        "why": view.why_empty.clone().or_else(|| why(status, || view.discovery.to_string(), false)),
        "policy": view.policy.map(|policy| policy.as_str()),
        "panic": view.is_panic,
        "in_flight": view.in_flight,
        "ejections": view.counters.ejections,
        "peers": view.peers.iter().map(peer).collect::<Vec<_>>(),
    })
}

fn why(status: &str, words: impl FnOnce() -> String, is_empty: bool) -> Option<String> {
    (is_empty || status != "ready").then(words)
}

/// The numbers of a service that only discovery knows.
pub(crate) fn measure_seen(metrics: &mut Metrics, service: &dyn Discovery, snapshot: &Snapshot) {
    let name = service.service_type().to_string();
    let suspects = snapshot.suspect_count();
    for (state, count) in [("up", snapshot.peer_count()), ("suspect", suspects)] {
        metrics.gauge("peerage_peers", &[("service", &name), ("state", state)], number(count));
    }
    discovered(metrics, &name, &service.metrics());
}

/// The numbers of a service that is called.
pub(crate) fn measure_called(metrics: &mut Metrics, view: &ClientView) {
    let name = view.service.to_string();
    let mut states = BTreeMap::new();
    for known in &view.peers {
        *states.entry(known.condition.as_str()).or_insert(0_usize) += 1;
        let labels = [("service", name.as_str()), ("peer", known.peer.node_id())];
        if known.is_sampled {
            metrics.gauge("peerage_peer_estimate_seconds", &labels, known.estimate.as_secs_f64());
        }
        metrics.gauge("peerage_peer_in_flight", &labels, f64::from(known.in_flight));
        metrics.gauge("peerage_peer_success_ratio", &labels, known.success_ratio);
    }
    for (state, count) in states {
        metrics.gauge("peerage_peers", &[("service", &name), ("state", state)], number(count));
    }
    let service = [("service", name.as_str())];
    metrics.gauge("peerage_in_flight", &service, number(view.in_flight));
    for (family, count) in [
        ("peerage_ejections", view.counters.ejections),
        ("peerage_probes", view.counters.probes),
        ("peerage_panic_picks", view.counters.panic_picks),
    ] {
        metrics.counter(family, &service, count as f64);
    }
}

fn discovered(metrics: &mut Metrics, service: &str, counted: &[Metric]) {
    for Metric { name, label, value, is_gauge, .. } in counted {
        let family = format!("peerage_{name}");
        let labels: Vec<(&str, &str)> = [("service", service)].into_iter().chain(*label).collect();
        if *is_gauge {
            metrics.gauge(&family, &labels, *value as f64);
        } else {
            metrics.counter(&family, &labels, *value as f64);
        }
    }
}

fn number(count: usize) -> f64 {
    count as f64
}
