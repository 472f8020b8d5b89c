import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser.fake_gateway import FakeGateway
from tests.browser.shop import fill, product, stock
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPTS = Path(__file__).parent


def hold(gateway: FakeGateway, *items: dict[str, Any]) -> None:
    """These items, in the topics of their products and locations."""
    products = {item["product_id"]: item for item in items if item["kind"] == "product"}
    for item in items:
        gateway.topic(f"product:{item['product_id']}").apply([item])
        if "location_id" in item:
            at = [item, *([products[item["product_id"]]] if item["product_id"] in products else [])]
            gateway.topic(f"location:{item['location_id']}").apply(at)


def small_shop(gateway: FakeGateway) -> None:
    hold(
        gateway,
        product("A", name="Kettle", price_minor=3900, category="Kitchen"),
        product("B", name="Lamp", price_minor=8900, currency="EUR", category="Lighting"),
        product("C", name="Mug", price_minor=1200, currency="JPY", category="Kitchen"),
        stock("A", "L1", 40, 1, incoming=12),
        stock("A", "L2", 2, 2),
        stock("B", "L1", 3, 3, low_stock_at=None),
        stock("C", "L1", 0, 4),
    )
    gateway.page = {"locations": [{"id": "L1", "name": "Market Street"}, "L2"], "featured": ["A", "B", "C"]}


def card(page: Page, product_id: str) -> Any:
    return page.locator(f"[data-product={product_id}]")


async def column(page: Page, name: str) -> list[str]:
    """The texts of a column, in the order that a reader sees."""
    rows = await page.locator(".body .row").evaluate_all(
        "(rows, name) => rows.sort((a, b) => a.ariaRowIndex - b.ariaRowIndex)"
        ".map((row) => row.querySelector('.cell.' + name).firstElementChild?.textContent"
        " ?? row.querySelector('.cell.' + name).textContent)",
        name,
    )
    return list(rows)


async def watch_long_tasks(page: Page) -> None:
    """From now on the page's `longest` is how long (ms) its longest task took."""
    await page.evaluate(
        "() => { globalThis.longest = 0; new PerformanceObserver((list) => {"
        " for (const { duration } of list.getEntries()) longest = Math.max(longest, duration);"
        " }).observe({ entryTypes: ['longtask'] }); }"
    )


