"""Imports go one way: protocol <- listeners <- gateway, protocol <- load."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("gateway", "listeners", "load", "protocol", "tests")
MAY_IMPORT = {
    "protocol": {"protocol"},
    "listeners": {"protocol", "listeners"},
    "load": {"protocol", "load"},
    "gateway": {"protocol", "listeners", "gateway"},
}
# An allow-list, so that nothing with I/O, a clock, randomness or concurrency slips in under a new name.
PROTOCOL_MAY_USE = {
    "collections",
    "dataclasses",
    "datetime",
    "enum",
    "itertools",
    "operator",
    "orjson",
    "pydantic",
    "re",
    "struct",
    "sys",
    "typing",
}
# The composition root, in one process and in several, and what talks to the stores on a request's behalf.
SEES_LISTENERS = (
    "gateway.app",
    "gateway.cli",
    "gateway.commands",
    "gateway.http",
    "gateway.startup",
    "gateway.workers",
)
CLOCKS = {"now", "today", "utcnow"}
INPUT_OUTPUT = {"breakpoint", "input", "open", "print"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(source: str, package: str) -> Iterator[str]:
    """Every module a source names, wherever the import stands; `package` is what relative ones start from."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> Iterator[str]:
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return imports(path.read_text(), package)


def is_within(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_is_below_it(package: str) -> None:
    forbidden = set(OURS) - MAY_IMPORT[package]
    wrong = [
        f"{module_name(path)} imports {imported}"
        for path in modules(package)
        for imported in imports_of(path)
        if imported.partition(".")[0] in forbidden
    ]
    assert wrong == []


def test_protocol_has_no_input_output_clock_or_randomness() -> None:
    wrong = [
        f"{module_name(path)} imports {imported}"
        for path in modules("protocol")
        for imported in imports_of(path)
        if imported.partition(".")[0] not in PROTOCOL_MAY_USE | {"protocol"}
    ]
    assert wrong == []


def test_only_the_command_that_writes_the_specification_has_an_output() -> None:
    users = {module_name(path) for path in modules("protocol") if "sys" in imports_of(path)}
    assert users <= {"protocol.asyncapi"}


def calls(source: str) -> set[str]:
    """What a source calls that reads a clock or talks to a file, a terminal or a debugger."""
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    plain = {f"{name.id}()" for name in called if isinstance(name, ast.Name) and name.id in INPUT_OUTPUT}
    methods = {
        f".{name.attr}()" for name in called if isinstance(name, ast.Attribute) and name.attr in CLOCKS
    }
    return plain | methods


def test_protocol_is_told_the_time() -> None:
    wrong = {module_name(path): calls(path.read_text()) for path in modules("protocol")}
    assert {name: called for name, called in wrong.items() if called} == {}


def test_only_the_composition_root_and_the_handlers_see_listeners() -> None:
    wrong = [
        f"{module_name(path)} imports {imported}"
        for path in modules("gateway")
        if not is_within(module_name(path), SEES_LISTENERS)
        for imported in imports_of(path)
        if is_within(imported, ("listeners",))
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["hub", "outgoing", "connection"])
def test_what_serves_clients_is_not_among_the_exceptions(module: str) -> None:
    assert not is_within(f"gateway.{module}", SEES_LISTENERS)


class TestTheSearchItself:
    """The rules above pass when nothing is found, so what finds is tested on its own."""

    @pytest.mark.parametrize(
        ("source", "package", "found"),
        [
            ("import listeners.bus", "gateway", ["listeners.bus"]),
            ("import listeners.bus as b, asyncio", "gateway", ["listeners.bus", "asyncio"]),
            ("from listeners import bus", "gateway", ["listeners.bus"]),
            ("def f():\n    from listeners.bus import Bus", "gateway", ["listeners.bus.Bus"]),
            ("if TYPE_CHECKING:\n    import listeners", "gateway", ["listeners"]),
            ("from . import hub", "gateway.http", ["gateway.http.hub"]),
            ("from ..listeners import bus", "gateway.http", ["gateway.listeners.bus"]),
            ("from .items import Item", "protocol", ["protocol.items.Item"]),
            ("x = 'import listeners'", "gateway", []),
        ],
    )
    def test_finds_imports(self, source: str, package: str, found: list[str]) -> None:
        assert list(imports(source, package)) == found

    def test_tells_a_package_from_one_whose_name_begins_alike(self) -> None:
        assert is_within("gateway.app", ("gateway.app",))
        assert is_within("gateway.http.stock", ("gateway.http",))
        assert not is_within("gateway.app_settings", ("gateway.app",))

    def test_finds_clocks_and_output(self) -> None:
        assert calls("print(datetime.now(UTC))") == {"print()", ".now()"}
        assert calls("now = now or format_time(then)") == set()

    @pytest.mark.parametrize("package", MAY_IMPORT)
    def test_finds_the_sources(self, package: str) -> None:
        assert modules(package)
        assert module_name(ROOT / package / "__init__.py") == package
