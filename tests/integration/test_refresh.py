"""The list of dumps follows the storage, also where that holds more than a request can read."""

from __future__ import annotations

import dataclasses

import pytest

from pgclone_admin.core.errors import StorageError
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.models import Dump, RunEvent, Status
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services import dumps
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.refresh import AT_ONCE, refresh
from pgclone_admin.store import DumpStore

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

SYSTEM = Actor.system("a test")


def location(office):
    return f"{office.storage_root}/"


def stored(office, count):
    """Keys of dumps that others have stored, the newest first."""
    made = dumps.create_dump(resolve(Arguments(), verb="dump"), SilentReporter())
    first = office.storage_root / made.key
    keys = [made.key]
    for number in range(1, count):
        key = f"far/default/none/2020-01-01-00-00-00-{number:06}.dump"
        copy = office.storage_root / key
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(first.read_bytes())
        manifest = dataclasses.replace(made, key=key, instance="far", taken_by="ada")
        copy.with_name(f"{copy.name}.json").write_bytes(manifest.to_json())
        keys.append(key)
    return [keys[0], *sorted(keys[1:], reverse=True)]


def listed():
    """Keys of the dumps whose file is there, the newest first."""
    there = Dump.objects.filter(status=Status.SUCCEEDED)
    return list(there.order_by("-taken_at").values_list("key", flat=True))


def test_a_refresh_that_has_no_more_time_goes_on_the_next_time(office):
    keys = stored(office, 4)
    gone = Dump.objects.create(
        location=location(office), key="far/a/b/2020-01-01-00-00-00-000000.dump", status="succeeded"
    )
    for number in (1, 2, 3):
        found = refresh(SYSTEM, location(office), time_limit=0)
        assert (found.added, found.left) == (1, 4 - number)
        assert listed() == keys[:number]
    gone.refresh_from_db()
    assert gone.status == Status.MISSING
    found = refresh(SYSTEM, location(office))
    assert (found.added, found.left) == (1, 0)
    assert listed() == keys


def test_what_was_read_before_a_storage_fails_is_kept(office, monkeypatch):
    keys = stored(office, AT_ONCE + 5)
    read, asked = DumpStore.manifest, []

    def fails_at_last(store, key):
        asked.append(key)
        if len(asked) > AT_ONCE + 2:
            raise StorageError("the storage is gone")
        return read(store, key)

    with monkeypatch.context() as broken:
        broken.setattr(DumpStore, "manifest", fails_at_last)
        with pytest.raises(StorageError):
            refresh(SYSTEM, location(office))
    assert listed() == keys[:AT_ONCE]
    (written,) = RunEvent.objects.values_list("text", flat=True)
    assert f": {AT_ONCE} new, 0 missing" in written
    assert refresh(SYSTEM, location(office)).added == 5
    assert Dump.objects.filter(instance="far", requested_by="ada").count() == AT_ONCE + 4


def test_the_command_line_refreshes_every_location_of_the_settings(office, tmp_path):
    keys = stored(office, 2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.dump").write_bytes(b"PGDMP")
    (office.storage_root / keys[1]).unlink()
    (office.storage_root / f"{keys[1]}.json").unlink()
    Dump.objects.create(location=location(office), key=keys[1], status=Status.SUCCEEDED)
    office.settings["PGCLONE_CONFIGS"] = {"other": {"storage_location": f"{elsewhere}/"}}
    office.settings["PGCLONE_VALIDATE_DUMP_KEYS"] = False

    completed = office.pgclone("refresh").ok()

    assert completed.lines == [
        f"{location(office)}: 1 new, 1 missing, 0 there again",
        f"{elsewhere}/: 1 new, 0 missing, 0 there again",
    ]
    assert Dump.objects.get(key=keys[0]).status == Status.SUCCEEDED
    assert Dump.objects.get(key=keys[1]).status == Status.MISSING
    assert Dump.objects.get(key="b.dump").location == f"{elsewhere}/"
    again = office.pgclone("refresh", "--json", "-c", "other").ok()
    assert again.json() == [{"location": f"{elsewhere}/", "new": 0, "missing": 0, "there again": 0}]


def test_a_location_that_cannot_be_read_keeps_nobody_from_the_others(office):
    (key,) = stored(office, 1)
    office.settings["STORAGES"] = {}
    office.settings["PGCLONE_STORAGE_LOCATION"] = "storages:nowhere/"
    office.settings["PGCLONE_CONFIGS"] = {"good": {"storage_location": location(office)}}
    completed = office.pgclone("refresh").failed(1)
    assert completed.lines == [f"{location(office)}: 1 new, 0 missing, 0 there again"]
    assert "nowhere" in completed.stderr
    assert Dump.objects.get().key == key


def test_a_refresh_without_tables_says_what_to_do(office):
    stored(office, 1)
    office.run("DROP TABLE pgclone_admin_runevent, pgclone_admin_dump")
    completed = office.pgclone("refresh").failed(1)
    assert 'relation "pgclone_admin_dump" does not exist' in completed.stderr
    assert "hint: Its tables are made by: manage.py migrate" in completed.stderr
    locked_out = office.pgclone("refresh", database=office.databases(PASSWORD="wrong")).failed(1)
    assert "password authentication failed" in locked_out.stderr
    assert "manage.py migrate" not in locked_out.stderr
    assert "Traceback" not in completed.stderr
