//! Catalog rows to `ShardMap`: one statement, one JSON text, one parse.
//!
//! The same statement runs on a control connection (what is committed) and on a client's own connection (what its
//! transaction has changed besides).

use serde::Deserialize;

use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{
    ColocationGroup, ColocationId, Column, HashType, Node, NodeId, SessionDefault, ShardGroup, ShardGroupId, ShardId,
    ShardMap, ShardMapParts, Standby, Table, TableKind, TableOid, Tenant,
};

/// One row: everything that `parse` needs, and how many moves there have been. Safe under any search_path.
///
/// A default is volatile when its tree has a function or operator that is not immutable, or a node that stands for one
/// (CURRENT_DATE, nextval of an identity, a cast through text).
///
/// Opaque code: functions whose body, with or without its comments, has a word that may change the session's state, or
/// the name of such a function. Too many are better than too few: their connections are cleaned before others get them.
pub const LOAD: &str = r#"
WITH RECURSIVE managed AS MATERIALIZED (
    SELECT t.logicalrelid, t.partmethod, t.partkey, t.colocationid, n.nspname, c.relname, c.relkind
    FROM tenantry.distributed_table t
    JOIN pg_catalog.pg_class c ON c.oid = t.logicalrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
), columns AS (
    SELECT a.attrelid, pg_catalog.json_agg(pg_catalog.json_build_object(
        'attnum', a.attnum, 'name', a.attname, 'type_oid', a.atttypid::pg_catalog.int8,
        'type_modifier', CASE WHEN a.atttypmod >= 0 THEN a.atttypmod ELSE coalesce((WITH RECURSIVE domain AS (
                SELECT t.typbasetype, t.typtypmod FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid AND t.typtype = 'd'
                UNION ALL
                SELECT t.typbasetype, t.typtypmod FROM pg_catalog.pg_type t JOIN domain ON t.oid = domain.typbasetype
                WHERE t.typtype = 'd')
            SELECT pg_catalog.max(typtypmod) FROM domain), -1) END,
        'is_generated', a.attgenerated <> '',
        'is_always_identity', a.attidentity = 'a',
        'has_volatile_default', a.attidentity <> '' OR (a.attgenerated = '' AND EXISTS (
            SELECT FROM pg_catalog.pg_attrdef d
            WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND (
                d.adbin::pg_catalog.text ~ '\{(SQLVALUEFUNCTION|NEXTVALUEEXPR|COERCEVIAIO) ' OR EXISTS (
                    SELECT FROM pg_catalog.regexp_matches(d.adbin::pg_catalog.text, ':(?:funcid|opfuncid) (\d+)', 'g') m
                    JOIN pg_catalog.pg_proc p ON p.oid = m[1]::pg_catalog.oid
                    WHERE p.provolatile <> 'i'))))
        ) ORDER BY a.attnum) AS columns
    FROM managed m
    JOIN pg_catalog.pg_attribute a ON a.attrelid = m.logicalrelid AND a.attnum > 0 AND NOT a.attisdropped
    GROUP BY a.attrelid
), uniques AS (
    SELECT x.indrelid, pg_catalog.json_agg((x.indkey::pg_catalog.int2[])[0:x.indnkeyatts - 1] ORDER BY x.indexrelid) AS keys
    FROM managed m
    JOIN pg_catalog.pg_index x ON x.indrelid = m.logicalrelid AND x.indisunique AND x.indisvalid
        AND x.indpred IS NULL AND x.indexprs IS NULL
    WHERE m.relkind = 'r'
    GROUP BY x.indrelid
), drawn AS (
    -- Of identities, and in defaults. Apart, and not of `managed`, so that each is looked up by an index.
    SELECT d.objid AS oid FROM tenantry.distributed_table t
    JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.refobjid = t.logicalrelid AND d.classid = d.refclassid AND d.deptype = 'i'
    WHERE t.partmethod = 'h'
    UNION
    SELECT d.refobjid FROM tenantry.distributed_table t
    JOIN pg_catalog.pg_attrdef f ON f.adrelid = t.logicalrelid
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    WHERE t.partmethod = 'h'
), shards AS (
    SELECT s.logicalrelid, pg_catalog.json_agg(s.shardid
        ORDER BY g.tenant IS NOT NULL, CASE WHEN g.tenant IS NULL THEN g.minvalue END, g.id) AS shards
    FROM tenantry.shard s LEFT JOIN tenantry.shard_group g ON g.id = s.shard_group_id
    GROUP BY s.logicalrelid
), code AS MATERIALIZED (
    SELECT p.oid, p.proname, l.lanname NOT IN ('sql', 'plpgsql') AS is_foreign, pg_catalog.lower(
        p.prosrc || ';' || pg_catalog.regexp_replace(
            pg_catalog.regexp_replace(p.prosrc, '--[^\n]*', ' ', 'g'), '/\*.*?\*/', ' ', 'g')
        || coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), '')) AS body
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal')
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^tenantry'
), opaque AS (
    SELECT code.oid, code.proname FROM code
    WHERE code.is_foreign OR code.body ~ ('set_config|advisory_|pg_settings|u&"'
        '|query_to_xml|ts_stat|ts_rewrite|setseed|set_limit|crosstab|connectby|xpath_table|dblink'
        '|\m(execute|listen|unlisten|discard|reset|prepare|deallocate|temp|temporary|pg_temp|load|hold)\M'
        '|(^|;|\m(begin|then|else|loop|atomic)\M)\s*set\s')
    UNION
    SELECT code.oid, code.proname FROM code
    JOIN opaque ON pg_catalog.strpos(code.body, pg_catalog.lower(opaque.proname)) > 0
)
SELECT pg_catalog.json_build_object(
    'role_settings', (SELECT coalesce(pg_catalog.md5(pg_catalog.string_agg(s::text, ';' ORDER BY s.setdatabase, s.setrole)), '')
        FROM pg_catalog.pg_db_role_setting s),
    'defaults', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
            'database', d.datname, 'role', r.rolname, 'name', v.name, 'value', v.value,
            'otherwise', coalesce(CASE WHEN p.source = 'client' THEN p.boot_val ELSE p.reset_val END, ''))), '[]')
        FROM pg_catalog.pg_db_role_setting s
        LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
        CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) c (entry)
        CROSS JOIN LATERAL (SELECT pg_catalog.lower(pg_catalog.split_part(c.entry, '=', 1)) AS name,
            pg_catalog.substr(c.entry, pg_catalog.strpos(c.entry, '=') + 1) AS value) v
        LEFT JOIN pg_catalog.pg_settings p ON pg_catalog.lower(p.name) = v.name
        WHERE p.context IS NULL OR p.context = 'user'),
    'opaque', pg_catalog.json_build_object(
        'functions', (SELECT coalesce(pg_catalog.json_agg(DISTINCT o.proname), '[]') FROM opaque o),
        'is_everywhere', EXISTS (SELECT FROM pg_catalog.pg_depend d JOIN opaque o ON o.oid = d.refobjid
            WHERE d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass)),
    'drawn_sequences', (SELECT coalesce(pg_catalog.json_agg(DISTINCT s.relname), '[]') FROM drawn
        JOIN pg_catalog.pg_class s ON s.oid = drawn.oid AND s.relkind = 'S'),
    'nodes', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
            'id', n.nodeid, 'group_id', n.groupid, 'host', n.nodename, 'port', n.nodeport, 'is_active', n.isactive,
            'should_have_shards', n.shouldhaveshards, 'timeline', n.timeline,
            'standbys', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(s.nodename, s.nodeport)
                                                             ORDER BY s.nodeid), '[]')
                FROM tenantry.node s WHERE s.groupid = n.groupid AND s.noderole = 'secondary' AND s.isactive)
            ) ORDER BY n.nodeid), '[]')
        FROM tenantry.node n WHERE n.noderole = 'primary'),
    'colocations', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
            'id', c.colocationid,
            'hash_oid', CASE WHEN c.distributioncolumntype <> 0 THEN coalesce((
                WITH RECURSIVE base AS (
                    SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t WHERE t.oid = c.distributioncolumntype
                    UNION ALL
                    SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t JOIN base ON t.oid = base.typbasetype)
                SELECT base.oid FROM base WHERE base.typbasetype = 0), c.distributioncolumntype)::pg_catalog.int8 END,
            'shard_groups', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
                    'id', g.id, 'min', g.minvalue, 'max', g.maxvalue, 'node', g.nodeid, 'tenant', g.tenant,
                    'key', pg_catalog.encode(g.tenant_key, 'hex')) ORDER BY g.id), '[]')
                FROM tenantry.shard_group g WHERE g.colocationid = c.colocationid)
            ) ORDER BY c.colocationid), '[]')
        FROM tenantry.colocation c),
    'tables', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
            'oid', m.logicalrelid::pg_catalog.int8, 'schema', m.nspname, 'name', m.relname,
            'is_reference', m.partmethod = 'n', 'key', m.partkey, 'colocation', m.colocationid,
            'columns', coalesce(c.columns, '[]'), 'unique_keys', coalesce(u.keys, '[]'),
            'shards', coalesce(s.shards, '[]')) ORDER BY m.logicalrelid), '[]')
        FROM managed m
        LEFT JOIN columns c ON c.attrelid = m.logicalrelid
        LEFT JOIN uniques u ON u.indrelid = m.logicalrelid
        LEFT JOIN shards s ON s.logicalrelid = m.logicalrelid),
    'shadows', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, c.relname)
                                                    ORDER BY n.nspname, c.relname), '[]')
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relname IN (SELECT m.relname FROM managed m) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
          AND c.oid NOT IN (SELECT m.logicalrelid FROM managed m)
          AND n.nspname NOT LIKE 'pg\_temp\_%' AND n.nspname NOT LIKE 'pg\_toast%')
)::pg_catalog.text, (SELECT coalesce(pg_catalog.max(moveid), 0) FROM tenantry.shard_move)"#;

