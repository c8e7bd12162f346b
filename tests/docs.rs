//! Keeps the documents true where a machine can: links lead somewhere, and every function and setting is described.

use std::path::{Path, PathBuf};

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        for target in links(&text).into_iter().filter(|t| !t.contains("://") && !t.starts_with("mailto:")) {
            let (path, heading) =
                target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
            let file = match path {
                "" => document.clone(),
                path => document.parent().expect("a file is in a folder").join(path),
            };
            let leads =
                file.exists() && heading.is_none_or(|wanted| headings(&read(&file)).contains(&wanted.to_owned()));
            if !leads {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_source_file_that_is_named_exists() {
    let mut missing = Vec::new();
    for document in documents() {
        let text = read(&document);
        let words = text.split(|c: char| c.is_whitespace() || "()[]`,;:\"'*|<>".contains(c));
        for word in words.map(|w| w.trim_end_matches(['.', '/'])) {
            let is_path =
                ["src/", "tests/", "benches/", "config/", "docs/", "scripts/"].iter().any(|f| word.starts_with(f));
            if is_path && !word.contains("...") && !root().join(word).exists() {
                missing.push(format!("{}: {word}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn every_threat_has_an_outcome_and_a_test_that_exists() {
    let text = read(&root().join("docs/threats.md"));
    let is_row = |line: &&str| line.starts_with("| T") || line.starts_with("| C");
    let rows: Vec<&str> = text.lines().filter(is_row).collect();
    let numbers: Vec<&str> = rows.iter().map(|row| &row[2..5]).collect();
    let threats = (1..=50).map(|n| format!("T{n:02}"));
    let cutovers = (1..=18).chain([22, 25]).map(|n| format!("C{n:02}"));
    assert_eq!(numbers, threats.chain(cutovers).collect::<Vec<_>>());
    for row in rows {
        let named = || tests_named_in(row);
        assert!(named().next().is_some() || row.contains("not shown yet"), "no test, and not said so: {row}");
        let number = &row[2..5];
        let names_it = |text: String| text.contains(number) || text.contains(&format!("{}_", number.to_lowercase()));
        let is_case = number.starts_with('C');
        assert!(is_case || named().any(|(path, _)| names_it(read(&root().join(path)))), "no test says {number}: {row}");
        named().for_each(|test| assert_it_exists(test, row));
    }
}

#[test]
fn every_promise_has_a_test_that_exists() {
    let text = read(&root().join("docs/promises.md"));
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| promise ");
    for row in text.lines().filter(is_row) {
        assert!(tests_named_in(row).next().is_some(), "no test: {row}");
        tests_named_in(row).for_each(|test| assert_it_exists(test, row));
    }
}

/// File and function.
fn tests_named_in(row: &str) -> impl Iterator<Item = (&str, &str)> {
    row.split('`').filter_map(|word| word.split_once("::")).filter(|(path, _)| path.ends_with(".rs"))
}

fn assert_it_exists((path, name): (&str, &str), row: &str) {
    let source = read(&root().join(path));
    assert!(source.contains(&format!("fn {name}(")), "{path} has no {name}: {row}");
}

#[test]
fn every_provided_function_and_view_is_in_the_sql_reference() {
    let reference = read(&root().join("docs/sql.md"));
    let provided = tenantry::functions::provided();
    let functions = provided.functions.iter().chain(provided.inline.keys()).map(|name| format!("`{name}("));
    let views = provided.views.keys().map(|name| format!("| `{name}` |"));
    let missing: Vec<String> = functions.chain(views).filter(|name| !reference.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "docs/sql.md does not describe {missing:?}");
}

#[test]
fn every_setting_is_in_the_operators_manual() {
    let manual = read(&root().join("docs/operations.md"));
    let mut section = String::new();
    let mut missing = Vec::new();
    for line in read(&root().join("config/tenantry.toml")).lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((name, _)) = line.strip_prefix('#').and_then(|l| l.split_once(" = "))
            && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            && !manual.contains(&format!("| `{section}.{name}` |"))
        {
            missing.push(format!("{section}.{name}"));
        }
    }
    assert!(!section.is_empty() && missing.is_empty(), "docs/operations.md does not describe {missing:?}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents in the root folder and everything below `docs`.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(|n| root().join(n)).to_vec();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("docs is a folder") {
            let path = entry.expect("it can be read").path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "md" => found.push(path),
                _ => {}
            }
        }
    }
    assert!(found.len() > 10, "the documents are where this test looks");
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Targets of `[text](target)`, outside of code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence && !line.starts_with("    ")
    });
    lines
        .flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target)))
        .collect()
}

/// The anchors that a page's headings have: lower case, blanks as hyphens, punctuation left out.
fn headings(text: &str) -> Vec<String> {
    let titles = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |title: &str| {
        let kept =
            title.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
        kept.replace(' ', "-")
    };
    titles.map(anchor).collect()
}
