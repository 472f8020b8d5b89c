from ipaddress import ip_network

import pytest

from gateway.addresses import Networks, network_of, plain_address


class TestPlainAddress:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("fe80::1%eth0", None),
            ("192.0.2.256", None),
            ("192.0.2.01", None),
            ("host", None),
            ("", None),
        ],
    )
    def test_as_everybody_writes_it(self, text: str, address: str | None) -> None:
        assert plain_address(text) == address


class TestNetworkOf:
    def test_ipv4_by_itself_and_ipv6_by_its_half(self) -> None:
        assert network_of("192.0.2.1") == network_of("::ffff:192.0.2.1") == "192.0.2.1"
        assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::9") == "2001:db8:1:2::/64"
        assert network_of("2001:db8:1:3::9") != network_of("2001:db8:1:2::9")
        assert network_of("fe80::1%eth0") == "fe80::/64"
        assert network_of("no:address") == "no:address"


class TestNetworks:
    def test_an_address_is_in_one_of_them(self) -> None:
        networks = Networks([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
        assert networks
        assert all(a in networks for a in ("10.255.0.1", "::ffff:10.0.0.1", "2001:db8::1"))
        assert not any(a in networks for a in ("11.0.0.1", "::1", "", "unix", "10.0.0.1:80"))

    def test_none_hold_nobody(self) -> None:
        assert not Networks([])
        assert "10.0.0.1" not in Networks([])
