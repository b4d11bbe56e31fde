"""Faults of pg_dump and of the server while a dump is taken (F01 to F12)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pgclone_admin.core.dump import Content, Sink
from pgclone_admin.core.errors import (
    ConfigurationError,
    KilledBySignal,
    LockTimeout,
    ProcessFailed,
    ProgramMissing,
    ServerUnavailable,
    StorageError,
)
from pgclone_admin.core.manifest import Manifest
from pgclone_admin.core.names import DumpKey
from pgclone_admin.core.process import STDERR_TAIL
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.store import DumpStore
from tests.support import CANARY, SECRET_ROW
from tests.support.django_project import Project
from tests.support.fake_programs import (
    FakePrograms,
    RecordingBinDir,
    exit_with,
    flood_stderr,
    ignore_signal,
    kill_self,
    print_file,
    sleep,
    stderr,
    touch,
)
from tests.support.places import DIFFERENT_KINDS, Place, dump, make_bulk, make_place, restore
from tests.support.postgres import PostgresServer, available
from tests.support.processes import is_running
from tests.support.sites import Site
from tests.support.storages import Box

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("nothing_left_behind")]

MEGABYTE = 1_000_000


@pytest.fixture(params=DIFFERENT_KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    return make_place(request.param, request)


@pytest.fixture
def archive(site: Site, tmp_path: Path) -> Path:
    """A complete archive of the site, for fake programs to print."""
    path = tmp_path / "site.archive"
    path.write_bytes(site.archive())
    return path


@pytest.fixture
def bulk(pg: PostgresServer) -> Site:
    """More data than all the buffers between a server and a storage hold."""
    return make_bulk(pg, 20)


class Interfering:
    """A sink that does something when so many bytes of a dump have come through."""

    def __init__(self, sink: Sink, after: int, action: Callable[[], object]) -> None:
        self._sink = sink
        self._after = after
        self._action = action
        self.acted = False

    def save(self, key: DumpKey, content: Content, *, source_size: int) -> None:
        owner = self

        class Watched:
            @property
            def size(self) -> int:
                return content.size

            @property
            def complete(self) -> bool:
                return content.complete

            def read(self, size: int = -1, /) -> bytes:
                data = content.read(size)
                if content.size >= owner._after and not owner.acted:
                    owner.acted = True
                    owner._action()
                return data

            def abandon(self) -> None:
                content.abandon()

        self._sink.save(key, Watched(), source_size=source_size)

    def size(self, key: DumpKey) -> int:
        return self._sink.size(key)

    def delete(self, key: DumpKey) -> None:
        self._sink.delete(key)

    def save_manifest(self, manifest: Manifest) -> None:
        self._sink.save_manifest(manifest)


def dump_children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.name() == "pg_dump" and child.status() != psutil.STATUS_ZOMBIE
    ]


# -- F01 to F04: it ends badly --------------------------------------------------------------------


def test_f01_a_pg_dump_killed_half_way_leaves_nothing_and_earlier_dumps_alone(
    bulk: Site, place: Place
) -> None:
    earlier = dump(bulk, place.store)
    kept = {name: place.read(name) for name in place.names()}
    assert set(kept) == {earlier.key, f"{earlier.key}.json"}
    killed: list[int] = []

    def kill() -> None:
        for child in dump_children():
            killed.append(child.pid)
            child.kill()

    sink = Interfering(place.store, MEGABYTE, kill)
    with pytest.raises(KilledBySignal) as caught:
        dump(bulk, sink)
    assert caught.value.code == "killed_by_signal"
    assert caught.value.signal == 9
    assert "SIGKILL" in str(caught.value)
    assert len(killed) == 1
    assert not psutil.pid_exists(killed[0]), "the killed program was not waited for"
    assert {name: place.read(name) for name in place.names()} == kept


def test_f01_the_command_says_which_signal_killed_pg_dump(
    project: Project, fakes: FakePrograms, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(project.archive())
    fakes.pg_dump(print_file(whole, 1000), kill_self("KILL"))
    done = project.pgclone("dump", settings={"PGCLONE_BIN_DIR": str(fakes.path)}).failed()
    assert "error: pg_dump was killed by SIGKILL" in done.stderr
    assert done.stdout == ""
    assert project.files() == []


@pytest.mark.parametrize("codec", ["zstd", "gzip", "none"])
def test_f02_a_complete_archive_is_no_dump_when_pg_dump_exits_with_1(
    site: Site, place: Place, fakes: FakePrograms, archive: Path, codec: str
) -> None:
    fakes.pg_dump(print_file(archive), stderr("pg_dump: error: not good\n"), exit_with(1))
    with pytest.raises(ProcessFailed, match="failed with exit status 1: not good") as caught:
        dump(site, place.store, program_directories=[str(fakes.path)], codec=codec)
    assert caught.value.code == "process_failed"
    assert place.names() == []


def test_f02_the_same_archive_is_a_dump_when_pg_dump_exits_with_0(
    site: Site, place: Place, fakes: FakePrograms, archive: Path
) -> None:
    fakes.pg_dump(print_file(archive))
    manifest = dump(site, place.store, program_directories=[str(fakes.path)])
    assert place.names() == [manifest.key, f"{manifest.key}.json"]
    assert place.read(manifest.key) == archive.read_bytes()


def test_f02_the_phases_show_how_far_a_failed_dump_came(
    site: Site, place: Place, fakes: FakePrograms, archive: Path
) -> None:
    reporter = SilentReporter()
    fakes.pg_dump(print_file(archive), exit_with(1))
    with pytest.raises(ProcessFailed):
        dump(site, place.store, program_directories=[str(fakes.path)], reporter=reporter)
    assert reporter.phases == ["checking", "hooks", "dumping"]


def test_f03_a_backend_ended_by_the_server_publishes_nothing_and_says_why(
    bulk: Site, place: Place
) -> None:
    ended: list[tuple[Any, ...]] = []

    def end_backend() -> None:
        ended.extend(
            bulk.server.admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND application_name = 'pg_dump'",
                (bulk.name,),
            )
        )

    sink = Interfering(place.store, MEGABYTE, end_backend)
    with pytest.raises(ProcessFailed) as caught:
        dump(bulk, sink)
    assert ended == [(True,)]
    assert caught.value.code == "process_failed"
    # Which of the two depends on whether the server was just sending.
    assert re.search(r"terminating connection|server closed the connection", str(caught.value))
    assert CANARY not in str(caught.value)
    assert place.names() == []


def test_f03_a_server_that_crashes_during_a_dump_publishes_nothing(
    own_pg: Callable[..., PostgresServer], storage_root: Path
) -> None:
    server = own_pg()
    bulk = make_bulk(server, 20)
    sink = Interfering(DumpStore(str(storage_root)), MEGABYTE, server.kill)
    with pytest.raises(ProcessFailed, match=r"server closed|terminating connection"):
        dump(bulk, sink)
    assert [path for path in storage_root.rglob("*") if path.is_file()] == []


def test_f04_a_dump_without_a_right_fails_before_the_storage_is_touched(
    site: Site, faulty: Box, request: pytest.FixtureRequest
) -> None:
    place = make_place("alias of anything", request)
    site.run("CREATE TABLE theirs (id int); ALTER TABLE theirs OWNER TO postgres", "postgres")
    with pytest.raises(ProcessFailed, match="permission denied for table theirs") as caught:
        dump(site, place.store)
    assert caught.value.code == "process_failed"
    assert faulty.saves == []
    assert place.names() == []


def test_f04_a_dump_that_fails_at_once_sends_no_request_to_s3(
    site: Site, s3_proxy: Any, s3_bucket: Any, fakes: FakePrograms, settings: Any
) -> None:
    for name, value in s3_bucket.settings(endpoint_url=s3_proxy.endpoint_url).items():
        setattr(settings, name, value)
    fakes.pg_dump(stderr("pg_dump: error: no\n"), exit_with(1))
    with pytest.raises(ProcessFailed):
        dump(site, DumpStore(s3_bucket.location()), program_directories=[str(fakes.path)])
    assert s3_proxy.requests == []
    assert s3_bucket.keys() == []


def test_f04_a_wrong_password_fails_before_anything_is_started(
    project: Project, recorder: Callable[[PostgresServer], RecordingBinDir]
) -> None:
    programs = recorder(project.server)
    done = project.pgclone(
        "dump",
        database=project.databases(PASSWORD="wrong-pw-canary"),
        settings={"PGCLONE_BIN_DIR": str(programs.path)},
    ).failed()
    assert "error: cannot connect" in done.stderr
    assert "password authentication failed" in done.stderr
    assert "wrong-pw-canary" not in done.stderr
    assert "hint: " in done.stderr
    assert programs.calls() == []
    assert project.files() == []


# -- F05: it talks too much -----------------------------------------------------------------------


def test_f05_fifty_megabytes_of_error_output_neither_block_nor_fill_the_memory(
    site: Site, place: Place, fakes: FakePrograms
) -> None:
    fakes.pg_dump(flood_stderr(50), stderr("pg_dump: error: the last word\n"), exit_with(1))
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water_mark()
    with pytest.raises(ProcessFailed, match="the last word") as caught:
        dump(site, place.store, program_directories=[str(fakes.path)])
    assert high_water_mark() - before < 10 * MEGABYTE
    assert len(str(caught.value)) < STDERR_TAIL
    assert place.names() == []


def test_f05_a_flood_of_warnings_beside_the_data_does_no_harm(
    site: Site, place: Place, fakes: FakePrograms, archive: Path
) -> None:
    fakes.pg_dump(print_file(archive, 5000), flood_stderr(5), print_file(archive))
    manifest = dump(site, place.store, program_directories=[str(fakes.path)])
    whole = archive.read_bytes()
    assert place.read(manifest.key) == whole[:5000] + whole


def high_water_mark() -> int:
    """The most memory, in bytes, that this process has used."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


