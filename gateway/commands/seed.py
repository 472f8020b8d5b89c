import argparse
import sys
from collections.abc import Callable

from gateway.commands import run_async
from gateway.commands.simulate import positive
from gateway.config import load_settings
from gateway.errors import CommandFailed, SettingsError
from gateway.sample.catalogue import Assortment
from gateway.sample.groups import one_error
from gateway.sample.progress import Progress
from gateway.sample.seeding import OtherShop, Seeded, seed
from listeners.postgres import classified, connected

__all__ = ["assortment", "configure", "run", "seed_shop"]

PRODUCTS = 1000
LOCATIONS = 3


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--products", metavar="N", type=positive(int), default=PRODUCTS, help=f"({PRODUCTS})")
    parser.add_argument(
        "--locations", metavar="N", type=positive(int), default=LOCATIONS, help=f"({LOCATIONS})"
    )
    parser.add_argument(
        "--vendors",
        metavar="N",
        type=positive(int),
        default=1,
        help="products and locations are dealt out to them; a product is at every location of its vendor (1)",
    )


def run(options: argparse.Namespace) -> int:
    shop = assortment(options.products, options.locations, options.vendors)
    return run_async(_seed(load_settings().require_database_url(), shop))


def assortment(products: int, locations: int, vendors: int = 1) -> Assortment:
    """Raises SettingsError for one that can not be."""
    if vendors > locations:
        raise SettingsError(f"--vendors={vendors}: every vendor needs a location, and there are {locations}")
    return Assortment(products, locations, vendors)


async def _seed(url: str, shop: Assortment) -> int:
    progress = Progress("seeding", shop.rows, out=sys.stderr)
    try:
        added = await seed_shop(url, shop, advance=progress.advance)
    finally:
        progress.finish()
    print(f"added {added.products:,} products and {added.stock:,} stock rows; {progress.summary()}")
    return 0


async def seed_shop(
    url: str, shop: Assortment, *, advance: Callable[[int], None] = lambda rows: None
) -> Seeded:
    """gateway.sample.seeding.seed over connections of ours. Raises ListenersError and CommandFailed."""
    try:
        with classified(url), one_error():
            return await seed(lambda: connected(url, purpose="seed"), shop, advance=advance)
    except OtherShop as error:
        raise CommandFailed(str(error)) from error
