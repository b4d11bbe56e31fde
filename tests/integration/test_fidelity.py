"""Everything that a database can hold comes back, whichever way its indexes are built."""

from __future__ import annotations

import os
import pwd
import re

import psycopg2
import pytest

from pgclone_admin.core import build
from pgclone_admin.core.errors import RestoreFailed
from pgclone_admin.core.names import DumpKey
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.plan import read_contents
from pgclone_admin.store import DumpStore
from tests.support.postgres import available

from .operations import foreign, restore, take

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

MORE = """
CREATE SCHEMA parts;
CREATE TABLE parts.reading (at date NOT NULL, place integer NOT NULL, value numeric)
    PARTITION BY RANGE (at);
CREATE TABLE parts.reading_old PARTITION OF parts.reading
    FOR VALUES FROM ('2020-01-01') TO ('2024-01-01') PARTITION BY HASH (place);
CREATE TABLE public.reading_old_0 PARTITION OF parts.reading_old
    FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts.reading_old_1 PARTITION OF parts.reading_old
    FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE "schéma 2".reading_new PARTITION OF parts.reading
    FOR VALUES FROM ('2024-01-01') TO ('2030-01-01');
ALTER TABLE parts.reading ADD CONSTRAINT reading_key PRIMARY KEY (at, place);
ALTER TABLE parts.reading ADD CONSTRAINT reading_value CHECK (value > -300);
CREATE INDEX reading_value_idx ON parts.reading (value);
INSERT INTO parts.reading
SELECT date '2022-01-01' + i, i % 40, i FROM generate_series(1, 1400) AS i;
CREATE TABLE parts.remark (at date, place integer, text text,
    FOREIGN KEY (at, place) REFERENCES parts.reading);
INSERT INTO parts.remark SELECT at, place, 'seen' FROM parts.reading WHERE place = 3;

CREATE TABLE wide (
    id integer NOT NULL, code text NOT NULL, place point, tags tsvector, during tsrange,
    CONSTRAINT wide_pkey PRIMARY KEY (id)
);
INSERT INTO wide SELECT i, md5(i::text), point(i, -i), to_tsvector('simple', 'word' || i % 50),
    tsrange(timestamp '2026-01-01' + i * interval '1 hour', NULL)
FROM generate_series(1, 3000) AS i;
CREATE UNIQUE INDEX wide_code ON wide (code);
CREATE INDEX wide_id_code ON wide (id, code) INCLUDE (place) WHERE id > 10;
CREATE INDEX wide_tags ON wide USING gin (tags);
CREATE INDEX wide_place ON wide USING gist (place);
CREATE INDEX wide_during ON wide USING spgist (during);
CREATE INDEX wide_hash ON wide USING hash (code);
CREATE INDEX wide_brin ON wide USING brin (id);
ALTER TABLE wide REPLICA IDENTITY USING INDEX wide_code;
ALTER TABLE wide CLUSTER ON wide_place;
CREATE STATISTICS wide_stats (ndistinct, dependencies) ON id, code FROM wide;
ALTER TABLE wide ALTER COLUMN code SET STATISTICS 500;
COMMENT ON INDEX wide_tags IS 'words';
COMMENT ON CONSTRAINT wide_pkey ON wide IS 'the key';

CREATE TABLE booked (room integer, during int4range,
    EXCLUDE USING gist (during WITH &&) WHERE (room > 0) DEFERRABLE);
INSERT INTO booked SELECT i, int4range(i * 10, i * 10 + 9) FROM generate_series(1, 500) AS i;

CREATE TABLE loose (id integer, positive integer);
INSERT INTO loose SELECT i, -i FROM generate_series(1, 20) AS i;
ALTER TABLE loose ADD CONSTRAINT loose_positive CHECK (positive > 0) NOT VALID;
ALTER TABLE loose ADD CONSTRAINT loose_product FOREIGN KEY (positive) REFERENCES product NOT VALID;

CREATE TABLE animal (id integer PRIMARY KEY, name text);
CREATE TABLE cat (lives integer) INHERITS (animal);
CREATE INDEX cat_name ON cat (name);
INSERT INTO cat SELECT i, 'cat ' || i, 9 FROM generate_series(1, 10) AS i;

CREATE MATERIALIZED VIEW one AS SELECT id, name FROM animal;
CREATE MATERIALIZED VIEW two AS SELECT count(*) AS cats FROM one;
CREATE MATERIALIZED VIEW later AS SELECT id FROM animal WITH NO DATA;
CREATE UNIQUE INDEX one_id ON one (id);
CREATE VIEW seen AS SELECT * FROM wide WHERE id < 100 WITH CASCADED CHECK OPTION;
CREATE RULE no_delete AS ON DELETE TO animal DO INSTEAD NOTHING;
ALTER TABLE loose ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON loose FOR SELECT TO reader USING (id > 5);
CREATE TRIGGER logged AFTER INSERT ON loose FOR EACH ROW EXECUTE FUNCTION log_change();
ALTER TABLE loose DISABLE TRIGGER logged;
CREATE AGGREGATE longest(text) (SFUNC = textcat, STYPE = text, INITCOND = '');
CREATE COLLATION plain (provider = libc, locale = 'C');
CREATE TABLE sorted (word text COLLATE plain);
CREATE INDEX sorted_word ON sorted (word);
CREATE SEQUENCE counter START 7 INCREMENT 3 CYCLE MAXVALUE 70;
SELECT nextval('counter'), nextval('counter');
SELECT lo_from_bytea(0, 'kept'::bytea) AS many FROM generate_series(1, 2000);

ALTER TABLE wide ALTER COLUMN code SET (n_distinct = -0.5);
ALTER TABLE wide ALTER COLUMN code SET COMPRESSION pglz;
ALTER TABLE wide ALTER COLUMN tags SET STORAGE EXTERNAL;
ALTER STATISTICS wide_stats SET STATISTICS 77;
CREATE INDEX wide_lower ON wide (lower(code)) WITH (fillfactor = 70);
ALTER INDEX wide_lower ALTER COLUMN 1 SET STATISTICS 300;
ALTER SEQUENCE counter OWNED BY wide.id;
CREATE RULE noted AS ON UPDATE TO animal WHERE new.id < 0 DO ALSO INSERT INTO loose VALUES (0, 0);
ALTER TABLE animal DISABLE RULE noted;
CREATE TRIGGER always AFTER DELETE ON wide FOR EACH ROW EXECUTE FUNCTION log_change();
ALTER TABLE wide ENABLE ALWAYS TRIGGER always;
CREATE UNLOGGED TABLE fleeting (id integer PRIMARY KEY);
CREATE TYPE described AS (label text, weight numeric);
CREATE TABLE of_type OF described (label WITH OPTIONS NOT NULL);
CREATE TYPE span AS RANGE (subtype = numeric);
CREATE FUNCTION same(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2';
CREATE OPERATOR === (FUNCTION = same, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION weight(described) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1.weight';
CREATE CAST (described AS numeric) WITH FUNCTION weight(described);
CREATE TEXT SEARCH CONFIGURATION plainly (COPY = simple);
ALTER TEXT SEARCH CONFIGURATION plainly DROP MAPPING FOR email;
CREATE PROCEDURE nothing() LANGUAGE sql AS '';
GRANT SELECT (id), UPDATE (id) ON wide TO reader WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
"""

