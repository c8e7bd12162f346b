//! What a new worker gets before it gets shards: roles with their secrets, schemas, extensions, types, functions, and
//! the reference tables with their rows. Safe to repeat: what is there already stays.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::{Client, Transaction as Target};

use super::reference_table::remember_copy;
use super::table_definition::TableDefinition;
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal, qualified};
use crate::error::Result;
use crate::executor::Transaction;
use crate::shard_map::{NodeId, ShardMap};

/// A reference table as it is to be made on the new worker.
pub struct Reference {
    name: String,
    /// Removes a copy that an earlier attempt left; never a table that isn't ours.
    replace: String,
    create: String,
    after_rows: String,
    /// After all reference tables are there.
    pub foreign_keys: String,
    columns: String,
}

/// Locks every reference table against writers until the client's transaction ends.
pub async fn lock_reference_tables(txn: &mut Transaction, map: &ShardMap) -> Result<Vec<Reference>> {
    let mut tables: Vec<_> = map.tables().filter(|t| t.is_reference()).collect();
    tables.sort_by_key(|t| t.oid);
    let mut references = Vec::new();
    for table in tables {
        let name = qualified(&table.schema, &table.name);
        txn.query(NodeId::COORDINATOR, &format!("LOCK TABLE ONLY {name} IN EXCLUSIVE MODE")).await?;
        let definition = TableDefinition::read(txn, table.oid).await?;
        let stages = definition.for_copy(map)?;
        let columns: Vec<String> = definition.stored_columns().iter().map(|c| identifier(c)).collect();
        let (schema, relation) = (literal(&table.schema), literal(&table.name));
        references.push(Reference {
            replace: format!(
                "DO $tenantry$ BEGIN IF EXISTS (SELECT FROM tenantry.reference_copy WHERE schema = {schema} \
                 AND name = {relation}) AND pg_catalog.to_regclass({}) IS NOT NULL THEN DROP TABLE {name} CASCADE; \
                 END IF; END $tenantry$;",
                literal(&name)
            ),
            create: format!("{}{}", stages.table, remember_copy(&table.schema, &table.name)),
            after_rows: format!("{}{}", stages.keys_and_indexes, stages.rest),
            foreign_keys: stages.foreign_keys,
            columns: columns.join(", "),
            name,
        });
    }
    Ok(references)
}

/// Makes the table and streams the committed rows into it.
pub async fn copy_reference_table(coordinator: &Client, target: &Target<'_>, reference: &Reference) -> Result<()> {
    let Reference { name, columns, .. } = reference;
    target.batch_execute(&reference.replace).await.map_err(pg_error)?;
    target.batch_execute(&reference.create).await.map_err(pg_error)?;
    let out = format!("COPY (SELECT {columns} FROM ONLY {name}) TO STDOUT (FORMAT binary)");
    let rows = coordinator.copy_out(&out).await.map_err(pg_error)?;
    let into = format!("COPY {name} ({columns}) FROM STDIN (FORMAT binary)");
    let sink = target.copy_in::<_, Bytes>(&into).await.map_err(pg_error)?;
    let (mut rows, mut sink) = (std::pin::pin!(rows), std::pin::pin!(sink));
    while let Some(chunk) = rows.next().await {
        sink.send(chunk.map_err(pg_error)?).await.map_err(pg_error)?;
    }
    sink.as_mut().finish().await.map_err(pg_error)?;
    target.batch_execute(&reference.after_rows).await.map_err(pg_error)
}

/// Roles, schemas, extensions, types and functions of the coordinator that the new worker does not have.
pub async fn copy_definitions(coordinator: &Client, target: &Target<'_>) -> Result<()> {
    target
        .batch_execute(
            "SET LOCAL client_min_messages = warning;
             SET LOCAL check_function_bodies = off;
             CREATE SCHEMA IF NOT EXISTS tenantry;
             GRANT USAGE ON SCHEMA tenantry TO PUBLIC;
             CREATE TABLE IF NOT EXISTS tenantry.reference_copy (schema text, name text, PRIMARY KEY (schema, name));",
        )
        .await
        .map_err(pg_error)?;
    for (wanted, present) in OBJECTS {
        let present: Vec<String> = names(target.query(*present, &[]).await.map_err(pg_error)?)?;
        for row in coordinator.query(*wanted, &[]).await.map_err(pg_error)? {
            let name: &str = row.try_get(0).map_err(pg_error)?;
            let statement: Option<&str> = row.try_get(1).map_err(pg_error)?;
            if let Some(statement) = statement
                && (name.is_empty() || !present.iter().any(|p| p == name))
            {
                target.batch_execute(statement).await.map_err(pg_error)?;
            }
        }
    }
    // Members of tenantry_admin make shard schemas and reference copies as themselves.
    target
        .batch_execute(
            "GRANT SELECT, INSERT, DELETE ON tenantry.reference_copy TO tenantry_admin;
             DO $tenantry$ BEGIN EXECUTE pg_catalog.format('GRANT CREATE ON DATABASE %I TO tenantry_admin',
                 pg_catalog.current_database()); END $tenantry$",
        )
        .await
        .map_err(pg_error)
}

