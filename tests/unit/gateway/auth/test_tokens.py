"""RFC 8725 (JWT best current practices) clause by clause, and the bypasses that have been published."""

import base64
import json
import time
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import OctKey, RSAKey

from gateway.auth.algorithms import ASYMMETRIC
from gateway.auth.claims import ClaimNames
from gateway.auth.compact import MAX_TOKEN_BYTES
from gateway.auth.errors import BadToken, NoKeySet, Reason, UnknownKey
from gateway.auth.keys import KeyRing, SigningKey, read_key_set, secret_key
from gateway.auth.minting import mint_token
from gateway.auth.tokens import TokenRules, TokenVerifier
from protocol.errors import ErrorCode
from tests.support.tokens import NOW, SECRET, ProviderKey, base64url, claims, compact, hs256, signed

RSA = ProviderKey("rsa")
EC = ProviderKey("ec", "ES256")
ED = ProviderKey("ed", "EdDSA")


def verifier(
    *published: dict[str, Any], secret: str | None = None, now: float = NOW, **rules: Any
) -> TokenVerifier:
    ring = KeyRing(secret_key(secret) if secret else None, algorithms=ASYMMETRIC if published else ())
    if published:
        ring = ring.with_published(read_key_set(orjson.dumps({"keys": published}), ASYMMETRIC))
    return TokenVerifier(TokenRules(**rules), ring, clock=lambda: now)


def keys_of(*published: dict[str, Any]) -> list[SigningKey]:
    """Beside a key that can be used: of a set without any nothing is taken."""
    body = orjson.dumps({"keys": [*published, EC.public(kid="good")]})
    return [key for key in read_key_set(body, [*ASYMMETRIC, "HS256", "none"]) if key.id != "good"]


def by_secret(**rules: Any) -> TokenVerifier:
    return verifier(secret=SECRET, **rules)


def refused(checked: TokenVerifier, token: str, reason: Reason) -> BadToken:
    with pytest.raises(BadToken) as raised:
        checked.verify(token)
    assert raised.value.reason is reason
    assert token not in str(raised.value)
    return raised.value


class TestGood:
    def test_a_shared_secret(self) -> None:
        principal = by_secret().verify(hs256(claims(jti="j")))
        assert (principal.name, principal.vendor_id, principal.locations) == (
            "till-1",
            "V",
            frozenset({"L1"}),
        )
        assert (principal.expires_at, principal.issued_at, principal.jti) == (NOW + 600, NOW - 10, "j")
        assert principal.may_exact
        assert principal.may_public

    @pytest.mark.parametrize("algorithm", ASYMMETRIC)
    def test_every_algorithm_of_a_key_set(self, algorithm: str) -> None:
        key = ProviderKey("k", algorithm)
        assert verifier(key.public()).verify(key.sign(claims())).name == "till-1"

    def test_what_is_minted(self) -> None:
        token = mint_token(
            SECRET, subject="dev", vendor="*", locations=["*"], permissions=["inv:read:exact"], ttl_s=60
        )
        principal = verifier(secret=SECRET, now=time.time()).verify(token)
        assert (principal.name, principal.vendor_id, principal.locations) == ("dev", "*", None)

    def test_a_secret_and_a_key_set_beside_each_other(self) -> None:
        both = verifier(RSA.public(), secret=SECRET)
        assert both.verify(hs256(claims())).name == both.verify(RSA.sign(claims())).name

    def test_one_that_names_no_key(self) -> None:
        assert verifier(RSA.public(), EC.public()).verify(EC.sign(claims(), kid=None)).name == "till-1"


