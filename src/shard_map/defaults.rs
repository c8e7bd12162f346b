//! What sessions begin with: settings that ALTER ROLE and ALTER DATABASE have given to roles and databases.

use std::collections::BTreeMap;

/// One of a role, of a database, of a role in a database (both), or of all (none).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionDefault {
    pub database: Option<String>,
    pub role: Option<String>,
    /// In lower case.
    pub name: String,
    pub value: String,
    /// What it is without this, as far as the proxy's own connection tells.
    pub otherwise: String,
}

/// Those of one user in one database, by name.
/// Source: PostgreSQL src/backend/utils/init/postinit.c, process_settings(): the first that is found holds.
pub(super) fn defaults_of<'d>(
    all: &'d [SessionDefault],
    user: &str,
    database: &str,
) -> BTreeMap<&'d str, &'d SessionDefault> {
    let mut found = BTreeMap::new();
    let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    let mut fitting: Vec<_> = all.iter().filter(|d| is(&d.role, user) && is(&d.database, database)).collect();
    fitting.sort_by_key(|d| (d.role.is_none(), d.database.is_none()));
    for default in fitting {
        found.entry(default.name.as_str()).or_insert(default);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_less_comes_first() {
        let default = |role: Option<&str>, database: Option<&str>, value: &str| SessionDefault {
            database: database.map(str::to_owned),
            role: role.map(str::to_owned),
            name: "work_mem".to_owned(),
            value: value.to_owned(),
            otherwise: String::new(),
        };
        let all = [
            default(None, None, "all"),
            default(None, Some("app"), "database"),
            default(Some("ann"), None, "role"),
            default(Some("ann"), Some("app"), "both"),
            default(Some("bob"), None, "other"),
        ];
        let value = |len: usize, user, database| defaults_of(&all[..len], user, database)["work_mem"].value.as_str();
        assert_eq!([1, 2, 3, 4, 5].map(|len| value(len, "ann", "app")), ["all", "database", "role", "both", "both"]);
        assert_eq!(value(5, "ann", "elsewhere"), "role");
        assert_eq!(value(5, "eve", "elsewhere"), "all");
        assert!(defaults_of(&[], "ann", "app").is_empty());
    }
}
