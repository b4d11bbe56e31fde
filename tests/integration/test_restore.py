"""A restore brings everything back, or leaves everything as it was."""

from __future__ import annotations

import contextlib
import json

import pytest

from pgclone_admin.core.errors import (
    Conflict,
    DatabaseProtected,
    HookFailed,
    InvalidName,
    RestoreFailed,
    TooBusy,
    UnknownDatabase,
    UntrustedDump,
)
from pgclone_admin.core.judge import Judge, LoadReport, RestoreError
from pgclone_admin.core.locks import take_lock
from pgclone_admin.core.marks import MARK_PREFIX, Mark
from pgclone_admin.core.names import LocalKey, derived_name
from pgclone_admin.core.own_databases import create_like
from pgclone_admin.core.progress import SilentReporter
from tests.support.postgres import available
from tests.support.sites import make_site as build_site

from .operations import connected, copy, foreign, mark, restore, take, unchanged

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

DERIVED = ("temp", "swap", "pre", "post", "undo")


def spoil(site):
    """Changes that a restore has to take back."""
    site.run(
        'DROP VIEW "Big customers"; DELETE FROM order_line; DROP TABLE "my.tab";'
        " CREATE TABLE newer (id integer); SELECT setval('product_id_seq', 5000);"
        " REVOKE SELECT ON customer FROM reader; SELECT lo_unlink(content) FROM document"
    )


def marker(site, value, dbname=None):
    """Writes a value that tells one state of the site from another."""
    site.run(
        "DROP TABLE IF EXISTS marker; CREATE TABLE marker AS SELECT %s::text AS value",
        params=(value,),
        dbname=dbname,
    )


def marked_as(site, dbname=None):
    """The value of `marker`; "" before any."""
    if site.run("SELECT to_regclass('marker')", dbname=dbname) == [(None,)]:
        return ""
    return site.run("SELECT value FROM marker", dbname=dbname)[0][0]


def kinds(site):
    """Name -> kind of every database that is marked as made for this site."""
    found = {}
    for name in site.server.databases():
        read = Mark.read(site.server.comment(name), name)
        if read is not None and read.of == site.name:
            found[name] = read.kind
    return found


def broken_reference(server, name, *, partitioned=False):
    """A database of ``app`` with a row that breaks its foreign key, and the name of it."""
    server.create_database(name)
    parent = "CREATE TABLE parent (id integer PRIMARY KEY)"
    if partitioned:
        parent += (
            " PARTITION BY RANGE (id); CREATE TABLE parent_1 PARTITION OF parent"
            " FOR VALUES FROM (0) TO (100)"
        )
    server.run(
        f"{parent}; INSERT INTO parent VALUES (1);"
        " CREATE TABLE child (parent_id integer REFERENCES parent)",
        name,
        "app",
    )
    # What a superuser may do with "replica" is also what a damaged index does.
    server.run("SET session_replication_role = replica; INSERT INTO child VALUES (7)", name)
    return name


# -- everything comes back -------------------------------------------------------------------------


def test_a_dump_and_its_restore_give_an_equal_database(any_pg, make_site, storage_root):
    site = make_site(any_pg)
    before, properties, oid = site.fingerprint(), site.database_properties(), site.oid
    key = take(site, storage_root)
    spoil(site)

    reporter = SilentReporter()
    result = restore(site, key, storage_root, reporter=reporter)

    assert site.fingerprint() == before
    assert site.database_properties() == properties
    assert site.oid not in (oid, None)
    assert result.database == site.name
    assert result.swap.seconds < 5
    assert result.report.skipped_grants == []
    assert result.report.unchecked_foreign_keys == []
    assert result.report.tolerated == []
    assert reporter.warnings == []


def test_a_restored_database_has_statistics(site, storage_root):
    key = take(site, storage_root)
    restore(site, key, storage_root)
    assert site.run("SELECT count(*) > 10 FROM pg_stats WHERE schemaname = 'public'") == [(True,)]


@pytest.mark.parametrize("codec", ["zstd", "gzip", "none"])
def test_every_compression_restores(make_site, storage_root, codec):
    site = make_site()
    before = site.fingerprint()
    key = take(site, storage_root, codec=codec)
    spoil(site)
    restore(site, key, storage_root)
    assert site.fingerprint() == before


@pytest.mark.skipif(18 not in available(), reason="needs the programs of PostgreSQL 18")
@pytest.mark.parametrize("major", [m for m in available() if m < 17])
def test_newer_programs_on_an_older_server_are_tolerated_for_transaction_timeout_only(
    servers, make_site, storage_root, major
):
    site = make_site(servers.get(major))
    newer = {"program_directories": [str(available()[18])]}
    before, properties = site.fingerprint(), site.database_properties()
    key = take(site, storage_root, **newer)
    spoil(site)

    result = restore(site, key, storage_root, **newer)

    assert result.report.tolerated == ["SET transaction_timeout = 0;"]
    assert result.report.skipped_grants == []
    assert site.fingerprint() == before
    assert site.database_properties() == properties


