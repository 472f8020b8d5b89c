"""Processes that obey commands: a line of JSON each, answered by one."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson

__all__ = ["LineWorker", "WorkerEnded", "line_workers"]

ANSWER_S: Final = 60.0
# A command line holds the requests of so many connections.
LINE_BYTES: Final = 64 * 1024 * 1024


class WorkerEnded(RuntimeError):
    """A process has ended before its end."""


class LineWorker:
    """A process and the conversation with it, one command at a time."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._turn = asyncio.Lock()

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Raises WorkerEnded, TimeoutError."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        async with self._turn, asyncio.timeout(ANSWER_S):
            self.process.stdin.write(orjson.dumps({"do": do, **arguments}) + b"\n")
            await self.process.stdin.drain()
            line = await self.process.stdout.readline()
        if not line:
            raise WorkerEnded(f"a process has ended that was to {do}")
        answer: dict[str, Any] = orjson.loads(line)
        return answer


@asynccontextmanager
async def line_workers(
    module: str, processes: int = 1, arguments: Sequence[str] = ()
) -> AsyncIterator[list[LineWorker]]:
    """`processes` of `python -m module`, which end with the block: their input does."""
    workers: list[LineWorker] = []
    try:
        for _ in range(processes):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES,
                start_new_session=True,
            )
            workers.append(LineWorker(process))
        yield workers
    finally:
        for worker in workers:
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        for worker in workers:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await worker.process.wait()
            except TimeoutError:
                worker.process.kill()
                await worker.process.wait()
