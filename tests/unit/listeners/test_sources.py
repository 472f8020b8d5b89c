import tomllib
from pathlib import Path
from typing import Any

import pytest

from listeners.errors import SourceError
from listeners.sources import (
    DEFAULT_SOURCES,
    VERSION_COLUMN,
    Column,
    Source,
    default_sources,
    load_source_file,
)

STOCK: dict[str, Any] = {
    "name": "stock",
    "kind": "stock",
    "table": "Stock",
    "columns": {
        "product_id": "Item",
        "location_id": {"value": "main"},
        "vendor_id": {"value": "V"},
        "on_hand": "qty",
    },
}
PRODUCT: dict[str, Any] = {
    "name": "articles",
    "kind": "product",
    "table": "articles",
    "columns": {"product_id": "id", "vendor_id": {"value": "V"}, "name": "title"},
}
PLACE: dict[str, Any] = {
    "name": "places",
    "kind": "location",
    "table": "places",
    "columns": {"location_id": "id", "active": "open"},
}


def with_columns(source: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return source | {"columns": source["columns"] | columns}


def without_column(source: dict[str, Any], field: str) -> dict[str, Any]:
    return source | {"columns": {name: value for name, value in source["columns"].items() if name != field}}


class TestDefaultSources:
    def test_cover_the_reference_schema(self) -> None:
        sources = {source.name: source for source in default_sources()}
        assert {name: source.kind for name, source in sources.items()} == {
            "products": "product",
            "locations": "location",
            "inventory": "stock",
        }

    def test_use_the_version_column_of_the_reference_schema(self) -> None:
        assert {source.version_column for source in default_sources()} == {"version", None}

    def test_are_a_file_that_anybody_could_have_written(self) -> None:
        assert tomllib.loads(DEFAULT_SOURCES.read_text(encoding="utf-8")).keys() == {"source"}


class TestSource:
    def test_key_columns_are_those_that_are_no_constants(self) -> None:
        assert Source.model_validate(STOCK).key_columns == {"product_id": "Item"}

    def test_attached_tables_get_a_column_of_ours(self) -> None:
        assert Source.model_validate(STOCK).version_column == VERSION_COLUMN

    def test_locations_have_no_versions(self) -> None:
        assert Source.model_validate(PLACE).version_column is None

    def test_feeds_all_topics_unless_told_otherwise(self) -> None:
        assert [str(topic) for topic in Source.model_validate(STOCK).topics] == [
            "product",
            "location",
            "vendor",
        ]
        assert Source.model_validate(STOCK | {"topics": ["product"]}).topics == ("product",)

    def test_a_column_may_be_mapped_twice(self) -> None:
        source = Source.model_validate(with_columns(PRODUCT, sku="id"))
        assert source.mapped_columns == ("id", "title")

    def test_keys_are_text_until_attached(self) -> None:
        assert Source.model_validate(STOCK).key_type("product_id") == "text"

    def test_survives_the_register(self) -> None:
        source = Source.model_validate(with_columns(PRODUCT, price_minor={"column": "price", "scale": 100}))
        assert Source.model_validate_json(source.model_dump_json(by_alias=True)) == source
        assert source.columns["price_minor"] == Column(column="price", scale=100)


class TestRefusedSources:
    def test_stock_without_versions(self) -> None:
        with pytest.raises(ValueError, match="version_column: stock and products need one"):
            Source.model_validate(STOCK | {"version_column": None})

    @pytest.mark.parametrize(
        ("source", "complaint"),
        [
            (STOCK | {"name": "Stock"}, "name: String should match"),
            (STOCK | {"kind": "customers"}, "kind: Input should be 'stock', 'product' or 'location'"),
            (STOCK | {"tabel": "x"}, "tabel: unknown; allowed: name, kind, schema, table, columns"),
            (STOCK | {"table": ""}, "table: String should have at least 1 character"),
            (STOCK | {"table": "x" * 64}, "table: String should have at most 63 characters"),
            (STOCK | {"table": "a\0b"}, "table: String should match"),
            (STOCK | {"table": "é" * 32}, "table: a name has up to 63 bytes: 64 are too many"),
            (with_columns(STOCK, on_hand="é" * 32), "columns.on_hand.column: a name has up to 63 bytes"),
            (with_columns(PRODUCT, sku={"value": "a\0b"}), "columns.sku"),
            (
                with_columns(PRODUCT, status={"column": "s", "words": {"a": "b\0"}}),
                "columns.status.words.a: String should match",
            ),
            (STOCK | {"topics": ["products"]}, "topics.0: Input should be"),
            (STOCK | {"key": ["qty"]}, "key: must be the columns of product_id: Item"),
            (STOCK | {"version_column": "qty"}, "version_column: 'qty' is a mapped column"),
            (STOCK | {"stamp_updated_at": True}, "stamp_updated_at: needs a column"),
            (PLACE | {"version_column": "version"}, "locations have none"),
            (with_columns(STOCK, colour="c"), "columns.colour: unknown; allowed: product_id, location_id"),
            (without_column(STOCK, "product_id"), "columns.product_id: missing; needed: product_id"),
            (without_column(STOCK, "on_hand"), "on_hand or available is needed"),
            (without_column(PRODUCT, "name"), "columns.name: missing"),
            (without_column(PLACE, "active"), "columns.active: missing"),
            (with_columns(STOCK, product_id={"value": "A"}), "columns.product_id: must be a column"),
            (with_columns(PRODUCT, product_id={"value": "A"}), "columns.product_id: must be a column"),
            (with_columns(PLACE, location_id={"value": "A"}), "columns.location_id: must be a column"),
            (with_columns(STOCK, vendor_id={"value": "a b"}), "columns.vendor_id: a constant of 1 to 64"),
            (with_columns(STOCK, vendor_id={"value": 7}), "columns.vendor_id: a constant of 1 to 64"),
            (
                with_columns(STOCK, product_id={"column": "Item", "scale": 2}),
                "scale and words are not for keys",
            ),
            (with_columns(STOCK, on_hand={"value": "7"}), "columns.on_hand: a whole number is needed"),
            (with_columns(STOCK, on_hand={"value": True}), "columns.on_hand: a whole number is needed"),
            (
                with_columns(STOCK, on_hand={"column": "qty", "scale": 0}),
                "columns.on_hand.scale: Input should be",
            ),
            (with_columns(STOCK, on_hand={"colum": "qty"}), "columns.on_hand"),
            (with_columns(STOCK, on_hand={"column": "qty", "words": {"a": "b"}}), "words are for texts"),
            (
                with_columns(PRODUCT, name={"column": "title", "scale": 2}),
                "columns.name: scale is for numbers",
            ),
            (with_columns(PRODUCT, updated_at={"value": "now"}), "columns.updated_at: must be a column"),
            ("text", "should be a valid dictionary"),
        ],
    )
    def test_name_the_field_and_what_is_allowed(self, source: Any, complaint: str, tmp_path: Path) -> None:
        file = write(tmp_path, {"source": [source]})
        with pytest.raises(SourceError) as raised:
            load_source_file(file)
        assert str(raised.value).startswith(f"{file}: source ")
        assert complaint in str(raised.value)
        assert "\n" not in str(raised.value)


class TestSourceFile:
    def test_holds_any_number_of_sources(self, tmp_path: Path) -> None:
        file = write(tmp_path, {"source": [STOCK, PRODUCT | {"schema": "Shop 1"}]})
        stock, product = load_source_file(file)
        assert (stock.schema_name, stock.table) == ("public", "Stock")
        assert (product.schema_name, product.table) == ("Shop 1", "articles")

    def test_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="can not be read: No such file"):
            load_source_file(tmp_path / "none.toml")

    @pytest.mark.parametrize("content", [b"[[source", b"\xff"])
    def test_that_is_no_toml(self, content: bytes, tmp_path: Path) -> None:
        file = tmp_path / "sources.toml"
        file.write_bytes(content)
        with pytest.raises(SourceError, match="is no TOML"):
            load_source_file(file)

    def test_without_sources(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"source: missing; at least one \[\[source\]\]"):
            load_source_file(write(tmp_path, {"source": []}))

    def test_with_anything_else(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="sources: unknown; allowed: source"):
            load_source_file(write(tmp_path, {"sources": [STOCK]}))

    def test_with_a_name_used_twice(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="source 'stock': name: used twice"):
            load_source_file(write(tmp_path, {"source": [STOCK, STOCK]}))


def write(directory: Path, document: dict[str, Any]) -> Path:
    file = directory / "sources.toml"
    file.write_text(
        "".join(f"{name} = {toml(value)}\n" for name, value in document.items()), encoding="utf-8"
    )
    return file


def toml(value: Any) -> str:
    """Inline TOML; what TOML has no word for (null) is left out."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{name} = {toml(entry)}" for name, entry in value.items() if entry is not None)
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value) if isinstance(value, int) else '"' + value.replace("\0", "\\u0000") + '"'
