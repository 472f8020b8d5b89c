"""All client connections of this process: admission, heartbeats, stale and fresh, slow clients, drain."""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, Protocol

import structlog
from websockets.datastructures import Headers

from gateway.admission import ConnectionLimits, Refusal
from gateway.auth.entrance import Entrance
from gateway.freshness import Transition
from gateway.handshake import Handshake, Rejection, read_handshake
from gateway.hub import Hub, Told
from gateway.metrics import GatewayMetrics
from gateway.origins import OriginPolicy
from gateway.outgoing import Outgoing
from gateway.rates import Rates
from protocol.dialects import Dialect
from protocol.errors import Close, CloseCode
from protocol.messages import SessionLimits
from protocol.principal import Principal
from protocol.session import Session

__all__ = ["Client", "ClientLimits", "Realtime"]

log = structlog.get_logger(__name__)

# Heartbeats are spread over this many moments of the interval: never all clients at once.
HEARTBEAT_SLOTS: Final = 64


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """0 stands for no limit; `pending_bytes`: before a client counts as congested."""

    max_topics: int = 500
    max_message_bytes: int = 16_384
    messages_per_s: int = 0
    pending_bytes: int = 65_536


class Client(Protocol):
    """A connection as this module sees it (gateway.connection.ClientConnection)."""

    address: str
    stalled_since: float | None

    @property
    def outgoing(self) -> Outgoing: ...
    def close(self, code: CloseCode) -> None: ...
    def has_progressed(self) -> bool: ...


