"""The pages of dumps: who may do what, what they show, what they do."""

from __future__ import annotations

import gzip
import urllib.request
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.admin.models import DELETION, LogEntry
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import AsyncRequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ

from pgclone_admin.admin.dump_files import streamed, streamed_text
from pgclone_admin.core.errors import IntegrityError
from pgclone_admin.models import Configuration, Dump, Kind, RestoreRun, RunEvent, Status
from pgclone_admin.services.actors import Actor
from pgclone_admin.services.downloads import Download
from pgclone_admin.services.dump_care import delete_dump
from pgclone_admin.store import DumpStore

pytestmark = pytest.mark.integration

EVIL = "<script>alert(1)</script>{{7|add:7}}"

WITHOUT_ROW = {"changelist", "create", "import", "refresh"}


def address(page, dump):
    return reverse(
        f"admin:pgclone_admin_dump_{page}", args=() if page in WITHOUT_ROW else (dump.pk,)
    )


def stored(pages):
    """A dump with a file, which is no archive."""
    dump = pages.dump()
    file = pages.storage_root / dump.key
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"PGDMP and more")
    return dump


# -- who may do what ------------------------------------------------------------------------------


def test_who_asked_for_a_dump_may_cancel_it_without_the_permission(pages):
    client = pages.client("view_dump")
    dump = pages.dump(status=Status.QUEUED, key="", requested_by=client.user.username)

    page = client.get(address("change", dump))
    assert address("cancel", dump) in page.content.decode()
    client.post(address("cancel", dump))

    dump.refresh_from_db()
    assert dump.status == Status.CANCELLED


def test_a_page_shows_only_the_buttons_that_work(pages):
    dump = pages.dump()
    verbs = ("verify", "drill", "download", "pin", "delete", "restore")
    reader = pages.client("view_dump").get(address("change", dump)).content.decode()
    owner = pages.superuser().get(address("change", dump)).content.decode()
    for verb in verbs:
        url = f"/admin/pgclone_admin/dump/{dump.pk}/{verb}/"
        assert url not in reader
        assert url in owner


@override_settings(PGCLONE_ALLOW_DUMP=False, PGCLONE_ALLOW_RESTORE=False)
def test_what_the_settings_forbid_is_said_and_refused(pages):
    client = pages.superuser()
    dump = pages.dump()
    before = pages.state()

    assert "PGCLONE_ALLOW_DUMP is False" in client.get(address("changelist", dump)).content.decode()
    assert "PGCLONE_ALLOW_DUMP is False" in client.get(address("create", dump)).content.decode()
    assert "PGCLONE_ALLOW_RESTORE is False" in client.get(address("change", dump)).content.decode()
    assert client.post(address("create", dump)).status_code == 200
    assert client.post(address("drill", dump)).status_code == 302
    assert pages.state() == before


# -- the list -------------------------------------------------------------------------------------


def queries(client, url):
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == 200
    return len(captured)


def test_the_list_takes_as_many_queries_for_200_rows_as_for_one_and_no_storage(pages, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the list has asked the storage")

    monkeypatch.setattr("pgclone_admin.store.DumpStore.__init__", refuse)
    client = pages.superuser()
    pages.dump(verified_at=timezone.now(), is_pinned=True)
    url = address("changelist", None)
    client.get(url)  # content types are looked up once for each process
    with_one = queries(client, url)
    for _ in range(200):
        pages.dump(verified_at=timezone.now(), drilled_at=timezone.now())
    assert queries(client, url) == with_one
    assert queries(client, f"{url}?all=") == with_one
    assert with_one < 20


def test_the_list_says_what_there_is_in_words(pages):
    pages.dump(
        database="shop",
        config="nightly",
        instance="prod-1",
        verified_at=timezone.now(),
        is_pinned=True,
        started_at=timezone.now(),
        finished_at=timezone.now(),
    )
    pages.dump(status=Status.MISSING)
    page = pages.client("view_dump").get(address("changelist", None)).content.decode()
    for text in ("succeeded", "missing", "pinned", "shop / nightly", "prod-1", "1.2", "ada"):
        assert text in page
    assert 'title="2026-03-01 04:06:06 UTC"' in page
    assert "verified <time" in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status__exact=failed", {"b"}),
        ("instance=far", {"b"}),
        ("database=shop", {"a"}),
        ("config=nightly", {"a"}),
        ("location=elsewhere/", {"c"}),
        ("q=nightly", {"a"}),
        ("taken_at__year=2025", {"c"}),
    ],
)
def test_the_list_is_filtered_and_searched(pages, query, found):
    pages.dump(requested_by="a", database="shop", config="nightly")
    pages.dump(requested_by="b", status=Status.FAILED, instance="far")
    pages.dump(requested_by="c", location="elsewhere/", taken_at="2025-01-01T00:00:00Z")
    answer = pages.client("view_dump").get(f"{address('changelist', None)}?{query}")
    assert {dump.requested_by for dump in answer.context["cl"].result_list} == found


