//! Random sessions: messages of the wire protocol, one a line, as the head of `tests/protocol/conversations.txt` says.
//!
//! `items` is distributed by tenant, `refs` a reference table, `notes` a local one; a single Postgres has plain ones.
//! Statements that give several rows say in what order.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// What a client says at once, before it reads.
pub type Chunk = Vec<String>;

pub struct Script {
    pub chunks: Vec<Chunk>,
    /// The client waits for each chunk's answers; else everything is on its way before the first is read.
    pub is_stepwise: bool,
}

impl Script {
    pub fn random(seed: u64) -> Self {
        let mut maker = Maker { random: StdRng::seed_from_u64(seed) };
        let is_stepwise = maker.one_in(2);
        let count = maker.random.random_range(3..25);
        let mut chunks: Vec<Chunk> = (0..count).map(|_| maker.chunk(is_stepwise)).collect();
        // A Query that follows no Sync, and fails, undoes in one Postgres what was before it.
        for at in 1..chunks.len() {
            if chunks[at][0].starts_with("Q ") && chunks[at - 1].last().is_some_and(|last| last != "S") {
                chunks[at].insert(0, "S".to_owned());
            }
        }
        Self { chunks, is_stepwise }
    }

    pub fn text(&self) -> String {
        let chunks: Vec<_> = self.chunks.iter().map(|chunk| chunk.join(" | ")).collect();
        chunks.join("\n")
    }
}

struct Maker {
    random: StdRng,
}

