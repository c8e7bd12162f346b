//! Known values of PostgreSQL 15's hash functions, and what must not be routed.

use super::*;

#[test]
fn hashes_equal_those_of_postgres() {
    for (hash_type, vectors) in VECTORS {
        for (text, want) in *vectors {
            assert_eq!(hash_type.read_text(text).map(|v| v.hash()), Some(*want), "{} {text:?}", hash_type.sql_name());
        }
    }
}

#[test]
fn an_integer_has_one_hash_in_every_width() {
    for (text, want) in VECTORS[0].1 {
        assert_eq!(HashType::Int8.read_text(text).map(|v| v.hash()), Some(*want));
        let value: i32 = text.parse().unwrap();
        assert_eq!(HashType::Int8.read_binary(23, &value.to_be_bytes()).map(|v| v.hash()), Some(*want));
        assert_eq!(HashType::Int4.read_binary(20, &i64::from(value).to_be_bytes()).map(|v| v.hash()), Some(*want));
    }
}

#[test]
fn every_type_is_listed_once() {
    for hash_type in HashType::ALL {
        assert_eq!(HashType::from_oid(hash_type.oid()), Some(hash_type));
    }
    assert_eq!(HashType::ALL.iter().collect::<std::collections::HashSet<_>>().len(), HashType::ALL.len());
    assert_eq!(HashType::from_oid(114), None);
}

#[test]
fn what_is_not_surely_a_value_of_the_type_has_no_hash() {
    let refused: &[(HashType, &[&str])] = &[
        (HashType::Int2, &["32768", "-32769"]),
        (
            HashType::Int4,
            &["", " ", "5.0", "1e2", "0x1f", "1_000", "+-1", "2147483648", "٣", "1 2", "1\0", "--1", "5;"],
        ),
        (HashType::Int8, &["9223372036854775808", "-9223372036854775809", "five"]),
        (HashType::Oid, &["-1", "4294967296"]),
        (
            HashType::Uuid,
            &[
                "",
                "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "a0eebc99--9c0b4ef8bb6d6bb9bd380a11",
            ],
        ),
        (HashType::Bool, &["", "o", "truex", "2", "tr ue"]),
        (HashType::Numeric, &["", ".", "1.2.3", "1e", "1e 5", "1e99999", "0x10", "1_0", "-nan"]),
        (HashType::Float8, &["", ".", "1e400", "1e-400", "0x1p3", "1d"]),
        (
            HashType::Date,
            &["01/02/2024", "2024-2-3", "2023-02-29", "2024-13-01", "0000-01-01", "today", "20240101", "2024-01-01x"],
        ),
        (
            HashType::Timestamp,
            &["2024-01-01 25:00", "2024-01-01 10:60", "2024-01-01 10:00:00.1234567", "now", "2024-01-01 10:00 PM"],
        ),
        (HashType::Timestamptz, &["2024-01-01", "2024-01-01 10:00", "2024-01-01 10:00 CET", "2024-01-01 10:00+16"]),
        (HashType::Time, &["24:00:01", "7:00", "12"]),
        (HashType::Bytea, &["\\x123", "\\x1g", "\\", "\\400", "\\x1 2"]),
        (HashType::Char, &["\\101", "é"]),
        (HashType::Text, &["a\0b"]),
    ];
    for (hash_type, texts) in refused {
        for text in *texts {
            assert_eq!(hash_type.read_text(text).map(|v| v.hash()), None, "{} {text:?}", hash_type.sql_name());
        }
    }
}

#[test]
fn parameters_of_other_types_are_hashed_only_where_equality_holds_across_types() {
    let abc = Some(-785388649);
    for (column, value_type, bytes, want) in [
        (HashType::Text, 1043, &b"abc"[..], abc),
        (HashType::Text, 1042, b"abc  ", abc),
        (HashType::Bpchar, 25, b"abc  ", abc),
        (HashType::Varchar, 705, b"abc", abc),
        (HashType::Text, 25, b"\xff", None),
        (HashType::Text, 17, b"abc", None),
        (HashType::Name, 25, &[b'a'; 64], None),
        (HashType::Int4, 20, &[0, 0, 0, 1, 0, 0, 0, 0], None),
        (HashType::Int2, 23, &[0, 1, 0, 0], None),
        (HashType::Int4, 23, &[0, 0, 1], None),
        (HashType::Int4, 0, &[0, 0, 0, 1], None),
        (HashType::Int4, 1700, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 1], None),
        (HashType::Numeric, 1700, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 1], Some(1324868424)),
        (HashType::Numeric, 23, &[0, 0, 0, 1], Some(1324868424)),
        (HashType::Float8, 700, &1.5f32.to_be_bytes(), Some(630860146)),
        (HashType::Timestamp, 1082, &8766i32.to_be_bytes(), Some(645451447)),
        (HashType::Timestamptz, 1082, &8766i32.to_be_bytes(), None),
        (HashType::Char, 18, &[200], None),
        (HashType::Uuid, 2950, &[0; 15], None),
    ] {
        assert_eq!(
            column.read_binary(value_type, bytes).map(|v| v.hash()),
            want,
            "{} from oid {value_type}",
            column.sql_name()
        );
    }
}

