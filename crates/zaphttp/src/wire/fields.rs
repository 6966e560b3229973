//! Which headers and trailers of a message travel, and in which block (zaphttp §2).

use bytes::{BufMut, BytesMut};
use http::header::{Entry, HOST, HeaderName, TRAILER};
use http::{HeaderMap, HeaderValue};

use super::encode::narrow;
use super::names::{self, Travel};
use super::pairs::Pairs;

/// What a pair block is written from. Measured before a byte is written, so that limits hold first.
pub(super) trait Block {
    fn size(&self) -> Size;
    fn put(&self, out: &mut BytesMut);
}

/// What a block takes: the number of pairs and its length in bytes, 0 and 0 when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) count: usize,
    pub(super) len: usize,
}

impl Size {
    fn add(&mut self, name: &str, value: &[u8]) {
        let count_len = if self.count == 0 { 4 } else { 0 };
        self.count += 1;
        // Values may share one allocation, so memory does not bound their sum.
        self.len = self.len.saturating_add(count_len + 8 + name.len()).saturating_add(value.len());
    }
}

impl Block for Pairs<'_> {
    fn size(&self) -> Size {
        Size { count: self.len(), len: self.block_len() }
    }

    fn put(&self, out: &mut BytesMut) {
        Pairs::put(self, out);
    }
}

/// The headers of a message that travel.
pub(super) struct Headers<'a> {
    map: &'a HeaderMap,
    /// The one `Host`, written first.
    host: Option<&'a [u8]>,
    /// Whether a `Trailer` header takes names out of this block.
    declares: bool,
    size: Size,
}

impl<'a> Headers<'a> {
    /// `authority` is the `Host` of a message that has none; empty for no `Host`.
    pub(super) fn measure(map: &'a HeaderMap, authority: &'a str) -> Self {
        let mut headers = Self { map, host: None, declares: false, size: Size::default() };
        for (name, value) in map {
            let (name, value) = (name.as_str(), value.as_bytes());
            match names::travel(name) {
                Travel::Host => headers.host = Some(value),
                Travel::Trailer => headers.declares = true,
                travel if travel.allows(value) => headers.size.add(name, value),
                _ => {}
            }
        }
        if headers.host.is_none() && !authority.is_empty() {
            headers.host = Some(authority.as_bytes());
        }
        if headers.declares {
            let mut size = Size::default();
            for (name, value) in map.iter().filter(|(name, value)| headers.takes(name, value)) {
                size.add(name.as_str(), value.as_bytes());
            }
            headers.size = size;
        }
        if let Some(host) = headers.host {
            headers.size.add(HOST.as_str(), host);
        }
        headers
    }

    /// The headers again, if some of them belong into the trailer block.
    pub(super) fn declaring(&self) -> Option<&'a HeaderMap> {
        self.declares.then_some(self.map)
    }

    fn takes(&self, name: &HeaderName, value: &HeaderValue) -> bool {
        names::travel(name.as_str()).allows(value.as_bytes())
            && !(self.declares && is_declared(self.map, name))
    }
}

impl Block for Headers<'_> {
    fn size(&self) -> Size {
        self.size
    }

    fn put(&self, out: &mut BytesMut) {
        put_count(out, self.size);
        if let Some(host) = self.host {
            put_pair(out, HOST.as_str(), host);
        }
        for (name, value) in self.map.iter().filter(|(name, value)| self.takes(name, value)) {
            put_pair(out, name.as_str(), value.as_bytes());
        }
    }
}

/// The trailers of a message: what its headers declare as such, and what came after its body.
#[derive(Default)]
pub(super) struct Trailers<'a> {
    /// Headers with a `Trailer` header among them.
    declaring: Option<&'a HeaderMap>,
    map: Option<&'a HeaderMap>,
    size: Size,
}

impl<'a> Trailers<'a> {
    pub(super) fn measure(declaring: Option<&'a HeaderMap>, map: Option<&'a HeaderMap>) -> Self {
        let mut trailers = Self { declaring, map, size: Size::default() };
        let mut size = Size::default();
        trailers.each(|name, value| size.add(name, value));
        trailers.size = size;
        trailers
    }

    fn each(&self, mut take: impl FnMut(&str, &[u8])) {
        let after = self.map.into_iter().flatten().filter(|(name, _)| names::may_trail(name.as_str()));
        let declared = self.declaring.into_iter().flat_map(|map| {
            // The later word wins: a trailer that came after the body replaces the header of its name.
            let replaced = |name| self.map.is_some_and(|after| after.contains_key(name));
            map.iter().filter(move |(name, _)| is_declared(map, name) && !replaced(*name))
        });
        for (name, value) in declared.chain(after) {
            take(name.as_str(), value.as_bytes());
        }
    }
}

impl Block for Trailers<'_> {
    fn size(&self) -> Size {
        self.size
    }

    fn put(&self, out: &mut BytesMut) {
        put_count(out, self.size);
        self.each(|name, value| put_pair(out, name, value));
    }
}

/// Takes what a `Trailer` header declares out of `headers`, and that header with it.
///
/// A whole message needs no such help, its frame carries both blocks; a streamed one sends its head first
/// and has to keep these for [`put_end`](super::put_end). Allocates only if a `Trailer` header is there.
pub fn take_declared_trailers(headers: &mut HeaderMap) -> Option<Box<HeaderMap>> {
    let declarations: Vec<HeaderValue> = match headers.entry(TRAILER) {
        Entry::Occupied(entry) => entry.remove_entry_mult().1.collect(),
        Entry::Vacant(_) => return None,
    };
    let mut taken = HeaderMap::new();
    for name in declarations.iter().flat_map(declared_names) {
        let Ok(name) = HeaderName::from_bytes(name) else {
            continue;
        };
        if !names::may_trail(name.as_str()) {
            continue;
        }
        if let Entry::Occupied(entry) = headers.entry(name) {
            let (name, values) = entry.remove_entry_mult();
            for value in values {
                taken.append(name.clone(), value);
            }
        }
    }
    (!taken.is_empty()).then(|| Box::new(taken))
}

/// Whether a `Trailer` header of `map` names this one. What may not trail stays a header.
fn is_declared(map: &HeaderMap, name: &HeaderName) -> bool {
    names::may_trail(name.as_str())
        && map
            .get_all(TRAILER)
            .iter()
            .flat_map(declared_names)
            .any(|declared| declared.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

fn declared_names(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

fn put_count(out: &mut BytesMut, size: Size) {
    if size.count > 0 {
        out.put_u32_le(narrow(size.count));
    }
}

fn put_pair(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_u32_le(narrow(name.len()));
    out.put_slice(name.as_bytes());
    out.put_u32_le(narrow(value.len()));
    out.put_slice(value);
}
