//! Wall-clock time as log lines show it: UTC, RFC 3339, milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::text::format::digit;

/// Writes points in time. Lines come many to the second, so the last second's text is kept.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    second: u64,
    /// `2026-07-27T10:00:00` of that second.
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

/// The time since the Unix epoch; zero on a machine whose clock stands before it.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
}

fn second_text(second: u64) -> [u8; 19] {
    let (year, month, day) = civil_from_days(second / 86_400);
    let of_day = second % 86_400;
    let mut text = *b"0000-00-00T00:00:00";
    for (at, places, number) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, of_day / 3600),
        (14, 2, of_day / 60 % 60),
        (17, 2, of_day % 60),
    ] {
        let mut number = number;
        for place in (at..at + places).rev() {
            text[place] = digit(number);
            number /= 10;
        }
    }
    text
}

/// Year, month and day of the Gregorian calendar, days counted from 1970-01-01 (Howard Hinnant's `civil_from_days`: years
/// that begin in March, so that the leap day comes last, in eras of 400 years).
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
    }
}
