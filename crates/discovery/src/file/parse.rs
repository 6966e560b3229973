//! The text of a peer file. A file is believed as a whole or not at all.

use std::{cell::Cell, collections::HashMap, fmt, sync::Arc};

use serde::{
    Deserializer as _,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{
    addresses::AddressPolicy,
    endpoint::Endpoint,
    metadata::{Metadata, MetadataBuilder},
    peer::{Peer, SourceId},
    service_type::ServiceType,
};

/// What a file says.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) peers: Vec<Peer>,
    /// How many keys there were that we do not know.
    pub(super) unknown_keys: u64,
}

/// Why a file is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    /// From 1.
    pub(super) line: usize,
    /// From 1.
    pub(super) column: usize,
    pub(super) why: String,
}

/// Reads `text` as the peers of `service`.
pub(super) fn parse(
    text: &[u8],
    service: &ServiceType,
    policy: &AddressPolicy,
    origin: &Arc<str>,
) -> Result<Parsed, Invalid> {
    let rules = Rules { service, policy, origin, unknown_keys: Cell::new(0) };
    let mut json = serde_json::Deserializer::from_slice(text);
    let peers = json.deserialize_map(File(&rules)).and_then(|peers| json.end().map(|()| peers));
    match peers {
        Ok(peers) => Ok(Parsed { peers, unknown_keys: rules.unknown_keys.get() }),
        Err(error) => {
            let (line, column) = (error.line().max(1), error.column().max(1));
            let text = error.to_string();
            let position = format!(" at line {} column {}", error.line(), error.column());
            let why = text.strip_suffix(&position).unwrap_or(&text).to_owned();
            Err(Invalid { line, column, why })
        }
    }
}

/// What the parts are checked against while they are read: only then is their place in the file known.
struct Rules<'a> {
    service: &'a ServiceType,
    policy: &'a AddressPolicy,
    origin: &'a Arc<str>,
    unknown_keys: Cell<u64>,
}

impl Rules<'_> {
    fn skip<'de, A: MapAccess<'de>>(&self, map: &mut A) -> Result<(), A::Error> {
        self.unknown_keys.set(self.unknown_keys.get() + 1);
        map.next_value::<IgnoredAny>().map(drop)
    }
}

/// The whole file.
struct File<'a>(&'a Rules<'a>);

impl<'de> Visitor<'de> for File<'_> {
    type Value = Vec<Peer>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `version` and `peers`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut version, mut service, mut peers) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => {
                    let number: u64 = once(&version, "version").and_then(|()| map.next_value())?;
                    if number != 1 {
                        return Err(de::Error::custom(format!("version {number} is not known")));
                    }
                    version = Some(number);
                }
                "service" => {
                    let text: String = once(&service, "service").and_then(|()| map.next_value())?;
                    let named: ServiceType = text.parse().map_err(de::Error::custom)?;
                    if named.without_subtype() != self.0.service.without_subtype() {
                        return Err(de::Error::custom(format!(
                            "{named} is another service than {}",
                            self.0.service
                        )));
                    }
                    service = Some(named);
                }
                "peers" => {
                    once(&peers, "peers")?;
                    peers = Some(map.next_value_seed(Peers(self.0))?);
                }
                _ => self.0.skip(&mut map)?,
            }
        }
        version.ok_or_else(|| de::Error::missing_field("version"))?;
        peers.ok_or_else(|| de::Error::missing_field("peers"))
    }
}

struct Peers<'a>(&'a Rules<'a>);

impl<'de> DeserializeSeed<'de> for Peers<'_> {
    type Value = Vec<Peer>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Peers<'_> {
    type Value = Vec<Peer>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of peers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut peers: Vec<Peer> = Vec::new();
        let mut positions: HashMap<String, usize> = HashMap::new();
        while let Some(peer) = seq.next_element_seed(Entry(self.0, &positions))? {
            positions.insert(peer.node_id().to_owned(), peers.len());
            peers.push(peer);
        }
        Ok(peers)
    }
}

