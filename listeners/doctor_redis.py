"""What `doctor` looks at in Redis."""

from typing import Final

from listeners.errors import ListenersError
from listeners.findings import Finding, fail, fine, warn
from listeners.keys import Keys
from listeners.redis_client import (
    AnyRedis,
    check_server,
    connect_redis,
    is_cluster_url,
    server_info,
    translated,
)
from listeners.topic_store import TopicStore

__all__ = ["examine_redis"]

# The store's subscribers are read by tasks that only parse; below this a burst could still cut them off.
_FULL: Final = 0.9


async def examine_redis(url: str, *, prefix: str, timeout_s: float) -> list[Finding]:
    """Server, memory policy, role, relay. A server that is not there is a finding, not an error."""
    client = connect_redis(url, timeout_s=timeout_s, max_connections=2, name="inventory-gateway-doctor")
    try:
        await check_server(client, prefix)
        cluster = is_cluster_url(url)
        with translated():
            server, memory, replication = [
                await _info(client, name) for name in ("server", "memory", "replication")
            ]
        store = TopicStore(client, Keys(prefix), cluster=cluster)
        return [
            _version(server),
            _mode(server, cluster=cluster),
            _policy(memory),
            _space(memory),
            _role(replication),
            await _reign(store),
        ]
    except ListenersError as error:
        return [fail("Redis", str(error), "check GATEWAY_REDIS_URL and the server")]
    finally:
        await client.aclose()


async def _info(client: AnyRedis, section: str) -> dict[str, str]:
    """Of one primary: a cluster is set up alike."""
    reply = (await server_info(client, section))[0]
    return {str(name): str(value) for name, value in reply.items()}


def _version(server: dict[str, str]) -> Finding:
    name = "Valkey" if "valkey_version" in server else "Redis"
    return fine("Redis", f"{name} {server.get('valkey_version') or server.get('redis_version', '?')}")


def _mode(server: dict[str, str], *, cluster: bool) -> Finding:
    is_cluster = server.get("redis_mode") == "cluster"
    if is_cluster and not cluster:
        return fail("Redis mode", "this is a cluster", "write GATEWAY_REDIS_URL as redis+cluster://...")
    return fine("Redis mode", server.get("redis_mode", "standalone"))


def _policy(memory: dict[str, str]) -> Finding:
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys-"):
        advice = "set maxmemory-policy to noeviction or a volatile- one: this one evicts the relay's own keys"
        return fail("Redis eviction", policy, advice)
    return fine("Redis eviction", policy)


def _space(memory: dict[str, str]) -> Finding:
    limit, used = int(memory.get("maxmemory", 0)), int(memory.get("used_memory", 0))
    if limit and used > _FULL * limit:
        return warn("Redis memory", f"{used / limit:.0%} of maxmemory is used", "raise maxmemory")
    return fine("Redis memory", f"{used / 1048576:.0f} MiB used" + (f", {used / limit:.0%}" if limit else ""))


def _role(replication: dict[str, str]) -> Finding:
    role = replication.get("role", "master")
    if role != "master":
        return fail("Redis role", "this is a replica", "let GATEWAY_REDIS_URL lead to the primary")
    return fine("Redis role", "primary")


async def _reign(store: TopicStore) -> Finding:
    reign = await store.reign()
    if reign is None:
        return warn("Redis relay", "no relay has begun here", "start `serve` or `relay`")
    return fine("Redis relay", f"generation {reign.generation}, term {reign.term}")
