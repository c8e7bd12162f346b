//! real and double precision: a real hashes as the double of the same value.

use super::{integer, lookup3};

/// One value for both zeros, and one for every NaN: what float8eq takes for equal.
pub fn canonical(value: f64) -> f64 {
    if value == 0.0 {
        0.0
    } else if value.is_nan() {
        f64::NAN
    } else {
        value
    }
}

/// hashfloat8 of a canonical value.
pub fn hash(value: f64) -> u32 {
    if value == 0.0 { 0 } else { lookup3::hash_bytes(&value.to_bits().to_le_bytes()) }
}

/// float8in, decimal forms; hexadecimal ones are not read.
pub fn parse_f64(text: &str) -> Option<f64> {
    let text = integer::trim(text);
    if let Some(special) = special(text) {
        return Some(special);
    }
    let significant = decimal_digits(text)?;
    let value: f64 = text.parse().ok()?;
    // Overflow and underflow to zero are errors in Postgres.
    (value.is_finite() && (value != 0.0 || !significant)).then_some(value)
}

/// float4in: rounded once, from the text.
pub fn parse_f32(text: &str) -> Option<f32> {
    let text = integer::trim(text);
    if let Some(special) = special(text) {
        return Some(special as f32);
    }
    let significant = decimal_digits(text)?;
    let value: f32 = text.parse().ok()?;
    (value.is_finite() && (value != 0.0 || !significant)).then_some(value)
}

fn special(text: &str) -> Option<f64> {
    match text.to_ascii_lowercase().as_str() {
        "nan" => Some(f64::NAN),
        "inf" | "+inf" | "infinity" | "+infinity" => Some(f64::INFINITY),
        "-inf" | "-infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Checks `[sign] digits [. digits] [e [sign] digits]`; says whether any digit of the mantissa is not zero.
fn decimal_digits(text: &str) -> Option<bool> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let is_number = all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let is_exponent = exponent.is_none_or(|e| !e.is_empty() && all_digits(e));
    (is_number && is_exponent).then(|| mantissa.bytes().any(|b| matches!(b, b'1'..=b'9')))
}
