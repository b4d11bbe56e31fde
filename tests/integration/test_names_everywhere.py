"""Names that break careless programs: of databases, tables, schemas, and in keys."""

from __future__ import annotations

import contextlib

import pytest

from pgclone_admin.core.errors import ConfigurationError, IntegrityError
from pgclone_admin.core.marks import Mark
from pgclone_admin.core.names import MAX_NAME_BYTES, LocalKey, derived_name
from pgclone_admin.core.programs import dump_command
from pgclone_admin.core.streams import ArchiveReader
from pgclone_admin.store import DumpStore
from tests.support import SECRET_ROW

from .operations import copy, label, labelled, restore, take

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

NAMES = [
    'with spaces, "quotes" and it\'s',
    "dbname=postgres user=postgres",
    "-leading dash",
    "--file=pgclone-was-here",
    "postgresql://app@127.0.0.1:1/x",
    "ünïcödé ŐŰ 数据库",
    "UPPER; lower -- comment",
    "$(id) `id` $HOME \\ %s %(x)s {x}",
    "pattern*?[a-z]|x.y",
    "line\nbreak\ttab",
    "public",
]


def short_cycle(site, root):
    """Dump, change, restore reversibly, copy while somebody is connected."""
    label(site, "dumped")
    key = take(site, root)
    label(site, "changed")
    restore(site, key, root, reversible=True)
    states = {"pre": "changed", "post": "dumped"}
    assert labelled(site) == "dumped"
    assert {r: labelled(site, derived_name(site.name, r)) for r in states} == states
    with site.server.held_session(site.name):
        copy(site, ":a copy")
    assert labelled(site, "a copy") == "dumped"
    return key


def whole_cycle(site, root):
    """Back and forth as well, beside, and a restore that cleans up; the properties stay."""
    properties = site.database_properties()
    key = short_cycle(site, root)
    restore(site, ":pre")
    assert labelled(site) == "changed"
    restore(site, ":undo")
    assert labelled(site) == "dumped"
    restore(site, key, root, beside=LocalKey.parse(":beside"))
    assert labelled(site, "beside") == "dumped"
    restore(site, key, root)
    assert derived_name(site.name, "pre") not in site.server.databases()
    assert site.database_properties() == properties


# -- databases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_database_with_an_awkward_name_is_dumped_restored_and_copied(
    make_site, storage_root, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    site = make_site(name=name, empty=True)
    key = short_cycle(site, storage_root)
    assert key.database == "default"
    assert [path.name for path in tmp_path.iterdir()] == ["dumps"]


LONG_NAMES = {
    "63 bytes": "l" * 63,
    "57 bytes, one too many": "l" * 57,
    "56 bytes, just enough": "l" * 56,
    "63 bytes of two-byte letters": "ü" * 31 + "x",
    "63 bytes of three-byte letters": "数" * 21,
    "63 bytes of four-byte signs": "🐘" * 15 + "abc",
}


@pytest.mark.parametrize("name", LONG_NAMES.values(), ids=LONG_NAMES)
def test_f33_a_long_name_lives_through_whole_cycles_and_so_does_the_truncated_one(
    make_site, storage_root, name
):
    """The server cuts "<63 bytes>__temp" to the live name itself, and says nothing."""
    site = make_site(name=name, empty=True)
    neighbours = {
        role: f"{name}__{role}".encode()[:MAX_NAME_BYTES].decode(errors="ignore")
        for role in ("temp", "swap", "pre", "post", "undo")
    }
    made = {}
    for neighbour in set(neighbours.values()) - {name, *derived(name)}:
        theirs = make_site(name=neighbour, empty=True)
        label(theirs, neighbour)
        made[neighbour] = theirs.oid
    cycle = whole_cycle if len(name.encode()) == MAX_NAME_BYTES else short_cycle
    cycle(site, storage_root)
    for neighbour, oid in made.items():
        assert site.server.oid(neighbour) == oid
        assert labelled(site, neighbour) == neighbour
    assert len(derived(name)) == 5
    assert all(len(each.encode()) <= MAX_NAME_BYTES for each in derived(name))
    assert name not in derived(name)


