"""TLS before a server that has none: the embedded ones are built without."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

__all__ = ["tls_before_postgres", "tls_before_redis"]

_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)  # "Message Formats" in the manual of Postgres
_CHUNK_BYTES: Final = 65_536

# Returns what it has read and is for the server.
Secure = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


@asynccontextmanager
async def tls_before_postgres(
    url: str, context: ssl.SSLContext | None, *, host: str = "127.0.0.1"
) -> AsyncIterator[str]:
    """The URL that leads through it, to `host`. Without `context` it answers as a server that has no TLS."""

    async def secure(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        asked = await reader.readexactly(len(_SSL_REQUEST))
        if asked != _SSL_REQUEST:
            return asked  # whoever does not ask goes on in plain words
        writer.write(b"N" if context is None else b"S")
        await writer.drain()
        if context is not None:
            await writer.start_tls(context)
        return b""

    async with _proxy(url, secure, None, host) as through:
        yield through


@asynccontextmanager
async def tls_before_redis(
    url: str, context: ssl.SSLContext, *, host: str = "127.0.0.1"
) -> AsyncIterator[str]:
    """The rediss:// URL that leads through it, to `host`."""

    async def secure(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> bytes:
        return b""

    async with _proxy(url, secure, context, host) as through:
        yield through.replace("redis://", "rediss://", 1)


@asynccontextmanager
async def _proxy(
    url: str,
    secure: Secure,
    context: ssl.SSLContext | None,
    host: str,
) -> AsyncIterator[str]:
    parts = urlsplit(url)
    links: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        links.add(link)
        try:
            first = await secure(reader, writer)
            server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                server_writer.write(first)
                pumps = {
                    asyncio.ensure_future(_pump(reader, server_writer)),
                    asyncio.ensure_future(_pump(server_reader, writer)),
                }
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                server_writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # either side has had enough, or the test has ended
        finally:
            links.discard(link)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    login, at, _ = parts.netloc.rpartition("@")
    port = server.sockets[0].getsockname()[1]
    try:
        yield urlunsplit(parts._replace(netloc=f"{login}{at}{host}:{port}"))
    finally:
        server.close()
        for link in list(links):
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await server.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
