"""How many requests somebody may send."""

import asyncio

from starlette.requests import Request

from gateway.rates import RateKind, Rates, holder, rate_limited
from protocol.principal import Principal

__all__ = ["RequestLimits"]

_TOO_MANY = "too many requests; see Retry-After"


class RequestLimits:
    """Raises ProtocolError `rate_limited` for what is too much. `principal` None: not known, or nobody."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates

    def request(self, request: Request, principal: Principal | None) -> None:
        _refuse(self._rates.take_nowait(RateKind.HTTP, _holder(request, principal)))

    def rows(self, request: Request, principal: Principal, count: int) -> None:
        """They are in the answer; the next request waits for them."""
        self._rates.charge(RateKind.ROWS, _holder(request, principal), count)

    def more_rows(self, request: Request, principal: Principal) -> None:
        _refuse(self._rates.wait_s(RateKind.ROWS, _holder(request, principal)))

    def token(self, request: Request) -> None:
        """One is to be checked; bad_token() if it was."""
        _refuse(self._rates.wait_s(RateKind.AUTH, _holder(request, None)))

    def bad_token(self, request: Request) -> None:
        self._rates.charge(RateKind.AUTH, _holder(request, None), 1)

    async def ticket(self, request: Request, principal: Principal) -> None:
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        def done(wait_s: float) -> None:
            if not answer.done():
                answer.set_result(wait_s)

        self._rates.take(RateKind.TICKETS, _holder(request, principal), done)
        _refuse(await answer)


def _holder(request: Request, principal: Principal | None) -> str:
    return holder(principal, "" if request.client is None else request.client.host)


def _refuse(wait_s: float) -> None:
    if wait_s > 0:
        raise rate_limited(_TOO_MANY, wait_s)
