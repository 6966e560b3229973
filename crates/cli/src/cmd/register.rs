//! `peerage register`: a service stays registered at a gateway for as long as this runs.

use std::path::Path;

use peerage::controlclient::{
    Bearer, ConfigError, Failure as Refusal, Gateway, GatewayTls, Outcome, Registration, RegistrationBuilder,
    Service, ServiceError, StartError, StartPolicy, State,
};
use peerage::discovery::escape;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::args::{Global, Register};
use crate::output::{Chain, Failure, Output};
use crate::stop::Stop;

pub(crate) async fn run(global: &Global, output: Output, args: Register) -> Result<(), Failure> {
    let mut stop = Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    let drain = args.drain;
    let builder = builder(global, args)?;
    let mut told = Told::default();
    told.tell(output, &State::Registering)?;
    // A registration that is under way when the person stops it is taken back before the program ends.
    let registration = match builder.start_unless(stop.asked(), drain).await {
        Err(StartError::Stopped { .. }) => return Err(Failure::Interrupted),
        started => started.map_err(|error| start_failure(&error))?,
    };
    let mut states = registration.states();
    let followed = tokio::select! {
        followed = follow(output, &mut told, &mut states) => followed,
        () = stop.asked() => Ok(()),
    };
    if followed.is_ok() {
        told.tell(output, &State::Draining)?;
    }
    let outcome = registration.shutdown(drain).await;
    followed?;
    told.tell(output, &State::Closed(outcome))
}

