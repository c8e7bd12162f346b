-- What a worker needs to draw from the sequences of the coordinator. Runs again whenever more of one is lent.
--
-- The state is kept in sequences of the worker, because every snapshot sees them as they are and no rollback changes
-- them. Of the coordinator's sequence <oid>, tenantry.lent_<oid>_...
--     counter   how many draws there were
--     filled    how many blocks of 256 draws have been lent; block b is that of draws b * 256 + 1 to (b + 1) * 256
--     0 .. 7    the first value of block b, in slot b % 8; -9223372036854775807: the sequence had no more
--     step      from one value to the next
--     alarm     from this draw on more should be lent
-- and tenantry.next_value_<oid>() draws. Whoever does may use these, not set them.
CREATE SCHEMA IF NOT EXISTS tenantry;
GRANT USAGE ON SCHEMA tenantry TO PUBLIC;

-- The value of a draw: waits for it where it has not been lent, asks for more where that is due.
CREATE OR REPLACE FUNCTION tenantry.value_of_draw(sequence pg_catalog.oid, draw pg_catalog.int8) RETURNS pg_catalog.int8
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    prefix text := 'tenantry.lent_' || sequence || '_';
    counter regclass := to_regclass(prefix || 'counter');
    block int8;
    first int8;
    step int8;
    -- No clock is asked, because it may jump.
    waits int := 0;
BEGIN
    LOOP
        block := (draw - 1) / 256;
        WHILE coalesce(pg_sequence_last_value((prefix || 'filled')::regclass), 0) <= block LOOP
            -- About once a second.
            IF waits IN (0, 500) OR waits > 500 AND waits % 20 = 0 THEN
                RAISE INFO 'values of a sequence are wanted' USING ERRCODE = 'TN001', DETAIL = sequence::text;
            END IF;
            IF waits = 1100 THEN
                RAISE 'no more values of sequence "%" were lent to this node in time', obj_description(counter, 'pg_class')
                    USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = 'Can the proxies reach the coordinator? A sequence that the same transaction has created can lend more only once it is committed.';
            END IF;
            PERFORM pg_sleep(CASE WHEN waits < 500 THEN 0.001 ELSE 0.05 END);
            waits := waits + 1;
        END LOOP;
        first := pg_sequence_last_value((prefix || block % 8)::regclass);
        step := pg_sequence_last_value((prefix || 'step')::regclass);
        -- Slots are overwritten, and the counter is set, only where draws are at least two blocks further on. So if the
        -- counter is not there yet, what has just been read was this block's, however long the reading took.
        IF (pg_sequence_last_value(counter) - 1) / 256 <= block + 1 THEN
            IF first = -9223372036854775807 THEN
                RAISE 'nextval: reached % value of sequence "%"', CASE WHEN step > 0 THEN 'maximum' ELSE 'minimum' END,
                    obj_description(counter, 'pg_class') USING ERRCODE = 'sequence_generator_limit_exceeded';
            END IF;
            IF draw % 32 = 0 AND draw >= pg_sequence_last_value((prefix || 'alarm')::regclass) THEN
                RAISE INFO 'values of a sequence are wanted' USING ERRCODE = 'TN001', DETAIL = sequence::text;
            END IF;
            RETURN first + (draw - 1 - block * 256) * step;
        END IF;
        draw := nextval(counter);
    END LOOP;
END $$;

-- The default of shards that were made before each sequence had a function of its own.
CREATE OR REPLACE FUNCTION tenantry.next_value(sequence pg_catalog.oid) RETURNS pg_catalog.int8
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    counter regclass := to_regclass('tenantry.lent_' || sequence || '_counter');
BEGIN
    IF counter IS NULL THEN
        RAISE INFO 'values of a sequence are wanted' USING ERRCODE = 'TN001', DETAIL = sequence::text;
        RAISE 'no values of sequence % have been lent to this node yet', sequence
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Retry the statement.';
    END IF;
    RETURN tenantry.value_of_draw(sequence, nextval(counter));
END $$;

