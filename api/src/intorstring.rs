//! IntOrString: a number or a text (`80`, `"http"`, `"25%"`).

use serde_json::Value;

/// A borrowed IntOrString.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrString<'a> {
    /// A number.
    Int(i32),
    /// A name or a percentage.
    Str(&'a str),
}

impl<'a> IntOrString<'a> {
    /// From JSON; `None` when it is neither (or a number outside i32).
    pub fn of(v: &'a Value) -> Option<IntOrString<'a>> {
        match v {
            Value::Number(n) => {
                n.as_i64().and_then(|n| i32::try_from(n).ok()).map(IntOrString::Int)
            }
            Value::String(s) => Some(IntOrString::Str(s)),
            _ => None,
        }
    }

    /// The percentage of `"25%"`; `None` for numbers and other texts.
    pub fn percent(self) -> Option<i32> {
        match self {
            IntOrString::Int(_) => None,
            IntOrString::Str(s) => s.strip_suffix('%')?.parse().ok(),
        }
    }

    /// The number itself, or the percentage of `total`, rounded up or down; `None` for other texts.
    pub fn scaled(self, total: i32, round_up: bool) -> Option<i32> {
        match self {
            IntOrString::Int(n) => Some(n),
            IntOrString::Str(_) => {
                let n = i64::from(self.percent()?) * i64::from(total);
                let n = if round_up {
                    n.div_euclid(100) + i64::from(n.rem_euclid(100) > 0)
                } else {
                    n.div_euclid(100)
                };
                i32::try_from(n).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scales() {
        let s = json!("25%");
        let p = IntOrString::of(&s).unwrap();
        assert_eq!(p.scaled(10, true), Some(3));
        assert_eq!(p.scaled(10, false), Some(2));
        assert_eq!(IntOrString::of(&json!(5)).unwrap().scaled(1, true), Some(5));
        assert_eq!(IntOrString::of(&json!(1.5)), None);
        assert_eq!(IntOrString::Str("http").scaled(10, true), None);
    }
}
