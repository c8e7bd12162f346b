//! Rows printed as psql prints them, and as JSON.
//!
//! ```text
//!    nodeid | nodename
//!   --------+-----------
//!         1 | 127.0.0.1
//!   (1 row)
//! ```

use std::fmt;

/// Text in columns; `None` is NULL.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

impl Table {
    /// The field, when there is such a row and column and it is not NULL.
    pub fn at(&self, row: usize, column: usize) -> Option<&str> {
        self.rows.get(row)?.get(column)?.as_deref()
    }

    /// The first field as a number.
    pub fn number(&self) -> Option<i64> {
        self.at(0, 0)?.parse().ok()
    }

    /// One object a row. What is a whole number, `t` or `f` becomes a number or boolean.
    pub fn to_json(&self) -> serde_json::Value {
        let object = |row: &Vec<Option<String>>| {
            let fields = row.iter().map(|field| field.as_deref().map_or(serde_json::Value::Null, to_json));
            serde_json::Value::Object(self.columns.iter().cloned().zip(fields).collect())
        };
        self.rows.iter().map(object).collect()
    }
}

fn to_json(text: &str) -> serde_json::Value {
    match (text, text.parse::<i64>()) {
        (_, Ok(number)) => number.into(),
        ("t", _) => true.into(),
        ("f", _) => false.into(),
        _ => text.into(),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<Vec<&str>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|field| field.as_deref().unwrap_or_default()).collect())
            .collect();
        let column = |index: usize| shown.iter().filter_map(move |row| row.get(index).copied());
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| column(index).chain([self.columns[index].as_str()]).map(width).max().unwrap_or(0))
            .collect();
        let numbers: Vec<bool> = (0..self.columns.len())
            .map(|index| column(index).filter(|field| !field.is_empty()).all(|field| field.parse::<f64>().is_ok()))
            .collect();
        let centred = |(name, wide): (&String, &usize)| {
            let space = wide - width(name);
            format!(" {}{name}{} ", " ".repeat(space / 2), " ".repeat(space - space / 2))
        };
        let head: Vec<_> = self.columns.iter().zip(&widths).map(centred).collect();
        writeln!(f, "{}", head.join("|").trim_end())?;
        writeln!(f, "{}", widths.iter().map(|wide| "-".repeat(wide + 2)).collect::<Vec<_>>().join("+"))?;
        for row in &shown {
            let aligned = row.iter().zip(widths.iter().zip(&numbers)).map(|(field, (wide, number))| {
                let space = " ".repeat(wide - width(field));
                if *number { format!(" {space}{field} ") } else { format!(" {field}{space} ") }
            });
            writeln!(f, "{}", aligned.collect::<Vec<_>>().join("|").trim_end())?;
        }
        let count = self.rows.len();
        write!(f, "({count} row{})", if count == 1 { "" } else { "s" })
    }
}

/// Columns on a screen, near enough: one for each character.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |fields: [Option<&str>; 3]| fields.map(|field| field.map(str::to_owned)).to_vec();
        Table {
            columns: ["nodeid", "nodename", "ok"].map(str::to_owned).to_vec(),
            rows: vec![row([Some("1"), Some("127.0.0.1"), Some("t")]), row([Some("12"), Some("größer"), None])],
        }
    }

    #[test]
    fn rows_are_printed_as_psql_prints_them() {
        let want = " nodeid | nodename  | ok\n--------+-----------+----\n      1 | 127.0.0.1 | t\n     12 | größer    |\n(2 rows)";
        assert_eq!(table().to_string(), want);
        let none = Table { columns: vec!["count".to_owned()], rows: vec![] };
        assert_eq!(none.to_string(), " count\n-------\n(0 rows)");
    }

    #[test]
    fn rows_become_objects() {
        let json = table().to_json();
        assert_eq!(json[0], serde_json::json!({"nodeid": 1, "nodename": "127.0.0.1", "ok": true}));
        assert_eq!(json[1]["ok"], serde_json::Value::Null);
    }
}
