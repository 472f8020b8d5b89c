from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import orjson
import pytest

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.messages import next_message


@pytest.fixture
async def shop(pg: asyncpg.Connection) -> asyncpg.Connection:
    await pg.execute(
        """
        INSERT INTO vendors (vendor_id, name) VALUES ('V1', 'Vendor');
        INSERT INTO locations (location_id, vendor_id, name) VALUES ('L1', 'V1', 'Main street');
        INSERT INTO products (product_id, vendor_id, sku, name, price_minor, status)
            SELECT 'P' || n, 'V1', 'S' || n, 'Product ' || n, 100 * n, 'published'
            FROM generate_series(1, 3) n;
        INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
            SELECT 'P' || n, 'L1', 'V1', 10 FROM generate_series(1, 3) n;
        """
    )
    return pg


@pytest.fixture
async def gateway(
    shop: asyncpg.Connection, database_url: str, redis_url: str, redis_prefix: str
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(database_url, redis_url, redis_prefix) as running:
        yield running


async def subscribe(client: Any, *topics: str) -> None:
    await client.send(orjson.dumps({"type": "subscribe", "id": "s1", "topics": topics}).decode())


async def test_a_committed_row_reaches_a_client(gateway: RunningGateway, shop: asyncpg.Connection) -> None:
    async with gateway.connect() as client:
        assert (await next_message(client, "welcome"))["principal"] == "anonymous"
        await subscribe(client, "product:P1")
        snapshot = await next_message(client, "snapshot")
        assert {item["kind"] for item in snapshot["items"]} == {"product", "stock"}
        await shop.execute("UPDATE inventory SET on_hand = 7 WHERE product_id = 'P1'")
        delta = await next_message(client, "delta")
    (item,) = delta["items"]
    assert (item["on_hand"], item["available"]) == (7, 7)
    assert delta["seq"] == snapshot["seq"] + 1
