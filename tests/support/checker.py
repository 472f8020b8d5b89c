"""A client's copies, kept by the rule of the contract, with every promise of the server checked."""

from typing import Any

from protocol.envelope import Position
from protocol.items import Copy, item_key
from protocol.principal import View

__all__ = ["CheckedCopies"]


class CheckedCopies:
    """Feed it what one connection is sent. AssertionError for anything the contract rules out.

    `held` are the topics that are subscribed to, kept by whoever subscribes.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.copies: dict[str, Copy] = {}
        self.held: dict[str, View] = {}
        self.views: dict[str, View] = {}  # what each copy is a copy of
        self._positions: dict[str, tuple[str, int]] = {}
        self._complete: dict[str, bool] = {}

    def receive(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        topic = message.get("topic", "")
        if message["type"] in ("snapshot", "resumed", "delta"):
            assert topic in self.held, f"{message} for a topic that was left"
        if message["type"] == "snapshot":
            self._snapshot(topic, message)
        elif message["type"] == "resumed":
            assert self._positions[topic] == (message["epoch"], message["seq"])
            self._complete[topic] = True
        elif message["type"] == "delta":
            assert self._complete[topic], "a delta before the snapshot's last part"
            epoch, seq = self._positions[topic]
            assert epoch == message["epoch"]
            assert seq <= message["seq"]
            self._positions[topic] = (epoch, message["seq"])
            self._apply(topic, message["items"])

    def reconnected(self) -> None:
        """The promises of one connection end with it; the copies stay."""
        self._complete = dict.fromkeys(self._complete, False)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    def is_complete(self, topic: str) -> bool:
        return self._complete.get(topic, False)

    def position(self, topic: str) -> Position:
        return Position(*self._positions[topic])

    def holds(self, topic: str) -> dict[str, int]:
        """Versions by key."""
        return {key: item["version"] for key, item in self.copies[topic].items.items()}

    def _snapshot(self, topic: str, message: dict[str, Any]) -> None:
        copy = self.copies.setdefault(topic, Copy())
        if message["part"] == 1:
            epoch, seq = self._positions.get(topic, ("", 0))
            assert epoch != message["epoch"] or message["seq"] >= seq, "a snapshot went back"
            copy.reset()
            self.views[topic] = self.held[topic]
        self._positions[topic] = (message["epoch"], message["seq"])
        self._complete[topic] = message["last"]
        self._apply(topic, message["items"])

    def _apply(self, topic: str, items: list[dict[str, Any]]) -> None:
        copy = self.copies[topic]
        for item in items:
            key = item_key(item)
            assert item["version"] >= copy.version(key), f"{key} went back"
        copy.apply(items)
