from typing import Final

from tests.mutation import Mutation

__all__ = ["CAPTURE_SAFEGUARDS"]

_ALTERED: Final = "tests/integration/test_altered_tables.py"

CAPTURE_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "triggers: columns are named only while they are there",
        "listeners/sql/capture.sql",
        "        AND gateway.columns_are('{table_id}'::pg_catalog.regclass, {column_names})\n",
        "        AND {column_names} IS NOT NULL\n",
        (f"{_ALTERED}::TestAnAlteredTable",),
    ),
    Mutation(
        "triggers: no columns but those that were there",
        "listeners/migrations/gateway/0004_columns_are.sql",
        "names OPERATOR(pg_catalog.||) NULL::text",
        "names",
        (f"{_ALTERED}::TestAnAlteredTable::test_a_new_column_is_kept_and_counts",),
    ),
    Mutation(
        "triggers: columns of another type",
        "listeners/sql/capture.sql",
        "        IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' OR '{table_id}'::pg_catalog.regclass IS NOT NULL\n",
        "        IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' OR true\n",
        (f"{_ALTERED}::TestAnAlteredTable",),
    ),
    Mutation(
        "triggers: columns as they are and not as a snapshot sees them",
        "listeners/migrations/gateway/0004_columns_are.sql",
        """    CROSS JOIN LATERAL pg_catalog.pg_identify_object_as_address(
        'pg_catalog.pg_class'::regclass, relation, k.number::integer
    ) a
""",
        """    LEFT JOIN LATERAL (
        SELECT ARRAY['', '', p.attname::text] AS object_names FROM pg_catalog.pg_attribute p
        WHERE p.attrelid = relation AND p.attnum = k.number
    ) a ON true
""",
        (f"{_ALTERED}::TestAnAlteredTable::test_in_a_transaction_that_saw_it_as_it_was",),
    ),
    Mutation(
        "bus: replicas of the release before know a tombstone",
        "listeners/scripts/apply.lua",
        "(dead and string.gsub(value, '^(%d+ T)%d+', '%1', 1) or value)",
        "value",
        ("tests/integration/test_topic_store.py::TestWhatIsPublished",),
    ),
)
