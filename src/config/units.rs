//! Times and sizes as people write them in a configuration: `500ms`, `15s`, `5min`, `64kB`, `16MB`.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// A length of time: a whole number with `ms`, `s`, `min` or `h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

/// A number of bytes: a whole number with `B`, `kB`, `MB` or `GB`, in steps of 1024 as Postgres counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

impl Time {
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        let milliseconds = number.checked_mul(find(TIME_UNITS, unit)?)?;
        Some(Self(Duration::from_millis(milliseconds)))
    }
}

impl Size {
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        usize::try_from(number.checked_mul(find(SIZE_UNITS, unit)?)?).ok().map(Self)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        f.write_str(&in_largest_unit(milliseconds, TIME_UNITS))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_largest_unit(self.0 as u64, SIZE_UNITS))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Time::parse(&text).ok_or_else(|| D::Error::custom(format!("\"{text}\" is no time such as \"15s\" or \"5min\"")))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Size::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("\"{text}\" is no size such as \"64kB\" or \"16MB\"")))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Largest first.
const TIME_UNITS: &[(&str, u64)] = &[("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: &[(&str, u64)] = &[("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

fn find(units: &[(&str, u64)], name: &str) -> Option<u64> {
    units.iter().find(|(unit, _)| *unit == name).map(|(_, factor)| *factor)
}

fn in_largest_unit(value: u64, units: &[(&str, u64)]) -> String {
    let whole = units.iter().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    let (unit, factor) = whole.unwrap_or(&units[units.len() - 1]);
    format!("{}{unit}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_printed_as_they_are_written() {
        for text in ["1ms", "1500ms", "15s", "5min", "2h", "0ms"] {
            assert_eq!(Time::parse(text).expect("a time").to_string(), text);
        }
        for text in ["1B", "64kB", "16MB", "1GB"] {
            assert_eq!(Size::parse(text).expect("a size").to_string(), text);
        }
    }

    #[test]
    fn a_number_without_its_unit_is_refused() {
        for text in ["", "15", "s", "15 parsecs", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
        assert_eq!(Size::parse("16mb"), None);
    }
}
