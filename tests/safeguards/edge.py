"""What strangers run into before anybody knows them: see tests.safeguards, which takes these in."""

from typing import Final

from tests.mutation import Mutation

__all__ = ["EDGE_SAFEGUARDS"]

_ARRIVALS: Final = "tests/integration/test_arrivals.py"
_FORWARDED: Final = "tests/unit/gateway/test_forwarded.py::TestTheClient"
_PROXY: Final = "tests/unit/gateway/test_proxy_protocol.py"
_ADMISSION: Final = "tests/unit/gateway/test_admission.py"


EDGE_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "only a trusted proxy says who its client is",
        "gateway/arrivals.py",
        "        if address in self.settings.proxies:\n",
        "        if True:\n",
        (f"{_ARRIVALS}::TestWithoutAProxy",),
    ),
    Mutation(
        "what stands left of the client is its own invention",
        "gateway/forwarded.py",
        "        if client not in proxies:\n",
        "        if False:\n",
        (_FORWARDED,),
    ),
    Mutation(
        "a proxy that hides its client stands for it",
        "gateway/forwarded.py",
        "        if hop is None:\n            break\n",
        "        if hop is None:\n            continue\n",
        (_FORWARDED,),
    ),
    Mutation(
        "headers that contradict each other are not believed",
        "gateway/forwarded.py",
        "    if len(found) > 1:\n",
        "    if False:\n",
        (_FORWARDED,),
    ),
    Mutation(
        "only a trusted proxy sends a PROXY header",
        "gateway/accepting.py",
        "            if caller.through_proxy and self._arrivals.settings.proxy_protocol:\n",
        "            if self._arrivals.settings.proxy_protocol:\n",
        (f"{_ARRIVALS}::TestProxyProtocol",),
    ),
    Mutation(
        "a PROXY header is not waited for without end",
        "gateway/proxy_protocol.py",
        "    if size > MAX_HEADER_BYTES:\n",
        "    if False:\n",
        (_PROXY,),
    ),
    Mutation(
        "whom a PROXY header names is counted",
        "gateway/accepting.py",
        "proxy if source is None else self._arrivals.call(source)",
        "Caller(source or proxy.address, through_proxy=False)",
        (f"{_ARRIVALS}::TestProxyProtocol",),
    ),
    Mutation(
        "a flood is not told in words",
        "gateway/accepting.py",
        "        if caller.refusal is None or caller.refusal.told:\n",
        "        if True:\n",
        (f"{_ARRIVALS}::TestRefusedAtAccept",),
    ),
    Mutation(
        "a connection that never asked for anything is counted out",
        "gateway/arrivals.py",
        "        if self._caller.admitted:\n",
        "        if False:\n",
        (f"{_ARRIVALS}::TestRefusedAtAccept",),
    ),
    Mutation(
        "one over HTTP is counted out",
        "gateway/server.py",
        "        if self.caller.admitted:\n",
        "        if False:\n",
        (f"{_ARRIVALS}::TestRefusedAtAccept",),
    ),
    Mutation(
        "a head has so many fields",
        "gateway/server.py",
        "        if len(self.headers) >= MAX_HEADERS:\n",
        "        if False:\n",
        (f"{_ARRIVALS}::TestHeads",),
    ),
    Mutation(
        "half-open connections are bounded",
        "gateway/waiting.py",
        "        if self._limit and len(self._since) > self._limit:\n",
        "        if False:\n",
        ("tests/unit/gateway/test_waiting.py",),
    ),
    Mutation(
        "an IPv6 address is as good as its network",
        "gateway/admission.py",
        "        key = network_of(address)\n        spared",
        "        key = address\n        spared",
        (f"{_ADMISSION}::TestIpv6",),
    ),
    Mutation(
        "what all processes have seen counts",
        "gateway/admission.py",
        "        return self._shared(key) if wait_s <= 0 and self._shared is not None else wait_s\n",
        "        return wait_s\n",
        (f"{_ADMISSION}::TestSharedLimit",),
    ),
    Mutation(
        "credentials that have ended are counted out",
        "gateway/auth/entrance.py",
        "                self._count_out(due.principal)\n",
        "",
        ("tests/integration/test_credentials.py::TestConnectionsOfOnePrincipal",),
    ),
    Mutation(
        "what was set for addresses holds for loopback too",
        "gateway/edge_settings.py",
        "Networks(()) if settings.model_fields_set & _OF_ADDRESSES else _LOOPBACK",
        "_LOOPBACK",
        ("tests/unit/gateway/test_edge_settings.py",),
    ),
    Mutation(
        "a body has its time",
        "gateway/server.py",
        "        self.arrivals.bodies.add(self.transport)",
        "        pass",
        ("tests/integration/test_arrivals.py::TestHeads::test_a_body_that_trickles",),
    ),
)
