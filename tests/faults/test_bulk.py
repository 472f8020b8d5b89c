"""A million rows in one statement: memory stays bounded, heartbeats in time, copies are right in the end."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import asyncpg
import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect

from listeners.embedded import PostgresServer, ValkeyServer
from listeners.migrations import migrate
from tests.faults.ledger import injected, tally
from tests.support.memory import forget_peak, peak_bytes, resident_bytes
from tests.support.messages import next_message
from tests.support.ports import free_port
from tests.support.processes import START_S, Served, serving
from tests.support.servers import POSTGRES_SETTINGS, server_directory
from tests.support.waiting import eventually
from tests.support.watcher import Watcher, database_copy, watching

ROWS: Final = 1_000_000
PRODUCTS: Final = 100_000
LARGE: Final = 9  # locations with every product
SMALL: Final = 20  # locations that share the remaining tenth of the rows
MAX_TOPIC_ITEMS: Final = 25_000

PRODUCT, LOCATION, ELSEWHERE = "product:P000001", "location:S01", "product:P000002"
WATCHED: Final = (PRODUCT, LOCATION, ELSEWHERE)
TOO_LARGE: Final = ("location:L1", "vendor:V")

CANARY_MS: Final = 250
HEARTBEAT_S: Final = 0.5
LATE_S: Final = 1.0
# `stale` is promised within three periods of the canary; the rest is for a busy machine.
UNSAID_S: Final = 3 * CANARY_MS / 1000 + 1.0
# A quiet machine works through a backlog at 40,000 rows a second.
BACKLOG_S: Final = 300.0

MIB: Final = 1024 * 1024
# What a process may take beyond what it took when all was quiet, in MiB. The relay has two pages of 2,000 log
# rows, at about 2 KiB as they come and 4 KiB folded, whatever the size of the change. The replica holds its
# share of what is watched, 20,000 items of 0.5 KiB: as messages, and as a snapshot that is sent again.
RELAY_MIB: Final = 32
REPLICA_MIB: Final = 64

# No standby listens, and a checkpoint now and then would only measure the disk.
SETTINGS: Final = POSTGRES_SETTINGS | {
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "shared_buffers": "512MB",
    "autovacuum": "off",
}

# Before anybody watches, and past the triggers: stamped and logged it would take four times as long.
FILL: Final = f"""
SET session_replication_role = replica;
INSERT INTO vendors (vendor_id, name) VALUES ('V', 'Vendor');
INSERT INTO locations (location_id, vendor_id, name)
    SELECT 'L' || n, 'V', 'Large' FROM generate_series(1, {LARGE}) n
    UNION ALL SELECT 'N' || n, 'V', 'New' FROM generate_series(1, {LARGE}) n
    UNION ALL SELECT 'S' || to_char(n, 'FM00'), 'V', 'Small' FROM generate_series(0, {SMALL - 1}) n;
INSERT INTO products (product_id, vendor_id, name, price_minor)
    SELECT 'P' || to_char(n, 'FM000000'), 'V', 'Product', 100 FROM generate_series(1, {PRODUCTS}) n;
INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)
    SELECT 'P' || to_char(n, 'FM000000'), l, 'V', 10
    FROM generate_series(1, {PRODUCTS}) n CROSS JOIN LATERAL (
        SELECT 'L' || x FROM generate_series(1, {LARGE}) x
        UNION ALL SELECT 'S' || to_char(n % {SMALL}, 'FM00')
    ) t (l);
