"""PROTOCOL.md says what the code does: its examples are messages, its tables are the registries."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import protocol
from protocol.dialects import MAX_PAYLOAD_BYTES
from protocol.errors import CLOSE_CODES, ErrorCode
from protocol.item_models import AnyItem, Message
from protocol.items import MAX_BODY_BYTES, Copy
from protocol.messages import CLIENT_MESSAGES, MAX_TOPICS_A_MESSAGE, SERVER_MESSAGES
from protocol.parsing import parse_client_message

TEXT = (Path(protocol.__file__).parent / "PROTOCOL.md").read_text()
EXAMPLES = re.findall(r"^```json (\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
ANY_ITEM: TypeAdapter[AnyItem] = TypeAdapter(AnyItem)


def examples(side: str) -> list[str]:
    return [text for kind, text in EXAMPLES if kind == side]


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def has_no_other_field(model: Message, text: str) -> bool:
    example: dict[str, Any] = json.loads(text)
    return model.model_dump(mode="json", exclude_unset=True) == example


class TestExamples:
    def test_no_fence_is_left_out(self) -> None:
        assert len(EXAMPLES) * 2 == len(re.findall(r"^```", TEXT, re.MULTILINE))
        assert {kind for kind, _ in EXAMPLES} == {"client", "server", "item"}

    @pytest.mark.parametrize("text", examples("client"))
    def test_of_a_client(self, text: str) -> None:
        assert has_no_other_field(parse_client_message(text.encode()), text)

    @pytest.mark.parametrize("text", examples("server"))
    def test_of_the_server(self, text: str) -> None:
        model = SERVER_MESSAGES[json.loads(text)["type"]]
        assert has_no_other_field(model.model_validate_json(text, strict=True), text)

    @pytest.mark.parametrize("text", examples("item"))
    def test_of_an_item(self, text: str) -> None:
        assert has_no_other_field(ANY_ITEM.validate_json(text, strict=True), text)

    def test_every_message_has_one(self) -> None:
        shown: dict[str, set[Any]] = {
            side: {json.loads(text)["type"] for text in examples(side)} for side in ("client", "server")
        }
        assert shown == {"client": set(CLIENT_MESSAGES), "server": set(SERVER_MESSAGES)}

    def test_they_tell_one_story(self) -> None:
        """The delta of the page applied to its snapshot."""
        copy = Copy()
        by_type = {json.loads(text)["type"]: json.loads(text) for text in examples("server")}
        copy.apply(by_type["snapshot"]["items"])
        copy.apply(by_type["delta"]["items"])
        assert list(copy.items) == ["product:A"]


class TestTables:
    def test_of_errors(self) -> None:
        assert [row[0] for row in table("9. Errors")] == [f"`{code.value}`" for code in ErrorCode]

    def test_of_close_codes(self) -> None:
        assert table("10. Close codes") == [
            [str(code.number), code.name, code.meaning, code.advice] for code in CLOSE_CODES.values()
        ]

    def test_of_limits(self) -> None:
        limits = dict(table("11. Limits"))
        assert limits["payload from the server"] == f"{MAX_PAYLOAD_BYTES:,} bytes"
        assert limits["topics in a message, or in the URL"] == str(MAX_TOPICS_A_MESSAGE)
        assert f"larger than {MAX_BODY_BYTES // 1024} KiB" in TEXT


class TestLinks:
    def test_lead_somewhere(self) -> None:
        links = re.findall(r"\]\(([^)]+)\)", TEXT)
        assert links
        for link in links:
            if link.startswith("#"):
                headings = {self.anchor(line) for line in TEXT.splitlines() if line.startswith("#")}
                assert link[1:] in headings
            else:
                assert (Path(protocol.__file__).parent / link).exists(), link

    @staticmethod
    def anchor(heading: str) -> str:
        return re.sub(r"[^a-z0-9 -]", "", heading.lstrip("# ").lower()).replace(" ", "-")
