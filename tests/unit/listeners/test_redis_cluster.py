"""The cluster client against nodes that answer as they are told."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import pytest
from redis import exceptions
from redis.asyncio import Redis
from redis.crc import key_slot

from listeners.redis_cluster import SLOTS, Address, ClusterClient, Command, read_topology

A, B, C = (Address("10.0.0.1", port) for port in (1, 2, 3))
KEY = "{b3}k"
SLOT = key_slot(KEY.encode())
Answer = Callable[[Command], Any]


class FakeNode:
    """A node's client. `answer` returns the reply of a command, maybe later, or raises."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.heard: list[tuple[str | bytes | int, ...]] = []
        self.closed = False

    async def execute_command(self, *command: str | bytes | int) -> Any:
        self.heard.append(command)
        reply = self.answer(command)
        return await reply if isinstance(reply, Awaitable) else reply

    def pipeline(self, *, transaction: bool) -> "FakePipeline":
        assert not transaction
        return FakePipeline(self)

    async def aclose(self) -> None:
        self.closed = True

    @property
    def asked(self) -> list[tuple[str | bytes | int, ...]]:
        """Without what was asked about the topology."""
        return [command for command in self.heard if command[0] != "CLUSTER"]


class FakePipeline:
    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.commands: list[tuple[str | bytes | int, ...]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def execute_command(self, *command: str | bytes | int) -> None:
        self.commands.append(command)

    async def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        replies = []
        for command in self.commands:
            try:
                replies.append(await self.node.execute_command(*command))
            except exceptions.ResponseError as error:
                replies.append(error)
        return replies


def slots(*owners: tuple[int, int, Address, Sequence[Address]]) -> list[list[Any]]:
    return [
        [first, last, *([node.host.encode(), node.port, b"id", []] for node in (owner, *replicas))]
        for first, last, owner, replicas in owners
    ]


def owned_by(owner: Address) -> list[list[Any]]:
    """A owns everything but SLOT, which this one owns; C is a replica."""
    rest = slots((0, SLOT - 1, A, [C]), (SLOT + 1, SLOTS - 1, A, [C]))
    return rest + slots((SLOT, SLOT, owner, []))


class Nodes:
    """A cluster of fakes, and a client of it. `topology` is what they all say."""

    def __init__(self) -> None:
        self.now = 0.0
        self.topology: Any = owned_by(A)
        self.epoch = 1
        self.made: dict[Address, FakeNode] = {}
        self.answers: dict[Address, Answer] = {}
        self.client = ClusterClient(
            [A], self.connect, timeout_s=2.0, clock=lambda: self.now, random=lambda: 0.999
        )

    def connect(self, address: Address) -> Redis:
        def answer(command: Command) -> Any:
            if address in self.answers:
                return self.answers[address](command)
            return self.usual(address, command)

        self.made[address] = FakeNode(answer)
        fake: Any = self.made[address]
        redis: Redis = fake
        return redis

    def usual(self, address: Address, command: Command) -> Any:
        if command == ("CLUSTER", "SLOTS"):
            return self.topology
        if command == ("CLUSTER", "INFO"):
            return b"cluster_state:ok\r\ncluster_current_epoch:%d\r\ncluster_my_epoch:0\r\n" % self.epoch
        if command[0] == "INFO":
            return {"run_id": f"run of {address.port}", "role": "master"}
        return f"{command[0]!s} at {address.port}"

    def says(self, address: Address, *replies: Any) -> None:
        """To commands with a key, in order; then as usual. Errors are raised."""
        left = list(replies)

        def answer(command: Command) -> Any:
            if command[0] in ("CLUSTER", "ASKING") or not left:
                return self.usual(address, command)
            reply = left.pop(0)
            if isinstance(reply, Exception):
                raise reply
            return reply

        self.answers[address] = answer

    def is_lost(self, address: Address) -> None:
        def answer(command: Command) -> Any:
            raise exceptions.ConnectionError("gone")

        self.answers[address] = answer

    def topology_reads(self, address: Address) -> int:
        return self.made[address].heard.count(("CLUSTER", "SLOTS")) if address in self.made else 0


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


def moved(to: Address, host: str | None = None) -> exceptions.MovedError:
    return exceptions.MovedError(f"{SLOT} {to.host if host is None else host}:{to.port}")


def ask(to: Address) -> exceptions.AskError:
    return exceptions.AskError(f"{SLOT} {to.host}:{to.port}")


class TestTheWayOfACommand:
    async def test_it_goes_to_whom_its_key_belongs(self, nodes: Nodes) -> None:
        nodes.topology = owned_by(B)
        assert await nodes.client.execute_command("HMGET", KEY, "f") == "HMGET at 2"
        assert await nodes.client.execute_command("EVALSHA", "sha", 1, KEY, "argument") == "EVALSHA at 2"
        assert await nodes.client.execute_command("EVAL", "return 1", 1, b"other") == "EVAL at 1"
        assert await nodes.client.placed("GET", KEY) == ("GET at 2", B)
        assert nodes.topology_reads(A) == 1

    async def test_a_replica_is_never_asked(self, nodes: Nodes) -> None:
        for n in range(100):
            await nodes.client.execute_command("GET", n)
        assert C not in nodes.made

    async def test_moved_is_followed_and_remembered(self, nodes: Nodes) -> None:
        nodes.says(A, moved(B))
        assert await nodes.client.placed("GET", KEY) == ("GET at 2", B)
        assert await nodes.client.placed("GET", KEY) == ("GET at 2", B)
        assert len(nodes.made[A].asked) == 1

    async def test_after_moved_the_new_owner_is_asked_for_the_topology(self, nodes: Nodes) -> None:
        nodes.says(A, moved(B))
        await nodes.client.execute_command("GET", KEY)
        nodes.now, nodes.topology = 1.0, owned_by(B)
        assert await nodes.client.placed("GET", KEY) == ("GET at 2", B)
        assert (nodes.topology_reads(A), nodes.topology_reads(B)) == (1, 1)

    async def test_moved_without_a_host_is_another_port_of_the_same_one(self, nodes: Nodes) -> None:
        nodes.says(A, moved(B, host=""))
        assert (await nodes.client.placed("GET", KEY)).node == B

    async def test_ask_is_for_once_and_on_one_connection(self, nodes: Nodes) -> None:
        nodes.says(A, ask(B))
        assert await nodes.client.placed("GET", KEY) == ("GET at 2", B)
        assert nodes.made[B].asked == [("ASKING",), ("GET", KEY)]
        assert (await nodes.client.placed("GET", KEY)).node == A

    async def test_errors_of_the_node_that_was_asked_are_raised(self, nodes: Nodes) -> None:
        nodes.says(A, ask(B))
        nodes.says(B, exceptions.NoScriptError("no such script"))
        with pytest.raises(exceptions.NoScriptError):
            await nodes.client.execute_command("GET", KEY)

    async def test_halfway_moved_it_is_tried_again_at_the_owner(self, nodes: Nodes) -> None:
        nodes.says(A, exceptions.TryAgainError(), ask(B), ask(B))
        nodes.says(B, exceptions.TryAgainError())
        assert await nodes.client.placed("GET", KEY) == ("GET at 2", B)

    @pytest.mark.parametrize("word", ["moved", "ask", "again"])
    async def test_nobody_is_sent_around_for_ever(self, nodes: Nodes, word: str) -> None:
        error = {"moved": moved(A), "ask": ask(A), "again": exceptions.TryAgainError()}[word]

        def answer(command: Command) -> Any:
            nodes.now += 0.5
            if command[0] == "GET":
                raise error
            return nodes.usual(A, command)

        nodes.answers[A] = answer
        with pytest.raises(type(error)):
            await nodes.client.execute_command("GET", KEY)

    async def test_a_command_that_may_have_run_is_not_repeated(self, nodes: Nodes) -> None:
        nodes.says(A, exceptions.TimeoutError("no reply"))
        with pytest.raises(exceptions.TimeoutError):
            await nodes.client.execute_command("GET", KEY)
        assert len(nodes.made[A].asked) == 1


class TestManyAtOnce:
    async def test_replies_come_in_order_from_all_nodes(self, nodes: Nodes) -> None:
        nodes.topology = owned_by(B)
        commands = [("GET", KEY), ("HGET", "other"), ("TTL", KEY)]
        assert await nodes.client.execute_many(commands) == ["GET at 2", "HGET at 1", "TTL at 2"]

    async def test_those_that_are_redirected_go_on_alone(self, nodes: Nodes) -> None:
        nodes.says(A, moved(B), ask(B), exceptions.TryAgainError(), "fine", moved(B))
        commands = [(word, KEY) for word in ("GET", "TTL", "HGET", "HLEN")]
        assert await nodes.client.execute_many(commands) == ["GET at 2", "TTL at 2", "HGET at 2", "fine"]

    async def test_errors_are_replies(self, nodes: Nodes) -> None:
        nodes.says(A, exceptions.NoScriptError("first"), moved(B), moved(B))
        nodes.says(B, exceptions.NoScriptError("second"))
        replies = await nodes.client.execute_many([("GET", KEY), ("GET", KEY)])
        assert [type(reply) for reply in replies] == [exceptions.NoScriptError] * 2

    async def test_a_lost_node_is_told_after_the_others_are_done(self, nodes: Nodes) -> None:
        nodes.topology = owned_by(B)
        await nodes.client.execute_command("GET", "other")
        nodes.is_lost(A)
        with pytest.raises(exceptions.ConnectionError):
            await nodes.client.execute_many([("GET", "other"), ("GET", KEY)])
        assert nodes.made[B].asked == [("GET", KEY)]

    async def test_a_cluster_that_is_down_is_looked_at_again(self, nodes: Nodes) -> None:
        nodes.says(A, exceptions.ClusterDownError("CLUSTERDOWN"))
        (reply,) = await nodes.client.execute_many([("GET", KEY)])
        assert isinstance(reply, exceptions.ClusterDownError)
        nodes.now, nodes.topology = 1.0, owned_by(B)
        assert await nodes.client.execute_many([("GET", KEY)]) == ["GET at 2"]


class TestTopology:
    async def test_a_lost_node_leads_to_another_look_elsewhere(self, nodes: Nodes) -> None:
        await nodes.client.execute_command("GET", KEY)
        nodes.is_lost(A)
        with pytest.raises(exceptions.ConnectionError):
            await nodes.client.execute_command("GET", KEY)
        nodes.now, nodes.topology = 1.0, slots((0, SLOTS - 1, C, []))
        assert await nodes.client.placed("GET", KEY) == ("GET at 3", C)
        assert nodes.topology_reads(A) == 1

    async def test_it_is_not_looked_at_for_every_failure(self, nodes: Nodes) -> None:
        nodes.says(A, *[exceptions.ClusterDownError("CLUSTERDOWN")] * 10)
        for _ in range(10):
            with pytest.raises(exceptions.ClusterDownError):
                await nodes.client.execute_command("GET", KEY)
        assert nodes.topology_reads(A) == 1

    async def test_those_who_wait_for_a_look_share_it(self, nodes: Nodes) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(nodes.client.execute_command("GET", KEY))
        assert nodes.topology_reads(A) == 1

    async def test_a_node_that_says_nothing_is_not_waited_for(self, nodes: Nodes) -> None:
        nodes.topology = slots((0, SLOTS - 1, A, [B, C]))
        await nodes.client.topology()
        thawed = asyncio.Event()

        async def frozen() -> Any:
            await thawed.wait()
            raise exceptions.TimeoutError("too late")

        for address in (A, B):
            nodes.answers[address] = lambda command: frozen()
        nodes.topology = slots((0, SLOTS - 1, C, []))
        async with asyncio.timeout(5):
            assert (await nodes.client.topology()).primaries == {C}
        thawed.set()
        await nodes.client.aclose()
        assert all(node.closed for node in nodes.made.values())

    async def test_a_node_with_an_older_view_is_not_believed(self, nodes: Nodes) -> None:
        """A was replaced by C while it was frozen, and does not know it yet."""
        nodes.epoch, nodes.topology = 2, slots((0, SLOTS - 1, C, [A]))
        await nodes.client.topology()
        outdated = slots((0, SLOTS - 1, A, [C]))

        def of_yesterday(command: Command) -> Any:
            if command == ("CLUSTER", "SLOTS"):
                return outdated
            return b"cluster_current_epoch:1\r\n"

        nodes.answers[A] = of_yesterday
        for _ in range(3):
            assert (await nodes.client.topology()).primaries == {C}
        nodes.answers[C] = of_yesterday  # they all say so: it is another cluster
        assert (await nodes.client.topology()).primaries == {A}

    async def test_no_node_at_all(self, nodes: Nodes) -> None:
        nodes.is_lost(A)
        for _ in range(2):
            with pytest.raises(exceptions.ConnectionError, match="gone"):
                await nodes.client.execute_command("GET", KEY)

    async def test_a_slot_that_nobody_serves(self, nodes: Nodes) -> None:
        nodes.topology = slots((0, SLOT - 1, A, []))
        with pytest.raises(exceptions.ClusterDownError):
            await nodes.client.execute_command("GET", KEY)
        nodes.now, nodes.topology = 1.0, owned_by(B)
        assert (await nodes.client.placed("GET", KEY)).node == B

    async def test_who_has_left_is_let_go(self, nodes: Nodes) -> None:
        nodes.topology = owned_by(B)
        await nodes.client.execute_command("GET", KEY)
        nodes.topology = owned_by(A)
        await nodes.client.topology()
        await nodes.client.aclose()
        assert nodes.made[B].closed

    async def test_a_node_by_itself_knows_of_no_cluster(self, nodes: Nodes) -> None:
        nodes.topology = []
        with pytest.raises(exceptions.RedisClusterException, match="no cluster"):
            await nodes.client.topology()

    def test_an_address_without_a_host_is_that_of_the_node_that_was_asked(self) -> None:
        info = b"cluster_current_epoch:3\r\n"
        topology = read_topology(info, [[0, 5, [b"", 7, b"id", []], [None, 8, b"id", []]]], Address("::1", 7))
        assert topology.nodes == {Address("::1", 7), Address("::1", 8)}
        assert topology.primaries == {Address("::1", 7)}
        assert topology.epoch == 3
        assert list(topology.owners[:7]) == [Address("::1", 7)] * 6 + [None]


class TestInfoOfPrimaries:
    async def test_each_is_asked(self, nodes: Nodes) -> None:
        nodes.topology = owned_by(B)
        replies = await nodes.client.info_of_primaries("server")
        assert [reply["run_id"] for reply in replies] == ["run of 1", "run of 2"]

    async def test_one_that_has_become_a_replica_is_none(self, nodes: Nodes) -> None:
        nodes.says(A, {"role": "slave"})
        with pytest.raises(exceptions.ReadOnlyError, match=r"10\.0\.0\.1:1"):
            await nodes.client.info_of_primaries("server")
        nodes.now, nodes.topology = 1.0, slots((0, SLOTS - 1, C, []))
        assert [reply["run_id"] for reply in await nodes.client.info_of_primaries()] == ["run of 3"]