-- Makes the state of one sequence, as if nothing had been lent.
CREATE OR REPLACE FUNCTION tenantry.prepare_lending(sequence pg_catalog.oid, name pg_catalog.text) RETURNS pg_catalog.void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    part text;
BEGIN
    FOREACH part IN ARRAY ARRAY['counter', 'filled', 'step', 'alarm', '0', '1', '2', '3', '4', '5', '6', '7'] LOOP
        EXECUTE format('CREATE SEQUENCE IF NOT EXISTS tenantry.lent_%s_%s MINVALUE -9223372036854775807 START 1', sequence, part);
        EXECUTE format('GRANT USAGE ON SEQUENCE tenantry.lent_%s_%s TO PUBLIC', sequence, part);
    END LOOP;
    EXECUTE format('COMMENT ON SEQUENCE tenantry.lent_%s_counter IS %L', sequence, name);
    -- As value_of_draw where nothing is to be waited for or asked for. With constants, so that nothing is looked up, and
    -- without SECURITY DEFINER and SET, which cost as much as all the rest: so whoever draws needs the right to.
    EXECUTE replace($draw$
        CREATE OR REPLACE FUNCTION tenantry.next_value_OID() RETURNS pg_catalog.int8 LANGUAGE plpgsql VOLATILE AS $body$
        DECLARE
            draw pg_catalog.int8 := pg_catalog.nextval('tenantry.lent_OID_counter'::pg_catalog.regclass);
            block pg_catalog.int8 := (draw - 1) / 256;
            value pg_catalog.int8;
        BEGIN
            IF pg_catalog.pg_sequence_last_value('tenantry.lent_OID_filled'::pg_catalog.regclass) > block AND draw % 32 <> 0 THEN
                value := pg_catalog.pg_sequence_last_value((ARRAY['tenantry.lent_OID_0'::pg_catalog.regclass,
                    'tenantry.lent_OID_1', 'tenantry.lent_OID_2', 'tenantry.lent_OID_3', 'tenantry.lent_OID_4',
                    'tenantry.lent_OID_5', 'tenantry.lent_OID_6', 'tenantry.lent_OID_7'])[block % 8 + 1]);
                IF value <> -9223372036854775807 THEN
                    value := value + (draw - 1 - block * 256)
                        * pg_catalog.pg_sequence_last_value('tenantry.lent_OID_step'::pg_catalog.regclass);
                    IF (pg_catalog.pg_sequence_last_value('tenantry.lent_OID_counter'::pg_catalog.regclass) - 1) / 256 <= block + 1 THEN
                        RETURN value;
                    END IF;
                END IF;
            END IF;
            RETURN tenantry.value_of_draw(OID, draw);
        END $body$
        $draw$, 'OID', sequence::text);
END $$;

-- Nobody draws any more. Where a shard still could, all stays.
CREATE OR REPLACE FUNCTION tenantry.forget_lending(sequence pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    part text;
BEGIN
    EXECUTE format('DROP FUNCTION IF EXISTS tenantry.next_value_%s()', sequence);
    FOREACH part IN ARRAY ARRAY['counter', 'filled', 'step', 'alarm', '0', '1', '2', '3', '4', '5', '6', '7'] LOOP
        EXECUTE format('DROP SEQUENCE IF EXISTS tenantry.lent_%s_%s', sequence, part);
    END LOOP;
EXCEPTION WHEN dependent_objects_still_exist THEN
    NULL;
END $$;

-- What has been lent is not drawn any more. Far ahead, so that draws meanwhile, and draws of those who wait, do not
-- reach the place.
CREATE OR REPLACE FUNCTION tenantry.discard_lent(sequence pg_catalog.oid) RETURNS pg_catalog.void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    counter regclass := format('tenantry.lent_%s_counter', sequence);
    filled regclass := format('tenantry.lent_%s_filled', sequence);
    place int8 := 1000000 + greatest(coalesce(pg_sequence_last_value(counter), 0) / 256, pg_sequence_last_value(filled));
BEGIN
    PERFORM setval(counter, place * 256);
    PERFORM setval(filled, place);
END $$;
