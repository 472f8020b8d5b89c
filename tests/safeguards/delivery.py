"""What keeps the bytes of a delivery in order and with whom they are for: see tests.safeguards."""

from typing import Final

from tests.mutation import Mutation

__all__ = ["DELIVERY_SAFEGUARDS"]

_DIRECT: Final = "tests/unit/gateway/test_direct.py"

DELIVERY_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "a descriptor that was closed is written to by no broadcast",
        "gateway/outgoing.py",
        "        self._leave_direct()\n        self._fd = -1\n",
        "        self.direct = False\n        self._fd = -1\n",
        (f"{_DIRECT}::TestADescriptorOfAnother",),
    ),
    Mutation(
        "no broadcast overtakes what the socket did not take",
        "gateway/outgoing.py",
        "        self._leave_direct()\n        self.transport.write(frame[sent:])\n",
        "        self.direct = False\n        self.transport.write(frame[sent:])\n",
        (
            f"{_DIRECT}::test_nothing_of_another_topic_overtakes_the_rest",
            f"{_DIRECT}::test_no_broadcast_overtakes_what_this_client_alone_is_told",
        ),
    ),
    Mutation(
        "a congested client is not written to directly",
        "gateway/outgoing.py",
        "        self._leave_direct()\n        self.congested = True\n",
        "        self.congested = True\n",
        (f"{_DIRECT}::test_a_congested_client_gets_the_latest_later",),
    ),
    Mutation(
        "who leaves is not written to directly",
        "gateway/fanout.py",
        "        self._direct.discard(delivery)\n        self._indirect.pop(delivery, None)\n",
        "        self._indirect.pop(delivery, None)\n",
        (f"{_DIRECT}::test_a_topic_that_is_void_is_written_to_nobody",),
    ),
    Mutation(
        "whose place another takes keeps its own socket",
        "gateway/direct.py",
        "self._deliveries[place], self._descriptors[place] = last, descriptor",
        "self._deliveries[place] = last",
        (f"{_DIRECT}::test_who_leaves_hears_nothing_more_and_the_others_stay",),
    ),
    Mutation(
        "what a socket took a part of is finished",
        "gateway/direct.py",
        "            if sent != size:\n",
        "            if not sent:\n",
        (f"{_DIRECT}::test_what_a_full_socket_did_not_take_follows", f"{_DIRECT}::test_whatever_happens"),
    ),
)