@pytest.mark.skipif(not {15, 18} <= set(available()), reason="needs PostgreSQL 15 and 18")
def test_a_dump_of_an_older_server_restores_on_a_newer_one(pg15, pg18, make_site, storage_root):
    old, new = make_site(pg15), make_site(pg18, empty=True)
    key = take(old, storage_root)
    restore(new, key, storage_root)
    assert new.fingerprint()["rows"] == old.fingerprint()["rows"]
    assert new.fingerprint()["large objects"] == old.fingerprint()["large objects"]


def test_a_database_that_does_not_exist_yet_is_made(site, make_site, storage_root):
    key = take(site, storage_root)
    content = site.fingerprint()
    missing = make_site(properties=False)
    site.server.drop_database(missing.name)

    result = restore(missing, key, storage_root, reversible=True)

    assert missing.fingerprint() == content
    assert result.swap is None
    assert missing.database_properties()["owner"] == "app"
    assert missing.database_properties()["comment"] is None
    assert kinds(missing) == {}


def test_a_failed_restore_into_a_missing_database_makes_none(make_site, storage_root):
    broken = broken_reference(make_site().server, "broken_for_missing")
    missing = make_site()
    key = foreign(storage_root, missing.server.archive(broken))
    missing.server.drop_database(missing.name)
    databases = missing.server.databases()
    with pytest.raises(RestoreFailed):
        restore(missing, key, storage_root)
    assert missing.server.databases() == databases


# -- roles that are not here -----------------------------------------------------------------------


def test_grants_to_missing_roles_are_listed_and_their_neighbours_replayed(make_site, storage_root):
    site = make_site()
    server = site.server
    # Quoted, so that neither the semicolon nor the line break ends a statement.
    gone = '"gone;\nfor good"'
    server.admin(f"CREATE ROLE {gone}")
    try:
        site.run(
            f"GRANT SELECT ON customer TO {gone}, other;"
            f"GRANT INSERT ON product TO reader, {gone};"
            f'GRANT USAGE ON SCHEMA "schéma 2" TO {gone};'
            f"GRANT EXECUTE ON FUNCTION log_change() TO {gone}, reader;"
            f"GRANT SELECT (name) ON customer TO {gone}, other;"
            f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {gone}, other;"
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO {gone}"
        )
        key = take(site, storage_root)
        server.run(f"DROP OWNED BY {gone}", site.name)
    finally:
        server.admin(f"DROP ROLE {gone}")
    expected = site.fingerprint()
    spoil(site)

    reporter = SilentReporter()
    result = restore(site, key, storage_root, reporter=reporter)

    assert site.fingerprint() == expected
    skipped = result.report.skipped_grants
    assert len(skipped) == 7
    assert all(f"TO {gone}" in statement for statement in skipped)
    assert all(f"role {gone} does not exist" in statement for statement in skipped)
    assert sorted(reporter.warnings) == sorted(f"left out: {each}" for each in skipped)


def test_a_grant_that_cannot_be_read_fails_the_restore(make_site):
    error = RestoreError("ACL public TABLE t app", 'ERROR:  x\nCommand was: GRANT ALL ON t TO "a')
    with contextlib.closing(make_site(empty=True).params().connect()) as connection:
        judge = Judge(connection, None, LoadReport())
        with pytest.raises(RestoreFailed, match="pg_restore failed: ERROR:  x") as caught:
            judge.judge([error])
    assert caught.value.hint == "The live database was not touched."


def test_a_policy_for_a_missing_role_fails_the_restore(make_site, storage_root):
    """A missing grant takes a right away; a missing policy could open a table."""
    site = make_site()
    site.server.admin("CREATE ROLE gone_policy")
    try:
        site.run('CREATE POLICY theirs ON "my.tab" FOR SELECT TO gone_policy USING (false)')
        key = take(site, storage_root)
        site.run('DROP POLICY theirs ON "my.tab"')
    finally:
        site.server.admin("DROP ROLE gone_policy")
    with (
        unchanged(site),
        pytest.raises(RestoreFailed, match='role "gone_policy" does not exist'),
    ):
        restore(site, key, storage_root)


def test_a_grant_that_a_grantee_passed_on_comes_back_or_is_listed(make_site, storage_root):
    """Only a superuser may grant in the name of another role."""
    site = make_site()
    site.run("GRANT SELECT ON customer TO other WITH GRANT OPTION")
    site.server.run(
        f'GRANT CONNECT ON DATABASE "{site.name}" TO other; SET ROLE other;'
        " GRANT SELECT ON customer TO pg_monitor",
        site.name,
    )
    key = take(site, storage_root)
    spoil(site)

    result = restore(site, key, storage_root)

    assert len(result.report.skipped_grants) == 1
    assert "GRANT SELECT ON TABLE public.customer TO pg_monitor" in result.report.skipped_grants[0]
    granted = "SELECT has_table_privilege(%s, 'customer', 'SELECT')"
    assert site.run(granted, params=("other",)) == [(True,)]
    assert site.run(granted, params=("reader",)) == [(True,)]


