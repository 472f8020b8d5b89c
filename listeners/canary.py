from typing import Any

__all__ = ["read_acknowledged", "sing"]


async def sing(connection: Any, *, acknowledged: int | None = None, timeout_s: float | None = None) -> int:
    """Write the canary row: its way through log, relay and Redis proves the whole path. Returns its number.

    The time is taken before the row is logged, so every change committed before it has a lower log id and is
    visible to whoever sees the canary. `acknowledged`: the last beat that has gone the whole way in this
    reign, left for those who can not hear it (`read_acknowledged`); None: none has yet.
    """
    beat: int = await connection.fetchval(
        "UPDATE gateway.canary SET beat = beat + 1, at = clock_timestamp(),"
        " acknowledged = coalesce($1, acknowledged) RETURNING beat",
        acknowledged,
        timeout=timeout_s,
    )
    return beat


async def read_acknowledged(connection: Any, *, timeout_s: float) -> int:
    """It moves as long as the active relay reaches Postgres and Redis, whoever else does not."""
    number: int = await connection.fetchval("SELECT acknowledged FROM gateway.canary", timeout=timeout_s)
    return number
