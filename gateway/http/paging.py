"""Pages of a topic's rows in a stable order: a row that stays is neither skipped nor shown twice."""

import base64
import binascii
import heapq
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from protocol.errors import ErrorCode, ProtocolError
from protocol.items import Item
from protocol.topics import KEY_GRAMMAR

__all__ = ["DEFAULT_LIMIT", "MAX_LIMIT", "Page", "cut_page", "parse_cursor", "parse_limit"]

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
_POSITION: Final = re.compile(rf"{KEY_GRAMMAR}(:{KEY_GRAMMAR})?")


class Page(NamedTuple):
    """`rows` in order, the products they belong to, and the cursor of the next page."""

    rows: list[Item]
    products: list[Item]
    next_cursor: str | None


def parse_limit(text: str | None) -> int:
    """Raises ProtocolError `bad_message`."""
    if text is None:
        return DEFAULT_LIMIT
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= MAX_LIMIT:
        raise ProtocolError(ErrorCode.BAD_MESSAGE, f"limit is a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def parse_cursor(text: str | None) -> str:
    """The position a cursor stands for; the empty one is the start. Raises ProtocolError `bad_message`."""
    if not text:
        return ""
    try:
        position = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        position = ""
    if not _POSITION.fullmatch(position):
        raise ProtocolError(ErrorCode.BAD_MESSAGE, "cursor is the next_cursor of the page before, unchanged")
    return position


def cut_page(items: Iterable[Item], kind: str, after: str, limit: int) -> Page:
    """The first `limit` live rows of `kind` behind the position, by product and location.

    O(n log limit), without sorting the rows that are not on the page.
    """
    prefix = f"{kind}:"
    products: dict[str, Item] = {}
    rows: list[tuple[str, Item]] = []
    for item in items:
        if item.deleted:
            continue
        if item.key.startswith(prefix):
            position = item.key[len(prefix) :]
            if position > after:
                rows.append((position, item))
        elif item.key.startswith("product:"):
            products[item.key[len("product:") :]] = item
    found = heapq.nsmallest(limit + 1, rows)
    page = found[:limit]
    wanted = dict.fromkeys(position.partition(":")[0] for position, _ in page)
    return Page(
        [item for _, item in page],
        [products[product] for product in wanted if product in products],
        _make_cursor(page[-1][0]) if len(found) > limit else None,
    )


def _make_cursor(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).rstrip(b"=").decode()
