"""How the error output of pg_restore is read, and which errors may be judged. What a judge tries
again on a server is tested with restores."""

from __future__ import annotations

import sys

import pytest

from pgclone_admin.core import judge
from pgclone_admin.core.errors import KilledBySignal, RestoreFailed
from pgclone_admin.core.judge import (
    _REFERENCES,
    LONGEST_ERROR,
    ErrorCollector,
    RestoreError,
)
from pgclone_admin.core.process import Child
from pgclone_admin.core.programs import Command
from tests.support import CANARY

ENTRIES = {
    10: "TABLE public a app",
    11: "TABLE DATA public a app",
    12: "INDEX public a_idx app",
    20: "FK CONSTRAINT public orders orders_customer_fkey app",
    30: "ACL public TABLE a app",
    31: "DEFAULT ACL public DEFAULT PRIVILEGES FOR TABLES app",
    40: "COMMENT - EXTENSION plpgsql",
    50: "EXTENSION - postgis",
}
"""Kind, schema, name and owner of some entries, as pg_restore writes them."""

FOREIGN_KEY = """\
ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_customer_fkey FOREIGN KEY (customer_id) REFERENCES public.customer(id);


"""


def failed(entry: int | None, message: str, command: str | None = None) -> str:
    """What pg_restore says of one error."""
    lines = []
    if entry is not None:
        lines.append(f"pg_restore: from TOC entry {entry}; 1259 16400 {ENTRIES[entry]}")
    lines.append(f"pg_restore: error: {message}")
    if command is not None:
        lines.append(f"Command was: {command}")
    return "\n".join(lines) + "\n"


def ignored(count: int) -> str:
    return f"pg_restore: warning: errors ignored on restore: {count}\n"


def collect(text: str, *, retryable: bool = False) -> ErrorCollector:
    """A collector that has taken all of ``text``, and a line that ends the last error."""
    collector = ErrorCollector((CANARY,), retryable=retryable)
    for line in [*text.split("\n"), "pg_restore: creating something else"]:
        collector.take(line)
    return collector


def finish(collector: ErrorCollector, status: int) -> None:
    """What the collector says when pg_restore ends with this exit status, or by this signal."""
    code = f"import os; os._exit({status}) if {status} >= 0 else os.kill(os.getpid(), -({status}))"
    with Child(Command((sys.executable, "-S", "-c", code))) as child:
        collector.finish(child, child.wait())


# -- reading --------------------------------------------------------------------------------------


def test_an_error_is_read_with_its_entry_its_message_and_its_whole_command() -> None:
    said = (
        'could not execute query: ERROR:  insert or update on table "orders" violates foreign key\n'
        'DETAIL:  Key (customer_id)=(7) is not present in table "customer".'
    )
    collector = collect(
        'pg_restore: creating TABLE "public.orders"\n'
        "pg_restore: while PROCESSING TOC:\n" + failed(20, said, FOREIGN_KEY) + ignored(1)
    )
    (error,) = collector.errors
    assert error.entry == "FK CONSTRAINT public orders orders_customer_fkey app"
    assert error.is_a("FK CONSTRAINT")
    assert not error.is_a("CONSTRAINT", "TABLE", "FK CONSTRAIN")
    assert error.message == 'ERROR:  insert or update on table "orders" violates foreign key'
    assert error.command == FOREIGN_KEY.strip()
    assert collector.went_on_to_the_end


def test_errors_of_one_entry_are_told_apart() -> None:
    # pg_restore names the entry before the first of them only.
    collector = collect(
        failed(30, 'could not execute query: ERROR:  role "a" does not exist', "GRANT 1;")
        + failed(None, 'could not execute query: ERROR:  role "b" does not exist', "GRANT 2;\n")
        + failed(40, "could not execute query: ERROR:  no", "COMMENT 3;\nCOMMENT 4;")
        + ignored(3)
    )
    assert [(e.entry, e.command) for e in collector.errors] == [
        (ENTRIES[30], "GRANT 1;"),
        (ENTRIES[30], "GRANT 2;"),
        (ENTRIES[40], "COMMENT 3;\nCOMMENT 4;"),
    ]


