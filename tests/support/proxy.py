import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

__all__ = ["TcpProxy", "proxied"]

_CHUNK_BYTES = 65_536
# A throttled direction passes its bytes on in so many portions a second.
_PORTIONS_PER_S = 20


class _Direction:
    """What happens to the bytes of all links that flow one way."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.delay_s = 0.0
        self.bytes_per_s = 0.0  # 0: as fast as they come

    async def pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        while data:
            await self.flowing.wait()
            portion = data
            if self.bytes_per_s:
                portion = data[: max(1, round(self.bytes_per_s / _PORTIONS_PER_S))]
                await asyncio.sleep(len(portion) / self.bytes_per_s)
            writer.write(portion)
            await writer.drain()
            data = data[len(portion) :]


class TcpProxy:
    """Stands between a client and a server on 127.0.0.1, and breaks the link the ways a network does.

    `cut` resets what is connected; `refuse` resets newcomers too, until `accept`. `freeze` keeps every
    connection open and passes nothing on, in one direction or both, until `thaw`: what was sent meanwhile
    arrives then. `black_hole` silences what is connected for ever, and newcomers are well. `delay` and
    `throttle` slow everything down until they are called with 0. `retarget` sends newcomers elsewhere.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._to_server = _Direction()
        self._to_client = _Direction()
        self._silenced: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepted = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def connections(self) -> int:
        return len(self._links)

    def retarget(self, host: str, port: int) -> None:
        """Newcomers are led to another server; what is connected stays."""
        self._target = (host, port)

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def refuse(self) -> None:
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        self._refusing = False

    def freeze(self, *, to_server: bool = True, to_client: bool = True) -> None:
        for direction, frozen in ((self._to_server, to_server), (self._to_client, to_client)):
            if frozen:
                direction.flowing.clear()

    def thaw(self) -> None:
        self._to_server.flowing.set()
        self._to_client.flowing.set()

    def black_hole(self) -> None:
        """Whatever is connected now is taken and never arrives, in both directions, and nobody is told."""
        self._silenced |= self._links

    def delay(self, seconds: float) -> None:
        """Every portion of bytes arrives later, each way."""
        self._to_server.delay_s = self._to_client.delay_s = seconds

    def throttle(self, bytes_per_s: float) -> None:
        """Each link passes on so many bytes a second, each way; 0: all that come."""
        self._to_server.bytes_per_s = self._to_client.bytes_per_s = bytes_per_s

    def heal(self) -> None:
        """Newcomers and whatever is still connected are well again."""
        self.accept()
        self.thaw()
        self.delay(0)
        self.throttle(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            await self._link(reader, writer, link)
        except asyncio.CancelledError:
            return  # by stop(); asyncio's streams (Python 3.11) would log a cancelled handler as an error
        except OSError:
            return  # either side left, or the server is not there: the client sees its connection end
        finally:
            self._links.discard(link)
            self._silenced.discard(link)
            writer.transport.abort()

    async def _link(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: asyncio.Task[None]
    ) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        ends = {writer, server_writer}
        self._writers |= ends
        try:
            pumps = [
                asyncio.ensure_future(self._pump(reader, server_writer, self._to_server, link)),
                asyncio.ensure_future(self._pump(server_reader, writer, self._to_client, link)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                if link in self._silenced:  # one side has given up: the other does not hear of it
                    await asyncio.wait(pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._writers -= ends
            server_writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: _Direction,
        link: asyncio.Task[None],
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if link not in self._silenced:
                await direction.pass_on(data, writer)


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[TcpProxy, str]]:
    """A proxy before the server of a URL, and the URL that leads through it."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = TcpProxy(parts.hostname, parts.port)
    await proxy.start()
    login, at, _ = parts.netloc.rpartition("@")
    try:
        yield proxy, urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{proxy.port}"))
    finally:
        await proxy.stop()
