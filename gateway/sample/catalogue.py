"""What the sample shop sells and where. Every value follows from a number, so all such shops are alike."""

from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = [
    "Assortment",
    "Location",
    "Product",
    "Stock",
    "Vendor",
    "location",
    "location_id",
    "product",
    "product_id",
    "stock",
    "vendor",
    "vendor_id",
]


class Vendor(NamedTuple):
    """The columns of public.vendors that are not left to their defaults; likewise the others below."""

    vendor_id: str
    name: str


class Location(NamedTuple):
    location_id: str
    vendor_id: str
    name: str
    kind: str
    timezone: str


class Product(NamedTuple):
    product_id: str
    vendor_id: str
    sku: str
    name: str
    category: str
    price_minor: int
    currency: str
    status: str


class Stock(NamedTuple):
    product_id: str
    location_id: str
    vendor_id: str
    on_hand: int
    reserved: int
    damaged: int
    safety_stock: int
    incoming: int
    low_stock_at: int | None


class _Range(NamedTuple):
    category: str
    code: str
    makes: tuple[str, ...]
    things: tuple[str, ...]
    cheapest: int  # minor units
    dearest: int


_RANGES: Final = (
    _Range(
        "Kitchen",
        "KIT",
        ("Enamel", "Copper", "Walnut", "Stoneware", "Cast Iron", "Olive Wood", "Steel"),
        ("Kettle", "Mug", "Cutting Board", "Teapot", "Frying Pan", "Pepper Mill", "Carafe", "Mixing Bowl"),
        900,
        12_900,
    ),
    _Range(
        "Lighting",
        "LIT",
        ("Brass", "Linen", "Opal", "Nordic", "Smoked Glass", "Rattan", "Ceramic"),
        ("Desk Lamp", "Pendant", "Lantern", "Floor Lamp", "Wall Light", "Night Light", "Candle Holder"),
        1_900,
        34_900,
    ),
    _Range(
        "Garden",
        "GAR",
        ("Terracotta", "Cedar", "Willow", "Zinc", "Teak", "Slate", "Galvanised"),
        ("Planter", "Watering Can", "Trowel", "Basket", "Bird Feeder", "Bench", "Trellis", "Doormat"),
        700,
        24_900,
    ),
    _Range(
        "Textiles",
        "TEX",
        ("Wool", "Flax", "Cotton", "Alpaca", "Velvet", "Quilted", "Waffle"),
        ("Throw", "Cushion", "Towel", "Runner", "Bathrobe", "Curtain", "Apron", "Blanket"),
        1_200,
        18_900,
    ),
    _Range(
        "Stationery",
        "STA",
        ("Ruled", "Indigo", "Marbled", "Pocket", "Clothbound", "Recycled", "Leather"),
        ("Notebook", "Fountain Pen", "Folio", "Planner", "Sketchbook", "Pencil Set", "Desk Pad"),
        400,
        8_900,
    ),
    _Range(
        "Audio",
        "AUD",
        ("Compact", "Studio", "Portable", "Vintage", "Wireless", "Bookshelf", "Travel"),
        ("Speaker", "Headphones", "Turntable", "Radio", "Microphone", "Amplifier", "Earbuds"),
        2_900,
        89_900,
    ),
    _Range(
        "Toys",
        "TOY",
        ("Wooden", "Magnetic", "Felt", "Rainbow", "Giant", "Mini", "Classic"),
        ("Train", "Building Blocks", "Puzzle", "Kite", "Marble Run", "Rocking Horse", "Memory Game"),
        600,
        9_900,
    ),
    _Range(
        "Sports",
        "SPO",
        ("Trail", "Carbon", "Training", "Junior", "All-Weather", "Folding", "Performance"),
        ("Yoga Mat", "Water Bottle", "Skipping Rope", "Bike Helmet", "Backpack", "Racket", "Football"),
        800,
        21_900,
    ),
    _Range(
        "Bath & Care",
        "BAT",
        ("Lavender", "Sea Salt", "Cedarwood", "Citrus", "Oat", "Charcoal", "Rose"),
        ("Hand Soap", "Body Lotion", "Bath Oil", "Shampoo Bar", "Candle", "Diffuser", "Face Cream"),
        500,
        5_900,
    ),
)
_FINISHES: Final = (
    "",
    "Natural",
    "Charcoal",
    "Sand",
    "Moss",
    "Indigo",
    "Rust",
    "Ivory",
    "Sky",
    "Plum",
    "Ochre",
)
_ENDINGS: Final = (0, 50, 90, 95, 99)
_VENDORS: Final = (
    "Meridian Goods",
    "Harbour & Hill",
    "Northlight Trading",
    "Fieldstone Supply",
    "Atlas Home",
)
_PLACES: Final = (
    ("Market Street", "store", "Europe/London"),
    ("Harbour", "store", "Europe/Lisbon"),
    ("Warehouse North", "warehouse", "Europe/Berlin"),
    ("Old Town", "store", "Europe/Prague"),
    ("Station Arcade", "store", "Europe/Paris"),
    ("Riverside", "store", "Europe/Vienna"),
    ("Online", "virtual", "UTC"),
    ("University Quarter", "store", "Europe/Madrid"),
    ("Warehouse South", "warehouse", "Europe/Rome"),
    ("Airport", "store", "Europe/Amsterdam"),
)


