//! Text forms of the small types: name, bytea, uuid, boolean and `"char"`.

use super::integer;

/// NAMEDATALEN - 1, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// namein cuts a long name, between characters.
pub fn clip_name(text: &str) -> &str {
    let mut end = text.len().min(NAME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// uuid_in: 32 hex digits, a hyphen allowed after every second byte, braces allowed around; no blanks.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut rest = inner.as_bytes();
    let mut uuid = [0; 16];
    for (i, byte) in uuid.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else { return None };
        *byte = hex(*high)? << 4 | hex(*low)?;
        rest = tail;
        if i % 2 == 1 && i < 15 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
    }
    rest.is_empty().then_some(uuid)
}

/// byteain: `\x` and hex pairs, blanks allowed between pairs; otherwise bytes with `\\` and `\ooo` escapes.
pub fn parse_bytea(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    if let Some(mut rest) = text.strip_prefix("\\x").map(str::as_bytes) {
        while let Some((&first, tail)) = rest.split_first() {
            if matches!(first, b' ' | b'\n' | b'\t' | b'\r') {
                rest = tail;
                continue;
            }
            let (&second, tail) = tail.split_first()?;
            out.push(hex(first)? << 4 | hex(second)?);
            rest = tail;
        }
        return Some(out);
    }
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail) = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => (b'\\', tail),
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail)
            }
            (b'\\', _) => return None,
            _ => (first, tail),
        };
        out.push(byte);
        rest = tail;
    }
    Some(out)
}

/// boolin: any beginning of true, false, yes, no; on, off, of; 1, 0; in any case, blanks around.
pub fn parse_bool(text: &str) -> Option<bool> {
    let word = integer::trim(text).to_ascii_lowercase();
    match word.as_str() {
        "" => None,
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        w if "true".starts_with(w) || "yes".starts_with(w) => Some(true),
        w if "false".starts_with(w) || "no".starts_with(w) => Some(false),
        _ => None,
    }
}

/// charin takes the first byte, zero for the empty string. From 16 on `\ooo` is one byte, so a backslash with more
/// behind it is not read here.
pub fn parse_char(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [] => Some(0),
        [b'\\', _, ..] => None,
        [first, ..] => Some(*first),
    }
}

/// Bytes above 127 hash by the sign of C's char, which differs between processors.
pub fn char_word(byte: u8) -> Option<u32> {
    byte.is_ascii().then(|| byte.into())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}
