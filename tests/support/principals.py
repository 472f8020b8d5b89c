"""Principals of every kind."""

from protocol.principal import EVERY, Permission, Principal

__all__ = ["seeing"]


def seeing(name: str, *, exact: bool, public: bool) -> Principal:
    """One that may see everything there is in these views."""
    permissions = {Permission.READ_EXACT: exact, Permission.READ_PUBLIC: public}
    return Principal(
        name, frozenset(p for p, may in permissions.items() if may), vendor_id=EVERY, locations=None
    )
