The relay's one statement. Names in braces are filled in by listeners/source_sql.py from the attached sources.

-- name: read
-- What is visible now and was not in the snapshot $1: the first $2 rows by id (null: all), with the look-ups
-- that the rows need, all in one snapshot. The result is not sorted: that would look everything up before the
-- first page of a large backlog comes, and its reader sorts each page. Without any such row: one row that has only the snapshot.
-- The OR becomes one bitmap of two ranges per leaf, and was as fast as a UNION ALL of the two. The upper bound is
-- always true: a range is taken to be narrow, where an open end makes a generic plan read the whole log.
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
    WHERE c.xid >= pg_snapshot_xmax($1::text::pg_snapshot) AND c.xid <= '18446744073709551615'::xid8
        OR c.xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot)))
    ORDER BY c.id
    LIMIT $2::bigint
) l ON true
LEFT JOIN LATERAL (
    {product}
    LIMIT 1
) p ON true

-- name: locations_of_product
SELECT {location} FROM {table} t WHERE {condition}

-- name: product_of_stock
SELECT {item} AS item, {version} AS version FROM ({rows}) n

-- name: came_into_a_topic
l.kind = 'stock' AND (l.op = 'I' OR l.op = 'U' AND l.gone IS NOT NULL)

-- name: no_product
SELECT NULL::jsonb AS item, NULL::bigint AS version
