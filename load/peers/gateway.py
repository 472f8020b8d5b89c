"""The gateway itself, measured as the others are: what it publishes are committed changes of one product."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from load.peers.peer import Serving
from load.product import changing_product
from load.sink import Visit
from load.stack import Servers, relay_process, serve_process

__all__ = ["GatewayPeer"]


class GatewayPeer:
    name: Final = "gateway"
    how: Final = "make install"
    remark: Final = (
        "serve --relay off, flush_ms 0; Postgres, Valkey and the relay are not charged; its frames carry a "
        "committed change each, changes that the relay reads together share one; heartbeats on"
    )

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def installed(self) -> bool:
        return True

    @asynccontextmanager
    async def start(self, directory: Path) -> AsyncIterator[Serving]:
        async with (
            relay_process(self._servers, "relay"),
            serve_process(self._servers, "replica", relay="off", flush_ms=0) as gateway,
            changing_product(self._servers) as product,
        ):

            async def publish(_: bytes) -> None:
                await product.change()

            visit = Visit(f"/realtime?topics={product.topic}")
            yield Serving(gateway.pid, gateway.port, visit, publish)
