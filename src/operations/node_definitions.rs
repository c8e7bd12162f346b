//! What of the coordinator's database a new worker gets beside tables: which objects there are, as the statements that make them.
//!
//! ```text
//!   BASIS    roles, settings, schemas, extensions         in this order
//!   OBJECTS  collations, types, functions, operators ...   they need each other in any order: tried until all are there
//!   RIGHTS   owners and privileges                         of those that are there
//! ```
//!
//! Left out are members of extensions, what needs a C function of its own (base types), operator classes and families,
//! comments, and what workers do not have: tables, views, sequences, triggers.
//! Sources: PostgreSQL documentation, "System Catalogs"; src/bin/pg_dump/pg_dump.c for what a statement needs.

use tokio_postgres::{Client, Transaction as Target};

use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};

/// Makes what the server does not have. What is there stays, but gets the coordinator's attributes, owner and privileges.
///
/// Errors: what the server says to a statement. A function or type over something that workers do not have is left out.
pub async fn copy(coordinator: &Client, target: &Target<'_>) -> Result<()> {
    for Kind { wanted, present } in BASIS {
        for statement in missing(coordinator, target, wanted, *present).await? {
            target.batch_execute(&statement).await.map_err(pg_error)?;
        }
    }
    let mut statements = Vec::new();
    for Kind { wanted, present } in OBJECTS {
        statements.extend(missing(coordinator, target, wanted, *present).await?);
    }
    make_all(target, statements).await?;
    let mut statements = Vec::new();
    for rights in RIGHTS {
        statements.extend(missing(coordinator, target, rights, None).await?);
    }
    make_all(target, statements).await
}

/// Statements for objects of a kind that the server does not have.
async fn missing(
    coordinator: &Client,
    target: &Target<'_>,
    wanted: &str,
    present: Option<&str>,
) -> Result<Vec<String>> {
    let present: Vec<String> = match present {
        Some(present) => {
            let rows = target.query(present, &[]).await.map_err(pg_error)?;
            rows.iter().map(|row| row.try_get(0).map_err(pg_error)).collect::<Result<_>>()?
        }
        None => Vec::new(),
    };
    let mut statements = Vec::new();
    for row in coordinator.query(wanted, &[]).await.map_err(pg_error)? {
        let name: &str = row.try_get(0).map_err(pg_error)?;
        let statement: Option<String> = row.try_get(1).map_err(pg_error)?;
        statements.extend(statement.filter(|_| !present.iter().any(|p| p == name)));
    }
    Ok(statements)
}

