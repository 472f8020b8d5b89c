import asyncio
import http.client
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from load.children import StackFailed
from load.sink import Visit

__all__ = ["PAYLOAD_KIND", "TOPIC", "Peer", "Poster", "Serving", "find_program", "payload_of"]

# What every client of a peer is subscribed to.
TOPIC: Final = "stock"
# As in a delta of the gateway, so that sinks count both alike.
PAYLOAD_KIND: Final = "d"
_PAYLOAD: Final = b'{"type":"delta","pad":"%b"}'
_POST_S: Final = 10.0
_KEEP_S: Final = 1.0
# Beyond PATH: where Debian has its servers, and Go its programs if nothing else was said.
_MORE_PLACES: Final = (Path("/usr/sbin"), Path.home() / "go" / "bin")


@dataclass(frozen=True)
class Serving:
    """A server that runs. `publish` sends one payload to all who have made the visit, or one of the visits.

    `kind` is what sinks count deliveries by (load.sink); None where the payload comes in an envelope: there
    every data frame is a delivery.
    """

    pid: int
    port: int
    visit: Visit | Iterable[Visit]
    publish: Callable[[bytes], Awaitable[None]]
    kind: str | None = PAYLOAD_KIND


class Peer(Protocol):
    """A server to compare with. `how` installs it; `remark` says what in it does not compare."""

    @property
    def name(self) -> str: ...

    @property
    def how(self) -> str: ...

    @property
    def remark(self) -> str: ...

    def installed(self) -> bool: ...

    def start(self, directory: Path) -> AbstractAsyncContextManager[Serving]:
        """On a free loopback port with one worker or core; everything it writes goes to the directory.

        Raises StackFailed.
        """
        ...


def find_program(name: str) -> str | None:
    found = shutil.which(name)
    places = (place / name for place in _MORE_PLACES)
    return found or next((str(path) for path in places if shutil.which(path)), None)


def payload_of(size: int) -> bytes:
    """A JSON text of that many bytes. Raises ValueError if it can not be so short."""
    padding = size - len(_PAYLOAD % b"")
    if padding < 0:
        raise ValueError(f"a payload has at least {len(_PAYLOAD % b'')} bytes, not {size}")
    return _PAYLOAD % (b"x" * padding)


class Poster:
    """Publishes by HTTP requests over one connection that is kept during a turn.

    A server may end one that is idle; a request that it ends can not be told from one that was carried out.
    """

    def __init__(self, port: int, target: str, headers: Mapping[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_POST_S)
        self._target = target
        self._headers = dict(headers or {})
        self._used_at = 0.0

    async def post(self, body: bytes) -> None:
        """Raises StackFailed, OSError."""
        await asyncio.to_thread(self._post, body)

    def _post(self, body: bytes) -> None:
        if time.monotonic() - self._used_at > _KEEP_S:
            self._connection.close()  # request() opens it again
        self._connection.request("POST", self._target, body, self._headers)
        response = self._connection.getresponse()
        said = response.read()
        self._used_at = time.monotonic()
        if not 200 <= response.status < 300:
            raise StackFailed(f"publishing was answered by {response.status}: {said[:200]!r}")

    def close(self) -> None:
        self._connection.close()
