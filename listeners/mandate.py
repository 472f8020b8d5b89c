from typing import Any

from listeners.change_log import load_position, next_term
from listeners.errors import Refused, Unavailable
from listeners.generation import (
    adopt_database,
    count_on,
    read_identity,
    read_place,
    read_system,
    skip_to_now,
    start_over,
)
from listeners.keeper import relay_seen
from listeners.log_plan import load_plan
from listeners.relay_state import Mandate, RelaySettings
from listeners.topic_store import TopicStore
from listeners.wakeup import notify_allowed

__all__ = ["begin_reign", "prepare_reader"]


async def begin_reign(reader: Any, keeping: Any, store: TopicStore, settings: RelaySettings) -> Mandate:
    """Everything is read anew from Postgres, then Redis is told; the lock must be held.

    The log is read on from the saved position also where this relay has not seen the generation: another one
    may have begun it, and topics of it may be loaded, so nothing that has not been read may be skipped.

    Raises what Postgres and the store raise, and Refused when the two connections lead to two databases.
    """
    if await read_system(reader) != await read_system(keeping):
        raise Refused("the database URL and the listener's database URL lead to different databases")
    if await read_place(reader) != await read_place(keeping):
        raise Unavailable(
            "the database URL and the listener's database URL lead to two servers: one of them was left"
        )
    await prepare_reader(reader)
    await relay_seen(keeping, settings.log_retention_s)
    position = await next_term(keeping)
    remembered = await store.remember_position(position.counter)
    if position.counter < remembered:
        await start_over(keeping, counter=remembered)  # a backup was restored
    await adopt_database(keeping)
    identity = await read_identity(keeping, await store.server_identity())
    if position.snapshot is None:
        await skip_to_now(keeping)
    await store.remember_position(await count_on(keeping))
    plan = await load_plan(reader)  # after the identity: should the sources change, the keeper sees it
    notify = await notify_allowed(reader)
    await store.begin(identity.generation, position.term)
    since = (await load_position(keeping)).snapshot
    if since is None:
        raise AssertionError("a position that was just moved has a snapshot")
    return Mandate(identity, position.term, since, plan, notify)


async def prepare_reader(reader: Any) -> None:
    """The reader polls many times a second, so its statement is planned once (planning costs 1 ms, the plan
    0.2 ms). The one plan knows neither snapshot nor number of rows, so it must not be led into full scans of
    a log that was just filled, nor into parallel workers, which take 10 ms to start, nor into JIT. All this
    has to be set before the statement is prepared. What the reader writes may be lost in a crash. Should this
    process freeze or its link die in the middle of a large read, the server ends the session some time.
    """
    for setting in (
        "jit = off",
        "max_parallel_workers_per_gather = 0",
        "enable_seqscan = off",
        "plan_cache_mode = force_generic_plan",
        "synchronous_commit = off",
        "idle_in_transaction_session_timeout = '60s'",
        "tcp_user_timeout = '3s'",
    ):
        await reader.execute(f"SET {setting}")
