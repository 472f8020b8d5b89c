"""What a signed request has to pass, and what takes it away: see tests.safeguards, which takes these in."""

from typing import Final

from tests.mutation import Mutation

__all__ = ["SIGNATURE_SAFEGUARDS"]

_AUTH: Final = "tests/unit/gateway/auth"
_SIGNATURES: Final = f"{_AUTH}/test_signatures.py"
_SERVICES: Final = f"{_AUTH}/test_services.py"
_KEYS: Final = f"{_AUTH}/test_service_keys.py"
_FILE: Final = f"{_AUTH}/test_service_file.py"
_HTTP: Final = "tests/unit/gateway/http/test_signed_requests.py"


SIGNATURE_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "a signed request of long ago is refused",
        "gateway/auth/services.py",
        "    if timestamp < now - TOLERANCE_S:\n",
        "    if False:\n",
        (f"{_SERVICES}::TestTime",),
    ),
    Mutation(
        "a signed request of the future is refused",
        "gateway/auth/services.py",
        "    if timestamp > now + TOLERANCE_S:\n",
        "    if False:\n",
        (f"{_SERVICES}::TestTime",),
    ),
    Mutation(
        "a signed request is good once",
        "gateway/auth/services.py",
        "        if not await self._is_first(principal):\n",
        "        if not await self._is_first(principal) and False:\n",
        (f"{_SERVICES}::TestOnce",),
    ),
    Mutation(
        "a signed request is remembered as long as it is good",
        "gateway/auth/services.py",
        "REMEMBER_S: Final = 2 * TOLERANCE_S + 60",
        "REMEMBER_S: Final = TOLERANCE_S",
        (f"{_SERVICES}::TestOnce",),
    ),
    Mutation(
        "no signed request gets through while nobody remembers",
        "gateway/auth/services.py",
        "            self.refused(SignatureReason.UNAVAILABLE)\n            raise\n",
        "            return True\n",
        (f"{_SERVICES}::TestOnce",),
    ),
    Mutation(
        "who has no key uses up no id",
        "gateway/auth/services.py",
        "        service = await self._signer(signature, await read_body())\n",
        "        await self._memory.remember(signature.message_id, REMEMBER_S)\n"
        "        service = await self._signer(signature, await read_body())\n",
        (f"{_SERVICES}::TestSignatures",),
    ),
    Mutation(
        "ids of signed requests are each service's own",
        "gateway/auth/service_keys.py",
        '            jti=f"{name}:{message_id}",\n',
        '            jti=f"service:{message_id}",\n',
        (f"{_SERVICES}::TestOnce",),
    ),
    Mutation(
        "the keys of two services together are nobody's",
        "gateway/auth/services.py",
        "        return found[0] if found and all(service is found[0] for service in found) else None\n",
        "        return found[0] if found else None\n",
        (f"{_SERVICES}::TestSignatures",),
    ),
    Mutation(
        "a revoked service is not served",
        "gateway/auth/services.py",
        "        if self._is_revoked(principal):\n            raise",
        "        if False:\n            raise",
        (f"{_SERVICES}::TestTheEnd",),
    ),
    Mutation(
        "what a service that is gone has left is void",
        "gateway/auth/services.py",
        "        return service is None or not service.is_scope_of(principal)\n",
        "        return False\n",
        (f"{_SERVICES}::TestTheEnd",),
    ),
    Mutation(
        "a signature is compared",
        "gateway/auth/signatures.py",
        "            matches += hmac.compare_digest(expected, digest)\n",
        "            matches += 1\n",
        (_SIGNATURES,),
    ),
    Mutation(
        "a signature is compared in constant time",
        "gateway/auth/signatures.py",
        "            matches += hmac.compare_digest(expected, digest)\n",
        "            matches += expected == digest\n",
        (f"{_SIGNATURES}::TestScheme",),
    ),
    Mutation(
        "which key is right is not told by the time it takes",
        "gateway/auth/signatures.py",
        "            found.append(holder)\n",
        "            found.append(holder)\n            break\n",
        (f"{_SIGNATURES}::TestScheme",),
    ),
    Mutation(
        "the id is signed",
        "gateway/auth/signatures.py",
        'f"{message_id}.{timestamp}.".encode() + body',
        'f"{timestamp}.".encode() + body',
        (f"{_SIGNATURES}::TestScheme",),
    ),
    Mutation(
        "a signed text has one division only",
        "gateway/auth/signatures.py",
        r'r"[!-\-/-~]{1,256}"',
        r'r"[!-~]{1,256}"',
        (f"{_SIGNATURES}::TestHeaders",),
    ),
    Mutation(
        "headers of a signature stand there once",
        "gateway/auth/signatures.py",
        "    if any(len(values) != 1 for values in lines):\n",
        "    if any(not values for values in lines):\n",
        (f"{_SIGNATURES}::TestHeaders",),
    ),
    Mutation(
        "a service has two keys at the most",
        "gateway/auth/service_keys.py",
        "    if len(draft.keys) == MAX_KEYS:\n",
        "    if False:\n",
        (f"{_KEYS}::TestRefused",),
    ),
    Mutation(
        "a key of a service is long enough",
        "gateway/auth/service_keys.py",
        "    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:\n",
        "    if len(key) > MAX_KEY_BYTES:\n",
        (f"{_KEYS}::TestRefused",),
    ),
    Mutation(
        "a key belongs to one service",
        "gateway/auth/service_keys.py",
        "    if key in seen:\n",
        "    if False:\n",
        (f"{_KEYS}::TestRefused",),
    ),
    Mutation(
        "a service may do what is written and no more",
        "gateway/auth/service_keys.py",
        "        places = None if EVERY in self.locations else frozenset(self.locations)\n",
        "        places = frozenset(self.locations) or None\n",
        (_KEYS,),
    ),
    Mutation(
        "a broken file of keys keeps the old ones",
        "gateway/auth/service_file.py",
        '            self._reads["failure"] += 1\n',
        '            self._reads["failure"] += 1\n            self._keep({})\n',
        (_FILE,),
    ),
    Mutation(
        "half a file of keys is not taken",
        "gateway/auth/service_file.py",
        "        return data if data == await asyncio.to_thread(read_key_file, self._path) else None\n",
        "        return data\n",
        (_FILE,),
    ),
    Mutation(
        "only a POST is signed",
        "gateway/http/credentials.py",
        '        if request.method != "POST":\n',
        "        if False:\n",
        (f"{_HTTP}::TestRefused",),
    ),
    Mutation(
        "a token and a signature together are refused",
        "gateway/http/credentials.py",
        "        if has_token:\n",
        "        if False:\n",
        (f"{_HTTP}::TestRefused",),
    ),
    Mutation(
        "a part of a signature is not passed over",
        "gateway/http/credentials.py",
        "        if any(signed.values()):\n",
        "        if all(signed.values()):\n",
        (f"{_HTTP}::TestRefused",),
    ),
    Mutation(
        "a body is bounded before it is signed for",
        "gateway/http/bodies.py",
        "                if size > max_bytes:\n",
        "                if False:\n",
        (f"{_HTTP}::TestBodies",),
    ),
    Mutation(
        "the first to remember a request is one",
        "listeners/credential_store.py",
        'b"", "NX", "EX", ttl_s',
        'b"", "EX", ttl_s',
        (
            "tests/integration/test_credential_store.py::test_of_the_same_request_at_many_replicas_one_is_the_first",
        ),
    ),
)
