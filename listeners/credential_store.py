"""What replicas share about credentials: tickets and signed requests, each good for one
of them once, and what was revoked."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from listeners.errors import ListenersError, Unavailable
from listeners.keys import Keys
from listeners.redis_client import AnyRedis, translated
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["CredentialStore", "RevocationRecord"]

# So long a revocation is kept at the least: a token that is good for longer should not exist.
RETENTION_MS: Final = 400 * 86_400_000
_PAGE: Final = 1000


class RevocationRecord(NamedTuple):
    """`place` rises in the order in which they were made. Subjects and ids of tokens are told by their hash.

    Times are seconds since 1970: tokens issued up to `issued_until` are meant, and it is kept till `ends_at`.
    """

    place: str
    kind: str
    digest: str
    issued_until: float
    ends_at: float


class CredentialStore:
    """It speaks to the side of the clients: its coroutines raise ProtocolError `unavailable` alone."""

    def __init__(self, client: AnyRedis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def put_ticket(self, digest: str, holder: bytes, ttl_s: int) -> None:
        with _told():
            await self._client.execute_command("SET", self._keys.ticket(digest), holder, "EX", ttl_s)

    async def take_ticket(self, digest: str) -> bytes | None:
        """What was put there, the first time somebody asks; None ever after."""
        with _told():
            held: bytes | None = await self._client.execute_command("GETDEL", self._keys.ticket(digest))
        return held

    async def remember(self, digest: str, ttl_s: int) -> bool:
        """Whether the request was not known; from then on it is, for `ttl_s`."""
        with _told():
            reply = await self._client.execute_command(
                "SET", self._keys.request(digest), b"", "NX", "EX", ttl_s
            )
        return bool(reply)

    async def revoke(
        self, kind: str, digest: str, *, issued_until: float, ends_at: float, now_ms: int
    ) -> None:
        """Every replica hears of it within about a second."""
        oldest = f"{max(0, now_ms - RETENTION_MS)}-0"
        fields = ("k", kind, "d", digest, "i", repr(issued_until), "e", repr(ends_at))
        with _told():
            await self._client.execute_command(
                "XADD", self._keys.revocations(), "MINID", "~", oldest, "*", *fields
            )

    async def last_revocation(self) -> str | None:
        """The place of the newest one; None: there is none."""
        with _told():
            found = await self._client.execute_command(
                "XREVRANGE", self._keys.revocations(), "+", "-", "COUNT", 1
            )
        return found[0][0].decode() if found else None

    async def has_revocation(self, place: str) -> bool:
        """Whether the one that was read from there is there still."""
        with _told():
            found = await self._client.execute_command("XRANGE", self._keys.revocations(), place, place)
        return bool(found)

    async def revocations(self, after: str | None) -> list[RevocationRecord]:
        """Those behind a place, or all, oldest first."""
        records: list[RevocationRecord] = []
        while True:
            start = "-" if after is None else f"({after}"
            with _told():
                found = await self._client.execute_command(
                    "XRANGE", self._keys.revocations(), start, "+", "COUNT", _PAGE
                )
            for place, flat in found:
                fields = _fields(flat)
                after = place.decode()
                records.append(
                    RevocationRecord(after, fields["k"], fields["d"], float(fields["i"]), float(fields["e"]))
                )
            if len(found) < _PAGE:
                return records


def _fields(flat: "list[bytes] | dict[bytes, bytes]") -> dict[str, str]:
    """redis-py hands some replies over as they come and turns others into dicts."""
    pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}


@contextmanager
def _told() -> Iterator[None]:
    try:
        with translated():
            yield
    except ListenersError as error:
        text = "credentials can not be checked at the moment; try again"
        retry_after_ms = error.retry_after_ms if isinstance(error, Unavailable) else 5000
        raise ProtocolError(ErrorCode.UNAVAILABLE, text, retry_after_ms=retry_after_ms) from error
