//! date, timestamp, timestamptz and time: the ISO forms, which mean the same under every DateStyle.
//!
//! ```text
//!   2024-02-29[( |T)12:34[:56[.789012]][ ][Z|+02|+0230|+02:30]][ BC]      infinity      -infinity
//! ```
//!
//! Units: days and microseconds since 2000-01-01, microseconds since midnight.

use super::integer::trim;

/// Days; what follows the date is not read.
pub fn parse_date(text: &str) -> Option<i32> {
    let text = trim(text);
    if let Some(is_past) = infinity(text) {
        return Some(if is_past { i32::MIN } else { i32::MAX });
    }
    let (text, is_bc) = era(text);
    let (days, rest) = date(text, is_bc)?;
    rest.is_empty().then_some(days)
}

/// Microseconds; a zone is read and ignored, as timestamp_in does.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    date_and_time(text).map(|(local, _)| local)
}

/// Microseconds in UTC; without a zone the text depends on TimeZone.
pub fn parse_timestamptz(text: &str) -> Option<i64> {
    match date_and_time(text)? {
        (infinity @ (i64::MIN | i64::MAX), _) => Some(infinity),
        (local, offset) => Some(local - offset?),
    }
}

/// Microseconds since midnight, up to 24:00.
pub fn parse_time(text: &str) -> Option<i64> {
    let (micros, rest) = time_of_day(trim(text))?;
    rest.is_empty().then_some(micros)
}

/// A binary date as the timestamp of its midnight.
pub fn timestamp_of_date(bytes: &[u8]) -> Option<i64> {
    match i32::from_be_bytes(bytes.try_into().ok()?) {
        i32::MAX => Some(i64::MAX),
        i32::MIN => Some(i64::MIN),
        days => Some(i64::from(days) * MICROS_PER_DAY),
    }
}

/// How many digits of a second the text has: what timestamp(p) may round away.
pub fn fraction_digits(text: &str) -> usize {
    let fraction = text.split_once('.').map_or("", |(_, f)| f);
    let digits = &fraction[..fraction.bytes().take_while(u8::is_ascii_digit).count()];
    digits.trim_end_matches('0').len()
}

/// Does timestamp(precision) leave this number of microseconds as it is?
pub fn is_kept(micros: i64, precision: i32) -> bool {
    matches!(micros, i64::MIN | i64::MAX) || micros % 10i64.pow(6 - precision.clamp(0, 6) as u32) == 0
}

/// Local microseconds and the zone's offset in microseconds, if one is given.
fn date_and_time(text: &str) -> Option<(i64, Option<i64>)> {
    let text = trim(text);
    if let Some(is_past) = infinity(text) {
        return Some((if is_past { i64::MIN } else { i64::MAX }, None));
    }
    let (text, is_bc) = era(text);
    let (days, rest) = date(text, is_bc)?;
    let midnight = i64::from(days) * MICROS_PER_DAY;
    let Some(rest) = rest.strip_prefix([' ', 'T']) else {
        return rest.is_empty().then_some((midnight, None));
    };
    let (micros, rest) = time_of_day(rest)?;
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    let offset = if rest.is_empty() { None } else { Some(zone(rest)?) };
    Some((midnight + micros, offset))
}

/// `Some(true)` for -infinity.
fn infinity(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("infinity") {
        Some(false)
    } else {
        text.eq_ignore_ascii_case("-infinity").then_some(true)
    }
}

fn era(text: &str) -> (&str, bool) {
    match text.strip_suffix(" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

/// `YYYY-MM-DD` at the start of the text; a year of four digits in front is a year under every DateStyle.
fn date(text: &str, is_bc: bool) -> Option<(i32, &str)> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = number(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = number(rest.strip_prefix('-')?, 2)?;
    if year == 0 || (is_bc && year > 4713) {
        return None;
    }
    let year = if is_bc { 1 - year } else { year };
    let is_leap = year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let length = match month {
        2 => 28 + i32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    (1..=length).contains(&day).then(|| (days_since_2000(year, month, day), rest))
}

/// Days in the proleptic Gregorian calendar; March is the first month, so that the leap day is a year's last.
fn days_since_2000(year: i32, month: i32, day: i32) -> i32 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month + 2) / 5 + day - 730_426
}

/// `HH:MM[:SS[.ffffff]]`; at most six digits, so that nothing is rounded.
fn time_of_day(text: &str) -> Option<(i64, &str)> {
    let (hour, rest) = number(text, 2)?;
    let (minute, mut rest) = number(rest.strip_prefix(':')?, 2)?;
    let mut micros = 0;
    if let Some(seconds) = rest.strip_prefix(':') {
        let (second, tail) = number(seconds, 2).filter(|(s, _)| *s < 60)?;
        (micros, rest) = (i64::from(second) * 1_000_000, tail);
        if let Some(fraction) = rest.strip_prefix('.') {
            let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=6).contains(&length) {
                return None;
            }
            let (value, tail) = number(fraction, length)?;
            micros += i64::from(value) * 10i64.pow(6 - length as u32);
            rest = tail;
        }
    }
    micros += i64::from(hour * 60 + minute) * 60_000_000;
    (minute < 60 && micros <= MICROS_PER_DAY).then_some((micros, rest))
}

/// The offset east of UTC in microseconds.
fn zone(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = number(rest, 2)?;
    let (minutes, rest) = match rest {
        "" => (0, ""),
        _ => number(rest.strip_prefix(':').unwrap_or(rest), 2)?,
    };
    (hours <= 15 && minutes < 60 && rest.is_empty()).then(|| sign * i64::from(hours * 60 + minutes) * 60_000_000)
}

/// Exactly `length` digits (at most 6) at the start of the text.
fn number(text: &str, length: usize) -> Option<(i32, &str)> {
    let (digits, rest) = text.split_at_checked(length)?;
    let is_number = digits.bytes().all(|b| b.is_ascii_digit());
    Some((is_number.then(|| digits.parse().ok())??, rest))
}

const MICROS_PER_DAY: i64 = 86_400_000_000;
