//! W3C Trace Context: taken from the call being served, passed on with the calls made for it, each attempt of
//! which is a span of its own.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What is passed on at least must be (W3C Trace Context §3.3.1.5); what is longer is somebody's mistake.
const LONGEST_STATE: usize = 512;

/// The trace that a request belongs to.
pub(super) struct Trace {
    parent: HeaderValue,
    state: Option<HeaderValue>,
}

impl Trace {
    /// None if there is no `traceparent`, or more than one, or one that is none: then its state is void, too.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = parents.next().filter(|parent| is_parent(parent.as_bytes()))?;
        if parents.next().is_some() {
            return None;
        }
        let mut states = headers.get_all(TRACESTATE).iter();
        let state = states.next().filter(|state| state.len() <= LONGEST_STATE && states.next().is_none());
        Some(Self { parent: parent.clone(), state: state.cloned() })
    }

    /// Adds it to a request that has none. Returns whether it did.
    pub(super) fn put(&self, headers: &mut HeaderMap) -> bool {
        if headers.contains_key(TRACEPARENT) || headers.contains_key(TRACESTATE) {
            return false;
        }
        headers.insert(TRACEPARENT, self.parent.clone());
        if let Some(state) = &self.state {
            headers.insert(TRACESTATE, state.clone());
        }
        true
    }
}

/// The place of a call in its trace: what its attempts are made of.
#[derive(Debug)]
pub(crate) struct Position {
    trace: Id<32>,
    /// The span that the call is made in; `None` if the trace begins here.
    parent: Option<Id<16>>,
    is_sampled: bool,
    /// What the caller had put into the head, to be given back.
    pub(crate) given: Option<HeaderValue>,
}

impl Position {
    /// As a `traceparent` says.
    pub(crate) fn read(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        if !is_parent(bytes) {
            return None;
        }
        let flags = u8::from_str_radix(std::str::from_utf8(bytes.get(53..55)?).ok()?, 16).ok()?;
        Some(Self {
            trace: Id(*bytes.get(3..)?.first_chunk()?),
            parent: Some(Id(*bytes.get(36..)?.first_chunk()?)),
            is_sampled: flags & 1 == 1,
            given: Some(value.clone()),
        })
    }

    /// The beginning of a trace; `random` gives random numbers.
    pub(crate) fn begin(random: impl Fn() -> u64) -> Self {
        let mut trace = [0; 32];
        let (high, low) = trace.split_at_mut(16);
        high.copy_from_slice(&Id::of(random()).0);
        low.copy_from_slice(&Id::of(random()).0);
        Self { trace: Id(trace), parent: None, is_sampled: true, given: None }
    }

    /// A span below it, by a random number.
    pub(crate) fn child(&self, random: u64) -> Spot<'_> {
        Spot { position: self, span: Id::of(random) }
    }
}

/// A span of ours: one attempt.
#[derive(Debug)]
pub(crate) struct Spot<'p> {
    position: &'p Position,
    span: Id<16>,
}

impl Spot<'_> {
    pub(crate) fn trace(&self) -> &str {
        self.position.trace.as_str()
    }

    pub(crate) fn span(&self) -> &str {
        self.span.as_str()
    }

    pub(crate) fn parent(&self) -> Option<&str> {
        self.position.parent.as_ref().map(Id::as_str)
    }

    /// What the peer is told: version 00 is all we know, whatever we were told (W3C Trace Context §3.2.2.1).
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.to_string()).ok()
    }
}

impl fmt::Display for Spot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace(), self.span(), u8::from(self.position.is_sampled))
    }
}

/// Hex digits, not all zero.
#[derive(Clone, Copy, Debug)]
struct Id<const DIGITS: usize>([u8; DIGITS]);

impl Id<16> {
    fn of(number: u64) -> Self {
        let mut digits = [0; 16];
        // Zero is no id.
        let mut rest = number.max(1);
        for digit in digits.iter_mut().rev() {
            // Four bits.
            *digit = char::from_digit((rest & 15) as u32, 16).map_or(b'0', |digit| digit as u8);
            rest >>= 4;
        }
        Self(digits)
    }
}

