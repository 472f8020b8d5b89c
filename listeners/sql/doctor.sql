What `doctor` asks Postgres. Everything here only reads.

-- name: server
SELECT
    pg_catalog.current_setting('server_version') AS version,
    pg_catalog.pg_is_in_recovery() AS standby,
    extract(epoch FROM pg_catalog.clock_timestamp())::float8 AS clock,
    pg_catalog.current_setting('max_prepared_transactions')::int AS prepared,
    pg_catalog.current_setting('max_connections')::int
        - pg_catalog.current_setting('superuser_reserved_connections')::int
        - (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')::int
        AS free_connections;

-- name: rights
-- What the relay and the loader need and this role does not have.
SELECT missing FROM (
    SELECT 'USAGE on schema gateway' AS missing
    WHERE NOT pg_catalog.has_schema_privilege('gateway', 'USAGE')
    UNION ALL
    SELECT wanted.right_ || ' on ' || wanted.table_
    FROM (VALUES
        ('gateway.migrations', 'SELECT'), ('gateway.change_log', 'SELECT'), ('gateway.change_log', 'DELETE'),
        ('gateway.control', 'SELECT'), ('gateway.position', 'SELECT'), ('gateway.position', 'UPDATE'),
        ('gateway.canary', 'SELECT'), ('gateway.canary', 'UPDATE'), ('gateway.sources', 'SELECT'),
        ('gateway.alive', 'SELECT'), ('gateway.alive', 'INSERT'), ('gateway.alive', 'DELETE')
    ) wanted (table_, right_)
    WHERE NOT pg_catalog.has_table_privilege(wanted.table_, wanted.right_)
    UNION ALL
    SELECT 'UPDATE of ' || wanted.column_ || ' on gateway.control'
    FROM (VALUES ('relay_asleep'), ('relay_seen_at'), ('log_retention'), ('nonce')) wanted (column_)
    WHERE NOT pg_catalog.has_column_privilege('gateway.control', wanted.column_, 'UPDATE')
    UNION ALL
    SELECT wanted.right_ || ' on gateway.change_log_' || number
    FROM generate_series(0, 7) number, (VALUES ('SELECT'), ('TRUNCATE')) wanted (right_)
    WHERE NOT pg_catalog.has_table_privilege('gateway.change_log_' || number, wanted.right_)
    UNION ALL
    SELECT 'SELECT on ' || wanted.sequence_
    FROM (VALUES ('gateway.loss_seq'), ('gateway.change_log_id_seq')) wanted (sequence_)
    WHERE NOT pg_catalog.has_sequence_privilege(wanted.sequence_, 'SELECT')
    UNION ALL
    SELECT 'EXECUTE on ' || wanted.function_
    FROM (VALUES
        ('pg_catalog.pg_control_system()'), ('pg_catalog.pg_current_wal_insert_lsn()'),
        ('pg_catalog.pg_walfile_name(pg_lsn)')
    ) wanted (function_)
    WHERE NOT pg_catalog.has_function_privilege(wanted.function_, 'EXECUTE')
    UNION ALL
    SELECT 'SELECT on ' || s.table_id::regclass::text
    FROM gateway.sources s
    JOIN pg_catalog.pg_class c ON c.oid = s.table_id
    WHERE NOT pg_catalog.has_table_privilege(s.table_id, 'SELECT')
) all_of_them;

-- name: triggers
-- The triggers of a table that fire for its rows or statements. $1: its oid. enabled: O and A fire for everybody.
SELECT t.tgname::text AS name, t.tgenabled::text AS enabled
FROM pg_catalog.pg_trigger t
WHERE t.tgrelid = $1::bigint::oid AND NOT t.tgisinternal;

-- name: relay
SELECT
    extract(epoch FROM pg_catalog.clock_timestamp() - c.relay_seen_at)::float8 AS unseen_s,
    p.term AS term,
    c.notify AS notify
FROM gateway.control c, gateway.position p;
