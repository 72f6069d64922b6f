//! Go durations as text (`1h30m`, `100ms`) and ages as kubectl prints them (`5d4h`, `3m10s`).

/// Parses Go's duration syntax (`1.5h`, `-2m3s`, `100ms`, `0`) to nanoseconds.
pub fn parse(s: &str) -> Option<i64> {
    let (neg, mut rest) = match s.as_bytes().first()? {
        b'-' => (true, &s[1..]),
        b'+' => (false, &s[1..]),
        _ => (false, s),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let int_len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let int: i128 = if int_len == 0 { 0 } else { rest[..int_len].parse().ok()? };
        rest = &rest[int_len..];
        let (mut frac, mut scale, mut frac_len) = (0i128, 1i128, 0);
        if let Some(after) = rest.strip_prefix('.') {
            frac_len = after.bytes().take_while(u8::is_ascii_digit).count();
            for d in after.bytes().take(frac_len.min(18)) {
                frac = frac * 10 + i128::from(d - b'0');
                scale *= 10;
            }
            rest = &after[frac_len..];
        }
        if int_len == 0 && frac_len == 0 {
            return None;
        }
        let (unit, used) = unit_ns(rest)?;
        rest = &rest[used..];
        let part = int.checked_mul(unit)?.checked_add(frac * unit / scale)?;
        total = total.checked_add(part)?;
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
    }
    i64::try_from(if neg { -total } else { total }).ok()
}

fn unit_ns(s: &str) -> Option<(i128, usize)> {
    const UNITS: [(&str, i128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("μs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let len = s.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
    UNITS.iter().find(|(u, _)| *u == &s[..len]).map(|(_, ns)| (*ns, len))
}

/// Go's `Duration.String()`: `1h30m0s`, `1.5s`, `100ms`, `0s`.
pub fn format(ns: i64) -> String {
    if ns == 0 {
        return "0s".to_owned();
    }
    let sign = if ns < 0 { "-" } else { "" };
    let u = ns.unsigned_abs();
    if u < 1_000_000_000 {
        let (unit, div) = match u {
            0..=999 => ("ns", 1),
            1_000..=999_999 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{sign}{}{unit}", decimal(u, div));
    }
    let (h, m) = (u / 3_600_000_000_000, u / 60_000_000_000 % 60);
    let s = decimal(u % 60_000_000_000, 1_000_000_000);
    match (h, m) {
        (0, 0) => format!("{sign}{s}s"),
        (0, m) => format!("{sign}{m}m{s}s"),
        (h, m) => format!("{sign}{h}h{m}m{s}s"),
    }
}

/// `n / div` (a power of ten) without trailing zeros.
fn decimal(n: u64, div: u64) -> String {
    let (int, mut frac) = (n / div, n % div);
    if frac == 0 {
        return int.to_string();
    }
    let mut width = div.ilog10() as usize;
    while frac.is_multiple_of(10) {
        frac /= 10;
        width -= 1;
    }
    format!("{int}.{frac:0width$}")
}

/// An age in whole seconds as kubectl's tables print it: `59s`, `3m10s`, `23h`, `5d4h`, `2y103d`.
pub fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let (m, h, d) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |a: i64, ua: &str, b: i64, ub: &str| {
        if b == 0 { format!("{a}{ua}") } else { format!("{a}{ua}{b}{ub}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        _ if m < 10 => pair(m, "m", seconds % 60, "s"),
        _ if m < 180 => format!("{m}m"),
        _ if h < 8 => pair(h, "h", m % 60, "m"),
        _ if h < 48 => format!("{h}h"),
        _ if h < 24 * 8 => pair(d, "d", h % 24, "h"),
        _ if d < 730 => format!("{d}d"),
        _ if d < 8 * 365 => pair(d / 365, "y", d % 365, "d"),
        _ => format!("{}y", d / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        for (text, ns, back) in [
            ("0", 0, "0s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("-2m3s", -123_000_000_000, "-2m3s"),
            ("100ms", 100_000_000, "100ms"),
            (".5us", 500, "500ns"),
        ] {
            assert_eq!(parse(text), Some(ns), "{text}");
            assert_eq!(format(ns), back);
        }
        for bad in ["", "-", "1", "1x", ".s", "1h2", "9999999h99999999999999999999h", "é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse(&format(i64::MIN)), Some(i64::MIN));
    }

    #[test]
    fn ages() {
        for (s, t) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (190, "3m10s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (86_400, "24h"),
            (2 * 86_400 + 3600, "2d1h"),
            (100 * 86_400, "100d"),
            (800 * 86_400, "2y70d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(human(s), t, "{s}");
        }
    }
}
