"""One topic as one connection holds it."""

from enum import Enum, auto
from typing import Final

from protocol.principal import Scope, View

__all__ = ["TRANSITIONS", "IllegalTransition", "Signal", "Subscription", "SubscriptionState"]


class SubscriptionState(Enum):
    WAITING = auto()  # for its snapshot or for what it missed; nothing of the topic has been sent
    SENDING = auto()  # a snapshot is under way, its last part is not yet sent
    LIVE = auto()  # deltas may be sent
    CLOSED = auto()  # nothing may be sent, ever


class Signal(Enum):
    SNAPSHOT_BEGINS = auto()
    SNAPSHOT_ENDS = auto()
    RESUMED = auto()
    REFUSED = auto()
    LEFT = auto()
    RESTART = auto()  # what the client holds is void, or what was being sent: a new snapshot is needed


_S = SubscriptionState
TRANSITIONS: Final = {
    (_S.WAITING, Signal.SNAPSHOT_BEGINS): _S.SENDING,
    (_S.WAITING, Signal.RESUMED): _S.LIVE,
    (_S.WAITING, Signal.REFUSED): _S.CLOSED,
    (_S.WAITING, Signal.LEFT): _S.CLOSED,
    (_S.WAITING, Signal.RESTART): _S.WAITING,
    (_S.SENDING, Signal.SNAPSHOT_ENDS): _S.LIVE,
    (_S.SENDING, Signal.REFUSED): _S.CLOSED,
    (_S.SENDING, Signal.LEFT): _S.CLOSED,
    (_S.SENDING, Signal.RESTART): _S.WAITING,
    (_S.LIVE, Signal.REFUSED): _S.CLOSED,
    (_S.LIVE, Signal.LEFT): _S.CLOSED,
    (_S.LIVE, Signal.RESTART): _S.WAITING,
}


class IllegalTransition(RuntimeError):
    """A bug of ours: the session was told something that can not happen in this state."""


class Subscription:
    """Compared by identity: subscribing again to a topic makes another one.

    `scope`: what its items are filtered by, None for nothing. `epoch` and `seq` are what the client has been
    sent, empty and 0 at first. `state` is an attribute and not a property because the fan-out reads it once a
    delivery; only `signal` writes it.
    """

    __slots__ = ("epoch", "id", "scope", "seq", "state", "topic", "view")

    def __init__(self, topic: str, id: str | None, view: View, scope: Scope | None = None) -> None:  # noqa: A002 - the wire's own name
        self.topic = topic
        self.id = id
        self.view = view
        self.scope = scope
        self.state = SubscriptionState.WAITING
        self.epoch = ""
        self.seq = 0

    def signal(self, signal: Signal) -> None:
        """Raises IllegalTransition for what is not in the table."""
        try:
            self.state = TRANSITIONS[self.state, signal]
        except KeyError:
            raise IllegalTransition(f"{self!r}: no {signal.name} here") from None

    def __repr__(self) -> str:
        return f"<Subscription {self.topic} {self.view} {self.state.name} {self.epoch}:{self.seq}>"
