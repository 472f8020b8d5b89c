"""The topics in Redis: versioned maps that the relay keeps current and replicas open and read."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

from listeners.errors import EpochChanged, NoRelay, Unavailable
from listeners.keys import BUCKETS, Keys, bucket_of
from listeners.parts import LogItem, apply_parts, merge_parts
from listeners.redis_client import AnyRedis, execute_placed, server_info, translated
from listeners.redis_cluster import Address
from listeners.scripts import Call, Scripts
from listeners.topic_answers import (
    Applied,
    Loading,
    MustLoad,
    Opened,
    Reign,
    Stored,
    check_load,
    check_reign,
    decode_items,
    value_of,
)
from protocol.envelope import Beat, Changed, Position, decode_envelope
from protocol.items import Item

__all__ = [
    "PAGE_ITEMS",
    "Applied",
    "Loading",
    "LogItem",
    "MustLoad",
    "Opened",
    "Reign",
    "Stored",
    "TopicStore",
]

# What is read at one moment, in one answer: Redis takes about a millisecond for it.
PAGE_ITEMS: Final = 2000
# Of larger topics so many at a time: reading them holds our loop for some 3 ms.
_SCAN_ITEMS: Final = 1000
# What comes along with the answer that a topic is loaded, of many topics at once.
_SMALL_ITEMS: Final = 100
# Tombstones a topic may hold beside half as many as it has live items.
_TOMBSTONES: Final = 1000
_TOPICS_A_CALL: Final = 200
_NAMES_A_PAGE: Final = 1000
_REIGN_TTL_S: Final = 86_400
_POSITION_TTL_S: Final = 30 * 86_400
_LONGEST_POLL_MS: Final = 250
# What is remembered of loads that were given up; whatever is forgotten costs a lease.
_GIVEN_UP_TOPICS: Final = 1000
_GIVEN_UP_EPOCHS: Final = 4


class TopicStore:
    """Every method raises Unavailable when Redis can not be reached and Refused when it refuses.

    `ttl_s`: how long a topic lives that nobody asks about. `log_entries` and `log_bytes` bound what a topic
    keeps for resume. `lease_ms`: how long a loader may be silent.
    """

    def __init__(
        self,
        client: AnyRedis,
        keys: Keys,
        *,
        cluster: bool = False,
        ttl_s: int = 180,
        log_entries: int = 256,
        log_bytes: int = 1_048_576,
        lease_ms: int = 3_000,
        tombstones: int = _TOMBSTONES,
        page_items: int = PAGE_ITEMS,
        new_token: Callable[[], str] = lambda: secrets.token_urlsafe(9),
    ) -> None:
        self._client = client
        self._keys = keys
        self._cluster = cluster
        self._publish = "SPUBLISH" if cluster else "PUBLISH"
        self._scripts = Scripts(client)
        self._ttl_s = ttl_s
        self._log = (log_entries, log_bytes)
        self._lease_ms = lease_ms
        self._tombstones = tombstones
        self._page_items = page_items
        self._new_token = new_token
        self._given_up: dict[str, tuple[str, ...]] = {}
        # How many topics were loaded when last asked: it decides whether to ask by name.
        self._loaded = [0] * BUCKETS

    @property
    def lease_s(self) -> float:
        """How long others wait for a loader that has died."""
        return self._lease_ms / 1000

    async def begin(self, generation: str, term: int) -> None:
        """From now on this relay reigns. A new generation voids all topics and is published.

        Raises StaleTerm if a later term of the generation reigns.
        """
        token = self._new_token()
        args = (generation, term, token, _REIGN_TTL_S, self._publish)
        check_reign(await self._scripts.run_all("begin", self._reign_calls(args, ())))

    async def reign(self) -> Reign | None:
        """The relay that reigns now, for those who act in its name. None: there is none."""
        with translated():
            held = await self._client.execute_command("HMGET", self._keys.relay(0), "g", "t")
        return None if held[0] is None else Reign(held[0].decode(), int(held[1]))

    async def beat(self, beat: Beat, *, term: int) -> None:
        """Publishes the canary. Raises StaleTerm or UnknownReign."""
        message = f"C {beat.generation} {beat.as_of_ms} {beat.number}"
        args = (beat.generation, term, _REIGN_TTL_S, self._publish)
        check_reign(await self._scripts.run_all("beat", self._reign_calls(args, (message,))))

    def _reign_calls(self, args: Sequence[str | int], after: Sequence[str]) -> list[Call]:
        """One call for all buckets, or one for each where they are on nodes of their own."""
        pairs = [(self._keys.relay(bucket), self._keys.loaded(bucket)) for bucket in range(BUCKETS)]
        if not self._cluster:
            return [Call([key for pair in pairs for key in pair], (*args, self._keys.beacon(0), *after))]
        return [Call(pair, (*args, self._keys.beacon(n), *after)) for n, pair in enumerate(pairs)]

    async def loaded(self, topics: Collection[str]) -> set[str]:
        """Those of the topics that are loaded or being loaded: `apply` would do nothing for the others.

        Where less topics are loaded than asked for, it asks for all that are. When Redis can not tell, all
        count as loaded; the next `apply` will raise UnknownReign then.
        """
        buckets = _by_bucket(topics)
        # A page of the log asks about 8,000 names at the most, for which Redis takes 3 ms.
        together = [[bucket] for bucket in buckets] if self._cluster else [list(buckets)]
        calls = [self._loaded_call({bucket: buckets[bucket] for bucket in some}) for some in together]
        replies = chain.from_iterable(await self._scripts.run_all("loaded", calls))
        found: set[str] = set()
        for (bucket, names), reply in zip(buckets.items(), replies, strict=True):
            if reply == b"unknown":
                found.update(names)
                continue
            self._loaded[bucket], *loaded = reply
            found.update(name.decode() for name in loaded)
        return found.intersection(topics)

    def _loaded_call(self, buckets: Mapping[int, Sequence[str]]) -> Call:
        keys: list[str] = []
        args: list[str | bytes | int] = []
        for bucket, names in buckets.items():
            keys += (self._keys.relay(bucket), self._keys.loaded(bucket))
            asked = names if self._loaded[bucket] >= len(names) else ()
            args += (len(asked), *asked)
        return Call(keys, args)

    async def apply(
        self,
        changes: Mapping[str, Sequence[LogItem]],
        *,
        generation: str,
        term: int,
        changed_at_ms: int,
    ) -> Applied:
        """Brings the changes, by topic, into those that are loaded, and publishes what was new.

        A key may come more than once in a topic, in the order of its log ids. Applying again is harmless.
        Raises StaleTerm, or UnknownReign when `begin` has to come first; some of it may be applied then.
        """
        head = (generation, term, changed_at_ms, self._publish, *self._log, self._tombstones, self._ttl_s)
        together: Iterable[Iterable[str]] = _by_bucket(changes).values() if self._cluster else [changes]
        calls = [
            self._apply_call(head, part)
            for names in together
            for part in apply_parts({name: changes[name] for name in names})
        ]
        replies = await self._scripts.run_all("apply", calls)
        check_reign(replies)
        return Applied(sum(reply[0] for reply in replies), sum(reply[1] for reply in replies))

    def _apply_call(self, head: Sequence[str | int], part: Sequence[tuple[str, Sequence[LogItem]]]) -> Call:
        buckets: dict[int, int] = {}  # which of the call each one is
        places = [(buckets.setdefault(bucket_of(name), len(buckets) + 1), name) for name, _ in part]
        keys = [key for bucket in buckets for key in (self._keys.relay(bucket), self._keys.loaded(bucket))]
        args: list[str | bytes | int] = [*head, len(buckets)]
        for (place, name), (_, items) in zip(places, part, strict=True):
            keys += (self._keys.topic(name), self._keys.log(name))
            args += (place, name, self._keys.channel(name), len(items))
            for item, log_id in items:
                args += (item.key, value_of(item, log_id))
        return Call(keys, args)

    async def void(self, topics: Collection[str], *, generation: str, term: int) -> None:
        """Whoever watches one of the topics loads it again. Raises StaleTerm or UnknownReign."""
        calls = []
        for bucket, names in _by_bucket(topics).items():
            for some in _chunks(names, _TOPICS_A_CALL):
                channels = (part for name in some for part in (name, self._keys.channel(name)))
                calls.append(
                    Call(self._bucket_keys(bucket, some), (generation, term, self._publish, *channels))
                )
        check_reign(await self._scripts.run_all("void", calls))

    async def remember_position(self, counter: int) -> int:
        """The highest counter that Redis was ever told, this one included."""
        call = Call((self._keys.position(),), (counter, _POSITION_TTL_S))
        return int(await self._scripts.run("position", call))

    async def server_identity(self) -> str:
        """Changes when what Redis holds may have been lost or gone back: after a restart or a failover."""
        with translated():
            servers = await server_info(self._client, "server", "replication")
        # Not by address: of the same processes at other addresses nothing is lost.
        return "+".join(sorted(f"{server['run_id']},{server['master_replid']}" for server in servers))

    async def open(self, topic: str) -> Opened | MustLoad | Loading:
        """The topic, or the duty to load it. Raises NoRelay while no relay has begun."""
        epoch = self._new_token()
        with self._unfinished(topic, epoch):
            found, _ = await self._open(topic, epoch, 0)
        self._given_up.pop(topic, None)
        return MustLoad(epoch) if found is None else found

    async def peek(self, topic: str) -> Opened | Loading | None:
        """Like `open`, but nobody becomes the loader. None: it would be the caller."""
        return (await self._open(topic, "", 0))[0]

    async def enter(self, topic: str) -> tuple[Opened | Loading | None, Stored | None]:
        """`peek`, and `read` at the same moment if the topic is loaded and small."""
        found, fields = await self._open(topic, "", _SMALL_ITEMS)
        if not isinstance(found, Opened) or fields is None:
            return found, None
        return found, Stored(
            found.epoch, found.seq, decode_items(zip(fields[::2], fields[1::2], strict=True))
        )

    async def _open(
        self, topic: str, epoch: str, items: int
    ) -> tuple[Opened | Loading | None, Sequence[bytes] | None]:
        given_up = self._given_up.get(topic, ())
        call = Call(self._topic_keys(topic), (topic, epoch, self._ttl_s, self._lease_ms, items, *given_up))
        match await self._scripts.run_together("open", call):
            case [b"open", held, seq, live, *more]:
                return Opened(held.decode(), seq, live), more[0] if more else None
            case [b"loading", left_ms]:
                return Loading(min(left_ms, _LONGEST_POLL_MS)), None
            case [b"norelay"]:
                raise NoRelay(
                    "no relay has begun yet: start one, or wait until it has reached Postgres and Redis"
                )
        return None, None

    @contextmanager
    def _unfinished(self, topic: str, epoch: str) -> Iterator[None]:
        """Around a step of a load: if it fails, Redis may hold the lease of a load that nobody does."""
        try:
            yield
        except (Unavailable, asyncio.CancelledError):
            given_up = self._given_up.pop(topic, ())
            self._given_up[topic] = (*given_up, epoch)[-_GIVEN_UP_EPOCHS:]
            while len(self._given_up) > _GIVEN_UP_TOPICS:
                del self._given_up[next(iter(self._given_up))]
            raise

    async def merge(self, topic: str, epoch: str, items: Sequence[Item]) -> None:
        """Adds what the loader has read, and renews its lease. Raises LoadLost."""
        calls = []
        for part in merge_parts(items) if items else [()]:
            args: list[str | bytes | int] = [topic, epoch, self._ttl_s, self._lease_ms]
            for item in part:
                args += (item.key, value_of(item))
            calls.append(Call(self._topic_keys(topic), args))
        with self._unfinished(topic, epoch):
            replies = await self._scripts.run_all("merge", calls)
        check_load(topic, replies)

    async def ready(self, topic: str, epoch: str) -> Position:
        """The load is complete: the topic is published from now on. Raises LoadLost."""
        args = (topic, epoch, self._ttl_s, self._publish, self._keys.channel(topic))
        with self._unfinished(topic, epoch):
            reply = await self._scripts.run("ready", Call(self._topic_keys(topic), args))
        check_load(topic, [reply])
        return Position(epoch, reply)

    async def abandon(self, topic: str, epoch: str) -> None:
        """Ends the epoch: of a load that failed, or of a ready topic that was found to be wrong.

        Harmless when it has ended already.
        """
        args = (topic, epoch, self._publish, self._keys.channel(topic))
        with self._unfinished(topic, epoch):
            await self._scripts.run("abandon", Call(self._topic_keys(topic), args))

    async def read(self, topic: str, *, pages: bool = True) -> Stored | None:
        """The whole topic, at one moment if it has no more than `page_items`. None: it is not loaded, or is
        of several pages and those are not wanted."""
        call = Call((self._keys.relay(bucket_of(topic)), self._keys.topic(topic)), (self._page_items,))
        reply, node = await self._scripts.run_placed("read", call)
        if reply is None:
            return None
        epoch, seq, cursor, fields = reply
        stored = Stored(epoch.decode(), seq, decode_items(zip(fields[::2], fields[1::2], strict=True)))
        if int(cursor) == 0:
            return stored
        if not pages:
            return None
        newest = {item.key: item for item in stored.items}
        try:
            async for page in self._pages(topic, stored.epoch, int(cursor), node):
                newest.update((item.key, item) for item in page)
        except EpochChanged:
            return None
        return stored._replace(items=list(newest.values()))

    def pages(self, topic: str, epoch: str) -> AsyncIterator[list[Item]]:
        """The topic in pages of about `page_items`; a key may come again, then at the same version or newer.

        Take the seq before the first page. Raises EpochChanged when they are not all of the epoch.
        """
        return self._pages(topic, epoch, 0)

    async def _pages(
        self, topic: str, epoch: str, cursor: int, node: Address | None = None
    ) -> AsyncIterator[list[Item]]:
        """`node`: which gave the cursor. On another one it would silently leave items out."""
        command = ("HSCAN", self._keys.topic(topic))
        while True:
            with translated():
                page, place = await execute_placed(
                    self._client, *command, cursor, "COUNT", min(self._page_items, _SCAN_ITEMS)
                )
            if cursor and place != node:
                raise EpochChanged(f"{topic} has moved to another node while it was read: read it again")
            node = place
            cursor, fields = page
            yield decode_items(fields.items())
            if cursor == 0:
                break
        await self._check_epoch(topic, epoch)

    async def some(self, topic: str, epoch: str, keys: Sequence[str]) -> dict[str, Item]:
        """Those of these keys that the topic holds, at one moment. Raises EpochChanged."""
        with translated():
            values: Any = await self._client.execute_command("HMGET", self._keys.topic(topic), *keys)
        await self._check_epoch(topic, epoch)
        held = ((key.encode(), value) for key, value in zip(keys, values, strict=True) if value is not None)
        return {item.key: item for item in decode_items(held)}

    async def _check_epoch(self, topic: str, epoch: str) -> None:
        position = (await self.positions([topic], keep_alive=False)).get(topic)
        if position is None or position.epoch != epoch:
            raise EpochChanged(f"{topic} has left epoch {epoch} while it was read: read it again")

    async def log_since(self, topic: str, epoch: str, seq: int) -> list[Changed] | None:
        """What was published after `seq`, in order; empty: nothing. None: not all of it is known any more."""
        keys = (self._keys.relay(bucket_of(topic)), self._keys.topic(topic), self._keys.log(topic))
        reply = await self._scripts.run_together("log_since", Call(keys, (epoch, seq)))
        if reply is None:
            return None
        changes = [change for change in map(decode_envelope, reply) if isinstance(change, Changed)]
        # A log that expired apart from its topic and began anew has the length asked for, but not the seqs.
        expected = [(epoch, n) for n in range(seq + 1, seq + 1 + len(reply))]
        return changes if [(change.epoch, change.seq) for change in changes] == expected else None

    async def names(self, bucket: int) -> AsyncIterator[list[str]]:
        """The topics of a bucket in pages, as far as they are loaded or loading all the while.

        A name may come twice, and a topic that has just expired may be among them.
        """
        cursor = 0
        while True:
            with translated():
                page: Any = await self._client.execute_command(
                    "ZSCAN", self._keys.loaded(bucket), cursor, "COUNT", _NAMES_A_PAGE
                )
            cursor, members = page
            yield [name.decode() for name, _ in members if name]
            if cursor == 0:
                break

    async def positions(self, topics: Collection[str], *, keep_alive: bool = True) -> dict[str, Position]:
        """Where the topics are; those that are not loaded are absent. The others live on for `ttl_s`.

        `keep_alive`: False for those who only look, so that what nobody watches can expire.
        """
        ttl_s = self._ttl_s if keep_alive else 0
        asked: list[str] = []
        calls = []
        for bucket, names in _by_bucket(topics).items():
            for some in _chunks(names, _TOPICS_A_CALL):
                asked += some
                calls.append(Call(self._bucket_keys(bucket, some), (ttl_s, *some)))
        replies = await self._scripts.run_all("positions", calls)
        held = (position for reply in replies for position in reply)
        return {
            name: Position(position[0].decode(), position[1])
            for name, position in zip(asked, held, strict=True)
            if position
        }

    def _bucket_keys(self, bucket: int, names: Sequence[str]) -> list[str]:
        keys = [self._keys.relay(bucket), self._keys.loaded(bucket)]
        for name in names:
            keys += (self._keys.topic(name), self._keys.log(name))
        return keys

    def _topic_keys(self, topic: str) -> list[str]:
        return self._bucket_keys(bucket_of(topic), [topic])


def _by_bucket(topics: Iterable[str]) -> dict[int, list[str]]:
    buckets: defaultdict[int, list[str]] = defaultdict(list)
    for name in topics:
        buckets[bucket_of(name)].append(name)
    return buckets


def _chunks(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[first : first + size] for first in range(0, len(names), size)]
