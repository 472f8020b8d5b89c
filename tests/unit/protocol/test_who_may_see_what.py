"""The matrix: who is answered how, by topic and view; behind slashes the vendor and places of its scope."""

import pytest

from protocol.errors import ErrorCode, ProtocolError
from protocol.principal import Permission, Principal, View
from protocol.topics import parse_topic

PUBLIC, EXACT = Permission.READ_PUBLIC, Permission.READ_EXACT
L1 = frozenset({"L1"})


def who(
    *permissions: str, vendor: str | None = None, locations: frozenset[str] | None = frozenset()
) -> Principal:
    return Principal("x", frozenset(permissions), vendor_id=vendor, locations=locations, expires_at=1.0)


WHO = {
    "anonymous": Principal.anonymous(exact=False),
    "dev": Principal.anonymous(exact=True),
    "shopper": who(PUBLIC),
    "till": who(PUBLIC, EXACT, vendor="V", locations=L1),
    "staff": who(PUBLIC, EXACT, vendor="V", locations=None),
    "no place": who(PUBLIC, EXACT, vendor="V"),
    "service": who(EXACT, vendor="*", locations=None),
    "stockroom": who(EXACT, vendor="*", locations=L1),
    "no vendor": who(EXACT, PUBLIC, locations=None),
    "nobody": who(),
}

#  principal    topic          none        exact       public
MATRIX = """
   anonymous    product:A      public      -           public
   anonymous    location:L1    public      -           public
   anonymous    vendor:V       -           -           -
   dev          product:A      exact       exact       public
   dev          location:L9    exact       exact       public
   dev          vendor:W       exact       exact       -
   shopper      product:A      public      -           public
   shopper      location:L1    public      -           public
   shopper      vendor:V       -           -           -
   till         product:A      exact/V/L1  exact/V/L1  public
   till         location:L1    exact/V     exact/V     public
   till         location:L2    public      -           public
   till         vendor:V       exact//L1   exact//L1   -
   till         vendor:W       -           -           -
   staff        product:A      exact/V     exact/V     public
   staff        location:L9    exact/V     exact/V     public
   staff        vendor:V       exact       exact       -
   staff        vendor:W       -           -           -
   no+place     product:A      exact/V/0   exact/V/0   public
   no+place     location:L1    public      -           public
   no+place     vendor:V       exact//0    exact//0    -
   service      product:A      exact       exact       -
   service      location:L1    exact       exact       -
   service      vendor:W       exact       exact       -
   stockroom    product:A      exact//L1   exact//L1   -
   stockroom    location:L1    exact       exact       -
   stockroom    location:L2    -           -           -
   stockroom    vendor:W       exact//L1   exact//L1   -
   no+vendor    product:A      public      -           public
   no+vendor    location:L1    public      -           public
   no+vendor    vendor:V       -           -           -
   nobody       product:A      -           -           -
   nobody       location:L1    -           -           -
   nobody       vendor:V       -           -           -
"""
ROWS = [line.split() for line in MATRIX.splitlines() if line.strip()]
CASES = [
    (row[0].replace("+", " "), row[1], asked, row[n])
    for row in ROWS
    for n, asked in ((2, None), (3, View.EXACT), (4, View.PUBLIC))
]


def answer(principal: Principal, name: str, asked: View | None) -> str:
    topic = parse_topic(name)
    try:
        view = principal.view_for(topic, asked)
    except ProtocolError as error:
        return "-" if (error.code, error.topic) == (ErrorCode.FORBIDDEN, name) else str(error)
    scope = principal.scope_for(topic, view)
    if scope is None:
        return view.value
    places = "" if scope.locations is None else "/" + (",".join(sorted(scope.locations)) or "0")
    return f"{view.value}/{scope.vendor_id or ''}{places}"


@pytest.mark.parametrize(("principal", "topic", "asked", "expected"), CASES)
def test_matrix(principal: str, topic: str, asked: View | None, expected: str) -> None:
    assert answer(WHO[principal], topic, asked) == expected


def test_everybody_is_in_it() -> None:
    assert {row[0].replace("+", " ") for row in ROWS} == WHO.keys()
