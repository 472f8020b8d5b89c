"""Standard Webhooks 1.0.0: the signature scheme and its headers."""

import hmac
from collections.abc import Mapping, Sequence

import pytest

from gateway.auth.service_keys import read_service_keys
from gateway.auth.signatures import (
    HEADERS,
    BadSignature,
    Signature,
    SignatureReason,
    find_signers,
    read_signature,
    sign,
)
from tests.support.signed import KEYS, headers_of, new_key, webhook_signature

# The vector that the libraries of the standard are tested with (python/tests/test_webhooks.py and others).
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
EXPECTED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def secret(key: str) -> bytes:
    return read_service_keys(f"s:{key}")["s"].keys[0]


def lines(**headers: str) -> dict[str, Sequence[str]]:
    usual = {"webhook_id": ID, "webhook_timestamp": str(TIMESTAMP), "webhook_signature": EXPECTED}
    return {name.replace("_", "-"): [value] for name, value in (usual | headers).items()}


def signers(
    headers: Mapping[str, Sequence[str]], body: bytes = BODY, keys: Mapping[str, str] | None = None
) -> list[str]:
    held = [(name, secret(key)) for name, key in (keys or {"s": KEY}).items()]
    return find_signers(read_signature(headers), body, held)


class TestScheme:
    def test_the_published_vector(self) -> None:
        assert sign(secret(KEY), ID, TIMESTAMP, BODY) == EXPECTED
        assert signers(lines()) == ["s"]

    @pytest.mark.parametrize(
        "changed",
        [
            {"webhook_id": f"{ID}x"},
            {"webhook_timestamp": str(TIMESTAMP + 1)},
            {"webhook_timestamp": f"0{TIMESTAMP}"},
            {"webhook_signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA="},
        ],
    )
    def test_each_part_is_signed(self, changed: dict[str, str]) -> None:
        assert signers(lines(**changed)) == []

    @pytest.mark.parametrize("body", [b"", b'{"test":2432232314}', BODY + b"\n", b"\xff\x00"])
    def test_the_body_is_signed_as_raw_bytes(self, body: bytes) -> None:
        assert signers(lines(), body) == []
        headers = {n: [v] for n, v in headers_of(body, KEY, identity=ID, timestamp=TIMESTAMP).items()}
        assert signers(headers, body) == ["s"]

    def test_any_of_the_signatures_may_be_ours(self) -> None:
        """Those of other versions are passed over, whatever they hold."""
        wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="
        listed = f"{wrong} v2,{EXPECTED[3:]} v1a,x {EXPECTED} v1,* {wrong} nonsense"
        assert signers(lines(webhook_signature=listed)) == ["s"]
        assert signers(lines(webhook_signature=listed.replace(EXPECTED, wrong))) == []

    def test_a_signature_of_another_version_is_none(self) -> None:
        with pytest.raises(BadSignature):
            read_signature(lines(webhook_signature=EXPECTED.replace("v1", "v1a")))

    def test_who_has_signed(self) -> None:
        both = " ".join(webhook_signature(KEYS[k], ID, TIMESTAMP, BODY) for k in ("new", "old"))
        assert signers(lines(webhook_signature=both), keys=KEYS) == ["old", "new"]

    def test_every_key_is_compared_with_every_signature(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No early end, whichever is right: by hmac.compare_digest."""
        compared: list[tuple[bytes, bytes]] = []
        real = hmac.compare_digest

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return real(one, other)

        monkeypatch.setattr(hmac, "compare_digest", compare)
        counts = set()
        for right in KEYS:
            good = webhook_signature(KEYS[right], ID, TIMESTAMP, BODY)
            for listed in (f"{good} {EXPECTED}", f"{EXPECTED} {good}"):
                assert signers(lines(webhook_signature=listed), keys=KEYS) == [right]
                counts.add(len(compared))
                compared.clear()
        assert signers(lines(webhook_signature=f"{EXPECTED} {EXPECTED}"), keys=KEYS) == []
        assert counts | {len(compared)} == {len(KEYS) * 2}


class TestHeaders:
    @pytest.mark.parametrize("name", HEADERS)
    @pytest.mark.parametrize("times", [0, 2])
    def test_each_is_there_once(self, name: str, times: int) -> None:
        headers = lines()
        headers[name] = list(headers[name]) * times
        with pytest.raises(BadSignature) as raised:
            read_signature(headers)
        assert raised.value.reason is SignatureReason.MALFORMED

    @pytest.mark.parametrize(
        "changed",
        [
            {"webhook_id": ""},
            {"webhook_id": "a.b"},
            {"webhook_id": "a b"},
            {"webhook_id": "\xe4"},
            {"webhook_id": "x" * 257},
            {"webhook_timestamp": ""},
            {"webhook_timestamp": "hello"},
            {"webhook_timestamp": "-1"},
            {"webhook_timestamp": "1614265330.5"},
            {"webhook_timestamp": "1e9"},
            {"webhook_timestamp": "\u0661\u0662"},
            {"webhook_timestamp": "9" * 13},
            {"webhook_signature": ""},
            {"webhook_signature": EXPECTED[3:]},
            {"webhook_signature": f"V1,{EXPECTED[3:]}"},
            {"webhook_signature": "v1,"},
            {"webhook_signature": "v1,\u0661"},
            {"webhook_signature": EXPECTED[:-4]},
            {"webhook_signature": f"{EXPECTED[:-1]}{EXPECTED[3:]}"},
            {"webhook_signature": " ".join([EXPECTED] * 17)},
        ],
    )
    def test_their_form(self, changed: dict[str, str]) -> None:
        with pytest.raises(BadSignature) as raised:
            read_signature(lines(**changed))
        assert raised.value.reason is SignatureReason.MALFORMED

    def test_a_text_has_one_division_only(self) -> None:
        """Else `a.1` at 2 would be the same signed text as `a` at 1 with `2.` before the body."""
        headers = {
            "webhook-id": ["a.1"],
            "webhook-timestamp": ["2"],
            "webhook-signature": [webhook_signature(KEY, "a.1", 2, BODY)],
        }
        with pytest.raises(BadSignature):
            read_signature(headers)
        moved = read_signature(headers | {"webhook-id": ["a"], "webhook-timestamp": ["1"]})
        assert find_signers(moved, b"2." + BODY, [("s", secret(KEY))]) == ["s"]  # hence no full stop in ids

    def test_usual_ids(self) -> None:
        for identity in (ID, "0f8fad5b-d9cb-469f-a165-70867728950e", "evt:2026/11#1", "x" * 256):
            assert read_signature(lines(webhook_id=identity)) == Signature(
                identity, str(TIMESTAMP), read_signature(lines()).offered
            )


def test_a_key_of_the_greatest_length_signs() -> None:
    key = new_key(64)
    headers = {n: [v] for n, v in headers_of(BODY, key, identity=ID, timestamp=TIMESTAMP).items()}
    assert signers(headers, keys={"s": key}) == ["s"]
