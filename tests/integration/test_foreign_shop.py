"""The README's way to one's own database, with its own words: tables under other names and key types."""

from pathlib import Path

import asyncpg
import pytest

from listeners.attach import attach
from listeners.migrations import migrate
from listeners.sources import load_source_file
from tests.support.gateway import running_gateway
from tests.support.waiting import eventually
from tests.support.watcher import watching

README = Path(__file__).parents[2] / "README.md"
ITEM = "6a0e1f52-8c0b-4c4e-9d27-1f0a54d9b7aa"


def readme_sources() -> str:
    """The indented TOML of the section on one's own database."""
    section = README.read_text().split("## Your own database", 1)[1].split("\n## ", 1)[0]
    lines = section[section.index("    [[source]]") :].splitlines()
    block = lines[: next(n for n, line in enumerate(lines) if line and not line.startswith("    "))]
    return "\n".join(line.removeprefix("    ") for line in block)


@pytest.fixture
async def foreign(empty_database_url: str) -> str:
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(
        f"""
        CREATE SCHEMA catalogue;
        CREATE TABLE catalogue."Item" (
            item_uuid uuid PRIMARY KEY, title text NOT NULL, price numeric(8, 2), is_live boolean, notes json
        );
        CREATE TABLE stock_levels (
            item_uuid uuid REFERENCES catalogue."Item", warehouse_no bigint, qty int NOT NULL,
            PRIMARY KEY (item_uuid, warehouse_no)
        );
        INSERT INTO catalogue."Item" VALUES ('{ITEM}', 'Mug', 12.50, true, '{{"a": 1}}');
        INSERT INTO stock_levels VALUES ('{ITEM}', 7, 3);
        """
    )
    await connection.close()
    return empty_database_url


async def test_the_readme_s_own_example_follows_a_foreign_shop(
    foreign: str, redis_url: str, redis_prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.toml").write_text(readme_sources())
    await migrate(foreign, shop=False)
    shop = await asyncpg.connect(foreign)
    for source in load_source_file(tmp_path / "shop.toml"):
        await attach(shop, source)
    topics = [f"product:{ITEM}", "location:7", "vendor:main", "location:07", "product:nothing"]
    async with (
        running_gateway(foreign, redis_url, redis_prefix) as gateway,
        watching(gateway.url, topics) as client,
    ):
        await eventually(lambda: all(client.is_complete(topic) for topic in topics), timeout_s=15)
        product, stock = f"product:{ITEM}", f"stock:{ITEM}:7"
        for topic in topics[:3]:
            items = client.copies[topic].items
            assert items[product]["name"] == "Mug"
            assert (items[product]["price_minor"], items[product]["status"]) == (1250, "published")
            assert (items[stock]["on_hand"], items[stock]["available"]) == (3, 3)
        assert all(client.copies[topic].items == {} for topic in topics[3:])
        await shop.execute("UPDATE stock_levels SET qty = 9")
        await shop.execute('UPDATE catalogue."Item" SET is_live = false')
        await eventually(lambda: client.copies["location:7"].items[stock]["on_hand"] == 9)
        await eventually(lambda: client.copies["vendor:main"].items[product]["status"] == "draft")
        await shop.execute("DELETE FROM stock_levels")
        await eventually(lambda: stock not in client.copies[f"product:{ITEM}"].items)
    await shop.close()
