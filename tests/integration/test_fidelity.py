"""Everything that a database can hold comes back, whichever way its indexes are built."""

from __future__ import annotations

import pytest

from pgclone_admin.core import build
from pgclone_admin.core.errors import RestoreFailed
from pgclone_admin.core.progress import SilentReporter

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
"""


def altered(archive: bytes, old: bytes, new: bytes) -> bytes:
    """The archive with another statement of the same length in its table of contents."""
    assert old in archive
    return archive.replace(old, new.ljust(len(old)))


@pytest.mark.parametrize("built", ["with the rest", "while loading"])
def test_everything_comes_back(any_pg, make_site, storage_root, built, monkeypatch):
    site = make_site(any_pg)
    site.run(MORE)
    if built == "while loading":
        monkeypatch.setattr(build, "LARGE_TABLE", 0)
    before = site.fingerprint()
    key = take(site, storage_root)
    site.run("DROP TABLE wide CASCADE; DELETE FROM parts.remark; DROP MATERIALIZED VIEW later")

    restore(site, key, storage_root)

    assert site.fingerprint() == before


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
