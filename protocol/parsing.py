"""From the bytes of a client to a message. Nothing but ProtocolError comes out of here."""

from typing import Any, Final

import orjson
from pydantic import ValidationError

from protocol.errors import ErrorCode, FatalMessage, ProtocolError
from protocol.messages import CLIENT_MESSAGES, MAX_TOPICS_A_MESSAGE, ClientMessage

__all__ = ["parse_client_message"]

_MAX_ID: Final = 64
# Where the validator speaks of Python's types to somebody who has sent JSON.
_PLAINER: Final = {
    "tuple_type": "Input should be a list",
    "too_short": "List should not be empty",
    "dict_type": "Input should be an object",
    "model_type": "Input should be an object",
}


def parse_client_message(data: bytes) -> ClientMessage:
    """Raises FatalMessage for what is no JSON object (nesting beyond 1024 levels is not read either), else
    ProtocolError `bad_message`, `unknown_type` or `too_many_topics`, with the `id` wherever that is valid.
    """
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise FatalMessage(ErrorCode.BAD_MESSAGE, "send one JSON object, in UTF-8, a text frame") from None
    if not isinstance(fields, dict):
        raise FatalMessage(ErrorCode.BAD_MESSAGE, "a message is one JSON object")
    request_id = _request_id(fields)
    try:
        return _message(fields)
    except ProtocolError as error:
        raise error.about(id=request_id) from None


def _request_id(fields: dict[str, Any]) -> str | None:
    if "id" not in fields:
        return None
    request_id = fields["id"]
    if not isinstance(request_id, str) or len(request_id) > _MAX_ID:
        raise ProtocolError(ErrorCode.BAD_MESSAGE, f"id: a string of up to {_MAX_ID} characters, or left out")
    return request_id


def _message(fields: dict[str, Any]) -> ClientMessage:
    name = fields.get("type")
    if not isinstance(name, str):
        raise ProtocolError(ErrorCode.BAD_MESSAGE, "type: every message names its type, a string")
    model = CLIENT_MESSAGES.get(name)
    if model is None:
        raise ProtocolError(ErrorCode.UNKNOWN_TYPE, f"the types are {', '.join(CLIENT_MESSAGES)}")
    topics = fields.get("topics")
    if "topics" in model.model_fields and isinstance(topics, list) and len(topics) > MAX_TOPICS_A_MESSAGE:
        raise ProtocolError(
            ErrorCode.TOO_MANY_TOPICS,
            f"name up to {MAX_TOPICS_A_MESSAGE} topics a message, and send more messages",
        )
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise ProtocolError(ErrorCode.BAD_MESSAGE, _first_wrong_field(error)) from None


def _first_wrong_field(error: ValidationError) -> str:
    wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(step) for step in wrong["loc"])
    return f"{field[:100]}: {_PLAINER.get(wrong['type'], wrong['msg'])}"