#[test]
fn a_value_that_its_column_would_change_is_not_hashed() {
    let numeric_10_2 = (10 << 16 | 2) + 4;
    for (hash_type, typmod, text, is_hashed) in [
        (HashType::Numeric, numeric_10_2, "1.50", true),
        (HashType::Numeric, numeric_10_2, "1.5000", true),
        (HashType::Numeric, numeric_10_2, "1.505", false),
        (HashType::Numeric, (3 << 16 | (-2 & 0x7ff)) + 4, "1200", true),
        (HashType::Numeric, (3 << 16 | (-2 & 0x7ff)) + 4, "1250", false),
        (HashType::Varchar, 3 + 4, "abc", true),
        (HashType::Varchar, 3 + 4, "äöü", true),
        (HashType::Varchar, 3 + 4, "abc ", false),
        (HashType::Bpchar, 3 + 4, "abc ", true),
        (HashType::Timestamp, 0, "2024-01-01 10:00:00.5", false),
        (HashType::Timestamp, 3, "2024-01-01 10:00:00.500000", true),
        (HashType::Int4, -1, "5", true),
    ] {
        assert_eq!(hash_type.read_stored_text(text, typmod).is_some(), is_hashed, "{text:?} typmod {typmod}");
    }
}

#[test]
fn a_binary_value_that_its_column_would_change_is_not_hashed() {
    let numeric_10_2 = (10 << 16 | 2) + 4;
    let one_and_a_half = [0, 2, 0, 0, 0, 0, 0, 1, 0, 1, 0x13, 0x88];
    let half_second = 500_000i64.to_be_bytes();
    for (hash_type, value_type, typmod, bytes, is_hashed) in [
        (HashType::Numeric, 1700, numeric_10_2, &one_and_a_half[..], true),
        (HashType::Numeric, 1700, (10 << 16) + 4, &one_and_a_half, false),
        (HashType::Numeric, 23, (10 << 16) + 4, &[0, 0, 0, 7], true),
        (HashType::Varchar, 25, 3 + 4, b"abc", true),
        (HashType::Varchar, 25, 3 + 4, b"abc ", false),
        (HashType::Timestamp, 1114, 1, &half_second, true),
        (HashType::Timestamp, 1114, 0, &half_second, false),
        (HashType::Timestamp, 1114, 0, &i64::MAX.to_be_bytes(), true),
        (HashType::Timestamp, 1082, 0, &[0, 0, 0, 7], true),
    ] {
        let found = hash_type.read_stored_binary(value_type, bytes, typmod);
        assert_eq!(found.is_some(), is_hashed, "{} {bytes:?} typmod {typmod}", hash_type.sql_name());
    }
}

#[test]
fn a_text_parameter_is_read_as_a_value_of_its_own_type() {
    let abc = Some(-785388649);
    for (column, value_type, text, want) in [
        (HashType::Text, 1042, "abc  ", abc),
        (HashType::Text, 705, "abc", abc),
        (HashType::Int4, 20, " 5", Some(-1330264708)),
        (HashType::Int4, 20, "4294967296", None),
        (HashType::Int8, 23, "4294967296", None),
        (HashType::Numeric, 23, "1", Some(1324868424)),
        (HashType::Int4, 1700, "5", None),
        (HashType::Int4, 25, "5", None),
        (HashType::Float8, 700, "3.14", Some(923353576)),
        (HashType::Float4, 701, "3.14", None),
        (HashType::Timestamp, 1082, "2024-01-01", Some(645451447)),
        (HashType::Timestamp, 1184, "2024-01-01 00:00+02", None),
        (HashType::Text, 17, "abc", None),
    ] {
        assert_eq!(
            column.read_typed_text(value_type, text).map(|v| v.hash()),
            want,
            "{} from oid {value_type}",
            column.sql_name()
        );
    }
}

#[test]
fn intervals_are_those_of_citus() {
    let six = [
        (-2147483648, -1431655767),
        (-1431655766, -715827885),
        (-715827884, -3),
        (-2, 715827879),
        (715827880, 1431655761),
        (1431655762, 2147483647),
    ];
    assert_eq!(intervals(6), six);
    assert_eq!(intervals(8)[0], (-2147483648, -1610612737));
    assert_eq!(intervals(1), [(i32::MIN, i32::MAX)]);
    assert_eq!(intervals(0), []);
}

