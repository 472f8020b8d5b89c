"""The composition root: everything of one serving process, put together and taken down in order."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from gateway.admission import ConnectionLimits
from gateway.arrivals import Arrivals
from gateway.auth.authority import Authority
from gateway.auth.building import anonymous, make_authority, make_signatures
from gateway.auth.entrance import Entrance
from gateway.auth.revocations import Revocations
from gateway.auth.tickets import TicketOffice
from gateway.certificate import ServerCertificate
from gateway.commands import run_until
from gateway.config import Settings
from gateway.connection import ClientConnection
from gateway.edge_settings import edge_settings, spared_addresses
from gateway.errors import CommandFailed
from gateway.http.app import make_client_app
from gateway.http.ops import make_ops_app
from gateway.http.ports import Readiness
from gateway.http_source import TopicSnapshots
from gateway.hub import Hub, HubSettings
from gateway.metrics import GatewayMetrics
from gateway.monitor import watch_loop, watch_round_trip
from gateway.rates import SETTLE_S, TIMEOUT_S, Rates, shared_limits
from gateway.realtime import ClientLimits, Realtime
from gateway.server import HttpServer
from gateway.sockets import bound_address
from gateway.standing import Standing
from gateway.startup import Startup
from listeners.attached_rows import AttachedRows
from listeners.credential_store import CredentialStore
from listeners.errors import ListenersError
from listeners.feed import TopicFeed
from listeners.keys import Keys
from listeners.loader import TopicLoader
from listeners.lookout import Lookout
from listeners.metrics import DESCRIPTIONS, bus_readings, loader_readings, relay_readings, verifier_readings
from listeners.placed_pool import PlacedPool
from listeners.pool import create_pool
from listeners.rate_store import RateStore
from listeners.redis_bus import RedisBus
from listeners.redis_client import connect_redis, is_cluster_url
from listeners.relay import Relay, RelaySettings
from listeners.topic_store import TopicStore
from listeners.verifier import Verifier
from protocol.dialects.inventory_v1 import InventoryV1

__all__ = ["make_relay", "make_verifier", "open_store", "serve"]

log = structlog.get_logger(__name__)

# Loads of topics that read Postgres at a time; each takes up to two connections.
LOADS: Final = 4


async def serve(
    settings: Settings,
    *,
    clients: socket.socket,
    ops: socket.socket,
    stop: asyncio.Event,
    page: Mapping[str, Any] | None = None,
    certificate: ServerCertificate | None = None,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serves until `stop` is set, then sends everybody away and returns.

    `clients` and `ops` are bound sockets. `page`: the settings of the demo page; None: there is none.
    `certificate`: clients have to speak TLS; whoever asks at `ops` never has to.
    `started` is called once clients are accepted. Raises CommandFailed when a server answers and refuses,
    SettingsError when one is not set.
    """
    startup = Startup(settings)
    readiness = _Readiness(startup)
    metrics = GatewayMetrics(descriptions=DESCRIPTIONS)
    ops_server = HttpServer(make_ops_app(readiness, metrics.render))
    await ops_server.start(ops)
    refused: list[str] = []
    try:
        if await run_until(stop, startup.wait()):
            async with _replica(settings, metrics, page=page, certificate=certificate) as replica:
                readiness.current = replica
                await replica.run(clients, stop, on_tick=ops_server.tick, started=started)
    except* ListenersError as refusals:
        refused = [str(refusal) for refusal in refusals.exceptions]
    finally:
        clients.close()
        await ops_server.stop()
    if refused:
        raise CommandFailed(refused[0])


class _Readiness:
    """While the process starts, what it waits for; then the replica's own word."""

    def __init__(self, starting: Readiness) -> None:
        self.current = starting

    def not_ready(self) -> Sequence[str]:
        return self.current.not_ready()


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[TopicStore]:
    """The topic store over connections of its own, closed at the end."""
    url = settings.require_redis_url()
    client = connect_redis(url, timeout_s=settings.probe_timeout_ms / 1000)
    try:
        yield TopicStore(client, Keys(settings.redis_prefix), cluster=is_cluster_url(url))
    finally:
        await client.aclose()


@asynccontextmanager
async def _open_credentials(settings: Settings) -> AsyncIterator[CredentialStore]:
    """As open_store: a crowd that comes with tickets does not wait for connections behind snapshots."""
    client = connect_redis(settings.require_redis_url(), timeout_s=settings.probe_timeout_ms / 1000)
    try:
        yield CredentialStore(client, Keys(settings.redis_prefix))
    finally:
        await client.aclose()