ONLY_ON_18 = """
CREATE TABLE virtual (
    id integer, doubled integer GENERATED ALWAYS AS (id * 2) VIRTUAL,
    kept integer GENERATED ALWAYS AS (id * 3) STORED, later integer
);
INSERT INTO virtual (id) SELECT generate_series(1, 50);
ALTER TABLE virtual ADD CONSTRAINT someday NOT NULL later NOT VALID;
ALTER TABLE virtual ADD CONSTRAINT in_vain CHECK (id > 40) NOT ENFORCED;
ALTER TABLE virtual ADD CONSTRAINT given NOT NULL id NO INHERIT;
CREATE TABLE stay (room int4range, during daterange, PRIMARY KEY (room, during WITHOUT OVERLAPS));
INSERT INTO stay SELECT int4range(i, i + 1), daterange('2026-01-01', '2026-02-01')
FROM generate_series(1, 30) AS i;
CREATE TABLE guest (room int4range, during daterange,
    FOREIGN KEY (room, PERIOD during) REFERENCES stay (room, PERIOD during));
INSERT INTO guest VALUES (int4range(3, 4), daterange('2026-01-03', '2026-01-09'));
"""


def altered(archive: bytes, old: bytes, new: bytes) -> bytes:
    """The archive with another statement of the same length in its table of contents."""
    assert old in archive
    return archive.replace(old, new.ljust(len(old)))


