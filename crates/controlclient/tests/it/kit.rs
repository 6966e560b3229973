//! What the tests share.
//!
//! Most of them run on a paused clock and reach the gateway without a socket ([`at`]): time passes only while
//! nobody has anything to do, so no time that is measured depends on the machine. Those over TCP have limits
//! that only catch what hangs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerage_controlclient::{Gateway, Registration, RegistrationBuilder, Service, StartPolicy, State};
use peerage_devgateway::{DevGateway, DevGatewayBuilder, Rpc};
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// More than anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How fine the runtime's clock is: a timer fires up to so much late.
pub(crate) const TICK: Duration = Duration::from_millis(2);

pub(crate) const ADDR: &str = "127.0.0.1:41001";

pub(crate) const P: &str = "syntax = \"proto3\";\npackage greeter.v1;\nservice Greeter { rpc Hello(Req) returns (Res); }\n\
    message Req { string name = 1; }\nmessage Res { string greeting = 1; }\n";
/// `P` with a field more.
pub(crate) const P2: &str = "syntax = \"proto3\";\npackage greeter.v1;\nservice Greeter { rpc Hello(Req) returns (Res); }\n\
    message Req { string name = 1; int32 age = 2; }\nmessage Res { string greeting = 1; }\n";
pub(crate) const O: &str = r#"{"openapi":"3.0.3","info":{"title":"billing","version":"1"},"paths":{"/x":{"get":{"responses":{"200":{"description":"ok"}}}}}}"#;

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) async fn gateway() -> DevGateway {
    started(DevGateway::builder()).await
}

pub(crate) async fn started(builder: DevGatewayBuilder) -> DevGateway {
    builder.wait_limit(LIMIT).start().await.expect("the gateway starts")
}

pub(crate) fn greeter() -> Service {
    Service::proto("greeter", P).version("v1")
}

/// The way to it within this process.
pub(crate) fn at(gateway: &DevGateway) -> Gateway {
    let connector = gateway.connector();
    Gateway::new(gateway.addr().to_string()).dialed_by(move || {
        let connector = connector.clone();
        async move { connector.connect().await }
    })
}

/// Where nobody listens.
pub(crate) fn nobody() -> Gateway {
    let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    Gateway::new("127.0.0.1:1").dialed_by(move || async move { Err::<DuplexStream, _>(refused()) })
}

/// Where every attempt to connect hangs.
pub(crate) fn nowhere() -> Gateway {
    Gateway::new("127.0.0.1:1").dialed_by(std::future::pending::<std::io::Result<DuplexStream>>)
}

/// `greeter/v1` at `gateway`, with one attempt at the start.
pub(crate) fn registering(gateway: &DevGateway) -> RegistrationBuilder {
    Registration::builder(at(gateway), ADDR).service(greeter()).start_policy(StartPolicy::FailFast(secs(5)))
}

/// The id of the only registration at the gateway.
pub(crate) fn only_id(gateway: &DevGateway) -> String {
    let registrations = gateway.registrations();
    assert_eq!(registrations.len(), 1, "{registrations:?}");
    registrations[0].id.clone()
}

pub(crate) fn id_of(registration: &Registration) -> String {
    match registration.state() {
        State::Live { id, .. } | State::Suspect { id, .. } => id.to_string(),
        other => panic!("no id while {other:?}"),
    }
}

/// Waits for a state by its name.
pub(crate) async fn reaches(registration: &Registration, name: &str) -> State {
    reaches_where(registration, name, |_| true).await
}

pub(crate) async fn reaches_where(
    registration: &Registration,
    name: &str,
    holds: impl Fn(&State) -> bool,
) -> State {
    let mut states = registration.states();
    let found = timeout(LIMIT, states.wait_for(|state| state.name() == name && holds(state))).await;
    match found {
        Ok(Ok(state)) => state.clone(),
        _ => panic!("never {name}: {:?}", registration.snapshot()),
    }
}

/// Every state that the registration goes through, by name, and since when; repetitions are left out.
#[derive(Clone)]
pub(crate) struct History(Arc<Mutex<Vec<(&'static str, Instant)>>>);

impl History {
    pub(crate) fn of(registration: &Registration) -> Self {
        Self::from(registration.states())
    }

    pub(crate) fn from(mut states: watch::Receiver<State>) -> Self {
        let seen = Self(Arc::new(Mutex::new(vec![(states.borrow_and_update().name(), Instant::now())])));
        let history = seen.clone();
        tokio::spawn(async move {
            while states.changed().await.is_ok() {
                let name = states.borrow_and_update().name();
                let mut seen = history.0.lock().unwrap();
                if seen.last().is_none_or(|(last, _)| *last != name) {
                    seen.push((name, Instant::now()));
                }
            }
        });
        seen
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().iter().map(|(name, _)| *name).collect()
    }

    pub(crate) fn times(&self) -> Vec<(&'static str, Instant)> {
        self.0.lock().unwrap().clone()
    }
}

/// When the calls of `rpc` came.
pub(crate) fn times(gateway: &DevGateway, rpc: Rpc) -> Vec<Duration> {
    gateway.log().iter().filter(|call| call.rpc == rpc).map(|call| call.at).collect()
}
