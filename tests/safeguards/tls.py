"""What keeps links and logins safe, and what takes it away: see tests.safeguards, which takes these in."""

from typing import Final

from tests.mutation import Mutation

__all__ = ["TLS_SAFEGUARDS"]

_TLS: Final = "tests/integration/test_tls.py"
_CERTIFICATE: Final = "tests/unit/gateway/test_certificate.py"
_ROLES: Final = "tests/integration/test_roles.py"


TLS_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "the ciphers of TLS 1.2 are modern ones",
        "gateway/certificate.py",
        "    context.set_ciphers(_CIPHERS)\n",
        "",
        (f"{_TLS}::TestHandshake",),
    ),
    Mutation(
        "a broken certificate leaves the old one in place",
        "gateway/certificate.py",
        "            return False\n        self._current = fresh\n",
        "            raise\n        self._current = fresh\n",
        (f"{_CERTIFICATE}::TestReloading",),
    ),
    Mutation(
        "the key belongs to the certificate",
        "gateway/certificate.py",
        "    if _public(key.public_key()) != _public(leaf.public_key()):\n",
        "    if False:\n",
        (f"{_CERTIFICATE}::TestRefusals",),
    ),
    Mutation(
        "a connection of TLS ends when everything is said",
        "gateway/connection.py",
        "                    self.transport.close()\n",
        "                    pass\n",
        (f"{_TLS}::TestClosing",),
    ),
    Mutation(
        "a client of TLS that takes a little is not taken for one that takes nothing",
        "gateway/sockets.py",
        '    if sys.platform != "linux" or sock is None or sock.fileno() < 0:\n',
        "    if True:\n",
        (f"{_TLS}::TestSlowClients",),
    ),
    Mutation(
        "a server whose certificate is not trusted is refused, not waited for",
        "listeners/tls.py",
        "        if isinstance(error, ssl.SSLCertVerificationError):\n",
        "        if False:\n",
        ("tests/unit/listeners/test_tls.py",),
    ),
    Mutation(
        "row security hides nothing from whoever serves",
        "listeners/roles.py",
        "    if hidden:\n",
        "    if False:\n",
        (f"{_ROLES}::TestDoctor",),
    ),
    Mutation(
        "whoever serves sees a table that is attached later",
        "listeners/attach.py",
        "    await show_table(conn, source)\n",
        "",
        (f"{_ROLES}::TestServing",),
    ),
    Mutation(
        "whoever serves sees a detached table no more",
        "listeners/attach.py",
        "        await forget_table(conn, entry.source)\n",
        "",
        (f"{_ROLES}::TestServing",),
    ),
    Mutation(
        "doctor sees what a role can do beyond serving",
        "listeners/doctor_postgres.py",
        "    if more:\n",
        "    if False:\n",
        (f"{_ROLES}::TestDoctor",),
    ),
    Mutation(
        "a user of Redis publishes under its own prefix at the start",
        "gateway/startup.py",
        "        await check_server(client, prefix)\n",
        "        await check_server(client)\n",
        ("tests/integration/test_redis_acl.py::test_all_of_it_runs",),
    ),
)