def test_an_error_at_the_very_end_counts() -> None:
    collector = ErrorCollector()
    collector.take("pg_restore: error: could not read from input file: end of file")
    with pytest.raises(RestoreFailed, match=r"^pg_restore failed: could not read from input file"):
        finish(collector, 1)
    (error,) = collector.errors
    assert (error.entry, error.command) == ("", None)


def test_what_is_no_error_is_left_aside() -> None:
    collector = collect(
        "pg_restore: connecting to database for restore\n"
        'pg_restore: processing data for table "public.a"\n'
        "pg_restore: warning: archive items not in correct section order\n"
        "ERROR:  said by nobody\n"
    )
    assert collector.errors == []
    assert not collector.went_on_to_the_end
    assert not collector.is_hopeless


def test_grants_that_the_server_only_warns_of_are_listed_once_each() -> None:
    collector = collect(
        'pg_restore: creating FUNCTION "public.f()"\n'
        "pg_restore: WARNING:  something about a function\n"
        'pg_restore: creating ACL "public.FUNCTION f()"\n'
        'pg_restore: WARNING:  no privileges were granted for "f"\n'
        'pg_restore: WARNING:  no privileges were granted for "f"\n'
        'pg_restore: creating DEFAULT ACL "s.DEFAULT PRIVILEGES FOR TABLES"\n'
        "pg_restore: ADVERTENCIA:  en otra lengua\n"
        'pg_restore: creating ACL "public.TABLE t"\n'
        "pg_restore: warning: said by pg_restore itself\n"
    )
    assert list(collector.skipped_grants) == [
        'ACL "public.FUNCTION f()" (no privileges were granted for "f")',
        'DEFAULT ACL "s.DEFAULT PRIVILEGES FOR TABLES" (en otra lengua)',
    ]
    assert collector.errors == []


def test_f54_the_message_of_an_error_is_shown_without_the_password() -> None:
    text = failed(30, f"could not execute query: ERROR:  {CANARY} is no role", f"GRANT {CANARY};")
    (error,) = collect(text).errors
    assert error.message == "ERROR:  *** is no role"
    assert CANARY not in repr(error)
    # The command is tried again, so it has to be the real one.
    assert error.command == f"GRANT {CANARY};"


def test_an_endless_error_is_not_kept_and_not_repeated_in_part() -> None:
    text = failed(30, "could not execute query: ERROR:  no", "GRANT 1 TO a;\n" * 40_000)
    collector = collect(text + ignored(1))
    (error,) = collector.errors
    assert LONGEST_ERROR <= len(error.text) < LONGEST_ERROR + 1000
    assert error.command is None
    assert not error.can_be_judged


# -- judging --------------------------------------------------------------------------------------

SETTING = "SET transaction_timeout = 0;"


@pytest.mark.parametrize(
    ("entry", "command", "judged"),
    [
        (30, "GRANT SELECT ON TABLE public.a TO reader;", True),
        (31, "ALTER DEFAULT PRIVILEGES FOR ROLE x GRANT SELECT ON TABLES TO reader;", True),
        (40, "COMMENT ON EXTENSION plpgsql IS 'x';", True),
        (20, FOREIGN_KEY, True),
        (None, SETTING, True),
        (None, "SET idle_session_timeout = 0;", True),
        (10, "CREATE TABLE public.a (id integer);", False),
        (12, "CREATE INDEX i ON public.a USING btree (id);", False),
        (50, "CREATE EXTENSION IF NOT EXISTS postgis WITH SCHEMA public;", False),
        (None, "SET statement_timeout = 0;", False),
        (None, "SET transaction_timeout = 1000;", False),
        (None, SETTING + " DROP TABLE a;", False),
        (None, "GRANT SELECT ON TABLE public.a TO reader;", False),
        # Without a command there is nothing to try again: rows that are missing, a lost server.
        (11, None, False),
        (30, None, False),
    ],
)
def test_only_what_a_second_try_can_prove_harmless_is_judged(
    entry: int | None, command: str | None, judged: bool
) -> None:
    collector = collect(failed(entry, "could not execute query: ERROR:  no", command))
    (error,) = collector.errors
    assert error.can_be_judged is judged
    assert collector.is_hopeless is not judged


