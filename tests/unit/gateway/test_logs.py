import io
import logging
from collections.abc import Iterator
from typing import Any, Literal

import orjson
import pytest
import structlog

from gateway.logs import configure_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("uvicorn.error", "asyncio", "websockets")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def configured(level: Literal["debug", "info", "warning", "error"] = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, "json", stream=stream)
    return stream


def log_failure(error: Exception) -> None:
    def fail() -> None:
        raise error

    try:
        fail()
    except type(error):
        structlog.get_logger("x").exception("failed")


class TestJson:
    def test_an_event_is_one_line_of_structured_fields(self) -> None:
        stream = configured()
        structlog.get_logger("gateway.hub").info("connection opened", session="s", size=3, ok=None)
        (line,) = lines(stream)
        assert list(line)[:4] == ["timestamp", "level", "event", "logger"]
        assert line["timestamp"].endswith("Z")
        assert line | {"timestamp": ""} == {
            "timestamp": "",
            "level": "info",
            "event": "connection opened",
            "logger": "gateway.hub",
            "session": "s",
            "size": 3,
            "ok": None,
        }

    def test_who_logs_does_not_fail_because_nobody_reads(self) -> None:
        class Broken(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        configure_logging("info", "json", stream=Broken())
        structlog.get_logger("x").info("nobody hears")

    def test_the_standard_library_goes_the_same_way(self) -> None:
        stream = configured()
        logging.getLogger("asyncpg").warning("lost %s", "a connection")
        (line,) = lines(stream)
        assert (line["event"], line["logger"], line["level"]) == ("lost a connection", "asyncpg", "warning")

    def test_an_exception_is_in_the_line(self) -> None:
        stream = configured()
        log_failure(ValueError("line one\nline two"))
        (line,) = lines(stream)
        assert "ValueError: line one" in line["exception"]

    def test_values_that_are_no_json_are_told_as_text(self) -> None:
        stream = configured()
        structlog.get_logger("x").info("odd", body=b"\xff", items={"k": {1}}, number=2**70)
        (line,) = lines(stream)
        assert line["body"] == "b'\\xff'"
        assert line["items"] == {"k": [1]}

    def test_configuring_twice_does_not_double_the_lines(self) -> None:
        configured()
        stream = configured()
        structlog.get_logger("x").info("once")
        assert len(lines(stream)) == 1


class TestLevels:
    def test_what_is_less_severe_is_not_written(self) -> None:
        stream = configured("warning")
        structlog.get_logger("x").info("not this")
        logging.getLogger("y").info("nor this")
        structlog.get_logger("x").warning("this")
        assert [line["event"] for line in lines(stream)] == ["this"]

    def test_libraries_chatter_only_at_debug(self) -> None:
        stream = configured("info")
        logging.getLogger("uvicorn.error").info("Started server process")
        assert lines(stream) == []
        stream = configured("debug")
        logging.getLogger("uvicorn.error").info("Started server process")
        assert len(lines(stream)) == 1


class TestSecrets:
    def test_they_are_taken_out_wherever_they_are(self) -> None:
        stream = configured()
        dsn = "postgresql://shop:s3cret@db/shop"
        structlog.get_logger("x").info(f"no way to {dsn}", dsn=dsn, more={"urls": [dsn]}, error=OSError(dsn))
        logging.getLogger("y").error("no way to %s", dsn)
        log_failure(OSError(dsn))
        assert "s3cret" not in stream.getvalue()
        assert len(lines(stream)) == 3

    def test_the_subprotocol_that_carries_a_token(self) -> None:
        stream = configured()
        structlog.get_logger("x").info("handshake", offered=["inventory.v1", "bearer.czNjcmV0"])
        (line,) = lines(stream)
        assert line["offered"] == ["inventory.v1", "bearer.***"]


class TestConsole:
    def test_automatically_on_a_terminal(self) -> None:
        stream = Terminal()
        configure_logging("info", "auto", stream=stream)
        structlog.get_logger("x").info("hello", url="redis://:s3cret@h")
        assert "hello" in stream.getvalue()
        assert not stream.getvalue().startswith("{")
        assert "s3cret" not in stream.getvalue()

    def test_json_elsewhere(self) -> None:
        stream = io.StringIO()
        configure_logging("info", "auto", stream=stream)
        structlog.get_logger("x").info("hello")
        assert lines(stream)[0]["event"] == "hello"

    def test_without_colours_where_there_is_no_terminal(self) -> None:
        stream = io.StringIO()
        configure_logging("info", "console", stream=stream)
        log_failure(ValueError("broken"))
        assert "\x1b" not in stream.getvalue()
        assert "ValueError: broken" in stream.getvalue()
