"""`inventory-gateway dev` in a process of its own, to be killed and started again."""

import asyncio
import json
import sys
from asyncio.subprocess import Process
from pathlib import Path
from types import TracebackType

import asyncpg

from tests.support.ports import free_port
from tests.support.waiting import eventually

__all__ = ["DevStack"]

_START_S = 60.0
_STOP_S = 30.0


class DevStack:
    """The whole gateway with its page, on one port and data directory whatever becomes of its process."""

    def __init__(self, directory: Path, *, products: int = 120, locations: int = 3) -> None:
        self._directory = directory / "data"
        self._log = directory / "dev.log"
        self._port = free_port()
        self._shop = ["--products", str(products), "--locations", str(locations)]
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    async def __aenter__(self) -> "DevStack":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            async with asyncio.timeout(_STOP_S):
                await process.wait()

    async def start(self) -> None:
        """Returns when it is ready; fails with its own words when it is not."""
        # One that was killed could not take it away.
        self._ready_file.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "gateway",
            "dev",
            "--no-feed",
            "--port",
            str(self._port),
            *self._shop,
        ]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, "--data-dir", str(self._directory), stdout=log, stderr=log
            )

        def ready() -> bool:
            assert self._process is not None
            if self._process.returncode is not None:
                raise RuntimeError(f"dev ended with {self._process.returncode}:\n{self._log.read_text()}")
            return self._ready_file.exists()

        await eventually(ready, _START_S, 0.05)

    async def kill(self) -> None:
        """SIGKILL: nobody is told, nothing is put in order."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def execute(self, sql: str, *arguments: object) -> None:
        connection = await self._connect()
        try:
            await connection.execute(sql, *arguments)
        finally:
            await connection.close()

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await self._connect()
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    @property
    def _ready_file(self) -> Path:
        return self._directory / "dev.json"

    async def _connect(self) -> asyncpg.Connection:
        url = json.loads(self._ready_file.read_text())["database_url"]
        return await asyncpg.connect(url, timeout=10)