class TestAlgorithms:
    """3.1 and 3.2: the algorithms of a key are ours to name."""

    @pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
    @pytest.mark.parametrize("signature", [b"", b"x"])
    def test_none(self, name: str, signature: bytes) -> None:
        for checked in (by_secret(), verifier(RSA.public())):
            with pytest.raises(BadToken) as raised:
                checked.verify(compact({"alg": name, "kid": "rsa"}, claims(), signature))
            assert raised.value.reason in (Reason.ALGORITHM, Reason.MALFORMED)

    @pytest.mark.parametrize("form", ["pem", "der", "modulus", "jwk"])
    def test_a_public_key_taken_for_a_secret(self, form: str) -> None:
        """RS256 and HS256 confused (CVE-2015-9235, CVE-2016-10555)."""
        key = RSA.key
        assert isinstance(key, RSAKey)
        secret = {
            "pem": lambda: key.as_pem(private=False),
            "der": lambda: key.as_der(private=False),
            "modulus": lambda: base64.urlsafe_b64decode(RSA.public()["n"] + "=="),
            "jwk": lambda: orjson.dumps(RSA.public()),
        }[form]()
        token = hs256(claims(), secret=secret, header={"alg": "HS256", "kid": "rsa"})
        refused(verifier(RSA.public()), token, Reason.ALGORITHM)
        refused(verifier(RSA.public(), secret=SECRET), token, Reason.SIGNATURE)

    def test_an_empty_key(self) -> None:
        for secret in (b"", b"\0", b"\0" * 32):
            refused(by_secret(), hs256(claims(), secret=secret), Reason.SIGNATURE)

    @pytest.mark.parametrize("secret", ["", "short", "x" * 31])
    def test_a_weak_secret_is_no_key(self, secret: str) -> None:
        """3.5, RFC 7518 3.2."""
        with pytest.raises(ValueError, match="32"):
            secret_key(secret)

    def test_another_hash_of_the_same_family(self) -> None:
        refused(by_secret(), hs256(claims(), header={"alg": "HS512"}), Reason.ALGORITHM)
        refused(verifier(RSA.public(alg="RS256")), RSA.sign(claims(), alg="PS256"), Reason.ALGORITHM)

    def test_a_key_without_a_named_algorithm_has_those_of_its_kind(self) -> None:
        checked = verifier(RSA.public(alg=None))
        assert checked.verify(RSA.sign(claims(), alg="PS256")).name == "till-1"
        refused(checked, signed({"alg": "ES256", "kid": "rsa"}, claims(), EC.key), Reason.ALGORITHM)

    def test_a_key_set_that_does_not_allow_it(self) -> None:
        ring = KeyRing(algorithms=["ES256"]).with_published(
            read_key_set(orjson.dumps({"keys": [RSA.public(), EC.public()]}), ["ES256"])
        )
        checked = TokenVerifier(TokenRules(), ring, clock=lambda: NOW)
        assert checked.verify(EC.sign(claims())).name == "till-1"
        refused(checked, RSA.sign(claims()), Reason.ALGORITHM)

    @pytest.mark.parametrize("algorithm", [None, 1, ["HS256"], "", "HS256 ", "hs256", "A" * 100])
    def test_no_algorithm_at_all(self, algorithm: object) -> None:
        refused(by_secret(), hs256(claims(), header={"alg": algorithm}), Reason.ALGORITHM)


