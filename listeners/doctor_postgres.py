"""What `doctor` looks at in Postgres. Nothing is changed there."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from listeners.attach import registered
from listeners.capture_sql import STAMP_TRIGGER, create_triggers
from listeners.errors import ListenersError, Refused
from listeners.findings import Finding, Grade, fail, fine, warn
from listeners.migrations import pending
from listeners.postgres import Connection, classified, connected, redact_dsn
from listeners.roles import check_rows_visible, excess
from listeners.source_sql import table_name
from listeners.sql import queries

__all__ = ["examine_listener", "examine_postgres"]

Clock = Callable[[], float]  # seconds since 1970

_SQL: Final = queries("doctor")
_CATALOG: Final = queries("catalog")

# Latency is measured between two clocks; beyond this its histogram tells nothing.
MAX_SKEW_S: Final = 1.0
# The relay tells the triggers that it is there every few seconds.
RELAY_UNSEEN_S: Final = 60.0
# A serving process takes up to eight for loads and three for the relay.
CONNECTIONS: Final = 11
# Of a list of rights.
_SHOWN: Final = 5


async def examine_postgres(dsn: str, *, timeout_s: float, clock: Clock = time.time) -> list[Finding]:
    """Server, migrations, rights, triggers, relay. A server that is not there is a finding, not an error."""
    findings: list[Finding] = []
    try:
        async with connected(dsn, purpose="doctor", timeout_s=timeout_s) as connection:
            with classified(dsn):
                for examine in (_server, _migrations, _rights, _sources, _relay):
                    findings += await examine(connection, dsn, clock)
                    # What comes next would only fail for the same reason.
                    if any(finding.grade is Grade.FAILURE for finding in findings):
                        break
    except ListenersError as error:
        advice = "check GATEWAY_DATABASE_URL, the server, and what its role may do"
        findings.append(fail("Postgres", str(error), advice))
    return findings


async def examine_listener(dsn: str, *, timeout_s: float) -> list[Finding]:
    """Whether a session stays with its server: LISTEN and locks do not survive a transaction pooler."""
    subject = "listener"
    try:
        async with (
            connected(dsn, purpose="doctor", timeout_s=timeout_s) as first,
            connected(dsn, purpose="doctor", timeout_s=timeout_s) as second,
        ):
            with classified(dsn):
                lacking = [
                    name
                    for name, works in (
                        ("LISTEN", await _hears(first, second, timeout_s)),
                        ("session locks", await _locks(first, second)),
                    )
                    if not works
                ]
    except ListenersError as error:
        return [fail(subject, str(error), "check GATEWAY_LISTENER_DATABASE_URL")]
    if lacking:
        advice = "let GATEWAY_LISTENER_DATABASE_URL lead to Postgres itself, past the transaction pooler"
        return [fail(subject, f"{' and '.join(lacking)} do not work at {redact_dsn(dsn)}", advice)]
    return [fine(subject, "LISTEN and session locks work")]


async def _server(connection: Connection, dsn: str, clock: Clock) -> list[Finding]:
    before = clock()
    server = await connection.fetchrow(_SQL["server"])
    skew_s = server["clock"] - (before + clock()) / 2
    findings = [fine("Postgres", f"{server['version']} at {redact_dsn(dsn)}")]
    if server["standby"]:
        advice = "let GATEWAY_DATABASE_URL lead to the primary"
        findings.append(fail("Postgres", "is a standby: it has no triggers and no LISTEN", advice))
    if abs(skew_s) > MAX_SKEW_S:
        advice = "synchronise the clocks (NTP): latencies are measured between the two"
        findings.append(warn("clock", f"Postgres' clock is {skew_s:+.1f} s from ours", advice))
    else:
        findings.append(fine("clock", f"{abs(skew_s) * 1000:.0f} ms apart"))
    if server["free_connections"] < CONNECTIONS:
        advice = f"raise max_connections: a serving process takes up to {CONNECTIONS}"
        findings.append(warn("connections", f"{server['free_connections']} are free", advice))
    else:
        findings.append(fine("connections", f"{server['free_connections']} are free"))
    findings.append(_notify(server["prepared"]))
    return findings


def _notify(prepared: int) -> Finding:
    if prepared:
        found = f"off, since max_prepared_transactions is {prepared} and PREPARE fails after a NOTIFY"
        return fine("wake-up", f"{found}; the relay polls instead")
    return fine("wake-up", "writers may NOTIFY a relay that sleeps, unless `migrate --notify off` was run")


async def _migrations(connection: Connection, _: str, __: Clock) -> list[Finding]:
    missing = await pending(connection)
    if missing:
        return [fail("migrations", f"pending: {', '.join(missing)}", "run `inventory-gateway migrate`")]
    return [fine("migrations", "all applied")]


async def _rights(connection: Connection, _: str, __: Clock) -> list[Finding]:
    missing = [row["missing"] for row in await connection.fetch(_SQL["rights"])]
    if missing:
        advice = (
            "run `inventory-gateway migrate --roles` as the owner, and grant the service role to this one"
        )
        return [fail("rights", f"this role lacks {_some(missing)}", advice)]
    try:
        await check_rows_visible(connection)
    except Refused as error:
        return [fail("rights", str(error), "else clients would miss these rows")]
    more = await excess(connection)
    if more:
        advice = "serve as a login that has the role of `inventory-gateway migrate --roles` and nothing else"
        return [warn("rights", f"this role can do more than serving needs: it {_some(more)}", advice)]
    return [fine("rights", "this role may do all that serving needs, and no more")]


def _some(texts: list[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")


async def _sources(connection: Connection, _: str, __: Clock) -> list[Finding]:
    entries = await registered(connection)
    if not entries:
        return [warn("sources", "no table is attached", "run `inventory-gateway attach FILE`")]
    findings = []
    for entry in entries:
        subject = f"source {entry.source.name}"
        if not entry.table_exists:
            advice = f"run `inventory-gateway detach {entry.source.name}`"
            findings.append(fail(subject, "its table is gone", advice))
            continue
        problem = await _triggers(connection, entry.table_id, " ".join(create_triggers(entry.source)))
        table = table_name(entry.source)
        if problem is None:
            findings.append(fine(subject, f"triggers on {table} are in place and the last to fire"))
        else:
            findings.append(fail(subject, f"{table}: {problem[0]}", problem[1]))
    return findings


async def _triggers(connection: Connection, table_id: int, created: str) -> tuple[str, str] | None:
    """What is wrong with the triggers of a table, and what to do; None: nothing."""
    rows = await connection.fetch(_SQL["triggers"], table_id)
    found = {row["name"]: row["enabled"] for row in rows}
    names = [STAMP_TRIGGER, *(f"gateway_log_{event}" for event in ("insert", "update", "delete", "truncate"))]
    wanted = [name for name in names if name in created]
    missing = [name for name in wanted if name not in found]
    if missing:
        return f"lacks the triggers {', '.join(missing)}", "attach the table again (`migrate` for the shop's)"
    disabled = [name for name in wanted if found[name] not in ("O", "A")]
    if disabled:
        return (
            f"has disabled triggers: {', '.join(disabled)}",
            "ALTER TABLE ... ENABLE TRIGGER, then `resync`",
        )
    later = await connection.fetchval(_CATALOG["later_triggers"], table_id, STAMP_TRIGGER)
    if later is not None:
        return f"the trigger {later} fires after ours and may change what was stamped", "rename it"
    return None


async def _relay(connection: Connection, _: str, __: Clock) -> list[Finding]:
    relay = await connection.fetchrow(_SQL["relay"])
    if not relay["term"]:
        return [warn("relay", "none has ever run here", "start `serve` or `relay`")]
    if relay["unseen_s"] > RELAY_UNSEEN_S:
        advice = "start `serve` or `relay`: changes are logged, and no client hears of them"
        return [warn("relay", f"last seen {relay['unseen_s']:.0f} s ago", advice)]
    return [fine("relay", f"seen {max(0.0, relay['unseen_s']):.0f} s ago")]


async def _hears(listening: Connection, notifying: Connection, timeout_s: float) -> bool:
    channel, heard = f"gateway_doctor_{secrets.token_hex(8)}", asyncio.Event()

    def hear(*_: Any) -> None:
        heard.set()

    await listening.add_listener(channel, hear)
    await notifying.execute("SELECT pg_catalog.pg_notify($1, '')", channel)
    try:
        await asyncio.wait_for(heard.wait(), timeout_s)
    except TimeoutError:
        return False
    finally:
        await listening.remove_listener(channel, hear)
    return True


async def _locks(first: Connection, second: Connection) -> bool:
    """A pooler may give both the same server session, where a lock is taken twice without complaint."""
    key = secrets.randbits(62)
    take, give = "SELECT pg_catalog.pg_try_advisory_lock($1)", "SELECT pg_catalog.pg_advisory_unlock($1)"
    if not await first.fetchval(take, key):
        return False
    shared = await second.fetchval(take, key)
    if shared:
        await second.execute(give, key)
    return bool(await first.fetchval(give, key)) and not shared
