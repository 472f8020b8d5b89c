import asyncio
import random as _random
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Final

import structlog

from listeners.backoff import Backoff
from listeners.cancelling import apart
from listeners.election import Election, Tenure
from listeners.errors import ListenersError, Refused
from listeners.generation import start_over
from listeners.keeper import Keeper, ReignOver
from listeners.mandate import begin_reign
from listeners.place_watch import watch_place
from listeners.postgres import TRANSIENT_ERRORS, both_connected, classify
from listeners.publisher import RedisChanged, TableTruncated
from listeners.reign import Reign
from listeners.relay_state import Mandate, RelaySettings, RelayStatistics
from listeners.topic_store import TopicStore

__all__ = ["Relay", "RelaySettings", "RelayStatistics"]

_FAREWELL_S: Final = 2.0
# Between two tries: all of a gateway's processes may wait for the one server that has come back.
_LONGEST_PAUSE_S: Final = 2.0
_DEFAULTS: Final = RelaySettings()
log = structlog.get_logger(__name__)


class Relay:
    """Stands for election, and while elected brings every committed change into the topic store.

    `dsn` is the shop's database, `listener_dsn` a direct connection to the same one (sessions, LISTEN and the
    lock do not survive a transaction-pooling PgBouncer).
    """

    def __init__(
        self,
        *,
        dsn: str,
        listener_dsn: str | None = None,
        store: TopicStore,
        settings: RelaySettings = _DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._dsn = dsn
        self._listener_dsn = listener_dsn or dsn
        self._store = store
        self._settings = settings
        self._clock = clock
        self._backoff = Backoff(cap_s=_LONGEST_PAUSE_S, random=random)
        self._timeout_s = settings.probe_timeout_ms / 1000
        self._election = Election(self._listener_dsn, timeout_s=self._timeout_s, random=random)
        self._statistics = RelayStatistics()
        self._reign: Reign | None = None
        self._tried = self._waited = False  # to take the lock; for somebody else to give it back

    def statistics(self) -> RelayStatistics:
        """A copy; see RelayStatistics."""
        copy = deepcopy(self._statistics)
        if self._reign is not None:
            copy.state = self._reign.wakeup.policy.state
            copy.notifications += self._reign.wakeup.notifications
            copy.lag_s = self._clock() - self._reign.current_at
        return copy

    async def run(self) -> None:
        """Until cancelled: then it saves its position and gives the lock back. Errors end a reign, not this.

        Raises Refused if a server answers and refuses before the first reign: only an operator can help then.
        Not if it has waited while somebody else reigned: what is refused now was not at the start (a database
        that is being restored), and the clients of this process are not to pay for it.
        """
        while True:
            try:
                await apart(self._stand_for_election())
            except Exception as error:  # noqa: BLE001  # logged, with its traceback if it is a surprise
                await asyncio.sleep(self._failed(error))

    async def _stand_for_election(self) -> None:
        """Returns by an error alone: that of the election, or of the reign that followed."""
        self._tried = False
        async with (
            self._election.elected(self._fit) as tenure,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(tenure.watch())
            group.create_task(self._reign_once(tenure))

    async def _fit(self) -> None:
        """Called before each try to take the lock; before the second one somebody else has it."""
        await self._store.server_identity()
        self._waited, self._tried = self._waited or self._tried, True

    def _failed(self, error: Exception) -> float:
        """Log why a reign, or the try to begin one, has ended; returns the seconds until the next try."""
        reason = _reason(error)
        if isinstance(reason, Refused) and not (self._statistics.reigns or self._waited):
            raise reason from error
        self._statistics.failures += 1
        if isinstance(reason, ReignOver | RedisChanged | TableTruncated):
            self._backoff.reset()  # nothing is broken
        delay_s = self._backoff.next()
        fields = {"reason": str(reason), "attempt": self._backoff.attempt, "retry_ms": round(delay_s * 1000)}
        if isinstance(reason, ListenersError):
            log.warning("relay interrupted", **fields)
        else:
            log.error("relay failed", exc_info=error, **fields)
        return delay_s

    async def _reign_once(self, tenure: Tenure) -> None:
        ends = (self._listener_dsn, "relay reader"), (self._dsn, "relay keeper")
        async with both_connected(*ends, timeout_s=self._timeout_s) as (reader, keeping):
            mandate = await begin_reign(reader, keeping, self._store, self._settings)
            state = (self._store, self._settings, self._statistics)
            reign = Reign(mandate, reader, *state, clock=self._clock)
            keeper = Keeper(mandate, reign, keeping, *state, clock=self._clock)
            self._enter(mandate, reign)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(reign.run())
                    group.create_task(keeper.run())
                    group.create_task(
                        watch_place(self._dsn, mandate.identity.place, timeout_s=self._timeout_s)
                    )
            except asyncio.CancelledError:
                if not tenure.lost and not await _said_farewell(keeper):
                    reader.terminate()
                    keeping.terminate()
                raise
            except BaseExceptionGroup as errors:
                if errors.subgroup(TableTruncated):
                    await start_over(keeping)
                await tenure.release()  # closing links that say nothing takes its time
                raise
            finally:
                self._leave(reign)

    def _enter(self, mandate: Mandate, reign: Reign) -> None:
        statistics = self._statistics
        statistics.active, statistics.reigns = True, statistics.reigns + 1
        statistics.generation, statistics.term = mandate.generation, mandate.term
        self._reign = reign
        log.info("relay reigns", generation=mandate.generation, term=mandate.term, notify=mandate.notify)

    def _leave(self, reign: Reign) -> None:
        if reign.settled:
            self._backoff.reset()
        self._reign = None
        self._statistics.active, self._statistics.state = False, "candidate"
        self._statistics.notifications += reign.wakeup.notifications


async def _said_farewell(keeper: Keeper) -> bool:
    """What fails here is made up for by the next reign."""
    try:
        async with asyncio.timeout(_FAREWELL_S):
            await keeper.farewell()
    except (*TRANSIENT_ERRORS, ListenersError) as error:
        log.warning("relay left without saving its position", reason=str(error))
        return False
    return True


def _reason(error: BaseException) -> BaseException:
    """The error behind a group of them; a refusal counts more than what came with it."""
    leaves = _leaves(error)
    refusals = (leaf for leaf in leaves if isinstance(leaf, Refused))
    reason = next(refusals, leaves[0])
    return classify(reason) if isinstance(reason, TRANSIENT_ERRORS) else reason


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
