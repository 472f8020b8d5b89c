from dataclasses import dataclass, field

from listeners.change_log import PAGE_ROWS
from listeners.generation import Identity
from listeners.log_plan import LogPlan

__all__ = ["Mandate", "RelaySettings", "RelayStatistics", "RoundTrips"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    poll_ms: int = 10  # between the beginnings of two reads while writers are busy
    safety_poll_ms: int = 500  # the slow poll behind the notifications
    canary_ms: int = 1000
    probe_timeout_ms: int = 2000
    # Of one read: the first one of a large backlog sorts all of it (measured: 0.2 s for 100,000 rows), and
    # giving up would only begin it again. A server that froze is noticed by the lock's pings.
    read_timeout_ms: int = 300_000
    save_ms: int = 250  # at most so often is the position saved
    log_retention_s: int = 86_400  # so long do triggers log while no relay comes
    seen_ms: int = 5000  # how often they are told that one is there
    truncate_ms: int = 60_000  # how often the old leaves of the log are looked at
    page_rows: int = PAGE_ROWS
    ask_above: int = 64  # a batch for more topics than this asks first which of them are loaded


@dataclass(frozen=True, slots=True)
class Mandate:
    """What a reign begins with, read from Postgres and Redis at its beginning."""

    identity: Identity
    term: int
    since: str  # everything visible in this snapshot has been published
    plan: LogPlan
    notify: bool

    @property
    def generation(self) -> str:
        return self.identity.generation


@dataclass(slots=True)
class RoundTrips:
    count: int = 0
    total_s: float = 0.0
    last_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total_s += seconds
        self.last_s = seconds


@dataclass(slots=True)
class RelayStatistics:
    """Counted since the process began; the gauges are those of the current reign."""

    active: bool = False
    state: str = "candidate"  # candidate, or the WakeState of the reign
    generation: str = ""
    term: int = 0
    reigns: int = 0
    failures: int = 0  # reigns and tries that ended by an error
    lag_s: float = 0.0  # since the log was last read to its end and all of it published
    backlog_rows: int = 0  # ids given out since the highest one read: an estimate from above
    reads: int = 0
    rows_read: int = 0
    rows_skipped: int = 0  # rows that can not become items
    batches: int = 0  # reads and pages with rows
    topics_applied: int = 0
    published: int = 0
    voided: int = 0
    notifications: int = 0
    leaves_emptied: int = 0
    beat: int = 0  # number of the last canary that went the whole way
    beat_as_of_ms: int = 0  # since 1970, by the clock of Postgres
    read: RoundTrips = field(default_factory=RoundTrips)  # of the log
    apply: RoundTrips = field(default_factory=RoundTrips)  # of a batch to Redis
    probe: RoundTrips = field(default_factory=RoundTrips)
