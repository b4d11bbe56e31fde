"""Fixtures for more than one file."""

from __future__ import annotations

import contextlib
import functools
import io
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from django.core.management import ManagementUtility
from django.db import connections
from django.test import override_settings

from pgclone_admin.routing import configure
from tests.support.django_project import Completed, Project


@pytest.fixture
def install(django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Makes a mapping the DATABASES of this process until the test ends."""

    def close() -> None:
        for alias in list(connections.settings):
            with contextlib.suppress(AttributeError):
                getattr(connections._connections, alias).close()
                del connections[alias]

    def use(databases: Any) -> None:
        close()
        monkeypatch.setattr("django.conf.settings.DATABASES", databases)
        monkeypatch.setitem(
            connections.__dict__, "settings", connections.configure_settings(databases)
        )

    close()
    with django_db_blocker.unblock():
        yield use
        close()


PROJECT_APPS = (
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "tests.project.people",
    "pgclone_admin",
)
"""Those of ``tests.project``; the settings of this process have more."""


@pytest.fixture
def make_quick(make_project: Callable[..., Project], install: Callable) -> Callable[..., Project]:
    """As ``make_project``, but its commands run in this process, which takes a third of the time.

    What a command leaves behind in a process is there for the next one: not for tests of that.
    """

    def make(*arguments: Any, **options: Any) -> Project:
        project = make_project(*arguments, **options)
        project.manage = functools.partial(_run_here, project, install)  # type: ignore[method-assign]
        return project

    return make


def _run_here(
    project: Project,
    install: Callable,
    *args: str,
    settings: Mapping[str, Any] | None = None,
    database: Mapping[str, Any] | None = None,
) -> Completed:
    output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in "12")
    given = {
        "BASE_DIR": project.folder,
        "ROOT_URLCONF": "tests.project.urls",
        **project.settings,
        **(settings or {}),
    }
    apps = [*PROJECT_APPS, *project.apps]
    install(configure(dict(database or project.databases())))
    status: Any = 0
    started = time.monotonic()
    with (
        override_settings(**given),
        # After the others: django_q reads its settings when it is imported.
        override_settings(INSTALLED_APPS=apps),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            argv = ["manage.py", *args]
            ManagementUtility(argv).fetch_command(args[0]).run_from_argv(argv)
        except SystemExit as exit_:
            status = exit_.code or 0
        finally:
            connections.close_all()
    seconds = time.monotonic() - started
    told = (stream.buffer.getvalue() for stream in (output, errors))  # type: ignore[attr-defined]
    return Completed(["manage.py", *args], status, *told, seconds)
