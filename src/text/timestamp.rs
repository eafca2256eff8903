//! Wall-clock time as log lines show it: UTC, RFC 3339, milliseconds.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::text::format::digit;

/// Writes times. Many lines fall into one second, so the last second's text is kept.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    second: u64,
    /// The text `2026-07-27T10:00:00` of that second.
    text: [u8; 19],
}

impl Clock {
    /// A clock that has written nothing yet.
    pub(crate) fn new() -> Clock {
        Clock {
            second: 0,
            text: *b"1970-01-01T00:00:00",
        }
    }

    /// Appends a time since the Unix epoch such as `2026-07-27T10:00:00.123Z`; always 24 bytes.
    pub(crate) fn write(&mut self, since_epoch: Duration, out: &mut Vec<u8>) {
        let second = since_epoch.as_secs();
        if second != self.second {
            self.second = second;
            self.text = second_text(second);
        }
        out.extend_from_slice(&self.text);
        let ms = since_epoch.subsec_millis();
        out.extend_from_slice(&[b'.', digit(ms / 100), digit(ms / 10), digit(ms), b'Z']);
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

/// The time since the Unix epoch; zero if the machine's clock is before it.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
}

/// The value of a Date field (RFC 9110 5.6.7), formatted once a second.
#[derive(Debug, Clone)]
pub(crate) struct HttpDate {
    text: [u8; HTTP_DATE_BYTES],
    /// When the next second begins, on the caller's clock.
    until_ms: u64,
}

/// Every date has this length.
pub(crate) const HTTP_DATE_BYTES: usize = "Thu, 01 Jan 1970 00:00:00 GMT".len();

impl HttpDate {
    /// The date at `now_ms`, a time on the caller's own steady clock: the system's clock is read
    /// only once a second.
    pub(crate) fn at(&mut self, now_ms: u64) -> &[u8; HTTP_DATE_BYTES] {
        if now_ms >= self.until_ms {
            let now = since_epoch();
            self.text = http_date(now.as_secs());
            self.until_ms = now_ms + 1000 - u64::from(now.subsec_millis());
        }
        &self.text
    }
}

impl Default for HttpDate {
    fn default() -> HttpDate {
        HttpDate {
            text: http_date(0),
            until_ms: 0,
        }
    }
}

/// IMF-fixdate, the one form that is sent (RFC 9110 5.6.7).
fn http_date(second: u64) -> [u8; HTTP_DATE_BYTES] {
    const DAYS: &[u8; 7 * 3] = b"ThuFriSatSunMonTueWed";
    const MONTHS: &[u8; 12 * 3] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let [year, month, day, hour, minute, second_of_minute] = parts(second);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let name = |names: &[u8], number: u64| -> [u8; 3] {
        let (all, _) = names.as_chunks::<3>();
        all[usize::try_from(number).unwrap_or(0) % all.len()]
    };
    text[..3].copy_from_slice(&name(DAYS, second / 86_400 % 7));
    text[8..11].copy_from_slice(&name(MONTHS, month - 1));
    put_digits(&mut text, 5..7, day);
    put_digits(&mut text, 12..16, year);
    put_digits(&mut text, 17..19, hour);
    put_digits(&mut text, 20..22, minute);
    put_digits(&mut text, 23..25, second_of_minute);
    text
}

fn second_text(second: u64) -> [u8; 19] {
    let [year, month, day, hour, minute, second] = parts(second);
    let mut text = *b"0000-00-00T00:00:00";
    put_digits(&mut text, 0..4, year);
    put_digits(&mut text, 5..7, month);
    put_digits(&mut text, 8..10, day);
    put_digits(&mut text, 11..13, hour);
    put_digits(&mut text, 14..16, minute);
    put_digits(&mut text, 17..19, second);
    text
}

/// Year, month, day, hour, minute and second of a second since the Unix epoch.
fn parts(second: u64) -> [u64; 6] {
    let (year, month, day) = civil_from_days(second / 86_400);
    let of_day = second % 86_400;
    [
        year,
        month,
        day,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
    ]
}

/// Writes a number at a place of a text, with zeros before it.
fn put_digits(text: &mut [u8], places: Range<usize>, mut number: u64) {
    for place in places.rev() {
        text[place] = digit(number);
        number /= 10;
    }
}

/// Year, month and day of the Gregorian calendar, days counted from 1970-01-01 (Howard Hinnant's
/// `civil_from_days`: years that begin in March, so that the leap day comes last, in eras of 400
/// years).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(since_epoch: Duration) -> String {
        let mut out = Vec::new();
        Clock::new().write(since_epoch, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (second, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1, "1970-01-01T00:00:01.000Z"),
            (68_169_599, "1972-02-28T23:59:59.000Z"),
            (68_169_600, "1972-02-29T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_000_000_000, "2001-09-09T01:46:40.000Z"),
            (1_704_067_199, "2023-12-31T23:59:59.000Z"),
            (1_704_067_200, "2024-01-01T00:00:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(text(Duration::from_secs(second)), expected);
        }
    }

    #[test]
    fn milliseconds_are_cut_and_not_rounded() {
        assert_eq!(
            text(Duration::from_micros(1_999_999)),
            "1970-01-01T00:00:01.999Z"
        );
        assert_eq!(text(Duration::from_millis(50)), "1970-01-01T00:00:00.050Z");
    }

    #[test]
    fn a_clock_may_go_back() {
        let mut clock = Clock::new();
        let mut out = Vec::new();
        for second in [100, 100, 40] {
            clock.write(Duration::from_secs(second), &mut out);
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1970-01-01T00:01:40.000Z1970-01-01T00:01:40.000Z1970-01-01T00:00:40.000Z"
        );
    }

    #[test]
    fn no_time_is_too_late_to_be_written() {
        assert_eq!(text(Duration::MAX).len(), 24);
        assert_eq!(http_date(u64::MAX).len(), HTTP_DATE_BYTES);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (second, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_704_067_199, "Sun, 31 Dec 2023 23:59:59 GMT"),
            (1_704_067_200, "Mon, 01 Jan 2024 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(http_date(second).escape_ascii().to_string(), expected);
        }
    }

    #[test]
    fn a_date_is_written_again_when_its_second_is_over() {
        let mut date = HttpDate::default();
        let first = *date.at(5_000);
        let until = date.until_ms;
        assert!((5_001..=6_000).contains(&until), "{until}");
        date.text = *b"unchanged within one second..";
        assert_eq!(date.at(until - 1), b"unchanged within one second..");
        let next = *date.at(until);
        assert!(next.ends_with(b" GMT") && first.ends_with(b" GMT"));
        assert!(date.until_ms > until);
    }
}
