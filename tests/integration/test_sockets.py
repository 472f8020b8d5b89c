import socket
import sys

import pytest

from gateway.config import Address
from gateway.errors import CommandFailed
from gateway.sockets import NOTSENT_LOWAT, bind_socket, bound_address

pytestmark = pytest.mark.integration


def test_port_0_is_a_free_one() -> None:
    with bind_socket(Address("127.0.0.1", 0), setting="GATEWAY_LISTEN") as bound:
        assert bound_address(bound).port > 0
        assert bound_address(bound).host == "127.0.0.1"


def test_it_does_not_listen_yet() -> None:
    with (
        bind_socket(Address("127.0.0.1", 0), setting="GATEWAY_LISTEN") as bound,
        pytest.raises(ConnectionRefusedError),
    ):
        socket.create_connection(bound_address(bound), timeout=1)


@pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")
def test_connections_inherit_what_costs_nothing_then() -> None:
    with bind_socket(Address("127.0.0.1", 0), setting="GATEWAY_LISTEN", user_timeout_ms=40_000) as bound:
        bound.setblocking(True)
        bound.listen()
        with socket.create_connection(bound_address(bound)), bound.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == NOTSENT_LOWAT
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 40_000
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


class TestRefusals:
    def test_a_taken_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(CommandFailed) as caught:
                bind_socket(Address("127.0.0.1", port), setting="GATEWAY_LISTEN")
        assert str(caught.value) == (
            f"GATEWAY_LISTEN=127.0.0.1:{port}: "
            "the port is taken; stop what listens there or choose another one"
        )

    def test_an_address_of_another_machine(self) -> None:
        with pytest.raises(CommandFailed, match=r"^GATEWAY_LISTEN=192\.0\.2\.1:0: cannot assign"):
            bind_socket(Address("192.0.2.1", 0), setting="GATEWAY_LISTEN")

    def test_a_name_that_is_none(self) -> None:
        with pytest.raises(CommandFailed, match=r"^GATEWAY_LISTEN=no\.such\.invalid:80: "):
            bind_socket(Address("no.such.invalid", 80), setting="GATEWAY_LISTEN")

    def test_a_port_for_the_administrator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("gateway.sockets._set_options", forbidden)
        with pytest.raises(CommandFailed, match="choose a port from 1024 on"):
            bind_socket(Address("127.0.0.1", 80), setting="GATEWAY_LISTEN")
