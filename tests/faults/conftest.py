from collections.abc import AsyncIterator

import pytest

from tests.faults.lateness import measuring


@pytest.fixture(autouse=True)
async def lateness() -> AsyncIterator[None]:
    async with measuring():
        yield