# -- F06: it waits --------------------------------------------------------------------------------


def test_f06_a_table_locked_by_somebody_ends_the_dump_as_a_lock_timeout(
    site: Site, place: Place
) -> None:
    started = time.monotonic()
    with (
        site.server.table_locked(site.name, "customer"),
        pytest.raises(LockTimeout) as caught,
    ):
        dump(site, place.store, lock_wait_timeout=300)
    assert time.monotonic() - started < 5
    assert caught.value.code == "lock_timeout"
    assert "lock" in (caught.value.hint or "")
    assert place.names() == []
    assert dump(site, place.store).size > 0, "the next dump works"


def test_f06_the_setting_limits_how_long_pg_dump_waits(project: Project) -> None:
    settings = {"PGCLONE_LOCK_TIMEOUT": 300}
    with project.server.table_locked(project.name, '"MyTable"'):
        done = project.pgclone("dump", settings=settings).failed()
    assert "did not get a lock in time" in done.stderr
    assert done.seconds < 15
    assert project.files() == []


def test_f06_a_pg_dump_that_ignores_sigterm_is_killed_when_the_storage_fails(
    site: Site, place: Place, fakes: FakePrograms, archive: Path, tmp_path: Path
) -> None:
    def fail() -> None:
        raise StorageError("the storage fails")

    mark = tmp_path / "pid"
    fakes.pg_dump(ignore_signal("TERM"), touch(mark), *[print_file(archive)] * 600, sleep(600))
    started = time.monotonic()
    with pytest.raises(StorageError, match="the storage fails"):
        dump(
            site,
            Interfering(place.store, 1, fail),
            program_directories=[str(fakes.path)],
        )
    assert time.monotonic() - started < 5
    assert not is_running(int(mark.read_text()))
    assert place.names() == []


