//! The demo's data: users of a code host and what they did, as CSV for `COPY ... FROM STDIN (FORMAT csv)`.
//!
//! ```text
//!   github_users   user_id, url, login, avatar_url, gravatar_id, display_login
//!   github_events  event_id, event_type, event_public, repo_id, payload, repo, user_id, org, created_at
//! ```
//!
//! The columns are those of the Citus tutorial on real-time analytics; the rows are made up here. The same seed
//! gives the same bytes, everywhere and in every version: the generator is our own, not a crate's that may change.
//! Skewed as tenants are: user `k` of `n` acts in proportion to `1 / (k + 4)`, so the first of 2,000 users has
//! about 4 % of all events and the last half of them hardly more than a tenth together.

use std::fmt::Write;

/// `count` lines for `github_users`, the most active user first. Lines end with a newline.
pub fn users(seed: u64, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |index| {
        let User { id, login } = User::of(seed, index);
        format!(
            "{id},https://api.github.com/users/{login},{login},https://avatars.githubusercontent.com/u/{id}?,\"\",{}\n",
            csv(&display_name(seed, index, &login))
        )
    })
}

/// `count` lines for `github_events` of the first `users` users, in order of time, within the first week of
/// December 2016. Lines end with a newline. No users: no events.
pub fn events(seed: u64, users: usize, count: usize) -> impl Iterator<Item = String> {
    let activity = Activity::new(users);
    let people: Vec<User> = (0..users).map(|index| User::of(seed, index)).collect();
    let mut random = Random::new(seed ^ EVENTS);
    let count = if users == 0 { 0 } else { count };
    (0..count).map(move |index| {
        let actor = activity.pick(&mut random);
        // Most of a user's events concern few repositories, some somebody else's.
        let owner = if random.chance(80) { actor } else { activity.pick(&mut random) };
        let event = Event {
            id: FIRST_EVENT_ID + 13 * index as u64 + random.below(13),
            kind: random.weighted(KINDS),
            actor: &people[actor],
            repo: Repo::of(seed, owner, &people[owner], random.below(5)),
            second: index as u64 * SECONDS / count as u64,
        };
        event.csv(&mut random)
    })
}

struct User {
    id: u64,
    login: String,
}

impl User {
    fn of(seed: u64, index: usize) -> Self {
        let mut random = Random::new(seed ^ USERS ^ index as u64);
        // Distinct without remembering any: each index has its own range of ids.
        let id = 1000 + 9_173 * index as u64 + random.below(9_000);
        let login = format!("{}{}{index}", random.pick(FIRST), random.pick(&["", "-", "-dev-"]));
        Self { id, login }
    }
}

/// What a user calls itself; with what CSV must quote, here and there.
fn display_name(seed: u64, index: usize, login: &str) -> String {
    let mut random = Random::new(seed ^ DISPLAY ^ index as u64);
    match random.below(20) {
        0 => format!("{login}, Inc."),
        1 => format!("\"{login}\""),
        2 => format!("{login} ☕"),
        _ => login.to_string(),
    }
}

struct Repo {
    id: u64,
    name: String,
}

impl Repo {
    fn of(seed: u64, owner: usize, owner_user: &User, number: u64) -> Self {
        let mut random = Random::new(seed ^ REPOS ^ (owner as u64 * 8 + number));
        let id = 70_000 + 40_009 * owner as u64 + 8_000 * number + random.below(8_000);
        let name = format!("{}/{}-{}", owner_user.login, random.pick(WORDS), random.pick(THINGS));
        Self { id, name }
    }
}

struct Event<'a> {
    id: u64,
    kind: &'static str,
    actor: &'a User,
    repo: Repo,
    /// Since the first moment of the data.
    second: u64,
}