def test_selected_dumps_are_verified_and_deleted_after_a_question(pages):
    client = pages.superuser()
    dumps = [stored(pages) for _ in range(3)]
    Dump.objects.filter(pk=dumps[0].pk).update(is_pinned=True)
    url = address("changelist", None)
    chosen = {"_selected_action": [dump.pk for dump in dumps], "index": 0}

    client.post(url, {**chosen, "action": "verify_selected"})
    assert RestoreRun.objects.filter(kind=Kind.VERIFY).count() == 3
    RestoreRun.objects.all().delete()

    question = client.post(url, {**chosen, "action": "delete_selected"})
    assert question.status_code == 200
    assert "It is pinned: unpin it first." in question.content.decode()
    assert Dump.objects.count() == 3

    del chosen["index"]
    client.post(url, {**chosen, "action": "delete_selected", "post": "yes"})
    assert list(Dump.objects.values_list("pk", flat=True)) == [dumps[0].pk]
    assert [each.name for each in pages.storage_root.rglob("*.dump")] == [
        dumps[0].key.rpartition("/")[2]
    ]


def test_actions_are_refused_without_their_permission(pages):
    client = pages.client("view_dump")
    dump = stored(pages)
    before = pages.state()
    for action in ("verify_selected", "delete_selected"):
        client.post(
            address("changelist", None),
            {"_selected_action": [dump.pk], "action": action, "post": "yes"},
        )
    assert pages.state() == before


# -- taking dumps ---------------------------------------------------------------------------------


def test_f48_a_dump_is_queued_and_a_double_click_makes_one(pages):
    client = pages.client("view_dump", "create_dump")
    for _ in range(2):
        answer = client.post(address("create", None), {"database": "default"})
    dump = Dump.objects.get()
    assert answer["Location"] == address("change", dump)
    assert (dump.status, dump.requested_by) == (Status.QUEUED, client.user.username)
    assert dump.options == {"database": "default"}
    assert OrmQ.objects.count() == 1
    assert "is queued" in client.get(answer["Location"]).content.decode()


def test_what_is_dumped_is_chosen_among_what_is_declared(pages):
    client = pages.client("create_dump")
    Configuration.objects.create(name="weekly", instance="far")
    with override_settings(
        PGCLONE_CONFIGS={"nightly": {"instance": "near"}},
        PGCLONE_DUMP_CONFIGS={"old": {}},
        PGCLONE_RESTORE_CONFIGS={"other": {}},
    ):
        form = client.get(address("create", None)).context["form"]
        offered = {
            name: [value for value, _label in form.fields[name].choices] for name in form.fields
        }
        assert offered == {
            "database": ["", "default"],
            "config": ["", "nightly", "old", "weekly"],
            "instance": ["", "far", "here", "near"],
        }
        before = pages.state()
        for wrong in ({"database": "postgres"}, {"config": "other"}, {"instance": "mine"}):
            assert client.post(address("create", None), wrong).status_code == 200
        assert pages.state() == before
        given = {"config": "weekly", "instance": "near"}
        # Who may not read dumps is not sent to a page that says so.
        answer = client.post(address("create", None), given)
        assert answer["Location"] == "/admin/"
    dump = Dump.objects.get()
    assert (dump.config, dump.instance, dump.options) == ("weekly", "near", given)


