"""A short run of what `make fuzz` does for long, and that it would notice; see docs/conformance.md."""

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.connection import ClientConnection
from gateway.incoming import Incoming
from gateway.server import _HttpConnection
from load.frames import BINARY, CLOSE, client_frame, server_frame
from tests.fuzz.__main__ import Sample, growth
from tests.fuzz.harness import Broken, QuickLoop, harness, outcome_of
from tests.fuzz.inputs import draw_input
from tests.fuzz.target import BytesRandom, run_one_input

ROOT = Path(__file__).resolve().parents[2]
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!"
HANDSHAKE = draw_input(random.Random(1))[0][0]


def feed(*inputs: list[bytes]) -> list[str]:
    async def run() -> list[str]:
        async with harness() as tested:
            try:
                return [await tested.feed(chunks) for chunks in inputs]
            except Exception as error:  # noqa: BLE001 - raised again where it is not one of a group
                failure = error
        raise failure

    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(run())


def test_20_000_inputs_raise_nothing_and_leave_nothing_behind() -> None:
    # Without coverage's eyes, which make it five times as slow.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_PROCESS")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--inputs", "20000", "--seed", "20261126"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exceptions: 0" in done.stdout
    for outcome in (
        "closed 1002",
        "closed 1007",
        "closed 1009",
        "closed 4400",
        "closed 4401",
        "answered, open",
    ):
        assert outcome in done.stdout


@settings(max_examples=50, deadline=None)
@given(rngs=st.lists(st.randoms(use_true_random=False), min_size=1, max_size=10))
def test_inputs_that_shrink(rngs: list[random.Random]) -> None:
    """The same inputs, drawn by hypothesis: what fails here is as small as it can be."""
    feed(*(draw_input(rng)[0] for rng in rngs))


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200))
def test_the_target_of_atheris_takes_any_bytes(data: bytes) -> None:
    run_one_input(data)


def test_bytes_that_are_used_up_are_zeros() -> None:
    rng = BytesRandom(b"\x01\x02")
    assert [rng.getrandbits(8) for _ in range(3)] == [1, 2, 0]
    assert rng.getrandbits(0) == 0
    assert 0 <= BytesRandom(b"\xff" * 9).random() < 1


class TestWhatIsNoticed:
    """A fuzzer that can not fail finds nothing."""

    @pytest.mark.parametrize(
        "written",
        [
            b"\x81\x02{}",
            b"HTTP/1.1 200 OK\r\n\r\n",
            SWITCHED + NOT_FOUND,
            SWITCHED + server_frame(b'{"type":"pong"}')[:-1],
            SWITCHED + server_frame(b'{"type":"gnop"}'),
            SWITCHED + server_frame(b"[]"),
            SWITCHED + server_frame(b"x", BINARY),
            SWITCHED + client_frame(b'{"type":"pong"}'),
            SWITCHED + server_frame(b"\x03\xee", CLOSE),
            SWITCHED + server_frame(b"\x03\xe8", CLOSE) + server_frame(b'{"type":"pong"}'),
        ],
    )
    def test_what_no_client_could_read(self, written: bytes) -> None:
        with pytest.raises((Broken, ValueError)):
            outcome_of(written)

    @pytest.mark.parametrize(
        ("written", "outcome"),
        [
            (b"", "no answer yet"),
            (NOT_FOUND + NOT_FOUND, "HTTP 404"),
            (NOT_FOUND + SWITCHED, "open"),
            (SWITCHED + server_frame(b'{"type":"error"}'), "an error, open"),
            (SWITCHED + server_frame(b"\x03\xea", CLOSE), "closed 1002"),
            (SWITCHED + server_frame(b"", CLOSE), "closed as asked"),
        ],
    )
    def test_what_one_can(self, written: bytes, outcome: str) -> None:
        assert outcome_of(written) == outcome

    def test_what_is_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Incoming, data: bytes) -> list[object]:
            raise ZeroDivisionError

        monkeypatch.setattr(Incoming, "receive", fail)
        with pytest.raises(ZeroDivisionError):
            feed([HANDSHAKE, b"\x81"])

    def test_what_is_raised_while_nobody_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: ClientConnection, data: bytes) -> None:
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)

        monkeypatch.setattr(ClientConnection, "data_received", fail)
        with pytest.raises(Broken, match="ZeroDivisionError"):
            feed([HANDSHAKE, b"\x81"])

    def test_what_is_kept_of_a_connection_that_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ClientConnection, "connection_lost", lambda *_: None)
        with pytest.raises(Broken, match="remembered"):
            feed([HANDSHAKE])

    def test_one_that_is_not_read_any_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(self: _HttpConnection, data: bytes) -> None:
            self.transport.pause_reading()

        monkeypatch.setattr(_HttpConnection, "data_received", stop)
        with pytest.raises(Broken, match="not read"):
            feed([HANDSHAKE])

    def test_growth_is_that_of_the_last_three_quarters(self) -> None:
        samples = [Sample(n, objects, 100 * objects) for n, objects in enumerate((0, 900, 901, 905, 910))]
        assert growth(samples) == (10, 1000)


def test_time_passes_only_while_there_is_nothing_to_do() -> None:
    async def sleep() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(3600)
        return loop.time() - began

    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        assert runner.run(sleep()) == pytest.approx(3600)