@asynccontextmanager
async def _open_rates(settings: Settings) -> AsyncIterator[Rates]:
    """As open_store, with less patience: clients wait for some of the answers."""
    client = connect_redis(settings.require_redis_url(), timeout_s=TIMEOUT_S, max_connections=4)
    store = RateStore(client, Keys(settings.redis_prefix))
    rates = Rates(shared_limits(settings), store, settle_s=SETTLE_S)
    try:
        yield rates
    finally:
        rates.close()
        await client.aclose()


def make_relay(settings: Settings, store: TopicStore) -> Relay:
    """A candidate for the relay; run() stands for election."""
    return Relay(
        dsn=settings.require_database_url(),
        listener_dsn=settings.require_listener_url(),
        store=store,
        settings=RelaySettings(
            poll_ms=settings.poll_ms,
            canary_ms=settings.canary_ms,
            probe_timeout_ms=settings.probe_timeout_ms,
            log_retention_s=int(settings.log_retention_s),
        ),
    )


def make_verifier(settings: Settings, store: TopicStore, pool: Any, relay: Relay) -> Verifier:
    """Compares what is loaded with Postgres, while the relay is active."""
    return Verifier(
        store,
        AttachedRows(),
        pool,
        verify_s=settings.verify_s,
        as_of_ms=lambda: relay.statistics().beat_as_of_ms,
        active=lambda: relay.statistics().active,
        max_topic_items=settings.max_topic_items,
        proof_timeout_s=10 * settings.canary_ms / 1000,  # after that something else is wrong
    )


@asynccontextmanager
async def _replica(
    settings: Settings,
    metrics: GatewayMetrics,
    *,
    page: Mapping[str, Any] | None,
    certificate: ServerCertificate | None,
) -> AsyncIterator["_Replica"]:
    url = settings.require_redis_url()
    timeout_s = settings.probe_timeout_ms / 1000
    pool = await create_pool(
        settings.require_database_url(), purpose="loader", max_size=2 * LOADS, timeout_s=timeout_s
    )
    try:
        async with (
            open_store(settings) as store,
            _open_credentials(settings) as credentials,
            _open_rates(settings) as rates,
        ):
            bus = RedisBus(
                url, Keys(settings.redis_prefix), cluster=is_cluster_url(url), probe_timeout_s=timeout_s
            )
            rows_pool = PlacedPool(pool, store)
            loader = TopicLoader(
                store, AttachedRows(), rows_pool, concurrency=LOADS, max_topic_items=settings.max_topic_items
            )
            feed = TopicFeed(bus, store, loader)
            revocations = Revocations(credentials)
            authority, key_set = make_authority(settings, is_revoked=revocations.is_revoked)
            signatures, key_file = make_signatures(settings, credentials, is_revoked=revocations.is_revoked)
            is_void = revocations.is_revoked if signatures is None else signatures.is_void
            identifies = authority is not None or signatures is not None
            tickets = TicketOffice(credentials, is_revoked=is_void) if identifies else None
            connection_limits = ConnectionLimits(
                max_connections=settings.max_connections,
                per_address=settings.max_connections_per_address,
                handshakes_per_address_per_s=settings.handshakes_per_address_per_s,
                spared=spared_addresses(settings),
                shared=rates.take_handshake,
            )
            realtime = _make_realtime(settings, metrics, feed, authority, tickets, rates, connection_limits)
            standing = Standing(realtime.hub.freshness, timeout_s=timeout_s)
            lookout = Lookout(
                settings.require_database_url(), period_s=settings.canary_ms / 1000, timeout_s=timeout_s
            )
            metrics.watch(realtime.statistics)
            metrics.watch(realtime.entrance.statistics)
            metrics.watch(rates.statistics)
            if authority is not None:
                metrics.watch(authority.statistics)
            if signatures is not None:
                metrics.watch(signatures.statistics)
            if identifies:
                metrics.watch(revocations.statistics)
            metrics.watch(standing.statistics)
            metrics.watch(lambda: bus_readings(bus.statistics()))
            metrics.watch(lambda: loader_readings(loader.statistics()))
            services: list[Awaitable[None]] = [
                bus.run(realtime.hub),
                realtime.run(),
                lookout.run(standing.seen),
                pool.watch(),
                watch_round_trip(lambda: feed.probe_database(pool), metrics.postgres_round_trip),
                watch_round_trip(feed.probe_store, metrics.redis_round_trip),
            ]
            if certificate is not None:
                metrics.watch(certificate.statistics)
                services.append(certificate.run())
            if key_set is not None:
                services.append(key_set.run())
            if identifies:
                services.append(revocations.run(lambda: realtime.entrance.revoked(is_void)))
            if key_file is not None:
                metrics.watch(key_file.statistics)
                services.append(key_file.run(lambda: realtime.entrance.revoked(is_void)))
            if settings.relay == "auto":
                relay = make_relay(settings, store)
                metrics.watch(lambda: relay_readings(relay.statistics()))
                services.append(relay.run())
                if settings.verify_s > 0:
                    verifier = make_verifier(settings, store, rows_pool, relay)
                    metrics.watch(lambda: verifier_readings(verifier.statistics()))
                    services.append(verifier.run())
            app = make_client_app(
                TopicSnapshots(feed, metrics, low_stock=settings.low_stock),
                principal=anonymous(settings),
                authority=authority,
                signatures=signatures,
                tickets=tickets,
                rates=rates,
                low_stock=settings.low_stock,
                allowed_origins=settings.allowed_origins,
                page=page is not None,
                page_settings=page,
            )
            arrivals = Arrivals(edge_settings(settings), connection_limits)
            metrics.watch(arrivals.statistics)
            server = HttpServer(
                app,
                websocket=ClientConnection,
                state={"realtime": realtime},
                arrivals=arrivals,
                tls=None if certificate is None else certificate.context,
            )
            yield _Replica(realtime, standing, server, services, metrics, settings.drain_s)
    finally:
        pool.terminate()


