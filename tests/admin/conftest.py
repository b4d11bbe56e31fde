"""A site with an admin, people of every kind, and a browser without JavaScript for each of them.

``pages``   the site: ``pages.client("view_dump", "create_dump")`` is logged in as a member of staff
            with these permissions, ``pages.superuser()`` as who may do everything, and
            ``pages.client()`` as staff who may do nothing; ``pages.dump(...)`` and
            ``pages.run(...)`` make rows, ``pages.made_dump()`` a real dump; ``pages.state()`` is
            all that a request can change; ``pages.site`` is the database, ``pages.storage_root``
            the folder of its dumps
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings
from django_q.models import OrmQ

from pgclone_admin.models import Configuration, Dump, RestoreRun, RunEvent, Status
from pgclone_admin.runner import run_dump
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.requests import request_dump
from tests.support.django_project import Manage
from tests.support.postgres import PostgresServer, ServerPool
from tests.support.sites import Site, template

APPS = [
    "django.contrib.admin",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django_q",
]

TAKEN = datetime(2026, 3, 1, 4, 5, 6, tzinfo=UTC)


class Pages:
    def __init__(self, site: Site, storage_root: Path) -> None:
        self.site = site
        self.storage_root = storage_root
        self.location = f"{storage_root}/"
        self._numbers = itertools.count(1)

    def user(self, *permissions: str, **fields: Any) -> User:
        user = User.objects.create_user(
            f"staff {next(self._numbers)}", **{"is_staff": True, **fields}
        )
        found = Permission.objects.filter(
            content_type__app_label="pgclone_admin", codename__in=permissions
        )
        assert {permission.codename for permission in found} == set(permissions)
        user.user_permissions.set(found)
        return user

    def client(self, *permissions: str, **fields: Any) -> Client:
        """A browser in which a new member of staff is logged in; ``client.user`` is who."""
        return self.client_of(self.user(*permissions, **fields))

    def superuser(self) -> Client:
        return self.client(is_superuser=True)

    def client_of(self, user: User) -> Client:
        client = Client()
        client.force_login(user)
        client.user = user
        return client

    def dump(self, **fields: Any) -> Dump:
        """A row of a good dump; there is no file for it."""
        number = next(self._numbers)
        taken = TAKEN + timedelta(minutes=number)
        return Dump.objects.create(
            **{
                "status": Status.SUCCEEDED,
                "location": self.location,
                "key": f"here/default/none/2026-03-01-04-05-06-{number:06}.dump",
                "instance": "here",
                "database": "default",
                "config": "none",
                "taken_at": taken,
                "requested_at": taken,
                "requested_by": "ada",
                "size": 1234567,
                **fields,
            }
        )

    def made_dump(self) -> Dump:
        """A dump that was really made, of the site itself."""
        dump = request_dump(Actor.system("a test"), {})
        assert run_dump(dump) == Status.SUCCEEDED
        dump.refresh_from_db()
        return dump

    def state(self) -> dict[str, Any]:
        """Everything that a request could have changed: rows, queue, history, files."""
        models = (Dump, RestoreRun, RunEvent, Configuration, OrmQ, LogEntry)
        rows = {model.__name__: list(model.objects.order_by("pk").values()) for model in models}
        files = sorted(path for path in self.storage_root.rglob("*") if path.is_file())
        return {**rows, "files": files}

    def run(self, **fields: Any) -> RestoreRun:
        return RestoreRun.objects.create(
            **{
                "status": Status.SUCCEEDED,
                "key": "here/default/none/2026-03-01-04-05-06-000001.dump",
                "location": self.location,
                "database": "default",
                "target": self.site.name,
                "requested_by": "ada",
                **fields,
            }
        )


@pytest.fixture
def admin_database(servers: ServerPool, manage: Manage) -> Callable[..., Site]:
    """A migrated database with all tables of an admin."""

    def make(server: PostgresServer | None = None) -> Site:
        server = server or servers.default()

        def fill(name: str) -> None:
            manage(
                "migrate",
                "--verbosity=0",
                "--skip-checks",
                database=server.dsn_dict(name, "app"),
                apps=APPS,
                settings={"Q_CLUSTER": {"name": "tests", "timeout": 40, "retry": 60}},
            ).ok()

        name = server.fresh_name("admin")
        server.create_database(name, template=template(server, "admin_pages", fill))
        return Site(server, name)

    return make


@pytest.fixture
def pages(
    admin_database: Callable[..., Site],
    use_database: Callable[..., None],
    storage_root: Path,
) -> Iterator[Pages]:
    site = admin_database()
    use_database(site)
    with override_settings(
        PGCLONE_STORAGE_LOCATION=f"{storage_root}/",
        PGCLONE_INSTANCE="here",
        PGCLONE_BIN_DIR=str(site.server.bin_dir),
    ):
        yield Pages(site, storage_root)
