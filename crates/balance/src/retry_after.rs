//! Reading `Retry-After` (B-4.4, RFC 9110 §10.2.3).

use std::time::Duration;

const DAY: i64 = 86_400;

/// The wait that a `Retry-After` value asks for, counted from `unix_now` (seconds since 1970).
///
/// `None` for zero, a date that is past, and everything unreadable: they count as absent. A number too
/// large for the type is its largest value; the caller caps it.
#[must_use]
pub fn parse(value: &[u8], unix_now: i64) -> Option<Duration> {
    let value = value.trim_ascii();
    let seconds = if !value.is_empty() && value.iter().all(u8::is_ascii_digit) {
        value.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
    } else {
        u64::try_from(http_date(value, unix_now)?.checked_sub(unix_now)?).ok()?
    };
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Seconds since 1970 of an HTTP-date in any of its three formats; `None` if it is not one.
///
/// `unix_now` decides the century of the format that has two digits of year: a date that looks more than
/// 50 years ahead is in the past (RFC 9110 §5.6.7).
#[must_use]
pub fn http_date(text: &[u8], unix_now: i64) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some((weekday, rest)) = text.split_once(", ") {
        let rest = rest.strip_suffix(" GMT")?;
        if SHORT_DAYS.contains(&weekday) {
            // IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`
            let [day, month, year, time] = fields(rest, ' ')?;
            seconds(digits(year, 4)?, month, digits(day, 2)?, time)
        } else if LONG_DAYS.contains(&weekday) {
            // RFC 850: `Sunday, 06-Nov-94 08:49:37 GMT`
            let (date, time) = rest.split_once(' ')?;
            let [day, month, year] = fields(date, '-')?;
            let century = civil_year(unix_now) / 100 * 100;
            let year = century + digits(year, 2)?;
            let day = digits(day, 2)?;
            let ahead = seconds(year, month, day, time)?;
            let limit = unix_now.saturating_add(50 * 365 * DAY + 12 * DAY);
            if ahead > limit { seconds(year - 100, month, day, time) } else { Some(ahead) }
        } else {
            None
        }
    } else {
        // asctime: `Sun Nov  6 08:49:37 1994`, the day padded with a blank
        let (weekday, rest) = text.split_once(' ')?;
        if !SHORT_DAYS.contains(&weekday) {
            return None;
        }
        let (month, rest) = rest.split_once(' ')?;
        let (day, rest) = match rest.strip_prefix(' ') {
            Some(rest) => rest.split_once(' ').and_then(|(day, rest)| Some((digits(day, 1)?, rest)))?,
            None => rest.split_once(' ').and_then(|(day, rest)| Some((digits(day, 2)?, rest)))?,
        };
        let (time, year) = rest.split_once(' ')?;
        seconds(digits(year, 4)?, month, day, time)
    }
}

/// Exactly `N` parts between separators.
fn fields<const N: usize>(text: &str, separator: char) -> Option<[&str; N]> {
    let mut parts = text.split(separator);
    let mut fields = [""; N];
    for field in &mut fields {
        *field = parts.next()?;
    }
    parts.next().is_none().then_some(fields)
}

/// Exactly `len` decimal digits.
fn digits(text: &str, len: usize) -> Option<i64> {
    (text.len() == len && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn seconds(year: i64, month: &str, day: i64, time: &str) -> Option<i64> {
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let [hour, minute, second] = fields(time, ':')?;
    let (hour, minute, second) = (digits(hour, 2)?, digits(minute, 2)?, digits(second, 2)?);
    // 60 is a leap second.
    let valid = (1..=days_in(year, month)).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    valid.then(|| days_from_1970(year, month, day) * DAY + hour * 3_600 + minute * 60 + second)
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days between 1970-01-01 and a date of the Gregorian calendar, years 0 to 9999.
const fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day last, so the days before a month follow one formula.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// The year that a time falls in; a day off at the turn of the year does not matter to its one user.
const fn civil_year(unix: i64) -> i64 {
    1970 + unix.div_euclid(DAY) * 400 / 146_097
}

const SHORT_DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const LONG_DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06 08:49:37 GMT, the date of RFC 9110 §5.6.7.
    const RFC_DATE: i64 = 784_111_777;

    #[test]
    fn b_three_date_formats_are_one_time() {
        let now = RFC_DATE - 10;
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(http_date(text.as_bytes(), now), Some(RFC_DATE), "{text}");
            assert_eq!(parse(text.as_bytes(), now), Some(Duration::from_secs(10)), "{text}");
            assert_eq!(parse(text.as_bytes(), RFC_DATE), None, "now is not later");
            assert_eq!(parse(text.as_bytes(), RFC_DATE + 5), None, "past");
        }
        assert_eq!(http_date(b"Wed Nov 16 08:49:37 1994", now), Some(RFC_DATE + 10 * DAY));
    }

    #[test]
    fn b_dates_at_the_edges() {
        for (text, unix) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sat, 29 Feb 2020 23:59:59 GMT", 1_583_020_799),
            ("Tue, 01 Mar 2022 00:00:00 GMT", 1_646_092_800),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
        ] {
            assert_eq!(http_date(text.as_bytes(), 0), Some(unix), "{text}");
        }
        // Two digits of year: 2077 is 51 years after 2026, so it is 1977; 2075 is 49 years ahead.
        let now_2026 = 1_767_225_600;
        assert_eq!(http_date(b"Saturday, 01-Jan-77 00:00:00 GMT", now_2026), Some(220_924_800));
        assert_eq!(http_date(b"Tuesday, 01-Jan-75 00:00:00 GMT", now_2026), Some(3_313_526_400));
        // Fifty years to the second are not more than fifty.
        assert_eq!(http_date(b"Wednesday, 01-Jan-76 00:00:00 GMT", now_2026), Some(3_345_062_400));
        assert_eq!(http_date(b"Thursday, 01-Jan-76 00:00:01 GMT", now_2026), Some(189_302_401));
    }

    #[test]
    fn s106_unreadable_values_are_absent() {
        for text in [
            "",
            "0",
            "-1",
            "+5",
            "1.5",
            "9e99",
            "5 s",
            "١",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 31 Nov 2994 08:49:37 GMT",
            "Sun, 29 Feb 2900 08:49:37 GMT",
            "Sun, 06 Nov 2994 24:00:00 GMT",
            "Sun, 06 Nov 2994 08:60:00 GMT",
            "Sun, 06 Nov 2994 08:49:61 GMT",
            "Xyz, 06 Nov 2994 08:49:37 GMT",
            "Sun, 6 Nov 2994 08:49:37 GMT",
            "Sun, 06 Nov 12994 08:49:37 GMT",
            "Sun, 06 Nov 2994 08:49:37:00 GMT",
            "Sunday, 06-Nov-2994 08:49:37 GMT",
            "Sun Nov 6 08:49:37 2994",
            "Xyz Nov  6 08:49:37 2994",
        ] {
            assert_eq!(parse(text.as_bytes(), 0), None, "{text:?}");
        }
        assert_eq!(parse(b"\xff\xfe", 0), None);
        assert_eq!(parse(b"Fri, 31 Dec 9999 23:59:59 GMT", i64::MIN), None, "no overflow");
    }

    #[test]
    fn s106_absurd_numbers_saturate() {
        assert_eq!(parse(b"120", 0), Some(Duration::from_secs(120)));
        assert_eq!(parse(b" 7 ", 0), Some(Duration::from_secs(7)));
        assert_eq!(parse(b"18446744073709551616", 0), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(parse(&[b'9'; 4096], 0), Some(Duration::from_secs(u64::MAX)));
    }
}
