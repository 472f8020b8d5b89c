import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final, NoReturn, cast

from gateway.commands import CommandModule
from gateway.errors import CommandFailed, GatewayError
from gateway.redact import redact
from listeners.errors import ListenersError

__all__ = ["run_command"]

_OURS: Final = ("gateway", "listeners", "protocol")
PROGRAM: Final = "inventory-gateway"

# In the order of the help. A command's module is imported only when it is run.
COMMANDS: Final = {
    "dev": "everything on this machine: servers, a sample shop with live sales, gateway and page",
    "serve": "the gateway",
    "relay": "only the relay, for `serve --relay off` elsewhere",
    "migrate": "bring the database's gateway schema up to date, or check it",
    "attach": "watch tables that exist, described by a source file",
    "detach": "undo attach",
    "sources": "list the attached tables",
    "resync": "make every client, or those of one topic, start over from Postgres",
    "seed": "fill the reference schema with a sample shop",
    "simulate": "make sales, restocks and price changes happen",
    "token": "mint a token with the shared secret, for development",
    "revoke": "make tokens worthless before they end",
    "tail": "subscribe and print what arrives",
    "doctor": "check settings, servers, rights and limits, and say what to do",
}

_EPILOG: Final = (
    "Settings come from GATEWAY_... variables (docs/settings.md); secrets also from the file named by "
    "GATEWAY_..._FILE. Exit codes: 0 done, 1 failed, 2 wrong usage or settings."
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the whole usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def run_command(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed at run time, 2 wrong usage or settings.

    Whatever stops it is told in one line on stderr.
    """
    try:
        options = _parse(arguments)
        return _load(options.command).run(options)
    except GatewayError as error:
        return _fail(str(error), error.exit_code)
    except ListenersError as error:
        return _fail(str(error), 1)
    except ExceptionGroup as group:
        ours = _only_ours(group)
        if ours is None:
            raise
        return _fail(str(ours), ours.exit_code if isinstance(ours, GatewayError) else 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    except BrokenPipeError:
        # Whoever read our output (`| head`) has enough. Python flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog=PROGRAM, description="Realtime inventory over WebSocket, from Postgres.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=version("inventory-gateway"))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=_sentence(summary), epilog=_EPILOG)
        if name == chosen:
            _load(name).configure(command)
    return parser.parse_args(arguments)


def _load(name: str) -> CommandModule:
    try:
        module: Any = importlib.import_module(f"gateway.commands.{name}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        raise CommandFailed(f"`{name}` needs the package {package}, which is not installed") from error
    return cast("CommandModule", module)


def _only_ours(group: ExceptionGroup[Exception]) -> Exception | None:
    """The first error of a group, if all of them are for the person at the terminal."""
    ours, others = group.split((GatewayError, ListenersError))
    if ours is None or others is not None:
        return None
    first: Exception = ours
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."


def _fail(message: str, exit_code: int) -> int:
    line = " ".join(redact(message).split())
    print(f"{PROGRAM}: {line}", file=sys.stderr)
    return exit_code
