"""Signed requests: two replicas, a real Redis, rotation under traffic, and what docs/ shows."""

import asyncio
import os
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from gateway.cli import run_command
from listeners.embedded import ValkeyServer
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.messages import next_message
from tests.support.signed import KEYS, headers_of, new_key
from tests.support.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "service-requests.md"
OLD, NEW = KEYS["old"], KEYS["new"]


def entries(
    *keys: str, scope: tuple[str, ...] = ("vendor=*", "location=*", "permission=inv:read:exact")
) -> str:
    return "".join(f"tills:{value}\n" for value in (*keys, *scope))


class Two(NamedTuple):
    one: RunningGateway
    other: RunningGateway
    file: Path


@pytest.fixture
async def two(database_url: str, redis_url: str, redis_prefix: str, tmp_path: Path) -> AsyncIterator[Two]:
    file = tmp_path / "service-keys"
    file.write_text(entries(OLD))
    settings: dict[str, Any] = {"service_keys_file": file, "anonymous": "off"}
    async with (
        running_gateway(database_url, redis_url, redis_prefix, **settings) as one,
        running_gateway(database_url, redis_url, redis_prefix, relay="off", **settings) as other,
    ):
        await eventually(one.is_ready, timeout_s=15)
        await eventually(other.is_ready, timeout_s=15)
        yield Two(one, other, file)


async def post(
    gateway: RunningGateway, *keys: str, body: bytes = b"{}", headers: dict[str, str] | None = None
) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.post(
            f"{gateway.http_url}/v1/tickets", content=body, headers=headers or headers_of(body, *keys)
        )


async def metric(gateway: RunningGateway, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"{gateway.ops_url}/metrics")).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def wait_keys(gateway: RunningGateway, count: int) -> None:
    async def used() -> bool:
        return await metric(gateway, "gateway_service_keys") == count

    await eventually(used, timeout_s=10)


async def closed(client: ClientConnection) -> int:
    async with asyncio.timeout(10):
        while True:
            try:
                await client.recv()
            except ConnectionClosed as end:
                return 0 if end.rcvd is None else end.rcvd.code


async def test_a_replay_at_the_other_replica_is_refused(two: Two) -> None:
    body = b'{"n": 1}'
    headers = headers_of(body, OLD)
    assert (await post(two.one, body=body, headers=headers)).status_code == 201
    for gateway in (two.other, two.one):
        answer = await post(gateway, body=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert await metric(gateway, 'gateway_signatures_refused_total{reason="replay"}') == 1
    assert await metric(two.one, "gateway_signatures_accepted_total") == 1


async def test_of_one_request_at_all_replicas_at_once_one_gets_through(two: Two) -> None:
    headers = headers_of(b"{}", OLD)
    answers = await asyncio.gather(*(post(gateway, headers=headers) for gateway in two[:2] * 8))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 401: 15}


async def test_the_ticket_is_the_service_s(two: Two) -> None:
    ticket = (await post(two.one, OLD)).json()["ticket"]
    async with two.other.connect(f"?ticket={ticket}&topics=vendor:V") as client:
        assert (await next_message(client, "welcome"))["principal"] == "service:tills"
        assert (await next_message(client, "snapshot"))["topic"] == "vendor:V"


async def test_rotation_under_traffic_loses_no_request(two: Two) -> None:
    """Both replicas are asked all the time, by keys that are good at that step."""
    signing: list[tuple[str, ...]] = [(OLD,)]
    under_way: dict[int, tuple[str, ...]] = {}
    answers: Counter[tuple[str, int]] = Counter()
    stop = asyncio.Event()

    async def ask(gateway: RunningGateway, http: httpx.AsyncClient) -> None:
        while not stop.is_set():
            (keys,) = signing
            under_way[gateway.port] = keys
            headers = headers_of(b"{}", *keys)
            answer = await http.post(f"{gateway.http_url}/v1/tickets", content=b"{}", headers=headers)
            answers["+".join("old" if key == OLD else "new" for key in keys), answer.status_code] += 1

    async def enough(of: str) -> None:
        before = answers[of, 201]
        await eventually(lambda: answers[of, 201] >= before + 50, timeout_s=20)

    async with httpx.AsyncClient(trust_env=False) as http, asyncio.TaskGroup() as tasks:
        for gateway in two[:2]:
            tasks.create_task(ask(gateway, http))
        await enough("old")
        two.file.write_text(entries(OLD, NEW))
        for gateway in two[:2]:
            await wait_keys(gateway, 2)
        await enough("old")  # good until it is taken out
        signing[:] = [(OLD, NEW)]
        await enough("old+new")
        signing[:] = [(NEW,)]
        await enough("new")
        await eventually(lambda: set(under_way.values()) == {(NEW,)})  # nobody waits with the old one
        moved = two.file.with_name("new")
        moved.write_text(entries(NEW))
        moved.rename(two.file)
        for gateway in two[:2]:
            await wait_keys(gateway, 1)
        await enough("new")
        stop.set()
    assert {code for _, code in answers} == {201}
    for gateway in two[:2]:
        assert (await post(gateway, OLD)).status_code == 401
        assert await metric(gateway, 'gateway_service_key_reads_total{result="success"}') == 2


