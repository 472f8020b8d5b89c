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
        self.checked = 0  # items
        self.asked: dict[str, Position] = {}  # where a subscription was to go on from
        self._positions: dict[str, tuple[str, int]] = {}
        self._complete: dict[str, bool] = {}
        self._floors: dict[str, dict[str, int]] = {}  # what the last snapshot of the same epoch had reached

    def receive(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        topic = message.get("topic", "")
        if message["type"] in ("snapshot", "resumed", "delta"):
            assert topic in self.held, f"{message} for a topic that was left"
        if message["type"] == "snapshot":
            self._snapshot(topic, message)
        elif message["type"] == "resumed":
            position = (message["epoch"], message["seq"])
            assert position == self.asked.pop(topic, self._positions[topic])
            self._positions[topic] = position  # what came since it was asked for comes again
            self._complete[topic] = True
        elif message["type"] == "delta":
            assert self._complete[topic], "a delta before the snapshot's last part"
            epoch, seq = self._positions[topic]
            assert epoch == message["epoch"]
            assert seq <= message["seq"]
            self._positions[topic] = (epoch, message["seq"])
            self._apply(topic, message["items"])

    def reconnected(self) -> None:
        """The promises of one connection end with it; the copies stay.

        An exact copy goes on from where it was, on whichever replica. A public one has versions of its
        replica's own making, and begins anew.
        """
        self._complete = dict.fromkeys(self._complete, False)
        for topic, view in self.views.items():
            if view is View.PUBLIC:
                self._positions.pop(topic, None)
                self.copies.pop(topic, None)

    def left(self, topic: str) -> None:
        """The topic is not held any more, and its copy is thrown away."""
        for kept in (self.copies, self.views, self._positions, self._complete, self._floors):
            kept.pop(topic, None)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    def is_complete(self, topic: str) -> bool:
        return self._complete.get(topic, False)

    def position(self, topic: str) -> Position:
        return Position(*self._positions[topic])

    def holds(self, topic: str) -> dict[str, int]:
        """Versions by key."""
        return {key: item["version"] for key, item in self.copies[topic].items.items()}

    def equals(self, topic: str, expected: dict[str, dict[str, Any]]) -> bool:
        """Whether the copy says what the database says: its stock, and the products that belong to it."""
        return self.is_complete(topic) and not self.differences(topic, expected)

    def differences(self, topic: str, expected: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """What the copy says, and what it should say, by key."""
        items = self.copies[topic].items
        if topic.startswith("location:"):
            sold = {item["product_id"] for item in items.values() if item["kind"] == "stock"}
            items = {k: i for k, i in items.items() if i["kind"] == "stock" or i["product_id"] in sold}
        found = {
            # A copy that is not there yet may lack a member: `only_left` is there only while few are.
            key: {name: item.get(name) for name in expected.get(key, {})}
            for key, item in items.items()
        }
        keys = found.keys() | expected.keys()
        return {k: (found.get(k), expected.get(k)) for k in keys if found.get(k) != expected.get(k)}

    def _snapshot(self, topic: str, message: dict[str, Any]) -> None:
        copy = self.copies.setdefault(topic, Copy())
        if message["part"] == 1:
            epoch, seq = self._positions.get(topic, ("", 0))
            assert epoch != message["epoch"] or message["seq"] >= seq, "a snapshot went back"
            self._floors[topic] = copy.versions() if epoch == message["epoch"] else {}
            copy.reset()
            self.views[topic] = self.held[topic]
        self._positions[topic] = (message["epoch"], message["seq"])
        self._complete[topic] = message["last"]
        self._apply(topic, message["items"])

    def _apply(self, topic: str, items: list[dict[str, Any]]) -> None:
        copy, floors = self.copies[topic], self._floors[topic]
        for item in items:
            key = item_key(item)
            assert item["version"] >= max(copy.version(key), floors.get(key, -1)), f"{key} went back"
        self.checked += len(items)
        copy.apply(items)
