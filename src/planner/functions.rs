//! What is known of Postgres's own functions. A function not named here may be an aggregate, may write, may be
//! anything: statements that call it are planned in the way that is right for all of them.

/// Words that stand before a parenthesis and are no function.
pub(super) fn is_syntax(name: &str) -> bool {
    SYNTAX.contains(&name)
}

/// A plain function of its arguments: no aggregate, no set of rows, no effect.
pub(super) fn is_scalar(name: &str) -> bool {
    SCALAR.contains(&name)
}

/// Changes nothing that a commit decides.
pub(super) fn reads_only(name: &str) -> bool {
    is_scalar(name) || READS.contains(&name)
}

/// Aggregates that can be combined from partial results.
pub(super) fn is_combinable(name: &str) -> bool {
    matches!(name, "count" | "sum" | "avg" | "min" | "max")
}

/// Leaves a state behind in the session that runs it.
pub(super) fn binds_session(name: &str) -> bool {
    matches!(
        name,
        "pg_advisory_lock"
            | "pg_advisory_lock_shared"
            | "pg_try_advisory_lock"
            | "pg_try_advisory_lock_shared"
            | "pg_advisory_unlock"
            | "pg_advisory_unlock_shared"
            | "pg_advisory_unlock_all"
            | "set_config"
    ) || hides_state(name)
}

/// Takes a lock of the transaction's, which others look for on the coordinator.
pub(super) fn locks_for_transaction(name: &str) -> bool {
    name.starts_with("pg_advisory_xact_lock") || name.starts_with("pg_try_advisory_xact_lock")
}

/// As `binds_session`, and nobody can ask what is left: it runs a text, or keeps a state that no view shows.
pub(super) fn hides_state(name: &str) -> bool {
    matches!(
        name,
        "query_to_xml"
            | "query_to_xmlschema"
            | "query_to_xml_and_xmlschema"
            | "ts_stat"
            | "ts_rewrite"
            | "setseed"
            | "set_limit"
            | "connectby"
            | "xpath_table"
            | "dblink_connect"
            | "dblink_connect_u"
    ) || name.starts_with("crosstab")
}

/// May let go of what a session has been kept for.
pub(super) fn frees_session(name: &str) -> bool {
    name.starts_with("pg_advisory_unlock")
}

/// Tells what the session has drawn from a sequence.
pub(super) fn recalls_sequence(name: &str) -> bool {
    matches!(name, "currval" | "lastval")
}

/// Reads or moves a sequence; sequences live on the coordinator.
pub(super) fn uses_sequence(name: &str) -> bool {
    matches!(name, "nextval" | "setval" | "currval" | "lastval")
}

/// Gives another value at each call.
pub(super) fn is_volatile(name: &str) -> bool {
    matches!(
        name,
        "random" | "gen_random_uuid" | "uuid_generate_v4" | "uuid_generate_v1" | "clock_timestamp" | "timeofday"
    ) || uses_sequence(name)
        || binds_session(name)
        || locks_for_transaction(name)
}

const SYNTAX: &[&str] = &[
    "select",
    "from",
    "where",
    "and",
    "or",
    "not",
    "in",
    "any",
    "all",
    "some",
    "exists",
    "values",
    "on",
    "using",
    "as",
    "over",
    "filter",
    "for",
    "by",
    "distinct",
    "when",
    "then",
    "else",
    "case",
    "lateral",
    "union",
    "except",
    "intersect",
    "array",
    "row",
    "into",
    "set",
    "join",
    "group",
    "within",
    "having",
    "limit",
    "offset",
    "with",
    "materialized",
    "conflict",
    "returning",
    "between",
    "is",
    "like",
    "ilike",
    "similar",
    "to",
    "end",
    "rollup",
    "cube",
    "sets",
    "partition",
    "only",
    "default",
    "interval",
    "cast",
    "numeric",
    "decimal",
    "varchar",
    "char",
    "character",
    "varying",
    "bit",
    "timestamp",
    "time",
    "timestamptz",
    "bpchar",
    "float",
    "insert",
    "update",
    "delete",
    "merge",
    "window",
    "operator",
    "collate",
    "of",
    "percent",
    "tablesample",
    "bernoulli",
    "system",
    "repeatable",
    "zone",
    "then",
];

