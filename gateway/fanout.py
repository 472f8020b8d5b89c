"""What everybody who follows one view of one topic is sent: encoded once, written many times.

The first change goes out at once (leading edge); those of the following `flush_s` go out together, the
latest version of each item only. A burst costs a client a bounded number of frames a second.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from gateway.direct import DirectDeliveries
from gateway.frames import text_frame
from gateway.metrics import GatewayMetrics
from gateway.outgoing import Delivery
from protocol.dialects import DELTA_ITEMS_BYTES, Dialect
from protocol.items import Item, split_by_size

__all__ = ["Fanout"]

# What one flush hands to the sockets at the most; the rest stays conflated until the next turn of the loop,
# so that a bulk update of a large topic holds up neither heartbeats nor other topics.
FLUSH_BYTES: Final = 512 * 1024


class Fanout:
    """One view of one topic in one dialect, and the deliveries that take part in it.

    A delivery joins before its snapshot is read, is marked dirty meanwhile, and goes live when its snapshot
    is complete and the broadcasts have come as far as the snapshot did: from there on both stand at
    the same position, `sent_seq`.
    """

    __slots__ = (
        "_changed_at_ms",
        "_direct",
        "_epoch",
        "_flush_s",
        "_indirect",
        "_metrics",
        "_now_ms",
        "_pending",
        "_seq",
        "_timer",
        "dialect",
        "joining",
        "sent_seq",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        dialect: Dialect,
        metrics: GatewayMetrics,
        *,
        flush_s: float,
        now_ms: Callable[[], float] = lambda: time.time() * 1000,
    ) -> None:
        self.topic = topic
        self.dialect = dialect
        self.joining: dict[Delivery, None] = {}
        # The live ones, each in one of the two: how it is to be sent something has to be asked, or is known.
        self._indirect: dict[Delivery, None] = {}
        self._direct = DirectDeliveries()
        self.sent_seq = 0
        self._epoch = ""
        self._seq = 0
        self._pending: dict[str, Item] = {}
        self._changed_at_ms = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._flush_s = flush_s
        self._metrics = metrics
        self._now_ms = now_ms

    @property
    def deliveries(self) -> list[Delivery]:
        return [*self._direct.deliveries, *self._indirect, *self.joining]

    @property
    def size(self) -> int:
        return len(self._direct) + len(self._indirect) + len(self.joining)

    @property
    def empty(self) -> bool:
        return not self.size

    def start(self, epoch: str, seq: int) -> None:
        """Begins an epoch at `seq`: whatever was pending belongs to the past."""
        self.stop()
        self._epoch = epoch
        self._seq = self.sent_seq = seq

    def stop(self) -> None:
        """Nothing more is sent."""
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def join(self, delivery: Delivery) -> None:
        """From here on the delivery misses nothing; call it before its snapshot is read."""
        delivery.fanout = self
        self.joining[delivery] = None

    def leave(self, delivery: Delivery) -> None:
        self._direct.discard(delivery)
        self._indirect.pop(delivery, None)
        self.joining.pop(delivery, None)

    def withdraw(self, delivery: Delivery) -> None:
        """Its socket is not to be written to directly from here on."""
        if self._direct.discard(delivery):
            self._indirect[delivery] = None

    def complete(self, delivery: Delivery, ready_seq: int) -> None:
        """The delivery's snapshot has gone out; it may hold items of up to `ready_seq`."""
        delivery.ready_seq = ready_seq
        self._promote([delivery])

    def change(self, items: Iterable[Item], seq: int, changed_at_ms: float) -> None:
        """The topic has moved to `seq`."""
        self._seq = seq
        if not self._pending:
            self._changed_at_ms = changed_at_ms
        for item in items:
            held = self._pending.get(item.key)
            if held is None or held.version < item.version:
                self._pending[item.key] = item
        if self._timer is None:
            self._flush()

    def advance(self, seq: int) -> None:
        """The topic has moved to `seq` without a change that this view can see."""
        self._seq = seq
        if not self._pending:
            self.sent_seq = seq
            if self.joining:
                self._promote(list(self.joining))

    def _flush(self) -> None:
        self._timer = None
        if not self._pending:
            return
        budget = FLUSH_BYTES
        while self._pending and budget > 0:
            chunk = next(split_by_size(self._pending.values(), DELTA_ITEMS_BYTES))
            for item in chunk:
                del self._pending[item.key]
                budget -= len(item.body)
            self._broadcast(chunk, self.sent_seq if self._pending else self._seq)
        delay = self._flush_s if not self._pending else min(self._flush_s, 0.001)
        self._timer = asyncio.get_running_loop().call_later(delay, self._flush)

    def _broadcast(self, items: list[Item], seq: int) -> None:
        """One message of at most 64 KiB; `seq` is the previous one while more of the same change follows."""
        metrics = self._metrics
        started = time.perf_counter()
        payload = self.dialect.deltas(self.topic, self._epoch, seq, seq, items)[0]
        frame = text_frame(payload)
        encoded = time.perf_counter()
        written, conflated = len(self._direct), 0
        drained = []
        for delivery in self._indirect:
            outgoing = delivery.outgoing
            if outgoing.congested:
                conflated += delivery.conflate(items, self.sent_seq)
            else:
                outgoing.write(frame)
                written += 1
                if outgoing.direct:
                    drained.append(delivery)
        for delivery, sent in self._direct.write(frame):
            delivery.outgoing.fall_back(frame, sent)
        for delivery in drained:
            del self._indirect[delivery]
            self._direct.add(delivery)
        for delivery in self.joining:
            conflated += delivery.conflate(items, self.sent_seq)
        self.sent_seq = seq
        metrics.sent("delta", written, written * len(frame))
        metrics.conflated += conflated
        metrics.encode.observe(encoded - started)
        if written:
            metrics.fan_out.observe(time.perf_counter() - encoded)
            metrics.commit_to_send.observe(max(0.0, self._now_ms() - self._changed_at_ms) / 1000)
        if self.joining:
            self._promote(list(self.joining))

    def _promote(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.ready_seq is not None and self.sent_seq >= delivery.ready_seq:
                del self.joining[delivery]
                self._indirect[delivery] = None
                delivery.promote()
