import pytest
from redis import exceptions
from redis._parsers.base import BaseParser
from redis.asyncio import Redis

from listeners.errors import ListenersError, Refused, Unavailable
from listeners.redis_client import (
    classified,
    connect_redis,
    is_cluster_url,
    make_links,
    translated,
)
from listeners.redis_cluster import ClusterClient


def parsed(reply: str) -> Exception:
    error: Exception = BaseParser.parse_error(reply)  # type: ignore[no-untyped-call]  # a gap of redis-py
    return error


@pytest.mark.parametrize(
    "reply",
    [
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM User default has no permissions to run the 'evalsha' command",
        "ERR invalid password",
        "ERR wrong number of arguments for 'auth' command",
        "ERR unknown command 'SPUBLISH', with args beginning with: ",
        "ERR DB index is out of range",
        "ERR This instance has cluster support disabled",
        "ERR AUTH <password> called without any password configured for the default user.",
        "DENIED Redis is running in protected mode",
        "NOPROTO unsupported protocol version",
    ],
)
def test_a_server_that_says_no_refuses(reply: str) -> None:
    assert isinstance(classified(parsed(reply)), Refused)


@pytest.mark.parametrize(
    "reply",
    [
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script.",
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MOVED 3999 127.0.0.1:6381",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOREPLICAS Not enough good replicas to write.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "ERR max number of clients reached",
    ],
)
def test_a_server_in_trouble_is_unavailable(reply: str) -> None:
    error = classified(parsed(reply))
    assert isinstance(error, Unavailable)
    assert error.retry_after_ms > 0


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("Error 111 connecting to 127.0.0.1:1"),
        exceptions.TimeoutError("Timeout reading from socket"),
        exceptions.RedisClusterException("Redis Cluster cannot be connected."),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
async def test_no_server_is_unavailable(error: Exception) -> None:
    assert isinstance(classified(error), Unavailable)
    with pytest.raises(Unavailable), translated():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        parsed("ERR syntax error"),
        parsed("WRONGTYPE Operation against a key holding the wrong kind of value"),
        exceptions.DataError("Invalid input"),
        ZeroDivisionError(),
    ],
)
async def test_a_mistake_of_ours_stays_what_it_is(error: Exception) -> None:
    assert classified(error) is None
    with pytest.raises(type(error)), translated():
        raise error


async def test_what_is_ours_already_passes() -> None:
    with pytest.raises(ListenersError, match="ours"), translated():
        raise ListenersError("ours")


async def test_a_client_repeats_nothing_by_itself() -> None:
    client = connect_redis("redis://user:secret@127.0.0.1:1/3", timeout_s=0.7)
    assert isinstance(client, Redis)
    options = client.connection_pool.connection_kwargs
    assert options["retry"].get_retries() == 0
    assert (options["protocol"], options["socket_timeout"], options["db"]) == (2, 0.7, 3)
    with pytest.raises(Unavailable) as caught, translated():
        await client.get("key")
    assert "secret" not in str(caught.value)
    await client.aclose()


async def test_a_cluster_is_named_by_its_scheme() -> None:
    assert is_cluster_url("redis+cluster://127.0.0.1:1")
    assert is_cluster_url("rediss+cluster://127.0.0.1:1")
    assert not is_cluster_url("rediss://127.0.0.1:1")
    client = connect_redis("redis+cluster://127.0.0.1:1")
    assert isinstance(client, ClusterClient)
    await client.aclose()


async def test_one_server_serves_all_buckets() -> None:
    url = "redis://127.0.0.1:1"
    (link,) = await make_links(url, connect_redis(url), timeout_s=1.0)
    assert link.buckets == set(range(16))


@pytest.mark.parametrize("url", ["redis+cluster://127.0.0.1:x", "redis+cluster://127.0.0.1:1/?protocol=9x"])
def test_a_cluster_s_url_is_looked_at_as_well(url: str) -> None:
    with pytest.raises(ValueError, match=r"Port|protocol"):
        connect_redis(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "127.0.0.1:6379"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="scheme"):
        connect_redis(url)
