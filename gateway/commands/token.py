import argparse

from gateway.errors import CommandFailed

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of the contract, so that a script hears the reason and not that they are unknown."""
    parser.add_argument("--subject", metavar="S")
    parser.add_argument("--vendor", metavar="V")
    parser.add_argument("--location", metavar="L", nargs="+", action="extend")
    parser.add_argument("--permission", metavar="P", nargs="+", action="extend")
    parser.add_argument("--ttl", metavar="1h")


def run(_: argparse.Namespace) -> int:
    raise CommandFailed("this version has no tokens; GATEWAY_ANONYMOUS says what everybody may see")