def test_objects_belong_to_the_owner_here_whoever_owned_them_there(make_site, storage_root):
    """Production and staging are on one server with an owner each."""
    here = make_site()
    server = here.server
    server.admin("CREATE ROLE producer")
    there = server.create_database("of the producer", owner="producer")
    try:
        server.run(
            "SET ROLE producer; CREATE TABLE made (id integer); INSERT INTO made VALUES (1), (2);"
            " GRANT SELECT ON made TO reader; ALTER DEFAULT PRIVILEGES FOR ROLE producer"
            " IN SCHEMA public GRANT SELECT ON TABLES TO reader",
            there,
        )
        key = foreign(storage_root, server.archive(there, user="postgres"))
        result = restore(here, key, storage_root)
    finally:
        server.drop_database(there)
        server.admin("DROP ROLE producer")
    assert here.run("SELECT tableowner FROM pg_tables WHERE tablename = 'made'") == [("app",)]
    assert here.run("SELECT count(*) FROM made") == [(2,)]
    assert here.run("SELECT has_table_privilege('reader', 'made', 'SELECT')") == [(True,)]
    assert len(result.report.skipped_grants) == 1
    assert "FOR ROLE producer" in result.report.skipped_grants[0]


# -- rows that were left out -----------------------------------------------------------------------


def test_a_foreign_key_to_rows_left_out_is_made_not_valid(any_pg, make_site, storage_root):
    site = make_site(any_pg)
    before = site.fingerprint()
    key = take(site, storage_root, exclude=["public.product"])

    reporter = SilentReporter()
    result = restore(site, key, storage_root, reporter=reporter)

    assert site.fingerprint().rows["public.product"] == 0
    assert site.fingerprint().rows["public.order_line"] == before.rows["public.order_line"]
    unvalidated = site.run("SELECT conname FROM pg_constraint WHERE NOT convalidated")
    assert unvalidated == [("order_line_product_id_fkey",)]
    assert len(result.report.unchecked_foreign_keys) == 1
    assert "order_line_product_id_fkey" in result.report.unchecked_foreign_keys[0]
    assert any("NOT VALID" in warning for warning in reporter.warnings)
    # It holds for rows that come from now on.
    with pytest.raises(Exception, match="order_line_product_id_fkey"):
        site.run("UPDATE order_line SET product_id = 4711 WHERE id = 1")
    after, lost = site.fingerprint(), ("rows", "constraints", "sequences")
    assert after.without(*lost) == before.without(*lost)


def test_a_foreign_key_to_a_partitioned_table_left_out_is_made_not_valid(
    any_pg, make_site, storage_root
):
    site = make_site(any_pg)
    key = take(site, storage_root, exclude=["public.orders"])
    result = restore(site, key, storage_root)
    rows = site.fingerprint().rows
    assert rows["public.orders_2025"] == rows["public.orders_2026"] == 0
    assert rows["public.order_line"] > 1000
    assert len(result.report.unchecked_foreign_keys) == 1
    assert "REFERENCES public.orders(" in result.report.unchecked_foreign_keys[0]


def test_a_foreign_key_from_a_partitioned_table_to_rows_left_out(any_pg, make_site, storage_root):
    """Before version 18 such a key cannot be NOT VALID, so the dump cannot be restored."""
    site = make_site(any_pg)
    key = take(site, storage_root, exclude=["public.customer"])
    if any_pg.major < 18:
        with unchanged(site), pytest.raises(RestoreFailed, match="orders_customer_id_fkey"):
            restore(site, key, storage_root)
        return
    result = restore(site, key, storage_root)
    assert len(result.report.unchecked_foreign_keys) == 1
    assert site.fingerprint().rows["public.customer"] == 0
    assert site.fingerprint().rows["public.orders_2025"] > 100


@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
def test_a_violated_foreign_key_in_a_foreign_archive_fails(make_site, storage_root, partitioned):
    site = make_site()
    name = broken_reference(site.server, "broken_reference", partitioned=partitioned)
    key = foreign(storage_root, site.server.archive(name))
    with unchanged(site), pytest.raises(RestoreFailed, match="child_parent_id_fkey") as raised:
        restore(site, key, storage_root)
    assert raised.value.code == "restore_failed"
    assert raised.value.hint == "The live database was not touched."


def test_a_violated_foreign_key_is_not_excused_by_other_rows_left_out(make_site, storage_root):
    site = make_site()
    name = broken_reference(site.server, "broken_and_excluded")
    site.server.run("CREATE TABLE secret (id integer)", name, "app")
    archive = site.server.archive(name, "--exclude-table-data=secret")
    key = foreign(storage_root, archive)
    with unchanged(site), pytest.raises(RestoreFailed, match="child_parent_id_fkey"):
        restore(site, key, storage_root)