class TestKeys:
    def test_a_key_of_a_foreign_algorithm_adds_nothing(self) -> None:
        """A JWK whose `alg` does not belong to its kind is not used at all."""
        for public in (
            RSA.public(alg="HS256"),
            RSA.public(alg="ES256"),
            EC.public(alg="RS256"),
            RSA.public(alg="none"),
        ):
            assert keys_of(public) == []

    def test_symmetric_and_private_keys_of_a_set_are_no_secrets(self) -> None:
        oct_ = OctKey.import_key({"kty": "oct", "k": base64url(SECRET.encode())}).as_dict(private=True)
        private = RSA.public() | RSA.key.as_dict(private=True)
        assert keys_of(oct_ | {"alg": "HS256"}, private) == []

    @pytest.mark.parametrize(
        "more",
        [
            {"use": "enc"},
            {"key_ops": ["sign"]},
            {"key_ops": "verify"},
            {"kid": 7},
            {"kty": "XX"},
            {"n": "AQAB"},
            {"n": None},
            {"n": 1},
        ],
    )
    def test_what_is_not_for_signatures_or_no_key_is_passed_over(self, more: dict[str, Any]) -> None:
        keys = read_key_set(orjson.dumps({"keys": [RSA.public(**more), "?", None, EC.public()]}), ASYMMETRIC)
        assert [key.id for key in keys] == ["ec"]

    def test_a_short_rsa_key_is_passed_over(self) -> None:
        numbers = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
        modulus = base64url(numbers.n.to_bytes(128, "big"))
        assert keys_of(RSA.public(n=modulus)) == []

    @pytest.mark.parametrize(
        "long", [{"n": "z" * 3000}, {"e": base64url((2**71 + 1).to_bytes(9))}, {"n": None}, {"n": 7}]
    )
    def test_an_rsa_key_that_is_too_long_or_has_no_length_is_passed_over(self, long: dict[str, Any]) -> None:
        """RSA takes time with the length of its numbers: a published key must not hold up the loop."""
        assert keys_of(RSA.public() | long) == []

    def test_a_point_that_is_not_on_the_curve(self) -> None:
        """3.4: what goes into a cryptographic operation is validated."""
        wrong = EC.public(x=EC.public()["y"])
        assert keys_of(wrong) == []

    @pytest.mark.parametrize(
        "body", [b"[]", b"{}", b'{"keys": {}}', b"", b"<html>", b'{"keys": [], "keys": []}']
    )
    def test_no_key_set(self, body: bytes) -> None:
        with pytest.raises(NoKeySet):
            read_key_set(body, ASYMMETRIC)

    def test_more_keys_than_anybody_has(self) -> None:
        body = orjson.dumps({"keys": [EC.public(kid=str(n)) for n in range(200)]})
        assert len(read_key_set(body, ASYMMETRIC)) == 64

    def test_an_unknown_name(self) -> None:
        with pytest.raises(UnknownKey):
            verifier(RSA.public()).verify(RSA.sign(claims(), kid="other"))

    @pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", "http://evil.example/"])
    def test_a_name_is_only_compared(self, kid: str) -> None:
        """3.10: a `kid` is no path, query or URL."""
        with pytest.raises(UnknownKey):
            verifier(RSA.public()).verify(RSA.sign(claims(), kid=kid))

    def test_a_key_of_another_name_does_not_help(self) -> None:
        other = ProviderKey("rsa")
        refused(verifier(RSA.public()), other.sign(claims()), Reason.SIGNATURE)

    def test_keys_that_a_token_brings_are_not_looked_at(self) -> None:
        """CVE-2018-0114; 3.10 for jku and x5u."""
        evil = ProviderKey("evil")
        brought = {
            "jwk": evil.public(),
            "jku": "https://evil.example/jwks",
            "x5u": "https://evil.example/",
            "x5c": ["MII"],
        }
        checked = verifier(RSA.public())
        with pytest.raises(UnknownKey):
            checked.verify(evil.sign(claims(), **brought))
        refused(checked, evil.sign(claims(), **brought, kid="rsa"), Reason.SIGNATURE)
        refused(
            by_secret(),
            signed({"alg": "HS256"} | brought, claims(), OctKey.generate_key(256)),
            Reason.SIGNATURE,
        )
        assert checked.verify(RSA.sign(claims(), **brought)).name == "till-1"


