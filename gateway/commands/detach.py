import argparse

from gateway.commands import run_async
from gateway.config import load_settings
from listeners.attach import detach
from listeners.postgres import classified, connected

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a source, as `sources` lists it")


def run(options: argparse.Namespace) -> int:
    return run_async(_detach(load_settings().require_listener_url(), options.name))


async def _detach(url: str, name: str) -> int:
    async with connected(url, purpose="detach") as connection:
        with classified(url):
            await detach(connection, name)
    print(f"detached: {name}")
    return 0
