//! The definition of a shard group, read off the source itself.
//!
//! The shard's schemas have the same names on the target, so what Postgres prints (with everything qualified) is right
//! there as it stands, and the target gets what the source has, whatever the shells say. Indexes that are not valid stay behind,
//! but for those of partitioned tables that still wait for their partitions'.
//!
//! Limits: no inheritance other than partitions, no rules, no types or operators of the shard schema's own.

use std::collections::HashSet;

use super::part::replace_word;
use super::session::Session;
use super::state::Move;
use super::{Notice, Notify};
use crate::catalog::pg_error;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::ShardGroupId;

/// Statements in four stages, each in an order that works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    /// Functions, sequences, tables with their defaults and checks.
    pub tables: Vec<String>,
    /// Primary and unique keys, exclusions, indexes, replica identities, statistics: after the copy.
    pub keys_and_indexes: Vec<String>,
    pub foreign_keys: Vec<ForeignKey>,
    /// Triggers, views, policies, owners, privileges, comments, checks that do not hold for old rows.
    pub rest: Vec<String>,
}

/// Added without a look at the rows, which needs a strong lock only for a moment, and checked afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    pub add: String,
    /// None where `add` checks itself, or the key never was valid.
    pub validate: Option<String>,
}

impl Definition {
    /// With the names that the shard's schemas have as those of `group` on the target.
    pub fn on_target(mut self, mv: &Move, group: ShardGroupId) -> Self {
        if group == mv.group {
            return self;
        }
        self.rename(&mv.schemas_of(mv.group), &mv.schemas_of(group));
        self
    }

    /// Writes the names `to` of schemas, unquoted, in the place of `from`.
    fn rename(&mut self, from: &[String], to: &[String]) {
        let quoted = |name: &str| name.replace('"', "\"\"");
        let rename = |statement: &mut String| {
            for (from, to) in from.iter().zip(to) {
                *statement = replace_word(statement, &quoted(from), &quoted(to));
            }
        };
        let keys = self.foreign_keys.iter_mut().flat_map(|key| [Some(&mut key.add), key.validate.as_mut()]).flatten();
        self.tables.iter_mut().chain(&mut self.keys_and_indexes).chain(&mut self.rest).chain(keys).for_each(rename);
    }

    /// What one of both has and the other has not, in whatever order.
    fn difference(&self, other: &Self) -> Option<String> {
        let lacks = |one: &Self, other: &Self| {
            let there: HashSet<&str> = other.statements().collect();
            one.statements().find(|statement| !there.contains(statement)).map(str::to_owned)
        };
        lacks(self, other).or_else(|| lacks(other, self))
    }

    fn statements(&self) -> impl Iterator<Item = &str> {
        let keys = self.foreign_keys.iter().flat_map(|key| [Some(&key.add), key.validate.as_ref()]).flatten();
        self.tables.iter().chain(&self.keys_and_indexes).chain(&self.rest).chain(keys).map(String::as_str)
    }
}

/// Reads the group's definition. `session` has `search_path = pg_catalog`, so that every name is printed qualified.
///
/// Errors: 55000 for shard groups that are to become one and are not alike.
pub async fn read(source: &Session, mv: &Move) -> Result<Definition> {
    let definition = read_group(source, mv, mv.group).await?;
    for group in mv.sources().into_iter().filter(|group| *group != mv.group) {
        let mut other = read_group(source, mv, group).await?;
        other.rename(&mv.schemas_of(group), &mv.schemas_of(mv.group));
        if let Some(difference) = definition.difference(&other) {
            let message = format!("shard groups {} and {group} are not alike", mv.group);
            return Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail(format!("Only one of them has: {difference}")));
        }
    }
    Ok(definition)
}

