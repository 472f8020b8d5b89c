from collections.abc import AsyncIterator, Generator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.browser.chromium import HOW_TO_GET_IT, find_chromium, launch
from tests.browser.client_page import ClientPage
from tests.browser.fake_gateway import FakeGateway

# A connection that can not be made is what several tests are about; Chromium reports each on the console.
_EXPECTED = ("WebSocket connection to", "Failed to load resource", "WebSocket is already in CLOSING")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """All tests that miss a Chromium are skipped at one place, so that pytest folds them into one line."""
    report = yield
    if isinstance(report.longrepr, tuple) and HOW_TO_GET_IT in report.longrepr[2]:
        report.longrepr = (__file__, 1, report.longrepr[2])
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all tests; skips them when there is none."""
    async with async_playwright() as playwright:
        executable = find_chromium(playwright)
        if executable is None:
            pytest.skip(HOW_TO_GET_IT)
        browser = await launch(playwright, executable)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def gateway() -> AsyncIterator[FakeGateway]:
    gateway = FakeGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A fresh profile. Whatever a page of it complains about fails the test, lost connections aside."""
    complaints: list[str] = []
    context = await browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(10_000)
    context.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            if message.type in {"error", "warning"} and not message.text.startswith(_EXPECTED)
            else None
        ),
    )
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    await context.close()
    assert complaints == []


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


@pytest_asyncio.fixture(loop_scope="session")
async def client(page: Page, gateway: FakeGateway) -> ClientPage:
    """client.js in a blank page of the gateway's."""
    return ClientPage(page, gateway)
