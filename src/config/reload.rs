//! Settings that change while the proxy runs: the file is read again, and what can change does.
//!
//! ```text
//!   SIGHUP, RELOAD ──> Reloader ──reads the file──> Settings ──store──> Live: one swapped pointer for each room
//!                                └─ names what changed and what needs a restart        ▲ rooms load it when they use it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::file::ConfigFile;
use super::settings::Settings;
use crate::backend::PoolSettings;
use crate::error::{PgError, Result, SqlState};
use crate::executor;
use crate::executor::loads::LoadSettings;
use crate::jobs;
use crate::operations::mover::MoveLimits;
use crate::session::{LoginSettings, SessionLog};
use crate::transport::Acceptor;

/// The settings that can change, as the rooms read them. A new one needs a line in `new` and in `store`.
#[derive(Debug, Clone)]
pub struct Live {
    pub pool: Arc<ArcSwap<PoolSettings>>,
    pub executor: Arc<ArcSwap<executor::Settings>>,
    pub login: Arc<ArcSwap<LoginSettings>>,
    /// Certificates for clients, read again with every reload: they may have been renewed.
    pub acceptor: Arc<Acceptor>,
    pub jobs: Arc<ArcSwap<jobs::Settings>>,
    pub loads: Arc<ArcSwap<LoadSettings>>,
    /// What moves may take; those that run follow it.
    pub moves: Arc<ArcSwap<MoveLimits>>,
    /// How long sessions may go on when the proxy is stopped.
    pub stop_timeout: Arc<ArcSwap<Duration>>,
    pub session_log: Arc<ArcSwap<SessionLog>>,
    /// As `LogSettings::filter`; who writes the log follows it.
    pub log_filter: Arc<ArcSwap<String>>,
}

impl Live {
    fn new(settings: &Settings) -> Result<Self> {
        let acceptor = Acceptor::default();
        acceptor.reload(settings.tls.as_ref())?;
        Ok(Self {
            acceptor: Arc::new(acceptor),
            pool: swapped(&settings.pool),
            executor: swapped(&settings.executor),
            login: swapped(&settings.login),
            jobs: swapped(&settings.jobs),
            loads: swapped(&settings.loads),
            moves: swapped(&settings.moves),
            stop_timeout: swapped(&settings.stop_timeout),
            session_log: swapped(&settings.session_log),
            log_filter: swapped(&settings.log.filter),
        })
    }

    fn store(&self, settings: &Settings) {
        // The control channel keeps its connections, so how servers are reached stays the same for all.
        let access = self.pool.load().access.clone();
        self.pool.store(Arc::new(PoolSettings { access, ..settings.pool.clone() }));
        self.executor.store(Arc::new(settings.executor.clone()));
        self.login.store(Arc::new(settings.login.clone()));
        self.jobs.store(Arc::new(settings.jobs.clone()));
        self.loads.store(Arc::new(settings.loads.clone()));
        self.moves.store(Arc::new(settings.moves.clone()));
        self.stop_timeout.store(Arc::new(settings.stop_timeout));
        self.session_log.store(Arc::new(settings.session_log.clone()));
        self.log_filter.store(Arc::new(settings.log.filter.clone()));
    }
}

fn swapped<T: Clone>(value: &T) -> Arc<ArcSwap<T>> {
    Arc::new(ArcSwap::from_pointee(value.clone()))
}

/// Reads the configuration file again.
pub struct Reloader {
    live: Live,
    path: Option<PathBuf>,
    in_force: Mutex<ConfigFile>,
}

/// Names of settings whose values in the file are other than those in force.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Files of certificates and keys that hold others than before, in force from now on.
    pub renewed: Vec<String>,
    /// In force from now on.
    pub changed: Vec<String>,
    /// In force after the next start.
    pub need_restart: Vec<String>,
}

/// One setting, as SHOW CONFIG tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// `section.name`.
    pub name: String,
    /// `None`: not set.
    pub value: Option<String>,
    pub default: Option<String>,
    /// Can it change while the proxy runs?
    pub reloads: bool,
}

