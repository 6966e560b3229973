//! What an answer, or its absence, means for the health of a peer (B-3.1).

/// The class of one attempt's outcome.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// An answer that blames nobody, or the caller.
    Success,
    /// 408, 421, 425: about this request and connection, not about the peer.
    Ignored,
    /// 500 and its like: the peer answered, and failed.
    Soft,
    /// The peer, or what stands behind it, is not working: 502, 503, 504, a reset, a per-try timeout.
    Hard,
    /// No connection came up, so no request byte was sent.
    Dial,
    /// The peer asked for less: 429, or 503 with `Retry-After`.
    Throttled,
    /// The peer did not prove to be the one that was picked.
    Identity,
    /// The caller lost interest before the peer had a fair chance.
    Cancelled,
}

impl Outcome {
    /// The class of an HTTP answer. `retry_after` is whether it carries a usable `Retry-After`.
    #[must_use]
    pub const fn of_status(status: u16, retry_after: bool) -> Self {
        match status {
            408 | 421 | 425 => Self::Ignored,
            429 => Self::Throttled,
            503 if retry_after => Self::Throttled,
            502..=504 => Self::Hard,
            status if status < 500 => Self::Success,
            _ => Self::Soft,
        }
    }

    /// The class of a gRPC status that the peer sent.
    #[must_use]
    pub const fn of_grpc_status(code: u32) -> Self {
        match code {
            0 | 1 | 3 | 5 | 6 | 7 | 9 | 10 | 11 | 12 | 16 => Self::Success,
            4 | 14 => Self::Hard,
            8 => Self::Throttled,
            _ => Self::Soft,
        }
    }

    /// Whether it counts against the peer's success ratio.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Soft | Self::Hard | Self::Dial | Self::Throttled)
    }

    /// A fixed word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Ignored => "ignored",
            Self::Soft => "soft",
            Self::Hard => "hard",
            Self::Dial => "dial",
            Self::Throttled => "throttled",
            Self::Identity => "identity",
            Self::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_statuses_fall_into_their_class() {
        for (status, class) in [
            (101, Outcome::Success),
            (200, Outcome::Success),
            (302, Outcome::Success),
            (404, Outcome::Success),
            (408, Outcome::Ignored),
            (421, Outcome::Ignored),
            (425, Outcome::Ignored),
            (429, Outcome::Throttled),
            (499, Outcome::Success),
            (500, Outcome::Soft),
            (501, Outcome::Soft),
            (502, Outcome::Hard),
            (503, Outcome::Hard),
            (504, Outcome::Hard),
            (505, Outcome::Soft),
            (599, Outcome::Soft),
            (999, Outcome::Soft),
        ] {
            assert_eq!(Outcome::of_status(status, false), class, "{status}");
        }
        assert_eq!(Outcome::of_status(503, true), Outcome::Throttled);
        assert_eq!(Outcome::of_status(429, true), Outcome::Throttled);
        assert_eq!(Outcome::of_status(502, true), Outcome::Hard, "Retry-After counts on 503 only");
    }

    #[test]
    fn b_grpc_codes_fall_into_their_class() {
        use Outcome::{Hard, Soft, Success, Throttled};
        let expected = [
            Success, Success, Soft, Success, Hard, Success, Success, Success, Throttled, Success, Success,
            Success, Success, Soft, Hard, Soft, Success, Soft,
        ];
        for (code, class) in (0..).zip(expected) {
            assert_eq!(Outcome::of_grpc_status(code), class, "{code}");
        }
    }
}
