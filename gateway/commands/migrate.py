import argparse
import sys

from gateway.commands import run_async
from gateway.config import load_settings
from listeners.migrations import migrate, pending
from listeners.postgres import classified

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something is missing")
    parser.add_argument(
        "--notify",
        choices=("auto", "off"),
        help="whether writers may wake the relay by NOTIFY; kept in the database. auto: unless the server "
        "allows prepared transactions",
    )
    parser.add_argument(
        "--no-shop", action="store_true", help="leave the reference schema out; `attach` your own tables"
    )


def run(options: argparse.Namespace) -> int:
    # Its lock belongs to a session, so a transaction pooler will not do.
    url = load_settings().require_listener_url()
    return run_async(_check(url) if options.check else _migrate(url, options))


async def _check(url: str) -> int:
    with classified(url):
        missing = await pending(url)
    for name in missing:
        print(f"pending: {name}")
    if missing:
        print("run `inventory-gateway migrate`", file=sys.stderr)
        return 1
    print("up to date")
    return 0


async def _migrate(url: str, options: argparse.Namespace) -> int:
    with classified(url):
        applied = await migrate(url, shop=not options.no_shop, notify=options.notify)
    for name in applied:
        print(f"applied: {name}")
    if not applied:
        print("up to date")
    return 0
