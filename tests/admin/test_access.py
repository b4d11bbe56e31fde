"""Who may do what (F56): every address and every action, with every kind of person and method.

The table is compared with the addresses that the admin really has, so a new one without a line in
it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.test import Client, RequestFactory
from django.urls import resolve, reverse
from django.utils import timezone

from pgclone_admin.core.marks import Mark
from pgclone_admin.models import Configuration, Dump, Kind, RestoreRun, Status
from pgclone_admin.queue import NOT_QUEUED
from pgclone_admin.services import lost
from pgclone_admin.services.local_databases import local_databases
from tests import screenshots
from tests.admin.conftest import Pages

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

APP = "pgclone_admin"

NOBODY = ("nobody",)
"""Not even a superuser."""

Row = Callable[[Pages], Any]


# -- what the pages are about ---------------------------------------------------------------------


def good_dump(pages: Pages) -> Any:
    pages.dump()  # so that it is not the last one
    dump = pages.dump()
    file = pages.storage_root / dump.key
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"PGDMP and more")
    return dump


def queued_dump(pages: Pages) -> Any:
    config = f"c{Dump.objects.count()}"  # only one that is the same is queued
    fields = {"status": Status.QUEUED, "key": "", "taken_at": None, "error_code": NOT_QUEUED}
    return pages.dump(config=config, **fields)


def silent_dump(pages: Pages) -> Any:
    return pages.dump(status=Status.RUNNING, key="", taken_at=None, **long_ago())


def queued_run(pages: Pages) -> Any:
    return pages.run(status=Status.QUEUED, kind=Kind.DRILL, error_code=NOT_QUEUED)


def silent_run(pages: Pages) -> Any:
    return pages.run(status=Status.RUNNING, kind=Kind.DRILL, **long_ago())


def long_ago() -> dict[str, Any]:
    moment = timezone.now() - timedelta(hours=1)
    return {"started_at": moment, "heard_at": moment, "worker": "far:1", "process": "far:1:1"}


def local(kind: str) -> Row:
    def make(pages: Pages) -> Any:
        name = f"{pages.site.name}__{kind}"
        server = pages.site.server
        if name not in server.databases():
            server.create_database(name)
            mark = Mark.new(name=name, kind=kind, of=pages.site.name)
            server.run(f'COMMENT ON DATABASE "{name}" IS %s', dbname=name, params=(mark.comment(),))
        return local_databases().get(name=name)

    return make


def configuration(pages: Pages) -> Any:
    return Configuration.objects.get_or_create(name="there")[0]


# -- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """Permissions of which one is needed, and the status of the answer for who has it."""

    may: Sequence[str]
    get: int
    post: int
    row: Row | None = None
    data: dict[str, Any] = field(default_factory=dict)
    changes: bool | None = None
    """Whether the POST leaves something changed; ``None``: as the form is empty, it does not."""
    may_post: Sequence[str] | None = None
    """Where it is another one."""


VIEW_DUMP, VIEW_RUN = ("view_dump",), ("view_restorerun",)
DUMP, DOWNLOAD, DELETE = ("create_dump",), ("download_dump",), ("delete_dump",)
RESTORE, COPY, CANCEL = ("restore_database",), ("copy_database",), ("cancel_run",)
LOCAL = ("view_localdatabase", "restore_database", "copy_database")
SEE_CONFIGURATIONS = ("view_configuration", "change_configuration")
NAMED = {"name": "mine", "reversible": "unknown"}

PAGES: dict[str, Page] = {
    "dump changelist": Page(VIEW_DUMP, 200, 200),
    "dump add": Page(NOBODY, 403, 403),
    "dump change": Page(VIEW_DUMP, 200, 405, good_dump),
    "dump history": Page(VIEW_DUMP, 200, 200, good_dump),
    "dump progress": Page(VIEW_DUMP, 200, 405, silent_dump),
    "dump log": Page(VIEW_DUMP, 200, 405, silent_dump),
    "dump create": Page(DUMP, 200, 302, changes=True),
    "dump import": Page(DUMP, 200, 200),
    "dump refresh": Page((*DUMP, *RESTORE), 405, 302),
    "dump verify": Page(DUMP, 405, 302, good_dump, changes=True),
    "dump drill": Page(RESTORE, 405, 302, good_dump, changes=True),
    "dump restore": Page(RESTORE, 200, 200, good_dump),
    "dump pin": Page(DELETE, 405, 302, good_dump, {"pinned": "1"}, changes=True),
    "dump delete": Page(DELETE, 200, 302, good_dump, changes=True),
    "dump download": Page(DOWNLOAD, 405, 200, good_dump, {"form": "stored"}, changes=True),
    "dump cancel": Page(CANCEL, 405, 302, queued_dump, changes=True),
    "dump requeue": Page(DUMP, 405, 302, queued_dump, changes=True),
    "dump give_up": Page(CANCEL, 405, 302, silent_dump, changes=True),
    "restorerun changelist": Page(VIEW_RUN, 200, 200),
    "restorerun add": Page(NOBODY, 403, 403),
    "restorerun change": Page(VIEW_RUN, 200, 405, queued_run),
    "restorerun history": Page(VIEW_RUN, 200, 200, queued_run),
    "restorerun progress": Page(VIEW_RUN, 200, 405, silent_run),
    "restorerun log": Page(VIEW_RUN, 200, 405, silent_run),
    "restorerun delete": Page(NOBODY, 403, 403, queued_run),
    "restorerun cancel": Page(CANCEL, 405, 302, queued_run, changes=True),
    "restorerun requeue": Page(RESTORE, 405, 302, queued_run, changes=True),
    "restorerun give_up": Page(CANCEL, 405, 302, silent_run, changes=True),
    "restorerun clean_up": Page(CANCEL, 405, 302, silent_run, changes=True),
    "localdatabase changelist": Page(LOCAL, 200, 200),
    "localdatabase add": Page(NOBODY, 403, 403),
    "localdatabase change": Page(LOCAL, 200, 405, local("pre")),
    "localdatabase history": Page(NOBODY, 403, 403, local("pre")),
    "localdatabase delete": Page(NOBODY, 403, 403, local("pre")),
    "localdatabase restore": Page(RESTORE, 200, 200, local("pre")),
    "localdatabase swap": Page(RESTORE, 200, 200, local("held")),
    "localdatabase drop": Page(COPY, 200, 302, local("pre"), changes=True),
    "localdatabase copy": Page(COPY, 200, 200),
    "runevent changelist": Page(("view_runevent",), 200, 200),
    "configuration changelist": Page(SEE_CONFIGURATIONS, 200, 200),
    "configuration add": Page(("add_configuration",), 200, 302, data=NAMED, changes=True),
    "configuration change": Page(
        SEE_CONFIGURATIONS,
        200,
        302,
        configuration,
        NAMED,
        changes=True,
        may_post=("change_configuration",),
    ),
    "configuration to_restore": Page(RESTORE, 302, 405),
    "configuration history": Page(SEE_CONFIGURATIONS, 200, 200, configuration),
    "configuration delete": Page(
        ("delete_configuration",), 200, 302, configuration, {"post": "yes"}, changes=True
    ),
}

WITHOUT_ROW = {"changelist", "add", "create", "import", "refresh", "copy", "clean_up", "to_restore"}

ACTIONS: dict[str, tuple[Sequence[str], Row]] = {
    "dump verify_selected": (DUMP, good_dump),
    "dump cancel_selected": (CANCEL, queued_dump),
    "dump delete_selected": (DELETE, good_dump),
    "restorerun cancel_selected": (CANCEL, queued_run),
    "configuration delete_selected": (("delete_configuration",), configuration),
}


def all_permissions() -> set[str]:
    found = Permission.objects.filter(content_type__app_label=APP)
    return set(found.values_list("codename", flat=True))


def address(name: str, row: Any) -> str:
    model, page = name.split()
    return reverse(f"admin:{APP}_{model}_{page}", args=() if page in WITHOUT_ROW else (row.pk,))


def answer(client: Client, method: str, name: str, row: Any) -> Any:
    given = PAGES[name].data if method == "post" else {}
    answered = getattr(client, method)(address(name, row), given)
    if answered.streaming:
        answered.close()
    return answered


@pytest.fixture(autouse=True)
def _no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "SECOND_LOOK", 0.0)


# -- the tests ------------------------------------------------------------------------------------


def registered() -> dict[str, admin.ModelAdmin[Any]]:
    found = admin.site._registry.items()
    return {model._meta.model_name or "": a for model, a in found if model._meta.app_label == APP}


def test_f56_every_address_of_the_admin_stands_in_the_table() -> None:
    found = set()
    for model, model_admin in registered().items():
        for pattern in model_admin.get_urls():
            if pattern.name is not None:
                found.add(f"{model} {pattern.name.removeprefix(f'{APP}_{model}_')}")
            else:
                # Django's own: it leads on to the page of the row, and shows nothing.
                assert str(pattern.pattern) == "<path:object_id>/"
    assert found == set(PAGES)


def test_f56_every_action_stands_in_the_table(pages: Pages) -> None:
    request = RequestFactory().get("/")
    request.user = pages.superuser().user  # type: ignore[attr-defined]
    found = {
        f"{model} {action}"
        for model, model_admin in registered().items()
        for action in model_admin.get_actions(request)
    }
    assert found == set(ACTIONS)


def test_every_page_that_can_be_looked_at_is_pictured() -> None:
    rows = {"dump": 1, "failed_dump": 2, "runs": [3], "configuration": 4}
    local_databases = {"pre": 5, "held": 6}
    taken = screenshots.pages(f"/admin/{APP}/", {**rows, "local": local_databases})
    pictured = {resolve(path).url_name for _name, path in taken}
    for_programs = {"progress", "log"}
    expected = {
        f"{APP}_{name.replace(' ', '_')}"
        for name, page in PAGES.items()
        if page.get == 200 and name.split()[1] not in for_programs
    }
    assert pictured == {"app_list", *expected}


@pytest.mark.parametrize("name", PAGES)
def test_f56_every_page_asks_for_its_permission_and_no_get_changes_anything(
    pages: Pages, name: str
) -> None:
    page = PAGES[name]
    row = page.row(pages) if page.row else None
    needed = {"get": page.may, "post": page.may_post or page.may}
    statuses = {"get": page.get, "post": page.post}
    everything = all_permissions()
    nobody, everyone = pages.client(), pages.superuser()
    of_another_site = Client(enforce_csrf_checks=True)
    of_another_site.force_login(everyone.user)
    before = pages.state()

    for method, status in statuses.items():
        sent_away = answer(Client(), method, name, row)
        assert sent_away.status_code == 302
        assert sent_away["Location"].startswith("/admin/login/")
        refused = 405 if status == 405 else 403
        all_but_this = pages.client(*(everything - set(needed[method])))
        for client in (nobody, all_but_this):
            assert answer(client, method, name, row).status_code == refused
    assert answer(of_another_site, "post", name, row).status_code == 403
    for one in () if page.may == NOBODY else page.may:
        assert answer(pages.client(one), "get", name, row).status_code == page.get
    assert answer(everyone, "get", name, row).status_code == page.get
    assert pages.state() == before

    for one in () if page.may == NOBODY else needed["post"]:
        before = pages.state()
        assert answer(pages.client(one), "post", name, row).status_code == page.post
        assert (pages.state() != before) is bool(page.changes)
        row = page.row(pages) if page.row else None
    if page.changes:
        RestoreRun.objects.filter(kind=Kind.DROP).delete()
        Configuration.objects.filter(name="mine").delete()
        row = page.row(pages) if page.row else None
    assert answer(everyone, "post", name, row).status_code == page.post


@pytest.mark.parametrize("name", ACTIONS)
def test_f56_every_action_asks_for_its_permission(pages: Pages, name: str) -> None:
    needed, make = ACTIONS[name]
    model, action = name.split()
    row = make(pages)
    url = reverse(f"admin:{APP}_{model}_changelist")
    chosen = {"_selected_action": [row.pk], "action": action, "post": "yes"}
    view = f"view_{model}"
    everyone = pages.superuser()
    of_another_site = Client(enforce_csrf_checks=True)
    of_another_site.force_login(everyone.user)
    before = pages.state()

    assert "/login/" in Client().post(url, chosen)["Location"]
    assert pages.client().post(url, chosen).status_code == 403
    assert pages.client(*needed).post(url, chosen).status_code == 403
    assert of_another_site.post(url, chosen).status_code == 403
    others = all_permissions() - set(needed)
    assert pages.client(*others).post(url, chosen).status_code in (200, 302)
    for client in (pages.client(view, *needed), everyone):
        assert client.get(url, chosen).status_code in (200, 302)
    assert pages.state() == before

    for client in (pages.client(view, *needed), everyone):
        before = pages.state()
        assert client.post(url, chosen).status_code == 302
        assert pages.state() != before
        chosen["_selected_action"] = [make(pages).pk]


def test_f56_the_index_shows_itself_to_who_may_see_anything_of_it(pages: Pages) -> None:
    url = reverse("admin:app_list", args=[APP])
    for method in ("get", "post"):
        assert "/login/" in getattr(Client(), method)(url)["Location"]
        assert getattr(pages.client(), method)(url).status_code == 404
        for permission in ("view_dump", "view_configuration", "copy_database"):
            assert getattr(pages.client(permission), method)(url).status_code == 200
