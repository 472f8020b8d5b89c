"""What `tail` remembers of the topics it follows, without any I/O."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from protocol.errors import ErrorCode

__all__ = ["Following"]

# The contract's bound on one `subscribe`.
TOPICS_A_MESSAGE: Final = 100
# Refusals that pass by themselves, and how long to wait where the error does not say.
_PASSING: Final = (ErrorCode.UNAVAILABLE, ErrorCode.RATE_LIMITED, ErrorCode.INTERNAL)
_RETRY_S: Final = 1.0


class Following:
    """Topics, and where a complete copy of each stands: only from there may a client resume.

    Time is passed in, in seconds of any clock.
    """

    def __init__(self, topics: Sequence[str], view: str | None = None) -> None:
        self.welcomed = False
        self.reconnect_after_s: float | None = None  # the server has asked to leave and come back then
        self._topics = list(dict.fromkeys(topics))
        self._view = view
        self._positions: dict[str, tuple[str, int]] = {}
        self._due: dict[str, float] = {}
        self._heartbeat_s: float | None = None

    def disconnected(self) -> None:
        """A new connection begins: everything is to be subscribed, and what the last one said is void."""
        self.welcomed = False
        self.reconnect_after_s = None
        self._due = dict.fromkeys(self._topics, -math.inf)

    def due(self, now: float) -> list[bytes]:
        """The messages that subscribe to what is due, resuming where possible."""
        topics = [topic for topic, when in self._due.items() if when <= now]
        for topic in topics:
            del self._due[topic]
        return [
            self._request(topics[start : start + TOPICS_A_MESSAGE])
            for start in range(0, len(topics), TOPICS_A_MESSAGE)
        ]

    def next_due(self) -> float:
        """When to ask for `due` again; infinity: never."""
        return min(self._due.values(), default=math.inf)

    def patience_s(self, unknown_s: float) -> float:
        """After such a silence a client should reconnect: twice heartbeat_s, as soon as that is known."""
        return unknown_s if self._heartbeat_s is None else max(2 * self._heartbeat_s, 1.0)

    def received(self, text: str, now: float) -> None:
        """Takes one message of the server; what it does not know it ignores."""
        message: dict[str, Any] = orjson.loads(text)
        topic = message.get("topic", "")
        match message.get("type"):
            case "welcome":
                self.welcomed = True
                self._heartbeat_s = message["heartbeat_s"]
            case "snapshot" if not message["last"]:
                # From the first part on the old copy is gone and the new one is not complete.
                self._positions.pop(topic, None)
            case "snapshot" | "resumed" | "delta":
                self._positions[topic] = message["epoch"], message["seq"]
            case "unsubscribed":
                self._positions.pop(topic, None)
            case "error" if topic in self._topics:
                self._positions.pop(topic, None)
                if message["code"] in _PASSING:
                    self._due[topic] = now + (message.get("retry_after_ms") or _RETRY_S * 1000) / 1000
            case "reconnect":
                self.reconnect_after_s = message["after_ms"] / 1000

    def _request(self, topics: Iterable[str]) -> bytes:
        message: dict[str, Any] = {"type": "subscribe", "topics": list(topics)}
        if self._view is not None:
            message["view"] = self._view
        resume = {
            topic: dict(zip(("epoch", "seq"), self._positions[topic], strict=True))
            for topic in message["topics"]
            if topic in self._positions
        }
        return orjson.dumps(message | ({"resume": resume} if resume else {}))
