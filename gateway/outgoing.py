"""What a connection still has to be sent: latest values by key, never a queue of messages.

A delivery is one subscription on one connection. While its socket is congested, or its snapshot is on the
way, the changes that are broadcast mark items dirty; when it drains it gets the latest value of each. So a
client costs at most the distinct items it watches, however slow it is.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from gateway.frames import text_frame
from gateway.metrics import GatewayMetrics
from protocol.dialects import DELTA_ITEMS_BYTES, Dialect
from protocol.envelope import Position
from protocol.errors import ProtocolError
from protocol.items import Item, split_by_size
from protocol.subscription import Signal, Subscription, SubscriptionState

__all__ = ["Delivery", "Outgoing", "Transport"]


class Transport(Protocol):
    """The part of asyncio.Transport that is written to."""

    def write(self, data: bytes) -> None: ...
    def get_write_buffer_size(self) -> int: ...


class Delivery:
    """One subscription on one connection, and what it has not been sent yet."""

    __slots__ = (
        "_dirty",
        "fanout",
        "outgoing",
        "place",
        "promoted",
        "ready_seq",
        "resume",
        "resuming",
        "returning",
        "seq",
        "subscription",
        "waiting_since",
    )

    def __init__(
        self, subscription: Subscription, outgoing: "Outgoing", *, resume: Position | None = None
    ) -> None:
        self.subscription = subscription
        self.outgoing = outgoing
        self.resume = resume
        self.resuming = resume is not None
        # Since when it is without service, in s of the loop: it has asked, or what it held became void.
        self.waiting_since = asyncio.get_running_loop().time()
        # The broadcasts it takes part in, from before its snapshot is read.
        self.fanout: Broadcast | None = None
        # Where among the direct ones of its broadcasts (gateway.direct); -1: not among them.
        self.place = -1
        # It goes live once they have come this far (None: its snapshot is not complete).
        self.ready_seq: int | None = None
        # True from there on: what is broadcast is written to its socket as it is.
        self.promoted = False
        # Where the client stands while that differs from the broadcasts: it has dirty items.
        self.seq = 0
        # It has been served before: a failed load is retried instead of told.
        self.returning = False
        self._dirty: dict[str, Item] | None = None

    @property
    def holds_copy(self) -> bool:
        """Whether the client shows its users something of this topic that has to be kept."""
        return self.returning or self.resuming or self.subscription.state is SubscriptionState.LIVE

    def restart(self) -> None:
        """What it holds is void: nothing more of it is sent, a new snapshot will come."""
        state = self.subscription.state
        if state is SubscriptionState.LIVE:
            self.waiting_since = asyncio.get_running_loop().time()
        if state is not SubscriptionState.WAITING:
            self.returning = True
            self.resume = None
        self.subscription.signal(Signal.RESTART)
        self._dirty = None
        self.outgoing.forget(self)
        self.fanout = None
        self.promoted = False
        self.ready_seq = None

    def conflate(self, items: Iterable[Item], previous_seq: int) -> int:
        """Marks the items dirty. `previous_seq`: how far the client had been served before them.

        Returns how many versions will never be sent because a newer one replaced them.
        """
        dirty = self._dirty
        if not dirty and self.promoted:
            self.seq = previous_seq
            self.outgoing.mark_dirty(self)
        if dirty is None:
            dirty = self._dirty = {}
        replaced = 0
        for item in items:
            held = dirty.get(item.key)
            if held is None:
                dirty[item.key] = item
            elif held.version < item.version:
                dirty[item.key] = item
                replaced += 1
        return replaced

    def clear_dirty(self) -> None:
        """Everything marked so far is in the snapshot that now begins."""
        self._dirty = None

    def promote(self) -> None:
        """It is live from here on; what was marked while it joined follows as soon as the socket takes it."""
        self.promoted = True
        if self._dirty:
            self.outgoing.mark_dirty(self)
            self.outgoing.pump()

    def drain_chunk(self) -> bool:
        """Sends one message of dirty items. False once none are left."""
        dirty = self._dirty or {}
        chunk = next(split_by_size(dirty.values(), DELTA_ITEMS_BYTES))
        for item in chunk:
            del dirty[item.key]
        if not dirty:
            self._dirty = None
            if self.fanout is not None:
                self.seq = max(self.seq, self.fanout.sent_seq)
        self.outgoing.send_delta(self.subscription, self.seq, chunk)
        return bool(dirty)


class Broadcast(Protocol):
    """What everybody who follows a view of a topic is sent (gateway.fanout)."""

    @property
    def sent_seq(self) -> int: ...
    def complete(self, delivery: "Delivery", ready_seq: int) -> None: ...
    def withdraw(self, delivery: "Delivery") -> None: ...


class _Transfer:
    """An encoded snapshot on its way to one client."""

    __slots__ = ("delivery", "head", "next", "on_complete", "tails")

    def __init__(self, delivery: Delivery, head: bytes, tails: Sequence[bytes], on_complete: "OnComplete"):
        self.delivery = delivery
        self.head = head
        self.tails = tails
        self.next = 0
        self.on_complete = on_complete


OnComplete = Callable[[Delivery], None]


class Owner(Protocol):
    """Whose sending half it is (gateway.connection.ClientConnection)."""

    @property
    def holder(self) -> str: ...
    def refuse(self, subscription: Subscription, error: ProtocolError) -> None: ...
    def charge_rows(self, rows: int) -> None: ...
    def rows_error(self) -> ProtocolError | None: ...


class Outgoing:
    """The sending half of one connection. Plain functions on the event loop; nothing here ever waits,
    but wait_writable()."""

    __slots__ = (
        "_dirty",
        "_fd",
        "_metrics",
        "_owner",
        "_placed",
        "_transfers",
        "_waiters",
        "closed",
        "congested",
        "dialect",
        "direct",
        "transport",
    )

    def __init__(
        self,
        transport: Transport,
        dialect: Dialect,
        metrics: GatewayMetrics,
        *,
        owner: "Owner",
        fd: int = -1,
    ) -> None:
        """`fd` is the transport's socket, to be written to directly; -1: everything goes through it. From
        here on nobody else may write to the transport."""
        self.transport = transport
        self._fd = fd
        self.direct = False  # known: the transport has nothing of ours
        self.dialect = dialect
        self.congested = False
        self.closed = False
        self._metrics = metrics
        self._owner = owner
        # None or empty: nothing is. Most connections are idle, so these are made when they are needed.
        self._dirty: dict[Delivery, None] | None = None
        self._placed: list[Delivery] | None = None
        self._transfers: deque[_Transfer] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None

    def refuse(self, subscription: Subscription, error: ProtocolError) -> None:
        """Tells the client that a subscription has failed, and why."""
        self._owner.refuse(subscription, error)

    @property
    def holder(self) -> str:
        """Whose limits it is served by (gateway.rates)."""
        return self._owner.holder

    def charge_rows(self, delivery: Delivery, rows: int) -> None:
        """They are on their way to the client in a snapshot. One that it has not asked for is free."""
        if not delivery.returning:
            self._owner.charge_rows(rows)

    def rows_error(self) -> ProtocolError | None:
        """Why it can be sent no snapshot now."""
        return self._owner.rows_error()

    def write(self, frame: bytes) -> None:
        """Hands bytes to the socket; not to be called once it is closed.

        One system call and nothing else, which is what a delivery costs: the transport would keep the bytes
        until the end of the loop's turn, and go through all connections a second time then. It gets what the
        socket does not take, and while it has something, everything: the order stays. It closes the socket
        only after connection_lost(), so the descriptor is never another connection's.
        """
        if not self.direct:
            if self._fd < 0 or self.transport.get_write_buffer_size():
                self.transport.write(frame)
                return
            self.direct = True
        try:
            sent = os.write(self._fd, frame)
        except OSError:  # full; or broken: the transport will meet the same error, and tell
            sent = 0
        if sent != len(frame):
            self.fall_back(frame, sent)

    def fall_back(self, frame: bytes, sent: int) -> None:
        """The socket has taken so many bytes of it: the transport gets the rest, and all that follows."""
        self._leave_direct()
        self.transport.write(frame[sent:])

    def place(self, delivery: Delivery) -> int:
        """Its broadcasts write past us, for as long as we are direct: to the descriptor that is returned."""
        if self._placed is None:
            self._placed = []
        self._placed.append(delivery)
        return self._fd

    def displace(self, delivery: Delivery) -> None:
        """Its broadcasts do so no longer."""
        if self._placed:
            self._placed.remove(delivery)

    def _leave_direct(self) -> None:
        """Whatever is sent from here on comes this way; for one that follows n topics it takes n steps."""
        self.direct = False
        placed, self._placed = self._placed, None
        for delivery in placed or ():
            if delivery.fanout is not None:
                delivery.fanout.withdraw(delivery)

    def send(self, message_type: str, payload: bytes) -> None:
        """One message for this client alone, at once: behind what the socket has, before what is dirty."""
        if self.closed:
            return
        frame = text_frame(payload)
        self.write(frame)
        self._metrics.sent(message_type, 1, len(frame))

    def send_delta(self, subscription: Subscription, seq: int, items: Sequence[Item]) -> None:
        """`items` fit into one message (DELTA_ITEMS_BYTES)."""
        for payload in self.dialect.deltas(subscription.topic, subscription.epoch, seq, seq, items):
            self.send("delta", payload)

    def mark_dirty(self, delivery: Delivery) -> None:
        if self._dirty is None:
            self._dirty = {}
        self._dirty[delivery] = None

    def forget(self, delivery: Delivery) -> None:
        """Nothing more is sent for this delivery."""
        if delivery.fanout is not None:
            delivery.fanout.withdraw(delivery)
        if self._dirty:
            self._dirty.pop(delivery, None)
        if self._transfers:
            self._transfers = deque(t for t in self._transfers if t.delivery is not delivery)

    def transfer(
        self, delivery: Delivery, head: bytes, tails: Sequence[bytes], on_complete: OnComplete
    ) -> None:
        """Sends a snapshot, part by part, as the socket takes it; `on_complete` after the last part.

        `tails` are shared with other clients and must not be changed.
        """
        if self._transfers is None:
            self._transfers = deque()
        self._transfers.append(_Transfer(delivery, head, tails, on_complete))
        self.pump()

    def pause(self) -> None:
        """The socket's buffer is full (asyncio: pause_writing)."""
        self._leave_direct()
        self.congested = True

    def resume(self) -> None:
        """The socket's buffer has drained (asyncio: resume_writing)."""
        self.congested = False
        self.pump()
        if not self.congested:
            self._wake()

    def close(self) -> None:
        """The connection is gone or closing: nothing is sent from here on, nobody waits for it."""
        self.closed = True
        self._dirty = self._transfers = None
        # The descriptor may be another's soon; what is still to be said goes through the transport.
        self._leave_direct()
        self._fd = -1
        self._wake()

    def pump(self) -> None:
        """Sends what is waiting until the socket is full: snapshots first, then dirty items."""
        while not self.congested and not self.closed:
            if self._transfers:
                self._send_part(self._transfers)
            elif self._dirty:
                delivery = next(iter(self._dirty))
                del self._dirty[delivery]
                if delivery.drain_chunk():
                    self.mark_dirty(delivery)  # behind the others: topics take turns
            else:
                self._transfers = self._dirty = None
                return

    async def wait_writable(self) -> bool:
        """Waits until the socket takes more (the slow-client deadline bounds it). False: it is closed."""
        while self.congested and not self.closed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters = [*(self._waiters or ()), waiter]
            await waiter
        return not self.closed

    def _send_part(self, transfers: deque[_Transfer]) -> None:
        transfer = transfers[0]
        self.send("snapshot", transfer.head + transfer.tails[transfer.next])
        transfer.next += 1
        if transfer.next == len(transfer.tails):
            transfers.popleft()
            transfer.on_complete(transfer.delivery)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