def test_refresh_lists_what_is_stored_and_marks_what_is_gone(pages):
    client = pages.client("view_dump", "create_dump")
    there, gone = stored(pages), pages.dump()
    Dump.objects.filter(pk=there.pk).delete()

    answer = client.post(address("refresh", None), follow=True)

    assert "1 new, 1 missing, 0 there again" in answer.content.decode()
    gone.refresh_from_db()
    assert gone.status == Status.MISSING
    assert Dump.objects.get(key=there.key).status == Status.SUCCEEDED


def test_a_refresh_of_many_dumps_says_that_there_are_more(pages, monkeypatch):
    monkeypatch.setattr("pgclone_admin.admin.dumps.REFRESH_SECONDS", 0)
    client = pages.client("view_dump", "create_dump")
    for _ in range(3):
        stored(pages)
    Dump.objects.all().delete()
    first = client.post(address("refresh", None), follow=True).content.decode()
    assert "1 new, 0 missing, 0 there again" in first
    assert "2 more are still to be read. Press Refresh again" in first
    for _ in range(2):
        last = client.post(address("refresh", None), follow=True).content.decode()
    assert "still to be read" not in last
    assert Dump.objects.count() == 3


@override_settings(PGCLONE_ALLOW_DUMP=False)
@pytest.mark.parametrize("permission", ["create_dump", "restore_database"])
def test_where_nothing_may_be_dumped_the_dumps_of_others_are_found_all_the_same(pages, permission):
    client = pages.client("view_dump", permission)
    theirs = stored(pages)
    Dump.objects.all().delete()
    listing = client.get(address("changelist", None)).content.decode()
    assert address("refresh", None) in listing
    assert address("create", None) not in listing
    assert address("import", None) not in listing
    others = pages.client("view_dump", "delete_dump").get(address("changelist", None))
    assert address("refresh", None) not in others.content.decode()

    client.post(address("refresh", None))

    assert Dump.objects.get().key == theirs.key


@pytest.mark.parametrize("is_large", [False, True])
def test_an_uploaded_archive_becomes_a_foreign_dump(pages, is_large):
    client = pages.client("view_dump", "create_dump")
    data = pages.site.server.archive(pages.site.name)
    handlers = "django.core.files.uploadhandler.TemporaryFileUploadHandler"
    with override_settings(**({"FILE_UPLOAD_HANDLERS": [handlers]} if is_large else {})):
        answer = client.post(
            address("import", None),
            {
                "archive": SimpleUploadedFile("from far.dump", data),
                "database": "default",
                "instance": "far",
            },
        )
    dump = Dump.objects.get()
    assert answer["Location"] == address("change", dump)
    assert (dump.status, dump.instance, dump.is_foreign) == (Status.SUCCEEDED, "far", True)
    assert dump.requested_by == client.user.username
    assert (pages.storage_root / dump.key).read_bytes() == data
    assert [event.text for event in dump.events.all()] == ["imported an archive"]
    assert LogEntry.objects.get().user == client.user
    page = client.get(address("change", dump)).content.decode()
    assert "was not made by this app" in page


def test_an_archive_that_is_sent_twice_is_imported_once(pages):
    client = pages.client("view_dump", "create_dump")
    data = pages.site.server.archive(pages.site.name)

    def send(content):
        file = SimpleUploadedFile("a.dump", content)
        return client.post(address("import", None), {"archive": file, "database": "default"})

    first, second = send(data), send(data)
    dump = Dump.objects.get()
    assert first["Location"] == second["Location"] == address("change", dump)
    assert "This archive was imported already." in client.get(second["Location"]).content.decode()
    assert dump.events.count() == 1
    # Of the same moment, and other bytes.
    another = gzip.compress(data)
    assert "exists already" in send(another).content.decode()
    Dump.objects.all().delete()
    assert "this archive was imported already" in send(data).content.decode().lower()


def test_what_is_no_archive_is_not_imported(pages):
    client = pages.superuser()
    before = pages.state()
    answer = client.post(
        address("import", None),
        {"archive": SimpleUploadedFile("x.dump", b"-- SQL"), "database": "default"},
    )
    assert answer.status_code == 200
    assert "this is a plain SQL script" in answer.content.decode()
    assert pages.state() == before


# -- one dump -------------------------------------------------------------------------------------


def test_the_page_of_a_dump_tells_its_manifest(pages):
    dump = pages.made_dump()
    page = pages.client("view_dump").get(address("change", dump)).content.decode()
    for text in (
        dump.key,
        dump.manifest["sha256"],
        dump.manifest["server_version"],
        "public.django_session",
        "people.0001_initial",
        "plpgsql",
        "zstd",
        "dumping",
    ):
        assert text in page