@dataclass(frozen=True, slots=True)
class _Replica:
    """The parts of a serving replica, with its tasks not yet started."""

    realtime: Realtime
    standing: Standing
    server: HttpServer
    services: Sequence[Awaitable[None]]
    metrics: GatewayMetrics
    drain_s: float

    def not_ready(self) -> Sequence[str]:
        if self.realtime.draining:
            return ["draining"]
        return self.standing.not_ready()

    async def run(
        self,
        clients: socket.socket,
        stop: asyncio.Event,
        *,
        on_tick: Callable[[], None],
        started: Callable[[], None],
    ) -> None:
        """Until `stop` is set and everybody has been sent away. Raises what a service raises."""

        def tick() -> None:
            self.server.tick()
            on_tick()

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_run(service)) for service in self.services]
            running.append(tasks.create_task(watch_loop(self.metrics.loop_lag, tick)))
            await self.server.start(clients)
            log.info("serving", address=str(bound_address(clients)))
            started()
            await stop.wait()
            self.server.stop_accepting()
            await self.realtime.drain(self.drain_s)
            await self.server.stop()
            for task in running:
                task.cancel()
        log.info("drained")


async def _run(service: Awaitable[None]) -> None:
    await service


def _make_realtime(
    settings: Settings,
    metrics: GatewayMetrics,
    feed: TopicFeed,
    authority: Authority | None,
    tickets: TicketOffice | None,
    rates: Rates,
    connection_limits: ConnectionLimits,
) -> Realtime:
    hub_settings = HubSettings(
        flush_s=settings.flush_ms / 1000,
        canary_s=settings.canary_ms / 1000,
        low_stock=settings.low_stock,
        max_loads=settings.max_loads_per_principal,
    )
    dialect = InventoryV1()
    return Realtime(
        make_hub=lambda told: Hub(feed, metrics, hub_settings, told=told),
        metrics=metrics,
        dialects={dialect.subprotocol: dialect},
        entrance=Entrance(
            anonymous=anonymous(settings),
            authority=authority,
            tickets=tickets,
            max_unauthenticated=settings.max_unauthenticated,
            max_per_principal=settings.max_connections_per_principal,
            leeway_s=settings.jwt_leeway_s,
        ),
        limits=ClientLimits(
            max_topics=settings.max_topics,
            max_message_bytes=settings.max_message_bytes,
            messages_per_s=settings.messages_per_s,
            pending_bytes=settings.pending_bytes,
        ),
        rates=rates,
        connection_limits=connection_limits,
        origins=settings.allowed_origins,
        heartbeat_s=settings.heartbeat_s,
        slow_client_s=settings.slow_client_s,
        auth_timeout_s=settings.auth_timeout_s,
    )
