-- watch::refusals()
-- Why a table cannot be kept identical, the first reason first. $1: its name in kambana.watched.
WITH t AS (SELECT c.*, $1::text AS name, i.indexrelid, i.indimmediate, i.indkey
           FROM pg_class AS c LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
           WHERE c.oid = kambana.rel($1)),
-- Columns with the type below domains, and of the elements of arrays.
col AS (SELECT a.attname::text AS name, a.attnum, a.atttypmod, a.attgenerated, a.attidentity, a.attcollation,
               a.attnum = ANY (t.indkey::int2[]) AS in_key, format_type(a.atttypid, a.atttypmod) AS written, y.*
        FROM t JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
        CROSS JOIN LATERAL (
            WITH RECURSIVE below AS (
                SELECT y.oid, y.typtype, y.typbasetype, y.typelem, y.typlen, y.typname, y.typtypmod AS typmod, 0 AS depth
                FROM pg_type AS y WHERE y.oid = a.atttypid
                UNION ALL
                SELECT y.oid, y.typtype, y.typbasetype, y.typelem, y.typlen, y.typname,
                       CASE WHEN b.typtype = 'd' AND b.typmod >= 0 THEN b.typmod ELSE y.typtypmod END, b.depth + 1
                FROM below AS b JOIN pg_type AS y
                  ON y.oid = CASE WHEN b.typtype = 'd' THEN b.typbasetype WHEN b.typlen = -1 THEN b.typelem END)
            SELECT b.oid AS base, b.typtype AS base_kind, greatest(b.typmod, a.atttypmod) AS typmod,
                   EXISTS (SELECT FROM below AS x WHERE x.typtype <> 'd' AND x.typlen = -1 AND x.typelem <> 0) AS is_array
            FROM below AS b ORDER BY b.depth DESC LIMIT 1) AS y),
odd_key AS (SELECT name, written FROM col WHERE in_key AND (is_array OR NOT (
                base_kind = 'e'
                OR base IN ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype,
                            'text'::regtype, 'varchar'::regtype, 'name'::regtype, '"char"'::regtype, 'uuid'::regtype,
                            'date'::regtype, 'time'::regtype, 'timetz'::regtype, 'timestamp'::regtype,
                            'timestamptz'::regtype, 'bytea'::regtype, 'inet'::regtype, 'cidr'::regtype,
                            'macaddr'::regtype, 'macaddr8'::regtype, 'bit'::regtype, 'varbit'::regtype)
                OR (base IN ('numeric'::regtype, 'bpchar'::regtype) AND typmod >= 0)))),
own_trigger AS (
    SELECT g.tgname::text AS name, g.tgtype & 2 = 0 AND g.tgname < '!kambana' COLLATE "C" AS too_early,
           coalesce(w.condition ~ '^\(+current_setting\(''kambana\.apply''::text, true\) IS DISTINCT FROM ''on''::text\)'
                    AND w.condition !~ ' OR ', false) AS sleeps
    FROM t JOIN pg_trigger AS g ON g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')
         AND g.tgname NOT IN ('!kambana', '!kambana_truncate')
    CROSS JOIN LATERAL (SELECT substring(pg_get_triggerdef(g.oid) FROM ' WHEN (.*) EXECUTE ')) AS w(condition)),
far AS (SELECT k.conname::text AS name, CASE k.conrelid WHEN t.oid THEN k.confrelid ELSE k.conrelid END AS other
        FROM t JOIN pg_constraint AS k ON k.contype = 'f' AND t.oid IN (k.conrelid, k.confrelid)
        WHERE k.conparentid = 0)
SELECT r.reason FROM t CROSS JOIN LATERAL (VALUES
    (1, CASE WHEN t.relkind = 'p' OR t.relispartition THEN
        'is not an ordinary table: partitions are truncated, attached and detached without a trigger that would notice' END),
    (2, CASE WHEN t.relkind <> 'r' THEN 'is not an ordinary table but a view or a foreign table' END),
    (3, CASE WHEN EXISTS (SELECT FROM pg_inherits AS h WHERE t.oid IN (h.inhrelid, h.inhparent)) THEN
        'is not an ordinary table: it inherits or is inherited, so one row would belong to two tables' END),
    (4, CASE WHEN t.relpersistence = 'u' THEN
        'is unlogged: a crash of its server empties it, which no trigger notices; ALTER TABLE … SET LOGGED' END),
    (5, CASE WHEN NOT pg_has_role(t.relowner, 'USAGE') THEN
        'belongs to another role; the pool''s role must own the tables it watches' END),
    (6, CASE WHEN t.indexrelid IS NULL THEN 'has no primary key, so its rows cannot be told apart' END),
    (7, CASE WHEN NOT t.indimmediate THEN 'has a deferrable primary key, which ON CONFLICT cannot use' END),
    (8, (SELECT format('has a generated column in its primary key (%s), which cannot be given a value',
                       string_agg(name, ', ')) FROM col WHERE in_key AND attgenerated <> '' HAVING count(*) > 0)),
    (9, (SELECT format('has a primary key in which equal values can be written differently (%s); keys are compared as text',
                       string_agg(format('%s %s', name, written), ', ')) FROM odd_key HAVING count(*) > 0)),
    (10, (SELECT format('has a primary key with a collation in which different texts are equal (%s)', string_agg(col.name, ', '))
          FROM col JOIN pg_collation AS l ON l.oid = col.attcollation
          WHERE in_key AND NOT l.collisdeterministic HAVING count(*) > 0)),
    (11, (SELECT format('has columns whose text depends on the server (%s): money on its lc_monetary, reg… on its object numbers',
                        string_agg(format('%s %s', name, written), ', '))
          FROM col WHERE base = 'money'::regtype
             OR base IN (SELECT y.oid FROM pg_type AS y WHERE y.typname LIKE 'reg%' AND y.typnamespace = 'pg_catalog'::regnamespace)
          HAVING count(*) > 0)),
    (12, (SELECT format('has GENERATED ALWAYS AS IDENTITY columns outside its primary key (%s), which PostgreSQL lets nobody '
                        'set in an update; make them GENERATED BY DEFAULT', string_agg(name, ', '))
          FROM col WHERE attidentity = 'a' AND NOT in_key HAVING count(*) > 0)),
    (13, CASE WHEN t.relrowsecurity AND t.relforcerowsecurity THEN
        'has row-level security that is forced on its owner, so rows could be hidden from the pool' END),
    (14, CASE WHEN EXISTS (SELECT FROM pg_rewrite AS w WHERE w.ev_class = t.oid) THEN
        'has rules, which would rewrite what the pool writes' END),
    (15, (SELECT format('has triggers of its own (%s), which would run once more on every other side; give them '
                        'WHEN (current_setting(''kambana.apply'', true) IS DISTINCT FROM ''on'')', string_agg(name, ', '))
          FROM own_trigger WHERE NOT sleeps HAVING count(*) > 0)),
    (16, (SELECT format('has triggers (%s) whose names sort before "!kambana", so they would run before the change is captured',
                        string_agg(name, ', ')) FROM own_trigger WHERE too_early HAVING count(*) > 0)),
    (17, (SELECT format('is tied by foreign keys to tables that are not watched (%s); name them all in one command: '
                        'kambana watch A B', string_agg(format('%s: %s', far.name, far.other::regclass), ', '))
          FROM far WHERE NOT EXISTS (SELECT FROM kambana.watched AS w WHERE kambana.rel(w.tbl) = far.other)
          HAVING count(*) > 0))
) AS r(place, reason)
WHERE r.reason IS NOT NULL ORDER BY r.place LIMIT 1
