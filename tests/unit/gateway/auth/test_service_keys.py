"""GATEWAY_SERVICE_KEYS: the entries, and what is refused."""

import base64

import pytest

from gateway.auth.service_keys import BadServiceKeys, Service, read_service_keys
from protocol.principal import Permission, Principal
from tests.support.signed import KEYS, new_key

OLD, NEW, OTHER = KEYS["old"], KEYS["new"], KEYS["other"]


def raw(key: str) -> bytes:
    return base64.b64decode(key.removeprefix("whsec_"))


def refusal(text: str) -> str:
    with pytest.raises(BadServiceKeys) as raised:
        read_service_keys(text)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_in_one_line() -> None:
    text = (
        f"tills:{OLD}, tills:{NEW},tills:vendor=V,tills:location=L1,tills:location=L2,"
        f"tills:permission=inv:adjust,tills:permission=inv:read:exact,billing:{OTHER},"
    )
    assert read_service_keys(text) == {
        "tills": Service(
            "tills",
            (raw(OLD), raw(NEW)),
            "V",
            frozenset({"L1", "L2"}),
            frozenset({"inv:adjust", "inv:read:exact"}),
        ),
        "billing": Service("billing", (raw(OTHER),), None, frozenset(), frozenset()),
    }


def test_in_lines_with_comments() -> None:
    text = f"# of the shop\r\n\ntills:{OLD}  # until Friday\ntills:{NEW}\ntills:vendor=*, tills:location=*\n"
    services = read_service_keys(text)
    assert list(services) == ["tills"]
    assert len(services["tills"].keys) == 2
    assert (services["tills"].vendor_id, services["tills"].locations) == ("*", None)


def test_who_says_nothing_may_do_nothing() -> None:
    principal = read_service_keys(f"tills:{OLD}")["tills"].principal(message_id="m", now=100.0, ttl_s=50)
    assert principal == Principal(
        "service:tills",
        frozenset(),
        vendor_id=None,
        locations=frozenset(),
        expires_at=150.0,
        issued_at=100.0,
        jti="service:tills:m",
    )
    assert not principal.may_exact
    assert not principal.may_public


@pytest.mark.parametrize("permission", list(Permission))
def test_permissions(permission: Permission) -> None:
    held = read_service_keys(f"a:{OLD},a:permission={permission}")["a"].permissions
    assert held == {permission.value}


@pytest.mark.parametrize("size", [24, 25, 26, 63, 64])
def test_keys_with_and_without_padding(size: int) -> None:
    key = new_key(size)
    assert read_service_keys(f"a:{key}")["a"].keys == (raw(key),)
    assert read_service_keys(f"a:{key.rstrip('=')}")["a"].keys == (raw(key),)


class TestRefused:
    @pytest.mark.parametrize("size", [0, 1, 23, 65])
    def test_weak_keys(self, size: int) -> None:
        assert refusal(f"a:{new_key(size)}") == f"entry 1 (a): a key has 24 to 64 bytes, and this one {size}"

    @pytest.mark.parametrize("data", [bytes(32), b"secretss" * 4, b"0123456" * 4])
    def test_keys_that_are_not_random(self, data: bytes) -> None:
        key = base64.b64encode(data).decode()
        assert refusal(f"a:whsec_{key}") == "entry 1 (a): this key is not random"

    def test_a_third_key(self) -> None:
        assert refusal(f"a:{OLD},b:{OTHER},a:{NEW},a:{new_key()}") == (
            "entry 4 (a): a service has up to 2 keys; take the oldest away first"
        )

    @pytest.mark.parametrize("name", ["a", "b"])
    def test_one_key_twice(self, name: str) -> None:
        assert refusal(f"a:{OLD},{name}:{OLD}").startswith(f"entry 2 ({name}): this key was there before")

    @pytest.mark.parametrize("text", ["", " ", "\n", "# nothing", ",,"])
    def test_nobody(self, text: str) -> None:
        assert refusal(text) == "there is no service"

    def test_scope_without_key(self) -> None:
        assert refusal(f"a:{OLD},b:vendor=V") == "b has no key"

    def test_too_many(self) -> None:
        assert len(read_service_keys("\n".join(f"s{n}:{new_key()}" for n in range(32)))) == 32
        assert "32 are allowed" in refusal("\n".join(f"s{n}:{new_key()}" for n in range(33)))
        places = ",".join(f"a:location=L{n}" for n in range(1001))
        assert "more than 1000 locations" in refusal(f"a:{OLD},{places}")

    @pytest.mark.parametrize(
        "value",
        [
            "whsec_*",
            "whsec_\xe4",
            "whsec_A",
            "vendor=",
            "vendor=a b",
            "location=",
            "location=\xe4",
            "permission=",
            "permission=*",
            "permission=inv:write",
            "role=admin",
            "",
            "s3cretkeywithoutitsprefix",
        ],
    )
    def test_values(self, value: str) -> None:
        message = refusal(f"a:{OLD},a:{value}")
        assert message.startswith("entry 2 (a): ")
        assert "s3cret" not in message

    def test_two_vendors(self) -> None:
        assert "before" in refusal(f"a:{OLD},a:vendor=V,a:vendor=W")

    @pytest.mark.parametrize("entry", [OLD, f":{OLD}", f"a b:{OLD}", f"{'x' * 65}:{OLD}", f"{OLD[:20]}:x"])
    def test_names(self, entry: str) -> None:
        """What stands where a name should may be a key: it is not told."""
        message = refusal(f"a:{NEW},{entry}")
        assert message == "entry 2 does not begin with the name of a service and a colon"


def test_no_key_is_told() -> None:
    service = read_service_keys(f"a:{OLD}")["a"]
    assert repr(raw(OLD)) not in repr(service)
