"""What can stop a command. Each is told in one line on stderr, and its exit code says whose turn it is."""

from typing import ClassVar

__all__ = ["CommandFailed", "GatewayError", "SettingsError"]


class GatewayError(Exception):
    """The message is one line for the person at the terminal; it never holds a secret."""

    exit_code: ClassVar[int] = 1


class SettingsError(GatewayError):
    """The operator's: a setting or an option that is wrong, unknown or missing."""

    exit_code = 2


class CommandFailed(GatewayError):
    """The command could not do its work: a server refused, a file is missing, a port is busy."""
