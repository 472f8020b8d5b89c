Who may do what. Names in braces are filled in by listeners/roles.py, quoted.

-- name: service_roles
-- Whoever was granted to move the relay's position serves; its owner needs no grant for that.
SELECT r.rolname::text AS name
FROM pg_catalog.pg_class c
CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
WHERE c.oid = 'gateway.position'::pg_catalog.regclass
    AND a.privilege_type = 'UPDATE' AND a.grantee <> c.relowner
ORDER BY 1;

-- name: grant_service
-- All that `serve` and `relay` do beside reading the attached tables. The log is written by triggers, which run as
-- its owner; of the control row only what a relay says there.
GRANT USAGE ON SCHEMA gateway TO {role};
GRANT SELECT ON gateway.migrations, gateway.sources, gateway.control, gateway.position, gateway.canary,
    gateway.alive, gateway.change_log TO {role};
GRANT UPDATE (relay_asleep, relay_seen_at, log_retention, nonce) ON gateway.control TO {role};
GRANT UPDATE ON gateway.position, gateway.canary TO {role};
GRANT INSERT, DELETE ON gateway.alive TO {role};
GRANT DELETE ON gateway.change_log TO {role};
GRANT SELECT, TRUNCATE ON {leaves} TO {role};
GRANT SELECT ON SEQUENCE gateway.loss_seq, gateway.change_log_id_seq TO {role};
GRANT EXECUTE ON FUNCTION gateway.number(jsonb) TO {role};

-- name: grant_shop
GRANT SELECT, INSERT, UPDATE, DELETE ON public.vendors, public.products, public.locations, public.inventory TO {role};

-- name: show_table
GRANT SELECT ON {table} TO {role};

-- name: forget_table
REVOKE SELECT ON {table} FROM {role};

-- name: role_exists
SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1);

-- name: sees_schema
SELECT pg_catalog.has_schema_privilege($1, $2, 'USAGE');

-- name: hidden
-- Attached tables of which row security shows this role less than all: its loads would miss rows, and nobody would say.
SELECT s.table_id::text AS name
FROM gateway.sources s
JOIN pg_catalog.pg_class c ON c.oid = s.table_id
WHERE pg_catalog.row_security_active(s.table_id)
ORDER BY 1;

-- name: excess
-- What this role may do and serving does not need. A superuser may do everything, so that is all there is to say.
WITH me AS (SELECT * FROM pg_catalog.pg_roles WHERE rolname = current_user)
SELECT what FROM (
    SELECT 1 AS nth, 'is a superuser' AS what FROM me WHERE rolsuper
    UNION ALL
    SELECT 2, 'may create roles' FROM me WHERE rolcreaterole AND NOT rolsuper
    UNION ALL
    SELECT 3, 'passes row security by' FROM me WHERE rolbypassrls AND NOT rolsuper
    UNION ALL
    SELECT 4, 'may replicate' FROM me WHERE rolreplication AND NOT rolsuper
    UNION ALL
    SELECT 5, 'may create schemas' FROM me
    WHERE NOT rolsuper AND pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
    UNION ALL
    SELECT 6, 'owns the schema gateway' FROM me, pg_catalog.pg_namespace n
    WHERE NOT rolsuper AND n.nspname = 'gateway' AND pg_catalog.pg_has_role(n.nspowner, 'USAGE')
    UNION ALL
    SELECT 7, 'may write ' || s.table_id::text FROM me, gateway.sources s
    JOIN pg_catalog.pg_class c ON c.oid = s.table_id
    WHERE NOT rolsuper AND pg_catalog.has_table_privilege(s.table_id, 'INSERT, UPDATE, DELETE, TRUNCATE')
) all_of_it ORDER BY nth, what;