@pytest.mark.parametrize("built", ["with the rest", "while loading"])
def test_everything_comes_back(any_pg, make_site, storage_root, built, monkeypatch):
    site = make_site(any_pg)
    site.run(MORE + (ONLY_ON_18 if any_pg.major >= 18 else ""))
    if built == "while loading":
        monkeypatch.setattr(build, "LARGE_TABLE", 0)
    before = site.fingerprint()
    key = take(site, storage_root)
    site.run("DROP TABLE wide CASCADE; DELETE FROM parts.remark; DROP MATERIALIZED VIEW later")

    restore(site, key, storage_root)

    assert site.fingerprint() == before


@pytest.mark.parametrize(
    "extra",
    [
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'",
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'und' ICU_RULES '&z < a'",
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
    ],
    ids=["icu", "icu with rules", "builtin"],
)
def test_a_database_keeps_its_locale_and_what_is_sorted_by_it(
    any_pg, make_site, storage_root, extra
):
    if ("RULES" in extra and any_pg.major < 16) or ("builtin" in extra and any_pg.major < 17):
        pytest.skip("not in this version")
    try:
        site = make_site(any_pg, extra=extra)
    except psycopg2.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL was built without ICU")
    site.run("CREATE TABLE word AS SELECT unnest(ARRAY['Zebra', 'äffin', 'apfel', 'b']) AS word")
    if "icu" in extra:
        site.run(
            "CREATE COLLATION swedish (provider = icu, locale = 'sv-SE', deterministic = false);"
            " ALTER TABLE word ADD COLUMN swede text COLLATE swedish;"
            " CREATE INDEX ON word (swede)"
        )
    site.run("CREATE INDEX ON word (word)")
    query = "SELECT array_agg(word ORDER BY word) FROM word"
    before, properties, words = site.fingerprint(), site.database_properties(), site.run(query)
    key = take(site, storage_root)
    site.run("DROP TABLE word")

    restore(site, key, storage_root, reversible=True)

    assert properties["provider"] == ("i" if "icu" in extra else "b")
    assert properties["locale"]
    assert site.database_properties() == properties
    assert site.fingerprint() == before
    assert site.run(query) == words


def test_indexes_of_a_large_table_are_built_while_later_ones_load(make_site, storage_root):
    site = make_site()
    site.run(
        "CREATE TABLE a_large AS SELECT i AS id, md5(i::text) || md5((-i)::text) AS text"
        " FROM generate_series(1, 90000) AS i;"
        " ALTER TABLE a_large ADD PRIMARY KEY (id); CREATE INDEX a_large_text ON a_large (text);"
        " CREATE TABLE b_small AS SELECT 1 AS id"
    )
    key = take(site, storage_root)
    built = []
    original = build.IndexBuilders._build

    class Watching(SilentReporter):
        def phase(self, name, *, total=None):
            super().phase(name, total=total)
            built.append(name)

    def note(builders, step):
        built.append(len(step.entries))
        original(builders, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.IndexBuilders, "_build", note)
        restore(site, key, storage_root, reporter=Watching())

    during = built[built.index("restoring") : built.index("indexing")]
    assert [step for step in during if isinstance(step, int)], "nothing was built while loading"


def test_an_unknown_archive_version_is_restored_in_one_pass(make_site, storage_root, monkeypatch):
    site = make_site()
    before = site.fingerprint()
    key = take(site, storage_root)
    site.run('DELETE FROM order_line; DROP TABLE "my.tab"')
    monkeypatch.setattr("pgclone_admin.core.archive.NEWEST_VERSION", (1, 12))

    restore(site, key, storage_root)

    assert site.fingerprint() == before


def test_a_duplicate_key_found_while_loading_fails_the_restore(
    make_site, storage_root, monkeypatch
):
    monkeypatch.setattr(build, "LARGE_TABLE", 0)
    site = make_site()
    site.run(
        "CREATE TABLE public.twice (id integer); INSERT INTO public.twice VALUES (1), (1);"
        " CREATE UNIQUE INDEX other ON product (title, id)"
    )
    # The archive says that the key is unique; its rows say otherwise.
    broken = altered(
        site.archive(),
        b"CREATE UNIQUE INDEX other ON public.product USING btree (title, id)",
        b"CREATE UNIQUE INDEX other ON public.twice USING btree (id)",
    )
    oid, before = site.oid, site.fingerprint()

    with pytest.raises(RestoreFailed, match="could not create unique index"):
        restore(site, foreign(storage_root, broken), storage_root)

    assert (site.oid, site.fingerprint()) == (oid, before)


