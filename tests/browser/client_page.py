"""client.js in a blank page, driven from a test."""

from typing import Any

from playwright.async_api import Page

from tests.browser.fake_gateway import FakeGateway
from tests.support.waiting import eventually

__all__ = ["ClientPage"]

# Short enough for a test, and in the proportions of the defaults.
_QUICK = {
    "backoffMs": 40,
    "backoffMaxMs": 400,
    "probeTimeoutMs": 300,
    "stableMs": 300,
    "connectTimeoutMs": 2000,
}

_OPEN = """async ([url, options, names]) => {
  const { connect, itemKey } = await import("/client.js");
  if (options.tokens) {
    const tokens = options.tokens;
    globalThis.tokenCalls = [];
    options.token = ({ refused }) => { globalThis.tokenCalls.push(refused); return tokens.shift(); };
  }
  const client = connect(url, options);
  globalThis.client = client;
  globalThis.events = [];
  globalThis.versionsFellBack = [];
  const versions = new Map();
  client.on("state", (state) => events.push(["state", state]));
  client.on("topic", (topic) => events.push(["topic", topic.name, topic.state, topic.error?.code ?? null]));
  client.on("error", (error) => events.push(["error", error.code]));
  client.on("freshness", ({ stale, since }) => events.push(["stale", stale, since]));
  client.on("change", ({ topic, changes, reset }) => {
    events.push(["change", topic.name, changes.map(({ key, item }) => [key, item?.version ?? null]), reset]);
    for (const { key, item } of changes) {
      const name = `${topic.epoch} ${topic.name} ${key}`;
      if (item && item.version < (versions.get(name) ?? -1)) versionsFellBack.push(name);
      if (item) versions.set(name, item.version);
    }
  });
  if (names.length) client.subscribe(names);
}"""


class ClientPage:
    """Options and results as JSON. `items` and the like read the client's state in the page."""

    def __init__(self, page: Page, gateway: FakeGateway) -> None:
        self.page = page
        self.gateway = gateway

    async def open(self, *topics: str, url: str = "/realtime", **options: Any) -> None:
        await self.page.goto(f"{self.gateway.url}blank")
        await self.page.evaluate(_OPEN, [url, _QUICK | options, list(topics)])

    async def js(self, expression: str) -> Any:
        return await self.page.evaluate(expression)

    async def run(self, statements: str) -> None:
        """Unlike `js`, this has no result (a function as a result would be called)."""
        await self.page.evaluate(f"() => {{ {statements} }}")

    async def items(self, topic: str) -> dict[str, Any]:
        held = await self.js(f"Object.fromEntries(client.topics.get('{topic}').items)")
        assert isinstance(held, dict)
        return held

    async def topic_state(self, topic: str) -> Any:
        return await self.js(f"client.topics.get('{topic}').state")

    async def events(self, kind: str) -> list[Any]:
        return [event for event in await self.js("events") if event[0] == kind]

    async def wait_live(self, *topics: str) -> None:
        async def live() -> bool:
            states = [await self.topic_state(topic) for topic in topics]
            assert set(states) == {"live"}, states
            return True

        await eventually(live)

    async def wait_equal(self, topic: str) -> None:
        """Waits until the copy is what the gateway holds."""

        async def equal() -> bool:
            held = await self.items(topic)
            expected = self.gateway.topic(topic).items
            assert held == expected, f"{len(held)} items held, {len(expected)} expected"
            return True

        await eventually(equal)

    async def wait_connections(self, count: int) -> None:
        await eventually(lambda: self.gateway.handshakes >= count)
        await eventually(lambda: self.js("client.state === 'open'"))
