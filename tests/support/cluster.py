"""A Valkey cluster of embedded servers: three primaries, a replica each, and what can happen to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from redis import exceptions
from redis.asyncio import Redis
from redis.crc import key_slot

from listeners.embedded import EmbeddedError, ValkeyServer
from listeners.keys import hash_tag
from tests.support.ports import free_port
from tests.support.waiting import eventually

__all__ = ["NODE_TIMEOUT_MS", "Cluster", "Node", "bucket_slot", "embedded_cluster"]

PRIMARIES: Final = 3
SLOTS: Final = 16384
NODE_TIMEOUT_MS: Final = 1000
# Formation, failover and the return of a node take a few node timeouts; a busy machine gets more.
SETTLED_S: Final = 20.0
_KEYS_AT_ONCE: Final = 20
_TRIES: Final = 3
_TROUBLE: Final = (exceptions.RedisError, OSError)


def bucket_slot(bucket: int) -> int:
    return key_slot(hash_tag(bucket).encode())


class Seen(NamedTuple):
    """A node as another node sees it (CLUSTER NODES)."""

    id: str
    port: int
    flags: frozenset[str]
    primary: str  # of which it is a replica; "-": it is none
    linked: bool
    slots: frozenset[int]

    @property
    def serves(self) -> bool:
        return "master" in self.flags and bool(self.slots) and not self.flags & {"fail", "fail?"}


class Node:
    """One server of the cluster. `client` is for the test's own commands; it follows no redirection."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.id = ""
        self.client: Any = Redis(
            host="127.0.0.1",
            port=server.port,
            protocol=2,
            decode_responses=True,
            socket_timeout=2.0,
        )

    def __repr__(self) -> str:
        return f"Node({self.server.port}, {self.id[:8]})"

    @property
    def url(self) -> str:
        """Of the cluster, with this node as the one that is named."""
        return f"redis+cluster://127.0.0.1:{self.server.port}/0"

    async def run(self, *words: str | int) -> Any:
        return await self.client.execute_command(*words)

    async def sees(self) -> dict[str, Seen]:
        """All nodes by their ids."""
        return {seen.id: seen for seen in map(_seen, (await self.run("CLUSTER", "NODES")).splitlines())}

    async def is_settled(self) -> bool:
        """It is content with the cluster and, as a replica, has all data of its primary."""
        if "cluster_state:ok" not in await self.run("CLUSTER", "INFO"):
            return False
        replication = await self.run("INFO", "replication")
        return bool(replication["role"] == "master" or replication["master_link_status"] == "up")


def _seen(line: str) -> Seen:
    node_id, address, flags, primary, _, _, _, link, *slots = line.split()
    port = int(address.partition("@")[0].rpartition(":")[2])
    held: set[int] = set()
    for part in slots:
        if not part.startswith("["):  # a slot on its way
            first, _, last = part.partition("-")
            held.update(range(int(first), int(last or first) + 1))
    return Seen(node_id, port, frozenset(flags.split(",")), primary, link == "connected", frozenset(held))


