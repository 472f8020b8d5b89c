from collections.abc import Collection

__all__ = ["OriginPolicy"]


class OriginPolicy:
    """Which web pages may talk to us (RFC 6454), for the WebSocket handshake and for CORS alike."""

    def __init__(self, allowed: Collection[str]) -> None:
        """`allowed` as in GATEWAY_ALLOWED_ORIGINS: `*` is every one; the gateway's own is always there."""
        self.anybody = "*" in allowed
        self._allowed = frozenset(allowed)

    def allows(self, origin: str | None, host: str | None) -> bool:
        """`origin` and `host` are the headers; no Origin is no browser, and let through.

        The own origin is told by the Host header without the scheme, because TLS often ends before us.
        """
        if origin is None or self.anybody:
            return True
        origin = origin.lower()
        _, _, authority = origin.partition("://")
        return origin in self._allowed or (host is not None and authority == host.lower() != "")
