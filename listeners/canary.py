from typing import Any

__all__ = ["sing"]


async def sing(connection: Any, *, timeout_s: float | None = None) -> int:
    """Write the canary row: its way through log, relay and Redis proves the whole path. Returns its number.

    The time is taken before the row is logged, so every change committed before it has a lower log id and is
    visible to whoever sees the canary.
    """
    beat: int = await connection.fetchval(
        "UPDATE gateway.canary SET beat = beat + 1, at = clock_timestamp() RETURNING beat", timeout=timeout_s
    )
    return beat
