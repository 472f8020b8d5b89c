"""HAProxy's proxy-protocol.txt, section 2.2."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy_protocol import (
    MAX_HEADER_BYTES,
    ProxyHeader,
    ProxyHeaderError,
    missing_bytes,
    read_proxy_header,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def header(body: bytes, *, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def ipv4(source: str, *, tlvs: bytes = b"") -> bytes:
    return header(IPv4Address(source).packed + IPv4Address("10.0.0.1").packed + b"\x30\x39\x01\xbb" + tlvs)


def ipv6(source: str) -> bytes:
    return header(IPv6Address(source).packed + bytes(16) + b"\x30\x39\x01\xbb", family=0x21)


def refused(data: bytes) -> bool:
    with pytest.raises(ProxyHeaderError):
        read_proxy_header(data)
    return True


class TestSources:
    def test_ipv4(self) -> None:
        assert read_proxy_header(ipv4("192.0.2.7") + b"GET /") == ProxyHeader("192.0.2.7", 28)

    def test_ipv6(self) -> None:
        assert read_proxy_header(ipv6("2001:db8::7")) == ProxyHeader("2001:db8::7", 52)
        assert read_proxy_header(ipv6("::ffff:192.0.2.7")) == ProxyHeader("192.0.2.7", 52)

    def test_tlvs_are_skipped(self) -> None:
        tlvs = b"\x02\x00\x04shop" + b"\x20\x00\x05\x01" + bytes(4)
        assert read_proxy_header(ipv4("192.0.2.7", tlvs=tlvs)) == ProxyHeader("192.0.2.7", 28 + len(tlvs))

    @pytest.mark.parametrize(("command", "family"), [(0x20, 0x11), (0x20, 0x00), (0x20, 0xFF), (0x21, 0x00)])
    def test_a_proxy_that_speaks_for_itself(self, command: int, family: int) -> None:
        assert read_proxy_header(header(b"rest", command=command, family=family)) == ProxyHeader(None, 20)

    def test_a_unix_socket_has_no_address(self) -> None:
        assert read_proxy_header(header(bytes(216), family=0x31)) == ProxyHeader(None, 232)


class TestRefusals:
    def test_version_1(self) -> None:
        assert refused(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n")

    def test_a_request_without_a_header(self) -> None:
        assert refused(b"G")
        assert refused(b"GET /realtime HTTP/1.1\r\n")

    @pytest.mark.parametrize("command", [0x11, 0x22, 0x00, 0x31])
    def test_another_version_or_command(self, command: int) -> None:
        assert refused(header(bytes(12), command=command))

    @pytest.mark.parametrize("family", [0x12, 0x22, 0x10, 0x41, 0x32])
    def test_what_is_no_stream(self, family: int) -> None:
        assert refused(header(bytes(216), family=family))

    def test_addresses_that_are_cut_short(self) -> None:
        assert refused(header(bytes(11)))
        assert refused(header(bytes(35), family=0x21))

    def test_more_than_any_proxy_says(self) -> None:
        most = MAX_HEADER_BYTES - 16
        assert read_proxy_header(header(bytes(most))) == ProxyHeader("0.0.0.0", MAX_HEADER_BYTES)
        assert refused(header(bytes(most + 1))[:16])


class TestAnyBytes:
    @given(cut=st.integers(0, 51))
    def test_a_part_of_a_header_waits_for_the_rest(self, cut: int) -> None:
        assert read_proxy_header(ipv6("2001:db8::7")[:cut]) is None

    @given(cut=st.integers(0, 51), tlvs=st.binary(max_size=60))
    def test_never_more_is_read_than_the_header(self, cut: int, tlvs: bytes) -> None:
        data = ipv4("192.0.2.7", tlvs=tlvs)
        cut = min(cut, len(data) - 1)
        assert 0 < missing_bytes(data[:cut]) <= len(data) - cut

    @given(data=st.binary(max_size=300), signed=st.booleans())
    def test_a_header_an_error_or_more_to_come(self, data: bytes, signed: bool) -> None:
        data = SIGNATURE + data if signed else data
        try:
            found = read_proxy_header(data)
        except ProxyHeaderError:
            # It is told as soon as it can be: more bytes make nothing good again.
            assert refused(data + b"\r\n")
            return
        if found is not None:
            assert 16 <= found.size <= min(len(data), MAX_HEADER_BYTES)
            assert read_proxy_header(data[: found.size]) == found
            assert read_proxy_header(data[: found.size - 1]) is None
