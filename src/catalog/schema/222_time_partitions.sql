-- Tables that are partitioned by ranges of one time column: which partitions there are, which are wanted, which are old.

-- A default partition is not among them. NULL: MINVALUE or MAXVALUE.
CREATE VIEW tenantry.time_partitions AS
    SELECT i.inhparent::regclass AS parent_table, a.attname AS partition_column, c.oid::regclass AS partition,
           b.bounds[1] AS from_value, b.bounds[2] AS to_value, am.amname AS access_method
    FROM pg_catalog.pg_partitioned_table p
    JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
        AND a.atttypid IN ('pg_catalog.date'::regtype, 'pg_catalog.timestamp'::regtype, 'pg_catalog.timestamptz'::regtype)
    JOIN pg_catalog.pg_inherits i ON i.inhparent = p.partrelid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
    LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
    CROSS JOIN LATERAL (SELECT pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid),
        '^FOR VALUES FROM \((?:''([^'']*)''|MINVALUE)\) TO \((?:''([^'']*)''|MAXVALUE)\)$') AS bounds) b
    WHERE p.partstrat = 'r' AND p.partnatts = 1 AND b.bounds IS NOT NULL
    ORDER BY i.inhparent::regclass::text, b.bounds[2]::timestamptz, b.bounds[1]::timestamptz;
GRANT SELECT ON tenantry.time_partitions TO PUBLIC;

-- The column that a table is partitioned by, and its type. Errors where these functions cannot work.
CREATE FUNCTION tenantry.time_partition_key(relation regclass, OUT name name, OUT type regtype)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    partitioned pg_catalog.pg_partitioned_table;
BEGIN
    SELECT * INTO partitioned FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = pg_catalog.format('%s is not partitioned', relation);
    END IF;
    IF partitioned.partnatts <> 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = 'partitioned tables with multiple partition columns are not supported';
    END IF;
    SELECT a.attname, a.atttypid INTO name, type FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = relation AND a.attnum = partitioned.partattrs[0];
    IF partitioned.partstrat <> 'r' OR type IS NULL
        OR type NOT IN ('pg_catalog.date'::regtype, 'pg_catalog.timestamp'::regtype, 'pg_catalog.timestamptz'::regtype) THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = pg_catalog.format(
            'type of the partition column of the table %s must be date, timestamp or timestamptz', relation),
            HINT = 'Partition the table BY RANGE of one such column.';
    END IF;
END $$;

-- What is missing between the two moments, in steps of the interval. They go on from the partitions that there are;
-- where there is none, they begin where the year, quarter, month, week, day, hour, minute or second does.
CREATE FUNCTION tenantry.get_missing_time_partition_ranges(
    table_name regclass, partition_interval interval, to_value timestamptz, from_value timestamptz DEFAULT pg_catalog.now())
    RETURNS TABLE (partition_name text, range_from_value text, range_to_value text)
    LANGUAGE plpgsql STABLE AS $$
DECLARE
    key record := tenantry.time_partition_key(table_name);
    months int := EXTRACT(year FROM partition_interval) * 12 + EXTRACT(month FROM partition_interval);
    days int := EXTRACT(day FROM partition_interval);
    -- Of the part that is less than a day.
    seconds numeric := EXTRACT(hour FROM partition_interval) * 3600 + EXTRACT(minute FROM partition_interval) * 60
        + EXTRACT(second FROM partition_interval);
    unit text;
    format text;
    first timestamptz;
    other record;
    step int := 0;
    lower timestamptz;
    upper timestamptz;
    suffix text;