class Realtime:
    """What connections share. run() owns the periodic work, and ends with drain()."""

    def __init__(
        self,
        *,
        make_hub: Callable[[Told], Hub],
        metrics: GatewayMetrics,
        dialects: Mapping[str, Dialect],
        entrance: Entrance,
        limits: ClientLimits,
        connection_limits: ConnectionLimits,
        rates: Rates | None = None,
        origins: Collection[str] = (),
        heartbeat_s: float = 20,
        slow_client_s: float = 30,
        auth_timeout_s: float = 5,
        random: Callable[[], float] = random.random,
    ) -> None:
        """`dialects` by subprotocol, the default one first. `rates` None: there are none."""
        self.hub = make_hub(self._tell)
        self.entrance = entrance
        self.metrics = metrics
        self.limits = limits
        self.rates = rates or Rates({})
        self.heartbeat_s = heartbeat_s
        self.auth_timeout_s = auth_timeout_s
        self.retry_after_s = 1
        self.draining = False
        self.stalled: set[Client] = set()
        self._dialects = dialects
        self._origins = OriginPolicy(origins)
        self._connection_limits = connection_limits
        self._session_limits = SessionLimits(
            max_message_bytes=limits.max_message_bytes, max_topics=limits.max_topics
        )
        self._slow_client_s = slow_client_s
        self._random = random
        self._slots: list[dict[Client, None]] = [{} for _ in range(HEARTBEAT_SLOTS)]
        self._slot_of: dict[Client, int] = {}
        self._slot = 0
        self._refused: dict[str, int] = {}
        self._opened = 0

    # --- connections

    def read_handshake(self, path: str, headers: Headers) -> Handshake | Rejection:
        answer = read_handshake(path, headers, self._dialects, self._origins)
        if self.draining and isinstance(answer, Handshake):
            answer = Rejection(HTTPStatus.SERVICE_UNAVAILABLE, "this replica is going away", "draining")
        if isinstance(answer, Rejection) and answer.reason:
            self._refused[answer.reason] = self._refused.get(answer.reason, 0) + 1
        return answer

    def admit(self, client: Client) -> Refusal | None:
        """None: the client is counted in, and leave() must be called when it is gone."""
        return self._connection_limits.admit(client.address)

    def make_session(self, dialect: Dialect, principal: Principal | None) -> Session:
        return Session(
            dialect,
            limits=self._session_limits,
            principal=principal,
            auth_available=self.entrance.takes_tokens,
            heard=self.metrics.received,
        )

    def opened(self, client: Client) -> None:
        """The client takes part in heartbeats, and hears at once if its copies can not be trusted."""
        self._opened += 1
        # The slot that has just passed: its first heartbeat is a whole interval away.
        slot = self._slot_of[client] = (self._slot - 1) % HEARTBEAT_SLOTS
        self._slots[slot][client] = None
        since = self.hub.freshness.stale_since_ms
        if since is not None:
            outgoing = client.outgoing
            outgoing.send("stale", outgoing.dialect.stale(_moment(since)))

    def leave(self, client: Client) -> None:
        self._connection_limits.leave(client.address)
        self.entrance.leave(client)
        self.stalled.discard(client)
        slot = self._slot_of.pop(client, None)
        if slot is not None:
            del self._slots[slot][client]

    def statistics(self) -> dict[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        subscriptions = self.hub.statistics()
        return {
            "gateway_connections": len(self._slot_of),
            "gateway_connections_opened": self._opened,
            "gateway_connections_refused": self._refused
            | self._connection_limits.refused
            | self.entrance.refused,
            "gateway_stale": float(self.hub.freshness.stale),
            "gateway_doubted_connections": len(self.hub.doubts),
            "gateway_subscriptions": subscriptions["subscriptions"],
            "gateway_topics": subscriptions["topics"],
        }

    # --- periodic work

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.hub.run(), name="hub")
            tasks.create_task(self.entrance.run(), name="entrance")
            tasks.create_task(self._send_heartbeats(), name="heartbeats")
            tasks.create_task(self._close_slow_clients(), name="slow clients")

    async def drain(self, seconds: float) -> None:
        """Sends every client away, each at a moment of its own within `seconds`, and tells it before."""
        self.draining = True
        clients = list(self._slot_of)
        log.info("draining", connections=len(clients), seconds=seconds)
        loop = asyncio.get_running_loop()
        started = loop.time()
        # One client to each slice of the time: by chance alone some seconds would see a crowd.
        slice_s = seconds * 0.9 / max(1, len(clients))
        moments = [((index + self._random()) * slice_s, index) for index in range(len(clients))]
        for after_s, index in moments:
            outgoing = clients[index].outgoing
            outgoing.send("reconnect", outgoing.dialect.reconnect(round(after_s * 1000)))
        for after_s, index in moments:
            await asyncio.sleep(max(0.0, started + after_s - loop.time()))
            clients[index].close(Close.RESTART)

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_s / HEARTBEAT_SLOTS)
            slot, self._slot = self._slots[self._slot], (self._slot + 1) % HEARTBEAT_SLOTS
            stale, doubts = self.hub.freshness.stale, self.hub.doubts
            # Whoever has unread data needs none.
            outgoings = [outgoing for client in slot if not (outgoing := client.outgoing).congested]
            if doubts and not stale:
                self._heartbeat([outgoing for outgoing in outgoings if outgoing in doubts], stale=True)
                outgoings = [outgoing for outgoing in outgoings if outgoing not in doubts]
            self._heartbeat(outgoings, stale=stale)

    def _heartbeat(self, outgoings: Iterable[Outgoing], *, stale: bool) -> None:
        now, as_of_ms = datetime.now(UTC), self.hub.freshness.as_of_ms
        _send_each(outgoings, "heartbeat", lambda dialect: dialect.heartbeat(now, stale, as_of_ms))

    def _tell(self, transition: Transition, some: Collection[Outgoing] | None) -> None:
        """See gateway.hub.Told."""
        freshness, doubts = self.hub.freshness, self.hub.doubts
        as_of_ms = freshness.as_of_ms or 0
        if some is None:
            some = [o for c in self._slot_of if (o := c.outgoing) not in doubts]
            since_ms = freshness.stale_since_ms or 0
        else:
            since_ms = as_of_ms - round(freshness.patience_s * 1000)
        if transition is Transition.STALE:
            since = _moment(since_ms)
            _send_each(some, "stale", lambda dialect: dialect.stale(since))
        else:
            _send_each(some, "fresh", lambda dialect: dialect.fresh(as_of_ms))

    async def _close_slow_clients(self) -> None:
        """A client that takes nothing for `slow_client_s` is closed; one that takes little is not."""
        while True:
            await asyncio.sleep(self._slow_client_s / 8)
            now = time.monotonic()
            for client in list(self.stalled):
                if client.has_progressed() or client.stalled_since is None:
                    client.stalled_since = now
                elif now - client.stalled_since >= self._slow_client_s:
                    self.metrics.slow_disconnects += 1
                    client.close(Close.OVERLOADED)


def _send_each(outgoings: Iterable[Outgoing], message_type: str, encode: Callable[[Dialect], bytes]) -> None:
    """The same message to many, encoded once a dialect."""
    payloads: dict[str, bytes] = {}
    for outgoing in outgoings:
        name = outgoing.dialect.subprotocol
        payload = payloads.get(name)
        if payload is None:
            payload = payloads[name] = encode(outgoing.dialect)
        outgoing.send(message_type, payload)


def _moment(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1000, UTC)
