//! Source texts taken apart (discovery §13). Pure: whether a source can be opened is not asked here.

use std::{path::PathBuf, time::Duration};

use crate::{endpoint::Endpoint, error::DiscoveryError, service_type::ServiceType};

/// The words in the name of a key that say that its value is a secret.
const SECRETS: [&str; 7] = ["token", "secret", "password", "passwd", "auth", "key", "credential"];
/// The least time between two rounds of questions by mDNS.
const MIN_RESYNC: Duration = Duration::from_secs(5);

/// Several sources and how they go together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sources {
    pub(super) is_failover: bool,
    /// At least one, best first.
    pub(super) list: Vec<Spec>,
}

/// One source.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spec {
    Mdns { service: Option<ServiceType>, interfaces: Vec<String>, resync: Option<Resync>, port: Option<u16> },
    Static(Vec<Endpoint>),
    File(PathBuf),
    Dns { endpoint: Endpoint, server: Option<Endpoint> },
    DnsSrv { name: String, server: Option<Endpoint>, all_priorities: bool },
    Etcd { tls: bool, endpoints: Vec<Endpoint>, prefix: String, service: Option<ServiceType> },
    Consul { tls: bool, endpoint: Endpoint, service: ServiceType, filter: ConsulFilter },
    K8s { namespace: String, service: String, port: Option<String> },
}

/// How often everybody is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resync {
    Every(Duration),
    Never,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ConsulFilter {
    pub(super) tag: Option<String>,
    pub(super) datacenter: Option<String>,
    pub(super) namespace: Option<String>,
}

impl Spec {
    /// The service type that the text names itself.
    pub(super) fn service(&self) -> Option<&ServiceType> {
        match self {
            Self::Mdns { service, .. } | Self::Etcd { service, .. } => service.as_ref(),
            Self::Consul { service, .. } => Some(service),
            Self::Static(_) | Self::File(_) | Self::Dns { .. } | Self::DnsSrv { .. } | Self::K8s { .. } => {
                None
            }
        }
    }

    /// The cargo feature that brings it; none if it is always there.
    pub(super) fn feature(&self) -> Option<&'static str> {
        match self {
            Self::Static(_) | Self::File(_) => None,
            Self::Mdns { .. } => Some("mdns"),
            Self::Dns { .. } | Self::DnsSrv { .. } => Some("dns"),
            Self::Etcd { .. } => Some("etcd"),
            Self::Consul { .. } => Some("consul"),
            Self::K8s { .. } => Some("k8s"),
        }
    }
}

/// Sources separated by blanks, best first; `failover` as the first word.
pub(super) fn parse(text: &str) -> Result<Sources, DiscoveryError> {
    let mut words = text.split_ascii_whitespace().peekable();
    let is_failover = words.next_if_eq(&"failover").is_some();
    let list = words.map(parse_one).collect::<Result<Vec<_>, _>>()?;
    if list.is_empty() {
        return Err(invalid("the text", "names no source"));
    }
    Ok(Sources { is_failover, list })
}

fn parse_one(text: &str) -> Result<Spec, DiscoveryError> {
    let Some((scheme, rest)) = text.split_once(':') else {
        // Not repeated: it could be anything, a token included.
        return Err(invalid("a source", "has no scheme, as in `mdns:` or `static:`"));
    };
    let scheme = scheme.to_ascii_lowercase();
    // A path may hold what it likes; elsewhere this sign ends a user and a password.
    if scheme != "file" && rest.contains('@') {
        return Err(invalid(&scheme, "holds user information, and secrets do not stand in sources"));
    }
    let (body, query) = match rest.split_once('?') {
        Some((body, query)) => (body, Query::parse(&scheme, query)?),
        None => (rest, Query::default()),
    };
    match scheme.as_str() {
        "mdns" => parse_mdns(body, query),
        "static" => parse_static(body, query),
        "file" => parse_file(body, query),
        "dns" => parse_dns(authority(&scheme, body)?, query),
        "dns+srv" => parse_dns_srv(authority(&scheme, body)?, query),
        "etcd" | "etcds" => parse_etcd(scheme == "etcds", authority(&scheme, body)?, query),
        "consul" | "consuls" => parse_consul(scheme == "consuls", authority(&scheme, body)?, query),
        "k8s" => parse_k8s(body, query),
        _ => Err(invalid(&scheme, "is not a known scheme")),
    }
}

