"""Runs ``tests/project`` as real processes, and makes databases for it."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from . import ROOT, SECRET_ROW, processes
from .postgres import PostgresServer
from .sites import Site, template

MANAGE = ROOT / "tests" / "project" / "manage.py"

PEOPLE = ["Ada Lovelace", "Grace Hopper", 'Zoë "Z" O\'Neil']


@dataclass
class Completed:
    """How a command ended. ``output`` is standard output as bytes, for archives."""

    args: list[str]
    returncode: int
    output: bytes
    errors: bytes
    seconds: float

    @property
    def stdout(self) -> str:
        return self.output.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self.errors.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    def json(self) -> Any:
        return json.loads(self.output)

    def ok(self) -> Completed:
        """Assert that the command succeeded; returns itself for chaining."""
        assert self.returncode == 0, str(self)
        return self

    def failed(self, status: int = 1) -> Completed:
        """Assert that the command failed as commands should: by status, without a traceback."""
        assert self.returncode == status, str(self)
        assert "Traceback (most recent call last)" not in self.stderr, str(self)
        return self

    def __str__(self) -> str:
        return (
            f"{' '.join(self.args)} -> {self.returncode} in {self.seconds:.1f} s\n"
            f"stdout: {self.stdout[-4000:]}\nstderr: {self.stderr[-8000:]}"
        )


class Running:
    """A command that was started and is not waited for yet."""

    def __init__(self, args: list[str], process: subprocess.Popen[bytes], files: Any) -> None:
        self.args = args
        self.process = process
        self._started = time.monotonic()
        self._output, self._errors = files

    @property
    def pid(self) -> int:
        return self.process.pid

    def stderr(self) -> str:
        """What it has said on standard error so far."""
        return Path(self._errors.name).read_text("utf-8", "replace")

    def stdout(self) -> str:
        return Path(self._output.name).read_text("utf-8", "replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 120) -> Completed:
        """Wait for the end. TimeoutExpired: it was killed, with all it had started."""
        try:
            self.process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return Completed(
            self.args,
            self.process.returncode,
            Path(self._output.name).read_bytes(),
            Path(self._errors.name).read_bytes(),
            time.monotonic() - self._started,
        )

    def kill(self) -> None:
        """End it and everything below it, for good."""
        if self.process.poll() is None:
            below = psutil.Process(self.pid).children(recursive=True)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            for child in below:
                processes.end(child)

    def close(self) -> None:
        self.kill()
        processes.unregister(self.pid)
        self._output.close()
        self._errors.close()


class Manage:
    """Callable that runs one management command in a process of its own.

    ``database`` is a `Site`, an entry of DATABASES or a whole DATABASES mapping. ``settings``
    are added to the file that the project's settings read; ``plain``, ``without_app`` and
    ``apps`` are its further keys (see ``tests/project/settings.py``).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base_settings: dict[str, Any] = {}
        """Settings for every command of this test."""
        self._numbers = itertools.count(1)
        self._running: list[Running] = []
        (folder / "home").mkdir(parents=True, exist_ok=True)

    def environment(self, env: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """The clean environment of a command; None in ``env`` takes a variable out."""
        clean: dict[str, str | None] = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "LANG": "C.UTF-8",
            "TMPDIR": tempfile.gettempdir(),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "tests.project.settings",
            "AWS_EC2_METADATA_DISABLED": "true",
            **(env or {}),
        }
        return {name: value for name, value in clean.items() if value is not None}

    def settings_file(
        self,
        database: Any = None,
        settings: Mapping[str, Any] | None = None,
        **keys: Any,
    ) -> Path:
        """Write the JSON file that the project's settings read."""
        databases: Any = {}
        if isinstance(database, Site):
            databases = database.databases()
        elif isinstance(database, Mapping):
            databases = dict(database) if "ENGINE" not in database else {"default": database}
        content = {
            "databases": databases,
            "settings": {"BASE_DIR": str(self.folder), **self.base_settings, **(settings or {})},
            **keys,
        }
        path = self.folder / f"settings-{next(self._numbers)}.json"
        path.write_text(json.dumps(content, default=str), encoding="utf-8")
        return path

    def start(
        self,
        *args: str,
        settings: Mapping[str, Any] | None = None,
        database: Any = None,
        input: bytes | str | None = None,  # noqa: A002 - as subprocess calls it
        env: Mapping[str, str | None] | None = None,
        python: Path | str = sys.executable,
        **keys: Any,
    ) -> Running:
        """Start a command and return at once; it is ended when the test ends."""
        file = self.settings_file(database, settings, **keys)
        environment = self.environment({"PGCLONE_TEST_SETTINGS": str(file), **(env or {})})
        # Files, not pipes: nobody has to read them while a test does something else.
        output = file.with_suffix(".stdout").open("wb")
        errors = file.with_suffix(".stderr").open("wb")
        process = subprocess.Popen(
            [str(python), str(MANAGE), *args],
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        processes.register_group(process.pid)
        running = Running(["manage.py", *args], process, (output, errors))
        self._running.append(running)
        if input is not None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(input.encode() if isinstance(input, str) else input)
        return running

    def __call__(self, *args: str, timeout: float = 120, **options: Any) -> Completed:
        """Run a command to its end; the options are those of `start`."""
        return self.start(*args, **options).wait(timeout)

    def close(self) -> None:
        for running in self._running:
            running.close()
        self._running.clear()


class Project(Site):
    """A database of the people app with some rows, a place for its dumps, and its commands."""

    def __init__(self, server: PostgresServer, name: str, manage: Manage, storage: Path) -> None:
        super().__init__(server, name)
        self._manage = manage
        self.folder = manage.folder
        self.storage_root = storage
        self.socket = False
        self.apps: list[str] = []
        """Apps that the project has beside the usual ones."""
        self.settings: dict[str, Any] = {
            "PGCLONE_STORAGE_LOCATION": f"{storage}/",
            "PGCLONE_INSTANCE": "here",
            "PGCLONE_BIN_DIR": str(server.bin_dir),
        }
        """Settings of every command of this project; a test may change them."""

    def databases(self, **settings: Any) -> dict[str, dict[str, Any]]:
        return {"default": {**self.dsn_dict(socket=self.socket), **settings}}

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "database": self,
            "apps": self.apps,
            **options,
            "settings": {**self.settings, **(options.get("settings") or {})},
        }

    def manage(self, *args: str, **options: Any) -> Completed:
        """`Manage` with this project's database and settings."""
        return self._manage(*args, **self._options(options))

    def start(self, *args: str, **options: Any) -> Running:
        return self._manage.start(*args, **self._options(options))

    def pgclone(self, *args: str, **options: Any) -> Completed:
        """``manage.py pgclone ...``"""
        return self.manage("pgclone", *args, **options)

    def start_pgclone(self, *args: str, **options: Any) -> Running:
        return self.start("pgclone", *args, **options)

    def files(self) -> list[str]:
        """Everything in the storage location, relative to it."""
        return sorted(
            str(path.relative_to(self.storage_root))
            for path in self.storage_root.rglob("*")
            if not path.is_dir()
        )

    def people(self, dbname: str | None = None) -> list[str]:
        return [
            row[0] for row in self.run("SELECT name FROM people_person ORDER BY id", dbname=dbname)
        ]

    def add_person(self, name: str) -> None:
        self.run("INSERT INTO people_person (name, about) VALUES (%s, '{}')", params=(name,))

    def notes(self, dbname: str | None = None) -> list[str]:
        """Texts of "MyTable", where the hooks write."""
        return [row[0] for row in self.run('SELECT text FROM "MyTable" ORDER BY id', dbname=dbname)]

    def migrations(self, dbname: str | None = None) -> list[str]:
        """Names of the people app's applied migrations."""
        return [
            row[0]
            for row in self.run(
                "SELECT name FROM django_migrations WHERE app = 'people' ORDER BY name",
                dbname=dbname,
            )
        ]