def test_what_only_a_superuser_can_create_is_left_out_and_named(make_site, storage_root):
    site = make_site()
    before = site.fingerprint()
    site.server.run(
        "CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        " CREATE EVENT TRIGGER telling ON ddl_command_end EXECUTE FUNCTION told();"
        " COMMENT ON EVENT TRIGGER telling IS 'tells';"
        " ALTER FUNCTION told() OWNER TO app;"
        " CREATE PUBLICATION everything FOR ALL TABLES",
        dbname=site.name,
        user="postgres",
    )
    key = take(site, storage_root)

    result = restore(site, key, storage_root)

    assert sorted(result.report.left_out) == [
        "COMMENT EVENT TRIGGER telling",
        "EVENT TRIGGER telling",
        "PUBLICATION everything",
    ]
    site.run("DROP FUNCTION told()")
    assert site.fingerprint() == before


def test_an_error_that_the_settings_name_is_tolerated_and_listed(make_site, storage_root):
    site = make_site()
    site.run("CREATE FUNCTION public.soon() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    archive = altered(
        site.archive(),
        b"CREATE FUNCTION public.soon() RETURNS integer\n    LANGUAGE sql",
        b"CREATE FUNCTION public.soon() RETURNS integer\n    LANGUAGE c",
    )
    key = foreign(storage_root, archive)
    with pytest.raises(RestoreFailed):
        restore(site, key, storage_root)
    with pytest.raises(RestoreFailed):
        restore(site, key, storage_root, tolerated=frozenset({("FUNCTION", "42704")}))

    result = restore(site, key, storage_root, tolerated=frozenset({("FUNCTION", "42501")}))

    (left_out,) = result.report.tolerated
    assert left_out.startswith("CREATE FUNCTION public.soon()")
    assert site.run("SELECT to_regprocedure('public.soon()')") == [(None,)]


def test_an_extension_that_the_server_lacks_stops_the_restore_before_anything_is_made(
    pg18, pg15, make_site, storage_root
):
    source, target = make_site(pg18), make_site(pg15)
    source.server.run("CREATE EXTENSION vector", dbname=source.name, user="postgres")
    archive = source.server.archive(source.name)
    key = foreign(storage_root, archive)
    databases = target.server.databases()

    with pytest.raises(Exception, match="extensions that the server does not have: vector") as told:
        restore(target, key, storage_root, program_directories=[str(source.server.bin_dir)])

    assert told.value.code == "preflight"
    assert target.server.databases() == databases


def test_objects_of_an_extension_come_back(pg18, make_site, storage_root):
    site = make_site(pg18)
    site.server.run("CREATE EXTENSION vector", dbname=site.name, user="postgres")
    site.run(
        "CREATE TABLE item (id integer PRIMARY KEY, place vector(3));"
        " INSERT INTO item SELECT i, ARRAY[i, i, i]::real[]::vector FROM generate_series(1, 500) i;"
        " CREATE INDEX item_place ON item USING hnsw (place vector_l2_ops)"
    )
    before = site.fingerprint()
    key = take(site, storage_root)
    site.run("DROP TABLE item")

    restore(site, key, storage_root, user="postgres")

    assert site.fingerprint() == before


GEO = """
CREATE TABLE reference (id serial PRIMARY KEY, name text);
INSERT INTO reference VALUES (1, 'its own');
GRANT SELECT ON reference TO PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('reference', 'WHERE id > 1');
SELECT pg_catalog.pg_extension_config_dump('reference_id_seq', '');
"""


