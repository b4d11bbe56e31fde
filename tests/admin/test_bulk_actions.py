"""What is done with several dumps at once, and what is asked before they are deleted."""

from __future__ import annotations

import html
import re

import pytest
from django.urls import reverse

from pgclone_admin.admin import dump_bulk
from pgclone_admin.models import Dump, RestoreRun, Status
from tests.admin.test_dump_pages import address, stored

pytestmark = [pytest.mark.integration]

LIST = "admin:pgclone_admin_dump_changelist"


def act(client, action, dumps, **more):
    chosen = {"_selected_action": [dump.pk for dump in dumps], "action": action}
    answer = client.post(reverse(LIST), {**chosen, **more}, follow=True)
    return html.unescape(answer.content.decode())


def boxes(text):
    return [int(pk) for pk in re.findall(r'name="last_good" value="(\d+)"', text)]


def left():
    return set(Dump.objects.values_list("pk", flat=True))


def test_of_all_good_dumps_the_newest_is_left_unless_it_is_ticked(pages):
    client = pages.superuser()
    dumps = [stored(pages) for _ in range(3)]
    other = pages.dump(database="other")
    newest = dumps[-1]

    question = act(client, "delete_selected", dumps)
    assert boxes(question) == [newest.pk]
    assert "the last good dump of “here / default / none”" in question
    said = act(client, "delete_selected", dumps, post="yes")
    assert "2 dumps were deleted" in said
    assert "is the last good dump of its database and configuration" in said
    assert left() == {newest.pk, other.pk}

    act(client, "delete_selected", [newest], post="yes", last_good=[newest.pk])
    assert left() == {other.pk}


def test_nothing_is_asked_while_a_good_dump_is_left(pages):
    client = pages.superuser()
    older, newer = stored(pages), stored(pages)
    pages.dump(status=Status.MISSING)
    assert boxes(act(client, "delete_selected", [older])) == []
    Dump.objects.filter(pk=older.pk).update(is_pinned=True)
    question = act(client, "delete_selected", [older, newer])
    assert boxes(question) == []
    assert "It is the newest good dump" in question


def test_the_page_of_one_dump_asks_too(pages):
    client = pages.client("view_dump", "delete_dump")
    dump = stored(pages)
    question = client.get(address("delete", dump)).content.decode()
    assert boxes(question) == [dump.pk]
    assert 'form="pgclone-delete"' in question
    said = client.post(address("delete", dump), follow=True).content.decode()
    assert "It was not deleted." in said
    assert left() == {dump.pk}
    client.post(address("delete", dump), {"last_good": dump.pk})
    assert left() == set()


def test_too_many_at_a_time_are_refused_before_anything_is_asked(pages, monkeypatch):
    monkeypatch.setattr(dump_bulk, "MOST_SELECTED", 2)
    client = pages.superuser()
    dumps = [pages.dump() for _ in range(3)]
    for action in ("delete_selected", "verify_selected"):
        said = act(client, action, dumps[:1], select_across="1", index=0)
        assert "3 dumps are selected. Select at most 2 at a time. Nothing was done." in said
    assert len(left()) == 3
    assert not RestoreRun.objects.exists()


def test_as_many_as_can_be_selected_can_be_confirmed(pages):
    rows = [
        Dump(location=pages.location, instance="far", status=Status.FAILED, config=str(number))
        for number in range(dump_bulk.MOST_SELECTED)
    ]
    dumps = Dump.objects.bulk_create(rows)
    said = act(pages.superuser(), "delete_selected", dumps, post="yes")
    assert "200 dumps were deleted." in said


def test_what_cannot_be_verified_is_named(pages):
    good, missing = pages.dump(), pages.dump(status=Status.MISSING)
    failed = pages.dump(status=Status.FAILED, key="")
    said = act(pages.superuser(), "verify_selected", [good, missing, failed])
    assert "1 verification is queued." in said
    assert f"Not verified: {missing.key}: the dump {missing.pk} has no file" in said
    assert f"Not verified: dump of default: the dump {failed.pk} has no file" in said
    assert RestoreRun.objects.get().key == good.key
