//! Rows and values as PostgreSQL reads them, however the data is cut.

use proptest::prelude::*;

use super::*;

fn target(columns: usize, column: usize) -> CopyTarget {
    CopyTarget { table: "t".into(), columns: (0..columns).map(|i| format!("c{i}")).collect(), column }
}

fn csv(change: impl FnOnce(&mut CsvOptions)) -> CopyFormat {
    let CopyFormat::Csv(mut options) = CopyFormat::csv() else { unreachable!() };
    change(&mut options);
    CopyFormat::Csv(options)
}

/// Bytes, value (none: NULL) and line.
type Split = Vec<(Vec<u8>, Option<Vec<u8>>, u64)>;

/// The rows, and how it ended: message and context.
fn split_in(format: &CopyFormat, target: CopyTarget, chunks: &[&[u8]]) -> (Split, Option<(String, String)>) {
    let mut splitter = RowSplitter::new(format.clone(), target, 10_000);
    let mut rows = Vec::new();
    for i in 0..=chunks.len() {
        match chunks.get(i) {
            Some(chunk) => splitter.push(chunk),
            None => splitter.finish(),
        }
        loop {
            match splitter.next_row() {
                Ok(None) => break,
                Ok(Some(row)) => {
                    let value = match row.value {
                        FieldValue::Null => None,
                        FieldValue::Text(text) => Some(text.into_owned()),
                        FieldValue::Binary(bytes) => Some(bytes.to_vec()),
                    };
                    rows.push((row.bytes.to_vec(), value, row.line));
                }
                Err(error) => {
                    let context = error.fields().find(|f| f.0 == b'W').map_or("", |f| f.1).to_owned();
                    return (rows, Some((error.message().to_owned(), context)));
                }
            }
        }
    }
    (rows, None)
}

fn values(format: CopyFormat, data: &str) -> Vec<Option<String>> {
    let (rows, error) = split_in(&format, target(1, 0), &[data.as_bytes()]);
    assert_eq!(error, None, "{data:?}");
    rows.into_iter().map(|r| r.1.map(|v| String::from_utf8(v).unwrap())).collect()
}

fn some(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|v| Some(v.to_string())).collect()
}

fn mistake(format: CopyFormat, columns: usize, data: &str) -> (String, String) {
    split_in(&format, target(columns, columns - 1), &[data.as_bytes()]).1.expect(data)
}

#[test]
fn text_escapes_stand_for_their_bytes() {
    assert_eq!(values(CopyFormat::text(), "a\\tb\n\\x41\\101\\x4g\n\\q\\\\\\N\n"), some(&["a\tb", "AA\x04g", "q\\N"]));
    assert_eq!(values(CopyFormat::text(), "\\N\n\\\\N\n\n"), [None, Some("\\N".into()), Some("".into())]);
    assert_eq!(values(CopyFormat::text(), "a\\\nb\n"), some(&["a\nb"]));
    assert_eq!(values(CopyFormat::text(), "a\\\tb"), some(&["a\tb"]));
}

#[test]
fn every_newline_style_ends_rows() {
    for data in ["a\nb\n", "a\rb\r", "a\r\nb\r\n", "a\r\nb", "a\nb\n\\.\nrubbish", "a\nb\\.\n", "a\rb\\"] {
        assert_eq!(values(CopyFormat::text(), data), some(&["a", "b"]), "{data:?}");
    }
}

#[test]
fn a_last_line_without_newline_gets_the_newline_of_the_others() {
    for (data, last) in [("a\nb", "b\n"), ("a\r\nb", "b\r\n"), ("a\rb\\", "b\r"), ("b\\.\n", "b\n")] {
        let (rows, _) = split_in(&CopyFormat::text(), target(1, 0), &[data.as_bytes()]);
        assert_eq!(rows.last().unwrap().0, last.as_bytes(), "{data:?}");
    }
}

#[test]
fn csv_quotes_hold_newlines_delimiters_and_quotes() {
    let data = "\"a\nb\"\n\"a,\"\"b\"\"\"\nx\"y\"z\n\"\"\n\n\\.\nrest";
    let mut want = some(&["a\nb", "a,\"b\"", "xyz", ""]);
    want.push(None);
    assert_eq!(values(CopyFormat::csv(), data), want);
    assert_eq!(values(csv(|c| c.escape = b'\\'), "\"a\\\"b\\\\\"\n\"a\\nb\"\n"), some(&["a\"b\\", "a\\nb"]));
    assert_eq!(values(CopyFormat::csv(), "\\.x\n"), some(&["\\.x"]));
}

