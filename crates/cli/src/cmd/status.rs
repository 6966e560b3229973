//! `peerage status`: a page of what this host can see.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, StreamExt};
use peerage::discovery::mdns::{self, Interfaces};
use peerage::discovery::{self, Discovery, DiscoveryError, OpenOptions, ServiceType};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::args::{Global, Status};
use crate::output::{Chain, Failure, Output};
use crate::page::{self, Metrics, Shown, services};
use crate::setup;
use crate::stop::Stop;

/// How long is listened for services, and how long is paused before it is done again.
const LISTEN: Duration = Duration::from_millis(1_500);
const PAUSE: Duration = Duration::from_secs(5);
/// Discovery browses 64 types at most.
const MOST: usize = 48;

pub(crate) async fn run(global: &Global, output: Output, args: Status) -> Result<(), Failure> {
    let mut stop = Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    // Nobody is dialled, but options that make no sense are refused all the same.
    setup::tls_files(global)?;
    let host = Arc::new(Host::open(&global.from, &args.names)?);
    let listener = page::bind("--listen", args.listen, Some(args.danger_listen)).await?;
    let address = listener.local_addr().map_err(|error| Failure::chain("cannot listen", &error))?;
    host.start()?;
    output.ready(&address, &[])?;
    if !output.json {
        eprintln!("peerage: http://{address}/ shows what this host sees; Ctrl-C ends");
    }
    tokio::select! {
        () = page::serve(listener, host.clone(), &mut stop) => {}
        () = host.follow() => {}
    }
    host.stop().await;
    Ok(())
}

/// The services that this host knows of.
struct Host {
    /// The parts of --from that find services by themselves.
    mdns: String,
    known: Mutex<BTreeMap<String, Known>>,
    news: watch::Sender<()>,
}

#[derive(Clone)]
struct Known {
    source: Arc<dyn Discovery>,
    /// It stays while nobody announces it.
    is_asked_for: bool,
}

impl Host {
    /// Checks what was asked for. No I/O.
    fn open(from: &str, names: &[String]) -> Result<Self, Failure> {
        let usage = |error: &DiscoveryError| Failure::usage(Chain(error));
        let mut known = BTreeMap::new();
        let mut add = |source: Arc<dyn Discovery>| {
            known.insert(source.service_type().to_string(), Known { source, is_asked_for: true });
        };
        for name in names {
            let service: ServiceType = name.parse().map_err(|error| usage(&error))?;
            add(discovery::open(from, Some(&service), OpenOptions::default())
                .map_err(|error| usage(&error))?);
        }
        let mdns: Vec<&str> = from.split_whitespace().filter(|word| word.starts_with("mdns:")).collect();
        if names.is_empty() {
            match discovery::open(from, None, OpenOptions::default()) {
                // It names its service.
                Ok(source) => add(source),
                Err(_) if mdns.is_empty() => {
                    // What else is wrong with it is told first.
                    let any: ServiceType = "peerage".parse().map_err(|error| usage(&error))?;
                    discovery::open(from, Some(&any), OpenOptions::default())
                        .map_err(|error| usage(&error))?;
                    return Err(Failure::usage(format!(
                        "--from {from}: whose peers are these? Name the service: peerage status NAME"
                    )));
                }
                Err(_) => {}
            }
        }
        let mdns = mdns.join(" ");
        if !mdns.is_empty() && known.is_empty() {
            let any: ServiceType = "peerage".parse().map_err(|error| usage(&error))?;
            discovery::open(from, Some(&any), OpenOptions::default()).map_err(|error| usage(&error))?;
        }
        Ok(Self { mdns, known: Mutex::new(known), news: watch::Sender::default() })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        // Entries come and go whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Known> {
        self.known().values().cloned().collect()
    }

    fn start(&self) -> Result<(), Failure> {
        for Known { source, .. } in self.all() {
            source.start().map_err(|error| Failure::chain("cannot look for peers", &error))?;
        }
        Ok(())
    }

    /// Looks for services, again and again. Never ends.
    async fn follow(&self) {
        if self.mdns.is_empty() {
            return std::future::pending().await;
        }
        loop {
            match mdns::browse_types(Interfaces::Auto, LISTEN).await {
                Ok(types) => self.take(&types),
                Err(error) => tracing::warn!(%error, "cannot look for services"),
            }
            sleep(PAUSE).await;
        }
    }

    fn take(&self, types: &[ServiceType]) {
        let mut known = self.known();
        let is_announced = |name: &str| types.iter().any(|service| service.to_string() == name);
        known.retain(|name, known| {
            let stays =
                known.is_asked_for || is_announced(name) || !known.source.snapshot().peers().is_empty();
            if !stays {
                drop(known.source.stop());
            }
            stays
        });
        for service in types {
            let name = service.to_string();
            if known.contains_key(&name) || known.len() >= MOST {
                continue;
            }
            let opened = discovery::open(&self.mdns, Some(service), OpenOptions::default());
            match opened.and_then(|source| source.start().map(|()| source)) {
                Ok(source) => {
                    known.insert(name, Known { source, is_asked_for: false });
                }
                Err(error) => tracing::debug!(%error, "cannot look for its peers"),
            }
        }
        drop(known);
        self.news.send_replace(());
    }

    async fn stop(&self) {
        let known = std::mem::take(&mut *self.known());
        join_all(known.into_values().map(|known| known.source.stop())).await;
    }
}

impl Shown for Host {
    fn title(&self) -> &'static str {
        "Peerage"
    }

    fn sections(&self) -> Vec<(&'static str, Value)> {
        let seen = |known: &Known| services::seen(&*known.source, &known.source.snapshot());
        let seen: Vec<Value> = self.all().iter().map(seen).collect();
        vec![("services", json!({ "services": seen }))]
    }

    fn news(&self) -> BoxStream<'static, ()> {
        let news = self.news.subscribe();
        stream::unfold(news, |mut news| async move { news.changed().await.ok().map(|()| ((), news)) }).boxed()
    }

    fn measure(&self, metrics: &mut Metrics) {
        for Known { source, .. } in self.all() {
            services::measure_seen(metrics, &*source, &source.snapshot());
        }
    }
}
