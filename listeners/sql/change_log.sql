The relay's statements. Names in braces are filled in by listeners/source_sql.py from the attached sources.

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

-- name: hold
-- The same rows without the look-ups, all of them, sorted; in front of them one row that has only the snapshot. They
-- are put aside when the statement ends: no lock on the shop's tables, whose owner may want to alter them, and no
-- snapshot is held while they are read. $1 has to be put in as a constant here.
DECLARE gateway_log CURSOR WITH HOLD FOR
SELECT
    pg_current_snapshot()::text AS snapshot, NULL::bigint AS id, NULL::text AS source, NULL::text AS kind,
    NULL::text AS op, NULL::bigint AS version, NULL::text AS item, NULL::text[] AS gone,
    NULL::bigint AS recorded_at_ms, NULL::text AS location_id
UNION ALL
SELECT
    NULL, c.id, c.source, {kind}, c.op, c.version, c.item::text, c.gone,
    floor(extract(epoch FROM c.recorded_at) * 1000)::bigint, c.item ->> 'location_id'
FROM gateway.change_log c
WHERE c.xid >= pg_snapshot_xmax({since}::pg_snapshot)
    OR c.xid = ANY (ARRAY(SELECT pg_snapshot_xip({since}::pg_snapshot)))
ORDER BY id NULLS FIRST

-- name: look_up
-- What the rows that were put aside need from the shop's tables, as it is now: who is newer than the row is on the
-- way as a row of its own.
SELECT
    l.id,
    {locations} AS locations,
    p.item::text AS product,
    p.version AS product_version,
    {location_active} AS location_active
FROM (
    SELECT r.id, r.kind, r.op, r.item::jsonb AS item, r.gone
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]) r (id, kind, op, item, gone)
) l
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
