//! The kinds of value that TOML has no type for: durations, sizes, whole dates, free-form claims.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use toml::de::DeValue;
use zeroize::Zeroizing;

use super::diagnostic::Span;
use super::reader::{Read, Reader};
use crate::clock::UnixSeconds;

const DAY_SECONDS: u64 = 86_400;
/// Longer spans of time are mistakes, and sums of shorter ones never overflow.
const LONGEST: Duration = Duration::from_secs(100 * 366 * DAY_SECONDS);

/// A span of time: `"500ms"`, `"30s"`, `"5m"`, `"12h"`, `"90d"`.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(inline)]
pub(super) struct Interval(#[schemars(with = "String", regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))] pub(super) Duration);

/// A number of bytes: `"32KiB"`, `"10MiB"` or a plain number.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(inline)]
pub(super) struct Size(#[schemars(with = "SizeShape")] pub(super) u64);

#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum SizeShape {
    Bytes(u64),
    Text(#[schemars(regex(pattern = r"^[0-9]+(B|KiB|MiB|GiB)$"))] String),
}

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(inline)]
pub(super) struct Share(#[schemars(range(min = 0, max = 1))] pub(super) f64);

/// A day: `2027-06-30`.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(inline)]
pub(super) struct Date(#[schemars(with = "String", extend("format" = "date"))] pub(super) DaySince1970);

/// Days since 1970-01-01.
pub(super) type DaySince1970 = u64;

/// A table of any shape: claims.
#[derive(Clone, Debug, Default, JsonSchema)]
#[schemars(inline)]
pub(super) struct Object(pub(super) serde_json::Map<String, serde_json::Value>);

/// `"auto"` or a number of threads.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(inline)]
pub(super) struct Workers(#[schemars(with = "WorkersShape")] pub(super) Option<u64>);

#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum WorkersShape {
    Threads(u64),
    Word(#[schemars(regex(pattern = "^auto$"))] String),
}

/// A secret in clear. It is wiped when dropped, and no message shows it.
#[derive(Clone, JsonSchema)]
#[schemars(inline)]
pub(super) struct SecretText(#[schemars(with = "String")] pub(super) Zeroizing<String>);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Date {
    /// The first second that is no longer this day (UTC).
    pub(super) fn end(self) -> UnixSeconds {
        (self.0 + 1) * DAY_SECONDS
    }
}

impl Read for SecretText {
    const KIND: &'static str = "a string";
    const SECRET: bool = true;

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        String::read(value, at, reader).map(|text| Self(Zeroizing::new(text)))
    }
}

impl Read for Interval {
    const KIND: &'static str = "a string such as `\"30s\"`";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::String(text) = value else {
            match value {
                DeValue::Integer(digits) => {
                    let help = format!("say the unit: `\"{}s\"`", digits.as_str());
                    reader.report.error(at, "expected a duration, found a number", help);
                }
                _ => reader.mismatch(value, at, Self::KIND),
            }
            return None;
        };
        let parsed = parse_interval(text);
        if parsed.is_none() {
            reader.report.error(
                at,
                format!("`{text}` is not a duration"),
                "write a number and one of the units ms, s, m, h, d: `\"500ms\"`, `\"30s\"`, `\"5m\"`, `\"12h\"`, `\"90d\"`",
            );
        }
        parsed.map(Self)
    }
}

fn parse_interval(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let parsed = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        "d" => Duration::from_secs(number.checked_mul(DAY_SECONDS)?),
        _ => return None,
    };
    (parsed <= LONGEST).then_some(parsed)
}

impl Read for Size {
    const KIND: &'static str = "a number of bytes or a string such as `\"10MiB\"`";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        match value {
            DeValue::Integer(_) => u64::read(value, at, reader).map(Self),
            DeValue::String(text) => {
                let parsed = parse_size(text);
                if parsed.is_none() {
                    reader.report.error(
                        at,
                        format!("`{text}` is not a size"),
                        "write a number of bytes, or a number and one of the units B, KiB, MiB, GiB: `\"10MiB\"`",
                    );
                }
                parsed.map(Self)
            }
            _ => {
                reader.mismatch(value, at, Self::KIND);
                None
            }
        }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

