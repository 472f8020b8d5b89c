"""Runs the Autobahn cases against the echo, and says what came of them.

The runner (kosoku) has a process of its own: it changes modules of Python, for Autobahn's cases to run.
`python -m tests.conformance.cases PORT` is that process; it prints a line of JSON for each case.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from tests.conformance.echo import echo_server

__all__ = ["EXPLAINED", "GROUPS", "Verdict", "run_cases", "tables"]

TIMEOUT_S: Final = 120.0
# At a time: several wait a second or two for something that must not come.
CONCURRENCY: Final = 4

OK: Final = "OK"
UNIMPLEMENTED: Final = "UNIMPLEMENTED"

GROUPS: Final[Mapping[str, str]] = {
    "1": "framing: text and binary of all lengths",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "reserved opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "close handshake, close codes and reasons",
    "9": "large messages, many messages",
    "10": "automatic fragmentation",
    "12": "permessage-deflate",
    "13": "permessage-deflate with parameters",
}

_UTF8: Final = (
    "UTF-8 is looked at when the message is whole (up to GATEWAY_MAX_MESSAGE_BYTES); failing at the first"
    " wrong byte of a frame or fragment under way is what the case calls strict"
)

EXPLAINED: Final[Mapping[str, tuple[str, str]]] = {
    "6.4.1": ("NON-STRICT", _UTF8),
    "6.4.2": ("NON-STRICT", _UTF8),
    "6.4.3": ("NON-STRICT", _UTF8),
    "6.4.4": ("NON-STRICT", _UTF8),
    "7.1.6": (
        "INFORMATIONAL",
        (
            "256 KiB, a message and a close at once: how much of the answer comes before the close is not"
            " specified; the close handshake is clean, code 1000"
        ),
    ),
    "7.13.1": ("INFORMATIONAL", "close code 5000, which no specification defines: answered by 1002"),
    "7.13.2": ("INFORMATIONAL", "close code 65535, as 5000"),
}
"""The cases that are neither passed strictly nor of an extension, and why that is right."""


class Verdict(NamedTuple):
    """`behavior` and `closing` in Autobahn's words; `response` is the answer to the handshake."""

    case: str
    behavior: str
    closing: str
    close_code: int | None
    response: str

    @property
    def group(self) -> str:
        return self.case.partition(".")[0]


async def run_cases() -> list[Verdict]:
    """All of them, in order. Raises TimeoutError."""
    async with echo_server() as port:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.conformance.cases", str(port)), stdout=PIPE
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return [Verdict(*orjson.loads(line)) for line in out.splitlines()]


def tables(verdicts: Sequence[Verdict]) -> str:
    """As docs/conformance.md has them."""
    return "\n".join((*_summary(verdicts), "", *_explanations(verdicts)))


def _summary(verdicts: Sequence[Verdict]) -> Iterator[str]:
    columns = (OK, "NON-STRICT", "INFORMATIONAL", UNIMPLEMENTED, "FAILED")
    yield f"| cases | what | {' | '.join(columns).lower()} |"
    yield "|---|---|" + "---:|" * len(columns)
    for group, what in (*GROUPS.items(), ("", "**all**")):
        counts = Counter(_column(verdict) for verdict in verdicts if not group or verdict.group == group)
        numbers = " | ".join(str(counts[column]) for column in columns)
        yield f"| {f'{group}.*' if group else ''} | {what} | {numbers} |"


def _column(verdict: Verdict) -> str:
    passed = {OK, "NON-STRICT", "INFORMATIONAL", UNIMPLEMENTED}
    return verdict.behavior if {verdict.behavior, verdict.closing} <= passed else "FAILED"


def _explanations(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "| case | verdict | why |"
    yield "|---|---|---|"
    alike: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if verdict.behavior not in (OK, UNIMPLEMENTED):
            _, why = EXPLAINED.get(verdict.case, ("", "**not explained**"))
            alike.setdefault((verdict.behavior.lower(), why), []).append(verdict.case)
    for (behavior, why), cases in alike.items():
        yield f"| {', '.join(cases)} | {behavior} | {why} |"
    refused = sorted({verdict.group for verdict in verdicts if verdict.behavior == UNIMPLEMENTED}, key=int)
    yield (
        f"| {', '.join(f'{group}.*' for group in refused)} | unimplemented | the extension is offered and"
        " left out of the answer, by design: it costs each connection windows of memory, and a few bytes of a"
        " client much work |"
    )


async def _drive(port: str) -> None:
    from kosoku import FailureError, run_fuzzingclient

    url = f"ws://127.0.0.1:{port}/realtime"
    try:
        results = await run_fuzzingclient(url, concurrency=CONCURRENCY)
    except FailureError as failure:
        results = failure.results
    for result in results:
        verdict: tuple[Any, ...] = Verdict(
            result.case_id,
            result.behavior.value,
            result.behavior_close.value,
            result.remote_close_code,
            result.http_response,
        )
        print(orjson.dumps(list(verdict)).decode())


if __name__ == "__main__":
    asyncio.run(_drive(sys.argv[1]))