class TestForm:
    @pytest.mark.parametrize(
        "token",
        [".", "..", "x", "a.b", "a.b.c.d", "a.b.", ".b.c", "a..c", "a b.c.d", "ä.b.c", "a.b.c\n", "a=.b.c"],
    )
    def test_no_token(self, token: str) -> None:
        refused(by_secret(), token, Reason.MALFORMED)

    def test_an_encrypted_one(self) -> None:
        """2.3: five parts are a JWE, which is not taken."""
        refused(by_secret(), "eyJhbGciOiJkaXIifQ..aaaa.bbbb.cccc", Reason.MALFORMED)

    def test_a_huge_one(self) -> None:
        token = hs256(claims(filler="x" * MAX_TOKEN_BYTES))
        began = time.perf_counter()
        refused(by_secret(), token, Reason.MALFORMED)
        refused(by_secret(), "a" * 50_000_000, Reason.MALFORMED)
        assert time.perf_counter() - began < 0.5

    @pytest.mark.parametrize("critical", [["exp"], ["b64"], ["x"], [], "x", None])
    def test_anything_critical(self, critical: object) -> None:
        """RFC 7515 4.1.11."""
        refused(
            by_secret(), hs256(claims(), header={"alg": "HS256", "crit": critical, "x": 1}), Reason.MALFORMED
        )

    def test_a_payload_that_is_not_encoded(self) -> None:
        """RFC 7797."""
        refused(by_secret(), hs256(claims(), header={"alg": "HS256", "b64": False}), Reason.MALFORMED)

    @pytest.mark.parametrize(
        "header",
        [
            b'{"alg":"none","alg":"HS256"}',
            b'{"alg":"HS256","kid":"a","kid":"b"}',
            b"[]",
            b"1",
            b"",
            b"{",
            b'{"alg":"HS256"}x',
            b"\xff",
            b'{"alg":"HS256","x":NaN}',
            b'{"alg":"HS256","kid":1}',
            b'{"alg":"HS256","typ":[]}',
            b"[" * 3000,
        ],
    )
    def test_a_header_that_two_parsers_read_differently(self, header: bytes) -> None:
        with pytest.raises(BadToken) as raised:
            by_secret().verify(hs256(claims(), header=header) if header else compact(b" ", claims(), b"x"))
        assert raised.value.reason is Reason.MALFORMED

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"sub":"a","sub":"b","exp":9e9}',
            b'{"sub":"a","exp":1,"exp":9e9}',
            b"[]",
            b"null",
            b"x",
            b'{"sub":"a","exp":Infinity}',
            b'{"a":' * 1200 + b"1" + b"}" * 1200,
            b'{"exp":' + b"9" * 5000 + b"}",
        ],
    )
    def test_claims_that_two_parsers_read_differently(self, payload: bytes) -> None:
        """2.4 and 2.6, JSON bombs too; the signature is good."""
        refused(by_secret(), hs256(payload), Reason.MALFORMED)

    def test_every_byte_counts(self) -> None:
        token = hs256(claims())
        for position in range(0, len(token), 7):
            changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
            with pytest.raises(BadToken):
                by_secret().verify(changed)


class TestTimes:
    @pytest.mark.parametrize(
        ("ended_s", "good"), [(-1, True), (0, True), (4.9, True), (5, False), (3600, False)]
    )
    def test_the_end_with_its_leeway(self, ended_s: float, good: bool) -> None:
        token = hs256(claims(exp=NOW - ended_s))
        if good:
            assert by_secret().verify(token).expires_at == NOW - ended_s
        else:
            assert refused(by_secret(), token, Reason.EXPIRED).code is ErrorCode.TOKEN_EXPIRED

    def test_without_leeway(self) -> None:
        refused(by_secret(leeway_s=0), hs256(claims(exp=NOW)), Reason.EXPIRED)

    @pytest.mark.parametrize(("begins_s", "good"), [(-1, True), (5, True), (5.1, False)])
    def test_the_beginning(self, begins_s: float, good: bool) -> None:
        token = hs256(claims(nbf=NOW + begins_s))
        if good:
            assert by_secret().verify(token).name == "till-1"
        else:
            refused(by_secret(), token, Reason.NOT_YET)

    def test_one_without_an_end(self) -> None:
        refused(by_secret(), hs256(claims(exp=None)), Reason.CLAIMS)

    @pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
    @pytest.mark.parametrize("value", ["1800000600", True, [], {}, 2**60, -(2**60), 10**400])
    def test_a_time_that_is_none(self, name: str, value: object) -> None:
        refused(by_secret(), hs256(json.dumps(claims(**{name: value})).encode()), Reason.CLAIMS)

    def test_an_end_beyond_all_calendars(self) -> None:
        assert by_secret().verify(hs256(claims(exp=2**52))).expires_at == 253_402_300_799


class TestParties:
    """3.8 and 3.9."""

    @pytest.mark.parametrize(
        "iss",
        [
            None,
            "",
            "https://id.example/",
            "https://ID.example",
            "https://evil.example",
            ["https://id.example"],
        ],
    )
    def test_another_issuer(self, iss: object) -> None:
        refused(by_secret(issuer="https://id.example"), hs256(claims(iss=iss)), Reason.ISSUER)

    def test_the_issuer(self) -> None:
        assert (
            by_secret(issuer="https://id.example").verify(hs256(claims(iss="https://id.example"))).name
            == "till-1"
        )

    @pytest.mark.parametrize("aud", [None, "other", ["other"], [], "inventory ", {"inventory": 1}, 7])
    def test_another_audience(self, aud: object) -> None:
        refused(by_secret(audience="inventory"), hs256(claims(aud=aud)), Reason.AUDIENCE)

    @pytest.mark.parametrize("aud", ["inventory", ["other", "inventory"]])
    def test_the_audience(self, aud: object) -> None:
        assert by_secret(audience="inventory").verify(hs256(claims(aud=aud))).name == "till-1"


