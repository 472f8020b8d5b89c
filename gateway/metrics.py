"""What a replica tells Prometheus.

Hot paths keep plain integers, here or in the `statistics()` of the object they belong to; a collector turns
them into samples at scrape time. Only durations are histograms that are observed live.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from gateway.auth.errors import Reason
from gateway.auth.signatures import SignatureReason
from gateway.rates import RateKind

__all__ = ["CONTENT_TYPE", "Description", "GatewayMetrics", "Readings"]

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

# One value, or a value for each value of the metric's label.
Readings = Mapping[str, float | Mapping[str, float]]


Kind = Literal["counter", "gauge"]
# The fields of a Description, from packages that can not import it.
Row = tuple[str, Kind, str, str, tuple[str, ...]]


class Description(NamedTuple):
    """A metric whose value is read at scrape time. `values` is the closed set its label may take."""

    name: str
    kind: Kind
    help: str
    label: str = ""
    values: tuple[str, ...] = ()

    def family(self, reading: float | Mapping[str, float]) -> Metric:
        """The samples of one reading. A label value outside the closed set is counted as `other`."""
        labels = [self.label] if self.label else []
        family = (
            CounterMetricFamily(self.name, self.help, labels=labels)
            if self.kind == "counter"
            else GaugeMetricFamily(self.name, self.help, labels=labels)
        )
        if not isinstance(reading, Mapping):
            family.add_metric([], reading)
            return family
        totals = dict.fromkeys(self.values, 0.0)
        for value, number in reading.items():
            name = value if value in totals else "other"
            totals[name] = totals.get(name, 0.0) + number
        for value, number in totals.items():
            family.add_metric([value], number)
        return family


SENT_TYPES: Final = [
    "welcome",
    "authenticated",
    "snapshot",
    "resumed",
    "delta",
    "heartbeat",
    "stale",
    "fresh",
    "unsubscribed",
    "auth_expiring",
    "reconnect",
    "error",
    "pong",
    "published",
]
RECEIVED_TYPES: Final = ["auth", "subscribe", "unsubscribe", "ping", "publish"]

_DESCRIPTIONS: Final = (
    Description(
        "gateway_connections", "gauge", "Open client connections: what memory and fan-out scale with."
    ),
    Description(
        "gateway_connections_opened", "counter", "Connections accepted: a reconnect storm shows as its rate."
    ),
    Description(
        "gateway_connections_refused",
        "counter",
        "Handshakes refused, by the limit that refused them: a limit too low, or an abuser.",
        "reason",
        ("connections", "address", "handshake_rate", "draining", "origin", "unauthenticated", "principal"),
    ),
    Description(
        "gateway_half_open_connections",
        "gauge",
        "Connections whose request has not come yet: many are an attack, or a network that loses much.",
    ),
    Description(
        "gateway_idle_http_connections", "gauge", "Connections kept open after an HTTP answer, for another."
    ),
    Description(
        "gateway_connections_dropped",
        "counter",
        "Connections given up before they were WebSockets: no request in time, or too many of a kind.",
        "reason",
        ("no_request", "half_open", "idle"),
    ),
    Description(
        "gateway_forwarded_ignored",
        "counter",
        "Requests whose Forwarded or X-Forwarded-For was garbage, or the two differed: configure the proxy.",
    ),
    Description(
        "gateway_proxy_headers_refused",
        "counter",
        "Connections of trusted proxies that did not begin with a PROXY header of version 2.",
    ),
    Description("gateway_authenticated_connections", "gauge", "Connections whose credentials end some time."),
    Description(
        "gateway_unauthenticated_connections",
        "gauge",
        "Connections that need credentials and have sent none yet: many of them are an attack.",
    ),
    Description("gateway_tokens_accepted", "counter", "Tokens that were good: logins and renewals."),
    Description(
        "gateway_tokens_refused",
        "counter",
        "Tokens that were not, by the first thing wrong: a client to fix, a key missing, an attack.",
        "reason",
        tuple(reason.value for reason in Reason),
    ),
    Description("gateway_signatures_accepted", "counter", "Requests of services with a good signature."),
    Description(
        "gateway_signatures_refused",
        "counter",
        "Signed requests that were not served, by the first thing wrong: a clock, a key missing, an attack.",
        "reason",
        tuple(reason.value for reason in SignatureReason),
    ),
    Description(
        "gateway_service_keys",
        "gauge",
        "Keys of services in use: replicas that differ have read other files.",
    ),
    Description(
        "gateway_service_key_reads",
        "counter",
        "Times the file with service keys was another; failure: it is wrong, and the old keys stay.",
        "result",
        ("success", "failure"),
    ),
    Description("gateway_revocations", "gauge", "Revoked tokens and subjects that this replica turns away."),
    Description(
        "gateway_key_set_age_seconds",
        "gauge",
        "Age of the provider's keys: above GATEWAY_JWKS_REFRESH_S it can not be reached, and old keys serve.",
    ),
    Description(
        "gateway_key_set_fetches",
        "counter",
        "Reads of the provider's keys, by result.",
        "result",
        ("success", "failure"),
    ),
    Description(
        "gateway_certificate_seconds_left",
        "gauge",
        "Until the certificate of GATEWAY_TLS_CERTIFICATE expires: below 0 clients are turned away by it.",
    ),
    Description(
        "gateway_certificate_reloads",
        "counter",
        "Certificates read again on SIGHUP, by result; after a failure the old one serves on.",
        "result",
        ("success", "failure"),
    ),
    Description(
        "gateway_rate_passed", "counter", "What rate limits have let pass, by limit.", "kind", tuple(RateKind)
    ),
    Description(
        "gateway_rate_refused",
        "counter",
        "What rate limits have refused, by limit: an abuser, or a limit too low.",
        "kind",
        tuple(RateKind),
    ),
    Description(
        "gateway_rate_unshared",
        "counter",
        "What this process has decided alone, because Redis did not answer in time.",
        "kind",
        tuple(RateKind),
    ),
    Description(
        "gateway_rate_limits_alone",
        "gauge",
        "1 while Redis does not answer about rate limits: they hold for each process, not for all together.",
    ),
    Description(
        "gateway_subscriptions", "gauge", "Topics held by all clients together, shared ones counted each."
    ),
    Description(
        "gateway_topics", "gauge", "Different topics this replica follows: its share of Redis traffic."
    ),
    Description(
        "gateway_messages_sent",
        "counter",
        "Messages handed to sockets, by type: mostly snapshots means clients do not resume.",
        "type",
        tuple(SENT_TYPES),
    ),
    Description(
        "gateway_sent_bytes",
        "counter",
        "Bytes handed to sockets, frame headers included, by type: what the network bill is made of.",
        "type",
        tuple(SENT_TYPES),
    ),
    Description(
        "gateway_messages_received",
        "counter",
        "Messages from clients, by type; `other` did not parse: a client that should be fixed.",
        "type",
        tuple(RECEIVED_TYPES),
    ),
    Description(
        "gateway_conflated_items",
        "counter",
        "Item versions a congested client never saw because a newer one replaced them: readers too slow.",
    ),
    Description(
        "gateway_slow_disconnects", "counter", "Connections closed because the client stopped reading (1013)."
    ),
    Description(
        "gateway_gaps",
        "counter",
        "Holes seen in a topic's sequence: messages the bus has lost; repairs follow.",
    ),
    Description(
        "gateway_repairs",
        "counter",
        "Topics brought up to date after a gap, from the log (cheap) or by a new snapshot (dear).",
        "by",
        ("log", "snapshot"),
    ),
    Description(
        "gateway_snapshot_requests",
        "counter",
        "Snapshots asked for, by whether an encoded one could be shared: misses cost a read and an encoding.",
        "result",
        ("hit", "miss"),
    ),
    Description(
        "gateway_stale", "gauge", "1 while clients are told `stale`: the way from Postgres is not proven."
    ),
    Description(
        "gateway_doubted_connections",
        "gauge",
        "Connections told `stale` alone: a topic of theirs can not be loaded or repaired; the log says why.",
    ),
    Description(
        "gateway_cut_off",
        "gauge",
        "1 while this replica, and not all of them, is cut off from a server: /readyz turns clients away.",
        "server",
        ("redis", "postgres"),
    ),
)

_MS: Final = 0.001
_LATENCY: Final = tuple(
    n * _MS for n in (1, 2, 5, 10, 20, 30, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)
)
_CPU: Final = tuple(n * _MS for n in (0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100))
_ROUND_TRIP: Final = tuple(n * _MS for n in (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000, 2500))


class GatewayMetrics:
    """One per process, with a registry of its own.

    The counters are plain attributes, for the loop's thread: `metrics.gaps += 1`. Durations are seconds.
    """

    def __init__(self, *, descriptions: Iterable[Row] = ()) -> None:
        """`descriptions` are those of the readings that other packages bring (listeners.metrics)."""
        self.registry = CollectorRegistry()
        self.frames_sent = dict.fromkeys(SENT_TYPES, 0)
        self.bytes_sent = dict.fromkeys(SENT_TYPES, 0)
        self.messages_received = dict.fromkeys(RECEIVED_TYPES, 0)
        self.conflated = 0
        self.slow_disconnects = 0
        self.gaps = 0
        self.log_repairs = 0
        self.snapshot_repairs = 0
        self.snapshot_hits = 0
        self.snapshot_misses = 0
        self._descriptions = {
            d.name: d for d in (*_DESCRIPTIONS, *(Description(*row) for row in descriptions))
        }
        self._readers: list[Callable[[], Readings]] = [self._own_readings]
        self.commit_to_send = self._histogram(
            "gateway_commit_to_send_seconds",
            "From the writer's trigger to the socket, by both machines' clocks: the promise to users.",
            _LATENCY,
        )
        self.encode = self._histogram(
            "gateway_encode_seconds",
            "Encoding one frame for everybody who gets it: the cost per topic.",
            _CPU,
        )
        self.fan_out = self._histogram(
            "gateway_fan_out_seconds",
            "Handing one frame to all its subscribers: the loop is busy so long.",
            _CPU,
        )
        self.snapshot_load = self._histogram(
            "gateway_snapshot_load_seconds",
            "Reading and encoding a snapshot that could not be shared.",
            _LATENCY,
        )
        self.loop_lag = self._histogram(
            "gateway_event_loop_lag_seconds",
            "How late the event loop wakes: above the latency you promise, this process needs less work.",
            _LATENCY,
        )
        self.postgres_round_trip = self._histogram(
            "gateway_postgres_round_trip_seconds",
            "A `SELECT 1` through the pool, waiting included.",
            _ROUND_TRIP,
        )
        self.redis_round_trip = self._histogram(
            "gateway_redis_round_trip_seconds", "A PING through the store's connections.", _ROUND_TRIP
        )
        self.registry.register(_ReadingsCollector(self._descriptions, self._readers))
        ProcessCollector(registry=self.registry)

    def sent(self, message_type: str, frames: int, size: int) -> None:
        """`frames` messages of one type were handed to sockets, `size` bytes together."""
        self.frames_sent[message_type] += frames
        self.bytes_sent[message_type] += size

    def received(self, message_type: str) -> None:
        """One message from a client; a type that is none of ours counts as `other`."""
        known = message_type if message_type in RECEIVED_TYPES else "other"
        self.messages_received[known] = self.messages_received.get(known, 0) + 1

    def watch(self, read: Callable[[], Readings]) -> None:
        """`read` is called at every scrape, on the scraper's thread; its names must be described ones."""
        self._readers.append(read)

    def build_info(self, version: str) -> None:
        """Exports the running version, so that a graph can be laid beside a release."""
        info = Gauge("gateway_build_info", "The running version.", ["version"], registry=self.registry)
        info.labels(version).set(1)

    def render(self) -> bytes:
        """The exposition in Prometheus' text format, CONTENT_TYPE."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, documentation, buckets=buckets, registry=self.registry)

    def _own_readings(self) -> Readings:
        return {
            "gateway_messages_sent": self.frames_sent,
            "gateway_sent_bytes": self.bytes_sent,
            "gateway_messages_received": self.messages_received,
            "gateway_conflated_items": self.conflated,
            "gateway_slow_disconnects": self.slow_disconnects,
            "gateway_gaps": self.gaps,
            "gateway_repairs": {"log": self.log_repairs, "snapshot": self.snapshot_repairs},
            "gateway_snapshot_requests": {"hit": self.snapshot_hits, "miss": self.snapshot_misses},
        }


class _ReadingsCollector:
    def __init__(
        self, descriptions: Mapping[str, Description], readers: list[Callable[[], Readings]]
    ) -> None:
        self._descriptions = descriptions
        self._readers = readers

    def describe(self) -> Iterable[Metric]:
        return []  # the names are known only once every reader is there

    def collect(self) -> Iterable[Metric]:
        for read in self._readers:
            for name, reading in read().items():
                yield self._descriptions[name].family(reading)
