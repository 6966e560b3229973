//! The way to a gateway: its address, whom to trust, what to show, and the connection.

mod bearer;
mod call;
mod dial;
mod link;
mod tls;
mod watched;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

pub use self::bearer::Bearer;
pub(crate) use self::call::{CallError, Caller, How};
pub(crate) use self::link::{Connection, Link};
pub use self::tls::{GatewayTls, TlsConfigError};

use crate::error::{ConfigError, StartError};
use crate::pb;
use crate::text::escaped;

/// A gateway's control port: `host:port` and how to get there. Cheap to clone.
///
/// Registrations that are given clones of one `Gateway` share one connection (controlplane CB-24).
/// A text is a gateway too: `"127.0.0.1:50090"`.
///
/// Plaintext is the default on this host alone (127.0.0.0/8, ::1, `localhost`); for another one say
/// [`tls`](Self::tls), or [`danger_plaintext`](Self::danger_plaintext). The port itself asks for no
/// credential: who reaches it may deregister anybody (controlplane §3.1).
#[derive(Clone)]
pub struct Gateway {
    settings: Settings,
    /// Made by the first registration, shared by all clones made before and after.
    link: Arc<OnceLock<Arc<Link>>>,
}

#[derive(Clone)]
struct Settings {
    address: String,
    dialer: Option<dial::Dialer>,
    tls: Option<GatewayTls>,
    bearer: Option<Bearer>,
    plaintext_anywhere: bool,
    bearer_in_plaintext: bool,
}

impl Gateway {
    /// The gateway at `host:port`; an IPv6 address in brackets. What is wrong with the address is said when
    /// the registration starts, before any connection.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            settings: Settings {
                address: address.into(),
                dialer: None,
                tls: None,
                bearer: None,
                plaintext_anywhere: false,
                bearer_in_plaintext: false,
            },
            link: Arc::default(),
        }
    }

    /// Encrypted, with the gateway's certificate verified.
    #[must_use]
    pub fn tls(mut self, tls: GatewayTls) -> Self {
        self.settings.tls = Some(tls);
        self.changed()
    }

    /// Sends `authorization: Bearer …` with every call.
    #[must_use]
    pub fn bearer(mut self, bearer: Bearer) -> Self {
        self.settings.bearer = Some(bearer);
        self.changed()
    }

    /// Allows plaintext to another host: whoever is on the way can read the schemas and change what is
    /// registered.
    #[must_use]
    pub fn danger_plaintext(mut self) -> Self {
        self.settings.plaintext_anywhere = true;
        self.changed()
    }

    /// Allows plaintext to another host with a bearer in it: whoever is on the way can read and use it.
    #[must_use]
    pub fn danger_bearer_over_plaintext(mut self) -> Self {
        self.settings.plaintext_anywhere = true;
        self.settings.bearer_in_plaintext = true;
        self.changed()
    }

    /// Connects through `dial` instead of TCP: to a gateway in this process, say, so that minutes of a test
    /// with a paused clock take no time and no port. The address stays the gateway's name; what it may be
    /// without TLS is checked as ever.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn dialed_by<S, F>(mut self, dial: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
        F: Future<Output = std::io::Result<S>> + Send + 'static,
    {
        self.settings.dialer = Some(Arc::new(move || {
            let dialing = dial();
            Box::pin(async move { Ok(Box::new(dialing.await?) as Box<dyn dial::Io>) })
        }));
        self.changed()
    }

    /// Other settings are another connection.
    fn changed(mut self) -> Self {
        self.link = Arc::default();
        self
    }

    /// The address as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.settings.address
    }

    /// How many connections were made by registrations with this gateway.
    #[must_use]
    pub fn connections_made(&self) -> u64 {
        self.link.get().map_or(0, |link| link.made())
    }

    /// Asks the gateway what is registered at it, to see whether it can be reached and answers. Changes
    /// nothing there.
    ///
    /// # Errors
    ///
    /// [`StartError::Config`] for settings that cannot be honoured; nothing was sent then.
    /// [`StartError::Failed`] if there was no answer within `limit`, connecting included, or a refusal.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the call and nothing else.
    pub async fn services(&self, limit: Duration) -> Result<Vec<pb::ServiceInfo>, StartError> {
        self.check()?;
        let until = Instant::now() + limit;
        let caller = Caller::new(self.link()?, Arc::default(), limit);
        let asked = async {
            let connection = caller.connection(None).await?;
            caller.list_services(&connection, until).await
        };
        asked.await.map_err(|error| StartError::Failed {
            gateway: escaped(&self.settings.address),
            source: error.failure,
        })
    }

    /// Checks the address and the settings against it. No I/O.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let Settings { address, tls, bearer, plaintext_anywhere, bearer_in_plaintext, dialer: _ } =
            &self.settings;
        if address.is_empty() {
            return Err(ConfigError::NoGateway);
        }
        let target =
            Target::parse(address).ok_or_else(|| ConfigError::GatewayAddress { given: escaped(address) })?;
        if tls.is_some() || target.is_loopback() {
            return Ok(());
        }
        if bearer.is_some() && !bearer_in_plaintext {
            return Err(ConfigError::BearerOverPlaintext { gateway: target.to_string() });
        }
        if !plaintext_anywhere {
            return Err(ConfigError::Plaintext { gateway: target.to_string() });
        }
        tracing::warn!(server.address = %target.host, "the gateway's control plane is used in plaintext");
        Ok(())
    }

    /// The connection that all clones share.
    pub(crate) fn link(&self) -> Result<Arc<Link>, ConfigError> {
        let Settings { address, dialer, tls, bearer, plaintext_anywhere, .. } = &self.settings;
        let target =
            Target::parse(address).ok_or_else(|| ConfigError::GatewayAddress { given: escaped(address) })?;
        Ok(self
            .link
            .get_or_init(|| {
                // Plaintext by default is for this host: what `localhost` resolves to is looked at again.
                let only_loopback = tls.is_none() && !plaintext_anywhere;
                Arc::new(Link::new(target, dialer.clone(), tls.clone(), bearer.clone(), only_loopback))
            })
            .clone())
    }
}

