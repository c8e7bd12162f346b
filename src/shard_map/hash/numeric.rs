//! numeric: base-10000 digits, hashed without sign, scale and outer zeros.
//!
//! ```text
//!   123.456  ->  weight 0, digits [123, 4560]      value = sum of digit[i] * 10000^(weight - i)
//! ```

use super::{integer, lookup3};

/// A numeric as its equality sees it: the display scale doesn't matter. (Nor does the sign to its hash.)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Numeric {
    Special(Special),
    /// No zero digit at either end; no digit at all is zero, which is never negative.
    Finite {
        negative: bool,
        weight: i32,
        digits: Vec<i16>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    NaN,
    Infinity,
    MinusInfinity,
}

impl Numeric {
    /// numeric_in, for texts and exponents of ordinary length; 16's hexadecimal and `_` forms are not read.
    pub fn parse(text: &str) -> Option<Self> {
        let text = integer::trim(text);
        if let Some(special) = special(text) {
            return Some(Numeric::Special(special));
        }
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (
                mantissa,
                integer::parse(exponent, -DECIMALS_MAX, DECIMALS_MAX)
                    .filter(|_| integer::trim(exponent) == exponent)?,
            ),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let decimals: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if decimals.is_empty() || decimals.len() > DECIMALS_MAX as usize || !decimals.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(Self::from_decimals(negative, &decimals, whole.len() as i32 + exponent as i32))
    }

    pub fn from_integer(value: i64) -> Self {
        let decimals = value.unsigned_abs().to_string();
        Self::from_decimals(value < 0, decimals.as_bytes(), decimals.len() as i32)
    }

    /// numeric_recv's format; none where a digit lies beyond the display scale, which numeric_recv would cut off.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks_exact(2).map(|w| i16::from_be_bytes([w[0], w[1]]));
        let (count, weight, sign, scale) = (words.next()?, words.next()?, words.next()? as u16, words.next()?);
        if bytes.len() != 8 + 2 * usize::try_from(count).ok()? || !(0..=0x3fff).contains(&scale) {
            return None;
        }
        let negative = match sign {
            0x0000 => false,
            0x4000 => true,
            0xc000 => return Some(Numeric::Special(Special::NaN)),
            0xd000 => return Some(Numeric::Special(Special::Infinity)),
            0xf000 => return Some(Numeric::Special(Special::MinusInfinity)),
            _ => return None,
        };
        let digits: Vec<i16> = words.collect();
        if !digits.iter().all(|d| (0..10000).contains(d)) {
            return None;
        }
        let value = Self::trimmed(negative, weight.into(), digits);
        (value.decimals() <= i32::from(scale)).then_some(value)
    }

    /// `point` decimals stand before the decimal point; negative: that many zeros follow it.
    fn from_decimals(negative: bool, decimals: &[u8], point: i32) -> Self {
        let weight = (point - 1).div_euclid(4);
        // Zeros in front, so that the decimal point falls between two base-10000 digits.
        let lead = ((weight + 1) * 4 - point) as usize;
        let mut digits = vec![0i16; (lead + decimals.len()).div_ceil(4)];
        for (i, decimal) in decimals.iter().enumerate() {
            let at = lead + i;
            digits[at / 4] += i16::from(decimal - b'0') * [1000, 100, 10, 1][at % 4];
        }
        Self::trimmed(negative, weight, digits)
    }

    fn trimmed(negative: bool, weight: i32, digits: Vec<i16>) -> Self {
        let Some(first) = digits.iter().position(|d| *d != 0) else {
            return Numeric::Finite { negative: false, weight: 0, digits: Vec::new() };
        };
        let last = digits.iter().rposition(|d| *d != 0).unwrap_or(first);
        Numeric::Finite { negative, weight: weight - first as i32, digits: digits[first..=last].to_vec() }
    }

    /// Decimals after the point that are needed to write the value; negative when it ends in zeros before the point.
    pub fn decimals(&self) -> i32 {
        match self {
            Numeric::Finite { weight, digits, .. } if !digits.is_empty() => {
                let last = digits[digits.len() - 1];
                let zeros = [10, 100, 1000].iter().filter(|p| last % **p == 0).count() as i32;
                4 * (digits.len() as i32 - 1 - weight) - zeros
            }
            _ => i32::MIN,
        }
    }

    /// Bytes that are the same for equal values and no others.
    pub fn key(&self) -> Vec<u8> {
        match self {
            Numeric::Special(Special::NaN) => b"NaN".to_vec(),
            Numeric::Special(Special::Infinity) => b"inf".to_vec(),
            Numeric::Special(Special::MinusInfinity) => b"-inf".to_vec(),
            Numeric::Finite { negative, weight, digits } => {
                let mut key = vec![u8::from(*negative)];
                key.extend(weight.to_be_bytes());
                key.extend(digits.iter().flat_map(|d| d.to_be_bytes()));
                key
            }
        }
    }

    /// hash_numeric.
    pub fn hash(&self) -> u32 {
        match self {
            Numeric::Special(_) => 0,
            Numeric::Finite { digits, .. } if digits.is_empty() => u32::MAX,
            Numeric::Finite { weight, digits, .. } => {
                let bytes: Vec<u8> = digits.iter().flat_map(|d| d.to_le_bytes()).collect();
                lookup3::hash_bytes(&bytes) ^ *weight as u32
            }
        }
    }
}

/// The scale of numeric(p,s): the low 11 bits of the type modifier, signed since PostgreSQL 15.
pub fn scale(typmod: i32) -> i32 {
    (((typmod - 4) & 0x7ff) ^ 1024) - 1024
}

fn special(text: &str) -> Option<Special> {
    let text = text.to_ascii_lowercase();
    match text.as_str() {
        "nan" => Some(Special::NaN),
        "inf" | "+inf" | "infinity" | "+infinity" => Some(Special::Infinity),
        "-inf" | "-infinity" => Some(Special::MinusInfinity),
        _ => None,
    }
}

/// Far below numeric's limits (131072 before and 16383 after the point), far above any key.
const DECIMALS_MAX: i64 = 1000;