def test_a_dump_that_failed_says_why_at_the_top(pages):
    dump = pages.dump(
        status=Status.FAILED,
        key="",
        error="the table is locked\nand more",
        hint="Wait for it.",
        error_code="lock_timeout",
    )
    page = pages.client("view_dump").get(address("change", dump)).content.decode()
    assert "<strong>The table is locked</strong>" in page
    assert "Wait for it." in page
    assert "<code>lock_timeout</code>" in page
    assert page.index("Wait for it.") < page.index("Manifest")


def test_f58_text_from_elsewhere_is_escaped(pages):
    dump = pages.dump(
        key=f"{EVIL}.dump",
        instance=EVIL,
        database=EVIL,
        config=EVIL,
        location=EVIL,
        requested_by=EVIL,
        phase=EVIL,
        error=f"{EVIL}\n{EVIL}",
        hint=EVIL,
        error_code=EVIL,
        manifest={
            "origin": EVIL,
            "server_version": EVIL,
            "sha256": EVIL,
            "extensions": [[EVIL, EVIL]],
            "migrations": [[EVIL, EVIL]] * 9,
            "excluded": [EVIL],
            "kept": [EVIL] * 9,
            "hooks": [EVIL],
        },
    )
    for level in RunEvent.Level:
        RunEvent.objects.create(dump=dump, level=level, text=EVIL, person=EVIL)
    RunEvent.objects.create(dump=dump, text=f"running the hook {EVIL}")
    RunEvent.objects.create(dump=dump, text=f"  {EVIL}")
    client = pages.superuser()
    for page in ("changelist", "change", "delete", "history", "create", "import"):
        text = client.get(address(page, dump)).content.decode()
        assert "<script>alert" not in text
        if page in ("changelist", "change", "delete"):
            assert "&lt;script&gt;" in text
            assert "{{7|add:7}}" in text
    told = client.get(address("progress", dump)).json()
    assert "&lt;script&gt;" in told["parts"]["log"]
    assert "<script>" not in "".join(told["parts"].values())
    # In a message, too.
    Dump.objects.filter(pk=dump.pk).update(is_pinned=True)
    assert "<script>alert" not in client.post(address("delete", dump), follow=True).content.decode()
    Dump.objects.filter(pk=dump.pk).update(is_pinned=False, key="")
    assert "<script>alert" not in client.post(address("delete", dump), follow=True).content.decode()


def test_how_far_a_dump_is_is_never_kept_by_a_cache(pages):
    dump = pages.dump(
        status=Status.RUNNING, key="", phase="dumping", bytes_done=2048, heard_at=timezone.now()
    )
    RunEvent.objects.create(dump=dump, level=RunEvent.Level.PHASE, text="dumping")
    answer = pages.client("view_dump").get(address("progress", dump))
    assert "no-store" in answer["Cache-Control"]
    told = answer.json()
    assert (told["active"], told["phase"], told["bytes_done"]) == (True, "dumping", 2048)
    assert "2.0" in told["parts"]["state"]
    assert "progressbar" not in told["parts"]["state"]


def test_verify_and_drill_queue_a_run_and_lead_to_it(pages):
    client = pages.client("view_dump", "view_restorerun", "create_dump", "restore_database")
    dump = pages.made_dump()
    for page, kind in (("verify", Kind.VERIFY), ("drill", Kind.DRILL)):
        answer = client.post(address(page, dump))
        run = RestoreRun.objects.get(kind=kind)
        assert answer["Location"] == reverse(
            "admin:pgclone_admin_restorerun_change", args=(run.pk,)
        )
        assert (run.key, run.location) == (dump.key, dump.location)
    page = client.get(address("change", dump)).content.decode()
    assert "Drill #" in page
    assert "Verification #" in page


def test_who_may_not_see_runs_stays_on_the_page_of_the_dump(pages):
    client = pages.client("view_dump", "create_dump")
    dump = pages.made_dump()
    answer = client.post(address("verify", dump))
    assert answer["Location"] == address("change", dump)
    assert RestoreRun.objects.get().kind == Kind.VERIFY