impl Maker {
    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from.choose(&mut self.random).expect("not empty")
    }

    /// `{t}`: a tenant, mostly one with rows; `{i}`: an id; `{n}`: a number of rows; and names of each kind.
    fn fill(&mut self, template: &str) -> String {
        let mut text = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').expect("closed");
            text.push_str(before);
            let value = match name {
                "t" => self.random.random_range(1..=5).to_string(),
                "i" => self.random.random_range(1..=5).to_string(),
                "n" => self.random.random_range(0..=3).to_string(),
                "savepoint" => self.pick(&["a", "b", "\"A b\""]).to_owned(),
                "cursor" => self.pick(&["c", "d"]).to_owned(),
                "sql" => self.pick(&["q1", "q2", "s1"]).to_owned(),
                "named" => self.pick(&["s1", "s2"]).to_owned(),
                "statement" => self.pick(&["-", "-", "s1", "s2"]).to_owned(),
                "portal" => self.pick(&["-", "-", "-", "p1"]).to_owned(),
                "table" => self.pick(&["items", "items", "refs", "notes"]).to_owned(),
                "level" => self.pick(&["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]).to_owned(),
                "setting" => self.pick(SETTINGS).to_owned(),
                "value" => self.pick(VALUES).to_owned(),
                "query" => self.statement_of(QUERIES),
                other => panic!("{other} is no name of a template"),
            };
            text.push_str(&value);
            rest = after;
        }
        text + rest
    }

    fn statement_of(&mut self, templates: &[&str]) -> String {
        let template = self.pick(templates);
        self.fill(template)
    }

    /// A statement without parameters.
    fn statement(&mut self) -> String {
        let kind = match self.random.random_range(0..100) {
            0..=16 => QUERIES,
            17..=19 => SHOWS,
            20..=34 => WRITES,
            35..=54 => TRANSACTIONS,
            55..=73 => SETS,
            74..=83 => CURSORS,
            84..=92 => PREPARES,
            93..=97 => WRONGS,
            _ => TEMPORARY,
        };
        self.statement_of(kind)
    }

    fn chunk(&mut self, is_stepwise: bool) -> Chunk {
        match self.random.random_range(0..20) {
            0..=7 => vec![format!("Q {}", self.statement())],
            8 => {
                let count = self.random.random_range(2..5);
                let mut statements: Vec<_> = (0..count).map(|_| self.statement()).collect();
                // One Postgres would run none of them.
                statements.retain(|statement| !NO_SQL.contains(&statement.as_str()) && !sets_level(statement));
                vec![format!("Q {}", statements.join("; "))]
            }
            9 => self.copy(),
            _ => {
                let mut chunk: Vec<_> = (0..self.random.random_range(1..6)).flat_map(|_| self.extended()).collect();
                // Without a Sync more follows, and an error is not over.
                if is_stepwise || !self.one_in(4) {
                    chunk.push("S".to_owned());
                }
                chunk
            }
        }
    }

    fn copy(&mut self) -> Chunk {
        let mut chunk = vec![self.fill("Q COPY {table} (tenant, id, name) FROM STDIN")];
        for _ in 0..self.random.random_range(0..3) {
            chunk.push(self.statement_of(&["d {t}\\t1{i}\\tcopied\\n", "d {t}\\t2{i}\\t\\\\N\\n"]));
        }
        chunk.push(match self.random.random_range(0..6) {
            0 => "f no more".to_owned(),
            _ => "c".to_owned(),
        });
        chunk
    }

    /// Messages of the extended protocol that belong together, or nearly.
    fn extended(&mut self) -> Vec<String> {
        match self.random.random_range(0..20) {
            // A statement from Parse to Execute.
            0..=6 => {
                let (sql, parameters) = self.parsed();
                let (statement, portal) = (self.fill("{statement}"), self.fill("{portal}"));
                let mut lines = vec![format!("P {statement} : {sql}")];
                if self.one_in(4) {
                    lines.push(format!("D S {statement}"));
                }
                lines.push(format!("B {portal} {statement}{}", self.values(parameters)));
                if self.one_in(2) {
                    lines.push(format!("D P {portal}"));
                }
                lines.push(format!("E {portal} {}", self.pick(&["0", "0", "0", "1", "2"])));
                lines
            }
            7..=8 => {
                let (sql, _) = self.parsed();
                vec![format!("P {} : {sql}", self.fill("{statement}"))]
            }
            // Of whatever the name stands for.
            9..=12 => {
                let parameters = self.pick(&["", " : {t}", " : {t} : {i}"]);
                let parameters = self.fill(parameters);
                vec![format!("{}{parameters}", self.fill("B p1 {named}")), self.fill("E p1 {n}")]
            }
            13..=14 => vec![self.fill("E p1 {n}")],
            15 => vec![self.fill("D S {statement}")],
            16..=17 => vec![self.fill("C S {statement}")],
            18 => vec![self.fill("C P {portal}")],
            _ => vec!["H".to_owned()],
        }
    }

    /// A text for Parse, and how many parameters it takes.
    fn parsed(&mut self) -> (String, usize) {
        match self.random.random_range(0..10) {
            0..=5 => {
                let template = self.pick(PARAMETERS);
                let sql = self.fill(template);
                let parameters = (1..9).take_while(|n| sql.contains(&format!("${n}"))).count();
                (sql, parameters)
            }
            // An EXECUTE that may be executed is refused.
            _ => match self.statement() {
                statement if sets_level(&statement) => ("BEGIN".to_owned(), 0),
                statement if statement.starts_with("EXECUTE") => ("SELECT 1 AS one".to_owned(), 0),
                statement => (statement, 0),
            },
        }
    }

    fn values(&mut self, count: usize) -> String {
        let count = if self.one_in(25) { count + 1 } else { count };
        let values: Vec<_> =
            (0..count).map(|_| self.statement_of(&[" : {t}", " : {t}", " : {t}", " : {i}", " : {i}"])).collect();
        values.concat()
    }
}

/// What the proxy has answered itself has taken no snapshot: behind it the level can still be set.
fn sets_level(statement: &str) -> bool {
    statement.to_lowercase().contains("isolation")
}

const SETTINGS: &[&str] = &[
    "app.tenant",
    "app.tenant",
    "work_mem",
    "search_path",
    "timezone",
    "datestyle",
    "application_name",
    "statement_timeout",
    "extra_float_digits",
    "client_min_messages",
    "intervalstyle",
    "bytea_output",
];

/// Some are wrong for most settings.
const VALUES: &[&str] = &[
    "'4MB'",
    "'7'",
    "DEFAULT",
    "'UTC'",
    "'ISO, DMY'",
    "public",
    "other, public",
    "'notice'",
    "warning",
    "9000",
    "0",
    "'Asia/Tokyo'",
    "'iso_8601'",
    "postgres",
    "''",
];