class Cluster:
    """Three primaries with a replica each. All waits end with AssertionError after SETTLED_S."""

    def __init__(self, directory: Path, *, node_timeout_ms: int = NODE_TIMEOUT_MS) -> None:
        self.nodes: list[Node] = []
        self._directory = directory
        self._node_timeout_ms = node_timeout_ms
        self._away: set[Node] = set()  # killed or frozen
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Takes about 3 s; all nodes are synced and content then. Raises EmbeddedError."""
        async with asyncio.TaskGroup() as group:
            starting = [group.create_task(self._start_node(number)) for number in range(2 * PRIMARIES)]
        self.nodes = [task.result() for task in starting]
        await self._form()

    async def stop(self) -> None:
        await self._running.aclose()

    @property
    def url(self) -> str:
        return self.nodes[0].url

    @property
    def living(self) -> list[Node]:
        return [node for node in self.nodes if node not in self._away]

    async def primary_of(self, slot: int) -> Node:
        """As the living nodes see it. Raises AssertionError while there is none."""
        seen = (await self.living[0].sees()).values()
        owners = [one.id for one in seen if one.serves and slot in one.slots]
        assert owners, f"nobody serves slot {slot}"
        return self._node(owners[0])

    async def primaries(self) -> list[Node]:
        return [self._node(one.id) for one in (await self.living[0].sees()).values() if one.serves]

    async def replicas(self) -> list[Node]:
        return [self._node(one.id) for one in (await self.living[0].sees()).values() if "slave" in one.flags]

    async def other_primary(self, node: Node) -> Node:
        return next(one for one in await self.primaries() if one is not node)

    def _node(self, node_id: str) -> Node:
        return next(node for node in self.nodes if node.id == node_id)

    # --- faults

    async def kill(self, node: Node) -> None:
        self._away.add(node)
        await node.server.kill()

    def pause(self, node: Node) -> None:
        self._away.add(node)
        node.server.pause()

    def resume(self, node: Node) -> None:
        node.server.resume()
        self._away.discard(node)

    async def restart(self, node: Node) -> None:
        """It comes back without its data but with its place; wait_settled() tells when it is a replica."""
        await node.server.restart()
        self._away.discard(node)

    async def stop_replicating(self, replica: Node) -> None:
        """It keeps what it has and gets nothing more, without knowing: its primary now refuses it."""
        primary = self._node((await replica.sees())[replica.id].primary)
        await replica.run("CONFIG", "SET", "primaryauth", "a password that nobody asked for")
        await primary.run("CLIENT", "KILL", "TYPE", "replica")

        async def is_cut_off() -> bool:
            return bool((await replica.run("INFO", "replication"))["master_link_status"] == "down")

        await eventually(is_cut_off, timeout_s=SETTLED_S)

    async def wait_failed_over(self, lost: Node) -> None:
        """Until all that live agree that others serve the slots of this one, and serve them."""

        async def done() -> bool:
            for node in self.living:
                served = [one for one in (await node.sees()).values() if one.serves]
                if sum(len(one.slots) for one in served) < SLOTS or any(one.id == lost.id for one in served):
                    return False
                if "cluster_state:ok" not in await node.run("CLUSTER", "INFO"):
                    return False
            return True

        await eventually(_tried(done), timeout_s=SETTLED_S, interval_s=0.05)

    async def wait_settled(self) -> None:
        """Until every living node is content, every replica synced, and all agree on who serves what."""

        async def done() -> bool:
            views = [await node.sees() for node in self.living]
            owners = [{one.id: one.slots for one in view.values() if one.serves} for view in views]
            agreed = all(view == owners[0] for view in owners[1:])
            return agreed and all([await node.is_settled() for node in self.living])

        await eventually(_tried(done), timeout_s=SETTLED_S, interval_s=0.05)

    # --- slots

    async def fail_over(self, replica: Node) -> None:
        """By order (CLUSTER FAILOVER): the primary goes on as a replica and loses nothing."""
        old = self._node((await replica.sees())[replica.id].primary)
        await replica.run("CLUSTER", "FAILOVER")
        await self.wait_failed_over(old)
        await self.wait_settled()

    async def a_replica_of(self, node: Node) -> Node:
        return next(self._node(one.id) for one in (await node.sees()).values() if one.primary == node.id)

    @asynccontextmanager
    async def migrating(self, slot: int, target: Node) -> AsyncIterator[None]:
        """The classic way: in the block all keys are at the target, but the slot is not yet."""
        source = await self.primary_of(slot)
        await target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        await source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        address = ("127.0.0.1", target.server.port, "", 0, 5000)
        while keys := await source.run("CLUSTER", "GETKEYSINSLOT", slot, _KEYS_AT_ONCE):
            await source.run("MIGRATE", *address, "KEYS", *keys)
        yield
        for node in (target, source, *await self.primaries()):
            await node.run("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        await self._wait_owner(slot, target)

    async def migrate_atomically(self, slot: int, target: Node) -> None:
        """The way of Valkey 9 and later: the server copies the slot, then hands it over as a whole."""
        source = await self.primary_of(slot)
        await source.run("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)
        await self._wait_owner(slot, target)

    async def _wait_owner(self, slot: int, owner: Node) -> None:
        async def done() -> bool:
            return all([slot in (await node.sees())[owner.id].slots for node in self.living])

        await eventually(_tried(done), timeout_s=SETTLED_S, interval_s=0.05)

    # --- how it comes to be

    async def _start_node(self, number: int) -> Node:
        options = {
            "--cluster-enabled": "yes",
            "--cluster-node-timeout": str(self._node_timeout_ms),
            "--cluster-replica-validity-factor": "0",
            # The shape of the cluster is the test's business: nobody becomes a replica for lack of slots.
            "--cluster-allow-replica-migration": "no",
            "--repl-diskless-sync-delay": "0",
        }
        args = [word for pair in options.items() for word in pair]
        for attempt in range(_TRIES):
            bus = ("--cluster-port", str(free_port()))
            server = ValkeyServer(self._directory / f"node{number}", args=(*args, *bus))
            try:
                await server.start()
            except EmbeddedError:
                if attempt == _TRIES - 1:
                    raise
                continue  # somebody else has taken the port of the cluster's bus in the meantime
            self._running.push_async_callback(server.stop)
            node = Node(server)
            self._running.push_async_callback(node.client.aclose)
            return node
        raise AssertionError("one of the tries has returned or raised")

    async def _form(self) -> None:
        nodes = self.nodes
        share = -(-SLOTS // PRIMARIES)
        for n, node in enumerate(nodes):
            node.id = await node.run("CLUSTER", "MYID")
            await node.run("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            if n < PRIMARIES:
                await node.run("CLUSTER", "ADDSLOTSRANGE", n * share, min((n + 1) * share, SLOTS) - 1)
        for node in nodes[1:]:
            bus_port = (await node.client.config_get("cluster-port"))["cluster-port"]
            await nodes[0].run("CLUSTER", "MEET", "127.0.0.1", node.server.port, bus_port)

        async def all_met() -> bool:
            views = [await node.sees() for node in nodes]
            return all(len(view) == len(nodes) and all(one.linked for one in view.values()) for view in views)

        await eventually(all_met, timeout_s=SETTLED_S, interval_s=0.05)
        for primary, replica in zip(nodes[:PRIMARIES], nodes[PRIMARIES:], strict=True):
            await replica.run("CLUSTER", "REPLICATE", primary.id)

        async def all_replicate() -> bool:
            views = [await node.sees() for node in nodes]
            return all(sum("slave" in one.flags for one in view.values()) == PRIMARIES for view in views)

        await eventually(all_replicate, timeout_s=SETTLED_S, interval_s=0.05)
        await self.wait_settled()


def _tried(condition: Any) -> Any:
    """False while a node does not answer."""

    async def attempt() -> bool:
        try:
            return bool(await condition())
        except _TROUBLE:
            return False

    return attempt


@asynccontextmanager
async def embedded_cluster(
    directory: Path, *, node_timeout_ms: int = NODE_TIMEOUT_MS
) -> AsyncIterator[Cluster]:
    cluster = Cluster(directory, node_timeout_ms=node_timeout_ms)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()
