"""A replica's links to Postgres and Redis, broken in every way that a network breaks them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from tests.faults.ledger import injected
from tests.faults.rig import Replica, stack
from tests.support.proxy import TcpProxy

# Longer than a probe's timeout and than three periods of the canary.
LASTS_S: Final = 1.6


async def cut(proxy: TcpProxy) -> None:
    proxy.cut()


async def cut_again_and_again(proxy: TcpProxy) -> None:
    for _ in range(5):
        proxy.cut()
        await asyncio.sleep(0.15)


async def refuse(proxy: TcpProxy) -> None:
    proxy.refuse()
    await asyncio.sleep(LASTS_S)


async def freeze(proxy: TcpProxy) -> None:
    proxy.freeze()
    await asyncio.sleep(LASTS_S)


async def freeze_requests(proxy: TcpProxy) -> None:
    proxy.freeze(to_client=False)
    await asyncio.sleep(LASTS_S)


async def freeze_answers(proxy: TcpProxy) -> None:
    proxy.freeze(to_server=False)
    await asyncio.sleep(LASTS_S)


async def hiccup(proxy: TcpProxy) -> None:
    """Shorter than anybody's deadline: everything that was sent arrives late, at once."""
    proxy.freeze()
    await asyncio.sleep(0.3)


async def black_hole(proxy: TcpProxy) -> None:
    proxy.black_hole()


async def delay(proxy: TcpProxy) -> None:
    proxy.delay(0.1)
    await asyncio.sleep(LASTS_S)


async def throttle(proxy: TcpProxy) -> None:
    proxy.throttle(2000)
    await asyncio.sleep(LASTS_S)


FAULTS: Final[list[Callable[[TcpProxy], Awaitable[None]]]] = [
    cut, cut_again_and_again, refuse, freeze, freeze_requests, freeze_answers, hiccup, black_hole, delay,
    throttle,
]  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["postgres", "redis"])
async def test_a_broken_link(server: str) -> None:
    """Of the replica whose relay is active, and of another one."""
    async with stack(seed=1) as rig:
        for fault_of_link in FAULTS:
            for active in (True, False):
                relay = await rig.relay()
                victim = relay if active else next(r for r in rig.replicas if r is not relay)
                proxy = link_of(victim, server)
                name = fault_of_link.__name__.replace("_", " ")
                with injected(f"link to {server}: {name}") as fault:
                    await fault_of_link(proxy)
                    proxy.heal()
                    fault.ended()
                    await rig.recovered(fault)


@pytest.mark.timeout(120)
async def test_both_links_of_a_replica() -> None:
    """Cut off from everything: its clients hear it, and the others do not notice."""
    async with stack(seed=2) as rig:
        for fault_of_link in (refuse, freeze, black_hole):
            relay = await rig.relay()
            name = fault_of_link.__name__.replace("_", " ")
            with injected(f"both links: {name}") as fault:
                await asyncio.gather(fault_of_link(relay.postgres), fault_of_link(relay.redis))
                relay.postgres.heal()
                relay.redis.heal()
                fault.ended()
                await rig.recovered(fault)


def link_of(replica: Replica, server: str) -> TcpProxy:
    return replica.postgres if server == "postgres" else replica.redis
