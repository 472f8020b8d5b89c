"""NATS' server by its own WebSocket listener."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from string import Template
from typing import Final

from load.children import accepts, free_ports, running, started
from load.peers.peer import TOPIC, Serving, find_program
from load.sink import Visit

__all__ = ["Nats"]

_CONNECT: Final = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
# Behind "MSG stock"; its pings are frames as well and have none.
_KIND: Final = " "
_ANSWER_S: Final = 10.0
# It expects an answer to its pings, which come in its own protocol: none come during a run.
_CONFIGURATION: Final = Template("""
host: 127.0.0.1
port: $port
ping_interval: "1h"
max_connections: 19000
websocket { host: 127.0.0.1, port: $websocket_port, no_tls: true, compression: false }
""")


class Nats:
    name: Final = "NATS server"
    how: Final = "go install github.com/nats-io/nats-server/v2@v2.15.2"
    remark: Final = "GOMAXPROCS=1; binary frames with an envelope; what waits for a socket shares a frame"

    def installed(self) -> bool:
        return find_program("nats-server") is not None

    @asynccontextmanager
    async def start(self, directory: Path) -> AsyncIterator[Serving]:
        program = find_program("nats-server")
        assert program is not None
        port, websocket_port = free_ports(2)
        configuration = directory / "nats.conf"
        configuration.write_text(_CONFIGURATION.substitute(port=port, websocket_port=websocket_port))
        log = directory / "nats.log"
        async with running((program, "-c", configuration), log, {"GOMAXPROCS": "1"}) as process:
            await started(process, log, lambda: accepts(port) and accepts(websocket_port))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await reader.readline()  # INFO
                writer.write(_CONNECT)

                async def publish(payload: bytes) -> None:
                    writer.write(b"PUB %b %d\r\n%b\r\n" % (TOPIC.encode(), len(payload), payload))
                    async with asyncio.timeout(_ANSWER_S):
                        await writer.drain()

                say = (_CONNECT, f"SUB {TOPIC} 1\r\n".encode())
                yield Serving(process.pid, websocket_port, Visit("/", None, say), publish, _KIND)
            finally:
                writer.close()
