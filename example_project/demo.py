"""`scripts/demo`: the main job, on a real server, told step by step and checked at each of them.

The story uses the shop as its owner would, through `manage.py` in processes of their own. What a
step claims is read back from the database by this program, which shares nothing with those.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg2
from psycopg2 import sql

from example_project import database_url, embedded
from example_project.serve import LOGIN, DidNotServe, Site

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MANAGE = Path(__file__).with_name("manage.py")
CUSTOMERS = "shop_customer"
TABLES = (
    CUSTOMERS,
    "shop_category",
    "shop_document",
    "shop_order",
    "shop_orderline",
    "shop_product",
    "shop_searchlog",
)


class DidNotHold(Exception):
    """A step of the story turned out otherwise than it claims; the message says how."""


class Screen:
    """Prints the story; colours only where a person looks at a terminal that wants them."""

    def __init__(self) -> None:
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = terminal and not os.environ.get("NO_COLOR")
        self._step = 0
        try:
            "✓·".encode(sys.stdout.encoding)
        except UnicodeEncodeError:
            self._mark, self._dot = "ok", "-"
        else:
            self._mark, self._dot = "✓", "·"

    def title(self, text: str) -> None:
        self._print(self._paint("1", text))

    def step(self, text: str) -> None:
        self._step += 1
        self._print()
        self._print(self._paint("1", f"{self._step}. {text}"))

    def command(self, arguments: tuple[str, ...]) -> None:
        self._print(self._paint("36", f"   $ manage.py {shlex.join(arguments)}"))

    def notes(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._print(self._paint("2", f"     {line.rstrip()}"))

    def result(self, line: str) -> None:
        self._print(f"     {line}")

    def held(self, *facts: str) -> None:
        self._print(f"   {self._paint('32', self._mark)} {f' {self._dot} '.join(facts)}")

    def failed(self, reason: str) -> None:
        self._print()
        self._print(f"{self._paint('31', 'This did not hold:')} {reason}")

    def _paint(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text

    def _print(self, text: str = "") -> None:
        # Flushed, so that a log shows each line when it happens.
        print(text, flush=True)


@dataclass(frozen=True)
class Contents:
    """All that is in a shop's tables, such that equal contents compare equal."""

    tables: dict[str, tuple[int, str]]  # number of rows and a digest of all of them
    large_objects: str
    indexes: tuple[str, ...]
    size: int = field(compare=False)

    @property
    def rows(self) -> int:
        return sum(count for count, _ in self.tables.values())

    def count(self, table: str) -> int:
        return self.tables[table][0]

    def differences(self, other: Contents) -> list[str]:
        names = [table for table in TABLES if self.tables[table] != other.tables[table]]
        if self.large_objects != other.large_objects:
            names.append("large objects")
        if self.indexes != other.indexes:
            names.append("indexes")
        return names


class Shop:
    """Looks into the database with connections that end at once: none is in a restore's way."""

    def __init__(self, url: str) -> None:
        entry = database_url.parse(url)
        self.name: str = entry["NAME"]
        self._address = {"host": entry["HOST"], "port": entry["PORT"], "user": entry["USER"]}

    @contextmanager
    def cursor(self, database: str = "") -> Iterator[Any]:
        connection = psycopg2.connect(dbname=database or self.name, **self._address)
        with closing(connection), connection, connection.cursor() as cursor:
            yield cursor

    def value(self, query: str, database: str = "") -> Any:
        with self.cursor(database) as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    def contents(self, database: str = "") -> Contents:
        with self.cursor(database) as cursor:
            tables = {}
            for table in TABLES:
                cursor.execute(
                    sql.SQL(
                        "SELECT count(*), md5(coalesce(string_agg(row::text, '' ORDER BY id), ''))"
                        " FROM {} AS row"
                    ).format(sql.Identifier(table))
                )
                tables[table] = cursor.fetchone()
            cursor.execute("SELECT lo_get(content) FROM shop_document ORDER BY id")
            digest = hashlib.sha256(b"".join(bytes(row[0]) for row in cursor.fetchall()))
            cursor.execute("SELECT indexdef FROM pg_indexes WHERE tablename ~ '^shop_' ORDER BY 1")
            indexes = tuple(row[0] for row in cursor.fetchall())
            cursor.execute("SELECT pg_database_size(current_database())")
            size = cursor.fetchone()[0]
        return Contents(tables, digest.hexdigest(), indexes, size)

    def real_customers(self, database: str = "") -> int:
        return int(
            self.value(
                f"SELECT count(*) FROM {CUSTOMERS} WHERE email NOT LIKE '%@example.invalid'",  # noqa: S608
                database,
            )
        )

    def someone(self) -> str:
        return str(
            self.value(f"SELECT first_name || ' ' || last_name FROM {CUSTOMERS} WHERE id = 7")  # noqa: S608
        )

    def databases(self) -> set[str]:
        with self.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")
            return {row[0] for row in cursor.fetchall()}


