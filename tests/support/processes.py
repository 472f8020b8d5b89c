"""The real command in a process of its own."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from tests.support.ports import free_port

__all__ = ["COMMAND", "START_S", "Served", "environment", "run", "serving", "start"]

COMMAND: Final = str(Path(sys.executable).with_name("inventory-gateway"))
START_S: Final = 30.0


def environment(**settings: object) -> dict[str, str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return bare | {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}


async def start(*arguments: str, **settings: object) -> Process:
    return await asyncio.create_subprocess_exec(
        COMMAND, *arguments, stdout=PIPE, stderr=PIPE, env=environment(**settings)
    )


async def run(*arguments: str, **settings: object) -> tuple[int | None, str, str]:
    process = await start(*arguments, **settings)
    out, err = await asyncio.wait_for(process.communicate(), START_S)
    return process.returncode, out.decode(), err.decode()


class Served:
    """A running `serve` or `relay`; what it logs is in `lines`."""

    def __init__(self, process: Process, port: int, ops_port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/realtime"
        self.ops_url = f"http://127.0.0.1:{ops_port}"
        self.lines: list[dict[str, Any]] = []

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(orjson.loads(line))

    async def ops(self, path: str) -> httpx.Response | None:
        async with httpx.AsyncClient(trust_env=False) as http:
            try:
                return await http.get(self.ops_url + path)
            except httpx.TransportError:
                return None

    async def is_ready(self) -> bool:
        answer = await self.ops("/readyz")
        return answer is not None and answer.status_code == 200

    async def metric(self, line: str) -> bool:
        answer = await self.ops("/metrics")
        return answer is not None and line in answer.text.splitlines()

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), START_S)


@asynccontextmanager
async def serving(*arguments: str, **settings: object) -> AsyncIterator[Served]:
    port, ops_port = free_port(), free_port()
    given = {
        "listen": f"127.0.0.1:{port}",
        "ops_listen": f"127.0.0.1:{ops_port}",
        "drain_s": 0,
        "probe_timeout_ms": 1000,
        **settings,
    }
    served = Served(await start(*arguments, **given), port, ops_port)
    async with asyncio.TaskGroup() as group:
        group.create_task(served.read_log())
        try:
            yield served
        finally:
            if served.process.returncode is None:
                served.process.kill()
                await served.process.wait()
