"""RFC 9112, where the parser is more generous; on sockets: tests/integration/test_smuggling.py."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.request_head import BadRequest, check_head, origin_form


def check(
    *headers: tuple[bytes, bytes], method: bytes = b"GET", target: bytes = b"/realtime", version: str = "1.1"
) -> None:
    check_head(method, target, version, headers, websocket=False)


class TestHost:
    @pytest.mark.parametrize(
        "host",
        [
            *(b"x", b"x:80", b"x:", b"", b":80", b"127.0.0.1:8080", b"[::1]", b"[::ffff:1.2.3.4]:443"),
            *(b"my_service.local", b"xn--bcher-kva.example", b"a%20b", b"A.B-C~"),
        ],
    )
    def test_that_is_one(self, host: bytes) -> None:
        check((b"host", host))

    @pytest.mark.parametrize(
        "host",
        [
            *(b"a b", b"a,b", b"a/b", b"a?b", b"a#b", b"u@a", b"http://a", b"a:b", b"a:1:2", b"a:999999"),
            *(b"[::1", b"::1", b"[x]", b"[]:1", b"\xff", b"a\n", b"a\\b", b"<a>"),
        ],
    )
    def test_that_is_none(self, host: bytes) -> None:
        with pytest.raises(BadRequest):
            check((b"host", host))

    def test_only_http_1_0_does_without(self) -> None:
        check(version="1.0")
        with pytest.raises(BadRequest):
            check()

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_never_two(self, version: str) -> None:
        with pytest.raises(BadRequest):
            check((b"host", b"x"), (b"host", b"x"), version=version)

    @pytest.mark.parametrize("target", [b"http://y/", b"HTTP://x:80/", b"ws://x@y", b"https://?x"])
    def test_a_target_of_another(self, target: bytes) -> None:
        with pytest.raises(BadRequest):
            check((b"host", b"x"), target=target)
        check(version="1.0", target=target)  # nothing to compare with

    def test_a_target_of_the_same(self) -> None:
        check((b"host", b"X:80"), target=b"http://x:80/realtime")


class TestContent:
    @pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE"])
    @pytest.mark.parametrize("field", [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")])
    def test_where_there_is_none(self, method: bytes, field: tuple[bytes, bytes]) -> None:
        with pytest.raises(BadRequest):
            check((b"host", b"x"), field, method=method)

    @pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH"])
    def test_where_there_may_be(self, method: bytes) -> None:
        check((b"host", b"x"), (b"content-length", b"1"), method=method)

    @pytest.mark.parametrize("length", [b"0", b"000"])
    def test_of_no_length(self, length: bytes) -> None:
        check((b"host", b"x"), (b"content-length", length))


class TestOriginForm:
    @pytest.mark.parametrize(
        ("target", "path"),
        [
            *(("/realtime?a=b", "/realtime?a=b"), ("http://x/realtime?a", "/realtime?a"), ("HTTPS://x", "")),
            *(
                ("//x/realtime", "//x/realtime"),
                ("ftp://x/realtime", "ftp://x/realtime"),
                ("*", "*"),
                ("", ""),
            ),
            *(("http://[/realtime", "/realtime"), ("/http://x/realtime", "/http://x/realtime")),
        ],
    )
    def test_is_the_path(self, target: str, path: str) -> None:
        assert origin_form(target) == path


@given(
    method=st.binary(),
    target=st.binary(),
    version=st.sampled_from(["1.0", "1.1", "2.0", ""]),
    headers=st.lists(st.tuples(st.sampled_from([b"host", b"content-length", b"x"]), st.binary())),
    websocket=st.booleans(),
)
def test_nothing_else_is_raised(
    method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]], websocket: bool
) -> None:
    with suppress(BadRequest):
        check_head(method, target, version, headers, websocket=websocket)
    origin_form(target.decode("latin-1"))
