"""How redis-py is set up here, and what its errors mean."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import hiredis
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from listeners.cancelling import cancellable
from listeners.errors import ListenersError, Refused, Unavailable
from listeners.keys import BUCKETS, hash_tag
from listeners.redis_cluster import Address, ClusterClient, Command
from listeners.tls import tls_refusal

__all__ = [
    "AnyRedis",
    "Link",
    "check_server",
    "classified",
    "connect_redis",
    "execute_many",
    "execute_placed",
    "is_cluster_url",
    "make_links",
    "served_buckets",
    "server_info",
    "translated",
]

AnyRedis = Redis | ClusterClient

_CLUSTER_SCHEMES: Final = ("redis+cluster://", "rediss+cluster://")
_DEFAULT_PORT: Final = 6379
_OLDEST: Final = "Redis 7 or Valkey 7.2 is needed"

# Of replies that redis-py has no class for, by their first word. The others are mistakes of ours.
_TRANSIENT_WORDS: Final = {"BUSY", "MISCONF", "NOREPLICAS", "UNKILLABLE", "INPROG", "NOMASTERLINK"}
_REFUSING_WORDS: Final = {"DENIED", "NOPROTO"}
_REFUSING_TEXTS: Final = (
    "unknown command",
    "ACL failure in script",
    "DB index is out of range",
    "without any password configured",
    "cluster support disabled",
)


def is_cluster_url(url: str) -> bool:
    """`redis+cluster://host:port,host:port` names some nodes of a cluster; one that answers leads to all."""
    return url.startswith(_CLUSTER_SCHEMES)


def connect_redis(
    url: str, *, timeout_s: float = 2.0, max_connections: int = 16, name: str = "inventory-gateway"
) -> AnyRedis:
    """A client that connects when first used; close it with `aclose`. Raises ValueError for a bad URL.

    It never repeats a command by itself: whoever calls knows whether it may run twice. A command that gets no
    reply in time fails; a caller waits up to `timeout_s` for one of the connections.
    """
    options = _options(timeout_s, name)

    def connect(node_url: str) -> Redis:
        pool = _Pool.from_url(node_url, max_connections=max_connections, timeout=timeout_s, **options)
        pool.connection_class = _packing(pool.connection_class)
        return Redis.from_pool(pool)

    if not is_cluster_url(url):
        return connect(url)
    seeds = _seeds(url)
    connect(_node_url(url, seeds[0]))  # raises for a bad one; nothing of it is open
    return ClusterClient(seeds, lambda node: connect(_node_url(url, node)), timeout_s=timeout_s)


class _Pool(BlockingConnectionPool):
    """Drops all idle connections when one was lost: they took the same way, and each that has died in silence
    would cost somebody a whole timeout.

    redis-py gives a connection back disconnected only after an error or a cancellation in the middle of a
    reply; that the latter costs the idle ones a new connection as well does no harm.
    """

    async def release(self, connection: AbstractConnection) -> None:
        lost = not connection.is_connected
        await super().release(connection)
        if lost:
            for idle in list(self._available_connections):
                await idle.disconnect(nowait=True)  # does not suspend: nobody may take it half closed


def _packing(plain: type[AbstractConnection]) -> type[AbstractConnection]:
    """The class of connection with its commands packed by hiredis.

    redis-py has the asynchronous ones packed by a loop over the arguments: for a call of a thousand of them
    that took longer than all else the relay does with its changes.
    """

    class Packing(plain):  # type: ignore[misc,valid-type]  # a class that is only known now
        def pack_command(self, *args: str | bytes | int | float) -> list[bytes]:
            words = *str(args[0]).split(), *args[1:]  # redis-py itself says `CONFIG SET`, which are two
            return [hiredis.pack_command(words)]  # type: ignore[arg-type]  # its types know one argument only

        def pack_commands(self, commands: Iterable[Command]) -> list[bytes]:
            return [chunk for command in commands for chunk in self.pack_command(*command)]

    return Packing


class Link(NamedTuple):
    """A bare connection for a reader of its own, its node of a cluster, and the buckets that it serves."""

    connection: AbstractConnection
    node: Address | None
    buckets: frozenset[int]


async def make_links(
    url: str, client: AnyRedis, *, timeout_s: float, name: str = "inventory-gateway-bus"
) -> list[Link]:
    """Connections to all nodes that serve a bucket; they are not connected yet.

    `client` is one of the same URL. Raises what redis-py raises when no node of a cluster can be asked.
    """
    if not isinstance(client, ClusterClient):
        return [Link(_bare(url, timeout_s, name), None, frozenset(range(BUCKETS)))]
    served = await served_buckets(client)
    return [
        Link(_bare(_node_url(url, node), timeout_s, name), node, buckets) for node, buckets in served.items()
    ]


async def served_buckets(client: ClusterClient) -> dict[Address, frozenset[int]]:
    """Which primary serves which buckets now. Raises ClusterDownError when nobody serves one of them."""
    owners = (await client.topology()).owners
    served: defaultdict[Address, set[int]] = defaultdict(set)
    for bucket in range(BUCKETS):
        owner = owners[key_slot(hash_tag(bucket).encode())]
        if owner is None:
            raise exceptions.ClusterDownError(f"no node serves {hash_tag(bucket)}")
        served[owner].add(bucket)
    return {node: frozenset(buckets) for node, buckets in served.items()}


async def execute_placed(client: AnyRedis, *command: str | bytes | int) -> tuple[Any, Address | None]:
    """The reply, and the node of a cluster that gave it."""
    if isinstance(client, ClusterClient):
        return await client.placed(*command)
    return await client.execute_command(*command), None  # type: ignore[no-untyped-call]  # a gap of redis-py


async def execute_many(client: AnyRedis, commands: Sequence[Command]) -> list[Any]:
    """In one pipeline, or one to each node of a cluster; the replies, errors among them, in order."""
    if isinstance(client, ClusterClient):
        return await client.execute_many(commands)
    async with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
    return replies


async def server_info(client: AnyRedis, *sections: str) -> list[Mapping[str, Any]]:
    """INFO of the server, or of every primary of a cluster that serves a slot."""
    if isinstance(client, ClusterClient):
        return await client.info_of_primaries(*sections)
    return [await client.execute_command("INFO", *sections)]  # type: ignore[no-untyped-call]  # as above


def _bare(url: str, timeout_s: float, name: str) -> AbstractConnection:
    pool = ConnectionPool.from_url(url, **_options(timeout_s, name))
    link: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]  # a gap of redis-py
    return link


def _seeds(url: str) -> list[Address]:
    hosts = urlsplit(_plain(url)).netloc.rpartition("@")[2].split(",")
    parts = [urlsplit(f"//{host}") for host in hosts]
    return [Address(part.hostname or "localhost", part.port or _DEFAULT_PORT) for part in parts]


def _node_url(url: str, node: Address) -> str:
    parts = urlsplit(_plain(url))
    credentials = parts.netloc.rpartition("@")[0]
    at = f"{credentials}@" if credentials else ""
    host = f"[{node.host}]" if ":" in node.host else node.host
    return urlunsplit(parts._replace(netloc=f"{at}{host}:{node.port}"))


def _plain(url: str) -> str:
    return url.replace("+cluster://", "://", 1) if is_cluster_url(url) else url


def _options(timeout_s: float, name: str) -> dict[str, Any]:
    return {
        # RESP3 pushes leak or log in some releases of redis-py.
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        # redis-py's own idle time, interval and probes (30 s, 5 s, 3) come with it.
        "socket_keepalive": True,
        # Probes of ours are for the bus; the pool looks at a connection before it hands it out.
        "health_check_interval": 0,
        "client_name": name,
    }


def classified(error: Exception) -> ListenersError | None:
    """What an error of redis-py means for us; None: a mistake of ours, to be raised as it is."""
    refusal = tls_refusal(error)
    if refusal is not None:
        return Refused(f"Redis: {refusal}")
    match error:
        case (
            exceptions.AuthenticationError()
            | exceptions.AuthenticationWrongNumberOfArgsError()
            | exceptions.AuthorizationError()
            | exceptions.NoPermissionError()
            | exceptions.ModuleError()
        ):
            return Refused(f"Redis refuses: {error}")
        case exceptions.OutOfMemoryError():
            return Unavailable("Redis is full: raise its maxmemory", retry_after_ms=5000)
        case (
            exceptions.ConnectionError()
            | exceptions.TimeoutError()
            | exceptions.ReadOnlyError()
            | exceptions.ClusterError()
            | exceptions.TryAgainError()
            | exceptions.AskError()
            | exceptions.RedisClusterException()
            | OSError()
            | TimeoutError()
        ):
            return Unavailable(f"Redis can not be reached: {error}")
        case exceptions.ResponseError():
            return _classified_reply(str(error))
    return None


def _classified_reply(text: str) -> ListenersError | None:
    word = text.partition(" ")[0]
    if word in _REFUSING_WORDS or any(part in text for part in _REFUSING_TEXTS):
        return Refused(f"Redis refuses: {text}")
    if word in _TRANSIENT_WORDS:
        return Unavailable(f"Redis can not serve now: {text}")
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Raises Unavailable or Refused for what redis-py raises inside; loses no cancellation."""
    try:
        with cancellable():
            yield
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError) as error:
        ours = classified(error)
        if ours is None:
            raise
        raise ours from error


async def check_server(client: AnyRedis, prefix: str = "gw") -> None:
    """Raises Refused when the server is too old or denies us, Unavailable when there is none.

    It tries a command of Redis 7 and does not look at versions: the forks count differently.
    """
    try:
        with translated():
            await client.execute_command("SPUBLISH", f"{prefix}:probe", "")
    except Refused as error:
        if "unknown command" in str(error):
            raise Refused(f"{error}; {_OLDEST}") from error
        raise
