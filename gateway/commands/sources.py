import argparse

from gateway.commands import run_async
from gateway.config import load_settings
from listeners.attach import Registered, registered
from listeners.postgres import classified, connected
from listeners.source_sql import table_name

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """It has no options."""


def run(_: argparse.Namespace) -> int:
    return run_async(_list(load_settings().require_listener_url()))


async def _list(url: str) -> int:
    async with connected(url, purpose="sources") as connection:
        with classified(url):
            entries = await registered(connection)
    for entry in entries:
        print(_line(entry))
    if not entries:
        print("nothing is attached; see `inventory-gateway attach --help`")
    return 0


def _line(entry: Registered) -> str:
    source = entry.source
    note = "" if entry.table_exists else "  (the table is gone: detach it)"
    return f"{source.name}  {source.kind}  {table_name(source)}  -> {', '.join(source.topics)}{note}"
