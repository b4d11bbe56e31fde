"""Measures the anonymizing hook against a loop over Django's ORM: python -m benchmarks.anonymize

Both change the same six fields of ``auth_user``, each in a copy of one database, on one server, in
one run. The loop reads users in chunks, as ``iterator`` gives them, and writes each with
``bulk_update``. It is measured on some of the rows and multiplied, which flatters it: its time for
a row grows with the table. The hook is also measured with a view over the table, which keeps
PostgreSQL from writing the table anew, so that it is updated.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
from django.conf import settings

from tests.support.postgres import available, data_root

from . import report
from .servers import BenchmarkServer

SOURCE = "raw"

CHUNK = 1000
"""Rows that the loop reads and writes at a time."""

MAP = {
    "auth.User": {
        "username": "username",
        "first_name": "first_name",
        "last_name": "last_name",
        "email": "email",
        "password": "password",
        "last_login": "null",
    }
}

ROWS = """
INSERT INTO auth_user (username, first_name, last_name, email, password, last_login, is_superuser,
                       is_staff, is_active, date_joined)
SELECT 'raw-' || md5(i::text), 'Given' || i % 5000, 'Family' || i % 70000,
       'raw.' || md5((-i)::text) || '@mail.example',
       'pbkdf2_sha256$1000000$' || left(md5(random()::text), 22) || '$'
           || encode(sha256(i::text::bytea), 'base64'),
       now() - i * interval '1 second', false, false, true, now() - i * interval '1 minute'
  FROM generate_series(1, {rows}) AS i
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anonymize", description=__doc__)
    majors = list(available())
    parser.add_argument("--server", type=int, choices=majors, default=majors[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--loop-rows", type=int, default=50_000, help="rows that the loop changes")
    parser.add_argument("--fsync", choices=["on", "off"], default="on")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pgclone-benchmark-", dir=data_root()))
    folder.chmod(0o755)
    try:
        server = BenchmarkServer(options.server, folder / "server", fsync=options.fsync == "on")
        with server:
            print(measure(server, options.rows, min(options.loop_rows, options.rows)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(server: BenchmarkServer, rows: int, loop_rows: int) -> str:
    """The table, in Markdown."""
    _set_up(server)
    _fill(server, rows)
    size = server.run("SELECT pg_total_relation_size('auth_user')", dbname=SOURCE)
    anew = _ours(server, prepared="")
    updated = _ours(server, prepared="CREATE VIEW everybody AS SELECT * FROM auth_user")
    one_chunk = _timed(server, "loop", lambda: _loop(loop_rows))
    loop = one_chunk * rows / loop_rows
    said = "" if loop_rows == rows else f" ({loop_rows:,} rows took {one_chunk:.1f})"
    total = anew["run"] + anew["finish"]
    instead = updated["run"] + updated["finish"]
    megabytes = int(size[0][0]) / 1e6
    cases = {
        f"`bulk_update` of {CHUNK:,} at a time{said}": f"{loop:.0f} | 1.00",
        "**the hook**": f"{total:.1f} | {total / loop:.4f}",
        "its `ALTER TABLE`, with the commit": f"{anew['run']:.1f} |",
        "its `ANALYZE`, and the statistics written anew": f"{anew['finish']:.1f} |",
        "**the hook, with a view over the table**": f"{instead:.1f} | {instead / loop:.4f}",
        "its `UPDATE`, with the commit": f"{updated['run']:.1f} |",
        "its `VACUUM (FULL, ANALYZE)`": f"{updated['finish']:.1f} |",
    }
    head = (
        f"PostgreSQL {server.version} with fsync {'on' if server.fsync else 'off'};"
        f" {megabytes:.0f} MB with indexes; {report.machine()}."
    )
    return "\n".join(
        [
            head,
            "",
            f"| {rows:,} rows | seconds | of the loop |",
            "|---|---|---|",
            *(f"| {name} | {figures} |" for name, figures in cases.items()),
        ]
    )


def _set_up(server: BenchmarkServer) -> None:
    server.create_empty(SOURCE)
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                **server.django(SOURCE),
            }
        },
        USE_TZ=True,
    )
    django.setup()


def _fill(server: BenchmarkServer, rows: int) -> None:
    from django.core.management import call_command  # noqa: PLC0415 - after django.setup

    call_command("migrate", verbosity=0)
    _connect_to(server, "postgres")
    server.run(ROWS.format(rows=rows), dbname=SOURCE)
    server.run("VACUUM ANALYZE", dbname=SOURCE)


def _connect_to(server: BenchmarkServer, name: str) -> None:
    """Sends Django there."""
    from django.db import connection  # noqa: PLC0415 - after django.setup

    connection.close()
    connection.settings_dict.update(server.django(name))


@contextlib.contextmanager
def _copy(server: BenchmarkServer, name: str) -> Iterator[None]:
    server.drop(name)
    server.run(f"CREATE DATABASE {name} TEMPLATE {SOURCE}")
    server.settle()
    try:
        yield
    finally:
        _connect_to(server, "postgres")
        server.drop(name)


def _timed(server: BenchmarkServer, name: str, work: Callable[[], Any]) -> float:
    with _copy(server, name):
        _connect_to(server, name)
        started = time.perf_counter()
        work()
        return time.perf_counter() - started


def _ours(server: BenchmarkServer, *, prepared: str) -> dict[str, float]:
    """Seconds of both parts, in a database in which ``prepared`` was executed before."""
    from pgclone_admin.hooks.anonymize import Anonymization  # noqa: PLC0415 - after django.setup

    seconds = {}
    anonymization = Anonymization.parse(MAP, seed="benchmark")
    with _copy(server, "ours"), contextlib.closing(server.connect("ours")) as connection:
        connection.autocommit = False
        if prepared:
            connection.cursor().execute(prepared)
            connection.commit()
        started = time.perf_counter()
        changed = anonymization.run(connection, note=lambda _text: None, check=lambda: None)
        connection.commit()
        seconds["run"] = time.perf_counter() - started
        if bool(changed.rewritten) == bool(prepared):
            raise RuntimeError(f"the table was changed in another way: {changed}")
        connection.autocommit = True
        started = time.perf_counter()
        anonymization.finish(connection, rewritten=changed.rewritten)
        seconds["finish"] = time.perf_counter() - started
    return seconds


def _loop(rows: int) -> None:
    from django.contrib.auth.hashers import make_password  # noqa: PLC0415 - after django.setup
    from django.contrib.auth.models import User  # noqa: PLC0415

    from pgclone_admin.hooks.anonymize import fakes  # noqa: PLC0415

    changed: list[User] = []

    def write() -> None:
        User.objects.bulk_update(changed, list(MAP["auth.User"]), batch_size=CHUNK)
        changed.clear()

    for user in User.objects.order_by("pk")[:rows].iterator(chunk_size=CHUNK):
        user.username = f"user-{user.pk}"
        user.first_name = fakes.FIRST_NAMES[user.pk % len(fakes.FIRST_NAMES)]
        user.last_name = fakes.LAST_NAMES[user.pk % len(fakes.LAST_NAMES)]
        user.email = f"{user.pk}@{fakes.DOMAIN}"
        user.password = make_password(None)
        user.last_login = None
        changed.append(user)
        if len(changed) == CHUNK:
            write()
    write()


if __name__ == "__main__":
    main()
