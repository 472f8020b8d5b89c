import json
from typing import Any

import pytest

from listeners.capture_sql import AttachedTable, checksum, create_functions
from listeners.source_sql import item_of, key_parameter, quote_identifier, quote_literal, read_sql
from listeners.sources import Source, default_sources
from listeners.topic_query import TopicQuery
from protocol.topics import parse_topic

STOCK: dict[str, Any] = {
    "name": "stock",
    "kind": "stock",
    "table": "stock",
    "columns": {
        "product_id": "item",
        "location_id": {"value": "main"},
        "vendor_id": "seller",
        "on_hand": "qty",
    },
}


def table_of(source: Source, *more: str) -> AttachedTable:
    """Of the mapped columns and some more, none of which can be null."""
    columns = (*source.mapped_columns, source.version_column or "", *more)
    return AttachedTable(4711, columns, columns, frozenset(columns))


class TestQuoting:
    @pytest.mark.parametrize(
        ("name", "quoted"),
        [("stock", '"stock"'), ("Stock 1", '"Stock 1"'), ('a"b', '"a""b"'), ("select", '"select"')],
    )
    def test_identifiers(self, name: str, quoted: str) -> None:
        assert quote_identifier(name) == quoted

    @pytest.mark.parametrize(
        ("value", "quoted"),
        [
            ("it's", "'it''s'"),
            ("a\\b", "E'a\\\\b'"),
            ("\\'", "E'\\\\'''"),
            (7, "7"),
            (True, "true"),
            (False, "false"),
        ],
    )
    def test_literals(self, value: str | int | bool, quoted: str) -> None:
        assert quote_literal(value) == quoted

    def test_no_name_can_end_the_body_of_a_function(self) -> None:
        evil = "$function$; DROP TABLE stock; --"
        source = Source.model_validate(STOCK | {"columns": STOCK["columns"] | {"on_hand": evil}})
        other = Source.model_validate(STOCK)
        for statement in [
            *create_functions(source, table_of(source)),
            *create_functions(other, table_of(other, evil)),
        ]:
            opening = statement.split("AS ", 1)[1].split("\n", 1)[0]
            assert statement.count(opening) == 2
            assert statement.endswith(f"{opening};")


class TestItems:
    def test_take_constants_as_they_are(self) -> None:
        source = Source.model_validate(
            STOCK | {"columns": STOCK["columns"] | {"damaged": {"value": 0}, "available": {"value": 3}}}
        )
        item = item_of(source, "n")
        assert "'location_id', 'main'::text" in item
        assert "'damaged', 0" in item
        assert "'available', 3" in item

    def test_compute_what_is_available(self) -> None:
        source = Source.model_validate(STOCK | {"columns": STOCK["columns"] | {"safety_stock": {"value": 2}}})
        assert "'available', gateway.number(to_jsonb(n.on_hand)) - 2" in item_of(source, "n")

    def test_compute_what_is_on_hand_where_only_the_available_is_known(self) -> None:
        columns = {field: column for field, column in STOCK["columns"].items() if field != "on_hand"}
        source = Source.model_validate(
            STOCK | {"columns": columns | {"available": "free", "reserved": "held"}}
        )
        expected = "'on_hand', gateway.number(to_jsonb(n.available)) + gateway.number(to_jsonb(n.reserved))"
        assert expected in item_of(source, "n")

    def test_of_numbers_that_can_not_be_null_are_simpler(self) -> None:
        columns = STOCK["columns"] | {"damaged": {"column": "broken", "scale": 100}, "incoming": "way"}
        source = Source.model_validate(STOCK | {"columns": columns})
        item = item_of(source, "n", not_null={"qty", "broken"})
        assert "'on_hand', n.on_hand," in item
        assert "'incoming', coalesce(to_jsonb(n.incoming), '0')" in item
        assert "* 100" in item


class TestKeyParameter:
    @pytest.mark.parametrize(
        ("key_type", "cast"), [("text", "$1"), ("integer", "::bigint"), ("uuid", "::uuid")]
    )
    def test_fits_the_column(self, key_type: str, cast: str) -> None:
        source = Source.model_validate(STOCK | {"shape": {"key_types": {"product_id": key_type}}})
        assert cast in key_parameter(source, "product_id", "$1")


class TestChecksum:
    def test_changes_with_what_is_generated(self) -> None:
        sources = [
            Source.model_validate(STOCK),
            Source.model_validate(STOCK | {"version_column": "other"}),
            Source.model_validate(STOCK | {"columns": STOCK["columns"] | {"damaged": "broken"}}),
        ]
        assert len({checksum(source) for source in sources}) == 3

    def test_does_not_depend_on_the_order_in_which_columns_are_named(self) -> None:
        for source in default_sources():
            spec = json.loads(source.model_dump_json(by_alias=True))
            spec["columns"] = dict(reversed(spec["columns"].items()))
            assert checksum(Source.model_validate(spec)) == checksum(source)

    def test_does_not_depend_on_the_name_of_the_table(self) -> None:
        assert checksum(Source.model_validate(STOCK)) == checksum(
            Source.model_validate(STOCK | {"table": "other"})
        )


class TestStatements:
    def test_are_the_same_each_time(self) -> None:
        assert read_sql(default_sources()) == read_sql(default_sources())

    def test_leave_no_placeholder_behind(self) -> None:
        generated = [*read_sql(default_sources()), *read_sql([])]
        for source in default_sources():
            generated += create_functions(source, table_of(source))
        for statement in generated:
            assert not any(
                "{" + word in statement for word in ("item", "rows", "table", "source", "quote", "where")
            )

    async def test_there_are_none_for_topics_that_no_source_feeds(self) -> None:
        class NoPool:
            async def fetch(self, *_: object) -> list[object]:
                raise AssertionError("nothing is to be asked")

        query = TopicQuery([Source.model_validate(STOCK | {"topics": ["product"]})])
        assert await query.rows(NoPool(), parse_topic("vendor:V"), limit=10) == []
        assert [batch async for batch in query.batches(NoPool(), parse_topic("vendor:V"))] == []
