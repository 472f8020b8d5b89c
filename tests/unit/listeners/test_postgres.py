import socket

import asyncpg
import pytest

from listeners.errors import ListenersError, Refused, Unavailable
from listeners.postgres import (
    LOCK_ATTACH,
    LOCK_MIGRATE,
    LOCK_RELAY,
    Connection,
    classified,
    classify,
    redact_dsn,
    set_deadlines,
)

DSN = "postgres://shop:secret@db.example:5432/shop"


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            ConnectionRefusedError(111, "Connect call failed"),
            socket.gaierror(-2, "Name or service not known"),
            TimeoutError(),
            asyncpg.CannotConnectNowError("the database system is starting up"),
            asyncpg.TooManyConnectionsError("sorry, too many clients already"),
            asyncpg.AdminShutdownError("terminating connection due to administrator command"),
            asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
            asyncpg.InterfaceError("connection is closed"),
            asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE in a read-only transaction"),
        ],
    )
    def test_that_may_pass(self, error: Exception) -> None:
        assert isinstance(classify(error, DSN), Unavailable)

    @pytest.mark.parametrize(
        "error",
        [
            asyncpg.InvalidPasswordError('password authentication failed for user "shop"'),
            asyncpg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry"),
            asyncpg.InvalidCatalogNameError('database "shop" does not exist'),
            asyncpg.InsufficientPrivilegeError("permission denied for schema gateway"),
            asyncpg.UndefinedObjectError('unrecognized configuration parameter "sslmod"'),
            asyncpg.exceptions.ClientConfigurationError("invalid DSN"),
        ],
    )
    def test_that_only_an_operator_can_help(self, error: Exception) -> None:
        assert isinstance(classify(error, DSN), Refused)

    def test_a_missing_table_says_what_to_run(self) -> None:
        error = classify(asyncpg.UndefinedTableError('relation "gateway.position" does not exist'))
        assert isinstance(error, Refused)
        assert "run `migrate`" in str(error)

    def test_are_one_line_with_the_server_and_without_the_password(self) -> None:
        text = str(classify(OSError("could not\n connect"), DSN))
        assert text == "Postgres at postgres://shop:***@db.example:5432/shop: could not connect"

    def test_without_a_text_are_named(self) -> None:
        assert str(classify(asyncpg.InterfaceError(""))) == "Postgres: InterfaceError"
        assert str(classify(TimeoutError())) == "Postgres did not answer in time"

    def test_are_turned_at_the_border(self) -> None:
        with pytest.raises(Unavailable) as caught, classified(DSN):
            raise ConnectionResetError(104, "reset")
        assert isinstance(caught.value.__cause__, ConnectionResetError)

    def test_of_ours_pass(self) -> None:
        with pytest.raises(ListenersError, match="as it is"), classified(DSN):
            raise ListenersError("as it is")


class TestPasswords:
    @pytest.mark.parametrize(
        ("dsn", "shown"),
        [
            (DSN, "postgres://shop:***@db.example:5432/shop"),
            ("postgresql://u:p%40ss@h/d?sslmode=require", "postgresql://u:***@h/d?sslmode=require"),
            ("postgres://u:a/b?c@d@h/db", "postgres://u:***@h/db"),
            ("postgres://h/db?user=u&password=secret&x=1", "postgres://h/db?user=u&password=***&x=1"),
            ("postgres://h/db?sslpassword=secret", "postgres://h/db?sslpassword=***"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("host=h password=secret dbname=d", "host=h password=*** dbname=d"),
            ("not a url", "not a url"),
            ("", ""),
        ],
    )
    def test_never_show(self, dsn: str, shown: str) -> None:
        assert redact_dsn(dsn) == shown


def test_lock_keys_differ_and_are_bigints() -> None:
    keys = {LOCK_RELAY, LOCK_MIGRATE, LOCK_ATTACH}
    assert len(keys) == 3
    assert all(0 < key < 2**63 for key in keys)


class TestDeadlinesOfSockets:
    def test_a_dead_peer_is_noticed(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as link:
            set_deadlines(link)
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000

    def test_a_unix_socket_needs_none(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            set_deadlines(link)
            assert not link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        set_deadlines(None)

    def test_they_are_set_by_the_connection_class(self) -> None:
        assert issubclass(Connection, asyncpg.Connection)
