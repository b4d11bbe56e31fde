"""The operations of the core, with the arguments that most tests want."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions

from pgclone_admin.core.copy import CopyResult, copy_database
from pgclone_admin.core.dump import DumpLabels, DumpRequest, take_dump
from pgclone_admin.core.kept import Keeping
from pgclone_admin.core.marks import Database, Mark
from pgclone_admin.core.names import DumpKey, LocalKey, derived_name
from pgclone_admin.core.own_databases import create_like, drop_marked
from pgclone_admin.core.programs import Codec
from pgclone_admin.core.progress import Reporter, SilentReporter
from pgclone_admin.core.restore import restore_dump, restore_local
from pgclone_admin.core.server import Server
from pgclone_admin.core.swap import SwapRequest, SwapResult, swap
from pgclone_admin.core.target import RestoreRequest, RestoreResult
from pgclone_admin.store import DumpStore
from tests.support.postgres import PostgresServer
from tests.support.sites import Site

Hooks = Callable[[str], None]


def no_hooks(_temporary: str) -> None:
    return None


def take(
    site: Site, root: Path, *, user: str = "app", codec: str = "zstd", **changes: Any
) -> DumpKey:
    """A dump of the site in the folder ``root``; ``changes`` are fields of the request."""
    request = DumpRequest(
        **{
            "live": site.name,
            "maintenance": site.server.params("postgres", user),
            "labels": DumpLabels(
                instance="here", database="default", config="none", app_version="test"
            ),
            "codec": Codec(codec),
            "program_directories": [str(site.server.bin_dir)],
            **changes,
        }
    )
    manifest = take_dump(request, DumpStore(f"{root}/"), SilentReporter(), pre_dump_hooks=list)
    return DumpKey.parse(manifest.key)


def foreign(root: Path, archive: bytes, day: int = 1) -> DumpKey:
    """A dump without a manifest, as a bare pg_dump or django-pgclone leaves it."""
    key = DumpKey.parse(f"elsewhere/default/none/2026-01-{day:02}-03-04-05-000000.dump")
    path = root / key.text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive)
    return key


def request(site: Site, *, user: str = "app", **changes: Any) -> RestoreRequest:
    return RestoreRequest(
        **{
            "live": site.name,
            "maintenance": site.server.params("postgres", user),
            "program_directories": [str(site.server.bin_dir)],
            **changes,
        }
    )


def restore(
    site: Site,
    key: DumpKey | str,
    root: Path | None = None,
    *,
    hooks: Hooks = no_hooks,
    reporter: SilentReporter | None = None,
    user: str = "app",
    **changes: Any,
) -> RestoreResult:
    """Restores a dump from the folder ``root``, or a local copy (``":pre"``)."""
    asked = request(site, user=user, **changes)
    told = reporter or SilentReporter()
    if isinstance(key, str):
        return restore_local(asked, LocalKey.parse(key), told, pre_swap_hooks=hooks)
    return restore_dump(asked, key, DumpStore(f"{root}/"), told, pre_swap_hooks=hooks)


def copy(
    site: Site,
    target: str,
    *,
    user: str = "app",
    reporter: SilentReporter | None = None,
    end_sessions: bool = False,
    lose_settings: Sequence[str] = (),
    program_directories: Sequence[str] | None = None,
) -> CopyResult:
    """Copies the site to the local key ``target``."""
    directories = [str(site.server.bin_dir)] if program_directories is None else program_directories
    with connected(site.server, user=user) as server:
        return copy_database(
            server,
            server.existing(site.name),
            mark(LocalKey.parse(target).name, of=site.name, kind="copy"),
            reporter or SilentReporter(),
            end_sessions=end_sessions,
            lose_settings=lose_settings,
            program_directories=directories,
        )


def mark(name: str, *, of: str = "shop", kind: str = "temporary", **changes: Any) -> Mark:
    return Mark.new(name=name, kind=kind, of=of, **changes)


def connected(
    server: PostgresServer, *, user: str = "app", **limits: Any
) -> contextlib.AbstractContextManager[Server]:
    """The product's view of a server, as ``user``."""
    return Server.connected(server.params("postgres", user), **limits)