class TestStorefront:
    async def test_shows_the_featured_products_with_their_counts(
        self, page: Page, gateway: FakeGateway
    ) -> None:
        small_shop(gateway)
        await page.goto(gateway.url)
        await expect(card(page, "A").locator(".number")).to_have_text("42")
        await expect(card(page, "A").locator("h2")).to_have_text("Kettle")
        await expect(card(page, "A").locator(".price")).to_have_text("$39.00")
        await expect(card(page, "A").locator(".places dt")).to_have_text(["Market Street", "L2"])
        await expect(card(page, "A").locator(".pill")).to_have_text("In stock")
        await expect(card(page, "B").locator(".pill")).to_have_text("Only 3 left")
        await expect(card(page, "B").locator(".price")).to_have_text("€89.00")
        await expect(card(page, "C").locator(".pill")).to_have_text("Sold out")
        await expect(card(page, "C").locator(".price")).to_have_text("¥1,200")

    async def test_a_change_shows_and_flashes(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(gateway.url)
        number = card(page, "A").locator(".number")
        await expect(number).to_have_text("42")
        await gateway.change(stock("A", "L1", 38, 10))
        await expect(number).to_have_attribute("data-moved", "down")
        await expect(number).to_have_text("40")
        assert await number.evaluate("(node) => node.getAnimations().length") == 1
        await gateway.change(stock("A", "L1", 50, 11))
        await expect(number).to_have_attribute("data-moved", "up")
        await expect(number).not_to_have_attribute("data-moved", "up")
        await expect(number).to_have_text("52")

    async def test_a_price_and_a_name_follow_too(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(gateway.url)
        await expect(card(page, "A").locator(".price")).to_have_text("$39.00")
        await gateway.change(product("A", 20, name="Kettle, blue", price_minor=2950))
        await expect(card(page, "A").locator(".price")).to_have_text("$29.50")
        await expect(card(page, "A").locator("h2")).to_have_text("Kettle, blue")
        await gateway.change(product("A", 21, status="archived"))
        await expect(card(page, "A").locator(".pill")).to_have_text("Not on sale")

    async def test_what_shoppers_see_has_no_numbers(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(gateway.url)
        await expect(card(page, "A").locator(".number")).to_be_visible()
        await page.get_by_role("radio", name="What shoppers see").check()
        await expect(card(page, "A").locator(".number")).to_be_hidden()
        await expect(card(page, "A").locator(".pill")).to_have_text("In stock")
        await expect(card(page, "A").locator(".places")).to_be_hidden()
        await expect(card(page, "B").locator(".pill")).to_have_text("Only 3 left")
        await gateway.change(stock("B", "L1", 0, 10))
        await expect(card(page, "B").locator(".pill")).to_have_text("Sold out")
        await page.get_by_role("radio", name="Exact counts").check()
        await expect(card(page, "A").locator(".number")).to_have_text("42")

    async def test_a_stranger_gets_the_public_view_and_no_choice(
        self, page: Page, gateway: FakeGateway
    ) -> None:
        small_shop(gateway)
        gateway.default_view = "public"
        await page.goto(gateway.url)
        await expect(card(page, "B").locator(".pill")).to_have_text("Only 3 left")
        await expect(card(page, "B").locator(".number")).to_be_hidden()
        await expect(page.locator("#audience")).to_be_hidden()

    async def test_exact_numbers_that_are_forbidden_become_the_public_view(
        self, page: Page, gateway: FakeGateway
    ) -> None:
        small_shop(gateway)
        for product_id in "ABC":
            refusal = {"code": "forbidden", "message": "no exact view for you"}
            gateway.refusals[f"product:{product_id}"] = [refusal]
        await page.goto(f"{gateway.url}?view=exact")
        await expect(card(page, "B").locator(".pill")).to_have_text("Only 3 left")
        await expect(card(page, "B").locator(".number")).to_be_hidden()

    async def test_the_url_names_products(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(f"{gateway.url}?products=C,missing,bad%20id")
        await expect(card(page, "C").locator(".pill")).to_have_text("Sold out")
        await expect(card(page, "missing").locator(".pill")).to_have_text("Not found")
        assert await page.locator(".card").count() == 2

    async def test_a_featured_product_that_is_not_there_is_left_out_until_it_is(
        self, page: Page, gateway: FakeGateway
    ) -> None:
        small_shop(gateway)
        gateway.page = {"featured": ["A", "later"]}
        await page.goto(gateway.url)
        await expect(card(page, "A").locator(".number")).to_have_text("42")
        await expect(card(page, "later")).to_be_hidden()
        await gateway.publish("product:later", product("later"), stock("later", "L1", 8, 2))
        await expect(card(page, "later").locator(".number")).to_have_text("8")

    async def test_text_of_the_server_is_never_markup(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        name = "<img src=x onerror=alert(1)><b>Kettle</b>"
        hold(gateway, product("A", 30, name=name))
        await page.goto(gateway.url)
        await expect(card(page, "A").locator("h2")).to_have_text(name)


class TestWithoutPageJson:
    async def test_location_l1_is_the_guess(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        gateway.page = None
        await page.goto(gateway.url)
        await expect(page.locator(".card h2")).to_have_text(["Kettle", "Lamp", "Mug"])
        await expect(card(page, "A").locator(".number")).to_have_text("42")

    async def test_an_empty_location_asks_for_another(self, page: Page, gateway: FakeGateway) -> None:
        hold(gateway, product("A", name="Kettle"), stock("A", "store-7", 4, 2))
        await page.goto(gateway.url)
        await expect(page.locator("#storefront-notice")).to_contain_text("Nothing is in stock at “L1”")
        await page.get_by_role("link", name="Terminal").click()
        await page.get_by_label("Location id").fill("store-7")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#terminal-summary")).to_have_text("1 products · 1 low · 0 sold out")
        await page.get_by_role("link", name="Storefront").click()
        await expect(card(page, "A").locator(".number")).to_have_text("4")

    async def test_a_location_that_is_too_large_says_so(self, page: Page, gateway: FakeGateway) -> None:
        gateway.refusals["location:L1"] = [{"code": "topic_too_large", "message": "above 200000 items"}]
        await page.goto(f"{gateway.url}#terminal")
        await expect(page.locator("#terminal-notice")).to_contain_text("more than one page can follow")


class TestTerminal:
    async def test_what_needs_attention_comes_first(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(f"{gateway.url}#terminal")
        await eventually(lambda: column(page, "name"))
        assert await column(page, "name") == ["Mug", "Lamp", "Kettle"]
        await gateway.change(stock("A", "L1", 1, 10))
        await expect(page.locator(".body .row", has_text="Kettle").locator(".available b")).to_have_text("1")

        async def moved_up() -> bool:
            return await column(page, "name") == ["Mug", "Kettle", "Lamp"]

        await eventually(moved_up)
        await expect(page.locator("#terminal-summary")).to_have_text("3 products · 2 low · 1 sold out")

    async def test_a_change_in_sight_flashes(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(f"{gateway.url}#terminal")
        number = page.locator(".body .row", has_text="Kettle").locator(".available b")
        await expect(number).to_have_text("40")
        await gateway.change(stock("A", "L1", 39, 10))
        await expect(number).to_have_attribute("data-moved", "down")
        await expect(number).to_have_text("39")

    async def test_search_and_filters(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(f"{gateway.url}#terminal")
        await expect(page.locator(".body .row")).to_have_count(3)
        await page.keyboard.press("/")
        await expect(page.get_by_label("Search products")).to_be_focused()
        await page.keyboard.type("kitch MUG")
        await expect(page.locator(".body .row .title")).to_have_text(["Mug"])
        await page.get_by_label("Search products").fill("nothing like it")
        await expect(page.locator("#terminal-notice")).to_have_text("Nothing matches.")
        await page.get_by_label("Search products").fill("")
        await page.get_by_role("radio", name="Low").check()
        await expect(page.locator(".body .row .title")).to_have_text(["Lamp"])
        await page.get_by_role("radio", name="Sold out").check()
        await expect(page.locator(".body .row .title")).to_have_text(["Mug"])
        await gateway.change(stock("C", "L1", 8, 10))
        await expect(page.locator(".body .row")).to_have_count(0)

    async def test_columns_sort_both_ways(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(f"{gateway.url}#terminal")
        await expect(page.locator(".body .row")).to_have_count(3)
        for direction, names in [
            ("ascending", ["Kettle", "Lamp", "Mug"]),
            ("descending", ["Mug", "Lamp", "Kettle"]),
        ]:
            await page.get_by_role("button", name="Product").click()
            header = page.get_by_role("columnheader", name="Product")
            await expect(header).to_have_attribute("aria-sort", direction)

            async def sorted_so(names: list[str] = names) -> bool:
                return await column(page, "name") == names

            await eventually(sorted_so)

    async def test_another_location(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(f"{gateway.url}#terminal")
        await expect(page.locator(".body .row")).to_have_count(3)
        await page.get_by_label("Location", exact=True).select_option("L2")
        await expect(page.locator(".body .row")).to_have_count(1)
        await expect(page.locator("#terminal-title")).to_have_text("L2")
        await eventually(lambda: gateway.asked("unsubscribe"))

    async def test_what_was_deleted_leaves_and_what_is_new_enters(
        self, page: Page, gateway: FakeGateway
    ) -> None:
        small_shop(gateway)
        await page.goto(f"{gateway.url}#terminal")
        await expect(page.locator(".body .row")).to_have_count(3)
        await gateway.change(stock("A", "L1", 0, 20, deleted=True), stock("D", "L1", 7, 21))
        await expect(page.locator(".body .row", has_text="Kettle")).to_have_count(0)
        await expect(page.locator(".body .row")).to_have_count(3)
        await gateway.publish("location:L1", product("D", 22, name="Daybed"))
        await expect(page.locator(".body .row", has_text="Daybed")).to_have_count(1)

    async def test_keyboard(self, page: Page, gateway: FakeGateway) -> None:
        fill(gateway, products=400)
        await page.goto(f"{gateway.url}#terminal")
        await expect(page.locator(".body .row").first).to_be_visible()
        grid = page.get_by_role("grid", name="Stock at Market Street")
        await grid.focus()

        async def active_row() -> int:
            node = await grid.get_attribute("aria-activedescendant")
            assert node is not None
            return int(await page.locator(f"#{node}").get_attribute("aria-rowindex") or 0)

        for key, index in [("ArrowDown", 2), ("ArrowDown", 3), ("End", 401), ("ArrowUp", 400), ("Home", 2)]:
            await page.keyboard.press(key)
            assert await active_row() == index
        await page.keyboard.press("PageDown")
        assert await active_row() > 8
        name = await page.locator(".row.active .title").text_content()
        await page.keyboard.press("Enter")
        await expect(page.locator("#detail h2")).to_have_text(str(name))
        await page.keyboard.press("Escape")
        await expect(page.locator("#detail")).to_be_hidden()

    async def test_the_public_view_of_a_location(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        gateway.default_view = "public"
        await page.goto(f"{gateway.url}#terminal")
        await expect(page.locator(".body .row .pill")).to_have_text(["Sold out", "Only 3 left", "In stock"])
        await page.locator(".body .row", has_text="Lamp").click()
        await expect(page.locator("#detail dd")).to_have_text(["Only 3 left"])


class TestThousandsOfRows:
    async def test_scrolling_draws_only_what_is_in_sight_and_in_time(
        self, page: Page, gateway: FakeGateway
    ) -> None:
        fill(gateway, products=5000)
        await page.goto(f"{gateway.url}#terminal")
        await expect(page.locator("#filter [data-count=all]")).to_have_text("5,000")
        measured = await page.evaluate((SCRIPTS / "scroll.js").read_text())
        assert measured["reached"], "the last row came into sight"
        assert measured["mostRows"] < 60
        assert measured["gaps"] == 0, "never a blank stretch"
        assert measured["draws"] > 50
        assert measured["medianMs"] < 16, "fits into a frame at 60 a second"

    async def test_a_burst_of_changes_does_not_hold_up_the_page(
        self, page: Page, gateway: FakeGateway
    ) -> None:
        fill(gateway, products=5000)
        await page.goto(f"{gateway.url}#terminal")
        await expect(page.locator("#filter [data-count=all]")).to_have_text("5,000")
        await watch_long_tasks(page)
        held = gateway.topic("location:L1").items
        for version in range(9_000, 9_020):
            numbers = range(version % 5 + 1, 5001, 25)
            await gateway.publish(
                "location:L1",
                *(held[f"stock:P{n:05d}:L1"] | {"available": 777, "version": version} for n in numbers),
            )
        await expect(page.locator("#filter [data-count=all]")).to_have_text("5,000")

        async def arrived() -> bool:
            count = await page.evaluate(
                "[...gateway.topics.get('location:L1').items.values()]"
                ".filter(({ available }) => available === 777).length"
            )
            assert count == 1000, count
            return True

        await eventually(arrived)
        assert await page.evaluate("longest") < 500


class TestTrust:
    async def test_stale_is_said_and_fresh_again(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(gateway.url)
        await expect(page.locator("#connection")).to_have_text("Connected")
        await expect(page.locator("#trust b")).to_contain_text("Fresh")
        await gateway.send({"type": "stale", "since": "2026-11-22T10:00:00.000Z"})
        await expect(page.locator("#trust b")).to_contain_text("Stale since")
        await expect(page.locator("#banner")).to_contain_text("Updates are delayed")
        await gateway.send({"type": "fresh", "as_of": "2026-11-22T10:00:09.000Z"})
        await expect(page.locator("#banner")).to_be_hidden()
        await expect(page.locator("body")).to_have_attribute("data-trust", "fresh")

    async def test_a_lost_server_is_said_and_the_page_recovers_by_itself(
        self, page: Page, gateway: FakeGateway
    ) -> None:
        small_shop(gateway)
        await page.goto(gateway.url)
        await expect(card(page, "A").locator(".number")).to_have_text("42")
        await gateway.stop()
        await expect(page.locator("#banner")).to_contain_text("Connection lost")
        await expect(card(page, "A").locator(".number")).to_have_text("42")
        gateway.topic("product:A").apply([stock("A", "L1", 11, 50)])
        await gateway.start()
        await expect(card(page, "A").locator(".number")).to_have_text("13", timeout=15_000)
        await expect(page.locator("#banner")).to_be_hidden()

    async def test_the_strip_measures(self, page: Page, gateway: FakeGateway) -> None:
        small_shop(gateway)
        await page.goto(gateway.url)
        await expect(page.locator("#latency b")).to_contain_text("ms")
        await expect(page.locator("#held b")).to_contain_text("3 topics")
        await gateway.change(stock("A", "L1", 39, 10))
        await expect(page.locator("#age b")).to_contain_text("ms")
        assert await page.locator("#latency polyline").get_attribute("points")


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
        faint = await page.evaluate((SCRIPTS / "contrast.js").read_text())
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
        number = card(page, "A").locator(".number")
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
    await asyncio.sleep(0)
    assert asked
    assert [url for url in asked if not url.startswith(gateway.url)] == []