fn parse_mdns(body: &str, mut query: Query<'_>) -> Result<Spec, DiscoveryError> {
    let service = if body.is_empty() { None } else { Some(service(body)?) };
    let interfaces = query.all("iface")?.flat_map(|value| value.split(',')).map(str::to_owned).collect();
    let resync = query.one("resync")?.map(parse_resync).transpose()?;
    let port = query.one("port")?.map(parse_port).transpose()?;
    query.end()?;
    Ok(Spec::Mdns { service, interfaces, resync, port })
}

fn parse_static(body: &str, query: Query<'_>) -> Result<Spec, DiscoveryError> {
    query.end()?;
    endpoints(body).map(Spec::Static)
}

fn parse_file(body: &str, query: Query<'_>) -> Result<Spec, DiscoveryError> {
    query.end()?;
    let path = match body.strip_prefix("//") {
        Some(local) if local.starts_with('/') => local,
        Some(_) => return Err(invalid("file", "names another host; a path begins with one slash or three")),
        None => body,
    };
    if path.is_empty() {
        return Err(invalid("file", "names no path"));
    }
    percent_decoded(path).map(|path| Spec::File(path.into()))
}

fn parse_dns(authority: Authority<'_>, mut query: Query<'_>) -> Result<Spec, DiscoveryError> {
    let endpoint = authority.without_path()?.endpoint()?;
    if endpoint.ip().is_some() {
        return Err(invalid(&endpoint.to_string(), "is no name: use `static:` for addresses"));
    }
    let server = query.one("server")?.map(self::endpoint).transpose()?;
    query.end()?;
    Ok(Spec::Dns { endpoint, server })
}

fn parse_dns_srv(authority: Authority<'_>, mut query: Query<'_>) -> Result<Spec, DiscoveryError> {
    let name = authority.without_path()?.host;
    if name.contains(':') {
        return Err(invalid(name, "has a port, which the records tell"));
    }
    // Any port will do: the name is what is checked.
    let checked = Endpoint::name(name, 1).map_err(as_source)?;
    let name = checked.to_string().trim_end_matches(":1").to_owned();
    let server = query.one("server")?.map(endpoint).transpose()?;
    let all_priorities = query.flag("all_priorities")?;
    query.end()?;
    Ok(Spec::DnsSrv { name, server, all_priorities })
}

fn parse_etcd(tls: bool, authority: Authority<'_>, mut query: Query<'_>) -> Result<Spec, DiscoveryError> {
    let endpoints = endpoints(authority.host)?;
    let prefix = match authority.path.trim_end_matches('/') {
        "" => "/peerage".to_owned(),
        path => percent_decoded(path)?,
    };
    let service = query.one("service")?.map(service).transpose()?;
    query.end()?;
    Ok(Spec::Etcd { tls, endpoints, prefix, service })
}

fn parse_consul(tls: bool, authority: Authority<'_>, mut query: Query<'_>) -> Result<Spec, DiscoveryError> {
    let endpoint = authority.endpoint()?;
    let service = service(authority.path.trim_start_matches('/'))?;
    let mut text = |key| query.one(key).map(|value| value.map(str::to_owned));
    let filter = ConsulFilter { tag: text("tag")?, datacenter: text("dc")?, namespace: text("ns")? };
    query.end()?;
    Ok(Spec::Consul { tls, endpoint, service, filter })
}

