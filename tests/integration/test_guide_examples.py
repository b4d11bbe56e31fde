"""The hooks that the guide shows run as it shows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.django_project import Project
from tests.support.documents import PAGES
from tests.support.packages import with_packages

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

HOOKS = [
    code
    for code in re.findall(r"```python\n(.*?)```", PAGES["migrating.md"], re.DOTALL)
    if "def run_hook" in code and "pum_test_app" in code
]

# What the examples ask of PostGIS.
TABLE = """
CREATE SCHEMA pum_test_data;
CREATE SCHEMA pum_test_app;
CREATE FUNCTION st_transform(text, integer) RETURNS text LANGUAGE sql AS 'SELECT $1 || $2';
CREATE TABLE pum_test_data.some_table (id integer PRIMARY KEY, geometry text, is_active boolean);
INSERT INTO pum_test_data.some_table VALUES (1, 'point ', true), (2, 'gone ', false)
"""
# What the first one asks of pirogue, for the tests that need no package from elsewhere.
COLUMNS = """
def select_columns(pg_cur, table_schema, table_name):
    pg_cur.execute(
        "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position)"
        " FROM information_schema.columns WHERE (table_schema, table_name) = (%s, %s)",
        [table_schema, table_name],
    )
    return pg_cur.fetchone()[0]
"""
CONFIGURATION = """
parameters:
  - name: srid
    type: integer
    default: 2056
migration_hooks:
  pre:
    - code: DROP VIEW IF EXISTS pum_test_app.some_view;
  post:
    - file: post/create_view.py
    - file: post/transformed.py
"""


def with_examples(project: Project, base: str = "pgclone_admin.hooks") -> Project:
    """The project with the hooks of the guide, whose class inherits from that of ``base``."""
    project.run(TABLE)
    (project.folder / ".pum.yaml").write_text(CONFIGURATION)
    folder = project.folder / "post"
    folder.mkdir()
    plain, with_parameter = (code.replace("pgclone_admin.hooks", base) for code in HOOKS)
    (folder / "create_view.py").write_text(plain)
    (folder / "transformed.py").write_text(with_parameter.replace("some_view", "transformed"))
    project.settings["PGCLONE_PRE_SWAP_HOOKS"] = ["migrate", {"pum": ".pum.yaml"}]
    return project


@pytest.fixture
def project(make_quick: Callable[..., Project]) -> Project:
    project = with_examples(make_quick())
    (project.folder / "post" / "pirogue").mkdir()
    (project.folder / "post" / "pirogue" / "utils.py").write_text(COLUMNS)
    return project


def test_the_examples_run_around_migrate_as_a_pum_configuration(project: Project) -> None:
    key = project.pgclone("dump").ok().lines[0]

    said = project.pgclone("restore", key).ok().stderr

    ran = [line for line in said.splitlines() if line.startswith("running the hook")]
    assert [re.split(r"[ /]", line)[-1] for line in ran[1:]] == [
        "migrate",
        "create_view.py",
        "transformed.py",
    ]
    assert "DROP VIEW IF EXISTS" in ran[0]
    assert project.run("SELECT * FROM pum_test_app.some_view") == [(1, "point ", True)]
    assert project.run("SELECT * FROM pum_test_app.transformed LIMIT 1") == [("point 2056",)]


def test_a_parameter_of_the_example_is_given_on_the_command_line(project: Project) -> None:
    key = project.pgclone("dump").ok().lines[0]
    project.pgclone("restore", key, "--hook-param", "srid", "4326").ok()
    assert project.run("SELECT * FROM pum_test_app.transformed LIMIT 1") == [("point 4326",)]


# -- with the packages that they name --------------------------------------------------------------

(PIROGUE,) = re.findall(r'pip install "(pirogue[^"]*)"`, a package', PAGES["migrating.md"])


def check_restored(project: Project, env: dict[str, str]) -> None:
    key = project.pgclone("dump", env=env).ok().lines[0]
    project.run("UPDATE pum_test_data.some_table SET is_active = true")
    project.pgclone("restore", key, "--hook-param", "srid", "4326", env=env).ok()
    assert project.run("SELECT * FROM pum_test_app.some_view") == [(1, "point ", True)]
    assert project.run("SELECT * FROM pum_test_app.transformed LIMIT 1") == [("point 4326",)]


def test_the_examples_run_with_the_package_that_the_guide_installs(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    env = with_packages(tmp_path / "packages", PIROGUE)
    assert (tmp_path / "packages" / "pirogue" / "utils.py").exists()
    # The site goes on with the psycopg2 that it has.
    assert list((tmp_path / "packages").glob("psycopg*")) == []
    check_restored(with_examples(make_project()), env)


def test_hooks_that_inherit_from_the_class_of_pum_run_where_pum_is_installed(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    """It brings psycopg 3 along."""
    env = with_packages(tmp_path / "packages", PIROGUE, "pum==1.9.2")
    check_restored(with_examples(make_project(), base="pum"), env)