impl Reloader {
    /// Errors: F0000 for certificates that cannot be used.
    pub fn new(settings: &Settings) -> Result<Self> {
        let in_force = Mutex::new(settings.written.clone());
        Ok(Self { live: Live::new(settings)?, path: settings.path.clone(), in_force })
    }

    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Puts the file's new values in force where they can be, and says in the log which settings those are.
    ///
    /// Errors: F0000 for a file that cannot be read or is not valid, 55000 when there is none. Then nothing has changed.
    pub fn reload(&self) -> Result<Reloaded> {
        let mut in_force = self.in_force.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let path = self.path.as_deref().ok_or_else(|| {
            PgError::new(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                "this proxy was started without a configuration file",
            )
        })?;
        let read = Settings::read(path)?;
        let renewed = self.live.acceptor.reload(read.tls.as_ref())?;
        let renewed = renewed.iter().map(|file| file.display().to_string()).collect();
        let reloaded = Reloaded { renewed, ..difference(&in_force, &read.written) };
        // What waits for a restart is told at every reload until then.
        *in_force = mixed(&in_force, &read.written)?;
        self.live.store(&read);
        tracing::info!(
            file = %path.display(),
            changed = %or_none(&reloaded.changed),
            need_restart = %or_none(&reloaded.need_restart),
            renewed = %or_none(&reloaded.renewed),
            "configuration was read again"
        );
        Ok(reloaded)
    }

