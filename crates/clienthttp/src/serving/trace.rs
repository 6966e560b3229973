//! W3C Trace Context: taken from the call being served, passed on with the calls made for it.

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
