from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser.fake_gateway import FakeGateway
from tests.browser.shop import fill, small_shop, stock

pytestmark = pytest.mark.asyncio(loop_scope="session")


class TestLooks:
    @pytest.mark.parametrize("view", ["storefront", "terminal"])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    async def test_text_has_contrast_in_both_themes(
        self, page: Page, gateway: FakeGateway, scheme: Any, view: str
    ) -> None:
        small_shop(gateway)
        await page.emulate_media(color_scheme=scheme)
        await page.goto(f"{gateway.url}#{view}")
        await expect(page.locator("#trust b")).to_contain_text("Fresh")
        if view == "terminal":
            await page.locator(".body .row").first.click()
        faint = await page.evaluate((Path(__file__).parent / "contrast.js").read_text())
        assert faint == [], "WCAG 2.2 AA asks for 4.5:1"

    async def test_the_switch_overrules_the_system_and_is_kept(
        self, page: Page, gateway: FakeGateway
    ) -> None:
        small_shop(gateway)
        await page.emulate_media(color_scheme="light")
        await page.goto(gateway.url)

        async def ground() -> str:
            return str(await page.evaluate("getComputedStyle(document.body).backgroundColor"))

        light = await ground()
        switch = page.get_by_role("button", name="Colour theme")
        await switch.click()  # light
        assert await ground() == light
        await switch.click()  # dark
        dark = await ground()
        assert dark != light
        await page.reload()
        await expect(switch).to_have_attribute("aria-label", "Colour theme: dark")
        assert await ground() == dark
        await switch.click()
        assert await ground() == light

    @pytest.mark.parametrize("width", [360, 768, 1024, 1600])
    @pytest.mark.parametrize("view", ["storefront", "terminal"])
    async def test_nothing_sticks_out_at_any_width(
        self, page: Page, gateway: FakeGateway, width: int, view: str
    ) -> None:
        fill(gateway, products=40)
        await page.set_viewport_size({"width": width, "height": 800})
        await page.goto(f"{gateway.url}#{view}")
        await expect(page.locator(".card" if view == "storefront" else ".body .row").first).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert await page.evaluate("document.querySelector('.table').scrollWidth <= innerWidth")

    async def test_less_motion_for_who_prefers_it(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.emulate_media(reduced_motion="reduce")
        await page.goto(gateway.url)
        number = page.locator("[data-product=A] .number")
        await expect(number).to_have_text("42")
        await gateway.change(stock("A", "L1", 38, 10))
        await expect(number).to_have_attribute("data-moved", "down")
        assert await page.evaluate("document.getAnimations().length") == 0

    async def test_landmarks_headings_and_names(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        for view in ("storefront", "terminal"):
            await page.goto(f"{gateway.url}#{view}")
            await expect(page.locator("#trust b")).to_contain_text("Fresh")
            for role in ("banner", "navigation", "main", "contentinfo"):
                await expect(page.get_by_role(role)).to_have_count(1)
            await expect(page.get_by_role("heading", level=1)).to_have_count(1)
            nameless = await page.evaluate(
                "[...document.querySelectorAll('button, input, select, a')]"
                ".filter((node) => node.checkVisibility() && !node.ariaLabel && !node.textContent.trim()"
                " && !node.labels?.length)"
                ".map((node) => node.outerHTML)"
            )
            assert nameless == []
        assert await page.locator("[aria-live], [role=status], [role=alert]").count() == 1, "used sparingly"

    async def test_the_first_tab_skips_to_the_stock(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(gateway.url)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the stock")).to_be_focused()


async def test_the_page_fetches_from_its_own_server_only(
    browser: Browser, context: BrowserContext, gateway: FakeGateway
) -> None:
    small_shop(gateway)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = await context.new_page()
    await page.goto(gateway.url)
    await expect(page.locator("#connection")).to_have_text("Connected")
    assert asked
    assert [url for url in asked if not url.startswith(gateway.url)] == []
