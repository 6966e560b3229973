//! Which headers and trailers of a message travel, and in which block (zaphttp §2).

use http::header::{Entry, HOST, HeaderName, TRAILER};
use http::{HeaderMap, HeaderValue};

use super::Limits;
use super::error::EncodeError;
use super::names::{self, Travel};
use super::pairs::{BlockWriter, Pairs};
use super::tail::Tail;

/// What the two pair blocks of a message are written from, headers first.
///
/// Each method appends its block and gives its length; it appends nothing where there are no pairs. More
/// than the limits is an error, found before it is written; the caller takes back what was appended by then.
pub(super) trait Fields {
    fn put_headers(&mut self, out: &mut Tail<'_>, limits: &Limits) -> Result<usize, EncodeError>;
    fn put_trailers(&mut self, out: &mut Tail<'_>, limits: &Limits) -> Result<usize, EncodeError>;
}

/// Checked blocks, as they are.
pub(super) struct RawFields<'a> {
    pub(super) headers: Pairs<'a>,
    pub(super) trailers: Pairs<'a>,
}

impl Fields for RawFields<'_> {
    fn put_headers(&mut self, out: &mut Tail<'_>, limits: &Limits) -> Result<usize, EncodeError> {
        self.headers.put(out, limits)
    }

    fn put_trailers(&mut self, out: &mut Tail<'_>, limits: &Limits) -> Result<usize, EncodeError> {
        self.trailers.put(out, limits)
    }
}

/// What travels of `http`'s maps.
#[derive(Default)]
pub(super) struct MapFields<'a> {
    headers: Option<&'a HeaderMap>,
    /// The `Host` of a message that has none; empty for no `Host`.
    authority: &'a str,
    /// What came after the body.
    trailers: Option<&'a HeaderMap>,
    /// Whether a `Trailer` header was met, which takes names out of the header block.
    declares: bool,
}

impl<'a> MapFields<'a> {
    pub(super) fn new(
        headers: Option<&'a HeaderMap>,
        authority: &'a str,
        trailers: Option<&'a HeaderMap>,
    ) -> Self {
        Self { headers, authority, trailers, declares: false }
    }
}

impl Fields for MapFields<'_> {
    fn put_headers(&mut self, out: &mut Tail<'_>, limits: &Limits) -> Result<usize, EncodeError> {
        let Some(map) = self.headers else {
            return Ok(0);
        };
        let mut block = BlockWriter::new(out, limits);
        if !self.authority.is_empty() && !map.contains_key(HOST) {
            block.put(HOST.as_str().as_bytes(), self.authority.as_bytes())?;
        }
        let start = block.mark();
        self.declares = put_headers::<false>(&mut block, map)?;
        if self.declares {
            block.back_to(start);
            put_undeclared(&mut block, map)?;
        }
        Ok(block.end())
    }

    fn put_trailers(&mut self, out: &mut Tail<'_>, limits: &Limits) -> Result<usize, EncodeError> {
        if !self.declares && self.trailers.is_none() {
            return Ok(0);
        }
        let mut block = BlockWriter::new(out, limits);
        let after = self.trailers;
        if let (true, Some(map)) = (self.declares, self.headers) {
            for (name, value) in map.iter().filter(|(name, _)| is_declared(map, name)) {
                // The later word wins: a trailer that came after the body replaces the header of its name.
                if !after.is_some_and(|after| after.contains_key(name)) {
                    block.put(name.as_str().as_bytes(), value.as_bytes())?;
                }
            }
        }
        for (name, value) in after.into_iter().flatten() {
            if names::may_trail(name.as_str()) {
                block.put(name.as_str().as_bytes(), value.as_bytes())?;
            }
        }
        Ok(block.end())
    }
}

#[cold]
fn put_undeclared(block: &mut BlockWriter<'_, '_>, map: &HeaderMap) -> Result<bool, EncodeError> {
    put_headers::<true>(block, map)
}

/// Puts the headers that travel, maybe without those that are declared as trailers. Whether there are
/// declarations.
#[inline(always)]
fn put_headers<const WITHOUT_DECLARED: bool>(
    block: &mut BlockWriter<'_, '_>,
    map: &HeaderMap,
) -> Result<bool, EncodeError> {
    let mut before_host = None;
    let mut declares = false;
    for (name, value) in map {
        let (text, value) = (name.as_str(), value.as_bytes());
        match names::travel(text) {
            Travel::Yes if WITHOUT_DECLARED && is_declared(map, name) => continue,
            Travel::Yes => {}
            // The values of a name come one after the other: the last one stays.
            Travel::Host => match before_host {
                None => before_host = Some(block.mark()),
                Some(mark) => block.back_to(mark),
            },
            Travel::Te if names::is_trailers(value) => {}
            Travel::Trailer => {
                declares = true;
                continue;
            }
            Travel::Te | Travel::No => continue,
        }
        block.put(text.as_bytes(), value)?;
    }
    Ok(declares)
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
