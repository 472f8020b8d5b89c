"""What the HTTP side needs from the rest of the gateway."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.auth.signatures import SignatureReason
from protocol.errors import ProtocolError
from protocol.items import Item
from protocol.principal import Principal, View
from protocol.topics import Topic

__all__ = [
    "Authority",
    "CachedSnapshot",
    "IssuedTicket",
    "Readiness",
    "Signatures",
    "SnapshotSource",
    "Tickets",
]


class CachedSnapshot(NamedTuple):
    """A topic as one view shows it. `hit`: it was here already and has not moved. `held`: an older one of
    the same epoch was here, or this one."""

    items: Sequence[Item]
    hit: bool
    held: bool


class SnapshotSource(Protocol):
    async def snapshot(self, topic: Topic, view: View) -> CachedSnapshot:
        """Raises ProtocolError, `unavailable` (with a time to come back) or `topic_too_large`, nothing else.

        A topic nobody has rows for has no items. Tombstones may be among the items.
        """
        ...


class Authority(Protocol):
    async def check(self, token: str) -> Principal:
        """Whose the token is. Raises ProtocolError, `unauthenticated`, `token_expired` or `unavailable`."""
        ...


class Signatures(Protocol):
    async def check(
        self, headers: Mapping[str, Sequence[str]], read_body: Callable[[], Awaitable[bytes]]
    ) -> Principal:
        """Who has signed the request. Raises ProtocolError, `unauthenticated` or `unavailable`, and what
        `read_body` raises."""
        ...

    def refused(self, reason: SignatureReason) -> ProtocolError:
        """For one that can not be checked at all; it counts."""
        ...


class IssuedTicket(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def expires_in_s(self) -> int: ...


class Tickets(Protocol):
    async def issue(self, principal: Principal) -> IssuedTicket:
        """Raises ProtocolError `unavailable`."""
        ...


class Readiness(Protocol):
    def not_ready(self) -> Sequence[str]:
        """Why this process should get no clients, one line each without secrets; empty when it should."""
        ...
