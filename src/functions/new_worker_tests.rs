//! What a new worker gets of what was made before it came.

use super::tests::{Cluster, add_node};
use crate::shard_map::NodeId;

/// Goal: what a statement would have made on every node is on one that comes later too, with its owner and privileges.
/// Method: objects that need each other, made on the coordinator; then the same questions to both servers.
#[tokio::test]
async fn a_new_worker_has_what_is_defined_beside_tables() {
    let cluster = Cluster::start(1).await;
    cluster
        .sql(
            "CREATE ROLE app; CREATE ROLE other; CREATE SCHEMA kit AUTHORIZATION app;
             GRANT USAGE ON SCHEMA kit TO other WITH GRANT OPTION; GRANT CREATE ON DATABASE postgres TO app;
             ALTER DATABASE postgres SET \"app.tenant\" TO 'none'; ALTER ROLE app IN DATABASE postgres SET timezone TO 'Asia/Tokyo';
             SET ROLE app;
             CREATE COLLATION kit.plain (LOCALE = 'C'); CREATE COLLATION kit.nocase (PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false);
             CREATE TYPE kit.state AS ENUM ('on', 'off'); CREATE DOMAIN kit.name AS text COLLATE kit.plain CHECK (VALUE <> '');
             CREATE TYPE kit.pair AS (a kit.name, b text COLLATE kit.plain);
             CREATE TYPE kit.span AS RANGE (SUBTYPE = numeric, MULTIRANGE_TYPE_NAME = kit.spans);
             ALTER TYPE kit.pair ADD ATTRIBUTE c kit.spans;
             CREATE FUNCTION kit.add(a numeric, b numeric DEFAULT 1) RETURNS numeric LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT $1 + $2; END;
             CREATE AGGREGATE kit.total(numeric) (SFUNC = kit.add, STYPE = numeric, INITCOND = '7', PARALLEL = SAFE);
             CREATE FUNCTION kit.of_pair(kit.pair) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.b';
             CREATE OPERATOR kit.<+> (FUNCTION = kit.add, LEFTARG = numeric, RIGHTARG = numeric, COMMUTATOR = OPERATOR(kit.<+>));
             CREATE CAST (kit.pair AS text) WITH FUNCTION kit.of_pair AS ASSIGNMENT;
             CREATE FUNCTION kit.secret() RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = '' AS 'SELECT current_user::text';
             REVOKE ALL ON FUNCTION kit.secret FROM PUBLIC; GRANT EXECUTE ON FUNCTION kit.secret TO other;
             REVOKE USAGE ON TYPE kit.state FROM PUBLIC; GRANT USAGE ON TYPE kit.state TO other WITH GRANT OPTION;
             CREATE TEXT SEARCH DICTIONARY kit.short (TEMPLATE = simple, STOPWORDS = english);
             CREATE TEXT SEARCH CONFIGURATION kit.words (COPY = simple);
             ALTER TEXT SEARCH CONFIGURATION kit.words ALTER MAPPING FOR asciiword WITH kit.short, simple;
             RESET ROLE;
             CREATE FUNCTION kit.of_a_table() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM tenantry.node; END",
        )
        .await;
    let worker = cluster.servers.workers()[0].port();
    cluster.call("citus_add_node", &add_node(worker)).await.unwrap();
    cluster.call("citus_disable_node", &add_node(worker)).await.unwrap();
    cluster.sql("ALTER TYPE kit.state ADD VALUE 'ajar' BEFORE 'off'; ALTER FUNCTION kit.secret() OWNER TO other").await;
    cluster.call("citus_activate_node", &add_node(worker)).await.unwrap();
    for question in [
        "SELECT kit.total(n)::text || (2.0 OPERATOR(kit.<+>) 3.0) || kit.add(1) FROM generate_series(1, 3) n",
        "SELECT (ROW('x', 'y', '{[1,2)}')::kit.pair)::text || ('b' COLLATE kit.plain < 'B')::text || (text 'a' COLLATE kit.nocase = 'A')::text",
        "SELECT to_tsvector('kit.words', 'the cat')::text",
        "SELECT enumlabel::text FROM pg_enum JOIN pg_type t ON t.oid = enumtypid WHERE typname = 'state' ORDER BY enumsortorder",
        "SELECT pg_get_functiondef(oid) || proowner::regrole || proacl::text FROM pg_proc WHERE proname = 'secret'",
        "SELECT proname || proowner::regrole FROM pg_proc WHERE pronamespace = 'kit'::regnamespace AND proname <> 'of_a_table' ORDER BY 1",
        "SELECT typname || typowner::regrole || typacl::text FROM pg_type WHERE typname = 'state'",
        "SELECT typname || typowner::regrole FROM pg_type WHERE typnamespace = 'kit'::regnamespace AND typname !~ 'spans' ORDER BY 1",
        "SELECT collname || collowner::regrole FROM pg_collation WHERE collnamespace = 'kit'::regnamespace ORDER BY 1",
        "SELECT oprname || oprowner::regrole || (oprcom = oid) FROM pg_operator WHERE oprnamespace = 'kit'::regnamespace",
        "SELECT nspowner::regrole::text || nspacl::text FROM pg_namespace WHERE nspname = 'kit'",
        "SELECT has_database_privilege('app', 'postgres', 'CREATE')",
        "SELECT setrole::regrole::text || setconfig::text FROM pg_db_role_setting WHERE setdatabase <> 0 ORDER BY 1",
    ] {
        let answers = cluster.ask(NodeId::COORDINATOR, question).await;
        assert!(!answers.is_empty() && !answers.concat().is_empty(), "{question}");
        assert_eq!(cluster.ask(NodeId(1), question).await, answers, "{question}");
    }
    assert_eq!(cluster.ask(NodeId(1), "SELECT count(*) FROM pg_proc WHERE proname = 'of_a_table'").await, ["0"]);
    cluster.servers.stop();
}
