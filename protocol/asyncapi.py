"""Writes the AsyncAPI 3.0 description of the wire protocol: `python -m protocol.asyncapi`."""

import sys
from enum import StrEnum
from typing import Any, Final

import orjson
from pydantic.json_schema import models_json_schema

from protocol.errors import CLOSE_CODES
from protocol.messages import CLIENT_MESSAGES, SERVER_MESSAGES

__all__ = ["document", "encode"]

PROTOCOL_VERSION: Final = "1.0.0"
_CHANNEL: Final = {"$ref": "#/channels/realtime"}
# Which messages answer a request; an `error` answers any.
_REPLIES: Final = {
    "auth": ("authenticated",),
    "subscribe": ("snapshot", "resumed", "delta"),
    "unsubscribe": ("unsubscribed",),
    "ping": ("pong",),
    "publish": ("published",),
}


class _Action(StrEnum):
    """AsyncAPI speaks from the side of the server."""

    RECEIVE = "receive"
    SEND = "send"


def document() -> dict[str, Any]:
    """The whole description, made from the models of protocol.messages."""
    messages = CLIENT_MESSAGES | SERVER_MESSAGES
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Inventory gateway, inventory.v1",
            "version": PROTOCOL_VERSION,
            "description": "Live views of committed stock over WebSocket. PROTOCOL.md is the prose.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "localhost:8080", "protocol": "ws"}},
        "channels": {
            "realtime": {
                "address": "/realtime",
                "description": "Text frames, one JSON object each. The subprotocol may be left out.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {"ws": {"method": "GET", "query": _query(), "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {name: _receive(name) for name in CLIENT_MESSAGES}
        | {f"send_{name}": _operation(_Action.SEND, name) for name in SERVER_MESSAGES},
        "components": {
            "messages": {
                name: {"name": name, "payload": {"$ref": _ref(model.__name__)}}
                for name, model in messages.items()
            },
            "schemas": _schemas(),
        },
        "x-close-codes": [
            {"code": code.number, "name": code.name, "advice": code.advice, "meaning": code.meaning}
            for code in CLOSE_CODES.values()
        ],
    }


def encode(description: dict[str, Any]) -> bytes:
    """As it is checked in: two spaces, a line break at the end."""
    return orjson.dumps(description, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _query() -> dict[str, Any]:
    topics = {"type": "string", "description": "topics to subscribe to on open, separated by commas"}
    ticket = {
        "type": "string",
        "description": "of `POST /v1/tickets`; good once, for those who can send no token",
    }
    return {"type": "object", "properties": {"topics": topics, "ticket": ticket}}


def _operation(action: _Action, name: str) -> dict[str, Any]:
    return {"action": action, "channel": _CHANNEL, "messages": [_message(name)]}


def _receive(name: str) -> dict[str, Any]:
    replies = [_message(reply) for reply in (*_REPLIES[name], "error")]
    return _operation(_Action.RECEIVE, name) | {"reply": {"channel": _CHANNEL, "messages": replies}}


def _message(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/realtime/messages/{name}"}


def _ref(model: str) -> str:
    return f"#/components/schemas/{model}"


def _schemas() -> dict[str, Any]:
    models = [*CLIENT_MESSAGES.values(), *SERVER_MESSAGES.values()]
    _, schema = models_json_schema([(model, "validation") for model in models], ref_template=_ref("{model}"))
    definitions: dict[str, Any] = schema["$defs"]
    for definition in definitions.values():
        for field in definition.get("properties", {}).values():
            _leave_out_instead_of_null(field)
    return definitions


def _leave_out_instead_of_null(field: dict[str, Any]) -> None:
    """A field that defaults to None is left out on the wire, never null."""
    if "default" in field and field["default"] is None:
        del field["default"]
        kinds = [kind for kind in field.pop("anyOf") if kind != {"type": "null"}]
        field |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


if __name__ == "__main__":
    sys.stdout.buffer.write(encode(document()))
