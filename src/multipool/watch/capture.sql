-- Capture of one table. {…} are filled in with quoted identifiers and literals by watch::capture().
DROP TRIGGER IF EXISTS "!kambana" ON {table};
DROP TRIGGER IF EXISTS "!kambana_truncate" ON {table};
DROP FUNCTION IF EXISTS kambana.{capture}();
DROP TYPE IF EXISTS kambana.{row_type};
DROP TYPE IF EXISTS kambana.{key_type};
CREATE TYPE kambana.{row_type} AS ({row_columns});
CREATE TYPE kambana.{key_type} AS ({key_columns});

CREATE FUNCTION kambana.{capture}() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET extra_float_digits = 1 SET datestyle = 'ISO' SET intervalstyle = 'postgres'
    SET timezone = 'UTC' SET bytea_output = 'hex' SET xmlbinary = 'base64'
AS $capture$
DECLARE
    ours boolean := session_user = {owner};
    lane bigint := CASE WHEN ours THEN nullif(current_setting('kambana.lane', true), '')::bigint END;
    batch bigint;
    op uuid;
    key text;
    old_key text;
    image text;
    at_epoch bigint;
    now_clock bigint;
BEGIN
    IF ours AND current_setting('kambana.apply', true) IS NOT DISTINCT FROM 'on' THEN
        RETURN NULL;
    END IF;
    IF lane IS NULL THEN
        lane := 0;
        batch := pg_current_xact_id()::text::bigint;
        op := gen_random_uuid();
        -- Never behind what this side has seen, whatever its clock says (a hybrid logical clock).
        at_epoch := (SELECT e.n FROM kambana.epoch AS e);
        now_clock := greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
                              (SELECT c.last_value FROM kambana.clock AS c) + 1);
        PERFORM setval('kambana.clock', now_clock);
    ELSE
        batch := current_setting('kambana.batch')::bigint;
        op := current_setting('kambana.op')::uuid;
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO kambana.journal (lane, batch, op, tbl, kind, key, epoch, clock)
        VALUES (lane, batch, op, {name}, 'T', '', at_epoch, now_clock);
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        old_key := ROW({old_key_values})::kambana.{key_type}::text;
    END IF;
    IF TG_OP = 'DELETE' THEN
        INSERT INTO kambana.journal (lane, batch, op, tbl, kind, key, epoch, clock)
        VALUES (lane, batch, op, {name}, 'D', old_key, at_epoch, now_clock);
        RETURN NULL;
    END IF;
    key := ROW({new_key_values})::kambana.{key_type}::text;
    image := ROW({new_values})::kambana.{row_type}::text;
    IF octet_length(image) > {limit} THEN
        RAISE program_limit_exceeded USING MESSAGE = format(
            'a row of table %s has %s bytes as text, more than the %s that Kambana carries; nothing was changed',
            {name}, octet_length(image), {limit});
    END IF;
    INSERT INTO kambana.journal (lane, batch, op, tbl, kind, key, old_key, image, epoch, clock)
    VALUES (lane, batch, op, {name}, CASE TG_OP WHEN 'INSERT' THEN 'I' ELSE 'U' END, key,
            nullif(old_key, key), image, at_epoch, now_clock);
    RETURN NULL;
END
$capture$;

-- The name sorts before any user trigger, so that images are captured in the order of the changes. Two kinds of rows need
-- no capture and do not even call the function: those that the pool repeats on another side, and those of a declarative
-- statement, which answers with the images itself (what a trigger or a cascade does besides is deeper, and is captured).
CREATE TRIGGER "!kambana" AFTER INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW
    WHEN (session_user <> {owner}
          OR (current_setting('kambana.apply', true) IS DISTINCT FROM 'on'
              AND (current_setting('kambana.declared', true) IS DISTINCT FROM 'on' OR pg_trigger_depth() > 0)))
    EXECUTE FUNCTION kambana.{capture}();
CREATE TRIGGER "!kambana_truncate" AFTER TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION kambana.{capture}();
INSERT INTO kambana.watched (tbl) VALUES ({name}) ON CONFLICT DO NOTHING;
