"""The pages of a site that has been here for years: 10,000 dumps and 10,000 runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.files.storage import FileSystemStorage, storages
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from pgclone_admin.models import Dump, RestoreRun, RunEvent, Status
from tests.admin.conftest import Pages

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

MANY = 10_000
MOST_QUERIES = 20

asked: list[str] = []
"""What the storage was asked for."""


class CountingStorage(FileSystemStorage):
    def __getattribute__(self, name: str) -> object:
        if name in ("exists", "size", "listdir", "open", "save", "delete", "path"):
            asked.append(name)
        return super().__getattribute__(name)


@pytest.fixture
def _counted(pages: Pages) -> Iterator[None]:
    backend = {
        "BACKEND": f"{__name__}.{CountingStorage.__name__}",
        "OPTIONS": {"location": str(pages.storage_root)},
    }
    others = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    with override_settings(
        STORAGES={**others, "counted": backend},
        PGCLONE_STORAGE_LOCATION="storages:counted/dumps/",
    ):
        pages.location = "storages:counted/dumps/"
        asked.clear()
        yield


def addresses(dump: Dump, run: RestoreRun) -> list[str]:
    lists = [reverse(f"admin:pgclone_admin_{model}_changelist") for model in ("dump", "restorerun")]
    pages = [
        reverse(f"admin:pgclone_admin_{row._meta.model_name}_{page}", args=[row.pk])
        for row in (dump, run)
        for page in ("change", "progress", "history")
    ]
    return [
        reverse("admin:index"),
        reverse("admin:app_list", args=["pgclone_admin"]),
        *lists,
        *(f"{url}?p=3" for url in lists),
        *(f"{url}?q=default&status__exact=succeeded&_facets=True" for url in lists),
        *(f"{url}?o=2.1" for url in lists),
        *pages,
    ]


def queries(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == 200, url
    return len(captured)


def fill(pages: Pages) -> None:
    start = timezone.now() - timedelta(days=400)
    moments = [start + timedelta(minutes=number) for number in range(MANY)]
    statuses = [Status.SUCCEEDED, Status.FAILED, Status.LOST, Status.MISSING, Status.SUCCEEDED]
    Dump.objects.bulk_create(
        Dump(
            location=pages.location,
            key=f"here/default/c{number % 5}/2024-01-01-00-00-00-{number:06}.dump",
            instance="here",
            database="default",
            config=f"c{number % 5}",
            status=statuses[number % 5],
            taken_at=moment,
            requested_at=moment,
            requested_by=f"person {number % 7}",
            size=number,
            manifest={"key": "x", "migrations": [["people", "0001"]] * 20},
        )
        for number, moment in enumerate(moments)
    )
    RestoreRun.objects.bulk_create(
        RestoreRun(
            location=pages.location,
            key=f"here/default/c1/2024-01-01-00-00-00-{number:06}.dump",
            database="default",
            target=pages.site.name,
            status=statuses[number % 3],
            requested_at=moment,
            requested_by=f"person {number % 7}",
            started_at=moment,
            finished_at=moment + timedelta(seconds=3),
        )
        for number, moment in enumerate(moments)
    )


@pytest.mark.usefixtures("_counted")
def test_lists_of_ten_thousand_take_as_many_queries_as_of_one_and_ask_no_storage(
    pages: Pages,
) -> None:
    boss = pages.superuser()
    dump, run = pages.dump(location=pages.location), pages.run(location=pages.location)
    for text in ("checking", "dumping"):
        RunEvent.objects.create(dump=dump, level=RunEvent.Level.PHASE, text=text)
    urls = addresses(dump, run)
    for url in urls:
        boss.get(url)  # content types are looked up once for each process
    with_few = {url: queries(boss, url) for url in urls if "p=3" not in url}

    fill(pages)

    with_many = {url: queries(boss, url) for url in urls}
    assert {url: with_many[url] for url in with_few} == with_few
    assert max(with_many.values()) < MOST_QUERIES
    assert asked == []
    # The storage would have noticed.
    boss.post(reverse("admin:pgclone_admin_dump_refresh"))
    assert asked
    assert isinstance(storages["counted"], CountingStorage)
    assert not list(Path(pages.storage_root).rglob("*.dump"))