# -- reversible ------------------------------------------------------------------------------------


def test_a_reversible_restore_keeps_pre_and_post_and_post_is_made_after_the_hooks(
    any_pg, make_site, storage_root
):
    site = make_site(any_pg)
    marker(site, "dumped")
    key = take(site, storage_root)
    marker(site, "before the restore")
    oid, properties = site.oid, site.database_properties()

    restore(
        site, key, storage_root, reversible=True, hooks=lambda name: marker(site, "hooked", name)
    )

    pre, post = f"{site.name}__pre", f"{site.name}__post"
    assert marked_as(site) == marked_as(site, post) == "hooked"
    assert marked_as(site, pre) == "before the restore"
    assert site.server.oid(pre) == oid
    assert len({site.oid, oid, site.server.oid(post)}) == 3
    assert site.fingerprint(post) == site.fingerprint()
    assert kinds(site) == {pre: "pre", post: "post"}
    assert site.database_properties() == properties
    assert "raw" not in site.fingerprint(post)


def test_restoring_pre_keeps_it_and_undo_takes_it_back(make_site, storage_root):
    site = make_site(empty=True)
    marker(site, "dumped")
    key = take(site, storage_root)
    marker(site, "before")
    restore(site, key, storage_root, reversible=True)
    pre, post, undo = (derived_name(site.name, each) for each in ("pre", "post", "undo"))
    kept, properties = site.server.oid(pre), site.database_properties()
    marker(site, "work of an hour")
    replaced = site.oid

    restore(site, ":pre")

    assert marked_as(site) == "before"
    assert site.server.oid(pre) == kept
    assert marked_as(site, pre) == "before"
    assert marked_as(site, undo) == "work of an hour"
    assert site.server.oid(undo) == replaced
    assert kinds(site) == {pre: "pre", post: "post", undo: "undo"}
    assert site.database_properties() == properties

    restore(site, ":undo")

    assert marked_as(site) == "work of an hour"
    assert marked_as(site, undo) == "before"
    assert site.server.oid(pre) == kept
    assert site.database_properties() == properties


@pytest.mark.parametrize("reversible", [False, True])
def test_restoring_post_or_a_copy_keeps_it(make_site, storage_root, reversible):
    site = make_site(empty=True)
    key = take(site, storage_root)
    restore(site, key, storage_root, reversible=True)
    marker(site, "copied")
    copy(site, ":a copy")
    marker(site, "newest")
    before = set(kinds(site))

    restore(site, ":post", reversible=reversible)
    assert marked_as(site) == ""
    restore(site, ":a copy", reversible=reversible)

    assert marked_as(site) == "copied"
    assert set(kinds(site)) == before | {derived_name(site.name, "undo")}
    assert marked_as(site, "a copy") == "copied"


def test_an_unmarked_database_can_be_restored_from_and_stays(make_site):
    site, theirs = make_site(empty=True), make_site(empty=True)
    marker(theirs, "theirs")
    oid = theirs.oid
    restore(site, f":{theirs.name}")
    assert marked_as(site) == marked_as(theirs) == "theirs"
    assert theirs.oid == oid
    assert theirs.server.comment(theirs.name).startswith("The shop")


def test_restoring_from_a_database_in_use_is_piped_and_ends_no_session(make_site):
    site, theirs = make_site(), make_site()
    marker(theirs, "theirs")
    with (
        theirs.server.held_session(theirs.name) as session,
        session.cursor() as cursor,
    ):
        restore(site, f":{theirs.name}")
        cursor.execute("SELECT value FROM marker")
        assert cursor.fetchone() == ("theirs",)
    assert marked_as(site) == "theirs"
    assert site.fingerprint() == theirs.fingerprint()


