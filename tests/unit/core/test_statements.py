"""SQL scripts: where their statements end, which of them are refused, what is put into them."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core.errors import BadPlaceholder, InvalidScript, TransactionControl
from pgclone_admin.core.lexer import Kind, tokens
from pgclone_admin.core.statements import (
    Statement,
    bind,
    parameter_names,
    refuse_transaction_control,
    split,
)
from tests.unit import PROPERTY

# -- split ----------------------------------------------------------------------------------------

ATOMIC = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC"


@pytest.mark.parametrize(
    ("script", "texts"),
    [
        # Nothing at all.
        ("", []),
        ("\ufeff", []),
        (" ;; \n;\t;\f\v", []),
        ("-- nothing", []),
        ("/* a */; -- b\n/* c; */", []),
        # The end of a statement.
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;SELECT 2;", ["SELECT 1", "SELECT 2"]),
        ("\ufeffSELECT 1;\r\n SELECT 2 ;\r\n", ["SELECT 1", "SELECT 2"]),
        # What looks like a space and is a letter to the server stays.
        ("SELECT 1 AS \u00a0; SELECT 2", ["SELECT 1 AS \u00a0", "SELECT 2"]),
        # Comments stay where they stand, but a semicolon is none in them.
        ("-- a;\nSELECT 1 -- b;\n; c", ["-- a;\nSELECT 1 -- b;", "c"]),
        ("/*+ Hint(a) */ SELECT 1; /* b */", ["/*+ Hint(a) */ SELECT 1"]),
        ("a /* ; /* ; */ ; */ ; b", ["a /* ; /* ; */ ; */", "b"]),
        ("a /*/ ; */ ; b", ["a /*/ ; */", "b"]),
        ("a /*/*/ ; */*/ ; b", ["a /*/*/ ; */*/", "b"]),
        ("a /**/; b", ["a /**/", "b"]),
        ("a /***/; b", ["a /***/", "b"]),
        ("a -- /* ;\n; b", ["a -- /* ;", "b"]),
        ("a /* -- */; b", ["a /* -- */", "b"]),
        ("a -- x\r; b", ["a -- x", "b"]),
        ("a -- x\u2028;\n; b", ["a -- x\u2028;", "b"]),
        # An operator ends where a comment begins.
        ("a +-- ;\n b; c", ["a +-- ;\n b", "c"]),
        ("a */* ; */ b; c", ["a */* ; */ b", "c"]),
        ("a @-/*;*/ b; c", ["a @-/*;*/ b", "c"]),
        ("a ---- ;\n; c", ["a ---- ;", "c"]),
        ("a - - b; c", ["a - - b", "c"]),
        # Quotes.
        ("'a;b'; c", ["'a;b'", "c"]),
        ("'a'';b'; c", ["'a'';b'", "c"]),
        ("'--'; '/*'; c", ["'--'", "'/*'", "c"]),
        (r"'\'; c", [r"'\'", "c"]),
        (r"'\\'; c", [r"'\\'", "c"]),
        (r"E'\';'; c", [r"E'\';'", "c"]),
        (r"e'\\'; c", [r"e'\\'", "c"]),
        (r"E'\u'; c", [r"E'\u'", "c"]),
        (r"E'a'';\';'; c", [r"E'a'';\';'", "c"]),
        ("E'\\\n;'; c", ["E'\\\n;'", "c"]),
        (r"N'\'; B'1;'; X'f;'; c", [r"N'\'", "B'1;'", "X'f;'", "c"]),
        (r"U&'\'; c", [r"U&'\'", "c"]),
        (r"U&'d!;' UESCAPE '!'; c", [r"U&'d!;' UESCAPE '!'", "c"]),
        (r"fooE'\'; c", [r"fooE'\'", "c"]),
        (r"éE'\'; c", [r"éE'\'", "c"]),
        (r"_e'\'; c", [r"_e'\'", "c"]),
        (r"1E'\';'; c", [r"1E'\';'", "c"]),
        ("\"a;b\"; c", ["\"a;b\"", "c"]),
        ('"a"";b"; c', ['"a"";b"', "c"]),
        ("\"a';\"; c", ["\"a';\"", "c"]),
        (r'"a\"; c', [r'"a\"', "c"]),
        (r'U&"\"; c', [r'U&"\"', "c"]),
        # A string goes on after a line break, with the rules it began with.
        ("E'a'\n'\\';'; c", ["E'a'\n'\\';'", "c"]),
        ("E'a' -- it's;\n\t-- more\r\n '\\';'; c", ["E'a' -- it's;\n\t-- more\r\n '\\';'", "c"]),
        ("E'a'\n'b'\n'\\';'; c", ["E'a'\n'b'\n'\\';'", "c"]),
        ("E'a' '\\'; c", ["E'a' '\\'", "c"]),
        ("E'a' /* x */\n'\\'; c", ["E'a' /* x */\n'\\'", "c"]),
        ("E'a'\n-'\\'; c", ["E'a'\n-'\\'", "c"]),
        ("'a'\n'\\'; c", ["'a'\n'\\'", "c"]),
        ('GRANT a ON t TO "x;\ny";\nREVOKE b ON t FROM z;\n\n', [
            'GRANT a ON t TO "x;\ny"', "REVOKE b ON t FROM z"]),
        # Dollar quotes.
        ("$$a;b$$; c", ["$$a;b$$", "c"]),
        ("$$it's; \"; /* ; -- ; \\$$; c", ["$$it's; \"; /* ; -- ; \\$$", "c"]),
        ("$a$;$b$;$$;$A$;$a$; c", ["$a$;$b$;$$;$A$;$a$", "c"]),
        ("$a$;$b$a$; c", ["$a$;$b$a$", "c"]),
        ("$$;$a$$; c", ["$$;$a$$", "c"]),
        ("$é_1$;$é_1$; c", ["$é_1$;$é_1$", "c"]),
        ("$\u3000$;$\u3000$; c", ["$\u3000$;$\u3000$", "c"]),
        ("a$b$; c$b$", ["a$b$", "c$b$"]),
        ("é$$; c$$", ["é$$", "c$$"]),
        ("$1; $2", ["$1", "$2"]),
        ("$1$; $1$", ["$1$", "$1$"]),
        ("$1$a$;$a$; c", ["$1$a$;$a$", "c"]),
        ("1$a$;$a$; c", ["1$a$;$a$", "c"]),
        ("$a b$; c", ["$a b$", "c"]),
        # Parentheses.
        ("CREATE RULE r AS ON INSERT TO t DO (a; b); c", [
            "CREATE RULE r AS ON INSERT TO t DO (a; b)", "c"]),
        ("(a; (b; c); d); e", ["(a; (b; c); d)", "e"]),
        ("a); b", ["a)", "b"]),
        ("a(; b", ["a(; b"]),
        ("'('; b", ["'('", "b"]),
        ("[a; b]", ["[a", "b]"]),
        # Bodies in standard SQL.
        (f"{ATOMIC} SELECT 1; SELECT 2; END; c", [f"{ATOMIC} SELECT 1; SELECT 2; END", "c"]),
        (f"{ATOMIC} END; c", [f"{ATOMIC} END", "c"]),
        (f"{ATOMIC} ;; /* x */ end; c", [f"{ATOMIC} ;; /* x */ end", "c"]),
        (f"{ATOMIC} SELECT CASE WHEN a THEN CASE b WHEN 1 THEN 2 END END; END; c", [
            f"{ATOMIC} SELECT CASE WHEN a THEN CASE b WHEN 1 THEN 2 END END; END", "c"]),
        # psql would take what follows these for a part of the body.
        (f"{ATOMIC} SELECT 1 AS case; END; COMMIT", [f"{ATOMIC} SELECT 1 AS case; END", "COMMIT"]),
        (f"{ATOMIC} SELECT 1 AS end; SELECT 2; END; c", [
            f"{ATOMIC} SELECT 1 AS end; SELECT 2; END", "c"]),
        (f"{ATOMIC} SELECT atomic end; END; c", [f"{ATOMIC} SELECT atomic end; END", "c"]),
        ("CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'; COMMIT", [
            "CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'", "COMMIT"]),
        ("create/**/Or--\nREPLACE procedure p() begin/**/\natomic a; end; c", [
            "create/**/Or--\nREPLACE procedure p() begin/**/\natomic a; end", "c"]),
        ("SELECT begin atomic; COMMIT", ["SELECT begin atomic", "COMMIT"]),
        ("CREATE VIEW v AS SELECT begin atomic; COMMIT", [
            "CREATE VIEW v AS SELECT begin atomic", "COMMIT"]),
        ('CREATE FUNCTION f() "begin" ATOMIC a; COMMIT', [
            'CREATE FUNCTION f() "begin" ATOMIC a', "COMMIT"]),
        (f"{ATOMIC} a; END; {ATOMIC} b; END; c", [f"{ATOMIC} a; END", f"{ATOMIC} b; END", "c"]),
        (f"{ATOMIC} (END; END); END; c", [f"{ATOMIC} (END; END); END", "c"]),
        # Of COPY only what needs psql is refused.
        ("COPY t FROM '/a'; COPY stdin TO '/b'", ["COPY t FROM '/a'", "COPY stdin TO '/b'"]),
        ('COPY t FROM "stdin"', ['COPY t FROM "stdin"']),
        ("SELECT a FROM stdin", ["SELECT a FROM stdin"]),
        ("COPY (SELECT a FROM stdin) TO '/a'", ["COPY (SELECT a FROM stdin) TO '/a'"]),
    ],
)  # fmt: skip
def test_a_script_is_split_where_the_server_would(script: str, texts: list[str]) -> None:
    assert [statement.text for statement in split(script)] == texts


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("select 1", ("SELECT",)),
        ("Rollback/* to */to--x\nsavepoint a", ("ROLLBACK", "TO", "SAVEPOINT", "A")),
        ("CREATE OR REPLACE FUNCTION f()", ("CREATE", "OR", "REPLACE", "FUNCTION")),
        ("-- drop\n/* drop */ DROP TABLE a.b", ("DROP", "TABLE", "A")),
        ("((SELECT 1))", ("SELECT",)),
        ("SELECT(1)", ("SELECT",)),
        ('ALTER TABLE "t" ADD c int', ("ALTER", "TABLE")),
        ("'text' IS", ()),
        ("é \u0131", ("é", "\u0131")),
        ("\u00a0COMMIT", ("\u00a0COMMIT",)),
    ],
)
def test_the_words_of_a_statement_are_what_it_begins_with(
    script: str, words: tuple[str, ...]
) -> None:
    (statement,) = split(script)
    assert statement.words == words


def test_a_statement_knows_the_line_of_its_first_token() -> None:
    script = "\ufeff-- one\r\n\nSELECT 1;/* three\n*/ SELECT\n 2; SELECT '\n\n'; SELECT 4;\n\nx"
    assert [statement.line for statement in split(script)] == [3, 4, 5, 7, 9]


def test_a_statement_knows_the_line_of_what_the_server_points_at() -> None:
    first, second = split("\n-- one\n/* */ SELECT\n wrong; -- two\n\nSELECT\n\n  wrong")
    assert (first.line, second.line) == (3, 6)
    assert first.line_of(first.text.index("wrong") + 1) == 4
    assert second.line_of(second.text.index("wrong") + 1) == 8
    assert second.line_of(1) == 4


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("a;\n'b; c", "line 2: the quote that begins here with ' is never closed"),
        ("E'a\\'", "line 1: the quote that begins here with E' is never closed"),
        ("E'a'\n'\\'", "line 2: the quote that begins here with ' is never closed"),
        ('\n\n"a""', 'line 3: the quote that begins here with " is never closed'),
        ("$a$ $b$ $A$", "line 1: the quote that begins here with $a$ is never closed"),
        ("a\n/* /* */", "line 2: the comment that begins here with /* is never closed"),
        ("a;\nb\0c", "line 2: the SQL holds a NUL character"),
        ("SELECT 1e5$a$; COMMIT; $a$", "line 1: a number runs into a dollar sign"),
        ("a;\n\\copy t from 'x'", "line 2: \\copy is a command of psql, which does not run here"),
        ("\\restrict k\n", "line 1: \\restrict is a command of psql, which does not run here"),
        ("SELECT 1 \\gset x", "line 1: \\gset is a command of psql, which does not run here"),
        ("a \\; b", "line 1: \\; is a command of psql, which does not run here"),
        (
            "a;\ncopy t (b)\nfrom/**/stdin with (format csv);\n1,2\n\\.\n",
            "line 3: COPY FROM STDIN needs psql at the other end",
        ),
        ("COPY t FROM STDOUT", "line 1: COPY FROM STDOUT needs psql at the other end"),
        ("COPY (a) TO stdout", "line 1: COPY TO STDOUT needs psql at the other end"),
    ],
)
def test_what_cannot_be_sent_as_it_stands_is_refused_with_its_line(
    script: str, message: str
) -> None:
    with pytest.raises(InvalidScript) as caught:
        split(script)
    assert caught.value.message == message


def test_a_large_script_is_split_in_time_that_grows_with_its_length() -> None:
    started = time.monotonic()
    statements = split("INSERT INTO t VALUES (1, 'it''s', $$x$$); -- next\n" * 20_000)
    assert time.monotonic() - started < 10
    assert len(statements) == 20_000
    assert statements[-1].line == 20_000


@pytest.mark.parametrize("quotes", ["'", "E'\\", '"', "/*", "$a$", "$", "{", "(", "E'a'\n--\n"])
def test_no_script_takes_for_ever(quotes: str) -> None:
    started = time.monotonic()
    with contextlib.suppress(InvalidScript):
        split(quotes * 20_000)
    assert time.monotonic() - started < 5


PIECES = [
    "'", '"', "E'", "$$", "$a$", "/*", "*/", "--", ";", "(", ")", "\\", "{", "}", "é", "case", "1",
    "e", "+", "U&", "\0", "\ufeff", "BEGIN ATOMIC", "END", "CREATE FUNCTION", "\n", "\r", " ",
]  # fmt: skip
scripts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join)


@PROPERTY
@given(scripts)
def test_every_character_of_a_script_is_in_one_token(script: str) -> None:
    try:
        read = list(tokens(script))
    except InvalidScript:
        return
    assert "".join(token.text for token in read) == script
    assert all(script[token.start : token.end] == token.text for token in read)


@PROPERTY
@given(scripts)
def test_statements_that_are_joined_are_split_again_into_the_same(script: str) -> None:
    try:
        statements = split(script)
    except InvalidScript:
        return
    # Not at the start, where U+FEFF would be no letter.
    again = split("\n;\n".join(["", *(statement.text for statement in statements)]))
    assert [(one.text, one.words) for one in again] == [(one.text, one.words) for one in statements]


# -- transactions ---------------------------------------------------------------------------------

CONTROLS = [
    "BEGIN",
    "begin isolation level serializable",
    "BEGIN WORK",
    "Begin Transaction",
    "START TRANSACTION",
    "START\nTRANSACTION READ ONLY",
    "COMMIT",
    "COMMIT WORK",
    "COMMIT TRANSACTION AND CHAIN",
    "commit and chain",
    "COMMIT PREPARED 'x'",
    "END",
    "END TRANSACTION",
    "ABORT",
    "ABORT WORK",
    "ROLLBACK",
    "ROLLBACK WORK",
    "ROLLBACK TRANSACTION",
    "ROLLBACK AND CHAIN",
    "ROLLBACK WORK AND NO CHAIN",
    "ROLLBACK PREPARED 'to'",
    "PREPARE TRANSACTION 'x'",
    "prepare/**/transaction--\n'x'",
    "/* a */ -- b\n\tCoMmIt",
    "COMMIT/**/AND/**/CHAIN",
    "rollback -- to x",
    "ROLLBACK /* TO */",
    "\ufeffCOMMIT",
    "(COMMIT)",
    "( /* */ (ROLLBACK",
    "COMMIT(",
]


@pytest.mark.parametrize("text", CONTROLS)
def test_what_begins_or_ends_a_transaction_is_refused(text: str) -> None:
    (statement,) = split(text)
    with pytest.raises(TransactionControl) as caught:
        refuse_transaction_control(statement)
    assert caught.value.message.startswith(f"line {statement.line}: {statement.words[0]}")
    assert "one transaction" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "SAVEPOINT a",
        "RELEASE a",
        "RELEASE SAVEPOINT commit",
        "ROLLBACK TO a",
        "rollback work to savepoint a",
        "ROLLBACK TRANSACTION TO a",
        "ROLLBACK/**/TO/**/a",
        "PREPARE p AS SELECT 1",
        "SET TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL DEFERRED",
        "DO $$ BEGIN COMMIT; END $$",
        '"commit"',
        'U&"commit"',
        "'COMMIT'",
        "committed",
        "comm\u0131t",
        "\u00a0COMMIT",
        "COMMENT ON TABLE t IS 'x'",
        "SELECT commit",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
        "-- COMMIT\nSELECT 1",
        "/* COMMIT; */ SELECT 1",
    ],
)
def test_savepoints_and_what_only_looks_like_a_transaction_are_allowed(text: str) -> None:
    (statement,) = split(text)
    refuse_transaction_control(statement)


def test_a_statement_without_words_is_allowed() -> None:
    refuse_transaction_control(Statement("''", 1, ()))


# -- placeholders ---------------------------------------------------------------------------------

LITERALS = {"srid": "2056", "minus": " -5", "name": "'it''s'", "path": r" E'C:\\x'", "none": "NULL"}


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("SELECT {srid}", "SELECT 2056"),
        ("SELECT {name}, {path}, {none}", r"SELECT 'it''s',  E'C:\\x', NULL"),
        ("{{srid}} {{{srid}}}", "{srid} {2056}"),
        ("{{}} }}{{", "{} }{"),
        ("{minus}-{minus}", " -5- -5"),
        # Comments stay.
        ("-- {a} { {{\n{srid} /* {b} }} */", "-- {a} { {{\n2056 /* {b} }} */"),
        # In quotes numbers alone.
        ("'{{}}' \"{{a}}\" E'\\'{{'", "'{}' \"{a}\" E'\\'{'"),
        ("'SRID={srid};POINT(0 0)'", "'SRID=2056;POINT(0 0)'"),
        ("\"geometry_{srid}\" '{none}'", "\"geometry_2056\" 'NULL'"),
        ("geometry_{srid}", "geometry_2056"),
        # In dollar quotes as outside of them.
        ("$$ SELECT {name} || '{{' -- {a}\n$$", "$$ SELECT 'it''s' || '{' -- {a}\n$$"),
        ("DO $a$ x $b$ {name} $b$ {srid} $a$", "DO $a$ x $b$ 'it''s' $b$ 2056 $a$"),
        ("$$ it's {srid} {{}} $$", "$$ it's 2056 {} $$"),
        ("$${name}$$", "$$'it''s'$$"),
        # A text does not become a part of what it touches.
        ("'a'{name}'b'", "'a' 'it''s' 'b'"),
        ("{name}{name}", "'it''s' 'it''s'"),
        ("E{name} U&{name} date{name}", "E 'it''s' U& 'it''s' date 'it''s'"),
        ("({name},{name})", "('it''s','it''s')"),
    ],
)
def test_placeholders_become_literals(text: str, bound: str) -> None:
    assert bind(text, LITERALS) == bound


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("a\n{", "line 2: a single { stands for nothing", "Write {{ for a brace"),
        ("}", "line 1: a single } stands for nothing", "Write }} for a brace"),
        ("{}", "line 1: a single { stands for nothing", ""),
        ("{0}", "line 1: a single { stands for nothing", ""),
        ("{ srid }", "line 1: a single { stands for nothing", ""),
        ("{srid!r}", "line 1: a single { stands for nothing", ""),
        ("{srid:x}", "line 1: a single { stands for nothing", ""),
        ("'{\"k\": 1}'", "line 1: a single { stands for nothing", ""),
        ("$$\n'{1,2}'$$", "line 2: a single { stands for nothing", ""),
        ("{{srid}", "line 1: a single } stands for nothing", ""),
        ("{SRID}", "line 1: there is no parameter SRID", "Is it {srid}? Upper and lower case"),
        ("{sird}", "line 1: there is no parameter sird", "Is it {srid}?"),
        ("{zzz}", "line 1: there is no parameter zzz", "There are: srid, minus, name, path"),
        ("'\n{name}'", "line 2: {name} stands within quotes, where only a number can be put", "||"),
        ("E'{path}'", "line 1: {path} stands within quotes, where only a number can be put", ""),
        ('"{name}"', "line 1: {name} stands within quotes, where only a number can be put", ""),
        ("U&'{name}'", "line 1: {name} stands within quotes, where only a number can be put", ""),
        ("$$ 'x {name}' $$", "line 1: {name} stands within quotes, where", ""),
        ("$$ it's {name} $$", "line 1: {name} stands within quotes, where", ""),
        ("$a$ $b$ '{name}' $b$ $a$", "line 1: {name} stands within quotes, where", ""),
    ],
)
def test_a_placeholder_that_cannot_be_replaced_is_refused(
    text: str, message: str, hint: str
) -> None:
    with pytest.raises(BadPlaceholder) as caught:
        bind(text, LITERALS)
    assert caught.value.message.startswith(message)
    assert hint in (caught.value.hint or "")


def test_a_name_without_any_parameter_is_told_how_to_be_no_placeholder() -> None:
    with pytest.raises(BadPlaceholder) as caught:
        bind("'{a}'", {})
    assert caught.value.hint == "Declare it, or write {{a}} for braces that stand for themselves."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$$ {v} $$", "'$$'"),
        ("$a$ {v} $a$", "'x $a$ y'"),
        ("$a$ $b$ {v} $b$ $a$", "'$b$'"),
        ("$a$ $b$ {v} $b$ $a$", "'$a$'"),
        ("$a1$ $a{v}$ $a1$", "1"),
    ],
)
def test_a_value_that_would_end_the_dollar_quotes_around_it_is_refused(
    text: str, value: str
) -> None:
    with pytest.raises(BadPlaceholder, match="which would end the quote that begins here"):
        bind(f"\n{text}", {"v": value})
    assert bind(text, {"v": "'$c$'"} if value != "1" else {"v": "2"})


def test_the_names_of_placeholders_come_once_each_in_their_order() -> None:
    text = "{b} {a} -- {c}\n{b} $$ {d} /* {e} */ '{f}' $$ {{g}} \"{h-i}\" {ñ_1}"
    assert parameter_names(text) == ["b", "a", "d", "f", "h-i", "ñ_1"]
    assert parameter_names("SELECT 'it' -- don't") == []


def test_names_are_not_told_of_a_text_whose_braces_mean_nothing() -> None:
    with pytest.raises(BadPlaceholder):
        parameter_names("{a} {1,2}")


@PROPERTY
@given(scripts.map(lambda text: text.replace("{", "").replace("}", "")))
def test_a_text_without_braces_stays_as_it_is(text: str) -> None:
    assert bind(text, {}) == text
    assert bind(text, LITERALS) == text


@PROPERTY
@given(scripts)
def test_a_text_whose_braces_are_doubled_outside_of_comments_stays_as_it_is(text: str) -> None:
    try:
        doubled = "".join(
            token.text
            if token.kind is Kind.COMMENT
            else token.text.replace("{", "{{").replace("}", "}}")
            for token in tokens(text)
            if token.kind is not Kind.DOLLAR_QUOTED
        )
        kept = "".join(t.text for t in tokens(text) if t.kind is not Kind.DOLLAR_QUOTED)
        bound = bind(doubled, {})
    except InvalidScript:
        return
    assert bound == kept


def test_an_open_quote_is_an_error_where_there_are_braces() -> None:
    with pytest.raises(InvalidScript, match="line 2: the quote that begins here"):
        bind("{srid}\n'", LITERALS)