def fill_people(
    server: PostgresServer, name: str, manage: Manage, upto: str | None, apps: Sequence[str]
) -> None:
    """Migrate an empty database up to ``upto`` and write some rows."""
    for target in [["people", upto], ["contenttypes"], ["auth"]] if upto else [[]]:
        manage(
            "migrate",
            "--verbosity=0",
            *target,
            database=server.dsn_dict(name),
            without_app=True,
            apps=list(apps),
        ).ok()
    with (
        contextlib.closing(server.connect(name, "app")) as connection,
        connection.cursor() as cursor,
    ):
        for number, person in enumerate(PEOPLE):
            cursor.execute(
                "INSERT INTO people_person (name, born, about) VALUES (%s, %s, %s)",
                (person, datetime.date(1900 + number, 1, 1), json.dumps({"number": number})),
            )
        cursor.execute(
            "INSERT INTO \"MyTable\" (person_id, text) SELECT id, 'about ' || name"
            " FROM people_person ORDER BY id"
        )
        cursor.execute(
            'INSERT INTO "my.tab ü" (value) SELECT %s FROM generate_series(1, 3)',
            (SECRET_ROW,),
        )


def make_project(
    server: PostgresServer,
    manage: Manage,
    storage: Path,
    *,
    name: str | None = None,
    upto: str | None = None,
    apps: Sequence[str] = (),
    extra: str = "",
) -> Project:
    """A migrated database of role ``app`` in a `Project`.

    ``upto="0001"``: as it was before the second migration. ``name``: any database name. ``apps``
    are installed beside the usual ones.
    """
    source = template(
        server,
        "_".join(["people", upto or "latest", *(app.rpartition(".")[2] for app in apps)]),
        lambda filled: fill_people(server, filled, manage, upto, apps),
    )
    chosen = server.fresh_name("project") if name is None else name
    server.create_database(chosen, template=source, extra=extra)
    storage.mkdir(parents=True, exist_ok=True)
    project = Project(server, chosen, manage, storage)
    project.apps = list(apps)
    return project