impl Read for Share {
    const KIND: &'static str = "a number from 0 to 1";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        let share = match value {
            DeValue::Float(digits) => digits.as_str().parse().ok(),
            DeValue::Integer(digits) => u32::from_str_radix(digits.as_str(), digits.radix()).ok().map(f64::from),
            _ => {
                reader.mismatch(value, at, Self::KIND);
                return None;
            }
        };
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        if share.is_none() {
            reader.report.error(at, "a share is a number from 0 to 1", "`0.01` is one of a hundred, `1` is all");
        }
        share.map(Self)
    }
}

impl Read for Date {
    const KIND: &'static str = "a date such as `2027-06-30`, without quotes";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        let day = match value {
            DeValue::Datetime(found) if found.time.is_none() && found.offset.is_none() => {
                found.date.and_then(|date| days_since_1970(date.year.into(), date.month.into(), date.day.into()))
            }
            _ => None,
        };
        if day.is_none() {
            reader.mismatch(value, at, Self::KIND);
        }
        day.map(Self)
    }
}

/// The civil calendar's day number (Hinnant's `days_from_civil`); none before 1970.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<u64> {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    u64::try_from(era * 146_097 + day_of_era - 719_468).ok()
}

impl Read for Workers {
    const KIND: &'static str = "`\"auto\"` or a number of threads";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        match value {
            DeValue::String(word) if word == "auto" => Some(Self(None)),
            DeValue::Integer(_) => u64::read(value, at, reader).map(|threads| Self(Some(threads))),
            _ => {
                reader.mismatch(value, at, Self::KIND);
                None
            }
        }
    }
}

impl Read for Object {
    const KIND: &'static str = "a table";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        match json(value) {
            Some(serde_json::Value::Object(object)) => Some(Self(object)),
            Some(_) => {
                reader.mismatch(value, at, Self::KIND);
                None
            }
            None => {
                reader.report.error(
                    at,
                    "a number in here cannot be written as JSON",
                    "use numbers that are finite and fit into 64 bits",
                );
                None
            }
        }
    }
}

/// The JSON of a TOML value, dates as strings; none where a number has no JSON form.
fn json(value: &DeValue<'_>) -> Option<serde_json::Value> {
    Some(match value {
        DeValue::String(text) => text.to_string().into(),
        DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix()).ok()?.into(),
        DeValue::Float(digits) => serde_json::Number::from_f64(digits.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(truth) => (*truth).into(),
        DeValue::Datetime(date) => date.to_string().into(),
        DeValue::Array(array) => array.iter().map(|item| json(item.get_ref())).collect::<Option<Vec<_>>>()?.into(),
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| Some((key.get_ref().to_string(), json(value.get_ref())?)))
            .collect::<Option<serde_json::Map<_, _>>>()?
            .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        let seconds = |text| parse_interval(text).map(|d| d.as_millis());
        for (text, expected) in [
            ("500ms", Some(500)),
            ("0s", Some(0)),
            ("5m", Some(300_000)),
            ("12h", Some(43_200_000)),
            ("90d", Some(7_776_000_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("5 weeks", None),
            ("99999999999999999999s", None),
            ("40000d", None),
        ] {
            assert_eq!(seconds(text), expected, "{text:?}");
        }
        for (text, expected) in [("32KiB", Some(32768)), ("1GiB", Some(1 << 30)), ("7B", Some(7)), ("1MB", None)] {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_day_named_is_still_allowed() {
        let day = days_since_1970(2027, 6, 30).expect("after 1970");
        assert_eq!(Date(day).end(), 1_814_400_000); // 2027-07-01T00:00:00Z
        assert_eq!(days_since_1970(1970, 1, 1), Some(0));
        assert_eq!(days_since_1970(2000, 3, 1), Some(11_017));
        assert_eq!(days_since_1970(1969, 12, 31), None);
    }
}
