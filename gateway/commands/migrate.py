import argparse
import re
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
    parser.add_argument(
        "--roles",
        metavar="PREFIX",
        nargs="?",
        const="gateway",
        type=_prefix,
        help="make the roles PREFIX_service, to serve, and PREFIX_shop, to write the reference shop; none of "
        "them logs in: grant them to logins (gateway)",
    )


def _prefix(text: str) -> str:
    if re.fullmatch(r"(?!pg_)[a-z_][a-z0-9_]{0,47}", text):
        return text
    raise argparse.ArgumentTypeError(f"{text[:40]!r}: up to 48 of a-z 0-9 _ are needed, and no pg_ in front")


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
        applied = await migrate(url, shop=not options.no_shop, notify=options.notify, roles=options.roles)
    for name in applied:
        print(f"applied: {name}")
    if not applied:
        print("up to date")
    return 0
