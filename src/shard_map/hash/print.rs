//! A value as Postgres prints it, with ISO dates and in UTC: for people, never for routing.

use std::fmt::Write;

use super::numeric::{Numeric, Special};
use super::{HashType, Value};

impl HashType {
    /// Appends what Postgres prints for a value of this type (DateStyle ISO, TimeZone UTC). Of a numeric without zeros at
    /// its end, because equality does not see them; a value that only Postgres can hash is given by its bytes.
    pub fn print(self, value: &Value<'_>, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = match (self, value) {
            (HashType::Timestamp, Value::Integer(micros)) => timestamp(*micros, "", out),
            (HashType::Timestamptz, Value::Integer(micros)) => timestamp(*micros, "+00", out),
            (HashType::Time, Value::Integer(micros)) => time_of_day(*micros, out),
            (_, Value::Integer(number)) => write!(out, "{number}"),
            (HashType::Bool, Value::Word(word)) => out.write_str(if *word == 0 { "f" } else { "t" }),
            (HashType::Char, Value::Word(word)) => match *word as u8 {
                byte @ 0..=127 => out.write_char(byte.into()),
                byte => write!(out, "\\{byte:o}"),
            },
            (HashType::Date, Value::Word(days)) => match *days as i32 {
                i32::MAX => out.write_str("infinity"),
                i32::MIN => out.write_str("-infinity"),
                days => date(days.into(), out).and_then(|is_bc| if is_bc { out.write_str(" BC") } else { Ok(()) }),
            },
            (_, Value::Word(number)) => write!(out, "{number}"),
            (HashType::Uuid, Value::Bytes(bytes)) => bytes.iter().enumerate().try_for_each(|(at, byte)| {
                let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
                write!(out, "{dash}{byte:02x}")
            }),
            (HashType::Bytea, Value::Bytes(bytes)) => hexadecimal(bytes, out),
            (_, Value::Bytes(bytes)) => out.write_str(&String::from_utf8_lossy(bytes)),
            (HashType::Float4, Value::Float(bits)) => write!(out, "{}", f64::from_bits(*bits) as f32),
            (_, Value::Float(bits)) => write!(out, "{}", f64::from_bits(*bits)),
            (_, Value::Numeric(value)) => numeric(value, out),
            (_, Value::Other { binary, .. }) => hexadecimal(binary, out),
        };
    }
}

fn hexadecimal(bytes: &[u8], out: &mut String) -> std::fmt::Result {
    out.write_str("\\x")?;
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

fn numeric(value: &Numeric, out: &mut String) -> std::fmt::Result {
    let (negative, weight, digits) = match value {
        Numeric::Special(Special::NaN) => return out.write_str("NaN"),
        Numeric::Special(Special::Infinity) => return out.write_str("Infinity"),
        Numeric::Special(Special::MinusInfinity) => return out.write_str("-Infinity"),
        Numeric::Finite { negative, weight, digits } => (*negative, *weight, digits),
    };
    if negative {
        out.write_char('-')?;
    }
    let digit = |position: i32| usize::try_from(weight - position).ok().and_then(|at| digits.get(at)).copied();
    write!(out, "{}", digit(weight.max(0)).unwrap_or(0))?;
    for position in (0..weight).rev() {
        write!(out, "{:04}", digit(position).unwrap_or(0))?;
    }
    let last = weight - digits.len() as i32 + 1;
    if last < 0 {
        out.write_char('.')?;
        (last..0).rev().try_for_each(|position| write!(out, "{:04}", digit(position).unwrap_or(0)))?;
        out.truncate(out.trim_end_matches('0').len());
    }
    Ok(())
}

fn timestamp(micros: i64, zone: &str, out: &mut String) -> std::fmt::Result {
    match micros {
        i64::MAX => return out.write_str("infinity"),
        i64::MIN => return out.write_str("-infinity"),
        _ => {}
    }
    let is_bc = date(micros.div_euclid(MICROS_PER_DAY), out)?;
    out.write_char(' ')?;
    time_of_day(micros.rem_euclid(MICROS_PER_DAY), out)?;
    out.write_str(zone)?;
    if is_bc { out.write_str(" BC") } else { Ok(()) }
}

fn time_of_day(micros: i64, out: &mut String) -> std::fmt::Result {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
    if fraction != 0 {
        write!(out, ".{fraction:06}")?;
        out.truncate(out.trim_end_matches('0').len());
    }
    Ok(())
}

/// The date so many days after 2000-01-01; true: of the years before our era, which the text has yet to say.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
fn date(days: i64, out: &mut String) -> Result<bool, std::fmt::Error> {
    // Days from 0000-03-01: leap days stand at the ends of years then.
    let days = days + 730_425;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let is_bc = year < 1;
    write!(out, "{:04}-{month:02}-{day:02}", if is_bc { 1 - year } else { year })?;
    Ok(is_bc)
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_postgres_prints() {
        for (kind, text) in [
            (HashType::Int2, "-7"),
            (HashType::Int8, "9223372036854775807"),
            (HashType::Oid, "4294967295"),
            (HashType::Text, "Jürgen & Söhne"),
            (HashType::Bool, "t"),
            (HashType::Bool, "f"),
            (HashType::Char, "x"),
            (HashType::Bytea, "\\x00ff10"),
            (HashType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            (HashType::Numeric, "0"),
            (HashType::Numeric, "-123.456"),
            (HashType::Numeric, "10000"),
            (HashType::Numeric, "1200000000"),
            (HashType::Numeric, "0.00012"),
            (HashType::Numeric, "123456789.000000001"),
            (HashType::Numeric, "NaN"),
            (HashType::Float8, "0.1"),
            (HashType::Float4, "0.1"),
            (HashType::Float8, "-2.5"),
            (HashType::Date, "2000-01-01"),
            (HashType::Date, "2024-02-29"),
            (HashType::Date, "1999-12-31"),
            (HashType::Date, "0044-03-15 BC"),
            (HashType::Date, "infinity"),
            (HashType::Timestamp, "2026-11-26 08:15:00.25"),
            (HashType::Timestamp, "-infinity"),
            (HashType::Timestamptz, "1970-01-01 00:00:00+00"),
            (HashType::Time, "23:59:59.999999"),
        ] {
            let value = kind.read_text(text).unwrap_or_else(|| panic!("{text} is a value"));
            let mut printed = String::new();
            kind.print(&value, &mut printed);
            assert_eq!(printed, text, "{kind:?}");
        }
    }
}
