//! Cron expressions, with the complaints of the library that Kubernetes parses them with.

struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Bounds; 5] = [
    Bounds { low: 0, high: 59, names: &[] },
    Bounds { low: 0, high: 23, names: &[] },
    Bounds { low: 1, high: 31, names: &[] },
    Bounds { low: 1, high: 12, names: &MONTHS },
    Bounds { low: 0, high: 6, names: &DAYS },
];

/// Checks a schedule: five fields or a descriptor such as `@hourly`.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if let Some(descriptor) = schedule.strip_prefix('@') {
        return match descriptor {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => {
                Ok(())
            }
            _ => match descriptor.strip_prefix("every ") {
                Some(d) if crate::duration::parse(d).is_some() => Ok(()),
                Some(d) => Err(format!(
                    "failed to parse duration @every {d}: time: invalid duration {}",
                    crate::status::quote(d)
                )),
                None => Err(format!("unrecognized descriptor: {schedule}")),
            },
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    fields.iter().zip(&FIELDS).try_for_each(|(f, b)| f.split(',').try_for_each(|x| range(x, b)))
}

/// `*`, `5`, `1-5`, each with `/step`.
fn range(expression: &str, b: &Bounds) -> Result<(), String> {
    let mut parts = expression.split('/');
    let span = parts.next().unwrap_or("");
    let step = parts.next();
    if parts.next().is_some() {
        return Err(format!("too many slashes: {expression}"));
    }
    let (start, end) = if matches!(span, "*" | "?") {
        (b.low, b.high)
    } else {
        let mut ends = span.split('-');
        let start = number(ends.next().unwrap_or(""), b)?;
        let end = match ends.next() {
            Some(e) => number(e, b)?,
            None if step.is_some() => b.high,
            None => start,
        };
        if ends.next().is_some() {
            return Err(format!("too many hyphens: {expression}"));
        }
        (start, end)
    };
    if let Some(step) = step
        && number(step, &Bounds { low: 0, high: 0, names: &[] })? == 0
    {
        return Err(format!("step of range should be a positive number: {expression}"));
    }
    if start < b.low {
        return Err(format!(
            "beginning of range ({start}) below minimum ({}): {expression}",
            b.low
        ));
    }
    if end > b.high {
        return Err(format!("end of range ({end}) above maximum ({}): {expression}", b.high));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {expression}"
        ));
    }
    Ok(())
}

fn number(s: &str, b: &Bounds) -> Result<u32, String> {
    let lower = s.to_lowercase();
    if let Some(i) = b.names.iter().position(|n| *n == lower) {
        return Ok(b.low + i as u32);
    }
    s.parse::<u32>().map_err(|_| {
        let quoted = crate::status::quote(s);
        format!("failed to parse int from {s}: strconv.Atoi: parsing {quoted}: invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn schedules() {
        for good in
            ["* * * * *", "0 3 * * 1", "*/5 0-6/2 1,15 jan-MAR sun", "@hourly", "@every 1h30m"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("@often", "unrecognized descriptor: @often"),
            (
                "x * * * *",
                "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
        ] {
            assert_eq!(check(bad).unwrap_err(), why);
        }
    }
}
