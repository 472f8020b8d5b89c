import pytest
from redis.crc import key_slot

from listeners.keys import BUCKETS, Keys, bucket_of

TOPICS = [f"{kind}:{n}" for kind in ("product", "location", "vendor") for n in range(200)]


def test_a_bucket_is_the_topic_s_for_ever() -> None:
    """Replicas of different versions share them: crc32 of the name, modulo 16."""
    assert bucket_of("location:L1") == 9
    assert bucket_of("product:A") == 7


def test_topics_spread_over_all_buckets() -> None:
    assert {bucket_of(topic) for topic in TOPICS} == set(range(BUCKETS))


@pytest.mark.parametrize("topic", TOPICS[:50])
def test_everything_of_a_bucket_is_in_one_slot_of_a_cluster(topic: str) -> None:
    keys = Keys("shop")
    bucket = bucket_of(topic)
    names = {
        keys.topic(topic),
        keys.log(topic),
        keys.channel(topic),
        keys.relay(bucket),
        keys.loaded(bucket),
        keys.beacon(bucket),
        keys.rate("rows", topic),
    }
    assert len(names) == 7
    assert len({key_slot(name.encode()) for name in names}) == 1
    assert {keys.bucket_in(name) for name in names} == {bucket}


def test_names_carry_prefix_and_schema_version() -> None:
    assert Keys().topic("location:L1") == "gw:1:{b9}:t:location:L1"
    assert Keys("shop").channel("location:L1") == "shop:1:{b9}:c:location:L1"
    assert Keys().position() == "gw:1:{b0}:p"


def test_beacons() -> None:
    keys = Keys()
    assert keys.beacons(False) == (keys.beacon(0),)
    assert keys.beacons(True) == tuple(keys.beacon(bucket) for bucket in range(BUCKETS))


@pytest.mark.parametrize("prefix", ["", "a{b", "a}", "a b", "a\n"])
def test_a_prefix_that_would_move_keys_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="a key prefix"):
        Keys(prefix)
