"""From the settings to what checks signed requests."""

from pathlib import Path

import pytest

from gateway.auth.building import make_signatures
from gateway.config import Settings
from gateway.errors import SettingsError
from tests.support.credentials import MemoryCredentials
from tests.support.signed import KEYS

OLD = f"tills:{KEYS['old']}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{OLD}\ntills:{KEYS['new']}\n")
    return path


def test_without_keys_nobody_signs() -> None:
    assert make_signatures(Settings(), MemoryCredentials()) == (None, None)


def test_a_file_is_watched(path: Path) -> None:
    signatures, file = make_signatures(Settings(service_keys_file=path), MemoryCredentials())
    assert file is not None
    assert signatures is not None
    assert signatures.statistics()["gateway_service_keys"] == 2


def test_the_variable_wins_over_the_file(path: Path) -> None:
    settings = Settings(service_keys=OLD, service_keys_file=path)
    signatures, file = make_signatures(settings, MemoryCredentials())
    assert file is None
    assert signatures is not None
    assert signatures.statistics()["gateway_service_keys"] == 1


def test_a_file_that_is_gone_by_then(path: Path) -> None:
    settings = Settings(service_keys_file=path)
    path.unlink()
    with pytest.raises(SettingsError, match=r"^GATEWAY_SERVICE_KEYS_FILE: the file can not be read: No such"):
        make_signatures(settings, MemoryCredentials())
