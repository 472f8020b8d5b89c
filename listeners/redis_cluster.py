import asyncio
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from redis import exceptions
from redis.asyncio import Redis
from redis.crc import key_slot

from listeners.backoff import Backoff

__all__ = ["Address", "ClusterClient", "Command", "Placed", "Topology", "read_topology"]

SLOTS: Final = 16_384
# The next node is asked for the topology when one has said nothing for so long: it may be frozen.
_HEDGE_S: Final = 0.2
# While a node is gone every command to it fails; the others are not asked about it more often than this.
_REFRESH_EVERY_S: Final = 0.1
# Before a command goes on its third way: nodes may disagree for a moment, and a slot takes a while to move.
_REDIRECTS: Final = (0.005, 0.1)
_KEY_AT: Final = {"EVALSHA": 3, "EVAL": 3}

Command = Sequence[str | bytes | int]


class Address(NamedTuple):
    host: str
    port: int


class Placed(NamedTuple):
    """A reply, and the node that gave it."""

    reply: Any
    node: Address


class Topology(NamedTuple):
    owners: Sequence[Address | None]  # by slot
    primaries: frozenset[Address]  # that serve a slot
    nodes: frozenset[Address]
    epoch: int  # of the cluster, not of a topic: it rises with every failover and with every slot that moves


