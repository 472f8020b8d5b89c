import pytest

from gateway.redact import redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://shop:s3cret@db:5432/shop", "postgresql://shop:***@db:5432/shop"),
        ("postgresql://shop:p@ss/w:rd@db/shop", "postgresql://shop:***@db/shop"),
        ("redis://:s3cret@cache:6379/0", "redis://:***@cache:6379/0"),
        (
            "no way to rediss://u:s3cret@h: refused",
            "no way to rediss://u:***@h: refused",
        ),
        ("postgresql://db/shop?user=u&password=s3cret&x=1", "postgresql://db/shop?user=u&password=***&x=1"),
        ("host=db password=s3cret", "host=db password=***"),
        ("inventory.v1, bearer.czNjcmV0LXRva2Vu", "inventory.v1, bearer.***"),
        ("Authorization: Bearer eyJhbGciOi.J9.x-y_z", "Authorization: Bearer ***"),
        ("tills:whsec_MfKQ9r8G+qrT/w==,tills:vendor=V", "tills:whsec_***,tills:vendor=V"),
    ],
)
def test_secrets_are_taken_out(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "postgresql://shop@db:5432/shop",
        "redis://cache:6379/0",
        "listening on http://127.0.0.1:8080",
        "a bearer of news",
        "product:A and location:L1",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert redact(text) == text
