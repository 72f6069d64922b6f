//! Quantities (`100m`, `1.5Gi`): exact decimal numbers with a format that survives.
//!
//! A value is kept in units of 10^-9, Kubernetes' finest; finer input is rounded up, larger than 2^63 - 1 is
//! capped, as in apimachinery's `resource.Quantity`.

use std::cmp::Ordering;
use std::fmt;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// How a quantity was written, which its canonical form keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySi,
    /// `12M`.
    DecimalSi,
}

/// A parsed quantity.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Wrong characters.
    Format,
    /// Wrong number.
    Numeric,
    /// Wrong suffix.
    Suffix,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Format => {
                "quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            }
            Error::Numeric => "unable to parse numeric part of quantity",
            Error::Suffix => "unable to parse quantity's suffix",
        })
    }
}

impl std::error::Error for Error {}

/// Splits into sign, integer digits, fraction digits and suffix.
fn split(s: &str) -> Result<(bool, &str, &str, &str), Error> {
    if s.is_empty() {
        return Err(Error::Format);
    }
    let (negative, rest) = match s.as_bytes()[0] {
        b'-' => (true, &s[1..]),
        b'+' => (false, &s[1..]),
        _ => (false, s),
    };
    let digits = |t: &str| t.bytes().take_while(u8::is_ascii_digit).count();
    let (int, rest) = rest.split_at(digits(rest));
    let (frac, suffix) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(digits(after)),
        None => ("", rest),
    };
    if int.is_empty() && frac.is_empty() {
        return Err(if rest.starts_with('.') { Error::Numeric } else { Error::Format });
    }
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let exponent = &suffix[letters..];
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits(exponent) != exponent.len() {
        return Err(Error::Format);
    }
    Ok((negative, int, frac, suffix))
}

/// The multiplier of a suffix as (base is 2, exponent).
fn suffix(s: &str) -> Result<(Format, bool, i32), Error> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    if let Some(i) = BINARY.iter().position(|b| *b == s) {
        return Ok((Format::BinarySi, true, 10 * (i as i32 + 1)));
    }
    if let Some((_, e)) = DECIMAL.iter().find(|(d, _)| *d == s) {
        return Ok((Format::DecimalSi, false, *e));
    }
    let exponent = s.strip_prefix(['e', 'E']).ok_or(Error::Suffix)?;
    exponent.parse().map(|e| (Format::DecimalExponent, false, e)).map_err(|_| Error::Suffix)
}

fn pow10(n: u32) -> Option<i128> {
    10i128.checked_pow(n)
}

/// `int.frac * 10^exponent` in nanos, rounded up, capped at [`MAX`].
fn decimal(int: &str, frac: &str, exponent: i32) -> i128 {
    let (mut value, mut lost) = (0i128, false);
    // Digit i of int++frac has weight 10^(int.len() - 1 - i + exponent + 9) in nanos.
    let last = i64::try_from(int.len()).unwrap_or(i64::MAX).saturating_sub(1);
    for (i, d) in int.bytes().chain(frac.bytes()).enumerate() {
        let d = i128::from(d - b'0');
        if d == 0 {
            continue;
        }
        let weight = last - i as i64 + i64::from(exponent) + 9;
        if weight < 0 {
            lost = true;
        } else {
            let part = u32::try_from(weight).ok().and_then(pow10).and_then(|w| w.checked_mul(d));
            value = value.saturating_add(part.unwrap_or(MAX));
        }
        if value > MAX {
            return MAX;
        }
    }
    (value + i128::from(lost)).min(MAX)
}

/// `int.frac * 2^exponent` in nanos, rounded up, capped.
fn binary(int: &str, frac: &str, exponent: i32) -> i128 {
    let factor = 1i128 << exponent;
    let whole = int.bytes().try_fold(0i128, |n, d| {
        let n = n * 10 + i128::from(d - b'0');
        (n <= i128::from(i64::MAX)).then_some(n)
    });
    let Some(whole) = whole.and_then(|w| w.checked_mul(factor * NANO)) else { return MAX };
    let kept = &frac[..frac.len().min(18)];
    let lost = frac[kept.len()..].bytes().any(|d| d != b'0');
    let part = kept.bytes().fold(0i128, |n, d| n * 10 + i128::from(d - b'0')) * factor;
    let digits = kept.len() as i32;
    let part = if digits <= 9 {
        part * 10i128.pow((9 - digits) as u32)
    } else {
        let by = 10i128.pow((digits - 9) as u32);
        part / by + i128::from(part % by != 0)
    };
    whole.saturating_add(part).saturating_add(i128::from(lost)).min(MAX)
}

impl Quantity {
    /// Parses, with Kubernetes' reason when it is none.
    pub fn try_parse(s: &str) -> Result<Quantity, Error> {
        let (negative, int, frac, text) = split(s)?;
        let (mut format, base2, exponent) = suffix(text)?;
        let nanos = if base2 { binary(int, frac, exponent) } else { decimal(int, frac, exponent) };
        if base2 && nanos > 0 && nanos < NANO {
            format = Format::DecimalSi;
        }
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Parses; `None` when it is no quantity.
    pub fn parse(s: &str) -> Option<Quantity> {
        Quantity::try_parse(s).ok()
    }

    /// Zero, DecimalSI.
    pub const fn zero() -> Quantity {
        Quantity { nanos: 0, format: Format::DecimalSi }
    }

    /// A whole number in this format.
    pub fn from_value(value: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(value) * NANO, format }
    }

