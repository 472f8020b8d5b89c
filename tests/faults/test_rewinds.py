"""Faults that take back what clients have already seen."""

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from listeners.embedded import PostgresServer
from listeners.postgres import connected
from tests.faults.ledger import injected, tally
from tests.faults.rewinding import (
    PATIENT,
    ask,
    caught_up,
    generation,
    lead_to,
    linked,
    loads,
    mark,
    marked,
    next_generation,
    redis_session,
    replica_of,
    send_away,
    session,
    standby_of,
)
from tests.faults.rig import Rig, stack
from tests.support.databases import with_database
from tests.support.postgres_programs import dump, restore
from tests.support.servers import POSTGRES_SETTINGS, server_directory
from tests.support.waiting import eventually

LOST = 777_001
KEPT = 777_002
# Rows of the log under numbers that this cluster has not given out yet.
FOREIGN_ROWS = "SELECT count(*) FROM gateway.change_log WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())"
# Transactions come to numbers that a new cluster does not reach by being restored into.
NUMBERS_ON = "DO $$ BEGIN FOR n IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"


class TestAFailover:
    async def test_takes_lost_commits_from_the_clients_and_keeps_the_others(self) -> None:
        async with AsyncExitStack() as servers, stack(**PATIENT) as rig:
            first, one = rig.postgres, await generation(rig)
            second, link = await servers.enter_async_context(standby_of(first))
            await caught_up(first, second)
            with injected("postgres: failover that loses the last commits") as fault:
                link.freeze()
                await mark(rig, LOST)
                await first.kill()
                link.cut()
                await ask(second, "SELECT pg_promote()")
                lead_to(rig, second)
                rig.forget()
                fault.ended()
                two = await next_generation(rig, one)
                await rig.recovered(fault)
            assert marked(rig, 1)

            third, _ = await servers.enter_async_context(standby_of(second))
            await mark(rig, KEPT)
            with injected("postgres: failover that loses nothing") as fault:
                async with rig.shop.quiet():
                    await caught_up(second, third)
                    await second.kill()
                    await ask(third, "SELECT pg_promote()")
                    lead_to(rig, third)
                rig.forget()
                fault.ended()
                three = await next_generation(rig, two)  # nothing else tells that it has followed
                await rig.recovered(fault)
            assert marked(rig, KEPT)
            assert three != one

    async def test_lets_no_connection_that_was_left_behind_fill_a_topic(self) -> None:
        """The old primary lives on, and what was connected to it still is; only the relay has moved."""
        async with AsyncExitStack() as servers, stack(**PATIENT) as rig:
            old = rig.postgres
            new, link = await servers.enter_async_context(standby_of(old))
            await caught_up(old, new)
            link.freeze()
            with injected("postgres: failover from a primary that goes on") as fault:
                async with session(old) as there:
                    await there.execute(
                        "INSERT INTO inventory (product_id, location_id, vendor_id, on_hand)"
                        " VALUES ('PULSE', 'L3', 'V1', 1)"
                    )
                await ask(new, "SELECT pg_promote()")
                lead_to(rig, new)
                rig.forget()
                assert await send_away(old, "")
                assert await send_away(old, "inventory-gateway relay%")
                fault.ended()
                await rig.recovered(fault)
            with injected("postgres: topics loaded while the old primary goes on") as fault:
                for replica in rig.replicas:
                    rig.follow([replica], ["location:L3", "product:P7", "product:P8"])
                await rig.recovered(fault)

    async def test_is_followed_though_nothing_that_is_connected_was_cut(self) -> None:
        """Only the name has moved. The old primary answers, and its canary could sing there for ever."""
        async with AsyncExitStack() as servers, stack(**PATIENT) as rig:
            old, before = rig.postgres, await generation(rig)
            new, link = await servers.enter_async_context(standby_of(old))
            await caught_up(old, new)
            with injected("postgres: failover that no connection notices") as fault:
                link.freeze()
                await ask(new, "SELECT pg_promote()")
                lead_to(rig, new)
                assert await send_away(old, "")
                fault.ended()
                await next_generation(rig, before)
                rig.forget()
                await rig.recovered(fault)