async fn read_group(source: &Session, mv: &Move, group: ShardGroupId) -> Result<Definition> {
    let mut definition = Definition::default();
    let schemas = mv.schemas_of(group);
    let own_publication_full = &mv.full_identity;
    for row in source.query(STATEMENTS, &[&schemas, own_publication_full]).await.map_err(pg_error)? {
        let (stage, statement, validate): (&str, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
        match stage {
            "table" => definition.tables.push(statement),
            "key" => definition.keys_and_indexes.push(statement),
            "foreign" => definition.foreign_keys.push(ForeignKey { add: statement, validate }),
            _ => definition.rest.push(statement),
        }
    }
    Ok(definition)
}

/// Says which indexes the move does not carry along: those that CREATE INDEX CONCURRENTLY has not finished.
pub async fn tell_of_indexes_left_behind(source: &Session, mv: &Move, notify: &Notify<'_>) -> Result<()> {
    let sql = "SELECT quote_ident(i.relname), quote_ident(c.relname)
               FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
               JOIN pg_class c ON c.oid = x.indrelid AND c.relkind = 'r' JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = ANY ($1) AND NOT x.indisvalid ORDER BY 1";
    for row in source.query(sql, &[&mv.shard_schemas()]).await.map_err(pg_error)? {
        let (index, table): (&str, &str) = (row.get(0), row.get(1));
        let what = format!("index {index} of table {table} is not valid and stays behind");
        notify(Notice::new(what).hint("Create it again once the shard has moved, or REINDEX it before."));
    }
    Ok(())
}

/// (stage, statement, validation), in order.
const STATEMENTS: &str = r#"
WITH s AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = ANY ($1)),
t AS (
    SELECT c.*, format('%I.%I', s.nspname, c.relname) AS name,
        -- Partitions get their keys and indexes first, under their own names; their parents' then take them for parts.
        (SELECT count(*) FROM pg_partition_ancestors(c.oid)) * 4294967296 AS depth
    FROM pg_class c JOIN s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p')
),
statements (stage, rank, id, statement, validate) AS (
    SELECT 'table', 1, p.oid::bigint, pg_get_functiondef(p.oid), NULL
    FROM pg_proc p JOIN s ON s.oid = p.pronamespace WHERE p.prokind IN ('f', 'p', 'w')
UNION ALL
    SELECT 'table', 2, c.oid::bigint, format(
        'CREATE SEQUENCE %I.%I AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s',
        s.nspname, c.relname, format_type(q.seqtypid, NULL), q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache,
        CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END), NULL
    FROM pg_class c JOIN s ON s.oid = c.relnamespace JOIN pg_sequence q ON q.seqrelid = c.oid
    WHERE NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i')
UNION ALL
    SELECT 'table', 3, t.oid::bigint, format('CREATE TABLE %s (%s)%s%s%s', t.name, (
        SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
            || CASE WHEN a.attcollation NOT IN (0, y.typcollation) THEN (
                   SELECT format(' COLLATE %I.%I', n.nspname, l.collname)
                   FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = a.attcollation)
               ELSE '' END
            || CASE WHEN a.attgenerated = 's' THEN format(' GENERATED ALWAYS AS (%s) STORED', pg_get_expr(d.adbin, d.adrelid))
                    WHEN a.attidentity <> '' THEN format(' GENERATED %s AS IDENTITY (%s)',
                        CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, (
                        SELECT format('SEQUENCE NAME %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s',
                            q.seqrelid::regclass, q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache,
                            CASE WHEN q.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END)
                        FROM pg_depend o JOIN pg_sequence q ON q.seqrelid = o.objid
                        WHERE o.classid = 'pg_class'::regclass AND o.refclassid = 'pg_class'::regclass
                        AND o.refobjid = a.attrelid AND o.refobjsubid = a.attnum AND o.deptype = 'i'))
                    WHEN d.adbin IS NOT NULL THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)
                    ELSE '' END
            || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY a.attnum)
        FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped),
        CASE WHEN t.relkind = 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(t.oid) ELSE '' END,
        CASE WHEN m.amname <> 'heap' THEN format(' USING %I', m.amname) ELSE '' END,
        CASE WHEN t.reloptions IS NOT NULL THEN format(' WITH (%s)', array_to_string(t.reloptions, ', ')) ELSE '' END), NULL
    FROM t LEFT JOIN pg_am m ON m.oid = t.relam
UNION ALL
    SELECT 'table', 4, a.attrelid::bigint * 2000 + a.attnum, format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE %s', t.name,
        a.attname, CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END), NULL
    FROM pg_attribute a JOIN t ON t.oid = a.attrelid JOIN pg_type y ON y.oid = a.atttypid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> y.typstorage