/// The snapshot that `json`, the answer to `LOAD`, describes.
///
/// Errors: XX001 when the rows contradict each other; better no map than one that loses a shard.
pub fn parse(version: u64, json: &str) -> Result<ShardMap> {
    let rows: Rows = serde_json::from_str(json).map_err(|e| corrupted(format!("It cannot be read: {e}.")))?;
    let mut parts = ShardMapParts { shadows: rows.shadows, ..ShardMapParts::default() };
    parts.opaque.functions.extend(rows.opaque.functions);
    parts.drawn_sequences.extend(rows.drawn_sequences);
    parts.role_settings = rows.role_settings.into();
    parts.defaults = rows.defaults.into_iter().map(DefaultRow::into_default).collect();
    parts.opaque.is_everywhere = rows.opaque.is_everywhere;
    let coordinator_rows: Vec<u32> = rows.nodes.iter().filter(|n| n.group_id == 0).map(|n| n.id).collect();
    let node_id = |id: u32| if coordinator_rows.contains(&id) { NodeId::COORDINATOR } else { NodeId(id) };
    for node in rows.nodes {
        parts.nodes.push(Node {
            id: node_id(node.id),
            group_id: node.group_id,
            host: node.host,
            port: node.port,
            is_active: node.is_active,
            should_have_shards: node.should_have_shards,
            timeline: node.timeline,
            standbys: node.standbys.into_iter().map(|(host, port)| Standby { host, port }).collect(),
        });
    }
    for colocation in rows.colocations {
        let hash = match colocation.hash_oid {
            None => None,
            Some(oid) => Some(HashType::from_oid(oid).ok_or_else(|| {
                corrupted(format!("Colocation group {} is cut by type {oid}, which has no known hash.", colocation.id))
            })?),
        };
        let shard_groups: Result<Vec<_>> =
            colocation.shard_groups.into_iter().map(|group| group.into_shard_group(node_id)).collect();
        parts.colocations.push(ColocationGroup::new(ColocationId(colocation.id), hash, shard_groups?));
    }
    for table in rows.tables {
        let table = table.check(&parts.colocations)?;
        parts.tables.push(table);
    }
    Ok(ShardMap::new(version, parts))
}