class Assortment(NamedTuple):
    """How large the shop is.

    Products and locations are dealt out to the vendors in turn, as 1, 2, 3, 1, 2 ..., and a product has stock
    at every location of its vendor: with one vendor, everywhere.
    """

    products: int
    locations: int
    vendors: int = 1

    @property
    def rows(self) -> int:
        """Of products and stock."""
        per_round = sum(1 + len(self.locations_of(number)) for number in range(1, self.vendors + 1))
        rounds, rest = divmod(self.products, self.vendors)
        return rounds * per_round + sum(1 + len(self.locations_of(number)) for number in range(1, rest + 1))

    def locations_of(self, vendor_number: int) -> range:
        """The numbers of a vendor's locations."""
        return range(vendor_number, self.locations + 1, self.vendors)

    def vendor_of(self, number: int) -> int:
        """The number of the vendor that has the product, or the location, of this number."""
        return (number - 1) % self.vendors + 1

    def stock_of(self, product_number: int) -> Iterator[Stock]:
        vendor_number = self.vendor_of(product_number)
        for location_number in self.locations_of(vendor_number):
            yield stock(product_number, location_number, vendor_number)


def vendor_id(number: int) -> str:
    return f"V{number}"


def location_id(number: int) -> str:
    return f"L{number}"


def product_id(number: int) -> str:
    return f"P{number:06d}"


def vendor(number: int) -> Vendor:
    return Vendor(vendor_id(number), _numbered(_VENDORS, number))


def location(number: int, vendor_number: int = 1) -> Location:
    name, kind, timezone = _PLACES[(number - 1) % len(_PLACES)]
    round_ = (number - 1) // len(_PLACES)
    return Location(
        location_id(number),
        vendor_id(vendor_number),
        f"{name} {round_ + 1}" if round_ else name,
        kind,
        timezone,
    )


def product(number: int, vendor_number: int = 1) -> Product:
    """Neighbours are of different categories; about 1 in 50 is a draft and 1 in 50 archived."""
    dice = _dice(number)
    of = _RANGES[number % len(_RANGES)]
    make = of.makes[dice % len(of.makes)]
    thing = of.things[(dice >> 4) % len(of.things)]
    finish = _FINISHES[(dice >> 8) % len(_FINISHES)]
    # The first ones are what the page shows.
    status = _STATUSES.get((dice >> 12) % 50, "published") if number > 24 else "published"
    return Product(
        product_id(number),
        vendor_id(vendor_number),
        f"{of.code}-{number:06d}",
        f"{make} {thing}, {finish}" if finish else f"{make} {thing}",
        of.category,
        _price(of, dice >> 6),
        "USD",
        status,
    )


def stock(product_number: int, location_number: int, vendor_number: int = 1) -> Stock:
    """A long tail: mostly a few dozen, sometimes hundreds, 1 in 16 sold out."""
    dice = _dice(product_number * 31 + location_number)
    on_hand = 0 if dice % 16 == 0 else 1 + (dice >> 4) % 60 * (1 + ((dice >> 10) % 12 == 0) * 7)
    reserved = min(on_hand, _RESERVED[(dice >> 14) % len(_RESERVED)])
    damaged = min(on_hand - reserved, 1 if (dice >> 18) % 25 == 0 else 0)
    return Stock(
        product_id(product_number),
        location_id(location_number),
        vendor_id(vendor_number),
        on_hand,
        reserved,
        damaged,
        2 if (dice >> 19) % 10 == 0 else 0,
        24 if on_hand == 0 else 0,
        _LOW_STOCK_AT[(dice >> 22) % len(_LOW_STOCK_AT)],
    )


_STATUSES: Final = {0: "draft", 1: "archived"}
_RESERVED: Final = (0, 0, 0, 0, 1, 2, 0, 3)
_LOW_STOCK_AT: Final = (5, 5, None, 3, 10)


def _price(of: _Range, dice: int) -> int:
    """Rather cheap than dear, in whole units with a shop's usual ending."""
    share = (dice % 1000) / 1000
    units = int(of.cheapest + (of.dearest - of.cheapest) * share * share) // 100
    return units * 100 + _ENDINGS[dice % len(_ENDINGS)]


def _numbered(names: tuple[str, ...], number: int) -> str:
    name = names[(number - 1) % len(names)]
    round_ = (number - 1) // len(names)
    return f"{name} {round_ + 1}" if round_ else name


def _dice(number: int) -> int:
    """32 well mixed bits: the finalizer of MurmurHash3, which has no two numbers collide."""
    number &= 0xFFFFFFFF
    number = ((number ^ (number >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    number = ((number ^ (number >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return number ^ (number >> 16)
