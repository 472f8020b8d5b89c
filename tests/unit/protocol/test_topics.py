import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, ProtocolError
from protocol.topics import KEY_GRAMMAR, Topic, TopicKind, is_key, parse_topic

KINDS = st.sampled_from(list(TopicKind))
KEYS = st.from_regex(KEY_GRAMMAR, fullmatch=True)


class TestKeys:
    @pytest.mark.parametrize("key", ["A", "a.b_c-9", "0", "x" * 64])
    def test_within_the_grammar(self, key: str) -> None:
        assert is_key(key)

    @pytest.mark.parametrize("key", ["", "x" * 65, "a b", "a:b", "a\n", "ä", "a/b", "\u0661"])
    def test_outside_the_grammar(self, key: str) -> None:
        assert not is_key(key)


class TestTopics:
    @given(KINDS, KEYS)
    def test_have_a_name_that_gives_them_back(self, kind: TopicKind, key: str) -> None:
        assert parse_topic(str(Topic(kind, key))) == Topic(kind, key)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "product",
            "product:",
            "product:a:b",
            "PRODUCT:a",
            " product:a",
            "product:a\n",
            "shop:a",
            "product:*",
        ],
    )
    def test_outside_the_grammar_are_unknown(self, name: str) -> None:
        with pytest.raises(ProtocolError) as raised:
            parse_topic(name)
        assert raised.value.code is ErrorCode.UNKNOWN_TOPIC
        assert raised.value.topic == name

    @given(st.text(st.characters(), max_size=300))  # lone surrogates too: a URL may hold them
    def test_are_parsed_or_refused_whatever_the_text(self, name: str) -> None:
        try:
            topic = parse_topic(name)
        except ProtocolError as error:
            refused = error.topic or ""
        else:
            assert str(topic) == name
            return
        assert refused.encode() == name[:128].encode("utf-8", "replace")
