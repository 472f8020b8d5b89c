"""Tokens that are no good any more although they have not ended."""

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

import structlog

from protocol.errors import ProtocolError
from protocol.principal import Principal

__all__ = ["RevocationKind", "RevocationLog", "RevocationRecord", "Revocations", "digest"]

log = structlog.get_logger(__name__)

# How often the log is asked whether there is more: one small question, and no message that could be missed.
POLL_S: Final = 1.0
# What was revoked and has ended by itself is forgotten so often.
_SWEEP_S: Final = 300.0


class RevocationKind(StrEnum):
    TOKEN = "jti"  # noqa: S105 - the name of a claim
    SUBJECT = "sub"


class RevocationRecord(Protocol):
    """See listeners.credential_store."""

    @property
    def place(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def issued_until(self) -> float: ...
    @property
    def ends_at(self) -> float: ...


class RevocationLog(Protocol):
    """Shared by all replicas. Raises ProtocolError."""

    async def last_revocation(self) -> str | None: ...
    async def has_revocation(self, place: str) -> bool: ...
    async def revocations(self, after: str | None) -> Sequence[RevocationRecord]: ...
    async def revoke(
        self, kind: str, digest: str, *, issued_until: float, ends_at: float, now_ms: int
    ) -> None: ...


class Revocations:
    """This replica's copy of what was revoked; run() keeps it current.

    While the log can not be read it stands as it is. What a log has lost that is held here is written to it
    again, for replicas that start later.
    """

    def __init__(
        self,
        source: RevocationLog,
        *,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds since 1970."""
        self._source = source
        self._poll_s = poll_s
        self._clock = clock
        self._last: str | None = None
        self._log_lost = False  # and not yet made good
        self._tokens: dict[str, float] = {}  # until when
        self._subjects: dict[str, tuple[float, float]] = {}  # issued until, and until when
        self._swept_at = 0.0

    def __len__(self) -> int:
        return len(self._tokens) + len(self._subjects)

    def is_revoked(self, principal: Principal) -> bool:
        if self._tokens and principal.jti is not None and digest(principal.jti) in self._tokens:
            return True
        if not self._subjects:
            return False
        held = self._subjects.get(digest(principal.name))
        # One that does not say when it was issued may be of any time.
        return held is not None and (principal.issued_at is None or principal.issued_at <= held[0])

    async def run(self, changed: Callable[[], object]) -> None:
        """Until cancelled; `changed` after more was revoked."""
        failing = False
        while True:
            try:
                if await self.refresh():
                    changed()
                failing = False
            except ProtocolError as error:
                if not failing:
                    log.warning("revocations can not be read", code=error.code.value)
                failing = True
            await asyncio.sleep(self._poll_s * (0.9 + random.random() / 5))

    async def refresh(self) -> bool:
        """Whether there is something new. Raises ProtocolError."""
        last = await self._source.last_revocation()
        if last == self._last and not self._log_lost:
            return False
        if self._last is not None and not await self._source.has_revocation(self._last):
            self._last = None  # another log than we knew: an empty Redis, or an older state of it
            self._log_lost = True
        records = await self._source.revocations(None if self._log_lost else self._last)
        for record in records:
            self._take(record)
            self._last = record.place
        self._sweep()
        if self._log_lost:
            await self._write_again(records)
            self._log_lost = False
        return bool(records)

    async def _write_again(self, records: Sequence[RevocationRecord]) -> None:
        """What is held here and not among `records`, which are the whole log. Of several replicas that do it
        the later ones find it done."""
        now = self._clock()
        known = Revocations(self._source)
        for record in records:
            known._take(record)
        lost = [
            (RevocationKind.TOKEN, name, 0.0, ends)
            for name, ends in self._tokens.items()
            if ends > max(now, known._tokens.get(name, 0.0))
        ]
        lost += [
            (RevocationKind.SUBJECT, name, issued, ends)
            for name, (issued, ends) in self._subjects.items()
            if ends > now and known._subjects.get(name) != (issued, ends)
        ]
        for kind, name, issued_until, ends_at in lost:
            await self._source.revoke(
                kind, name, issued_until=issued_until, ends_at=ends_at, now_ms=int(now * 1000)
            )
        if lost:
            log.warning("the log of revocations was lost, and is written again", count=len(lost))

    def statistics(self) -> dict[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        return {"gateway_revocations": len(self)}

    def _take(self, record: RevocationRecord) -> None:
        if record.kind == RevocationKind.TOKEN:
            self._tokens[record.digest] = max(record.ends_at, self._tokens.get(record.digest, 0.0))
        elif record.kind == RevocationKind.SUBJECT:
            issued, ends = self._subjects.get(record.digest, (0.0, 0.0))
            self._subjects[record.digest] = (max(issued, record.issued_until), max(ends, record.ends_at))

    def _sweep(self) -> None:
        now = self._clock()
        if now - self._swept_at < _SWEEP_S:
            return
        self._swept_at = now
        self._tokens = {name: ends for name, ends in self._tokens.items() if ends > now}
        self._subjects = {name: held for name, held in self._subjects.items() if held[1] > now}


def digest(text: str) -> str:
    """What stands for a subject or the id of a token where others may read it."""
    return hashlib.sha256(text.encode()).hexdigest()
