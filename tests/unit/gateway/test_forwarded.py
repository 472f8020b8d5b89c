"""RFC 7239, and what proxies made of it before and since."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import Networks, plain_address
from gateway.forwarded import (
    ForwardedError,
    forwarded_client,
    read_forwarded,
    read_x_forwarded_for,
)

PROXIES = Networks([ip_network("10.0.0.0/8"), ip_network("2001:db8:ffff::/48")])
PEER = "10.0.0.1"


def client(*, forwarded: list[str] | None = None, x_forwarded_for: list[str] | None = None) -> str:
    return forwarded_client(PEER, PROXIES, forwarded=forwarded or [], x_forwarded_for=x_forwarded_for or [])


def garbage(**headers: list[str]) -> bool:
    with pytest.raises(ForwardedError):
        client(**headers)
    return True


class TestForwarded:
    @pytest.mark.parametrize(
        ("line", "hops"),
        [
            ("for=192.0.2.43", ["192.0.2.43"]),
            ('For="[2001:db8:cafe::17]:4711"', ["2001:db8:cafe::17"]),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", ["192.0.2.60"]),
            ("for=192.0.2.43, for=198.51.100.17", ["198.51.100.17", "192.0.2.43"]),
            ('for=192.0.2.43,for="198.51.100.17:_port"', ["198.51.100.17", "192.0.2.43"]),
            ('for=_hidden, for=unknown, for="_x:80"', [None, None, None]),
            ('for="\\1.2.3.4"', ["1.2.3.4"]),
            ('host="a, for=6.6.6.6";for=1.2.3.4', ["1.2.3.4"]),
            ("proto=https", [None]),
            (", ,for=1.2.3.4 ,", ["1.2.3.4"]),
            ("", []),
        ],
    )
    def test_what_section_4_has(self, line: str, hops: list[str | None]) -> None:
        assert list(read_forwarded([line])) == hops

    @pytest.mark.parametrize(
        "line",
        [
            "1.2.3.4",
            "for",
            "for=",
            "for = 1.2.3.4",
            'for="1.2.3.4',
            "for=1.2.3.4 for=5.6.7.8",
            "for=1.2.3.4;for=5.6.7.8",
            "for=2001:db8::1",
            'for="2001:db8::1"',
            'for="[1.2.3.4"',
            "for=1.2.3.400",
            'for="1.2.3.4:123456"',
            "for=host.example",
            "for=1.2.3.4\x00",
            "for=" + "1" * 3000,
        ],
    )
    def test_anything_else_is_garbage(self, line: str) -> None:
        with pytest.raises(ForwardedError):
            list(read_forwarded([line]))

    def test_lines_follow_each_other(self) -> None:
        assert list(read_forwarded(["for=1.1.1.1", "for=2.2.2.2, for=3.3.3.3"])) == [
            "3.3.3.3",
            "2.2.2.2",
            "1.1.1.1",
        ]


class TestXForwardedFor:
    @pytest.mark.parametrize(
        ("line", "hops"),
        [
            ("192.0.2.43, 2001:db8::1", ["2001:db8::1", "192.0.2.43"]),
            ("192.0.2.43:1234,[2001:db8::1]:80", ["2001:db8::1", "192.0.2.43"]),
            ("unknown", [None]),
        ],
    )
    def test_what_proxies_write(self, line: str, hops: list[str | None]) -> None:
        assert list(read_x_forwarded_for([line])) == hops

    @pytest.mark.parametrize("line", ["", "host", "1.2.3", "1.2.3.4 5.6.7.8", "'1.2.3.4'", "<script>"])
    def test_anything_else_is_garbage(self, line: str) -> None:
        with pytest.raises(ForwardedError):
            list(read_x_forwarded_for([line]))


class TestTheClient:
    def test_without_a_word_it_is_the_proxy(self) -> None:
        assert client() == PEER

    def test_it_is_the_first_from_the_right_that_is_no_proxy(self) -> None:
        assert client(x_forwarded_for=["6.6.6.6, 1.2.3.4, 10.0.0.9"]) == "1.2.3.4"
        assert client(forwarded=["for=6.6.6.6, for=1.2.3.4, for=10.0.0.9"]) == "1.2.3.4"

    def test_what_stands_left_of_it_is_not_even_read(self) -> None:
        assert client(x_forwarded_for=["<garbage>, 1.2.3.4"]) == "1.2.3.4"
        assert client(forwarded=['"', "for=1.2.3.4"]) == "1.2.3.4"

    def test_a_chain_of_nothing_but_proxies_ends_at_the_farthest(self) -> None:
        assert client(x_forwarded_for=["10.0.0.7, 10.0.0.8"]) == "10.0.0.7"

    def test_who_hides_its_client_stands_for_it(self) -> None:
        assert client(x_forwarded_for=["1.2.3.4, unknown, 10.0.0.8"]) == "10.0.0.8"
        assert client(forwarded=["for=1.2.3.4, for=_secret"]) == PEER

    def test_both_count_where_they_agree(self) -> None:
        assert client(forwarded=["for=1.2.3.4"], x_forwarded_for=["9.9.9.9, 1.2.3.4"]) == "1.2.3.4"

    def test_neither_counts_where_they_differ(self) -> None:
        assert garbage(forwarded=["for=6.6.6.6"], x_forwarded_for=["1.2.3.4"])

    def test_garbage_on_the_way_is_an_error(self) -> None:
        assert garbage(x_forwarded_for=["1.2.3.4, garbage"])
        assert garbage(x_forwarded_for=["garbage, 10.0.0.2"])
        assert garbage(forwarded=["for=garbage"])
        assert garbage(forwarded=["for=1.2.3.4"], x_forwarded_for=["garbage"])

    def test_nobody_makes_us_read_for_long(self) -> None:
        assert garbage(x_forwarded_for=[",".join(["10.0.0.2"] * 33)])
        assert garbage(forwarded=[",".join(["for=10.0.0.2"] * 33)])
        assert client(x_forwarded_for=[",".join(["10.0.0.2"] * 32)]) == "10.0.0.2"

    @given(
        forwarded=st.lists(st.text(alphabet='for=;, "\\[]:._12a%\t\x00é'), max_size=3),
        others=st.lists(st.text(alphabet='1234567890.,: []"a_unkow'), max_size=3),
    )
    def test_the_answer_is_an_address_whatever_comes(self, forwarded: list[str], others: list[str]) -> None:
        try:
            found = client(forwarded=forwarded, x_forwarded_for=others)
        except ForwardedError:
            return
        assert plain_address(found) == found

    @given(
        left=st.text(alphabet="0123456789abcdef.:, x_", max_size=60),
        address=st.ip_addresses().map(str),
        hops=st.integers(0, 5),
    )
    def test_no_client_chooses_its_address(self, left: str, address: str, hops: int) -> None:
        plain = plain_address(address)
        if plain is None or plain in PROXIES:
            return
        line = ", ".join([left, address, *["10.3.2.1"] * hops])
        assert client(x_forwarded_for=[line]) == plain
