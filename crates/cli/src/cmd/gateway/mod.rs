//! `peerage gateway`: an in-memory control plane that tells what happens at it.

mod status;

use std::path::Path;
use std::sync::Arc;

use peerage::discovery::escape;
use peerage_devgateway::{Call, Cause, DevGateway, Event, RegistrationView, StartError, Tiers};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::args::{Gateway, Global, Tier};
use crate::output::{Chain, Failure, Output};
use crate::page;
use crate::stop::Stop;

pub(crate) async fn run(global: &Global, output: Output, args: Gateway) -> Result<(), Failure> {
    let mut stop = Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    let mut builder =
        DevGateway::builder().bind(args.listen).default_ttl(args.ttl).tiers(tiers(&args.allow_tier));
    if args.danger_listen {
        builder = builder.danger_beyond_loopback();
    }
    if let Some((ca, cert, key)) = identity(global)? {
        builder = builder.tls_pem(&cert, &key, Some(&ca)).map_err(|error| start_failure(&error))?;
    }
    let page = match args.status {
        Some(address) => Some(page::bind("--status", address, None).await?),
        None => None,
    };
    let gateway = Arc::new(builder.start().await.map_err(|error| start_failure(&error))?);
    let mut events = gateway.events();
    let status_address = page.as_ref().map(TcpListener::local_addr).transpose();
    let status_address = status_address.map_err(|error| Failure::chain("cannot listen", &error))?;
    let more = status_address.map(|address| ("status", json!(address.to_string())));
    output.ready(&gateway.addr(), more.as_slice())?;
    if !output.json {
        let address = gateway.addr();
        eprintln!("peerage: services register with --gateway {address}; Ctrl-C ends");
        if let Some(address) = status_address {
            eprintln!("peerage: http://{address}/ shows them");
        }
    }
    let mut page_stop = stop.clone();
    let serving = async {
        match page {
            Some(listener) => {
                let shown = Arc::new(status::Registered::new(&gateway));
                page::serve(listener, shown, &mut page_stop).await;
                Ok(())
            }
            None => std::future::pending().await,
        }
    };
    let telling = async {
        while let Some(event) = events.next().await {
            tell(output, &event)?;
        }
        Ok(())
    };
    tokio::select! {
        outcome = serving => outcome,
        outcome = telling => outcome,
        () = stop.asked() => Ok(()),
    }
    // Dropped with its last handle: connections are cut, as by a gateway that goes down.
}

fn tiers(allowed: &[Tier]) -> Tiers {
    match (allowed.contains(&Tier::Unstable), allowed.contains(&Tier::Numbered)) {
        _ if allowed.is_empty() => Tiers::all(),
        (true, true) => Tiers::all(),
        (true, false) => Tiers::unstable(),
        (false, true) => Tiers::numbered(),
        (false, false) => Tiers::none(),
    }
}

type Pem = Vec<u8>;

/// CA, certificate and key; all or none.
fn identity(global: &Global) -> Result<Option<(Pem, Pem, Pem)>, Failure> {
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|error| Failure::chain(format_args!("cannot read {}", path.display()), &error))
    };
    match (&global.ca, &global.cert, &global.key) {
        (None, None, None) => Ok(None),
        (Some(ca), Some(cert), Some(key)) => Ok(Some((read(ca)?, read(cert)?, read(key)?))),
        _ => Err(Failure::usage(
            "--ca, --cert and --key belong together: the gateway shows who it is and asks services the same",
        )),
    }
}

fn start_failure(error: &StartError) -> Failure {
    match error {
        StartError::NotLoopback { addr } => Failure::usage(format!(
            "--listen {addr}: whoever reaches this address could register and deregister services; listen on \
             127.0.0.1, or add --danger-listen if that is meant"
        )),
        _ => Failure::failed(Chain(error)),
    }
}

/// A line for a person on stderr, or an object for a script on stdout.
fn tell(output: Output, event: &Event) -> Result<(), Failure> {
    if output.json {
        return match as_json(event) {
            Some(value) => output.event(&value),
            None => Ok(()),
        };
    }
    match event {
        Event::Registered(registration) => eprintln!(
            "peerage: {} {} for {}, id {}",
            output.good("+"),
            described(registration),
            seconds(registration),
            registration.id
        ),
        Event::Gone(registration, cause) => eprintln!(
            "peerage: {} {}: {}, id {}",
            output.bad("-"),
            described(registration),
            why(*cause),
            registration.id
        ),
        Event::Swapped { slot, replicas } => {
            eprintln!("peerage: ~ {} has another schema; {replicas} left it", escape(slot));
        }
        Event::Refused(call) => eprintln!(
            "peerage: {} {} of {} refused: {}",
            output.bad("!"),
            call.rpc,
            call.peer,
            escape(&call.message)
        ),
        _ => {}
    }
    Ok(())
}

fn described(registration: &RegistrationView) -> String {
    let instance = match registration.instance_id.as_str() {
        "" => String::new(),
        id => format!(" ({id})"),
    };
    let text = format!("{} at {}{instance}", registration.slots.join(", "), registration.addr);
    escape(&text).to_string()
}

fn seconds(registration: &RegistrationView) -> String {
    format!("{} s", registration.ttl.as_secs())
}

fn why(cause: Cause) -> &'static str {
    match cause {
        Cause::Deregistered => "deregistered",
        Cause::Expired => "silent for longer than its TTL",
        _ => "evicted",
    }
}

fn as_json(event: &Event) -> Option<Value> {
    let named = |name: &str, mut value: Value| {
        if let Some(object) = value.as_object_mut() {
            object.insert("event".into(), name.into());
        }
        value
    };
    Some(match event {
        Event::Registered(registration) => named("registered", registration_json(registration)),
        Event::Gone(registration, cause) => {
            let mut value = named("gone", registration_json(registration));
            if let Some(object) = value.as_object_mut() {
                object.insert("why".into(), format!("{cause:?}").to_lowercase().into());
            }
            value
        }
        Event::Swapped { slot, replicas } => {
            json!({ "event": "swapped", "slot": slot, "replicas": replicas })
        }
        Event::Refused(call) => named("refused", call_json(call)),
        _ => return None,
    })
}

fn registration_json(registration: &RegistrationView) -> Value {
    json!({
        "registration_id": registration.id,
        "addr": registration.addr,
        "instance_id": registration.instance_id,
        "ttl_seconds": registration.ttl.as_secs(),
        "slots": registration.slots,
        "heartbeats": registration.beats,
    })
}

fn call_json(call: &Call) -> Value {
    json!({
        "rpc": call.rpc.name(),
        "peer": call.peer.to_string(),
        "code": format!("{:?}", call.code),
        "message": call.message,
    })
}
