import pytest

from gateway.config import Settings
from gateway.edge_settings import spared_addresses


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_spared_while_nobody_has_said_anything(address: str) -> None:
    spared = spared_addresses(Settings())
    assert address in spared
    assert "10.0.0.1" not in spared
    assert "2001:db8::1" not in spared


@pytest.mark.parametrize("name", ["MAX_CONNECTIONS_PER_ADDRESS", "HANDSHAKES_PER_ADDRESS_PER_S"])
def test_what_was_set_holds_for_everybody(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"GATEWAY_{name}", "200")
    assert "127.0.0.1" not in spared_addresses(Settings())
