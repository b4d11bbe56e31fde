"""Piping an archive into pg_restore: how it ends. Restores into servers are tested elsewhere."""

from __future__ import annotations

import contextlib
import io
import time

import pytest

from pgclone_admin.core.archive import OpenedArchive
from pgclone_admin.core.connection import ConnectionParams
from pgclone_admin.core.errors import Cancelled, KilledBySignal, RestoreFailed
from pgclone_admin.core.feed import verify_archive
from pgclone_admin.core.load import LoadReport, load_archive
from pgclone_admin.core.programs import Program
from pgclone_admin.core.progress import SilentReporter
from tests.support import CANARY
from tests.support.fake_programs import (
    FakePrograms,
    Step,
    exit_with,
    kill_self,
    read_input,
    sleep,
    stderr,
)

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

# -- running --------------------------------------------------------------------------------------

TARGET = ConnectionParams(dbname="shop__temp", host="127.0.0.1", port="1", password=CANARY)

DATA = b"PGDMP" + bytes([9, 9, 9]) + bytes(3_000_000)
"""An archive of a version that is not known: it is piped as it is."""


def load(fakes: FakePrograms, *steps: Step, reporter: SilentReporter | None = None) -> LoadReport:
    """Load DATA with a pg_restore that does these steps. There is no server."""
    path = fakes.pg_restore(*steps)
    with contextlib.closing(OpenedArchive(io.BytesIO(DATA))) as archive:
        return load_archive(archive, TARGET, Program(18, 4, path), reporter or SilentReporter())


def test_a_load_without_errors_reports_nothing(fakes: FakePrograms) -> None:
    assert load(fakes, read_input()) == LoadReport()
    (call,) = fakes.calls("pg_restore")
    assert call.environ["PGDATABASE"] == "shop__temp"
    assert call.environ["PGOPTIONS"] == "-c synchronous_commit=off"
    assert call.passfile_mode == "0o600"
    assert fakes.in_argv(CANARY) == []
    assert fakes.in_argv("shop") == []


def test_f28_a_program_that_fails_fails_the_load(fakes: FakePrograms) -> None:
    with pytest.raises(RestoreFailed, match="exit status 1: it gave no reason"):
        load(fakes, read_input(), exit_with(1))


def test_f28_a_load_that_cannot_succeed_any_more_is_ended_at_once(fakes: FakePrograms) -> None:
    said = """\
pg_restore: from TOC entry 10; 1259 16400 TABLE a app
pg_restore: error: could not execute query: ERROR:  no
Command was: CREATE TABLE a ();
pg_restore: creating TABLE "public.b"
"""
    begun = time.monotonic()
    with pytest.raises(RestoreFailed, match="pg_restore failed: ERROR:  no"):
        load(fakes, stderr(said), read_input(), sleep())
    assert time.monotonic() - begun < 10


def test_f29_a_program_that_is_killed_fails_the_load(fakes: FakePrograms) -> None:
    with pytest.raises(KilledBySignal) as caught:
        load(fakes, read_input(100_000), kill_self("KILL"))
    assert caught.value.signal == 9


def test_a_program_that_stops_reading_and_succeeds_has_succeeded(fakes: FakePrograms) -> None:
    # Whether all bytes were right is then told by their digest.
    assert load(fakes, read_input(1000)) == LoadReport()


def test_a_program_that_stops_reading_and_fails_has_failed(fakes: FakePrograms) -> None:
    with pytest.raises(RestoreFailed, match="could not read"):
        load(fakes, read_input(1000), stderr("pg_restore: error: could not read\n"), exit_with(1))


def test_a_load_that_is_cancelled_ends_the_program(fakes: FakePrograms) -> None:
    class Cancelling(SilentReporter):
        def check(self) -> None:
            raise Cancelled

    with pytest.raises(Cancelled):
        load(fakes, read_input(), sleep(), reporter=Cancelling())


def verify(fakes: FakePrograms, *steps: Step) -> None:
    path = fakes.pg_restore(*steps)
    with contextlib.closing(OpenedArchive(io.BytesIO(DATA))) as archive:
        verify_archive(archive, Program(18, 4, path), SilentReporter())


def test_f23_an_archive_is_verified_by_reading_all_of_it(fakes: FakePrograms) -> None:
    verify(fakes, read_input())
    (call,) = fakes.calls()
    assert call.arguments == ["--format=custom", "--file=/dev/null"]
    assert set(call.environ) <= {"LC_ALL", "PATH", "LC_CTYPE"}


@pytest.mark.parametrize("steps", [(exit_with(1),), (kill_self("KILL"),)], ids=["exit", "kill"])
def test_f23_an_archive_that_cannot_be_read_to_its_end_is_refused(
    fakes: FakePrograms, steps: tuple[Step, ...]
) -> None:
    with pytest.raises(RestoreFailed, match="the archive cannot be read: pg_restore"):
        verify(fakes, read_input(), *steps)
