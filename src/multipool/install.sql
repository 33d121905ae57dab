-- Objects of the pool, in a schema of their own. Installed by an ordinary owner role; safe to run again.
CREATE SCHEMA IF NOT EXISTS kambana;
COMMENT ON SCHEMA kambana IS 'Kambana: keeps this database identical to its twins; do not write here';

CREATE TABLE IF NOT EXISTS kambana.identity (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    side     text   NOT NULL,              -- a, b, …
    lineage  uuid   NOT NULL,              -- the same on every side of one pool
    version  integer NOT NULL              -- of this schema
);
COMMENT ON TABLE kambana.identity IS 'Which side of which pool this database is';

CREATE TABLE IF NOT EXISTS kambana.epoch (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    n          bigint  NOT NULL,
    parent     bigint  NOT NULL,
    members    integer NOT NULL,           -- bit mask of active sides, bit 0 is side a
    generation uuid    NOT NULL,           -- on a side being caught up: the token of its repairer
    reason     text    NOT NULL,
    structure  bigint  NOT NULL DEFAULT 0, -- grows with every migration of this side's tables
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE kambana.epoch IS 'The membership this side knows; every write checks it';

CREATE TABLE IF NOT EXISTS kambana.fence ();
COMMENT ON TABLE kambana.fence IS 'Locked in shared mode by every write, exclusively by membership changes';

CREATE TABLE IF NOT EXISTS kambana.lane (
    lane      bigint PRIMARY KEY,
    instance  text     NOT NULL,
    confirmed bigint[] NOT NULL,           -- per side: what a merge has found out, see lane_settled
    closed    boolean  NOT NULL DEFAULT false -- nothing of it is open; becomes true while nobody writes
);
CREATE INDEX IF NOT EXISTS lane_open ON kambana.lane (lane) WHERE NOT closed;
COMMENT ON TABLE kambana.lane IS 'Writers';

-- One row a batch, never updated: a long transaction (a backup) keeps every version of a row, and with a row that each batch
-- updates, each would have to pass all versions before it.
CREATE TABLE IF NOT EXISTS kambana.settled (
    lane      bigint   NOT NULL,
    batch     bigint   NOT NULL,
    confirmed bigint[] NOT NULL,           -- per side: the last batch whose COMMIT it had answered when this one began
    PRIMARY KEY (lane, batch)
);
COMMENT ON TABLE kambana.settled IS 'What each batch says of those before it; the last one counts';

CREATE TABLE IF NOT EXISTS kambana.op (
    op      uuid PRIMARY KEY,
    digest  bigint  NOT NULL,              -- tells two requests under one name apart
    lane    bigint  NOT NULL,
    batch   bigint  NOT NULL,
    epoch   bigint  NOT NULL,
    applied boolean NOT NULL DEFAULT true, -- false: a tombstone, this operation never happens
    xid     xid8    NOT NULL DEFAULT pg_current_xact_id(),
    result  text,                          -- what the closure of a transaction returned, JSON
    at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS op_batch ON kambana.op (lane, batch);
COMMENT ON TABLE kambana.op IS 'Operations by name: a repeated request finds its first outcome here';

CREATE TABLE IF NOT EXISTS kambana.journal (
    n       bigint GENERATED ALWAYS AS IDENTITY,
    lane    bigint NOT NULL,               -- 0: a foreign write that no twin has yet
    batch   bigint NOT NULL,
    op      uuid   NOT NULL,
    tbl     text   NOT NULL,
    kind    "char" NOT NULL,               -- I, U, D, T (truncate)
    key     text   NOT NULL,               -- record text of the primary key, after the change
    old_key text,                          -- before the change, where it differs
    image   text,                          -- record text of the row after the change, columns by name
    xid     xid8   NOT NULL DEFAULT pg_current_xact_id(),
    at      timestamptz NOT NULL DEFAULT now(),
    epoch   bigint,                        -- foreign writes: the epoch that this side stored then
    clock   bigint                         -- foreign writes: kambana.clock then
);
CREATE INDEX IF NOT EXISTS journal_batch ON kambana.journal (lane, batch);
CREATE INDEX IF NOT EXISTS journal_foreign ON kambana.journal (tbl, key) WHERE lane = 0;
COMMENT ON TABLE kambana.journal IS 'Compensation journal: every captured row change';

-- Written at one end, trimmed at the other: room is made for what comes, however much is kept.
ALTER TABLE kambana.settled SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
ALTER TABLE kambana.op SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
ALTER TABLE kambana.journal SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);

CREATE SEQUENCE IF NOT EXISTS kambana.clock;
COMMENT ON SEQUENCE kambana.clock IS 'Hybrid logical clock: microseconds, never behind what this side has seen';

CREATE TABLE IF NOT EXISTS kambana.conflict (
    id         text PRIMARY KEY,           -- made from lost_op, tbl and key: the same on every side
    tbl        text NOT NULL,
    key        text NOT NULL,              -- empty: the whole table (a truncate)
    kept_side  text NOT NULL,
    kept_image text,                       -- NULL: the row does not exist there
    lost_side  text NOT NULL,
    lost_image text,
    lost_op    uuid NOT NULL,
    columns    text[] NOT NULL,            -- names of the images' columns then, in their order
    rule       text NOT NULL,              -- why this side was kept: newest, a, b, ask, pool, return
    state      text NOT NULL,              -- open, rule (nobody was asked), kept, lost, dismissed
    at         timestamptz NOT NULL,       -- by the clock of the instance that found it
    decided_at timestamptz,
    decided_op uuid                        -- the operation that put the losing image in effect
);
COMMENT ON TABLE kambana.conflict IS 'Both images of every row that was changed differently on two sides';

CREATE TABLE IF NOT EXISTS kambana.held (
    tbl       text NOT NULL,
    key       text NOT NULL,               -- empty: every open change of this table
    from_side text NOT NULL,
    to_side   text NOT NULL,
    reason    text NOT NULL,
    tries     integer NOT NULL DEFAULT 1,
    since     timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_at  timestamptz NOT NULL,        -- by this server's own clock
    PRIMARY KEY (tbl, key)
);
COMMENT ON TABLE kambana.held IS 'Open changes that another side refuses; each is tried again by itself';

CREATE TABLE IF NOT EXISTS kambana.certificate (
    id        uuid PRIMARY KEY,
    at        timestamptz NOT NULL,        -- by the clock of the instance that compared
    instance  text   NOT NULL,
    epoch     bigint NOT NULL,
    tables    integer NOT NULL,
    row_count bigint NOT NULL,
    digest    text   NOT NULL,             -- of all tables, as on the leader
    differing bigint NOT NULL,             -- rows that differ and that no open change explains
    explained bigint NOT NULL,             -- rows whose change was still on its way
    found     text   NOT NULL,             -- JSON: the first differing rows by table, key and columns
    pause_ms  double precision NOT NULL,   -- how long writers waited at most
    took_ms   double precision NOT NULL
);
COMMENT ON TABLE kambana.certificate IS 'Results of the background comparison, newest by at';

CREATE TABLE IF NOT EXISTS kambana.watched (
    tbl text PRIMARY KEY,
    on_conflict text NOT NULL DEFAULT 'newest' -- or a, b, … (this side wins), or ask
);
COMMENT ON TABLE kambana.watched IS 'Tables kept identical';

CREATE TABLE IF NOT EXISTS kambana.heartbeat (
    instance text PRIMARY KEY,
    beat     bigint NOT NULL,
    reaches  integer NOT NULL,             -- bit mask of the sides that answer this instance
    at       timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE kambana.heartbeat IS 'Written and read back by every instance''s health probe';

CREATE TABLE IF NOT EXISTS kambana.repair (
    side   text PRIMARY KEY,               -- the side being repaired
    holder text NOT NULL,
    until  timestamptz NOT NULL            -- by this server's own clock
);
COMMENT ON TABLE kambana.repair IS 'Lease: one repairer of a side at a time';

CREATE TABLE IF NOT EXISTS kambana.vote (
    side       text PRIMARY KEY,           -- whose vote this is: a copied row of another side counts nothing here
    from_epoch bigint,                     -- the first parent it votes on; NULL: none before it is readmitted
    change     bigint NOT NULL DEFAULT 0,  -- counts up, so that two candidates cannot overwrite each other
    memory     jsonb                       -- the parent it was asked about, what it has promised and accepted
);
COMMENT ON TABLE kambana.vote IS 'This side''s vote on the epoch that follows the current one';

CREATE TABLE IF NOT EXISTS kambana.voter (
    name  text PRIMARY KEY,                -- 'instance web1', 'witness'
    voter uuid NOT NULL                    -- what it called itself when it began
);
COMMENT ON TABLE kambana.voter IS 'Voters that may have voted: one of these that has lost its memory must not vote at once';
CREATE TABLE IF NOT EXISTS kambana.mark (
    side     text PRIMARY KEY,
    mark     bigint  NOT NULL,              -- of this side: moves with every heartbeat; of another: the last it has answered
    given_up boolean NOT NULL DEFAULT false -- the journal no longer holds what that side misses
) WITH (fillfactor = 50);
COMMENT ON TABLE kambana.mark IS 'How far every side has come: one that comes back with less was restored from a backup';

CREATE TABLE IF NOT EXISTS kambana.rebuild (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    token   uuid    NOT NULL,              -- of the repairer
    loss    text    NOT NULL,              -- why it is being rebuilt
    consent boolean NOT NULL,              -- a person has agreed to overwrite what is here
    done    text[]  NOT NULL DEFAULT '{}', -- tables that are complete
    tbl     text    NOT NULL DEFAULT '',   -- the table being copied
    rows    bigint  NOT NULL DEFAULT 0,    -- rows of it that were copied so far
    about   bigint  NOT NULL DEFAULT 0,    -- rows it has, roughly
    refusal text,                          -- why it does not go on
    asks    boolean NOT NULL DEFAULT false, -- whether a person must decide before it goes on
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE kambana.rebuild IS 'Has a row while this side is only half rebuilt: it must not be used';

CREATE OR REPLACE FUNCTION kambana.max_each(bigint[], bigint[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT array_agg(greatest(coalesce(x, 0), coalesce(y, 0)) ORDER BY i)
          FROM unnest($1, $2) WITH ORDINALITY AS u(x, y, i) $$;

-- Only where it is missing: to replace it, one must wait for whoever reads it, and heartbeats would wait behind.
DO $$ BEGIN
    IF to_regclass('kambana.lane_settled') IS NULL THEN
        CREATE VIEW kambana.lane_settled AS
        SELECT l.lane, l.instance, k.confirmed, l.closed FROM kambana.lane AS l CROSS JOIN LATERAL (
            SELECT CASE WHEN l.closed THEN l.confirmed ELSE kambana.max_each(l.confirmed, (
                SELECT s.confirmed FROM kambana.settled AS s WHERE s.lane = l.lane ORDER BY s.batch DESC LIMIT 1))
            END AS confirmed OFFSET 0) AS k;
        COMMENT ON VIEW kambana.lane_settled IS 'Writers; a journal row is open for a side while its batch is above confirmed';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION kambana.rel(name text) RETURNS regclass
    LANGUAGE sql STABLE
    AS $$ SELECT to_regclass(CASE WHEN strpos(name, '.') = 0 THEN 'public.' || quote_ident(name)
          ELSE quote_ident(split_part(name, '.', 1)) || '.' || quote_ident(substr(name, strpos(name, '.') + 1)) END) $$;
COMMENT ON FUNCTION kambana.rel IS 'A watched table: items is public.items, sales.orders lies in schema sales';

CREATE UNLOGGED TABLE IF NOT EXISTS kambana.stage (
    tbl    text NOT NULL,
    key    text NOT NULL,
    image  text,                           -- the row as it shall be; NULL: it shall not be
    vacate boolean NOT NULL                -- taken away before any image is written
);
CREATE INDEX IF NOT EXISTS stage_key ON kambana.stage (tbl, key);
COMMENT ON TABLE kambana.stage IS 'Rows on their way into tables with foreign keys or further unique indexes; never committed';

-- How a batch begins on a side. Every statement of it sees what was committed before: the fence first (who comes to a follower,
-- without a structure, has it already), then the epoch. An array is read by its subscripts: PL/pgSQL has taken it apart when
-- the function was called, and unnest() would copy every element of it twice.
CREATE OR REPLACE FUNCTION kambana.enter(
    our_epoch bigint, our_structure bigint, our_lane bigint, our_instance text, our_confirmed bigint[],
    our_batch bigint, ops uuid[], digests bigint[], results text[], is_applied boolean) RETURNS integer
    LANGUAGE plpgsql
AS $enter$
DECLARE
    fresh integer;
BEGIN
    IF our_structure IS NOT NULL THEN
        LOCK TABLE kambana.fence IN ROW SHARE MODE;
    END IF;
    INSERT INTO kambana.settled (lane, batch, confirmed)
    SELECT l.lane, our_batch, our_confirmed FROM kambana.epoch AS e, kambana.lane AS l
    WHERE e.n = our_epoch AND (our_structure IS NULL OR e.structure = our_structure) AND l.lane = our_lane AND NOT l.closed;
    IF NOT FOUND THEN
        PERFORM FROM kambana.epoch AS e WHERE e.n = our_epoch AND (our_structure IS NULL OR e.structure = our_structure);
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        INSERT INTO kambana.lane (lane, instance, confirmed) VALUES (our_lane, our_instance, our_confirmed)
        ON CONFLICT (lane) DO UPDATE SET closed = false;
        INSERT INTO kambana.settled (lane, batch, confirmed) VALUES (our_lane, our_batch, our_confirmed);
    END IF;
    INSERT INTO kambana.op (op, digest, lane, batch, epoch, applied, result)
    SELECT ops[i], digests[i], our_lane, our_batch, our_epoch, is_applied, results[i]
    FROM generate_series(1, cardinality(ops)) AS i ON CONFLICT (op) DO NOTHING;
    GET DIAGNOSTICS fresh = ROW_COUNT;
    RETURN fresh;
END
$enter$;
COMMENT ON FUNCTION kambana.enter IS 'How many of the names were new; NULL if epoch or structure are others by now';

-- After a batch has written these keys here: which other batches changed them and are not known to be on another side, as
-- this side or the instance (answered, by lane in siblings) knows. Nearly always there are none, which the first question
-- finds out: has one of the batches that are not known to be there a key whose text is somewhere in ours? Planned once,
-- perhaps while the journal is empty, and run when it has millions of rows: OFFSET 0 and LIMIT leave no other way than lane
-- by lane, by index.
CREATE OR REPLACE FUNCTION kambana.guard(
    our_lane bigint, our_batch bigint, tbls text[], keys text[], old_keys text[],
    other integer, siblings bigint[], answered bigint[], foreigners boolean) RETURNS bigint[]
    LANGUAGE plpgsql
AS $guard$
DECLARE
    ours text := array_to_string(keys, ' ') || array_to_string(old_keys, ' ');
BEGIN
    IF NOT EXISTS (
            SELECT FROM kambana.lane AS l WHERE NOT l.closed AND l.lane <> 0 AND coalesce((
                SELECT true FROM kambana.journal AS j WHERE j.lane = l.lane
                  AND j.batch > greatest(coalesce(l.confirmed[other], 0), coalesce(
                      answered[array_position(siblings, l.lane)], (SELECT s.confirmed[other] FROM kambana.settled AS s
                          WHERE s.lane = l.lane ORDER BY s.batch DESC LIMIT 1)))
                  AND (j.lane <> our_lane OR j.batch <> our_batch)
                  AND (j.kind = 'T' OR strpos(ours, j.key) > 0 OR strpos(ours, j.old_key) > 0) LIMIT 1), false))
       AND NOT (foreigners AND EXISTS (SELECT FROM kambana.journal AS j WHERE j.lane = 0)) THEN
        RETURN NULL;
    END IF;
    RETURN (
    WITH k AS (SELECT * FROM unnest(tbls, keys) AS k(tbl, key)
        UNION SELECT * FROM unnest(tbls, old_keys) AS k(tbl, key) WHERE k.key IS NOT NULL),
    o AS (SELECT j.lane, j.batch, j.tbl, j.kind, j.key, j.old_key FROM kambana.lane AS l
        CROSS JOIN LATERAL (SELECT * FROM kambana.journal AS j WHERE j.lane = l.lane
            AND j.batch > greatest(coalesce(l.confirmed[other], 0), coalesce(
                answered[array_position(siblings, l.lane)], (SELECT s.confirmed[other] FROM kambana.settled AS s
                    WHERE s.lane = l.lane ORDER BY s.batch DESC LIMIT 1))) OFFSET 0) AS j
        WHERE NOT l.closed AND l.lane <> 0 AND (j.lane <> our_lane OR j.batch <> our_batch)),
    found AS (
        SELECT o.lane, o.batch FROM o JOIN k ON (o.tbl, o.key) = (k.tbl, k.key)
        UNION SELECT o.lane, o.batch FROM o JOIN k ON (o.tbl, o.old_key) = (k.tbl, k.key)
        UNION SELECT o.lane, o.batch FROM o JOIN k ON o.tbl = k.tbl WHERE o.kind = 'T'
        UNION SELECT 0::bigint, 0::bigint FROM k JOIN kambana.journal AS j ON j.lane = 0 AND (j.tbl, j.key) = (k.tbl, k.key)
            WHERE foreigners
        UNION SELECT 0::bigint, 0::bigint FROM kambana.journal AS j JOIN k ON j.tbl = k.tbl AND (j.old_key = k.key OR j.kind = 'T')
            WHERE j.lane = 0 AND foreigners)
    SELECT array_agg(f.lane) || array_agg(f.batch) FROM found AS f);
END
$guard$;
COMMENT ON FUNCTION kambana.guard IS 'Lanes of the batches it has found, then their numbers; NULL if there are none';

-- The journal rows of a batch, and then the guard.
CREATE OR REPLACE FUNCTION kambana.store(
    our_lane bigint, our_batch bigint, row_ops uuid[], tbls text[], kinds text[], keys text[], old_keys text[],
    images text[], other integer, siblings bigint[], answered bigint[], foreigners boolean) RETURNS bigint[]
    LANGUAGE plpgsql
AS $store$
BEGIN
    INSERT INTO kambana.journal (lane, batch, op, tbl, kind, key, old_key, image)
    SELECT our_lane, our_batch, row_ops[i], tbls[i], kinds[i]::"char", keys[i], old_keys[i], images[i]
    FROM generate_series(1, cardinality(row_ops)) AS i ORDER BY i;
    RETURN kambana.guard(our_lane, our_batch, tbls, keys, old_keys, other, siblings, answered, foreigners);
END
$store$;
COMMENT ON FUNCTION kambana.store IS 'As kambana.guard';

-- What a follower does behind the images of a batch: names, journal, guard.
CREATE OR REPLACE FUNCTION kambana.follow(
    our_epoch bigint, our_lane bigint, our_instance text, our_confirmed bigint[], our_batch bigint, ops uuid[],
    digests bigint[], results text[], is_applied boolean, row_ops uuid[], tbls text[], kinds text[], keys text[],
    old_keys text[], images text[], other integer, siblings bigint[], answered bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
AS $follow$
DECLARE
    fresh bigint := kambana.enter(our_epoch, NULL, our_lane, our_instance, our_confirmed, our_batch, ops, digests,
        results, is_applied);
BEGIN
    IF fresh IS NULL THEN
        RETURN NULL;
    END IF;
    IF fresh < cardinality(ops) OR cardinality(row_ops) = 0 THEN
        RETURN ARRAY[fresh];
    END IF;
    RETURN fresh || kambana.store(our_lane, our_batch, row_ops, tbls, kinds, keys, old_keys, images, other, siblings,
        answered, true);
END
$follow$;
COMMENT ON FUNCTION kambana.follow IS 'What kambana.enter says (NULL as there), then what kambana.guard has found';

REVOKE ALL ON SCHEMA kambana FROM PUBLIC;
