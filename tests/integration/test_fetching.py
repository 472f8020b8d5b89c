"""What security rests on is fetched over TLS, from where it was asked for, within bounds."""

import asyncio
import datetime
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.auth.fetching import FetchFailed, fetch

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, signed by itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@asynccontextmanager
async def serving(certificate: Path, serve: Serve) -> AsyncIterator[str]:
    """The URL of a server that does with each connection what `serve` says."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await serve(reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks?tenant=a"
    finally:
        server.close()
        await asyncio.sleep(0)


def saying(answer: bytes) -> Serve:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.05)

    return serve


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


async def failure(url: str, certificate: Path, **options: float) -> str:
    with pytest.raises(FetchFailed) as raised:
        await fetch(url, tls=trusting(certificate), **options)  # type: ignore[arg-type] # of numbers
    return str(raised.value)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 11\r\n\r\n" + b'{"keys":[]}',
        OK + b"Transfer-Encoding: chunked\r\n\r\n6\r\n" + b'{"keys\r\n5\r\n":[]}\r\n0\r\n\r\n',
    ],
)
async def test_the_body_of_a_200(certificate: Path, answer: bytes) -> None:
    async with serving(certificate, saying(answer)) as url:
        assert await fetch(url, tls=trusting(certificate)) == b'{"keys":[]}'


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(certificate: Path, status: int) -> None:
    elsewhere = b"HTTP/1.1 %d X\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n" % status
    async with serving(certificate, saying(elsewhere)) as url:
        assert "redirect" in await failure(url, certificate)


@pytest.mark.parametrize("status", [204, 400, 404, 500, 503])
async def test_another_status(certificate: Path, status: int) -> None:
    async with serving(certificate, saying(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)) as url:
        assert str(status) in await failure(url, certificate)


@pytest.mark.parametrize("head", [b"Content-Length: 100000\r\n\r\n", b"X: ", b"\r\n"])
async def test_more_than_is_allowed(certificate: Path, head: bytes) -> None:
    async with serving(certificate, saying(OK + head + b"x" * 100_000)) as url:
        assert "larger" in await failure(url, certificate, max_bytes=50_000)


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 20", OK, OK + b"Content-Length: 9\r\n\r\n{"])
async def test_a_server_that_says_nothing_more(certificate: Path, part: bytes) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(5)

    async with serving(certificate, serve) as url:
        began = time.monotonic()
        assert "longer" in await failure(url, certificate, timeout_s=0.3)
        assert time.monotonic() - began < 3


async def test_one_that_drips(certificate: Path) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in OK * 100:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(certificate, serve) as url:
        assert "longer" in await failure(url, certificate, timeout_s=0.3)


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", OK + b"Content-Length: 9\r\n\r\n{"])
async def test_what_is_no_answer(certificate: Path, answer: bytes) -> None:
    async with serving(certificate, saying(answer)) as url:
        assert await failure(url, certificate)


async def test_a_certificate_that_nobody_has_signed(certificate: Path) -> None:
    async with serving(certificate, saying(OK + b"Content-Length: 2\r\n\r\n{}")) as url:
        with pytest.raises(FetchFailed, match=r"(?i)certificate"):
            await fetch(url)


async def test_a_certificate_of_another_name(certificate: Path) -> None:
    async with serving(certificate, saying(OK + b"Content-Length: 2\r\n\r\n{}")) as url:
        assert "ertificate" in await failure(url.replace("127.0.0.1", "localhost"), certificate)


async def test_plain_http_and_other_schemes(certificate: Path) -> None:
    for url in ("http://127.0.0.1/jwks", "file:///etc/passwd", "ftp://127.0.0.1/"):
        assert "https" in await failure(url, certificate)


async def test_nobody_there(certificate: Path) -> None:
    assert await failure("https://127.0.0.1:1/jwks", certificate)