/// Runs statements again and again, as long as one more works.
async fn make_all(target: &Target<'_>, mut statements: Vec<String>) -> Result<()> {
    loop {
        let mut failed = Vec::new();
        let tried = statements.len();
        for statement in statements {
            let guarded = format!("SAVEPOINT tenantry_object; {statement}; RELEASE SAVEPOINT tenantry_object");
            if let Err(error) = target.batch_execute(&guarded).await.map_err(pg_error) {
                target.batch_execute("ROLLBACK TO SAVEPOINT tenantry_object").await.map_err(pg_error)?;
                if !lacks_something(&error) {
                    return Err(error.hint(format!("The statement was: {statement}")));
                }
                failed.push((statement, error));
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        if failed.len() == tried {
            for (statement, error) in failed {
                tracing::debug!(%error, statement, "a new worker does without an object");
            }
            return Ok(());
        }
        statements = failed.into_iter().map(|(statement, _)| statement).collect();
    }
}

/// Does it name something that is not there, or not yet?
fn lacks_something(error: &PgError) -> bool {
    ["42P01", "42704", "42883", "3F000"].iter().any(|code| Some(error.code()) == SqlState::from_bytes(code.as_bytes()))
}

/// Objects of one kind.
pub(super) struct Kind {
    /// On the coordinator: (name, statement).
    pub(super) wanted: &'static str,
    /// Names that a server has; none: the statements may be run there again.
    present: Option<&'static str>,
}

/// Ours (`oid`, of the catalog `class`, in the namespace `n`): no system's, no extension's, none of Tenantry.
macro_rules! own {
    ($class:literal, $oid:literal) => {
        concat!(
            "n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT LIKE 'tenantry%' AND n.nspname <> 'information_schema' \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = '",
            $class,
            "'::regclass AND d.objid = ",
            $oid,
            " AND d.deptype = 'e')"
        )
    };
}

/// To whom an item `a` of an ACL grants, with the grant option where it is there.
macro_rules! to_grantee {
    () => {
        "CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END \
         || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END"
    };
}

/// A value of a setting, as SET takes it.
macro_rules! setting {
    () => {
        "format('%I TO %s', split_part(setting, '=', 1), \
             CASE WHEN split_part(setting, '=', 1) IN ('search_path', 'temp_tablespaces', 'session_preload_libraries') \
             THEN CASE substr(setting, strpos(setting, '=') + 1) WHEN '' THEN '''''' ELSE substr(setting, strpos(setting, '=') + 1) END \
             ELSE quote_literal(substr(setting, strpos(setting, '=') + 1)) END)"
    };
}

/// The user that we are has a password of its own on each server and is left alone.
const BASIS: &[Kind] = &[
    Kind {
        wanted: "SELECT rolname::text, format('CREATE ROLE %I', rolname) FROM pg_roles WHERE rolname NOT LIKE 'pg\\_%' ORDER BY 1",
        present: Some("SELECT rolname::text FROM pg_roles"),
    },
    Kind {
        wanted: "SELECT '', format('ALTER ROLE %I %s %s %s %s %s %s %s CONNECTION LIMIT %s %s %s', rolname, \
             CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, \
             CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END, \
             CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, \
             CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END, \
             CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, \
             CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END, \
             CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, rolconnlimit, \
             CASE WHEN rolpassword IS NULL THEN 'PASSWORD NULL' ELSE 'PASSWORD ' || quote_literal(rolpassword) END, \
             CASE WHEN rolvaliduntil IS NULL THEN '' ELSE 'VALID UNTIL ' || quote_literal(rolvaliduntil::text) END) \
         FROM pg_authid WHERE rolname NOT LIKE 'pg\\_%' AND rolname <> current_user ORDER BY rolname",
        present: None,
    },
    Kind {
        wanted: "SELECT DISTINCT ON (1) r.rolname || ' ' || m.rolname, format('GRANT %I TO %I%s', r.rolname, m.rolname, \
             CASE WHEN a.admin_option THEN ' WITH ADMIN OPTION' ELSE '' END) \
         FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member \
         WHERE m.rolname NOT LIKE 'pg\\_%' ORDER BY 1, a.admin_option DESC",
        present: Some(
            "SELECT r.rolname || ' ' || m.rolname FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid \
             JOIN pg_roles m ON m.oid = a.member",
        ),
    },
    Kind {
        wanted: concat!(
            "SELECT '', CASE WHEN s.setdatabase = 0 THEN format('ALTER ROLE %I', r.rolname) \
                 WHEN s.setrole = 0 THEN format('ALTER DATABASE %I', current_database()) \
                 ELSE format('ALTER ROLE %I IN DATABASE %I', r.rolname, current_database()) END || ' SET ' || ",
            setting!(),
            " FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) setting \
              WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) ORDER BY 2"
        ),
        present: None,
    },
    Kind {
        wanted: "SELECT nspname::text, format('CREATE SCHEMA %I AUTHORIZATION %I', nspname, pg_get_userbyid(nspowner)) \
         FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' \
           AND nspname NOT IN ('tenantry', 'tenantry_arguments', 'tenantry_result', 'tenantry_describe') \
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = pg_namespace.oid \
                           AND d.deptype = 'e') ORDER BY 1",
        present: Some("SELECT nspname::text FROM pg_namespace"),
    },
    Kind {
        wanted: "SELECT extname::text, format('CREATE EXTENSION %I SCHEMA %I CASCADE', extname, n.nspname) \
         FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace ORDER BY e.oid",
        present: Some("SELECT extname::text FROM pg_extension"),
    },
];

/// Enums, domains, ranges and composites.
pub(super) const TYPES: Kind = Kind {
    wanted: concat!(
        "SELECT n.nspname || '.' || t.typname, CASE t.typtype WHEN 'e' \
             THEN format('CREATE TYPE %I.%I AS ENUM (%s)', n.nspname, t.typname, \
                 (SELECT coalesce(string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder), '') FROM pg_enum WHERE enumtypid = t.oid)) \
             WHEN 'c' THEN format('CREATE TYPE %I.%I AS (%s)', n.nspname, t.typname, \
                 (SELECT coalesce(string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod) \
                      || CASE WHEN attcollation NOT IN (0, b.typcollation) THEN ' COLLATE ' || attcollation::regcollation ELSE '' END, \
                      ', ' ORDER BY attnum), '') \
                  FROM pg_attribute JOIN pg_type b ON b.oid = atttypid \
                  WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped)) \
             WHEN 'r' THEN (SELECT format('CREATE TYPE %I.%I AS RANGE (SUBTYPE = %s, SUBTYPE_OPCLASS = %s%s%s%s, MULTIRANGE_TYPE_NAME = %s)', \
                 n.nspname, t.typname, r.rngsubtype::regtype, \
                 (SELECT format('%I.%I', o.nspname, opcname) FROM pg_opclass c JOIN pg_namespace o ON o.oid = c.opcnamespace WHERE c.oid = r.rngsubopc), \
                 CASE r.rngcollation WHEN 0 THEN '' ELSE ', COLLATION = ' || r.rngcollation::regcollation END, \
                 CASE r.rngcanonical WHEN 0 THEN '' ELSE ', CANONICAL = ' || r.rngcanonical END, \
                 CASE r.rngsubdiff WHEN 0 THEN '' ELSE ', SUBTYPE_DIFF = ' || r.rngsubdiff END, r.rngmultitypid::regtype) \
                 FROM pg_range r WHERE r.rngtypid = t.oid) \
             ELSE format('CREATE DOMAIN %I.%I AS %s%s%s%s%s', n.nspname, t.typname, format_type(t.typbasetype, t.typtypmod), \
                 CASE WHEN t.typcollation NOT IN (0, (SELECT b.typcollation FROM pg_type b WHERE b.oid = t.typbasetype)) \
                      THEN ' COLLATE ' || t.typcollation::regcollation ELSE '' END, \
                 CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END, coalesce(' DEFAULT ' || t.typdefault, ''), \
                 (SELECT coalesce(string_agg(format(' CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), ''), '') \
                  FROM pg_constraint WHERE contypid = t.oid AND contype = 'c')) END \
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
         WHERE (t.typtype IN ('e', 'd', 'r') OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')) AND ",
        own!("pg_type", "t.oid"),
        " ORDER BY t.oid"
    ),
    present: Some("SELECT n.nspname || '.' || t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"),
};

const OBJECTS: &[Kind] = &[
    // Later versions of PostgreSQL call the locale of ICU otherwise, and have rules.
    Kind {
        wanted: concat!(
            "SELECT n.nspname || '.' || c.collname, format('CREATE COLLATION %I.%I (PROVIDER = %s, DETERMINISTIC = %s, %s%s)', \
                 n.nspname, c.collname, CASE c.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END, c.collisdeterministic::text, \
                 CASE c.collprovider WHEN 'c' THEN format('LC_COLLATE = %L, LC_CTYPE = %L', c.collcollate, c.collctype) \
                 ELSE format('LOCALE = %L', coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale')) END, \
                 coalesce(', RULES = ' || quote_literal(nullif(to_jsonb(c) ->> 'collicurules', '')), '')) \
             FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE ",
            own!("pg_collation", "c.oid"),
            " ORDER BY c.oid"
        ),
        present: Some(
            "SELECT n.nspname || '.' || c.collname FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace",
        ),
    },
    TYPES,
    // Of a type that is there already, since before they were added.
    Kind {
        wanted: concat!(
            "SELECT format('%I.%I.%s', n.nspname, t.typname, e.enumlabel), format('ALTER TYPE %I.%I ADD VALUE IF NOT EXISTS %L%s', \
                 n.nspname, t.typname, e.enumlabel, coalesce(' AFTER ' || quote_literal(lag(e.enumlabel) OVER labels), ' BEFORE ' || quote_literal(lead(e.enumlabel) OVER labels))) \
             FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace WHERE ",
            own!("pg_type", "t.oid"),
            " WINDOW labels AS (PARTITION BY t.oid ORDER BY e.enumsortorder) ORDER BY t.oid, e.enumsortorder"
        ),
        present: Some(
            "SELECT format('%I.%I.%s', n.nspname, t.typname, e.enumlabel) \
             FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace",
        ),
    },
    Kind {
        wanted: concat!(
            "SELECT '', pg_get_functiondef(p.oid) \
             FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang \
             WHERE p.prokind IN ('f', 'p', 'w') AND l.lanname NOT IN ('c', 'internal') AND ",
            own!("pg_proc", "p.oid"),
            " ORDER BY p.oid"
        ),
        present: None,
    },
    // 'u' is what a user leaves out: as the transition function's volatility.
    Kind {
        wanted: concat!(
            "SELECT '', format('CREATE OR REPLACE AGGREGATE %I.%I(%s) (SFUNC = %s, STYPE = %s, SSPACE = %s%s)', n.nspname, p.proname, \
                 CASE WHEN p.pronargs = 0 THEN '*' ELSE pg_get_function_arguments(p.oid) END, \
                 a.aggtransfn, a.aggtranstype::regtype, a.aggtransspace, concat( \
                 CASE WHEN a.aggfinalfn <> 0 THEN ', FINALFUNC = ' || a.aggfinalfn END, \
                 CASE WHEN a.aggfinalextra THEN ', FINALFUNC_EXTRA' END, \
                 ', FINALFUNC_MODIFY = ' || CASE a.aggfinalmodify WHEN 'r' THEN 'READ_ONLY' WHEN 's' THEN 'SHAREABLE' ELSE 'READ_WRITE' END, \
                 CASE WHEN a.aggcombinefn <> 0 THEN ', COMBINEFUNC = ' || a.aggcombinefn END, \
                 CASE WHEN a.aggserialfn <> 0 THEN ', SERIALFUNC = ' || a.aggserialfn END, \
                 CASE WHEN a.aggdeserialfn <> 0 THEN ', DESERIALFUNC = ' || a.aggdeserialfn END, \
                 ', INITCOND = ' || quote_literal(a.agginitval), \
                 CASE WHEN a.aggmtransfn <> 0 THEN concat(', MSFUNC = ', a.aggmtransfn, ', MINVFUNC = ', a.aggminvtransfn, \
                     ', MSTYPE = ', a.aggmtranstype::regtype, ', MSSPACE = ', a.aggmtransspace, \
                     CASE WHEN a.aggmfinalfn <> 0 THEN ', MFINALFUNC = ' || a.aggmfinalfn END, \
                     CASE WHEN a.aggmfinalextra THEN ', MFINALFUNC_EXTRA' END, ', MFINALFUNC_MODIFY = ', \
                     CASE a.aggmfinalmodify WHEN 'r' THEN 'READ_ONLY' WHEN 's' THEN 'SHAREABLE' ELSE 'READ_WRITE' END, \
                     ', MINITCOND = ' || quote_literal(a.aggminitval)) END, \
                 (SELECT format(', SORTOP = OPERATOR(%I.%s)', o.nspname, oprname) FROM pg_operator JOIN pg_namespace o ON o.oid = oprnamespace \
                  WHERE pg_operator.oid = a.aggsortop), \
                 ', PARALLEL = ' || CASE p.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED' ELSE 'UNSAFE' END, \
                 CASE a.aggkind WHEN 'h' THEN ', HYPOTHETICAL' END)) \
             FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid JOIN pg_namespace n ON n.oid = p.pronamespace WHERE ",
            own!("pg_proc", "p.oid"),
            " ORDER BY p.oid"
        ),
        present: None,
    },
    Kind {
        wanted: concat!(
            "SELECT o.oid::regoperator::text, format('CREATE OPERATOR %I.%s (FUNCTION = %s%s)', n.nspname, o.oprname, o.oprcode, concat( \
                 CASE WHEN o.oprleft <> 0 THEN ', LEFTARG = ' || o.oprleft::regtype END, ', RIGHTARG = ', o.oprright::regtype, \
                 (SELECT format(', COMMUTATOR = OPERATOR(%I.%s)', c.nspname, oprname) FROM pg_operator x JOIN pg_namespace c ON c.oid = x.oprnamespace \
                  WHERE x.oid = o.oprcom), \
                 (SELECT format(', NEGATOR = OPERATOR(%I.%s)', c.nspname, oprname) FROM pg_operator x JOIN pg_namespace c ON c.oid = x.oprnamespace \
                  WHERE x.oid = o.oprnegate), \
                 CASE WHEN o.oprrest <> 0 THEN ', RESTRICT = ' || o.oprrest END, CASE WHEN o.oprjoin <> 0 THEN ', JOIN = ' || o.oprjoin END, \
                 CASE WHEN o.oprcanhash THEN ', HASHES' END, CASE WHEN o.oprcanmerge THEN ', MERGES' END)) \
             FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE o.oprcode <> 0 AND ",
            own!("pg_operator", "o.oid"),
            " ORDER BY o.oid"
        ),
        present: Some("SELECT oid::regoperator::text FROM pg_operator WHERE oprcode <> 0"),
    },
    Kind {
        wanted: "SELECT concat_ws(' ', c.castsource::regtype, c.casttarget::regtype), format('CREATE CAST (%s AS %s) %s%s', \
                 c.castsource::regtype, c.casttarget::regtype, \
                 CASE c.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || c.castfunc::regprocedure WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END, \
                 CASE c.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' ELSE '' END) \
             FROM pg_cast c WHERE c.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d \
                 WHERE d.classid = 'pg_cast'::regclass AND d.objid = c.oid AND d.deptype IN ('e', 'i')) ORDER BY c.oid",
        present: Some("SELECT concat_ws(' ', castsource::regtype, casttarget::regtype) FROM pg_cast"),
    },
    Kind {
        wanted: concat!(
            "SELECT n.nspname || '.' || x.dictname, format('CREATE TEXT SEARCH DICTIONARY %I.%I (TEMPLATE = %s%s)', n.nspname, x.dictname, \
                 (SELECT format('%I.%I', o.nspname, tmplname) FROM pg_ts_template t JOIN pg_namespace o ON o.oid = t.tmplnamespace WHERE t.oid = x.dicttemplate), \
                 ', ' || nullif(x.dictinitoption, '')) \
             FROM pg_ts_dict x JOIN pg_namespace n ON n.oid = x.dictnamespace WHERE ",
            own!("pg_ts_dict", "x.oid"),
            " ORDER BY x.oid"
        ),
        present: Some(
            "SELECT n.nspname || '.' || x.dictname FROM pg_ts_dict x JOIN pg_namespace n ON n.oid = x.dictnamespace",
        ),
    },
    Kind {
        wanted: concat!(
            "SELECT n.nspname || '.' || x.cfgname, format('CREATE TEXT SEARCH CONFIGURATION %I.%I (PARSER = %s)', n.nspname, x.cfgname, \
                 (SELECT format('%I.%I', o.nspname, prsname) FROM pg_ts_parser p JOIN pg_namespace o ON o.oid = p.prsnamespace WHERE p.oid = x.cfgparser)) \
                 || coalesce((SELECT string_agg(format('; ALTER TEXT SEARCH CONFIGURATION %I.%I ADD MAPPING FOR %I WITH %s', n.nspname, x.cfgname, \
                     (SELECT alias FROM ts_token_type(x.cfgparser) WHERE tokid = m.maptokentype), m.dictionaries), '') \
                     FROM (SELECT maptokentype, string_agg(mapdict::regdictionary::text, ', ' ORDER BY mapseqno) AS dictionaries \
                           FROM pg_ts_config_map WHERE mapcfg = x.oid GROUP BY 1) m), '') \
             FROM pg_ts_config x JOIN pg_namespace n ON n.oid = x.cfgnamespace WHERE ",
            own!("pg_ts_config", "x.oid"),
            " ORDER BY x.oid"
        ),
        present: Some(
            "SELECT n.nspname || '.' || x.cfgname FROM pg_ts_config x JOIN pg_namespace n ON n.oid = x.cfgnamespace",
        ),
    },
];

/// Owners first: a change of owner changes who has granted what. What is open to everybody on a new server and not on the
/// coordinator is closed.
const RIGHTS: &[&str] = &[
    concat!(
        "SELECT '', format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, pg_get_userbyid(p.proowner)) \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang \
         WHERE (p.prokind = 'a' OR l.lanname NOT IN ('c', 'internal')) AND ",
        own!("pg_proc", "p.oid")
    ),
    concat!(
        "SELECT '', format('ALTER TYPE %s OWNER TO %I', t.oid::regtype, pg_get_userbyid(t.typowner)) \
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
         WHERE (t.typtype IN ('e', 'd', 'r') OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')) AND ",
        own!("pg_type", "t.oid")
    ),
    concat!(
        "SELECT '', format('ALTER COLLATION %I.%I OWNER TO %I', n.nspname, c.collname, pg_get_userbyid(c.collowner)) \
         FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE ",
        own!("pg_collation", "c.oid")
    ),
    concat!(
        "SELECT '', format('ALTER OPERATOR %s OWNER TO %I', o.oid::regoperator, pg_get_userbyid(o.oprowner)) \
         FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE o.oprcode <> 0 AND ",
        own!("pg_operator", "o.oid")
    ),
    concat!(
        "SELECT '', format('ALTER TEXT SEARCH DICTIONARY %I.%I OWNER TO %I', n.nspname, x.dictname, pg_get_userbyid(x.dictowner)) \
         FROM pg_ts_dict x JOIN pg_namespace n ON n.oid = x.dictnamespace WHERE ",
        own!("pg_ts_dict", "x.oid")
    ),
    concat!(
        "SELECT '', format('ALTER TEXT SEARCH CONFIGURATION %I.%I OWNER TO %I', n.nspname, x.cfgname, pg_get_userbyid(x.cfgowner)) \
         FROM pg_ts_config x JOIN pg_namespace n ON n.oid = x.cfgnamespace WHERE ",
        own!("pg_ts_config", "x.oid")
    ),
    concat!(
        "SELECT '', format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', p.oid::regprocedure) \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.proacl IS NOT NULL AND ",
        own!("pg_proc", "p.oid")
    ),
    concat!(
        "SELECT '', format('GRANT %s ON ROUTINE %s TO ', a.privilege_type, p.oid::regprocedure) || ",
        to_grantee!(),
        " FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, aclexplode(p.proacl) a WHERE a.grantee <> p.proowner AND ",
        own!("pg_proc", "p.oid")
    ),
    concat!(
        "SELECT '', format('REVOKE ALL ON TYPE %s FROM PUBLIC', t.oid::regtype) \
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typacl IS NOT NULL AND t.typtype <> 'm' AND ",
        own!("pg_type", "t.oid")
    ),
    concat!(
        "SELECT '', format('GRANT %s ON TYPE %s TO ', a.privilege_type, t.oid::regtype) || ",
        to_grantee!(),
        " FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace, aclexplode(t.typacl) a \
          WHERE a.grantee <> t.typowner AND t.typtype <> 'm' AND ",
        own!("pg_type", "t.oid")
    ),
    concat!(
        "SELECT '', format('GRANT %s ON SCHEMA %I TO ', a.privilege_type, n.nspname) || ",
        to_grantee!(),
        " FROM pg_namespace n, aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner AND ",
        own!("pg_namespace", "n.oid")
    ),
    concat!(
        "SELECT '', format('GRANT %s ON DATABASE %I TO ', a.privilege_type, d.datname) || ",
        to_grantee!(),
        " FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database() AND a.grantee <> d.datdba"
    ),
];
