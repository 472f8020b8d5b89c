import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from listeners.errors import SourceError
from protocol.topics import TopicKind, is_key

__all__ = [
    "DEFAULT_SOURCES",
    "FIELDS",
    "NUMBERS",
    "VERSION_COLUMN",
    "Column",
    "Constant",
    "KeyType",
    "Kind",
    "Shape",
    "Source",
    "default_sources",
    "load_source_file",
]

Kind = Literal["stock", "product", "location"]
KeyType = Literal["text", "integer", "uuid"]

VERSION_COLUMN: Final = "gateway_version"
"""What attached tables get as their column of ours. An existing version column may be an ORM's."""

DEFAULT_SOURCES: Final = Path(__file__).with_name("default_sources.toml")

_NAMES: Final = ("product_id", "location_id", "vendor_id")
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "stock": (
        *_NAMES,
        *("on_hand", "reserved", "damaged", "safety_stock", "incoming"),
        *("available", "low_stock_at", "updated_at"),
    ),
    "product": (
        *("product_id", "vendor_id"),
        *("sku", "name", "category", "price_minor", "currency", "status", "updated_at"),
    ),
    "location": ("location_id", "active"),
}
"""The fields of an item by kind of source: what `columns` may map."""

NUMBERS: Final = (
    *("on_hand", "reserved", "damaged", "safety_stock", "incoming"),
    *("available", "low_stock_at", "price_minor"),
)
"""The fields that are whole numbers."""

_REQUIRED: Final = {
    "stock": ("product_id", "location_id", "vendor_id"),
    "product": ("product_id", "vendor_id", "name"),
    "location": ("location_id", "active"),
}
_KEY_FIELDS: Final = {
    "stock": ("product_id", "location_id"),
    "product": ("product_id",),
    "location": ("location_id",),
}


def _in_bytes(name: str) -> str:
    if len(name.encode()) > _IDENTIFIER_BYTES:
        raise ValueError(f"a name has up to {_IDENTIFIER_BYTES} bytes: {len(name.encode())} are too many")
    return name


# What is longer Postgres cuts off without an error, and means another table then (manual, section 4.1.1).
_IDENTIFIER_BYTES: Final = 63

# A zero byte can not even be quoted.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Identifier = Annotated[
    Text, StringConstraints(min_length=1, max_length=_IDENTIFIER_BYTES), AfterValidator(_in_bytes)
]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constant(_Strict):
    """A field that is the same for every row, such as the vendor of a shop that has only one."""

    value: Text | int | bool


class Column(_Strict):
    """A field that comes from a column of the table.

    `scale` multiplies a number: 100 makes cents of a price in euros. `words` translates values (by their
    text; anything not listed stays as it is), as `{ t = "published" }` does for a boolean's.
    """

    column: Identifier
    scale: int | None = Field(default=None, ge=1, le=1_000_000)
    words: Mapping[Text, Text] | None = None


