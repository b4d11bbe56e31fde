"""A site with ``USE_THOUSAND_SEPARATOR``: what people read has commas, ids have none."""

from __future__ import annotations

import re

import pytest
from django.test import override_settings
from django.urls import reverse

from pgclone_admin.models import Dump, Status
from tests.admin.test_dump_pages import stored

pytestmark = [pytest.mark.integration]

LIST = "admin:pgclone_admin_dump_changelist"


@pytest.fixture
def separated(pages):
    for table, first in (("dump", 12345), ("restorerun", 67890)):
        name = f"pgclone_admin_{table}_id_seq"
        pages.site.run(f"ALTER SEQUENCE {name} RESTART WITH {first}")
    with override_settings(USE_THOUSAND_SEPARATOR=True):
        yield pages


def test_selected_dumps_are_deleted(separated):
    stored(separated)
    separated.dump()
    client = separated.superuser()

    chosen = {"_selected_action": [12345], "action": "delete_selected"}
    question = client.post(reverse(LIST), chosen).content.decode()
    given = re.findall(r'<input[^>]* name="([^"]+)" value="([^"]*)"', question)
    answer = client.post(reverse(LIST), {name: value for name, value in given if value})

    assert answer.status_code == 302
    assert not Dump.objects.filter(pk=12345).exists()


def test_a_number_that_stands_for_a_row_has_no_commas(separated):
    client = separated.superuser()
    dump = separated.made_dump()
    separated.run(key=dump.key, status=Status.QUEUED)
    for model, pk, pages in (
        ("dump", 12345, ["change", "restore", "delete"]),
        ("restorerun", 67890, ["change", "progress"]),
    ):
        for page in pages:
            text = client.get(reverse(f"admin:pgclone_admin_{model}_{page}", args=[pk])).content
            assert not {b"12,345", b"67,890"} & set(re.findall(rb"\d+,\d+", text)), page
    text = client.get(reverse("admin:pgclone_admin_dump_restore", args=[12345])).content
    assert b"Run #67890" in text
