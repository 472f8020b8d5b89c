"""The real command in a process of its own: exit codes, the one-line rule, signals."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE

import pytest

from tests.support.ports import free_port
from tests.support.processes import COMMAND, START_S, environment, run, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance


class TestOneLine:
    @pytest.mark.parametrize("arguments", [["serve"], ["relay"], ["migrate"], ["doctor"], ["dev"]])
    async def test_a_wrong_setting(self, arguments: list[str]) -> None:
        code, out, err = await run(*arguments, pollms=5)
        assert (code, out) == (2, "")
        assert err == (
            "inventory-gateway: GATEWAY_POLLMS='5': there is no such setting; did you mean GATEWAY_POLL_MS?\n"
        )

    async def test_wrong_usage(self) -> None:
        code, out, err = await run("serve", "--colour")
        assert (code, out, err.count("\n")) == (2, "", 1)

    async def test_a_taken_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            servers = {"database_url": "postgresql://127.0.0.1:1/d", "redis_url": "redis://127.0.0.1:1"}
            code, _, err = await run("serve", "--listen", address, **servers)
        assert code == 1
        assert err == (
            f"inventory-gateway: GATEWAY_LISTEN={address}: "
            "the port is taken; stop what listens there or choose another one\n"
        )

    async def test_the_module_is_the_command(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "token", stdout=PIPE, stderr=PIPE, env=environment()
        )
        _, err = await process.communicate()
        assert process.returncode == 2
        assert err.startswith(b"inventory-gateway token: the following arguments are required: --subject")

    async def test_a_reader_that_has_enough(self) -> None:
        shell = f"{COMMAND} --help | head -1"
        process = await asyncio.create_subprocess_shell(shell, stdout=PIPE, stderr=PIPE, env=environment())
        out, err = await process.communicate()
        assert out.startswith(b"usage: inventory-gateway")
        assert err == b""


class TestStart:
    async def test_it_waits_for_servers_that_are_away_and_says_so(self) -> None:
        away = free_port()
        settings = {
            "database_url": f"postgresql://u:s3cret@127.0.0.1:{away}/d",
            "redis_url": f"redis://:s3cret@127.0.0.1:{away}/0",
        }
        async with serving("serve", **settings) as served:
            await eventually(lambda: len(served.events("waiting for a server")) >= 4, timeout_s=START_S)
            answer = await served.ops("/readyz")
            assert answer is not None
            assert answer.status_code == 503
            assert {reason.split(":")[0] for reason in answer.json()["reasons"]} == {
                "GATEWAY_DATABASE_URL",
                "GATEWAY_REDIS_URL",
            }
            assert (await served.ops("/healthz")) is not None
            assert await served.stop() == 0
        assert "s3cret" not in str(served.lines)

    @pytest.mark.parametrize("command", ["serve", "relay"])
    async def test_migrations_are_pending(
        self, empty_database_url: str, redis_url: str, command: str
    ) -> None:
        listen = f"127.0.0.1:{free_port()}"
        code, _, err = await run(
            command,
            database_url=empty_database_url,
            redis_url=redis_url,
            listen=listen,
            ops_listen="127.0.0.1:0",
        )
        assert code == 1
        assert err.count("\n") == 1
        assert "run `inventory-gateway migrate`" in err


class TestWorkers:
    async def test_one_port_one_ops_port_and_no_life_lost_but_one(
        self, database_url: str, redis_url: str, redis_prefix: str
    ) -> None:
        settings = {"database_url": database_url, "redis_url": redis_url, "redis_prefix": redis_prefix}
        async with serving("serve", "--workers", "2", **settings) as served:
            await eventually(served.is_ready, timeout_s=START_S)
            await eventually(lambda: served.metric("gateway_workers 2.0"), timeout_s=START_S)
            await eventually(lambda: served.metric('gateway_connections{worker="1"} 0.0'), timeout_s=START_S)
            os.kill(served.events("worker started")[0]["pid"], signal.SIGKILL)
            await eventually(lambda: served.metric("gateway_worker_restarts_total 1.0"), timeout_s=START_S)
            await eventually(lambda: served.metric("gateway_workers 2.0"), timeout_s=START_S)
            assert await served.stop() == 0
        assert served.events("worker died")[0]["code"] == -signal.SIGKILL
        assert len(served.events("worker started")) == 3


class TestRelay:
    async def test_it_reigns_and_says_so(self, database_url: str, redis_url: str, redis_prefix: str) -> None:
        settings = {"database_url": database_url, "redis_url": redis_url, "redis_prefix": redis_prefix}
        ops = f"127.0.0.1:{free_port()}"
        async with serving("relay", "--ops-listen", ops, **settings) as served:
            served.ops_url = f"http://{ops}"
            await eventually(served.is_ready, timeout_s=START_S)
            await eventually(lambda: served.metric("gateway_relay_active 1.0"), timeout_s=START_S)
            assert await served.stop() == 0
        assert served.events("the relay stopped")

    async def test_without_ops_port(self, database_url: str, redis_url: str, redis_prefix: str) -> None:
        settings = {"database_url": database_url, "redis_url": redis_url, "redis_prefix": redis_prefix}
        async with serving("relay", **settings) as served:
            await eventually(lambda: served.events("relay reigns"), timeout_s=START_S)
            assert await served.stop() == 0
