"""Hooks: management commands that run before a dump, and on what a restore has built."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import BaseCommand, CommandError, get_commands
from django.db import connection, connections

from pgclone_admin.core.errors import Cancelled, HookFailed, UnknownHook
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.hooks import load_hooks
from pgclone_admin.hooks.base import Output
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services.dumps import create_dump
from pgclone_admin.services.restores import Variant, restore
from tests.project.people.models import Note, Person
from tests.support import CANARY, ROOT
from tests.support.processes import wait_until

from .operations import take, unchanged

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def here(project, use_database, settings):
    """The people project, also as the database ``default`` of this process."""
    use_database(project)
    for name, value in project.settings.items():
        setattr(settings, name, value)
    return project


@pytest.fixture
def hook(monkeypatch):
    """``hook("name", function)``: a management command that calls the function."""

    def make(name: str, function: Callable[[BaseCommand], Any]) -> str:
        class Command(BaseCommand):
            def handle(self, *args: Any, **options: Any) -> None:
                function(self)

        monkeypatch.setitem(get_commands(), name, Command())
        return name

    return make


def dump(*hooks, reporter=None):
    options = resolve(Arguments(pre_dump_hooks=list(hooks)), verb="dump")
    return create_dump(options, reporter or SilentReporter())


def restored(key, *hooks, reporter=None, **arguments):
    """Restores a dump with these hooks, and returns what the reporter was told."""
    told = reporter or SilentReporter()
    options = resolve(
        Arguments(dump_key=key, pre_swap_hooks=list(hooks), **arguments), verb="restore"
    )
    restore(options, told)
    return told


def current_database(using="default"):
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT current_database()")
        return cursor.fetchone()[0]


# -- before the swap -------------------------------------------------------------------------------


def test_hooks_run_in_their_order_on_the_temporary_database(here, hook):
    key = dump().key
    seen = []
    for name in ("one", "two", "three"):
        hook(name, lambda _command, n=name: seen.append((n, current_database())))
    reporter = restored(key, "two", "one", "three", "one")
    temporary = f"{here.name}__temp"
    assert seen == [(n, temporary) for n in ("two", "one", "three", "one")]
    running = [note for note in reporter.notes if note.startswith("running")]
    assert running == [f"running the hook {n}" for n in ("two", "one", "three", "one")]
    assert current_database() == here.name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_signal_cancels_what_a_hook_executes(project, number):
    key = project.pgclone("dump").ok().lines[0]
    slow = json.dumps({"name": "slow", "code": "SELECT pg_sleep(60)"})
    running = project.start_pgclone("restore", key, "--pre-swap-hook", slow)
    working = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query ~ 'pg_sleep'"
    temporary = f"{project.name}__temp"
    wait_until(lambda: project.server.admin(working, (temporary,)) == [(1,)], 30)
    running.signal(number)
    ended = running.wait(15)
    assert ended.returncode == 130
    assert "cancelled" in ended.stderr
    assert temporary not in project.server.databases()


def test_a_signal_that_a_hook_tells_as_an_error_of_its_own_is_one_all_the_same(project):
    key = project.pgclone("dump").ok().lines[0]
    hook = json.dumps({"command": "hang_hook", "args": ["--catch"]})
    running = project.start_pgclone("restore", key, "--pre-swap-hook", hook)
    wait_until((project.folder / "hook-hangs").exists, 30)
    running.signal(signal.SIGINT)
    assert running.wait(15).returncode == 130


def test_what_a_hook_says_is_reported_line_by_line(here, hook):
    def talk(command):
        command.stdout.write("by its stdout")
        command.stderr.write("by its stderr")
        print("by print")
        sys.stderr.write("by sys.stderr, two\nlines and no end")

    reporter = restored(dump().key, hook("talk", talk))
    start = reporter.notes.index("running the hook talk")
    end = next(n for n, note in enumerate(reporter.notes) if note.startswith("the hook talk took"))
    assert reporter.notes[start + 1 : end] == [
        "  by its stdout",
        "  by its stderr",
        "  by print",
        "  by sys.stderr, two",
        "  lines and no end",
    ]


def test_what_a_hook_changes_is_live_after_the_swap(here, hook):
    key = dump().key
    here.add_person("later")

    def change(_command):
        Person.objects.filter(name__startswith="Ada").update(name="A.")
        Note.objects.create(text="made by the hook")

    restored(key, hook("change", change))
    assert sorted(here.people())[:2] == ["A.", "Grace Hopper"]
    assert here.notes()[-1] == "made by the hook"
    assert "later" not in here.people()
    assert Person.objects.count() == 3


def test_a_failing_hook_leaves_live_as_it_was_and_its_database_for_a_look(
    here, hook, nothing_left_behind
):
    key = dump().key
    here.add_person("live")
    temporary = f"{here.name}__temp"
    nothing_left_behind.allow(temporary)
    ran = []
    hook("before", lambda _command: Note.objects.create(text="before"))
    hook("after", lambda _command: ran.append("after"))
    with unchanged(here, made=[temporary]), pytest.raises(HookFailed) as raised:
        restored(key, "before", "failing_hook", "after", reversible=True)
    assert raised.value.message == 'the hook "failing_hook" failed: this hook always fails'
    assert raised.value.code == "hook_failed"
    assert temporary in raised.value.hint
    assert ran == []
    assert here.people(temporary) == []
    assert here.notes(temporary)[-2:] == ["before", "failing hook"]
    assert "live" in here.people()
    assert Person.objects.filter(name="live").exists()

    restored(key)
    assert here.server.oid(temporary) is None
    assert "live" not in here.people()


@pytest.mark.parametrize(
    ("raising", "said"),
    [
        (lambda _c: 1 / 0, "division by zero"),
        (lambda _c: sys.exit(3), "exit status 3"),
        (lambda _c: sys.exit("no way"), "exit status no way"),
        (lambda _c: Person.objects.create(name="x" * 1000), "value too long"),
        (lambda _c: connection.cursor().execute("SELECT nonsense"), "nonsense"),
        (lambda _c: exec("raise KeyError"), "KeyError"),
        (lambda _c: exec("raise CommandError('plain')", {"CommandError": CommandError}), "plain"),
    ],
    ids=["exception", "exit 3", "exit text", "database", "sql", "no message", "command"],
)
def test_every_way_to_fail_is_a_failure(here, hook, nothing_left_behind, raising, said):
    key = dump().key
    temporary = f"{here.name}__temp"
    nothing_left_behind.allow(temporary)
    hook("fails", raising)
    with unchanged(here, made=[temporary]), pytest.raises(HookFailed) as raised:
        restored(key, "fails")
    assert raised.value.message.startswith('the hook "fails" failed: ')
    assert said in raised.value.message
    assert current_database() == here.name


@pytest.mark.parametrize("status", [0, None])
def test_a_hook_that_exits_with_success_has_succeeded(here, hook, status):
    key = dump().key
    here.add_person("live")
    restored(key, hook("exits", lambda _command: sys.exit(status)))
    assert "live" not in here.people()


def test_the_error_of_a_hook_shows_the_end_of_its_output(here, hook, nothing_left_behind):
    key = dump().key
    nothing_left_behind.allow(f"{here.name}__temp")

    def talk(command):
        command.stdout.write("first line\n" + "x" * 10_000)
        command.stderr.write("the last words")
        raise CommandError("broken")

    with pytest.raises(HookFailed) as raised:
        restored(key, hook("talk", talk))
    assert raised.value.message.startswith('the hook "talk" failed: broken\n')
    assert raised.value.message.endswith("the last words\n")
    assert "first line" not in raised.value.message
    assert len(raised.value.message) < 5000


def test_a_hook_can_cancel_the_restore(here, hook):
    """What this app raises on purpose is no failure of the hook, so nothing is kept."""
    key = dump().key

    def cancel(_command):
        raise Cancelled

    with unchanged(here), pytest.raises(Cancelled):
        restored(key, hook("cancel", cancel))


def test_an_unknown_hook_is_refused_before_anything(here, recorder, settings):
    key = dump().key
    programs = recorder(here.server)
    settings.PGCLONE_BIN_DIR = str(programs.path)
    ran = []
    with unchanged(here), pytest.raises(UnknownHook) as raised:
        restored(key, "good_hook", "god_hook")
    assert raised.value.code == "unknown_hook"
    assert 'management command "god_hook"' in raised.value.message
    assert "good_hook" in raised.value.hint
    with unchanged(here), pytest.raises(UnknownHook):
        dump("god_hook")
    assert programs.calls() == ran == []


@pytest.mark.parametrize("name", ["", " ", "migrate --fake", "../x", "people.good_hook", "/bin/sh"])
def test_a_hook_is_a_name_and_nothing_else(name):
    with pytest.raises(UnknownHook):
        load_hooks([name])


def test_a_connection_that_a_hook_forgets_to_close_is_ended(here, hook):
    key = dump().key
    held = []

    def forget(_command):
        held.append(here.server.connect(current_database(), "app"))
        with held[0].cursor() as cursor:
            cursor.execute("BEGIN; SELECT * FROM people_person")

    try:
        restored(key, hook("forget", forget), reversible=True)
        assert here.fingerprint(f"{here.name}__post") == here.fingerprint()
    finally:
        for each in held:
            each.close()


def test_hooks_run_on_a_local_copy_and_beside(here):
    restored(dump().key, "good_hook", reversible=True)
    assert here.notes()[-1] == f"good hook in {here.name}__temp"
    restored(":pre", "good_hook")
    assert here.notes()[-1] == f"good hook in {here.name}__temp"
    options = resolve(
        Arguments(dump_key=":post", pre_swap_hooks=["good_hook", "good_hook"]), verb="restore"
    )
    live = here.notes()
    restore(options, SilentReporter(), variant=Variant(beside=":beside"))
    assert here.notes("beside")[-2:] == [f"good hook in {here.name}__temp"] * 2
    assert here.notes() == live


# -- migrate ---------------------------------------------------------------------------------------


def test_an_old_dump_ends_migrated(make_project, use_database, settings):
    old = make_project(upto="0001")
    use_database(old)
    for name, value in old.settings.items():
        setattr(settings, name, value)
    manifest = dump()
    assert ("people", "0001_initial") in manifest.migrations
    assert ("people", "0002_person_nickname") not in manifest.migrations

    options = resolve(Arguments(dump_key=manifest.key), verb="restore")
    assert options.pre_swap_hooks == ["migrate"]
    reporter = SilentReporter()
    restore(options, reporter)

    assert old.migrations() == ["0001_initial", "0002_person_nickname"]
    assert old.run("SELECT nickname FROM people_person ORDER BY id") == [
        ("ada",),
        ("grace",),
        ("zoë",),
    ]
    assert any("0002_person_nickname... OK" in note for note in reporter.notes)


@pytest.mark.parametrize("plain", [False, True], ids=["pgconnection", "plain"])
def test_the_database_of_another_alias_is_migrated_and_default_stays(make_project, plain):
    default, other = make_project(upto="0001"), make_project(upto="0001")
    databases = {"default": default.dsn_dict(), "other": other.dsn_dict()}
    run = {"database": databases, "plain": plain}
    key = default.pgclone("dump", "-d", "other", **run).ok().lines[0]
    assert key.startswith("here/other/none/")
    before, oid = default.fingerprint(), default.oid

    hooks = ["--pre-swap-hook", "migrate", "where_am_i", "good_hook"]
    done = default.pgclone("restore", key, "-d", "other", *hooks, **run).ok()

    assert other.migrations() == ["0001_initial", "0002_person_nickname"]
    assert other.notes()[-1] == f"good hook in {other.name}__temp"
    assert f"\n  {other.name}__temp\n" in done.stderr
    assert default.migrations() == ["0001_initial"]
    assert default.fingerprint() == before
    assert default.oid == oid


def test_migrate_is_told_the_alias_and_no_hook_asks_anything(monkeypatch):
    """Routers of the project decide by the alias what belongs into a database."""
    given = {}

    class Recorder(BaseCommand):
        def add_arguments(self, parser):
            parser.add_argument("--database", default="default")
            parser.add_argument("--noinput", action="store_false", dest="interactive")

        def handle(self, *args: Any, **options: Any) -> None:
            given.update(options)

    for name in ("migrate", "other_command"):
        monkeypatch.setitem(get_commands(), name, Recorder())
        load_hooks([name])[0].run("other", Output(SilentReporter(), ()))
        assert given["database"] == ("other" if name == "migrate" else "default")
        assert given["interactive"] is False


def test_a_command_that_asks_by_itself_is_not_waited_for(here):
    """The documentation of django-pgclone has it in an example; it asks before it deletes."""
    here.run("INSERT INTO django_content_type (app_label, model) VALUES ('people', 'gone')")
    key = dump().key
    restored(key, "migrate", "remove_stale_contenttypes")
    stale = "SELECT count(*) FROM django_content_type WHERE model = 'gone'"
    assert here.run(stale) == [(0,)]


# -- before a dump ---------------------------------------------------------------------------------


def test_a_hook_before_a_dump_runs_on_the_live_database_and_is_in_the_dump(here):
    reporter = SilentReporter()
    manifest = dump("good_hook", "where_am_i", reporter=reporter)
    assert here.notes()[-1] == f"good hook in {here.name}"
    assert f"  {here.name}" in reporter.notes
    assert manifest.hooks == ("good_hook", "where_am_i")
    here.run('DELETE FROM "MyTable"')
    restored(manifest.key)
    assert here.notes()[-1] == f"good hook in {here.name}"


def test_a_failing_hook_before_a_dump_leaves_no_dump(here):
    with pytest.raises(HookFailed) as raised:
        dump("good_hook", "failing_hook", "good_hook")
    assert raised.value.message == 'the hook "failing_hook" failed: this hook always fails'
    assert here.files() == []
    assert here.notes()[-2:] == [f"good hook in {here.name}", "failing hook"]
    assert current_database() == here.name


# -- another alias ---------------------------------------------------------------------------------


@pytest.fixture
def prying(tmp_path):
    """Options of a command with an app whose command ``pry`` uses the alias "elsewhere"."""
    package = tmp_path / "prying" / "management" / "commands"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "pry.py").write_text(
        "from django.core.management import BaseCommand\n"
        "from django.db import connections\n"
        "class Command(BaseCommand):\n"
        "    def handle(self, *args, **options):\n"
        "        with connections['elsewhere'].cursor() as cursor:\n"
        "            cursor.execute('DELETE FROM order_line')\n"
    )
    return {"apps": ["prying"], "env": {"PYTHONPATH": f"{tmp_path}:{ROOT}"}}


@pytest.mark.parametrize("plain", [False, True], ids=["pgconnection", "plain"])
def test_a_hook_that_uses_another_alias_is_refused(
    project, make_site, prying, plain, nothing_left_behind
):
    """What it did there would be done to a live database that nobody restores."""
    elsewhere = make_site()
    databases = {"default": project.dsn_dict(), "elsewhere": elsewhere.dsn_dict()}
    run = {"database": databases, "plain": plain, **prying}
    key = take(project, project.storage_root).text
    files, temporary = project.files(), f"{project.name}__temp"
    nothing_left_behind.allow(temporary)
    with unchanged(project, made=[temporary]):
        before = elsewhere.fingerprint()
        refused = [
            project.pgclone("dump", "--pre-dump-hook", "pry", **run).failed(1),
            project.pgclone("restore", key, "--pre-swap-hook", "pry", **run).failed(1),
        ]
        assert elsewhere.fingerprint() == before
    for failed in refused:
        said = 'error: the hook "pry" failed: the hook used the database "elsewhere"'
        assert said in failed.stderr
        assert failed.stdout == ""
    assert project.files() == files


# -- the command -----------------------------------------------------------------------------------


def test_the_command_shows_what_hooks_say_and_ends_1_when_one_fails(project, nothing_left_behind):
    key = take(project, project.storage_root).text
    done = project.pgclone("restore", "--pre-swap-hook", "good_hook", key).ok()
    assert f"\n  good hook ran in {project.name}__temp\n" in done.stderr
    assert done.lines == [key]
    temporary = f"{project.name}__temp"
    nothing_left_behind.allow(temporary)
    with unchanged(project, made=[temporary]):
        failed = project.pgclone("restore", key, "--pre-swap-hook", "failing_hook").failed(1)
    assert failed.stdout == ""
    *_, error, hint = failed.stderr.splitlines()
    assert error == 'error: the hook "failing_hook" failed: this hook always fails'
    assert hint.startswith("hint: The live database was not touched. The temporary database")
    assert temporary in hint
    listed = project.pgclone("ls", "--local", "--json").ok().json()
    assert (listed[0]["database"], listed[0]["kind"]) == (temporary, "failed")


def test_a_hook_that_fails_before_a_dump_ends_the_command_without_a_dump(project):
    failed = project.pgclone("dump", "--pre-dump-hook", "good_hook", "failing_hook").failed(1)
    assert 'error: the hook "failing_hook" failed: this hook always fails' in failed.stderr
    assert failed.stdout == ""
    assert project.files() == []


def test_a_hook_that_tells_the_password_is_shown_without_it(project, nothing_left_behind):
    nothing_left_behind.allow(f"{project.name}__temp")
    key = project.pgclone("dump").ok().lines[0]

    done = project.pgclone("restore", key, "--pre-swap-hook", "leaky_hook").failed()

    assert "leaky_hook" in done.stderr
    assert "***" in done.stderr
    assert CANARY not in done.stderr + done.stdout
