What attach asks the catalogue of Postgres, and the register of sources.

-- name: table
-- Everything about a table that decides whether it can be attached. $1: schema, $2: table.
SELECT
    c.oid::bigint AS id,
    c.relkind::text AS relkind,
    c.relpersistence::text AS persistence,
    c.relispartition AS is_partition,
    n.nspname AS schema_name,
    EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS is_child,
    EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid) AS has_children,
    EXISTS (SELECT FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = c.oid) AS is_subscribed,
    c.relrowsecurity AND c.relforcerowsecurity AS forces_row_security,
    pg_catalog.pg_has_role(c.relowner, 'USAGE') AS is_owner,
    pg_catalog.pg_get_userbyid(c.relowner)::text AS owner
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2;

-- name: columns
-- $1: the table's oid. type: the base type, also of a domain.
SELECT
    a.attname::text AS name,
    t.typname::text AS type,
    a.attgenerated::text AS generated,
    a.attnotnull AS not_null,
    EXISTS (SELECT FROM pg_catalog.pg_type y WHERE y.oid = a.atttypid AND y.typtype = 'd') AS is_domain,
    pg_catalog.col_description(a.attrelid, a.attnum) AS comment
FROM pg_catalog.pg_attribute a
JOIN LATERAL (
    WITH RECURSIVE base AS (
        SELECT y.oid, y.typname, y.typtype, y.typbasetype FROM pg_catalog.pg_type y WHERE y.oid = a.atttypid
        UNION ALL
        SELECT y.oid, y.typname, y.typtype, y.typbasetype
        FROM pg_catalog.pg_type y JOIN base ON base.typtype = 'd' AND y.oid = base.typbasetype
    )
    SELECT base.typname FROM base WHERE base.typtype <> 'd'
) t ON true
WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: column_names
-- Of all columns there ever were, or none should gateway.columns_are not know them again: then the triggers never
-- rely on them. It is asked here also because it must be there before a trigger asks it. $1: the table's oid.
SELECT CASE WHEN gateway.columns_are($1::bigint::oid::regclass, n.names) THEN n.names ELSE '{}' END
FROM (
    SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0
) n;

-- name: unique_keys
-- The columns of each unique index that holds for every row at all times. $1: the table's oid.
SELECT array_agg(a.attname::text) AS columns
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, position)
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = $1::bigint::oid
    AND i.indisunique AND i.indisvalid AND i.indimmediate
    AND i.indpred IS NULL AND i.indexprs IS NULL
    AND k.position <= i.indnkeyatts
GROUP BY i.indexrelid;

-- name: later_triggers
-- BEFORE ROW triggers that would fire after ours. $1: the table's oid, $2: the name of ours.
SELECT t.tgname::text AS name
FROM pg_catalog.pg_trigger t
WHERE t.tgrelid = $1::bigint::oid AND NOT t.tgisinternal
    AND t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0
    AND t.tgname::text COLLATE "C" > $2;

-- name: registered
-- The attached sources under the names that their tables have now.
SELECT
    s.name, s.kind, s.spec::text AS spec, s.checksum, s.added_column,
    s.table_id::oid::bigint AS table_id, n.nspname::text AS schema_name, c.relname::text AS table_name
FROM gateway.sources s
LEFT JOIN pg_catalog.pg_class c ON c.oid = s.table_id
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY s.name;

-- name: register
INSERT INTO gateway.sources (name, kind, spec, table_id, added_column, checksum)
VALUES ($1, $2, $3::text::jsonb, $4::bigint::oid::regclass, $5, $6)
ON CONFLICT (name) DO UPDATE SET
    kind = excluded.kind, spec = excluded.spec, table_id = excluded.table_id,
    added_column = excluded.added_column, checksum = excluded.checksum,
    attached_at = pg_catalog.clock_timestamp();

-- name: unregister
DELETE FROM gateway.sources WHERE name = $1;

-- name: new_nonce
-- What was loaded before is of other sources: the relay begins a new generation.
UPDATE gateway.control SET nonce = pg_catalog.gen_random_uuid()::text;

-- name: draw_version
SELECT pg_catalog.nextval('gateway.version_seq');

-- name: raise_versions
-- $1: the highest version of a table's rows. The margin is for what is drawn between the two halves of the statement.
SELECT pg_catalog.setval('gateway.version_seq', $1::bigint + 1000000)
FROM gateway.version_seq WHERE last_value < $1::bigint;
