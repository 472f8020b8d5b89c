"""The registry: every scenario of `python -m load`, in the order in which they are run."""

from collections.abc import Sequence
from typing import Final

from load.scenario import Scenario
from load.scenarios.connections import CONNECTIONS
from load.scenarios.fanout import FANOUT
from load.scenarios.idle_latency import IDLE_LATENCY
from load.scenarios.peers import PEERS_SCENARIO
from load.scenarios.shop_side import SHOP_SIDE

__all__ = ["SCENARIOS"]

SCENARIOS: Final[Sequence[Scenario]] = (IDLE_LATENCY, FANOUT, PEERS_SCENARIO, CONNECTIONS, SHOP_SIDE)
