//! What `nodes.json` says, read and written as other programs read and write it (transport §5.2).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, PrettyFormatter};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cache::FRESH_FOR;
use crate::replicas::MAX_REPLICAS;

/// The longest file that is read, and how deep it may nest (threats §3).
pub(crate) const MAX_FILE: u64 = 16 * 1024 * 1024;
const MAX_DEPTH: usize = 32;

/// An entry that expired longer ago than this is dropped by the next write (GB-12).
const KEPT_EXPIRED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a writer without a time writes.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The content of `nodes.json`. What other programs keep in it stays.
#[derive(Clone, Debug, Default)]
pub struct CacheFile {
    clusters: BTreeMap<String, Cluster>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Cluster {
    nodes: Option<Vec<String>>,
    nodes_expires_at: Time,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    repos: BTreeMap<String, Repo>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Repo {
    nodes: Option<Vec<String>>,
    expires_at: Time,
    /// Replica -> until when it is left out. Ours alone, so its shape is not a matter of the file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    down_until: Option<Value>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// An object that is read member by member. What `flatten` derives puts every member aside first, which takes
/// twice as long, and takes equal keys for an error; here the last one wins, as it does for other readers.
trait Members: Default {
    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        name: Cow<'de, str>,
        members: &mut A,
    ) -> Result<(), A::Error>;
}

impl Members for Cluster {
    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        name: Cow<'de, str>,
        members: &mut A,
    ) -> Result<(), A::Error> {
        match name.as_ref() {
            "nodes" => self.nodes = members.next_value()?,
            "nodes_expires_at" => self.nodes_expires_at = members.next_value()?,
            "repos" => self.repos = members.next_value::<Option<_>>()?.unwrap_or_default(),
            _ => drop(self.other.insert(name.into_owned(), foreign(members, MAX_DEPTH - 2)?)),
        }
        Ok(())
    }
}

impl Members for Repo {
    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        name: Cow<'de, str>,
        members: &mut A,
    ) -> Result<(), A::Error> {
        match name.as_ref() {
            "nodes" => self.nodes = members.next_value()?,
            "expires_at" => self.expires_at = members.next_value()?,
            "down_until" => {
                self.down_until = Some(foreign(members, MAX_DEPTH - 4)?).filter(|value| !value.is_null());
            }
            _ => drop(self.other.insert(name.into_owned(), foreign(members, MAX_DEPTH - 4)?)),
        }
        Ok(())
    }
}

/// A value that is not of our shape, if it nests no deeper than `limit`. Nothing else in the file can nest, and
/// the parser has a limit of its own before its stack ends.
fn foreign<'de, A: MapAccess<'de>>(members: &mut A, limit: usize) -> Result<Value, A::Error> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
            Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    let value = members.next_value()?;
    if depth(&value) > limit {
        return Err(serde::de::Error::custom("it nests too deep"));
    }
    Ok(value)
}

impl<'de> Deserialize<'de> for Cluster {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Reading(Self::default()))
    }
}

impl<'de> Deserialize<'de> for Repo {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Reading(Self::default()))
    }
}

struct Reading<T>(T);

impl<'de, T: Members> Visitor<'de> for Reading<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<T, A::Error> {
        while let Some(Text(name)) = members.next_key()? {
            self.0.member(name, &mut members)?;
        }
        Ok(self.0)
    }
}

/// A text that is copied only if it holds escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'t>(#[serde(borrow)] Cow<'t, str>);

/// A point in time and the text it was read from, so that what is not changed is not rewritten either.
#[derive(Clone, Debug)]
struct Time {
    text: String,
    at: Option<OffsetDateTime>,
}

impl Default for Time {
    fn default() -> Self {
        Self { text: ZERO_TIME.to_owned(), at: None }
    }
}

impl Time {
    fn new(at: SystemTime) -> Self {
        let at = OffsetDateTime::from(at);
        Self { text: at.format(&Rfc3339).unwrap_or_else(|_| ZERO_TIME.to_owned()), at: Some(at) }
    }

    fn read(text: &str) -> Option<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Some(Self { text: text.to_owned(), at: Some(at) })
    }

    /// Whether this is still to come, and no further away than we would ever write.
    fn is_fresh(&self, now: SystemTime) -> bool {
        let now = OffsetDateTime::from(now);
        self.at.is_some_and(|at| now < at && at <= now + FRESH_FOR)
    }

    fn expired_before(&self, moment: SystemTime) -> bool {
        self.at.is_none_or(|at| at < OffsetDateTime::from(moment))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Option::<Text<'de>>::deserialize(from)? {
            None => Ok(Self::default()),
            Some(Text(text)) => Self::read(&text).ok_or_else(|| serde::de::Error::custom("no RFC 3339 time")),
        }
    }
}

impl CacheFile {
    /// Reads a file; whatever is not of the shape that we would write is an empty cache.
    pub fn parse(bytes: &[u8]) -> Self {
        if bytes.len() as u64 > MAX_FILE {
            return Self::default();
        }
        serde_json::from_slice(bytes)
            // By way of a value, where of equal keys only the last has to be of our shape.
            .or_else(|_| serde_json::from_slice::<Value>(bytes).and_then(serde_json::from_value))
            .map(|clusters| Self { clusters })
            .unwrap_or_default()
    }

