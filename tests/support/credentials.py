"""The store of tickets, signed requests and revocations in memory."""

from listeners.credential_store import RevocationRecord
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["MemoryCredentials"]


def _order(place: str) -> tuple[int, ...]:
    return tuple(int(number) for number in place.split("-"))


class MemoryCredentials:
    """As listeners.credential_store.CredentialStore; `away`: nothing is answered, `away_for`:
    nor are questions called so."""

    def __init__(self) -> None:
        self.away = False
        self.away_for: set[str] = set()
        self.tickets: dict[str, bytes] = {}
        self.requests: dict[str, int] = {}
        self.records: list[RevocationRecord] = []
        self.asked = 0

    async def put_ticket(self, digest: str, holder: bytes, ttl_s: int) -> None:
        self._answer()
        self.tickets[digest] = holder

    async def take_ticket(self, digest: str) -> bytes | None:
        self._answer()
        return self.tickets.pop(digest, None)

    async def remember(self, digest: str, ttl_s: int) -> bool:
        self._answer()
        known = digest in self.requests
        self.requests.setdefault(digest, ttl_s)
        return not known

    async def revoke(
        self, kind: str, digest: str, *, issued_until: float, ends_at: float, now_ms: int
    ) -> None:
        self._answer("revoke")
        place = f"{now_ms}-{len(self.records)}"
        self.records.append(RevocationRecord(place, kind, digest, issued_until, ends_at))

    async def last_revocation(self) -> str | None:
        self._answer()
        return self.records[-1].place if self.records else None

    async def has_revocation(self, place: str) -> bool:
        self._answer()
        return any(record.place == place for record in self.records)

    async def revocations(self, after: str | None) -> list[RevocationRecord]:
        self._answer()
        return [record for record in self.records if after is None or _order(record.place) > _order(after)]

    def _answer(self, question: str = "") -> None:
        self.asked += 1
        if self.away or question in self.away_for:
            raise ProtocolError(ErrorCode.UNAVAILABLE, "away")