    /// Every setting in force, by name. Passwords are not told.
    pub fn shown(&self) -> Vec<Shown> {
        let written = self.in_force.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let (values, defaults) = (flat(&written), flat(&ConfigFile::default()));
        let names: BTreeSet<&String> = values.keys().chain(defaults.keys()).collect();
        let text = |name: &str, value: Option<&toml::Value>| {
            value.map(|value| {
                if name.ends_with("password") || name.ends_with("token") { "***".to_owned() } else { as_text(value) }
            })
        };
        names
            .into_iter()
            .map(|name| Shown {
                name: name.clone(),
                value: text(name, values.get(name)),
                default: text(name, defaults.get(name)),
                reloads: RELOADS.contains(&name.as_str()),
            })
            .collect()
    }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn difference(old: &ConfigFile, new: &ConfigFile) -> Reloaded {
    let (old, new) = (flat(old), flat(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned();
    let (changed, need_restart) = differs.partition(|name| RELOADS.contains(&name.as_str()));
    Reloaded { changed, need_restart, renewed: Vec::new() }
}

/// The file in force: `new` where a setting can change, `old` elsewhere.
fn mixed(old: &ConfigFile, new: &ConfigFile) -> Result<ConfigFile> {
    let (old, new) = (flat(old), flat(new));
    let reloads = |name: &String| RELOADS.contains(&name.as_str());
    let kept = old.into_iter().filter(|(name, _)| !reloads(name));
    let taken = new.into_iter().filter(|(name, _)| reloads(name));
    let mut sections = toml::Table::new();
    for (name, value) in kept.chain(taken) {
        let (section, name) = name.split_once('.').expect("every setting stands in a section");
        let section = sections.entry(section).or_insert_with(|| toml::Table::new().into());
        section.as_table_mut().expect("a section is a table").insert(name.to_owned(), value);
    }
    sections.try_into().map_err(|error| {
        PgError::new(SqlState::INTERNAL_ERROR, format!("could not put two configurations together: {error}"))
    })
}

/// Every setting that is set, as `section.name`.
fn flat(file: &ConfigFile) -> BTreeMap<String, toml::Value> {
    let sections = toml::Table::try_from(file).expect("plain values");
    let of_section = |(section, values): (String, toml::Value)| {
        let values = if let toml::Value::Table(values) = values { values } else { toml::Table::new() };
        values.into_iter().map(move |(name, value)| (format!("{section}.{name}"), value)).collect::<Vec<_>>()
    };
    sections.into_iter().flat_map(of_section).collect()
}

fn as_text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(as_text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The settings that can change while the proxy runs: those whose documentation says `Reload: yes`.
const RELOADS: &[&str] = &[
    "admin.stats_users",
    "admin.users",
    "execution.copy_buffer",
    "execution.copy_row",
    "execution.hold_timeout",
    "execution.recovery_patience",
    "limits.clients",
    "limits.clients_kept",
    "limits.clients_per_role",
    "limits.dead_client_after",
    "limits.logins_per_address",
    "limits.memory",
    "limits.message",
    "limits.message_timeout",
    "limits.nesting",
    "limits.operators",
    "limits.parse_time",
    "limits.reader_timeout",
    "limits.statement_texts",
    "limits.statements",
    "limits.tokens",
    "listen.auth",
    "listen.hba",
    "listen.login_timeout",
    "listen.stop_timeout",
    "load.enabled",
    "load.period",
    "load.tenants",
    "log.connections",
    "log.disconnections",
    "log.filter",
    "log.slow_statement",
    "log.statement_texts",
    "moves.at_once",
    "moves.change_rate",
    "moves.copy_rate",
    "moves.per_node",
    "moves.slot_wal",
    "moves.standby_lag",
    "moves.undo_window",
    "pool.adaptive",
    "pool.age_max",
    "pool.check_after",
    "pool.check_timeout",
    "pool.checkout_timeout",
    "pool.connect_timeout",
    "pool.dead_peer_after",
    "pool.idle_timeout",
    "pool.mode",
    "pool.node_connections",
    "pool.outage_timeout",
    "pool.prepared_statements",
    "pool.reconnect_max",
    "pool.replica_lag",
    "pool.share_unnamed",
    "pool.silence_max",
    "pool.size",
    "tls.certificate",
    "tls.client_ca",
    "tls.key",
    "tls.mode",
];

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::config::units::{Size, Time};

    const EXAMPLE: &str = include_str!("../../config/tenantry.toml");

    /// Settings of the example that are set to something else, one at a time: the name, and a file with nothing else.
    fn one_by_one() -> Vec<(String, ConfigFile)> {
        let mut section = String::new();
        let mut found = Vec::new();
        for line in EXAMPLE.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some(set) = line.strip_prefix('#').filter(|l| l.starts_with(|c: char| c.is_ascii_lowercase()))
                && let Some((name, value)) = set.split_once(" = ")
            {
                let full = format!("{section}.{name}");
                let text = format!("[{section}]\n{name} = {}\n", another(&full, value));
                let file = ConfigFile::parse(&text);
                found.push((full, file.unwrap_or_else(|error| panic!("give this test another value: {error}"))));
            }
        }
        assert!(found.len() > 20);
        found
    }

    /// A value other than the one shown.
    fn another(name: &str, shown: &str) -> String {
        let bare = shown.trim_matches('"');
        match name {
            "coordinator.password_file" => {
                static FILE: LazyLock<tempfile::NamedTempFile> =
                    LazyLock::new(|| tempfile::NamedTempFile::new().expect("a file that nobody else may read"));
                format!("\"{}\"", FILE.path().display())
            }
            "server_tls.mode" => "\"prefer\"".to_owned(),
            "tls.mode" => "\"require\"".to_owned(),
            // Their defaults are the most that there may be.
            "limits.nesting" | "limits.operators" | "limits.tokens" => "7".to_owned(),
            "listen.hba" => "[\"host all all all md5\"]".to_owned(),
            "pool.mode" => "\"session\"".to_owned(),
            "pool.share_unnamed" => "\"off\"".to_owned(),
            "listen.io" => "\"io-uring\"".to_owned(),
            "listen.auth" => "\"trust-loopback\"".to_owned(),
            "listen.address" | "admin.address" => "\"127.0.0.2\"".to_owned(),
            "log.format" => "\"json\"".to_owned(),
            "log.filter" => "\"debug\"".to_owned(),
            _ if bare.parse::<u64>().is_ok() => (bare.parse::<u64>().unwrap() + 1).to_string(),
            _ if is::<Time>(shown) => "\"7s\"".to_owned(),
            _ if is::<Size>(shown) => "\"7MB\"".to_owned(),
            _ if shown.starts_with('[') => "[\"other\"]".to_owned(),
            _ if shown == "false" || shown == "true" => (shown == "false").to_string(),
            _ => "\"other\"".to_owned(),
        }
    }

    fn is<T: serde::de::DeserializeOwned>(shown: &str) -> bool {
        #[derive(serde::Deserialize)]
        struct Value<T> {
            #[expect(dead_code, reason = "only its being read matters")]
            value: T,
        }
        toml::from_str::<Value<T>>(&format!("value = {shown}")).is_ok()
    }

    #[test]
    fn a_setting_can_change_exactly_where_its_documentation_says_so() {
        let mut said = false;
        let mut wrong = Vec::new();
        let mut section = "";
        for line in EXAMPLE.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name;
            } else if line.contains("Default: ") {
                assert!(line.contains("Reload: yes.") != line.contains("Reload: no."), "{line}");
                said = line.contains("Reload: yes.");
            } else if let Some(set) = line.strip_prefix('#').filter(|l| l.starts_with(|c: char| c.is_ascii_lowercase()))
                && let Some((name, _)) = set.split_once(" = ")
            {
                let name = format!("{section}.{name}");
                if said != RELOADS.contains(&name.as_str()) {
                    wrong.push(name);
                }
            }
        }
        assert!(wrong.is_empty(), "the documentation and RELOADS differ: {wrong:?}");
    }