# -- F08: it is not there -------------------------------------------------------------------------


def test_f08_a_missing_pg_dump_stops_the_dump_before_its_hooks(
    site: Site, place: Place, tmp_path: Path
) -> None:
    hooks: list[str] = []
    with pytest.raises(ProgramMissing) as caught:
        dump(
            site,
            place.store,
            program_directories=[str(tmp_path)],
            hooks=lambda: hooks.append("ran") or [],
        )
    assert caught.value.code == "program_missing"
    assert "pg_dump is not installed" in str(caught.value)
    assert str(site.server.major) in str(caught.value)
    assert "PGCLONE_BIN_DIR" in (caught.value.hint or "")
    assert hooks == []
    assert place.names() == []


def test_f08_a_pg_dump_that_cannot_be_executed_counts_as_missing(
    site: Site, storage_root: Path, fakes: FakePrograms
) -> None:
    fakes.pg_dump().chmod(0o644)
    with pytest.raises(ProgramMissing, match="pg_dump is not installed"):
        dump(site, DumpStore(str(storage_root)), program_directories=[str(fakes.path)])


def test_f08_a_pg_dump_that_is_no_program_counts_as_missing(
    site: Site, storage_root: Path, tmp_path: Path
) -> None:
    for content in ("#!/no/such/interpreter\n", "not a program\n"):
        program = tmp_path / "pg_dump"
        program.write_text(content)
        program.chmod(0o755)
        with pytest.raises(ProgramMissing, match="pg_dump is not installed"):
            dump(site, DumpStore(str(storage_root)), program_directories=[str(tmp_path)])


