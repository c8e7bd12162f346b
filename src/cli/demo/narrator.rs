//! How the story is told: chapters, what a user would type, what came back, and how long it took.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::cli::connection::Connection;
use crate::cli::table::Table;
use crate::error::Result;

/// Prints to the standard output stream, in colours on a terminal.
pub struct Narrator {
    colours: bool,
    chapter: usize,
}

impl Narrator {
    pub fn new() -> Self {
        Self { colours: std::io::stdout().is_terminal(), chapter: 0 }
    }

    pub fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let line = format!("{}. {title}", self.chapter);
        println!("\n{}\n{}\n", self.painted(BOLD, &line), self.painted(BOLD, &"─".repeat(line.chars().count())));
    }

    /// A command of the shell.
    pub fn shell(&self, command: &str) {
        println!("{} {}", self.painted(FAINT, "$"), self.painted(BLUE, command));
    }

    /// Runs one statement and shows it with its answer and time.
    pub async fn ask(&self, connection: &Connection, sql: &str) -> Result<Table> {
        self.prompt(sql);
        let start = Instant::now();
        let table = connection.ask(sql).await?;
        let time = start.elapsed();
        if !table.columns.is_empty() {
            println!("{table}");
        }
        self.time(time);
        Ok(table)
    }

    /// A statement as psql shows what is typed.
    pub fn prompt(&self, sql: &str) {
        for (number, line) in sql.lines().enumerate() {
            let prompt = if number == 0 { "postgres=#" } else { "postgres-#" };
            let end = if number + 1 == sql.lines().count() { ";" } else { "" };
            println!("{} {}{end}", self.painted(FAINT, prompt), self.painted(BLUE, line));
        }
    }

    /// A line that came back.
    pub fn answer(&self, line: &str) {
        println!("{line}");
    }

    pub fn time(&self, time: Duration) {
        println!("{}\n", self.painted(FAINT, &format!("Time: {:.3} ms", time.as_secs_f64() * 1000.0)));
    }

    pub fn remark(&self, text: &str) {
        println!("{}", self.painted(FAINT, &format!("-- {text}")));
    }

    pub fn good(&self, text: &str) {
        println!("\n{}\n", self.painted(GREEN, text));
    }

    /// Names and values under each other.
    pub fn facts(&self, facts: &[(&str, String)]) {
        let wide = |of: fn(&(&str, String)) -> usize| facts.iter().map(of).max().unwrap_or(0);
        let (names, values) = (wide(|(name, _)| name.len()), wide(|(_, value)| value.len()));
        for (name, value) in facts {
            println!("  {name:<names$}  {}", self.painted(BOLD, &format!("{value:>values$}")));
        }
        println!();
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const BOLD: &str = "1";
const FAINT: &str = "2";
const BLUE: &str = "34";
const GREEN: &str = "1;32";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        for (number, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), want);
        }
    }
}