def derived(name):
    return {derived_name(name, role) for role in ("temp", "swap", "pre", "post", "undo")}


def test_f33_two_long_names_with_one_beginning_do_not_share_databases(make_site, storage_root):
    one, two = (
        make_site(name="l" * 62 + "1", empty=True),
        make_site(name="l" * 62 + "2", empty=True),
    )
    keys = {}
    for site in (one, two):
        label(site, site.name)
        keys[site] = take(site, storage_root)
        restore(site, keys[site], storage_root, reversible=True)
    for site in (one, two):
        marks = [Mark.read(site.server.comment(each), each) for each in derived(site.name)]
        assert sorted(mark.kind for mark in marks if mark) == ["post", "pre"]
        assert {mark.of for mark in marks if mark} == {site.name}
        assert labelled(site) == site.name
    restore(one, keys[one], storage_root)
    assert derived_name(two.name, "pre") in two.server.databases()


def test_a_server_reached_by_its_unix_socket(make_project):
    project = make_project()
    project.socket = True
    key = project.pgclone("dump").ok().lines[0]
    people = project.people()
    project.add_person("later")
    project.pgclone("restore", key, "-r", "--pre-swap-hook", "good_hook").ok()
    assert project.people() == people
    assert project.notes()[-1] == f"good hook in {project.name}__temp"
    with project.server.held_session(project.name):
        copied = project.pgclone("copy", ":piped", "--json").ok()
    assert copied.json()["piped"] is True
    assert project.people("piped") == people
    assert "later" in project.people(f"{project.name}__pre")


@pytest.mark.parametrize("name", ["--file=x", 'a "b" = c ü', "l" * 63])
def test_the_command_works_on_a_database_with_an_awkward_name(make_project, name):
    project = make_project(name=name)
    key = project.pgclone("dump").ok().lines[0]
    project.add_person("later")
    project.pgclone("restore", key, "-r").ok()
    assert "later" not in project.people()
    assert "later" in project.people(derived_name(name, "pre"))


# -- tables and schemas ----------------------------------------------------------------------------

AWKWARD_SCHEMA = "-sch=ema 'x' \"y\" ü*"

AWKWARD_TABLES = [
    "with spaces",
    'two " quotes',
    "it's",
    "a=b",
    "-T",
    "--file=pgclone-was-here",
    "ünï 数",
    "MixedCase",
    "my.table",
    "semi;colon",
    "$x",
    "pattern*?[a-z]|x",
    "select",
    "line\nbreak",
    "x" * 63,
    "ü" * 31,
    "*",
    "back\\slash",
]

DECOYS = ["mixedcase", "table", "patternab", "pattern", "x", "selected", "a", "withspaces", "ab"]
"""Tables that a name taken for a pattern would match as well."""


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def row(schema, table):
    """What stands in a table, to look for in an archive."""
    return f"row {(AWKWARD_TABLES + DECOYS).index(table)} of {len(schema)}."


def awkward(site):
    """Makes every awkward table and every decoy, in an awkward schema and in public."""
    site.run(f"CREATE SCHEMA {quoted(AWKWARD_SCHEMA)}")
    for schema in ("public", AWKWARD_SCHEMA):
        for table in AWKWARD_TABLES + DECOYS:
            path, column = f"{quoted(schema)}.{quoted(table)}", quoted(table)
            site.run(
                f"CREATE TABLE {path} (id serial PRIMARY KEY, {column} text, CHECK ({column} > ''))"
                f"; CREATE INDEX ON {path} ({column})"
                f"; COMMENT ON COLUMN {path}.{column} IS 'awkward'"
            )
            site.run(f"INSERT INTO {path} ({column}) VALUES (%s)", params=(row(schema, table),))


def everything():
    return {row(s, t) for s in ("public", AWKWARD_SCHEMA) for t in AWKWARD_TABLES + DECOYS}


def archive_text(site, root, key):
    """What a bare pg_restore makes of a dump."""
    stored = DumpStore(f"{root}/").open(key)
    reader = ArchiveReader(stored)
    try:
        archive = b"".join(iter(lambda: reader.read(1 << 16), b""))
    finally:
        reader.close()
        stored.close()
    return site.server.archive_as_sql(archive)