/// A peer, and where those before it stand.
struct Entry<'a>(&'a Rules<'a>, &'a HashMap<String, usize>);

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = Peer;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = Peer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a peer with `addresses`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self(rules, positions) = self;
        let (mut node_id, mut addresses, mut metadata, mut priority) = (None, None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "node_id" => {
                    node_id = Some(once(&node_id, "node_id").and_then(|()| map.next_value::<String>())?);
                }
                "addresses" => {
                    once(&addresses, "addresses")?;
                    addresses = Some(map.next_value_seed(Addresses(rules))?);
                }
                "metadata" => {
                    once(&metadata, "metadata")?;
                    metadata = Some(map.next_value_seed(Pairs)?);
                }
                "priority" => {
                    priority = Some(once(&priority, "priority").and_then(|()| map.next_value::<u16>())?);
                }
                _ => rules.skip(&mut map)?,
            }
        }
        let endpoints = addresses.ok_or_else(|| de::Error::missing_field("addresses"))?;
        let first = endpoints.first().map(ToString::to_string);
        let node_id = node_id.or(first).unwrap_or_default();
        if let Some(first) = positions.get(&node_id) {
            return Err(de::Error::custom(format!("node id {node_id} is already taken by peer {first}")));
        }
        Peer::builder(node_id, rules.service)
            .endpoints(endpoints)
            .metadata(metadata.unwrap_or_default())
            .priority(priority.unwrap_or_default())
            .source(SourceId::File)
            .origin(rules.origin.clone())
            .build()
            .map_err(de::Error::custom)
    }
}

/// A list of endpoints, or the text of one.
struct Addresses<'a>(&'a Rules<'a>);

impl Addresses<'_> {
    fn admit<E: de::Error>(&self, text: &str) -> Result<Endpoint, E> {
        let endpoint: Endpoint = text.parse().map_err(de::Error::custom)?;
        self.0.policy.admit(endpoint).map_err(de::Error::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Addresses<'_> {
    type Value = Vec<Endpoint>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Addresses<'_> {
    type Value = Vec<Endpoint>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`address:port` or a list of them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(vec![self.admit(text)?])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut endpoints = Vec::new();
        while let Some(text) = seq.next_element::<String>()? {
            endpoints.push(self.admit(&text)?);
        }
        Ok(endpoints)
    }
}

/// An object of texts; `null` makes a flag.
struct Pairs;

impl<'de> DeserializeSeed<'de> for Pairs {
    type Value = Metadata;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pairs {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs: MetadataBuilder = Metadata::builder();
        while let Some((key, value)) = map.next_entry::<String, Option<String>>()? {
            pairs = match value {
                Some(value) => pairs.pair(key, value),
                None => pairs.flag(key),
            };
        }
        pairs.build().map_err(de::Error::custom)
    }
}

