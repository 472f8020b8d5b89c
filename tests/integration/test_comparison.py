"""The comparison in miniature: that the limit and every peer that is here deliver, not what it costs them."""

import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from load.children import StackFailed
from load.comparison import Plan, compare
from load.limit import LimitInC, LimitInPython
from load.peers import PEERS
from load.peers.nats import Nats
from load.peers.peer import Peer
from load.peers.websockets import Websockets

TINY = Plan(clients=10, rates_per_s=(20.0, 40.0), turn_s=0.5, rounds=1)


class Broken(Websockets):
    name = "broken"  # type: ignore[misc]

    def start(self, directory: Path) -> NoReturn:
        raise StackFailed(f"nothing in {directory.name}")


async def test_the_limit_and_a_peer_side_by_side() -> None:
    limits: list[Peer] = [LimitInPython(), *([LimitInC()] if shutil.which("cc") else [])]
    peers: list[Peer] = [*limits, Websockets()]
    comparison = await compare(limits, [Websockets()], TINY)
    assert [standing.name for standing in comparison.standings] == [peer.name for peer in peers]
    assert comparison.failed == []
    assert {standing.wire_bytes for standing in comparison.standings} == {comparison.payload_bytes + 4}
    # Interleaved: everybody at one rate, then everybody at the next.
    assert [(turn.name, turn.rate_per_s) for turn in comparison.turns] == [
        (peer.name, rate) for rate in TINY.rates_per_s for peer in peers
    ]
    for turn in comparison.turns:
        assert turn.frames == turn.expected == turn.published * 10
        assert turn.us_per_frame > 0


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
async def test_a_peer_that_is_installed_delivers_what_is_published(peer: Peer) -> None:
    if not peer.installed():
        pytest.skip(f"not installed: {peer.how}")
    plan = Plan(clients=4, rates_per_s=(20.0,), turn_s=0.5, rounds=1)
    comparison = await compare([peer], [], plan)
    (turn,) = comparison.turns
    assert turn.expected == 40
    if isinstance(peer, Nats):  # on a busy machine, messages that wait for a socket share a frame
        assert 4 <= turn.frames <= 40
    else:
        assert turn.frames == 40


async def test_one_that_does_not_start_is_named_and_left_out() -> None:
    plan = Plan(clients=2, rates_per_s=(20.0,), turn_s=0.2, rounds=1)
    comparison = await compare([LimitInPython()], [Broken()], plan)
    assert [standing.name for standing in comparison.standings] == [LimitInPython.name]
    ((name, said),) = comparison.failed
    assert name == "broken"
    assert said.startswith("nothing in igw-peer-")


async def test_without_the_limit_there_is_no_comparison() -> None:
    with pytest.raises(StackFailed, match="nothing in"):
        await compare([Broken()], [], TINY)
