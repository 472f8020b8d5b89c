"""Many clients against a running gateway: `python -m load.clients http://127.0.0.1:8080 --topic product:P1`.

The changes come from elsewhere: the shop itself, or `inventory-gateway simulate`.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import uvloop

from load.client import Client, connect, realtime_url
from load.processes import raise_file_limit

__all__ = ["Audience", "main"]

REPORT_S: Final = 1.0
# Connecting all at once would measure the backlog of the listening socket.
CONNECTING: Final = 50


class Audience:
    """Clients of one URL; counts what they get and looks at nothing."""

    def __init__(self, url: str) -> None:
        self.frames = 0
        self.bytes = 0
        self._url = url
        self._clients: list[Client] = []

    def __len__(self) -> int:
        return len(self._clients)

    async def grow(self, count: int) -> None:
        """Opens that many more. Raises ConnectionRefused, OSError or TimeoutError, as a group."""
        gate = asyncio.Semaphore(CONNECTING)

        async def one() -> None:
            async with gate:
                self._clients.append(await connect(self._url, self._on_text))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(one())

    def lost(self) -> int:
        return sum(client.closed.done() for client in self._clients)

    def leave(self) -> None:
        for client in self._clients:
            client.abort()
        self._clients.clear()

    def _on_text(self, payload: bytes, at: float, /) -> None:
        self.frames += 1
        self.bytes += len(payload)


async def _watch(audience: Audience, clients: int, seconds: float) -> int:
    """Prints a line a second; how many clients were disconnected."""
    began = time.monotonic()
    await audience.grow(clients)
    print(f"{clients:,} clients connected in {time.monotonic() - began:.1f} s", flush=True)
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        frames, size = audience.frames, audience.bytes
        await asyncio.sleep(min(REPORT_S, end - now))
        took_s = time.monotonic() - now
        rates = (audience.frames - frames) / took_s, (audience.bytes - size) / took_s / 1e6
        print(f"{rates[0]:,.0f} frames/s, {rates[1]:.1f} MB/s, {audience.lost()} disconnected", flush=True)
    lost = audience.lost()
    audience.leave()
    return lost


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m load.clients", description=__doc__)
    parser.add_argument("url", help="the gateway, as http://host:port")
    parser.add_argument(
        "--topic", action="append", required=True, help="each client subscribes to all of them"
    )
    parser.add_argument("--clients", type=int, default=1000, help="connections (1000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long (30)")
    options = parser.parse_args(arguments)
    raise_file_limit()
    topics = quote(",".join(options.topic), safe=",:")
    audience = Audience(f"{realtime_url(options.url.rstrip('/'))}?topics={topics}")
    lost = 0
    failures: tuple[Exception, ...] = ()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            lost = runner.run(_watch(audience, options.clients, options.seconds))
    except* OSError as errors:  # refused, or not in time
        failures = errors.exceptions
    if failures:
        print(f"clients: {str(failures[0]) or type(failures[0]).__name__}", file=sys.stderr)
    return 1 if failures or lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
