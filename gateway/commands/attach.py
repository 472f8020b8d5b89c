import argparse

from gateway.commands import run_async
from gateway.config import load_settings
from listeners.attach import attach
from listeners.postgres import classified, connected
from listeners.source_sql import table_name
from listeners.sources import Source, load_source_file

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a source file (TOML): tables, their keys and columns")


def run(options: argparse.Namespace) -> int:
    sources = load_source_file(options.file)
    return run_async(_attach(load_settings().require_listener_url(), sources))


async def _attach(url: str, sources: list[Source]) -> int:
    async with connected(url, purpose="attach") as connection:
        for source in sources:
            with classified(url):
                attached = await attach(connection, source)
            topics = ", ".join(attached.topics)
            print(
                f"attached: {attached.name} ({attached.kind}) {table_name(attached)} -> {topics}", flush=True
            )
    return 0
