import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from gateway.config import Settings
from gateway.errors import CommandFailed
from listeners.backoff import Backoff
from listeners.errors import ListenersError, MigrationError, Unavailable
from listeners.migrations import pending
from listeners.postgres import classified, connected
from listeners.redis_client import check_server, connect_redis
from listeners.roles import check_rows_visible

__all__ = ["StartRefused", "Startup", "check_database", "check_listener", "check_redis"]

log = structlog.get_logger(__name__)

# One try after another: this is for servers that are being started, too.
BACKOFF: Final = (0.25, 5.0)  # s


class StartRefused(CommandFailed):
    """A server was reached and refuses; only an operator can help."""


class Startup:
    """Waits until Postgres and Redis serve, as `serve` and `relay` do before anything else.

    Meanwhile it is a gateway.http.ports.Readiness: `/readyz` says what is waited for.
    """

    def __init__(
        self, settings: Settings, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Raises SettingsError when a server is not set at all."""
        timeout_s = settings.probe_timeout_ms / 1000
        database, listener = settings.require_database_url(), settings.require_listener_url()
        redis = settings.require_redis_url()
        self._sleep = sleep
        self._checks: dict[str, Callable[[], Awaitable[None]]] = {
            "GATEWAY_DATABASE_URL": lambda: check_database(database, timeout_s=timeout_s),
            "GATEWAY_REDIS_URL": lambda: check_redis(
                redis, timeout_s=timeout_s, prefix=settings.redis_prefix
            ),
        }
        if listener != database:
            self._checks["GATEWAY_LISTENER_DATABASE_URL"] = lambda: check_listener(
                listener, timeout_s=timeout_s
            )
        self._waiting = dict.fromkeys(self._checks, "not reached yet")

    def not_ready(self) -> Sequence[str]:
        return [f"{setting}: {reason}" for setting, reason in self._waiting.items()] or ["starting"]

    async def wait(self) -> None:
        """Returns when they serve and no migration is missing; logs one line a try until then.

        Raises StartRefused when one answers and refuses.
        """
        refusals: list[StartRefused] = []
        try:
            async with asyncio.TaskGroup() as group:
                for setting, check in self._checks.items():
                    group.create_task(self._wait_for(setting, check))
        except* StartRefused as refused:
            refusals.extend(error for error in refused.exceptions if isinstance(error, StartRefused))
        if refusals:
            raise refusals[0]

    async def _wait_for(self, setting: str, check: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(*BACKOFF)
        while True:
            try:
                await check()
            except Unavailable as error:
                self._waiting[setting] = str(error)
                delay_s = backoff.next()
                log.warning(
                    "waiting for a server",
                    setting=setting,
                    reason=str(error),
                    attempt=backoff.attempt,
                    next_try_s=round(delay_s, 2),
                )
                await self._sleep(delay_s)
            except ListenersError as error:
                raise StartRefused(f"{setting}: {error}") from error
            else:
                del self._waiting[setting]
                return


async def check_database(url: str, *, timeout_s: float) -> None:
    """Raises Unavailable, Refused, or MigrationError: some are missing, or one was changed afterwards."""
    async with connected(url, purpose="startup", timeout_s=timeout_s) as connection:
        with classified(url):
            missing = await pending(connection)
            if not missing:
                await check_rows_visible(connection)
    if missing:
        some = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise MigrationError(f"migrations are pending ({some}): run `inventory-gateway migrate`")


async def check_listener(url: str, *, timeout_s: float) -> None:
    """Raises Unavailable or Refused."""
    async with connected(url, purpose="startup", timeout_s=timeout_s) as connection:
        with classified(url):
            standby = await connection.fetchval("SELECT pg_catalog.pg_is_in_recovery()")
    if standby:
        raise Unavailable("this Postgres is a standby: the listener needs the primary")


async def check_redis(url: str, *, timeout_s: float, prefix: str = "gw") -> None:
    """Raises Unavailable or Refused. `prefix`: under which the user of the URL may publish.

    When it is cancelled it still takes until the server has answered or the time is up: redis-py (8.1) leaves
    a connection open whose handshake is cancelled.
    """
    asking = asyncio.ensure_future(_ask_redis(url, timeout_s, prefix))
    try:
        await asyncio.shield(asking)
    except asyncio.CancelledError:
        await asyncio.wait([asking])
        if not asking.cancelled():
            asking.exception()  # taken note of: nobody waits for it any more
        raise


async def _ask_redis(url: str, timeout_s: float, prefix: str) -> None:
    client = connect_redis(url, timeout_s=timeout_s, max_connections=1, name="inventory-gateway-startup")
    try:
        await check_server(client, prefix)
    finally:
        await client.aclose()
