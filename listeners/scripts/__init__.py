"""The Lua scripts of what is shared, each in a file of its own with its calling convention on top."""

import hashlib
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from redis.exceptions import NoScriptError

from listeners.redis_client import AnyRedis, execute_many, execute_placed, translated
from listeners.redis_cluster import Address, ClusterClient, Command
from listeners.together import Together

__all__ = ["Call", "Scripts"]

_DIRECTORY: Final = Path(__file__).parent
# Of one pipeline: with calls of 64 KiB at most, 8 MiB on the way at a time. A page of the log whose every
# topic is loaded takes about 80.
_CALLS_AT_ONCE: Final = 128


class Call(NamedTuple):
    keys: Sequence[str]
    args: Sequence[str | bytes | int]


class _Script(NamedTuple):
    text: str
    sha: str


@cache
def _script(name: str) -> _Script:
    text = "\n".join((_DIRECTORY / f"{part}.lua").read_text() for part in ("common", name))
    return _Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Scripts:
    """Runs scripts by their digest; a server that does not know one is given its text.

    Raises Unavailable or Refused. After Unavailable a script may have run or not.
    """

    def __init__(self, client: AnyRedis) -> None:
        self._client = client
        self._together: dict[str, Together[Call]] = {}

    async def run(self, name: str, call: Call) -> Any:
        return (await self.run_placed(name, call))[0]

    async def run_placed(self, name: str, call: Call) -> tuple[Any, Address | None]:
        """The reply, and the node of a cluster that gave it."""
        with translated():
            try:
                return await execute_placed(self._client, *_command("EVALSHA", _script(name).sha, call))
            except NoScriptError:
                return await execute_placed(self._client, *_command("EVAL", _script(name).text, call))

    async def run_together(self, name: str, call: Call) -> Any:
        """As `run`, in one round trip with what others ask of the same script at about this moment."""
        if isinstance(self._client, ClusterClient):
            return await self.run(name, call)  # of several nodes one may be away, and the others not
        together = self._together.get(name)
        if together is None:
            together = self._together[name] = Together(partial(self.run_all, name))
        return await together.answer(call)

    async def run_all(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """One after the other on each node, without waiting in between; the replies in order."""
        if len(calls) == 1:
            return [await self.run(name, calls[0])]
        replies: list[Any] = []
        for first in range(0, len(calls), _CALLS_AT_ONCE):
            replies += await self._pipelined(name, calls[first : first + _CALLS_AT_ONCE])
        return replies

    async def _pipelined(self, name: str, calls: Sequence[Call]) -> list[Any]:
        sha = _script(name).sha
        with translated():
            replies = await execute_many(self._client, [_command("EVALSHA", sha, call) for call in calls])
            for n, reply in enumerate(replies):
                if isinstance(reply, NoScriptError):
                    replies[n] = await self.run(name, calls[n])
                elif isinstance(reply, Exception):
                    raise reply
        return replies


def _command(word: str, script: str, call: Call) -> Command:
    return (word, script, len(call.keys), *call.keys, *call.args)
