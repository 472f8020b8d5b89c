import pytest

from listeners.wakeup import WakePolicy, WakeState, xmax, xmin

OLD, YOUNG = 100, 200  # xids below and above the barrier of the tests


class Relay:
    """Drives a policy as a relay would, by a clock of its own."""

    def __init__(self, *, notify: bool = True) -> None:
        self.policy = WakePolicy(poll_s=0.01, notify=notify)
        self.now = 1000.0

    def read(self, *, found: bool = False, oldest: int = OLD, took_s: float = 0.1) -> WakeState:
        self.policy.read(self.now, found=found, oldest=oldest, took_s=took_s)
        return self.policy.state

    def reads(self, count: int, every_s: float, *, found: bool) -> WakeState:
        for _ in range(count):
            self.now += every_s
            self.read(found=found)
        return self.policy.state

    def fall_asleep(self) -> None:
        self.policy.told(barrier=150)
        self.read(oldest=YOUNG)
        assert self.policy.state is WakeState.ASLEEP

    @property
    def interval_s(self) -> float:
        return self.policy.interval_s(self.now)


class TestFallingAsleep:
    def test_it_begins_drowsy_and_polls_until_every_writer_knows(self) -> None:
        relay = Relay()
        assert relay.policy.wants_asleep
        assert relay.interval_s == 0.01
        assert relay.read(oldest=YOUNG) is WakeState.DROWSY, "the writers have not been told yet"
        relay.policy.told(barrier=150)
        assert relay.read(oldest=149) is WakeState.DROWSY
        assert relay.read(oldest=150) is WakeState.ASLEEP

    def test_asleep_it_waits_with_a_slow_poll_behind(self) -> None:
        relay = Relay()
        relay.fall_asleep()
        assert relay.interval_s == 0.5
        assert relay.policy.listens


class TestWakingUp:
    def test_more_than_twenty_wake_ups_a_second_make_it_busy(self) -> None:
        relay = Relay()
        relay.fall_asleep()
        assert relay.reads(20, 0.04, found=True) is WakeState.BUSY
        assert not relay.policy.wants_asleep
        assert not relay.policy.listens
        assert relay.interval_s == 0.01

    def test_fewer_do_not(self) -> None:
        relay = Relay()
        relay.fall_asleep()
        assert relay.reads(100, 0.06, found=True) is WakeState.ASLEEP

    def test_reads_that_found_only_the_canary_do_not(self) -> None:
        relay = Relay()
        relay.fall_asleep()
        assert relay.reads(100, 0.01, found=False) is WakeState.ASLEEP

    def test_also_while_it_is_drowsy(self) -> None:
        assert Relay().reads(20, 0.04, found=True) is WakeState.BUSY


class TestBusy:
    def busy(self) -> Relay:
        relay = Relay()
        while relay.reads(1, 0.04, found=True) is not WakeState.BUSY:
            pass
        relay.policy.told(barrier=150)
        return relay

    def test_it_stays_so_for_a_second_whatever_comes(self) -> None:
        relay = self.busy()
        assert relay.reads(9, 0.1, found=False) is WakeState.BUSY

    def test_it_stays_so_while_more_than_half_of_that_comes(self) -> None:
        relay = self.busy()
        assert relay.reads(100, 0.08, found=True) is WakeState.BUSY

    def test_it_lies_down_when_less_comes_and_tells_the_writers_first(self) -> None:
        relay = self.busy()
        assert relay.reads(150, 0.01, found=False) is WakeState.DROWSY
        assert relay.policy.wants_asleep
        assert relay.read(oldest=YOUNG) is WakeState.DROWSY, "the barrier of the last time does not count"
        relay.fall_asleep()

    @pytest.mark.parametrize(
        ("took_s", "interval_s"), [(0.0, 0.0025), (0.001, 0.003), (0.002, 0.006), (0.004, 0.01), (2.0, 0.01)]
    )
    def test_after_a_find_it_reads_again_sooner_if_that_takes_a_third_of_the_time_at_most(
        self, took_s: float, interval_s: float
    ) -> None:
        relay = self.busy()
        relay.read(found=True, took_s=took_s)
        assert relay.interval_s == pytest.approx(interval_s)

    def test_after_a_read_that_found_nothing_it_waits_all_of_the_time(self) -> None:
        relay = self.busy()
        relay.read(found=True, took_s=0.0)
        relay.read(found=False, took_s=0.0)
        assert relay.interval_s == 0.01


class TestWithoutNotifications:
    def test_it_never_sleeps(self) -> None:
        relay = Relay(notify=False)
        assert relay.reads(200, 0.01, found=False) is WakeState.POLLING
        assert not relay.policy.wants_asleep
        assert not relay.policy.listens

    def test_it_polls_fast_for_a_second_after_a_change_and_slower_else(self) -> None:
        relay = Relay(notify=False)
        assert relay.interval_s == 0.05
        relay.read(found=True)
        relay.now += 0.9
        assert relay.interval_s == 0.01
        relay.now += 0.2
        assert relay.interval_s == 0.05


def test_the_slow_poll_is_never_faster_than_the_fast_one() -> None:
    policy = WakePolicy(poll_s=2.0, notify=True)
    policy.told(barrier=0)
    policy.read(0.0, found=False, oldest=1, took_s=0.0)
    assert policy.interval_s(0.0) == 2.0


def test_a_snapshot_as_text() -> None:
    assert (xmin("740:752:740,749"), xmax("740:752:740,749")) == (740, 752)
    assert (xmin("9:9:"), xmax("9:9:")) == (9, 9)
