"""One GET over TLS, for a document that security rests on: bounded in time and size, and led nowhere else."""

import asyncio
import ssl
from typing import Final
from urllib.parse import urlsplit

import httptools

__all__ = ["FetchFailed", "fetch"]

MAX_BYTES: Final = 256 * 1024
TIMEOUT_S: Final = 5.0


class FetchFailed(Exception):
    """The message is for the operator: it names no more of the URL than its host."""


async def fetch(
    url: str, *, timeout_s: float = TIMEOUT_S, max_bytes: int = MAX_BYTES, tls: ssl.SSLContext | None = None
) -> bytes:
    """The body of a 200. Raises FetchFailed for anything else, a redirect included, and after `timeout_s`.

    `tls` trusts what the machine trusts unless given (OpenSSL reads SSL_CERT_FILE).
    """
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise FetchFailed("only https: anybody on the way could change what comes otherwise")
    host, port = parts.hostname or "", parts.port or 443
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    context = tls or ssl.create_default_context()
    answer = _Answer(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=64 * 1024)
            try:
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
                    "Accept: application/json\r\nUser-Agent: inventory-gateway\r\n"
                    "Accept-Encoding: identity\r\nConnection: close\r\n\r\n".encode("ascii")
                )
                while not answer.complete:
                    answer.feed(await reader.read(16 * 1024))
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise FetchFailed(f"{host} took longer than {timeout_s:g} s") from None
    except (OSError, ValueError, httptools.HttpParserError) as error:
        raise FetchFailed(f"{host}: {str(error) or type(error).__name__}") from error
    return bytes(answer.body)


class _Answer:
    """Callbacks of httptools' parser; raises FetchFailed as soon as an answer is none that is wanted."""

    def __init__(self, max_bytes: int) -> None:
        self.body = bytearray()
        self.complete = False
        self._max_bytes = max_bytes
        self._received = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        if not data:
            raise FetchFailed("the answer is cut short")
        self._received += len(data)
        if self._received > self._max_bytes:
            raise FetchFailed(f"the answer is larger than {self._max_bytes} bytes")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, FetchFailed):
                raise error.__context__ from None
            raise

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 300 <= status < 400:
            raise FetchFailed(f"status {status}: redirects are not followed; set the URL they lead to")
        if status != 200:
            raise FetchFailed(f"status {status}")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True
