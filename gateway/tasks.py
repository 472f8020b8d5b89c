from collections.abc import Coroutine
from typing import Protocol

from gateway.topic_state import TopicState

__all__ = ["TaskOwner"]


class TaskOwner(Protocol):
    """Who runs what can not be done at once (gateway.hub.Hub)."""

    def spawn(self, work: Coroutine[None, None, None]) -> None: ...
    def settle(self, topic: TopicState) -> None: ...
    def repair(self, topic: TopicState) -> None: ...
