"""Who is connected, and which view of a topic they get."""

from dataclasses import dataclass
from enum import StrEnum

from protocol.errors import ErrorCode, ProtocolError
from protocol.topics import Topic, TopicKind

__all__ = ["Principal", "View"]


class View(StrEnum):
    EXACT = "exact"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Principal:
    """`name` is what `welcome` says; the permissions decide from the topic's name alone, never from data."""

    name: str
    may_exact: bool
    may_public: bool

    def view_for(self, topic: Topic, asked: View | None) -> View:
        """The view a subscription gets: the one asked for, else exact where permitted, else public.

        Raises ProtocolError `forbidden`; there is no public view of a vendor.
        """
        if asked is View.EXACT or (asked is None and self.may_exact) or topic.kind is TopicKind.VENDOR:
            if asked is View.PUBLIC:
                raise self._forbidden(topic, "a vendor topic has no public view; leave `view` out")
            if not self.may_exact:
                raise self._forbidden(topic, "the exact view needs the permission inv:read:exact")
            return View.EXACT
        if not self.may_public:
            raise self._forbidden(topic, "the public view needs the permission inv:read:public")
        return View.PUBLIC

    @staticmethod
    def _forbidden(topic: Topic, message: str) -> ProtocolError:
        return ProtocolError(ErrorCode.FORBIDDEN, message, topic=str(topic))
