import argparse
import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from gateway.app import serve
from gateway.commands import run_async, run_until, stop_signal
from gateway.commands.dev_credentials import lasting_secret, token_for_everything
from gateway.commands.dev_servers import dev_servers, hold_directory, told_in_one_line, wipe
from gateway.commands.seed import assortment, seed_shop
from gateway.commands.simulate import SalesFeed, positive
from gateway.config import Address, Settings, load_settings
from gateway.errors import CommandFailed
from gateway.logs import configure_logging
from gateway.sample.groups import one_error
from gateway.sample.page import page_settings
from gateway.sample.progress import Progress
from gateway.sockets import bind_socket, bound_address
from listeners.migrations import migrate
from listeners.postgres import classified, connected

__all__ = ["configure", "run"]

PORT: Final = 8080
PRODUCTS: Final = 200
LOCATIONS: Final = 3
RATE: Final = 5.0
READY_S: Final = 60.0
DRAIN_S: Final = 1.0


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", metavar="N", type=_port, help=f"of the page and the gateway; 0: a free one ({PORT})")
    add("--data-dir", metavar="DIR", type=Path, default=Path(".dev"), help="of the servers (.dev)")
    add("--fresh", action="store_true", help="delete what an earlier run has left there")
    number = positive(int)
    add("--products", metavar="N", type=number, help=f"at least so many in the shop ({PRODUCTS})")
    add("--locations", metavar="N", type=number, help=f"at least so many in the shop ({LOCATIONS})")
    add("--rate", metavar="R", type=positive(float), help=f"sales and other changes a second ({RATE:g})")
    add("--no-feed", action="store_true", help="nothing is sold")
    add("--servers-only", action="store_true", help="only the two servers, with the shop; --rate sells there")


def run(options: argparse.Namespace) -> int:
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    with told_in_one_line(), hold_directory(options.data_dir):
        ports = None if options.servers_only else _Ports.bind(settings, options.port)
        try:
            return run_async(_Dev(options, ports).run())
        finally:
            if ports is not None:
                ports.close()


class _Ports(NamedTuple):
    """The sockets, bound before anything is started: a busy port is told at once."""

    clients: socket.socket
    ops: socket.socket

    @classmethod
    def bind(cls, settings: Settings, port: int | None) -> "_Ports":
        address = settings.listen
        if port is not None or "listen" not in settings.model_fields_set:
            # Everybody may see everything here, so it is for this machine only.
            address = Address("127.0.0.1", PORT if port is None else port)
        clients = bind_socket(address, setting="--port" if port is not None else "GATEWAY_LISTEN")
        try:
            return cls(clients, cls._bind_ops(settings, address))
        except BaseException:
            clients.close()
            raise

    @staticmethod
    def _bind_ops(settings: Settings, clients: Address) -> socket.socket:
        """The usual port beside the usual port, if nobody has it; a free one beside any other."""
        address = settings.ops_listen
        if "ops_listen" in settings.model_fields_set:
            return bind_socket(address, setting="GATEWAY_OPS_LISTEN")
        if clients.port == PORT:
            try:
                return bind_socket(address, setting="GATEWAY_OPS_LISTEN")
            except CommandFailed:
                address = address._replace(port=0)
        return bind_socket(address._replace(port=0), setting="GATEWAY_OPS_LISTEN")

    def close(self) -> None:
        self.clients.close()
        self.ops.close()