#[derive(Deserialize)]
struct Rows {
    nodes: Vec<NodeRow>,
    colocations: Vec<ColocationRow>,
    tables: Vec<TableRow>,
    shadows: Vec<(String, String)>,
    #[serde(default)]
    drawn_sequences: Vec<String>,
    #[serde(default)]
    role_settings: String,
    #[serde(default)]
    defaults: Vec<DefaultRow>,
    #[serde(default)]
    opaque: OpaqueRow,
}

#[derive(Deserialize)]
struct DefaultRow {
    database: Option<String>,
    role: Option<String>,
    name: String,
    value: String,
    otherwise: String,
}

impl DefaultRow {
    fn into_default(self) -> SessionDefault {
        let Self { database, role, name, value, otherwise } = self;
        SessionDefault { database, role, name, value, otherwise }
    }
}

#[derive(Default, Deserialize)]
struct OpaqueRow {
    functions: Vec<String>,
    is_everywhere: bool,
}

#[derive(Deserialize)]
struct NodeRow {
    id: u32,
    group_id: u32,
    host: String,
    port: u16,
    is_active: bool,
    should_have_shards: bool,
    #[serde(default)]
    timeline: Option<i32>,
    #[serde(default)]
    standbys: Vec<(String, u16)>,
}

#[derive(Deserialize)]
struct ColocationRow {
    id: u32,
    hash_oid: Option<u32>,
    shard_groups: Vec<ShardGroupRow>,
}

