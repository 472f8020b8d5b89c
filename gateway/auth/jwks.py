"""The published keys of an identity provider, kept current."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

import structlog

from gateway.auth.errors import NoKeySet
from gateway.auth.fetching import FetchFailed
from gateway.auth.keys import SigningKey, read_key_set

__all__ = ["KeySetWatch"]

log = structlog.get_logger(__name__)

# Whoever presents tokens with invented names of keys causes no more fetches than this, in s.
MIN_INTERVAL_S: Final = 30.0
RETRY_S: Final = 5.0


class KeySetWatch:
    """Fetches a JWK set now and then, and when somebody names a key that is not in it.

    `keep` is given every set that could be read; while none can, the last one stays. run() owns the fetches.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        keep: Callable[[Sequence[SigningKey]], None],
        *,
        algorithms: Collection[str],
        refresh_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fetch` raises FetchFailed. `clock` is in s."""
        self._fetch = fetch
        self._keep = keep
        self._algorithms = algorithms
        self._refresh_s = refresh_s
        self._clock = clock
        self._wanted = asyncio.Event()
        self._attempted_at = float("-inf")
        self._fetched_at: float | None = None
        self._attempts = asyncio.Condition()
        self._tries = 0
        self._trying = False
        self.fetches = {"success": 0, "failure": 0}

    @property
    def current(self) -> bool:
        """Whether the last try succeeded: then a key that is not in the set does not exist."""
        return self._fetched_at is not None and self._fetched_at >= self._attempted_at

    def age_s(self) -> float:
        """Of the set that is in use; infinite before the first."""
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            succeeded = await self._attempt()
            # Spread, so that many replicas do not ask at the same moment.
            pause_s = (
                self._refresh_s * (0.9 + random.random() / 5)
                if succeeded
                else RETRY_S * (0.5 + random.random())
            )
            await self._pause(pause_s)

    async def look_again(self, timeout_s: float) -> bool:
        """Somebody names an unknown key. Whether the set has been read (or was tried) since: else there was a
        try within MIN_INTERVAL_S, and the answer stands."""
        if not self._trying and self._clock() - self._attempted_at < MIN_INTERVAL_S:
            return False
        before = self._tries
        if not self._trying:
            self._wanted.set()
        try:
            async with asyncio.timeout(timeout_s), self._attempts:
                await self._attempts.wait_for(lambda: self._tries > before)
        except TimeoutError:
            return False
        return True

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            return

    async def _attempt(self) -> bool:
        self._wanted.clear()
        self._trying = True
        self._attempted_at = began = self._clock()
        try:
            keys = read_key_set(await self._fetch(), self._algorithms)
        except (FetchFailed, NoKeySet) as error:
            log.warning(
                "key set can not be read",
                setting="GATEWAY_JWKS_URL",
                reason=str(error),
                age_s=_round(self.age_s()),
            )
            self.fetches["failure"] += 1
            succeeded = False
        else:
            self._keep(keys)
            self.fetches["success"] += 1
            succeeded = True
        if succeeded:
            self._fetched_at = began
        async with self._attempts:
            self._trying = False
            self._tries += 1
            self._attempts.notify_all()
        return succeeded


def _round(seconds: float) -> float | None:
    return round(seconds, 1) if seconds != float("inf") else None