impl<const DIGITS: usize> Id<DIGITS> {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, lower case, neither id all zeros; a later version may
/// have more behind that.
fn is_parent(value: &[u8]) -> bool {
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|byte| *byte != b'0');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (value.get(..2), value.get(3..35), value.get(36..52), value.get(53..55))
    else {
        return false;
    };
    let dashes = [2, 35, 52].iter().all(|place| value.get(*place) == Some(&b'-'));
    let ends = match value.get(55) {
        None => true,
        Some(next) => version != b"00" && *next == b'-' && value.len() <= LONGEST_STATE,
    };
    dashes && ends && is_hex(version) && version != b"ff" && is_id(trace) && is_id(parent) && is_hex(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_a_traceparent_is() {
        let later = format!("cc{}-what-comes-later", &GOOD[2..]);
        for value in [GOOD, "00-ffffffffffffffffffffffffffffffff-0000000000000001-00", &later] {
            assert!(is_parent(value.as_bytes()), "{value}");
        }
        let with = |from: &str, to: &str| GOOD.replacen(from, to, 1);
        for value in [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}-more"),
            format!("{GOOD}0"),
            with("00-4b", "ff-4b"),
            with("4bf92f", "4BF92F"),
            with("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            with("00f067aa0ba902b7", &"0".repeat(16)),
            with("-00f0", "_00f0"),
            with("-01", "-0g"),
        ] {
            assert!(!is_parent(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn an_attempt_is_a_span_of_its_own_below_the_one_it_was_made_in() {
        let position = Position::read(&GOOD.parse().unwrap()).unwrap();
        let spot = position.child(0xb7ad_6b71_6920_3331);
        assert_eq!(spot.header().unwrap(), "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01");
        assert_eq!((spot.parent(), spot.span()), (Some("00f067aa0ba902b7"), "b7ad6b7169203331"));
        assert!(position.child(0).header().unwrap().to_str().unwrap().contains("-0000000000000001-"));
        // Of a later version and its flags we know the least: what 00 has.
        let later = format!("cc{}fe-more", &GOOD[2..53]);
        let position = Position::read(&later.parse().unwrap()).unwrap();
        assert_eq!(position.child(1).to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-00");
        assert!(Position::read(&"00-1-2-3".parse().unwrap()).is_none());

        let begun = Position::begin(|| 0x0123_4567_89ab_cdef);
        assert_eq!(begun.child(2).to_string(), "00-0123456789abcdef0123456789abcdef-0000000000000002-01");
        assert_eq!(begun.child(2).parent(), None);
    }

    #[test]
    fn a_trace_is_passed_on_unless_the_request_has_one() {
        let headers = |pairs: &[(HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, value.parse().unwrap());
            }
            headers
        };
        let trace = Trace::of(&headers(&[(TRACEPARENT, GOOD), (TRACESTATE, "a=1")])).unwrap();
        let mut plain = HeaderMap::new();
        assert!(trace.put(&mut plain));
        assert_eq!(
            (&plain[TRACEPARENT], &plain[TRACESTATE]),
            (&GOOD.parse().unwrap(), &"a=1".parse().unwrap())
        );
        let other = GOOD.replace("00f067", "11f067");
        let mut own = headers(&[(TRACEPARENT, &other)]);
        assert!(!trace.put(&mut own) && own.len() == 1);

        assert!(Trace::of(&headers(&[(TRACESTATE, "a=1")])).is_none());
        assert!(Trace::of(&headers(&[(TRACEPARENT, GOOD), (TRACEPARENT, &other)])).is_none());
        let long = "a".repeat(LONGEST_STATE + 1);
        assert!(Trace::of(&headers(&[(TRACEPARENT, GOOD), (TRACESTATE, &long)])).unwrap().state.is_none());
    }
}
