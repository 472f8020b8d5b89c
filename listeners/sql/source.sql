Pieces of statements about one source. Names in braces are filled in by listeners/source_sql.py.

-- name: rows
-- The rows of a table or a transition table, by the names of our fields. A mapped column that the table has lost
-- since is found in `d` instead, one level further out, and is null: its owner's ALTER TABLE breaks no statement.
SELECT x.*
FROM (SELECT {missing}) d
CROSS JOIN LATERAL (
    SELECT y.*{extra}
    FROM {relation} {alias}
    CROSS JOIN LATERAL (SELECT true AS here, {fields} FROM (SELECT {alias}.*) s) y
    {where}
) x

-- name: present_rows
-- The same of a transition table, while all mapped columns are there.
SELECT true AS here, {fields} FROM {relation} t

-- name: active
SELECT {active} FROM ({rows}) n
