"""What replicas share about rate limits: how much of each somebody has used."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from listeners.errors import ListenersError
from listeners.keys import Keys, bucket_of
from listeners.redis_client import AnyRedis
from listeners.redis_cluster import ClusterClient
from listeners.scripts import Call, Scripts
from listeners.together import Together
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["RateStore"]


class _Ask(NamedTuple):
    kind: str
    who: str
    args: tuple[str, str, str, str]


class RateStore:
    """Rate limits in Redis, by its clock. What is asked in one turn of the loop goes in one round trip.

    Two keys of one bucket are in one slot of a cluster, so there it is one call a bucket, and one round trip
    to each node.
    """

    def __init__(self, client: AnyRedis, keys: Keys) -> None:
        self._scripts = Scripts(client)
        self._keys = keys
        self._is_cluster = isinstance(client, ClusterClient)
        self._together: Together[_Ask] = Together(self._ask)

    def take_nowait(
        self, kind: str, who: str, *, cost: float, per_s: float, burst: float, owed: bool = False
    ) -> asyncio.Future[float]:
        """The seconds to wait until `cost` is there; 0: it was taken.

        `who` is a hash. `owed`: it is taken whatever is left, and the answer is how long nothing more will be
        there. The future raises ProtocolError `unavailable`; it may have been taken or not then.
        """
        args = (repr(float(cost)), repr(float(per_s)), repr(float(burst)), "owe" if owed else "take")
        return self._together.answer_nowait(_Ask(kind, who, args))

    async def _ask(self, asks: Sequence[_Ask]) -> list[float]:
        shares: defaultdict[int, list[int]] = defaultdict(list)
        for n, ask in enumerate(asks):
            shares[bucket_of(ask.who) if self._is_cluster else 0].append(n)
        calls = [
            Call(
                [self._keys.rate(asks[n].kind, asks[n].who) for n in share],
                [arg for n in share for arg in asks[n].args],
            )
            for share in shares.values()
        ]
        try:
            replies = await self._scripts.run_all("take", calls)
        except ListenersError as error:
            text = "limits can not be checked at the moment"
            raise ProtocolError(ErrorCode.UNAVAILABLE, text, retry_after_ms=1000) from error
        waits = [0.0] * len(asks)
        for share, reply in zip(shares.values(), replies, strict=True):
            for n, wait_us in zip(share, reply, strict=True):
                waits[n] = wait_us / 1e6
        return waits
