"""Names that try to leave their quotes, in source files and in the tables that these name: what is so named
works, what can not be so named is refused, and nothing that a name says is ever executed."""

from typing import Any, Final

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from listeners.attach import AttachRefused, attach, attached, detach
from listeners.source_sql import quote_identifier, quote_literal
from listeners.sources import Source
from listeners.topic_query import TopicQuery
from protocol.topics import parse_topic
from tests.support.capture import logged

DROP: Final = "DROP TABLE public.canary; --"
NAMES: Final = (
    *(
        '"',
        '""',
        f'"; {DROP}',
        f'""; {DROP}',
        f"'; {DROP}",
        f"''; {DROP}",
        f"\\'; {DROP}",
        f"\\\\'; {DROP}",
        "\\",
    ),
    *(
        f"$function$; {DROP}",
        f"$function_$; {DROP}",
        f"$$; {DROP}",
        "$function",
        "$1",
        ":x",
        "%s",
        "%(x)s",
        "?",
    ),
    *("{}", "{0}", "{item}", "{since}", "{quote}", "}}{{", "--", "/*", "*/", ";", ",", ")", "(", "a.b"),
    *(
        "public.canary",
        "select",
        "user",
        "new_rows",
        "t",
        "n",
        "version",
        "here",
        "item",
        "l",
        "gateway",
        "NULL",
    ),
    *(" ", "tab\t", "line\n", "\r\n", "\x01", "\x7f", "CaSe", "1", 'U&"\\0041"', "E'\\''", "\\u0000", "\\n"),
    *(
        "é" * 29,
        "x" * 59,
        "😀" * 14,
        "\u202e",
        "\ufeff",
        "\u2028",
        "e\u0301",
        "\ufb01",
        "\uff02",
        "\u02bc",
        "\ud7ff",
    ),
)
FITTING: Final = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=63
).filter(lambda name: len(name.encode()) <= 63)


def source_of(name: str, **columns: Any) -> Source:
    """A source whose table, columns and constants are all called so, or nearly."""
    return Source.model_validate(
        {
            "name": "evil",
            "kind": "product",
            "schema": f"s1 {name}",
            "table": f"t1 {name}",
            "version_column": f"v1 {name}",
            "columns": {
                "product_id": f"i1 {name}",
                "vendor_id": {"value": "V"},
                "name": name,
                "sku": {"value": name},
                "status": {"column": f"w1 {name}", "words": {name: "published", "b": name}},
            }
            | columns,
        }
    )


async def make_table(pg: Any, name: str) -> str:
    """The table of source_of(), and a canary; the table's name as quoted by Postgres itself."""
    quoted = [
        await pg.fetchval("SELECT quote_ident($1)", text)
        for text in (f"s1 {name}", f"t1 {name}", f"i1 {name}", name, f"w1 {name}", f"o1 {name}")
    ]
    schema, table, key, title, status, other = quoted
    await pg.execute("CREATE TABLE public.canary (alive boolean); INSERT INTO public.canary VALUES (true)")
    await pg.execute(f"CREATE SCHEMA {schema}")
    await pg.execute(
        f"CREATE TABLE {schema}.{table}"
        f" ({key} text PRIMARY KEY, {title} text, {status} text, {other} text, gen text"
        f" GENERATED ALWAYS AS ({title} || 'x') STORED)"
    )
    return f"{schema}.{table}"


async def assert_unharmed(pg: Any) -> None:
    assert await pg.fetchval("SELECT alive FROM public.canary")


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[1:-1])
async def test_what_is_so_named_works(pg: Any, name: str) -> None:
    table = await make_table(pg, name)
    await pg.execute(f"INSERT INTO {table} VALUES ('A', 'before', 'b', 'o')")
    source = await attach(pg, source_of(name))
    await logged(pg)
    await pg.execute(f"INSERT INTO {table} VALUES ($1, $2, $3)", "B", name, name)
    await pg.execute(f"UPDATE {table} SET {await pg.fetchval('SELECT quote_ident($1)', name)} = 'after'")
    rows = [(row.op, row.item["product_id"], row.item["name"]) for row in await logged(pg)]
    assert rows == [("I", "B", name), ("U", "A", "after"), ("U", "B", "after")]
    for shown in (source, *(entry for entry in await attached(pg) if entry.name == "evil")):
        items = await TopicQuery([shown]).rows(pg, parse_topic("vendor:V"), limit=10)
        found = {item.key: orjson.loads(item.body) for item in items}
        assert found.keys() == {"product:A", "product:B"}
        assert found["product:A"]["sku"] == name
        assert (found["product:A"]["status"], found["product:B"]["status"]) == (name, "published")
    await detach(pg, "evil")
    await pg.execute(f"INSERT INTO {table} VALUES ('C', 'c', 'c')")
    assert await logged(pg) == []
    await assert_unharmed(pg)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[1:-1])
async def test_what_is_not_there_is_refused(pg: Any, name: str) -> None:
    await pg.execute("CREATE TABLE public.canary (alive boolean); INSERT INTO public.canary VALUES (true)")
    with pytest.raises(AttachRefused, match="does not exist"):
        await attach(pg, source_of(name))
    await pg.execute("CREATE TABLE public.plain (id text PRIMARY KEY)")
    columns = {"product_id": "id"}
    with pytest.raises(AttachRefused, match="has no column"):
        await attach(
            pg, source_of(name, **columns).model_copy(update={"schema_name": "public", "table": "plain"})
        )
    await assert_unharmed(pg)


class TestLength:
    async def test_a_longer_one_is_never_taken_for_one_that_it_begins_with(self, pg: Any) -> None:
        """Postgres itself cuts names off at 63 bytes, with a notice that nobody reads."""
        name = "é" * 31 + "x"
        await pg.execute(f'CREATE TABLE public."{name}" (id text PRIMARY KEY, name text)')
        columns = {"product_id": "id", "vendor_id": {"value": "V"}, "name": "name"}
        plain = {"name": "long", "kind": "product", "columns": columns}
        assert Source.model_validate(plain | {"table": name}).table == name
        with pytest.raises(ValueError, match="63 bytes"):
            Source.model_validate(plain | {"table": f"{name}y"})


class TestQuoting:
    """By the only judge there is: Postgres reads back what was quoted."""

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(names=st.lists(FITTING, min_size=1, max_size=60, unique=True))
    async def test_identifiers(self, pg: Any, names: list[str]) -> None:
        query = await pg.prepare("SELECT " + ", ".join(f"1 AS {quote_identifier(name)}" for name in names))
        assert [attribute.name for attribute in query.get_attributes()] == names

    @pytest.mark.parametrize("conforming", ["on", "off"])
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        values=st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=60
        )
    )
    async def test_literals(self, pg: Any, conforming: str, values: list[str]) -> None:
        await pg.execute(f"SET standard_conforming_strings = {conforming}")
        row = await pg.fetchrow("SELECT " + ", ".join(f"{quote_literal(value)}::text" for value in values))
        assert list(row.values()) == values