UNION ALL
    SELECT 'table', 4, a.attrelid::bigint * 2000 + a.attnum, format('ALTER TABLE ONLY %s ALTER COLUMN %I %s', t.name, a.attname, v.what), NULL
    FROM pg_attribute a JOIN t ON t.oid = a.attrelid, LATERAL (VALUES
        ('SET COMPRESSION ' || CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END),
        ('SET STATISTICS ' || CASE WHEN a.attstattarget >= 0 THEN a.attstattarget END),
        (format('SET (%s)', nullif(array_to_string(a.attoptions, ', '), '')))) v (what)
    WHERE a.attnum > 0 AND NOT a.attisdropped AND v.what IS NOT NULL AND v.what <> 'SET ()'
UNION ALL
    SELECT 'table', 4, t.oid::bigint, format('ALTER TABLE %s SET (%s)', t.name,
        (SELECT string_agg('toast.' || option, ', ') FROM unnest(o.reloptions) option)), NULL
    FROM t JOIN pg_class o ON o.oid = t.reltoastrelid WHERE o.reloptions IS NOT NULL
UNION ALL
    SELECT 'table', 5, q.oid::bigint, format('ALTER SEQUENCE %I.%I OWNED BY %s.%I', s.nspname, q.relname, t.name, a.attname), NULL
    FROM pg_depend d JOIN pg_class q ON q.oid = d.objid AND q.relkind = 'S' JOIN s ON s.oid = q.relnamespace
    JOIN t ON t.oid = d.refobjid JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a'
UNION ALL
    SELECT 'table', 6, t.oid::bigint, format('ALTER TABLE %s ATTACH PARTITION %s %s', i.inhparent::regclass, t.name,
        pg_get_expr(t.relpartbound, t.oid)), NULL
    FROM t JOIN pg_inherits i ON i.inhrelid = t.oid WHERE t.relispartition
UNION ALL
    SELECT CASE WHEN k.contype = 'c' THEN CASE WHEN k.convalidated THEN 'table' ELSE 'rest' END
                WHEN k.contype = 'f' THEN 'foreign' ELSE 'key' END,
        CASE WHEN k.contype = 'c' THEN 7 ELSE 8 END, k.oid::bigint - t.depth,
        format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', t.name, k.conname, pg_get_constraintdef(k.oid),
            CASE WHEN l.is_late THEN ' NOT VALID' ELSE '' END),
        CASE WHEN l.is_late THEN format('ALTER TABLE %s VALIDATE CONSTRAINT %I', t.name, k.conname) END
    FROM pg_constraint k JOIN t ON t.oid = k.conrelid LEFT JOIN pg_class f ON f.oid = k.confrelid,
    -- VALIDATE leaves what a key has made of the partitions that it refers to as it is: not valid.
    LATERAL (VALUES (k.contype = 'f' AND t.relkind = 'r' AND f.relkind = 'r' AND k.convalidated)) l (is_late)
    WHERE k.contype IN ('p', 'u', 'x') OR k.contype IN ('c', 'f') AND k.conparentid = 0 AND k.conislocal
UNION ALL
    SELECT 'key', 9, x.indexrelid::bigint - t.depth, CASE WHEN x.indisvalid
        THEN replace(pg_get_indexdef(x.indexrelid), ' ON ONLY ', ' ON ') ELSE pg_get_indexdef(x.indexrelid) END, NULL
    FROM pg_index x JOIN t ON t.oid = x.indrelid
    -- That of a partitioned table is not valid until all partitions have theirs.
    WHERE (x.indisvalid OR t.relkind = 'p')
    AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = x.indexrelid AND starts_with(c.relname, 'tenantry_rows_'))
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
UNION ALL
    SELECT 'key', 10, i.inhrelid::bigint, format('ALTER INDEX %s ATTACH PARTITION %s', x.indexrelid::regclass, i.inhrelid::regclass), NULL
    FROM pg_index x JOIN t ON t.oid = x.indrelid AND t.relkind = 'p' JOIN pg_inherits i ON i.inhparent = x.indexrelid
    WHERE NOT x.indisvalid
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
UNION ALL
    SELECT 'key', 10, t.oid::bigint, format('ALTER TABLE %s REPLICA IDENTITY %s', t.name,
        CASE t.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE (
            SELECT format('USING INDEX %I', c.relname) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
            WHERE x.indrelid = t.oid AND x.indisreplident) END), NULL
    FROM t WHERE t.relreplident IN ('f', 'n', 'i') AND NOT t.name = ANY ($2)
    AND NOT format('"%s"."%s"', replace((SELECT nspname FROM s WHERE s.oid = t.relnamespace), '"', '""'),
                   replace(t.relname, '"', '""')) = ANY ($2)
