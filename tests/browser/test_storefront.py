import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.fake_gateway import FakeGateway
from tests.browser.shop import hold_shop, product, small_shop, stock

pytestmark = pytest.mark.asyncio(loop_scope="session")


# Counts in `lights` how often the ground of something lit up.
COUNT_LIGHTS = """
const animate = Element.prototype.animate;
globalThis.lights = 0;
Element.prototype.animate = function (frames, timing) {
  if ("backgroundColor" in frames[0]) lights += 1;
  return animate.call(this, frames, timing);
};
"""


def card(page: Page, product_id: str) -> Locator:
    return page.locator(f"[data-product={product_id}]")


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
        await page.add_init_script(COUNT_LIGHTS)
        await page.goto(gateway.url)
        number = card(page, "A").locator(".number")
        await expect(number).to_have_text("42")
        await gateway.change(stock("A", "L1", 38, 10))
        await expect(number).to_have_attribute("data-moved", "down")
        await expect(number).to_have_text("40")
        assert await page.evaluate("lights") == 1
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
        hold_shop(gateway, product("A", 30, name=name))
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
        hold_shop(gateway, product("A", name="Kettle"), stock("A", "store-7", 4, 2))
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
