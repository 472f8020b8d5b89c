from typing import Any

import pytest

from listeners.keys import Keys
from listeners.topic_store import TopicStore

SERVER = {"run_id": "r1", "master_replid": "m1", "master_replid2": "0", "uptime_in_seconds": 1}


class Server:
    """Answers INFO with what is asked for, and with nothing else."""

    def __init__(self, info: dict[str, Any]) -> None:
        self._info = info

    async def execute_command(self, command: str, *sections: str) -> dict[str, Any]:
        assert (command, sections) == ("INFO", ("server", "replication"))
        return self._info


async def identity(info: dict[str, Any]) -> str:
    client: Any = Server(info)
    return await TopicStore(client, Keys()).server_identity()


@pytest.mark.parametrize(
    "part",
    [
        "run_id",  # of a replica that was promoted, or of a process that has loaded an old file
        "master_replid",  # of the same process, which has followed another one and become primary again
    ],
)
async def test_another_one_may_have_gone_back(part: str) -> None:
    assert await identity(SERVER | {part: "other"}) != await identity(SERVER)


async def test_time_alone_changes_nothing() -> None:
    assert await identity(SERVER | {"uptime_in_seconds": 2}) == await identity(SERVER)
