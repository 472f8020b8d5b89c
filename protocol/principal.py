"""Who is connected, which view of a topic they get, and how much of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.errors import ErrorCode, ProtocolError
from protocol.topics import Topic, TopicKind

__all__ = ["EVERY", "Permission", "Principal", "Scope", "View"]

# What `vendor_id` and `locations` say for no limit.
EVERY: Final = "*"


class View(StrEnum):
    EXACT = "exact"
    PUBLIC = "public"


class Permission(StrEnum):
    READ_PUBLIC = "inv:read:public"
    READ_EXACT = "inv:read:exact"
    ADJUST = "inv:adjust"
    SET = "inv:set"
    COUNT = "inv:count"
    RESERVE = "inv:reserve"
    TRANSFER = "inv:transfer"


@dataclass(frozen=True, slots=True)
class Scope:
    """How much of a topic's exact items somebody may see; None stands for no limit.

    Products go by their vendor, stock by its vendor and its location.
    """

    vendor_id: str | None
    locations: frozenset[str] | None

    def covers(self, other: "Scope") -> bool:
        """Whether whoever has this scope may see all that `other` shows."""
        vendor = self.vendor_id is None or self.vendor_id == other.vendor_id
        if self.locations is None:
            return vendor
        return vendor and other.locations is not None and other.locations <= self.locations


NO_LIMIT: Final = Scope(None, None)


@dataclass(frozen=True, slots=True)
class Principal:
    """`name` is what `welcome` says: the subject of the token, or `anonymous`.

    `vendor_id`: None for no exact view of anything, `*` for every vendor. `locations`: None for all of them.
    Times are seconds since 1970; `expires_at` None: never.
    """

    name: str
    permissions: frozenset[str]
    vendor_id: str | None = None
    locations: frozenset[str] | None = frozenset()
    expires_at: float | None = None
    issued_at: float | None = None
    jti: str | None = None

    @classmethod
    def anonymous(cls, *, exact: bool) -> "Principal":
        """Who comes without credentials, where that is allowed."""
        permissions = {Permission.READ_PUBLIC, Permission.READ_EXACT} if exact else {Permission.READ_PUBLIC}
        return cls("anonymous", frozenset(permissions), vendor_id=EVERY if exact else None, locations=None)

    @property
    def may_exact(self) -> bool:
        """Whether there is any topic of which it may see the exact view."""
        return Permission.READ_EXACT in self.permissions and self.vendor_id is not None

    @property
    def may_public(self) -> bool:
        return Permission.READ_PUBLIC in self.permissions

    def view_for(self, topic: Topic, asked: View | None) -> View:
        """The view a subscription gets: the one asked for, else exact where permitted, else public.

        Decided from the topic's name alone, never from data. Raises ProtocolError `forbidden`; there is no
        public view of a vendor.
        """
        may_exact = self.may_exact and self._reaches(topic)
        if asked is View.EXACT or (asked is None and may_exact) or topic.kind is TopicKind.VENDOR:
            if asked is View.PUBLIC:
                raise self._forbidden(topic, "a vendor topic has no public view; leave `view` out")
            if not self.may_exact:
                raise self._forbidden(topic, "the exact view needs the permission inv:read:exact")
            if not may_exact:
                raise self._forbidden(topic, "these credentials are for other vendors or locations")
            return View.EXACT
        if not self.may_public:
            raise self._forbidden(topic, "the public view needs the permission inv:read:public")
        return View.PUBLIC

    def scope_for(self, topic: Topic, view: View) -> Scope | None:
        """What a subscription has to be filtered by; None: it is shown whole.

        Two principals that see the same of a topic have equal scopes there, so that it is computed once.
        The public view is the same for everybody.
        """
        if view is View.PUBLIC:
            return None
        vendor = None if self.vendor_id == EVERY else self.vendor_id
        # The name of the topic has said the rest (view_for).
        if topic.kind is TopicKind.VENDOR:
            vendor = None
        locations = None if topic.kind is TopicKind.LOCATION else self.locations
        return None if vendor is None and locations is None else Scope(vendor, locations)

    def still_covers(self, topic: Topic, view: View, scope: Scope | None) -> bool:
        """Whether a subscription that was made with other credentials is within these."""
        try:
            self.view_for(topic, view)
        except ProtocolError:
            return False
        return (self.scope_for(topic, view) or NO_LIMIT).covers(scope or NO_LIMIT)

    def is_same(self, other: "Principal") -> bool:
        """Whether both are credentials of one subject at one vendor: the one may be renewed by the other."""
        return (self.name, self.vendor_id) == (other.name, other.vendor_id)

    def _reaches(self, topic: Topic) -> bool:
        if topic.kind is TopicKind.VENDOR:
            return self.vendor_id in (EVERY, topic.id)
        if topic.kind is TopicKind.LOCATION:
            return self.locations is None or topic.id in self.locations
        return True

    @staticmethod
    def _forbidden(topic: Topic, message: str) -> ProtocolError:
        return ProtocolError(ErrorCode.FORBIDDEN, message, topic=str(topic))