UNION ALL
    SELECT 'key', 10, t.oid::bigint, format('ALTER TABLE %s CLUSTER ON %I', t.name, c.relname), NULL
    FROM t JOIN pg_index x ON x.indrelid = t.oid AND x.indisclustered JOIN pg_class c ON c.oid = x.indexrelid
UNION ALL
    SELECT 'key', 11, x.indexrelid::bigint, format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', x.indexrelid::regclass,
        a.attnum, a.attstattarget), NULL
    FROM t JOIN pg_index x ON x.indrelid = t.oid JOIN pg_attribute a ON a.attrelid = x.indexrelid
    WHERE (x.indisvalid OR t.relkind = 'p') AND a.attstattarget >= 0
UNION ALL
    SELECT 'key', 11, e.oid::bigint, pg_get_statisticsobjdef(e.oid), NULL
    FROM pg_statistic_ext e JOIN t ON t.oid = e.stxrelid
UNION ALL
    SELECT 'key', 12, e.oid::bigint, format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, e.stxname, e.stxstattarget), NULL
    FROM pg_statistic_ext e JOIN t ON t.oid = e.stxrelid JOIN pg_namespace n ON n.oid = e.stxnamespace WHERE e.stxstattarget >= 0
UNION ALL
    SELECT 'rest', 12, g.oid::bigint, pg_get_triggerdef(g.oid), NULL
    FROM pg_trigger g JOIN t ON t.oid = g.tgrelid WHERE NOT g.tgisinternal AND g.tgparentid = 0
UNION ALL
    SELECT 'rest', 13, g.oid::bigint, format('ALTER TABLE %s %s TRIGGER %I', t.name,
        CASE g.tgenabled WHEN 'O' THEN 'ENABLE' WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END,
        g.tgname), NULL
    FROM pg_trigger g JOIN t ON t.oid = g.tgrelid
    -- A partition's copy of its parent's trigger gets the parent's state by itself.
    WHERE NOT g.tgisinternal
        AND g.tgenabled <> coalesce((SELECT up.tgenabled FROM pg_trigger up WHERE up.oid = g.tgparentid), 'O')
UNION ALL
    SELECT 'rest', 13, g.oid::bigint, format('COMMENT ON TRIGGER %I ON %s IS %L', g.tgname, t.name, d.description), NULL
    FROM pg_trigger g JOIN t ON t.oid = g.tgrelid JOIN pg_description d ON d.objoid = g.oid AND d.classoid = 'pg_trigger'::regclass
    WHERE NOT g.tgisinternal
UNION ALL
    SELECT 'rest', 14, v.oid::bigint, format('CREATE VIEW %I.%I%s AS %s', s.nspname, v.relname,
        CASE WHEN v.reloptions IS NOT NULL THEN format(' WITH (%s)', array_to_string(v.reloptions, ', ')) ELSE '' END,
        pg_get_viewdef(v.oid)), NULL
    FROM pg_class v JOIN s ON s.oid = v.relnamespace WHERE v.relkind = 'v'
UNION ALL
    SELECT 'rest', 15, p.oid::bigint, format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, t.name,
        CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
        CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
        (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ') FROM unnest(p.polroles) r),
        ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
        ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'), NULL
    FROM pg_policy p JOIN t ON t.oid = p.polrelid
UNION ALL
    SELECT 'rest', 16, t.oid::bigint, format('ALTER TABLE %s %s ROW LEVEL SECURITY', t.name, v.verb), NULL
    FROM t, LATERAL (VALUES ('ENABLE', t.relrowsecurity), ('FORCE', t.relforcerowsecurity)) v (verb, wanted) WHERE v.wanted
UNION ALL
    SELECT 'rest', 17, c.oid::bigint, format('GRANT %s ON %s TO %s%s', a.privilege_type, c.oid::regclass,
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), NULL
    FROM pg_class c JOIN s ON s.oid = c.relnamespace, LATERAL aclexplode(c.relacl) a
    WHERE c.relkind IN ('r', 'p', 'v', 'S') AND a.grantee <> c.relowner
UNION ALL
    SELECT 'rest', 17, c.attrelid::bigint, format('GRANT %s (%I) ON %s TO %s%s', a.privilege_type, c.attname, t.name,
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), NULL
    FROM pg_attribute c JOIN t ON t.oid = c.attrelid, LATERAL aclexplode(c.attacl) a
    WHERE NOT c.attisdropped
UNION ALL
    SELECT 'rest', 18, n.oid::bigint, format('GRANT %s ON SCHEMA %I TO %s', a.privilege_type, n.nspname,
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END), NULL
    FROM pg_namespace n JOIN s ON s.oid = n.oid, LATERAL aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner
UNION ALL
    SELECT 'rest', 19, c.oid::bigint, format('ALTER %s %s OWNER TO %s',
        CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass, c.relowner::regrole), NULL
    FROM pg_class c JOIN s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'S') AND c.relowner::regrole::text <> quote_ident(current_user)
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
UNION ALL
    -- What an owner has taken from himself.
    SELECT 'rest', 20, c.oid::bigint, format('REVOKE %s ON %s FROM %s', a.privilege_type, c.oid::regclass, c.relowner::regrole), NULL
    FROM pg_class c JOIN s ON s.oid = c.relnamespace,
        LATERAL aclexplode(acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) a
    WHERE c.relkind IN ('r', 'p', 'v', 'S') AND c.relacl IS NOT NULL AND a.grantee = c.relowner AND NOT EXISTS (
        SELECT FROM aclexplode(c.relacl) has WHERE has.grantee = c.relowner AND has.privilege_type = a.privilege_type)