class _Dev:
    """One run: the servers, the shop in them, and what stands upon them."""

    def __init__(self, options: argparse.Namespace, ports: _Ports | None) -> None:
        self._options = options
        self._ports = ports
        self._data_dir: Path = options.data_dir
        self._announced = self._data_dir / "dev.json"
        self._database_url = ""
        self._redis_url = ""

    async def run(self) -> int:
        stop = stop_signal()
        self._announced.unlink(missing_ok=True)
        async with AsyncExitStack() as stack:
            if await run_until(stop, self._prepare(stack)):
                with one_error():
                    await self._serve(stop)
            _say("stopping")
        return 0

    async def _prepare(self, stack: AsyncExitStack) -> None:
        if self._options.fresh:
            await wipe(self._data_dir)
        with _step(f"Postgres and Valkey in {self._data_dir}"):
            postgres, valkey = await stack.enter_async_context(dev_servers(self._data_dir))
        self._database_url, self._redis_url = postgres.url, valkey.url
        with _step("migrations"):
            await migrate(self._database_url)
        await self._fill_shop()

    async def _fill_shop(self) -> None:
        """A shop that is there already stays as it was left, unless a larger one is asked for."""
        products, locations = self._options.products, self._options.locations
        if products is None and locations is None and await self._has_stock():
            _say("the shop of the last run")
            return
        shop = assortment(products or PRODUCTS, locations or LOCATIONS)
        progress = Progress("sample shop", shop.rows, out=sys.stdout)
        try:
            await seed_shop(self._database_url, shop, advance=progress.advance)
        finally:
            progress.finish()

    async def _has_stock(self) -> bool:
        async with connected(self._database_url, purpose="dev") as connection:
            with classified(self._database_url):
                return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM public.inventory)"))

    async def _serve(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._ports is None:
                    self._announce(gateway_url=None, ops_url=None)
                else:
                    await self._start_gateway(self._ports, tasks, stop)
                if self._rate:
                    feed = await SalesFeed.prepare(self._database_url, self._rate)
                    tasks.create_task(feed.run(stop))
                await stop.wait()
        finally:
            self._announced.unlink(missing_ok=True)

    async def _start_gateway(self, ports: _Ports, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        began = time.monotonic()
        async with connected(self._database_url, purpose="page") as connection:
            page = await page_settings(connection)
        settings = self._settings()
        tasks.create_task(serve(settings, clients=ports.clients, ops=ports.ops, stop=stop, page=page))
        ops = _reachable(ports.ops)
        if not await _until_ready(ops, stop):
            return
        _say(f"gateway: {time.monotonic() - began:.1f} s")
        self._announce(
            gateway_url=f"http://{_reachable(ports.clients)}",
            ops_url=f"http://{ops}",
            token=token_for_everything(settings),
        )

    def _settings(self) -> Settings:
        """The environment's, apart from the servers, and what is better otherwise on one's own machine."""
        settings = load_settings()
        given = settings.model_fields_set
        usual: dict[str, object] = {"anonymous": "exact", "drain_s": DRAIN_S}
        if settings.jwks_url is None:
            usual["jwt_secret"] = lasting_secret(self._data_dir)
        return load_settings(
            {
                "database_url": self._database_url,
                "listener_database_url": self._database_url,
                "redis_url": self._redis_url,
                **{name: value for name, value in usual.items() if name not in given},
            }
        )

    @property
    def _rate(self) -> float:
        """Changes a second; 0: none. Servers alone are quiet unless a rate is asked for."""
        if self._options.no_feed:
            return 0.0
        return float(self._options.rate or (0.0 if self._ports is None else RATE))

    def _announce(self, *, gateway_url: str | None, ops_url: str | None, token: str | None = None) -> None:
        """In dev.json, complete from the moment it is there, and to the person."""
        known = {
            "gateway_url": gateway_url,
            "ops_url": ops_url,
            "database_url": self._database_url,
            "redis_url": self._redis_url,
            "token": token,
        }
        unfinished = self._announced.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(known, indent=2) + "\n")
        unfinished.rename(self._announced)
        lines = [f"Postgres:  {self._database_url}", f"Valkey:    {self._redis_url}"]
        if gateway_url is not None:
            lines = [
                f"page:      {gateway_url}/",
                f"WebSocket: ws{gateway_url.removeprefix('http')}/realtime",
                f"ops:       {ops_url}/readyz, /metrics",
                *lines,
            ]
        if self._rate:
            lines.append(f"sales:     {self._rate:g} changes/s")
        if token is not None:
            lines.append(f"token:     {token} (the page takes it as #token=...)")
        _say("\n".join(["", *(f"  {line}" for line in lines), "", "Ctrl-C stops all of it"]))


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no port: a number from 0 to 65535 is needed")


def _say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def _step(name: str, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Says that something begins, and how long it took."""
    print(f"{name} ...", end="", flush=True)
    began = clock()
    try:
        yield
    except BaseException:
        _say("")
        raise
    _say(f" {clock() - began:.1f} s")


def _reachable(bound: socket.socket) -> Address:
    """Where this machine reaches the socket, also if it is bound to all addresses."""
    address = bound_address(bound)
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked for, not bound
    return address._replace(host=every.get(address.host, address.host))


async def _until_ready(ops: Address, stop: asyncio.Event) -> bool:
    """Whether /readyz said yes before `stop` was set. Raises CommandFailed after READY_S."""
    try:
        async with asyncio.timeout(READY_S):
            while not stop.is_set():
                if await _is_ready(ops):
                    return True
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise CommandFailed(
            f"the gateway is not ready after {READY_S:g} s: see http://{ops}/readyz"
        ) from None
    return False


async def _is_ready(ops: Address) -> bool:
    try:
        reader, writer = await asyncio.open_connection(*ops)
    except OSError:
        return False
    try:
        writer.write(f"GET /readyz HTTP/1.1\r\nHost: {ops}\r\nConnection: close\r\n\r\n".encode())
        return (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False
    finally:
        writer.close()