class Visitor(threading.Thread):
    """Somebody who looks at the shop fifty times a second while it is being restored."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(daemon=True)
        self.answers = 0
        self.longest_wait = 0.0
        self._shop = shop
        self._left = threading.Event()

    def run(self) -> None:
        last = time.monotonic()
        while not self._left.wait(0.02):
            answered = True
            try:
                self._shop.value("SELECT count(*) FROM shop_product")
            except psycopg2.Error:
                answered = False  # it asks again, and the wait goes on
            now = time.monotonic()
            self.longest_wait = max(self.longest_wait, now - last)
            if answered:
                self.answers += 1
                last = now

    def __enter__(self) -> Visitor:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self.join()


class Story:
    def __init__(self, screen: Screen, home: Path, rows: int, port: int = 0) -> None:
        self.screen = screen
        self.rows = rows
        self.seconds = 0.0
        screen.step("Start a PostgreSQL server of our own")
        began = time.monotonic()
        with signals_deferred():
            server = embedded.start(home)
        self.shop = Shop(server.url)
        self.dumps = home / "dumps"
        self.environment = os.environ | {
            "DEBUG": "1",
            "DATABASE_URL": server.url,
            "PGCLONE_BIN_DIR": str(server.bin_dir),
            "PGCLONE_STORAGE_LOCATION": str(self.dumps),
            "TMPDIR": str(home),
        }
        self.site = Site(self.environment, port)
        version = self.shop.value("SHOW server_version")
        screen.held(
            f"PostgreSQL {version} after {time.monotonic() - began:.1f} s",
            'the site\'s role "shop" is no superuser',
        )

    def tell(self) -> None:
        self.fill()
        before, key = self.dump()
        self.list_dumps(key)
        changed = self.change(before)
        self.restore(key, before)
        self.go_back(changed)
        self.copy(changed)
        self.look_around()

    def fill(self) -> None:
        self.screen.step("Migrate the example project and fill the shop")
        self.run("migrate", "--verbosity=0")
        self.run("seed_shop", "--rows", str(self.rows))
        # Before the dump, so that whoever restores it can log in again.
        self.site.make_account()
        contents = self.shop.contents()
        check(contents.count("shop_orderline") == self.rows, "the shop was not filled")
        self.screen.held(
            f"{contents.rows:,} rows, {len(contents.indexes)} indexes, one large object",
            f"{megabytes(contents.size)}",
            self.took(),
        )

    def dump(self) -> tuple[Contents, str]:
        self.screen.step("Dump it; a hook first closes the carts that nobody paid for")
        output = self.run("pgclone", "dump", "--pre-dump-hook", "close_abandoned_carts")
        seconds = self.took()
        check(len(output) == 1, f"dump printed {len(output)} lines and not just the dump key")
        key = output[0]
        archive, manifest = self.dumps / key, self.dumps / f"{key}.json"
        check(archive.is_file(), f"there is no dump under {key}")
        check(manifest.is_file(), f"there is no manifest beside {key}")
        carts = self.shop.value("SELECT count(*) FROM shop_order WHERE status = 'cart'")
        check(carts == 0, f"the hook left {carts} abandoned carts open")
        contents = self.shop.contents()
        size = archive.stat().st_size
        self.screen.held(
            f"{megabytes(size)} from a database of {megabytes(contents.size)}", seconds
        )
        return contents, key

    def list_dumps(self, key: str) -> None:
        self.screen.step("List what there is")
        check(self.run("pgclone", "ls") == [key], "ls does not list exactly the one dump")
        long = self.run("pgclone", "ls", "--long")
        check(any(key in line for line in long), "ls --long does not list the dump")
        self.screen.held("the dump is listed")

    def change(self, before: Contents) -> Contents:
        self.screen.step("Have an accident: a third of the orders deleted, every product renamed")
        with self.shop.cursor() as cursor:
            cursor.execute(
                "DELETE FROM shop_orderline WHERE order_id %% 3 = 0;"
                "DELETE FROM shop_order WHERE id %% 3 = 0;"
                "UPDATE shop_product SET name = 'Oops'",
                (),
            )
        changed = self.shop.contents()
        lost = before.count("shop_order") - changed.count("shop_order")
        check(lost > 0, "no order was deleted")
        self.screen.held(
            f"{lost:,} of {before.count('shop_order'):,} orders are gone",
            f"{changed.count('shop_product'):,} products are called Oops",
        )
        return changed

    def restore(self, key: str, before: Contents) -> None:
        self.screen.step("Restore the dump, customers anonymized, while a visitor keeps looking")
        someone = self.shop.someone()
        with Visitor(self.shop) as visitor:
            output = self.run("pgclone", "restore", key, "-c", "anonymous")
        seconds = self.took()
        check(output == [key], "restore did not print just the key it restored")
        after = self.shop.contents()
        differences = [name for name in after.differences(before) if name != CUSTOMERS]
        check(not differences, f"differs from the time of the dump: {', '.join(differences)}")
        check(after.count(CUSTOMERS) == before.count(CUSTOMERS), "some customers are missing")
        real = self.shop.real_customers()
        check(real == 0, f"{real} customers still have their own address")
        self.screen.held("every order and product is back, row for row", seconds)
        self.screen.held(
            f"{after.count(CUSTOMERS):,} customers have made-up names and addresses",
            f"{someone} is now {self.shop.someone()}",
        )
        self.screen.held(self.visit(visitor))

        local = self.run("pgclone", "ls", "--local")
        check(
            {":pre", ":post"} <= set(local), "ls --local does not list both copies, :pre and :post"
        )
        real = self.shop.real_customers(f"{self.shop.name}__post")
        check(real == 0, f"the copy :post holds {real} real customers")
        self.screen.held("the state before and the state after are kept beside it")

    def go_back(self, changed: Contents) -> None:
        self.screen.step("Think again: go back to how it was before the restore")
        with Visitor(self.shop) as visitor:
            self.run("pgclone", "restore", ":pre")
        seconds = self.took()
        differences = self.shop.contents().differences(changed)
        check(not differences, f"differs from the time before: {', '.join(differences)}")
        self.screen.held("everything is as it was, real customers and the accident too", seconds)
        self.screen.held(self.visit(visitor))
        local = self.run("pgclone", "ls", "--local")
        check(":pre" in local, "the copy :pre is gone, though a restore from it keeps it")
        check(":undo" in local, "the state that was replaced is not kept as :undo")
        self.screen.held("and this step can be undone as well, with :undo")

    def copy(self, changed: Contents) -> None:
        self.screen.step("Keep a spare copy of the database on the same server")
        self.run("pgclone", "copy", ":spare")
        seconds = self.took()
        differences = self.shop.contents("spare").differences(changed)
        check(not differences, f"the copy differs in: {', '.join(differences)}")
        check(":spare" in self.run("pgclone", "ls", "--local"), "ls --local does not list :spare")
        self.screen.held("the same, row for row", seconds)

    def look_around(self) -> None:
        self.screen.step("Look for anything left behind")
        left = [
            name
            for name in self.shop.databases()
            if name.endswith(("__temp", "__swap")) or name.startswith("pgclone_new")
        ]
        check(not left, f"unfinished databases were left behind: {', '.join(left)}")
        partial = [
            path.name
            for path in self.dumps.rglob("*")
            if path.is_file() and not path.name.endswith((".dump", ".dump.json"))
        ]
        check(not partial, f"unfinished files were left behind: {', '.join(partial)}")
        self.screen.held("no unfinished database, no unfinished file")

    def visit(self, visitor: Visitor) -> str:
        check(visitor.answers > 0, "the visitor never got an answer")
        wait = visitor.longest_wait * 1000
        return f"the visitor got {visitor.answers:,} answers and never waited over {wait:,.0f} ms"

    def took(self) -> str:
        """How long the last command took."""
        return f"{self.seconds:.1f} s"

    def run(self, *arguments: str) -> list[str]:
        """Runs a command of the shop, shows all it says, and returns the lines of its stdout."""
        self.screen.command(arguments)
        began = time.monotonic()
        with subprocess.Popen(  # noqa: S603 - our own manage.py
            [sys.executable, MANAGE, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is ours to pass on
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            notes = threading.Thread(target=self.screen.notes, args=(process.stderr,), daemon=True)
            notes.start()
            try:
                output = process.stdout.read().splitlines()
                notes.join()
                process.wait()
            except BaseException:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
        self.seconds = time.monotonic() - began
        for line in output:
            self.screen.result(line)
        if process.returncode:
            raise DidNotHold(
                f"manage.py {shlex.join(arguments)} ended with status {process.returncode}"
            )
        return output


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DidNotHold(otherwise)


def megabytes(size: int) -> str:
    return f"{size / 1_000_000:.1f} MB"


@contextmanager
def signals_deferred() -> Iterator[None]:
    """A server that is only half started could not be stopped."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder that is gone afterwards, with the server in it stopped, whatever happened."""
    home = Path(tempfile.mkdtemp(prefix="pgclone-demo-"))
    # The wheel's own exit handler runs before this one and makes its lock file once more.
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    try:
        yield home
    finally:
        # A second Ctrl-C must not leave the server running.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        try:
            embedded.stop(home)
        finally:
            shutil.rmtree(home)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="tell the story and end")
    parser.add_argument(
        "--port", type=int, default=0, help="port of the site (default: a free one)"
    )
    parser.add_argument("--rows", type=int, default=100_000, help="order lines (default: 100000)")
    arguments = parser.parse_args()
    if arguments.rows < 100:
        parser.error("--rows must be 100 or more, or there is too little to look at")

    # Nothing that the caller has set may lead the story to another server or other settings.
    for name in list(os.environ):
        if name.startswith(("PG", "DJANGO_")) and name != "PGSERVER_POSTGRES_VERSION":
            del os.environ[name]
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, leave)
    screen = Screen()
    began = time.monotonic()
    screen.title("pgclone_admin: dump, restore and undo, on a real PostgreSQL")
    try:
        with temporary_home() as home:
            story = Story(screen, home, arguments.rows, arguments.port)
            story.tell()
            held = f"All of it held, in {time.monotonic() - began:.0f} seconds."
            if not arguments.once:
                print()
                screen.title(held)
                serve(screen, story.site)
    except (DidNotHold, DidNotServe) as error:
        screen.failed(str(error))
        return 1
    print()
    screen.title(f"{held} Nothing is left.")
    return 0


def serve(screen: Screen, site: Site) -> None:
    """The shop and its worker, until Ctrl-C."""
    screen.step("See it in the admin, with a worker")
    with site.running():
        screen.result(site.url)
        screen.result(f"user {LOGIN}, password {site.password}")
        screen.held("Ctrl-C stops everything and leaves nothing behind")
        site.wait()


if __name__ == "__main__":
    sys.exit(main())