def test_a_restore_that_is_not_reversible_drops_older_pre_and_post(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    restore(site, key, storage_root, reversible=True)
    assert set(kinds(site).values()) == {"pre", "post"}
    restore(site, key, storage_root)
    assert kinds(site) == {}


def test_a_second_reversible_restore_replaces_pre_and_post(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    marker(site, "first")
    restore(site, key, storage_root, reversible=True)
    marker(site, "second")
    restore(
        site, key, storage_root, reversible=True, hooks=lambda name: marker(site, "hooked", name)
    )
    assert marked_as(site, f"{site.name}__pre") == "second"
    assert marked_as(site, f"{site.name}__post") == "hooked"
    assert len(kinds(site)) == 2


def test_a_reversible_restore_that_does_not_swap_leaves_the_copies_of_the_one_before(
    make_site, storage_root
):
    """ ":post" would otherwise hold what was never live."""
    site = make_site(empty=True)
    site.server.admin(f'GRANT CONNECT ON DATABASE "{site.name}" TO other')
    key = take(site, storage_root)
    marker(site, "before")
    restore(site, key, storage_root, reversible=True)
    pre, post, held = (derived_name(site.name, role) for role in ("pre", "post", "held"))
    kept, live = [site.server.oid(pre), site.server.oid(post)], site.oid

    def hook(name):
        marker(site, "never live", name)

    with site.server.held_session(site.name, user="postgres"), pytest.raises(TooBusy):
        restore(site, key, storage_root, reversible=True, hooks=hook)
    assert set(kinds(site).values()) == {"pre", "post"}

    with contextlib.ExitStack() as late:

        def hook_and_a_session(name):
            hook(name)
            late.enter_context(site.server.held_session(site.name, user="other"))

        with pytest.raises(TooBusy):
            restore(site, key, storage_root, reversible=True, hooks=hook_and_a_session)

    assert site.oid == live
    assert [site.server.oid(pre), site.server.oid(post)] == kept
    assert kinds(site) == {pre: "pre", post: "post", held: "held"}


@pytest.mark.parametrize(("old", "new"), [("previous", "pre"), ("current", "post")])
def test_local_copies_can_be_named_as_in_version_1(make_site, storage_root, old, new):
    site = make_site(empty=True)
    key = take(site, storage_root)
    marker(site, "before")
    restore(site, key, storage_root, reversible=True)
    expected = site.fingerprint(derived_name(site.name, new))
    marker(site, "later")
    restore(site, f":{old}")
    assert site.fingerprint() == expected
    assert derived_name(site.name, new) in kinds(site)


def test_hooks_run_on_a_restored_local_copy_and_not_on_the_copy_itself(make_site):
    site = make_site(empty=True)
    marker(site, "copied")
    copy(site, ":clean copy")
    restore(site, ":clean copy", hooks=lambda name: marker(site, "hooked", name))
    assert marked_as(site) == "hooked"
    assert marked_as(site, "clean copy") == "copied"


def test_a_local_copy_that_does_not_exist_is_an_error(make_site):
    site = make_site(empty=True)
    for key in (":pre", ":undo", ":nobody knows"):
        with unchanged(site), pytest.raises(UnknownDatabase, match="there is no database") as told:
            restore(site, key)
        assert "pgclone ls --local" in told.value.hint


def test_a_database_cannot_be_restored_from_itself(make_site):
    site = make_site(empty=True)
    with unchanged(site), pytest.raises(Conflict, match="from itself"):
        restore(site, f":{site.name}")


@pytest.mark.parametrize("role", ["temp", "swap"])
def test_a_database_in_the_making_cannot_be_restored_from(make_site, role, nothing_left_behind):
    site = make_site(empty=True)
    name = derived_name(site.name, role)
    nothing_left_behind.allow(name)
    with connected(site.server) as server:
        create_like(server, server.existing(site.name), mark(name, of=site.name))
    with unchanged(site), pytest.raises(InvalidName, match="was not finished"):
        restore(site, f":{name}")


# -- beside ----------------------------------------------------------------------------------------


def test_a_restore_beside_leaves_the_live_database_alone(any_pg, make_site, storage_root):
    site = make_site(any_pg)
    marker(site, "dumped")
    key = take(site, storage_root)
    content = site.fingerprint()
    marker(site, "live")
    beside = LocalKey.parse(':to look at "it"')
    live, oid, properties = site.fingerprint(), site.oid, site.database_properties()
    with site.server.held_session(site.name) as session:
        result = restore(site, key, storage_root, beside=beside, reversible=True)
        assert session.info.transaction_status == 0
    assert site.fingerprint() == live
    assert site.oid == oid
    assert site.database_properties() == properties
    assert result.database == beside.name
    assert result.swap is None
    assert site.fingerprint(beside.name) == content
    assert kinds(site) == {beside.name: "beside"}
    assert site.database_properties(beside.name)["owner"] == "app"


def test_a_restore_beside_runs_the_hooks_and_replaces_only_its_own(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    beside = LocalKey.parse(":look")
    restore(site, key, storage_root, beside=beside, hooks=lambda name: marker(site, "one", name))
    first = site.server.oid("look")
    restore(site, key, storage_root, beside=beside, hooks=lambda name: marker(site, "two", name))
    assert marked_as(site, "look") == "two"
    assert site.server.oid("look") != first
    with pytest.raises(RuntimeError, match="no"):
        restore(site, key, storage_root, beside=beside, hooks=fail)
    assert marked_as(site, "look") == "two"


def fail(_temporary):
    raise RuntimeError("no")


def test_a_local_copy_can_be_put_beside_too(make_site):
    site = make_site(empty=True)
    marker(site, "copied")
    copy(site, ":one")
    restore(site, ":one", beside=LocalKey.parse(":two"))
    assert marked_as(site, "one") == marked_as(site, "two") == "copied"
    assert kinds(site) == {"one": "copy", "two": "beside"}


# -- what was not made here is never touched -------------------------------------------------------


@pytest.mark.parametrize("local", [False, True], ids=["dump", "local copy"])
@pytest.mark.parametrize("role", DERIVED)
def test_an_unmarked_database_under_a_derived_name_is_refused_and_survives(
    make_site, storage_root, role, local, nothing_left_behind
):
    site = make_site(empty=True)
    name = derived_name(site.name, role)
    nothing_left_behind.allow(name)
    key = take(site, storage_root)
    copy(site, ":good copy")
    theirs = make_site(name=name, empty=True)
    marker(theirs, "theirs")
    oid = theirs.oid
    with unchanged(site), pytest.raises(DatabaseProtected, match=name) as raised:
        restore(site, ":good copy" if local else key, storage_root, hooks=fail)
    assert raised.value.code == "database_protected"
    assert theirs.oid == oid
    assert marked_as(theirs) == "theirs"


@pytest.mark.parametrize(
    "comment",
    [
        "pgclone_admin",
        "pgclone_admin {",
        "pgclone_admin []",
        'pgclone_admin {"name": "x"}',
        "about pgclone_admin {}",
        MARK_PREFIX + json.dumps({"name": "renamed", "kind": "pre", "of": "a", "made_at": "b"}),
    ],
)
def test_a_comment_that_only_resembles_a_mark_protects_nothing_from_being_theirs(
    make_site, storage_root, comment
):
    site = make_site(empty=True)
    name = derived_name(site.name, "pre")
    theirs = make_site(name=name, empty=True, properties=False)
    with site.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f'COMMENT ON DATABASE "{name}" IS %s', (comment,))
    connection.close()
    key = take(site, storage_root)
    with unchanged(site), pytest.raises(DatabaseProtected):
        restore(site, key, storage_root)
    assert theirs.oid is not None


def test_a_marked_database_that_somebody_renamed_is_theirs(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    copy(site, ":was a copy")
    undo = derived_name(site.name, "undo")
    site.server.admin(f'ALTER DATABASE "was a copy" RENAME TO "{undo}"')
    with unchanged(site), pytest.raises(DatabaseProtected, match=undo):
        restore(site, key, storage_root)


@pytest.mark.parametrize("name", ["template0", "template1", "postgres", "a neighbour", "the live"])
def test_a_restore_beside_never_takes_a_name_that_is_in_use(make_site, storage_root, name):
    site = make_site(empty=True)
    key = take(site, storage_root)
    neighbour = make_site(empty=True)
    target = {"a neighbour": neighbour.name, "the live": site.name}.get(name, name)
    oid = site.server.oid(target)
    protected = frozenset({"template0", "template1", "postgres"})
    with unchanged(site), pytest.raises(DatabaseProtected):
        restore(site, key, storage_root, beside=LocalKey.parse(f":{target}"), protected=protected)
    assert site.server.oid(target) == oid


def test_a_marked_database_that_the_settings_name_is_protected(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    copy(site, ":in use now")
    oid = site.server.oid("in use now")
    with unchanged(site), pytest.raises(DatabaseProtected, match="named in the settings"):
        restore(
            site,
            key,
            storage_root,
            beside=LocalKey.parse(":in use now"),
            protected=frozenset({"in use now"}),
        )
    assert site.server.oid("in use now") == oid


def made_by_another_site(site, name, kind="copy"):
    """A database that another site on the same server has just made; returns its oid."""
    with connected(site.server) as server:
        model = server.default_model()
        return create_like(server, model, mark(name, of="another site", kind=kind)).oid


def test_a_name_that_another_site_takes_while_a_restore_runs_stays_theirs(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    theirs = []
    with (
        unchanged(site, made=["look"]),
        pytest.raises(DatabaseProtected, match='"look" was made for the database "another site"'),
    ):
        restore(
            site,
            key,
            storage_root,
            beside=LocalKey.parse(":look"),
            hooks=lambda _temporary: theirs.append(made_by_another_site(site, "look", "beside")),
        )
    assert [site.server.oid("look")] == theirs


def test_a_copy_that_is_made_while_a_restore_beside_runs_is_no_older_restore(
    make_site, storage_root
):
    site = make_site(empty=True)
    key = take(site, storage_root)
    with unchanged(site, made=["look"]), pytest.raises(DatabaseProtected, match="already"):
        restore(
            site,
            key,
            storage_root,
            beside=LocalKey.parse(":look"),
            hooks=lambda _temporary: copy(site, ":look"),
        )
    assert kinds(site) == {"look": "copy"}


@pytest.mark.parametrize(
    ("role", "left"),
    [
        ("pre", {"swap": "parked", "post": "post"}),
        ("post", {"pre": "pre"}),
        ("pre", {}),
        ("post", {}),
    ],
)
def test_a_name_that_is_needed_after_the_swap_and_is_another_sites_by_then_stays_theirs(
    make_site, storage_root, role, left, nothing_left_behind
):
    """The restore is done by then; what was to get the name keeps its own, or is dropped."""
    site = make_site(empty=True)
    for name in (role, *left):
        nothing_left_behind.allow(derived_name(site.name, name))
    key = take(site, storage_root)
    marker(site, "second")
    reporter, name, theirs = SilentReporter(), derived_name(site.name, role), []
    result = restore(
        site,
        key,
        storage_root,
        reversible=bool(left),
        reporter=reporter,
        hooks=lambda _temporary: theirs.append(made_by_another_site(site, name)),
    )
    assert result.swap is not None
    assert marked_as(site) == ""
    assert [site.server.oid(name)] == theirs
    assert 'made for the database "another site"' in reporter.warnings[-1]
    assert kinds(site) == {derived_name(site.name, each): kind for each, kind in left.items()}


# -- two at once -----------------------------------------------------------------------------------


def test_a_second_restore_of_the_same_database_gets_a_conflict(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    seen = []

    def second(_temporary):
        with pytest.raises(Conflict, match="is running") as raised:
            restore(site, key, storage_root)
        seen.append(raised.value.code)
        with pytest.raises(Conflict):
            take(site, storage_root)

    restore(site, key, storage_root, hooks=second)
    assert seen == ["conflict"]


def test_restores_of_two_databases_do_not_disturb_each_other(make_site, storage_root):
    one, two = make_site(empty=True), make_site(empty=True)
    marker(one, "one")
    key = take(one, storage_root)
    restore(one, key, storage_root, hooks=lambda _name: restore(two, key, storage_root) and None)
    assert marked_as(one) == marked_as(two) == "one"


def test_a_dump_beside_a_dump_is_allowed_and_a_restore_beside_one_is_not(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    with connected(site.server) as server:
        take_lock(server, site.name, exclusive=False)  # as a dump holds it
        second = take(site, storage_root)
        with unchanged(site), pytest.raises(Conflict, match="a dump or a restore"):
            restore(site, key, storage_root)
    assert second != key
    restore(site, second, storage_root)


def test_the_lock_is_gone_with_the_process_that_held_it(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    with connected(site.server) as server:
        take_lock(server, site.name, exclusive=True)
        with pytest.raises(Conflict):
            restore(site, key, storage_root)
        site.server.admin("SELECT pg_terminate_backend(%s)", (server.connection.info.backend_pid,))
        restore(site, key, storage_root)


def test_a_restore_whose_lock_was_lost_does_not_swap(make_site, storage_root):
    """Another restore may have begun meanwhile, and use the same temporary database."""
    site = make_site(empty=True)
    key = take(site, storage_root)
    marker(site, "live")

    def lose_the_lock(_temporary):
        site.server.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
        )

    oid = site.oid
    with pytest.raises(Conflict, match="kept other restores away was lost"):
        restore(site, key, storage_root, hooks=lose_the_lock)
    assert site.oid == oid
    assert marked_as(site) == "live"
    assert kinds(site) == {}
    restore(site, key, storage_root)
    assert kinds(site) == {}


# -- failures on the way ---------------------------------------------------------------------------


def test_a_failing_hook_keeps_the_temporary_database_until_the_next_restore(
    make_site, storage_root, nothing_left_behind
):
    site = make_site(empty=True)
    key = take(site, storage_root)
    temporary = derived_name(site.name, "temp")

    def hook(name):
        marker(site, "hooked", name)
        raise HookFailed("it failed")

    with unchanged(site, made=[temporary]), pytest.raises(HookFailed) as raised:
        restore(site, key, storage_root, reversible=True, hooks=hook)
    assert temporary in raised.value.hint
    assert marked_as(site, temporary) == "hooked"
    assert kinds(site) == {temporary: "failed"}
    nothing_left_behind.check(allow=[temporary])

    restore(site, key, storage_root)
    assert kinds(site) == {}
    assert marked_as(site) == ""


def test_any_other_error_drops_the_temporary_database(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    for error in (RuntimeError("no"), KeyboardInterrupt(), SystemExit(3)):

        def hook(_name, error=error):
            raise error

        with unchanged(site), pytest.raises(type(error)):
            restore(site, key, storage_root, reversible=True, hooks=hook)


def test_a_session_in_an_older_pre_stops_nothing(make_site, storage_root):
    site = make_site(empty=True)
    key = take(site, storage_root)
    restore(site, key, storage_root, reversible=True)
    with site.server.held_session(f"{site.name}__pre"):
        restore(site, key, storage_root, reversible=True)
    assert set(kinds(site).values()) == {"pre", "post"}


def test_what_cannot_be_cleaned_up_after_the_swap_is_said_and_done_next_time(
    make_site, storage_root, nothing_left_behind
):
    """The restore is done by then; it must not be called a failure."""
    site = make_site(empty=True)
    site.server.admin(f'GRANT CONNECT ON DATABASE "{site.name}" TO other')
    key = take(site, storage_root)
    restore(site, key, storage_root, reversible=True)
    marker(site, "second")
    reporter = SilentReporter()
    with site.server.held_session(f"{site.name}__pre", user="other"):
        result = restore(site, key, storage_root, reporter=reporter)
    assert result.swap is not None
    assert marked_as(site) == ""
    assert len(reporter.warnings) == 1
    assert "the next one has to clean up" in reporter.warnings[0]

    restore(site, key, storage_root)
    assert kinds(site) == {}


def test_a_superuser_may_restore_its_own_dump_and_is_warned(make_site, storage_root):
    site = make_site()
    before = site.fingerprint()
    key = take(site, storage_root, user="postgres")
    spoil(site)
    reporter = SilentReporter()
    restore(site, key, storage_root, user="postgres", reporter=reporter)
    assert site.fingerprint() == before
    assert any("superuser" in warning for warning in reporter.warnings)


def test_a_foreign_dump_is_restored_by_a_plain_role_with_a_warning(make_site, storage_root):
    site = make_site()
    before = site.fingerprint()
    key = foreign(storage_root, site.archive())
    spoil(site)
    reporter = SilentReporter()
    restore(site, key, storage_root, reporter=reporter)
    assert site.fingerprint() == before
    assert any("no manifest" in warning for warning in reporter.warnings)
    with unchanged(site), pytest.raises(UntrustedDump):
        restore(site, key, storage_root, user="postgres")


def test_many_grants_to_missing_roles_do_not_hide_each_other(make_site, storage_root):
    site = make_site(empty=True)
    site.server.admin("CREATE ROLE gone_many")
    try:
        tables = "; ".join(
            f"CREATE TABLE t{n} (id integer); GRANT SELECT ON t{n} TO gone_many, reader"
            for n in range(60)
        )
        site.run(tables)
        key = take(site, storage_root)
        site.server.run("DROP OWNED BY gone_many", site.name)
    finally:
        site.server.admin("DROP ROLE gone_many")
    expected = site.fingerprint()
    result = restore(site, key, storage_root)
    assert len(result.report.skipped_grants) == 60
    assert site.fingerprint() == expected


def test_a_site_of_another_encoding_and_locale_keeps_them(any_pg, storage_root):
    site = build_site(any_pg, extra="ENCODING 'LATIN1' LOCALE 'C'", empty=True)
    site.run("CREATE TABLE word (text text); INSERT INTO word VALUES ('Grüße')")
    before, properties = site.fingerprint(), site.database_properties()
    key = take(site, storage_root)
    site.run("TRUNCATE word")
    restore(site, key, storage_root, reversible=True)
    assert site.fingerprint() == before
    assert site.database_properties() == properties
    post = site.database_properties(f"{site.name}__post")
    assert (post["encoding"], post["collate"]) == ("LATIN1", "C")


def test_what_is_tried_again_keeps_its_encoding(any_pg, storage_root):
    """A grant to a role that is not here, and a foreign key to rows that were left out, both with
    names and values that are no UTF-8 in the archive."""
    site = build_site(any_pg, extra="ENCODING 'LATIN1' LOCALE 'C'", empty=True)
    site.server.admin("CREATE ROLE gone_latin")
    try:
        site.run(
            'CREATE TABLE "Größe" (id integer PRIMARY KEY); INSERT INTO "Größe" VALUES (1);'
            'CREATE TABLE "Maß" ("größe" integer CONSTRAINT "Schlüssel" REFERENCES "Größe");'
            'INSERT INTO "Maß" VALUES (1); GRANT SELECT ON "Maß" TO gone_latin'
        )
        key = take(site, storage_root, exclude=['public."Größe"'])
        site.server.run("DROP OWNED BY gone_latin", site.name)
    finally:
        site.server.admin("DROP ROLE gone_latin")
    report = restore(site, key, storage_root).report
    (grant,), (foreign_key,) = report.skipped_grants, report.unchecked_foreign_keys
    assert grant.startswith("GRANT SELECT ON TABLE public.")
    assert "gone_latin" in grant
    assert grant.encode()  # it can be told and stored
    assert foreign_key.encode()
    names = site.run("SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f'")
    assert names == [("Schlüssel", False)]
    assert site.run('SELECT "größe" FROM "Maß"') == [(1,)]


def test_the_live_name_is_quoted_wherever_it_goes(make_site, storage_root):
    site = make_site(name='my "live"; DROP')
    before = site.fingerprint()
    key = take(site, storage_root)
    spoil(site)
    restore(site, key, storage_root, reversible=True)
    assert site.fingerprint() == before
    with contextlib.closing(site.connect("postgres")) as connection:
        assert connection.info.dbname == 'my "live"; DROP'
