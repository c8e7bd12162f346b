//! What a shard's tables are made of is the same on the new node: read off the system catalogs before and after.

use super::tests::{GROUP, SOURCE, Stage, TARGET};
use super::*;

/// As much as a table can have, and nobody would notice at once when it is gone.
const RICH: &str = "
    CREATE SEQUENCE ticket INCREMENT 5 CYCLE;
    CREATE TABLE orders (tenant bigint, id bigint, n bigint DEFAULT 0 CHECK (n >= 0), note text COLLATE \"C\", big text,
        doubled bigint GENERATED ALWAYS AS (n * 2) STORED, span int4range,
        CONSTRAINT orders_key PRIMARY KEY (tenant, id) DEFERRABLE INITIALLY DEFERRED,
        EXCLUDE USING gist (span WITH &&) WHERE (n > 5), UNIQUE NULLS DISTINCT (tenant, note)) WITH (fillfactor = 70);
    ALTER TABLE orders SET (autovacuum_vacuum_scale_factor = 0.5, toast.autovacuum_enabled = false),
        ALTER big SET STORAGE EXTERNAL, ALTER note SET COMPRESSION pglz, ALTER n SET STATISTICS 77,
        ALTER n SET (n_distinct = 12), ADD CONSTRAINT late CHECK (id <> 13) NOT VALID;
    CREATE UNIQUE INDEX by_number ON orders (tenant, id) INCLUDE (note);
    CREATE INDEX by_note ON orders (note text_pattern_ops DESC NULLS LAST) WHERE n > 3;
    CREATE INDEX by_expression ON orders ((lower(note)), n); ALTER INDEX by_expression ALTER COLUMN 1 SET STATISTICS 333;
    ALTER TABLE orders CLUSTER ON by_number;
    ALTER TABLE orders ALTER tenant SET NOT NULL, ALTER id SET NOT NULL;
    ALTER TABLE orders REPLICA IDENTITY USING INDEX by_number;
    CREATE STATISTICS together (dependencies, mcv) ON tenant, n FROM orders;
    ALTER STATISTICS together SET STATISTICS 55;
    CREATE POLICY own ON orders AS RESTRICTIVE FOR UPDATE TO clerk USING (tenant > 0) WITH CHECK (n < 10);
    ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    GRANT SELECT ON orders TO PUBLIC; GRANT UPDATE ON orders TO clerk WITH GRANT OPTION;
    GRANT SELECT (note), INSERT (n) ON orders TO boss; GRANT UPDATE (big) ON orders TO clerk WITH GRANT OPTION;
    GRANT USAGE ON SEQUENCE ticket TO clerk;
    COMMENT ON TABLE orders IS 'what''s ordered; a \\ too'; COMMENT ON COLUMN orders.n IS 'pieces';
    COMMENT ON CONSTRAINT orders_key ON orders IS 'of both'; COMMENT ON CONSTRAINT late ON orders IS 'an unlucky one';
    COMMENT ON INDEX by_note IS 'for the search'; COMMENT ON POLICY own ON orders IS 'nobody else''s';
    COMMENT ON STATISTICS together IS 'they go together'; COMMENT ON SEQUENCE ticket IS 'one each';
    CREATE VIEW few AS SELECT n FROM orders; COMMENT ON VIEW few IS 'not many'; COMMENT ON COLUMN few.n IS 'as there';
    ALTER TABLE orders OWNER TO boss; REVOKE TRUNCATE ON orders FROM boss; ALTER STATISTICS together OWNER TO boss;
    INSERT INTO orders (tenant, id, n, note, big) SELECT t, i, i, 'note ' || i, repeat(md5(i::text), 400) FROM generate_series(1, 2) t, generate_series(1, 9) i;
    CREATE TABLE items (tenant bigint, id bigint, line int, FOREIGN KEY (tenant, id) REFERENCES plain (tenant, id) ON DELETE CASCADE NOT VALID);
    CREATE TABLE parts (tenant bigint, at date, PRIMARY KEY (tenant, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01'); CREATE TABLE parts_b PARTITION OF parts DEFAULT;
    CREATE INDEX parts_tenant ON ONLY parts (tenant); CREATE INDEX parts_a_tenant ON parts_a (tenant); CREATE INDEX parts_at ON parts (at);
    ALTER INDEX parts_tenant ATTACH PARTITION parts_a_tenant; COMMENT ON INDEX parts_tenant IS 'half of it';
    COMMENT ON CONSTRAINT parts_a_pkey ON parts_a IS 'a part of it'; COMMENT ON COLUMN parts_b.at IS 'other years'";

/// One line for each fact, with nothing of OIDs in it.
const FACTS: &str = "
    WITH t AS (SELECT c.* FROM pg_class c WHERE c.relnamespace = 'public_102008'::regnamespace)
    SELECT fact::text FROM (
        SELECT format('%s %s owner %s options %s rows %s force %s identity %s acl %s', relkind, relname, relowner::regrole, reloptions,
            relrowsecurity, relforcerowsecurity, relreplident,
            (SELECT array_agg(a::text ORDER BY a::text) FROM aclexplode(relacl) a)) FROM t WHERE relkind <> 'i'
        UNION ALL SELECT format('toast of %s %s', t.relname, o.reloptions) FROM t JOIN pg_class o ON o.oid = t.reltoastrelid
        UNION ALL SELECT format('column %s.%s %s not null %s storage %s compression %s target %s options %s generated %s default %s collation %s acl %s',
            t.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage, a.attcompression,
            a.attstattarget, a.attoptions, a.attgenerated, pg_get_expr(d.adbin, d.adrelid), a.attcollation::regcollation,
            (SELECT array_agg(x::text ORDER BY x::text) FROM aclexplode(a.attacl) x))
            FROM t JOIN pg_attribute a ON a.attrelid = t.oid LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
            WHERE a.attnum > 0 AND t.relkind = 'r'
        UNION ALL SELECT format('index %s valid %s clustered %s identity %s part of %s', pg_get_indexdef(x.indexrelid), x.indisvalid, x.indisclustered,
            x.indisreplident, (SELECT i.inhparent::regclass FROM pg_inherits i WHERE i.inhrelid = x.indexrelid))
            FROM t JOIN pg_index x ON x.indrelid = t.oid
        UNION ALL SELECT format('target of index %s column %s: %s', x.relname, a.attname, a.attstattarget)
            FROM t x JOIN pg_attribute a ON a.attrelid = x.oid WHERE x.relkind IN ('i', 'I')
        UNION ALL SELECT format('constraint %s %s valid %s', k.conname, pg_get_constraintdef(k.oid), k.convalidated)
            FROM t JOIN pg_constraint k ON k.conrelid = t.oid
        UNION ALL SELECT format('policy %s %s %s %s %s %s', p.polname, p.polpermissive, p.polcmd, p.polroles::regrole[],
            pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) FROM t JOIN pg_policy p ON p.polrelid = t.oid
        UNION ALL SELECT format('statistics %s target %s owner %s', pg_get_statisticsobjdef(e.oid), e.stxstattarget, e.stxowner::regrole)
            FROM t JOIN pg_statistic_ext e ON e.stxrelid = t.oid
        UNION ALL SELECT format('comment %s %s %s %s', o.type, o.identity, o.name, d.description) FROM pg_description d,
            LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) o WHERE o.schema = 'public_102008' OR o.identity ~ 'public_102008\\.'
        UNION ALL SELECT format('sequence %s %s', q.seqrelid::regclass, (q.seqincrement, q.seqmin, q.seqmax, q.seqcycle))
            FROM t JOIN pg_sequence q ON q.seqrelid = t.oid
    ) facts (fact) ORDER BY 1";

async fn facts(stage: &Stage, node: NodeId) -> Vec<String> {
    let worker = &stage.workers[node.0 as usize - 1];
    worker.batch_execute("SET search_path TO pg_catalog").await.unwrap();
    let rows = worker.query(FACTS, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_shard_is_made_of_the_same() {
    let stage = Stage::set(0, "").await;
    for worker in &stage.workers {
        worker.batch_execute("CREATE ROLE clerk; CREATE ROLE boss").await.unwrap();
    }
    stage.workers[0]
        .batch_execute(&format!(
            "CREATE SCHEMA public_102008; GRANT USAGE, CREATE ON SCHEMA public_102008 TO boss; SET search_path TO public_102008, public;
             CREATE TABLE plain (tenant bigint, id bigint, PRIMARY KEY (tenant, id)); {RICH}; SET search_path TO public"
        ))
        .await
        .unwrap();
    stage.give_one_shard_group().await;
    stage.environment.catalog.refresh().await.unwrap();
    let broken = "CREATE UNIQUE INDEX CONCURRENTLY broken ON public_102008.orders ((tenant % 1))";
    assert!(stage.workers[0].batch_execute(broken).await.is_err(), "two tenants");
    let mut before = facts(&stage, SOURCE).await;
    let of_kind = |kind: &str| before.iter().filter(|fact| fact.starts_with(kind)).count();
    assert_eq!((of_kind("comment"), of_kind("index")), (13, 16), "{before:#?}");
    let notices = std::sync::Mutex::new(Vec::new());
    let notify = |notice: Notice| notices.lock().unwrap().push(notice.message);
    for (source, target, mode) in [(SOURCE, TARGET, TransferMode::Online), (TARGET, SOURCE, TransferMode::BlockWrites)]
    {
        let request = MoveRequest { group: GROUP, source, target, mode };
        move_shard_group(&stage.environment, request, &notify).await.unwrap().unwrap();
        let after = facts(&stage, target).await;
        before.retain(|fact| !fact.contains("INDEX broken ") && !fact.contains("index broken "));
        let lost: Vec<_> = before.iter().filter(|fact| !after.contains(fact)).collect();
        let new: Vec<_> = after.iter().filter(|fact| !before.contains(fact)).collect();
        assert!(lost.is_empty() && new.is_empty(), "lost {lost:#?}\nnew {new:#?}");
    }
    let left_behind = "index broken of table orders is not valid and stays behind";
    let notices = notices.into_inner().unwrap();
    assert_eq!(notices.iter().filter(|said| *said == left_behind).count(), 1, "{notices:?}");
    stage.strike().await;
}

/// Goal: a move that alters a table for itself does not take the definition for another one. Privileges of one table are many
/// statements alike, and system catalogs give their rows in another order once one has been written anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_reads_the_same_when_the_catalogs_rows_have_changed_places() {
    let stage = Stage::set(0, "").await;
    for worker in &stage.workers {
        worker.batch_execute("CREATE ROLE clerk").await.unwrap();
    }
    let tables = "
        CREATE SCHEMA public_102008;
        CREATE TABLE public_102008.a (tenant bigint, id bigint, PRIMARY KEY (tenant, id));
        CREATE TABLE public_102008.b (tenant bigint); CREATE TABLE public_102008.c (tenant bigint PRIMARY KEY);
        GRANT ALL ON ALL TABLES IN SCHEMA public_102008 TO clerk";
    stage.workers[0].batch_execute(tables).await.unwrap();
    stage.give_one_shard_group().await;
    stage.environment.catalog.refresh().await.unwrap();
    for (source, target) in [(SOURCE, TARGET), (TARGET, SOURCE), (SOURCE, TARGET)] {
        stage.move_to(source, target).await.unwrap().unwrap();
    }
    stage.strike().await;
}
