//! Names of character encodings, as Postgres reads them.

/// What a name means to a proxy that reads texts as UTF8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    /// Servers take the client's bytes as they come.
    SqlAscii,
    /// Characters may contain bytes that look like quotes, or a tenant's name has other bytes on its server.
    Other,
}

/// `None`: Postgres knows no such encoding. Source: PostgreSQL src/common/encnames.c, clean_encoding_name().
pub fn read_encoding(name: &str) -> Option<Encoding> {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    match name.as_str() {
        "utf8" | "unicode" => Some(Encoding::Utf8),
        "sqlascii" => Some(Encoding::SqlAscii),
        name => OTHERS.contains(&name).then_some(Encoding::Other),
    }
}

/// Source: PostgreSQL src/common/encnames.c, pg_encname_tbl.
#[rustfmt::skip]
const OTHERS: [&str; 78] = [
    "abc", "alt", "big5", "euccn", "eucjis2004", "eucjp", "euckr", "euctw", "gb18030", "gbk",
    "iso88591", "iso885910", "iso885913", "iso885914", "iso885915", "iso885916", "iso88592", "iso88593", "iso88594",
    "iso88595", "iso88596", "iso88597", "iso88598", "iso88599", "johab", "koi8", "koi8r", "koi8u",
    "latin1", "latin10", "latin2", "latin3", "latin4", "latin5", "latin6", "latin7", "latin8", "latin9",
    "mskanji", "muleinternal", "shiftjis", "shiftjis2004", "sjis", "tcvn", "tcvn5712", "uhc", "vscii",
    "win", "win1250", "win1251", "win1252", "win1253", "win1254", "win1255", "win1256", "win1257", "win1258",
    "win866", "win874", "win932", "win936", "win949", "win950",
    "windows1250", "windows1251", "windows1252", "windows1253", "windows1254", "windows1255", "windows1256",
    "windows1257", "windows1258", "windows866", "windows874", "windows932", "windows936", "windows949", "windows950",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_letters_and_digits_of_a_name_count() {
        assert_eq!(read_encoding("Utf-8"), Some(Encoding::Utf8));
        assert_eq!(read_encoding("SQL_ASCII"), Some(Encoding::SqlAscii));
        assert_eq!(read_encoding("ISO 8859-1"), Some(Encoding::Other));
        assert_eq!(read_encoding("utf9"), None);
        assert_eq!(read_encoding(""), None);
    }
}
