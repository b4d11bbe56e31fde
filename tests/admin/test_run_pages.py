"""The pages of restore runs: who may do what, what they show while a run works and after it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from pgclone_admin.admin.progress import LOG_LINES, LOG_TEXT
from pgclone_admin.core.marks import Mark
from pgclone_admin.models import Kind, RestoreRun, RunEvent, Status

pytestmark = pytest.mark.integration

EVIL = "<script>alert('x')</script>"

# The name of a page, the permission it takes, and the status of GET and of POST for who has it.
PAGES = {
    "changelist": ("view_restorerun", 200, 200),
    "change": ("view_restorerun", 200, 405),
    "history": ("view_restorerun", 200, 200),
    "progress": ("view_restorerun", 200, 405),
    "cancel": ("cancel_run", 405, 302),
}

ALL = {
    "view_dump",
    "view_restorerun",
    "create_dump",
    "delete_dump",
    "download_dump",
    "restore_database",
    "copy_database",
    "cancel_run",
}


def address(page, run=None):
    return reverse(
        f"admin:pgclone_admin_restorerun_{page}",
        args=() if page == "changelist" else (run.pk,),
    )


def shown(client, run):
    answer = client.get(address("change", run))
    assert answer.status_code == 200
    return answer.content.decode()


def say(run, text, level=RunEvent.Level.NOTE, **fields):
    return RunEvent.objects.create(run=run, level=level, text=text, **fields)


def running(pages, **fields):
    now = timezone.now()
    return pages.run(
        **{
            "status": Status.RUNNING,
            "started_at": now - timedelta(seconds=60),
            "heard_at": now,
            "phase": "restoring",
            **fields,
        }
    )


# -- who may do what ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_page_asks_for_its_permission_and_no_get_changes_anything(pages, page):
    permission, get, post = PAGES[page]
    run = pages.run(status=Status.QUEUED)
    one, everyone, nobody = pages.client(permission), pages.superuser(), pages.client()
    all_but_one = pages.client(*(ALL - {permission}))
    before = pages.state()

    for method, status in (("get", get), ("post", post)):
        answer = getattr(Client(), method)(address(page, run))
        assert answer.status_code == 302
        assert answer["Location"].startswith("/admin/login/")
        for client in (nobody, all_but_one):
            refused = 405 if status == 405 else 403
            assert getattr(client, method)(address(page, run)).status_code == refused
    for client in (one, everyone):
        assert client.get(address(page, run)).status_code == get
    assert pages.state() == before

    assert one.post(address(page, run)).status_code == post
    assert (pages.state() != before) is (page == "cancel")
    assert everyone.post(address(page, run)).status_code == post


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("page", ["add/", "{}/delete/"])
def test_runs_are_not_added_or_deleted_by_anybody(pages, page, method):
    run = pages.run()
    before = pages.state()
    url = "/admin/pgclone_admin/restorerun/" + page.format(run.pk)
    assert getattr(pages.superuser(), method)(url).status_code == 403
    assert pages.state() == before


def test_a_run_is_cancelled_by_who_asked_for_it_or_has_the_permission(pages):
    asker = pages.client("view_restorerun")
    other = pages.client("view_restorerun")
    boss = pages.client("view_restorerun", "cancel_run")
    first, second = (
        pages.run(status=Status.QUEUED, target=name, requested_by=asker.user.username)
        for name in ("a", "b")
    )
    assert address("cancel", first) in shown(asker, first)
    assert address("cancel", first) not in shown(other, first)
    assert other.post(address("cancel", first)).status_code == 403

    asker.post(address("cancel", first))
    boss.post(address("cancel", second))

    for run, client in ((first, asker), (second, boss)):
        run.refresh_from_db()
        assert run.status == Status.CANCELLED
        assert run.events.get().person == client.user.username


def test_a_run_that_swaps_cannot_be_cancelled_any_more(pages):
    run = running(pages, phase="swapping")
    answer = pages.superuser().post(address("cancel", run), follow=True)
    assert "It is too late to cancel this run" in answer.content.decode()
    run.refresh_from_db()
    assert not run.cancel_requested


def test_a_run_that_works_says_that_it_is_being_cancelled(pages):
    client = pages.superuser()
    run = running(pages)
    client.post(address("cancel", run))
    page = shown(client, run)
    assert "cancelling…" in page
    assert address("cancel", run) not in page


def test_selected_runs_are_cancelled_where_it_is_allowed(pages):
    client = pages.client("view_restorerun")
    own = pages.run(status=Status.QUEUED, target="a", requested_by=client.user.username)
    other = pages.run(status=Status.QUEUED, target="b")
    answer = client.post(
        address("changelist"),
        {"_selected_action": [own.pk, other.pk], "action": "cancel_selected", "index": 0},
        follow=True,
    )
    assert [run.status for run in RestoreRun.objects.order_by("pk")] == ["cancelled", "queued"]
    assert "1 run is cancelled" in answer.content.decode()
    assert f"#{other.pk}: You do not have the permission" in answer.content.decode()


# -- the list -------------------------------------------------------------------------------------


def queries(client, url):
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == 200
    return len(captured)


def test_the_list_takes_as_many_queries_for_200_rows_as_for_one(pages):
    client = pages.superuser()
    pages.run()
    client.get(address("changelist"))
    with_one = queries(client, address("changelist"))
    RestoreRun.objects.bulk_create(
        RestoreRun(status=Status.FAILED, target=f"t{n}", key=f"k{n}") for n in range(200)
    )
    assert queries(client, address("changelist")) == with_one
    assert with_one < 20


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status__exact=lost", {"b"}),
        ("kind__exact=drill", {"a"}),
        ("target=shop", {"a"}),
        ("q=shop", {"a"}),
    ],
)
def test_the_list_is_filtered_and_searched(pages, query, found):
    pages.run(requested_by="a", kind=Kind.DRILL, target="shop")
    pages.run(requested_by="b", status=Status.LOST)
    answer = pages.client("view_restorerun").get(f"{address('changelist')}?{query}")
    assert {run.requested_by for run in answer.context["cl"].result_list} == found


# -- one run, at work -----------------------------------------------------------------------------


def test_a_page_shows_steps_bytes_rate_and_a_bar(pages):
    run = running(pages, bytes_done=30 * 1024**2, bytes_total=120 * 1024**2)
    now = run.heard_at
    say(run, "checking", RunEvent.Level.PHASE, at=now - timedelta(seconds=20))
    say(run, "restoring", RunEvent.Level.PHASE, at=now - timedelta(seconds=10))

    page = shown(pages.client("view_restorerun"), run)

    assert 'role="progressbar"' in page
    assert 'aria-valuenow="25"' in page
    assert "30.0\xa0MB of 120.0\xa0MB, 3.0\xa0MB per second" in page
    assert 'aria-live="polite" data-announcement>running: restoring<' in page
    assert '<span class="pgclone-step">checking</span><span class="quiet">done</span>' in page
    assert '<span class="pgclone-time">10 s</span>' in page
    assert '<span class="pgclone-step">restoring</span><span class="quiet">running</span>' in page
    assert " data-active" in page
    assert "<noscript>" in page


def test_there_is_no_bar_without_a_total_and_no_polling_after_the_end(pages):
    client = pages.client("view_restorerun")
    assert "progressbar" not in shown(client, running(pages, bytes_done=5))
    done = shown(client, pages.run(bytes_done=5, bytes_total=5))
    assert "progressbar" not in done
    assert " data-active" not in done
    assert "<noscript>" not in done


def test_a_run_whose_worker_is_silent_says_so(pages):
    client = pages.client("view_restorerun")
    silent = running(pages, heard_at=timezone.now() - timedelta(minutes=5))
    assert "Nothing was heard of its worker for 5 min" in shown(client, silent)
    assert "Nothing was heard" not in shown(client, running(pages, target="b"))


def test_the_output_of_each_hook_stands_under_its_name_and_not_in_the_log(pages):
    run = running(pages, phase="hooks")
    for text in ("running the hook migrate", "  Applying one", "    ... OK"):
        say(run, text)
    for text in ("running the hook tidy", "running the hook last", "  said by the last"):
        say(run, text)
    say(run, "something else")

    progress = pages.client("view_restorerun").get(address("change", run)).context["progress"]

    assert [(hook.name, hook.lines) for hook in progress.hooks] == [
        ("migrate", ["Applying one", "  ... OK"]),
        ("tidy", []),
        ("last", ["said by the last"]),
    ]
    assert [line.text for line in progress.log] == [
        "running the hook migrate",
        "running the hook tidy",
        "running the hook last",
        "something else",
    ]


def test_what_is_shown_of_a_log_is_bounded(pages):
    run = running(pages)
    at = timezone.now()
    RunEvent.objects.bulk_create(
        RunEvent(run=run, text=f"line {n} " + "x" * 5000, at=at + timedelta(milliseconds=n))
        for n in range(LOG_LINES + 50)
    )
    client = pages.client("view_restorerun")
    progress = client.get(address("change", run)).context["progress"]
    assert len(progress.log) == LOG_LINES
    assert progress.is_cut
    assert progress.log[-1].text.startswith(f"line {LOG_LINES + 49} ")
    assert max(len(line.text) for line in progress.log) <= LOG_TEXT + 2
    assert "Only the last lines are shown" in shown(client, run)


def test_a_page_takes_as_many_queries_for_a_long_log_as_for_a_short_one(pages):
    client = pages.superuser()
    run = running(pages)
    say(run, "restoring", RunEvent.Level.PHASE)
    client.get(address("change", run))
    counts = {page: queries(client, address(page, run)) for page in ("change", "progress")}
    RunEvent.objects.bulk_create(RunEvent(run=run, text=str(n)) for n in range(600))
    assert counts == {page: queries(client, address(page, run)) for page in counts}
    # Session, user, row, and the two of the log.
    assert counts["progress"] <= 5


def test_how_far_a_run_is_is_json_that_nobody_keeps(pages):
    client = pages.client("view_restorerun")
    run = running(pages, bytes_done=1, bytes_total=4)
    say(run, "restoring", RunEvent.Level.PHASE)
    answer = client.get(address("progress", run))
    assert answer["Content-Type"] == "application/json"
    assert "no-store" in answer["Cache-Control"]
    told = answer.json()
    assert (told["status"], told["active"], told["phase"]) == ("running", True, "restoring")
    assert (told["bytes_done"], told["bytes_total"]) == (1, 4)
    assert told["announcement"] == "running: restoring"
    assert set(told["parts"]) == {"state", "steps", "hooks", "log"}
    assert 'aria-valuenow="25"' in told["parts"]["state"]

    run.move(Status.SUCCEEDED, finished_at=timezone.now())
    told = client.get(address("progress", run)).json()
    assert (told["status"], told["active"], told["announcement"]) == (
        "succeeded",
        False,
        "succeeded",
    )


def test_a_run_that_there_is_not_is_not_found(pages):
    client = pages.superuser()
    for url in ("999/change/", "999/progress/", "x/change/", "x/progress/"):
        answer = client.get(f"/admin/pgclone_admin/restorerun/{url}")
        assert answer.status_code == 404


# -- one run, at its end --------------------------------------------------------------------------


def test_a_run_that_failed_says_why_at_the_top(pages):
    run = pages.run(
        status=Status.FAILED,
        error='the hook "migrate" failed: no such column\nfirst line of it',
        error_code="hook_failed",
        hint="Correct the hook.",
    )
    say(run, "hooks", RunEvent.Level.PHASE)
    page = shown(pages.client("view_restorerun"), run)
    top = page.index("The hook &quot;migrate&quot; failed: no such column</strong>")
    assert top < page.index("Correct the hook.") < page.index("hook_failed") < page.index("Steps")
    assert "first line of it" in page
    assert '<span class="quiet">failed</span>' in page


def test_a_restore_that_is_done_tells_what_came_of_it(pages):
    run = pages.run(
        result={
            "database": "shop",
            "swap": {"seconds": 0.1623, "kept_seconds": 0.05, "attempts": 2},
            "left_out": ["PUBLICATION everything"],
            "skipped_grants": [],
            "unchecked_foreign_keys": ["a", "b", "c", "d"],
            "tolerated": [],
        },
        options={"arguments": {"pre_swap_hooks": ["migrate", "tidy"], "reversible": True}},
    )
    page = shown(pages.client("view_restorerun"), run)
    for text in ("0.16 s", "0.05 s", "2 attempts", "PUBLICATION everything", "4 entries"):
        assert text in page
    assert "migrate, tidy" in page
    assert "Grants to roles" not in page


def test_the_page_leads_to_what_was_live_before_and_to_nothing_else(pages):
    server = pages.site.server
    name = f"{pages.site.name}__pre"
    server.create_database(name)
    mark = Mark.new(name=name, kind="pre", of=pages.site.name)
    pages.site.run(f"COMMENT ON DATABASE \"{name}\" IS '{mark.comment()}'")
    was_live = server.oid(name)
    client = pages.client("view_restorerun", "restore_database")
    run = pages.run(live_oid=was_live)
    url = reverse("admin:pgclone_admin_localdatabase_restore", args=(was_live,))

    assert url in shown(client, run)
    assert "Undo with :pre" in shown(client, run)

    for other in (
        pages.run(live_oid=was_live + 1),
        pages.run(live_oid=was_live, kind=Kind.DRILL),
        pages.run(live_oid=was_live, status=Status.FAILED),
    ):
        assert "Undo with" not in shown(client, other)
    assert "Undo with" not in shown(pages.client("view_restorerun"), run)


def test_text_from_elsewhere_is_escaped(pages):
    run = running(
        pages,
        key=EVIL,
        target=EVIL,
        database=EVIL,
        requested_by=EVIL,
        worker=EVIL,
        phase=EVIL,
        error=f"{EVIL}\n{EVIL}",
        hint=EVIL,
        error_code=EVIL,
        bytes_total=5,
        result={"database": EVIL, "left_out": [EVIL], "tolerated": [EVIL] * 9},
        options={
            "arguments": {"pre_swap_hooks": [EVIL], "config": EVIL},
            "variant": {"beside": EVIL},
        },
    )
    for level in RunEvent.Level:
        say(run, EVIL, level, person=EVIL)
    say(run, f"running the hook {EVIL}")
    say(run, f"  {EVIL}")
    client = pages.superuser()
    for page in ("changelist", "change", "history"):
        text = client.get(address(page, run)).content.decode()
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text
    parts = client.get(address("progress", run)).json()["parts"]
    for part in parts.values():
        assert "<script>" not in part
        assert "&lt;script&gt;" in part
    answer = client.post(address("cancel", run), follow=True)
    assert "<script>alert" not in answer.content.decode()
