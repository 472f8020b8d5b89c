"""A sample shop for the fake gateway: believable products, stock at several locations, sales."""

import asyncio
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from protocol.items import item_key
from protocol.timestamps import format_time

if TYPE_CHECKING:
    from tests.browser.fake_gateway import FakeGateway

__all__ = [
    "LOCATIONS",
    "fill",
    "hold_shop",
    "product",
    "public_items",
    "sales",
    "shelves",
    "small_shop",
    "stock",
]

JSON = dict[str, Any]

LOCATIONS: Final = {"L1": "Market Street", "L2": "Harbour", "L3": "Old Town", "L4": "Warehouse North"}
_WORDS: Final = {
    "Kitchen": (["Enamel", "Copper", "Walnut", "Stoneware"], ["Kettle", "Mug", "Cutting Board", "Teapot"]),
    "Lighting": (["Brass", "Linen", "Opal", "Nordic"], ["Desk Lamp", "Pendant", "Lantern", "Floor Lamp"]),
    "Garden": (["Terracotta", "Cedar", "Willow", "Zinc"], ["Planter", "Watering Can", "Trowel", "Basket"]),
    "Textiles": (["Wool", "Flax", "Cotton", "Alpaca"], ["Throw", "Cushion", "Towel", "Runner"]),
    "Stationery": (
        ["Ruled", "Indigo", "Marbled", "Pocket"],
        ["Notebook", "Fountain Pen", "Folio", "Planner"],
    ),
    "Audio": (["Compact", "Studio", "Walnut", "Portable"], ["Speaker", "Headphones", "Turntable", "Radio"]),
}


def _now() -> str:
    return format_time(datetime.now(UTC))


def product(product_id: str, version: int = 1, **fields: Any) -> JSON:
    return {
        "kind": "product",
        "product_id": product_id,
        "vendor_id": "V1",
        "version": version,
        "sku": f"SKU-{product_id}",
        "name": f"Product {product_id}",
        "category": "Kitchen",
        "price_minor": 1299,
        "currency": "USD",
        "status": "published",
        "updated_at": _now(),
    } | fields


def stock(product_id: str, location_id: str, available: int, version: int = 1, **fields: Any) -> JSON:
    return {
        "kind": "stock",
        "product_id": product_id,
        "location_id": location_id,
        "vendor_id": "V1",
        "version": version,
        "available": available,
        "on_hand": available,
        "reserved": 0,
        "damaged": 0,
        "safety_stock": 0,
        "incoming": 0,
        "low_stock_at": 5,
        "updated_at": _now(),
    } | fields


def shelves(count: int, version: int = 1) -> list[JSON]:
    """Stock of so many products at L1."""
    return [stock(f"P{number}", "L1", number % 50, version) for number in range(count)]


def hold_shop(gateway: "FakeGateway", *items: JSON) -> None:
    """These items, in the topics of their products and locations."""
    products = {item["product_id"]: item for item in items if item["kind"] == "product"}
    for item in items:
        gateway.topic(f"product:{item['product_id']}").apply([item])
        if "location_id" in item:
            at = [item, *([products[item["product_id"]]] if item["product_id"] in products else [])]
            gateway.topic(f"location:{item['location_id']}").apply(at)


def small_shop(gateway: "FakeGateway") -> None:
    """Three products at two locations: enough, low and sold out, in three currencies."""
    hold_shop(
        gateway,
        product("A", name="Kettle", price_minor=3900, category="Kitchen"),
        product("B", name="Lamp", price_minor=8900, currency="EUR", category="Lighting"),
        product("C", name="Mug", price_minor=1200, currency="JPY", category="Kitchen"),
        stock("A", "L1", 40, 1, incoming=12),
        stock("A", "L2", 2, 2),
        stock("B", "L1", 3, 3, low_stock_at=None),
        stock("C", "L1", 0, 4),
    )
    gateway.page = {"locations": [{"id": "L1", "name": "Market Street"}, "L2"], "featured": ["A", "B", "C"]}


