The relay's one statement. Names in braces are filled in by listeners/source_sql.py from the attached sources.

-- name: read
-- What is visible now and was not in the snapshot $1, by id, at most $2 rows (null: all), with the look-ups that the
-- rows need, all in one snapshot. Without any such row: one row that has only the snapshot.
SELECT
    s.snapshot,
    l.id,
    l.source,
    l.kind,
    l.op,
    l.version,
    l.item::text AS item,
    l.gone,
    l.recorded_at_ms,
    {locations} AS locations,
    p.item::text AS product,
    p.version AS product_version,
    {location_active} AS location_active
FROM (SELECT pg_current_snapshot()::text AS snapshot) s
LEFT JOIN (
    SELECT
        c.id, c.source, {kind} AS kind, c.op, c.version, c.item, c.gone,
        floor(extract(epoch FROM c.recorded_at) * 1000)::bigint AS recorded_at_ms
    FROM gateway.change_log c
    WHERE {unseen}
    ORDER BY c.id
    LIMIT $2::bigint
) l ON true
LEFT JOIN LATERAL (
    {product}
    LIMIT 1
) p ON true
ORDER BY l.id

-- name: locations_of_product
SELECT {location} FROM {table} t WHERE {condition}

-- name: product_of_stock
-- OFFSET 0 keeps to_jsonb from being evaluated once for each field.
SELECT {item_function}(x.r) AS item, {version} AS version
FROM (
    SELECT to_jsonb(t) AS r
    FROM {table} t
    WHERE l.kind = 'stock' AND (l.op = 'I' OR l.op = 'U' AND l.gone IS NOT NULL) AND {condition}
    OFFSET 0
) x

-- name: no_product
SELECT NULL::jsonb AS item, NULL::bigint AS version

-- name: active_of_stock
SELECT {item_function}(x.r) ->> 'active'
FROM (SELECT to_jsonb(t) AS r FROM {table} t WHERE {condition} OFFSET 0) x
