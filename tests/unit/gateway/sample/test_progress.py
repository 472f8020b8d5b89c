import io

from gateway.sample.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestWithoutATerminal:
    def test_there_is_a_line_for_each_tenth(self) -> None:
        out, clock = io.StringIO(), Clock()
        progress = Progress("seeding", 1000, out=out, clock=clock)
        for _ in range(100):
            clock.now += 0.1
            progress.advance(10)
        progress.finish()
        lines = out.getvalue().splitlines()
        assert len(lines) == 10
        assert lines[0] == "seeding:  10 %  100 of 1,000 rows  100 rows/s  0:09 left"
        assert lines[-1] == "seeding: 100 %  1,000 of 1,000 rows  100 rows/s"

    def test_a_leap_over_several_tenths_is_one_line(self) -> None:
        out = io.StringIO()
        Progress("seeding", 10, out=out, clock=Clock()).advance(10)
        assert out.getvalue() == "seeding: 100 %  10 of 10 rows\n"


class TestOnATerminal:
    def test_the_bar_is_redrawn_in_its_line(self) -> None:
        out, clock = io.StringIO(), Clock()
        progress = Progress("seeding", 1_000_000, out=out, terminal=True, clock=clock)
        clock.now = 10
        progress.advance(250_000)
        assert out.getvalue() == (
            "\rseeding [######..................]  25 %  250,000 of 1,000,000 rows  25,000 rows/s"
            "  0:30 left\x1b[K"
        )

    def test_not_more_often_than_eyes_follow_but_the_end_is_shown(self) -> None:
        out, clock = io.StringIO(), Clock()
        progress = Progress("seeding", 100, out=out, terminal=True, clock=clock)
        for _ in range(100):
            clock.now += 0.01
            progress.advance(1)
        assert out.getvalue().count("\r") <= 12
        assert "100 of 100" in out.getvalue()

    def test_whatever_is_printed_next_begins_a_line(self) -> None:
        out = io.StringIO()
        progress = Progress("seeding", 100, out=out, terminal=True, clock=Clock())
        progress.finish()
        assert out.getvalue() == ""
        progress.advance(1)
        progress.finish()
        assert out.getvalue().endswith("\n")


def test_the_summary_says_how_long_and_how_fast() -> None:
    clock = Clock()
    progress = Progress("seeding", 1000, out=io.StringIO(), clock=clock)
    assert progress.summary() == "0.0 s, 0 rows/s"
    progress.advance(1000)
    clock.now = 4
    assert progress.summary() == "4.0 s, 250 rows/s"
