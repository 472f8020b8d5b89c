import asyncio
import shutil
from pathlib import Path

import pytest

from tests.browser.fake_gateway import FakeGateway
from tests.browser.shop import stock
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPT = Path(__file__).parent / "node_client.mjs"


async def test_the_client_runs_in_node_too(gateway: FakeGateway) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node found: install Node >= 20 to run client.js outside a browser")
    # Before Node 22 its own WebSocket hides behind this flag.
    process = await asyncio.create_subprocess_exec(
        node,
        "--experimental-websocket",
        str(SCRIPT),
        f"{gateway.url}realtime",
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        await gateway.publish("product:A", stock("A", "L1", 5, 1))
        await eventually(lambda: gateway.asked("subscribe"))
        async with asyncio.timeout(10):
            assert await process.stdout.readline() == b"waiting 5\n"
        gateway.abort()
        await eventually(lambda: gateway.handshakes == 2)
        await gateway.publish("product:A", stock("A", "L1", 4, 2))
        async with asyncio.timeout(10):
            assert (await process.stdout.read()).endswith(b" 4\n")
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
