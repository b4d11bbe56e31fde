"""Fixtures. Everything real is started when a test first asks for it and ended with the run.

Servers (session; `tests.support.postgres.PostgresServer`)

=================== ============================================================================
``pg``              the default server, PostgreSQL 18
``pg18 pg16 pg15``  one version; skipped with a reason where it is not installed
``any_pg``          parametrised over every version found on this machine (13 and newer)
``own_pg``          function: ``own_pg(major=18)`` starts a server of the test's own, to be
                    stopped, killed (``.kill()``) and restarted at will
``servers``         the pool: ``servers.get(major)``, ``servers.majors()``
=================== ============================================================================

A server has ``.run(sql, dbname, user, params)``, ``.connect(dbname, user)``, ``.databases()``,
``.oid(name)``, ``.comment(name)``, ``.sessions(name)``, ``.dsn_dict(dbname, user, socket=)``,
``.params(dbname, user, socket=, **changes)`` (the product's ConnectionParams), ``.psql_env()``,
``.archive(dbname)`` (bytes of a bare pg_dump -Fc), ``.archive_as_sql(bytes)``, ``.bin_dir``,
``.program(name)``, ``.version``, ``.fresh_name(prefix)``, ``.create_database()``,
``.held_session(dbname)``, ``.table_locked(dbname, '"MyTable"')``, ``.log()``. Roles: ``postgres``,
``app`` (CREATEDB, password `CANARY`), ``reader`` (no login), ``other`` (no rights).
Databases that a test creates, by whatever way, are dropped after it. For a streaming standby of a
server see `tests.support.standby`.

Databases (function)

=================== ============================================================================
``site``            a filled database of ``app`` on ``pg`` (`tests.support.sites.Site`):
                    ``.run() .fingerprint() .database_properties() .params() .oid .archive()``
``make_site``       ``make_site(server=pg, name=None, empty=False, properties=True, extra="")``;
                    any name works; ``extra`` ends CREATE DATABASE, as in ``"LOCALE 'C'"``
=================== ============================================================================

Django as a process (function)

=================== ============================================================================
``manage``          ``manage("migrate", database=site, settings={...}, env={...}, input=b"",
                    timeout=120, plain=False, without_app=False) -> Completed`` with
                    ``.returncode .stdout .output .stderr .lines .json() .ok() .failed(1)``;
                    ``manage.start(...) -> Running`` with ``.pid .signal() .wait() .stderr()``
``project``         a migrated database of ``tests.project.people`` with rows and a storage
                    folder: ``.pgclone("dump")``, ``.start_pgclone()``, ``.manage()``,
                    ``.settings`` (dict to change), ``.storage_root``, ``.files()``,
                    ``.people() .notes() .migrations()`` (``dbname=`` for another database),
                    ``.add_person()``, ``.socket = True``, and all of a site
``make_project``    ``make_project(server=pg, name=None, upto=None, apps=(), extra="")``;
                    ``upto="0001"``: an old database that needs ``migrate``; ``apps``: more
                    installed apps, also in ``.apps``
``office``          a project in whose database runs are recorded, and which is the database of
                    *this* process too: services ask, ``office.start("qcluster")`` works
``use_database``    ``use_database(site, alias="default", user="app")`` points Django's connection
                    of *this* process to a database until the test ends
=================== ============================================================================

Hooks of the project: ``good_hook [--text T]`` (a note "T in <database>"), ``failing_hook``,
``hang_hook [--query]`` (touches ``<BASE_DIR>/hook-hangs``), ``leaky_hook`` (tells the password),
``where_am_i [--database A]``. Models to exclude: ``people.Note`` is "MyTable", ``people.Secret``
is "my.tab ü" and holds `SECRET_ROW`. Further commands: ``logins NAME... | --keys KEY...``,
``enqueue TASK...`` (tasks of ``people/tasks.py``), ``be_busy``. Parts that a test switches on by
settings: ``tests.project.accounts`` (for AUTH_USER_MODEL), ``tests.project.urls`` (tells who is
logged in), ``tests.project.routers.ByLabel`` (by TEST_ROUTES).

Storages (function unless said otherwise)

=================== ============================================================================
``s3_server``       session: ``.endpoint_url`` of a moto server in its own process
``s3_bucket``       a fresh bucket: ``.settings(prefix)`` (the PGCLONE_* of it), ``.location()``,
                    ``.s3_config``, ``.storage_options()``, ``.keys() .body() .put() .delete()
                    .open_uploads() .client``; secret key `S3_CANARY`
``s3_proxy``        `CuttingProxy` before it: ``.endpoint_url``, ``.cut_gets(after, times)``,
                    ``.fail_part(k, status=503)``, ``.fail("CompleteMultipartUpload")``,
                    ``.hold(operation)``, ``.seen(operation)``
``sftp_server``     `SftpServer`: ``.storage_options(root)``, ``.cut_answers(after, times)``,
                    ``.cut_requests(after, times)``, ``.cut_at_rename(done=True)``
``faulty``          switches (`Box`) of a `FaultyStorage`; ``faulty.storage`` is the storage,
                    ``faulty.alias_config`` its entry for STORAGES
``storage_root``    an empty folder, watched for unfinished files
=================== ============================================================================

Programs (function)

=================== ============================================================================
``fakes``           `FakePrograms`: ``fakes.pg_dump(print_file(f, 1000), kill_self("KILL"))``,
                    ``fakes.pg_restore(...)``, ``fakes.path`` for PGCLONE_BIN_DIR, ``.calls()``
``recorder``        ``recorder(server) -> RecordingBinDir``: the real programs; ``.path``,
                    ``.calls("pg_dump")`` with ``.argv .environ .passfile_mode``, ``.in_argv(s)``
=================== ============================================================================

Checks

======================= ========================================================================
``nothing_left_behind`` ask for it (or ``pytestmark = pytest.mark.usefixtures(...)``): when the
                        test body has passed, no child process, unfinished file, open upload,
                        ``pgclone_new_*``, ``*__temp`` or ``*__swap`` database, advisory lock,
                        session of pg_dump or passfile may be left. ``.allow("x__temp")`` (names
                        or patterns) or ``@pytest.mark.allow_left_behind("x__temp")`` permits a
                        database; ``.check()`` looks at once
``logged_warnings``     list of records that ``pgclone_admin`` logged at WARNING or above; a
                        test that logs one without asking for this (or ``caplog``) fails
======================= ========================================================================

Always on: PG*, AWS_*, PGCLONE_* and DATABASE_URL are taken out of the environment, and temporary
files go to a folder of this run. Markers ``postgres`` and ``s3`` are set by what a test uses.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from .support import invariants, processes, sftp, storages
from .support.cutting_proxy import CuttingProxy
from .support.django_project import Manage, Project
from .support.django_project import make_project as build_project
from .support.fake_programs import FakePrograms, RecordingBinDir
from .support.postgres import (
    DEFAULT_MAJOR,
    PostgresServer,
    ServerPool,
    available,
    revive,
    started_servers,
)
from .support.s3 import Bucket, S3Server
from .support.sftp import SftpServer
from .support.sites import Site
from .support.sites import make_site as build_site

MARKERS = {
    "unit": "no database, no network, no child process",
    "integration": "real PostgreSQL or S3",
    "faults": "a case of the list of faults; its id is in the name of the test",
    "e2e": "whole commands or workers as processes",
    "slow": "more than some seconds",
    "postgres": "set for tests that use a PostgreSQL server",
    "s3": "set for tests that use the S3 server",
    "allow_left_behind(*patterns)": "unfinished databases that the test means to leave",
}

OFFICE_APPS = ["django.contrib.sessions", "django.contrib.messages", "django_q"]

OFFICE_CLUSTER = {
    "name": "tests",
    "orm": "default",
    "workers": 1,
    "queue_limit": 1,
    "poll": 0.1,
    "timeout": 60,
    "retry": 90,
    "max_attempts": 1,
    "ack_failures": True,
}

SERVER_FIXTURES = {"servers", "any_pg", "own_pg", "recorder"}


# -- pytest itself --------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    processes.adopt_orphans()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if names & SERVER_FIXTURES:
            item.add_marker("postgres")
        if "s3_server" in names:
            item.add_marker("s3")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Look at what a test leaves before any of its fixtures cleans up."""
    yield
    values: dict[str, Any] = getattr(item, "funcargs", {})
    checker = values.get("nothing_left_behind")
    if checker is not None:
        checker.check()
    unexpected = values.get("_log_watch")
    if unexpected and not {"logged_warnings", "caplog"} & set(values):
        lines = "\n  ".join(f"{r.levelname} {r.name}: {r.getMessage()}" for r in unexpected)
        raise AssertionError(f"logged, and not expected by the test:\n  {lines}")