class Shape(BaseModel):
    """What attach has found out about the table. Until then keys are taken for text.

    It is stored, and may have been by a release that looks for more than this one does.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key_types: Mapping[str, KeyType] = Field(default_factory=dict)  # by field
    generated: tuple[str, ...] = ()
    unmapped: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()  # columns whose type is a domain: setting them to null may be refused


def _column_or_constant(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


class Source(_Strict):
    """A table whose rows become items, and how.

    A stock row is keyed by (product_id, location_id), a product by product_id, a location by location_id; the
    columns behind these fields must be unique in the table. `location_id` and `vendor_id` may be constants.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    kind: Kind
    schema_name: Annotated[Identifier, Field(alias="schema")] = "public"
    table: Identifier
    columns: Mapping[str, Annotated[Column | Constant, BeforeValidator(_column_or_constant)]]
    key: tuple[Identifier, ...] = ()
    topics: tuple[TopicKind, ...] = tuple(TopicKind)
    version_column: Identifier | None = None
    stamp_updated_at: bool = False
    shape: Shape = Shape()

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        if data.get("kind") == "location":
            filled.setdefault("version_column", None)
        else:
            filled.setdefault("version_column", VERSION_COLUMN)
        return filled

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        allowed = FIELDS[self.kind]
        for field in self.columns:
            if field not in allowed:
                raise ValueError(f"columns.{field}: unknown; allowed: {', '.join(allowed)}")
        for field in _REQUIRED[self.kind]:
            if field not in self.columns:
                raise ValueError(f"columns.{field}: missing; needed: {', '.join(_REQUIRED[self.kind])}")
        if self.kind == "stock" and not {"on_hand", "available"} & self.columns.keys():
            raise ValueError("columns.on_hand: missing; on_hand or available is needed")
        self._check_names()
        self._check_values()
        self._check_versions()
        if self.key and set(self.key) != set(self.key_columns.values()):
            expected = ", ".join(self.key_columns.values())
            raise ValueError(f"key: must be the columns of {', '.join(self.key_columns)}: {expected}")
        return self

    def _check_names(self) -> None:
        movable = {"stock": ("location_id", "vendor_id"), "product": ("vendor_id",), "location": ()}[
            self.kind
        ]
        for field in _NAMES:
            mapping = self.columns.get(field)
            if isinstance(mapping, Constant):
                if field not in movable:
                    raise ValueError(f"columns.{field}: must be a column, not a constant")
                if not isinstance(mapping.value, str) or not is_key(mapping.value):
                    raise ValueError(f"columns.{field}: a constant of 1 to 64 of A-Z a-z 0-9 ._- is allowed")
            elif mapping is not None and (mapping.scale or mapping.words):
                raise ValueError(f"columns.{field}: scale and words are not for keys")

    def _check_values(self) -> None:
        for field, mapping in self.columns.items():
            number = field in NUMBERS
            if isinstance(mapping, Constant):
                if number and type(mapping.value) is not int:
                    raise ValueError(f"columns.{field}: a whole number is needed as a constant")
            elif mapping.scale and not number:
                raise ValueError(f"columns.{field}: scale is for numbers: {', '.join(NUMBERS)}")
            elif mapping.words and (number or field == "updated_at"):
                raise ValueError(f"columns.{field}: words are for texts and for active")
            if field == "updated_at" and not isinstance(mapping, Column):
                raise ValueError("columns.updated_at: must be a column, not a constant")

    def _check_versions(self) -> None:
        if (self.version_column is None) != (self.kind == "location"):
            raise ValueError("version_column: stock and products need one, locations have none")
        if self.version_column in self.mapped_columns:
            raise ValueError(f"version_column: {self.version_column!r} is a mapped column")
        if self.stamp_updated_at and not isinstance(self.columns.get("updated_at"), Column):
            raise ValueError("stamp_updated_at: needs a column for updated_at")

    @property
    def key_columns(self) -> dict[str, str]:
        """The columns that identify a row, by field."""
        return {
            field: mapping.column
            for field in _KEY_FIELDS[self.kind]
            if isinstance(mapping := self.columns[field], Column)
        }

    @property
    def mapped_columns(self) -> tuple[str, ...]:
        """The names of all columns that an item is made of, each once."""
        mappings = (self.columns.get(field) for field in FIELDS[self.kind])
        return tuple(dict.fromkeys(mapping.column for mapping in mappings if isinstance(mapping, Column)))

    def key_type(self, field: str) -> KeyType:
        return self.shape.key_types.get(field, "text")


def load_source_file(path: Path | str) -> list[Source]:
    """The sources of a TOML file: one `[[source]]` table each.

    Raises SourceError with the file, the field and what is allowed.
    """
    file = Path(path)
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"{file}: can not be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{file}: is no TOML: {error}") from error
    entries = document.pop("source", None)
    if document:
        raise SourceError(f"{file}: {next(iter(document))}: unknown; allowed: source")
    if not isinstance(entries, list) or not entries:
        raise SourceError(f"{file}: source: missing; at least one [[source]] table is needed")
    sources = [_read_source(file, number, entry) for number, entry in enumerate(entries, 1)]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise SourceError(f"{file}: source {name!r}: name: used twice")
    return sources


def default_sources() -> list[Source]:
    """The sources of the reference schema."""
    return load_source_file(DEFAULT_SOURCES)


def _read_source(file: Path, number: int, entry: Any) -> Source:
    try:
        return Source.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = entry.get("name", f"number {number}") if isinstance(entry, dict) else f"number {number}"
        where = ".".join(str(part) for part in first["loc"] if part not in ("Column", "Constant"))
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            what = f"unknown; allowed: {', '.join(_allowed(where))}"
        raise SourceError(f"{file}: source {name!r}: {f'{where}: ' if where else ''}{what}") from error


def _allowed(where: str) -> list[str]:
    model = Column if where.startswith("columns.") else Source
    return [
        field.alias or name
        for name, field in model.model_fields.items()
        if name not in ("key_types", "generated")
    ]
