from protocol.envelope import Beat

__all__ = ["Beacons"]


class Beacons:
    """Makes one beat of those that come on several beacons, each from a node of its own.

    A beat says that whatever was committed before has arrived. Of a cluster that is true once every bucket's
    beacon has brought it: what comes first may come from the one node that is quick, or alive.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._heard: dict[bytes, Beat] = {}
        self._last: Beat | None = None

    def forget(self) -> None:
        """The links are new: what the old ones brought proves nothing about them."""
        self._heard.clear()
        self._last = None

    def hear(self, beacon: bytes, beat: Beat) -> Beat | None:
        """The latest beat that all beacons have brought, if it is another one than before."""
        self._heard[beacon] = beat
        if len(self._heard) < self._count or len({one.generation for one in self._heard.values()}) > 1:
            return None
        slowest = min(self._heard.values(), key=lambda one: one.number)
        if slowest == self._last:
            return None
        self._last = slowest
        return slowest
