"""The registry: every scenario of `python -m load`, in the order in which they are run."""

from collections.abc import Sequence
from typing import Final

from load.scenario import Scenario
from load.scenarios.churn import CHURN
from load.scenarios.connections import CONNECTIONS
from load.scenarios.delivery import DELIVERY
from load.scenarios.fanout import FANOUT
from load.scenarios.flood import FLOOD
from load.scenarios.hot_location import HOT_LOCATION
from load.scenarios.idle_latency import IDLE_LATENCY
from load.scenarios.ingest import INGEST
from load.scenarios.latency_topics import LATENCY_TOPICS
from load.scenarios.many_topics import MANY_TOPICS
from load.scenarios.mix import MIX
from load.scenarios.peers import PEERS_SCENARIO
from load.scenarios.reconnect_storm import RECONNECT_STORM
from load.scenarios.shop_side import SHOP_SIDE
from load.scenarios.snapshots import SNAPSHOTS
from load.scenarios.views import VIEWS

__all__ = ["SCENARIOS"]

SCENARIOS: Final[Sequence[Scenario]] = (
    IDLE_LATENCY,
    PEERS_SCENARIO,
    FANOUT,
    DELIVERY,
    CONNECTIONS,
    VIEWS,
    MANY_TOPICS,
    LATENCY_TOPICS,
    HOT_LOCATION,
    INGEST,
    SNAPSHOTS,
    RECONNECT_STORM,
    CHURN,
    FLOOD,
    MIX,
    SHOP_SIDE,
)