    /// The text of the file: two spaces of indentation, and no line end after it.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut to = serde_json::Serializer::with_formatter(&mut text, Indented(PrettyFormatter::new()));
        // Maps with text keys, lists and texts: nothing in it can fail, and the target is memory.
        match self.clusters.serialize(&mut to) {
            Ok(()) => text,
            Err(_) => b"{}".to_vec(),
        }
    }

    /// The replicas of a repository, if they are fresh. Both keys are compared byte for byte.
    pub fn nodes(&self, cluster: &str, repo: &str, now: SystemTime) -> Option<Vec<String>> {
        let repo = self.clusters.get(cluster)?.repos.get(repo)?;
        fresh(&repo.nodes, &repo.expires_at, now)
    }

    /// The same without those that are cooling down.
    pub fn usable_nodes(&self, cluster: &str, repo: &str, now: SystemTime) -> Option<Vec<String>> {
        let mut nodes = self.nodes(cluster, repo, now)?;
        let down = self.clusters.get(cluster)?.repos.get(repo)?.down(now);
        nodes.retain(|node| !down.contains_key(node));
        Some(nodes).filter(|nodes| !nodes.is_empty())
    }

    /// The cluster-wide list, which other programs keep.
    pub fn cluster_nodes(&self, cluster: &str, now: SystemTime) -> Option<Vec<String>> {
        let cluster = self.clusters.get(cluster)?;
        fresh(&cluster.nodes, &cluster.nodes_expires_at, now)
    }

    /// Sets the replicas of a repository.
    pub fn set_repo(&mut self, cluster: &str, repo: &str, nodes: &[String], expires_at: SystemTime) {
        let cluster = self.clusters.entry(cluster.to_owned()).or_default();
        let repo = cluster.repos.entry(repo.to_owned()).or_default();
        repo.nodes = Some(nodes.iter().take(MAX_REPLICAS).cloned().collect());
        repo.expires_at = Time::new(expires_at);
    }

    /// Sets the cluster-wide list.
    pub fn set_cluster_nodes(&mut self, cluster: &str, nodes: &[String], expires_at: SystemTime) {
        let cluster = self.clusters.entry(cluster.to_owned()).or_default();
        cluster.nodes = Some(nodes.to_vec());
        cluster.nodes_expires_at = Time::new(expires_at);
    }

    /// Leaves a replica of a repository out until then. Nothing happens if the repository is unknown.
    pub fn cool_down(&mut self, cluster: &str, repo: &str, node: &str, now: SystemTime, until: SystemTime) {
        let known = self.clusters.get_mut(cluster).and_then(|cluster| cluster.repos.get_mut(repo));
        if let Some(repo) = known
            && repo.nodes.iter().flatten().any(|known| known == node)
        {
            let mut down = repo.down(now);
            down.insert(node.to_owned(), Time::new(until));
            repo.down_until = Some(down.into_iter().map(|(node, time)| (node, time.text)).collect());
        }
    }

    /// Forgets a repository.
    pub fn remove_repo(&mut self, cluster: &str, repo: &str) {
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            cluster.repos.remove(repo);
        }
    }

    /// Forgets a cluster.
    pub fn remove_cluster(&mut self, cluster: &str) {
        self.clusters.remove(cluster);
    }

    /// Drops what expired long ago.
    pub(crate) fn prune(&mut self, now: SystemTime) {
        let Some(moment) = now.checked_sub(KEPT_EXPIRED) else { return };
        for cluster in self.clusters.values_mut() {
            cluster.repos.retain(|_, repo| !repo.expires_at.expired_before(moment));
            for repo in cluster.repos.values_mut().filter(|repo| repo.down_until.is_some()) {
                let down: Value = repo.down(now).into_iter().map(|(node, time)| (node, time.text)).collect();
                repo.down_until =
                    Some(down).filter(|down| down.as_object().is_some_and(|map| !map.is_empty()));
            }
        }
    }
}

impl Repo {
    /// The replicas that are left out now.
    fn down(&self, now: SystemTime) -> BTreeMap<String, Time> {
        let entries = self.down_until.as_ref().and_then(Value::as_object).into_iter().flatten();
        entries
            .filter_map(|(node, until)| Some((node.clone(), Time::read(until.as_str()?)?)))
            .filter(|(_, until)| until.is_fresh(now))
            .take(MAX_REPLICAS)
            .collect()
    }
}

fn fresh(nodes: &Option<Vec<String>>, expires_at: &Time, now: SystemTime) -> Option<Vec<String>> {
    let nodes = nodes.as_ref().filter(|nodes| !nodes.is_empty() && expires_at.is_fresh(now))?;
    Some(nodes.iter().take(MAX_REPLICAS).cloned().collect())
}

/// Two spaces, and the characters escaped that the other writers of this file escape.
struct Indented(PrettyFormatter<'static>);

impl Formatter for Indented {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        let special = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        while let Some(at) = rest.find(special) {
            let (plain, tail) = rest.split_at(at);
            to.write_all(plain.as_bytes())?;
            let mut tail = tail.chars();
            if let Some(character) = tail.next() {
                write!(to, "\\u{:04x}", u32::from(character))?;
            }
            rest = tail.as_str();
        }
        to.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, to: &mut W, escape: CharEscape) -> io::Result<()> {
        self.0.write_char_escape(to, escape)
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_array(to)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array(to)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(to, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_array_value(to)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object(to)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object(to)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(to, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.begin_object_value(to)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.0.end_object_value(to)
    }
}
