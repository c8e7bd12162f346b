//! Decodes `pgoutput`, the stream of row changes that a logical replication slot sends.
//!
//!   Begin ─> (Relation | Insert | Update | Delete | Truncate | ...)* ─> Commit ─> Begin ...
//!
//! Transactions arrive whole, in commit order; a Relation message describes a table before its first change.
//! Pure: bytes in, values out; values share the message's memory. Whatever the bytes are, an error comes back, no panic.
//!
//! Limits: protocol version 1 (no streaming of open transactions, no two-phase).
//! Source: PostgreSQL manual, "Logical Replication Message Formats".

use bytes::{Buf, Bytes};

use crate::error::{PgError, Result, SqlState};

/// A position in a server's write-ahead log, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl std::str::FromStr for Lsn {
    type Err = PgError;

    /// Reads Postgres's own spelling, `16/B374D848`.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text
            .split_once('/')
            .and_then(|(high, low)| Some((u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?)));
        match parsed {
            Some((high, low)) => Ok(Lsn(u64::from(high) << 32 | u64::from(low))),
            None => Err(PgError::new(
                SqlState::INVALID_TEXT_REPRESENTATION,
                format!("invalid input syntax for type pg_lsn: \"{text}\""),
            )),
        }
    }
}

/// One message of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Begin {
        /// Position of the transaction's commit record.
        final_lsn: Lsn,
        /// The top-level transaction id, without its epoch.
        xid: u32,
    },
    Commit {
        commit_lsn: Lsn,
        /// Just after the commit record: a receiver that has this, has the transaction.
        end_lsn: Lsn,
    },
    Origin {
        name: String,
    },
    Relation(Relation),
    Type {
        oid: u32,
        schema: String,
        name: String,
    },
    Insert {
        relation: u32,
        new: Tuple,
    },
    Update {
        relation: u32,
        /// Sent when the key changed, or with replica identity full.
        old: Option<OldTuple>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: OldTuple,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    /// What `pg_logical_emit_message` wrote.
    Logical {
        prefix: String,
        content: Bytes,
    },
}

/// A table as the stream describes it. Generated columns are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    /// Empty for `pg_catalog`.
    pub schema: String,
    pub name: String,
    pub identity: ReplicaIdentity,
    pub columns: Vec<RelationColumn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    Default,
    Nothing,
    Full,
    Index,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    pub is_key: bool,
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
}

/// The row before the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldTuple {
    /// Key columns only, the others are null.
    Key(Tuple),
    /// All columns.
    Full(Tuple),
}

impl OldTuple {
    pub fn tuple(&self) -> &Tuple {
        match self {
            OldTuple::Key(tuple) | OldTuple::Full(tuple) => tuple,
        }
    }
}

/// One value per column of the relation, in its order.
pub type Tuple = Vec<Value>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    /// Out of line and untouched by the update, so it was not sent.
    Unchanged,
    /// The type's text form.
    Text(Bytes),
    /// The type's binary form; sent only when the receiver asked for it.
    Binary(Bytes),
}

