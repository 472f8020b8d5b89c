import argparse
import asyncio
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gateway.commands import run_async
from gateway.commands.doctor_certificate import examine_certificate
from gateway.commands.doctor_credentials import examine_credentials
from gateway.commands.doctor_links import examine_links
from gateway.config import Settings, load_settings
from listeners.doctor_postgres import examine_listener, examine_postgres
from listeners.doctor_redis import examine_redis
from listeners.findings import Finding, Grade, fail, fine, warn

__all__ = ["configure", "examine_host", "run"]

# Connections to the servers, files, the loop's own.
_OWN_FILES: Final = 100
_ENOUGH_FILES: Final = 4096
_ENOUGH_BACKLOG: Final = 1024
_SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")


def configure(parser: argparse.ArgumentParser) -> None:
    """It has no options."""


def run(_: argparse.Namespace) -> int:
    settings = load_settings()
    findings = [
        fine("settings", "valid"),
        *examine_host(settings),
        *examine_certificate(settings),
        *examine_links(settings),
        *run_async(_examine_servers(settings)),
    ]
    for finding in findings:
        print(_line(finding))
    return 1 if any(finding.grade is Grade.FAILURE for finding in findings) else 0


async def _examine_servers(settings: Settings) -> list[Finding]:
    timeout_s = settings.probe_timeout_ms / 1000
    prefix = settings.redis_prefix
    async with asyncio.TaskGroup() as group:
        examinations = [
            group.create_task(examine_credentials(settings)),
            group.create_task(examine_postgres(settings.require_database_url(), timeout_s=timeout_s)),
            group.create_task(examine_listener(settings.require_listener_url(), timeout_s=timeout_s)),
            group.create_task(
                examine_redis(settings.require_redis_url(), prefix=prefix, timeout_s=timeout_s)
            ),
        ]
    return [finding for examination in examinations for finding in examination.result()]


def examine_host(
    settings: Settings, *, files: int | None = None, somaxconn: Path = _SOMAXCONN
) -> Iterable[Finding]:
    """What this machine allows. `files`: how many a process may have open (RLIMIT_NOFILE)."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if files is None else files
    if files == resource.RLIM_INFINITY:
        files = sys.maxsize
    wanted = settings.max_connections + _OWN_FILES if settings.max_connections else _ENOUGH_FILES
    if files < wanted and settings.max_connections:
        found = f"{files}, less than GATEWAY_MAX_CONNECTIONS needs"
        yield fail("open files", found, f"raise it to {wanted} (ulimit -n, LimitNOFILE=)")
    elif files < wanted:
        yield warn("open files", f"{files}, and each client takes one", "raise it (ulimit -n, LimitNOFILE=)")
    else:
        yield fine("open files", str(files) if files < sys.maxsize else "unlimited")
    if somaxconn.exists():
        backlog = int(somaxconn.read_text())
        if backlog < _ENOUGH_BACKLOG:
            advice = f"sysctl net.core.somaxconn={_ENOUGH_BACKLOG}: reconnecting crowds are refused"
            yield warn("listen backlog", str(backlog), advice)
        else:
            yield fine("listen backlog", str(backlog))


def _line(finding: Finding) -> str:
    advice = f"\n{'':9}-> {finding.advice}" if finding.advice else ""
    return f"{finding.grade:<8} {finding.subject}: {finding.found}{advice}"
