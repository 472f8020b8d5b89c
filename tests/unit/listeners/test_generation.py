import dataclasses

import pytest

from listeners.generation import Identity, place_of

IDENTITY = Identity(
    system="7/5", timeline="00000001", alive="a@7/5", losses="1false", sources="s", nonce="n", redis="r,s"
)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Identity)])
def test_whatever_changes_makes_another_generation(field: str) -> None:
    changed = dataclasses.replace(IDENTITY, **{field: "x"})
    assert changed.generation != IDENTITY.generation


def test_the_same_identity_is_the_same_generation() -> None:
    assert dataclasses.replace(IDENTITY).generation == IDENTITY.generation


def test_parts_do_not_run_into_each_other() -> None:
    one = dataclasses.replace(IDENTITY, alive="ab", losses="c")
    other = dataclasses.replace(IDENTITY, alive="a", losses="bc")
    assert one.generation != other.generation


def test_it_fits_into_a_line_of_the_bus() -> None:
    assert IDENTITY.generation.isalnum()
    assert len(IDENTITY.generation) == 24


class TestThePlace:
    def test_is_read_from_the_generation(self) -> None:
        assert place_of(IDENTITY.generation) == IDENTITY.place

    @pytest.mark.parametrize("field", ["system", "timeline", "alive", "nonce"])
    def test_is_another_one_where_rows_may_differ(self, field: str) -> None:
        assert dataclasses.replace(IDENTITY, **{field: "x"}).place != IDENTITY.place

    @pytest.mark.parametrize("field", ["losses", "sources", "redis"])
    def test_is_the_same_while_the_database_goes_on(self, field: str) -> None:
        assert dataclasses.replace(IDENTITY, **{field: "x"}).place == IDENTITY.place
