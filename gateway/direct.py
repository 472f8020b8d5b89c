import os
from array import array

from gateway.outgoing import Delivery

__all__ = ["DirectDeliveries"]


class DirectDeliveries:
    """Deliveries whose sockets a frame is written to with nothing looked at before: nothing else is to be
    sent there first.

    Their descriptors lie side by side. With many clients the processor's cache holds neither deliveries nor
    sending halves, and to touch them makes each write dearer (`python -m load delivery`); these four bytes
    it has.
    A delivery is here no longer than its sending half knows (Outgoing.place), which takes it out before
    anything else is put on the socket's way and before the descriptor can be another connection's.
    """

    __slots__ = ("_deliveries", "_descriptors")

    def __init__(self) -> None:
        self._descriptors = array("i")
        self._deliveries: list[Delivery] = []

    def __len__(self) -> int:
        return len(self._deliveries)

    @property
    def deliveries(self) -> list[Delivery]:
        return [*self._deliveries]

    def add(self, delivery: Delivery) -> None:
        """Its sending half is direct. No two are of the same one: a connection follows a topic once."""
        self._descriptors.append(delivery.outgoing.place(delivery))
        delivery.place = len(self._deliveries)
        self._deliveries.append(delivery)

    def discard(self, delivery: Delivery) -> bool:
        """Whether it was here; in constant time, the last one takes its place."""
        place = delivery.place
        if not 0 <= place < len(self._deliveries) or self._deliveries[place] is not delivery:
            return False
        last, descriptor = self._deliveries.pop(), self._descriptors.pop()
        if last is not delivery:
            last.place = place
            self._deliveries[place], self._descriptors[place] = last, descriptor
        delivery.place = -1
        delivery.outgoing.displace(delivery)
        return True

    def write(self, frame: bytes) -> list[tuple[Delivery, int]]:
        """One system call each. Returns whose sockets did not take all of it, and how many bytes they took:
        the rest has to follow before anything else is written (Outgoing.fall_back)."""
        write, size = os.write, len(frame)
        short = []
        for place, descriptor in enumerate(self._descriptors):
            try:
                sent = write(descriptor, frame)
            except OSError:  # full; or broken: the transport will meet the same error, and tell
                sent = 0
            if sent != size:
                short.append((self._deliveries[place], sent))
        return short
