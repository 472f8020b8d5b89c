import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import structlog
from redis import exceptions

from listeners.backoff import Backoff
from listeners.beacons import Beacons
from listeners.bus import BusListener, BusStatistics, Subscriptions, UnexpectedConfirmation
from listeners.cancelling import apart, cancellable
from listeners.errors import Refused
from listeners.keys import Keys
from listeners.redis_client import AnyRedis, Link, classified, connect_redis, make_links, served_buckets
from listeners.redis_cluster import ClusterClient
from protocol.envelope import Beat, MalformedEnvelope, decode_envelope

__all__ = ["RedisBus"]

log = structlog.get_logger(__name__)

_CHANNELS_A_COMMAND: Final = 1000
# The probe looks so often during its timeout: a process that was frozen itself then blames nobody else.
_LOOKS: Final = 4
# With a subscription and, as long as there is none, without.
_PONGS: Final = ([b"pong", b""], b"PONG")
_CONNECTION_ERRORS: Final = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    OSError,
    TimeoutError,
)


class _LinkLostError(Exception):
    """The link is of no use any more; the message says why."""


class _Words(NamedTuple):
    subscribe: str
    unsubscribe: str
    subscribed: bytes
    message: bytes


_PLAIN: Final = _Words("SUBSCRIBE", "UNSUBSCRIBE", b"subscribe", b"message")
_SHARDED: Final = _Words("SSUBSCRIBE", "SUNSUBSCRIBE", b"ssubscribe", b"smessage")