    /// Thousandths (millicores), DecimalSI.
    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nanos: i128::from(milli) * 1_000_000, format: Format::DecimalSi }
    }

    /// The canonical text, as the API server stores it: `0.1` becomes `100m`, `1024Mi` becomes `1Gi`.
    pub fn canonical(&self) -> String {
        if self.nanos == 0 {
            return "0".to_owned();
        }
        let whole = self.nanos % NANO == 0;
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANO {
            const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let (mut n, mut unit) = (self.nanos / NANO, 0);
            while n % 1024 == 0 && unit + 1 < UNITS.len() {
                n /= 1024;
                unit += 1;
            }
            return format!("{n}{}", UNITS[unit]);
        }
        let (mut n, mut exponent) = (self.nanos, -9);
        while n % 10 == 0 {
            n /= 10;
            exponent += 1;
        }
        while exponent % 3 != 0 {
            n *= 10;
            exponent -= 1;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { n.to_string() } else { format!("{n}e{exponent}") };
        }
        const UNITS: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let mut unit = ((exponent + 9) / 3) as usize;
        while unit >= UNITS.len() {
            n *= 1000;
            unit -= 1;
        }
        format!("{n}{}", UNITS[unit])
    }

    /// How it was written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The exact value in units of 10^-9.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    fn scaled(&self, unit: i128) -> i64 {
        let (q, r) = (self.nanos / unit, self.nanos % unit);
        // Away from zero, as Kubernetes rounds.
        let q = q + r.signum();
        i64::try_from(q).unwrap_or(if q < 0 { i64::MIN } else { i64::MAX })
    }

    /// Value in thousandths, rounded up: CPU in millicores.
    pub fn milli(&self) -> i64 {
        self.scaled(1_000_000)
    }

    /// Whole value, rounded up: bytes.
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// True when there is no fraction.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// Compares the numbers.
    pub fn compare(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }

    /// The sum, in the format of `self` (of `other` when self is zero), saturating.
    pub fn add(&self, other: &Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, saturating.
    pub fn sub(&self, other: &Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_base::Prng;

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("0", "0"),
            ("0.1", "100m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("512", "512"),
            ("1023Ki", "1023Ki"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("100000k", "100M"),
            ("1e3", "1e3"),
            ("12E6", "12e6"),
            ("1E", "1E"),
            ("-500m", "-500m"),
            ("1.1Ki", "1126400m"),
            ("0.0000000001", "1n"),
            ("9999999999999999999", "9223372036854775807"),
            (".5", "500m"),
            ("5.", "5"),
            ("+1Gi", "1Gi"),
            ("1000000", "1M"),
        ] {
            assert_eq!(
                Quantity::parse(text).map(|q| q.canonical()).as_deref(),
                Some(canonical),
                "{text}"
            );
        }
    }

    #[test]
    fn refusals() {
        for (text, why) in [
            ("", Error::Format),
            ("lots", Error::Format),
            ("1Gi!", Error::Format),
            ("1 Gi", Error::Format),
            ("1.1.1", Error::Format),
            ("1ki", Error::Suffix),
            ("1GiB", Error::Format),
            ("1MM", Error::Suffix),
            ("1e", Error::Suffix),
            (".", Error::Numeric),
        ] {
            assert_eq!(Quantity::try_parse(text).err(), Some(why), "{text}");
        }
    }

    #[test]
    fn arithmetic_rounds_up() {
        let q = |s| Quantity::parse(s).unwrap();
        assert_eq!(q("100m").add(&q("0.9")).canonical(), "1");
        assert_eq!(q("1Gi").value(), 1 << 30);
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("1").milli(), 1000);
        assert_eq!(q("1u").milli(), 1);
        assert!(q("1Ki").compare(&q("1k")) == Ordering::Greater);
        assert_eq!(q("-1").sign(), -1);
    }

    #[test]
    fn parsing_the_canonical_form_changes_nothing() {
        let mut p = Prng::new(3);
        const SUFFIXES: [&str; 18] = [
            "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
            "e3", "e-3",
        ];
        for _ in 0..20_000 {
            let int = p.next_u64() >> p.below(64);
            let text = match p.below(3) {
                0 => format!("{int}.{}{}", p.below(1_000_000), SUFFIXES[p.below(18) as usize]),
                _ => format!("{int}{}", SUFFIXES[p.below(18) as usize]),
            };
            let q = Quantity::parse(&text).unwrap();
            let c = q.canonical();
            let again = Quantity::parse(&c).unwrap();
            assert_eq!(again, q, "{text} {c}");
            assert_eq!(again.canonical(), c, "{text}");
        }
    }

    #[test]
    fn no_text_panics() {
        let mut p = Prng::new(4);
        for _ in 0..50_000 {
            let n = p.below(12);
            let s: String = (0..n)
                .map(|_| char::from(b"0123456789.+-eEinumkKMGTP x"[p.below(27) as usize]))
                .collect();
            let _ = Quantity::try_parse(&s);
        }
    }
}
