"""`protocol/asyncapi.json` is current, and is what AsyncAPI 3.0 calls a document."""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import protocol
from protocol.asyncapi import document, encode
from protocol.errors import CLOSE_CODES, ErrorCode
from protocol.messages import CLIENT_MESSAGES, SERVER_MESSAGES

HERE = Path(protocol.__file__).parent
CHECKED_IN = HERE / "asyncapi.json"
DOCUMENT: dict[str, Any] = json.loads(CHECKED_IN.read_bytes())


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def resolve(reference: str) -> Any:
    node: Any = DOCUMENT
    assert reference.startswith("#/")
    for step in reference[2:].split("/"):
        node = node[step]
    return node


def properties(schema: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][schema]["properties"]
    return found


class TestCurrent:
    def test_it_is_what_the_models_give(self) -> None:
        assert encode(document()) == CHECKED_IN.read_bytes(), "run `make specs`"

    def test_the_command_writes_it(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        runpy.run_path(str(HERE / "asyncapi.py"), run_name="__main__")
        assert capfdbinary.readouterr().out == CHECKED_IN.read_bytes()


class TestStructure:
    def test_the_required_fields(self) -> None:
        assert DOCUMENT["asyncapi"] == "3.0.0"
        assert DOCUMENT["info"].keys() >= {"title", "version"}
        for server in DOCUMENT["servers"].values():
            assert server.keys() >= {"host", "protocol"}
        assert set(DOCUMENT) - {
            "asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"
        } == {"x-close-codes"}  # fmt: skip

    def test_every_reference_leads_somewhere(self) -> None:
        found = set(references(DOCUMENT))
        assert found
        for reference in found:
            assert isinstance(resolve(reference), dict)

    def test_operations_name_messages_of_their_channel(self) -> None:
        """AsyncAPI 3.0, Operation Object: messages must be a subset of those of the referenced channel."""
        for operation in DOCUMENT["operations"].values():
            assert operation["action"] in {"send", "receive"}
            for part in (operation, *([operation["reply"]] if "reply" in operation else [])):
                assert part["channel"] == {"$ref": "#/channels/realtime"}
                assert part["messages"]
                assert all(m["$ref"].startswith("#/channels/realtime/messages/") for m in part["messages"])

    def test_no_schema_is_left_over(self) -> None:
        used = {reference.rpartition("/")[2] for reference in references(DOCUMENT)}
        assert set(DOCUMENT["components"]["schemas"]) <= used


class TestContent:
    def test_every_message_is_there_on_its_side(self) -> None:
        by_action: dict[str, set[str]] = {"send": set(), "receive": set()}
        for operation in DOCUMENT["operations"].values():
            by_action[operation["action"]] |= {m["$ref"].rpartition("/")[2] for m in operation["messages"]}
        assert by_action == {"receive": set(CLIENT_MESSAGES), "send": set(SERVER_MESSAGES)}
        assert set(DOCUMENT["channels"]["realtime"]["messages"]) == set(CLIENT_MESSAGES) | set(
            SERVER_MESSAGES
        )

    def test_every_message_says_its_type(self) -> None:
        for name, message in DOCUMENT["components"]["messages"].items():
            assert resolve(message["payload"]["$ref"])["properties"]["type"]["const"] == name

    def test_what_is_optional_is_never_null(self) -> None:
        for name, schema in DOCUMENT["components"]["schemas"].items():
            for field, description in schema.get("properties", {}).items():
                nullable = {"type": "null"} in description.get("anyOf", [])
                assert not (nullable and field not in schema["required"]), f"{name}.{field}"
                assert "default" not in description or description["default"] is not None

    def test_low_stock_may_be_null_but_not_absent(self) -> None:
        assert {"type": "null"} in properties("Stock")["low_stock_at"]["anyOf"]
        assert "low_stock_at" in DOCUMENT["components"]["schemas"]["Stock"]["required"]

    def test_an_id_is_a_string_of_up_to_64_characters(self) -> None:
        for model in CLIENT_MESSAGES.values():
            field = properties(model.__name__)["id"]
            assert (field["type"], field["maxLength"]) == ("string", 64)

    def test_the_codes(self) -> None:
        assert DOCUMENT["components"]["schemas"]["ErrorCode"]["enum"] == [code.value for code in ErrorCode]
        assert [code["code"] for code in DOCUMENT["x-close-codes"]] == list(CLOSE_CODES)
