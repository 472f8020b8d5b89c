"""The registry: other servers that can be measured beside the gateway, each if it is installed."""

from collections.abc import Sequence
from typing import Final

from load.peers.bun import Bun
from load.peers.centrifugo import Centrifugo
from load.peers.nats import Nats
from load.peers.nchan import Nchan
from load.peers.peer import Peer
from load.peers.picows import Picows
from load.peers.transports import Transports
from load.peers.uvicorn import Uvicorn
from load.peers.websockets import Websockets

__all__ = ["PEERS"]

PEERS: Final[Sequence[Peer]] = (
    Transports("uvloop"),
    Transports("aiofastnet"),
    Bun(),
    Nchan(),
    Picows("aiofastnet"),
    Picows("uvloop"),
    Websockets(),
    Uvicorn("websockets-sansio"),
    Uvicorn("websockets"),
    Uvicorn("wsproto"),
    Nats(),
    Centrifugo(),
)
