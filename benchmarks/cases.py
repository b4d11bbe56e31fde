"""What is measured: each tool dumping and restoring the same database in the same places."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.s3 import Bucket

from . import dataset
from .measure import QUIET, Command, CommandFailed, Outcome, run, wait_until_quiet
from .servers import BenchmarkServer

PROJECT = Path(__file__).resolve().parent / "project"
ROOT = PROJECT.parents[1]

GROUPS = ("dump-file", "dump-s3", "restore-file", "restore-s3", "restore-last")

OURS = "pgclone_admin"
PEER = "django-pgclone"
DBBACKUP = "django-dbbackup"
RAW_DUMP = "pg_dump -Fc"
RAW_FLOOR = "pg_dump -Fc -Z0 > /dev/null"
RAW_PIPE = "pg_restore from a pipe"
RAW_JOBS = "pg_restore -j2 from a file"

DUMP: Mapping[str, Sequence[str]] = {
    OURS: ("pgclone", "dump"),
    PEER: ("pgclone", "dump"),
    DBBACKUP: ("dbbackup", "--noinput"),
}
RESTORE: Mapping[str, Sequence[str]] = {
    OURS: ("pgclone", "restore"),
    PEER: ("pgclone", "restore"),
    DBBACKUP: ("dbrestore", "--noinput", "--input-filename"),
}
"""Commands; the key or name of the dump follows."""

SOURCE = "shop"
"""The database that is dumped, unless another one is named."""


@dataclass(frozen=True)
class Case:
    """One row of a table.

    ``prepare`` is done before each run and ``finish`` after it, both outside the measured time;
    ``finish`` checks what was made and returns its size.
    """

    group: str
    label: str
    command: Callable[[], Command]
    finish: Callable[[Outcome], int]
    prepare: Callable[[], None] = lambda: None

    def measure(self, bench: Bench) -> Outcome:
        """Runs the case once, or until a run was not disturbed or the patience is at its end.

        The least disturbed run counts.
        """
        deadline = time.monotonic() + bench.patience
        best: Outcome | None = None
        while best is None or (best.others > QUIET and time.monotonic() < deadline):
            self.prepare()
            bench.server.settle()
            wait_until_quiet(deadline)
            outcome = run(self.command(), bench.servers)
            outcome = replace(outcome, size=self.finish(outcome))
            if best is None or outcome.others < best.others:
                best = outcome
        return best


@dataclass(frozen=True)
class Probed:
    """What a command printed, and MB: before it, at most, and of its client program."""

    printed: str
    loaded: float
    highest: float
    client: float


NOTHING = dataset.Facts(rows=(), indexes=0, constraints=0, checksum=0)


@dataclass
class Bench:
    """Where everything is, and the dumps that were kept for restoring."""

    server: BenchmarkServer
    folder: Path
    bucket: Bucket
    peer_python: Path
    servers: Sequence[int] = ()
    """The processes behind the server and the bucket."""
    patience: float = 0.0
    """Seconds that a case may take to find a moment without other work."""
    source: str = SOURCE
    """The database that is dumped."""
    facts: Callable[[BenchmarkServer, str], object] = dataset.facts
    """Tells what is in a database."""
    expected: object = NOTHING
    """What a restored copy has to hold."""
    with_dbbackup: bool = True
    kept: dict[tuple[str, str], str] = field(default_factory=dict)
    """(tool, place) -> dump key or path of the newest dump."""

    def cases(self, group: str) -> list[Case]:
        kind, place = group.split("-")
        return self._dump_cases(place) if kind == "dump" else self._restore_cases(place)

    @contextmanager
    def arranged(self, group: str) -> Iterator[None]:
        """The source database as the group wants it.

        pg_dump writes tables by name, and the largest comes first otherwise: the best case for
        whoever builds its indexes while the others load.
        """
        if group != "restore-last":
            yield
            return
        expected = self.expected
        self.forget("file")
        dataset.rename_events(self.server, self.source, dataset.LAST_NAME)
        self.expected = self.facts(self.server, self.source)
        try:
            yield
        finally:
            dataset.rename_events(self.server, self.source, dataset.EVENTS)
            self.forget("file")
            self.expected = expected

    # -- commands ---------------------------------------------------------------------------------

    def environment(self, *programs: Path, **more: str) -> dict[str, str]:
        """The whole environment of a measured command; ``programs`` are folders for PATH."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        path = [*map(str, programs), str(self.server.bin_dir), "/usr/bin", "/bin"]
        return {
            "PATH": ":".join(path),
            "HOME": str(home),
            "TMPDIR": str(self.folder),
            "LANG": "C.UTF-8",
            # The peer asks this shell to notice a failing pg_dump in its pipe.
            "SHELL": "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh",
            "AWS_EC2_METADATA_DISABLED": "true",
            **more,
        }

    def shell(self, script: str, dbname: str, *arguments: str) -> Command:
        """A bare client program in a shell; the arguments are $1, $2, ..."""
        return Command(
            ["/bin/sh", "-ec", script, "sh", *arguments],
            self.environment(**self.server.client_environment(dbname)),
        )

    def manage(
        self, tool: str, place: str, dbname: str, *arguments: str, script: str = "manage.py"
    ) -> Command:
        """A management command of the tool's project."""
        settings: dict[str, Any] = {
            "database": self.server.django(dbname),
            "apps": [{OURS: "pgclone_admin", PEER: "pgclone", DBBACKUP: "dbbackup"}[tool]],
            "settings": self._settings(tool, place),
        }
        if script == "probe.py":
            settings["apps"] = [
                "django.contrib.admin",
                "django.contrib.sessions",
                "django.contrib.messages",
                "django.contrib.staticfiles",
                "django_q",
                *settings["apps"],
            ]
        file = self.folder / f"settings-{len(list(self.folder.glob('settings-*')))}.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        python = Path(sys.executable) if tool == OURS else self.peer_python
        return Command(
            [str(python), str(PROJECT / script), *arguments],
            self.environment(python.parent, BENCHMARK_SETTINGS=str(file)),
        )

    def _settings(self, tool: str, place: str) -> Mapping[str, Any]:
        folder = self.dumps(tool)
        if tool == DBBACKUP:
            return {
                "STORAGES": {
                    "dbbackup": {
                        "BACKEND": "django.core.files.storage.FileSystemStorage",
                        "OPTIONS": {"location": str(folder)},
                    }
                },
                "DBBACKUP_TMP_DIR": str(self.folder),
            }
        shared: dict[str, Any] = {"PGCLONE_INSTANCE": "bench"}
        if tool == OURS:
            shared["PGCLONE_BIN_DIR"] = str(self.server.bin_dir)
        if place == "file":
            return {**shared, "PGCLONE_STORAGE_LOCATION": f"{folder}/"}
        return {**shared, **self.bucket.settings(f"{folder.name}/")}

    def dumps(self, tool: str) -> Path:
        """The folder of a tool's dumps; its name is the prefix in the bucket, too."""
        name = {OURS: "ours", PEER: "peer", DBBACKUP: "dbbackup"}.get(tool, "raw")
        folder = self.folder / "dumps" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # -- dumps ------------------------------------------------------------------------------------

    def _dump_cases(self, place: str) -> list[Case]:
        group = f"dump-{place}"
        cases = [self._tool_dump(tool, place) for tool in (PEER, OURS)]
        if place == "file":
            cases += [
                self._raw_dump(),
                Case(
                    group,
                    RAW_FLOOR,
                    lambda: self.shell("exec pg_dump -Fc -Z0 >/dev/null", self.source),
                    lambda _outcome: 0,
                ),
            ]
            if self.with_dbbackup:
                cases.insert(1, self._tool_dump(DBBACKUP, place))
        return cases

    def _tool_dump(self, tool: str, place: str) -> Case:
        return Case(
            f"dump-{place}",
            tool,
            lambda: self.manage(tool, place, self.source, *DUMP[tool]),
            lambda _outcome: self._keep(tool, place),
        )

    def _raw_dump(self) -> Case:
        path = self.dumps(RAW_DUMP) / "new.dump"
        return Case(
            "dump-file",
            RAW_DUMP,
            lambda: self.shell('exec pg_dump -Fc >"$1"', self.source, str(path)),
            lambda _outcome: self._keep(RAW_DUMP, "file"),
        )

    def _stored(self, tool: str, place: str) -> dict[str, int]:
        """The dumps of a tool and their bytes."""
        folder = self.dumps(tool)
        if place == "file":
            return {
                path.relative_to(folder).as_posix(): path.stat().st_size
                for path in folder.rglob("*")
                if path.is_file() and path.suffix not in (".json", ".metadata")
            }
        objects = self.bucket.client.list_objects_v2(
            Bucket=self.bucket.name, Prefix=f"{folder.name}/"
        )
        return {
            entry["Key"].removeprefix(f"{folder.name}/"): entry["Size"]
            for entry in objects.get("Contents", [])
            if not entry["Key"].endswith(".json")
        }

    def _keep(self, tool: str, place: str) -> int:
        """Keeps the dump that was just made instead of the one before; returns its size."""
        stored = self._stored(tool, place)
        before = self.kept.get((tool, place))
        if tool == RAW_DUMP:  # always under the same name
            before = None
        new = [key for key in stored if key != before]
        if len(new) != 1 or not stored[new[0]]:
            raise CommandFailed(f"{tool} left {stored} in its place for dumps ({place})")
        if before is not None:
            self._delete(tool, place, before)
        self.kept[tool, place] = new[0]
        return stored[new[0]]

    def _delete(self, tool: str, place: str, key: str) -> None:
        folder = self.dumps(tool)
        for name in (key, f"{key}.json", f"{key}.metadata"):
            if place == "file":
                (folder / name).unlink(missing_ok=True)
            else:
                self.bucket.delete(f"{folder.name}/{name}")

    def forget(self, place: str) -> None:
        """Deletes every dump in a place."""
        for tool, kept_in in list(self.kept):
            if kept_in == place:
                self._delete(tool, place, self.kept.pop((tool, place)))

    def take(self, tool: str, place: str) -> str:
        """The key of the tool's dump in a place, which is made if it is not there."""
        if (tool, place) not in self.kept:
            case = self._raw_dump() if tool == RAW_DUMP else self._tool_dump(tool, place)
            case.measure(self)
        return self.kept[tool, place]

    def verify_dumps(self, place: str) -> None:
        """Has pg_restore read the dumps of the place to their ends."""
        for tool, kept_in in list(self.kept):
            if kept_in != place:
                continue
            key = self.kept[tool, place]
            if tool == OURS:
                command = self.manage(OURS, place, self.source, "pgclone", "cat", key)
                quoted = ' "$@" | pg_restore -f /dev/null'
                piped = [str(word) for word in command.argv]
                run(
                    Command(
                        ["/bin/bash", "-o", "pipefail", "-ec", quoted.strip(), "sh", *piped],
                        command.environment,
                    )
                )
            else:
                path = self.dumps(tool) / key
                if place == "s3":
                    path = self.folder / "fetched.dump"
                    name = f"{self.dumps(tool).name}/{key}"
                    self.bucket.client.download_file(self.bucket.name, name, str(path))
                run(self.shell('exec pg_restore -f /dev/null "$1"', self.source, str(path)))
                if place == "s3":
                    path.unlink()

    # -- restores ---------------------------------------------------------------------------------

    def _restore_cases(self, place: str) -> list[Case]:
        group = f"restore-{place}"
        raw = [
            self._raw_restore(group, RAW_PIPE, 'cat "$1" | pg_restore -d "$PGDATABASE"'),
            self._raw_restore(group, RAW_JOBS, 'exec pg_restore -j2 -d "$PGDATABASE" "$1"'),
        ]
        if place == "last":
            return [self._tool_restore(group, OURS, "file"), *raw]
        tools = [self._tool_restore(group, tool, place) for tool in (PEER, OURS)]
        if place != "file":
            return tools
        if self.with_dbbackup:
            tools.insert(1, self._tool_restore(group, DBBACKUP, place))
        return [*tools, *raw]

    def _tool_restore(self, group: str, tool: str, place: str) -> Case:
        target = f"restored_by_{self.dumps(tool).name}"
        return Case(
            group,
            tool,
            lambda: self.manage(tool, place, target, *RESTORE[tool], self.take(tool, place)),
            lambda _outcome: self._check_restored(target),
            prepare=lambda: self._prepare_restore(tool, place, target),
        )

    def _raw_restore(self, group: str, label: str, script: str) -> Case:
        target = "restored_by_raw"
        return Case(
            group,
            label,
            lambda: self.shell(
                script, target, str(self.dumps(RAW_DUMP) / self.take(RAW_DUMP, "file"))
            ),
            lambda _outcome: self._check_restored(target),
            prepare=lambda: self._prepare_restore(RAW_DUMP, "file", target),
        )

    def _prepare_restore(self, tool: str, place: str, target: str) -> None:
        self.take(tool, place)
        self.server.create_empty(target)

    def _check_restored(self, target: str) -> int:
        found = self.facts(self.server, target)
        if found != self.expected:
            raise CommandFailed(f"{target} holds {found}, expected {self.expected}")
        size = dataset.size(self.server, target)
        self.server.drop(target)
        for (name,) in self.server.run(
            "SELECT datname FROM pg_database WHERE datname LIKE 'restored%'"
        ):
            raise CommandFailed(f"the restore of {target} left the database {name}")
        return size

    # -- memory -----------------------------------------------------------------------------------

    def probe(self, *arguments: str, dbname: str) -> Probed:
        """Runs a command of ours in a process that tells its own memory."""
        outcome = run(self.manage(OURS, "s3", dbname, *arguments, script="probe.py"))
        line = next(line for line in outcome.stderr.splitlines() if line.startswith("memory "))
        loaded, highest = (int(word) / 1000 for word in line.split()[1:])
        programs = [mb for name, mb in outcome.memory.items() if name.startswith("pg_")]
        return Probed(outcome.stdout.strip(), loaded, highest, max(programs, default=0.0))

    def migrate(self, *tools: str) -> None:
        """Makes Django's own tables, so that every tool's ``migrate`` has nothing to do later."""
        for tool in tools:
            run(self.manage(tool, "file", self.source, "migrate", "--verbosity=0"))