/// Prints each change. Ends with the registration, or when stdout is gone.
async fn follow(output: Output, told: &mut Told, states: &mut watch::Receiver<State>) -> Result<(), Failure> {
    loop {
        let state = states.borrow_and_update().clone();
        told.tell(output, &state)?;
        if matches!(state, State::Closed(_)) || states.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn builder(global: &Global, args: Register) -> Result<RegistrationBuilder, Failure> {
    let service = service(&args)?.version(args.version);
    let bearer =
        args.bearer_file.map(Bearer::from_file).transpose().map_err(|error| config_failure(&error))?;
    let tls = tls(global)?;
    let mut gateways = args.gateway.into_iter().map(|address| {
        let mut gateway = Gateway::new(address);
        if let Some(tls) = &tls {
            gateway = gateway.tls(tls.clone());
        }
        if let Some(bearer) = &bearer {
            gateway = gateway.bearer(bearer.clone());
        }
        if args.danger_plaintext { gateway.danger_bearer_over_plaintext() } else { gateway }
    });
    let first = gateways.next().ok_or_else(|| Failure::usage("--gateway is missing"))?;
    let mut builder =
        Registration::builder(first, args.addr).service(service).start_policy(StartPolicy::Wait(args.wait));
    builder = gateways.fold(builder, RegistrationBuilder::gateway);
    if let Some(ttl) = args.ttl {
        builder = builder.ttl(ttl);
    }
    if let Some(instance) = args.instance {
        builder = builder.instance(instance);
    }
    if let Some(tag) = args.build_tag {
        builder = builder.build_tag(tag);
    }
    Ok(builder)
}

fn service(args: &Register) -> Result<Service, Failure> {
    let namespace = args.namespace.clone().unwrap_or_default();
    if let Some(proto) = &args.schema.proto {
        return match &args.entry {
            Some(entry) => Ok(Service::proto_dir(namespace, proto, entry)),
            None if is_directory(proto) => Err(Failure::usage(format!(
                "--proto {}: a directory needs --entry, the file in it that has the service",
                proto.display()
            ))),
            None => Ok(Service::proto_file(namespace, proto)),
        };
    }
    match (&args.schema.openapi, &args.schema.graphql) {
        (Some(path), _) => Ok(Service::openapi_file(namespace, path)),
        (None, Some(endpoint)) => Ok(Service::graphql(namespace, endpoint)),
        (None, None) => Err(Failure::usage("one of --proto, --openapi and --graphql is needed")),
    }
}

fn is_directory(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// TLS with --ca, mutual with --cert and --key.
pub(super) fn tls(global: &Global) -> Result<Option<GatewayTls>, Failure> {
    let identity = match (&global.cert, &global.key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        _ => return Err(Failure::usage("--cert and --key belong together")),
    };
    match (&global.ca, identity) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Failure::usage("--cert and --key need --ca: whom to trust as the gateway")),
        (Some(ca), identity) => {
            GatewayTls::from_files(ca, identity).map(Some).map_err(|error| Failure::failed(Chain(&error)))
        }
    }
}

/// A refusal is told with what to do about it, and in the gateway's words.
fn start_failure(error: &StartError) -> Failure {
    match error {
        StartError::Config(error) => config_failure(error),
        StartError::Failed { gateway, source } => {
            Failure::failed(format_args!("{}\n  {} said: {}", source.hint(), escape(gateway), source.words()))
        }
        _ => Failure::failed(Chain(error)),
    }
}

/// What the person typed is bad usage; what stands in files is not.
fn config_failure(error: &ConfigError) -> Failure {
    let is_file = match error {
        ConfigError::Tls(_) | ConfigError::Bearer { .. } | ConfigError::TooLarge { .. } => true,
        ConfigError::Service { source, .. } => matches!(
            source,
            ServiceError::Source(_)
                | ServiceError::NoSchema
                | ServiceError::NotUtf8
                | ServiceError::MissingImport { .. }
                | ServiceError::Shadowed { .. }
        ),
        _ => false,
    };
    let text = match error {
        ConfigError::Plaintext { gateway } => format!(
            "{}: the gateway is on another host: say whom to trust with --ca, or add --danger-plaintext",
            escape(gateway)
        ),
        // Its source goes on where it ends.
        ConfigError::Service { source, .. } => format!("{error} {}", Chain(source)),
        _ => Chain(error).to_string(),
    };
    if is_file { Failure::failed(text) } else { Failure::usage(text) }
}

/// What was printed last: a renewed lease is no news.
#[derive(Debug, Default)]
struct Told {
    last: Option<(&'static str, String)>,
}

impl Told {
    fn tell(&mut self, output: Output, state: &State) -> Result<(), Failure> {
        let detail = match state {
            State::Live { id, not_served, .. } => format!("{id} {not_served}"),
            State::Suspect { id, .. } => id.to_string(),
            State::Lost { failure: Some(failure) } | State::Rejected { failure } => {
                failure.words().to_owned()
            }
            _ => String::new(),
        };
        let news = (state.name(), detail);
        if self.last.as_ref() == Some(&news) {
            return Ok(());
        }
        self.last = Some(news);
        if output.json { output.event(&as_json(state)) } else { output.line(as_text(output, state)) }
    }
}

fn as_text(output: Output, state: &State) -> String {
    let name = format!("{:<11}", state.name());
    match state {
        State::Live { id, lease_ends, not_served } => {
            let note = if *not_served { ", but the gateway serves something else in its place" } else { "" };
            let lease = lease_ends.saturating_duration_since(Instant::now()).as_secs_f32();
            format!("{} {} for {lease:.0} s{note}", output.good(&name), escape(id))
        }
        State::Suspect { id, failure, .. } => format!("{name} {}: {failure}", escape(id)),
        State::Lost { failure: Some(failure) } | State::Rejected { failure } => {
            format!("{} {failure}", output.bad(&name))
        }
        State::Lost { failure: None } => output.bad(name.trim_end()),
        State::Closed(Outcome::Deregistered) => format!("{name} deregistered"),
        State::Closed(Outcome::GatewayUnreachable { held_until }) => {
            let left = held_until.saturating_duration_since(Instant::now()).as_secs();
            format!("{name} the gateway did not answer; it forgets the service within {left} s")
        }
        State::Closed(_) => format!("{name} it was not registered"),
        _ => name.trim_end().to_owned(),
    }
}

fn as_json(state: &State) -> Value {
    let mut event = json!({ "event": "state", "state": state.name() });
    let mut set = |key: &str, value: Value| {
        if let Some(object) = event.as_object_mut() {
            object.insert(key.to_owned(), value);
        }
    };
    let millis = |until: &Instant| {
        let left = until.saturating_duration_since(Instant::now());
        json!(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    };
    match state {
        State::Live { id, lease_ends, not_served } => {
            set("registration_id", json!(**id));
            set("lease_ms", millis(lease_ends));
            if *not_served {
                set("not_served", json!(true));
            }
        }
        State::Suspect { id, lease_ends, failure } => {
            set("registration_id", json!(**id));
            set("lease_ms", millis(lease_ends));
            set("failure", refusal(failure));
        }
        State::Lost { failure: Some(failure) } | State::Rejected { failure } => {
            set("failure", refusal(failure))
        }
        State::Closed(Outcome::Deregistered) => set("outcome", json!("deregistered")),
        State::Closed(Outcome::GatewayUnreachable { held_until }) => {
            set("outcome", json!("gateway_unreachable"));
            set("held_ms", millis(held_until));
        }
        State::Closed(_) => set("outcome", json!("not_registered")),
        _ => {}
    }
    event
}

fn refusal(failure: &Refusal) -> Value {
    json!({
        "kind": snake(&format!("{:?}", failure.kind())),
        "permanent": failure.is_permanent(),
        "hint": failure.hint(),
        "words": failure.words(),
    })
}

/// `SchemaConflict` is `schema_conflict`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_written_in_words() {
        assert_eq!(snake("SchemaConflict"), "schema_conflict");
        assert_eq!(snake("Unknown"), "unknown");
    }
}
