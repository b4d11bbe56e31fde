"""SQL and Python hooks, and hooks of PUM, at work on what a restore has built."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management import BaseCommand, get_commands
from django.db import connections

from pgclone_admin.core.errors import (
    ConfigurationError,
    HookFailed,
    Stalled,
    TimedOut,
    UsageError,
)
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.hooks import HookSpec
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services.dumps import create_dump
from pgclone_admin.services.restores import Restored, Variant, plan_restore, restore, swap
from tests.support import CANARY

from .operations import unchanged
from .test_hooks import current_database

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def here(project, use_database, settings, tmp_path):
    """The people project, also as the database ``default`` of this process."""
    use_database(project)
    for name, value in project.settings.items():
        setattr(settings, name, value)
    project.run('CREATE VIEW people_note AS SELECT * FROM "MyTable"')
    settings.BASE_DIR = tmp_path / "site"
    (tmp_path / "site").mkdir()
    return project


@pytest.fixture
def key(here) -> str:
    return create_dump(resolve(Arguments(), verb="dump"), SilentReporter()).key


@pytest.fixture
def write(here, settings) -> Callable[[str, str], str]:
    """``write("hooks/x.sql", text)``: a file of the project."""

    def write(name: str, text: str) -> str:
        path = Path(settings.BASE_DIR) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return name

    return write


@pytest.fixture
def command(monkeypatch) -> Callable[[str, Callable[[], Any]], str]:
    def make(name: str, function: Callable[..., Any]) -> str:
        class Command(BaseCommand):
            def add_arguments(self, parser: Any) -> None:
                parser.add_argument("words", nargs="*")
                parser.add_argument("--loud", action="store_true")
                parser.add_argument("--times", type=int, default=1)

            def handle(self, *args: Any, **options: Any) -> None:
                function(options)

        monkeypatch.setitem(get_commands(), name, Command())
        return name

    return make


def restored(
    key: str,
    *hooks: HookSpec,
    reporter: SilentReporter | None = None,
    params: Mapping[str, Any] | None = None,
    variant: Variant | None = None,
    **arguments: Any,
) -> Restored:
    options = resolve(
        Arguments(dump_key=key, pre_swap_hooks=list(hooks), hook_params=params, **arguments),
        verb="restore",
    )
    return restore(options, reporter or SilentReporter(), variant=variant or Variant())


NOTE = "INSERT INTO people_note (text) VALUES ({})"


def note(text: str) -> dict[str, str]:
    return {"code": f"INSERT INTO people_note (text) VALUES ('{text}')"}


# -- SQL -------------------------------------------------------------------------------------------


def test_sql_from_settings_and_files_runs_in_its_order_on_the_temporary_database(here, key, write):
    file = write(
        "hooks/notes.sql",
        """
        -- a comment; with a semicolon
        INSERT INTO people_note (text) VALUES ('a;b -- no comment');
        INSERT INTO people_note (text) SELECT current_database(); /* the end */
        """,
    )
    done = restored(key, note("first"), {"file": file}, note("last"))
    assert here.notes()[-4:] == ["first", "a;b -- no comment", f"{here.name}__temp", "last"]
    assert [(hook.kind, hook.name) for hook in done.hooks] == [
        ("sql", "SQL: INSERT INTO people_note (text) VALUES ('first')"),
        ("sql", "hooks/notes.sql"),
        ("sql", "SQL: INSERT INTO people_note (text) VALUES ('last')"),
    ]


def test_a_text_that_ends_in_sql_or_py_is_a_file(here, key, write):
    write("a.sql", "INSERT INTO people_note (text) VALUES ('by a.sql')")
    write(
        "b.py",
        """
        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection):
                self.execute("INSERT INTO people_note (text) VALUES ('by b.py')")
        """,
    )
    restored(key, "a.sql", "b.py")
    assert here.notes()[-2:] == ["by a.sql", "by b.py"]


def test_a_later_error_undoes_all_of_the_transaction_and_nothing_is_swapped(
    here, key, nothing_left_behind
):
    temporary = f"{here.name}__temp"
    nothing_left_behind.allow(temporary)
    with unchanged(here, made=[temporary]), pytest.raises(HookFailed) as raised:
        restored(key, note("undone"), {"code": "SELECT 1;\nSELECT nonsense", "name": "broken"})
    assert raised.value.message.startswith('the hook "broken" failed: column "nonsense" does not')
    assert "in the statement of line 2: SELECT nonsense" in raised.value.message
    assert "undone" not in here.notes(temporary)


def test_what_was_done_before_a_management_command_is_there_for_it(here, key, command):
    """It has another connection, which would wait for ever for a table that was altered."""
    seen = []

    def look(_options):
        with connections["default"].cursor() as cursor:
            cursor.execute('SELECT text, extra FROM "MyTable" ORDER BY id DESC LIMIT 1')
            seen.append(cursor.fetchone())

    alter = {"code": 'ALTER TABLE "MyTable" ADD extra int DEFAULT 7'}
    drop = {"code": 'ALTER TABLE "MyTable" DROP extra'}
    restored(key, alter, note("seen"), command("look", look), drop)
    assert seen == [("seen", 7)]


@pytest.mark.parametrize(
    "code",
    [
        "COMMIT",
        "commit work",
        "INSERT INTO people_note (text) VALUES ('x'); COMMIT;",
        "/* hidden */ commit -- here",
        "END",
        "ROLLBACK",
        "ABORT TRANSACTION",
        "BEGIN",
        "start\n\ttransaction",
        "PREPARE TRANSACTION 'x'",
        "COMMIT AND CHAIN",
    ],
)
def test_sql_that_would_end_the_transaction_is_refused_before_anything(here, key, code):
    with unchanged(here), pytest.raises(ConfigurationError) as raised:
        restored(key, {"code": code})
    assert "cannot be used" in raised.value.message


def test_savepoints_are_the_own_business_of_a_hook(here, key):
    code = """
        SAVEPOINT here;
        INSERT INTO people_note (text) VALUES ('gone');
        ROLLBACK TO SAVEPOINT here;
        INSERT INTO people_note (text) VALUES ('stays');
    """
    restored(key, {"code": code})
    assert here.notes()[-1] == "stays"
    assert "gone" not in here.notes()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"file": "missing.sql"}, "does not exist"),
        ({"file": "notes.txt"}, "neither SQL nor Python"),
        ({"code": "SELECT 'open"}, "cannot be used"),
        ({"code": "SELECT 1", "file": "x.sql"}, "a hook cannot be read"),
        ({"code": "SELECT 1", "shell": True}, "a key that is not known: shell"),
        ({"code": "SELECT 1", "timeout": 0}, "timeout"),
        ({"command": "good_hook", "options": {"no_such": 1}}, "no_such"),
        ({"command": "migrate", "args": ["--no-such-flag"]}, "arguments: --no-such-flag"),
        ({"command": "loaddata"}, "No database fixture specified"),
        ({"pum": "missing.yaml"}, "cannot be read"),
        ({}, "a hook cannot be read"),
    ],
)
def test_a_hook_that_cannot_work_is_refused_before_anything(here, key, write, spec, said):
    write("notes.txt", "")
    with unchanged(here), pytest.raises(UsageError) as raised:
        restored(key, spec)
    assert said in raised.value.message


# -- parameters ------------------------------------------------------------------------------------

PARAMETERS = [
    {"name": "who", "default": "it's \\ {nobody}"},
    {"name": "times", "type": "integer", "default": 2, "values": [1, 2, 3]},
    {"name": "really", "type": "boolean", "default": False},
]

TEMPLATE = {
    "name": "template",
    "code": "INSERT INTO people_note (text) SELECT {who} || ' {{}} ' || n || {really}::text "
    "FROM generate_series(1, {times}) n",
    "parameters": PARAMETERS,
}


def test_parameters_are_bound_as_literals_with_their_defaults(here, key):
    restored(key, TEMPLATE)
    assert here.notes()[-2:] == ["it's \\ {nobody} {} 1false", "it's \\ {nobody} {} 2false"]


def test_values_of_parameters_come_from_arguments_over_configuration_over_settings(
    here, key, settings
):
    settings.PGCLONE_HOOK_PARAMS = {"who": "by setting", "times": 1, "unknown": 1}
    configured = {"who": "by configuration", "really": True}
    settings.PGCLONE_CONFIGS = {"here": {"hook_params": configured}}
    restored(key, TEMPLATE, config="here")
    assert here.notes()[-1] == "by configuration {} 1true"
    restored(key, TEMPLATE, config="here", params={"who": "'; DROP TABLE people_note; --"})
    assert here.notes()[-1] == "'; DROP TABLE people_note; -- {} 1true"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"times": "4"}, 'the value of the parameter "times" is not allowed'),
        ({"times": "many"}, 'the value of the parameter "times" cannot be used'),
        ({"Times": "1"}, 'no hook of this run has a parameter "Times"'),
    ],
)
def test_values_that_no_hook_asks_for_are_refused_before_anything(here, key, params, said):
    with unchanged(here), pytest.raises(UsageError) as raised:
        restored(key, TEMPLATE, params=params)
    assert said in raised.value.message


def test_a_parameter_without_a_default_needs_a_value(here, key):
    hook = {"code": "SELECT {srid}", "parameters": [{"name": "srid", "type": "integer"}]}
    with unchanged(here), pytest.raises(UsageError, match="has no value"):
        restored(key, hook)
    restored(key, hook, params={"srid": "2056"})


def test_without_parameters_braces_are_just_braces(here, key):
    restored(key, {"code": "INSERT INTO people_note (text) VALUES ('{\"a\": {}}')"})
    assert here.notes()[-1] == '{"a": {}}'


# -- Python ----------------------------------------------------------------------------------------


def test_a_python_hook_has_its_connection_its_parameters_and_modules_beside_it(here, key, write):
    write("hooks/words.py", "WORD = 'from a module beside it'")
    write("hooks/deeper/__init__.py", "")
    write("hooks/deeper/more.py", "WORD = 'from a package beside it'")
    write("hooks/plain.sql", "INSERT INTO people_note (text) VALUES ({who})")
    file = write(
        "hooks/talk.py",
        """
        from pathlib import Path

        import words
        from psycopg2 import sql
        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection, who, times, extra="default"):
                from deeper.more import WORD

                print("hello")
                assert isinstance(times, int) and extra == "default"
                note = "INSERT INTO people_note (text) VALUES ({who})"
                self.execute(note)
                self.execute(sql.SQL("INSERT INTO {} (text) VALUES ('composed')").format(
                    sql.Identifier("people_note")
                ))
                self.execute(Path("plain.sql"))
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO people_note (text) VALUES (%s)", [words.WORD])
                connection.execute("INSERT INTO people_note (text) VALUES (%s)", (WORD,))
                self.execute("SELECT 1")
                rows = self.execute("SELECT count(*) FROM people_person").fetchall()
                assert rows[0][0] > 0
        """,
    )
    before = list(sys.path), set(sys.modules)
    reporter = SilentReporter()
    hook = {"file": file, "parameters": PARAMETERS}
    restored(key, hook, reporter=reporter, params={"who": "Ada"})
    assert here.notes()[-5:] == [
        "Ada",
        "composed",
        "Ada",
        "from a module beside it",
        "from a package beside it",
    ]
    assert "  hello" in reporter.notes
    assert list(sys.path) == before[0]
    left = {name for name in set(sys.modules) - before[1] if "hook" in name or name == "words"}
    assert not {name for name in left if not name.startswith(("pgclone_admin", "tests"))}


COMPOSED = (
    "sql.SQL('INSERT INTO people_note (text) VALUES ({})').format(sql.Literal(TEXT))",
    "sql.SQL('INSERT INTO people_note (text) VALUES (') + sql.Literal(TEXT) + sql.SQL(')')",
)

COMPOSES = """
    from psycopg2 import sql
    from pgclone_admin.hooks import HookBase

    TEXT = {text!r}

    class Hook(HookBase):
        def run_hook(self, connection):
            self.execute({query})
    """


@pytest.mark.parametrize("query", COMPOSED, ids=["format", "sum"])
@pytest.mark.parametrize("text", ["Dear {{who}}, {who}", '{"a": {}}', "50 % {"])
def test_braces_in_a_composed_value_stay_as_they_are(here, key, write, query, text):
    """What is composed holds its values: none of them is a template, also in a hook of PUM."""
    write("hook.py", COMPOSES.format(text=text, query=query))
    write(".pum.yaml", "application:\n  create:\n    - file: hook.py\n")
    restored(key, {"file": "hook.py", "parameters": PARAMETERS}, {"pum": ".pum.yaml"})
    assert here.notes()[-2:] == [text, text]


def test_a_bare_sql_is_a_text_with_parameters(here, key, write):
    query = "sql.SQL(\"INSERT INTO people_note (text) VALUES ({who} || '{{}}')\")"
    write("hook.py", COMPOSES.format(text="", query=query))
    restored(key, {"file": "hook.py", "parameters": PARAMETERS}, params={"who": "Ada"})
    assert here.notes()[-1] == "Ada{}"


def test_two_hooks_may_have_modules_of_one_name_beside_them(here, key, write):
    body = """
        import words
        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection):
                connection.execute("INSERT INTO people_note (text) VALUES (%s)", [words.WORD])
        """
    for folder in ("one", "two"):
        write(f"{folder}/words.py", f"WORD = '{folder}'")
        write(f"{folder}/hook.py", body)
    restored(key, "one/hook.py", "two/hook.py", "one/hook.py")
    assert here.notes()[-3:] == ["one", "two", "one"]


WAYS_TO_END = {
    "commit": "connection.commit()",
    "rollback": "connection.rollback()",
    "execute": "connection.execute('COMMIT')",
    "cursor": "connection.cursor().execute('/* x */ commit')",
    "several": "connection.cursor().execute('SELECT 1; END; SELECT 2')",
    "self": "self.execute('ROLLBACK')",
    "with": "with connection: pass",
    "autocommit": "connection.autocommit = True",
    "isolation": "connection.set_isolation_level(0)",
    "session": "connection.set_session(autocommit=True)",
    "bytes": "connection.cursor().execute(b'COMMIT')",
    "many": "connection.cursor().executemany('COMMIT', [()])",
    "composed": "connection.cursor().execute(psycopg2.sql.SQL('COM') + psycopg2.sql.SQL('MIT'))",
    "other cursor": "connection.cursor(cursor_factory=DictCursor).execute('COMMIT')",
    "base class": "psycopg2.extensions.connection.commit(connection)",
    "chain": "psycopg2.extensions.cursor.execute(connection.cursor(), 'COMMIT AND CHAIN')",
    "exit": "psycopg2.extensions.connection.commit(connection); raise SystemExit(0)",
    "close": "connection.close()",
    "procedure": "connection.execute('DO $$ BEGIN COMMIT; END $$')",
}


@pytest.mark.parametrize("way", WAYS_TO_END)
def test_no_way_to_end_the_transaction_reaches_the_swap(here, key, write, way, nothing_left_behind):
    temporary = f"{here.name}__temp"
    nothing_left_behind.allow(temporary)
    file = write(
        "ends.py",
        f"""
        import psycopg2, psycopg2.sql
        from psycopg2.extras import DictCursor
        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection):
                self.execute("INSERT INTO people_note (text) VALUES ('half')")
                {WAYS_TO_END[way]}
        """,
    )
    with unchanged(here, made=[temporary]), pytest.raises(HookFailed) as raised:
        restored(key, file)
    assert raised.value.message.startswith('the hook "ends.py" ')


FAILING = {
    "self.execute('SELECT {nobody}')": "line 1: there is no parameter nobody",
    r"self.execute(r'\dt')": r"line 1: \dt is a command of psql",
    "connection.execute('SELECT \"open')": "line 1: ",
    "raise ConfigurationError('a setting is wrong')": "a setting is wrong",
    "raise PermissionMissing('not for you')": "not for you",
}


@pytest.mark.parametrize("statement", FAILING)
def test_every_error_of_a_python_hook_is_told_as_its_own(
    here, key, write, statement, nothing_left_behind
):
    """And what it has failed on is kept for a look at it, whatever kind of error it is."""
    temporary = f"{here.name}__temp"
    nothing_left_behind.allow(temporary)
    file = write(
        "fails.py",
        f"""
        from pgclone_admin.core.errors import ConfigurationError, PermissionMissing
        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection, who):
                {statement}
        """,
    )
    with unchanged(here, made=[temporary]), pytest.raises(HookFailed) as raised:
        restored(key, {"file": file, "parameters": PARAMETERS})
    assert raised.value.message.startswith(f'the hook "fails.py" failed: {FAILING[statement]}')
    assert f'The temporary database "{temporary}" is kept' in (raised.value.hint or "")


@pytest.mark.parametrize("work", ["async def work(): pass", "def work(): yield"])
def test_a_hook_that_only_prepares_its_work_has_failed(here, key, write, work, nothing_left_behind):
    """It is not seen before it runs, and nothing of it has been done."""
    temporary = f"{here.name}__temp"
    nothing_left_behind.allow(temporary)
    file = write(
        "lazy.py",
        f"""
        from pgclone_admin.hooks import HookBase

        {work}

        class Hook(HookBase):
            def run_hook(self, connection):
                return work()
        """,
    )
    with unchanged(here, made=[temporary]), pytest.raises(HookFailed, match="has done nothing"):
        restored(key, file)


CURSORS = {
    "DictCursor": "connection.cursor(cursor_factory=extras.DictCursor)",
    "RealDictCursor": "connection.cursor(cursor_factory=extras.RealDictCursor)",
    "by position": "connection.cursor(None, extras.NamedTupleCursor)",
    "plain": "connection.cursor(cursor_factory=psycopg2.extensions.cursor)",
    "by attribute": "as_attribute(connection)",
    "no class": "connection.cursor(cursor_factory=lambda *a: extras.DictCursor(*a))",
}


@pytest.mark.parametrize("cursor", CURSORS)
@pytest.mark.parametrize("call", ["execute('COMMIT')", "executemany('COMMIT', [()])"])
def test_no_cursor_commits_on_the_live_database(here, write, cursor, call):
    """There nothing is thrown away: what is committed stays."""
    file = write(
        "ends.py",
        f"""
        import psycopg2
        from psycopg2 import extras
        from pgclone_admin.hooks import HookBase

        def as_attribute(connection):
            connection.cursor_factory = extras.RealDictCursor
            return connection.cursor()

        class Hook(HookBase):
            def run_hook(self, connection):
                self.execute("INSERT INTO people_note (id, text) VALUES (-1, 'half')")
                cursor = {CURSORS[cursor]}
                cursor.execute("INSERT INTO people_note (id, text) VALUES (-2, 'half')")
                cursor.{call}
        """,
    )
    options = resolve(Arguments(pre_dump_hooks=[file]), verb="dump")
    with unchanged(here), pytest.raises(HookFailed, match=r'the hook "ends\.py" failed: '):
        create_dump(options, SilentReporter())
    assert here.files() == []


def test_a_hook_has_the_rows_of_the_cursor_that_it_asks_for(here, key, write):
    file = write(
        "rows.py",
        """
        from psycopg2 import extras
        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection):
                query = "SELECT 'Ada' AS who"
                for factory in (extras.DictCursor, extras.RealDictCursor):
                    with connection.cursor(cursor_factory=factory) as cursor:
                        assert cursor.execute(query).fetchone()["who"] == "Ada"
                with connection.cursor("named", extras.NamedTupleCursor) as cursor:
                    cursor.execute(query)
                    assert [row.who for row in cursor] == ["Ada"]
                with connection.cursor() as cursor:
                    note = "INSERT INTO people_note (text) VALUES %s"
                    extras.execute_values(cursor, note, [("one",), ("two",)])
        """,
    )
    restored(key, file)
    assert here.notes()[-2:] == ["one", "two"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("class Hook: pass", "no class Hook that inherits from HookBase"),
        ("def run_hook(connection): pass", "no class Hook that inherits from HookBase"),
        ("class Hook(HookBase): pass", "no method run_hook"),
        ("class Hook(HookBase):\n    def run_hook(connection): pass", "self and connection"),
        ("class Hook(HookBase):\n    def run_hook(self): pass", "self and connection"),
        ("class Hook(HookBase):\n    def run_hook(self, connection, srid): pass", "asks for srid"),
        ("class Hook(HookBase):\n    def run_hook(self, c, **kw): pass", "has to name"),
        ("class Hook(HookBase):\n    async def run_hook(self, c): pass", "would do nothing"),
        ("class Hook(HookBase):\n    def run_hook(self, c): yield", "would do nothing"),
        ("class Hook(HookBase):\n    async def run_hook(self, c): yield", "would do nothing"),
        ("import no_such_module", "cannot be loaded: ModuleNotFoundError"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("raise SystemExit", "cannot be loaded: SystemExit"),
        ("nonsense nonsense", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_python_hook_that_cannot_work_is_refused_before_anything(here, key, write, body, said):
    path = write("bad.py", "")
    Path(here_path(path)).write_text(f"from pgclone_admin.hooks import HookBase\n{body}\n")
    before = set(sys.modules)
    with unchanged(here), pytest.raises(ConfigurationError) as raised:
        restored(key, path)
    assert said in raised.value.message
    assert {name for name in set(sys.modules) - before if name.startswith("pgclone_hook")} == set()


def here_path(name: str) -> Path:
    from django.conf import settings as django_settings  # noqa: PLC0415

    return Path(django_settings.BASE_DIR) / name


def test_what_the_project_finds_by_itself_is_not_loaded_twice(
    here, key, write, tmp_path, monkeypatch
):
    """Also where it is found by a link, or in a folder of its own within the project."""
    write("app/__init__.py", "")
    write("app/things.py", "STATE = []")
    write("src/library.py", "")
    (tmp_path / "current").symlink_to(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "current"))
    monkeypatch.syspath_prepend(str(tmp_path / "site" / "src"))
    things = importlib.import_module("app.things")
    write(
        "hooks/look.py",
        """
        import library
        from app import things
        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection):
                things.STATE.append("ran")
        """,
    )
    try:
        restored(key, "hooks/look.py")
        assert things.STATE == ["ran"]
        assert "library" in sys.modules
    finally:
        for name in ("app", "app.things", "library"):
            sys.modules.pop(name, None)


def test_models_in_a_python_hook_are_those_of_the_temporary_database(here, key, write):
    write(
        "models.py",
        """
        from pgclone_admin.hooks import HookBase
        from tests.project.people.models import Note

        class Hook(HookBase):
            def run_hook(self, connection):
                Note.objects.create(text="by the model")
        """,
    )
    live = here.notes()
    restored(key, {"file": "models.py"}, variant=Variant(beside=":beside"))
    assert here.notes("beside")[-1] == "by the model"
    assert here.notes() == live


USES_MODELS = """
    from pgclone_admin.hooks import HookBase
    from tests.project.people.models import Note

    class Hook(HookBase):
        def run_hook(self, connection):
            {before}
            Note.objects.create(text="by the model")
    """


@pytest.mark.parametrize("stage", ["pre_dump", "pre_swap"])
def test_a_model_that_waits_for_its_own_hook_is_told_so(
    here, key, write, stage, nothing_left_behind
):
    """It would wait for ever: the thread that could commit is the one that waits."""
    alter = """self.execute('ALTER TABLE "MyTable" ADD extra int')"""
    file = write("waits.py", USES_MODELS.format(before=alter))
    hook = {"file": file, "timeout": 20}
    temporary = f"{here.name}__temp"
    nothing_left_behind.allow(temporary)
    dumping = resolve(Arguments(pre_dump_hooks=[hook]), verb="dump")
    run, made = {
        "pre_dump": (lambda: create_dump(dumping, SilentReporter()), []),
        "pre_swap": (lambda: restored(key, hook), [temporary]),
    }[stage]
    with unchanged(here, made=made), pytest.raises(HookFailed) as raised:
        run()
    said = 'the hook "waits.py" failed: a model waited for a lock that the transaction of the hooks'
    assert raised.value.message.startswith(said)
    assert "Models have a connection of their own." in (raised.value.hint or "")


def test_a_model_may_wait_for_the_site(here, write):
    """On the live database somebody else may hold a lock for a while."""
    file = write("waits.py", USES_MODELS.format(before="self.execute('SELECT 1')"))
    options = resolve(Arguments(pre_dump_hooks=[file]), verb="dump")
    with contextlib.ExitStack() as stack:
        stack.enter_context(here.server.table_locked(here.name, '"MyTable"'))
        letting_go = threading.Timer(3.5, stack.close)
        letting_go.start()
        begun = time.monotonic()
        create_dump(options, SilentReporter())
        assert time.monotonic() - begun > 3
        letting_go.join()
    assert here.notes()[-1] == "by the model"


def test_what_models_write_in_a_hook_before_a_dump_stays(here, write):
    """They have another connection, which commits by itself."""
    file = write("models.py", USES_MODELS.format(before=f"self.execute({NOTE.format(1)!r})"))
    options = resolve(Arguments(pre_dump_hooks=[file, {"code": "SELECT no"}]), verb="dump")
    before = here.notes()
    with pytest.raises(HookFailed, match="SELECT no"):
        create_dump(options, SilentReporter())
    assert here.notes() == [*before, "by the model"]


def test_a_hook_beside_a_file_that_is_called_as_an_app_reaches_the_app(here, key, write):
    write("hooks/tests.py", "")
    file = write(
        "hooks/people.py",
        """
        from pgclone_admin.hooks import HookBase
        from tests.project.people.models import Person

        class Hook(HookBase):
            def run_hook(self, connection):
                self.execute(f"INSERT INTO people_note (text) VALUES ('{Person.__name__}')")
        """,
    )
    restored(key, file)
    assert here.notes()[-1] == "Person"


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        {"code": "SELECT pg_sleep(60)", "timeout": 0.6},
        {"command": "be_slow", "timeout": 0.6},
        {"command": "wait_for_server", "timeout": 0.6},
        {"command": "deaf", "timeout": 0.6},
    ],
    ids=["sql", "python sleep", "command in the server", "swallows every error"],
)
def test_f35_a_hook_that_takes_too_long_is_ended(here, key, command, spec, nothing_left_behind):
    temporary = f"{here.name}__temp"
    nothing_left_behind.allow(temporary)

    def wait(_options):
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    def be_deaf(_options):
        for _ in range(600):
            try:
                time.sleep(0.1)
            except Exception:  # noqa: BLE001 - that is the point
                continue

    command("be_slow", lambda _options: time.sleep(60))
    command("wait_for_server", wait)
    command("deaf", be_deaf)
    started = time.monotonic()
    with unchanged(here, made=[temporary]), pytest.raises(HookFailed) as raised:
        restored(key, {**spec, "name": "slow"})
    assert time.monotonic() - started < 30
    assert raised.value.message.startswith('the hook "slow" failed: it took longer than 0.6 s')


def test_f35_a_hook_that_swallows_its_end_has_failed_all_the_same(
    here, key, command, nothing_left_behind
):
    nothing_left_behind.allow(f"{here.name}__temp")

    def swallow(_options):
        with contextlib.suppress(BaseException):
            time.sleep(60)

    spec = {"command": command("swallow", swallow), "timeout": 0.5}
    with pytest.raises(HookFailed, match=r"it took longer than 0\.5 s"):
        restored(key, spec)


def test_a_hook_in_the_server_ends_when_the_run_is_to_end(here, key):
    class Ending(SilentReporter):
        began = 0.0

        def note(self, message: str) -> None:
            super().note(message)
            if message.startswith("running the hook"):
                self.began = time.monotonic()

        def is_to_end(self) -> bool:
            return self.began > 0 and time.monotonic() - self.began > 0.5

        def check(self) -> None:
            if self.is_to_end():
                raise TimedOut

    with unchanged(here), pytest.raises(TimedOut):
        restored(key, {"code": "SELECT pg_sleep(60)"}, reporter=Ending())


@pytest.mark.parametrize("met", [Stalled, TimedOut])
def test_a_hook_that_meets_the_end_of_something_else_fails_under_its_name(
    here, key, command, nothing_left_behind, met
):
    nothing_left_behind.allow(f"{here.name}__temp")

    def fetch(_options):
        raise met("the storage does not answer")

    with unchanged(here, made=[f"{here.name}__temp"]), pytest.raises(HookFailed) as raised:
        restored(key, {"command": command("fetch", fetch)})
    assert raised.value.message == 'the hook "fetch" failed: the storage does not answer'


# -- what only the end of a transaction finds ------------------------------------------------------


def test_a_deferred_constraint_is_an_error_of_the_hooks(here, key, nothing_left_behind):
    nothing_left_behind.allow(f"{here.name}__temp")
    orphan = {
        "name": "orphan",
        "code": "CREATE TABLE line (id int PRIMARY KEY, "
        "above int REFERENCES line DEFERRABLE INITIALLY DEFERRED); INSERT INTO line VALUES (1, 7)",
    }
    with pytest.raises(HookFailed) as raised:
        restored(key, orphan)
    assert raised.value.message.startswith('what was done by "orphan" cannot be committed: insert')


# -- asynchronous code -----------------------------------------------------------------------------


def test_asynchronous_code_of_a_hook_reaches_the_temporary_database(here, key, command):
    """The ORM runs it in a thread that may have been there before."""
    found = []

    async def look():
        found.append(await sync_to_async(current_database)())
        await sync_to_async(connections.close_all)()

    asyncio.run(look())
    restored(key, command("look", lambda _options: asyncio.run(look())))
    asyncio.run(look())
    assert found == [here.name, f"{here.name}__temp", here.name]


def test_a_python_hook_runs_asynchronous_code_to_its_end(here, key, write):
    file = write(
        "hook.py",
        """
        import asyncio
        from pgclone_admin.hooks import HookBase

        async def work(connection):
            connection.execute("INSERT INTO people_note (text) VALUES ('asynchronous')")

        class Hook(HookBase):
            def run_hook(self, connection):
                asyncio.run(work(connection))
        """,
    )
    restored(key, file)
    assert here.notes()[-1] == "asynchronous"


# -- commands with arguments -----------------------------------------------------------------------


def test_a_command_is_given_its_arguments_and_options(here, key, command):
    given = []
    names = ("words", "loud", "times")
    command("talk", lambda options: given.append({name: options[name] for name in names}))
    spec = {"command": "talk", "args": ["a", 1], "options": {"loud": True, "times": 3}}
    done = restored(key, spec, "talk")
    assert given == [
        {"words": ["a", "1"], "loud": True, "times": 3},
        {"words": [], "loud": False, "times": 1},
    ]
    assert [hook.name for hook in done.hooks] == ["talk a 1 --loud --times=...", "talk"]


# -- after the swap --------------------------------------------------------------------------------


def test_post_swap_hooks_run_on_the_live_database_after_the_swap(here, key, command):
    seen = []
    name = command("look", lambda _options: seen.append(current_database()))
    done = restored(key, "good_hook", post_swap_hooks=[name, note("after")])
    assert seen == [here.name]
    assert here.notes()[-2:] == [f"good hook in {here.name}__temp", "after"]
    assert len(done.hooks) == 3


def test_f59_a_failing_post_swap_hook_is_told_and_the_restore_is_done(here, key):
    here.add_person("live")
    reporter = SilentReporter()
    hooks = [{"code": "SELECT nonsense", "name": "broken"}, note("still runs")]
    restored(key, reporter=reporter, post_swap_hooks=hooks)
    assert "live" not in here.people()
    assert here.notes()[-1] == "still runs"
    (warning,) = reporter.warnings
    assert warning.startswith('the restore is done, but the hook "broken" failed: column "nons')


def test_nothing_is_swapped_so_no_post_swap_hook_runs(here, key):
    hooks = [note("after")]
    restored(key, post_swap_hooks=hooks, variant=Variant(beside=":beside"))
    restored(key, post_swap_hooks=hooks, variant=Variant(drill=True))
    restored(key, post_swap_hooks=hooks, variant=Variant(hold=True))
    assert "after" not in here.notes() + here.notes("beside")
    options = resolve(Arguments(post_swap_hooks=hooks), verb="restore")
    assert [hook.kind for hook in swap(options, SilentReporter()).hooks] == ["sql"]
    assert here.notes()[-1] == "after"


# -- before a dump ---------------------------------------------------------------------------------


def test_sql_and_python_hooks_before_a_dump_are_in_the_dump(here, write):
    options = resolve(Arguments(pre_dump_hooks=[note("before the dump")]), verb="dump")
    manifest = create_dump(options, SilentReporter())
    assert manifest.hooks == ("SQL: INSERT INTO people_note (text) VALUES ('before the dump')",)
    assert here.notes()[-1] == "before the dump"
    here.run("DELETE FROM people_note")
    restored(manifest.key)
    assert here.notes()[-1] == "before the dump"


def test_a_failing_hook_before_a_dump_undoes_those_of_its_transaction(here):
    hooks: list[HookSpec] = [note("undone"), {"code": "SELECT nonsense"}]
    options = resolve(Arguments(pre_dump_hooks=hooks), verb="dump")
    with pytest.raises(HookFailed):
        create_dump(options, SilentReporter())
    assert "undone" not in here.notes()
    assert here.files() == []


# -- PUM -------------------------------------------------------------------------------------------


def test_hooks_of_pum_run_directly_before_and_after_migrate(here, key, write, command):
    write("db/pre/drop_view.sql", "DROP VIEW IF EXISTS some_view;")
    write(
        "db/post/view.py",
        """
        from columns import select_columns
        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection, least: int):
                columns = select_columns(connection.cursor(), "people_note")
                sql_code = f'''
                    CREATE OR REPLACE VIEW some_view AS
                    SELECT {columns} FROM people_note WHERE id >= {{least}};
                '''
                self.execute(sql=sql_code)
        """,
    )
    write(
        "db/post/columns.py",
        """
        def select_columns(cursor, table):
            cursor.execute(
                "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", [table]
            )
            return cursor.fetchone()[0]
        """,
    )
    write(
        "db/.pum.yaml",
        """
        pum:
          minimum_version: 1
        parameters:
          - name: least
            type: integer
            default: 2
            description: the first that is shown
          - name: nothing
        migration_hooks:
          pre:
            - code: INSERT INTO people_note (text) VALUES ('pre {{}}')
            - file: pre/drop_view.sql
          post:
            - file: post/view.py
            - code: INSERT INTO people_note (text) VALUES (coalesce({nothing}, 'post'))
        """,
    )
    ran = []
    spec = {"pum": "db/.pum.yaml"}
    reporter = SilentReporter()
    restored(
        key,
        command("before", lambda _o: ran.append("before")),
        "migrate",
        command("after", lambda _o: ran.append("after")),
        spec,
        reporter=reporter,
        params={"least": "1"},
    )
    order = [n.removeprefix("running the hook ") for n in reporter.notes if n.startswith("running")]
    assert order == [
        "before",
        "db/.pum.yaml: SQL: INSERT INTO people_note (text) VALUES ('pre {{}}')",
        "db/.pum.yaml: pre/drop_view.sql",
        "migrate",
        "db/.pum.yaml: post/view.py",
        "db/.pum.yaml: SQL: INSERT INTO people_note (text) VALUES (coalesce({nothing}, ' ...",
        "after",
    ]
    assert here.notes()[-2:] == ["pre {}", "post"]
    assert here.run("SELECT id FROM some_view") == here.run("SELECT id FROM people_note")


def test_the_later_spelling_and_an_inline_mapping_of_pum_mean_the_same(here, key, write):
    write("a.sql", "INSERT INTO people_note (text) VALUES ('create')")
    write("app.yaml", "application:\n  drop:\n    - code: SELECT 1\n  create:\n    - file: a.sql\n")
    restored(key, "migrate", {"pum": "app.yaml"})
    restored(key, {"migration_hooks": {"post": [note("in")]}}, "migrate")
    assert here.notes()[-1] == "in"


# -- the plan and the command ----------------------------------------------------------------------


def test_the_plan_tells_every_hook_in_its_order_with_kind_and_source(here, key, write, settings):
    write("hooks/views.sql", "SELECT 1")
    options = resolve(
        Arguments(
            dump_key=key,
            pre_swap_hooks=[
                {"file": "hooks/views.sql", "name": "views"},
                {"command": "migrate", "options": {"verbosity": 0}},
            ],
            post_swap_hooks=[{"code": "SELECT 2"}],
        ),
        verb="restore",
    )
    plan = plan_restore(options)
    assert [(h.name, h.kind, h.source, h.stage) for h in plan.hooks] == [
        ("views", "sql", "hooks/views.sql", "pre_swap"),
        ("migrate --verbosity=...", "command", "migrate --verbosity=...", "pre_swap"),
        ("SQL: SELECT 2", "sql", "SELECT 2", "post_swap"),
    ]
    assert plan.runs_migrations


def test_the_command_takes_files_and_json_as_hooks_and_values_of_parameters(project, tmp_path):
    project.run('CREATE VIEW people_note AS SELECT * FROM "MyTable"')
    project_key = project.pgclone("dump").ok().lines[0]
    script = tmp_path / "x.sql"
    script.write_text("INSERT INTO people_note (text) VALUES ('from a file')")
    spec = json.dumps(
        {
            "name": "template",
            "code": "INSERT INTO people_note (text) VALUES ({who})",
            "parameters": [{"name": "who"}],
        }
    )
    done = project.pgclone(
        "restore",
        project_key,
        "--pre-swap-hook",
        str(script),
        spec,
        "--hook-param",
        "who",
        "Ada {x}",
        "--post-swap-hook",
        "good_hook",
        "--json",
    ).ok()
    assert [hook["kind"] for hook in done.json()["hooks"]] == ["sql", "sql", "command"]
    assert project.notes()[-3:] == ["from a file", "Ada {x}", f"good hook in {project.name}"]
    plan = project.pgclone(
        "restore", project_key, "--plan", "--pre-swap-hook", "migrate", str(script)
    ).ok()
    assert "hooks       migrate (command)\n" in plan.stdout
    assert f"            {script} (sql)\n" in plan.stdout
    refused = project.pgclone(
        "restore", project_key, "--pre-swap-hook", str(script), "--hook-param", "whom", "x"
    ).failed(1)
    assert 'error: no hook of this run has a parameter "whom"' in refused.stderr


def test_a_declared_file_that_a_flag_names_keeps_its_parameters(project):
    """It is called by its file in the plan and in the log."""
    folder = project.folder / "hooks"
    folder.mkdir()
    (folder / "note.sql").write_text("""INSERT INTO "MyTable" (text) VALUES ({n} || ' notes')""")
    hook = {"file": "hooks/note.sql", "parameters": [{"name": "n", "type": "integer"}]}
    project.settings["PGCLONE_CONFIGS"] = {"nightly": {"pre_swap_hooks": ["migrate", hook]}}
    key = project.pgclone("dump").ok().lines[0]
    flags = ("--pre-swap-hook", "migrate", "hooks/note.sql")

    refused = project.pgclone("restore", key, *flags).failed()
    assert 'the parameter "n"' in refused.stderr
    done = project.pgclone("restore", key, *flags, "--hook-param", "n", "3").ok()

    assert "running the hook hooks/note.sql\n" in done.stderr
    assert project.notes()[-1] == "3 notes"


def test_a_hook_that_tells_the_password_is_shown_without_it(here, key, write, nothing_left_behind):
    nothing_left_behind.allow(f"{here.name}__temp")
    write(
        "leak.py",
        f"""
        from pgclone_admin.hooks import HookBase

        class Hook(HookBase):
            def run_hook(self, connection):
                print("said {CANARY}")
                raise ValueError("{CANARY}")
        """,
    )
    reporter = SilentReporter()
    with pytest.raises(HookFailed) as raised:
        restored(key, "leak.py", reporter=reporter)
    everything = f"{raised.value!r} {raised.value.__cause__!r} {reporter.notes} {reporter.warnings}"
    assert "***" in everything
    assert CANARY not in everything


def test_values_of_parameters_are_not_told_in_errors(here, key, nothing_left_behind):
    nothing_left_behind.allow(f"{here.name}__temp")
    spec = {
        "code": "ALTER ROLE nobody_of_this_name PASSWORD {password}",
        "parameters": [{"name": "password"}],
    }
    with pytest.raises(HookFailed) as raised:
        restored(key, spec, params={"password": "hush-hush"})
    assert "PASSWORD {password}" in raised.value.message
    assert "hush-hush" not in f"{raised.value} {raised.value.hint}"


def test_what_is_in_a_hook_that_cannot_be_read_is_not_told(here, key):
    with pytest.raises(ConfigurationError) as raised:
        restored(key, {"seed": "hush-hush", "anonymise": {}})
    assert raised.value.message == "a hook cannot be read, with the keys: seed, anonymise"


def test_a_failed_database_is_dropped_where_the_settings_say_so(here, key, settings):
    settings.PGCLONE_KEEP_FAILED = False
    with unchanged(here), pytest.raises(HookFailed) as raised:
        restored(key, "failing_hook")
    assert raised.value.hint == (
        "The live database was not touched, and what was restored is dropped."
    )
