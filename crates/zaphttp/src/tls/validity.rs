//! From when until when a certificate holds, for those who want to know before it ends.

use std::time::{Duration, SystemTime};

use super::san::{Der, SEQUENCE};

/// From when until when a certificate holds (RFC 5280, 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Validity {
    /// The first moment.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last moment.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// From a certificate in DER; `None` if it is malformed.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let certificate = Der(certificate).expect(SEQUENCE)?;
        let mut fields = Der(Der(certificate).expect(SEQUENCE)?);
        let (mut tag, _) = fields.next()?;
        if tag == VERSION {
            (tag, _) = fields.next()?;
        }
        // The serial number; then the signature's algorithm, the issuer, and what is looked for.
        if tag != INTEGER {
            return None;
        }
        fields.expect(SEQUENCE)?;
        fields.expect(SEQUENCE)?;
        let mut times = Der(fields.expect(SEQUENCE)?);
        let (not_before, not_after) = (time(times.next()?)?, time(times.next()?)?);
        Some(Self { not_before, not_after })
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5.1 and 4.1.2.5.2).
fn time((tag, text): (u8, &[u8])) -> Option<SystemTime> {
    let digits = text.strip_suffix(b"Z")?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_first_chunk::<2>()?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_first_chunk::<4>()?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let rest = <&[u8; 10]>::try_from(rest).ok()?;
    let mut pairs = rest.chunks(2).map(number);
    let mut next = |range: std::ops::RangeInclusive<u64>| pairs.next()?.filter(|n| range.contains(n));
    let (month, day) = (next(1..=12)?, next(1..=31)?);
    let (hour, minute, second) = (next(0..=23)?, next(0..=59)?, next(0..=60)?);
    let of_day = Duration::from_secs(hour * 3_600 + minute * 60 + second);
    let days = days_to(year, month) + day - 1;
    let since = |days: u64| Duration::from_secs(days * 86_400);
    match days.checked_sub(EPOCH) {
        Some(days) => SystemTime::UNIX_EPOCH.checked_add(since(days) + of_day),
        None => SystemTime::UNIX_EPOCH.checked_sub(since(EPOCH - days))?.checked_add(of_day),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0')))
}

/// Days before the first of this month, from the first of March of the year -4. Years begin in March here,
/// so that the day of the leap year is the last of one.
const fn days_to(year: u64, month: u64) -> u64 {
    // Four years later nothing is below zero.
    let (year, month) = if month > 2 { (year + 4, month - 3) } else { (year + 3, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5
}

/// 1 January 1970.
const EPOCH: u64 = days_to(1970, 1);

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_tests::TestCa;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        // As `date -u -d … +%s` has them.
        assert_eq!(time((UTC_TIME, b"700101000000Z")), at(0));
        assert_eq!(time((UTC_TIME, b"000229235959Z")), at(951_868_799));
        assert_eq!(time((UTC_TIME, b"491231235959Z")), at(2_524_607_999));
        assert_eq!(time((GENERALIZED_TIME, b"20500101000000Z")), at(2_524_608_000));
        assert_eq!(time((GENERALIZED_TIME, b"21000301000000Z")), at(4_107_542_400));
        assert_eq!(time((GENERALIZED_TIME, b"99991231235959Z")), at(253_402_300_799));
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(631_152_000);
        assert_eq!(time((UTC_TIME, b"500101000000Z")), Some(before));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for bad in ["", "Z", "7001010000Z", "700101000000", "701301000000Z", "700100000000Z", "70010100000aZ"]
        {
            assert_eq!(time((UTC_TIME, bad.as_bytes())), None, "{bad}");
        }
        assert_eq!(time((GENERALIZED_TIME, b"700101000000Z")), None);
        assert_eq!(time((INTEGER, b"700101000000Z")), None);
    }

    #[test]
    fn a_certificate_tells_both_ends() {
        let (from, to) = (at(1_600_000_000), at(1_700_000_000));
        let ca = TestCa::new();
        let leaf = ca.leaf().names(&["n1"]).valid(from.expect("a time"), to.expect("a time")).issue();
        let validity = Validity::of(leaf.certificate()).expect("it is well formed");
        assert_eq!((Some(validity.not_before()), Some(validity.not_after())), (from, to));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            Validity::of(&bytes);
            time((UTC_TIME, &bytes));
            time((GENERALIZED_TIME, &bytes));
        }
    }
}