@pytest.mark.skipif(18 not in available(), reason="older servers take only installed extensions")
@pytest.mark.parametrize("codec", ["zstd", "gzip"])
def test_rows_that_a_site_added_to_a_table_of_an_extension_come_back(
    own_pg, make_site, storage_root, codec
):
    server = own_pg(18)
    folder = server.path / "extension"
    folder.mkdir(mode=0o755)
    (folder / "geo.control").write_text("default_version = '1'\nrelocatable = true\n")
    (folder / "geo--1.sql").write_text(GEO)
    for path in (server.path, folder, *folder.iterdir()):
        path.chmod(0o755)
    server.admin(f"ALTER SYSTEM SET extension_control_path = '{server.path}:$system'")
    server.stop()
    server.start()
    site = make_site(server, empty=True)
    server.run(
        'CREATE SCHEMA "of geo"; CREATE EXTENSION geo SCHEMA "of geo";'
        " INSERT INTO \"of geo\".reference (id, name) VALUES (7, 'ours');"
        " SELECT setval('\"of geo\".reference_id_seq', 70)",
        site.name,
    )
    before = site.fingerprint()
    grants = "SELECT has_table_privilege('app', '\"of geo\".reference', 'INSERT')"
    rows = 'SELECT * FROM "of geo".reference ORDER BY 1'
    key = take(site, storage_root, codec=codec, user="postgres")

    restore(site, key, storage_root, user="postgres")

    assert server.run(rows, site.name) == [(1, "its own"), (7, "ours")]
    assert server.run('SELECT last_value FROM "of geo".reference_id_seq', site.name) == [(70,)]
    assert server.run(grants, site.name) == [(False,)]
    assert site.fingerprint() == before


@pytest.mark.skipif(18 not in available(), reason="needs the programs of PostgreSQL 18")
@pytest.mark.parametrize("major", [m for m in available() if m < 17])
def test_newer_programs_restore_on_an_older_server_with_indexes_built_meanwhile(
    servers, make_project, recorder, major
):
    project = make_project(servers.get(major))
    programs = recorder(servers.get(18))
    project.settings["PGCLONE_BIN_DIR"] = str(programs.path)
    project.run(
        "CREATE TABLE a_large AS SELECT i AS id, md5(i::text) || md5((-i)::text) AS text"
        " FROM generate_series(1, 90000) AS i; CREATE INDEX a_large_id ON a_large (id);"
        " CREATE INDEX a_large_text ON a_large (text)"
    )
    before = project.fingerprint()
    key = project.pgclone("dump").ok().lines[0]
    project.run("DROP TABLE a_large")

    restored = project.pgclone("restore", key, "--json", "--pre-swap-hook").ok()

    assert restored.json()["tolerated"] == ["SET transaction_timeout = 0;"]
    assert "SET transaction_timeout = 0;" in restored.stderr
    assert project.fingerprint() == before
    # Each index of the large table had a program of its own.
    contents = read_contents(DumpStore(f"{project.storage_root}/"), DumpKey.parse(key))
    indexes = {e.dump_id for e in contents.entries if e.name.startswith("a_large_")}
    arguments = " ".join(each for call in programs.calls("pg_restore") for each in call.argv)
    assert len(indexes) == 2
    assert indexes <= {int(number) for number in re.findall(r"/(\d+)\.list", arguments)}


def test_a_tablespace_that_is_not_here_is_named_and_its_tables_lie_in_the_database_s_own(
    own_pg, make_project
):
    server = own_pg()
    project = make_project(server)
    for name in ("fast", "other"):
        place = server.path / name
        place.mkdir()
        if server.user is not None:
            os.chown(place, pwd.getpwnam(server.user).pw_uid, -1)
        server.admin(f"CREATE TABLESPACE {name} LOCATION '{place}'")
        server.admin(f"GRANT CREATE ON TABLESPACE {name} TO app")
    project.run(
        "CREATE TABLE quick (id integer PRIMARY KEY USING INDEX TABLESPACE other) TABLESPACE fast;"
        " INSERT INTO quick VALUES (1)"
    )
    lies_in = (
        "SELECT c.relname, t.spcname FROM pg_class c LEFT JOIN pg_tablespace t"
        " ON t.oid = c.reltablespace WHERE c.relname LIKE 'quick%' ORDER BY 1"
    )
    key = project.pgclone("dump").ok().lines[0]

    plan = project.pgclone("restore", key, "--plan", "--json").ok().json()
    assert (plan["tablespaces"], plan["left_out"]) == (["fast", "other"], [])
    result = project.pgclone("restore", key, "--json").ok().json()
    assert result["left_out"] == []
    assert project.run(lies_in) == [("quick", "fast"), ("quick_pkey", "other")]

    server.admin("REVOKE CREATE ON TABLESPACE fast FROM app")
    named = ["TABLESPACE fast", "TABLESPACE other"]
    plan = project.pgclone("restore", key, "--plan", "--json").ok().json()
    assert plan["left_out"] == named
    result = project.pgclone("restore", key, "--json").ok().json()
    assert result["left_out"] == named
    assert project.run(lies_in) == [("quick", None), ("quick_pkey", None)]
    assert project.run("SELECT * FROM quick") == [(1,)]
