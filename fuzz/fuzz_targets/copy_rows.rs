//! COPY data in messages of any size: the rows do not depend on where the messages are cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tenantry_fuzz::wire::copy_rows::{CopyFormat, CopyTarget, CsvOptions, Header, RowSplitter};

fuzz_target!(|data: &[u8]| {
    let Some((&[format, header, column, piece], data)) = data.split_first_chunk() else { return };
    let header = [Header::Absent, Header::Skip, Header::Match][usize::from(header % 3)];
    let format = match format % 5 {
        0 => CopyFormat::Text { delimiter: b'\t', null: b"\\N".to_vec(), header },
        1 => CopyFormat::Text { delimiter: b',', null: Vec::new(), header },
        2 => CopyFormat::Binary,
        3 => CopyFormat::Csv(CsvOptions { header, ..csv() }),
        _ => CopyFormat::Csv(CsvOptions { escape: b'\\', quote: b'\'', force_null: true, header, ..csv() }),
    };
    let whole = rows(&format, column, data, data.len().max(1));
    let pieces = rows(&format, column, data, usize::from(piece).max(1));
    assert_eq!(whole, pieces);
});

fn csv() -> CsvOptions {
    CsvOptions {
        delimiter: b',',
        quote: b'"',
        escape: b'"',
        null: Vec::new(),
        header: Header::Absent,
        force_not_null: false,
        force_null: false,
    }
}

/// Each row in short, and how it ended.
fn rows(format: &CopyFormat, column: u8, data: &[u8], piece: usize) -> (Vec<String>, String) {
    let columns = ["a", "b", "c"].map(str::to_owned).to_vec();
    let target = CopyTarget { table: "t".to_owned(), columns, column: usize::from(column % 3) };
    let mut splitter = RowSplitter::new(format.clone(), target, 1 << 20);
    let mut found = Vec::new();
    for piece in data.chunks(piece).map(Some).chain([None]) {
        match piece {
            Some(bytes) => splitter.push(bytes),
            None => splitter.finish(),
        }
        loop {
            match splitter.next_row() {
                Ok(Some(row)) => {
                    assert!(!row.bytes.is_empty());
                    found.push(format!("{} {:?} {:?}", row.line, row.bytes, row.value));
                }
                Ok(None) => break,
                Err(error) => return (found, error.to_string()),
            }
        }
    }
    (found, "end".to_owned())
}
