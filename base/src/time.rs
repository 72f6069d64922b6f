//! Time as a value. Cores never read a clock; the shell reads it once a turn and passes [`Now`] down.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// Monotonic time: nanoseconds since an origin that differs from process to process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// Wall-clock time: nanoseconds since 1970-01-01T00:00:00Z. May jump; only for what users see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

/// Both clocks, read together once a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timeouts and intervals.
    pub mono: Time,
    /// For timestamps in objects.
    pub wall: Wall,
}

/// Where a shell gets [`Now`] from: the kernel in production, a counter in the simulation.
pub trait Clock {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

impl Time {
    /// `self - earlier`, or zero when `earlier` is later.
    pub fn saturating_since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}

impl Sub<Time> for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        self.saturating_since(earlier)
    }
}

const NANOS: i64 = 1_000_000_000;

impl Wall {
    /// Whole seconds since 1970, rounded down.
    pub fn unix_s(self) -> i64 {
        self.0.div_euclid(NANOS)
    }

    /// From whole seconds since 1970.
    pub fn from_unix_s(s: i64) -> Wall {
        Wall(s.saturating_mul(NANOS))
    }

    /// RFC 3339 with whole seconds, as in `metadata.creationTimestamp`: `2026-11-23T09:01:22Z`.
    pub fn rfc3339(self) -> String {
        let (y, mo, d, h, mi, s) = self.civil();
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}Z")
    }

    /// RFC 3339 with microseconds, as Kubernetes' MicroTime in leases and events.
    pub fn rfc3339_micro(self) -> String {
        let (y, mo, d, h, mi, s) = self.civil();
        let us = self.0.rem_euclid(NANOS) / 1_000;
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{us:06}Z")
    }

    /// RFC 3339 with nanoseconds, as in CRI log lines.
    pub fn rfc3339_nano(self) -> String {
        let (y, mo, d, h, mi, s) = self.civil();
        let ns = self.0.rem_euclid(NANOS);
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}.{ns:09}Z")
    }

    /// Parses RFC 3339 with any fraction and offset; `None` when `s` is not such a time.
    pub fn parse_rfc3339(s: &str) -> Option<Wall> {
        let b = s.as_bytes();
        let sep = |i: usize, c: &[u8]| b.get(i).is_some_and(|x| c.contains(x));
        if b.len() < 20
            || !(sep(4, b"-") && sep(7, b"-") && sep(10, b"Tt ") && sep(13, b":") && sep(16, b":"))
        {
            return None;
        }
        let num = |r: std::ops::Range<usize>| -> Option<i64> {
            let t = b.get(r)?;
            t.iter().try_fold(0i64, |n, c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))
        };
        let (y, mo, d) = (num(0..4)?, num(5..7)?, num(8..10)?);
        let (h, mi, sec) = (num(11..13)?, num(14..16)?, num(17..19)?);
        if !(1..=12).contains(&mo) || !(1..=31).contains(&d) || h > 23 || mi > 59 || sec > 60 {
            return None;
        }
        let mut i = 19;
        let mut ns = 0i64;
        if b[i] == b'.' {
            i += 1;
            let (start, mut scale) = (i, 100_000_000i64);
            while b.get(i).is_some_and(u8::is_ascii_digit) {
                ns += i64::from(b[i] - b'0') * scale;
                scale /= 10;
                i += 1;
            }
            if i == start {
                return None;
            }
        }
        let offset_s = match b.get(i)? {
            b'Z' | b'z' if b.len() == i + 1 => 0,
            sign @ (b'+' | b'-') if b.len() == i + 6 && b[i + 3] == b':' => {
                let o = num(i + 1..i + 3)? * 3600 + num(i + 4..i + 6)? * 60;
                if *sign == b'-' { -o } else { o }
            }
            _ => return None,
        };
        let unix = days_from_civil(y, mo, d) * 86_400 + h * 3600 + mi * 60 + sec - offset_s;
        Some(Wall(unix.checked_mul(NANOS)? + ns))
    }

    fn civil(self) -> (i64, i64, i64, i64, i64, i64) {
        let secs = self.unix_s();
        let (days, rest) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        let (y, m, d) = civil_from_days(days);
        (y, m, d, rest / 3600, rest / 60 % 60, rest % 60)
    }
}

impl Add<Duration> for Wall {
    type Output = Wall;
    fn add(self, d: Duration) -> Wall {
        Wall(self.0.saturating_add(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Wall> for Wall {
    type Output = Duration;
    /// Zero when `earlier` is later.
    fn sub(self, earlier: Wall) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

// Days since 1970-01-01 of a proleptic Gregorian date, by eras of 400 years that start on March 1.
fn days_from_civil(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let month_from_march = (m + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + d - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    let y = yoe + era * 400 + i64::from(m <= 2);
    (y, m, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_round_trips() {
        for (s, unix) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-23T09:01:22Z", 1_795_424_482),
            ("2000-02-29T23:59:59Z", 951_868_799),
        ] {
            let w = Wall::parse_rfc3339(s).expect("valid time");
            assert_eq!(w.unix_s(), unix);
            assert_eq!(w.rfc3339(), s);
        }
        assert_eq!(
            Wall::parse_rfc3339("2026-11-23T10:01:22.5+01:00"),
            Some(Wall(1_795_424_482_500_000_000))
        );
        for bad in [
            "",
            "2026-11-23",
            "2026-13-01T00:00:00Z",
            "2026-11-23T09:01:22",
            "2026-11-23T09:01:22.Z",
        ] {
            assert_eq!(Wall::parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_survives() {
        for day in (-719_468..400_000).step_by(13) {
            let (y, m, d) = civil_from_days(day);
            assert_eq!(days_from_civil(y, m, d), day);
        }
    }
}