type Vectors = (HashType, &'static [(&'static str, i32)]);

const VECTORS: &[Vectors] = &[
    (
        HashType::Int4,
        &[
            ("0", -272711505),
            ("1", -1905060026),
            ("2", 1134484726),
            ("-1", 385747274),
            ("-2", -1242090879),
            ("5", -1330264708),
            ("7", -978793473),
            ("42", 1509752520),
            ("100", 108199381),
            ("255", -1811739487),
            ("256", 1851357687),
            ("1000", -840720108),
            ("32767", 1289782602),
            ("-32768", 193646934),
            ("65536", 32085720),
            ("102008", 110517350),
            ("1000000", -723906379),
            ("123456789", 524883300),
            ("2147483647", -96758253),
            ("-2147483648", -1524351049),
        ],
    ),
    (
        HashType::Int8,
        &[
            ("2147483648", -1524351049),
            ("-2147483649", -96758253),
            ("4294967295", 385747274),
            ("4294967296", -1905060026),
            ("-4294967296", -272711505),
            ("4294967297", -272711505),
            ("10000000000", -1011884460),
            ("-10000000000", 168321433),
            ("123456789012345", 297539683),
            ("-123456789012345", -2027941335),
            ("9007199254740993", -1466497253),
            ("1099511627776", 1851357687),
            ("281474976710656", 32085720),
            ("72057594037927936", -565137457),
            ("1234567890123456789", 804253767),
            ("-1234567890123456789", -1747712409),
            ("9223372036854775807", -1524351049),
            ("-9223372036854775808", -96758253),
            ("8589934592", 1134484726),
            ("-8589934592", -1905060026),
        ],
    ),
    (
        HashType::Text,
        &[
            ("", -1477818771),
            ("a", 1075015857),
            ("b", -68821088),
            ("ab", 1718550461),
            ("abc", -785388649),
            ("abcd", -393934804),
            ("abcde", -445659580),
            ("abcdefg", 501636814),
            ("abcdefgh", -1960928205),
            ("abcdefghi", -92131489),
            ("abcdefghijk", -1483803693),
            ("abcdefghijkl", -1586087212),
            ("abcdefghijklm", 405849808),
            ("tenant-1", -475081847),
            ("Tenant-1", -2013583897),
            ("hello world", 1021725223),
            ("é", -983094517),
            ("漢字", -1364838151),
            ("🎉", -884816815),
            ("The quick brown fox jumps over the lazy dog", -827430201),
            ("abc  ", 816640512),
        ],
    ),
    (
        HashType::Bpchar,
        &[
            ("", -1477818771),
            ("a", 1075015857),
            ("a   ", 1075015857),
            ("ab", 1718550461),
            ("abc", -785388649),
            ("abc ", -785388649),
            ("abcd", -393934804),
            ("  a", -1282240268),
            ("abcdefghijkl", -1586087212),
            ("abcdefghijkl   ", -1586087212),
            ("é ", -983094517),
            ("US", -928398876),
            ("DE", 1060479085),
            ("FR", 461011767),
            ("x y", 1688387937),
            ("x y ", 1688387937),
            ("0", -1970733076),
            ("00", 402926142),
            ("1 ", -631133447),
            ("tenant-1  ", -475081847),
        ],
    ),
    (
        HashType::Uuid,
        &[
            ("00000000-0000-0000-0000-000000000000", 1353656403),
            ("00000000-0000-0000-0000-000000000001", -1046387463),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", -682383255),
            ("123e4567-e89b-12d3-a456-426614174000", 1944658063),
            ("550e8400-e29b-41d4-a716-446655440000", -379807113),
            ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", -54382947),
            ("6ba7b811-9dad-11d1-80b4-00c04fd430c8", -1028021209),
            ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", 1154666245),
            ("01234567-89ab-cdef-0123-456789abcdef", -273596085),
            ("fedcba98-7654-3210-fedc-ba9876543210", 167810181),
            ("10000000-0000-0000-0000-000000000000", 2053518782),
            ("00000000-0000-4000-8000-000000000000", -316098778),
            ("deadbeef-dead-beef-dead-beefdeadbeef", 1052026665),
            ("018f4e5a-0000-7000-8000-000000000001", 1955233319),
            ("018f4e5a-0000-7000-8000-000000000002", -1617820715),
            ("11111111-1111-1111-1111-111111111111", -276850746),
            ("22222222-2222-2222-2222-222222222222", 450006990),
            ("7f000001-0000-0000-0000-000000000000", 494748940),
            ("00000000-0000-0000-ffff-ffffffffffff", 2108276889),
            ("80000000-0000-0000-0000-000000000000", 687653094),
        ],
    ),
    (
        HashType::Numeric,
        &[
            ("0", -1),
            ("0.000", -1),
            ("1", 1324868424),
            ("1.000", 1324868424),
            ("-1", 1324868424),
            ("-0.5", -1968164085),
            ("0.5", -1968164085),
            ("10", -1143929986),
            ("100", 1186574835),
            ("10000", 1324868425),
            ("10000.0000", 1324868425),
            ("12345", 1564532200),
            ("123456789", -2041232918),
            ("0.0001", -1324868425),
            ("0.00001", 1951971036),
            ("99.50", -252677737),
            ("1e20", 1324868429),
            ("NaN", 0),
            ("Infinity", 0),
            ("-Infinity", 0),
            ("123.456", -399983760),
            ("-123.456", -399983760),
            ("9999", 1699550555),
            ("100000000", 1324868426),
        ],
    ),
    (
        HashType::Timestamp,
        &[
            ("2000-01-01", -272711505),
            ("2000-01-01 00:00:01", -723906379),
            ("1999-12-31 23:59:59", -890640397),
            ("2024-01-01", 645451447),
            ("2024-02-29 12:34:56.789", 671739013),
            ("1970-01-01", 680174221),
            ("2038-01-19 03:14:07", -204965691),
            ("infinity", -1524351049),
            ("-infinity", -96758253),
            ("0001-01-01", 255550282),
            ("9999-12-31 23:59:59.999999", 633324798),
            ("2000-01-01 00:00:00.000001", -1905060026),
            ("1999-12-31 23:59:59.999999", 385747274),
            ("2020-06-15 08:00", -122657122),
            ("2021-06-15 08:00", -1240886998),
            ("2022-06-15 08:00", 1104028391),
            ("2023-06-15 08:00", -1464120594),
            ("2025-12-25", 1862535068),
            ("2026-11-20 10:00", 512175817),
            ("4713-01-01 BC", -1021181544),
        ],
    ),
    (
        HashType::Timestamptz,
        &[
            ("2000-01-01 00:00Z", -272711505),
            ("2024-01-01T00:00:00Z", 645451447),
            ("2024-01-01 02:00:00+02", 645451447),
            ("2023-12-31 18:30:00-05:30", 645451447),
            ("2024-01-01 00:00:00+0000", 645451447),
            ("infinity", -1524351049),
        ],
    ),
    (
        HashType::Date,
        &[
            ("2000-01-01", -272711505),
            ("2000-01-02", -1905060026),
            ("1999-12-31", 385747274),
            ("2024-01-01", -1661621463),
            ("2024-02-29", 1456914585),
            ("1970-01-01", -1538670306),
            ("2038-01-19", -1113690686),
            ("0001-01-01", 1642854232),
            ("9999-12-31", 39749528),
            ("2020-06-15", -263839871),
            ("2021-06-15", -1483367485),
            ("2022-06-15", -1971068063),
            ("2023-06-15", -1960805061),
            ("2025-12-25", -1176374465),
            ("2026-11-20", -1682019301),
            ("1900-01-01", 728322659),
            ("1582-10-15", -2064278209),
            ("2100-12-31", -796890975),
            ("1999-01-01", 113493137),
            ("2001-09-11", -407895217),
            ("infinity", -96758253),
            ("-infinity", -1524351049),
        ],
    ),
    (HashType::Bool, &[("true", -1905060026), ("false", -272711505), (" T ", -1905060026), ("of", -272711505)]),
    (HashType::Char, &[("a", 463612535)]),
    (HashType::Oid, &[("16384", -1726903597), ("5", -1330264708)]),
    (HashType::Name, &[("abc", -785388649)]),
    (HashType::Varchar, &[("tenant-12345678", 358760307)]),
    (HashType::Bytea, &[("ab", 1718550461), ("\\x6162", 1718550461), ("\\141b", 1718550461)]),
    (
        HashType::Time,
        &[
            ("00:00", -272711505),
            ("00:00:01", -723906379),
            ("12:34:56.789", 1053370306),
            ("23:59:59.999999", 38296624),
            ("24:00", -2053980660),
            ("01:00", 2088495825),
        ],
    ),
    (
        HashType::Float8,
        &[
            ("0", 0),
            ("-0", 0),
            ("1", 376496956),
            ("-1", 1360688392),
            ("1.5", 630860146),
            ("3.14", -836726676),
            ("1e100", -657996652),
            ("NaN", -1275764840),
            ("Infinity", -2133226302),
            ("-Infinity", -1377680656),
        ],
    ),
    (HashType::Float4, &[("3.14", 923353576), ("1.5", 630860146), ("NaN", -1275764840)]),
    (HashType::Int2, &[("1", -1905060026), (" +2\t", 1134484726)]),
];
