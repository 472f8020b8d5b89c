import asyncio
import json
import os
import pwd
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
import redis.asyncio

from listeners.embedded import (
    EmbeddedError,
    PostgresServer,
    ValkeyServer,
    binaries,
    embedded_postgres,
    embedded_valkey,
    free_port,
    guard,
    server,
)
from tests.support.servers import POSTGRES_SETTINGS, server_directory
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """One data directory for tests that leave it whole: initdb is what costs a second."""
    with server_directory() as directory:
        yield directory


@pytest.fixture
def scratch_dir() -> Iterator[Path]:
    with server_directory() as directory:
        yield directory


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        yield connection
    finally:
        connection.terminate()


@contextmanager
def somebody_on(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def gone(pid: int) -> bool:
    return guard.process_name(pid) is None


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text
    assert "\n" not in text
    return text


class TestPostgres:
    async def test_a_new_directory_becomes_a_database_on_loopback(self, data_dir: Path) -> None:
        async with embedded_postgres(data_dir, settings=POSTGRES_SETTINGS | {"work_mem": "5MB"}) as postgres:
            assert postgres.url == f"postgresql://shop@127.0.0.1:{postgres.port}/shop"
            async with connected(postgres.url) as connection:
                assert await connection.fetchval("SHOW listen_addresses") == "127.0.0.1"
                assert await connection.fetchval("SHOW unix_socket_directories") == ""
                assert await connection.fetchval("SHOW work_mem") == "5MB"
                assert await connection.fetchval("SHOW timezone") == "UTC"
                assert await connection.fetchval("SELECT current_user") == "shop"
                assert await connection.fetchval("SELECT 'B' < 'a'"), "sorted by code point"
        assert gone(postgres.pid)

    async def test_what_was_committed_is_there_after_a_warm_start(self, data_dir: Path) -> None:
        async with embedded_postgres(data_dir, database="kept") as first, connected(first.url) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        started = time.monotonic()
        async with (
            embedded_postgres(data_dir, database="kept") as second,
            connected(second.url) as connection,
        ):
            assert await connection.fetchval("SELECT answer FROM kept") == 42
        assert time.monotonic() - started < 10

    async def test_a_connected_client_does_not_delay_the_stop(self, data_dir: Path) -> None:
        postgres = await PostgresServer(data_dir).start()
        async with connected(postgres.url) as connection:
            started = time.monotonic()
            await postgres.stop()
            assert time.monotonic() - started < 5
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await connection.fetchval("SELECT 1")

    async def test_stopping_twice_is_harmless(self, data_dir: Path) -> None:
        postgres = await PostgresServer(data_dir).start()
        await postgres.stop()
        await postgres.stop()
        assert not postgres.running

    async def test_a_database_name_must_be_plain(self, data_dir: Path) -> None:
        with pytest.raises(EmbeddedError, match="database name 'a-b' is not of"):
            PostgresServer(data_dir, database="a-b")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused by Postgres")
    async def test_under_root_it_runs_as_nobody(self, data_dir: Path) -> None:
        async with embedded_postgres(data_dir) as postgres:
            assert postgres.cluster.stat().st_uid == pwd.getpwnam("nobody").pw_uid


class TestFaults:
    async def test_after_a_kill_it_restarts_on_its_port_with_its_data(self, data_dir: Path) -> None:
        async with embedded_postgres(data_dir) as postgres:
            url, old = postgres.url, guard.family(postgres.pid)
            async with connected(url) as connection:
                await connection.execute("CREATE TABLE survivor AS SELECT 7 AS n")
                await postgres.kill()
                assert not postgres.running
                assert [pid for pid in old if not gone(pid)] == []
                with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                    await connection.fetchval("SELECT 1")
            await postgres.restart()
            assert postgres.url == url
            assert postgres.pid not in old
            async with connected(url) as connection:
                assert await connection.fetchval("SELECT n FROM survivor") == 7

    async def test_a_paused_server_says_nothing_and_then_goes_on(self, data_dir: Path) -> None:
        async with embedded_postgres(data_dir) as postgres, connected(postgres.url) as connection:
            postgres.pause()
            answer = asyncio.ensure_future(connection.fetchval("SELECT 1"))
            done, _ = await asyncio.wait([answer], timeout=0.2)
            assert not done
            postgres.resume()
            assert await asyncio.wait_for(answer, 5) == 1

    async def test_a_paused_server_can_be_stopped(self, data_dir: Path) -> None:
        async with embedded_postgres(data_dir) as postgres:
            postgres.pause()
        assert gone(postgres.pid)

    async def test_a_running_server_can_be_restarted(self, data_dir: Path) -> None:
        async with embedded_valkey(data_dir / "valkey") as valkey:
            pid = valkey.pid
            await valkey.restart()
            assert valkey.running
            assert gone(pid)

    async def test_a_stopped_server_is_not_restarted(self, data_dir: Path) -> None:
        valkey = await ValkeyServer(data_dir / "valkey").start()
        await valkey.stop()
        with pytest.raises(EmbeddedError, match="was stopped for good"):
            await valkey.restart()

    async def test_nothing_happens_to_a_server_that_was_never_started(self, scratch_dir: Path) -> None:
        valkey = ValkeyServer(scratch_dir)
        await valkey.kill()
        valkey.pause()
        valkey.resume()
        await valkey.stop()
        assert (valkey.pid, valkey.running) == (0, False)

    async def test_a_server_that_ignores_the_stop_is_killed(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        postgres = PostgresServer(data_dir)
        # SIGCONT stands for a stop that has no effect.
        monkeypatch.setattr("listeners.embedded.postgres.signal.SIGINT", signal.SIGCONT)
        monkeypatch.setattr(postgres, "stop_timeout_s", 0.1)
        await postgres.start()
        await postgres.stop()
        assert gone(postgres.pid)

    async def test_a_stale_pid_file_that_names_another_program_is_no_obstacle(self, data_dir: Path) -> None:
        async with embedded_postgres(data_dir) as postgres:
            await postgres.kill()
            pid_file = data_dir / "cluster" / "postmaster.pid"
            lines = pid_file.read_text().splitlines(keepends=True)
            pid_file.write_text("".join([f"{os.getpid()}\n", *lines[1:]]))
            await postgres.restart()
            assert postgres.running


class TestRefusals:
    async def test_a_second_holder_of_a_data_directory_is_refused_at_once(self, data_dir: Path) -> None:
        async with embedded_postgres(data_dir):
            started = time.monotonic()
            with pytest.raises(EmbeddedError) as caught:
                await PostgresServer(data_dir).start()
            assert time.monotonic() - started < 1
        assert f"is in use by process {os.getpid()}: stop it or use another" in one_line(caught.value)

    async def test_a_busy_port_is_named(self, data_dir: Path) -> None:
        port = free_port()
        with somebody_on(port):
            with pytest.raises(EmbeddedError) as postgres:
                await PostgresServer(data_dir, port=port).start()
            with pytest.raises(EmbeddedError) as valkey:
                await ValkeyServer(data_dir / "valkey", port=port).start()
        for caught in (postgres, valkey):
            assert one_line(caught.value).startswith(f"port {port} is in use: stop what listens there")

    async def test_a_free_port_that_was_lost_is_replaced(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost, kept = free_port(), free_port()
        ports = iter([lost, kept])
        monkeypatch.setattr(server, "free_port", lambda: next(ports))
        with somebody_on(lost):
            async with embedded_valkey(data_dir / "valkey") as valkey:
                assert valkey.port == kept

    async def test_only_so_many_ports_are_tried(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = free_port()
        monkeypatch.setattr(server, "free_port", lambda: lost)
        with somebody_on(lost), pytest.raises(EmbeddedError, match=f"port {lost} is in use"):
            await ValkeyServer(data_dir / "valkey").start()

    async def test_a_directory_of_something_else_is_left_alone(self, scratch_dir: Path) -> None:
        (scratch_dir / "cluster").mkdir()
        (scratch_dir / "cluster" / "notes.txt").write_text("mine")
        with pytest.raises(EmbeddedError) as caught:
            await PostgresServer(scratch_dir).start()
        assert "is no readable Postgres data directory" in one_line(caught.value)
        assert (scratch_dir / "cluster" / "notes.txt").read_text() == "mine"

    async def test_a_file_is_no_data_directory(self, scratch_dir: Path) -> None:
        (scratch_dir / "file").touch()
        for path in (scratch_dir / "file", scratch_dir / "file" / "below"):
            with pytest.raises(EmbeddedError, match=r"can not be made .*: use another"):
                await ValkeyServer(path).start()

    async def test_a_data_directory_of_another_user_is_refused(
        self, data_dir: Path, scratch_dir: Path
    ) -> None:
        async with embedded_postgres(scratch_dir, settings=POSTGRES_SETTINGS) as postgres:
            pass
        # Whose is it, if we were somebody else?
        postgres._account = type("Somebody", (), {"uid": 4_000_000})()
        with pytest.raises(EmbeddedError, match=r"belongs to another user \(uid \d+, not 4000000\)"):
            postgres._check_cluster()

    async def test_broken_data_directories_each_get_one_line(self, scratch_dir: Path) -> None:
        async with embedded_postgres(scratch_dir, settings=POSTGRES_SETTINGS):
            pass
        version = scratch_dir / "cluster" / "PG_VERSION"
        right = version.read_text()
        for broken, line in (
            ("9.6\n", "made by another version"),
            ("12\n", "made by another version"),
            ("?", "is broken"),
        ):
            version.write_text(broken)
            with pytest.raises(EmbeddedError, match=line) as caught:
                await PostgresServer(scratch_dir).start()
            one_line(caught.value)
        version.write_text(right)
        (scratch_dir / "cluster" / "global" / "pg_control").unlink()
        with pytest.raises(EmbeddedError, match=r"did not start on .*: .*pg_control.*delete the directory"):
            await PostgresServer(scratch_dir).start()

    async def test_a_setting_that_postgres_refuses_is_quoted(self, data_dir: Path) -> None:
        with pytest.raises(
            EmbeddedError, match='unrecognized configuration parameter "no_such_thing"'
        ) as caught:
            await PostgresServer(data_dir, settings={"no_such_thing": "1"}).start()
        one_line(caught.value)

    async def test_an_argument_that_valkey_refuses_is_told(self, data_dir: Path) -> None:
        with pytest.raises(EmbeddedError, match=r"Valkey did not start on .*Bad directive") as caught:
            await ValkeyServer(data_dir / "valkey", args=["--no-such-thing", "1"]).start()
        one_line(caught.value)

    async def test_a_server_that_does_not_get_ready_is_killed(self, data_dir: Path) -> None:
        async with embedded_postgres(data_dir):
            pass
        postgres = PostgresServer(data_dir, timeout_s=0.001)
        with pytest.raises(EmbeddedError, match=r"not ready within 0\.001 s, see .*server\.log"):
            await postgres.start()
        assert postgres.pid
        assert gone(postgres.pid)

    async def test_an_initdb_that_fails_says_why(self, scratch_dir: Path) -> None:
        postgres = PostgresServer(scratch_dir, timeout_s=0.001)
        with pytest.raises(EmbeddedError, match=r"Postgres could not make .*cluster") as caught:
            await postgres.start()
        one_line(caught.value)
        assert not (scratch_dir / "cluster").exists()
        # What it left behind does not disturb the next one.
        assert (scratch_dir / "cluster.unfinished").exists()
        async with embedded_postgres(scratch_dir, settings=POSTGRES_SETTINGS) as again:
            assert again.running
        assert not (scratch_dir / "cluster.unfinished").exists()

    async def test_a_cancelled_start_leaves_nothing_behind(self, data_dir: Path) -> None:
        postgres = PostgresServer(data_dir)
        start = asyncio.ensure_future(postgres.start())
        await eventually(lambda: postgres.pid)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert gone(postgres.pid)
        async with embedded_postgres(data_dir) as next_one:
            assert next_one.running


@pytest.mark.skipif(os.geteuid() != 0, reason="only under root Postgres runs as somebody else")
class TestClosedParents:
    @pytest.fixture
    def door(self, scratch_dir: Path) -> Path:
        path = scratch_dir / "door"
        path.mkdir(mode=0o700)
        return path

    async def test_a_data_directory_below_a_closed_one_is_refused(self, door: Path) -> None:
        with pytest.raises(EmbeddedError) as caught:
            await PostgresServer(door / "data").start()
        assert one_line(caught.value) == (
            f"Postgres runs as `nobody`, who can not reach {door / 'data'} through {door}: "
            f"use another data directory or chmod o+x {door}"
        )

    async def test_programs_below_a_closed_one_run_from_a_copy(
        self, door: Path, scratch_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = binaries._package("embedded_postgres")
        for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
            shutil.copytree(package.parent / name, door / name, symlinks=True)
        (scratch_dir / "cache").mkdir()
        monkeypatch.setattr(binaries, "_package", lambda name: door / name)
        monkeypatch.setattr(binaries, "_CACHES", [scratch_dir / "cache"])
        async with (
            embedded_postgres(scratch_dir / "data", settings=POSTGRES_SETTINGS) as postgres,
            connected(postgres.url) as connection,
        ):
            assert await connection.fetchval("SELECT 'ä' ~ '^[[:alpha:]]$'")
            assert str(postgres._install).startswith(str(scratch_dir / "cache"))


class TestValkey:
    async def test_it_serves_loopback_and_keeps_nothing(self, data_dir: Path) -> None:
        async with embedded_valkey(data_dir / "valkey") as valkey:
            client = redis.asyncio.Redis.from_url(valkey.url, protocol=2)
            try:
                assert await client.config_get("bind", "save", "appendonly") == {
                    "bind": "127.0.0.1",
                    "save": "",
                    "appendonly": "no",
                }
                await client.set("k", "v")
                await valkey.restart()
                assert await client.get("k") is None
            finally:
                await client.aclose()

    async def test_arguments_win_over_the_defaults(self, data_dir: Path) -> None:
        args = ["--save", "3600 1", "--maxmemory", "64mb"]
        async with embedded_valkey(data_dir / "valkey", args=args) as valkey:
            client = redis.asyncio.Redis.from_url(valkey.url, protocol=2)
            try:
                assert await client.config_get("maxmemory") == {"maxmemory": str(64 * 2**20)}
                await client.set("k", "v")
                await valkey.restart()
                assert await client.get("k") == b"v"
            finally:
                await client.aclose()

    async def test_with_a_password_it_is_ready_too(self, data_dir: Path) -> None:
        async with embedded_valkey(data_dir / "valkey", args=["--requirepass", "pw"]) as valkey:
            assert valkey.running


OWNER = """
import asyncio, json, os, sys
from pathlib import Path
from listeners.embedded import embedded_postgres, embedded_valkey

async def main(base, forks):
    postgres = embedded_postgres(base / "pg", settings={"fsync": "off"})
    async with postgres as pg, embedded_valkey(base / "vk") as vk:
        # A forked child keeps every pipe open, so that no end of file reaches the guards.
        child = os.fork() if forks else None
        if child != 0:
            print(json.dumps({"pids": [pg.pid, vk.pid], "child": child}), flush=True)
        await asyncio.sleep(60)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2] == "fork"))
"""


class Owner(NamedTuple):
    process: asyncio.subprocess.Process
    pids: list[int]  # of both servers
    child: int | None


@asynccontextmanager
async def owner_of_both(base: Path, *, mode: str = "plain") -> AsyncIterator[Owner]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(base), mode, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        yield Owner(process, told["pids"], told["child"])
    finally:
        if process.returncode is None:
            process.kill()
        # To the end of the pipe, which its heirs hold open: else its transport outlives the test.
        await asyncio.wait_for(process.stdout.read(), 10)
        await process.wait()


class TestGuard:
    @pytest.mark.parametrize("mode", ["plain", "fork"])
    async def test_both_servers_vanish_with_a_killed_owner(self, scratch_dir: Path, mode: str) -> None:
        async with owner_of_both(scratch_dir, mode=mode) as owner:
            family = [one for pid in owner.pids for one in guard.family(pid)]
            assert len(family) > 2
            try:
                owner.process.kill()
                await eventually(lambda: all(gone(pid) for pid in family), timeout_s=10)
            finally:
                if owner.child is not None:
                    guard.send(owner.child, signal.SIGKILL)

    async def test_the_next_owner_waits_for_the_last_ones_server_to_end(self, scratch_dir: Path) -> None:
        async with owner_of_both(scratch_dir) as owner:
            owner.process.kill()
            await owner.process.wait()
            async with embedded_postgres(scratch_dir / "pg") as postgres:
                assert postgres.running
                assert gone(owner.pids[0])

    async def test_a_guard_that_is_told_to_end_takes_its_server_along(self, data_dir: Path) -> None:
        async with embedded_valkey(data_dir / "valkey") as valkey:
            child = valkey._child
            assert child is not None
            child._watcher.terminate()
            await eventually(lambda: gone(valkey.pid))
            await eventually(lambda: not valkey.running)

    async def test_a_guard_that_was_killed_does_not_save_its_server(self, data_dir: Path) -> None:
        async with embedded_valkey(data_dir / "valkey") as valkey:
            child = valkey._child
            assert child is not None
            child._watcher.kill()
            await eventually(lambda: not valkey.running)
            assert not gone(valkey.pid)
        assert gone(valkey.pid)
