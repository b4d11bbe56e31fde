"""The pages of restore runs: who may do what, what they show while a run works and after it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ

from pgclone_admin.admin.progress import HOOK_LINES, LOG_LINES, LOG_TEXT
from pgclone_admin.core.marks import Mark
from pgclone_admin.models import Kind, RestoreRun, RunEvent, Status
from pgclone_admin.services import lost

pytestmark = pytest.mark.integration

EVIL = "<script>alert(1)</script>{{7|add:7}}"


def address(page, run=None):
    return reverse(
        f"admin:pgclone_admin_restorerun_{page}",
        args=() if run is None else (run.pk,),
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


def test_f49_a_run_is_cancelled_by_who_asked_for_it_or_has_the_permission(pages):
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


def test_f49_a_run_that_swaps_cannot_be_cancelled_any_more(pages):
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


def test_the_list_offers_only_what_a_run_can_be(pages):
    text = pages.client("view_restorerun").get(address("changelist")).content.decode()
    offered = set(re.findall(r"status__exact=(\w+)", text))
    assert offered == {"queued", "running", "succeeded", "failed", "cancelled", "lost"}


# -- runs that do not go on -----------------------------------------------------------------------


def silent(pages, **fields):
    """A run of a worker on another machine that was not heard of for an hour."""
    moment = timezone.now() - timedelta(hours=1)
    return running(
        pages,
        **{
            "kind": Kind.DRILL,
            "started_at": moment,
            "heard_at": moment,
            "worker": "far:1",
            "process": "far:1:1",
            **fields,
        },
    )


@pytest.fixture
def _no_second_look(monkeypatch):
    monkeypatch.setattr(lost, "SECOND_LOOK", 0.0)


@pytest.mark.usefixtures("_no_second_look")
def test_f43_a_silent_run_is_given_up_by_who_may_cancel_and_not_by_who_asked(pages):
    asker = pages.client("view_restorerun", "restore_database")
    boss = pages.client("view_restorerun", "cancel_run")
    run = silent(pages, requested_by=asker.user.username)
    url = address("give_up", run)
    assert url not in shown(asker, run)
    assert url in shown(boss, run)
    assert asker.get(address("progress", run)).json()["offer"] == "give_up"
    assert asker.post(url).status_code == 403

    page = boss.post(url, follow=True).content.decode()

    assert f"Given up the restore run {run.pk}: its worker, far:1, is gone" in page
    run.refresh_from_db()
    assert (run.status, run.error_code) == (Status.LOST, "lost")
    assert run.events.get(level=RunEvent.Level.AUDIT).person == boss.user.username
    assert url not in page


@pytest.mark.usefixtures("_no_second_look")
def test_f43_a_run_that_is_heard_of_is_not_given_up(pages):
    boss = pages.superuser()
    run = running(pages, kind=Kind.DRILL, worker="far:1", process="far:1:1")
    assert address("give_up", run) not in shown(boss, run)
    page = boss.post(address("give_up", run), follow=True).content.decode()
    assert "This run is not lost" in page
    run.refresh_from_db()
    assert run.status == Status.RUNNING
    assert not run.events.exists()


@pytest.mark.usefixtures("_no_second_look", "nothing_left_behind")
def test_a_button_gives_up_what_is_lost_and_cleans_up_what_was_left_behind(pages):
    boss = pages.client("view_restorerun", "cancel_run")
    listing = boss.get(address("changelist")).content.decode()
    assert address("clean_up") in listing
    assert address("clean_up") not in (
        pages.client("view_restorerun").get(address("changelist")).content.decode()
    )
    nothing = boss.post(address("clean_up"), follow=True).content.decode()
    assert "Nothing was left behind." in nothing

    runs = [silent(pages), silent(pages, target="other")]
    server, name = pages.site.server, f"{pages.site.name}__temp"
    server.create_database(name)
    mark = Mark.new(name=name, kind="temporary", of=pages.site.name)
    server.run(f'COMMENT ON DATABASE "{name}" IS %s', dbname=name, params=(mark.comment(),))

    page = boss.post(address("clean_up"), follow=True).content.decode()

    for run in runs:
        assert f"Given up the restore run {run.pk}" in page
    assert f"Dropped the temporary database &quot;{name}&quot;" in page
    assert name not in server.databases()
    assert set(RestoreRun.objects.values_list("status", flat=True)) == {Status.LOST}


@pytest.mark.usefixtures("nothing_left_behind")
def test_what_was_cleaned_up_beside_the_runs_is_written_down(pages):
    boss = pages.client("view_restorerun", "cancel_run")
    server, name = pages.site.server, f"{pages.site.name}__temp"
    server.create_database(name)
    mark = Mark.new(name=name, kind="temporary", of=pages.site.name)
    server.run(f'COMMENT ON DATABASE "{name}" IS %s', dbname=name, params=(mark.comment(),))
    boss.post(address("clean_up"))
    event = RunEvent.objects.get()
    assert (event.about, event.person) == (f'the temporary database "{name}"', boss.user.username)
    assert event.text.startswith("cleaned up: dropped: ")


def test_f47_what_no_queue_has_taken_is_queued_again_by_a_button(
    pages, monkeypatch, logged_warnings
):
    def refuse(*_args, **_options):
        raise ConnectionError("no broker at redis://:brokers-secret@host")

    asker = pages.client("view_restorerun", "create_dump")
    others = pages.client("view_restorerun", "cancel_run", "copy_database")
    run = pages.run(
        status=Status.QUEUED,
        kind=Kind.VERIFY,
        target="",
        requested_at=timezone.now(),
        requested_by=asker.user.username,
    )
    url = address("requeue", run)
    # It may be on its way still.
    assert url not in shown(asker, run)
    with monkeypatch.context() as broken:
        broken.setattr("django_q.tasks.async_task", refuse)
        page = asker.post(url, follow=True).content.decode()
    assert "The queue cannot be reached: ConnectionError" in page
    assert "brokers-secret" not in page
    assert logged_warnings
    assert url in page
    assert url not in shown(others, run)
    assert others.post(url).status_code == 403
    assert OrmQ.objects.count() == 0

    page = asker.post(url, follow=True).content.decode()

    assert "It is queued again." in page
    assert url not in page
    assert OrmQ.objects.get().task["args"] == (run.pk,)
    RestoreRun.objects.update(requested_at=timezone.now() - timedelta(minutes=1))
    assert url in shown(asker, run), "a task can be lost, too"


def test_cancelling_selected_runs_is_offered_to_who_could_cancel_one(pages):
    watcher, boss = pages.client("view_restorerun"), pages.client("view_restorerun", "cancel_run")
    run = pages.run(status=Status.QUEUED, kind=Kind.DRILL)
    url = reverse("admin:pgclone_admin_restorerun_changelist")

    def is_offered(client):
        return b'value="cancel_selected"' in client.get(url).content

    assert (is_offered(watcher), is_offered(boss)) == (False, True)
    RestoreRun.objects.update(requested_by=watcher.user.username)
    assert is_offered(watcher)
    run.move(Status.CANCELLED)
    assert not is_offered(watcher)


def test_who_may_not_ask_any_more_queues_nothing_again(pages):
    asker = pages.client("view_restorerun")
    run = pages.run(
        status=Status.QUEUED,
        target="",
        kind=Kind.DRILL,
        requested_at=timezone.now() - timedelta(minutes=1),
        requested_by=asker.user.username,
    )
    page = shown(asker, run)
    assert address("requeue", run) not in page
    assert address("cancel", run) in page
    assert asker.post(address("requeue", run)).status_code == 403
    assert OrmQ.objects.count() == 0


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


def test_a_hook_that_says_much_hides_neither_the_others_nor_the_log(pages):
    run = running(pages, phase="hooks")
    say(run, "hooks", RunEvent.Level.PHASE)
    for text in ("running the hook first", "  said by the first", "the hook first took 0.1 s"):
        say(run, text)
    say(run, "running the hook loud")
    RunEvent.objects.bulk_create(
        RunEvent(run=run, text=f"  line {n}") for n in range(LOG_LINES + HOOK_LINES)
    )
    say(run, "the hook loud failed after 2.0 s")
    client = pages.client("view_restorerun")

    progress = client.get(address("change", run)).context["progress"]

    first, loud = progress.hooks
    assert (first.name, first.lines, first.state) == ("first", ["said by the first"], "done")
    assert (loud.state, len(loud.lines), loud.is_cut) == ("failed", HOOK_LINES, True)
    assert loud.lines[-1] == f"line {LOG_LINES + HOOK_LINES - 1}"
    assert progress.log[0].text == "hooks"
    assert not progress.is_cut
    assert f"the last {HOOK_LINES} lines" in shown(client, run)


def test_the_whole_log_of_a_run_is_text(pages):
    run = running(pages)
    say(run, EVIL, RunEvent.Level.WARNING)
    say(run, "cancelled", RunEvent.Level.AUDIT, person="ada")
    RunEvent.objects.bulk_create(RunEvent(run=run, text=f"  line {n}") for n in range(1_200))
    client = pages.client("view_restorerun")
    assert address("log", run) in shown(client, run)

    answer = client.get(address("log", run))

    assert answer.streaming
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in answer["Cache-Control"]
    lines = b"".join(answer.streaming_content).decode().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC  warning  .*", lines[0])
    assert lines[0].endswith(EVIL)
    assert lines[1].endswith("  action   ada: cancelled")
    assert len(lines) == 1_202
    assert lines[-1].endswith("  note       line 1199")


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


def test_f60_the_live_log_of_a_run_is_for_who_may_see_it(pages):
    run = running(pages)
    say(run, "restoring", RunEvent.Level.PHASE)
    say(run, "a table of salaries")
    seer = pages.client("view_restorerun")
    others = pages.client("view_dump", "restore_database", "cancel_run", "copy_database")
    for page in ("change", "progress", "log", "history"):
        assert others.get(address(page, run)).status_code == 403
        assert "/login/" in Client().get(address(page, run))["Location"]
    told = seer.get(address("progress", run))
    assert "a table of salaries" in told.json()["parts"]["log"]
    assert "no-store" in told["Cache-Control"]
    assert "private" in told["Cache-Control"]
    assert set(told.json()) == {
        "status",
        "active",
        "phase",
        "bytes_done",
        "bytes_total",
        "announcement",
        "offer",
        "stoppable",
        "parts",
    }


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


@pytest.mark.parametrize("phase", ["restoring", "swapping", "cleaning up"])
def test_cancel_is_offered_as_long_as_it_is_not_too_late(pages, phase):
    run = running(pages, phase=phase)
    page = shown(pages.client("view_restorerun", "cancel_run"), run)
    assert ("Cancel this" in page) is (phase == "restoring")
    # And the script of a page that was there before takes it away.
    told = pages.client("view_restorerun").get(address("progress", run)).json()
    assert told["stoppable"] is (phase == "restoring")


def test_the_page_of_a_restore_that_is_held_leads_to_its_swap_and_to_no_other(pages):
    server, name = pages.site.server, f"{pages.site.name}__held"
    server.create_database(name)
    mark = Mark.new(name=name, kind="held", of=pages.site.name, source="the/dump", becomes="pre")
    pages.site.run(f"COMMENT ON DATABASE \"{name}\" IS '{mark.comment()}'")
    now = timezone.now()
    times = {"started_at": now - timedelta(seconds=9), "finished_at": now + timedelta(seconds=9)}
    client = pages.client("view_restorerun", "restore_database")
    url = reverse("admin:pgclone_admin_localdatabase_swap", args=(server.oid(name),))
    failed = {"key": "the/dump", "status": Status.FAILED, "error_code": "too_busy", **times}
    asked_for = {"key": "the/dump", "options": {"variant": {"hold": True}}, **times}

    for run in (pages.run(**failed), pages.run(**asked_for)):
        assert url in shown(client, run)
        assert "Swap in what was restored…" in shown(client, run)
        assert url not in shown(pages.client("view_restorerun"), run)
    # What was chosen when it was restored is chosen.
    assert re.search(r'name="reversible"[^>]* checked', client.get(url).content.decode())

    for changed in (
        {"key": "another"},
        {"finished_at": now - timedelta(seconds=5)},
        {"started_at": now + timedelta(seconds=5)},
        {"kind": Kind.DRILL},
        {"error_code": "hook_failed"},
    ):
        assert url not in shown(client, pages.run(**{**failed, **changed}))


def test_f58_text_from_elsewhere_is_escaped(pages):
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
        text = client.get(address(page, None if page == "changelist" else run)).content.decode()
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text
        assert "{{7|add:7}}" in text
    parts = client.get(address("progress", run)).json()["parts"]
    for part in parts.values():
        assert "<script>" not in part
        assert "&lt;script&gt;" in part
    answer = client.post(address("cancel", run), follow=True)
    assert "<script>alert" not in answer.content.decode()