def test_f61_a_pinned_dump_is_not_deleted_until_it_is_unpinned(pages):
    client = pages.client("view_dump", "delete_dump")
    dump = stored(pages)
    client.post(address("pin", dump), {"pinned": "1"})
    question = client.get(address("delete", dump)).content.decode()
    assert "It is pinned" in question
    assert "Delete this dump" not in question
    refused = client.post(address("delete", dump), follow=True).content.decode()
    assert "The dump is pinned — Unpin it first." in refused

    client.post(address("pin", dump), {"pinned": "0"})
    client.post(address("delete", dump), {"last_good": dump.pk})

    assert not Dump.objects.exists()
    assert not list(pages.storage_root.rglob("*.dump"))
    said = set(LogEntry.objects.values_list("change_message", flat=True))
    assert said == {"pinned", "unpinned", "deleted the dump"}


ACTIONS = "/admin/pgclone_admin/runevent/"


def test_what_people_did_to_a_dump_can_be_read_after_it_was_deleted(pages):
    boss = pages.client("view_dump", "delete_dump", "download_dump", "view_runevent")
    dump = stored(pages)
    RunEvent.objects.create(dump=dump, text="a line of the log")
    boss.post(address("pin", dump), {"pinned": "1"})
    boss.post(address("pin", dump), {"pinned": "0"})
    boss.post(address("download", dump), {"form": "archive"}).close()
    before = boss.get(ACTIONS).content.decode()
    assert address("change", dump) in before

    boss.post(address("delete", dump), {"last_good": dump.pk})

    after = boss.get(ACTIONS).content.decode()
    assert address("change", dump) not in after
    texts = ["pinned", "unpinned", "downloaded the dump (archive)"]
    texts.append(f"deleted the dump from {pages.location}")
    for event, text in zip(RunEvent.objects.order_by("at", "pk"), texts, strict=True):
        assert (event.text, event.person) == (text, boss.user.username)
        assert event.about == dump.key
        assert text in after
    assert dump.key in after
    assert "a line of the log" not in before
    deleted = LogEntry.objects.get(change_message="deleted the dump")
    assert (deleted.action_flag, deleted.object_repr) == (DELETION, dump.key)
    searched = boss.get(f"{ACTIONS}?q=unpinned").content.decode()
    assert "(archive)" not in searched


def test_a_refresh_that_finds_something_is_written_down(pages):
    client = pages.client("view_dump", "create_dump", "view_runevent")
    client.post(address("refresh", None))
    assert not RunEvent.objects.exists()
    gone = pages.dump()
    client.post(address("refresh", None))
    event = RunEvent.objects.get()
    assert (event.person, event.about) == (client.user.username, gone.location)
    text = "refreshed the list of dumps: 0 new, 1 missing, 0 there again"
    assert event.text == text
    assert text in client.get(ACTIONS).content.decode()


def test_the_list_of_actions_takes_as_many_queries_for_200_rows_as_for_one(pages):
    client = pages.superuser()
    rows = [{"dump": pages.dump()}, {"run": pages.run()}, {"about": "elsewhere"}]
    RunEvent.objects.bulk_create(RunEvent(level="audit", text="x", **row) for row in rows)
    client.get(ACTIONS)
    with_few = queries(client, ACTIONS)
    for _ in range(70):
        rows.append({"dump": pages.dump()})
        rows.append({"run": pages.run()})
    RunEvent.objects.bulk_create(RunEvent(level="audit", text="x", **row) for row in rows)
    assert queries(client, ACTIONS) == with_few
    assert queries(client, f"{ACTIONS}?all=") == with_few