impl Message {
    /// Reads one message, all of it.
    ///
    /// Errors: `protocol_violation` (08P01) for anything that isn't one whole message.
    pub fn decode(body: Bytes) -> Result<Message> {
        let mut body = Reader(body);
        let message = match body.u8()? {
            b'B' => {
                let final_lsn = body.lsn()?;
                body.u64()?; // commit time
                Message::Begin { final_lsn, xid: body.u32()? }
            }
            b'C' => {
                body.u8()?; // flags, none defined
                let (commit_lsn, end_lsn) = (body.lsn()?, body.lsn()?);
                body.u64()?; // commit time
                Message::Commit { commit_lsn, end_lsn }
            }
            b'O' => {
                body.u64()?; // position on the origin
                Message::Origin { name: body.text()? }
            }
            b'R' => Message::Relation(body.relation()?),
            b'Y' => Message::Type { oid: body.u32()?, schema: body.text()?, name: body.text()? },
            b'I' => {
                let relation = body.u32()?;
                body.expect(b'N')?;
                Message::Insert { relation, new: body.tuple()? }
            }
            b'U' => {
                let relation = body.u32()?;
                let old = match body.u8()? {
                    b'N' => None,
                    kind => {
                        let old = body.old_tuple(kind)?;
                        body.expect(b'N')?;
                        Some(old)
                    }
                };
                Message::Update { relation, old, new: body.tuple()? }
            }
            b'D' => {
                let relation = body.u32()?;
                let kind = body.u8()?;
                Message::Delete { relation, old: body.old_tuple(kind)? }
            }
            b'T' => {
                let count = body.u32()? as usize;
                let options = body.u8()?;
                if count > body.0.remaining() / 4 {
                    return Err(malformed("more tables than bytes in a truncate"));
                }
                let relations = (0..count).map(|_| body.u32()).collect::<Result<_>>()?;
                Message::Truncate { relations, cascade: options & 1 != 0, restart_identity: options & 2 != 0 }
            }
            b'M' => {
                body.u8()?; // flags: 1 = transactional
                body.u64()?; // position
                let prefix = body.text()?;
                let length = body.u32()? as usize;
                Message::Logical { prefix, content: body.take(length)? }
            }
            tag => return Err(malformed(&format!("unknown message type {tag}"))),
        };
        match body.0.remaining() {
            0 => Ok(message),
            left => Err(malformed(&format!("{left} bytes left after a message"))),
        }
    }
}

/// Bounds-checked reading.
struct Reader(Bytes);

impl Reader {
    fn need(&self, bytes: usize) -> Result<()> {
        if self.0.remaining() < bytes { Err(malformed("message ends early")) } else { Ok(()) }
    }

    fn u8(&mut self) -> Result<u8> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    fn u16(&mut self) -> Result<u16> {
        self.need(2)?;
        Ok(self.0.get_u16())
    }