class TestTypes:
    """3.11 and 3.12: tokens for something else are none."""

    @pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt"])
    def test_the_type(self, typ: str) -> None:
        assert (
            by_secret(type="at+jwt").verify(hs256(claims(), header={"alg": "HS256", "typ": typ})).name
            == "till-1"
        )

    @pytest.mark.parametrize(
        "header", [{"alg": "HS256"}, {"alg": "HS256", "typ": "JWT"}, {"alg": "HS256", "typ": "dpop+jwt"}]
    )
    def test_another_type(self, header: dict[str, str]) -> None:
        refused(by_secret(type="at+jwt"), hs256(claims(), header=header), Reason.TYPE)


class TestClaims:
    @pytest.mark.parametrize("sub", [None, "", 7, ["a"], "x" * 256, "a\nb"])
    def test_nobody(self, sub: object) -> None:
        refused(by_secret(), hs256(claims(sub=sub)), Reason.CLAIMS)

    def test_absent_ones_allow_nothing(self) -> None:
        principal = by_secret().verify(hs256(claims(vendor_id=None, locations=None, permissions=None)))
        assert (principal.vendor_id, principal.locations, principal.permissions) == (
            None,
            frozenset(),
            frozenset(),
        )
        assert not principal.may_exact

    @pytest.mark.parametrize("locations", ["*", ["*"]])
    def test_every_location(self, locations: object) -> None:
        assert by_secret().verify(hs256(claims(locations=locations))).locations is None

    @pytest.mark.parametrize(
        "wrong",
        [
            {"vendor_id": 7},
            {"vendor_id": ""},
            {"vendor_id": "a b"},
            {"vendor_id": ["V"]},
            {"locations": "L1"},
            {"locations": ["L1", 2]},
            {"locations": ["*", "L1"]},
            {"locations": [["L1"]]},
            {"locations": {"L1": 1}},
            {"permissions": 7},
            {"permissions": [1]},
            {"jti": 7},
        ],
    )
    def test_a_scope_that_can_not_be_read_is_none(self, wrong: dict[str, Any]) -> None:
        refused(by_secret(), hs256(claims(**wrong)), Reason.CLAIMS)

    def test_permissions_as_an_oauth_scope(self) -> None:
        """A client-credentials token: RFC 6749 4.4, RFC 9068 2.2.3."""
        names = ClaimNames(subject="client_id", permissions="scope")
        payload = claims(
            sub=None, client_id="warehouse", scope="openid inv:read:exact inv:adjust", permissions=None
        )
        principal = by_secret(claims=names).verify(hs256(payload))
        assert (principal.name, principal.permissions) == (
            "warehouse",
            frozenset({"inv:read:exact", "inv:adjust"}),
        )

    def test_claims_of_other_names_and_places(self) -> None:
        names = ClaimNames(
            vendor="https://shop.example/vendor", locations="/app/a~1b/places", permissions="/realm/roles"
        )
        payload = claims(vendor_id=None, locations=None, permissions=None) | {
            "https://shop.example/vendor": "W",
            "app": {"a/b": {"places": ["L7"]}},
            "realm": {"roles": ["inv:read:exact"]},
        }
        principal = by_secret(claims=names).verify(hs256(payload))
        assert (principal.vendor_id, principal.locations, principal.may_exact) == (
            "W",
            frozenset({"L7"}),
            True,
        )

    def test_minting_uses_the_same_names(self) -> None:
        names = ClaimNames(subject="/who/is", vendor="/v", locations="/app/places", permissions="scope")
        token = mint_token(
            SECRET, subject="s", vendor="V", locations=["L1"], permissions=["inv:set"], ttl_s=9, names=names
        )
        principal = verifier(secret=SECRET, now=time.time(), claims=names).verify(token)
        assert (principal.name, principal.vendor_id, principal.locations) == ("s", "V", frozenset({"L1"}))