class TestACrash:
    # Nothing is written to disk by a commit, nor by anybody else for 10 s.
    ASYNCHRONOUS: ClassVar = {
        "synchronous_commit": "off",
        "wal_writer_delay": "10s",
        "wal_writer_flush_after": "1GB",
    }

    async def test_takes_back_what_was_not_yet_on_disk_and_a_clean_restart_does_not(self) -> None:
        async with stack(postgres_settings=self.ASYNCHRONOUS, **PATIENT) as rig:
            await ask(rig.postgres, "CHECKPOINT")
            for kind, crash in (
                ("postgres: crash that takes back commits", crash_of_the_machine),
                ("postgres: crash of a session that takes back commits", crash_of_a_session),
            ):
                taken_back = False
                while not taken_back:  # unless the WAL writer has just come along
                    before = await generation(rig)
                    await ask(rig.postgres, "UPDATE products SET price_minor = 1 WHERE product_id = 'PULSE'")
                    await ask(rig.postgres, "CHECKPOINT")
                    with injected(kind) as fault:
                        await mark(rig, LOST)
                        await crash(rig)
                        rig.forget()
                        fault.ended()
                        await next_generation(rig, before)
                        await rig.recovered(fault)
                    taken_back = marked(rig, 1)
                    tally("crashes that took something back" if taken_back else "crashes that did not")

            await mark(rig, KEPT)
            before, loaded = await generation(rig), await loads(rig)
            with injected("postgres: clean restart") as fault:
                await rig.postgres.restart()
                fault.ended()
                await rig.recovered(fault)
            assert marked(rig, KEPT)
            assert (await generation(rig), await loads(rig)) == (before, loaded)


class TestARestore:
    async def test_of_an_older_dump_into_the_same_cluster(self, tmp_path: Path) -> None:
        file = tmp_path / "dump"
        async with stack(**PATIENT) as rig:
            await dump(rig.postgres.url, file)
            generations = {await generation(rig)}
            for kind, restored in (
                ("postgres: dump restored in one transaction", restored_at_once),
                ("postgres: dump restored piece by piece", restored_in_pieces),
                ("postgres: dump restored into a new database", restored_into_a_new_database),
            ):
                with injected(kind) as fault:
                    await mark(rig, LOST)
                    async with rig.shop.quiet():
                        await restored(rig.postgres, file)
                    rig.forget()
                    fault.ended()
                    await rig.recovered(fault)
                assert marked(rig, 1)
                generations.add(await generation(rig))
            assert len(generations) == 4

    async def test_of_a_dump_into_another_cluster(self, tmp_path: Path) -> None:
        file = tmp_path / "dump"
        with server_directory() as directory:
            other = PostgresServer(directory, settings=POSTGRES_SETTINGS)
            async with AsyncExitStack() as servers, stack(**PATIENT) as rig:
                await other.start()
                servers.push_async_callback(other.stop)
                before = await generation(rig)
                await ask(rig.postgres, NUMBERS_ON)
                written = rig.shop.written
                await eventually(lambda: rig.shop.written > written)
                await dump(rig.postgres.url, file)
                await mark(rig, LOST)
                with injected("postgres: dump restored into another cluster") as fault:
                    await rig.postgres.kill()
                    await restore(file, other.url)
                    assert await ask(other, FOREIGN_ROWS) > 0
                    lead_to(rig, other)
                    rig.forget()
                    fault.ended()
                    await next_generation(rig, before)
                    await rig.recovered(fault)
                assert marked(rig, 1)
                assert await ask(other, FOREIGN_ROWS) == 0

    async def test_of_the_server_s_files_is_told_by_the_counter_alone(self, tmp_path: Path) -> None:
        async with stack(**PATIENT) as rig:
            before, alive = await generation(rig), await ask(rig.postgres, "SELECT id FROM gateway.alive")
            await shut_down(rig.postgres)
            await copy_files(rig.postgres.cluster, tmp_path / "cluster")
            await rig.postgres.restart()
            await mark(rig, LOST)
            with injected("postgres: files of a cold copy restored") as fault:
                await shut_down(rig.postgres)
                await asyncio.to_thread(shutil.rmtree, rig.postgres.cluster)
                await copy_files(tmp_path / "cluster", rig.postgres.cluster)
                await rig.postgres.restart()
                rig.forget()
                fault.ended()
                await rig.recovered(fault)
            assert marked(rig, 1)
            assert await generation(rig) != before
            assert await ask(rig.postgres, "SELECT id FROM gateway.alive") == alive