UNION ALL
    SELECT 'rest', 20, e.oid::bigint, format('ALTER STATISTICS %I.%I OWNER TO %s', n.nspname, e.stxname, e.stxowner::regrole), NULL
    FROM pg_statistic_ext e JOIN t ON t.oid = e.stxrelid JOIN pg_namespace n ON n.oid = e.stxnamespace
    WHERE e.stxowner::regrole::text <> quote_ident(current_user)
UNION ALL
    SELECT 'rest', 20, n.oid::bigint, format('ALTER SCHEMA %I OWNER TO %s', n.nspname, n.nspowner::regrole), NULL
    FROM pg_namespace n JOIN s ON s.oid = n.oid WHERE n.nspowner::regrole::text <> quote_ident(current_user)
UNION ALL
    -- All in one: some like to comment on each column.
    SELECT 'rest', 21, 0, string_agg(format('COMMENT ON %s IS %L', o.named, d.description), '; ' ORDER BY o.named), NULL
    FROM (
        SELECT 'pg_class'::regclass, c.oid, 0, format('%s %s', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE'
            WHEN 'i' THEN 'INDEX' WHEN 'I' THEN 'INDEX' ELSE 'TABLE' END, c.oid::regclass)
        FROM pg_class c JOIN s ON s.oid = c.relnamespace LEFT JOIN pg_index x ON x.indexrelid = c.oid
        WHERE c.relkind IN ('r', 'p', 'v', 'S', 'I') OR c.relkind = 'i' AND x.indisvalid
        UNION ALL
        SELECT 'pg_class'::regclass, c.oid, a.attnum, format('COLUMN %s.%I', c.oid::regclass, a.attname)
        FROM pg_class c JOIN s ON s.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        -- Those that have the same name there whatever Postgres calls what partitions inherit.
        SELECT 'pg_constraint'::regclass, k.oid, 0, format('CONSTRAINT %I ON %s', k.conname, t.name)
        FROM pg_constraint k JOIN t ON t.oid = k.conrelid
        WHERE k.contype IN ('p', 'u', 'x') OR k.contype IN ('c', 'f') AND k.conparentid = 0 AND k.conislocal
        UNION ALL
        SELECT 'pg_policy'::regclass, p.oid, 0, format('POLICY %I ON %s', p.polname, t.name)
        FROM pg_policy p JOIN t ON t.oid = p.polrelid
        UNION ALL
        SELECT 'pg_statistic_ext'::regclass, e.oid, 0, format('STATISTICS %I.%I', n.nspname, e.stxname)
        FROM pg_statistic_ext e JOIN t ON t.oid = e.stxrelid JOIN pg_namespace n ON n.oid = e.stxnamespace
    ) o (class, id, part, named)
    JOIN pg_description d ON d.classoid = o.class AND d.objoid = o.id AND d.objsubid = o.part
    HAVING count(*) > 0
)
-- An object may have several statements (a privilege each), and the definition is compared with itself, read later.
SELECT stage, statement, validate FROM statements ORDER BY rank, id, statement COLLATE "C"
"#;
