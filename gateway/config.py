import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.auth.service_keys import BadServiceKeys
from gateway.edge_settings import ConnectionSettings
from gateway.errors import SettingsError
from gateway.redact import redact
from gateway.server_urls import check_files
from gateway.setting_groups import IdentitySettings, LimitSettings
from gateway.setting_types import (
    Address,
    ListenAddress,
    LogLevel,
    PostgresUrl,
    RedisUrl,
    Seconds,
    number,
    setting,
    url,
    whole,
)
from gateway.tls_settings import TlsSettings

__all__ = ["Address", "Settings", "load_settings", "settings_table"]

PREFIX: Final = "GATEWAY_"
DOCUMENT: Final = "docs/settings.md"


class Settings(ConnectionSettings, LimitSettings, IdentitySettings, TlsSettings, BaseSettings):
    """Every setting of the gateway; units are in the names, and nothing else reads the environment.

    Options of the command line win over the environment, which wins over `..._FILE`. An empty variable
    counts as unset.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, extra="forbid", hide_input_in_errors=True
    )

    database_url: PostgresUrl | None = url(
        "Postgres with the shop's tables; the primary.", "postgresql://user@host:5432/shop"
    )
    listener_database_url: PostgresUrl | None = url(
        "Postgres for LISTEN, the probe and the relay's lock: a direct connection, not a transaction pooler. "
        "Default: GATEWAY_DATABASE_URL.",
        "postgresql://user@host:5432/shop",
    )
    redis_url: RedisUrl | None = url(
        "Redis or Valkey, version 7 or later. "
        "A cluster by some of its nodes: redis+cluster://one:6379,other:6379.",
        "redis://host:6379/0",
    )
    redis_prefix: str = setting(
        "gw",
        "What every key and channel in Redis begins with; gateways under different ones may share it.",
        "1 to 64 of A-Z a-z 0-9 . _ : -",
        pattern=r"^[A-Za-z0-9._:-]{1,64}$",
    )
    listen: ListenAddress = setting(
        Address("0.0.0.0", 8080),  # noqa: S104 - the contract's default: clients come from outside
        "Where clients connect: WebSocket and HTTP. Port 0: a free one.",
        "host:port",
    )
    ops_listen: ListenAddress = setting(
        Address("127.0.0.1", 8081), "Health, readiness and metrics. Port 0: a free one.", "host:port"
    )
    workers: int = whole(
        1, "Processes that share the port. 1: no parent process. 0 is not allowed.", "processes", 1, 256
    )
    relay: Literal["auto", "off"] = setting(
        "auto",
        "Whether this process stands for election as the relay. off: another process or `relay` must.",
        "auto or off",
    )
    poll_ms: int = whole(
        10,
        "How often a busy relay reads the change log, at least; up to four times as often while that is quick"
        " and finds something. 0 is not allowed.",
        "ms",
        1,
        10_000,
    )
    flush_ms: int = whole(
        50,
        "Changes of one topic that follow a change within this time go out together. 0: each at once.",
        "ms",
        0,
        60_000,
    )
    heartbeat_s: Seconds = number(
        20, "How often a silent connection carries a heartbeat. 0 is not allowed.", "s", 0.05, 3600
    )
    slow_client_s: Seconds = number(
        30, "A client that takes nothing for this long is closed (1013). 0 is not allowed.", "s", 0.05, 3600
    )
    drain_s: Seconds = number(
        20, "How long a stop takes to spread its clients' reconnects. 0: all at once.", "s", 0, 3600
    )
    canary_ms: int = whole(
        1000,
        "How often the relay proves the way from Postgres; clients hear `stale` after three misses. "
        "0 is not allowed.",
        "ms",
        20,
        60_000,
    )
    probe_timeout_ms: int = whole(
        2000,
        "How long Postgres or Redis may take to answer before a connection counts as dead. 0 is not allowed.",
        "ms",
        20,
        60_000,
    )
    log_retention_s: Seconds = number(
        86_400,
        "How long changes are logged while no relay is there; then logging stops, to save the shop's disk. "
        "0 is not allowed.",
        "s",
        60,
        31_536_000,
    )
    verify_s: Seconds = number(
        600,
        "Every loaded topic is compared with Postgres about once in this time. 0: never.",
        "s",
        0,
        86_400,
    )
    low_stock: int = whole(
        5, "`low_stock_at` of rows that have none. 0: such a product is never low.", "pieces", 0, 2**31 - 1
    )
    log_format: Literal["auto", "json", "console"] = setting(
        "auto", "auto: console on a terminal, else JSON.", "auto, json or console"
    )
    log_level: LogLevel = setting("info", "The least severe lines logged.", "debug, info, warning or error")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls)

    def require_database_url(self) -> str:
        """Raises SettingsError when it is not set, or names files that are not there."""
        return _require_url("database_url", self.database_url)

    def require_listener_url(self) -> str:
        """The listener's DSN, else the database's. Raises SettingsError when neither is set, as above."""
        if self.listener_database_url is None:
            return self.require_database_url()
        return _require_url("listener_database_url", self.listener_database_url)

    def require_redis_url(self) -> str:
        """Raises SettingsError when it is not set, or has parameters of TLS that can not be used."""
        return _require_url("redis_url", self.redis_url)


def _require_url(name: str, value: str | None) -> str:
    if value is None:
        raise SettingsError(f"{_variable(name)} is not set: {_extra(name)['allowed']} is needed")
    check_files(_variable(name), value)
    return value


class _SecretFiles(PydanticBaseSettingsSource):
    """`GATEWAY_X_FILE` names the file that holds the secret setting X, as container secrets are mounted."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{_variable(field_name)}_FILE")
        # Where the file is a setting of its own, whoever watches it reads it.
        if not path or not _is_secret(field_name) or f"{field_name}_file" in Settings.model_fields:
            return None, field_name, False
        try:
            return Path(path).read_text("utf-8").strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise SettingsError(
                f"{_variable(field_name)}_FILE={_shown(path)}: a readable file is needed ({reason})"
            ) from error

    def __call__(self) -> dict[str, Any]:
        values = {
            name: self.get_field_value(f, name)[0] for name, f in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in values.items() if value}


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """The settings from options, the environment and secret files, in this order.

    `overrides` are a command's options by field name; None stands for one that was not given. Raises
    SettingsError, of one line that names the variable or option, the bad value (never a secret's) and what is
    allowed.
    """
    _refuse_unknown_variables()
    given: dict[str, Any] = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_input=True, include_url=False)[0]
        reason = first.get("ctx", {}).get("error")
        detail = f"{reason}; " if isinstance(reason, BadServiceKeys) else ""
        raise SettingsError(_explain(str(first["loc"][0]), given, error.error_count(), detail)) from None


