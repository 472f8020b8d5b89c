What attach makes of a source. Names in braces are filled in by listeners/capture_sql.py, quoted where needed.

The trigger functions run as the owner of the gateway's schema, so a role of the shop needs no right on it; pg_temp
stands last in their search path, or a type of that name in it would be taken first. Each says what it does twice.
While the table has the columns that it had when it was attached, they are named, which is much cheaper. Once
it has others, none is named without a substitute. No value of the row is parsed. So a column dropped or altered
later, or a json column that jsonb would not take, fails nobody. They have no EXCEPTION block: a subtransaction per
statement overflows the 64 entries that a backend announces.

-- name: as_attached
-- The second half costs nothing at run time: see gateway.columns_are.
TG_RELID OPERATOR(pg_catalog.=) {table_id}::pg_catalog.oid
        AND gateway.columns_are('{table_id}'::pg_catalog.regclass, {column_names})

-- name: stamp
CREATE OR REPLACE FUNCTION {stamp_function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
AS {quote}
BEGIN
    IF {as_attached} THEN
        -- With the table's number in it the expression is planned anew when a column has got another type. Else it
        -- would fail.
        IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' OR '{table_id}'::pg_catalog.regclass IS NOT NULL
            AND ROW({new_counted})::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW({old_counted})::pg_catalog.record
        THEN
            {assign_stamps}
            RETURN NEW;
        END IF;
        {unchanged_as_attached}
    END IF;
    -- It runs for each row, and to set a search path costs a quarter of it: every name is qualified instead.
    -- *<> compares the bytes of the columns, whatever their types; what does not count is null on both sides.
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT'
        OR pg_catalog.jsonb_populate_record(NEW, {ignored})
            OPERATOR(pg_catalog.*<>) pg_catalog.jsonb_populate_record(OLD, {ignored})
    THEN
        RETURN pg_catalog.jsonb_populate_record(NEW, pg_catalog.jsonb_build_object({stamps}));
    END IF;
    {unchanged}
END
{quote};

-- name: unchanged
RETURN OLD;  -- the stamps too, whatever the writer has put there: an ORM writes back what it once read

-- name: unchanged_but
-- Only columns that no item is made of have changed. They are kept, and the stamps are kept as well; a writer that
-- has put another version there gets a new one.
IF pg_catalog.jsonb_populate_record(NEW, {unstamped})
        OPERATOR(pg_catalog.*<>) pg_catalog.jsonb_populate_record(OLD, {unstamped})
    THEN
        RETURN pg_catalog.jsonb_populate_record(NEW, pg_catalog.jsonb_build_object({stamps}));
    END IF;
    RETURN NEW;

-- name: unchanged_but_as_attached
IF '{table_id}'::pg_catalog.regclass IS NOT NULL
            AND ROW({new_stamped})::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW({old_stamped})::pg_catalog.record
        THEN
            {assign_stamps}
        END IF;
        RETURN NEW;

-- name: log
CREATE OR REPLACE FUNCTION {log_function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS {quote}
#variable_conflict use_column
DECLARE
    lost boolean;
    wake boolean;
BEGIN
    SELECT c.relay_seen_at < clock_timestamp() - c.log_retention, c.relay_asleep AND c.notify = 'auto'
    INTO lost, wake
    FROM gateway.control c;
    IF lost THEN
        -- Nobody has read the log for so long that it would fill the shop's disk: skip it, and tell.
        PERFORM nextval('gateway.loss_seq');
        RETURN NULL;
    END IF;
    IF {as_attached} THEN
        {log_as_attached}
    ELSE
        {log}
    END IF;
    -- PREPARE TRANSACTION fails after a NOTIFY.
    IF wake AND FOUND AND current_setting('max_prepared_transactions') = '0' THEN
        PERFORM pg_notify('gateway_wake', '');
    END IF;
    RETURN NULL;
END
{quote};

-- name: log_insert
INSERT INTO gateway.change_log (source, op, version, item)
    SELECT {source}, 'I', {new_version}, {new_item}
    FROM ({new_rows}) n;

-- name: log_update
-- A full join can not become a nested loop, whatever number of rows the cached plan was made for. A key that has
-- changed is a departure of the old one and an arrival of the new one.
INSERT INTO gateway.change_log (source, op, version, item, gone)
    SELECT
        {source},
        CASE WHEN n.here IS NULL THEN 'D' WHEN o.here IS NULL THEN 'I' ELSE 'U' END,
        CASE WHEN n.here THEN {new_version} ELSE nextval('gateway.version_seq') END,
        CASE WHEN n.here THEN {new_item} ELSE {old_item} END,
        {gone}
    FROM ({new_rows}) n
    FULL JOIN ({old_rows}) o ON {same_key}
    WHERE n.here IS NULL OR o.here IS NULL OR {row_changed};

-- name: log_delete
INSERT INTO gateway.change_log (source, op, version, item)
    SELECT {source}, 'D', nextval('gateway.version_seq'), {old_item}
    FROM ({old_rows}) o;

-- name: log_truncate
INSERT INTO gateway.change_log (source, op, version)
    VALUES ({source}, 'T', nextval('gateway.version_seq'));

-- name: stamp_trigger
CREATE TRIGGER {stamp_trigger} BEFORE INSERT OR UPDATE ON {table}
    FOR EACH ROW EXECUTE FUNCTION {stamp_function}();

-- name: log_triggers
-- One trigger an event: with transition tables Postgres allows neither several events nor a list of columns.
CREATE TRIGGER gateway_log_insert AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {log_insert_function}();
CREATE TRIGGER gateway_log_update AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {log_update_function}();
CREATE TRIGGER gateway_log_delete AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {log_delete_function}();
CREATE TRIGGER gateway_log_truncate AFTER TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {log_truncate_function}();