def public_items(topic: str, items: Iterable[JSON]) -> list[JSON]:
    """The public view of a topic's exact items."""
    held = list(items)
    by_location = topic.startswith("location:")
    result = []
    for one in held:
        if one["kind"] != "product" or one["status"] != "published":
            continue
        mine = [s for s in held if s["kind"] == "stock" and s["product_id"] == one["product_id"]]
        total = sum(max(0, s["available"]) for s in mine)
        low_at = max((s["low_stock_at"] for s in mine if s["low_stock_at"] is not None), default=5)
        version = max([one["version"], *(s["version"] for s in mine)])
        availability: JSON = {"kind": "availability", "product_id": one["product_id"], "version": version}
        if by_location:
            availability["location_id"] = topic.partition(":")[2]
        if total == 0:
            availability["status"] = "out_of_stock"
        elif total <= low_at:
            availability |= {"status": "low_stock", "only_left": total}
        else:
            availability["status"] = "in_stock"
        result += [one, availability]
    return result


def fill(gateway: "FakeGateway", products: int = 1200, featured: int = 12, seed: int = 7) -> None:
    """`products` at four locations; `page.json` features the first of them."""
    chance = random.Random(seed)
    topics: dict[str, list[JSON]] = {f"location:{location}": [] for location in LOCATIONS}
    categories = list(_WORDS)
    for number in range(1, products + 1):
        product_id = f"P{number:05d}"
        category = categories[number % len(categories)]
        adjectives, nouns = _WORDS[category]
        name = f"{chance.choice(adjectives)} {chance.choice(nouns)}"
        price = chance.choice([990, 1450, 1900, 2490, 3900, 5400, 8900, 12900])
        items = [product(product_id, number, name=name, category=category, price_minor=price)]
        for location in LOCATIONS:
            on_hand = int(chance.paretovariate(0.6)) % 140 if chance.random() > 0.05 else 0
            reserved = min(on_hand, chance.choice([0, 0, 0, 1, 2, 5]))
            incoming = chance.choice([0, 0, 0, 12, 24])
            fields = {"on_hand": on_hand, "reserved": reserved, "incoming": incoming}
            one = stock(product_id, location, on_hand - reserved, number, **fields)
            items.append(one)
            topics[f"location:{location}"] += [items[0], one]
        topics[f"product:{product_id}"] = items
    for name, held in topics.items():
        gateway.topic(name).items = {item_key(item): item for item in held}
    gateway.page = {
        "locations": [{"id": key, "name": name} for key, name in LOCATIONS.items()],
        "featured": [f"P{number:05d}" for number in range(1, featured + 1)],
    }


async def sales(gateway: "FakeGateway", rate: float = 12, seed: int = 11) -> None:
    """Sells and restocks until cancelled, `rate` changes a second."""
    chance = random.Random(seed)
    version = 1_000_000
    while True:
        await asyncio.sleep(1 / rate)
        version += 1
        number = min(int(chance.paretovariate(0.7)), 1200)
        product_id, location = f"P{number:05d}", chance.choice(list(LOCATIONS))
        held = gateway.topic(f"location:{location}").items.get(f"stock:{product_id}:{location}")
        if held is None:
            continue
        sold = chance.choice([1, 1, 1, 2, 3])
        restock = held["available"] < sold or chance.random() < 0.02
        step = chance.choice([24, 36, 48]) if restock else -sold
        fields = {
            "on_hand": held["on_hand"] + step,
            "available": held["available"] + step,
            "version": version,
        }
        await gateway.change(held | fields | {"updated_at": _now()})
        if sold == 3:
            await gateway.send(
                {
                    "type": "heartbeat",
                    "time": _now(),
                    "stale": gateway.stale_since is not None,
                    "as_of": _now(),
                }
            )
