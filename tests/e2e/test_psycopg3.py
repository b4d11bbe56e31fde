"""A site whose Django uses psycopg 3: dumps, restores, and hooks that were written for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.django_project import Manage, Project
from tests.support.packages import with_packages
from tests.support.sites import Site

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture(scope="module")
def psycopg3(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds psycopg 3 beside all else."""
    return with_packages(tmp_path_factory.mktemp("psycopg3"), "psycopg[binary,pool]>=3.2")


HOOK = """
from psycopg import Connection, sql

from pgclone_admin.hooks import HookBase


class Hook(HookBase):
    def run_hook(self, connection: Connection, who: str):
        self.execute(sql='INSERT INTO "MyTable" (text) VALUES ({who})')
        self.execute(
            sql.SQL('INSERT INTO {} (text) VALUES ({})').format(
                sql.Identifier("MyTable"), sql.Literal("composed by {psycopg 3}")
            )
        )
        row = connection.execute("SELECT count(*) FROM people_person").fetchone()
        with connection.cursor() as cursor:
            cursor.execute('INSERT INTO "MyTable" (text) VALUES (%s)', [f"{row[0]} people"])
            note = sql.SQL('INSERT INTO {} (text) VALUES (%s)').format(sql.Identifier("MyTable"))
            cursor.execute(note, ["by a cursor"])
            cursor.executemany(note, [("one of many",), ("another",)])
            row = cursor.execute(sql.SQL("SELECT count(*) FROM people_person")).fetchone()
            connection.execute(note, [f"still {row[0]}"])
"""


def test_hooks_for_psycopg_3_run_where_it_is_installed(
    project: Project, psycopg3: dict[str, str], tmp_path: Path
) -> None:
    def pgclone(*args: str) -> Any:
        return project.pgclone(*args, env=psycopg3).ok()

    version = (
        "from django.db.backends.postgresql.psycopg_any import is_psycopg3; print(is_psycopg3)"
    )
    assert "True" in project.manage("shell", "-v0", "-c", version, env=psycopg3).ok().stdout
    script = tmp_path / "hook.py"
    script.write_text(HOOK)
    spec = f'{{"file": "{script}", "parameters": [{{"name": "who"}}]}}'
    (key,) = pgclone("dump").lines
    project.add_person("later")

    pgclone(
        *("restore", key, "--reversible", "--pre-swap-hook", "migrate", "good_hook", spec),
        *("--hook-param", "who", "it's {me}"),
    )

    assert "later" not in project.people()
    assert project.notes()[-8:] == [
        f"good hook in {project.name}__temp",
        "it's {me}",
        "composed by {psycopg 3}",
        "3 people",
        "by a cursor",
        "one of many",
        "another",
        "still 3",
    ]
    pgclone("restore", ":pre")
    assert "later" in project.people()


WAITING = """
from pgclone_admin.hooks import HookBase
from tests.project.people.models import Note


class Hook(HookBase):
    def run_hook(self, connection):
        self.execute('ALTER TABLE "MyTable" ADD extra int')
        Note.objects.create(text="waits for the line above")
"""


def test_a_model_that_waits_for_its_own_hook_is_told_so(
    project: Project, psycopg3: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "hook.py"
    script.write_text(WAITING)
    spec = f'{{"file": "{script}", "timeout": 20}}'
    failed = project.pgclone("dump", "--pre-dump-hook", spec, env=psycopg3).failed(1)
    assert "failed: a model waited for a lock" in failed.stderr
    assert project.files() == []


def test_with_a_pool_hooks_run_on_the_database_that_is_restored(
    project: Project, psycopg3: dict[str, str]
) -> None:
    """Django keeps its pools by alias, so that of the live database is at hand for a hook, too."""
    pooled = project.databases(OPTIONS={"pool": True}, CONN_HEALTH_CHECKS=True)

    def pgclone(*args: str) -> Any:
        return project.pgclone(*args, database=pooled, env=psycopg3).ok()

    (key,) = pgclone("dump", "--pre-dump-hook", "good_hook").lines
    notes = project.notes()
    assert notes[-1] == f"good hook in {project.name}"

    beside = f"{project.name}_beside"
    pgclone("restore", key, "--to", f":{beside}", "--pre-swap-hook", "good_hook")
    assert project.notes() == notes
    assert project.notes(beside)[-1] != notes[-1]

    pgclone("restore", key, "--pre-swap-hook", "good_hook", "--post-swap-hook", "good_hook")
    assert project.notes() == [
        *notes,
        f"good hook in {project.name}__temp",
        f"good hook in {project.name}",
    ]


CONNECTS = """
import contextlib

from pgclone_admin.core.errors import HookFailed
from pgclone_admin.routing import route
from tests.support.anew import WAYS

def reached(way, alias):
    with contextlib.closing(way(alias)) as made:
        try:
            with made.cursor() as cursor:
                cursor.execute("SELECT current_database()")
                return cursor.fetchone()[0]
        except HookFailed:
            return "refused"

# The last one calls every alias by one name, under which Django has one pool.
for database in [DESTINATION, None]:
    with route("default", database) if database else contextlib.nullcontext():
        for way in WAYS[:-1]:
            print(way.__name__, reached(way, "default"), reached(way, "other"))
"""


@pytest.mark.parametrize("plain", [False, True], ids=["configured", "plain"])
@pytest.mark.parametrize("options", [{}, {"pool": True}], ids=["without a pool", "pool"])
def test_what_connects_anew_through_django_is_routed_or_refuses(
    make_site: Callable[..., Site],
    manage: Manage,
    psycopg3: dict[str, str],
    options: dict[str, Any],
    plain: bool,
) -> None:
    live, other, destination = (make_site(empty=True) for _ in range(3))
    databases = {
        alias: {**site.dsn_dict(), "OPTIONS": options}
        for alias, site in {"default": live, "other": other}.items()
    }
    script = CONNECTS.replace("DESTINATION", repr(destination.name))
    done = manage("shell", "-v0", "-c", script, database=databases, env=psycopg3, plain=plain).ok()
    # Of a plain mapping nobody can know who asks for it.
    by_the_mapping = "refused" if plain else destination.name
    assert done.lines == [
        f"created {destination.name} refused",
        f"copied {destination.name} refused",
        f"looked_up_anew {destination.name} refused",
        f"by_the_settings_of_django {destination.name} refused",
        f"by_the_settings_of_the_project {by_the_mapping} refused",
        f"created {live.name} {other.name}",
        f"copied {live.name} {other.name}",
        f"looked_up_anew {live.name} {other.name}",
        f"by_the_settings_of_django {live.name} {other.name}",
        f"by_the_settings_of_the_project {live.name} {other.name}",
    ]
