"""Settings of how clients come in, and what is made of them."""

from ipaddress import ip_network
from typing import Final, Literal

from pydantic import BaseModel

from gateway.addresses import Networks
from gateway.arrivals import EdgeSettings
from gateway.errors import SettingsError
from gateway.setting_types import NetworkList, limit, setting

__all__ = ["ConnectionSettings", "edge_settings", "spared_addresses"]

_LOOPBACK: Final = Networks((ip_network("127.0.0.0/8"), ip_network("::1/128")))
_OF_ADDRESSES: Final = frozenset({"max_connections_per_address", "handshakes_per_address_per_s"})


class ConnectionSettings(BaseModel):
    """gateway.config.Settings is made of them, among others."""

    trusted_proxies: NetworkList = setting(
        (),
        "Networks of the proxies in front of us, separated by commas: what they say in `Forwarded`, "
        "`X-Forwarded-For` or a PROXY header about a client's address is believed. Empty: nobody's word is.",
        "networks like 10.0.0.0/8 or 2001:db8::/32, separated by commas,",
    )
    proxy_protocol: Literal["off", "v2"] = setting(
        "off",
        "v2: connections from GATEWAY_TRUSTED_PROXIES begin with a PROXY header of version 2.",
        "off or v2",
    )
    max_connections_per_principal: int = limit(
        5000, "Client connections of one subject with credentials, of one process.", "connections"
    )
    max_half_open: int = limit(
        5000,
        "Connections of one process whose first request has not come yet; beyond, the oldest is dropped.",
        "connections",
    )
    max_idle_http: int = limit(
        2000,
        "HTTP connections of one process kept open for another request; beyond, the oldest is closed.",
        "connections",
    )


def edge_settings(settings: ConnectionSettings) -> EdgeSettings:
    """Raises SettingsError where two of them contradict each other."""
    if settings.proxy_protocol != "off" and not settings.trusted_proxies:
        raise SettingsError(
            f"GATEWAY_PROXY_PROTOCOL={settings.proxy_protocol!r}: GATEWAY_TRUSTED_PROXIES is needed, "
            "or off: nobody's header would be believed"
        )
    return EdgeSettings(
        proxies=Networks(settings.trusted_proxies),
        proxy_protocol=settings.proxy_protocol == "v2",
        max_half_open=settings.max_half_open,
        max_idle=settings.max_idle_http,
    )


def spared_addresses(settings: BaseModel) -> Networks:
    """Those that the limits of addresses do not hold for: loopback, as long as they are the defaults.

    There, one address is a proxy on the same host that nobody has told us of, or somebody's trial.
    """
    return Networks(()) if settings.model_fields_set & _OF_ADDRESSES else _LOOPBACK
