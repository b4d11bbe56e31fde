"""The rows in an archive that is not compressed: read whole, or refused."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core.archive import Contents, Entry, OpenedArchive
from pgclone_admin.core.blocks import TableBlocks, loads_elsewhere, named, tables_to_copy
from pgclone_admin.core.errors import IntegrityError
from tests.support.postgres import PostgresServer
from tests.support.sites import Site
from tests.unit import PROPERTY

MakeSite = Callable[..., Site]

LARGE_OBJECTS = b"\x03" + b"\0\x09\0\0\0" + b"\0\x01\0\0\0 something \0\0"


def table(number: int, name: str = "", schema: str | None = "public") -> Entry:
    return Entry(
        dump_id=number,
        kind="TABLE DATA",
        schema=schema,
        name=name or f"t{number}",
        dependencies=(),
        alters_table=False,
        is_gin=False,
    )


def length(value: int) -> bytes:
    return b"\0" + struct.pack("<I", value)


def block(number: int, *chunks: bytes) -> bytes:
    """As pg_dump writes it."""
    body = b"".join(length(len(chunk)) + chunk for chunk in chunks)
    return b"\1" + length(number) + body + length(0)


def in_parts(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(data: bytes, *numbers: int, size: int = 1 << 20) -> tuple[dict[int, bytes], bytes]:
    """The rows of the tables with these numbers, and what comes after them."""
    blocks = TableBlocks(in_parts(data, size), {number: table(number) for number in numbers})
    rows = {entry.dump_id: b"".join(texts) for entry, texts in blocks.tables()}
    return rows, b"".join(blocks.rest())


@pytest.mark.parametrize(
    ("schema", "name", "statement", "elsewhere"),
    [
        ("public", "p0", "COPY public.p0 (id) FROM stdin;", False),
        ("public", "p0", "COPY public.p0 FROM stdin;", False),
        ("public", "p0", "COPY public.root (id) FROM stdin;", True),
        ("parts", "p0", "COPY public.p0 (id) FROM stdin;", True),
        ("A b", 'q"', 'COPY "A b"."q""" ("x y") FROM stdin;', False),
        ("public", "order", 'COPY public."order" (id) FROM stdin;', False),
        ("public", "x.y", 'COPY public."x.y" (id) FROM stdin;', False),
        ("public", "Gr\udcf6\udcdfe", 'COPY public."Gr\udcf6\udcdfe" (i) FROM stdin;', False),
        ("public", "p0", "", False),
        ("", "p0", "COPY p0 (id) FROM stdin;", False),
    ],
)
def test_rows_that_are_put_into_another_table_are_told_apart(
    schema: str, name: str, statement: str, elsewhere: bool
) -> None:
    copy = f"{statement}\n".encode(errors="surrogateescape")
    assert loads_elsewhere(replace(table(1, name, schema), copy=copy)) is elsewhere


# -- reading --------------------------------------------------------------------------------------

chunks = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40),
        # Lengths whose bytes are line breaks, NULs and ones.
        st.sampled_from([1, 10, 255, 256, 257, 2560, 65_536]).map(lambda size: b"x" * size),
    ).map(lambda text: text.replace(b"\0", b"\n")),
    max_size=12,
)


@PROPERTY
@given(tables=st.lists(chunks, max_size=4), size=st.integers(1, 70_000))
def test_rows_are_read_whole_however_the_archive_comes_in(
    tables: list[list[bytes]], size: int
) -> None:
    data = b"".join(block(number, *texts) for number, texts in enumerate(tables, 1))
    rows, rest = read(data + LARGE_OBJECTS, *range(1, len(tables) + 1), size=max(size, 1))
    assert rows == {number: b"".join(texts) for number, texts in enumerate(tables, 1)}
    assert rest == LARGE_OBJECTS


def test_a_long_row_is_given_on_in_parts() -> None:
    data = block(1, b"x" * 1_000_000)
    blocks = TableBlocks(in_parts(data, 1000), {1: table(1)})
    ((_entry, texts),) = [(entry, list(texts)) for entry, texts in blocks.tables()]
    assert max(map(len, texts)) <= 1000
    assert b"".join(texts) == b"x" * 1_000_000


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_f23_rows_that_are_cut_anywhere_are_refused(size: int) -> None:
    data = block(1, b"1\tone\n", b"2\ttwo\n", b"\\.\n\n\n") + block(2, b"3\n")
    for end in range(len(data)):
        with pytest.raises(IntegrityError, match=r'ends before the last row .* "public\.t[12]"'):
            read(data[:end], 1, 2, size=size)


