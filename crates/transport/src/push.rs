//! What one attempt of a push proves (transport §12): a pure function, and the header that feeds it.

use http::{HeaderMap, StatusCode};

/// The header in which a node tells what became of a push.
pub(crate) const OUTCOME_HEADER: &str = "x-entire-push-outcome";

/// What a node says about a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// Nothing that we know.
    None,
    /// Refused before any primary had the body.
    NotApplied,
    /// It may have been applied, whatever else the answer says.
    Indeterminate,
}

impl Marker {
    /// Reads all values of the header. Several that disagree tell nothing, unless one is `indeterminate`.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut marker = None;
        for value in headers.get_all(OUTCOME_HEADER) {
            for value in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                let read = if value.eq_ignore_ascii_case(b"indeterminate") {
                    return Self::Indeterminate;
                } else if value.eq_ignore_ascii_case(b"not-applied") {
                    Self::NotApplied
                } else {
                    Self::None
                };
                marker = Some(if marker.is_none_or(|before| before == read) { read } else { Self::None });
            }
        }
        marker.unwrap_or(Self::None)
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// No answer came.
    Lost,
    /// An answer came.
    Answered { status: StatusCode, marker: Marker },
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// This node failed; the next one may have the push.
    Failed,
    /// This node refused and is well; the next one may have the push.
    Refused,
    /// It may have been applied: nothing more is sent.
    Unknown,
    /// Redirects are not followed; not applied.
    Redirected,
    /// The same node once more, with a new credential.
    Renew,
    /// The caller's answer.
    Final,
}

/// The table of transport §12.3, for an attempt of which `complete` tells whether the node can have
/// had all of the body, and `may_renew` whether the one retry after a 401 is still to be had.
pub(crate) fn judge(ended: Ended, complete: bool, may_renew: bool) -> Verdict {
    let (status, marker) = match ended {
        Ended::Lost if complete => return Verdict::Unknown,
        Ended::Lost => return Verdict::Failed,
        Ended::Answered { status, marker } => (status, marker),
    };
    match status.as_u16() {
        _ if marker == Marker::Indeterminate => Verdict::Unknown,
        300..=399 => Verdict::Redirected,
        401 if may_renew => Verdict::Renew,
        507 => Verdict::Refused,
        500.. if complete && marker != Marker::NotApplied => Verdict::Unknown,
        500.. => Verdict::Failed,
        _ => Verdict::Final,
    }
}
