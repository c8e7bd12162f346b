//! Jenkins lookup3, as Postgres uses it: hash of bytes, of 32 bits, of 64 bits.
//!
//! Source: PostgreSQL src/common/hashfn.c (hash_bytes, hash_bytes_uint32) and access/hash/hashfunc.c (hashint8).

/// `hash_any`: words are little-endian.
pub fn hash_bytes(bytes: &[u8]) -> u32 {
    let (mut a, mut b, mut c) = start(bytes.len() as u32);
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        a = a.wrapping_add(word(&block[0..4]));
        b = b.wrapping_add(word(&block[4..8]));
        c = c.wrapping_add(word(&block[8..12]));
        (a, b, c) = mix(a, b, c);
    }
    let mut tail = [0u8; 12];
    let rest = blocks.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    a = a.wrapping_add(word(&tail[0..4]));
    b = b.wrapping_add(word(&tail[4..8]));
    // The lowest byte of c belongs to the length.
    c = c.wrapping_add(word(&tail[8..12]) << 8);
    finish(a, b, c)
}

/// `hash_uint32`: int4, int2, date, oid, boolean.
pub fn hash_u32(value: u32) -> u32 {
    let (a, b, c) = start(4);
    finish(a.wrapping_add(value), b, c)
}

/// `hashint8`: equal to the hash of the same int4; also timestamps and times of day.
pub fn hash_i64(value: i64) -> u32 {
    let (low, high) = (value as u32, (value >> 32) as u32);
    hash_u32(low ^ if value >= 0 { high } else { !high })
}

fn start(length: u32) -> (u32, u32, u32) {
    let seed = 0x9e37_79b9u32.wrapping_add(length).wrapping_add(3_923_095);
    (seed, seed, seed)
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}