# -- always on ------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A TMPDIR of this run: leftovers of other programs on the machine are not ours."""
    tmp_path_factory.getbasetemp()  # decided before the default changes
    before = tempfile.tempdir
    folder = tempfile.mkdtemp(prefix="pgct-tmp-")
    processes.register_folder(Path(folder))
    tempfile.tempdir = folder
    yield Path(folder)
    tempfile.tempdir = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _clean_environment(_temporary_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PG", "AWS_")) or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(_temporary_folder))
    # Without these boto3 would ask the network and the home folder for credentials.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(autouse=True)
def _fresh_world(_clean_environment: None) -> Iterator[None]:
    """Drop what the test made on servers, and forget what it watched."""
    before = {server: server.temporary_databases() for server in started_servers()}
    yield
    invariants.WATCHED.clear()
    storages.forget_boxes()
    for server in started_servers():
        for name in server.temporary_databases() - before.get(server, set()):
            server.drop_database(name)
    revive()
    processes.leftovers()  # collects dead orphans


class _Collect(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def _log_watch() -> Iterator[list[logging.LogRecord]]:
    handler = _Collect()
    logger = logging.getLogger("pgclone_admin")
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


@pytest.fixture
def logged_warnings(_log_watch: list[logging.LogRecord]) -> list[logging.LogRecord]:
    return _log_watch


@pytest.fixture
def nothing_left_behind(
    request: pytest.FixtureRequest, _fresh_world: None
) -> Iterator[invariants.Checker]:
    checker = invariants.Checker()
    for marker in request.node.iter_markers("allow_left_behind"):
        checker.allow(*marker.args)
    yield checker
    checker.clean()


# -- servers --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def servers() -> Iterator[ServerPool]:
    pool = ServerPool()
    yield pool
    pool.destroy()


def _server(servers: ServerPool, major: int) -> PostgresServer:
    if major not in servers.majors():
        pytest.skip(f"PostgreSQL {major} is not installed on this machine")
    return servers.get(major)


@pytest.fixture(scope="session")
def pg18(servers: ServerPool) -> PostgresServer:
    return _server(servers, 18)


@pytest.fixture(scope="session")
def pg16(servers: ServerPool) -> PostgresServer:
    return _server(servers, 16)


@pytest.fixture(scope="session")
def pg15(servers: ServerPool) -> PostgresServer:
    return _server(servers, 15)


@pytest.fixture(scope="session")
def pg(servers: ServerPool) -> PostgresServer:
    return servers.default()


@pytest.fixture(scope="session", params=list(available()), ids=lambda major: f"pg{major}")
def any_pg(request: pytest.FixtureRequest, servers: ServerPool) -> PostgresServer:
    return servers.get(request.param)


@pytest.fixture
def own_pg(_temporary_folder: Path) -> Iterator[Callable[..., PostgresServer]]:
    made: list[PostgresServer] = []

    def make(major: int = DEFAULT_MAJOR) -> PostgresServer:
        server = PostgresServer(available()[major], major)
        server.create()
        made.append(server)
        return server

    yield make
    for server in made:
        server.destroy()


# -- databases ------------------------------------------------------------------------------------


@pytest.fixture
def make_site(servers: ServerPool, _fresh_world: None) -> Callable[..., Site]:
    def make(server: PostgresServer | None = None, name: str | None = None, **options: Any) -> Site:
        return build_site(server or servers.default(), name, **options)

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def use_database(django_db_blocker: Any, _fresh_world: None) -> Iterator[Callable[..., None]]:
    """Point a connection of this process to a database, until the test ends."""
    changed: dict[str, dict[str, Any]] = {}

    def use(database: Site, alias: str = "default", user: str = "app") -> None:
        connection = connections[alias]
        connection.close()
        changed.setdefault(alias, dict(connection.settings_dict))
        connection.settings_dict.update(database.dsn_dict(user))

    with django_db_blocker.unblock():
        yield use
        for alias, original in changed.items():
            connection = connections[alias]
            connection.close()
            connection.settings_dict.clear()
            connection.settings_dict.update(original)


# -- Django as a process --------------------------------------------------------------------------


@pytest.fixture
def manage(tmp_path: Path, _fresh_world: None) -> Iterator[Manage]:
    manage = Manage(tmp_path / "project")
    yield manage
    manage.close()


@pytest.fixture
def storage_root(tmp_path: Path, _fresh_world: None) -> Path:
    folder = tmp_path / "dumps"
    folder.mkdir()
    return invariants.watch_storage(folder)


@pytest.fixture
def make_project(servers: ServerPool, manage: Manage, storage_root: Path) -> Callable[..., Project]:
    def make(server: PostgresServer | None = None, **options: Any) -> Project:
        return build_project(server or servers.default(), manage, storage_root, **options)

    return make


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    return make_project()


@pytest.fixture
def office(
    make_project: Callable[..., Project], use_database: Callable[..., None], storage_root: Path
) -> Iterator[Project]:
    project = make_project(apps=OFFICE_APPS)
    project.settings["Q_CLUSTER"] = dict(OFFICE_CLUSTER)
    project.manage(
        "migrate", "--verbosity=0", "--skip-checks", apps=[*OFFICE_APPS, "django.contrib.admin"]
    ).ok()
    use_database(project)
    with override_settings(
        PGCLONE_STORAGE_LOCATION=f"{storage_root}/",
        PGCLONE_INSTANCE="here",
        PGCLONE_BIN_DIR=str(project.server.bin_dir),
    ):
        yield project


# -- storages and programs ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def s3_server(_temporary_folder: Path) -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, _fresh_world: None) -> Iterator[Bucket]:
    bucket = invariants.watch_bucket(Bucket(s3_server.endpoint_url))
    yield bucket
    bucket.destroy()


@pytest.fixture
def s3_proxy(s3_server: S3Server) -> Iterator[CuttingProxy]:
    with CuttingProxy(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def _sftp_server() -> Iterator[SftpServer]:
    if not sftp.PROGRAM.exists():
        pytest.skip(f"there is no {sftp.PROGRAM}")
    with contextlib.closing(SftpServer()) as server:
        yield server


@pytest.fixture
def sftp_server(_sftp_server: SftpServer) -> Iterator[SftpServer]:
    yield _sftp_server
    _sftp_server.clear()


@pytest.fixture
def faulty(_fresh_world: None) -> storages.Box:
    return storages.box("faulty")


@pytest.fixture
def fakes(tmp_path: Path) -> FakePrograms:
    return FakePrograms(tmp_path / "fakes")


@pytest.fixture
def recorder(tmp_path: Path) -> Callable[[PostgresServer], RecordingBinDir]:
    def record(server: PostgresServer) -> RecordingBinDir:
        return RecordingBinDir(server.bin_dir, tmp_path / f"recorded-{server.major}")

    return record