impl Event<'_> {
    fn csv(&self, random: &mut Random) -> String {
        let mut line = String::with_capacity(700);
        let Event { id, kind, actor, repo, second } = self;
        let public = if random.chance(98) { 't' } else { 'f' };
        let payload = csv(&self.payload(random));
        let repo_name = &repo.name;
        let repo_json = csv(&format!(
            r#"{{"id": {}, "url": "https://api.github.com/repos/{repo_name}", "name": "{repo_name}"}}"#,
            repo.id
        ));
        write!(line, "{id},{kind},{public},{},{payload},{repo_json},{},", repo.id, actor.id).expect(STRING_GROWS);
        if random.chance(30) {
            let number = random.below(200);
            let login = THINGS[number as usize % THINGS.len()];
            line += &csv(&format!(r#"{{"id": {}, "login": "{login}-{number}", "gravatar_id": ""}}"#, 500 + number));
        }
        let (day, hour, minute) = (1 + second / 86_400, second / 3600 % 24, second / 60 % 60);
        writeln!(line, ",2016-12-{day:02} {hour:02}:{minute:02}:{:02}", second % 60).expect(STRING_GROWS);
        line
    }

    /// The event's JSON document: the members that the code host's documentation names for this kind, fewer of each.
    fn payload(&self, random: &mut Random) -> String {
        let login = &self.actor.login;
        let title = json(&sentence(random));
        match self.kind {
            "PushEvent" => push(random, login),
            "CreateEvent" => {
                let kind = random.pick(&["branch", "branch", "repository", "tag"]);
                format!(
                    r#"{{"ref": "{}", "ref_type": "{kind}", "description": {title}, "pusher_type": "user", "master_branch": "master"}}"#,
                    branch(random)
                )
            }
            "DeleteEvent" => {
                format!(r#"{{"ref": "{}", "ref_type": "branch", "pusher_type": "user"}}"#, branch(random))
            }
            "WatchEvent" => r#"{"action": "started"}"#.to_string(),
            "ForkEvent" => {
                format!(
                    r#"{{"forkee": {{"id": {}, "name": "{}", "private": false}}}}"#,
                    random.below(80_000_000),
                    random.pick(THINGS)
                )
            }
            "PullRequestEvent" => {
                let (number, action) = (random.below(4_000), random.pick(&["opened", "closed", "reopened"]));
                let (added, deleted, merged) = (random.below(900), random.below(400), random.chance(40));
                format!(
                    r#"{{"action": "{action}", "number": {number}, "pull_request": {{"title": {title}, "user": {{"login": "{login}"}}, "merged": {merged}, "additions": {added}, "deletions": {deleted}, "commits": {}}}}}"#,
                    1 + random.below(12)
                )
            }
            "IssuesEvent" => {
                let (number, action) = (random.below(4_000), random.pick(&["opened", "closed"]));
                let label = random.pick(&["bug", "question", "enhancement", "won't fix"]);
                format!(
                    r#"{{"action": "{action}", "issue": {{"number": {number}, "title": {title}, "labels": ["{label}"], "comments": {}}}}}"#,
                    random.below(30)
                )
            }
            "IssueCommentEvent" => {
                let number = random.below(4_000);
                let body = json(&format!("{}\n{}", sentence(random), sentence(random)));
                format!(
                    r#"{{"action": "created", "issue": {{"number": {number}, "title": {title}}}, "comment": {{"body": {body}}}}}"#
                )
            }
            "ReleaseEvent" => format!(
                r#"{{"action": "published", "release": {{"tag_name": "v{}.{}", "name": {title}, "prerelease": {}}}}}"#,
                random.below(9),
                random.below(30),
                random.chance(20)
            ),
            _ => r#"{"action": "added"}"#.to_string(),
        }
    }
}

fn push(random: &mut Random, login: &str) -> String {
    let (id, size) = (random.below(1 << 31), 1 + random.below(3) * random.below(2));
    let mut payload = format!(
        r#"{{"push_id": {id}, "ref": "refs/heads/{}", "size": {size}, "distinct_size": {}, "head": "{}", "commits": ["#,
        branch(random),
        size - u64::from(random.chance(10)),
        sha(random),
    );
    for number in 0..size {
        let comma = if number > 0 { ", " } else { "" };
        write!(
            payload,
            r#"{comma}{{"sha": "{}", "author": {{"name": "{login}", "email": "{login}@example.com"}}, "message": {}}}"#,
            sha(random),
            json(&sentence(random)),
        )
        .expect(STRING_GROWS);
    }
    payload + "]}"
}

fn sentence(random: &mut Random) -> String {
    let mut text = format!("{} {} {}", random.pick(VERBS), random.pick(WORDS), random.pick(THINGS));
    text += random.pick(&["", "", "", " (again)", ", as \"agreed\"", " – für später", " in C:\\temp", " 修复"]);
    text
}

fn branch(random: &mut Random) -> String {
    match random.below(10) {
        0..6 => "master".to_string(),
        6 => "develop".to_string(),
        _ => format!("{}-{}", random.pick(WORDS), random.pick(THINGS)),
    }
}

fn sha(random: &mut Random) -> String {
    format!("{:016x}{:016x}{:08x}", random.next(), random.next(), random.below(1 << 32))
}

/// A JSON string with its quotes.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A CSV field: quoted where it must be, quotes inside doubled. Source: RFC 4180.
fn csv(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_string()
    }
}

/// Who acts how often: a running total of every user's share.
struct Activity {
    totals: Vec<f64>,
}

impl Activity {
    fn new(users: usize) -> Self {
        let shares = (0..users).map(|index| 1.0 / (index as f64 + 4.0));
        let totals = shares.scan(0.0, |total, share| {
            *total += share;
            Some(*total)
        });
        Self { totals: totals.collect() }
    }

    /// An index below the number of users, which is not 0.
    fn pick(&self, random: &mut Random) -> usize {
        let last = self.totals.len() - 1;
        // 53 bits are what a double holds: the quotient is in [0, 1).
        let target = self.totals[last] * (random.next() >> 11) as f64 / (1u64 << 53) as f64;
        self.totals.partition_point(|total| *total <= target).min(last)
    }
}

/// SplitMix64, by Sebastiano Vigna, in the public domain: https://prng.di.unimi.it/splitmix64.c
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0. The bias of the remainder is of no matter for numbers this small.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }

    fn weighted(&mut self, kinds: &[(&'static str, u64)]) -> &'static str {
        let mut left = self.below(kinds.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in kinds {
            match left.checked_sub(*weight) {
                None => return kind,
                Some(rest) => left = rest,
            }
        }
        unreachable!("a number below the sum of the weights falls on one of them")
    }
}

/// Each stream of numbers starts elsewhere, so that more users do not change the events.
const USERS: u64 = 0x5553_4552_0000_0000;
const DISPLAY: u64 = 0x4449_5350_0000_0000;
const REPOS: u64 = 0x5245_504f_0000_0000;
const EVENTS: u64 = 0x4556_4e54_0000_0000;

const FIRST_EVENT_ID: u64 = 4_950_000_000;
const SECONDS: u64 = 7 * 86_400;
const STRING_GROWS: &str = "writing to a String cannot fail";

const KINDS: &[(&str, u64)] = &[
    ("PushEvent", 51),
    ("CreateEvent", 13),
    ("WatchEvent", 10),
    ("IssueCommentEvent", 8),
    ("PullRequestEvent", 6),
    ("IssuesEvent", 4),
    ("ForkEvent", 3),
    ("DeleteEvent", 2),
    ("ReleaseEvent", 2),
    ("MemberEvent", 1),
];
const FIRST: &[&str] = &[
    "ada",
    "alan",
    "barbara",
    "dennis",
    "donald",
    "edsger",
    "frances",
    "grace",
    "hedy",
    "jean",
    "john",
    "katherine",
    "ken",
    "leslie",
    "linus",
    "margaret",
    "niklaus",
    "radia",
    "shafi",
    "tony",
];
const VERBS: &[&str] =
    &["Add", "Clean up", "Document", "Fix", "Move", "Remove", "Rename", "Speed up", "Test", "Update"];
const WORDS: &[&str] = &[
    "async", "broken", "daily", "empty", "fast", "flaky", "hidden", "large", "lazy", "nightly", "open", "public",
    "quiet", "simple", "small", "stale", "strict", "tiny", "unused", "weekly",
];
const THINGS: &[&str] = &[
    "api", "backup", "build", "cache", "client", "config", "docs", "driver", "index", "login", "map", "parser",
    "plugin", "queue", "report", "router", "schema", "server", "tests", "theme",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    /// Splits a CSV line as RFC 4180 says; panics on anything that COPY would refuse.
    fn fields(line: &str) -> Vec<String> {
        let mut rest = line.strip_suffix('\n').expect("a line ends with a newline");
        let mut fields = Vec::new();
        loop {
            let mut field = String::new();
            if let Some(mut quoted) = rest.strip_prefix('"') {
                loop {
                    let (text, after) = quoted.split_once('"').expect("a quoted field ends with a quote");
                    field += text;
                    rest = after;
                    let Some(more) = after.strip_prefix('"') else { break };
                    field.push('"');
                    quoted = more;
                }
            } else {
                let end = rest.find(',').unwrap_or(rest.len());
                assert!(!rest[..end].contains(['"', '\n']), "a bare field has nothing to quote: {line}");
                field += &rest[..end];
                rest = &rest[end..];
            }
            fields.push(field);
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        assert_eq!(rest, "", "a field ends with a comma or the line: {line}");
        fields
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        assert!(users(7, 300).eq(users(7, 300)) && events(7, 300, 2_000).eq(events(7, 300, 2_000)));
        assert!(!events(7, 300, 2_000).eq(events(8, 300, 2_000)));
        // And in every version: this is FNV-1a over all of it.
        let bytes = users(7, 300).chain(events(7, 300, 2_000)).flat_map(String::into_bytes);
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(hash, 16_303_408_014_405_926_984);
    }

    #[test]
    fn users_are_distinct_and_fit_their_columns() {
        let rows: Vec<_> = users(7, 3_000).map(|line| fields(&line)).collect();
        assert!(rows.iter().all(|row| row.len() == 6 && row[0].parse::<i64>().is_ok()));
        assert_eq!(rows.iter().map(|row| &row[0]).collect::<HashSet<_>>().len(), 3_000);
        assert_eq!(rows.iter().map(|row| &row[2]).collect::<HashSet<_>>().len(), 3_000);
        assert!(rows.iter().any(|row| row[5].contains('"')) && rows.iter().any(|row| row[5].contains(',')));
    }

    #[test]
    fn events_fit_their_columns_and_belong_to_the_users() {
        let known: HashSet<_> = users(7, 300).map(|line| fields(&line)[0].clone()).collect();
        let rows: Vec<_> = events(7, 300, 5_000).map(|line| fields(&line)).collect();
        let mut kinds = HashMap::new();
        for row in &rows {
            assert_eq!(row.len(), 9);
            assert!(
                row[0].parse::<i64>().is_ok() && row[3].parse::<i64>().is_ok() && ["t", "f"].contains(&row[2].as_str())
            );
            assert!(known.contains(&row[6]));
            for document in [&row[4], &row[5]].into_iter().chain(Some(&row[7]).filter(|org| !org.is_empty())) {
                let value: serde_json::Value = serde_json::from_str(document).expect("JSON");
                assert!(value.is_object());
            }
            assert!(row[8].starts_with("2016-12-0") && row[8].len() == "2016-12-01 00:00:00".len());
            *kinds.entry(row[1].clone()).or_insert(0) += 1;
        }
        assert_eq!(rows.iter().map(|row| &row[0]).collect::<HashSet<_>>().len(), 5_000);
        assert!(rows.is_sorted_by_key(|row| row[8].clone()));
        assert_eq!(kinds.len(), KINDS.len());
    }

    #[test]
    fn few_users_make_most_of_the_events() {
        let mut events_of = HashMap::<String, usize>::new();
        for line in events(7, 2_000, 20_000) {
            *events_of.entry(fields(&line).swap_remove(6)).or_default() += 1;
        }
        let mut counts: Vec<_> = events_of.into_values().collect();
        counts.sort_unstable_by_key(|count| std::cmp::Reverse(*count));
        assert!((600..1_000).contains(&counts[0]), "the first has about 4 %: {}", counts[0]);
        let tenth: usize = counts[..200].iter().sum();
        assert!((11_000..14_000).contains(&tenth), "a tenth of the users has over half: {tenth}");
        assert!(counts.len() > 1_500, "most act at least once: {}", counts.len());
    }

    #[test]
    fn no_users_make_no_events() {
        assert_eq!(users(7, 0).count() + events(7, 0, 10).count(), 0);
    }
}
