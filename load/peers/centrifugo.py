"""Centrifugo: a server for publish and subscribe over WebSocket, with permissions, history and presence."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import orjson

from load.children import accepts, free_ports, running, started
from load.peers.peer import TOPIC, Poster, Serving, find_program
from load.sink import Visit

__all__ = ["Centrifugo"]

# Behind {"push":{ where the answers to requests have a letter.
_KIND: Final = '"'
_SAY: Final = (
    orjson.dumps({"id": 1, "connect": {}}),
    orjson.dumps({"id": 2, "subscribe": {"channel": TOPIC}}),
)


class Centrifugo:
    name: Final = "Centrifugo"
    how: Final = "go install github.com/centrifugal/centrifugo/v6@v6.9.1"
    remark: Final = "GOMAXPROCS=1; JSON protocol with an envelope; compression and pings off"

    def installed(self) -> bool:
        return find_program("centrifugo") is not None

    @asynccontextmanager
    async def start(self, directory: Path) -> AsyncIterator[Serving]:
        program = find_program("centrifugo")
        assert program is not None
        (port,) = free_ports(1)
        configuration = directory / "centrifugo.json"
        configuration.write_bytes(orjson.dumps(_configuration(port)))
        log = directory / "centrifugo.log"
        async with running((program, "-c", configuration), log, {"GOMAXPROCS": "1"}) as process:
            await started(process, log, lambda: accepts(port))
            with closing(Poster(port, "/api/publish", {"Content-Type": "application/json"})) as poster:

                async def publish(payload: bytes) -> None:
                    await poster.post(b'{"channel":"%b","data":%b}' % (TOPIC.encode(), payload))

                visit = Visit("/connection/websocket", None, _SAY)
                yield Serving(process.pid, port, visit, publish, _KIND)


def _configuration(port: int) -> dict[str, Any]:
    """Whoever comes may do what the comparison needs; nothing is sent anywhere."""
    return {
        "http_server": {"address": "127.0.0.1", "port": str(port)},
        "http_api": {"insecure": True},
        "client": {"insecure": True, "allowed_origins": [], "ping_interval": "1h", "pong_timeout": "10s"},
        "channel": {"without_namespace": {"allow_subscribe_for_client": True}},
        "usage_stats": {"disabled": True},
        "log": {"level": "warn"},
    }