#[test]
fn force_options_decide_what_null_is() {
    assert_eq!(values(csv(|c| c.force_not_null = true), "\n"), some(&[""]));
    assert_eq!(values(csv(|c| c.force_null = true), "\"\"\n"), [None]);
}

#[test]
fn a_header_is_taken_off_and_counted() {
    let format = csv(|c| c.header = Header::Match);
    let (rows, error) = split_in(&format, target(2, 1), &[b"c0,\"c1\"\n1,2\n"]);
    assert_eq!((rows, error), (vec![(b"1,2\n".to_vec(), Some(b"2".to_vec()), 2)], None));
    let mistakes = [
        ("c0\n", "wrong number of fields in header line: got 1, expected 2"),
        ("c0,x\n", "column name mismatch in header line field 2: got \"x\", expected \"c1\""),
        ("c0,\n", "column name mismatch in header line field 2: got null value (\"\"), expected \"c1\""),
    ];
    for (data, want) in mistakes {
        assert_eq!(mistake(format.clone(), 2, data).0, want);
    }
}

#[test]
fn errors_are_those_of_postgres_with_their_line() {
    let (text, csv) = (CopyFormat::text(), CopyFormat::csv());
    for (format, data, message, context) in [
        (&text, "1\t2\n3\n", "missing data for column \"c1\"", "COPY t, line 2: \"3\""),
        (&csv, "1,\"a\rb\"\n\"x\ny\"\n", "missing data for column \"c1\"", "COPY t, line 4: \"\"x\ny\"\""),
        (&text, "1\t2\n3\t4\r\n", "literal carriage return found in data", "COPY t, line 2"),
        (&csv, "1,2\r\n3,4\n", "unquoted newline found in data", "COPY t, line 2"),
        (&csv, "1,\"2\n", "unterminated CSV quoted field", "COPY t, line 1"),
        (&text, "1\t2\n\\.x\n", "end-of-copy marker corrupt", "COPY t, line 2"),
        (&text, "1\t2\r\n\\.\n", "end-of-copy marker does not match previous newline style", "COPY t, line 2"),
    ] {
        let found = mistake(format.clone(), 2, data);
        assert_eq!((found.0.as_str(), found.1.as_str()), (message, context), "{data:?}");
    }
    let long = "é".repeat(80);
    let context = format!("COPY t, line 1: \"{}...\"", "é".repeat(50));
    assert_eq!(mistake(text, 2, &long).1, context);
}

#[test]
fn a_row_larger_than_the_limit_is_refused_whether_it_is_whole_or_not() {
    for chunks in [&[&[b'a'; 10_001][..]][..], &[&[b'a'; 6_000], &[b'a'; 6_000]], &[&[b'a'; 10_000], b"\n"]] {
        let (_, error) = split_in(&CopyFormat::text(), target(1, 0), chunks);
        assert_eq!(error.unwrap().0, "a row of COPY data is larger than 10000 bytes");
    }
}

fn binary(tuples: &[&[Option<&[u8]>]], trailer: &[u8]) -> Vec<u8> {
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x03ext".to_vec();
    for tuple in tuples {
        data.extend((tuple.len() as i16).to_be_bytes());
        for field in *tuple {
            data.extend(field.map_or(-1, |f| f.len() as i32).to_be_bytes());
            data.extend(field.unwrap_or_default());
        }
    }
    data.extend(trailer);
    data
}

#[test]
fn binary_tuples_are_cut_by_their_lengths() {
    let data = binary(&[&[Some(b"ab"), Some(b"c")], &[None, Some(b"")], &[Some(b"\xff\xff"), None]], &BINARY_TRAILER);
    let (rows, error) = split_in(&CopyFormat::Binary, target(2, 1), &[&data]);
    assert_eq!(error, None);
    let found: Vec<_> = rows.iter().map(|r| (r.1.as_deref(), r.2)).collect();
    assert_eq!(found, [(Some(&b"c"[..]), 1), (Some(b""), 2), (None, 3)]);
    assert_eq!(rows[0].0, b"\0\x02\0\0\0\x02ab\0\0\0\x01c");
    let mut splitter = RowSplitter::new(CopyFormat::Binary, target(2, 1), 100);
    splitter.push(&data);
    assert!(splitter.next_row().unwrap().is_some());
    assert_eq!(splitter.binary_header(), &data[..22]);
}

