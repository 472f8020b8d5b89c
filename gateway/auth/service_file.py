"""The file with the keys of services, read again while the gateway runs."""

import asyncio
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from gateway.auth.service_keys import BadServiceKeys, Service, read_service_keys

__all__ = ["ServiceKeyFile", "read_key_file", "services_in"]

log = structlog.get_logger(__name__)

# Kubernetes changes a mounted secret by a link, others write it in place or move a new one there: what all of
# them have in common is that the content is another.
POLL_S: Final = 2.0
# Whoever writes in place has finished when the content stays for so long, in s.
SETTLE_S: Final = 0.25
_MAX_BYTES: Final = 1024 * 1024


def read_key_file(path: Path) -> bytes:
    """Raises BadServiceKeys when it can not be read."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BadServiceKeys(f"the file can not be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise BadServiceKeys(f"the file has more than {_MAX_BYTES} bytes")
    return data


def services_in(data: bytes) -> Mapping[str, Service]:
    """Raises BadServiceKeys."""
    try:
        return read_service_keys(data.decode())
    except UnicodeDecodeError:
        raise BadServiceKeys("the file is not UTF-8") from None


class ServiceKeyFile:
    """run() hands on what the file says whenever that is something else and in order.

    While it is not the last good keys stay: one line is logged for each way in which it is wrong.
    """

    def __init__(
        self,
        path: Path,
        keep: Callable[[Mapping[str, Service]], object],
        *,
        poll_s: float = POLL_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        """Reads it at once. Raises BadServiceKeys."""
        self._path = path
        self._keep = keep
        self._poll_s = poll_s
        self._settle_s = settle_s
        self._data = read_key_file(path)
        self._problem: str | None = None
        self._reads = {"success": 0, "failure": 0}
        keep(services_in(self._data))

    async def run(self, changed: Callable[[], object]) -> None:
        """Until cancelled; `changed` after other services were handed on."""
        while True:
            await asyncio.sleep(self._poll_s * (0.9 + random.random() / 5))
            if await self.refresh():
                changed()

    async def refresh(self) -> bool:
        """Whether there is something new."""
        try:
            data = await self._settled()
            services = None if data is None else services_in(data)
        except BadServiceKeys as error:
            self._reads["failure"] += 1
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning(
                    "service keys can not be read; the old ones stay",
                    setting="GATEWAY_SERVICE_KEYS_FILE",
                    reason=self._problem,
                )
            return False
        self._problem = None
        if data is None or services is None:
            return False
        self._data = data
        self._keep(services)
        self._reads["success"] += 1
        keys = sum(len(service.keys) for service in services.values())
        log.info("service keys read", services=len(services), keys=keys)
        return True

    def statistics(self) -> dict[str, float | Mapping[str, float]]:
        """In the names of gateway.metrics."""
        return {"gateway_service_key_reads": dict(self._reads)}

    async def _settled(self) -> bytes | None:
        """What the file holds; None: what is known, or somebody is writing it. Raises BadServiceKeys."""
        data = await asyncio.to_thread(read_key_file, self._path)
        if data == self._data:
            return None
        await asyncio.sleep(self._settle_s)
        return data if data == await asyncio.to_thread(read_key_file, self._path) else None