const QUERIES: &[&str] = &[
    "SELECT id, name FROM {table} WHERE tenant = {t} ORDER BY id",
    "SELECT name FROM {table} WHERE tenant = {t} AND id = {i}",
    "SELECT count(*) FROM {table}",
    "SELECT tenant, count(*) FROM {table} GROUP BY tenant ORDER BY tenant",
    "SELECT tenant, id FROM {table} WHERE id = {i} ORDER BY tenant",
    "SELECT i.id, r.name FROM items i JOIN refs r ON r.tenant = i.tenant AND r.id = i.id WHERE i.tenant = {t} ORDER BY i.id",
    "SELECT i.tenant, i.id FROM items i JOIN notes n USING (tenant, id) ORDER BY 1, 2",
    "SELECT 1 AS one",
    "SELECT nullif(current_setting('app.tenant', true), '')",
    "SELECT nullif(current_setting('app.tenant', true), '') FROM items WHERE tenant = {t} AND id = 1",
    "SELECT nullif(current_setting('{setting}', true), '') FROM {table} WHERE tenant = {t} AND id = 1",
    "TABLE notes ORDER BY tenant, id",
    "VALUES (1, 'a'), (2, 'b')",
    "SELECT name, from_sql FROM pg_prepared_statements ORDER BY name",
    "SELECT name, is_holdable FROM pg_cursors WHERE name <> '' ORDER BY name",
];

const SHOWS: &[&str] = &[
    "SHOW work_mem",
    "SHOW search_path",
    "SHOW transaction_isolation",
    "SHOW transaction_read_only",
    "TABLE notes ORDER BY tenant, id",
];

const WRITES: &[&str] = &[
    "INSERT INTO {table} VALUES ({t}, {i}, 'new')",
    "INSERT INTO {table} VALUES ({t}, 1{i}, 'new') RETURNING id",
    "INSERT INTO {table} VALUES ({t}, 2{i}, 'a'), ({t}, 3{i}, 'b'), ({t}, 4{i}, 'c')",
    "INSERT INTO {table} VALUES ({t}, {i}, 'new') ON CONFLICT (tenant, id) DO UPDATE SET name = 'again'",
    "INSERT INTO {table} VALUES ({t}, {i}, 'new') ON CONFLICT DO NOTHING",
    "UPDATE {table} SET name = name || '!' WHERE tenant = {t}",
    "UPDATE {table} SET name = 'set' WHERE tenant = {t} AND id = {i} RETURNING name",
    "UPDATE {table} SET name = name || '?' WHERE id = {i}",
    "SELECT id FROM items WHERE tenant = {t} ORDER BY id FOR UPDATE",
    "DELETE FROM {table} WHERE tenant = {t} AND id = {i}",
    "DELETE FROM {table} WHERE id = {i}",
    "INSERT INTO items SELECT tenant, id + 50, name FROM items WHERE tenant = {t}",
    "INSERT INTO items SELECT tenant, id + 60, name FROM notes WHERE tenant < {t}",
    "INSERT INTO notes SELECT tenant, id + 70, name FROM items WHERE tenant = {t}",
];

const TRANSACTIONS: &[&str] = &[
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "BEGIN ISOLATION LEVEL {level}",
    "BEGIN ISOLATION LEVEL {level}, READ WRITE",
    "COMMIT",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "SAVEPOINT {savepoint}",
    "SAVEPOINT {savepoint}",
    "ROLLBACK TO {savepoint}",
    "ROLLBACK TO SAVEPOINT {savepoint}",
    "RELEASE {savepoint}",
    "SET TRANSACTION ISOLATION LEVEL {level}",
    "SET CONSTRAINTS ALL DEFERRED",
];

const SETS: &[&str] = &[
    "SET {setting} = {value}",
    "SET {setting} TO {value}",
    "SET SESSION {setting} = {value}",
    "SET LOCAL {setting} = {value}",
    "SET LOCAL app.tenant = '{t}'",
    "SET app.tenant = '{t}'",
    "SET app.tenant = '{t}'",
    "SET search_path = public",
    "RESET {setting}",
    "RESET app.tenant",
    "RESET ALL",
    "SELECT set_config('app.tenant', '{t}', false)",
    "SELECT set_config('app.tenant', '{t}', true)",
    "SELECT set_config('work_mem', '{t}MB', true)",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {level}",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET default_transaction_isolation = 'repeatable read'",
    "SET transaction_isolation = 'serializable'",
    "DISCARD ALL",
    "DISCARD PLANS",
    "SET no_such_setting = 1",
    "SHOW no_such_setting",
];

