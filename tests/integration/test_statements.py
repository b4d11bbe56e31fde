"""SQL scripts on real servers: what is split, refused and put in is what PostgreSQL reads."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INTRANS

from pgclone_admin.core.errors import (
    BadPlaceholder,
    InvalidScript,
    TransactionControl,
    UsageError,
)
from pgclone_admin.core.statements import (
    bind,
    literal,
    refuse_transaction_control,
    require_standard_strings,
    split,
)
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.integration


def examples(number: int) -> settings:
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture
def connection(pg: PostgresServer) -> Iterator[Any]:
    with contextlib.closing(pg.connect()) as connection:
        yield connection


# -- split ----------------------------------------------------------------------------------------

letters = st.text(st.sampled_from("a;é\u00a0{}-*/$\n\r\"'\\ "), max_size=6)
tags = st.sampled_from(["", "a", "A1", "é", "_", "\u3000"])


@st.composite
def dollar_quotes(draw: st.DrawFn) -> str:
    tag = f"${draw(tags)}$"
    body = draw(letters).replace(tag, "").replace("$$", "").rstrip("$")
    return tag + body + tag


plain = letters.map(lambda text: "'" + text.replace("'", "''") + "'")
escaped = letters.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'")
unicode_escaped = letters.map(
    lambda text: "U&'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
)
continued = st.builds(
    lambda start, gap, end: f"{start}{gap}'{end}'",
    plain | escaped,
    st.sampled_from(["\n", " --it's;\n\t", "\r\n", "\n--\"\n--'\n"]),
    st.sampled_from(["b", ";", "/*", "--"]),
)
names = letters.map(lambda text: '"n' + text.replace('"', '""') + '"')
block_comments = st.recursive(
    st.sampled_from(["/**/", "/***/", "/* ; */", "/*/ ' */", '/* $$ " -- */', "/*é*/"]),
    lambda inner: st.builds("/*+ {} ;-/{}**/".format, inner, inner),
    max_leaves=3,
)
line_comments = st.sampled_from(["--\n", "-- it's; \" $$\n", "--/*\r", "---- ;\r\n"])
gaps = st.lists(st.sampled_from([" ", "\n", "\t\f", "\r\n"]) | block_comments | line_comments).map(
    lambda gaps: " " + "".join(gaps)
)
values = plain | escaped | unicode_escaped | continued | dollar_quotes() | st.just("x.é$1")
statements = st.builds(
    "{}SELECT{}{}{}AS {}{}FROM (SELECT 'v' AS é$1) x{}".format,
    gaps, gaps, values, gaps, names, gaps, gaps,
)  # fmt: skip

# With \r for \n: psql reads line by line, and does not see that a string goes on after one.
fragments = [
    "'", '"', "E'", "$$", "$a$", "/*", "*/", "--", "\r", ";", ";", ";", "(", ")", "1", "$1", "a",
    "é", "+", "*", "-", "/", "SELECT 1", "SELECT 'a'", r"SELECT E'\'", "SELECT $$;$$", r"'\'",
    "SELECT 1-- ;\r", "SELECT/*;*/2", "SELECT 1e5", "case", "end", "U&", "END", "'x'\r'y'", "\t",
    "SELECT 'b''c'",
]  # fmt: skip
chaos = st.lists(st.sampled_from(fragments), max_size=25).map(" ".join)


def by_psql(server: PostgresServer, script: str) -> list[str]:
    """What psql gets for a script, statement by statement: rows, and SQLSTATEs of errors."""
    done = subprocess.run(
        [server.program("psql"), "-XqAt0", "-v", "VERBOSITY=sqlstate", "-f", "-"],
        input=script.encode(),
        env={
            **server.psql_env("postgres", "postgres"),
            "PGCLIENTENCODING": "UTF8",
            "PGOPTIONS": "-c client_min_messages=error",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
        timeout=60,
    ).stdout.decode()
    done = re.sub(r"psql:<stdin>:\d+: ERROR:  (\w+)\n", r"ERROR \1\0", done)
    return done.split("\0")[:-1]


def one_by_one(connection: Any, script: str) -> list[str]:
    found = []
    with connection.cursor() as cursor:
        for statement in split(script):
            try:
                cursor.execute(statement.text)
            except psycopg2.Error as error:
                found.append(f"ERROR {error.pgcode}")
            else:
                rows = cursor.fetchall() if cursor.description else []
                found += ["|".join(map(str, row)) for row in rows]
    return found


@examples(60)
@given(st.lists(statements, min_size=1, max_size=6).map(";".join))
def test_a_script_gives_the_rows_that_psql_gets(
    pg: PostgresServer, connection: Any, script: str
) -> None:
    rows = one_by_one(connection, script)
    assert rows == by_psql(pg, script)
    assert not [row for row in rows if row.startswith("ERROR")]


@examples(40)
@given(chaos)
@example("SELECT 1$a$;$a$; SELECT 2")
@example("SELECT 1.5e3AS a$b; SELECT 'a$b'")
@example("SELECT 1 AS a$$; SELECT 2 AS b$$")
@example("SELECT E'a'\r'\\';'; SELECT 2")
@example("SELECT 'a' -- x\r 'b\\'; SELECT 2")
@example("CREATE RULE r AS ON INSERT TO nothing DO (SELECT 1; SELECT 2); SELECT 3")
def test_a_script_full_of_mistakes_is_split_as_psql_does(
    any_pg: PostgresServer, script: str
) -> None:
    with contextlib.closing(any_pg.connect()) as connection:
        try:
            found = one_by_one(connection, script)
        except InvalidScript:
            # Something is open to the end, which psql leaves to the server to refuse, or a
            # backslash stands where psql knows no such command.
            assert re.search("ERROR|error: invalid command", by_psql(any_pg, script)[-1])
        else:
            assert found == by_psql(any_pg, script)


def test_a_string_that_goes_on_in_the_next_line_keeps_its_rules(connection: Any) -> None:
    script = "SELECT E'a' -- it's\n  '\\';'; SELECT 'a'\n'\\'"
    assert one_by_one(connection, script) == ["a';", "a\\"]


@contextlib.contextmanager
def database(server: PostgresServer) -> Iterator[Any]:
    name = server.fresh_name()
    server.create_database(name)
    with contextlib.closing(server.connect(name)) as connection:
        yield connection


def test_what_psql_takes_for_one_statement_is_told_apart(pg: PostgresServer) -> None:
    scripts = [
        "CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'; COMMIT; SELECT begin()",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS case; END; COMMIT; SELECT f()",
        "CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT 1 case; END; COMMIT; SELECT g()",
    ]
    with database(pg) as connection:
        for script in scripts:
            made, control, call = split(script)
            with pytest.raises(TransactionControl):
                refuse_transaction_control(control)
            with connection.cursor() as cursor:
                cursor.execute(made.text)
                cursor.execute(call.text)
                assert cursor.fetchall() == [(1,)]


def test_bodies_and_rules_are_sent_whole(pg: PostgresServer) -> None:
    script = """
    CREATE TABLE t (id int);
    CREATE RULE r AS ON INSERT TO t DO ALSO (NOTIFY a; NOTIFY b);
    CREATE FUNCTION f(n int) RETURNS int LANGUAGE sql
    BEGIN ATOMIC
        ; SELECT 1 AS end; SELECT CASE n WHEN 1 THEN CASE WHEN true THEN 10 END ELSE 20 END AS case;
    END;
    CREATE PROCEDURE p() BEGIN ATOMIC END;
    CREATE FUNCTION g() RETURNS int LANGUAGE plpgsql AS $body$
    BEGIN -- it's; $$
        RETURN f(1) + f(2);
    END $body$;
    SELECT g()
    """
    with database(pg) as connection:
        assert one_by_one(connection, script) == ["30"]


# -- transactions ---------------------------------------------------------------------------------

ENDINGS = [
    "COMMIT", "COMMIT WORK", "COMMIT AND CHAIN", "COMMIT TRANSACTION AND NO CHAIN", "END",
    "END WORK", "ABORT", "ABORT AND CHAIN", "ROLLBACK", "ROLLBACK TRANSACTION",
    "ROLLBACK WORK AND CHAIN", "PREPARE TRANSACTION 'p'",
]  # fmt: skip
BEGINNINGS = ["BEGIN", "BEGIN WORK", "BEGIN READ ONLY", "START TRANSACTION", "BEGIN TRANSACTION"]
SAVEPOINTS = ["SAVEPOINT a", "ROLLBACK TO a", "ROLLBACK WORK TO SAVEPOINT a", "RELEASE a"]


@st.composite
def spelled(draw: st.DrawFn, texts: list[str]) -> str:
    words = draw(st.sampled_from(texts)).split(" ")
    kept = {"'p'", "a"}
    spelled = [
        word if word in kept
        else "".join(draw(st.sampled_from([letter, letter.lower()])) for letter in word)
        for word in words
    ]  # fmt: skip
    return draw(gaps) + "".join(word + draw(gaps) for word in spelled)


@examples(60)
@given(st.lists(statements, max_size=2), spelled([*ENDINGS, *BEGINNINGS]), statements)
def test_what_begins_or_ends_a_transaction_is_found_however_it_is_spelled(
    connection: Any, before: list[str], control: str, after: str
) -> None:
    script = split(";".join([*before, control, after]))
    refused = []
    for number, statement in enumerate(script):
        try:
            refuse_transaction_control(statement)
        except TransactionControl:
            refused.append(number)
    assert refused == [len(before)]
    begins = script[len(before)].words[0] in {"BEGIN", "START"}
    with connection.cursor() as cursor:
        if begins:
            cursor.execute(script[len(before)].text)
            assert connection.info.transaction_status == TRANSACTION_STATUS_INTRANS
            cursor.execute("ROLLBACK")
            return
        cursor.execute("BEGIN")
        cursor.execute("SELECT pg_current_xact_id()")
        was = cursor.fetchone()
        cursor.execute(script[len(before)].text)
        if connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
            cursor.execute("SELECT pg_current_xact_id()")
            assert cursor.fetchone() != was
            cursor.execute("ROLLBACK")
        if script[len(before)].words[0] == "PREPARE":
            cursor.execute("ROLLBACK PREPARED 'p'")


@examples(30)
@given(spelled(SAVEPOINTS))
def test_savepoints_leave_the_transaction_open_and_are_allowed(
    connection: Any, savepoint: str
) -> None:
    (statement,) = split(savepoint)
    refuse_transaction_control(statement)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; SAVEPOINT a; SELECT pg_current_xact_id()")
        was = cursor.fetchone()
        cursor.execute(statement.text)
        cursor.execute("SELECT pg_current_xact_id()")
        assert cursor.fetchone() == was
        cursor.execute("ROLLBACK")


def test_other_rules_for_quotes_are_noticed_before_they_can_hide_a_commit(connection: Any) -> None:
    require_standard_strings(connection)
    first, second = split("SET standard_conforming_strings = off; SELECT '\\''; COMMIT; --'")
    with connection.cursor() as cursor:
        cursor.execute(first.text)
        with pytest.raises(InvalidScript, match="standard_conforming_strings is off") as caught:
            require_standard_strings(connection)
        assert caught.value.hint
        # This is why: what is one statement to us is two to the server.
        cursor.execute("BEGIN")
        cursor.execute(second.text)
        assert connection.info.transaction_status == TRANSACTION_STATUS_IDLE
        cursor.execute("SET standard_conforming_strings = on")
    require_standard_strings(connection)


def test_an_error_is_traced_to_its_line_of_the_script(connection: Any) -> None:
    script = "-- é\nSELECT 1;\n/* twö\nlines */ SELECT\n\n  no_such_column;"
    statement = split(script)[1]
    with connection.cursor() as cursor, pytest.raises(psycopg2.errors.UndefinedColumn) as caught:
        cursor.execute(statement.text)
    assert statement.line_of(int(caught.value.diag.statement_position)) == 6


# -- values ---------------------------------------------------------------------------------------

texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0")
    | st.sampled_from("'\\\"{}$;-/*%\n\r\tEa é\ufeff"),
    max_size=30,
)


@pytest.mark.parametrize("standard_strings", ["on", "off"])
@examples(80)
@given(
    values=st.tuples(
        texts,
        st.integers(-(10**30), 10**30),
        st.decimals("-1e30", "1e30") | st.just(Decimal("NaN")),
        st.floats(),
        st.booleans() | st.none(),
    )
)
@example(values=("\\'; COMMIT; --", -1, Decimal("1E-9"), 5e-324, None))
@example(values=("it's $q$ {x} $q$", 0, Decimal("-0.50"), -0.0, True))
def test_a_value_that_is_put_in_arrives_as_it_is(
    connection: Any, standard_strings: str, values: tuple[Any, ...]
) -> None:
    text, number, *others = values
    literals = {
        name: literal(value, connection) for name, value in zip("tndrb", values, strict=True)
    }
    columns = "{t}::text, 'a'||{t}||'b', {n}::numeric, 3-{n}, {d}::numeric, {r}::float8, {b}::bool"
    expected = (text, f"a{text}b", Decimal(number), 3 - number, *others)
    with connection.cursor() as cursor:
        cursor.execute(f"SET standard_conforming_strings = {standard_strings}")
        for statement in split(bind(f"SELECT {columns}; SELECT{columns};", literals)):
            cursor.execute(statement.text)
            # A NaN is equal to no other, but looks the same.
            assert [str(each) for each in cursor.fetchone()] == [str(each) for each in expected]
        # A level down, as in the body of a function.
        try:
            (statement,) = split(bind("SELECT $q$SELECT {t}, '{n}' -- {t}$q$", literals))
        except BadPlaceholder:
            assert "$q$" in text
        else:
            cursor.execute(statement.text)
            cursor.execute(cursor.fetchone()[0])
            assert cursor.fetchone() == (text, literals["n"])


@examples(60)
@given(texts)
def test_a_text_that_is_put_in_never_makes_another_statement(connection: Any, text: str) -> None:
    literals = {"t": literal(text, connection)}
    script = bind("SELECT {t};\nSELECT 'a'{t}'b', E{t}, {t}{t}, date{t};\nx", literals)
    assert [statement.line for statement in split(script)] == [1, 2, 3]


def test_what_is_no_number_and_paths_arrive(connection: Any) -> None:
    values = [
        *(float("inf"), float("-inf"), Decimal("Infinity"), Decimal("-Infinity")),
        PurePosixPath("/a b/it's"),
        *(Decimal("sNaN"), Decimal("-NaN"), float("nan")),
    ]
    with connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(literal(value, connection) for value in values))
        *found, first, second, third = cursor.fetchone()
    assert found == [*values[:4], "/a b/it's"]
    assert [str(each) for each in (first, second, third)] == ["NaN", "NaN", "nan"]


@pytest.mark.parametrize("value", [b"bytes", ["list"], {}, object(), 1j])
def test_a_value_of_another_kind_is_refused(connection: Any, value: object) -> None:
    with pytest.raises(UsageError, match=f"cannot be a {type(value).__name__}"):
        literal(value, connection)


def test_a_text_that_the_connection_cannot_carry_is_refused(connection: Any) -> None:
    with pytest.raises(UsageError, match="NUL character"):
        literal("a\0b", connection)
    with pytest.raises(UsageError, match=r"'\\udcff', which has no place in .* UTF8"):
        literal("\udcff", connection)
    connection.set_client_encoding("LATIN1")
    with pytest.raises(UsageError, match=r"'\\u20ac', which has no place in .* LATIN1"):
        literal("€", connection)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {literal('é', connection)}")
        assert cursor.fetchone() == ("é",)