def test_tables_with_awkward_names_come_back(any_pg, make_site, storage_root):
    site = make_site(any_pg, empty=True)
    awkward(site)
    before = site.fingerprint()
    key = take(site, storage_root)
    site.run(f"DROP SCHEMA {quoted(AWKWARD_SCHEMA)} CASCADE; DROP TABLE {quoted('*')}")
    restore(site, key, storage_root)
    assert site.fingerprint() == before


@pytest.mark.parametrize("schema", ["public", AWKWARD_SCHEMA], ids=["public", "awkward"])
def test_exactly_the_tables_that_are_named_are_left_out(make_site, storage_root, schema):
    site = make_site(empty=True)
    awkward(site)
    excluded = [f"{quoted(schema)}.{quoted(table)}" for table in AWKWARD_TABLES]
    key = take(site, storage_root, exclude=excluded)
    text = archive_text(site, storage_root, key)
    left_out = {row(schema, table) for table in AWKWARD_TABLES}
    assert {each for each in everything() if each in text} == everything() - left_out
    manifest = DumpStore(f"{storage_root}/").manifest(key)
    assert set(manifest.excluded) == {f"{schema}.{table}" for table in AWKWARD_TABLES}
    restore(site, key, storage_root)
    assert site.run(f"SELECT count(*) FROM {excluded[0]}") == [(0,)]


@pytest.mark.parametrize("table", ["*", "pattern*?[a-z]|x", "MixedCase", "my.table"])
def test_a_name_is_never_taken_for_a_pattern(make_site, storage_root, table):
    site = make_site(empty=True)
    awkward(site)
    key = take(site, storage_root, exclude=[f"public.{quoted(table)}"])
    text = archive_text(site, storage_root, key)
    assert {each for each in everything() if each not in text} == {row("public", table)}


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_table_is_left_out_of_a_database_in_another_encoding(make_site, storage_root, encoding):
    """Names reach pg_dump as bytes, and it takes them for the encoding of the database."""
    site = make_site(empty=True, extra=f"ENCODING '{encoding}' LOCALE 'C'", properties=False)
    with contextlib.closing(site.connect()) as connection:
        connection.set_client_encoding("UTF8")
        with connection.cursor() as cursor:
            cursor.execute('CREATE TABLE "Grüße" (value text)')
            cursor.execute('INSERT INTO "Grüße" VALUES (%s)', (SECRET_ROW,))
            cursor.execute("CREATE TABLE kept AS SELECT 'kept row ' || 1 AS value")
    key = take(site, storage_root, exclude=['"Grüße"'])
    text = archive_text(site, storage_root, key)
    assert SECRET_ROW not in text
    assert "kept row 1" in text


@pytest.mark.parametrize("whose", ["the database", "the role", "the settings of Django"])
def test_f11_a_table_is_left_out_whatever_encoding_is_set_for_its_clients(
    own_pg, make_project, whose
):
    server = own_pg()
    project = make_project(server)
    changes = {}
    if whose == "the database":
        server.admin(f"ALTER DATABASE \"{project.name}\" SET client_encoding = 'LATIN1'")
    elif whose == "the role":
        server.admin("ALTER ROLE app SET client_encoding = 'LATIN1'")
    else:
        changes["OPTIONS"] = {"options": "-c client_encoding=LATIN1"}
    key = project.pgclone(
        "dump", "--exclude-model", "people.Secret", database=project.databases(**changes)
    ).ok()
    archive = project.pgclone("cat", key.lines[0]).ok().output
    text = server.archive_as_sql(archive)
    assert SECRET_ROW not in text
    assert "Ada Lovelace" in text


def test_f11_nothing_is_stored_of_a_dump_that_has_the_rows_it_was_to_leave_out(
    site, storage_root, monkeypatch
):
    def forgetful(*args, exclude_table_data, **options):
        return dump_command(*args, **options)

    monkeypatch.setattr("pgclone_admin.core.dump.dump_command", forgetful)
    with pytest.raises(IntegrityError, match=r"leave out the rows of the table public\.my\.tab"):
        take(site, storage_root, exclude=['"my.tab"'])
    assert list(storage_root.rglob("*.*")) == []


