"""Everything that keeps views apart, and what takes it away: see tests.safeguards, which takes these in."""

from typing import Final

from tests.mutation import Mutation

__all__ = ["VIEW_SAFEGUARDS"]

_VIEW: Final = "tests/unit/protocol/test_public_view.py"
_STREAM: Final = "tests/unit/protocol/test_public_stream.py"
_WIRE: Final = "tests/unit/gateway/test_public_stream.py"
_BUDGET: Final = "tests/budgets/test_views.py"
_SOURCE: Final = "tests/unit/gateway/test_http_source.py"
_PRODUCTS: Final = "tests/unit/gateway/http/test_products.py"

VIEW_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "views: a word that says nothing new is not said",
        "protocol/public_view.py",
        "        if bucket == told_bucket:\n            return []\n",
        "        if bucket == told_bucket == _GONE:\n            return []\n",
        (f"{_VIEW}::TestChanges", f"{_WIRE}::TestHidden"),
    ),
    Mutation(
        "views: a product that was never shown is not taken away",
        "protocol/public_view.py",
        " or (_is_hidden(now) and (before is None or _is_hidden(before))):\n",
        ":\n",
        (f"{_STREAM}::TestWhatWasNeverThere", f"{_WIRE}::TestHidden"),
    ),
    Mutation(
        "views: hidden products are in no snapshot",
        "protocol/public_view.py",
        "                if not _is_hidden(held := self._products[product_id])\n",
        "                if (held := self._products[product_id]) is not None\n",
        (f"{_VIEW}::TestHidden",),
    ),
    Mutation(
        "views: the order of a snapshot tells nothing",
        "protocol/public_view.py",
        "    return sorted(by_product) if len(by_product) <= _SORTED else list(by_product)\n",
        "    return list(by_product)\n",
        (f"{_STREAM}::test_the_order_of_a_snapshot_tells_nothing",),
    ),
    Mutation(
        "views: what is below zero is nothing",
        "protocol/public_view.py",
        'return _STOCK.pack(item.version, True, max(0, body["available"]), _NO_LOW if low is None else low)',
        'return _STOCK.pack(item.version, True, body["available"], _NO_LOW if low is None else low)',
        (f"{_STREAM}::test_shops_that_look_alike_sound_alike",),
    ),
    Mutation(
        "views: a change that can not be seen is no frame",
        "gateway/topic_state.py",
        "            if items:\n                fanout.change(items, message.seq, message.changed_at_ms)\n",
        "            if items is not None:\n                fanout._broadcast(list(items), message.seq)\n",
        (f"{_BUDGET}::TestThePublicView", f"{_WIRE}::TestHidden"),
    ),
    Mutation(
        "views: over HTTP an item stays while it says the same",
        "gateway/http_source.py",
        "is not None and says_the_same(before, item) else item\n",
        "is None else item\n",
        (f"{_SOURCE}::test_what_the_public_can_not_see_changes_nothing",),
    ),
    Mutation(
        "views: who sees a part hears no MISS for the rest",
        "gateway/http/shop.py",
        "        hit = snapshot.hit if whole else snapshot.held\n",
        "        hit = snapshot.hit\n",
        (f"{_PRODUCTS}::TestWhoSeesAPart",),
    ),
    Mutation(
        "views: the availability of who sees a part is that of all",
        "gateway/http/shop.py",
        "        if scope is not None and principal.may_public:\n",
        "        if False:\n",
        (f"{_PRODUCTS}::TestWhoSeesAPart",),
    ),
)
