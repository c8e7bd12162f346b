//! Keeps the floors: a room uses rooms on lower floors only, one room names the SQL parser, files stay small and
//! say what they are for.

use std::path::{Path, PathBuf};

/// From the ground up. Rooms on one floor do not use each other. `main.rs`, `app.rs` and `lib.rs` are the roof.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["wire", "shard_map", "transport", "dev_cluster", "tally"],
    &["sql", "auth"],
    &["planner", "backend"],
    &["catalog"],
    &["executor"],
    &["operations"],
    &["functions", "jobs"],
    &["session", "admin"],
    &["config"],
    &["console"],
    &["cli"],
];
const ROOF: &[&str] = &["main", "app", "lib"];
const LINES_MAX: usize = 700;
const PARSER: &str = "sqlparser";
const PARSER_ROOM: &str = "sql";
/// What runs on data threads, which have no timers: `transport/timer.rs` makes those that they use.
const WITHOUT_TIMERS: &[&str] = &["transport", "backend", "executor", "session"];
const TIMERS: &[&str] = &["time::sleep", "time::timeout", "time::interval"];

#[test]
fn every_file_keeps_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 10, "the sources are where this test looks");
    let violations: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).expect("a source file is UTF-8");
            violations(file.strip_prefix(&root).expect("found below it"), &text)
        })
        .collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// What a file, named by its path below `src`, does that it must not; each as one line.
fn violations(file: &Path, text: &str) -> Vec<String> {
    let name = file.display();
    let room = room_of(file);
    let mut found = Vec::new();
    if floor(&room).is_none() && !ROOF.contains(&room.as_str()) {
        found.push(format!("{name}: room \"{room}\" has no floor; give it one in tests/architecture.rs and DESIGN"));
    }
    if !text.starts_with("//!") {
        found.push(format!("{name}: does not start with //! and what the file is for"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{name}: {lines} lines, more than {LINES_MAX}; is there a second subject in it?"));
    }
    let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    for (number, line) in code.map(|(index, line)| (index + 1, line)) {
        if room != PARSER_ROOM && words(line).any(|word| word == PARSER) {
            found.push(format!("{name}:{number}: only {PARSER_ROOM} names {PARSER}"));
        }
        if WITHOUT_TIMERS.contains(&room.as_str())
            && !file.ends_with("timer.rs")
            && TIMERS.iter().any(|timer| line.contains(timer))
        {
            found.push(format!("{name}:{number}: {room} takes its timers from transport::timer"));
        }
        if !ROOF.contains(&room.as_str()) {
            found.extend(used_rooms(file, line).filter_map(|used| {
                let why = refusal(&room, used)?;
                Some(format!("{name}:{number}: {why}"))
            }));
        }
    }
    found
}

fn refusal(room: &str, used: Used) -> Option<String> {
    match used {
        Used::Several => {
            Some("names rooms as a group or by *; one `use crate::room::...` a line keeps them visible".into())
        }
        Used::Room(used) if used == room => None,
        Used::Room(used) => match (floor(used), floor(room)) {
            (Some(below), Some(own)) if below < own => None,
            (Some(_), _) => Some(format!("{room} -> {used}: not on a lower floor")),
            (None, _) => Some(format!("{room} -> {used}: only the roof knows the roof")),
        },
    }
}

enum Used<'a> {
    Room(&'a str),
    Several,
}

/// The rooms that a line of code names: after `crate::`, and in a room's `mod.rs` after `super::` too.
fn used_rooms<'a>(file: &Path, line: &'a str) -> impl Iterator<Item = Used<'a>> {
    let by_crate = after(line, "crate::").map(|rest| match word(rest) {
        "" => Used::Several,
        room => Used::Room(room),
    });
    let is_entrance = file.components().count() == 2 && file.ends_with("mod.rs");
    let by_super = after(line, "super::").filter(move |_| is_entrance).map(word).filter(|room| floor(room).is_some());
    by_crate.chain(by_super.map(Used::Room))
}

/// What follows each occurrence of a path's start, where it is a word of its own.
fn after<'a>(line: &'a str, start: &'static str) -> impl Iterator<Item = &'a str> {
    line.match_indices(start)
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
        .map(move |(at, _)| &line[at + start.len()..])
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The folder or file directly below `src`.
fn room_of(file: &Path) -> String {
    let first = file.iter().next().expect("a file has a name");
    Path::new(first).file_stem().expect("a file has a name").to_string_lossy().into_owned()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
}

#[test]
fn a_rule_that_is_broken_is_named_with_its_line() {
    let broken = |file: &str, line: &str| violations(Path::new(file), &format!("//! Header.\n{line}\n")).join(";");
    for (file, line, want) in [
        ("wire/mod.rs", "use crate::session::Session;", "wire/mod.rs:2: wire -> session: not on a lower floor"),
        ("wire/frame.rs", "let x = crate::shard_map::ShardId(1);", "wire -> shard_map: not on a lower floor"),
        ("wire/mod.rs", "use super::shard_map::ShardId;", "wire -> shard_map: not on a lower floor"),
        ("wire/mod.rs", "use crate::app::App;", "only the roof knows the roof"),
        ("cli/mod.rs", "use crate::{wire, sql};", "as a group"),
        ("cli/mod.rs", "use crate::*;", "as a group"),
        ("planner/router.rs", "use sqlparser::ast::Statement;", "only sql names sqlparser"),
        ("main.rs", "use sqlparser::ast::Statement;", "only sql names sqlparser"),
        (
            "session/run.rs",
            "tokio::time::sleep(PAUSE).await;",
            "session/run.rs:2: session takes its timers from transport::timer",
        ),
        ("util/mod.rs", "", "has no floor"),
    ] {
        let found = broken(file, line);
        assert!(found.contains(want), "{file}: {line}: {found:?}");
    }
    for (file, line) in [
        ("session/mod.rs", "use crate::wire::Frame;"),
        ("session/mod.rs", "use crate::session::login;"),
        ("session/login.rs", "use super::startup::Startup;"),
        ("session/mod.rs", "// crate::cli would be too high"),
        ("sql/parse.rs", "use sqlparser::ast::Statement;"),
        ("cli/demo/mod.rs", "use crate::dev_cluster::DevCluster;"),
        ("transport/timer.rs", "tokio::time::sleep(duration)"),
        ("app.rs", "use crate::session::Session;"),
    ] {
        assert_eq!(broken(file, line), "", "{file}: {line}");
    }
    assert!(violations(Path::new("wire/row.rs"), "fn row() {}\n")[0].contains("does not start with //!"));
    let long = format!("//! Header.\n{}", "\n".repeat(LINES_MAX));
    assert!(violations(Path::new("wire/row.rs"), &long)[0].contains("701 lines"));
}
