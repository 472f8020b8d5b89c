from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.fake_gateway import FakeGateway
from tests.browser.shop import fill, product, small_shop, stock
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


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
        measured = await page.evaluate((Path(__file__).parent / "scroll.js").read_text())
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
        assert await page.evaluate("longest") < 1000
