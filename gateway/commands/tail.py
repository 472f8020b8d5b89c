import argparse
import asyncio
import os
import random as _random
import sys
from collections.abc import Callable
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from gateway.commands import run_async, run_until, stop_signal
from gateway.commands.following import Following
from gateway.config import Address, Settings, load_settings
from gateway.errors import CommandFailed, SettingsError
from listeners.backoff import Backoff
from protocol.errors import CLOSE_CODES, ProtocolError
from protocol.topics import parse_topic

__all__ = ["configure", "run"]

OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 1.0
# Before the first welcome says how often a silent connection is heard of.
SILENCE_S: Final = 40.0
_FINAL_ADVICE: Final = ("fix the client", "get new credentials", "give up")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "topics", metavar="TOPIC", nargs="+", help="product:<id>, location:<id> or vendor:<id>"
    )
    parser.add_argument(
        "--url",
        metavar="wss://...",
        help="of the gateway (where GATEWAY_LISTEN says, at /realtime); GATEWAY_TOKEN is presented there",
    )
    parser.add_argument("--view", choices=("exact", "public"), help="the best there is, unless given")


def run(options: argparse.Namespace) -> int:
    settings = load_settings()
    try:
        topics = [str(parse_topic(topic)) for topic in options.topics]
    except ProtocolError as error:
        raise SettingsError(f"TOPIC={error.topic!r}: {error.message}") from error
    url = options.url or _own_url(settings)
    return run_async(_tail(url, Following(topics, options.view), _print, token=settings.token))


def _own_url(settings: Settings) -> str:
    listen, scheme = settings.listen, "ws" if settings.tls_certificate is None else "wss"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - the setting's default
    return f"{scheme}://{Address(host, listen.port)}/realtime"


def _print(message: str) -> None:
    try:
        print(message, flush=True)
    except BrokenPipeError:
        # What is still in the buffer is written once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


async def _tail(
    url: str, following: Following, write: Callable[[str], None], *, token: str | None = None
) -> int:
    try:
        await run_until(stop_signal(), _follow(url, following, write, token=token))
    except* BrokenPipeError:
        pass  # whoever reads it has had enough, as `head` has
    return 0


async def _follow(
    url: str,
    following: Following,
    write: Callable[[str], None],
    *,
    token: str | None = None,
    random: Callable[[], float] = _random.random,
) -> None:
    """Until cancelled. Raises CommandFailed if the first try fails, or a close code says it is no use."""
    backoff = Backoff(0.5, 30.0, random=random)
    welcomed = False
    while True:
        reason = await _one_connection(url, following, write, token=token, may_fail=welcomed)
        if following.welcomed:
            welcomed = True
            backoff.reset()
        asked_s = following.reconnect_after_s
        delay_s = backoff.next() if asked_s is None else asked_s
        print(f"inventory-gateway: {reason}; again in {delay_s:.1f} s", file=sys.stderr)
        await asyncio.sleep(delay_s)


async def _one_connection(
    url: str, following: Following, write: Callable[[str], None], *, token: str | None, may_fail: bool
) -> str:
    """One life of a connection; why it ended. Raises CommandFailed when another one would end like it."""
    following.disconnected()
    try:
        connection = await connect(
            url,
            subprotocols=[Subprotocol("inventory.v1")],
            additional_headers=None if token is None else {"Authorization": f"Bearer {token}"},
            compression=None,
            max_size=None,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT_S,
            proxy=None,
        )
    except InvalidURI as error:
        raise SettingsError(f"--url={url!r}: a URL like ws://host:8080/realtime is needed") from error
    except (OSError, TimeoutError, InvalidHandshake) as error:
        if not may_fail or (isinstance(error, InvalidStatus) and error.response.status_code < 429):
            raise CommandFailed(f"{url}: {_why(error)}") from error
        return _why(error)
    try:
        return await _converse(connection, following, write)
    except TimeoutError:
        return "nothing heard for too long"
    except ConnectionClosed as closed:
        return _closed(closed)
    finally:
        # Not `async with`, which tells the server of an error of ours (1011) when we are cancelled.
        await connection.close()


async def _converse(connection: ClientConnection, following: Following, write: Callable[[str], None]) -> str:
    """Raises TimeoutError after too long a silence."""
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    while True:
        for request in following.due(loop.time()):
            await connection.send(request, text=True)
        deadline = heard_at + following.patience_s(SILENCE_S)
        try:
            async with asyncio.timeout_at(min(deadline, following.next_due())):
                message = await connection.recv(decode=True)
        except TimeoutError:
            if loop.time() >= deadline:
                raise
            continue
        heard_at = loop.time()
        write(message)
        following.received(message, heard_at)
        if following.reconnect_after_s is not None:
            return "asked to reconnect"


def _closed(closed: ConnectionClosed) -> str:
    code = closed.rcvd.code if closed.rcvd is not None else 1006
    known = CLOSE_CODES.get(code)
    if known is not None and known.advice in _FINAL_ADVICE:
        raise CommandFailed(f"closed with {code} ({known.name}): {known.meaning}")
    return f"closed with {code}" + (f" ({known.name})" if known is not None else "")


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