    #[test]
    fn what_can_change_reaches_the_rooms_and_nothing_else_does() {
        // Those of TLS mean something together only; tests/login_threats.rs renews a certificate.
        for (name, file) in one_by_one().into_iter().filter(|(name, _)| !name.starts_with("tls.")) {
            let live = Live::new(&Settings::from_file(ConfigFile::default()).unwrap()).unwrap();
            let before = format!("{live:?}");
            live.store(&Settings::from_file(file).unwrap_or_else(|error| panic!("{name}: {error}")));
            let changed = before != format!("{live:?}");
            assert_eq!(changed, RELOADS.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn a_reload_names_what_changed_and_goes_on_naming_what_needs_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenantry.toml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("[coordinator]\npassword = \"one\"\n");
        let reloader = Reloader::new(&Settings::read(&path).unwrap()).unwrap();
        assert_eq!(reloader.reload().unwrap(), Reloaded::default());

        write("[listen]\nport = 1234\n[pool]\nsize = 3\n[coordinator]\npassword = \"two\"\n");
        let first = reloader.reload().unwrap();
        assert_eq!(first.changed, ["pool.size"]);
        assert_eq!(first.need_restart, ["coordinator.password", "listen.port"]);
        assert_eq!(reloader.live().pool.load().size, 3);
        let again = reloader.reload().unwrap();
        assert_eq!((again.changed.len(), again.need_restart), (0, first.need_restart));
        let shown = reloader.shown();
        let value = |name: &str| shown.iter().find(|s| s.name == name).unwrap().value.clone().unwrap();
        assert_eq!((value("pool.size"), value("listen.port")), ("3".to_owned(), "7432".to_owned()));
        assert_eq!(value("coordinator.password"), "***");
    }

    #[test]
    fn a_broken_file_leaves_the_old_settings_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tenantry.toml");
        std::fs::write(&path, "[pool]\nsize = 5\n").unwrap();
        let reloader = Reloader::new(&Settings::read(&path).unwrap()).unwrap();
        for broken in ["[pool]\nsize = 0\n", "[pool]\nsise = 1\n", "[pool\n"] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(reloader.reload().unwrap_err().code(), SqlState::CONFIG_FILE_ERROR);
            assert_eq!(reloader.live().pool.load().size, 5);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(reloader.reload().is_err());
        assert_eq!(reloader.live().pool.load().size, 5);
    }
}