BEGIN
    IF partition_interval IS NULL OR to_value IS NULL OR from_value IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'arguments of time partitions must not be null';
    END IF;
    IF months < 0 OR days < 0 OR seconds < 0 OR partition_interval = interval '0' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'partition interval must be a positive value';
    END IF;
    IF from_value >= to_value THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'start_from must be before end_at',
            DETAIL = pg_catalog.format('It is %s, and end_at is %s.', from_value, to_value);
    END IF;
    IF NOT pg_catalog.isfinite(from_value) OR NOT pg_catalog.isfinite(to_value) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'start_from and end_at must not be infinite';
    END IF;
    IF key.type = 'pg_catalog.date'::regtype AND seconds <> 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'partition interval of date partitioned table must be day or multiple days';
    END IF;
    unit := CASE
        WHEN seconds % 60 <> 0 THEN 'second' WHEN seconds % 3600 <> 0 THEN 'minute' WHEN seconds <> 0 THEN 'hour'
        WHEN days % 7 <> 0 THEN 'day' WHEN days <> 0 THEN 'week'
        WHEN months % 3 <> 0 THEN 'month' WHEN months % 12 <> 0 THEN 'quarter' ELSE 'year' END;
    format := CASE
        WHEN unit = 'second' THEN 'YYYY_MM_DD_HH24MISS' WHEN unit IN ('minute', 'hour') THEN 'YYYY_MM_DD_HH24MI'
        WHEN partition_interval = interval '1 week' THEN 'IYYY"w"IW' WHEN days <> 0 THEN 'YYYY_MM_DD'
        WHEN unit = 'month' THEN 'YYYY_MM' WHEN unit = 'quarter' THEN 'YYYY"q"Q' ELSE 'YYYY' END;

    FOR other IN SELECT p.partition, p.from_value::timestamptz AS lower, p.to_value::timestamptz AS upper
        FROM tenantry.time_partitions p WHERE p.parent_table = table_name
    LOOP
        IF other.lower + partition_interval IS DISTINCT FROM other.upper THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = pg_catalog.format('partition interval does not fit the partitions of %s', table_name),
                DETAIL = pg_catalog.format('Partition %s is from %s to %s.', other.partition,
                    coalesce(other.lower::text, 'MINVALUE'), coalesce(other.upper::text, 'MAXVALUE'));
        END IF;
        first := coalesce(first, other.lower);
    END LOOP;
    first := coalesce(first, pg_catalog.date_trunc(unit, from_value));
    WHILE first + step * partition_interval > from_value LOOP
        step := step - 1;
    END LOOP;
    WHILE first + (step + 1) * partition_interval <= from_value LOOP
        step := step + 1;
    END LOOP;
    LOOP
        lower := first + step * partition_interval;
        upper := first + (step + 1) * partition_interval;
        EXIT WHEN lower >= to_value;
        step := step + 1;
        SELECT p.partition, p.from_value, p.to_value INTO other FROM tenantry.time_partitions p
            WHERE p.parent_table = table_name AND p.from_value::timestamptz < upper AND p.to_value::timestamptz > lower;
        IF FOUND THEN
            CONTINUE WHEN other.from_value::timestamptz = lower AND other.to_value::timestamptz = upper;
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = pg_catalog.format('partition interval does not fit the partitions of %s', table_name),
                DETAIL = pg_catalog.format('Partition %s is from %s to %s.', other.partition, other.from_value, other.to_value);
        END IF;
        suffix := '_p' || pg_catalog.to_char(lower, format);
        partition_name := (SELECT relname FROM pg_catalog.pg_class WHERE oid = table_name);
        WHILE pg_catalog.octet_length(partition_name) + pg_catalog.octet_length(suffix) > 63 LOOP
            partition_name := pg_catalog.left(partition_name, -1);
        END LOOP;
        partition_name := partition_name || suffix;
        range_from_value := CASE key.type WHEN 'pg_catalog.date'::regtype THEN lower::date::text
            WHEN 'pg_catalog.timestamp'::regtype THEN lower::timestamp::text ELSE lower::text END;
        range_to_value := CASE key.type WHEN 'pg_catalog.date'::regtype THEN upper::date::text
            WHEN 'pg_catalog.timestamp'::regtype THEN upper::timestamp::text ELSE upper::text END;
        RETURN NEXT;
    END LOOP;
END $$;

SELECT tenantry.provide('create_time_partitions',
    'table_name regclass, partition_interval interval, end_at timestamptz, start_from timestamptz DEFAULT pg_catalog.now()',
    'boolean');
SELECT tenantry.provide('drop_old_time_partitions', 'table_name regclass, older_than timestamptz', 'void');
DROP FUNCTION tenantry_result.drop_old_time_partitions(jsonb);
CREATE PROCEDURE tenantry_result.drop_old_time_partitions(jsonb) LANGUAGE plpgsql AS 'BEGIN END';
DROP FUNCTION tenantry_describe.drop_old_time_partitions(regclass, timestamptz);
CREATE PROCEDURE tenantry_describe.drop_old_time_partitions(table_name regclass, older_than timestamptz)
    LANGUAGE plpgsql AS 'BEGIN END';
