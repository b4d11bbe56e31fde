"""What the keyboard and a screen reader need of the forms and lists."""

from __future__ import annotations

import re

import pytest
from django.urls import reverse

from tests.admin.test_local_pages import LIST, marked

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


def focused(response):
    return re.findall(
        r'<(?:input|select|textarea)[^>]* name="([^"]+)"[^>]* autofocus', text(response)
    )


def text(response):
    return response.content.decode()


def test_the_first_wrong_field_has_the_keyboard(pages):
    client = pages.superuser()
    dump = pages.made_dump()
    create = reverse("admin:pgclone_admin_dump_create")
    assert focused(client.get(create)) == []
    assert focused(client.post(create, {"database": "x", "config": "y"})) == ["database"]
    assert focused(client.post(create, {"config": "y", "instance": "z"})) == ["config"]
    imported = client.post(reverse("admin:pgclone_admin_dump_import"), {"database": "default"})
    assert focused(imported) == ["archive"]
    copied = client.post(
        reverse("admin:pgclone_admin_localdatabase_copy"), {"database": "default", "name": ""}
    )
    assert focused(copied) == ["name"]
    restore = reverse("admin:pgclone_admin_dump_restore", args=[dump.pk])
    chosen = {"looked": 1, "database": "default", "what": "beside"}
    assert focused(client.get(restore, chosen)) == ["beside"]


def test_the_accounts_are_a_group_with_a_name(pages):
    dump = pages.made_dump()
    shown = text(pages.superuser().get(reverse("admin:pgclone_admin_dump_restore", args=[dump.pk])))
    group = re.search(r'<fieldset class="pgclone-names">(.*?)</fieldset>', shown, re.DOTALL)
    assert '<legend class="visually-hidden">Accounts of staff to carry over</legend>' in group[1]
    assert 'name="accounts"' in group[1]


def test_every_column_of_local_databases_has_a_name(pages):
    marked(pages, "pre")
    shown = text(pages.superuser().get(reverse(LIST)))
    shown = shown[shown.index('id="result_list"') :]
    headers = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', shown, re.DOTALL)
    assert len(headers) == 6
    assert all(re.sub(r"<[^>]*>", "", header).strip() for header in headers)
