"""What all paths have in common: methods, problems, CORS; the operator's port; the page and its files."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.http import files
from gateway.http.app import make_client_app
from gateway.http.cors import Cors
from gateway.http.models import Problem
from gateway.http.openapi import make_openapi
from gateway.http.ops import make_ops_app
from gateway.http.problems import STATUSES
from gateway.metrics import GatewayMetrics
from gateway.origins import OriginPolicy
from protocol.errors import ErrorCode
from tests.support.http_shop import FakeSource, assert_problem, client, product

SHOP = FakeSource({"product:A": [product("A")]})


class TestProblems:
    async def test_a_path_that_is_not_there(self) -> None:
        async with client(SHOP) as http:
            for path in ("/nope", "/v1", "/v1/products/", "/v1/products/A/", "/v1/operations"):
                answer = await http.get(path)
                assert answer.status_code in (404, 405), path
                Problem.model_validate_json(answer.content)

    async def test_a_method_that_is_not_possible(self) -> None:
        async with client(SHOP) as http:
            answer = await http.delete("/v1/products/A")
        assert_problem(answer, 405, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}

    async def test_operations_are_for_a_later_version(self) -> None:
        async with client(SHOP) as http:
            posted = await http.post("/v1/operations", json={"idempotency_key": "k", "operations": []})
            asked = await http.get("/v1/operations/1")
        for answer in (posted, asked):
            assert_problem(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) > 0

    async def test_a_websocket_that_lost_its_upgrade(self) -> None:
        async with client(SHOP) as http:
            answer = await http.get("/realtime")
        assert_problem(answer, 426, "upgrade_required")
        assert answer.headers["upgrade"] == "websocket"

    def test_every_error_of_the_contract_has_a_status(self) -> None:
        assert set(STATUSES) == set(ErrorCode)


class TestCors:
    FOREIGN = "https://elsewhere.example"

    async def get(self, allowed: Sequence[str], origin: str) -> httpx.Response:
        async with client(SHOP, allowed_origins=allowed) as http:
            return await http.get("/v1/products/A", headers={"Origin": origin})

    async def test_an_allowed_origin(self) -> None:
        answer = await self.get(["https://shop.example"], "https://shop.example")
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert "ETag" in answer.headers["access-control-expose-headers"]
        assert {v.strip() for v in answer.headers["vary"].split(",")} == {"Authorization", "Origin"}

    async def test_every_origin(self) -> None:
        answer = await self.get(["*"], self.FOREIGN)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Origin" not in answer.headers["vary"]

    async def test_the_own_origin(self) -> None:
        answer = await self.get([], "http://gateway.test")
        assert answer.headers["access-control-allow-origin"] == "http://gateway.test"

    async def test_a_foreign_origin_is_granted_nothing(self) -> None:
        answer = await self.get(["https://shop.example"], self.FOREIGN)
        assert "access-control-allow-origin" not in answer.headers

    async def test_errors_can_be_read_by_the_page_too(self) -> None:
        async with client(SHOP, None, allowed_origins=["https://shop.example"]) as http:
            answer = await http.get("/v1/products/A", headers={"Origin": "https://shop.example"})
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"

    async def test_preflight(self) -> None:
        headers = {
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        async with client(SHOP, allowed_origins=["https://shop.example"]) as http:
            granted = await http.options("/v1/products/A", headers=headers)
            refused = await http.options("/v1/products/A", headers=headers | {"Origin": self.FOREIGN})
        assert granted.status_code == 204
        assert granted.content == b""
        assert granted.headers["access-control-allow-origin"] == "https://shop.example"
        assert "GET" in granted.headers["access-control-allow-methods"]
        assert "Authorization" in granted.headers["access-control-allow-headers"]
        assert_problem(refused, 403, "forbidden")
        assert "access-control-allow-origin" not in refused.headers

    async def test_other_protocols_pass_through(self) -> None:
        seen: list[str] = []

        async def inner(scope: Scope, _: Receive, __: Send) -> None:
            seen.append(scope["type"])

        async def receive() -> Message:
            return {}

        async def send(_: Message) -> None:
            raise AssertionError

        await Cors(inner, policy=OriginPolicy([]))({"type": "lifespan"}, receive, send)
        assert seen == ["lifespan"]


class TestOrigins:
    @pytest.mark.parametrize(
        ("origin", "host", "allowed"),
        [
            (None, "gateway.test", True),
            ("https://shop.example", "gateway.test", True),
            ("HTTPS://SHOP.example", "gateway.test", True),
            ("https://gateway.test", "gateway.test", True),
            ("http://gateway.test:8080", "gateway.test:8080", True),
            ("http://gateway.test:9090", "gateway.test:8080", False),
            ("https://shop.example.evil.test", "gateway.test", False),
            ("https://evil.test", "gateway.test", False),
            ("null", "gateway.test", False),
            ("null", "", False),
            ("", "", False),
            ("https://evil.test", None, False),
        ],
    )
    def test_who_may_connect(self, origin: str | None, host: str | None, allowed: bool) -> None:
        assert OriginPolicy(["https://shop.example"]).allows(origin, host) is allowed

    def test_everybody(self) -> None:
        assert OriginPolicy(["*"]).allows("null", "gateway.test")


class Ready:
    def __init__(self, *reasons: str) -> None:
        self._reasons = reasons

    def not_ready(self) -> Sequence[str]:
        return self._reasons


class TestOperatorsPort:
    async def get(self, path: str, *reasons: str) -> httpx.Response:
        app = make_ops_app(Ready(*reasons), GatewayMetrics().render)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ops.test") as http:
            return await http.get(path)

    async def test_the_process_lives_even_when_it_is_not_ready(self) -> None:
        answer = await self.get("/healthz", "Redis can not be reached")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok"}

    async def test_ready(self) -> None:
        answer = await self.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {"ready": True, "reasons": []}

    async def test_not_ready_says_why(self) -> None:
        answer = await self.get("/readyz", "GATEWAY_REDIS_URL can not be reached", "draining")
        assert answer.status_code == 503
        assert answer.json()["reasons"] == ["GATEWAY_REDIS_URL can not be reached", "draining"]
        assert answer.headers["retry-after"] == "1"

    async def test_metrics_are_prometheus_text(self) -> None:
        answer = await self.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "gateway_commit_to_send_seconds_bucket" in answer.text

    async def test_everything_else_is_a_problem(self) -> None:
        assert_problem(await self.get("/"), 404, "not_found")


class TestStaticFiles:
    @pytest.fixture
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        directory = tmp_path / "static"
        directory.mkdir()
        (directory / "client.js").write_text("export {}")
        (directory / "client.d.ts").write_text("export {}")
        (directory / "index.html").write_text("<!doctype html>")
        (directory / "page.css").write_text("body {}")
        (directory / "notes.txt").write_text("not for the web")
        (directory / "README").write_text("neither")
        (directory / "sub").mkdir()
        monkeypatch.setattr(files, "files", lambda _: tmp_path)
        return directory

    async def test_the_client_is_for_every_site(self, directory: Path) -> None:
        async with client(SHOP) as http:
            answer = await http.get("/client.js", headers={"Origin": "https://elsewhere.example"})
        assert answer.text == "export {}"
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"

    async def test_a_copy_is_kept_until_it_changes(self, directory: Path) -> None:
        async with client(SHOP) as http:
            etag = (await http.get("/client.js")).headers["etag"]
            assert (await http.get("/client.js", headers={"If-None-Match": etag})).status_code == 304

    async def test_the_page_is_for_development_only(self, directory: Path) -> None:
        async with client(SHOP) as http:
            for path in ("/", "/index.html", "/page.css"):
                assert_problem(await http.get(path), 404, "not_found")

    async def test_the_page(self, directory: Path) -> None:
        async with client(SHOP, page=True) as http:
            page, style = await http.get("/"), await http.get("/page.css")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert style.headers["content-type"] == "text/css; charset=utf-8"

    async def test_what_the_page_shows(self, directory: Path) -> None:
        app = make_client_app(
            SHOP, principal=None, low_stock=5, page=True, page_settings={"featured": ["P1"]}
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x.test") as http:
            assert (await http.get("/page.json")).json() == {"featured": ["P1"]}
        async with client(SHOP, page=True) as http:
            assert (await http.get("/page.json")).json() == {}
        async with client(SHOP) as http:
            assert_problem(await http.get("/page.json"), 404, "not_found")

    async def test_files_of_no_known_type_stay_inside(self, directory: Path) -> None:
        async with client(SHOP, page=True) as http:
            for path in ("/notes.txt", "/README", "/sub", "/../pyproject.toml", "/%2e%2e/pyproject.toml"):
                assert_problem(await http.get(path), 404, "not_found")


class TestOpenApi:
    PATH = Path(__file__).parents[4] / "gateway" / "http" / "openapi.json"

    def test_the_file_is_current(self) -> None:
        assert orjson.loads(self.PATH.read_bytes()) == orjson.loads(orjson.dumps(make_openapi())), (
            "run: python -m gateway.http.openapi > gateway/http/openapi.json"
        )

    def test_every_reference_leads_somewhere(self) -> None:
        document = make_openapi()

        def references(node: object) -> list[str]:
            if isinstance(node, dict):
                own = [node["$ref"]] if "$ref" in node else []
                return own + [ref for value in node.values() for ref in references(value)]
            return [ref for value in node for ref in references(value)] if isinstance(node, list) else []

        found = references(document)
        assert found
        for reference in found:
            node: object = document
            for part in reference.removeprefix("#/").split("/"):
                assert isinstance(node, dict)
                node = node[part]

    def test_every_path_is_served(self) -> None:
        app = make_client_app(SHOP, principal=None, low_stock=5)
        ops = make_ops_app(Ready(), bytes)
        served = {getattr(route, "path", "") for route in (*app.routes, *ops.routes)}
        assert set(make_openapi()["paths"]) <= served
