The loads of topics. Names in braces are filled in by listeners/topic_query.py; $1 is the topic's id.

-- name: stock
SELECT {item}::text AS item, {version} AS version, n.location_active FROM ({rows}) n

-- name: product
SELECT {item}::text AS item, {version} AS version, NULL::boolean AS location_active FROM ({rows}) n

-- name: product_has_stock_here
EXISTS (SELECT FROM {table} k WHERE {here} AND {same_product})