fn names(rows: Vec<tokio_postgres::Row>) -> Result<Vec<String>> {
    rows.iter().map(|row| row.try_get(0).map_err(pg_error)).collect()
}

/// For each kind of object: (name, statement) on the coordinator, and the names that a server has already.
/// An empty name: run always. The user that we are has a password of its own on each server and is left alone.
const OBJECTS: &[(&str, &str)] = &[
    (
        "SELECT rolname::text, format('CREATE ROLE %I', rolname) FROM pg_roles WHERE rolname NOT LIKE 'pg\\_%' ORDER BY 1",
        "SELECT rolname::text FROM pg_roles",
    ),
    (
        "SELECT '', format('ALTER ROLE %I %s %s %s %s %s %s %s CONNECTION LIMIT %s %s %s', rolname, \
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
        "SELECT ''::text WHERE false",
    ),
    (
        "SELECT DISTINCT ON (1) r.rolname || ' ' || m.rolname, format('GRANT %I TO %I%s', r.rolname, m.rolname, \
             CASE WHEN a.admin_option THEN ' WITH ADMIN OPTION' ELSE '' END) \
         FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member \
         WHERE m.rolname NOT LIKE 'pg\\_%' ORDER BY 1, a.admin_option DESC",
        "SELECT r.rolname || ' ' || m.rolname FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid \
         JOIN pg_roles m ON m.oid = a.member",
    ),
    (
        "SELECT '', format('ALTER ROLE %I SET %I TO %s', r.rolname, split_part(setting, '=', 1), \
             CASE WHEN split_part(setting, '=', 1) IN ('search_path', 'temp_tablespaces', 'session_preload_libraries') \
             THEN substr(setting, strpos(setting, '=') + 1) ELSE quote_literal(substr(setting, strpos(setting, '=') + 1)) END) \
         FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) setting \
         WHERE s.setdatabase = 0 ORDER BY 2",
        "SELECT ''::text WHERE false",
    ),
    (
        "SELECT nspname::text, format('CREATE SCHEMA %I AUTHORIZATION %I', nspname, pg_get_userbyid(nspowner)) \
         FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema' \
           AND nspname NOT IN ('tenantry', 'tenantry_arguments', 'tenantry_result', 'tenantry_describe') \
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = pg_namespace.oid \
                           AND d.deptype = 'e') ORDER BY 1",
        "SELECT nspname::text FROM pg_namespace",
    ),
    (
        "SELECT '', format('GRANT %s ON SCHEMA %I TO %s', a.privilege_type, n.nspname, \
             CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) \
         FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname NOT LIKE 'pg\\_%' \
           AND n.nspname NOT LIKE 'tenantry%' AND n.nspname <> 'information_schema' AND a.grantee <> n.nspowner ORDER BY 2",
        "SELECT ''::text WHERE false",
    ),
    (
        "SELECT extname::text, format('CREATE EXTENSION %I SCHEMA %I CASCADE', extname, n.nspname) \
         FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace ORDER BY e.oid",
        "SELECT extname::text FROM pg_extension",
    ),
    (
        "SELECT n.nspname || '.' || t.typname, CASE t.typtype WHEN 'e' \
             THEN format('CREATE TYPE %I.%I AS ENUM (%s)', n.nspname, t.typname, \
                 (SELECT coalesce(string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder), '') FROM pg_enum WHERE enumtypid = t.oid)) \
             WHEN 'c' THEN format('CREATE TYPE %I.%I AS (%s)', n.nspname, t.typname, \
                 (SELECT coalesce(string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum), '') \
                  FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped)) \
             ELSE format('CREATE DOMAIN %I.%I AS %s%s%s%s', n.nspname, t.typname, format_type(t.typbasetype, t.typtypmod), \
                 CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END, coalesce(' DEFAULT ' || t.typdefault, ''), \
                 (SELECT coalesce(string_agg(format(' CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), ''), '') \
                  FROM pg_constraint WHERE contypid = t.oid)) END \
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
         WHERE (t.typtype IN ('e', 'd') OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')) AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT LIKE 'tenantry%' \
           AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend d \
                WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e') ORDER BY t.oid",
        "SELECT n.nspname || '.' || t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace",
    ),
    // A function over types or tables that the worker doesn't have is of no use there.
    (
        "SELECT '', format('DO $tenantry$ BEGIN EXECUTE %L; EXCEPTION WHEN undefined_object OR undefined_table THEN NULL; \
             END $tenantry$', pg_get_functiondef(p.oid)) \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang \
         WHERE p.prokind IN ('f', 'p', 'w') AND l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL \
           AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT LIKE 'tenantry%' AND n.nspname <> 'information_schema' \
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e') \
         ORDER BY p.oid",
        "SELECT ''::text WHERE false",
    ),
];
