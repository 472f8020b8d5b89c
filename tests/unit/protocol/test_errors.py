import pytest

from protocol.errors import CLOSE_CODES, Close, CloseCode, ErrorCode, FatalMessage, ProtocolError


class TestProtocolError:
    def test_tells_its_code_and_message(self) -> None:
        assert str(ProtocolError(ErrorCode.FORBIDDEN, "ask for public")) == "forbidden: ask for public"

    def test_unavailable_always_says_when_to_come_back(self) -> None:
        assert ProtocolError(ErrorCode.UNAVAILABLE, "").retry_after_ms == 1000
        assert ProtocolError(ErrorCode.UNAVAILABLE, "", retry_after_ms=0).retry_after_ms == 0
        assert ProtocolError(ErrorCode.INTERNAL, "").retry_after_ms is None

    def test_is_told_about_a_request_and_a_topic(self) -> None:
        error = ProtocolError(ErrorCode.RATE_LIMITED, "slower", retry_after_ms=7).about(
            id="s1", topic="product:A"
        )
        assert (error.code, error.message, error.retry_after_ms) == ("rate_limited", "slower", 7)
        assert (error.id, error.topic) == ("s1", "product:A")

    def test_keeps_the_topic_it_names_itself(self) -> None:
        assert ProtocolError(ErrorCode.FORBIDDEN, "", topic="vendor:V").about(id="s1").topic == "vendor:V"

    def test_stays_fatal(self) -> None:
        assert isinstance(FatalMessage(ErrorCode.BAD_MESSAGE, "").about(id=None), FatalMessage)


class TestCloseCodes:
    def test_none_is_left_out_of_the_registry(self) -> None:
        assert set(CLOSE_CODES) == {1002, 1007, 1009, 1012, 1013, 4400, 4401, 4403, 4408, 4429}
        assert CLOSE_CODES[4400] is Close.BAD_MESSAGE

    @pytest.mark.parametrize("close", CLOSE_CODES.values(), ids=lambda code: str(code.number))
    def test_may_be_sent(self, close: CloseCode) -> None:
        """RFC 6455 7.4: not 1004 to 1006 nor 1015; 5.5.1: a reason of up to 123 bytes."""
        assert 1002 <= close.number <= 1014 or 4000 <= close.number <= 4999
        assert close.number not in {1000, 1004, 1005, 1006, 1011}
        assert len(close.name.encode()) <= 123
