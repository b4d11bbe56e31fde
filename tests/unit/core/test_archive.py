"""What an archive says about itself, compared with what pg_restore says."""

from __future__ import annotations

import contextlib
import functools
import io
import random
import re
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core.archive import KEPT_KINDS, Contents, OpenedArchive, Section
from pgclone_admin.core.errors import IntegrityError, StorageError
from tests.support.postgres import PostgresServer
from tests.support.sites import Site
from tests.unit import PROPERTY

MakeSite = Callable[..., Site]

FORMAT_AT = 10
"""Where in an archive the number of its format stands."""


class Source:
    """An archive as a stream that counts what was read of it."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self._file = io.BytesIO(data)
        self._most = most
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(self._most if size < 0 else min(size, self._most))
        self.taken += len(data)
        return data

    def close(self) -> None:
        self._file.close()


def contents_of(data: bytes) -> Contents | None:
    with contextlib.closing(OpenedArchive(Source(data))) as archive:
        return archive.contents


# -- archives of real programs --------------------------------------------------------------------


def listed(server: PostgresServer, archive: bytes | Path, *arguments: str) -> str:
    """What pg_restore lists, of a stream or of a file."""
    file = [str(archive)] if isinstance(archive, Path) else []
    return subprocess.run(
        [server.program("pg_restore"), "--list", *arguments, *file],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        input=b"" if isinstance(archive, Path) else archive,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout.decode()


def header(listing: str, name: str) -> str:
    match = re.search(rf"^;\s+{re.escape(name)}: (.*)$", listing, re.MULTILINE)
    assert match, f"no {name} in the list of pg_restore"
    return match[1]


def lines_of(listing: str) -> dict[int, str]:
    """Kind, schema, name and owner of each entry, as listed, by its number."""
    lines = {}
    for line in listing.splitlines():
        if line and not line.startswith(";"):
            number, _catalog, _oid, rest = line.split(" ", 3)
            lines[int(number.rstrip(";"))] = rest
    return lines


@pytest.fixture
def odd_site(any_pg: PostgresServer, make_site: MakeSite) -> Site:
    """A shop with more kinds of entries, and names that are hard to read."""
    site = make_site(any_pg)
    site.run(
        """
        CREATE SCHEMA "odd schema; x";
        CREATE TABLE "odd schema; x"."tab ""le"" ü" (id int PRIMARY KEY);
        CREATE FUNCTION public.f(a int, b text DEFAULT 'x') RETURNS int LANGUAGE sql AS 'SELECT 1';
        COMMENT ON TABLE "odd schema; x"."tab ""le"" ü" IS 'two
        lines';
        """
    )
    return site


ARGUMENTS = [(), ("-Z0",), ("-Z9", "--schema-only")]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_the_contents_are_those_that_pg_restore_lists(
    any_pg: PostgresServer, odd_site: Site, arguments: tuple[str, ...]
) -> None:
    data = odd_site.archive(*arguments)
    contents = contents_of(data)
    assert contents is not None
    listing = listed(any_pg, data, "--create")

    assert contents.database == header(listing, "dbname") == odd_site.name
    version = ".".join(map(str, contents.version))
    assert header(listing, "Dump Version").rpartition("-")[0] == version
    assert header(listing, "Dumped from database version") == contents.server_version
    assert header(listing, "Dumped by pg_dump version") == contents.program_version
    assert contents.server_version.startswith(str(any_pg.major))

    outline = contents.outline
    assert len(outline.ids) == len(outline.sections) == int(header(listing, "TOC Entries"))
    assert len(set(outline.ids)) == len(outline.ids)
    lines = lines_of(listing)
    # It does not list what only tells it how to talk to the server.
    assert 0 <= len(set(outline.ids) - set(lines)) <= 3
    # The order is the same, and that is what decides in which order things are made.
    assert [number for number in outline.ids if number in lines] == list(lines)

    for entry in contents.entries:
        shown = f"{entry.kind} {entry.schema or '-'} {entry.name} "
        assert lines[entry.dump_id].startswith(shown)
    schemas = [row[0] for row in odd_site.run("SELECT nspname FROM pg_namespace")]
    starts = tuple(f"{kind} {schema} " for kind in KEPT_KINDS for schema in [*schemas, "-"])
    expected = {number for number, line in lines.items() if line.startswith(starts)}
    assert {entry.dump_id for entry in contents.entries} == expected
    assert {"TABLE", "TABLE DATA", "INDEX", "CONSTRAINT", "FK CONSTRAINT"} <= KEPT_KINDS
    names = {(entry.kind, entry.schema, entry.name) for entry in contents.entries}
    assert ("TABLE", "odd schema; x", 'tab "le" ü') in names


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_every_entry_is_in_the_section_in_which_pg_restore_has_it(
    any_pg: PostgresServer, odd_site: Site, arguments: tuple[str, ...]
) -> None:
    data = odd_site.archive(*arguments)
    contents = contents_of(data)
    assert contents is not None
    section_of = dict(zip(contents.outline.ids, contents.outline.sections, strict=True))
    last = ("ACL ", "DEFAULT ACL ", "EVENT TRIGGER ", "MATERIALIZED VIEW DATA ")
    seen: set[int] = set()
    for section in (Section.PRE_DATA, Section.DATA, Section.POST_DATA):
        name = section.name.lower().replace("_", "-")
        for number, line in lines_of(listed(any_pg, data, f"--section={name}")).items():
            comes_last = line.startswith(last)
            assert section_of[number] == (Section.LAST if comes_last else section), line
            seen.add(number)
    assert len(seen) > 50
    assert Section.LAST in {section_of[number] for number in seen}


def test_what_only_a_superuser_can_create_is_known(
    any_pg: PostgresServer, make_site: MakeSite
) -> None:
    site = make_site(any_pg, empty=True)
    site.run("CREATE TABLE a (id int PRIMARY KEY)")
    site.run(
        """
        CREATE PUBLICATION everything FOR ALL TABLES;
        COMMENT ON PUBLICATION everything IS 'x';
        CREATE PUBLICATION one FOR TABLE a;
        CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION f();
        COMMENT ON EVENT TRIGGER watcher IS 'x';
        """,
        user="postgres",
    )
    contents = contents_of(site.archive(user="postgres"))
    assert contents is not None
    assert sorted(contents.outline.superuser_only.values()) == [
        "COMMENT EVENT TRIGGER watcher",
        "COMMENT PUBLICATION everything",
        "EVENT TRIGGER watcher",
        "PUBLICATION everything",
    ]
    assert set(contents.outline.superuser_only) <= set(contents.outline.ids)


def test_what_an_index_needs_and_does_is_known(any_pg: PostgresServer, make_site: MakeSite) -> None:
    site = make_site(any_pg, empty=True)
    site.run(
        """
        CREATE TABLE a (id int CONSTRAINT a_key PRIMARY KEY, tags text[]);
        CREATE INDEX plain ON a (id);
        CREATE INDEX searched ON a USING gin (tags);
        CREATE UNIQUE INDEX identity ON a (id);
        ALTER TABLE a REPLICA IDENTITY USING INDEX identity;
        CREATE INDEX clustered ON a (id);
        CLUSTER a USING clustered;
        """
    )
    contents = contents_of(site.archive())
    assert contents is not None
    by_name = {entry.name: entry for entry in contents.entries if entry.kind != "TABLE DATA"}
    table = by_name["a"]
    (data,) = (entry for entry in contents.entries if entry.kind == "TABLE DATA")
    indexes = [by_name[name] for name in ("plain", "searched", "identity", "clustered")]
    assert {entry.kind for entry in indexes} == {"INDEX"}
    assert [entry.is_gin for entry in indexes] == [False, True, False, False]
    assert [entry.alters_table for entry in indexes] == [False, False, True, True]
    for entry in (data, by_name["a a_key"], *indexes):
        assert entry.dependencies[0] == table.dump_id


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_the_head_alone_lists_as_the_whole_archive(
    any_pg: PostgresServer, odd_site: Site, arguments: tuple[str, ...]
) -> None:
    data = odd_site.archive(*arguments)
    with contextlib.closing(OpenedArchive(Source(data, most=5000))) as opened:
        assert opened.path.stat().st_mode & 0o077 == 0
        assert listed(any_pg, opened.path) == listed(any_pg, data)
    assert not opened.path.exists()


def test_the_moment_of_an_archive_is_read(any_pg: PostgresServer, make_site: MakeSite) -> None:
    site = make_site(any_pg, empty=True)
    contents = contents_of(site.archive())
    assert contents is not None
    assert contents.created is not None
    # The archive does not say in which time zone it was made.
    assert abs(contents.created - datetime.now(UTC)) < timedelta(hours=15)


def test_tables_whose_rows_were_left_out_are_known(
    any_pg: PostgresServer, make_site: MakeSite
) -> None:
    site = make_site(any_pg, empty=True)
    site.run('CREATE TABLE kept (id int); CREATE SCHEMA s; CREATE TABLE s."Left out" (id int)')
    left_out = ("s", "Left out")
    whole = contents_of(site.archive())
    partial = contents_of(site.archive('--exclude-table-data="s"."Left out"'))
    assert whole is not None
    assert partial is not None
    assert whole.tables_without_data == frozenset()
    assert partial.tables_without_data == {left_out}


def test_an_archive_names_the_oldest_program_that_reads_it(
    any_pg: PostgresServer, make_site: MakeSite
) -> None:
    contents = contents_of(make_site(any_pg, empty=True).archive())
    assert contents is not None
    expected = {13: 0, 14: 0, 15: 0, 16: 16}
    assert contents.oldest_reader == expected.get(any_pg.major, 17)


def test_a_tar_archive_is_refused(any_pg: PostgresServer, make_site: MakeSite) -> None:
    with pytest.raises(IntegrityError, match="does not begin as an archive"):
        contents_of(make_site(any_pg, empty=True).archive("-Ft"))


@pytest.fixture
def archive(pg: PostgresServer, make_site: MakeSite) -> bytes:
    site = make_site(empty=True)
    site.run("CREATE TABLE customers (id int PRIMARY KEY, name text)")
    site.run("INSERT INTO customers SELECT n, md5(n::text) FROM generate_series(1, 30000) n")
    return site.archive("-Z0")


@pytest.mark.parametrize("most", [1, 777, 1 << 30])
def test_an_opened_archive_can_still_be_read_whole(archive: bytes, most: int) -> None:
    data = archive[:50_000] if most == 1 else archive
    source = Source(data, most)
    with contextlib.closing(OpenedArchive(source)) as opened:
        assert opened.contents is not None
        assert b"".join(opened.blocks()) == data
    assert source.taken == len(data)


def test_only_the_beginning_is_read_to_know_the_contents(archive: bytes) -> None:
    assert len(archive) > 1_000_000
    source = Source(archive)
    OpenedArchive(source).close()
    assert source.taken < 500_000


def test_an_archive_of_an_unknown_version_is_whole_but_tells_nothing(archive: bytes) -> None:
    for version in ((1, 17), (1, 11), (2, 0)):
        data = archive[:5] + bytes(version) + archive[7:]
        with contextlib.closing(OpenedArchive(Source(data))) as opened:
            assert opened.contents is None
            assert b"".join(opened.blocks()) == data


@pytest.mark.parametrize("number", [0, 3, 5])
def test_another_format_than_custom_is_refused(archive: bytes, number: int) -> None:
    data = archive[:FORMAT_AT] + bytes([number]) + archive[FORMAT_AT + 1 :]
    with pytest.raises(IntegrityError, match="not one in custom format"):
        contents_of(data)


# -- damage ---------------------------------------------------------------------------------------


@functools.cache
def end_of_contents(archive: bytes) -> int:
    """The length of header and table of contents: with one byte less they cannot be read."""
    low, high = 0, len(archive)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            contents_of(archive[:middle])
        except IntegrityError:
            low = middle
        else:
            high = middle
    return high


def test_f23_an_archive_cut_anywhere_in_its_contents_is_refused(archive: bytes) -> None:
    end = end_of_contents(archive)
    assert 1000 < end < len(archive)
    for length in {*range(5, 60), *range(60, end, 37), end - 1}:
        with pytest.raises(IntegrityError):
            contents_of(archive[:length])
    assert contents_of(archive[:end]) == contents_of(archive)


@pytest.mark.parametrize(("at", "value"), [(8, 0), (8, 9), (9, 0), (9, 255)])
def test_sizes_of_numbers_that_no_machine_has_are_refused(
    archive: bytes, at: int, value: int
) -> None:
    with pytest.raises(IntegrityError, match="header of the archive is damaged"):
        contents_of(archive[:at] + bytes([value]) + archive[at + 1 :])


def number(value: int) -> bytes:
    return b"\0" + struct.pack("<I", value)


def crafted(database_length: int, *, entries: int = 0) -> bytes:
    """The header of an archive whose first text has another length than it should."""
    start = b"PGDMP" + bytes([1, 14, 0, 4, 8, 1]) + number(0)
    moment = b"".join(number(part) for part in (1, 2, 3, 4, 5, 126, 0))
    return start + moment + number(database_length) + number(entries)


def test_f24_a_length_that_cannot_be_is_refused_before_anything_is_read_for_it() -> None:
    # One flipped bit makes a length of gigabytes; they are neither waited for nor kept.
    source = Source(crafted(1 << 31) + bytes(5_000_000))
    with pytest.raises(IntegrityError, match="table of contents"):
        OpenedArchive(source)
    assert source.taken < 1_000_000


def text(value: str) -> bytes:
    return number(len(value)) + value.encode()


def large_objects(count: int) -> bytes:
    """An archive as version 15 of pg_dump makes it: an entry for each large object."""
    nothing = b"\1" + struct.pack("<I", 1)
    entries = (
        number(number_of)
        + number(0)
        + b"".join(map(text, ("2613", str(16_000 + number_of), str(16_000 + number_of), "BLOB")))
        + number(2)
        + text(f"SELECT pg_catalog.lo_create('{16_000 + number_of}');\n")
        + text(f"SELECT pg_catalog.lo_unlink('{16_000 + number_of}');\n")
        + b"".join(map(text, ("", "", "", "", "app", "false")))
        + nothing
        + bytes(9)
        for number_of in range(1, count + 1)
    )
    header = crafted(2)[: -len(number(0))] + b"db" + text("15.1") + text("15.1")
    return header + number(count) + b"".join(entries)


def test_an_archive_of_very_many_large_objects_needs_little_memory() -> None:
    count = 10_000
    source = Source(large_objects(count))
    tracemalloc.start()
    try:
        with contextlib.closing(OpenedArchive(source)) as archive:
            _now, peak = tracemalloc.get_traced_memory()
            contents = archive.contents
    finally:
        tracemalloc.stop()
    assert contents is not None
    assert list(contents.outline.ids) == list(range(1, count + 1))
    assert contents.outline.kinds == {"BLOB": count}
    assert contents.entries == ()
    # Whole entries would take several times as much.
    assert peak < 1_500_000


def test_a_long_text_is_read_in_linear_time(archive: bytes) -> None:
    # Network-sized reads of a definition of 30 MB: quadratic copying would take minutes.
    source = Source(crafted(30_000_000) + b"d" * 30_000_000, most=4096)
    begun = datetime.now(UTC)
    with pytest.raises(IntegrityError, match="ends inside its table of contents"):
        OpenedArchive(source)
    assert datetime.now(UTC) - begun < timedelta(seconds=5)


@PROPERTY
@given(data=st.data())
def test_f24_damaged_contents_are_read_or_refused_but_never_crash(
    archive: bytes, data: st.DataObject
) -> None:
    end = end_of_contents(archive)
    damaged = bytearray(archive[: end + 100])
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(5, end - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(IntegrityError):
        contents_of(bytes(damaged))


def test_noise_is_refused() -> None:
    for seed in range(200):
        noise = b"PGDMP" + bytes([1, 16, 0, 4, 8, 1]) + random.Random(seed).randbytes(3000)
        with pytest.raises(IntegrityError):
            contents_of(noise)


def test_a_table_of_contents_for_which_there_is_no_room_is_told_with_what_to_do(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is always full")
    monkeypatch.setattr(
        "pgclone_admin.core.archive.tempfile.NamedTemporaryFile",
        lambda **_arguments: full.open("r+b"),
    )
    with pytest.raises(StorageError, match="No space left on device") as caught:
        OpenedArchive(Source(site.archive()))
    assert "TMPDIR" in (caught.value.hint or "")
