"""Everything that keeps strangers out, and what takes it away: see tests.safeguards, which takes these in."""

from typing import Final

from tests.mutation import Mutation

__all__ = ["IDENTITY_SAFEGUARDS"]

_AUTH: Final = "tests/unit/gateway/auth"
_TOKENS: Final = f"{_AUTH}/test_tokens.py"
_JWKS: Final = f"{_AUTH}/test_jwks.py"
_REVOCATIONS: Final = f"{_AUTH}/test_revocations.py"
_TICKETS: Final = f"{_AUTH}/test_tickets.py"
_AUTHENTICATE: Final = "tests/unit/protocol/test_authenticate.py"
_SCOPED: Final = "tests/unit/protocol/test_scoped_view.py"
_SCOPING: Final = "tests/unit/gateway/test_scoping.py"
_MATRIX: Final = "tests/unit/protocol/test_who_may_see_what.py"


IDENTITY_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "a token is as long as it may be",
        "gateway/auth/compact.py",
        "    if len(text) > MAX_TOKEN_BYTES:\n",
        "    if False:\n",
        (f"{_TOKENS}::TestForm",),
    ),
    Mutation(
        "what is critical and unknown is refused",
        "gateway/auth/compact.py",
        '    if "crit" in header or "b64" in header:\n',
        "    if False:\n",
        (f"{_TOKENS}::TestForm",),
    ),
    Mutation(
        "no member stands twice",
        "gateway/auth/compact.py",
        "    if len(found) != len(members):\n",
        "    if False:\n",
        (f"{_TOKENS}::TestForm",),
    ),
    Mutation(
        "a key is used with its own algorithms",
        "gateway/auth/keys.py",
        "        return [key for key in named if algorithm in key.algorithms]\n",
        "        return named\n",
        (f"{_TOKENS}::TestAlgorithms",),
    ),
    Mutation(
        "the `alg` of a key adds nothing to its kind",
        "gateway/auth/keys.py",
        "frozenset(a for a in possible if a == named)",
        "frozenset({named})",
        (f"{_TOKENS}::TestKeys",),
    ),
    Mutation(
        "a signature is looked at",
        "gateway/auth/tokens.py",
        "        if not any(_is_signed_by(token, key) for key in candidates[:_MAX_CANDIDATES]):\n",
        "        if False:\n",
        (_TOKENS,),
    ),
    Mutation(
        "a token ends",
        "gateway/auth/tokens.py",
        "        if now >= expires_at + leeway_s:\n",
        "        if False:\n",
        (f"{_TOKENS}::TestTimes",),
    ),
    Mutation(
        "a token without an end is none",
        "gateway/auth/tokens.py",
        "        if expires_at is None:\n            raise",
        "        if expires_at is None:\n            return\n            raise",
        (f"{_TOKENS}::TestTimes",),
    ),
    Mutation(
        "a token is for us",
        "gateway/auth/tokens.py",
        "            if rules.audience not in named:\n",
        "            if False:\n",
        (f"{_TOKENS}::TestParties",),
    ),
    Mutation(
        "a token is from whom we trust",
        "gateway/auth/tokens.py",
        'if rules.issuer is not None and claims.get("iss") != rules.issuer:',
        "if False:",
        (f"{_TOKENS}::TestParties",),
    ),
    Mutation(
        "a token is of the right type",
        "gateway/auth/tokens.py",
        "        self._check_type(token.type)\n",
        "",
        (f"{_TOKENS}::TestTypes",),
    ),
    Mutation(
        "unknown keys cause one fetch in a while",
        "gateway/auth/jwks.py",
        "self._clock() - self._attempted_at < MIN_INTERVAL_S",
        "False",
        (_JWKS,),
    ),
    Mutation(
        "no redirect is followed, and nothing but a 200 is an answer",
        "gateway/auth/fetching.py",
        "        if status != 200:\n",
        "        if False:\n",
        ("tests/integration/test_fetching.py",),
    ),
    Mutation(
        "what is fetched is bounded",
        "gateway/auth/fetching.py",
        "        if self._received > self._max_bytes:\n",
        "        if False:\n",
        ("tests/integration/test_fetching.py",),
    ),
    Mutation(
        "a revoked token is not taken",
        "gateway/auth/authority.py",
        "            self._refuse_revoked(principal)\n",
        "",
        (_REVOCATIONS,),
    ),
    Mutation(
        "a log of revocations that was lost is read anew",
        "gateway/auth/revocations.py",
        "            self._last = None  # another",
        "            pass  # another",
        (_REVOCATIONS,),
    ),
    Mutation(
        "a log of revocations that was lost is written again",
        "gateway/auth/revocations.py",
        "            await self._write_again(records)\n",
        "",
        (_REVOCATIONS,),
    ),
    Mutation(
        "a ticket is no better than its token",
        "gateway/auth/tickets.py",
        "        if self._is_revoked(principal):\n",
        "        if False:\n",
        (_TICKETS,),
    ),
    Mutation(
        "a connection stays one subject's",
        "protocol/session.py",
        "held.expires_at is not None and not held.is_same(principal)",
        "False",
        (_AUTHENTICATE,),
    ),
    Mutation(
        "what new credentials do not cover ends",
        "protocol/session.py",
        "            if principal.still_covers(topic, subscription.view, subscription.scope):\n",
        "            if True:\n",
        (_AUTHENTICATE,),
    ),
    Mutation(
        "a narrower scope covers less",
        "protocol/principal.py",
        "        return vendor and other.locations is not None and other.locations <= self.locations\n",
        "        return vendor\n",
        (_AUTHENTICATE,),
    ),
    Mutation(
        "a location that is not one's own is forbidden",
        "protocol/principal.py",
        "            return self.locations is None or topic.id in self.locations\n",
        "            return True\n",
        (_MATRIX,),
    ),
    Mutation(
        "items go by their vendor",
        "protocol/scoped_view.py",
        "    if owner is None or (scope.vendor_id is not None and owner != scope.vendor_id):\n",
        "    if owner is None:\n",
        (_SCOPED,),
    ),
    Mutation(
        "what leaves a scope is taken away there",
        "protocol/scoped_view.py",
        "        elif sees(scope, item.key, before):\n",
        "        elif False:\n",
        (_SCOPED,),
    ),
    Mutation(
        "of what was never in a scope nothing is said",
        "protocol/scoped_view.py",
        "        elif sees(scope, item.key, before):\n",
        "        else:\n",
        (_SCOPED,),
    ),
    Mutation(
        "a log that can not tell is not replayed",
        "protocol/scoped_view.py",
        "            elif _reaches(scope, item.key):\n                return None\n",
        "",
        (_SCOPING,),
    ),
    Mutation(
        "a copy of one scope is not resumed in another",
        "gateway/scoping.py",
        "    return epoch if scope is None else f",
        "    return epoch if scope is None or True else f",
        (_SCOPING,),
    ),
    Mutation(
        "changes while owners are read are not lost",
        "gateway/scoping.py",
        "            self._collected.append(message)\n",
        "",
        (_SCOPING,),
    ),
)
