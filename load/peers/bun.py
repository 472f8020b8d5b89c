"""Bun's server, which is uWebSockets (C++) behind a JavaScript interface."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

from load.children import accepts, free_ports, running, started
from load.peers.peer import TOPIC, Poster, Serving, find_program
from load.sink import Visit

__all__ = ["Bun"]

_SCRIPT: Final = Path(__file__).with_name("bun_server.js")


class Bun:
    name: Final = "Bun (uWebSockets)"
    how: Final = "npm install --global bun"
    remark: Final = (
        "one event loop, more threads for garbage; publishes of one turn of the loop share a write"
    )

    def installed(self) -> bool:
        return find_program("bun") is not None

    @asynccontextmanager
    async def start(self, directory: Path) -> AsyncIterator[Serving]:
        program = find_program("bun")
        assert program is not None
        (port,) = free_ports(1)
        log = directory / "bun.log"
        async with running((program, "--no-install", _SCRIPT, str(port), TOPIC), log) as process:
            await started(process, log, lambda: accepts(port))
            with closing(Poster(port, "/")) as poster:
                yield Serving(process.pid, port, Visit("/", subprotocol=None), poster.post)
