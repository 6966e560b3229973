//! Sources as text, for settings and command lines.

mod parse;

use std::sync::Arc;

use self::parse::{Sources, Spec, parse};
use crate::{
    discovery::Discovery,
    error::DiscoveryError,
    file::FileDiscovery,
    fixed::{StaticDiscovery, StaticPeer},
    merge::Merge,
    service_type::ServiceType,
};

/// What [`open`] may do beyond its text.
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until they are given to `open`"]
pub struct OpenOptions {
    require_all: bool,
    exclude: Vec<String>,
}

impl OpenOptions {
    /// Makes a source that cannot be started an error of `start`. Default: trouble in the status, as long as
    /// another can be started.
    pub fn require_all(mut self, require: bool) -> Self {
        self.require_all = require;
        self
    }

    /// Never lists this node id by mDNS: for a client that belongs to an advertised node.
    pub fn exclude(mut self, node_id: impl Into<String>) -> Self {
        self.exclude.push(node_id.into());
        self
    }
}

/// Makes a [`Discovery`] of one source, or of several with blanks between, best first. It is not started.
///
/// | text | source |
/// |---|---|
/// | `mdns:billing`, `mdns:?iface=eth0&resync=10s` | mDNS; `iface` is a name with `*` or an address, `resync` a time or `never`, `port` a UDP port |
/// | `static:10.0.0.1:80,[fd00::1]:80` | a list |
/// | `file:/etc/peers.json` | a file that is watched; `%20` is a blank |
/// | `failover mdns: static:10.0.0.1:80` | the first that has a peer, instead of all together |
///
/// Those without a service type of their own are for `service`. `dns:`, `etcd:`, `consul:` and `k8s:` texts are
/// checked as well, and refused with [`DiscoveryError::FeatureDisabled`].
///
/// # Errors
///
/// [`DiscoveryError::InvalidSource`], naming the part that is bad, never a secret;
/// [`DiscoveryError::InvalidPeer`] for a list that holds an address twice or one that is not to be dialled;
/// [`DiscoveryError::FeatureDisabled`].
///
/// ```
/// use peerage_discovery::{OpenOptions, open};
///
/// let billing = "billing".parse()?;
/// let peers = open("static:10.0.0.1:9999,10.0.0.2:9999", Some(&billing), OpenOptions::default())?;
/// peers.start()?;
/// assert_eq!(peers.peer_count(), 2);
/// # Ok::<(), peerage_discovery::DiscoveryError>(())
/// ```
pub fn open(
    text: &str,
    service: Option<&ServiceType>,
    options: OpenOptions,
) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    let Sources { is_failover, list } = parse(text)?;
    let service = one_service(service, &list)?;
    let mut sources = Vec::with_capacity(list.len());
    for spec in list {
        sources.push(open_one(spec, &service, &options)?);
    }
    if let [_] = sources.as_slice()
        && let Some(only) = sources.pop()
    {
        return Ok(only);
    }
    let ranked = sources.into_iter().zip(0..);
    let merge = if is_failover { Merge::failover(ranked)? } else { Merge::union(ranked)? };
    Ok(Arc::new(if options.require_all { merge.require_all() } else { merge }))
}

/// The service type that all are about.
fn one_service(asked: Option<&ServiceType>, list: &[Spec]) -> Result<ServiceType, DiscoveryError> {
    let invalid = |part: String, rule| DiscoveryError::InvalidSource { part, rule };
    let mut named = asked.into_iter().chain(list.iter().filter_map(Spec::service));
    let Some(first) = named.next() else {
        return Err(invalid("the text".to_owned(), "names no service type, and none was asked for"));
    };
    match named.find(|&other| other != first) {
        Some(other) => Err(invalid(format!("{other:#}"), "is another service type than the one asked for")),
        None => Ok(first.clone()),
    }
}

