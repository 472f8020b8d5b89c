import asyncio
from collections import deque
from enum import StrEnum
from typing import Any, Final

from listeners.postgres import NOTIFY_CHANNEL

__all__ = ["WakePolicy", "WakeState", "Wakeup", "notify_allowed", "set_asleep", "xmax", "xmin"]

SAFETY_POLL_S: Final = 0.5
BUSY_PER_S: Final = 20
_WINDOW_S: Final = 1.0


class WakeState(StrEnum):
    BUSY = "busy"  # writers do not notify; the relay polls
    DROWSY = "drowsy"  # writers were told to notify, but some that began before may not have heard it
    ASLEEP = "asleep"  # every writer notifies; the relay waits, with a slow poll behind it
    POLLING = "polling"  # notifications are off: the relay never sleeps


class WakePolicy:
    """Decides when the next read is due and whether writers should notify. Pure: time comes in, in seconds.

    Every commit that notifies takes one lock of the whole cluster, which halves the throughput of busy
    writers, so they notify only while they are few. A read that finds something counts as one wake-up; a
    read that finds only the canary does not. Above BUSY_PER_S the relay polls; it lies down when a second
    brought fewer than half of that.
    """

    def __init__(
        self, *, poll_s: float, notify: bool, safety_s: float = SAFETY_POLL_S, idle_factor: int = 5
    ) -> None:
        self.state = WakeState.DROWSY if notify else WakeState.POLLING
        self.awake_until: int | None = None  # the xmin that ends DROWSY; None: writers have not been told yet
        self._poll_s = poll_s
        self._safety_s = max(safety_s, poll_s)
        self._idle_s = poll_s * idle_factor
        self._finds: deque[float] = deque(maxlen=BUSY_PER_S)
        self._busy_since = 0.0
        self._soon_s = poll_s  # what the last read was like decides it

    @property
    def wants_asleep(self) -> bool:
        """What gateway.control.relay_asleep should say."""
        return self.state in (WakeState.DROWSY, WakeState.ASLEEP)

    @property
    def listens(self) -> bool:
        """Whether a notification should end the wait."""
        return self.wants_asleep

    def interval_s(self, now: float) -> float:
        """How long after the beginning of the last read the next one is due."""
        match self.state:
            case WakeState.ASLEEP:
                return self._safety_s
            case WakeState.POLLING if not self._finds or now - self._finds[-1] > _WINDOW_S:
                return self._idle_s
            case WakeState.POLLING | WakeState.BUSY:
                return self._soon_s
            case _:
                return self._poll_s

    def told(self, barrier: int) -> None:
        """gateway.control says now what `wants_asleep` wants.

        `barrier`: the xmax of a snapshot taken after that was committed. Whoever wrote without having seen
        it has an xid below; the xid of the update itself would not do, for a writer may have drawn a
        younger one and looked before the commit.
        """
        self.awake_until = barrier if self.wants_asleep else None

    def read(self, now: float, *, found: bool, oldest: int, took_s: float) -> None:
        """A read has ended; `oldest` is the xmin of its snapshot, `found` says whether it brought changes.

        Where the last one has found something the next one is likely to as well, and does not wait all of
        the poll's time: as long as reading and publishing takes a third of the relay's time at most.
        """
        self._soon_s = min(self._poll_s, max(self._poll_s / 4, 3 * took_s)) if found else self._poll_s
        if found:
            self._finds.append(now)
        match self.state:
            case WakeState.POLLING:
                return
            case WakeState.BUSY:
                if now - self._busy_since >= _WINDOW_S and self._recent(now, _WINDOW_S) < BUSY_PER_S / 2:
                    self.state = WakeState.DROWSY
                    self.awake_until = None
            case _ if self._recent(now, _WINDOW_S / 2) >= BUSY_PER_S / 2:
                self.state = WakeState.BUSY
                self.awake_until = None
                self._busy_since = now
            case WakeState.DROWSY if self.awake_until is not None and oldest >= self.awake_until:
                self.state = WakeState.ASLEEP

    def _recent(self, now: float, window_s: float) -> int:
        return sum(moment > now - window_s for moment in self._finds)


class Wakeup:
    """Waits for the time of the next read, or for a notification while those are asked for.

    `listen` is called once per connection, before the log is read. The callbacks only set an event: asyncpg
    would run asynchronous ones as tasks without order or owner.
    """

    def __init__(self, policy: WakePolicy, *, term: int) -> None:
        self.policy = policy
        self._term = term
        self.notifications = 0
        self._event = asyncio.Event()
        self._told: bool | None = None
        self._read_began = float("-inf")

    async def listen(self, connection: Any) -> None:
        connection.add_termination_listener(self.nudge)
        await connection.add_listener(NOTIFY_CHANNEL, self._notified)

    def _notified(self, *_: object) -> None:
        self.notifications += 1
        if self.policy.listens:
            self._event.set()

    def nudge(self, *_: object) -> None:
        """Read as soon as possible, whatever the state."""
        self._event.set()

    async def wait(self) -> bool:
        """Until the next read is due. True if the wait was a long one, so that the link should be probed."""
        clock = asyncio.get_running_loop().time
        now = clock()
        due = self._read_began + self.policy.interval_s(now)
        if due > now:
            try:
                async with asyncio.timeout_at(due):
                    await self._event.wait()
            except TimeoutError:
                pass  # due without a notification
        self._event.clear()
        self._read_began = clock()
        return self._read_began - now > SAFETY_POLL_S / 2

    async def settle(self, connection: Any, *, found: bool, snapshot: str) -> None:
        """A read has ended: let the policy decide, and tell the writers if they should do otherwise."""
        policy = self.policy
        now = asyncio.get_running_loop().time()
        policy.read(now, found=found, oldest=xmin(snapshot), took_s=now - self._read_began)
        if self._told != policy.wants_asleep:
            barrier = await set_asleep(connection, policy.wants_asleep, term=self._term)
            self._told = policy.wants_asleep
            policy.told(barrier)


async def set_asleep(connection: Any, asleep: bool, *, term: int) -> int:
    """Tell the triggers whether to notify, unless a later term has begun and tells them itself.

    Returns the xmax of a snapshot taken after the commit.
    """
    await connection.execute(
        "UPDATE gateway.control SET relay_asleep = $1 WHERE (SELECT term FROM gateway.position) = $2",
        asleep,
        term,
    )
    return xmax(await connection.fetchval("SELECT pg_current_snapshot()::text"))


async def notify_allowed(connection: Any) -> bool:
    """Not if it was switched off, nor where PREPARE TRANSACTION is in use: that fails after a NOTIFY."""
    allowed: bool = await connection.fetchval(
        "SELECT notify = 'auto' AND current_setting('max_prepared_transactions') = '0' FROM gateway.control"
    )
    return allowed


def xmin(snapshot: str) -> int:
    """Every transaction below it has ended. `snapshot` is a pg_snapshot as text: xmin:xmax:xip,..."""
    return int(snapshot.split(":", 1)[0])


def xmax(snapshot: str) -> int:
    """No transaction at or above it had begun."""
    return int(snapshot.split(":", 2)[1])
