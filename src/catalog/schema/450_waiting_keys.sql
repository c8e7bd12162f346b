-- Foreign keys of local tables to one that is distributed wait until their own table is distributed too. Meanwhile a CHECK of the
-- same name stands in a key's place: it is not asked about rows that are there, and refuses every other. It depends on the
-- referenced table, as the key did.

-- Errors: 0A000, always.
CREATE FUNCTION tenantry.foreign_key_waits(referencing oid, referenced regclass, definition text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
        MESSAGE = format('cannot write to table "%s" before it is distributed',
            (SELECT c.relname FROM pg_class c WHERE c.oid = referencing)),
        DETAIL = format('It has a foreign key to the distributed table %s.', referenced),
        HINT = format('SELECT create_distributed_table(%L, ...), or drop the foreign key.', referencing::regclass::text);
END $$;

-- Answers what has been set aside. As the caller, who has to own the referencing tables.
CREATE FUNCTION tenantry.set_foreign_keys_aside(referenced oid[], OUT name text, OUT relation text)
    RETURNS SETOF record LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key record;
BEGIN
    -- Of partitioned tables the keys of the partitions go with those of the whole.
    FOR key IN SELECT k.conname, k.conrelid::regclass::text AS own, k.confrelid::regclass::text AS other, c.relkind,
            pg_get_constraintdef(k.oid) AS definition
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = ANY (referenced) AND k.conrelid <> ALL (referenced)
            AND NOT EXISTS (SELECT FROM tenantry.distributed_table t WHERE t.logicalrelid = k.conrelid)
        ORDER BY own, k.conname
    LOOP
        EXECUTE format('ALTER TABLE %1$s DROP CONSTRAINT %2$I, ADD CONSTRAINT %2$I '
                'CHECK (tenantry.foreign_key_waits(tableoid, %3$L::regclass, %4$L)) %5$s NOT VALID',
            key.own, key.conname, key.other,
            replace(replace(key.definition, '%', '%%'), ' REFERENCES ' || key.other || '(', ' REFERENCES %s('),
            -- Tables that inherit from it have not inherited the key.
            CASE WHEN key.relkind = 'r' THEN 'NO INHERIT' END);
        name := key.conname;
        relation := key.own;
        RETURN NEXT;
    END LOOP;
END $$;

-- How the keys that wait are made keys again: those of these tables, or to these.
CREATE FUNCTION tenantry.waiting_foreign_keys(referencing oid[], referenced oid[], OUT take_down text, OUT put_back text)
    RETURNS SETOF record LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname),
        format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.conrelid::regclass, k.conname, format(
            CASE WHEN written.literal LIKE 'E%' THEN replace(unquoted.text, '\\', '\') ELSE unquoted.text END, d.refobjid::regclass))
    FROM pg_constraint k
        JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid AND d.refclassid = 'pg_class'::regclass
            AND d.refobjid <> k.conrelid,
        LATERAL (SELECT (regexp_match(pg_get_expr(k.conbin, k.conrelid),
            '^tenantry\.foreign_key_waits\(tableoid, ''(?:[^'']|'''')*''::regclass, (E?''(?:[^'']|'''')*'')::text\)$'))[1]) written (literal),
        LATERAL (SELECT replace(substring(written.literal FROM '^E?''(.*)''$'), '''''', '''')) unquoted (text)
    WHERE k.contype = 'c' AND k.coninhcount = 0 AND written.literal IS NOT NULL
        AND (k.conrelid = ANY (referencing) OR d.refobjid = ANY (referenced))
    ORDER BY k.conrelid::regclass::text, k.conname
$$;
