"""What keeps hostile input out, and what takes it away: see tests.safeguards, which takes these in."""

from typing import Final

from tests.mutation import Mutation

__all__ = ["HOSTILE_SAFEGUARDS"]

_INCOMING: Final = "tests/unit/gateway/test_incoming.py"
_CONNECTION: Final = "tests/integration/test_connection.py::TestBadInput"
_SMUGGLING: Final = "tests/integration/test_smuggling.py"
_SOURCES: Final = "tests/unit/listeners/test_sources.py"
_QUOTING: Final = "tests/unit/listeners/test_source_sql.py"
_KEYS: Final = "tests/unit/gateway/auth/test_tokens.py::TestKeys"

HOSTILE_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "hostile: a ping is answered in its turn",
        "gateway/incoming.py",
        "            self.events.append(frame)\n            return\n",
        "            pass\n",
        (_INCOMING,),
    ),
    Mutation(
        "hostile: a ping is answered",
        "gateway/connection.py",
        "            self._outgoing.write(pong_frame(bytes(frame.data)))\n",
        "            pass\n",
        (_CONNECTION,),
    ),
    Mutation(
        "hostile: a close between fragments is a close",
        "gateway/incoming.py",
        "            self.current_size = None\n",
        "            pass\n",
        (_INCOMING,),
    ),
    Mutation(
        "hostile: a request has one Host",
        "gateway/request_head.py",
        '    if len(hosts) > 1 or (not hosts and version == "1.1"):\n',
        '    if not hosts and version == "1.1":\n',
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: a request has a Host",
        "gateway/request_head.py",
        ' or (not hosts and version == "1.1"):\n',
        ":\n",
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: a Host is a host",
        "gateway/request_head.py",
        "    if hosts and not _HOST.fullmatch(hosts[0]):\n",
        "    if False:\n",
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: versions of HTTP that are spoken",
        "gateway/request_head.py",
        '    if version not in ("1.0", "1.1"):\n',
        "    if False:\n",
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: a target names the host that Host does",
        "gateway/request_head.py",
        '    if absolute and hosts and absolute[1].lower().encode("latin-1") != hosts[0].lower():\n',
        "    if False:\n",
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: a handshake has no content",
        "gateway/request_head.py",
        "    if (websocket or method not in _WITH_CONTENT) and any(\n",
        "    if method not in _WITH_CONTENT and not websocket and any(\n",
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: a GET has no content",
        "gateway/request_head.py",
        "    if (websocket or method not in _WITH_CONTENT) and any(\n",
        "    if websocket and any(\n",
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: a handshake has no chunks",
        "gateway/request_head.py",
        '        name == b"transfer-encoding" or (',
        "        (",
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: no upgrade behind a request that is not answered",
        "gateway/server.py",
        '            if not getattr(self.cycle, "response_complete", True):',
        "            if False:",
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: a path that looks like a host is a path",
        "gateway/request_head.py",
        'r"(?:https?|wss?)://([^/?]*)(.*)"',
        'r"(?:https?:|wss?:)?//([^/?]*)(.*)"',
        (_SMUGGLING,),
    ),
    Mutation(
        "hostile: a name is as long as Postgres reads it",
        "listeners/sources.py",
        "    if len(name.encode()) > _IDENTIFIER_BYTES:\n",
        "    if False:\n",
        (_SOURCES,),
    ),
    Mutation(
        "hostile: a constant has no zero byte",
        "listeners/sources.py",
        'pattern=r"^[^\\x00]*$"',
        'pattern=r"^"',
        (_SOURCES,),
    ),
    Mutation(
        "hostile: an identifier stays in its quotes",
        "listeners/source_sql.py",
        """name.replace('"', '""')""",
        "name",
        (_QUOTING,),
    ),
    Mutation(
        "hostile: a constant stays in its quotes",
        "listeners/source_sql.py",
        """value.replace("'", "''")""",
        "value",
        (_QUOTING,),
    ),
    Mutation(
        "hostile: a backslash of a constant is none of SQL",
        "listeners/source_sql.py",
        """quoted.replace("\\\\", "\\\\\\\\")""",
        "quoted",
        (_QUOTING,),
    ),
    Mutation(
        "hostile: no name ends the body of a function",
        "listeners/capture_sql.py",
        "    while any(tag in name for name in names.values()):\n",
        "    while False:\n",
        (_QUOTING,),
    ),
    Mutation(
        "hostile: an RSA key is no longer than can be checked",
        "gateway/auth/keys.py",
        " <= MAX_RSA_BITS\n",
        "\n",
        (_KEYS,),
    ),
    Mutation(
        "hostile: nor is its exponent",
        "gateway/auth/keys.py",
        ' or _bits(jwk.get("e")) > MAX_RSA_EXPONENT_BITS\n',
        "\n",
        (_KEYS,),
    ),
)
