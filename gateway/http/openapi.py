"""The OpenAPI document: `python -m gateway.http.openapi > gateway/http/openapi.json`."""

import sys
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.http.models import PageOfStock, Problem, ProductAnswer, Readiness, Status, TicketAnswer
from gateway.http.paging import DEFAULT_LIMIT, MAX_LIMIT
from gateway.http.problems import MEDIA_TYPE
from protocol.topics import KEY_GRAMMAR

__all__ = ["make_openapi"]

_TOO_MANY = "more than the principal may ask for; see Retry-After"
_MODELS: tuple[type[BaseModel], ...] = (ProductAnswer, PageOfStock, TicketAnswer, Problem, Status, Readiness)


def make_openapi() -> dict[str, Any]:
    """OpenAPI 3.1, made from the models of the answers."""
    _, schemas = models_json_schema(
        [(model, "serialization") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Inventory gateway",
            "version": "1",
            "description": "Snapshots over HTTP, beside the live views at `/realtime` (see asyncapi.json).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_client_paths(), **_ops_paths()},
        "components": {
            "schemas": schemas["$defs"],
            "headers": _headers(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _client_paths() -> dict[str, Any]:
    cursor = _query("cursor", {"type": "string"}, "`next_cursor` of the page before")
    limit = _query(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        "rows on a page",
    )
    return {
        "/v1/products/{id}": _get(
            "One product: itself, its availability, its stock",
            ProductAnswer,
            [_id("product")],
            {404: "no such product"},
        ),
        "/v1/locations/{id}/stock": _get(
            "Stock at a location, by pages",
            PageOfStock,
            [_id("location"), cursor, limit],
            {422: "the topic is too large"},
        ),
        "/v1/vendors/{id}/stock": _get(
            "Stock of a vendor, by pages; exact view only",
            PageOfStock,
            [_id("vendor"), cursor, limit],
            {422: "the topic is too large"},
        ),
        "/v1/tickets": {
            "post": {
                "summary": "A ticket for clients that can send no token to `/realtime`: good once, for 30 s",
                "security": [{"bearer": []}],
                "responses": {
                    "201": _json("the ticket", TicketAnswer),
                    "401": _problem("credentials are missing or bad"),
                    "429": _problem(_TOO_MANY),
                    "503": _problem("Redis is away; see Retry-After"),
                },
            }
        },
        "/v1/operations": {
            "post": {
                "summary": "Change stock; not in this version",
                "responses": {
                    "429": _problem(_TOO_MANY),
                    "503": _problem("this version takes no operations"),
                },
            }
        },
    }


def _ops_paths() -> dict[str, Any]:
    servers = [{"url": "http://127.0.0.1:8081", "description": "the ops port"}]
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "/healthz": {
            "servers": servers,
            "get": {"summary": "The process lives", "responses": {"200": _json("it does", Status)}},
        },
        "/readyz": {
            "servers": servers,
            "get": {
                "summary": "Send me clients",
                "responses": {
                    "200": _json("ready", Readiness),
                    "503": _json("not ready, and why", Readiness),
                },
            },
        },
        "/metrics": {
            "servers": servers,
            "get": {
                "summary": "Prometheus metrics",
                "responses": {"200": {"description": "text format 0.0.4", "content": text}},
            },
        },
    }


def _get(
    summary: str, answer: type[BaseModel], parameters: list[dict[str, Any]], problems: dict[int, str]
) -> dict[str, Any]:
    view = _query(
        "view", {"enum": ["exact", "public"]}, "the best the principal may see, unless asked for less"
    )
    known = {
        400: "a parameter is wrong",
        401: "credentials are missing or bad",
        403: "the principal may not see this view",
        429: _TOO_MANY,
        503: "Postgres or Redis is away; see Retry-After",
        **problems,
    }
    success = _json("as the principal may see it", answer)
    success["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in _headers()}
    responses = {"200": success, "304": {"description": "what If-None-Match names is current"}}
    responses |= {str(status): _problem(text) for status, text in sorted(known.items())}
    return {"get": {"summary": summary, "parameters": [*parameters, view], "responses": responses}}


def _headers() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "ETag": {"description": "strong; the same bytes have the same tag on every replica", "schema": text},
        "Cache-Control": {"description": "public for the public view, else private", "schema": text},
        "X-Cache": {"description": "whether the snapshot was there", "schema": {"enum": ["HIT", "MISS"]}},
    }


def _id(kind: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": f"^{KEY_GRAMMAR}$"}
    return {"name": "id", "in": "path", "required": True, "description": f"the {kind}'s id", "schema": schema}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _json(description: str, model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


if __name__ == "__main__":
    sys.stdout.write(orjson.dumps(make_openapi(), option=orjson.OPT_INDENT_2).decode() + "\n")
