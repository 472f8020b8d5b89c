from listeners.beacons import Beacons
from protocol.envelope import Beat


def beat(number: int, generation: str = "g1") -> Beat:
    return Beat(generation, 1000 * number, number)


def test_of_one_beacon_every_beat_counts() -> None:
    beacons = Beacons(1)
    assert [beacons.hear(b"b", beat(n)) for n in (1, 2, 3)] == [beat(1), beat(2), beat(3)]


def test_a_beat_counts_once_the_last_beacon_has_brought_it() -> None:
    beacons = Beacons(3)
    assert beacons.hear(b"b0", beat(1)) is None
    assert beacons.hear(b"b1", beat(1)) is None
    assert beacons.hear(b"b0", beat(2)) is None
    assert beacons.hear(b"b2", beat(1)) == beat(1)
    assert beacons.hear(b"b2", beat(2)) is None
    assert beacons.hear(b"b1", beat(2)) == beat(2)


def test_a_beacon_that_is_silent_holds_all_beats_back() -> None:
    beacons = Beacons(2)
    beacons.hear(b"b0", beat(1))
    beacons.hear(b"b1", beat(1))
    assert [beacons.hear(b"b0", beat(n)) for n in (2, 3, 4)] == [None, None, None]


def test_a_beat_that_was_missed_on_one_beacon_is_made_up_for_by_the_next() -> None:
    beacons = Beacons(2)
    beacons.hear(b"b0", beat(1))
    assert beacons.hear(b"b1", beat(2)) == beat(1)
    assert beacons.hear(b"b0", beat(3)) == beat(2)


def test_generations_are_not_mixed() -> None:
    """The numbers of a restored database begin below those that were heard."""
    beacons = Beacons(2)
    beacons.hear(b"b0", beat(7))
    beacons.hear(b"b1", beat(7))
    assert beacons.hear(b"b0", beat(3, "g2")) is None
    assert beacons.hear(b"b1", beat(3, "g2")) == beat(3, "g2")


def test_new_links_have_to_prove_themselves() -> None:
    beacons = Beacons(2)
    beacons.hear(b"b0", beat(1))
    beacons.forget()
    assert beacons.hear(b"b1", beat(1)) is None
    assert beacons.hear(b"b0", beat(1)) == beat(1)
