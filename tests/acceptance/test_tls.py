"""`serve` with a certificate of its own, in processes of their own."""

import signal
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.support.certificates import Authority
from tests.support.messages import next_message
from tests.support.ports import free_port
from tests.support.processes import START_S, Served, run, serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.acceptance


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def days_shown(served: Served, trust: ssl.SSLContext) -> int:
    """By the certificate that a new connection is shown."""
    async with connect(f"wss://127.0.0.1:{served.port}/realtime", ssl=trust, proxy=None) as client:
        await next_message(client, "welcome")
        shown = client.transport.get_extra_info("ssl_object").getpeercert()
    ends, begins = (ssl.cert_time_to_seconds(shown[name]) for name in ("notAfter", "notBefore"))
    return round((ends - begins) / 86_400)


def shows(served: Served, trust: ssl.SSLContext, days: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await days_shown(served, trust) == days

    return look


def reloads(result: str, number: int, worker: int | None) -> str:
    """A line of /metrics; `worker`: None where there are none beside the process itself."""
    label = "" if worker is None else f'worker="{worker}",'
    return f'gateway_certificate_reloads_total{{{label}result="{result}"}} {number:.1f}'


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_renewed_certificate_is_shown_after_sighup_and_nobody_is_cut_off(
    authority: Authority, database_url: str, redis_url: str, redis_prefix: str, workers: int
) -> None:
    pair, trust = authority.certify(days=90), authority.client_context()
    settings = {
        "database_url": database_url,
        "redis_url": redis_url,
        "redis_prefix": redis_prefix,
        "tls_certificate": pair.certificate,
        "tls_key": pair.key,
    }
    async with serving("serve", "--workers", str(workers), **settings) as served:
        await eventually(served.is_ready, timeout_s=START_S)  # over plain HTTP: it is the operator's port
        # One that has not come so far is not told: it will read the new files itself.
        for number in range(workers):
            line = reloads("success", 0, number if workers > 1 else None)
            await eventually(partial(served.metric, line), timeout_s=START_S)
        async with connect(f"wss://127.0.0.1:{served.port}/realtime", ssl=trust, proxy=None) as client:
            await next_message(client, "welcome")
            assert await days_shown(served, trust) == 91
            authority.certify(days=30)
            served.process.send_signal(signal.SIGHUP)
            await eventually(lambda: len(served.events("certificate reloaded")) == workers, timeout_s=START_S)
            await eventually(shows(served, trust, 31))
            pair.key.write_text("nonsense")
            served.process.send_signal(signal.SIGHUP)
            await eventually(
                lambda: len(served.events("certificate not reloaded: the old one stays")) == workers
            )
            assert await days_shown(served, trust) == 31
            await client.send('{"type":"ping","id":"p"}')
            assert (await next_message(client, "pong"))["id"] == "p"
        failures = reloads("failure", 1, 1 if workers > 1 else None)
        await eventually(lambda: served.metric(failures))
        assert await served.stop() == 0
    assert not served.events("worker died")


async def test_tail_follows_it_where_the_authority_is_trusted(
    authority: Authority,
    database_url: str,
    redis_url: str,
    redis_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = authority.certify()
    settings = {
        "database_url": database_url,
        "redis_url": redis_url,
        "redis_prefix": redis_prefix,
        "anonymous": "exact",
        "tls_certificate": pair.certificate,
        "tls_key": pair.key,
    }
    async with serving("serve", **settings) as served:
        await eventually(served.is_ready, timeout_s=START_S)
        where = {**settings, "listen": f"127.0.0.1:{served.port}"}
        code, out, err = await run("tail", "product:P1", **where)
        assert (code, out) == (1, "")
        assert "CERTIFICATE_VERIFY_FAILED" in err
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        async with serving("tail", "product:P1", **where) as tail:
            assert tail.process.stdout is not None
            assert b'"type":"welcome"' in await tail.process.stdout.readline()
            await tail.stop()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_certificate_that_can_not_be_used_is_a_wrong_setting(tmp_path: Path, workers: str) -> None:
    code, _, err = await run(
        *("serve", "--workers", workers, "--listen", f"127.0.0.1:{free_port()}"),
        database_url="postgresql://127.0.0.1:1/d",
        redis_url="redis://127.0.0.1:1",
        tls_certificate=tmp_path / "none.pem",
    )
    assert code == 2
    assert err == (
        f"inventory-gateway: GATEWAY_TLS_CERTIFICATE='{tmp_path}/none.pem': a readable file is needed "
        "(No such file or directory)\n"
    )