const SCALAR: &[&str] = &[
    "abs",
    "age",
    "array_append",
    "array_cat",
    "array_length",
    "array_position",
    "array_prepend",
    "array_remove",
    "array_to_string",
    "ascii",
    "bit_length",
    "btrim",
    "cardinality",
    "ceil",
    "ceiling",
    "char_length",
    "character_length",
    "chr",
    "coalesce",
    "concat",
    "concat_ws",
    "date_bin",
    "date_part",
    "date_trunc",
    "decode",
    "div",
    "encode",
    "exp",
    "extract",
    "floor",
    "format",
    "greatest",
    "initcap",
    "isfinite",
    "json_array_length",
    "json_build_array",
    "json_build_object",
    "json_extract_path",
    "json_extract_path_text",
    "json_typeof",
    "jsonb_array_length",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_extract_path",
    "jsonb_extract_path_text",
    "jsonb_path_exists",
    "jsonb_path_query_first",
    "jsonb_pretty",
    "jsonb_set",
    "jsonb_strip_nulls",
    "jsonb_typeof",
    "least",
    "left",
    "length",
    "ln",
    "log",
    "lower",
    "lpad",
    "ltrim",
    "make_date",
    "make_interval",
    "make_timestamp",
    "md5",
    "mod",
    "now",
    "nullif",
    "octet_length",
    "overlay",
    "position",
    "power",
    "quote_ident",
    "quote_literal",
    "regexp_replace",
    "repeat",
    "replace",
    "reverse",
    "right",
    "round",
    "row_to_json",
    "rpad",
    "rtrim",
    "sign",
    "split_part",
    "sqrt",
    "starts_with",
    "string_to_array",
    "strpos",
    "substr",
    "substring",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "translate",
    "trim",
    "trunc",
    "upper",
    "width_bucket",
    "transaction_timestamp",
    "statement_timestamp",
    "current_setting",
    "hashtext",
    "random",
    "clock_timestamp",
    "gen_random_uuid",
    "current_date",
    "current_timestamp",
    "current_time",
    "localtime",
    "localtimestamp",
    "current_user",
    "session_user",
    "user",
    "current_role",
    "current_catalog",
];

const READS: &[&str] = &[
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "array_agg",
    "string_agg",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "bool_and",
    "bool_or",
    "every",
    "bit_and",
    "bit_or",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "variance",
    "var_pop",
    "var_samp",
    "corr",
    "percentile_cont",
    "percentile_disc",
    "mode",
    "rank",
    "dense_rank",
    "row_number",
    "ntile",
    "lag",
    "lead",
    "first_value",
    "last_value",
    "nth_value",
    "cume_dist",
    "percent_rank",
    "generate_series",
    "unnest",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "json_array_elements",
    "json_array_elements_text",
    "jsonb_each",
    "jsonb_each_text",
    "json_each",
    "regexp_matches",
    "regexp_split_to_table",
    "version",
    "current_database",
    "current_schema",
    "current_schemas",
    "pg_table_is_visible",
    "pg_get_expr",
    "pg_get_constraintdef",
    "pg_get_indexdef",
    "pg_get_userbyid",
    "format_type",
    "obj_description",
    "col_description",
    "pg_relation_size",
    "pg_total_relation_size",
    "pg_table_size",
    "pg_size_pretty",
    "to_regclass",
    "to_regtype",
    "pg_backend_pid",
    "pg_is_in_recovery",
    "has_table_privilege",
    "has_schema_privilege",
    "pg_encoding_to_char",
    "pg_sleep",
    "grouping",
    "any_value",
    "pg_get_viewdef",
    "pg_get_functiondef",
    "array_position",
    "pg_typeof",
    "inet_server_addr",
    "inet_server_port",
    "txid_current",
    "pg_current_xact_id",
];
