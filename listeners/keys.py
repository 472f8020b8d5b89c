"""The names of everything in Redis.

`gw:1:{b3}:t:location:L1`: prefix, schema version, hash tag of the topic's bucket, what it is, whose it is.
The hash tag keeps a bucket on one node of a cluster, so that one script call serves many topics of it.

What a key costs in bytes (Valkey 9, 64-bit), and when it expires:

    t  topic     hash    ~250, and ~80 an item beside its body   after ttl_s, unless a replica watches it
    l  log       list    ~100, at most log_bytes                 with its topic
    r  relay     hash    ~200 a bucket                           after a day without a relay
    i  loaded    zset    ~150 a loaded topic                     after a day without a relay
    p  position  string  ~100, one in all                        after 30 days without a relay
    k  ticket    string  ~400                                    after half a minute, or when it is used
    v  revoked   stream  ~100 a revocation                       each some time after its token has ended
    q  rate      string  ~130                                    when its limit is whole again

Channels (`c`, `b`) cost nothing without subscribers, and about 150 bytes for each subscribed replica.
"""

from typing import Final
from zlib import crc32

__all__ = ["BUCKETS", "SCHEMA_VERSION", "Keys", "bucket_of", "hash_tag"]

BUCKETS: Final = 16
SCHEMA_VERSION: Final = 1


def bucket_of(topic: str) -> int:
    return crc32(topic.encode()) % BUCKETS


def hash_tag(bucket: int) -> str:
    """What decides on which node of a cluster the bucket is (Redis cluster specification, "Hash tags")."""
    return f"{{b{bucket}}}"


class Keys:
    def __init__(self, prefix: str = "gw") -> None:
        """Raises ValueError for a prefix with braces (they would move the hash tag) or white space."""
        if not prefix or any(sign in "{}" or sign.isspace() for sign in prefix):
            raise ValueError(f"a key prefix has no braces and no white space, and is not empty: {prefix!r}")
        self.prefix = prefix
        self._buckets = tuple(f"{prefix}:{SCHEMA_VERSION}:{hash_tag(bucket)}:" for bucket in range(BUCKETS))

    def topic(self, name: str) -> str:
        return f"{self._buckets[bucket_of(name)]}t:{name}"

    def log(self, name: str) -> str:
        return f"{self._buckets[bucket_of(name)]}l:{name}"

    def channel(self, name: str) -> str:
        return f"{self._buckets[bucket_of(name)]}c:{name}"

    def relay(self, bucket: int) -> str:
        return f"{self._buckets[bucket]}r"

    def loaded(self, bucket: int) -> str:
        return f"{self._buckets[bucket]}i"

    def beacon(self, bucket: int) -> str:
        return f"{self._buckets[bucket]}b"

    def bucket_in(self, key: str) -> int:
        """Of a key or channel of ours."""
        return int(key[len(self.prefix) :].partition("{b")[2].partition("}")[0])

    def position(self) -> str:
        """Of the highest counter that any relay has reached."""
        return f"{self._buckets[0]}p"

    def ticket(self, digest: str) -> str:
        """Of a ticket, named by its hash: who can read Redis can not use it."""
        return f"{self._buckets[bucket_of(digest)]}k:{digest}"

    def revocations(self) -> str:
        return f"{self._buckets[0]}v"

    def rate(self, kind: str, who: str) -> str:
        """Of what one, named by a hash, has used of a limit."""
        return f"{self._buckets[bucket_of(who)]}q:{kind}:{who}"

    def beacons(self, cluster: bool) -> tuple[str, ...]:
        """The channels of canaries and generations: one per bucket in a cluster, where each has its node."""
        return tuple(self.beacon(bucket) for bucket in range(BUCKETS if cluster else 1))
