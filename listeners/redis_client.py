"""How redis-py is set up here, and what its errors mean."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from listeners.cancelling import cancellable
from listeners.errors import ListenersError, Refused, Unavailable
from listeners.keys import BUCKETS, hash_tag

__all__ = [
    "AnyRedis",
    "Link",
    "check_server",
    "classified",
    "connect_redis",
    "is_cluster_url",
    "make_links",
    "translated",
]

AnyRedis = Redis | RedisCluster

_CLUSTER_SCHEMES: Final = ("redis+cluster://", "rediss+cluster://")
_OLDEST: Final = "Redis 7 or Valkey 7.2 is needed"

# Of replies that redis-py has no class for, by their first word. The others are mistakes of ours.
_TRANSIENT_WORDS: Final = {"BUSY", "MISCONF", "NOREPLICAS", "UNKILLABLE", "INPROG", "NOMASTERLINK"}
_REFUSING_WORDS: Final = {"DENIED", "NOPROTO"}
_REFUSING_TEXTS: Final = ("unknown command", "DB index is out of range", "without any password configured")


def is_cluster_url(url: str) -> bool:
    """`redis+cluster://host:port` names one node of a cluster, the others are found through it."""
    return url.startswith(_CLUSTER_SCHEMES)


def connect_redis(
    url: str, *, timeout_s: float = 2.0, max_connections: int = 16, name: str = "inventory-gateway"
) -> AnyRedis:
    """A client that connects when first used; close it with `aclose`. Raises ValueError for a bad URL.

    It never repeats a command by itself: whoever calls knows whether it may run twice. A command that gets no
    reply in time fails; a caller waits up to `timeout_s` for one of the connections.
    """
    options = _options(timeout_s, name)
    if is_cluster_url(url):
        return RedisCluster.from_url(_plain(url), max_connections=max_connections, **options)
    pool = BlockingConnectionPool.from_url(url, max_connections=max_connections, timeout=timeout_s, **options)
    return Redis.from_pool(pool)


class Link(NamedTuple):
    """A bare connection for a reader of its own, and the buckets that its node serves."""

    connection: AbstractConnection
    buckets: frozenset[int]


async def make_links(url: str, *, timeout_s: float, name: str = "inventory-gateway-bus") -> list[Link]:
    """Connections to all nodes that serve a bucket; they are not connected yet.

    Raises what redis-py raises when a cluster can not be asked for its nodes.
    """
    if not is_cluster_url(url):
        return [Link(_bare(url, timeout_s, name), frozenset(range(BUCKETS)))]
    client = connect_redis(url, timeout_s=timeout_s, name=name)
    assert isinstance(client, RedisCluster)  # noqa: S101  (for the type checker)
    try:
        await client.initialize()
        served: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
        for bucket in range(BUCKETS):
            node = client.get_node_from_key(hash_tag(bucket))
            if node is None:
                raise exceptions.ClusterDownError(f"no node serves {hash_tag(bucket)}")
            served[str(node.host), int(node.port)].add(bucket)
    finally:
        await client.aclose()
    return [
        Link(_bare(_node_url(url, *address), timeout_s, name), frozenset(buckets))
        for address, buckets in served.items()
    ]


def _bare(url: str, timeout_s: float, name: str) -> AbstractConnection:
    pool = ConnectionPool.from_url(url, **_options(timeout_s, name))
    link: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]  # a gap of redis-py
    return link


def _node_url(url: str, host: str, port: int) -> str:
    parts = urlsplit(_plain(url))
    credentials = parts.netloc.rpartition("@")[0]
    at = f"{credentials}@" if credentials else ""
    return urlunsplit(parts._replace(netloc=f"{at}{f'[{host}]' if ':' in host else host}:{port}"))


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
            await client.spublish(f"{prefix}:probe", "")
    except Refused as error:
        if "unknown command" in str(error):
            raise Refused(f"{error}; {_OLDEST}") from error
        raise