#[test]
fn malformed_binary_data_is_refused_with_postgres_messages() {
    let good = binary(&[&[Some(b"ab")]], &[]);
    let mut critical = good.clone();
    critical[12] = 2;
    let mut negative = good.clone();
    negative[24] = 0x80;
    let two = binary(&[&[Some(b"ab"), None]], &BINARY_TRAILER);
    let after = binary(&[], b"\xff\xffx");
    for (data, message, context) in [
        (&b"PGCOPX"[..], "COPY file signature not recognized", "COPY t, line 0"),
        (b"", "COPY file signature not recognized", "COPY t, line 0"),
        (&good[..14], "invalid COPY file header (missing flags)", "COPY t, line 0"),
        (&good[..17], "invalid COPY file header (missing length)", "COPY t, line 0"),
        (&good[..20], "invalid COPY file header (wrong length)", "COPY t, line 0"),
        (&critical, "unrecognized critical flags in COPY file header", "COPY t, line 0"),
        (&good[..good.len() - 1], "unexpected EOF in COPY data", "COPY t, line 1, column c0"),
        (&negative, "invalid field size", "COPY t, line 1, column c0"),
        (&two, "row field count is 2, expected 1", "COPY t, line 1"),
        (&after, "received copy data after EOF marker", "COPY t, line 1"),
    ] {
        let (_, error) = split_in(&CopyFormat::Binary, target(1, 0), &[data]);
        assert_eq!(error, Some((message.into(), context.into())));
    }
}

fn arbitrary_format() -> impl Strategy<Value = CopyFormat> {
    prop_oneof![
        Just(CopyFormat::text()),
        Just(CopyFormat::Text { delimiter: b',', null: b"a".to_vec(), header: Header::Skip }),
        Just(CopyFormat::csv()),
        Just(csv(|c| c.escape = b'\\')),
        Just(csv(|c| (c.delimiter, c.quote, c.header) = (b'\t', b'\\', Header::Skip))),
    ]
}

fn cut<'a>(data: &'a [u8], at: &[usize]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = at.iter().map(|i| i % (data.len() + 1)).collect();
    at.extend([0, data.len()]);
    at.sort_unstable();
    at.windows(2).map(|w| &data[w[0]..w[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn chunk_boundaries_change_nothing(
        format in arbitrary_format(),
        data in "[ab,\t\"\\\\.\r\n\nNx1]{0,40}",
        at in proptest::collection::vec(any::<usize>(), 0..8),
        columns in 1usize..3,
    ) {
        let whole = split_in(&format, target(columns, columns - 1), &[data.as_bytes()]);
        let single: Vec<&[u8]> = data.as_bytes().chunks(1).collect();
        prop_assert_eq!(&whole, &split_in(&format, target(columns, columns - 1), &cut(data.as_bytes(), &at)));
        prop_assert_eq!(&whole, &split_in(&format, target(columns, columns - 1), &single));
    }

    #[test]
    fn chunk_boundaries_change_nothing_in_binary(
        fields in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..5)), 0..6),
        noise in proptest::collection::vec(any::<u8>(), 0..4),
        at in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let tuples: Vec<Vec<Option<&[u8]>>> = fields.chunks(2).map(|t| t.iter().map(|f| f.as_deref()).collect()).collect();
        let tuples: Vec<&[Option<&[u8]>]> = tuples.iter().map(Vec::as_slice).collect();
        let data = binary(&tuples, &noise);
        let whole = split_in(&CopyFormat::Binary, target(2, 1), &[&data]);
        prop_assert_eq!(&whole, &split_in(&CopyFormat::Binary, target(2, 1), &cut(&data, &at)));
    }

    #[test]
    fn rows_read_again_are_the_same_rows(format in arbitrary_format(), data in "[ab,\t\"\\\\.\r\n\nNx1]{0,40}") {
        let (rows, _) = split_in(&format, target(1, 0), &[data.as_bytes()]);
        let mut plain = format.clone();
        match &mut plain {
            CopyFormat::Text { header, .. } | CopyFormat::Csv(CsvOptions { header, .. }) => *header = Header::Absent,
            CopyFormat::Binary => {}
        }
        for (bytes, value, _) in rows {
            let (again, error) = split_in(&plain, target(1, 0), &[&bytes]);
            prop_assert_eq!(error, None);
            let again: Vec<_> = again.into_iter().map(|(bytes, value, _)| (bytes, value)).collect();
            prop_assert_eq!(again, vec![(bytes, value)]);
        }
    }
}