async def crash_of_the_machine(rig: Rig) -> None:
    await rig.postgres.kill()
    await rig.postgres.restart()


async def crash_of_a_session(rig: Rig) -> None:
    """Postgres throws everybody out and recovers, as after any session that ended so."""
    async with session(rig.postgres) as unlucky:
        os.kill(await unlucky.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)


async def restored_at_once(server: PostgresServer, file: Path) -> None:
    await restore(file, server.url, "--clean", "--single-transaction")


async def restored_in_pieces(server: PostgresServer, file: Path) -> None:
    await restore(file, server.url, "--clean")


async def restored_into_a_new_database(server: PostgresServer, file: Path) -> None:
    name = urlsplit(server.url).path.lstrip("/")
    async with connected(with_database(server.url, "postgres"), purpose="test") as connection:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name}")
    await restore(file, server.url)


async def shut_down(server: PostgresServer) -> None:
    """As its administrator would; it can be started again."""
    os.kill(server.pid, signal.SIGINT)
    await eventually(lambda: not server.running, timeout_s=10)


async def copy_files(source: Path, target: Path) -> None:
    """With their owners."""
    command = ["/bin/cp", "-a", str(source), str(target)]
    await asyncio.to_thread(partial(subprocess.run, command, check=True))


class TestRedis:
    async def test_goes_back_without_its_topics_being_believed(self) -> None:
        """Epochs and seqs of the past are there again, as if nothing had happened."""
        async with AsyncExitStack() as servers, stack(**PATIENT) as rig:
            generations = [await generation(rig)]
            async with redis_session(rig.valkey) as client:
                await client.save()
            with injected("redis: restart from an older file") as fault:
                await mark(rig, KEPT)
                await rig.valkey.kill()
                await rig.valkey.restart()
                fault.ended()
                generations.append(await next_generation(rig, generations[-1]))
                await rig.recovered(fault)
            assert marked(rig, KEPT)

            replica, link = await servers.enter_async_context(replica_of(rig.valkey))
            with injected("redis: failover that loses the last writes") as fault:
                link.freeze()
                await mark(rig, KEPT + 1)
                await rig.valkey.kill()
                link.cut()
                async with redis_session(replica) as client:
                    await client.replicaof("NO", "ONE")
                rig.valkey = replica
                for serving in rig.replicas:
                    serving.redis.retarget("127.0.0.1", replica.port)
                fault.ended()
                generations.append(await next_generation(rig, generations[-1]))
                await rig.recovered(fault)
            assert marked(rig, KEPT + 1)

            with injected("redis: a past of its own, copied back into the running process") as fault:
                again, _ = await servers.enter_async_context(replica_of(replica))
                async with redis_session(again) as old, redis_session(replica) as client:
                    await old.replicaof("NO", "ONE")
                    await mark(rig, KEPT + 2)
                    await client.replicaof("127.0.0.1", str(again.port))
                    await eventually(lambda: linked(client), timeout_s=10)
                    await client.replicaof("NO", "ONE")
                fault.ended()
                generations.append(await next_generation(rig, generations[-1]))
                await rig.recovered(fault)
            assert marked(rig, KEPT + 2)
            assert len(set(generations)) == 4
