//! Certificates: whether ours can be used, and how long one holds.

use std::time::{Duration, SystemTime};

use peerage::zaphttp::tls::{ClusterTls, TlsFailure, TlsFiles, Validity};

use super::{Check, Grade};
use crate::setup;

/// A renewal is due when a tenth of the time is left; two weeks are enough for the longest.
const RENEWAL_PART: u32 = 10;
const RENEWAL_MAX: Duration = Duration::from_secs(14 * DAY);
const DAY: u64 = 24 * 3_600;

/// Our certificate, and the identity if it can be used.
pub(super) fn own(files: Option<TlsFiles>) -> (Vec<Check>, Option<ClusterTls>) {
    const SUBJECT: &str = "own certificate";
    let Some(files) = files else {
        let none =
            Check::ok(SUBJECT, "none: connections to peers are plaintext, and nobody proves who it is")
                .hint("for mutual TLS say --ca, --cert and --key, here and to those who are called");
        return (vec![none], None);
    };
    match ClusterTls::load(files) {
        Ok(identity) => {
            let validity = identity.identity().and_then(|identity| identity.validity());
            let check = rate(SUBJECT, "fits the CA", validity);
            (vec![check.hint_if_soon("renew it: peers will refuse it after that")], Some(identity))
        }
        Err(error) => {
            let check = Check::failed(SUBJECT, setup::text(&error))
                .hint("nothing is called or served with it; peers are looked at without TLS below");
            (vec![check], None)
        }
    }
}

/// A good certificate, which may not hold for long.
pub(super) fn rate(subject: impl Into<String>, text: &str, validity: Option<Validity>) -> Check {
    let Some(validity) = validity else { return Check::ok(subject, text) };
    let left = left(&validity, SystemTime::now());
    let whole = validity.not_after().duration_since(validity.not_before()).unwrap_or_default();
    let is_soon = left < (whole / RENEWAL_PART).min(RENEWAL_MAX);
    let grade = if is_soon { Grade::Warning } else { Grade::Ok };
    Check::new(grade, subject, format!("{text}, the certificate holds for another {}", words(left)))
        .with("days_left", left.as_secs() / DAY)
}

impl Check {
    /// What to do about a certificate that ends soon.
    pub(super) fn hint_if_soon(self, hint: &str) -> Self {
        if self.grade == Grade::Warning && self.hint.is_none() { self.hint(hint) } else { self }
    }
}

fn left(validity: &Validity, now: SystemTime) -> Duration {
    validity.not_after().duration_since(now).unwrap_or_default()
}

fn words(left: Duration) -> String {
    const HOUR: u64 = 3_600;
    match left.as_secs() {
        seconds if seconds >= 2 * DAY => format!("{} days", seconds / DAY),
        seconds if seconds >= 2 * HOUR => format!("{} hours", seconds / HOUR),
        seconds => format!("{} minutes", seconds / 60),
    }
}

/// What to do about a refused handshake; `name` is what the certificate must hold.
pub(super) fn remedy(failure: TlsFailure, by_peer: bool, name: &str) -> String {
    if by_peer {
        return "it refuses what we show or offer: compare its --ca with the CA of --cert".into();
    }
    match failure {
        TlsFailure::Expired => "renew its certificate, or set the clocks right".into(),
        TlsFailure::NotYetValid => "set the clocks right: its certificate is from the future".into(),
        TlsFailure::UnknownIssuer | TlsFailure::BadSignature => {
            "its certificate must be from the CA of --ca; a self-signed one is not enough".into()
        }
        TlsFailure::Name | TlsFailure::Identity => {
            format!("its certificate must hold the name {name}: give it that one, or the node id of its own")
        }
        TlsFailure::Usage => "its certificate must be for TLS servers (extended key usage)".into(),
        TlsFailure::NotTls | TlsFailure::Closed | TlsFailure::Truncated => {
            "it seems to serve without TLS: start it with --ca, --cert and --key".into()
        }
        TlsFailure::KeyExchange | TlsFailure::Version => {
            "it needs TLS 1.3 with X25519MLKEM768: bring it up to date".into()
        }
        TlsFailure::Timeout => {
            "it accepts connections and says nothing: is it stopped, or overloaded?".into()
        }
        _ => "give it another certificate of the cluster's CA".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_a_unit_that_fits() {
        let hours = |hours: u64| words(Duration::from_secs(hours * 3_600));
        assert_eq!(
            (hours(49), hours(47), hours(1)),
            ("2 days".into(), "47 hours".into(), "60 minutes".into())
        );
        assert_eq!(words(Duration::ZERO), "0 minutes");
    }
}