def _explain(name: str, given: Mapping[str, object], count: int, detail: str = "") -> str:
    variable = _variable(name)
    if name in given:
        source, value = f"--{name.replace('_', '-')}", str(given[name])
    elif os.environ.get(variable):
        source, value = variable, os.environ[variable]
    else:
        source, value = f"{variable}_FILE", os.environ.get(f"{variable}_FILE", "")
    shown = _shown_secret(name, value) if _is_secret(name) else _shown(value)
    more = f"; {count - 1} more to correct" if count > 1 else ""
    return f"{source}={shown}: {detail}{_extra(name)['allowed']} is needed{more}"


# Kubernetes puts the addresses of a service called `gateway` or `gateway-...` into every container beside it.
_KUBERNETES: Final = re.compile(
    r"GATEWAY_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SENSITIVE: Final = re.compile(r"SECRET|KEY|URL|PASS|TOKEN|DSN")


def _refuse_unknown_variables() -> None:
    known = {_variable(name) for name in Settings.model_fields}
    known |= {f"{_variable(name)}_FILE" for name in Settings.model_fields if _is_secret(name)}
    for variable, value in sorted(os.environ.items()):
        name = variable.upper()
        if not name.startswith(PREFIX) or name in known or name.startswith(f"{PREFIX}TEST_"):
            continue
        if _KUBERNETES.fullmatch(name) or (name.endswith("_PORT") and "://" in value):
            continue
        close = difflib.get_close_matches(name, known, 1, 0.75)
        hint = f"did you mean {close[0]}?" if close else f"{DOCUMENT} lists all of them"
        shown = "(not shown)" if _SENSITIVE.search(f"{name} {close}") else _shown(value)
        raise SettingsError(f"{variable}={shown}: there is no such setting; {hint}")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _extra(name: str) -> dict[str, Any]:
    extra = Settings.model_fields[name].json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _is_secret(name: str) -> bool:
    return bool(_extra(name)["secret"])


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")


def _shown_secret(name: str, value: str) -> str:
    # The user and host of a server tell where to look; anything else could be secret as a whole.
    return _shown(redact(value)) if name.endswith("_url") and "://" in value else "(secret)"


def _in_words(value: object) -> str:
    """As it is written in the environment; an address is a tuple that knows how it is written."""
    return ",".join(value) if type(value) is tuple else str(value)


def settings_table() -> str:
    """The table of the documentation, in Markdown."""
    lines = ["| variable | default | unit | allowed | meaning |", "|---|---|---|---|---|"]
    # What every installation must set comes first, then the groups.
    for name in sorted(Settings.model_fields, key=lambda name: name not in Settings.__annotations__):
        field, extra = Settings.model_fields[name], _extra(name)
        default = "" if field.default in (None, ()) else f"`{_in_words(field.default)}`"
        meaning = (
            f"{field.description} Secret: also `{_variable(name)}_FILE`."
            if extra["secret"]
            else field.description
        )
        allowed = extra["allowed"].rstrip(",")
        lines.append(f"| `{_variable(name)}` | {default} | {extra['unit']} | {allowed} | {meaning} |")
    return "\n".join(lines) + "\n"