def test_f08_a_pg_dump_older_than_the_server_is_refused_naming_both_versions(
    project: Project, fakes: FakePrograms
) -> None:
    older = [folder for major, folder in available().items() if major < project.server.major]
    if older:
        directory, version = older[0], next(m for m in available() if m < project.server.major)
    else:
        fakes.pg_dump(version="12.3")
        directory, version = fakes.path, 12
    done = project.pgclone("dump", settings={"PGCLONE_BIN_DIR": str(directory)}).failed()
    assert (
        f"error: pg_dump is too old: the server is version {project.server.major}, "
        f"found is only {version}." in done.stderr
    )
    assert f"hint: Install the PostgreSQL client {project.server.major}" in done.stderr
    assert project.files() == []


def test_f08_a_newer_pg_dump_serves_where_there_is_none_of_the_servers_version(
    pg16: PostgresServer, pg18: PostgresServer, make_site: Callable[..., Site], storage_root: Path
) -> None:
    site = make_site(pg16)
    manifest = dump(site, DumpStore(str(storage_root)), program_directories=[str(pg18.bin_dir)])
    assert manifest.program_version.startswith("18.")
    assert manifest.server_version.startswith("16.")


# -- F09: it asks ---------------------------------------------------------------------------------

FORGETFUL = """#!/bin/sh
[ "$1" = --version ] && exec {program} --version
unset PGPASSFILE
exec {program} "$@"
"""


def test_f09_a_pg_dump_without_its_password_fails_at_once_instead_of_asking(
    site: Site, storage_root: Path, tmp_path: Path
) -> None:
    program = tmp_path / "pg_dump"
    program.write_text(FORGETFUL.format(program=site.server.program("pg_dump")))
    program.chmod(0o755)
    started = time.monotonic()
    with pytest.raises(ProcessFailed, match="no password supplied"):
        dump(site, DumpStore(str(storage_root)), program_directories=[str(tmp_path)])
    assert time.monotonic() - started < 5


def test_f09_an_expired_password_fails_in_seconds(site: Site, storage_root: Path) -> None:
    server = site.server
    server.admin("CREATE ROLE expired LOGIN PASSWORD 'x' VALID UNTIL '2001-01-01'")
    try:
        params = server.params("postgres", "expired", password="x")
        started = time.monotonic()
        with pytest.raises(ServerUnavailable, match="password authentication failed") as caught:
            dump(site, DumpStore(str(storage_root)), maintenance=params)
        assert time.monotonic() - started < 5
        assert caught.value.code == "server_unavailable"
    finally:
        server.admin("DROP ROLE expired")


def test_f09_pg_dump_is_told_never_to_ask(
    site: Site, storage_root: Path, recorder: Callable[[PostgresServer], RecordingBinDir]
) -> None:
    programs = recorder(site.server)
    dump(site, DumpStore(str(storage_root)), program_directories=[str(programs.path)])
    (call,) = programs.calls("pg_dump")
    assert "--no-password" in call.arguments


# -- F12: a part of a database --------------------------------------------------------------------


def test_f12_a_dump_has_every_table_whatever_is_left_out_of_it(
    project: Project, recorder: Callable[[PostgresServer], RecordingBinDir]
) -> None:
    # Large objects are in no archive of single tables, and a swap would make it the database.
    programs = recorder(project.server)
    settings = {"PGCLONE_BIN_DIR": str(programs.path)}
    project.pgclone("dump", "--exclude", "people.Secret", settings=settings).ok()
    for words in (("--table", "x"), ("-t", "x"), ("--schema", "public")):
        project.pgclone("dump", *words, settings=settings).failed(2)
    settings["PGCLONE_CONFIGS"] = {"some": {"tables": ["people_person"]}}  # type: ignore[assignment]
    project.pgclone("dump", "-c", "some", settings=settings).failed()
    (call,) = programs.calls("pg_dump")
    options = [word.partition("=")[0] for word in call.arguments if word.startswith("-")]
    assert "--exclude-table-data" in options
    assert not {"-t", "--table", "-n", "--schema", "-T", "--exclude-table"} & set(options)


# -- F10: it sees only a part ---------------------------------------------------------------------