RESET session_replication_role;
ANALYZE;
"""
UPDATE: Final = "UPDATE inventory SET on_hand = on_hand + 1"
# Half of all that are there then: what was copied in.
DELETE: Final = "DELETE FROM inventory WHERE on_hand = 5"
TRUNCATE: Final = "TRUNCATE inventory"


async def new_rows() -> AsyncIterator[bytes]:
    """As many again, nine in ten of them at locations that nobody watches."""
    for first in range(1, PRODUCTS, 1000):
        rows = []
        for n in range(first, first + 1000):
            places = (*(f"N{x}" for x in range(1, LARGE + 1)), f"S{(n + 1) % SMALL:02}")
            rows += [f"P{n:06}\t{place}\tV\t5\n" for place in places]
        yield "".join(rows).encode()


async def copy_new_rows(shop: asyncpg.Connection) -> None:
    columns = ("product_id", "location_id", "vendor_id", "on_hand")
    await shop.copy_to_table("inventory", source=new_rows(), columns=columns, timeout=BACKLOG_S)


def executed(sql: str) -> Callable[[asyncpg.Connection], Awaitable[None]]:
    async def change(shop: asyncpg.Connection) -> None:
        await shop.execute(sql, timeout=BACKLOG_S)

    return change


class Listener:
    """A client that watches nothing, so that it should hear a heartbeat every HEARTBEAT_S."""

    def __init__(self) -> None:
        self.stale = False
        self.stale_at: float | None = None
        self.longest_s = 0.0  # without a word

    def begin(self) -> None:
        self.longest_s, self.stale_at = 0.0, None

    async def listen(self, client: ClientConnection) -> None:
        """Until the connection ends."""
        heard_at = time.monotonic()
        async for data in client:
            now = time.monotonic()
            self.longest_s, heard_at = max(self.longest_s, now - heard_at), now
            match orjson.loads(data)["type"]:
                case "stale":
                    self.stale = True
                    self.stale_at = self.stale_at or now
                case "fresh":
                    self.stale = False


class Installation:
    """A relay and a replica in processes of their own, and what a client of the replica hears."""

    def __init__(
        self, shop: asyncpg.Connection, relay: Served, replica: Served, watcher: Watcher, listener: Listener
    ) -> None:
        self.shop = shop
        self.relay = relay
        self.replica = replica
        self.watcher = watcher
        self.listener = listener

    async def goes_through(
        self, name: str, change: Callable[[asyncpg.Connection], Awaitable[None]], *, backlog: bool = True
    ) -> None:
        """The change is made, and everything that was promised about it holds.

        What counts as the fault is the backlog that the change leaves: it is over when the replica says so,
        and the copies have to be right then.
        """
        processes = {"relay": (self.relay, RELAY_MIB), "replica": (self.replica, REPLICA_MIB)}
        before = {who: begin_peak(served) for who, (served, _) in processes.items()}
        self.listener.begin()
        with injected(f"bulk: {name}") as fault:
            began = time.monotonic()
            await change(self.shop)
            committed = time.monotonic()
            expected = await self.database_copies()
            if backlog:
                await eventually(lambda: self.listener.stale, UNSAID_S)
                fault.noticed(self.listener.stale_at)
            await eventually(lambda: not self.listener.stale, BACKLOG_S, 0.1)
            fault.ended()
            settled = time.monotonic()
            await self.copies_equal(expected)
            await self.small_change_arrives()
            fault.recovered()
        peaks = {who: peak_bytes(served.process.pid) / MIB for who, (served, _) in processes.items()}
        print(
            f"\n{name}: written in {committed - began:.1f} s, read in {settled - committed:.1f} s more;",
            *(f"{who} {before[who]:.0f} MiB, at most {peaks[who]:.0f};" for who in peaks),
            f"longest silence {self.listener.longest_s:.2f} s",
        )
        for who, (_, allowed) in processes.items():
            assert peaks[who] - before[who] < allowed, f"{who}: {before[who]:.0f} MiB became {peaks[who]:.0f}"
        assert self.listener.longest_s < HEARTBEAT_S + LATE_S

    async def database_copies(self) -> dict[str, dict[str, dict[str, Any]]]:
        return {topic: await database_copy(self.shop, topic) for topic in WATCHED}

    async def copies_equal(self, expected: dict[str, dict[str, dict[str, Any]]]) -> None:
        for topic, copy in expected.items():
            await eventually(partial(self.watcher.equals, topic, copy), 10, 0.1)
            tally("copies compared with the database")

    async def small_change_arrives(self) -> None:
        """A change elsewhere, at once."""
        await self.shop.execute(
            "UPDATE products SET price_minor = price_minor + 1 WHERE product_id = $1",
            ELSEWHERE.partition(":")[2],
        )
        await self.copies_equal({ELSEWHERE: await database_copy(self.shop, ELSEWHERE)})


def begin_peak(served: Served) -> float:
    """Returns what is resident now, in MiB."""
    forget_peak(served.process.pid)
    return resident_bytes(served.process.pid) / MIB


@asynccontextmanager
async def filled_shop() -> AsyncIterator[tuple[PostgresServer, ValkeyServer, asyncpg.Connection]]:
    async with AsyncExitStack() as stack:
        directories = [stack.enter_context(server_directory()) for _ in range(2)]
        postgres = PostgresServer(directories[0], settings=SETTINGS)
        valkey = ValkeyServer(directories[1])
        for server in (postgres, valkey):
            stack.push_async_callback(server.stop)
            await server.start()
        await migrate(postgres.url)
        shop = await asyncpg.connect(postgres.url)
        stack.push_async_callback(shop.close)
        await shop.execute(FILL)
        yield postgres, valkey, shop


@asynccontextmanager
async def installation() -> AsyncIterator[Installation]:
    async with filled_shop() as (postgres, valkey, shop), AsyncExitStack() as stack:
        settings = {
            "database_url": postgres.url,
            "redis_url": valkey.url,
            "anonymous": "exact",
            "heartbeat_s": HEARTBEAT_S,
            "canary_ms": CANARY_MS,
            "max_topic_items": MAX_TOPIC_ITEMS,
            "probe_timeout_ms": 2000,
        }
        ops = f"127.0.0.1:{free_port()}"
        relay = await stack.enter_async_context(serving("relay", "--ops-listen", ops, **settings, verify_s=5))
        relay.ops_url = f"http://{ops}"
        replica = await stack.enter_async_context(serving("serve", "--relay", "off", **settings))
        await eventually(replica.is_ready, START_S)
        watcher = await stack.enter_async_context(watching(replica.url, WATCHED))
        listener = Listener()
        client = await stack.enter_async_context(connect(replica.url, proxy=None, ping_interval=None))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        listening = tasks.create_task(listener.listen(client))
        await eventually(lambda: all(watcher.is_complete(topic) for topic in WATCHED), START_S)
        yield Installation(shop, relay, replica, watcher, listener)
        listening.cancel()


async def too_large(url: str, topic: str) -> bool:
    async with connect(url, proxy=None) as client:
        await client.send(orjson.dumps({"type": "subscribe", "topics": [topic], "view": "exact"}).decode())
        error = await next_message(client, "error", timeout_s=60)
        return bool(error["code"] == "topic_too_large" and error["topic"] == topic)


async def cost_of_triggers(shop: asyncpg.Connection) -> float:
    """How many times as long an UPDATE of 100,000 rows takes with the triggers; all of it is undone."""
    seconds = []
    for role in ("replica", "origin"):
        transaction = shop.transaction()
        await transaction.start()
        await shop.execute(f"SET LOCAL session_replication_role = {role}")
        began = time.monotonic()
        await shop.execute(f"{UPDATE} WHERE location_id = 'L1'")
        seconds.append(time.monotonic() - began)
        await transaction.rollback()
    return seconds[1] / seconds[0]


@pytest.mark.timeout(900)
async def test_a_million_rows_at_once() -> None:
    """An UPDATE of all, a COPY of as many, a DELETE of half of them and a TRUNCATE, one after the other."""
    async with installation() as installed:
        shop = installed.shop
        print(f"\ntriggers: an UPDATE takes {await cost_of_triggers(shop):.1f} times as long")
        for topic in TOO_LARGE:
            assert await too_large(installed.replica.url, topic)
        await installed.goes_through("UPDATE of 1,000,000 rows", executed(UPDATE))
        await installed.goes_through("COPY of 1,000,000 rows", copy_new_rows)
        await installed.goes_through("DELETE of 1,000,000 of 2,000,000 rows", executed(DELETE))
        assert await shop.fetchval("SELECT count(*) FROM inventory") == ROWS
        assert await installed.relay.metric("gateway_relay_reigns_total 1.0")  # never out of breath
        await installed.goes_through("TRUNCATE", executed(TRUNCATE), backlog=False)
        assert await installed.relay.metric("gateway_mismatches_total 0.0")
        assert not await installed.relay.metric("gateway_verified_total 0.0")
