"""How rows are cut into pieces, and who takes which. Real servers take them in
tests/integration/test_rows.py."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core import pieces
from pgclone_admin.core.archive import Entry
from pgclone_admin.core.build import IndexBuilders
from pgclone_admin.core.errors import Cancelled, ProgramMissing, RestoreFailed, ServerUnavailable
from pgclone_admin.core.judge import LoadReport
from pgclone_admin.core.pieces import TRAILER, Piece, cut
from pgclone_admin.core.programs import Command
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.core.rows import RowLoader
from pgclone_admin.core.steps import Step
from tests.unit import PROPERTY

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

TABLE = Entry(
    dump_id=1,
    kind="TABLE DATA",
    schema="public",
    name="t",
    dependencies=(),
    alters_table=False,
    is_gin=False,
    copy=b"COPY public.t (a) FROM stdin;\n",
)

# -- cutting --------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 20)


@PROPERTY
@given(
    lines=st.lists(
        st.sampled_from([b"\n", b"1\n", b"\\\\.\n", b"x" * 19 + b"\n", b"y" * 70 + b"\n"])
    ),
    size=st.integers(1, 60),
)
@pytest.mark.usefixtures("small_pieces")
def test_pieces_are_all_rows_and_end_where_a_row_ends(lines: list[bytes], size: int) -> None:
    text = b"".join(lines) + TRAILER
    pieces = list(cut(text[start : start + size] for start in range(0, len(text), size)))
    assert b"".join(piece.text for piece in pieces) == b"".join(lines)
    for piece in pieces:
        assert piece.text
        assert piece.ends_row == piece.text.endswith(b"\n")
        assert len(piece.text) <= 2 * (20 + size + len(TRAILER))
        # A row that is not cut in the middle is only begun where it is short.
        if not piece.ends_row:
            assert b"\n" not in piece.text


@pytest.mark.usefixtures("small_pieces")
def test_rows_without_the_end_that_pg_dump_writes_are_all_there() -> None:
    assert list(cut([b"1\n2\n"])) == [Piece(b"1\n2\n")]
    assert list(cut([])) == list(cut([TRAILER])) == []


# -- taking ---------------------------------------------------------------------------------------


class FakeServer:
    """Takes rows as a server does whose sessions may each wait for ``may_take``."""

    def __init__(self) -> None:
        self.taken: dict[int, list[bytes]] = {}
        self.opened = 0
        self.closed = 0
        self.most_opened = 99
        self.may_take = threading.Event()
        self.may_take.set()
        self.refuses: psycopg2.Error | None = None
        self.seconds = 0.0
        """How long it takes for each piece."""
        self._lock = threading.Lock()

    def connect(self) -> Any:
        with self._lock:
            if self.opened >= self.most_opened:
                raise ServerUnavailable("too many connections")
            self.opened += 1
            return FakeConnection(self, self.opened)

    def prepare(self, _connection: Any) -> None:
        pass


class FakeConnection:
    def __init__(self, server: FakeServer, number: int) -> None:
        self.server = server
        self.number = number

    def cursor(self) -> contextlib.AbstractContextManager[FakeConnection]:
        return contextlib.nullcontext(self)

    def copy_expert(self, statement: bytes, file: Any, size: int) -> None:
        assert statement == TABLE.copy
        if self.server.refuses is not None:
            raise self.server.refuses
        while text := file.read(size):
            self.server.taken.setdefault(self.number, []).append(text)
            time.sleep(self.server.seconds)
            self.server.may_take.wait(20)

    def fileno(self) -> int:
        raise psycopg2.InterfaceError("it has no socket")

    def close(self) -> None:
        self.server.closed += 1


@pytest.fixture
def server() -> Iterator[FakeServer]:
    made = FakeServer()
    yield made
    made.may_take.set()
    assert made.closed == made.opened


@contextlib.contextmanager
def loading(
    server: FakeServer,
    *,
    jobs: int = 2,
    reporter: SilentReporter | None = None,
    command: Callable[[Step], Command] = lambda _step: Command(("/bin/true",)),
    **options: Any,
) -> Iterator[tuple[RowLoader, IndexBuilders]]:
    with (
        IndexBuilders(command, lambda: 0, jobs=jobs) as builders,
        RowLoader(
            server.connect,
            server.prepare,
            builders,
            reporter or SilentReporter(),
            options.pop("report", LoadReport()),
            jobs=jobs,
            **options,
        ) as loader,
    ):
        yield loader, builders


LINES = [b"%03d %s\n" % (number, b"x" * 15) for number in range(60)]


def all_of(server: FakeServer) -> bytes:
    texts = [b"".join(texts) for texts in server.taken.values()]
    return b"".join(sorted(b"".join(texts).splitlines(keepends=True)))


@pytest.mark.usefixtures("small_pieces")
def test_another_session_helps_when_the_first_one_is_behind(server: FakeServer) -> None:
    server.may_take.clear()

    def go_on_when_both_work() -> None:
        while len(server.taken) < 2:
            time.sleep(0.01)
        server.may_take.set()

    watcher = threading.Thread(target=go_on_when_both_work)
    watcher.start()
    with loading(server) as (loader, _builders):
        assert loader.load(TABLE, LINES) == len(b"".join(LINES))
        assert loader.most_sessions == 2
    watcher.join()
    assert all_of(server) == b"".join(LINES)


@pytest.mark.usefixtures("small_pieces")
def test_a_session_that_takes_its_rows_at_once_gets_no_help(server: FakeServer) -> None:
    def lines() -> Iterator[bytes]:
        for line in LINES:
            time.sleep(0.002)
            yield line

    with loading(server, jobs=3) as (loader, _builders):
        loader.load(TABLE, lines())
        loader.load(TABLE, [])
        loader.load(TABLE, [TRAILER])
    assert loader.most_sessions == server.opened == 1
    assert all_of(server) == b"".join(LINES)


@pytest.mark.usefixtures("small_pieces")
def test_a_row_in_several_pieces_goes_to_one_session(server: FakeServer) -> None:
    server.seconds = 0.001
    rows_of_table = [b"%03d %s\n" % (n, b"y" * (200 if n % 9 == 8 else 3)) for n in range(300)]
    with loading(server, jobs=4) as (loader, _builders):
        loader.load(TABLE, [row[i : i + 9] for row in rows_of_table for i in range(0, len(row), 9)])
        assert loader.most_sessions > 1
    assert all_of(server) == b"".join(rows_of_table)


@pytest.mark.usefixtures("small_pieces")
def test_rows_that_end_in_the_middle_of_one_end_the_load(server: FakeServer) -> None:
    with loading(server) as (loader, _builders):
        loader.load(TABLE, [b"y" * 40, TRAILER])
    assert all_of(server) == b"y" * 40


@pytest.mark.usefixtures("small_pieces")
def test_helpers_that_cannot_connect_are_done_without(server: FakeServer) -> None:
    server.most_opened = 1
    for _ in range(20):
        with loading(server, jobs=3) as (loader, builders):
            loader.load(TABLE, LINES)
            with builders.changed:
                assert builders.lend()  # what was lent was given back
        assert all_of(server) == b"".join(LINES)
        server.taken.clear()
        server.opened = server.closed = 0


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_helper_that_gets_no_answer_keeps_nobody_waiting(
    server: FakeServer, is_cancelled: bool
) -> None:
    answers = threading.Event()
    connect = server.connect

    def connect_later() -> Any:
        if threading.current_thread().name != "pgclone rows 0":
            answers.wait(60)
        return connect()

    server.connect = connect_later  # type: ignore[method-assign]
    server.seconds = 0.001
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        if is_cancelled:
            stack.enter_context(pytest.raises(Cancelled))
        loader, _builders = stack.enter_context(loading(server, jobs=3))
        loader.load(TABLE, LINES)
        if is_cancelled:
            raise Cancelled
    assert time.monotonic() - begun < 20
    assert loader.most_sessions == 1
    assert all_of(server) == b"".join(LINES)
    # What comes too late is not used.
    answers.set()
    for thread in loader._threads:
        thread.join(20)
    assert server.taken.keys() == {1}


def test_a_server_that_cannot_be_reached_fails_the_load(server: FakeServer) -> None:
    server.most_opened = 0
    with (
        pytest.raises(ServerUnavailable, match="too many connections"),
        loading(server) as (loader, _builders),
    ):
        loader.load(TABLE, LINES)


def test_f28_a_copy_that_is_refused_names_its_table(server: FakeServer) -> None:
    server.refuses = psycopg2.DataError("no\nCONTEXT: a secret")
    with (
        pytest.raises(RestoreFailed) as caught,
        loading(server) as (loader, _builders),
    ):
        loader.load(TABLE, LINES)
    assert str(caught.value) == 'the rows of the table "public.t" cannot be loaded: no'


def test_f28_an_index_that_cannot_be_built_ends_the_load(server: FakeServer) -> None:
    server.may_take.clear()

    def lines() -> Iterator[bytes]:
        yield b"1\n" * 300_000
        with builders.changed:
            # A session that is lent before would keep the index from being begun.
            assert builders.changed.wait_for(lambda: builders.has_failed, 20)
        while True:
            yield b"1\n" * 300_000

    missing = Command(("/nonexistent/pg_restore",))
    with (
        loading(server, command=lambda _step: missing) as (loader, builders),
        contextlib.ExitStack() as stack,
    ):
        builders.add([Step((1,))])
        stack.callback(server.may_take.set)
        with pytest.raises(ProgramMissing):
            loader.load(TABLE, lines())


@pytest.mark.usefixtures("small_pieces")
def test_a_load_is_cancelled_while_the_server_takes_nothing(server: FakeServer) -> None:
    server.may_take.clear()

    class Cancelling(SilentReporter):
        def check(self) -> None:
            if server.taken:
                threading.Timer(0.2, server.may_take.set).start()
                raise Cancelled

    begun = time.monotonic()
    with (
        pytest.raises(Cancelled),
        loading(server, reporter=Cancelling()) as (loader, _builders),
    ):
        loader.load(TABLE, LINES)
    assert time.monotonic() - begun < 10
