"""Where this replica stands in one topic, and who follows it."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum, auto
from itertools import count
from typing import Final

from gateway.fanout import Fanout
from gateway.outgoing import Delivery
from gateway.scoping import Scoping, wire_epoch
from protocol.dialects import Dialect
from protocol.envelope import Changed
from protocol.items import Item
from protocol.principal import Scope, View
from protocol.public_view import PublicView
from protocol.scoped_view import shown_changes
from protocol.subscription import Signal, SubscriptionState
from protocol.topics import Topic

__all__ = ["Outcome", "TopicState"]

# Messages kept while the first position of a topic is not known yet; what is lost of them shows as a gap.
BACKLOG: Final = 256

_projections: Final = count(1)

MakeFanout = Callable[[str, Dialect], Fanout]


class Outcome(Enum):
    """What a message from the bus has meant for the topic."""

    ACCEPTED = auto()
    IGNORED = auto()
    GAP = auto()
    OTHER_EPOCH = auto()


class TopicState:
    """The position of a topic as received from the bus, and its fan-outs, one per view, dialect and scope.

    `epoch` is None while no position is known: before the first load, and again once the topic is void.
    """

    def __init__(self, topic: Topic, make_fanout: MakeFanout) -> None:
        self.topic = topic
        self.name = str(topic)
        self.epoch: str | None = None
        self.seq = 0
        self.handed_seq = 0  # the highest one that a client is known to have in this epoch
        self.behind_of = 0  # the highest sequence seen beyond a hole
        self.large = False
        self.doubtful = False  # whether its epoch still stands
        self.settling = False
        self.repairing = False
        self.waiting: dict[Delivery, None] = {}
        self.projection: PublicView | None = None
        self.projection_number = 0  # of this process: no two have the same
        self._make_fanout = make_fanout
        self.scoping: Scoping | None = None  # while somebody follows a part of it
        self._fanouts: dict[tuple[View, str, Scope | None], Fanout] = {}
        self._backlog: deque[Changed] = deque(maxlen=BACKLOG)
        self._unprojected: list[Changed] | None = None

    @property
    def unused(self) -> bool:
        return not self.waiting and all(fanout.empty for fanout in self._fanouts.values())

    @property
    def size(self) -> int:
        """Clients that follow the topic."""
        served = sum(fanout.size for fanout in self._fanouts.values())
        return served + sum(delivery.fanout is None for delivery in self.waiting)

    @property
    def has_hole(self) -> bool:
        return self.epoch is not None and self.behind_of > self.seq

    @property
    def fanouts(self) -> Collection[Fanout]:
        return self._fanouts.values()

    def deliveries(self) -> Iterator[Delivery]:
        for fanout in self._fanouts.values():
            yield from fanout.deliveries

    def join(self, delivery: Delivery) -> Fanout:
        """The delivery takes part in the broadcasts of its view from here on."""
        subscription, dialect = delivery.subscription, delivery.outgoing.dialect
        key = (subscription.view, dialect.subprotocol, subscription.scope)
        fanout = self._fanouts.get(key)
        if fanout is None:
            fanout = self._fanouts[key] = self._make_fanout(self.name, dialect)
            fanout.start(wire_epoch(self.epoch or "", subscription.scope), self.seq)
        fanout.join(delivery)
        return fanout

    def leave(self, delivery: Delivery) -> None:
        """The client has left, or is gone. What nobody follows any more is dropped."""
        self.waiting.pop(delivery, None)
        for key, fanout in list(self._fanouts.items()):
            fanout.leave(delivery)
            if fanout.empty:
                fanout.stop()
                del self._fanouts[key]
        if not any(view is View.PUBLIC for view, _, _ in self._fanouts):
            self.projection = self._unprojected = None
        if self.scoping is not None and all(scope is None for _, _, scope in self._fanouts):
            self.scoping = None

    def receive(self, message: Changed) -> Outcome:
        """Takes a change from the bus, if it is the next one."""
        if self.epoch is None:
            self._backlog.append(message)
            return Outcome.IGNORED
        if message.epoch != self.epoch:
            return Outcome.OTHER_EPOCH
        if message.seq <= self.seq:
            return Outcome.IGNORED
        if message.seq > self.seq + 1:
            self.behind_of = max(self.behind_of, message.seq)
            return Outcome.GAP
        self._accept(message)
        return Outcome.ACCEPTED

    def adopt(self, epoch: str, seq: int) -> list[Changed]:
        """Starts from a position that was read. Returns the messages that came while it was not known."""
        self.epoch = epoch
        self.seq = self.behind_of = self.handed_seq = seq
        for (_, _, scope), fanout in self._fanouts.items():
            fanout.start(wire_epoch(epoch, scope), seq)
        backlog = [message for message in self._backlog if message.epoch == epoch]
        self._backlog.clear()
        return backlog

    def prove(self, seq: int) -> None:
        """The topic has come as far as `seq` in this epoch, whatever the bus has brought."""
        self.handed_seq = max(self.handed_seq, seq)
        self.behind_of = max(self.behind_of, seq)

    def begin_snapshot(self, delivery: Delivery, seq: int) -> None:
        """The client, who waited, is sent a snapshot of this position from here on."""
        del self.waiting[delivery]
        self.handed_seq = max(self.handed_seq, seq)
        subscription = delivery.subscription
        subscription.epoch, subscription.seq = wire_epoch(self.epoch or "", subscription.scope), seq
        subscription.signal(Signal.SNAPSHOT_BEGINS)
        delivery.seq = seq
        if delivery.fanout is not None and delivery.fanout.sent_seq <= seq:
            delivery.clear_dirty()

    def end_snapshot(self, delivery: Delivery, ready_seq: int) -> None:
        """Its last part has gone out; its items may be of up to `ready_seq`."""
        if delivery.subscription.state is SubscriptionState.SENDING:
            delivery.subscription.signal(Signal.SNAPSHOT_ENDS)
            self.complete(delivery, ready_seq)

    def complete(self, delivery: Delivery, ready_seq: int) -> None:
        """The client has been sent all up to `ready_seq`, or its last part: broadcasts go on from there."""
        if delivery.fanout is not None:
            delivery.fanout.complete(delivery, ready_seq)

    def send_back(self, delivery: Delivery) -> None:
        """What this client was being sent has come to nothing: it waits for another snapshot."""
        for fanout in self._fanouts.values():
            fanout.leave(delivery)
        delivery.restart()
        self.waiting[delivery] = None

    def restart(self) -> None:
        """The topic is void: everybody waits for a new snapshot."""
        self.epoch = None
        self.large = self.doubtful = False
        self.projection = self._unprojected = self.scoping = None
        for fanout in self._fanouts.values():
            fanout.stop()
        for delivery in list(self.deliveries()):
            self.send_back(delivery)
        self._fanouts.clear()

    def begin_projection(self) -> list[Changed]:
        """The public view is about to be computed from a read. Changes from here on are kept in the list
        that is returned, for as long as somebody follows the public view in this epoch."""
        if self._unprojected is None:
            self._unprojected = []
        return self._unprojected

    def project(self, view: PublicView, changes: list[Changed]) -> bool:
        """The public view was loaded from a read that began after begin_projection() returned `changes`.

        False: it has come to nothing meanwhile, begin again.
        """
        if changes is not self._unprojected:
            return False
        for message in changes:
            view.apply(message.items)
        self._unprojected = None
        self.projection = view
        self.projection_number = next(_projections)
        return True

    def _accept(self, message: Changed) -> None:
        self.seq = message.seq
        visible = None
        if self._unprojected is not None:
            self._unprojected.append(message)
        elif self.projection is not None:
            visible = self.projection.apply(message.items)
        moves = None if self.scoping is None else self.scoping.take(message)
        for (view, _, scope), fanout in self._fanouts.items():
            if scope is not None:
                items: Sequence[Item] | None = shown_changes(scope, moves or ())
            else:
                items = message.items if view is View.EXACT else visible
            if items:
                fanout.change(items, message.seq, message.changed_at_ms)
            else:
                fanout.advance(message.seq)
