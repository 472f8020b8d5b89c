from dataclasses import replace

import pytest

from load.comparison import Comparison, Plan, Standing, Turn, frame_payload_bytes, ratios
from load.frames import server_frame
from load.peers.gateway import GatewayPeer
from load.peers.nchan import Nchan
from load.peers.peer import Peer
from load.peers.websockets import Websockets
from load.report import report_text
from load.scenario import Report, Verdict
from load.scenarios.peers import report_of
from load.stack import Servers

PLAN = Plan(clients=10, rates_per_s=(40.0, 100.0), turn_s=1, rounds=3)


def turn(name: str, number: int, us_per_frame: float, *, rate: float = 40.0, frames: int = 1000) -> Turn:
    return Turn(name, rate, number, 100, 1000, frames, 1.0, us_per_frame * frames / 1e6, 0.004)


class TestTheRatio:
    def test_is_to_the_cheaper_limit_of_the_same_round(self) -> None:
        turns = [
            *(turn("c", 1, 5), turn("python", 1, 4), turn("gateway", 1, 8)),
            *(turn("c", 2, 6), turn("python", 2, 9), turn("gateway", 2, 9)),
        ]
        assert ratios(turns, "gateway", ["c", "python"], 40.0) == pytest.approx([2.0, 1.5])
        assert ratios(turns, "python", ["c", "python"], 40.0) == pytest.approx([1.0, 1.5])

    def test_is_of_frames_that_came(self) -> None:
        turns = [turn("limit", 1, 5), replace(turn("gateway", 1, 5), frames=500)]
        assert ratios(turns, "gateway", ["limit"], 40.0) == pytest.approx([2.0])

    def test_is_of_one_rate(self) -> None:
        turns = [
            *(turn("limit", 1, 5), turn("gateway", 1, 10)),
            *(turn("limit", 1, 4, rate=100.0), turn("gateway", 1, 12, rate=100.0)),
        ]
        assert ratios(turns, "gateway", ["limit"], 100.0) == pytest.approx([3.0])


@pytest.mark.parametrize("size", [0, 125, 126, 340, 65535, 65536])
def test_a_frame_tells_its_payload(size: int) -> None:
    assert frame_payload_bytes(len(server_frame(b"x" * size))) == size


def test_frames_whose_lengths_vary_tell_the_middle() -> None:
    assert frame_payload_bytes(340.4) == 336


PEERS: list[Peer] = [GatewayPeer(Servers("", "", Nchan.__module__)), Nchan()]  # type: ignore[arg-type]


def comparison(*, gateway: float, nchan: float = 8.0) -> Comparison:
    """The limit is at 5 us; the gateway does a tenth worse at the second rate."""
    names = {"limit": 5.0, GatewayPeer.name: gateway, Nchan.name: nchan}
    turns = [
        turn(name, number, cost * (1.1 if name == GatewayPeer.name and rate == 100.0 else 1), rate=rate)
        for number in (1, 2, 3)
        for rate in PLAN.rates_per_s
        for name, cost in names.items()
    ]
    standings = [Standing(name, 6 * 1024, 300.0, 340.0, 1) for name in names]
    return Comparison(336, standings, turns, [("Bun (uWebSockets)", "bun did not start")])


class Limit(Websockets):
    name = "limit"  # type: ignore[misc]


def reported(given: Comparison) -> Report:
    return report_of(given, [Limit(), *PEERS], ["limit"], [Websockets()], PLAN)


class TestTheReport:
    def test_has_a_table_of_each_rate_and_one_of_idle_connections(self) -> None:
        report = reported(comparison(gateway=7.0))
        assert [len(table.rows) for table in report.tables] == [3, 3, 3]
        assert [row[0] for row in report.tables[0].rows] == ["limit", GatewayPeer.name, Nchan.name]
        gateway = report.tables[0].rows[1]
        assert gateway[1:6] == ("7.00", "1.40", "1.40 1.40 1.40", "3,000", "0")
        assert report.tables[1].rows[1][1:3] == ("7.70", "1.54")

    def test_prints_what_is_missing(self) -> None:
        given = comparison(gateway=7.0)
        given = replace(given, turns=[replace(turn, frames=900) for turn in given.turns])
        assert reported(given).tables[0].rows[1][5] == "300"

    def test_says_who_is_not_there_and_how_to_change_that(self) -> None:
        said = report_text(reported(comparison(gateway=7.0)))
        assert "- websockets broadcast(): not installed: pip install websockets uvloop." in said
        assert "- Bun (uWebSockets): bun did not start" in said
        assert f"- {Nchan.name}: {Nchan.remark}." in said

    def test_holds_the_worse_rate_against_the_budget(self) -> None:
        def met(given: Comparison) -> list[bool]:
            return [verdict.met for verdict in reported(given).verdicts]

        assert met(comparison(gateway=6.8)) == [True, True]
        assert met(comparison(gateway=7.0, nchan=9.0)) == [False, True]
        assert met(comparison(gateway=6.8, nchan=7.0)) == [True, False]

    def test_has_no_verdict_on_who_is_not_there(self) -> None:
        given = comparison(gateway=7.0)
        given = replace(given, standings=[each for each in given.standings if each.name != Nchan.name])
        verdicts: list[Verdict] = list(reported(given).verdicts)
        assert not any("nchan" in verdict.budget for verdict in verdicts)
