from typing import Any, Final

__all__ = ["page_settings"]

FEATURED: Final = 12
PLACES: Final = 100


async def page_settings(connection: Any) -> dict[str, Any]:
    """What the page wants to know of a shop: its `/page.json`, as gateway/static/settings.js describes it."""
    featured = await connection.fetch(
        "SELECT product_id FROM public.products WHERE status = 'published' ORDER BY product_id LIMIT $1",
        FEATURED,
    )
    locations = await connection.fetch(
        "SELECT location_id, name FROM public.locations WHERE active "
        "ORDER BY length(location_id), location_id LIMIT $1",
        PLACES,
    )
    return {
        "featured": [row["product_id"] for row in featured],
        "locations": [{"id": row["location_id"], "name": row["name"]} for row in locations],
    }
