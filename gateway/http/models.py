"""The bodies of the HTTP answers, for the OpenAPI document and for the tests; the hot path splices bytes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from protocol.errors import ErrorCode
from protocol.item_models import Availability, Key, Product, Stock

__all__ = ["PageOfStock", "Problem", "ProductAnswer", "Readiness", "Status", "TicketAnswer"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProductAnswer(_Answer):
    """A product, and what may be seen of its stock."""

    product_id: Key
    view: Literal["exact", "public"]
    product: Product | None = Field(description="null where no source tells of products")
    availability: Availability | None = Field(description="null unless the product is published")
    stock: list[Stock] | None = Field(default=None, description="exact view only: at every location")


class PageOfStock(_Answer):
    """Rows by product and location, in an order that does not change from page to page."""

    location_id: Key | None = Field(default=None, description="of `/v1/locations/...`")
    vendor_id: Key | None = Field(default=None, description="of `/v1/vendors/...`")
    view: Literal["exact", "public"]
    items: list[Annotated[Stock | Availability, Field(discriminator="kind")]] = Field(
        description="stock items in the exact view, availability items in the public one"
    )
    products: list[Product] = Field(description="the products of the rows on this page")
    next_cursor: str | None = Field(description="for the next page; null on the last one")


class TicketAnswer(_Answer):
    """For `/realtime?ticket=...`, once."""

    ticket: str
    expires_in: int = Field(description="seconds")


class Problem(_Answer):
    """RFC 9457."""

    type: Literal["about:blank"]
    title: str
    status: int
    code: ErrorCode | Literal["method_not_allowed", "upgrade_required"]
    detail: str = Field(description="what to do next")
    retry_after_ms: int | None = Field(default=None, description="with 429 and 503")


class Status(_Answer):
    status: Literal["ok"]


class Readiness(_Answer):
    ready: bool
    reasons: list[str] = Field(description="why not, one line each")
