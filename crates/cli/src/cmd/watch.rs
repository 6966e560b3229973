//! `peerage peers NAME --watch`: who comes and goes, and what a client makes of those who are there.

use std::io::IsTerminal;
use std::time::Duration;

use http::Method;
use http::uri::PathAndQuery;
use http_body_util::BodyExt;
use peerage::clienthttp::{Body, Client, ClientView, Condition, Policy, RetryPolicy};
use peerage::discovery::{Change, Discovery, Peer, escape};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::peers::{addresses, as_json, metadata, state};
use crate::args::{Global, Peers};
use crate::explain;
use crate::output::{Failure, Output};
use crate::setup;

/// How soon a change of a peer's state is shown where nobody is asked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long an answer to a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Prints each change until the source ends.
pub(super) async fn run(global: &Global, output: Output, args: &Peers, name: &str) -> Result<(), Failure> {
    let probe = args.probe.as_deref().map(path).transpose()?;
    let mesh = setup::builder(global)?
        .per_try_timeout(PROBE_LIMIT)
        // Each in turn, and each once: a probe tells of one peer.
        .clients(|client| client.balance(Policy::RoundRobin).retry(RetryPolicy::never()))
        .build()
        .map_err(setup::mesh_failure)?;
    let client = mesh.client(name).map_err(setup::mesh_failure)?;
    let source = mesh.source(name).map_err(setup::mesh_failure)?;
    let mut watch = Watch {
        output,
        client,
        probe,
        probes: JoinSet::new(),
        shown: Vec::new(),
        drawn: 0,
        redraws: !output.json && std::io::stdout().is_terminal(),
    };
    let outcome = watch.follow(&*source, args.every).await;
    mesh.close(Duration::ZERO).await;
    outcome
}

fn path(text: &str) -> Result<PathAndQuery, Failure> {
    text.parse()
        .ok()
        .filter(|path: &PathAndQuery| path.as_str().starts_with('/'))
        .ok_or_else(|| Failure::usage(format!("--probe {text}: write a path, such as /healthz")))
}

struct Watch {
    output: Output,
    client: Client,
    probe: Option<PathAndQuery>,
    /// They end with the watch.
    probes: JoinSet<()>,
    /// What was last shown of whom.
    shown: Vec<(String, Condition)>,
    /// Lines of the table that stand on the terminal and will be drawn again.
    drawn: usize,
    redraws: bool,
}

impl Watch {
    async fn follow(&mut self, source: &dyn Discovery, every: Duration) -> Result<(), Failure> {
        let mut changes = source.subscribe();
        let mut tick = interval(if self.probe.is_some() { every } else { LOOK_EVERY });
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some((_, change)) => self.tell(change)?,
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    self.ask();
                    self.look()?;
                }
                Some(_) = self.probes.join_next() => {}
            }
        }
    }

    /// Asks every peer once, as long as the last answers are there.
    fn ask(&mut self) {
        let Some(path) = &self.probe else { return };
        if !self.probes.is_empty() {
            return;
        }
        for _ in self.client.peers().iter() {
            let mut request = http::Request::new(Body::empty());
            *request.method_mut() = Method::GET;
            *request.uri_mut() = path.clone().into();
            let client = self.client.clone();
            self.probes.spawn(async move {
                // What comes of it is in the view.
                if let Ok(answer) = client.send(request).await {
                    let _body = answer.into_body().collect().await;
                }
            });
        }
    }

    /// Shows what the client knows, if that is news.
    fn look(&mut self) -> Result<(), Failure> {
        let view = self.client.view();
        let now: Vec<_> =
            view.peers.iter().map(|peer| (peer.peer.node_id().to_owned(), peer.condition)).collect();
        let is_news =
            now != self.shown && (self.probe.is_some() || has_trouble(&now) || has_trouble(&self.shown));
        self.shown = now;
        if !is_news && self.probe.is_none() {
            return Ok(());
        }
        self.show(&view)
    }

    fn show(&mut self, view: &ClientView) -> Result<(), Failure> {
        if self.output.json {
            return view.peers.iter().try_for_each(|peer| self.output.event(&explain::peer(peer)));
        }
        if view.peers.is_empty() {
            return self.erase();
        }
        let table = explain::peers(view);
        self.erase()?;
        if self.redraws {
            self.drawn = table.lines().count();
        }
        self.output.line(table)
    }

    /// Takes the last table off the terminal: what comes next stands in its place.
    fn erase(&mut self) -> Result<(), Failure> {
        match std::mem::take(&mut self.drawn) {
            0 => Ok(()),
            lines => self.output.raw(format_args!("\u{1b}[{lines}F\u{1b}[J")),
        }
    }

    fn tell(&mut self, change: Change) -> Result<(), Failure> {
        self.erase()?;
        match change {
            Change::Resync(snapshot) => {
                for peer in snapshot.peers() {
                    self.say("joined", peer, "")?;
                }
            }
            Change::Joined(peer) => self.say("joined", &peer, "")?,
            Change::Updated { new, .. } => self.say("updated", &new, "")?,
            Change::Suspected(peer) => self.say("suspected", &peer, &state(&peer))?,
            Change::Cleared(peer) => self.say("cleared", &peer, "")?,
            Change::Left { peer, reason } => {
                self.say("left", &peer, &format!("{reason:?}").to_lowercase())?
            }
            other if self.output.json => self
                .output
                .event(&json!({ "event": "note", "text": escape(&format!("{other:?}")).to_string() }))?,
            Change::Status(status) if status.trouble().is_some() => eprintln!("peerage: {status}"),
            _ => {}
        }
        Ok(())
    }

    fn say(&self, what: &str, peer: &Peer, more: &str) -> Result<(), Failure> {
        let output = self.output;
        if output.json {
            let mut event = as_json(peer);
            if let Some(object) = event.as_object_mut() {
                object.insert("event".into(), what.into());
                if !more.is_empty() {
                    object.insert("why".into(), more.into());
                }
            }
            return output.event(&event);
        }
        let mark = match what {
            "left" => output.bad("-"),
            "joined" => output.good("+"),
            _ => "~".to_owned(),
        };
        let more = if more.is_empty() { String::new() } else { format!(" ({more})") };
        output.line(format_args!(
            "{mark} {what:<9} {} {} {}{more}",
            output.strong(&escape(peer.node_id()).to_string()),
            addresses(peer),
            metadata(peer)
        ))
    }
}

/// Whether there is anything to tell beside who is there.
fn has_trouble(states: &[(String, Condition)]) -> bool {
    states.iter().any(|(_, condition)| *condition != Condition::Up)
}
