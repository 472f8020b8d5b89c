"""The items of `inventory.v1` and the scalars of its messages as frozen models: documentation and validation.

The hot path never builds these (see items.py); a test holds what it sends against them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from protocol.topics import KEY_GRAMMAR, TopicKind

__all__ = [
    "AnyItem",
    "Availability",
    "Count",
    "DeletedAvailability",
    "DeletedProduct",
    "DeletedStock",
    "Epoch",
    "Integer",
    "Key",
    "LiveItem",
    "Message",
    "Product",
    "RequestId",
    "Stock",
    "Time",
    "TopicName",
]

RequestId = Annotated[str, StringConstraints(strict=True, max_length=64)]
Key = Annotated[str, StringConstraints(pattern=f"^{KEY_GRAMMAR}$")]
TopicName = Annotated[str, StringConstraints(pattern=f"^({'|'.join(TopicKind)}):{KEY_GRAMMAR}$")]
Time = Annotated[
    str,
    StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"),
    Field(description="UTC, ISO 8601, milliseconds", examples=["2026-11-22T10:00:00.123Z"]),
]
# JavaScript's Number holds integers exactly only up to here.
Integer = Annotated[int, Field(strict=True, gt=-(2**53), lt=2**53)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
Epoch = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=64)]


class Message(BaseModel):
    """Unknown fields are ignored in both directions, so that either side may learn new ones first."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Stock(Message):
    """Stock of one product at one location (`exact` view). `low_stock_at` may be null, never absent."""

    kind: Literal["stock"]
    product_id: Key
    location_id: Key
    vendor_id: Key
    version: Count
    available: Integer
    on_hand: Integer
    reserved: Integer
    damaged: Integer
    safety_stock: Integer
    incoming: Integer
    low_stock_at: Integer | None
    location_active: bool = Field(
        default=True, description="an inactive location does not count for the public"
    )
    updated_at: Time | None = Field(description="null where the source has no such column")


class Product(Message):
    """A product (both views; `public` only while it is published)."""

    kind: Literal["product"]
    product_id: Key
    vendor_id: Key
    version: Count
    sku: str
    name: str
    category: str
    price_minor: Integer = Field(description="in the currency's smallest unit")
    currency: str
    status: str = Field(examples=["draft", "published", "archived"])
    updated_at: Time | None = Field(description="null where the source has no such column")


class Availability(Message):
    """What the `public` view says instead of numbers."""

    kind: Literal["availability"]
    product_id: Key
    location_id: Key | None = Field(default=None, description="only in a location's topic")
    version: Count
    status: Literal["in_stock", "low_stock", "out_of_stock"]
    only_left: Annotated[int, Field(strict=True, gt=0)] | None = Field(
        default=None, description="with low_stock only"
    )


class DeletedStock(Message):
    kind: Literal["stock"]
    product_id: Key
    location_id: Key
    version: Count
    deleted: Literal[True]


class DeletedProduct(Message):
    kind: Literal["product"]
    product_id: Key
    version: Count
    deleted: Literal[True]


class DeletedAvailability(Message):
    kind: Literal["availability"]
    product_id: Key
    location_id: Key | None = None
    version: Count
    deleted: Literal[True]


LiveItem = Stock | Product | Availability
AnyItem = LiveItem | DeletedStock | DeletedProduct | DeletedAvailability
