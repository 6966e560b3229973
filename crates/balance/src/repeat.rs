//! What may be sent again (B-4).
//!
//! HTTP lets a client repeat a request by itself only if repeating does no harm, or if it knows that the
//! first one was not acted on (RFC 9110 §9.2.2). The first is a property of the method; the second of how
//! far the request got, a [`Stage`].

/// How far an attempt got before it failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a stage more would change what may be repeated: every match must see it"
)]
pub enum Stage {
    /// The peer cannot have acted on it: no connection, or not one byte written.
    NotSent,
    /// A *reused* connection ended before any byte of the answer: most likely the peer closed it while idle.
    Stale,
    /// Bytes were sent on a fresh connection and no full answer came: it may have been acted on.
    Ambiguous,
    /// A full head arrived.
    Answered,
    /// The head is in the caller's hands.
    Committed,
}

/// Whether the method asks for nothing but an answer (RFC 9110 §9.2.1).
#[must_use]
pub fn is_safe(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

/// Whether sending it twice intends the same as once (RFC 9110 §9.2.2). Methods are case-sensitive and
/// unknown ones are not.
#[must_use]
pub fn is_idempotent(method: &str) -> bool {
    is_safe(method) || matches!(method, "PUT" | "DELETE")
}

/// What `grpc-retry-pushback-ms` says of sending the call again (B-4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Pushback {
    /// After exactly this long.
    After(std::time::Duration),
    /// Not at all.
    Never,
}

impl Pushback {
    /// Reads a value: milliseconds as a decimal `i32`. A negative or unreadable one means never.
    #[must_use]
    pub fn read(value: &[u8]) -> Self {
        let millis = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i32>().ok());
        match millis.and_then(|millis| u64::try_from(millis).ok()) {
            Some(millis) => Self::After(std::time::Duration::from_millis(millis)),
            None => Self::Never,
        }
    }
}

/// What a status alone says about sending the request again (B-4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StatusRule {
    /// It is the answer.
    Final,
    /// Repeatable calls, on a fresh connection, to this or another peer.
    FreshConnection,
    /// Any call, once, elsewhere: the peer says that it did not process the request.
    AnyMethodOnce,
    /// Repeatable calls, after the wait that the answer asks for, by a normal pick.
    AfterWait,
    /// Repeatable calls that opted in, to another peer.
    OptIn,
    /// Repeatable calls, to another peer.
    OtherPeer,
    /// Repeatable calls, to another peer at once, or to this one after the wait it asks for.
    OtherPeerOrWait,
}

impl StatusRule {
    pub(crate) const fn of(status: u16) -> Self {
        match status {
            408 => Self::FreshConnection,
            421 | 425 => Self::AnyMethodOnce,
            429 => Self::AfterWait,
            500 => Self::OptIn,
            502 | 504 => Self::OtherPeer,
            503 => Self::OtherPeerOrWait,
            _ => Self::Final,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_4_3_a_pushback_is_a_wait_or_a_no() {
        let after = |millis| Pushback::After(std::time::Duration::from_millis(millis));
        for (value, expected) in [
            ("0", after(0)),
            ("250", after(250)),
            ("2147483647", after(2_147_483_647)),
            ("2147483648", Pushback::Never),
            ("-1", Pushback::Never),
            ("", Pushback::Never),
            ("1.5", Pushback::Never),
            ("soon", Pushback::Never),
        ] {
            assert_eq!(Pushback::read(value.as_bytes()), expected, "{value:?}");
        }
        assert_eq!(Pushback::read(&[0xFF]), Pushback::Never);
    }

    #[test]
    fn b_methods_that_may_be_repeated() {
        for (method, safe, idempotent) in [
            ("GET", true, true),
            ("HEAD", true, true),
            ("OPTIONS", true, true),
            ("TRACE", true, true),
            ("PUT", false, true),
            ("DELETE", false, true),
            ("POST", false, false),
            ("PATCH", false, false),
            ("CONNECT", false, false),
            ("get", false, false),
            ("PROPFIND", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_safe(method), is_idempotent(method)), (safe, idempotent), "{method}");
        }
    }

    #[test]
    fn b_statuses_that_end_the_call() {
        for status in (100..600).filter(|s| ![408, 421, 425, 429, 500, 502, 503, 504].contains(s)) {
            assert_eq!(StatusRule::of(status), StatusRule::Final, "{status}");
        }
    }
}