const CURSORS: &[&str] = &[
    "DECLARE {cursor} CURSOR FOR {query}",
    "DECLARE {cursor} SCROLL CURSOR FOR {query}",
    "DECLARE {cursor} CURSOR WITH HOLD FOR {query}",
    "FETCH {n} FROM {cursor}",
    "FETCH ALL FROM {cursor}",
    "FETCH NEXT FROM {cursor}",
    "MOVE {n} FROM {cursor}",
    "CLOSE {cursor}",
];

const PREPARES: &[&str] = &[
    "PREPARE {sql} AS {query}",
    "PREPARE {sql} (int) AS SELECT id, name FROM {table} WHERE tenant = $1 ORDER BY id",
    "PREPARE {sql} (int, int) AS INSERT INTO {table} VALUES ($1, $2, 'prepared')",
    "PREPARE {sql} AS UPDATE {table} SET name = 'p' WHERE tenant = $1 AND id = $2 RETURNING name",
    "EXECUTE {sql}",
    "EXECUTE {sql}({t})",
    "EXECUTE {sql}({t}, {i})",
    "DEALLOCATE {sql}",
    "DEALLOCATE ALL",
];

const NO_SQL: &[&str] = &["SELEC", "SAVEPOINT", "DECLARE c CURSOR FOR SHOW work_mem"];

const WRONGS: &[&str] = &[
    "SELEC",
    "DECLARE c CURSOR FOR SHOW work_mem",
    "SELECT 1/0",
    "SELECT 1/(id - 2) FROM items WHERE tenant = {t} AND id = 2",
    "SELECT nothing FROM {table} WHERE tenant = {t}",
    "SELECT * FROM no_such_table",
    "INSERT INTO {table} VALUES ({t}, {i}, '')",
    "INSERT INTO {table} VALUES ({t}, NULL)",
    "SELECT 'x'::int",
    "SAVEPOINT",
    "",
];

const TEMPORARY: &[&str] = &[
    "CREATE TEMPORARY TABLE scratch AS SELECT 1 AS id",
    "CREATE TEMPORARY TABLE scratch (id int) ON COMMIT DROP",
    "SELECT * FROM scratch",
    "DROP TABLE scratch",
    "DO $$ BEGIN RAISE NOTICE 'hello'; END $$",
    "SELECT pg_advisory_xact_lock({i}) IS NULL",
    "SELECT pg_advisory_lock({i}) IS NULL",
    "SELECT pg_advisory_unlock({i})",
    "CREATE TABLE made (id int)",
    "SELECT * FROM made",
    "DROP TABLE made",
];

/// With parameters.
const PARAMETERS: &[&str] = &[
    "SELECT id, name FROM {table} WHERE tenant = $1 ORDER BY id",
    "SELECT id, name FROM {table} WHERE tenant = $1 ORDER BY id",
    "SELECT name FROM {table} WHERE tenant = $1 AND id = $2",
    "SELECT name FROM {table} WHERE tenant = {t} AND id = $1",
    "SELECT tenant, id FROM {table} WHERE id = $1 ORDER BY tenant",
    "SELECT tenant, id FROM {table} WHERE tenant < $1 ORDER BY tenant, id",
    "SELECT count(*) FROM {table} WHERE id <= $1",
    "INSERT INTO {table} VALUES ($1, $2, 'new')",
    "INSERT INTO {table} VALUES ($1, $2, 'new') RETURNING tenant",
    "INSERT INTO {table} VALUES ($1, 60, 'a'), ($2, 61, 'b')",
    "UPDATE {table} SET name = name || '.' WHERE tenant = $1",
    "UPDATE {table} SET name = 'u' WHERE id = $1",
    "DELETE FROM {table} WHERE tenant = $1 AND id = $2",
    "SELECT $1::int + 1 AS n",
    "SELECT 1/($1::int - 1) AS n",
    "SELECT id / ($2::int - 1) AS n FROM items WHERE tenant = $1 ORDER BY id",
    "SELECT set_config('app.tenant', $1, false)",
    "SELECT i.tenant, i.id FROM items i JOIN refs r USING (tenant, id) WHERE r.id < $1 ORDER BY 1, 2",
];
