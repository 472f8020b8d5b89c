"""The connections that hear `stale` alone, while this replica is fresh: those whose topics are not served."""

from collections.abc import Iterator
from typing import NamedTuple

from gateway.outgoing import Delivery, Outgoing
from gateway.topic_state import TopicState
from protocol.subscription import SubscriptionState

__all__ = ["Doubts"]


class _Goal(NamedTuple):
    """It is served again once it is live, and has been sent so much of this epoch or is in another."""

    topic: TopicState
    epoch: str | None
    seq: int


class Doubts:
    """Which connections hold a copy that is not kept: its topic is being loaded anew, or has a hole.

    Only topics that are worked on (`watch`) are looked at, and only what is in doubt is remembered. Times
    are those of the event loop, in s.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._watched: dict[TopicState, None] = {}
        self._holes: dict[TopicState, tuple[float, int]] = {}  # since when, up to which seq
        self._goals: dict[Delivery, _Goal] = {}
        self._connections: dict[Outgoing, int] = {}  # how many of its deliveries

    def __contains__(self, outgoing: Outgoing) -> bool:
        return outgoing in self._connections

    def __len__(self) -> int:
        return len(self._connections)

    def watch(self, topic: TopicState) -> None:
        """It is settled or repaired from now on."""
        self._watched[topic] = None

    def sweep(self, now: float, *, doubt: bool = True) -> list[Outgoing]:
        """Call it several times a canary period. Returns the connections that are in doubt from now on.

        `doubt`: False while everybody is told `stale` anyway.
        """
        self._forget_settled(now)
        if not doubt:
            return []
        limit = now - self._patience_s
        return self._doubt((topic, d) for topic in self._watched for d in self._overdue(topic, limit))

    def clear(self) -> list[Outgoing]:
        """Returns the connections whose topics are all served again."""
        served = [delivery for delivery, goal in self._goals.items() if _is_served(delivery, goal)]
        if not served:
            return []
        left: set[Outgoing] = set()
        for delivery in served:
            del self._goals[delivery]
            outgoing = delivery.outgoing
            self._connections[outgoing] -= 1
            if self._connections[outgoing] == 0:
                del self._connections[outgoing]
                left.add(outgoing)
        # Whatever else of theirs is not served at the moment was no reason to doubt, but it is one to wait.
        self._doubt((t, d) for t in self._watched for d in _unserved(t) if d.outgoing in left)
        return [outgoing for outgoing in left if outgoing not in self._connections]

    def doubt_all(self) -> None:
        """Before `fresh` is told: whoever holds a copy that is not kept has to wait for it, however short."""
        self._doubt((topic, delivery) for topic in self._watched for delivery in _unserved(topic))

    def _overdue(self, topic: TopicState, limit: float) -> Iterator[Delivery]:
        """Those who have been without service since before `limit`."""
        since, _ = self._holes.get(topic, (limit, 0))
        if since < limit:
            yield from _unserved(topic)
            return
        for delivery in topic.waiting:
            if delivery.holds_copy and delivery.waiting_since < limit:
                yield delivery

    def _doubt(self, found: Iterator[tuple[TopicState, Delivery]]) -> list[Outgoing]:
        doubted = []
        for topic, delivery in found:
            if delivery in self._goals:
                continue
            outgoing = delivery.outgoing
            self._goals[delivery] = _Goal(topic, topic.epoch, max(topic.seq, topic.behind_of))
            count = self._connections.get(outgoing, 0)
            self._connections[outgoing] = count + 1
            if count == 0:
                doubted.append(outgoing)
        return doubted

    def _forget_settled(self, now: float) -> None:
        """What nobody works on any more is well; a hole that is filled and followed by another is another."""
        for topic in list(self._watched):
            if not topic.settling and not topic.repairing and not any(f.joining for f in topic.fanouts):
                del self._watched[topic]
                self._holes.pop(topic, None)
            elif not topic.has_hole:
                self._holes.pop(topic, None)
            elif topic.seq >= self._holes.get(topic, (now, 0))[1]:
                self._holes[topic] = (now, topic.behind_of)


def _unserved(topic: TopicState) -> Iterator[Delivery]:
    """Of those who hold a copy: who waits, is being sent a snapshot, or has not been sent all there is."""
    yield from (delivery for delivery in topic.waiting if delivery.holds_copy)
    goal = _Goal(topic, topic.epoch, max(topic.seq, topic.behind_of))
    for fanout in topic.fanouts:
        found = fanout.joining if fanout.sent_seq >= goal.seq else fanout.deliveries
        yield from (d for d in found if d.holds_copy and not _is_served(d, goal))


def _is_served(delivery: Delivery, goal: _Goal) -> bool:
    state, fanout = delivery.subscription.state, delivery.fanout
    if state is SubscriptionState.CLOSED:
        return True
    if state is not SubscriptionState.LIVE or fanout is None:
        return False
    return goal.topic.epoch != goal.epoch or fanout.sent_seq >= goal.seq