fn parse_k8s(body: &str, query: Query<'_>) -> Result<Spec, DiscoveryError> {
    query.end()?;
    let Some((namespace, rest)) = body.split_once('/') else {
        return Err(invalid("k8s", "is not of the form `k8s:namespace/service:port`"));
    };
    let (service, port) = match rest.split_once(':') {
        Some((service, port)) => (service, Some(port)),
        None => (rest, None),
    };
    for name in [namespace, service].into_iter().chain(port) {
        let is_label = (1..=63).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !is_label {
            return Err(invalid(name, "is not a Kubernetes name"));
        }
    }
    Ok(Spec::K8s {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        port: port.map(str::to_owned),
    })
}

/// What follows `scheme://`.
struct Authority<'a> {
    host: &'a str,
    /// Empty, or begins with a slash.
    path: &'a str,
}

fn authority<'a>(scheme: &str, body: &'a str) -> Result<Authority<'a>, DiscoveryError> {
    let Some(rest) = body.strip_prefix("//") else {
        return Err(invalid(scheme, "needs two slashes and a host"));
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Ok(Authority { host, path })
}

impl Authority<'_> {
    fn without_path(self) -> Result<Self, DiscoveryError> {
        if matches!(self.path, "" | "/") {
            Ok(self)
        } else {
            Err(invalid(self.path, "is a path, which has no meaning here"))
        }
    }

    fn endpoint(&self) -> Result<Endpoint, DiscoveryError> {
        endpoint(self.host)
    }
}

/// What follows the question mark.
#[derive(Default)]
struct Query<'a>(Vec<(&'a str, Option<&'a str>)>);

impl<'a> Query<'a> {
    fn parse(scheme: &str, text: &'a str) -> Result<Self, DiscoveryError> {
        let mut pairs = Vec::new();
        for pair in text.split('&') {
            let (key, value) = match pair.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (pair, None),
            };
            let lower = key.to_ascii_lowercase();
            if SECRETS.iter().any(|secret| lower.contains(secret)) {
                return Err(invalid(key, "looks like a secret, and secrets do not stand in sources"));
            }
            if key.is_empty() {
                return Err(invalid(scheme, "has an empty key"));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    fn all(&mut self, key: &str) -> Result<impl Iterator<Item = &'a str> + use<'a>, DiscoveryError> {
        let (wanted, rest) = std::mem::take(&mut self.0).into_iter().partition(|&(other, _)| other == key);
        self.0 = rest;
        let values = <Vec<(_, Option<&str>)>>::into_iter(wanted)
            .map(|(_, value)| value.filter(|value| !value.is_empty()));
        let values: Option<Vec<_>> = values.collect();
        values.map(Vec::into_iter).ok_or_else(|| invalid(key, "has no value"))
    }

    fn one(&mut self, key: &str) -> Result<Option<&'a str>, DiscoveryError> {
        let mut values = self.all(key)?;
        let first = values.next();
        if values.next().is_some() { Err(invalid(key, "is given twice")) } else { Ok(first) }
    }

    fn flag(&mut self, key: &str) -> Result<bool, DiscoveryError> {
        let before = self.0.len();
        if self.0.iter().any(|&(other, value)| other == key && value.is_some()) {
            return Err(invalid(key, "takes no value"));
        }
        self.0.retain(|&(other, _)| other != key);
        Ok(self.0.len() < before)
    }

    fn end(self) -> Result<(), DiscoveryError> {
        self.0.first().map_or(Ok(()), |(key, _)| Err(invalid(key, "is not a key of this source")))
    }
}

fn service(text: &str) -> Result<ServiceType, DiscoveryError> {
    text.parse().map_err(as_source)
}

fn endpoint(text: &str) -> Result<Endpoint, DiscoveryError> {
    let endpoint: Endpoint = text.parse().map_err(as_source)?;
    if endpoint.port() == 0 { Err(invalid(text, "has port 0")) } else { Ok(endpoint) }
}

fn endpoints(text: &str) -> Result<Vec<Endpoint>, DiscoveryError> {
    text.split(',').map(endpoint).collect()
}

/// The error of a part as one of the whole.
fn as_source(error: DiscoveryError) -> DiscoveryError {
    match error {
        DiscoveryError::InvalidServiceType { part, rule }
        | DiscoveryError::InvalidEndpoint { part, rule } => DiscoveryError::InvalidSource { part, rule },
        other => other,
    }
}

/// `10s`, `500ms`, `2m`, or `never`.
fn parse_resync(text: &str) -> Result<Resync, DiscoveryError> {
    if text == "never" {
        return Ok(Resync::Never);
    }
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let millis: Option<u64> = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let every = number.parse::<u64>().ok().zip(millis).and_then(|(number, unit)| number.checked_mul(unit));
    match every.map(Duration::from_millis) {
        None => Err(invalid(text, "is no duration such as `10s`, and not `never`")),
        Some(every) if every < MIN_RESYNC => Err(invalid(text, "is less than 5 s")),
        Some(every) => Ok(Resync::Every(every)),
    }
}

fn parse_port(text: &str) -> Result<u16, DiscoveryError> {
    let port = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    port.filter(|&port| port != 0).ok_or_else(|| invalid(text, "is not a port"))
}

fn percent_decoded(text: &str) -> Result<String, DiscoveryError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next())
                .zip(hex(rest.next()))
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(|| invalid(text, "has a `%` without two hex digits"))?,
            byte => byte,
        });
    }
    let decoded = String::from_utf8(bytes).map_err(|_| invalid(text, "is not UTF-8"))?;
    if decoded.chars().any(char::is_control) {
        return Err(invalid(text, "holds a control character"));
    }
    Ok(decoded)
}

