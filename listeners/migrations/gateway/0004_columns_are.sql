-- Whether a table has these columns, in this order and no more, dropped ones included under the names that Postgres
-- gives them. It is immutable only as long as the table is not altered. But a plan that holds the table's number as a
-- regclass constant is made anew when it is, and the answer with it (plancache.c, PlanCacheRelCallback). So the
-- triggers ask for nothing. The names come from the system caches and not from a query of pg_attribute: that would
-- see it as it was when a REPEATABLE READ transaction began.
CREATE FUNCTION gateway.columns_are(relation regclass, names text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (
    SELECT coalesce(bool_and(k.name IS NOT DISTINCT FROM a.object_names[3]), false)
    FROM unnest(names OPERATOR(pg_catalog.||) NULL::text) WITH ORDINALITY k (name, number)
    CROSS JOIN LATERAL pg_catalog.pg_identify_object_as_address(
        'pg_catalog.pg_class'::regclass, relation, k.number::integer
    ) a
);