#[derive(Deserialize)]
struct ShardGroupRow {
    id: u64,
    min: i32,
    max: i32,
    node: u32,
    tenant: Option<String>,
    /// In hexadecimal.
    key: Option<String>,
}

impl ShardGroupRow {
    fn into_shard_group(self, node_id: impl Fn(u32) -> NodeId) -> Result<ShardGroup> {
        let tenant = match (self.tenant, self.key) {
            (Some(text), Some(key)) => {
                let key = bytes_of_hex(&key)
                    .ok_or_else(|| corrupted(format!("The tenant of shard group {} cannot be read.", self.id)))?;
                Some(Tenant { key, text })
            }
            _ => None,
        };
        Ok(ShardGroup { id: ShardGroupId(self.id), min: self.min, max: self.max, node: node_id(self.node), tenant })
    }
}

/// What Postgres's `encode(..., 'hex')` wrote.
fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|d| d as u8);
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}

#[derive(Deserialize)]
struct TableRow {
    oid: u32,
    schema: String,
    name: String,
    is_reference: bool,
    key: Option<i16>,
    colocation: u32,
    columns: Vec<ColumnRow>,
    #[serde(default)]
    unique_keys: Vec<Vec<i16>>,
    shards: Vec<u64>,
}

#[derive(Deserialize)]
struct ColumnRow {
    attnum: i16,
    name: String,
    type_oid: u32,
    type_modifier: i32,
    is_generated: bool,
    has_volatile_default: bool,
    is_always_identity: bool,
}

