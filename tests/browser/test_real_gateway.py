from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.browser.dev_stack import DevStack
from tests.support.servers import server_directory
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

STOCK = "SELECT product_id, available, on_hand, reserved, version FROM inventory WHERE location_id = 'L1'"
TOTAL = """
    SELECT sum(greatest(available, 0)) AS total
    FROM inventory JOIN locations USING (location_id) WHERE active AND product_id = $1
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(browser: Browser) -> AsyncIterator[DevStack]:
    assert browser.is_connected()  # without a Chromium nothing is started
    with server_directory() as directory:
        async with DevStack(directory) as stack:
            yield stack


async def first_card(page: Page) -> tuple[Any, str]:
    card = page.locator(".card").first
    await expect(card.locator(".number")).to_be_visible(timeout=20_000)
    return card, str(await card.get_attribute("data-product"))


async def wait_cards_equal(page: Page, stack: DevStack) -> None:
    """Waits until every card that is shown says what the database says."""
    shown = await page.locator(".card").evaluate_all("(cards) => cards.map((card) => card.dataset.product)")
    assert shown
    for product_id in shown:
        (row,) = await stack.fetch(TOTAL, product_id)
        number = page.locator(f"[data-product='{product_id}']")
        await expect(number).to_have_attribute("data-available", str(row["total"]), timeout=20_000)


async def wait_location_equal(page: Page, stack: DevStack) -> None:
    """Waits until the page's copy of L1 is the table's rows."""
    rows = {row["product_id"]: dict(row) for row in await stack.fetch(STOCK)}

    async def equal() -> bool:
        held = await page.evaluate(
            "[...gateway.topics.get('location:L1').items.values()].filter(({ kind }) => kind === 'stock')"
        )
        copy = {item["product_id"]: {name: item[name] for name in next(iter(rows.values()))} for item in held}
        assert copy == rows
        return True

    await eventually(equal, 20)


async def test_counts_change_on_the_page_after_an_sql_update(page: Page, stack: DevStack) -> None:
    await page.goto(stack.url)
    card, product_id = await first_card(page)
    await wait_cards_equal(page, stack)
    await stack.execute(
        "UPDATE inventory SET on_hand = on_hand + 7 WHERE product_id = $1 AND location_id = 'L1'", product_id
    )
    await expect(card.locator(".number")).to_have_attribute("data-moved", "up")
    await wait_cards_equal(page, stack)
    await stack.execute("UPDATE products SET price_minor = 123456 WHERE product_id = $1", product_id)
    await expect(card.locator(".price")).to_contain_text("1,234.56")


async def test_the_terminal_follows_a_whole_location(page: Page, stack: DevStack) -> None:
    await page.goto(f"{stack.url}?location=L1#terminal")
    await expect(page.locator(".body .row").first).to_be_visible(timeout=20_000)
    await wait_location_equal(page, stack)
    await stack.execute("UPDATE inventory SET on_hand = on_hand + 1000 WHERE location_id = 'L1'")
    await wait_location_equal(page, stack)
    await stack.execute(
        "UPDATE inventory SET on_hand = reserved + damaged + safety_stock WHERE location_id = 'L1'"
        " AND product_id = (SELECT max(product_id) FROM inventory WHERE location_id = 'L1')"
    )
    await wait_location_equal(page, stack)
    await expect(page.locator("#filter [data-count=out]")).to_have_text("1")
    await expect(page.locator(".body .row[aria-rowindex='2'] .pill")).to_have_text("Sold out")


async def test_the_page_recovers_by_itself_when_the_server_was_killed(page: Page, stack: DevStack) -> None:
    await page.goto(f"{stack.url}?location=L1#terminal")
    await expect(page.locator(".body .row").first).to_be_visible(timeout=20_000)
    await page.get_by_role("link", name="Storefront").click()
    _, product_id = await first_card(page)
    await stack.kill()
    await expect(page.locator("#banner")).to_contain_text("Connection lost")
    await stack.start()
    await stack.execute("UPDATE inventory SET on_hand = on_hand + 3 WHERE product_id = $1", product_id)
    await expect(page.locator("#banner")).to_be_hidden(timeout=40_000)
    await wait_cards_equal(page, stack)
    await wait_location_equal(page, stack)
    await stack.execute("UPDATE inventory SET on_hand = on_hand + 5 WHERE product_id = $1", product_id)
    await wait_cards_equal(page, stack)
    await wait_location_equal(page, stack)
