//! The outcome table of transport §12.3.

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::push::{Ended, Marker, OUTCOME_HEADER, Verdict, judge};

#[test]
fn the_outcome_of_a_push_is_this_table() {
    use Marker::{Indeterminate, NotApplied};
    use Verdict::{Failed, Final, Redirected, Refused, Renew, Unknown};
    // (status or no answer, marker, body taken, the 401 retry is to be had, verdict)
    let table = [
        (None, Marker::None, false, true, Failed),
        (None, Marker::None, true, true, Unknown),
        (None, Marker::None, true, false, Unknown),
        (Some(200), Marker::None, true, true, Final),
        (Some(200), Marker::None, false, true, Final),
        (Some(200), Indeterminate, true, true, Unknown),
        (Some(200), NotApplied, true, true, Final),
        (Some(300), Marker::None, true, true, Redirected),
        (Some(304), Marker::None, false, true, Redirected),
        (Some(307), Marker::None, true, true, Redirected),
        (Some(307), Indeterminate, true, true, Unknown),
        (Some(399), NotApplied, true, true, Redirected),
        (Some(400), Marker::None, true, true, Final),
        (Some(401), Marker::None, true, true, Renew),
        (Some(401), Marker::None, false, true, Renew),
        (Some(401), Marker::None, true, false, Final),
        (Some(401), Indeterminate, false, true, Unknown),
        (Some(403), Marker::None, true, true, Final),
        (Some(413), Marker::None, false, true, Final),
        (Some(499), Marker::None, true, true, Final),
        (Some(500), Marker::None, true, true, Unknown),
        (Some(500), Marker::None, false, true, Failed),
        (Some(500), NotApplied, true, true, Failed),
        (Some(502), Indeterminate, true, true, Unknown),
        (Some(502), Indeterminate, false, true, Unknown),
        (Some(503), NotApplied, false, true, Failed),
        (Some(506), Marker::None, true, true, Unknown),
        (Some(507), Marker::None, true, true, Refused),
        (Some(507), Marker::None, false, true, Refused),
        (Some(507), NotApplied, true, true, Refused),
        (Some(507), Indeterminate, true, true, Unknown),
        (Some(508), Marker::None, true, true, Unknown),
        (Some(599), Marker::None, false, true, Failed),
        (Some(999), Marker::None, true, true, Unknown),
    ];
    for (status, marker, complete, may_renew, expected) in table {
        let ended = match status {
            None => Ended::Lost,
            Some(status) => Ended::Answered { status: StatusCode::from_u16(status).unwrap(), marker },
        };
        let verdict = judge(ended, complete, may_renew);
        assert_eq!(verdict, expected, "{status:?} {marker:?} complete={complete} renew={may_renew}");
    }
}

#[test]
fn s188_t246_sv_w16_the_marker_is_read_with_care() {
    // "SV-W16": what is no known value says nothing, unless one of several is `indeterminate`.
    let table: [(&[&[u8]], Marker); 12] = [
        (&[], Marker::None),
        (&[b"indeterminate"], Marker::Indeterminate),
        (&[b" InDeterminate "], Marker::Indeterminate),
        (&[b"maybe"], Marker::None),
        (&[b"not-applied"], Marker::NotApplied),
        (&[b"\tNOT-APPLIED"], Marker::NotApplied),
        (&[b"not-applied, indeterminate"], Marker::Indeterminate),
        (&[b"not-applied", b"indeterminate"], Marker::Indeterminate),
        (&[b"not-applied", b"not-applied"], Marker::NotApplied),
        (&[b"not-applied", b"x"], Marker::None),
        (&[b"\xff[2Jnot-applied"], Marker::None),
        (&[b"not-applied x"], Marker::None),
    ];
    for (values, expected) in table {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(OUTCOME_HEADER, HeaderValue::from_bytes(value).unwrap());
        }
        assert_eq!(Marker::of(&headers), expected, "{values:?}");
    }
    assert!(HeaderValue::from_bytes(b"\x1b[2Jnot-applied").is_err(), "the library keeps ESC out");
}
