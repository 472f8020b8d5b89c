"""What keeps one client from taking everything, and what takes it away: see tests.safeguards."""

from typing import Final

from tests.mutation import Mutation

__all__ = ["RATE_SAFEGUARDS"]

_RATES: Final = "tests/unit/gateway/test_rates.py"
_STORE: Final = "tests/integration/test_rate_store.py"
_CONNECTION: Final = "tests/integration/test_connection.py::TestLimits"
_HTTP: Final = "tests/unit/gateway/http/test_limiting.py"
_OF_ROWS: Final = f"{_CONNECTION}::test_snapshots_of_too_many_rows"

RATE_SAFEGUARDS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "a limit in Redis is taken from",
        "listeners/scripts/take.lua",
        "    whole = math.min(whole + cost * each, now + most)\n",
        "    whole = math.min(whole, now + most)\n",
        (_STORE,),
    ),
    Mutation(
        "a refusal takes nothing",
        "listeners/scripts/take.lua",
        "  if needed == 0 or wait <= 0 then\n",
        "  if true then\n",
        (f"{_STORE}::test_a_refusal_takes_nothing",),
    ),
    Mutation(
        "a clock that was set back shuts nobody out",
        "listeners/scripts/take.lua",
        "math.max(0, now - since)",
        "(now - since)",
        (f"{_STORE}::test_a_clock_that_was_set_back_shuts_nobody_out_for_longer",),
    ),
    Mutation(
        "a limit's key ends",
        "listeners/scripts/take.lua",
        "value, 'PX', math.ceil((whole - now) / 1000))",
        "value)",
        (f"{_STORE}::test_a_key_ends_when_its_limit_is_whole",),
    ),
    Mutation(
        "what is asked in one turn goes together",
        "listeners/rate_store.py",
        "shares[bucket_of(ask.who) if self._is_cluster else 0].append(n)",
        "shares[n].append(n)",
        (f"{_STORE}::test_what_is_asked_in_one_turn_goes_in_one_round_trip",),
    ),
    Mutation(
        "a denial is remembered",
        "gateway/rates.py",
        "            asked.held.denied_until = max(asked.held.denied_until, self._clock() + wait_s)\n",
        "            pass\n",
        (f"{_RATES}::TestTake", f"{_RATES}::TestCharge"),
    ),
    Mutation(
        "this process' own limit holds without Redis",
        "gateway/rates.py",
        "        wait_s = self._hold(key, limit).take(cost)\n",
        "        wait_s = 0.0\n",
        (f"{_RATES}::TestRedisAway",),
    ),
    Mutation(
        "nobody waits for a Redis that hangs",
        "gateway/rates.py",
        "            self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._look)\n",
        "            self._timer = None\n",
        (f"{_RATES}::TestRedisSlow",),
    ),
    Mutation(
        "Redis is asked again",
        "gateway/rates.py",
        "                self._retry_at = self._next_try()\n",
        "                continue\n",
        (f"{_RATES}::TestRedisAway",),
    ),
    Mutation(
        "IPv6 counts by its network",
        "gateway/addresses.py",
        '    return f"{IPv6Address(int(parsed) >> _HOST_BITS << _HOST_BITS)}/{_HOST_BITS}"\n',
        "    return str(parsed)\n",
        (f"{_RATES}::TestHolder",),
    ),
    Mutation(
        "what is remembered of limits is bounded",
        "gateway/limits.py",
        "            if self._held[oldest].is_full() or len(self._held) >= self._most:\n",
        "            if self._held[oldest].is_full():\n",
        (f"{_RATES}::TestHolder", "tests/unit/gateway/test_admission.py::TestBoundedMemory"),
    ),
    Mutation(
        "snapshots are charged",
        "gateway/joining.py",
        "        outgoing.charge_rows(delivery, encoded.rows)\n",
        "",
        (_OF_ROWS,),
    ),
    Mutation(
        "a bad position is no way around the limit",
        "gateway/joining.py",
        "        error = None if delivery.returning else delivery.outgoing.rows_error()\n",
        "        error = None\n",
        (_OF_ROWS,),
    ),
    Mutation(
        "nor is one of the public view",
        "gateway/connection.py",
        "        cheap = event.resume is not None and event.subscription.view is View.EXACT\n",
        "        cheap = event.resume is not None\n",
        (_OF_ROWS,),
    ),
    Mutation(
        "loads of one principal are bounded",
        "gateway/limits.py",
        "        if self._counts[holder] >= self._each:\n",
        "        if False:\n",
        ("tests/unit/gateway/test_limits.py::TestLoads", _CONNECTION),
    ),
    Mutation(
        "loads that are over do not count",
        "gateway/hub.py",
        "            self._loads.end(topic.name)\n",
        "            pass\n",
        (f"{_CONNECTION}::test_topics_that_have_to_be_loaded_at_the_same_time",),
    ),
    Mutation(
        "bad tokens over HTTP count",
        "gateway/http/credentials.py",
        "                self._limits.bad_token(request)\n",
        "                pass\n",
        (_HTTP,),
    ),
    Mutation(
        "tickets count",
        "gateway/http/tickets.py",
        "        await self._limits.ticket(request, principal)\n",
        "",
        (_HTTP,),
    ),
)