def test_a_dump_that_somebody_else_has_just_deleted_is_deleted(pages):
    client = pages.client("view_dump", "delete_dump")
    dump = stored(pages)
    answers = [
        client.post(address("delete", dump), {"last_good": dump.pk}, follow=True) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "is not there any more" in answers[1].content.decode()
    actor = Actor.of(client.user)
    delete_dump(actor, dump)
    assert RunEvent.objects.count() == LogEntry.objects.count() == 1


def test_of_two_who_delete_a_dump_at_once_one_is_written_down(pages, monkeypatch):
    dump = stored(pages)
    first, second = (Actor.of(pages.user("delete_dump")) for _ in range(2))
    delete = DumpStore.delete

    def overtaken(store, key):
        monkeypatch.setattr(DumpStore, "delete", delete)
        delete_dump(second, dump, although_last=True)
        delete(store, key)

    monkeypatch.setattr(DumpStore, "delete", overtaken)
    delete_dump(first, dump, although_last=True)
    assert RunEvent.objects.get().person == second.name


# -- downloads ------------------------------------------------------------------------------------


def downloaded(client, dump, form):
    answer = client.post(address("download", dump), {"form": form})
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    assert answer["Content-Disposition"].startswith('attachment; filename="')
    name = dump.key.replace("/", "_").removesuffix(".dump")
    ending = ".pg_restore.dump" if form == "archive" else ".dump"
    assert f'filename="{name}{ending}"' in answer["Content-Disposition"]
    return answer


def test_f57_a_dump_is_downloaded_as_it_is_stored_and_that_is_written_down(pages):
    client = pages.client("download_dump")
    dump = pages.made_dump()
    content = (pages.storage_root / dump.key).read_bytes()

    answer = downloaded(client, dump, "stored")

    assert b"".join(answer.streaming_content) == content
    assert answer["Content-Length"] == str(len(content))
    event = dump.events.get(level=RunEvent.Level.AUDIT, person=client.user.username)
    assert event.text == "downloaded the dump (stored)"
    assert LogEntry.objects.get().user == client.user


def test_a_dump_is_downloaded_as_an_archive_that_a_bare_pg_restore_reads(pages):
    dump = pages.made_dump()
    answer = downloaded(pages.client("download_dump"), dump, "archive")
    text = pages.site.server.archive_as_sql(b"".join(answer.streaming_content))
    assert "CREATE TABLE public.people_person" in text


@pytest.mark.parametrize("form", ["stored", "archive"])
def test_f57_a_download_of_a_damaged_dump_never_becomes_whole(pages, form):
    dump = pages.made_dump()
    file = pages.storage_root / dump.key
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    answer = downloaded(pages.client("download_dump"), dump, form)
    got = []
    with pytest.raises(IntegrityError):
        got.extend(answer.streaming_content)
    assert len(b"".join(got)) < len(data)


def test_a_download_is_read_piece_by_piece_under_asgi_too(pages):
    request = AsyncRequestFactory().post("/")
    answer = streamed(request, Download("x", iter([b"a", b"b"])))
    assert answer.is_async
    assert streamed_text(request, iter([b"a", b"b"])).is_async


def test_a_form_of_download_that_is_not_known_is_refused(pages):
    dump = stored(pages)
    before = pages.state()
    client = pages.client("download_dump")
    assert client.post(address("download", dump), {"form": "sql"}).status_code == 400
    assert pages.state() == before


def test_a_file_that_is_gone_is_told(pages):
    dump = pages.dump()
    client = pages.client("view_dump", "download_dump")
    answer = client.post(address("download", dump), {"form": "stored"}, follow=True)
    assert "There is no dump" in answer.content.decode()
    assert not RunEvent.objects.exists()


def test_f57_a_dump_in_a_bucket_is_downloaded_by_a_link_of_five_minutes(pages, s3_bucket, caplog):
    caplog.set_level("INFO")
    with override_settings(**s3_bucket.settings("dumps/")):
        dump = pages.made_dump()
        client = pages.client("download_dump", "view_dump")
        answer = client.post(address("download", dump), {"form": "stored"})
        assert answer.status_code == 302
        assert "no-store" in answer["Cache-Control"]
        link = answer["Location"]
        query = parse_qs(urlsplit(link).query)
        assert query["X-Amz-Expires"] == ["300"]
        (signature,) = query["X-Amz-Signature"]
        shown = client.get(address("change", dump)).content.decode()
        assert signature not in str(pages.state()) + caplog.text + shown
        with urllib.request.urlopen(link) as got:
            assert got.read() == s3_bucket.body(f"dumps/{dump.key}")
            assert got.headers["Content-Disposition"].startswith("attachment")
        archive = client.post(address("download", dump), {"form": "archive"})
        assert b"".join(archive.streaming_content).startswith(b"PGDMP")
    assert (
        dump.events.filter(level=RunEvent.Level.AUDIT, text__startswith="downloaded").count() == 2
    )
