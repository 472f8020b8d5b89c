-- The schema `gateway`: the change log, the relay's state, the register of attached tables.
CREATE SCHEMA gateway;
COMMENT ON SCHEMA gateway IS 'inventory-gateway: change log and state; no role of the shop needs any right here';

CREATE TABLE gateway.migrations (
    set text NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (set, number)
);

-- Versions travel as JSON integers, which clients hold exactly only up to 2^53 - 1.
-- CACHE 1: a cached range would let a later statement draw an earlier version.
CREATE SEQUENCE gateway.version_seq AS bigint MAXVALUE 9007199254740991 CACHE 1;
CREATE SEQUENCE gateway.change_log_id_seq AS bigint CACHE 1;
-- Moves whenever changes went unlogged: the relay that comes back then starts a new generation.
CREATE SEQUENCE gateway.loss_seq AS bigint CACHE 1;

-- A ring of eight leaves, one an hour; retention truncates the oldest. All of them exist from the start, because
-- creating or dropping a partition queues behind one open writer and then blocks all others.
-- id is drawn while the row's lock or unique entry is held: per key, ids rise in commit order.
CREATE TABLE gateway.change_log (
    slot smallint NOT NULL
        DEFAULT ((extract(epoch FROM pg_catalog.clock_timestamp())::bigint / 3600) % 8)::smallint,
    id bigint NOT NULL DEFAULT pg_catalog.nextval('gateway.change_log_id_seq'),
    xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    source text NOT NULL,
    op text NOT NULL,  -- I, U, D; T: the table was truncated; C: a beat of the canary
    version bigint,
    item jsonb,        -- what gateway.item_<source> makes of the row; of the old one for D
    gone text[],       -- the topics that the row has left, its key being the same
    recorded_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
) PARTITION BY LIST (slot);

CREATE TABLE gateway.change_log_0 PARTITION OF gateway.change_log FOR VALUES IN (0);
CREATE TABLE gateway.change_log_1 PARTITION OF gateway.change_log FOR VALUES IN (1);
CREATE TABLE gateway.change_log_2 PARTITION OF gateway.change_log FOR VALUES IN (2);
CREATE TABLE gateway.change_log_3 PARTITION OF gateway.change_log FOR VALUES IN (3);
CREATE TABLE gateway.change_log_4 PARTITION OF gateway.change_log FOR VALUES IN (4);
CREATE TABLE gateway.change_log_5 PARTITION OF gateway.change_log FOR VALUES IN (5);
CREATE TABLE gateway.change_log_6 PARTITION OF gateway.change_log FOR VALUES IN (6);
CREATE TABLE gateway.change_log_7 PARTITION OF gateway.change_log FOR VALUES IN (7);
CREATE INDEX change_log_xid_idx ON gateway.change_log (xid);

-- What the triggers read once a statement. Nobody locks it, so a rarely updated row is all it takes.
CREATE TABLE gateway.control (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    relay_asleep boolean NOT NULL DEFAULT false,
    notify text NOT NULL DEFAULT 'auto' CHECK (notify IN ('auto', 'off')),
    relay_seen_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    log_retention interval NOT NULL DEFAULT '24 hours',
    nonce text NOT NULL DEFAULT pg_catalog.gen_random_uuid()::text,
    shop boolean  -- whether the reference schema is part of this database; null: not decided yet
) WITH (fillfactor = 50);
INSERT INTO gateway.control DEFAULT VALUES;

-- How far the relay has read; it lives here because it must rewind together with the database.
CREATE TABLE gateway.position (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    snapshot text,
    counter bigint NOT NULL DEFAULT 0,
    term bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
) WITH (fillfactor = 50);
INSERT INTO gateway.position DEFAULT VALUES;

-- Emptied by a crash and kept over a clean restart: a crash can take back commits that were already seen.
CREATE UNLOGGED TABLE gateway.alive (
    id text NOT NULL
);

CREATE TABLE gateway.canary (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    beat bigint NOT NULL DEFAULT 0,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
) WITH (fillfactor = 50);
INSERT INTO gateway.canary DEFAULT VALUES;

-- The time is taken before the commit: whatever was committed before it is visible to whoever sees the beat.
CREATE FUNCTION gateway.log_beat() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    NEW.at := pg_catalog.clock_timestamp();
    INSERT INTO gateway.change_log (source, op, item)
    VALUES ('canary', 'C', pg_catalog.jsonb_build_object(
        'as_of_ms', floor(extract(epoch FROM NEW.at) * 1000)::bigint,
        'beat', NEW.beat
    ));
    RETURN NEW;
END
$function$;

CREATE TRIGGER log_beat BEFORE UPDATE ON gateway.canary
    FOR EACH ROW EXECUTE FUNCTION gateway.log_beat();

CREATE TABLE gateway.sources (
    name text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('stock', 'product', 'location')),
    spec jsonb NOT NULL,
    table_id regclass NOT NULL,     -- the table may be renamed while it is attached
    added_column boolean NOT NULL,  -- whether the version column is ours to drop
    checksum text NOT NULL,         -- of the SQL generated for it: a newer release attaches it anew
    attached_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

-- What is no number counts as 0: a column dropped from the shop's table must not fail its writers.
CREATE FUNCTION gateway.number(value jsonb) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN pg_catalog.jsonb_typeof(value) OPERATOR(pg_catalog.=) 'number' THEN value::numeric ELSE 0 END;
