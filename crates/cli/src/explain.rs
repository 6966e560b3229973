//! Why calls went where they went, and what a client knows of its peers: `call --explain`, `peers --watch`.

use std::time::Duration;

use peerage::clienthttp::{
    Attempt, Attempts, Candidate, ClientError, ClientView, Condition, PeerView, PickExplanation,
};
use peerage::discovery::escape;
use serde_json::{Value, json};

use crate::output::table;

/// The attempts of a call for people: where each went, what came of it, and why it went there.
pub(crate) fn lines(attempts: &Attempts) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, attempt) in (1..).zip(attempts.iter()) {
        lines.push(format!("attempt {number}: {attempt} after {:.2?}", attempt.elapsed));
        lines.extend(attempt.pick.iter().flat_map(|pick| indented(pick)));
    }
    lines
}

/// The same of a call that has no answer, with the pick that found nobody.
pub(crate) fn lines_of_error(error: &ClientError) -> Vec<String> {
    let mut text = error.attempts().map(lines).unwrap_or_default();
    text.extend(error.explanation().into_iter().flat_map(indented));
    text
}

fn indented(pick: &PickExplanation) -> Vec<String> {
    pick.to_string().lines().map(|line| format!("  {line}")).collect()
}

/// The attempts for programs.
pub(crate) fn as_json(attempts: &Attempts) -> Value {
    attempts.iter().map(attempt).collect()
}

fn attempt(attempt: &Attempt) -> Value {
    json!({
        "peer": attempt.peer.node_id(),
        "address": attempt.peer.address().to_string(),
        "outcome": attempt.outcome.as_str(),
        "status": attempt.status.map(|status| status.as_u16()),
        "failure": attempt.failure,
        "elapsed_ms": millis(attempt.elapsed),
        "pick": attempt.pick.as_deref().map(pick),
    })
}

/// A pick for programs.
pub(crate) fn pick(pick: &PickExplanation) -> Value {
    let kept_out = pick.kept_out.iter().map(|out| {
        json!({
            "peer": out.key.as_str(),
            "state": out.condition.as_str(),
            "why": out.why,
            "for_ms": out.out_for.map(millis),
        })
    });
    json!({
        "policy": pick.policy.map(|policy| policy.as_str()),
        "chosen": pick.chosen.as_ref().map(|key| key.as_str()),
        "failure": pick.failure,
        "peers": pick.peer_count,
        "panic": pick.is_panic,
        "candidates": pick.candidates.iter().map(candidate).collect::<Value>(),
        "kept_out": kept_out.collect::<Value>(),
    })
}

fn candidate(candidate: &Candidate) -> Value {
    let nanos = Duration::from_nanos;
    json!({
        "peer": candidate.key.as_str(),
        "estimate_ms": millis(nanos(candidate.estimate)),
        "measured": candidate.is_sampled,
        "silent_ms": millis(nanos(candidate.stall)),
        "in_flight": candidate.pending,
        "success": candidate.success,
        "weight": candidate.weight,
        "cost_ms": candidate.cost / 1e6,
        "usable": candidate.is_usable,
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What the client knows of its peers, as a table.
pub(crate) fn peers(view: &ClientView) -> String {
    let mut rows = table(&["NODE", "ADDRESS", "STATE", "ESTIMATE", "IN FLIGHT", "SUCCESS", "OUT FOR"]);
    for peer in &view.peers {
        rows.add_row([
            escape(peer.peer.node_id()).to_string(),
            peer.peer.address().to_string(),
            state(peer),
            if peer.is_sampled { format!("{:.2?}", peer.estimate) } else { "-".into() },
            peer.in_flight.to_string(),
            if has_outcome(peer) { format!("{:.0} %", peer.success_ratio * 100.0) } else { "-".into() },
            peer.out_for.map_or_else(String::new, |time| format!("{:.1?}", time)),
        ]);
    }
    rows.to_string()
}

/// Without one its ratio is what everybody starts with.
fn has_outcome(peer: &PeerView) -> bool {
    peer.is_sampled || peer.recent_ok + peer.recent_failed > 0 || peer.condition != Condition::Up
}

fn state(peer: &PeerView) -> String {
    if peer.silent_for > Duration::from_millis(100) {
        format!("{}, silent for {:.1?}", peer.condition, peer.silent_for)
    } else {
        peer.condition.to_string()
    }
}

/// One peer for programs.
pub(crate) fn peer(view: &PeerView) -> Value {
    json!({
        "event": "state",
        "node_id": view.peer.node_id(),
        "address": view.peer.address().to_string(),
        "state": view.condition.as_str(),
        "why": view.why_out,
        "estimate_ms": view.is_sampled.then(|| millis(view.estimate)),
        "silent_ms": millis(view.silent_for),
        "in_flight": view.in_flight,
        "success_ratio": view.success_ratio,
        "recent_ok": view.recent_ok,
        "recent_failed": view.recent_failed,
        "out_for_ms": view.out_for.map(millis),
    })
}