@pytest.mark.parametrize(("command", "judged"), [("CREATE INDEX i ON a (b);", True), (None, False)])
def test_what_nothing_else_needed_is_tried_again(command: str | None, judged: bool) -> None:
    text = failed(12, "could not execute query: ERROR:  deadlock detected", command)
    (error,) = collect(text, retryable=True).errors
    assert error.can_be_judged is judged
    assert not collect(text).errors[0].can_be_judged


def test_rows_that_are_missing_are_hopeless() -> None:
    collector = collect(
        failed(11, 'COPY failed for table "a": ERROR:  invalid input syntax for type integer: "x"')
    )
    assert collector.is_hopeless


def test_an_error_that_decides_is_known_before_the_program_ends_and_stays_known() -> None:
    collector = ErrorCollector()
    for line in failed(10, "could not execute query: ERROR:  no", "CREATE TABLE a ();").split("\n"):
        collector.take(line)
    assert not collector.is_hopeless
    collector.take('pg_restore: creating INDEX "public.i"')
    assert collector.is_hopeless
    for line in (failed(30, "ERROR:  x", "GRANT 1;") + ignored(2)).split("\n"):
        collector.take(line)
    assert collector.is_hopeless
    with pytest.raises(RestoreFailed, match=r"^pg_restore failed: ERROR:  no$"):
        finish(collector, 1)


# -- the end --------------------------------------------------------------------------------------

GRANT = failed(30, "could not execute query: ERROR:  no role", "GRANT 1;")


def test_success_without_errors_is_success() -> None:
    finish(collect(""), 0)


def test_f28_errors_that_can_be_judged_are_left_to_the_judge() -> None:
    collector = collect(GRANT + ignored(1))
    finish(collector, 1)
    assert len(collector.errors) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "failed with exit status 1", id="no reason"),
        pytest.param(GRANT, "failed with exit status 1", id="not to its end"),
        pytest.param(ignored(1), "failed with exit status 1", id="an error that was not seen"),
        pytest.param(
            GRANT + failed(10, "could not execute query: ERROR:  no", "CREATE TABLE a ();"),
            "pg_restore failed: ERROR:  no",
            id="hopeless",
        ),
    ],
)
def test_f28_everything_else_fails_the_restore(text: str, reason: str) -> None:
    with pytest.raises(RestoreFailed, match=reason):
        finish(collect(text), 1)


@pytest.mark.parametrize("text", ["", GRANT])
def test_f29_a_program_that_was_killed_fails_the_restore(text: str) -> None:
    with pytest.raises(KilledBySignal) as caught:
        finish(collect(text), -9)
    assert caught.value.signal == 9


def test_no_error_is_dropped_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "MOST_ERRORS", 3)
    finish(collect(GRANT * 2 + ignored(2)), 1)
    with pytest.raises(RestoreFailed, match="more than 3 errors, the first is: ERROR:  no role"):
        finish(collect(GRANT * 4 + ignored(4)), 1)


# -- foreign keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "referenced"),
    [
        (FOREIGN_KEY, ("public", "customer")),
        ("REFERENCES public.a(id)", ("public", "a")),
        ("REFERENCES a (id)", (None, "a")),
        ('REFERENCES "odd. ""schema"."My(Table"(id)', ('"odd. ""schema"', '"My(Table"')),
        ('REFERENCES "schéma 2"."tāble"("vàl""ue")', ('"schéma 2"', '"tāble"')),
        ("REFERENCES public.a(id, b) ON DELETE CASCADE NOT VALID", ("public", "a")),
    ],
)
def test_the_table_that_a_foreign_key_needs_is_found(
    command: str, referenced: tuple[str | None, str]
) -> None:
    match = _REFERENCES.search(command)
    assert match is not None
    assert match.groups() == referenced


def test_an_error_without_a_first_line_has_an_empty_message() -> None:
    assert RestoreError("", "").message == ""
    assert RestoreError("", "").command is None
