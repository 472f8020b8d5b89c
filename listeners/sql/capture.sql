What attach makes of a source. Names in braces are filled in by listeners/source_sql.py, quoted where needed.

The trigger functions run as the owner of the gateway's schema, so a role of the shop needs no right on it;
pg_temp stands last in the search path, or a type of that name in it would be taken first. They touch rows only by
way of to_jsonb, so a column dropped or altered later fails nobody. They have no EXCEPTION block: a
subtransaction per statement overflows the 64 entries that a backend announces.

-- name: item
CREATE OR REPLACE FUNCTION {item_function}(r jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.jsonb_build_object(
    {pairs}
);

-- name: stamp
CREATE OR REPLACE FUNCTION {stamp_function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    o jsonb;
    n jsonb;
BEGIN
    IF TG_OP = 'INSERT' THEN
        RETURN jsonb_populate_record(NEW, jsonb_build_object({stamps}));
    END IF;
    o := to_jsonb(OLD);
    n := to_jsonb(NEW);
    IF {changed} THEN
        RETURN jsonb_populate_record(NEW, jsonb_build_object({stamps}));
    END IF;
    -- Nothing changed, so the stamps stay, whatever the writer has put there (an ORM writes back what it read).
    IF {stamps_differ} THEN
        RETURN jsonb_populate_record(NEW, jsonb_build_object({old_stamps}));
    END IF;
    RETURN NEW;
END
$function$;

-- name: log_insert
CREATE OR REPLACE FUNCTION {log_insert_function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $function$
DECLARE
    lost boolean;
    wake boolean;
BEGIN
    {read_control}
    INSERT INTO gateway.change_log (source, op, version, item)
    SELECT {source}, 'I', {new_version}, {item_function}(n.r)
    FROM (SELECT to_jsonb(t) AS r FROM new_rows t OFFSET 0) n;
    {finish}
END
$function$;

-- name: log_update
CREATE OR REPLACE FUNCTION {log_update_function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $function$
DECLARE
    lost boolean;
    wake boolean;
BEGIN
    {read_control}
    -- A full join can not become a nested loop, whatever number of rows the cached plan was made for.
    INSERT INTO gateway.change_log (source, op, version, item, gone)
    SELECT
        {source},
        CASE WHEN n.r IS NULL THEN 'D' WHEN o.r IS NULL THEN 'I' ELSE 'U' END,
        CASE WHEN n.r IS NULL THEN nextval('gateway.version_seq') ELSE {new_version} END,
        {item_function}(coalesce(n.r, o.r)),
        {gone}
    FROM (SELECT to_jsonb(t) AS r FROM new_rows t OFFSET 0) n
    FULL JOIN (SELECT to_jsonb(t) AS r FROM old_rows t OFFSET 0) o ON {same_key}
    WHERE n.r IS NULL OR o.r IS NULL OR {row_changed};
    {finish}
END
$function$;

-- name: log_delete
CREATE OR REPLACE FUNCTION {log_delete_function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $function$
DECLARE
    lost boolean;
    wake boolean;
BEGIN
    {read_control}
    INSERT INTO gateway.change_log (source, op, version, item)
    SELECT {source}, 'D', nextval('gateway.version_seq'), {item_function}(o.r)
    FROM (SELECT to_jsonb(t) AS r FROM old_rows t OFFSET 0) o;
    {finish}
END
$function$;

-- name: log_truncate
CREATE OR REPLACE FUNCTION {log_truncate_function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    lost boolean;
    wake boolean;
BEGIN
    {read_control}
    INSERT INTO gateway.change_log (source, op, version)
    VALUES ({source}, 'T', nextval('gateway.version_seq'));
    {finish}
END
$function$;

-- name: read_control
SELECT c.relay_seen_at < clock_timestamp() - c.log_retention, c.relay_asleep AND c.notify = 'auto'
    INTO lost, wake
    FROM gateway.control c;
    IF lost THEN
        -- Nobody has read the log for so long that it would fill the shop's disk: skip it, and tell.
        PERFORM nextval('gateway.loss_seq');
        RETURN NULL;
    END IF;

-- name: finish
IF wake AND FOUND AND current_setting('max_prepared_transactions') = '0' THEN
        PERFORM pg_notify('gateway_wake', '');
    END IF;
    RETURN NULL;

-- name: triggers
CREATE TRIGGER {log_insert_trigger} AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {log_insert_function}();
CREATE TRIGGER {log_update_trigger} AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {log_update_function}();
CREATE TRIGGER {log_delete_trigger} AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {log_delete_function}();
CREATE TRIGGER {log_truncate_trigger} AFTER TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {log_truncate_function}();

-- name: stamp_trigger
CREATE TRIGGER {stamp_trigger} BEFORE INSERT OR UPDATE ON {table}
    FOR EACH ROW EXECUTE FUNCTION {stamp_function}();