def test_f10_rows_hidden_by_row_level_security_fail_the_dump(
    site: Site, place: Place, recorder: Callable[[PostgresServer], RecordingBinDir]
) -> None:
    site.run('ALTER TABLE "my.tab" FORCE ROW LEVEL SECURITY')
    programs = recorder(site.server)
    with pytest.raises(ProcessFailed, match="row-level security"):
        dump(site, place.store, program_directories=[str(programs.path)])
    assert place.names() == []
    assert programs.in_argv("--enable-row-security") == []
    assert len(programs.calls("pg_dump")) == 1


# -- F11: what is to be left out ------------------------------------------------------------------


def secrets_in(site: Site, place: Place, key: str) -> list[str]:
    """The tables of the archive that hold the secret row."""
    sql = site.server.archive_as_sql(place.read(key))
    table, found = "", []
    for line in sql.splitlines():
        if line.startswith("COPY "):
            table = line.split(" (")[0].removeprefix("COPY ")
        if SECRET_ROW in line:
            found.append(table)
    return found


def test_f11_without_exclusions_the_secret_rows_are_in_the_dump(site: Site, place: Place) -> None:
    """The search that the other tests trust finds something."""
    manifest = dump(site, place.store)
    assert secrets_in(site, place, manifest.key) == ['public."MyTable"', 'public."my.tab"']


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (['"MyTable"'], ['public."my.tab"']),
        (['"my.tab"'], ['public."MyTable"']),
        (['public."MyTable"', '"my.tab"'], []),
    ],
)
def test_f11_rows_of_oddly_named_tables_are_left_out(
    site: Site, place: Place, exclude: list[str], left: list[str]
) -> None:
    manifest = dump(site, place.store, exclude=exclude)
    assert secrets_in(site, place, manifest.key) == left
    assert len(manifest.excluded) == len(exclude)


def test_f11_the_schema_of_an_excluded_table_stays_in_the_dump(site: Site, place: Place) -> None:
    rows = site.fingerprint().rows
    manifest = dump(site, place.store, exclude=['"MyTable"', "orders"])
    assert manifest.excluded == (
        "public.MyTable",
        "public.orders",
        "public.orders rest",
        "public.orders_2025",
        "public.orders_2026",
    )
    restore(site, manifest.key, place.store)
    after = site.fingerprint().rows
    emptied = {'"MyTable"', '"orders rest"', "orders_2025", "orders_2026"}
    assert after.keys() == rows.keys()
    for table, count in rows.items():
        assert after[table] == (0 if table.removeprefix("public.") in emptied else count), table


@pytest.mark.parametrize("name", ["MyTable", "my.tab", '"Mytable"', '"no such table"', '"%"'])
def test_f11_an_exclusion_that_matches_nothing_fails_before_anything_is_dumped(
    site: Site,
    place: Place,
    recorder: Callable[[PostgresServer], RecordingBinDir],
    name: str,
) -> None:
    hooks: list[str] = []
    programs = recorder(site.server)
    with pytest.raises(ConfigurationError, match="does not exist in the database") as caught:
        dump(
            site,
            place.store,
            exclude=[name],
            program_directories=[str(programs.path)],
            hooks=lambda: hooks.append("ran") or [],
        )
    assert name in str(caught.value)
    assert caught.value.code == "configuration"
    assert hooks == []
    assert programs.calls() == []
    assert place.names() == []


def test_f11_the_command_leaves_out_the_rows_of_models_with_odd_tables(project: Project) -> None:
    done = project.pgclone("dump", "-e", "people.Note", "people.Secret").ok()
    (key,) = done.lines
    content = project.pgclone("cat", key).ok().output
    sql = project.server.archive_as_sql(content)
    assert SECRET_ROW not in sql
    assert 'CREATE TABLE public."MyTable"' in sql
    assert 'CREATE TABLE public."my.tab ü"' in sql


def test_f11_a_model_without_a_table_fails_the_command(project: Project) -> None:
    project.run('DROP TABLE "my.tab ü"')
    done = project.pgclone("dump", "-e", "people.Secret").failed()
    assert "does not exist in the database" in done.stderr
    assert "Nothing was dumped" in done.stderr
    assert project.files() == []


def test_f11_a_table_that_a_hook_drops_is_noticed_after_the_hooks(site: Site, place: Place) -> None:
    def hook() -> list[str]:
        site.run('DROP TABLE "MyTable"')
        return ["drop"]

    with pytest.raises(ConfigurationError, match="does not exist in the database"):
        dump(site, place.store, exclude=['"MyTable"'], hooks=hook)
    assert place.names() == []