async def test_a_broken_file_keeps_the_keys_and_a_service_that_is_gone_is_sent_away(two: Two) -> None:
    ticket = (await post(two.one, OLD)).json()["ticket"]
    async with two.other.connect(f"?ticket={ticket}") as client:
        await next_message(client, "welcome")
        two.file.write_text(entries(OLD, NEW, new_key()))

        async def noticed() -> bool:
            return await metric(two.other, 'gateway_service_key_reads_total{result="failure"}') > 0

        await eventually(noticed, timeout_s=10)
        assert (await post(two.other, OLD)).status_code == 201
        assert (await post(two.other, NEW)).status_code == 401
        await client.send('{"type":"ping"}')
        await next_message(client, "pong")
        two.file.write_text(f"billing:{KEYS['other']}\n")
        assert await closed(client) == 4401
    assert (await post(two.other, OLD)).status_code == 401


async def test_revocation(
    two: Two, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = (await post(two.one, OLD)).json()["ticket"]
    async with two.other.connect(f"?ticket={ticket}") as client:
        await next_message(client, "welcome")
        monkeypatch.setenv("GATEWAY_REDIS_URL", redis_url)
        monkeypatch.setenv("GATEWAY_REDIS_PREFIX", redis_prefix)
        assert await asyncio.to_thread(run_command, ["revoke", "--subject", "service:tills"]) == 0
        assert await closed(client) == 4401
    assert (await post(two.other, OLD)).status_code == 201  # signed since then: the key is still good


async def test_a_body_that_is_too_large(two: Two) -> None:
    body = b"x" * 65_537
    answer = await post(two.one, OLD, body=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await post(two.one, OLD, body=body[1:])).status_code == 201


async def test_nothing_gets_through_while_redis_is_away(
    database_url: str, private_valkey: ValkeyServer
) -> None:
    keys = entries(OLD)
    settings: dict[str, Any] = {"service_keys": keys, "anonymous": "off", "probe_timeout_ms": 500}
    async with running_gateway(database_url, private_valkey.url, "s", **settings) as gateway:
        await eventually(gateway.is_ready, timeout_s=15)
        headers = headers_of(b"{}", OLD)
        assert (await post(gateway, headers=headers)).status_code == 201
        private_valkey.pause()
        try:
            for again in (headers, None):
                answer = await post(gateway, OLD, headers=again)
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                assert int(answer.headers["retry-after"]) >= 1
        finally:
            private_valkey.resume()

        async def served() -> bool:
            return (await post(gateway, OLD)).status_code == 201

        await eventually(served, timeout_s=15)
        assert (await post(gateway, headers=headers)).status_code == 401


def snippet(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


class TestWhatThePageShows:
    async def test_in_python(self, two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("no_proxy", "*")
        shown: dict[str, Any] = {}
        exec(snippet("python"), shown)
        for body in (b"", b'{"n": 1}'):
            answer = await asyncio.to_thread(
                shown["signed_post"], f"{two.one.http_url}/v1/tickets", OLD, body
            )
            assert answer["expires_in"] == 30

    @pytest.mark.skipif(
        not all(map(shutil.which, ("bash", "curl", "openssl", "od"))), reason="curl and openssl are not here"
    )
    async def test_in_a_shell(self, two: Two) -> None:
        environment = os.environ | {
            "SERVICE_KEY": OLD,
            "GATEWAY_URL": two.one.http_url,
            "no_proxy": "*",
        }
        shell = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            snippet("bash"),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(shell.communicate(), 20)
        assert shell.returncode == 0, output + errors
        assert orjson.loads(output)["expires_in"] == 30
