"""The view of a subscription is decided from the principal and the topic's name alone."""

import pytest

from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Principal, View
from protocol.topics import parse_topic
from tests.support.principals import seeing

ALL = seeing("till", exact=True, public=True)
PUBLIC = seeing("anonymous", exact=False, public=True)
EXACT = seeing("service", exact=True, public=False)
NOTHING = seeing("nobody", exact=False, public=False)
TOPICS = ["product:A", "location:L1"]


@pytest.mark.parametrize("topic", TOPICS)
class TestProductAndLocation:
    @pytest.mark.parametrize(
        ("principal", "asked", "view"),
        [
            (ALL, None, View.EXACT),
            (ALL, View.EXACT, View.EXACT),
            (ALL, View.PUBLIC, View.PUBLIC),
            (PUBLIC, None, View.PUBLIC),
            (PUBLIC, View.PUBLIC, View.PUBLIC),
            (EXACT, None, View.EXACT),
            (EXACT, View.EXACT, View.EXACT),
        ],
    )
    def test_the_view_asked_for_else_the_best(
        self, topic: str, principal: Principal, asked: View | None, view: View
    ) -> None:
        assert principal.view_for(parse_topic(topic), asked) is view

    @pytest.mark.parametrize(
        ("principal", "asked"),
        [
            (PUBLIC, View.EXACT),
            (EXACT, View.PUBLIC),
            (NOTHING, None),
            (NOTHING, View.EXACT),
            (NOTHING, View.PUBLIC),
        ],
    )
    def test_forbidden(self, topic: str, principal: Principal, asked: View | None) -> None:
        forbidden(topic, principal, asked)


class TestVendor:
    @pytest.mark.parametrize("asked", [None, View.EXACT])
    @pytest.mark.parametrize("principal", [ALL, EXACT])
    def test_is_exact(self, principal: Principal, asked: View | None) -> None:
        assert principal.view_for(parse_topic("vendor:V"), asked) is View.EXACT

    @pytest.mark.parametrize("principal", [ALL, EXACT, PUBLIC, NOTHING])
    def test_has_no_public_view(self, principal: Principal) -> None:
        forbidden("vendor:V", principal, View.PUBLIC)

    @pytest.mark.parametrize("asked", [None, View.EXACT])
    @pytest.mark.parametrize("principal", [PUBLIC, NOTHING])
    def test_needs_the_exact_view(self, principal: Principal, asked: View | None) -> None:
        forbidden("vendor:V", principal, asked)


def forbidden(topic: str, principal: Principal, asked: View | None) -> None:
    with pytest.raises(ProtocolError) as raised:
        principal.view_for(parse_topic(topic), asked)
    assert raised.value.code is ErrorCode.FORBIDDEN
    assert raised.value.topic == topic
