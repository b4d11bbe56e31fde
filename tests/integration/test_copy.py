"""A local copy: by the server when nobody is connected, piped when somebody is."""

from __future__ import annotations

import contextlib
import threading
import time

import psycopg2
import pytest

from pgclone_admin.core import own_databases
from pgclone_admin.core.copy import copy_database
from pgclone_admin.core.errors import (
    Conflict,
    DatabaseProtected,
    InvalidName,
    KilledBySignal,
    NotAllowed,
    PgcloneError,
    TooBusy,
    UnknownDatabase,
)
from pgclone_admin.core.locks import take_lock
from pgclone_admin.core.marks import Mark
from pgclone_admin.core.own_databases import clone, create_like
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.core.server import Server
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services.copies import copy_live
from pgclone_admin.services.listing import list_local
from tests.support import CANARY
from tests.support.fake_programs import kill_self, print_file

from .operations import connected, copy, mark, restore, unchanged

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def here(site, use_database, settings):
    """A site that is the database ``default`` of this process."""
    use_database(site)
    settings.PGCLONE_BIN_DIR = str(site.server.bin_dir)
    return site


def copy_here(target, **options):
    return copy_live(resolve(Arguments(), verb=""), target, SilentReporter(), **options)


def same(site, name):
    """Whether a copy has content and properties of the site, all but the comment."""
    properties = [site.database_properties(each) for each in (site.name, name)]
    comments = [each.pop("comment") for each in properties]
    assert properties[0] == properties[1]
    assert comments[0] != comments[1]
    assert site.fingerprint(name) == site.fingerprint()
    return True


def test_the_server_copies_when_nobody_is_connected(any_pg, make_site):
    site = make_site(any_pg)
    with unchanged(site, made=["my copy"]):
        result = copy(site, ":my copy")
    assert not result.piped
    assert same(site, "my copy")
    mark = Mark.read(site.server.comment("my copy"), "my copy")
    assert (mark.kind, mark.of, mark.name) == ("copy", site.name, "my copy")


