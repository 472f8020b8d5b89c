"""What the tests of rewinds do to the database of a rig, and how they see what became of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import redis.asyncio

from listeners.embedded import PostgresServer, ValkeyServer
from listeners.keys import Keys
from tests.faults.rig import Rig
from tests.support.postgres_programs import make_standby
from tests.support.proxy import TcpProxy
from tests.support.servers import server_directory
from tests.support.waiting import eventually

__all__ = [
    "PATIENT",
    "answers",
    "ask",
    "caught_up",
    "generation",
    "lead_to",
    "linked",
    "loads",
    "mark",
    "marked",
    "next_generation",
    "redis_session",
    "replica_of",
    "send_away",
    "session",
    "settled_generation",
    "standby_of",
]

PATIENT: Final[dict[str, Any]] = {"probe_timeout_ms": 2000}
"""Settings where no link is frozen: a busy machine is not to be taken for one that is."""
_MARKED = "product:PULSE"
# Of the product PULSE, which no writer of the shop touches.
_SET_MARK = "UPDATE products SET price_minor = $1 WHERE product_id = 'PULSE'"


@asynccontextmanager
async def session(server: PostgresServer, **settings: str) -> AsyncIterator[Any]:
    """A connection of the test's own, past every proxy."""
    connection = await asyncpg.connect(server.url, timeout=5, command_timeout=10, server_settings=settings)
    try:
        yield connection
    finally:
        connection.terminate()


async def ask(server: PostgresServer, query: str, *arguments: Any) -> Any:
    async with session(server) as connection:
        return await connection.fetchval(query, *arguments)


async def answers(server: PostgresServer) -> None:
    """Until it does."""

    async def does() -> bool:
        try:
            return bool(await ask(server, "SELECT true"))
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            raise AssertionError(str(error)) from error

    await eventually(does, timeout_s=10)


async def mark(rig: Rig, value: int, **settings: str) -> None:
    """Commit a change, and wait until every follower has seen it."""
    async with session(rig.postgres, **settings) as connection:
        await connection.execute(_SET_MARK, value)
    await eventually(lambda: marked(rig, value), timeout_s=20)


def marked(rig: Rig, value: int) -> bool:
    """Whether the copy of every follower of the product shows this mark."""
    return all(
        follower.is_complete(_MARKED)
        and follower.copies[_MARKED].items["product:PULSE"]["price_minor"] == value
        for follower in rig.followers
        if _MARKED in follower.topics
    )


@asynccontextmanager
async def redis_session(server: ValkeyServer) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the test's own, past every proxy."""
    client = redis.asyncio.Redis.from_url(server.url, protocol=2)
    try:
        yield client
    finally:
        await client.aclose()


async def generation(rig: Rig) -> str:
    """The one that reigns in Redis."""
    async with redis_session(rig.valkey) as client:
        held = await client.hget(Keys().relay(0), "g")
    assert isinstance(held, bytes), held
    return held.decode()


async def next_generation(rig: Rig, before: str) -> str:
    """Waits until another one than `before` reigns."""

    async def found() -> str:
        now = await generation(rig)
        assert now != before
        return now

    return str(await eventually(found, timeout_s=15))


async def settled_generation(rig: Rig) -> str:
    """Waits until nothing that was not logged can ask for another one: all of it has been dealt with, and
    beats have gone the whole way under the same generation since."""
    settled = (
        "SELECT p.losses_settled = l.last_value::text || l.is_called::text"
        " FROM gateway.position p, gateway.loss_seq l"
    )
    beats = "SELECT acknowledged FROM gateway.canary"

    async def found() -> str:
        before, beat = await generation(rig), await ask(rig.postgres, beats)

        async def beaten() -> bool:
            return bool(await ask(rig.postgres, beats) >= beat + 3)

        await eventually(beaten, timeout_s=10)
        assert await ask(rig.postgres, settled)
        assert await generation(rig) == before
        return before

    return str(await eventually(found, timeout_s=30))


async def loads(rig: Rig) -> float:
    """Topics that were loaded from Postgres since the replicas began."""
    counts = [await replica.metric("gateway_loads_total") for replica in rig.replicas]
    return sum(count for count in counts if count is not None)


@asynccontextmanager
async def standby_of(primary: PostgresServer) -> AsyncIterator[tuple[PostgresServer, TcpProxy]]:
    """A standby, and the link through which it replicates."""
    link = TcpProxy("127.0.0.1", primary.port)
    await link.start()
    try:
        with server_directory() as directory:
            standby = await make_standby(link.port, directory)
            try:
                yield standby, link
            finally:
                await standby.stop()
    finally:
        await link.stop()


@asynccontextmanager
async def replica_of(primary: ValkeyServer) -> AsyncIterator[tuple[ValkeyServer, TcpProxy]]:
    """A replica that has all there is, and the link through which it follows."""
    link = TcpProxy("127.0.0.1", primary.port)
    await link.start()
    try:
        with server_directory() as directory:
            replica = ValkeyServer(directory, args=("--replicaof", "127.0.0.1", str(link.port)))
            await replica.start()
            try:
                async with redis_session(replica) as client:
                    await eventually(lambda: linked(client), timeout_s=10)
                yield replica, link
            finally:
                await replica.stop()
    finally:
        await link.stop()


async def linked(replica: redis.asyncio.Redis) -> bool:
    """Whether it has all that its primary had, and follows it."""
    return bool((await replica.info("replication"))["master_link_status"] == "up")


async def caught_up(primary: PostgresServer, standby: PostgresServer) -> None:
    """Until the standby has replayed all that was committed on the primary by now."""
    written = await ask(primary, "SELECT pg_current_wal_insert_lsn()::text")
    await eventually(
        lambda: ask(standby, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written), timeout_s=10
    )


def lead_to(rig: Rig, server: PostgresServer) -> None:
    """The database's name means another server from now on; what is connected stays so."""
    rig.postgres = server
    for replica in rig.replicas:
        replica.postgres.retarget("127.0.0.1", server.port)


async def send_away(server: PostgresServer, name: str) -> int:
    """End the sessions of applications of this name (LIKE; the shop has none); returns their number."""
    ended: int = await ask(
        server,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND application_name LIKE $1 AND pid <> pg_backend_pid()",
        name,
    )
    return ended