#[cfg_attr(not(feature = "mdns"), expect(unused_variables, reason = "only mDNS has some so far"))]
fn open_one(
    spec: Spec,
    service: &ServiceType,
    options: &OpenOptions,
) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    let disabled = spec.feature();
    match spec {
        Spec::Static(endpoints) => {
            Ok(Arc::new(StaticDiscovery::new(service, endpoints.into_iter().map(StaticPeer::new))?))
        }
        Spec::File(path) => Ok(Arc::new(FileDiscovery::new(service, path)?)),
        #[cfg(feature = "mdns")]
        Spec::Mdns { service: _, interfaces, resync, port } => {
            let mut builder = crate::mdns::MdnsDiscovery::builder(service);
            if !interfaces.is_empty() {
                builder = builder.interfaces(crate::mdns::Interfaces::Only(interfaces));
            }
            builder = match resync {
                Some(parse::Resync::Every(every)) => builder.resync(crate::mdns::Resync::Every(every)),
                Some(parse::Resync::Never) => builder.resync(crate::mdns::Resync::Never),
                None => builder,
            };
            if let Some(port) = port {
                builder = builder.port(port);
            }
            let builder = options.exclude.iter().fold(builder, |builder, node_id| builder.exclude(node_id));
            Ok(Arc::new(builder.build()))
        }
        _ => Err(DiscoveryError::FeatureDisabled { feature: disabled.unwrap_or_default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str, service: Option<&str>) -> DiscoveryError {
        let service = service.map(|text| text.parse().unwrap());
        open(text, service.as_ref(), OpenOptions::default()).expect_err(text)
    }

    #[test]
    fn d101_sources_that_this_build_lacks_are_named() {
        for (text, feature) in [
            ("dns://ta.internal:80", "dns"),
            ("dns+srv://_ta._tcp.internal", "dns"),
            ("etcd://h:1", "etcd"),
            ("consuls://h:1/ta", "consul"),
            ("k8s:a/b", "k8s"),
            ("static:h:1 k8s:a/b", "k8s"),
        ] {
            assert_eq!(error(text, Some("ta")), DiscoveryError::FeatureDisabled { feature }, "{text}");
        }
        #[cfg(not(feature = "mdns"))]
        assert_eq!(error("mdns:ta", None), DiscoveryError::FeatureDisabled { feature: "mdns" });
    }

    #[test]
    fn d101_there_is_one_service_type() {
        let invalid = |part: &str, rule| DiscoveryError::InvalidSource { part: part.to_owned(), rule };
        let none = invalid("the text", "names no service type, and none was asked for");
        assert_eq!(error("static:h:1", None), none);
        assert_eq!(error("mdns:", None), none);
        let other = "is another service type than the one asked for";
        assert_eq!(error("mdns:tb static:h:1", Some("ta")), invalid("_tb._tcp", other));
        assert_eq!(error("mdns:ta mdns:_v2._sub._ta._tcp", None), invalid("_v2._sub._ta._tcp", other));
    }

    #[test]
    fn d101_lists_are_checked_when_they_are_opened() {
        let same = error("static:h:1,h:1", Some("ta"));
        let source = DiscoveryError::DuplicateNodeId { node_id: "h:1".to_owned(), first: 0 };
        assert_eq!(same, DiscoveryError::InvalidPeer { index: 1, source: Box::new(source) });
        assert_eq!(error("static:169.254.169.254:80", Some("ta")).code(), "invalid_peer");
    }

    #[cfg(feature = "mdns")]
    #[test]
    fn d101_several_sources_become_one() {
        let open = |text, service: Option<&ServiceType>| open(text, service, OpenOptions::default()).unwrap();
        let ta: ServiceType = "ta".parse().unwrap();
        let merged = open("mdns:ta?iface=lo static:h:1 file:/nowhere", None);
        assert_eq!(merged.service_type(), &ta);
        assert_eq!(merged.source().as_str(), "merge");
        assert_eq!(open("mdns:?resync=never", Some(&ta)).source().as_str(), "mdns");
        assert_eq!(open("file:/nowhere", Some(&ta)).source().as_str(), "file");
        assert_eq!(open("failover static:h:1", Some(&ta)).source().as_str(), "static", "one is no merge");
    }
}
