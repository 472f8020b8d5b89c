import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from gateway.proxy_protocol import ProxyHeaderError, missing_bytes, read_proxy_header
from gateway.waiting import Waiting

__all__ = ["ProxyHeaders"]

# The client that a proxy names; None: it speaks for itself, or can not say.
Named = Callable[[str | None], None]


class ProxyHeaders:
    """Reads the PROXY header of connections of trusted proxies, and not a byte more.

    From the bare socket: what follows may be HTTP or TLS, and is for whoever gets it then.
    """

    def __init__(self, *, limit: int, timeout_s: float) -> None:
        """`limit` of those that are being read; 0: any number."""
        self._read: dict[socket.socket, tuple[bytearray, Named]] = {}
        self.waiting: Waiting[socket.socket] = Waiting(self._drop, limit=limit, timeout_s=timeout_s)
        self.refused = 0

    def read(self, accepted: socket.socket, named: Named) -> None:
        """Calls `named` in a later turn; or closes the connection, where no header comes."""
        self._read[accepted] = (bytearray(), named)
        self.waiting.add(accepted)
        asyncio.get_running_loop().add_reader(accepted, self._readable, accepted)

    def _readable(self, accepted: socket.socket) -> None:
        data, named = self._read[accepted]
        header = None
        try:
            while header is None:
                more = accepted.recv(missing_bytes(data))
                if not more:
                    self._drop(accepted)
                    return
                data += more
                header = read_proxy_header(bytes(data))
        except BlockingIOError:
            return
        except ProxyHeaderError:
            self.refused += 1
            self._drop(accepted)
        except OSError:
            self._drop(accepted)
        else:
            self._forget(accepted)
            named(header.source)

    def _drop(self, accepted: socket.socket) -> None:
        """It is no HTTP: there is no answer that a proxy would understand."""
        self._forget(accepted)
        with suppress(OSError):
            accepted.close()

    def _forget(self, accepted: socket.socket) -> None:
        self.waiting.discard(accepted)
        asyncio.get_running_loop().remove_reader(accepted)
        del self._read[accepted]
