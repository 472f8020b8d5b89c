"""Items and sessions as the tests of this directory need them."""

import json
from datetime import UTC, datetime
from typing import Any, Final

from protocol.dialects.inventory_v1 import InventoryV1
from protocol.items import Item, build_item
from protocol.messages import SERVER_MESSAGES
from protocol.principal import Principal
from protocol.session import Event, Send, Session, SessionLimits
from tests.support.principals import seeing

NOW: Final = datetime(2026, 11, 22, 10, 0, 0, 123456, UTC)
EXACT: Final = seeing("till", exact=True, public=True)
PUBLIC: Final = Principal.anonymous(exact=False)


def stock(product: str, location: str, version: int, available: int = 7, **fields: Any) -> Item:
    row = {
        "product_id": product,
        "location_id": location,
        "vendor_id": "V",
        "available": available,
        "on_hand": available,
        "reserved": 0,
        "damaged": 0,
        "safety_stock": 0,
        "incoming": 0,
        "low_stock_at": None,
        "updated_at": "2026-11-22T10:00:00.123456+00:00",
    }
    return build_item("stock", row | fields, version)


def product(product_id: str, version: int, status: str = "published", **fields: Any) -> Item:
    row = {
        "product_id": product_id,
        "vendor_id": "V",
        "sku": f"{product_id}-1",
        "name": "Mug",
        "category": "kitchen",
        "price_minor": 1299,
        "currency": "USD",
        "status": status,
        "updated_at": "2026-11-22T10:00:00.123456+00:00",
    }
    return build_item("product", row | fields, version)


def session(
    principal: Principal | None = EXACT,
    *,
    max_topics: int = 500,
    max_message_bytes: int = 16_384,
    **more: Any,
) -> Session:
    limits = SessionLimits(max_topics=max_topics, max_message_bytes=max_message_bytes)
    return Session(InventoryV1(), limits=limits, principal=principal, **more)


def tell(to: Session, **message: Any) -> list[Event]:
    return to.receive(json.dumps(message).encode(), now=NOW)


def said(events: list[Event]) -> list[dict[str, Any]]:
    """What of the events is said to the client, each held against its model."""
    return [checked(event.payload) for event in events if isinstance(event, Send)]


def checked(payload: bytes) -> dict[str, Any]:
    """The decoded payload, once it has proven to be a message with no field that its model does not know."""
    decoded: dict[str, Any] = json.loads(payload)
    message = SERVER_MESSAGES[decoded["type"]].model_validate_json(payload, strict=True)
    assert message.model_dump(mode="json", exclude_unset=True) == decoded
    return decoded
