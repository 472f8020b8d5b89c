"""Prints docs/settings.md: `python -m gateway.settings_document > docs/settings.md`."""

import sys

from gateway.config import settings_table

__all__ = ["settings_document"]

_INTRODUCTION = """# Settings

Every setting is an environment variable; where a command has an option of that name, the option wins.
A secret may come from a file instead, named by the variable with `_FILE` appended. An empty variable counts
as unset. A wrong or unknown variable stops the start with one line that says what is allowed.
`GATEWAY_TEST_DATABASE_URL` and `GATEWAY_TEST_REDIS_URL` are for the tests and no settings of the gateway.

This page is generated: `python -m gateway.settings_document > docs/settings.md`.

"""


def settings_document() -> str:
    """The whole page."""
    return _INTRODUCTION + settings_table()


if __name__ == "__main__":
    sys.stdout.write(settings_document())
