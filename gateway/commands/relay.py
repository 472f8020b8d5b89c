import argparse
import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog

from gateway.commands import run_async, run_until, stop_signal
from gateway.config import Settings, load_settings
from gateway.garbage import keep_garbage_small
from gateway.http.ops import make_ops_app
from gateway.logs import configure_logging
from gateway.metrics import GatewayMetrics
from gateway.monitor import watch_loop
from gateway.server import HttpServer
from gateway.sockets import bind_socket, bound_address
from gateway.startup import Startup
from listeners.metrics import DESCRIPTIONS, relay_readings, verifier_readings
from listeners.placed_pool import PlacedPool
from listeners.pool import create_pool
from listeners.relay import Relay
from listeners.topic_store import TopicStore

__all__ = ["configure", "run"]

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


class _Readiness:
    """Ready: it stands for election. Whether it was elected is what gateway_relay_active is for."""

    def __init__(self, startup: Startup) -> None:
        self._startup: Startup | None = startup

    def not_ready(self) -> Sequence[str]:
        return [] if self._startup is None else self._startup.not_ready()

    def started(self) -> None:
        self._startup = None


async def _relay(settings: Settings, startup: Startup, *, with_ops: bool) -> int:
    stop = stop_signal()
    metrics, readiness = GatewayMetrics(descriptions=DESCRIPTIONS), _Readiness(startup)
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        if with_ops:
            ops = bind_socket(settings.ops_listen, setting="--ops-listen")
            server = HttpServer(make_ops_app(readiness, metrics.render))
            stack.push_async_callback(server.stop)
            await server.start(ops)
            log.info("ops port", address=str(bound_address(ops)))
            watching = group.create_task(watch_loop(metrics.loop_lag, server.tick))
            stack.callback(watching.cancel)
        if await run_until(stop, startup.wait()):
            readiness.started()
            await run_until(stop, _stand(settings, metrics))
    log.info("the relay stopped")
    return 0


async def _stand(settings: Settings, metrics: GatewayMetrics) -> None:
    from gateway.app import make_relay, open_store

    keep_garbage_small()
    async with open_store(settings) as store:
        relay = make_relay(settings, store)
        metrics.watch(lambda: relay_readings(relay.statistics()))
        log.info("the relay stands for election")
        async with asyncio.TaskGroup() as group:
            group.create_task(relay.run())
            if settings.verify_s > 0:
                group.create_task(_verify(settings, store, relay, metrics))


async def _verify(settings: Settings, store: TopicStore, relay: Relay, metrics: GatewayMetrics) -> None:
    from gateway.app import make_verifier

    dsn, timeout_s = settings.require_database_url(), settings.probe_timeout_ms / 1000
    pool = await create_pool(dsn, purpose="verifier", max_size=2, timeout_s=timeout_s)
    try:
        verifier = make_verifier(settings, store, PlacedPool(pool, store), relay)
        metrics.watch(lambda: verifier_readings(verifier.statistics()))
        async with asyncio.TaskGroup() as group:
            group.create_task(pool.watch())
            group.create_task(verifier.run())
    finally:
        pool.terminate()