impl TableRow {
    fn check(self, colocations: &[ColocationGroup]) -> Result<Table> {
        let broken = |what: &str| corrupted(format!("Table \"{}\".\"{}\" {what}.", self.schema, self.name));
        let colocation = colocations
            .iter()
            .find(|c| c.id.0 == self.colocation)
            .ok_or_else(|| broken("belongs to no colocation group"))?;
        let shards_wanted = if self.is_reference { 1 } else { colocation.shard_groups.len() };
        if self.shards.len() != shards_wanted {
            return Err(broken(&format!("has {} shards where {shards_wanted} are due", self.shards.len())));
        }
        let kind = if self.is_reference {
            TableKind::Reference
        } else {
            let column = self.columns.iter().position(|c| Some(c.attnum) == self.key);
            TableKind::Distributed {
                column: column.ok_or_else(|| broken("has lost its distribution column"))?,
                hash: colocation.hash.ok_or_else(|| broken("is in a colocation group without a hash"))?,
            }
        };
        let at = |attnum: &i16| self.columns.iter().position(|c| c.attnum == *attnum);
        let unique_keys = self.unique_keys.iter().filter_map(|key| key.iter().map(at).collect()).collect();
        Ok(Table {
            oid: TableOid(self.oid),
            kind,
            unique_keys,
            colocation: ColocationId(self.colocation),
            columns: self.columns.into_iter().map(ColumnRow::into_column).collect(),
            shards: self.shards.into_iter().map(ShardId).collect(),
            schema: self.schema,
            name: self.name,
        })
    }
}

impl ColumnRow {
    fn into_column(self) -> Column {
        Column {
            name: self.name,
            type_oid: self.type_oid,
            type_modifier: self.type_modifier,
            is_generated: self.is_generated,
            has_volatile_default: self.has_volatile_default,
            is_always_identity: self.is_always_identity,
        }
    }
}

fn corrupted(detail: String) -> PgError {
    PgError::new(SqlState::DATA_CORRUPTED, "the catalog in schema \"tenantry\" is inconsistent").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: &str = r#"{"nodes": [{"id": 7, "group_id": 0, "host": "c", "port": 1, "is_active": true, "should_have_shards": false},
        {"id": 8, "group_id": 1, "host": "w", "port": 2, "is_active": true, "should_have_shards": true}],
        "colocations": [{"id": 1, "hash_oid": 20, "shard_groups": [
            {"id": 102008, "min": -2147483648, "max": -1, "node": 8, "tenant": null, "key": null},
            {"id": 102009, "min": 0, "max": 2147483647, "node": 8, "tenant": null, "key": null}]}],
        "tables": [{"oid": 99, "schema": "public", "name": "orders", "is_reference": false, "key": 3, "colocation": 1,
            "columns": [{"attnum": 3, "name": "tenant", "type_oid": 20, "type_modifier": -1, "is_generated": false, "has_volatile_default": false, "is_always_identity": false}],
            "shards": [102008, 102009]}],
        "shadows": []}"#;

    #[test]
    fn the_coordinators_row_becomes_node_zero_and_attribute_numbers_become_positions() {
        let map = parse(5, ORDERS).unwrap();
        assert!(map.node(NodeId::COORDINATOR).is_some() && map.node(NodeId(8)).is_some());
        let table = map.table("public", "orders").unwrap();
        assert_eq!(table.kind, TableKind::Distributed { column: 0, hash: HashType::Int8 });
    }

    #[test]
    fn an_isolated_tenants_shard_group_stands_behind_the_intervals() {
        let isolated = r#"{"id": 102007, "min": 5, "max": 5, "node": 8, "tenant": "42", "key": "00000000000000aF"}, {"id": 102008,"#;
        let json = ORDERS.replace(r#"{"id": 102008,"#, isolated);
        let map = parse(5, &json.replace("[102008, 102009]", "[102008, 102009, 102007]")).unwrap();
        let last = map.colocations().next().unwrap().shard_groups.last().unwrap();
        assert_eq!(last.tenant, Some(Tenant { key: vec![0, 0, 0, 0, 0, 0, 0, 0xaf], text: "42".into() }));
        assert!(parse(5, &json.replace("0aF", "0xF")).is_err());
    }

    #[test]
    fn a_table_with_a_shard_missing_gives_no_map_at_all() {
        let error = parse(5, &ORDERS.replace("\"shards\": [102008, 102009]", "\"shards\": [102008]")).unwrap_err();
        assert_eq!(error.code(), SqlState::DATA_CORRUPTED);
        assert!(error.detail_text().unwrap().contains("orders"));
    }
}
