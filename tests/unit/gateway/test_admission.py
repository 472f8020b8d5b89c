from ipaddress import ip_network

import pytest

from gateway.addresses import Networks
from gateway.admission import ConnectionLimits, Refusal


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestConnections:
    def test_no_limits_admit_everybody(self, clock: Clock) -> None:
        limits = ConnectionLimits(clock=clock)
        assert all(limits.admit("10.0.0.1") is None for _ in range(10_000))
        assert limits.statistics() == {"connections": 10_000, "addresses": 1, "remembered": 0}

    def test_the_process_is_full(self, clock: Clock) -> None:
        limits = ConnectionLimits(max_connections=2, clock=clock)
        assert [limits.admit(a) for a in "ab"] == [None, None]
        assert limits.admit("c") == Refusal("connections", 5.0)
        limits.leave("a")
        assert limits.admit("c") is None
        assert limits.refused == {"connections": 1, "address": 0, "handshake_rate": 0}

    def test_an_address_has_enough(self, clock: Clock) -> None:
        limits = ConnectionLimits(per_address=1, clock=clock)
        assert limits.admit("a") is None
        assert limits.admit("a") == Refusal("address", 5.0)
        assert limits.admit("b") is None
        limits.leave("a")
        assert limits.admit("a") is None

    def test_an_address_is_too_fast(self, clock: Clock) -> None:
        limits = ConnectionLimits(handshakes_per_address_per_s=1, clock=clock)
        assert sum(limits.admit("a") is None for _ in range(20)) == 10
        refusal = limits.admit("a")
        assert refusal is not None
        assert refusal.reason == "handshake_rate"
        assert refusal.retry_after_s == pytest.approx(1.0)
        assert limits.admit("b") is None
        clock.now += 1
        assert limits.admit("a") is None

    def test_who_leaves_is_forgotten(self, clock: Clock) -> None:
        limits = ConnectionLimits(clock=clock)
        limits.admit("a")
        limits.admit("a")
        limits.leave("a")
        assert limits.statistics()["addresses"] == 1
        limits.leave("a")
        assert limits.statistics() == {"connections": 0, "addresses": 0, "remembered": 0}

    def test_spared_ones_have_no_limit_of_their_own(self, clock: Clock) -> None:
        spared = Networks((ip_network("127.0.0.0/8"),))
        limits = ConnectionLimits(
            max_connections=40, per_address=1, handshakes_per_address_per_s=1, spared=spared, clock=clock
        )
        assert [limits.admit("127.0.0.1") for _ in range(39)] == [None] * 39
        assert limits.admit("10.0.0.1") is None
        refusal = limits.admit("127.0.0.1")
        assert refusal is not None
        assert refusal.reason == "connections"


class TestWords:
    def test_a_few_refusals_of_an_address_are_told_in_words(self, clock: Clock) -> None:
        limits = ConnectionLimits(per_address=1, clock=clock)
        limits.admit("a")
        told = [refusal.told for _ in range(100) if (refusal := limits.admit("a")) is not None]
        assert told == [True] * 20 + [False] * 80
        clock.now += 1
        told = [refusal.told for _ in range(3) if (refusal := limits.admit("a")) is not None]
        assert told == [True, True, False]

    def test_and_a_few_of_all_together(self, clock: Clock) -> None:
        limits = ConnectionLimits(max_connections=1, clock=clock)
        limits.admit("a")
        refusals = [limits.admit(f"10.0.{n >> 8}.{n & 255}") for n in range(1000)]
        assert sum(refusal is not None and refusal.told for refusal in refusals) == 500


class TestSharedLimit:
    def test_other_processes_have_seen_too_much_of_it(self, clock: Clock) -> None:
        asked: list[str] = []

        def shared(network: str) -> float:
            asked.append(network)
            return 7.0 if network == "2001:db8::/64" else 0.0

        limits = ConnectionLimits(handshakes_per_address_per_s=1, shared=shared, clock=clock)
        assert limits.admit("2001:db8::1") == Refusal("handshake_rate", 7.0)
        assert all(limits.admit("a") is None for _ in range(10))
        refusal = limits.admit("a")
        assert refusal is not None
        assert refusal.reason == "handshake_rate"
        assert asked == ["2001:db8::/64", *["a"] * 10]  # what this process refuses is not asked


class TestIpv6:
    def test_a_network_counts_as_one_address(self, clock: Clock) -> None:
        limits = ConnectionLimits(per_address=2, clock=clock)
        assert limits.admit("2001:db8:0:1::1") is None
        assert limits.admit("2001:db8:0:1::2") is None
        assert limits.admit("2001:db8:0:1:ffff::3") == Refusal("address", 5.0)
        assert limits.admit("2001:db8:0:2::1") is None
        limits.leave("2001:db8:0:1::1")
        assert limits.admit("2001:db8:0:1::3") is None


class TestBoundedMemory:
    def test_quiet_addresses_are_forgotten(self, clock: Clock) -> None:
        limits = ConnectionLimits(handshakes_per_address_per_s=1, clock=clock)
        for number in range(5000):
            limits.admit(f"10.0.{number >> 8}.{number & 255}")
            limits.leave(f"10.0.{number >> 8}.{number & 255}")
            clock.now += 1.1
        assert limits.statistics()["remembered"] <= 2

    def test_a_flood_of_addresses_does_not_grow_the_table(self, clock: Clock) -> None:
        limits = ConnectionLimits(handshakes_per_address_per_s=1, max_addresses=100, clock=clock)
        for number in range(5000):
            limits.admit(f"10.0.{number >> 8}.{number & 255}")
        assert limits.statistics()["remembered"] == 100