fn hex(digit: Option<u8>) -> Option<u8> {
    let digit = char::from(digit?).to_digit(16)?;
    u8::try_from(digit).ok()
}

fn invalid(part: &str, rule: &'static str) -> DiscoveryError {
    DiscoveryError::InvalidSource { part: part.to_owned(), rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Spec {
        let Sources { is_failover, mut list } = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(!is_failover);
        assert_eq!(list.len(), 1, "{text}");
        list.remove(0)
    }

    fn at(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn d101_every_source_text_is_understood() {
        let ta: ServiceType = "ta".parse().unwrap();
        let mdns = |service, interfaces: &[&str], resync, port| Spec::Mdns {
            service,
            interfaces: interfaces.iter().map(ToString::to_string).collect(),
            resync,
            port,
        };
        let ten = Some(Resync::Every(Duration::from_secs(10)));
        assert_eq!(one("mdns:"), mdns(None, &[], None, None));
        assert_eq!(one("mdns:liquidity-ta"), mdns(Some("liquidity-ta".parse().unwrap()), &[], None, None));
        assert_eq!(one("mdns:_ta._tcp?iface=eth0&resync=10s"), mdns(Some(ta.clone()), &["eth0"], ten, None));
        assert_eq!(
            one("MDNS:ta?iface=eth0,en*&iface=lo"),
            mdns(Some(ta.clone()), &["eth0", "en*", "lo"], None, None)
        );
        assert_eq!(one("mdns:?resync=never&port=53530"), mdns(None, &[], Some(Resync::Never), Some(53530)));
        for (text, every) in [("5s", 5000), ("5000ms", 5000), ("2m", 120_000)] {
            let expected = Some(Resync::Every(Duration::from_millis(every)));
            assert_eq!(one(&format!("mdns:?resync={text}")), mdns(None, &[], expected, None));
        }

        assert_eq!(
            one("static:10.0.0.1:80,[fd00::1]:80"),
            Spec::Static(vec![at("10.0.0.1:80"), at("[fd00::1]:80")])
        );
        assert_eq!(one("static:TA.internal:80"), Spec::Static(vec![at("ta.internal:80")]));

        for text in ["file:/etc/peers.json", "file:///etc/peers.json", "file:/etc/%70eers.json"] {
            assert_eq!(one(text), Spec::File("/etc/peers.json".into()), "{text}");
        }
        assert_eq!(one("file:a%20b@c/%C3%A4.json"), Spec::File("a b@c/ä.json".into()));

        let server = Some(at("127.0.0.1:53"));
        assert_eq!(
            one("dns://ta.internal:8080"),
            Spec::Dns { endpoint: at("ta.internal:8080"), server: None }
        );
        let with_server = Spec::Dns { endpoint: at("ta.internal:8080"), server: server.clone() };
        assert_eq!(one("dns://ta.internal:8080/?server=127.0.0.1:53"), with_server);
        let srv = |server, all_priorities| Spec::DnsSrv {
            name: "_ta._tcp.internal".to_owned(),
            server,
            all_priorities,
        };
        assert_eq!(one("dns+srv://_ta._tcp.internal"), srv(None, false));
        assert_eq!(one("dns+srv://_TA._tcp.internal.?server=127.0.0.1:53&all_priorities"), srv(server, true));

        let etcd = |tls, prefix: &str, service| Spec::Etcd {
            tls,
            endpoints: vec![at("h1:2379"), at("h2:2379")],
            prefix: prefix.to_owned(),
            service,
        };
        assert_eq!(one("etcd://h1:2379,h2:2379/prefix?service=ta"), etcd(false, "/prefix", Some(ta.clone())));
        assert_eq!(one("etcds://h1:2379,h2:2379/a/b/"), etcd(true, "/a/b", None));
        assert_eq!(one("etcds://h1:2379,h2:2379"), etcd(true, "/peerage", None));

        let consul =
            |tls, filter| Spec::Consul { tls, endpoint: at("127.0.0.1:8500"), service: ta.clone(), filter };
        let tag = ConsulFilter { tag: Some("v2".to_owned()), ..ConsulFilter::default() };
        assert_eq!(one("consul://127.0.0.1:8500/ta?tag=v2"), consul(false, tag));
        let place =
            ConsulFilter { tag: None, datacenter: Some("eu".to_owned()), namespace: Some("n".to_owned()) };
        assert_eq!(one("consuls://127.0.0.1:8500/ta?dc=eu&ns=n"), consul(true, place));

        let k8s = |port: Option<&str>| Spec::K8s {
            namespace: "namespace".to_owned(),
            service: "service".to_owned(),
            port: port.map(str::to_owned),
        };
        assert_eq!(one("k8s:namespace/service:port-name"), k8s(Some("port-name")));
        assert_eq!(one("k8s:namespace/service"), k8s(None));
    }

    #[test]
    fn d101_several_sources_stand_in_their_order() {
        let sources = parse(" failover  mdns:ta\tstatic:10.0.0.1:80 \n").unwrap();
        assert!(sources.is_failover);
        assert!(matches!(sources.list.as_slice(), [Spec::Mdns { .. }, Spec::Static(_)]), "{sources:?}");
        let sources = parse("static:10.0.0.1:80 static:10.0.0.2:80").unwrap();
        assert_eq!((sources.is_failover, sources.list.len()), (false, 2));
    }

    #[test]
    fn d101_bad_texts_are_refused_by_the_part_that_is_bad() {
        let rows = [
            ("", "the text", "names no source"),
            ("  ", "the text", "names no source"),
            ("failover", "the text", "names no source"),
            ("billing", "a source", "has no scheme, as in `mdns:` or `static:`"),
            ("mdns:ta failover", "a source", "has no scheme, as in `mdns:` or `static:`"),
            ("zookeeper://h:1/x", "zookeeper", "is not a known scheme"),
            (":ta", "", "is not a known scheme"),
            ("mdns:a--b", "a--b", "must not hold `--`"),
            ("mdns://ta", "//ta", "may hold only letters, digits and `-`"),
            ("mdns:_ta._tcp.example", "example", "is not the domain `local`"),
            ("mdns:ta?interface=eth0", "interface", "is not a key of this source"),
            ("mdns:ta?iface", "iface", "has no value"),
            ("mdns:ta?iface=", "iface", "has no value"),
            ("mdns:ta?resync=10", "10", "is no duration such as `10s`, and not `never`"),
            ("mdns:ta?resync=4999ms", "4999ms", "is less than 5 s"),
            (
                "mdns:ta?resync=99999999999999999999s",
                "99999999999999999999s",
                "is no duration such as `10s`, and not `never`",
            ),
            ("mdns:ta?resync=10s&resync=20s", "resync", "is given twice"),
            ("mdns:ta?port=0", "0", "is not a port"),
            ("mdns:ta?port=+1", "+1", "is not a port"),
            ("mdns:ta?", "mdns", "has an empty key"),
            ("static:", "the empty text", "has no port"),
            ("static:10.0.0.1", "10.0.0.1", "has no port"),
            ("static:10.0.0.1:0", "10.0.0.1:0", "has port 0"),
            ("static:10.0.0.1:80,", "the empty text", "has no port"),
            ("static:fd00::1:80", "fd00::1", "needs brackets around an IPv6 address"),
            ("static:h:1?zone=a", "zone", "is not a key of this source"),
            ("file:", "file", "names no path"),
            ("file://host/x", "file", "names another host; a path begins with one slash or three"),
            ("file:/a%2", "/a%2", "has a `%` without two hex digits"),
            ("file:/a%00", "/a%00", "holds a control character"),
            ("file:/a%ff", "/a%ff", "is not UTF-8"),
            ("dns:ta.internal:80", "dns", "needs two slashes and a host"),
            ("dns://ta.internal", "ta.internal", "has no port"),
            ("dns://10.0.0.1:80", "10.0.0.1:80", "is no name: use `static:` for addresses"),
            ("dns://ta.internal:80/x", "/x", "is a path, which has no meaning here"),
            ("dns://ta.internal:80?server=127.0.0.1", "127.0.0.1", "has no port"),
            ("dns+srv://_ta._tcp.internal:53", "_ta._tcp.internal:53", "has a port, which the records tell"),
            ("dns+srv://", "the empty text", "has no host"),
            ("dns+srv://x?all_priorities=1", "all_priorities", "takes no value"),
            ("etcd://h1", "h1", "has no port"),
            ("etcd://h1:2379?service=a_b", "a_b", "must begin with an underscore before a protocol"),
            ("consul://127.0.0.1:8500", "the empty label", "must not be empty"),
            ("consul://127.0.0.1:8500/ta?filter=x", "filter", "is not a key of this source"),
            ("k8s:service", "k8s", "is not of the form `k8s:namespace/service:port`"),
            ("k8s:Name/service", "Name", "is not a Kubernetes name"),
            ("k8s:a/b/c", "b/c", "is not a Kubernetes name"),
            ("k8s:a/b:", "", "is not a Kubernetes name"),
        ];
        assert!(rows.len() >= 30);
        for (text, part, rule) in rows {
            assert_eq!(parse(text), Err(invalid(part, rule)), "{text}");
        }
    }

    #[test]
    fn d101_secrets_do_not_stand_in_texts_and_are_not_repeated() {
        for text in [
            "consul://127.0.0.1:8500/ta?token=CANARY",
            "consul://CANARY@127.0.0.1:8500/ta",
            "etcds://user:CANARY@h1:2379",
            "etcd://h1:2379?password=CANARY",
            "etcd://h1:2379?user=CANARY&PassWord=CANARY",
            "mdns:ta?api_key=CANARY",
            "static:user:CANARY@10.0.0.1:80",
            "file:/etc/peers.json?access_token=CANARY",
            "k8s:CANARY@a/b",
            "CANARY",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code(), "invalid_source", "{text}");
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{error:?}");
        }
    }
}
