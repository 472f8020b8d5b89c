import pytest

from listeners.log_plan import stock_at_sql
from listeners.sources import Source


def stock(**columns: object) -> Source:
    fields = {"product_id": "sku", "location_id": "place", "vendor_id": "seller", "on_hand": "n", **columns}
    return Source.model_validate({"name": "s", "kind": "stock", "table": "my stock", "columns": fields})


def test_the_stock_at_a_location_is_found_by_the_tables_own_names() -> None:
    query = stock_at_sql(stock())
    assert 't."sku"::text AS product_id' in query
    assert 't."seller"::text AS vendor_id' in query
    assert 'FROM "public"."my stock" t' in query
    assert 't."place"' in query.partition("WHERE")[2]


@pytest.mark.parametrize("field", ["location_id", "vendor_id"])
def test_a_constant_stands_for_itself(field: str) -> None:
    assert "'only'" in stock_at_sql(stock(**{field: {"value": "only"}}))