    fn u32(&mut self) -> Result<u32> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }

    fn u64(&mut self) -> Result<u64> {
        self.need(8)?;
        Ok(self.0.get_u64())
    }

    fn lsn(&mut self) -> Result<Lsn> {
        self.u64().map(Lsn)
    }

    fn expect(&mut self, wanted: u8) -> Result<()> {
        match self.u8()? {
            found if found == wanted => Ok(()),
            found => Err(malformed(&format!("tuple of kind {found} where {wanted} is due"))),
        }
    }

    fn take(&mut self, bytes: usize) -> Result<Bytes> {
        self.need(bytes)?;
        Ok(self.0.split_to(bytes))
    }

    /// Text up to its zero byte.
    fn text(&mut self) -> Result<String> {
        let end = self.0.iter().position(|&b| b == 0).ok_or_else(|| malformed("text without its end"))?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.into()).map_err(|_| malformed("a name that is not UTF-8"))
    }

    fn relation(&mut self) -> Result<Relation> {
        let (oid, schema, name) = (self.u32()?, self.text()?, self.text()?);
        let identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            other => return Err(malformed(&format!("unknown replica identity {other}"))),
        };
        let count = self.u16()?;
        let columns = (0..count)
            .map(|_| {
                Ok(RelationColumn {
                    is_key: self.u8()? & 1 != 0,
                    name: self.text()?,
                    type_oid: self.u32()?,
                    type_modifier: self.u32()? as i32,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Relation { oid, schema, name, identity, columns })
    }

    fn old_tuple(&mut self, kind: u8) -> Result<OldTuple> {
        match kind {
            b'K' => self.tuple().map(OldTuple::Key),
            b'O' => self.tuple().map(OldTuple::Full),
            other => Err(malformed(&format!("unknown kind of old row {other}"))),
        }
    }

    fn tuple(&mut self) -> Result<Tuple> {
        let count = self.u16()?;
        (0..count)
            .map(|_| match self.u8()? {
                b'n' => Ok(Value::Null),
                b'u' => Ok(Value::Unchanged),
                kind @ (b't' | b'b') => {
                    let length = self.u32()? as usize;
                    let bytes = self.take(length)?;
                    Ok(if kind == b't' { Value::Text(bytes) } else { Value::Binary(bytes) })
                }
                other => Err(malformed(&format!("unknown kind of value {other}"))),
            })
            .collect()
    }
}

fn malformed(detail: &str) -> PgError {
    PgError::new(SqlState::PROTOCOL_VIOLATION, "malformed message in the change stream").detail(format!("{detail}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(parts: &[&[u8]]) -> Result<Message> {
        Message::decode(Bytes::from(parts.concat()))
    }

    #[test]
    fn an_update_keeps_null_unchanged_and_text_apart() {
        let message = decode(&[b"U\0\0\0\x07N\0\x03", b"n", b"u", b"t\0\0\0\x02ab"]).unwrap();
        let new = vec![Value::Null, Value::Unchanged, Value::Text(Bytes::from_static(b"ab"))];
        assert_eq!(message, Message::Update { relation: 7, old: None, new });
    }

    #[test]
    fn an_update_of_the_key_carries_the_old_key() {
        let message = decode(&[b"U\0\0\0\x07K\0\x01t\0\0\0\x011", b"N\0\x01t\0\0\0\x012"]).unwrap();
        let value = |v: &'static [u8]| vec![Value::Text(Bytes::from_static(v))];
        assert_eq!(message, Message::Update { relation: 7, old: Some(OldTuple::Key(value(b"1"))), new: value(b"2") });
    }

    #[test]
    fn a_relation_names_its_key_columns() {
        let message = decode(&[
            b"R\0\0\0\x07public_1\0orders\0d\0\x02",
            b"\x01id\0\0\0\0\x14\xff\xff\xff\xff",
            b"\0note\0\0\0\0\x19\xff\xff\xff\xff",
        ]);
        let Message::Relation(relation) = message.unwrap() else { panic!("not a relation") };
        assert_eq!((relation.schema.as_str(), relation.name.as_str()), ("public_1", "orders"));
        assert_eq!(relation.columns.iter().map(|c| c.is_key).collect::<Vec<_>>(), [true, false]);
        assert_eq!(relation.columns[0].type_modifier, -1);
    }

    #[test]
    fn begin_commit_and_truncate_are_read() {
        let begin = decode(&[b"B", &1u64.to_be_bytes(), &2u64.to_be_bytes(), &3u32.to_be_bytes()]);
        assert_eq!(begin.unwrap(), Message::Begin { final_lsn: Lsn(1), xid: 3 });
        let commit = decode(&[b"C\0", &1u64.to_be_bytes(), &2u64.to_be_bytes(), &3u64.to_be_bytes()]);
        assert_eq!(commit.unwrap(), Message::Commit { commit_lsn: Lsn(1), end_lsn: Lsn(2) });
        let truncate = decode(&[b"T\0\0\0\x01\x03\0\0\0\x09"]);
        assert_eq!(truncate.unwrap(), Message::Truncate { relations: vec![9], cascade: true, restart_identity: true });
    }

    #[test]
    fn a_length_beyond_the_message_is_an_error() {
        assert!(decode(&[b"I\0\0\0\x07N\0\x01t\xff\xff\xff\xffab"]).is_err());
        assert!(decode(&[b"T\xff\xff\xff\xff\0"]).is_err());
        assert!(decode(&[b"I\0\0\0\x07N\xff\xff"]).is_err());
        assert!(decode(&[]).is_err());
    }

    #[test]
    fn a_position_is_written_as_postgres_writes_it() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!((lsn.0, lsn.to_string().as_str()), (0x16_B374_D848, "16/B374D848"));
        assert!("16".parse::<Lsn>().is_err() && "x/1".parse::<Lsn>().is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_never_a_panic(tag in proptest::sample::select(b"BCORYIUDTMx".to_vec()),
                                                 rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode([vec![tag], rest].concat().into());
        }

        #[test]
        fn every_cut_of_a_good_message_is_an_error(cut in 0usize..32) {
            let good = [&b"U\0\0\0\x07K\0\x01t\0\0\0\x011"[..], b"N\0\x02t\0\0\0\x012u"].concat();
            prop_assume!(cut < good.len());
            prop_assert!(Message::decode(good[..cut].to_vec().into()).is_err());
        }
    }
}