class _Reader:
    """One connection in subscribed mode. Its methods raise _LinkLostError, or Refused.

    It is a bare connection and not redis-py's PubSub: that one connects and subscribes again by itself where
    nobody sees it, and does more work for each message. The reader only parses and hands over, so that the
    server never has a reason to cut the link for its size (client-output-buffer-limit pubsub).
    """

    def __init__(self, link: Link, words: _Words, probe_timeout_s: float) -> None:
        self.node = link.node
        self.buckets = link.buckets
        self._connection = link.connection
        self._words = words
        self._probe_timeout_s = probe_timeout_s
        self._heard = 0

    async def connect(self) -> None:
        try:
            with cancellable():
                await self._connection.connect()  # type: ignore[no-untyped-call]  # a gap of redis-py
        except _CONNECTION_ERRORS as error:
            raise _loss(error) from error

    async def disconnect(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def send(self, word: str, channels: Sequence[str] = ()) -> None:
        try:
            with cancellable():
                await self._connection.send_command(word, *channels)
        except _CONNECTION_ERRORS as error:
            raise _loss(error) from error

    async def read(
        self, on_message: Callable[[bytes, bytes], None], on_confirmed: Callable[[str, bool], None]
    ) -> None:
        message, subscribed = self._words.message, self._words.subscribed
        while True:
            try:
                # The probe bounds the wait. disconnect_on_error would let a later send connect again.
                reply: Any = await self._connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except _CONNECTION_ERRORS as error:
                raise _loss(error) from error
            self._heard += 1
            if reply[0] == message:
                on_message(reply[1], reply[2])
            elif reply not in _PONGS:
                on_confirmed(reply[1].decode(), reply[0] == subscribed)

    async def probe(self) -> None:
        """A frozen server raises nothing, and its kernel keeps the connection alive."""
        while True:
            heard = self._heard
            await self.send("PING")
            for _ in range(_LOOKS):
                await asyncio.sleep(self._probe_timeout_s / _LOOKS)
                if self._heard != heard:
                    break
            else:
                raise _LinkLostError(f"no answer within {self._probe_timeout_s:g} s")
            await asyncio.sleep(self._probe_timeout_s / 2)


class RedisBus:
    """The bus over Redis' pub/sub, on one connection, or one to each node of a cluster.

    A link that is silent for `probe_timeout_s` when asked is lost, at most twice that time after it froze. So
    are all links, to be made anew, when a bucket of a cluster has moved to another node.
    """

    def __init__(
        self,
        url: str,
        keys: Keys,
        *,
        cluster: bool = False,
        probe_timeout_s: float = 2.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._url = url
        self._keys = keys
        self._cluster = cluster
        self._words = _SHARDED if cluster else _PLAIN
        self._probe_timeout_s = probe_timeout_s
        self._backoff = backoff or Backoff()
        self._subscriptions = Subscriptions(keys.beacons(cluster))
        self._beacons = Beacons(len(keys.beacons(cluster)))
        self._wake = asyncio.Event()
        self._connected = False
        self._messages = self._malformed = self._losses = 0

    async def run(self, listener: BusListener) -> None:
        """See Bus.run."""
        # Outlives the links: it remembers nodes that can be asked when the one that was named is gone.
        client = connect_redis(self._url, timeout_s=self._probe_timeout_s, name="inventory-gateway-bus")
        try:
            await self._run(client, listener)
        finally:
            await client.aclose()

    async def _run(self, client: AnyRedis, listener: BusListener) -> None:
        while True:
            try:
                await apart(self._serve(client, listener))
            except _LinkLostError as error:
                delay_s = self._backoff.next()
                log.warning("bus link lost", why=str(error), retry_in_s=round(delay_s, 3))
            finally:
                self._subscriptions.end_link()
                self._beacons.forget()
            if self._connected:
                self._connected = False
                self._losses += 1
                listener.lost()
            await asyncio.sleep(delay_s)

    def subscribe_nowait(self, topic: str) -> None:
        self._subscriptions.want(self._keys.channel(topic))
        self._wake.set()

    def unsubscribe_nowait(self, topic: str) -> None:
        self._subscriptions.unwant(self._keys.channel(topic))
        self._wake.set()

    def is_subscribed(self, topic: str) -> bool:
        return self._subscriptions.is_confirmed(self._keys.channel(topic))

    async def wait_subscribed(self, topic: str, timeout_s: float) -> None:
        await self._subscriptions.wait_confirmed(self._keys.channel(topic), timeout_s)

    def statistics(self) -> BusStatistics:
        return BusStatistics(
            connected=self._connected,
            wanted=len(self._subscriptions.wanted),
            confirmed=len(self._subscriptions.confirmed),
            messages=self._messages,
            malformed=self._malformed,
            losses=self._losses,
        )

    async def _serve(self, client: AnyRedis, listener: BusListener) -> None:
        """One life of the links: raises when the first of them is lost."""

        def hear(channel: bytes, data: bytes) -> None:
            self._hear(channel, data, listener)

        def confirm(channel: str, subscribed: bool) -> None:
            self._confirm(channel, subscribed, listener)

        readers: list[_Reader] = []
        try:
            for link in await self._links(client):
                readers.append(_Reader(link, self._words, self._probe_timeout_s))
                await readers[-1].connect()
            self._subscriptions.begin_link()
            self._wake.set()
            async with asyncio.TaskGroup() as tasks:
                for reader in readers:
                    tasks.create_task(reader.read(hear, confirm))
                tasks.create_task(self._subscribe(readers))
                for reader in readers:
                    tasks.create_task(reader.probe())
                if isinstance(client, ClusterClient):
                    tasks.create_task(self._watch_places(client, readers))
        except ExceptionGroup as group:
            raise _gravest(group) from group
        finally:
            for reader in readers:
                await reader.disconnect()

    async def _links(self, client: AnyRedis) -> list[Link]:
        try:
            with cancellable():
                return await make_links(self._url, client, timeout_s=self._probe_timeout_s)
        except _CONNECTION_ERRORS as error:
            raise _loss(error) from error

    async def _watch_places(self, client: ClusterClient, readers: Sequence[_Reader]) -> None:
        """A replica takes subscribers as well, and hands messages on at second hand: they may be lost before.

        So the links may be right for their servers and wrong for us, if an outdated node was asked for them.
        """
        links = {(reader.node, reader.buckets) for reader in readers}
        while True:
            await asyncio.sleep(self._probe_timeout_s)
            try:
                with cancellable():
                    served = await served_buckets(client)
            except _CONNECTION_ERRORS as error:
                raise _loss(error) from error
            if set(served.items()) != links:
                raise _LinkLostError("a bucket has moved to another node of the cluster")

    async def _subscribe(self, readers: Sequence[_Reader]) -> None:
        while True:
            await self._wake.wait()  # the probes bound it: what they raise ends this task as well
            self._wake.clear()
            subscribe, unsubscribe = self._subscriptions.take()
            await self._send(readers, self._words.unsubscribe, unsubscribe)
            await self._send(readers, self._words.subscribe, subscribe)

    async def _send(self, readers: Sequence[_Reader], word: str, channels: Sequence[str]) -> None:
        for reader, some in self._routed(readers, channels):
            for first in range(0, len(some), _CHANNELS_A_COMMAND):
                await reader.send(word, some[first : first + _CHANNELS_A_COMMAND])

    def _routed(
        self, readers: Sequence[_Reader], channels: Sequence[str]
    ) -> Iterable[tuple[_Reader, Sequence[str]]]:
        """To whom they go: in a cluster to the bucket's node, and one command serves one slot."""
        if not self._cluster:
            return [(readers[0], channels)]
        buckets: defaultdict[int, list[str]] = defaultdict(list)
        for channel in channels:
            buckets[self._keys.bucket_in(channel)].append(channel)
        nodes = {bucket: reader for reader in readers for bucket in reader.buckets}
        return [(nodes[bucket], some) for bucket, some in buckets.items()]

    def _hear(self, channel: bytes, data: bytes, listener: BusListener) -> None:
        self._messages += 1
        try:
            envelope = decode_envelope(data)
        except MalformedEnvelope as error:
            self._malformed += 1
            log.warning("malformed message on the bus", why=str(error))
            return
        if not isinstance(envelope, Beat):
            listener.message(envelope)
        elif beat := self._beacons.hear(channel, envelope):
            listener.message(beat)

    def _confirm(self, channel: str, subscribed: bool, listener: BusListener) -> None:
        try:
            self._subscriptions.confirm(channel, subscribed=subscribed)
        except UnexpectedConfirmation as error:
            raise _LinkLostError(f"unexpected confirmation: {error}") from error
        if not self._connected and self._subscriptions.complete:
            self._connected = True
            self._backoff.reset()
            listener.restored()


def _loss(error: Exception) -> Exception:
    ours = classified(error)
    return ours if isinstance(ours, Refused) else _LinkLostError(str(ours or error))


def _gravest(group: ExceptionGroup[Exception]) -> Exception:
    """The one error of the tasks that says what to do: a lost link is the least that can happen."""
    return min(group.exceptions, key=lambda error: isinstance(error, _LinkLostError))
