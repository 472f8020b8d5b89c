"""Everything the listeners raise of their own, in one tree.

ListenersError
├── Unavailable           a server can not be reached or is too busy: try again after retry_after_ms
│   ├── NoRelay           no relay has begun since Redis is empty: topics can not be opened yet
│   └── BusUnavailable    the bus did not confirm a subscription in time
├── Refused               a server answers and refuses (password, rights, version): only an operator can help
├── StaleTerm             another relay reigns: this one has to step down
├── UnknownReign          Redis knows of no such reign: the relay has to begin again
├── LoadLost              the topic's load belongs to somebody else now: open it again
├── EpochChanged          the topic was loaded anew while it was read: read it again
├── TopicTooLarge         the topic has more items than is allowed
├── MigrationError        migrations and database do not fit together
└── SourceError           a source file or the table it names can not be used
"""

__all__ = [
    "BusUnavailable",
    "EpochChanged",
    "ListenersError",
    "LoadLost",
    "MigrationError",
    "NoRelay",
    "Refused",
    "SourceError",
    "StaleTerm",
    "TopicTooLarge",
    "Unavailable",
    "UnknownReign",
]


class ListenersError(Exception):
    """The base of all errors of this package. The message is one line and carries no secret."""


class Unavailable(ListenersError):
    """Postgres or Redis can not be reached, or has no room for this now. Trying again may help."""

    def __init__(self, message: str, *, retry_after_ms: int = 1000) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class NoRelay(Unavailable):
    """No relay has announced its generation to Redis, so nobody would keep an opened topic current."""


class BusUnavailable(Unavailable):
    """The bus has not confirmed a subscription in time."""


class Refused(ListenersError):
    """A server was reached and says no: wrong password, missing rights, a version that is too old."""


class StaleTerm(ListenersError):
    """Another relay with another generation or a later term reigns over the topic store."""


class UnknownReign(ListenersError):
    """The topic store does not know this relay's generation and term: it restarted or lost the keys."""


class LoadLost(ListenersError):
    """The load of a topic was voided, or its lease ran out and another loader took it over."""


class EpochChanged(ListenersError):
    """What was read of a topic belongs to two epochs and must be thrown away."""


class TopicTooLarge(ListenersError):
    """A topic has more than `limit` items."""

    def __init__(self, topic: str, limit: int) -> None:
        super().__init__(f"{topic} has more than {limit} items")
        self.topic = topic
        self.limit = limit


class MigrationError(ListenersError):
    """The migrations on record and those of this version do not fit together."""


class SourceError(ListenersError):
    """A source can not be used; the message names the file, the field and what is allowed."""