/// JSON leaves open what a key that is there twice means; here it is an error.
fn once<T, E: de::Error>(already: &Option<T>, key: &'static str) -> Result<(), E> {
    if already.is_some() { Err(de::Error::duplicate_field(key)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::SourceClass;

    fn read(text: &str) -> Result<Parsed, Invalid> {
        let policy = AddressPolicy::new(SourceClass::Configured);
        parse(text.as_bytes(), &"ta".parse().unwrap(), &policy, &"peers.json".into())
    }

    fn invalid(text: &str) -> (usize, usize, String) {
        let Invalid { line, column, why } = read(text).expect_err(text);
        (line, column, why)
    }

    #[test]
    fn d091_the_file_of_the_contract_is_read() {
        let parsed = read(
            r#"{"version":1,"service":"_ta._tcp","peers":[{"node_id":"a","addresses":["10.0.0.1:80"],
            "metadata":{"zone":"z1"},"priority":0}]}"#,
        )
        .unwrap();
        let expected = Peer::builder("a", &"ta".parse().unwrap())
            .endpoint("10.0.0.1:80")
            .metadata(Metadata::new([("zone", "z1")]).unwrap())
            .build()
            .unwrap();
        assert_eq!(parsed.peers, [expected]);
        assert_eq!((parsed.peers[0].source(), parsed.peers[0].origin()), (&SourceId::File, "peers.json"));
        assert_eq!(parsed.unknown_keys, 0);
    }

    #[test]
    fn d091_everything_optional_may_be_left_out_and_more_may_be_there() {
        let parsed = read(
            r#"{"comment":{"deep":[1,{"x":2}]},"peers":[
                {"addresses":"[fd00::1]:80","colour":"red"},
                {"addresses":["ta.internal:1","10.0.0.1:80"],"metadata":{"canary":null,"zone":""},"priority":65535}
            ],"version":1}"#,
        )
        .unwrap();
        assert_eq!(parsed.unknown_keys, 2);
        let [first, second] = parsed.peers.as_slice() else { panic!("{:?}", parsed.peers) };
        assert_eq!(first.node_id(), "[fd00::1]:80");
        assert_eq!(
            (second.node_id(), second.addresses().len(), second.priority()),
            ("ta.internal:1", 2, 65535)
        );
        assert!(second.metadata().flag("canary") && second.metadata().get("canary").is_none());
        assert_eq!(second.metadata().get("zone"), Some(&b""[..]));
        assert!(read(r#"{"version":1,"peers":[]}"#).unwrap().peers.is_empty());
        let long_service = r#"{"version":1,"service":"_TA._tcp.local.","peers":[]}"#;
        assert!(read(long_service).is_ok());
    }

    #[test]
    fn d091_s134_one_invalid_entry_refuses_the_file_with_its_place() {
        let peer = |fields: &str| format!("{{\"version\":1,\"peers\":[\n{{{fields}}}]}}");
        let rows: &[(String, usize, &str)] = &[
            (peer(r#""addresses":"10.0.0.1:0""#), 2, "port 0 cannot be dialled"),
            (peer(r#""addresses":"10.0.0.1""#), 2, "invalid endpoint: 10.0.0.1 has no port"),
            (peer(r#""addresses":[]"#), 2, "no usable address: there is none"),
            (peer(r#""node_id":"a""#), 2, "missing field `addresses`"),
            (
                peer(r#""addresses":"224.0.0.1:80""#),
                2,
                "no usable address: 224.0.0.1:80 is no address of one host",
            ),
            (
                peer(r#""addresses":["169.254.169.254:80"]"#),
                2,
                "no usable address: 169.254.169.254:80 is a metadata service",
            ),
            (
                peer(r#""addresses":"[fe80::1]:80""#),
                2,
                "no usable address: [fe80::1]:80 is link-local without an interface",
            ),
            (
                peer(r#""addresses":"h:1","node_id":"a\u001b[2J""#),
                2,
                "invalid node id: it must not hold a control character",
            ),
            (peer(r#""addresses":"h:1","node_id":"""#), 2, "invalid node id: it must not be empty"),
            (peer(r#""addresses":"h:1","metadata":{"a=b":"c"}"#), 2, "invalid metadata: key a=b holds `=`"),
            (
                peer(r#""addresses":"h:1","metadata":{"a":1}"#),
                2,
                "invalid type: integer `1`, expected a string",
            ),
            (peer(r#""addresses":"h:1","addresses":"h:2""#), 2, "duplicate field `addresses`"),
            (
                peer(r#""addresses":"h:1"},{"addresses":["h:1","h:2"]"#),
                2,
                "node id h:1 is already taken by peer 0",
            ),
            (
                peer(r#""addresses":"h:1","priority":65536"#),
                2,
                "invalid value: integer `65536`, expected u16",
            ),
            (r#"{"version":2,"peers":[]}"#.to_owned(), 1, "version 2 is not known"),
            (r#"{"peers":[]}"#.to_owned(), 1, "missing field `version`"),
            (r#"{"version":1}"#.to_owned(), 1, "missing field `peers`"),
            (
                r#"{"version":1,"service":"tb","peers":[]}"#.to_owned(),
                1,
                "_tb._tcp is another service than _ta._tcp",
            ),
            (r#"{"version":1,"peers":[],"peers":[]}"#.to_owned(), 1, "duplicate field `peers`"),
            (r#"{"version":1,"peers":[]}{"#.to_owned(), 1, "trailing characters"),
            ("[]".to_owned(), 1, "invalid type: sequence, expected an object with `version` and `peers`"),
            (String::new(), 1, "EOF while parsing a value"),
            ("{\"version\":1,\n\"peers\":[{\"addresses\":[\"h:".to_owned(), 2, "EOF while parsing a string"),
        ];
        for (text, line, why) in rows {
            let (at_line, _, said) = invalid(text);
            assert_eq!((at_line, said.as_str()), (*line, *why), "{text}");
        }
        assert_eq!(invalid("{\"version\":1,\n  \"peers\":x}"), (2, 11, "expected value".to_owned()));
    }

    #[test]
    fn s226_deep_nesting_costs_no_stack() {
        let deep =
            format!(r#"{{"version":1,"x":{}{},"peers":[]}}"#, "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(read(&deep).unwrap().unknown_keys, 1, "what is skipped is skipped without recursion");
        let deep = format!(r#"{{"version":1,"peers":{}"#, "[".repeat(500_000));
        assert_eq!(invalid(&deep).2, "invalid type: sequence, expected a peer with `addresses`");
    }
}