class ClusterClient:
    """Sends each command to the primary that serves its key's slot, and follows redirections.

    A command is redirected without having run, so that is no repetition; nothing else is tried again. Raises
    what redis-py raises. Replicas are never read from: without READONLY they redirect whatever has a key.

    redis-py's own RedisCluster (8.1) is not used: it sends ASKING and the command it is meant for on any two
    connections of a pool, closes the connections of all other commands at every fifth MOVED, raises when a
    node's connections are all in use, and a pipeline that loses its node never makes it look for another.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        connect: Callable[[Address], Redis],
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        """`seeds` are asked first. `connect` makes a node's client, which connects when first used."""
        self._seeds = tuple(seeds)
        self._connect = connect
        self._timeout_s = timeout_s
        self._clock = clock
        self._random = random
        self._nodes: dict[Address, Redis] = {}
        self._topology = Topology([None] * SLOTS, frozenset(), frozenset(), -1)
        self._moved: dict[int, Address] = {}  # since the topology was read
        self._doubts = 1  # ever had about the topology
        self._settled = 0  # of them, by reading it
        self._read_at = -math.inf
        self._suspect: Address | None = None
        self._lock = asyncio.Lock()
        self._loose: set[asyncio.Task[Any]] = set()

    async def aclose(self) -> None:
        """Nothing of it is open afterwards; what nodes were last asked for is waited for."""
        if self._loose:
            await asyncio.wait(self._loose)
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            await node.aclose()

    # --- commands

    async def execute_command(self, *command: str | bytes | int) -> Any:
        return (await self.placed(*command)).reply

    async def placed(self, *command: str | bytes | int) -> Placed:
        """Like execute_command, and says where: a cursor is good on its own node only."""
        slot = _slot_of(command)
        deadline = self._clock() + self._timeout_s
        waits = Backoff(*_REDIRECTS, random=self._random)
        address, asking, hops = await self._owner(slot), False, 0
        while True:
            failure: exceptions.ResponseError
            try:
                return Placed(await self._send(address, command, asking=asking), address)
            except exceptions.AskError as error:
                failure = error
                asking = not isinstance(error, exceptions.MovedError)
                address = self._redirected(error, address)
                if not asking:
                    self._note_moved(slot, address)
            except exceptions.TryAgainError as error:
                # Some of its keys are here and some there, or nowhere: until the slot has moved as a whole.
                failure, address, asking = error, await self._owner(slot), False
                hops += 1
            if self._clock() > deadline:
                raise failure
            hops += 1
            if hops > 1:
                await asyncio.sleep(waits.next())

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """All at once, in order on each node; the replies, errors among them, in order.

        Raises the error of a lost node, when all nodes are done: any of the commands may have run.
        """
        shares: defaultdict[Address, list[int]] = defaultdict(list)
        for n, command in enumerate(commands):
            shares[await self._owner(_slot_of(command))].append(n)
        done = await self._on_each(
            {
                address: self._pipelined(address, [commands[n] for n in share])
                for address, share in shares.items()
            }
        )
        replies: list[Any] = [None] * len(commands)
        for address, share in shares.items():
            for n, reply in zip(share, done[address], strict=True):
                replies[n] = reply
        for n, reply in enumerate(replies):
            if isinstance(reply, exceptions.AskError | exceptions.TryAgainError):  # MovedError is an AskError
                replies[n] = await self._again(commands[n])
        return replies

    async def _again(self, command: Command) -> Any:
        try:
            return await self.execute_command(*command)
        except exceptions.ResponseError as error:
            return error

    async def info_of_primaries(self, *sections: str) -> list[Mapping[str, Any]]:
        """INFO of every primary that serves a slot. Raises ReadOnlyError if one of them is none any more."""
        await self._keep_current()
        replies = await self._on_each(
            {address: self._info(address, sections) for address in sorted(self._topology.primaries)}
        )
        return list(replies.values())

    async def _info(self, address: Address, sections: Sequence[str]) -> Mapping[str, Any]:
        reply: Mapping[str, Any] = await self._send(address, ("INFO", *sections, "replication"))
        if reply["role"] != "master":
            self._lose(address)
            raise exceptions.ReadOnlyError(f"{address.host}:{address.port} has become a replica")
        return reply

    async def _send(self, address: Address, command: Command, *, asking: bool = False) -> Any:
        if asking:
            reply = (await self._pipelined(address, [("ASKING",), command]))[1]
            if isinstance(reply, Exception):
                raise reply
            return reply
        try:
            return await self._node(address).execute_command(*command)  # type: ignore[no-untyped-call]  # a gap of redis-py
        except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ClusterDownError, OSError):
            self._lose(address)
            raise

    async def _pipelined(self, address: Address, commands: Sequence[Command]) -> list[Any]:
        try:
            async with self._node(address).pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError):
            self._lose(address)
            raise
        if any(isinstance(reply, exceptions.ClusterDownError) for reply in replies):
            self._lose(address)
        return replies

    async def _on_each(self, work: Mapping[Address, Coroutine[Any, Any, Any]]) -> dict[Address, Any]:
        """Ends when all have; raises the first error."""
        async with asyncio.TaskGroup() as group:
            tasks = {address: group.create_task(_outcome(one)) for address, one in work.items()}
        outcomes = {address: task.result() for address, task in tasks.items()}
        for outcome in outcomes.values():
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes

    # --- topology

    async def topology(self) -> Topology:
        """Read anew. Raises the error of a node when none can say."""
        async with self._lock:
            await self._refresh()
        return self._topology

    async def _owner(self, slot: int) -> Address:
        """Raises ClusterDownError when nobody serves the slot."""
        await self._keep_current()
        owner = self._moved.get(slot) or self._topology.owners[slot]
        if owner is None:
            self._doubts += 1
            raise exceptions.ClusterDownError(f"no node serves slot {slot}")
        return owner

    async def _keep_current(self) -> None:
        if self._wants_refresh():
            async with self._lock:
                if self._wants_refresh():  # still: somebody else may have done it meanwhile
                    await self._refresh()

    def _wants_refresh(self) -> bool:
        due = self._clock() - self._read_at >= _REFRESH_EVERY_S or not self._topology.nodes
        return due and self._doubts != self._settled

    def _redirected(self, error: exceptions.AskError, asked: Address) -> Address:
        """An empty host stands for that of the node which says so."""
        return Address(error.host or asked.host, error.port)

    def _note_moved(self, slot: int, owner: Address) -> None:
        self._moved[slot] = owner
        self._doubts += 1

    def _lose(self, address: Address) -> None:
        """It does not answer, or not as it should: somebody else may serve its slots by now."""
        self._suspect = address
        self._moved = {slot: owner for slot, owner in self._moved.items() if owner != address}
        self._doubts += 1

    async def _refresh(self) -> None:
        doubts = self._doubts  # what comes up meanwhile is not settled by this
        try:
            topology = await self._ask_around()
        finally:
            self._read_at = self._clock()
        self._topology, self._moved, self._suspect, self._settled = topology, {}, None, doubts
        for address in self._nodes.keys() - topology.nodes - {*self._seeds}:
            self._set_loose(self._nodes.pop(address).aclose())

    async def _ask_around(self) -> Topology:
        """The first answer counts that is not older than what is known.

        A primary that was frozen and replaced takes itself for the primary when it wakes up, with old data.
        If all are older, the cluster was set up anew. Who has not answered yet is left to its timeout.
        """
        waiting: set[asyncio.Task[Topology]] = set()
        older: Topology | None = None
        last: BaseException | None = None  # of the errors
        candidates = self._candidates()
        while candidates or waiting:
            if candidates:
                waiting.add(self._set_loose(self._read_topology(candidates.pop(0))))
            timeout_s = _HEDGE_S if candidates else None  # each of them has a timeout of its own
            done, waiting = await asyncio.wait(
                waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if error := task.exception():
                    last = error
                elif task.result().epoch >= self._topology.epoch:
                    return task.result()
                elif older is None or task.result().epoch > older.epoch:
                    older = task.result()
        if older is not None:
            return older
        raise last or exceptions.RedisClusterException("the cluster has no nodes")

    def _candidates(self) -> list[Address]:
        """Whom a slot has moved to knows best; whoever was lost is asked last."""
        moved = [address for address in self._moved.values() if address != self._suspect]
        others = sorted(self._topology.nodes, key=lambda _: self._random())
        first = [*dict.fromkeys((*moved[-1:], *others, *self._seeds))]
        return sorted(first, key=lambda address: address == self._suspect)

    async def _read_topology(self, address: Address) -> Topology:
        info, slots = await self._pipelined(address, [("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")])
        for reply in (info, slots):
            if isinstance(reply, Exception):
                raise reply
        return read_topology(info, slots, address)

    def _node(self, address: Address) -> Redis:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self._connect(address)
        return node

    def _set_loose(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Ends by itself; aclose() waits for it. Not cancelled: redis-py leaves such a connection open."""
        task = asyncio.create_task(work)
        self._loose.add(task)
        task.add_done_callback(self._loosened)
        return task

    def _loosened(self, task: asyncio.Task[Any]) -> None:
        self._loose.discard(task)
        if not task.cancelled():
            task.exception()  # taken note of: maybe nobody waits for it any more


async def _outcome(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except (exceptions.RedisError, OSError) as error:
        return error


def read_topology(info: bytes, slots: Iterable[Sequence[Any]], asked: Address) -> Topology:
    """Of the replies to CLUSTER INFO and CLUSTER SLOTS. Raises RedisClusterException if there is no slot."""
    owners: list[Address | None] = [None] * SLOTS
    primaries: set[Address] = set()
    nodes: set[Address] = set()
    for first, last, primary, *replicas in slots:
        owner, *others = [
            Address(node[0].decode() if node[0] else asked.host, node[1]) for node in (primary, *replicas)
        ]
        owners[first : last + 1] = [owner] * (last + 1 - first)
        primaries.add(owner)
        nodes.update((owner, *others))
    if not nodes:
        raise exceptions.RedisClusterException(f"{asked.host}:{asked.port} belongs to no cluster")
    epoch = int(info.partition(b"cluster_current_epoch:")[2].split(None, 1)[0])
    return Topology(owners, frozenset(primaries), frozenset(nodes), epoch)


def _slot_of(command: Command) -> int:
    key = command[_KEY_AT.get(str(command[0]), 1)]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())
