"""What the peers in Python share: a process each that takes its payloads from standard input."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvloop

from load.children import StackFailed, accepts, free_ports, last_words, running, started
from load.peers.peer import Serving
from load.sink import Visit

__all__ = ["payloads", "python_server", "run_server"]

LINE_BYTES: Final = 1 << 20
_DRAIN_S: Final = 10.0


@asynccontextmanager
async def python_server(
    module: str, directory: Path, name: str, *arguments: str, target: str = "/"
) -> AsyncIterator[Serving]:
    """Runs the module with a port and the arguments; `publish` hands it a line."""
    (port,) = free_ports(1)
    log = directory / f"{name}.log"
    command = (sys.executable, "-m", module, str(port), *arguments)
    async with running(command, log, stdin=asyncio.subprocess.PIPE) as process:
        assert process.stdin is not None
        stdin = process.stdin

        async def publish(payload: bytes) -> None:
            stdin.write(payload + b"\n")
            try:
                async with asyncio.timeout(_DRAIN_S):
                    await stdin.drain()
            except ConnectionError as error:
                raise StackFailed(last_words(log)) from error

        await started(process, log, lambda: accepts(port))
        yield Serving(process.pid, port, Visit(target, subprotocol=None), publish)


async def payloads() -> AsyncIterator[bytes]:
    """Until standard input ends, as it does when whoever started us has ended."""
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield line.removesuffix(b"\n")


def run_server(serve: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """Runs it with the port and the other arguments of the command line."""
    port, *arguments = sys.argv[1:]
    uvloop.run(serve(int(port), *arguments))