@pytest.mark.parametrize(
    "data",
    [block(3, b"1\n"), b"\3" + block(1, b"1\n")[1:], b"\1\1" + block(1, b"1\n")[2:]],
    ids=["another table", "large objects", "a negative number"],
)
def test_f24_something_else_than_the_rows_of_a_table_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="where the rows of a table begin"):
        read(data, 1)


def test_f24_tables_in_another_order_than_that_of_the_contents_are_refused() -> None:
    # The indexes of the wrong table would be built.
    with pytest.raises(IntegrityError, match="where the rows of a table begin"):
        read(block(2, b"1\n") + block(1, b"1\n"), 1, 2)


def test_f24_lengths_that_do_not_fit_the_rows_are_refused() -> None:
    data = bytearray(block(1, b"1\tone\n", b"2\ttwo\n", b"3\tthree\n"))
    begin = len(b"\1" + length(1))
    whole = read(bytes(data), 1)
    for at in range(begin, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        # In a value it is for the digest to notice; anywhere else it is noticed here.
        with contextlib.suppress(IntegrityError):
            rows, _rest = read(bytes(damaged), 1)
            assert len(rows[1]) == len(whole[0][1])
            assert chr(data[at]).isprintable() or chr(data[at]) in "\t\n"


def test_f24_the_sign_of_a_length_that_was_altered_is_noticed() -> None:
    data = bytearray(block(1, b"1\tone\n", b"2\ttwo\n"))
    data[data.index(b"\n\0") + 1] = 1
    with pytest.raises(IntegrityError, match="are damaged"):
        read(bytes(data), 1)


# -- which archives -------------------------------------------------------------------------------


def contents_of(archive: bytes) -> Contents:
    with contextlib.closing(OpenedArchive(io.BytesIO(archive))) as opened:
        assert opened.contents is not None
        return opened.contents


def test_all_rows_of_an_archive_that_is_not_compressed_are_read(
    any_pg: PostgresServer, make_site: MakeSite
) -> None:
    site = make_site(any_pg)
    site.run('CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; CREATE TABLE "a; b" ()')
    archive = site.archive("-Z0")
    with contextlib.closing(OpenedArchive(io.BytesIO(archive))) as opened:
        assert opened.contents is not None
        tables = tables_to_copy(opened.contents)
        blocks = TableBlocks(opened.data(), tables)
        rows = {entry.name: b"".join(texts) for entry, texts in blocks.tables()}
    assert len(tables) > 10
    assert set(rows) == {e.name for e in opened.contents.entries if e.kind == "TABLE DATA"}
    assert rows["nothing"] == b"\n\\.\n\n\n"
    assert rows["a; b"] == b"\\.\n\n\n"
    connection = site.connect()
    with contextlib.closing(connection), connection.cursor() as cursor:
        copied = io.BytesIO()
        cursor.copy_expert('COPY "MyTable" TO STDOUT', copied)
    assert rows["MyTable"] == copied.getvalue() + b"\\.\n\n\n"


@pytest.mark.parametrize("arguments", [("-Z6",), ("-Z0", "--inserts"), ("-Z0", "--schema-only")])
def test_other_archives_are_left_to_pg_restore(
    any_pg: PostgresServer, make_site: MakeSite, arguments: tuple[str, ...]
) -> None:
    assert tables_to_copy(contents_of(make_site(any_pg).archive(*arguments))) == {}


def test_so_is_what_pg_dump_does_not_write_now(pg: PostgresServer, make_site: MakeSite) -> None:
    contents = contents_of(make_site(pg).archive("-Z0"))
    outline = contents.outline
    tables = tables_to_copy(contents)
    assert tables

    def changed(**changes: object) -> dict[int, Entry]:
        return tables_to_copy(replace(contents, outline=replace(outline, **changes)))  # type: ignore[arg-type]

    assert changed() == tables
    # Before 2018 names were not qualified.
    assert changed(settings={**outline.settings, "SEARCHPATH": ""}) == {}
    # A large object before the last table.
    assert outline.with_blocks[-1] not in tables
    assert changed(with_blocks=outline.with_blocks[::-1]) == {}
    odd = [replace(e, copy=b"SELECT 1;\n") if e.copy else e for e in contents.entries]
    assert tables_to_copy(replace(contents, entries=tuple(odd))) == {}


def test_a_table_is_named_for_people() -> None:
    assert named(table(1, "a")) == '"public.a"'
    assert named(table(1, "a", schema=None)) == '"a"'
    # LATIN1 that was taken as UTF-8.
    assert named(table(1, b"caf\xe9".decode(errors="surrogateescape"))) == '"public.caf\ufffd"'
