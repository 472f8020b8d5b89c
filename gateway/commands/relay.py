import argparse
import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.commands import run_async, stop_signal
from gateway.commands.startup import Startup
from gateway.config import Settings, load_settings
from gateway.errors import CommandFailed
from gateway.http.ops import make_ops_app
from gateway.http.server import HttpServer
from gateway.logs import configure_logging
from gateway.metrics import GatewayMetrics
from gateway.sockets import bind_socket
from listeners.errors import Refused
from listeners.keys import Keys
from listeners.metrics import DESCRIPTIONS, relay_readings
from listeners.redis_client import connect_redis, is_cluster_url
from listeners.relay import Relay, RelaySettings
from listeners.topic_store import TopicStore

__all__ = ["configure", "relay_settings", "run"]

log = structlog.get_logger(__name__)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ops-listen",
        metavar="HOST:PORT",
        help="where health and metrics are; nowhere unless given, since `serve` beside it has the usual port",
    )


def run(options: argparse.Namespace) -> int:
    settings = load_settings({"ops_listen": options.ops_listen})
    startup = Startup(settings)
    configure_logging(settings.log_level, settings.log_format)
    return run_async(_relay(settings, startup, with_ops=options.ops_listen is not None))


def relay_settings(settings: Settings) -> RelaySettings:
    """The relay's part of the settings."""
    return RelaySettings(
        poll_ms=settings.poll_ms,
        canary_ms=settings.canary_ms,
        probe_timeout_ms=settings.probe_timeout_ms,
        log_retention_s=int(settings.log_retention_s),
    )


async def _relay(settings: Settings, startup: Startup, *, with_ops: bool) -> int:
    stop = stop_signal()
    metrics = GatewayMetrics(descriptions=DESCRIPTIONS)
    if not with_ops:
        await _until(stop, lambda: _run(settings, startup, metrics))
        return 0
    ops = bind_socket(settings.ops_listen, setting="--ops-listen")
    server = HttpServer(make_ops_app(startup, metrics.render))
    async with asyncio.TaskGroup() as group:
        done = asyncio.Event()
        group.create_task(server.serve_until(done, ops))
        try:
            await _until(stop, lambda: _run(settings, startup, metrics))
        finally:
            done.set()
    return 0


async def _until(stop: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` until the event is set. Raises what it raises."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(_awaited(work))
        waiting = group.create_task(stop.wait())
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        waiting.cancel()


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


async def _run(settings: Settings, startup: Startup, metrics: GatewayMetrics) -> None:
    await startup.wait()
    url = settings.require_redis_url()
    client = connect_redis(url, timeout_s=settings.probe_timeout_ms / 1000, name="inventory-gateway-relay")
    try:
        relay = Relay(
            dsn=settings.require_database_url(),
            listener_dsn=settings.require_listener_url(),
            store=TopicStore(client, Keys(settings.redis_prefix), cluster=is_cluster_url(url)),
            settings=relay_settings(settings),
        )
        metrics.watch(lambda: relay_readings(relay.statistics()))
        log.info("the relay stands for election")
        await relay.run()
    except Refused as error:
        raise CommandFailed(str(error)) from error
    finally:
        await client.aclose()