impl<T: Into<String>> From<T> for Gateway {
    fn from(address: T) -> Self {
        Self::new(address)
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { address, dialer, tls, bearer, plaintext_anywhere, bearer_in_plaintext } =
            &self.settings;
        f.debug_struct("Gateway")
            .field("address", &escaped(address))
            .field("dialed_by", &dialer.is_some())
            .field("tls", tls)
            .field("bearer", &bearer.as_ref().map(|_| "[redacted]"))
            .field("danger_plaintext", plaintext_anywhere)
            .field("danger_bearer_over_plaintext", bearer_in_plaintext)
            .finish()
    }
}

/// `host:port`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Target {
    fn parse(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(host) => host.strip_suffix(']').filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok())?,
            None => host,
        };
        let valid = match host.parse::<std::net::IpAddr>() {
            Ok(_) => true,
            Err(_) => {
                !host.is_empty()
                    && host.len() <= 253
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            }
        };
        let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok())??;
        (valid && port != 0).then(|| Self { host: host.to_owned(), port })
    }

    fn is_loopback(&self) -> bool {
        match self.host.parse::<std::net::IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:50090", "gw.internal:1", "[::1]:65535", "localhost:50090", "::1:50090"] {
            assert!(Target::parse(good).is_some(), "{good}");
        }
        let bad =
            ["", "gw", ":1", "gw:", "gw:0", "gw:65536", "gw:+1", "http://gw:1", "u@gw:1", "[gw]:1", "g w:1"];
        for bad in bad {
            assert!(Target::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(Target::parse("[::1]:5").map(|target| target.to_string()), Some("[::1]:5".to_owned()));
    }

    #[test]
    fn s150_c172_nothing_leaves_this_host_unencrypted_unless_allowed_by_name() {
        let bearer = || Bearer::new("CANARY-abcdefghijklmnop").expect("a token");
        let remote = || Gateway::new("gw.internal:50090");
        assert!(matches!(remote().check(), Err(ConfigError::Plaintext { .. })));
        assert!(remote().danger_plaintext().check().is_ok());
        for refused in [remote().bearer(bearer()), remote().danger_plaintext().bearer(bearer())] {
            assert!(matches!(refused.check(), Err(ConfigError::BearerOverPlaintext { .. })));
        }
        assert!(remote().bearer(bearer()).danger_bearer_over_plaintext().check().is_ok());
        for here in
            ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "LOCALHOST:1", "[::ffff:127.0.0.1]:1"]
        {
            assert!(Gateway::new(here).bearer(bearer()).check().is_ok(), "{here}");
        }
        for elsewhere in ["10.0.0.1:1", "[fe80::1]:1", "localhost.example:1", "0.0.0.0:1", "[::]:1"] {
            assert!(Gateway::new(elsewhere).check().is_err(), "{elsewhere}");
        }
    }
}
