"""The product's view of a server: what it makes, drops, locks, and what it may not."""

from __future__ import annotations

import contextlib
import os
import pwd
import time

import psycopg2
import pytest

from pgclone_admin.core.connection import ConnectionParams
from pgclone_admin.core.errors import (
    ConfigurationError,
    Conflict,
    DatabaseProtected,
    InvalidName,
    PermissionMissing,
    PgcloneError,
    ServerUnavailable,
    TooBusy,
    UnknownDatabase,
)
from pgclone_admin.core.locks import check_lock, take_lock
from pgclone_admin.core.marks import NEW_DATABASE_PREFIX
from pgclone_admin.core.names import derived_name
from pgclone_admin.core.own_databases import create_like, drop_marked
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.core.server import Server
from pgclone_admin.core.sessions import check_sessions_can_be_ended, end_sessions, sessions_in
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services.copies import copy_live
from pgclone_admin.services.dumps import create_dump
from pgclone_admin.services.listing import list_local
from pgclone_admin.services.restores import Variant
from pgclone_admin.services.restores import restore as restore_service
from tests.support import CANARY
from tests.support.postgres import PASSWORDS, available

from .operations import connected, mark, restore, take, unchanged

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def role(request, pg, monkeypatch):
    """Makes login roles of the default server, and drops them when the test is over."""
    made = []

    def make(name, *attributes):
        monkeypatch.setitem(PASSWORDS, name, "canary-Rr10-role")
        pg.admin(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'canary-Rr10-role' {' '.join(attributes)}")
        made.append(name)
        return name

    yield make
    for name in pg.temporary_databases():
        pg.drop_database(name)
    for name in made:
        pg.admin(f'DROP ROLE "{name}"')


# -- what is created -------------------------------------------------------------------------------


def alike(site, name):
    kept = (
        "owner",
        "encoding",
        "collate",
        "ctype",
        "provider",
        "locale",
        "icu_rules",
        "tablespace",
    )
    theirs, ours = site.database_properties(name), site.database_properties()
    assert {key: theirs[key] for key in kept} == {key: ours[key] for key in kept}


LOCALES = [
    "ENCODING 'UTF8' LOCALE 'C.UTF-8'",
    "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'",
    "ENCODING 'LATIN1' LOCALE 'C'",
    "ENCODING 'SQL_ASCII' LOCALE 'C'",
    "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'",
    "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en' ICU_RULES '&a < z'",
    "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
]


@pytest.mark.parametrize("extra", LOCALES)
def test_a_new_database_has_encoding_and_locale_of_its_model(any_pg, make_site, extra):
    if ("RULES" in extra and any_pg.major < 16) or ("builtin" in extra and any_pg.major < 17):
        pytest.skip("not in this version")
    try:
        site = make_site(any_pg, empty=True, extra=extra, properties=False)
    except psycopg2.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL was built without ICU")
    name = derived_name(site.name, "temp")
    with connected(any_pg) as server:
        made = create_like(server, server.existing(site.name), mark(name))
        alike(site, name)
        assert made.name == name
        drop_marked(server, name)


@pytest.mark.skipif(max(available()) < 17, reason="needs a second locale provider without ICU")
def test_a_libc_database_on_a_server_with_another_default_provider_stays_libc(own_pg, make_site):
    server = own_pg(max(available()))
    site = make_site(server, empty=True, properties=False)
    assert site.database_properties()["provider"] == "c"
    # As "initdb --locale-provider=builtin" would have made it.
    server.admin(
        "UPDATE pg_database SET datlocprovider = 'b', datlocale = 'C.UTF-8'"
        " WHERE datname = 'template0'"
    )
    with connected(server) as maintenance:
        name = derived_name(site.name, "temp")
        create_like(maintenance, maintenance.existing(site.name), mark(name))
        alike(site, name)
        drop_marked(maintenance, name)


def test_a_new_database_lies_in_the_tablespace_of_its_model(own_pg, make_site, storage_root):
    server = own_pg()
    place = server.path / "space"
    place.mkdir()
    if server.user is not None:
        os.chown(place, pwd.getpwnam(server.user).pw_uid, -1)
    server.admin(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
    server.admin("GRANT CREATE ON TABLESPACE elsewhere TO app")
    site = make_site(server, extra="TABLESPACE elsewhere")
    content, properties = site.fingerprint(), site.database_properties()
    assert properties["tablespace"] == "elsewhere"
    key = take(site, storage_root)
    restore(site, key, storage_root, reversible=True)
    assert site.fingerprint() == content
    assert site.database_properties() == properties
    alike(site, derived_name(site.name, "post"))


def test_a_database_gets_its_name_and_its_mark_at_once(make_site):
    site = make_site(empty=True)
    name = derived_name(site.name, "temp")
    wanted = mark(name, of=site.name, source='a key; it\'s "ü"')
    with connected(site.server) as server:
        made = create_like(server, server.existing(site.name), wanted)
        assert made.mark == wanted
        assert site.server.comment(name) == wanted.comment()
        drop_marked(server, name)
    assert site.server.oid(name) is None


def test_a_mark_that_cannot_be_set_leaves_no_database(make_site):
    site, theirs = make_site(empty=True), make_site(empty=True)
    for name, error in ((theirs.name, DatabaseProtected), ("x" * 64, InvalidName)):
        with (
            unchanged(site),
            unchanged(theirs),
            connected(site.server) as server,
            pytest.raises(error),
        ):
            create_like(server, server.existing(site.name), mark(name))
    assert not [d for d in site.server.databases() if d.startswith(NEW_DATABASE_PREFIX)]


def test_an_older_database_of_ours_gives_way_to_a_new_one(make_site):
    site = make_site(empty=True)
    name = derived_name(site.name, "temp")
    with connected(site.server) as server:
        first = create_like(server, server.existing(site.name), mark(name))
        with site.server.held_session(name):
            second = create_like(server, server.existing(site.name), mark(name))
        assert first.oid != second.oid
        assert site.server.oid(name) == second.oid
        drop_marked(server, name)


# -- what is dropped -------------------------------------------------------------------------------


def test_only_marked_databases_are_dropped(make_site):
    site, theirs = make_site(), make_site(empty=True)
    with connected(site.server, user="postgres") as server:
        for name in (theirs.name, site.name, "postgres", "template1"):
            with unchanged(site), unchanged(theirs), pytest.raises(DatabaseProtected):
                drop_marked(server, name)
        with pytest.raises(UnknownDatabase):
            drop_marked(server, "nobody")
        drop_marked(server, "nobody", missing_ok=True)


def test_a_mark_counts_for_the_name_it_names_only(make_site):
    site = make_site(empty=True)
    theirs = make_site(empty=True, properties=False)
    with contextlib.closing(site.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            f'COMMENT ON DATABASE "{theirs.name}" IS %s', (mark("another name").comment(),)
        )
    with connected(site.server) as server:
        assert server.existing(theirs.name).mark is None
        with unchanged(theirs), pytest.raises(DatabaseProtected):
            drop_marked(server, theirs.name)


def test_a_database_that_others_use_is_not_dropped_by_a_plain_role(make_site):
    site = make_site(empty=True)
    name = derived_name(site.name, "temp")
    with connected(site.server) as server:
        create_like(server, server.existing(site.name), mark(name))
        with (
            site.server.held_session(name, user="postgres") as session,
            pytest.raises(PermissionMissing),
        ):
            drop_marked(server, name)
        assert site.server.oid(name) is not None
        assert session.closed
        drop_marked(server, name)


# -- rights ----------------------------------------------------------------------------------------


def test_a_role_without_createdb_is_refused_and_nothing_is_made(make_site, role, storage_root):
    site = make_site(empty=True)
    poor = role("poor")
    site.server.admin(f'GRANT app TO "{poor}"')
    key = take(site, storage_root)
    with unchanged(site), pytest.raises(PermissionMissing, match="may not create") as raised:
        restore(site, key, storage_root, user=poor)
    assert raised.value.hint.startswith('As a superuser: ALTER ROLE "poor" CREATEDB')
    assert "PGCLONE_CONNECTIONS" in raised.value.hint


def test_a_role_that_is_no_member_of_the_owner_is_refused(make_site, role, storage_root):
    site = make_site(empty=True)
    stranger = role("stranger", "CREATEDB")
    key = take(site, storage_root)
    with unchanged(site), pytest.raises(PermissionMissing, match="no member of") as raised:
        restore(site, key, storage_root, user=stranger)
    assert raised.value.hint == 'As a superuser: GRANT "app" TO "stranger".'


@pytest.fixture
def here(site, use_database, settings, storage_root):
    use_database(site)
    settings.PGCLONE_BIN_DIR = str(site.server.bin_dir)
    settings.PGCLONE_STORAGE_LOCATION = f"{storage_root}/"
    settings.PGCLONE_PRE_SWAP_HOOKS = []
    settings.PGCLONE_INSTANCE = "here"
    return site


def maintained_by(name):
    return {"default": {"USER": name, "PASSWORD": PASSWORDS[name]}}


@pytest.mark.parametrize("attributes", [("CREATEDB",), ("SUPERUSER",)], ids=["plain", "superuser"])
def test_maintenance_by_another_role_leaves_everything_to_the_owner(
    here, role, settings, attributes
):
    """The application's own role may be without CREATEDB."""
    maintainer = role("maintainer", *attributes)
    here.server.admin(f'GRANT app TO "{maintainer}"')
    here.server.admin("ALTER ROLE app NOCREATEDB")
    try:
        content, properties = here.fingerprint(), here.database_properties()
        settings.PGCLONE_CONNECTIONS = maintained_by(maintainer)
        manifest = create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
        here.run("DROP TABLE order_line CASCADE")
        options = resolve(Arguments(dump_key=manifest.key, reversible=True), verb="restore")

        restore_service(options, SilentReporter())

        assert here.fingerprint() == content
        assert here.database_properties() == properties
        for name in ("pre", "post"):
            copy_properties = here.database_properties(derived_name(here.name, name))
            assert copy_properties["owner"] == "app"
        post = derived_name(here.name, "post")
        assert here.fingerprint(post) == content
        with here.server.held_session(here.name):
            result = copy_live(resolve(Arguments(), verb=""), ":a copy", SilentReporter())
        assert result.piped
        assert here.fingerprint("a copy") == content
        assert here.database_properties("a copy")["owner"] == "app"
    finally:
        here.server.admin("ALTER ROLE app CREATEDB")


def test_without_createdb_and_without_other_connection_it_is_said_what_to_do(here):
    here.server.admin("ALTER ROLE app NOCREATEDB")
    try:
        manifest = create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
        options = resolve(Arguments(dump_key=manifest.key), verb="restore")
        with unchanged(here), pytest.raises(PermissionMissing) as raised:
            restore_service(options, SilentReporter())
        assert "PGCLONE_CONNECTIONS" in raised.value.hint
        with unchanged(here), pytest.raises(PermissionMissing):
            copy_live(resolve(Arguments(), verb=""), ":a copy", SilentReporter())
    finally:
        here.server.admin("ALTER ROLE app CREATEDB")


@pytest.mark.parametrize("value", [{"default": {"NAME": "x"}}, {"default": "app"}])
def test_a_maintenance_connection_with_other_keys_is_refused(here, settings, value):
    settings.PGCLONE_CONNECTIONS = value
    with unchanged(here), pytest.raises(ConfigurationError, match="PGCLONE_CONNECTIONS"):
        copy_live(resolve(Arguments(), verb=""), ":a copy", SilentReporter())


def test_a_role_whose_sessions_may_not_idle_restores_all_the_same(make_site, role, storage_root):
    """The lock's connection idles while hooks run."""
    site = make_site()
    hasty = role("hasty", "CREATEDB")
    site.server.admin(f'GRANT app TO "{hasty}"')
    for name in ("statement_timeout", "idle_session_timeout", "transaction_timeout"):
        if name != "transaction_timeout" or site.server.major >= 17:
            site.server.admin(f"ALTER ROLE \"{hasty}\" SET {name} = '400ms'")
    before = site.fingerprint()
    key = take(site, storage_root)
    site.run("DROP TABLE order_line CASCADE")
    restore(site, key, storage_root, user=hasty, hooks=lambda _name: time.sleep(0.9))
    assert site.fingerprint() == before


def test_a_limit_of_the_settings_counts_for_maintenance_statements(make_site):
    site = make_site(empty=True)
    with connected(site.server, statement_timeout=150, lock_timeout=100) as server:
        assert server.rows("SHOW statement_timeout") == [("150ms",)]
        assert server.rows("SHOW lock_timeout") == [("100ms",)]
        with pytest.raises(psycopg2.errors.QueryCanceled):
            server.execute("SELECT pg_sleep(5)")
    with connected(site.server) as server:
        assert server.rows("SHOW statement_timeout") == [("0",)]


def test_an_error_of_the_server_becomes_one_of_ours_without_a_secret(make_site):
    site = make_site()
    wrong = site.server.params("postgres", password="wrong " + CANARY)
    with pytest.raises(ServerUnavailable) as raised, wrong.session():
        pass
    assert "password authentication failed" in raised.value.message
    assert CANARY not in str(raised.value) + repr(raised.value) + str(raised.value.__cause__)


# -- sessions and locks ----------------------------------------------------------------------------


def test_sessions_are_seen_without_the_own_one(make_site):
    site = make_site()
    with connected(site.server) as server, site.server.held_session(site.name, user="postgres"):
        oid = server.existing(site.name).oid
        (session,) = sessions_in(server, oid)
        assert (session.user, session.is_superuser, session.application) == (
            "postgres",
            True,
            "tests",
        )
        with pytest.raises(TooBusy, match=str(session.pid)):
            check_sessions_can_be_ended(server, oid)
        assert end_sessions(server, oid) == [session]
        assert sessions_in(server, server.existing("postgres").oid) != []


def test_the_lock_is_shared_by_dumps_and_held_alone_by_a_restore(pg):
    with connected(pg) as one, connected(pg) as two:
        take_lock(one, "db a", exclusive=False)
        take_lock(two, "db a", exclusive=False)
        with pytest.raises(Conflict, match="a dump or a restore of the database"):
            take_lock(two, "db a", exclusive=True)
        take_lock(two, "db b", exclusive=True)
        with pytest.raises(Conflict, match=r'^a restore of the database "db b" is running$'):
            take_lock(one, "db b", exclusive=False)
    with connected(pg) as three:
        take_lock(three, "db a", exclusive=True)
        take_lock(three, "db b", exclusive=True)


def test_a_lock_does_not_depend_on_the_role_or_the_process(pg):
    with connected(pg) as one, connected(pg, user="postgres") as two:
        take_lock(one, 'Ünï "code"\'', exclusive=True)
        with pytest.raises(Conflict):
            take_lock(two, 'Ünï "code"\'', exclusive=True)


def test_a_lock_counts_for_sites_with_another_maintenance_database(pg):
    other = pg.create_database(pg.fresh_name("maintenance"))
    elsewhere = pg.params(other)
    try:
        with connected(pg) as one, Server.connected(elsewhere) as two:
            take_lock(one, "db", exclusive=False)
            take_lock(two, "db", exclusive=False)
            with pytest.raises(Conflict, match="a dump or a restore of the database") as raised:
                take_lock(two, "db", exclusive=True)
            assert "PGCLONE_CONN_DB" in raised.value.hint
            take_lock(two, "db b", exclusive=True)
            with pytest.raises(Conflict, match=r'^a restore of the database "db b" is running$'):
                take_lock(one, "db b", exclusive=False)
        with connected(pg) as one, Server.connected(elsewhere) as two:
            # What was refused is not held.
            take_lock(one, "db b", exclusive=True)
            take_lock(one, "db", exclusive=True)
    finally:
        pg.drop_database(other)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_lock_is_given_back_before_its_connection_is_closed(pg, monkeypatch, exclusive):
    """A server notices only a moment later that a connection was closed."""
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    params = pg.params("postgres")
    with connected(pg) as looking, contextlib.closing(params.connect()) as staying:
        monkeypatch.setattr(
            ConnectionParams, "session", lambda *_, **__: contextlib.nullcontext(staying)
        )
        with Server.connected(params) as server:
            take_lock(server, "db", exclusive=exclusive)
            assert looking.value(held) == 1
        assert looking.value(held) == 0


def test_a_lost_lock_is_noticed(pg):
    with connected(pg) as server:
        take_lock(server, "db", exclusive=True)
        check_lock(server)
        pg.admin("SELECT pg_terminate_backend(%s)", (server.connection.info.backend_pid,))
        with pytest.raises(Conflict, match="was lost"):
            check_lock(server)


# -- names that are refused ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["template0", "template1", "postgres"])
def test_a_database_of_the_server_is_no_database_to_restore(here, use_database, settings, name):
    before = here.server.databases()
    use_database(type(here)(here.server, name), user="postgres")
    settings.PGCLONE_CONN_DB = "postgres" if name != "postgres" else None
    options = resolve(Arguments(dump_key=f":{here.name}"), verb="restore")
    with pytest.raises(PgcloneError) as raised:
        restore_service(options, SilentReporter())
    assert raised.value.code in {"configuration", "database_protected", "server_unavailable"}
    assert here.server.databases() == before


@pytest.mark.parametrize("target", ["template0", "template1", "postgres", "the live one"])
def test_nothing_of_the_server_or_the_settings_is_restored_over_as_a_copy(here, target):
    name = here.name if target == "the live one" else target
    options = resolve(Arguments(dump_key=":a copy"), verb="restore")
    copy_live(resolve(Arguments(), verb=""), ":a copy", SilentReporter())
    with unchanged(here), pytest.raises(DatabaseProtected, match="left alone"):
        restore_service(options, SilentReporter(), variant=Variant(beside=f":{name}"))


def test_what_was_restored_beside_is_listed_with_its_source(here, storage_root):
    key = take(here, storage_root).text
    oid = here.oid
    options = resolve(Arguments(dump_key=key), verb="restore")
    restored = restore_service(options, SilentReporter(), variant=Variant(beside=":to look at"))
    assert restored.result.database == "to look at"
    (entry,) = [e for e in list_local(resolve(Arguments(), verb="")) if e.database == "to look at"]
    assert (str(entry.key), entry.kind, entry.source) == (":to look at", "beside", key)
    assert here.oid == oid


def test_local_databases_are_listed_for_the_role_that_may_use_them(here):
    theirs = here.server.create_database("of postgres", owner="postgres")
    ours = here.server.create_database("of app")
    names = {entry.database for entry in list_local(resolve(Arguments(), verb=""))}
    assert ours in names
    assert not names & {theirs, here.name, "postgres", "template0", "template1"}