# -- what is left out ------------------------------------------------------------------------------


def test_a_model_of_a_mixed_case_table_is_left_out(project):
    key = project.pgclone("dump", "-e", "people.Note", "--exclude-model", "people.Secret").ok()
    assert key.lines[0].startswith("here/default/none/")
    archive = project.pgclone("cat", key.lines[0]).ok().output
    text = project.server.archive_as_sql(archive)
    assert SECRET_ROW not in text
    assert "about Ada" not in text
    assert "Ada Lovelace" in text
    assert 'COPY public."MyTable"' not in text
    assert 'CREATE TABLE public."MyTable"' in text


def test_a_partitioned_table_is_left_out_with_all_partitions(any_pg, make_site, storage_root):
    site = make_site(any_pg)
    site.run(
        'SET search_path = public; CREATE TABLE "Tree" (n integer) PARTITION BY RANGE (n);'
        'CREATE TABLE "Branch 1" PARTITION OF "Tree" FOR VALUES FROM (0) TO (100)'
        " PARTITION BY RANGE (n);"
        'CREATE TABLE "schéma 2"."Leaf 1" PARTITION OF "Branch 1" FOR VALUES FROM (0) TO (50);'
        'CREATE TABLE "Leaf 2" PARTITION OF "Branch 1" FOR VALUES FROM (50) TO (100);'
        'CREATE TABLE "Rest" PARTITION OF "Tree" DEFAULT;'
        'CREATE TABLE "Tree 2" (n integer);'
        'INSERT INTO "Tree" VALUES (1), (60), (1000); INSERT INTO "Tree 2" VALUES (5)'
    )
    before = site.fingerprint()
    key = take(site, storage_root, exclude=['"Tree"'])
    restore(site, key, storage_root)
    after = site.fingerprint()
    lost = {table: count for table, count in before.rows.items() if after.rows[table] != count}
    assert lost == {'"schéma 2"."Leaf 1"': 1, 'public."Leaf 2"': 1, 'public."Rest"': 1}
    assert after.without("rows") == before.without("rows")


def test_one_partition_alone_is_left_out(make_site, storage_root):
    site = make_site()
    before = site.fingerprint()
    key = take(site, storage_root, exclude=["orders_2025"])
    result = restore(site, key, storage_root)
    after = site.fingerprint()
    lost = {table for table, count in before.rows.items() if after.rows[table] != count}
    assert lost == {"public.orders_2025"}
    assert len(result.report.unchecked_foreign_keys) == 1


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        '"mytable"',
        "MyTable",
        "nowhere.customer",
        '"my.tab "',
        '"customer*"',
        '"public.customer"',
    ],
)
def test_an_exclude_that_matches_nothing_is_an_error_before_dumping(
    site, storage_root, recorder, name
):
    programs = recorder(site.server)
    with pytest.raises(ConfigurationError, match="does not exist in the database") as raised:
        take(site, storage_root, exclude=["customer", name], program_directories=[programs.path])
    assert raised.value.code == "configuration"
    assert raised.value.hint.startswith("Nothing was dumped.")
    assert programs.calls() == []
    assert list(storage_root.iterdir()) == []


def test_a_model_whose_table_was_not_migrated_is_an_error_before_hooks_and_dump(make_project):
    project = make_project()
    project.run('DROP TABLE "my.tab ü"')
    before = project.notes()
    failed = project.pgclone("dump", "-e", "people.Secret", "--pre-dump-hook", "good_hook")
    assert failed.failed(1).stderr.splitlines()[-2] == (
        'error: the table "my.tab ü" that is to be left out does not exist in the database'
    )
    assert project.notes() == before
    assert project.files() == []


def test_an_unknown_model_is_an_error(project):
    failed = project.pgclone("dump", "-e", "people.Note", "people.Nobody").failed(1)
    assert 'error: there is no model "people.Nobody" to exclude' in failed.stderr
    assert project.files() == []