def test_a_copy_of_a_database_in_use_is_piped_and_the_session_goes_on(any_pg, make_site):
    site = make_site(any_pg)
    with contextlib.closing(site.connect(autocommit=False)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO change_log (what) VALUES ('not committed yet')")
            expected = site.fingerprint()
            result = copy(site, ":piped")
            assert result.piped
            assert site.fingerprint("piped") == expected
            assert same(site, "piped")
            cursor.execute("SELECT count(*) FROM change_log WHERE what = 'not committed yet'")
            assert cursor.fetchone() == (1,)
        connection.commit()
    assert site.fingerprint() != expected


def test_a_superuser_who_is_connected_does_not_disturb_a_piped_copy(make_site):
    site = make_site()
    with site.server.held_session(site.name, user="postgres"):
        assert copy(site, ":piped").piped
        assert same(site, "piped")


def test_end_sessions_sends_everybody_away_and_takes_the_fast_way(any_pg, make_site):
    site = make_site(any_pg)
    stop, errors = threading.Event(), []

    def client():
        connection = None
        while not stop.is_set():
            try:
                connection = connection or site.connect()
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                time.sleep(0.005)
            except psycopg2.Error as error:
                errors.append(str(error))
                connection = None
        if connection is not None:
            connection.close()

    clients = [threading.Thread(target=client) for _ in range(5)]
    for thread in clients:
        thread.start()
    try:
        while site.server.sessions(site.name) < 5:
            time.sleep(0.01)
        result = copy(site, ":fast", end_sessions=True)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
    assert not result.piped
    assert same(site, "fast")
    assert len(errors) >= 5


def test_a_copy_that_nobody_is_in_the_way_of_needs_no_other_connection(make_site):
    """Which is not to be had here; and no thread ends in a traceback."""
    site = make_site()
    with connected(site.server) as server:
        alone = Server(server.params.with_dbname("there is none"), server.connection)
        made = copy_database(
            alone,
            server.existing(site.name),
            mark(f"{site.name}_copy", of=site.name, kind="copy"),
            SilentReporter(),
            end_sessions=True,
        )
    assert not made.piped
    assert same(site, f"{site.name}_copy")


def test_end_sessions_with_a_superuser_connected_ends_nobody(make_site):
    site = make_site()
    with (
        site.server.held_session(site.name) as client,
        site.server.held_session(site.name, user="postgres"),
    ):
        with unchanged(site), pytest.raises(TooBusy, match="superuser"):
            copy(site, ":fast", end_sessions=True)
        with client.cursor() as cursor:
            cursor.execute("SELECT 1")


def test_end_sessions_with_a_session_that_may_not_be_ended_is_too_busy(make_site):
    site = make_site()
    site.server.admin(f'GRANT CONNECT ON DATABASE "{site.name}" TO other')
    with site.server.held_session(site.name, user="other") as session:
        with unchanged(site), pytest.raises(TooBusy):
            copy(site, ":fast", end_sessions=True)
        with session.cursor() as cursor:
            cursor.execute("SELECT 1")


@pytest.mark.parametrize(
    ("of", "kind"), [("another site", "copy"), ("this site", "beside")], ids=["theirs", "no copy"]
)
@pytest.mark.parametrize("piped", [True, False], ids=["piped", "by the server"])
def test_a_name_that_is_taken_while_a_copy_is_made_stays_whose_it_is(
    here, monkeypatch, of, kind, piped
):
    """Nobody looks at the name for hours, between the beginning and the end."""
    taken = []

    def create(server, name, *arguments):
        created(server, name, *arguments)
        if not taken:
            taken.append(name)
            other = mark("look", of=here.name if of == "this site" else of, kind=kind)
            create_like(server, server.default_model(), other)

    created = own_databases._create
    monkeypatch.setattr(own_databases, "_create", create)
    with contextlib.ExitStack() as stack:
        stack.enter_context(unchanged(here, made=["look"]))
        if piped:
            stack.enter_context(here.server.held_session(here.name))
        stack.enter_context(pytest.raises(DatabaseProtected, match='"look"'))
        copy_here(":look")
    found = Mark.read(here.server.comment("look"), "look")
    assert found.kind == kind


def test_a_copy_can_be_made_anew_under_its_name(make_site):
    site = make_site()
    copy(site, ":again")
    first = site.server.oid("again")
    site.run("DELETE FROM change_log")
    for connected_client in (False, True):
        with contextlib.ExitStack() as stack:
            if connected_client:
                stack.enter_context(site.server.held_session(site.name))
                stack.enter_context(site.server.held_session("again"))
            assert copy(site, ":again").piped == connected_client
        assert same(site, "again")
    assert site.server.oid("again") != first


def test_a_copy_can_be_restored(make_site):
    site = make_site()
    content, properties = site.fingerprint(), site.database_properties()
    copy(site, ":safe")
    site.run("DROP TABLE order_line CASCADE")
    restore(site, ":safe")
    assert site.fingerprint() == content
    assert site.database_properties() == properties


@pytest.mark.parametrize("in_use", [False, True], ids=["template", "piped"])
def test_a_copy_over_an_unmarked_database_is_refused(make_site, in_use):
    site, theirs = make_site(), make_site(empty=True)
    with contextlib.ExitStack() as stack:
        if in_use:
            stack.enter_context(site.server.held_session(site.name))
        stack.enter_context(unchanged(theirs))
        stack.enter_context(unchanged(site))
        with pytest.raises(DatabaseProtected, match=theirs.name):
            copy(site, f":{theirs.name}")


def test_a_piped_copy_whose_pg_dump_dies_leaves_nothing(make_site, fakes, tmp_path):
    site = make_site()
    archive = tmp_path / "archive"
    archive.write_bytes(site.archive("-Z0"))
    fakes.pg_dump(print_file(archive, 200_000), kill_self("KILL"))
    fakes.real("pg_restore", site.server.bin_dir)
    with (
        site.server.held_session(site.name),
        unchanged(site),
        pytest.raises(KilledBySignal) as raised,
    ):
        copy(site, ":piped", program_directories=[str(fakes.path)])
    assert raised.value.signal == 9


def test_a_piped_copy_whose_pg_restore_fails_leaves_nothing(make_site, fakes):
    site = make_site()
    fakes.real("pg_dump", site.server.bin_dir)
    fakes.pg_restore({"read": 1000}, {"exit": 1})
    with site.server.held_session(site.name), unchanged(site), pytest.raises(PgcloneError):
        copy(site, ":piped", program_directories=[str(fakes.path)])


def test_a_piped_copy_names_what_it_cannot_hold(make_site):
    """A publication of all tables needs a superuser; the server's own copy would have it."""
    site = make_site()
    site.server.run("CREATE PUBLICATION everything FOR ALL TABLES", site.name)
    expected = site.fingerprint().without("publications")
    reporter = SilentReporter()
    with site.server.held_session(site.name):
        copy(site, ":piped", reporter=reporter)
    assert reporter.warnings == [
        "left out, as this role cannot create it here: PUBLICATION everything"
    ]
    assert site.fingerprint("piped").without("publications") == expected
    copy(site, ":template")
    assert site.fingerprint("template") == site.fingerprint()


# -- the use case ----------------------------------------------------------------------------------


def test_a_copy_is_listed_with_its_kind_and_source(here):
    result = copy_here(":my copy")
    assert not result.piped
    (entry,) = [e for e in list_local(resolve(Arguments(), verb="")) if e.database == "my copy"]
    assert (str(entry.key), entry.kind, entry.source) == (":my copy", "copy", here.name)
    assert entry.size > 1_000_000
    assert entry.made_at is not None


def test_the_own_connection_of_django_does_not_make_a_copy_piped(here):
    from django.db import connection  # noqa: PLC0415 - it exists only with a database

    connection.ensure_connection()
    assert not copy_here(":my copy").piped
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM customer")
        assert cursor.fetchone() == (601,)


def test_end_sessions_says_how_many_and_for_how_long(here):
    reporter = SilentReporter()
    options = resolve(Arguments(), verb="")
    with here.server.held_session(here.name), here.server.held_session(here.name):
        copy_live(options, ":fast", reporter, end_sessions=True)
    (warning,) = reporter.warnings
    assert warning.startswith("2 sessions are ended; clients that connect wait until")
    assert warning.endswith("about 1 s")


@pytest.mark.parametrize("target", [":pre", ":post", ":undo", ":previous", ":current"])
def test_the_names_of_reversible_restores_cannot_be_copied_to(here, target):
    with unchanged(here), pytest.raises(InvalidName, match="cannot be made by hand"):
        copy_here(target)


@pytest.mark.parametrize("role", ["temp", "swap", "pre", "post", "undo"])
def test_nor_can_their_whole_names(here, role):
    """The next restore would take such a copy for its own and drop it."""
    with unchanged(here), pytest.raises(InvalidName, match="cannot be made by hand"):
        copy_here(f":{here.name}__{role}")


@pytest.mark.parametrize("target", ["template0", "template1", "postgres"])
def test_nor_can_databases_of_the_server(here, target):
    with unchanged(here), pytest.raises(DatabaseProtected, match="left alone"):
        copy_here(f":{target}")


def test_nor_can_a_database_of_the_settings(here):
    with unchanged(here), pytest.raises(DatabaseProtected, match="named in the settings"):
        copy_here(f":{here.name}")


@pytest.mark.parametrize("target", ["no colon", ":", ":" + "x" * 64, ":" + "ü" * 32, ":a\0b"])
def test_a_target_that_is_no_local_key_is_refused(here, target):
    with unchanged(here), pytest.raises(InvalidName):
        copy_here(target)


def test_copies_can_be_forbidden(here, settings):
    settings.PGCLONE_ALLOW_COPY = False
    with unchanged(here), pytest.raises(NotAllowed, match="PGCLONE_ALLOW_COPY"):
        copy_here(":mine")


def test_a_database_that_does_not_exist_cannot_be_copied(here):
    here.server.drop_database(here.name)
    with pytest.raises(UnknownDatabase, match=here.name):
        copy_here(":mine")
    assert here.server.oid("mine") is None


def test_a_copy_while_a_restore_runs_is_a_conflict_and_beside_a_dump_it_is_not(here):
    with connected(here.server) as server:
        take_lock(server, here.name, exclusive=False)
        copy_here(":one")
    with connected(here.server) as server:
        take_lock(server, here.name, exclusive=True)
        with unchanged(here), pytest.raises(Conflict, match="a restore"):
            copy_here(":two")


def test_the_command_copies_and_prints_the_key(project):
    done = project.pgclone("copy", ":of the project").ok()
    assert done.lines == [":of the project"]
    assert "copied by the server, in " in done.stderr
    assert project.people("of the project") == project.people()
    with project.server.held_session(project.name):
        piped = project.pgclone("copy", ":of the project", "--json").ok()
    assert piped.json()["piped"] is True
    assert piped.json()["database"] == "of the project"
    assert CANARY not in piped.stderr
    listed = project.pgclone("ls", "--local").ok()
    assert listed.lines[0] == ":of the project"
    failed = project.pgclone("copy", ":postgres").failed(1)
    assert failed.stderr.startswith("checking\nerror: ")
    assert failed.stdout == ""


def test_a_signal_during_the_copy_of_the_server_leaves_no_copy(make_site):
    """It is heard only when the server is done, and the copy is there: for everybody, as long as it
    has not got its grants."""
    site = make_site()
    before = site.server.databases()

    class Interrupted(BaseException):
        pass

    with Server.connected(site.server.params("postgres", "app")) as server:
        execute = server.execute

        def execute_and_hear(statement, *arguments):
            execute(statement, *arguments)
            if "CREATE DATABASE" in str(statement):
                raise Interrupted

        server.execute = execute_and_hear
        mark = Mark.new(name=f"{site.name}_copy", kind="copy", of=site.name)
        with pytest.raises(Interrupted):
            clone(server, server.existing(site.name), mark)
    assert site.server.databases() == before