@contextlib.contextmanager
def unchanged(site: Site, *, made: Collection[str] = ()) -> Iterator[None]:
    """Asserts that the live database is the same one with the same content, and that no database
    has appeared or gone but those of ``made``, which have appeared."""
    oid, content, properties = site.oid, site.fingerprint(), site.database_properties()
    databases = site.server.databases()
    yield
    assert site.server.databases() == databases | set(made)
    assert site.oid == oid
    assert site.fingerprint() == content
    assert site.database_properties() == properties
    assert site.run("SELECT 1") == [(1,)]


# -- swapping ------------------------------------------------------------------------------------


def temporary(site: Site, content: str = "new") -> Database:
    """A marked temporary database beside the site, with a row that tells it from the live one."""
    name = derived_name(site.name, "temp")
    with connected(site.server) as server:
        made = create_like(server, server.existing(site.name), mark(name, of=site.name))
    label(site, content, name)
    return made


def label(site: Site, content: str, dbname: str | None = None) -> None:
    """Writes the row that tells one database from another."""
    site.run(
        "DROP TABLE IF EXISTS label; CREATE TABLE label AS SELECT %s::text AS content",
        params=(content,),
        dbname=dbname,
    )


def labelled(site: Site, dbname: str | None = None) -> str:
    return str(site.run("SELECT content FROM label", dbname=dbname)[0][0])


def swapped(
    site: Site,
    made: Database,
    *,
    user: str = "app",
    keeping: Keeping | None = None,
    patience: float = 10.0,
    reporter: Reporter | None = None,
    **changes: Any,
) -> tuple[Database, Mark, SwapResult]:
    """Swaps ``made`` in: what was live before, the mark it is parked under, the result.

    ``changes`` are fields of that mark.
    """
    parked = Mark.new(name=derived_name(site.name, "swap"), kind="parked", of=site.name, **changes)
    with connected(site.server, user=user) as maintenance:
        live = maintenance.existing(site.name)
        asked = SwapRequest(
            maintenance=maintenance.params,
            live=live,
            temporary=made,
            parked=parked,
            keeping=keeping or Keeping(),
            patience=patience,
        )
        result = swap(asked, reporter or SilentReporter())
    return live, parked, result


def drop(site: Site, *roles: str) -> None:
    """Drops marked databases of the site, such as ``"swap"``."""
    with connected(site.server) as server:
        for role in roles:
            drop_marked(server, derived_name(site.name, role))


class Clients:
    """Threads that use a database without a pause, and the errors they met."""

    def __init__(self, site: Site, *, staying: int, returning: int) -> None:
        self._site = site
        self._stop = threading.Event()
        self.queries = 0
        self.errors: list[str] = []
        self.longest_gap = 0.0
        self._threads = [
            *(threading.Thread(target=self._stay) for _ in range(staying)),
            *(threading.Thread(target=self._return) for _ in range(returning)),
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        until = time.monotonic() + 10
        while self.queries < 5 * len(self._threads) and time.monotonic() < until:
            time.sleep(0.01)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _attempts(self) -> Iterator[None]:
        succeeded = time.monotonic()
        while not self._stop.is_set():
            before = len(self.errors)
            yield
            now = time.monotonic()
            if len(self.errors) == before:
                self.longest_gap = max(self.longest_gap, now - succeeded)
                succeeded = now

    def _query(self, connection: psycopg2.extensions.connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT content FROM label")
            cursor.fetchall()
        self.queries += 1
        time.sleep(0.01)

    def _stay(self) -> None:
        """Keeps its connection and comes back at once when it is taken away."""
        connection = None
        for _ in self._attempts():
            try:
                connection = connection or self._site.connect()
                self._query(connection)
            except psycopg2.Error as error:
                self.errors.append(str(error))
                connection = None
        if connection is not None:
            connection.close()

    def _return(self) -> None:
        """Connects anew for every query."""
        for _ in self._attempts():
            try:
                with contextlib.closing(self._site.connect()) as connection:
                    self._query(connection)
            except psycopg2.Error as error:
                self.errors.append(str(error))
