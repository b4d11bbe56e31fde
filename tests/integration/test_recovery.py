"""``recover`` finishes or drops what the dead left, and nothing else, at any time and twice."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from pgclone_admin.core import recovery
from pgclone_admin.core.errors import Conflict
from pgclone_admin.core.locks import is_locked, take_lock
from pgclone_admin.core.marks import Mark, new_database_name, set_comment
from pgclone_admin.core.names import LocalKey, derived_name
from pgclone_admin.core.own_databases import create_like, mark_and_rename
from pgclone_admin.core.recovery import Outcome, Recovered, RecoveryRequest, recover_databases
from pgclone_admin.core.temporary import PASSFILE
from tests.integration.operations import connected, mark, restore, take
from tests.support import processes
from tests.support.processes import wait_until
from tests.support.sites import Site

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

DROPPED, FINISHED, KEPT, FAILED = Outcome.DROPPED, Outcome.FINISHED, Outcome.KEPT, Outcome.FAILED


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site(empty=True)


def recover(site: Site, *, user: str = "app", **changes: object) -> list[Recovered]:
    request = RecoveryRequest(
        **{
            "live": site.name,
            "maintenance": site.server.params("postgres", user),
            "kept_for": timedelta(days=7),
            "protected": frozenset({site.name, "postgres"}),
            "second_look": 0.1,
            **changes,
        }
    )
    return list(recover_databases(request))


def found(site: Site, **changes: object) -> list[tuple[Outcome, str]]:
    """What was done with which database."""
    return [(item.outcome, item.what) for item in recover(site, **changes)]


def left(site: Site, kind: str, name: str, *, days: float = 0, **changes: object) -> str:
    """Makes a marked database of the site, so many days ago; returns its name."""
    made_at = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    made = replace(mark(name, of=site.name, kind=kind, **changes), made_at=made_at)
    with connected(site.server) as server:
        create_like(server, server.existing(site.name), made)
    return name


def beside(site: Site, role: str) -> str:
    return derived_name(site.name, role)


def create(site: Site, name: str, owner: str = "app") -> str:
    return site.server.create_database(name, owner=owner, template="template0")


@contextlib.contextmanager
def locked(site: Site, *, exclusive: bool) -> Iterator[None]:
    """As a restore, or a dump, that runs in another process."""
    with connected(site.server) as server:
        take_lock(server, site.name, exclusive=exclusive)
        yield


@contextlib.contextmanager
def nothing_changes(site: Site) -> Iterator[None]:
    state = "SELECT oid, datname, shobj_description(oid, 'pg_database') FROM pg_database ORDER BY 1"
    before = site.server.admin(state)
    yield
    assert site.server.admin(state) == before


# -- databases that carry a mark -------------------------------------------------------------------


def test_where_nothing_was_left_nothing_is_done(site: Site) -> None:
    with nothing_changes(site):
        assert recover(site) == []


def test_f29_the_temporary_database_of_a_dead_restore_is_dropped(site: Site) -> None:
    name, oid = left(site, "temporary", beside(site, "temp")), site.oid
    with site.server.held_session(name):  # of a child that outlived its parent
        assert found(site) == [(DROPPED, f'the temporary database "{name}"')]
    assert site.server.oid(name) is None
    assert site.oid == oid
    assert recover(site) == []


def copy_of_a_restore(site: Site) -> tuple[str, int]:
    """What becomes ``:post`` after the swap; its name and oid."""
    name = left(site, "temporary", new_database_name(), source="second")
    oid = site.server.oid(name)
    assert oid is not None
    return name, oid


def test_f30_pre_and_post_are_of_the_swap_that_was_the_last(site: Site) -> None:
    older = [left(site, role, beside(site, role), source="first") for role in ("pre", "post")]
    copied, copy = copy_of_a_restore(site)
    parked = left(site, "parked", beside(site, "swap"), becomes="pre", copy=copy)
    was_live = site.server.oid(parked)
    foretold = found(site, dry_run=True)

    (item,) = recover(site)

    assert [(item.outcome, item.what)] == foretold
    assert "it becomes :pre, and a copy of what it made :post" in item.why
    assert [site.server.oid(name) for name in older] == [was_live, copy]
    assert site.server.oid(copied) is None
    post = Mark.read(site.server.comment(older[1]), older[1])
    assert post is not None
    assert (post.kind, post.source) == ("post", "second")


def test_f30_a_pair_that_was_half_named_is_finished(site: Site) -> None:
    post = left(site, "post", beside(site, "post"), source="second")
    oid = site.server.oid(post)
    left(site, "parked", beside(site, "swap"), becomes="pre", copy=oid)
    recover(site)
    assert site.server.oid(post) == oid
    assert site.server.oid(beside(site, "pre")) is not None


def test_f30_an_older_post_does_not_stay_when_that_of_the_last_swap_is_lost(site: Site) -> None:
    post = left(site, "post", beside(site, "post"), source="first")
    left(site, "parked", beside(site, "swap"), becomes="pre", copy=1)
    recover(site)
    assert site.server.oid(post) is None


def test_f30_after_a_swap_of_which_nothing_is_kept_no_older_pre_and_post_stay(site: Site) -> None:
    older = [left(site, role, beside(site, role)) for role in ("pre", "post")]
    parked = left(site, "parked", beside(site, "swap"))
    assert found(site) == [(DROPPED, f'the parked database "{parked}"')]
    assert [site.server.oid(name) for name in (parked, *older)] == [None] * 3


def test_f30_an_older_post_stays_when_the_restore_died_before_its_swap(site: Site) -> None:
    post = left(site, "post", beside(site, "post"), source="first")
    oid = site.server.oid(post)
    copied, _copy = copy_of_a_restore(site)
    assert found(site) == [(DROPPED, f'the new database "{copied}"')]
    assert site.server.oid(post) == oid


def test_f30_the_copy_of_another_database_is_left_to_it(
    site: Site, make_site: Callable[..., Site]
) -> None:
    other = make_site(empty=True)
    _name, copy = copy_of_a_restore(other)
    left(other, "parked", beside(other, "swap"), becomes="pre", copy=copy)
    with nothing_changes(site):
        assert recover(site) == []
    recover(other)
    assert other.server.oid(beside(other, "post")) == copy


@pytest.mark.parametrize("becomes", ["pre", "undo"])
def test_f30_a_swap_that_happened_is_finished(site: Site, becomes: str) -> None:
    older = left(site, becomes, beside(site, becomes))
    parked = left(site, "parked", beside(site, "swap"), becomes=becomes)
    oid = site.server.oid(parked)

    (item,) = recover(site)

    assert (item.outcome, item.what) == (FINISHED, f'the parked database "{parked}"')
    assert f"it becomes :{becomes}" in item.why
    assert site.server.oid(parked) is None
    assert site.server.oid(older) == oid
    settled = Mark.read(site.server.comment(older), older)
    assert settled is not None
    assert (settled.kind, settled.becomes) == (becomes, "")
    assert recover(site) == []


def test_f30_what_was_not_to_be_kept_is_dropped_after_a_swap_that_happened(site: Site) -> None:
    parked, oid = left(site, "parked", beside(site, "swap")), site.oid
    assert found(site) == [(DROPPED, f'the parked database "{parked}"')]
    assert site.server.oid(parked) is None
    assert site.oid == oid


def test_a_parked_database_is_kept_when_the_live_one_is_missing(site: Site) -> None:
    parked = left(site, "parked", beside(site, "swap"))
    site.server.drop_database(site.name)
    (item,) = recover(site)
    assert item.outcome is FAILED
    assert f'rename it to "{site.name}"' in item.why
    assert site.server.oid(parked) is not None
    site.server.drop_database(parked)


@pytest.mark.parametrize("becomes", ["", "pre"], ids=["to be dropped", "to be kept"])
@pytest.mark.parametrize("beside_it", [False, True], ids=["in its place", "beside"])
def test_a_restore_leaves_a_parked_database_alone_when_the_live_one_is_missing(
    site: Site, storage_root: Path, becomes: str, beside_it: bool
) -> None:
    """It is what somebody wants back who has dropped what took its place."""
    key = take(site, storage_root)
    parked = left(site, "parked", beside(site, "swap"), becomes=becomes)
    oid, comment = site.server.oid(parked), site.server.comment(parked)
    site.server.drop_database(site.name)
    databases = site.server.databases()
    target = LocalKey.parse(":look") if beside_it else None
    with pytest.raises(Conflict, match=f'"{parked}" was live until the last swap') as raised:
        restore(site, key, storage_root, beside=target)
    assert f'rename it to "{site.name}" to have it back' in raised.value.hint
    assert (site.server.oid(parked), site.server.comment(parked)) == (oid, comment)
    assert site.server.databases() == databases

    site.server.admin(f'ALTER DATABASE "{parked}" RENAME TO "{site.name}"')
    restore(site, key, storage_root)
    assert site.server.databases() == databases - {parked} | {site.name}


@pytest.mark.parametrize(("kind", "role"), [("failed", "temp"), ("held", "held")])
def test_what_waits_for_somebody_is_kept_until_it_is_old(site: Site, kind: str, role: str) -> None:
    name = left(site, kind, beside(site, role), days=6.9)
    what = f'the {kind} database "{name}"'

    assert found(site) == [(KEPT, what)]
    assert site.server.oid(name) is not None
    assert found(site, kept_for=timedelta(days=6)) == [(DROPPED, what)]
    assert site.server.oid(name) is None


@pytest.mark.parametrize(("kind", "role"), [("failed", "temp"), ("held", "held")])
def test_f63_what_was_made_by_a_clock_that_is_ahead_is_kept(
    site: Site, kind: str, role: str
) -> None:
    name = left(site, kind, beside(site, role), days=-400)
    assert found(site, kept_for=timedelta(0)) == [(KEPT, f'the {kind} database "{name}"')]
    site.server.drop_database(name)


def test_f63_the_age_of_what_is_kept_is_told_by_the_clock_of_the_server(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = left(site, "held", beside(site, "held"), days=1)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=400)

    monkeypatch.setattr(recovery, "datetime", Ahead)
    assert found(site) == [(KEPT, f'the held database "{name}"')]
    site.server.drop_database(name)


def test_a_kept_database_whose_age_cannot_be_told_stays(site: Site) -> None:
    name = left(site, "failed", beside(site, "temp"))
    with connected(site.server) as server, server.transaction() as cursor:
        unreadable = replace(server.existing(name).mark, made_at="long ago")
        set_comment(cursor, name, unreadable.comment())
    (item,) = recover(site, kept_for=timedelta(0))
    assert (item.outcome, "age cannot be told" in item.why) == (KEPT, True)
    site.server.drop_database(name)


@pytest.mark.parametrize("kind", ["pre", "post", "undo", "copy", "beside"])
def test_local_copies_are_no_leftovers(site: Site, kind: str) -> None:
    role = kind if kind in {"pre", "post", "undo"} else "mine"
    left(site, kind, beside(site, role), days=1000)
    with nothing_changes(site):
        assert recover(site) == []


def test_a_kind_that_is_not_known_is_left_alone(site: Site) -> None:
    name = left(site, "frozen", beside(site, "frozen"))
    with nothing_changes(site):
        assert found(site) == [(KEPT, f'the frozen database "{name}"')]


def test_what_was_left_beside_another_database_is_left_to_it(
    site: Site, make_site: Callable[..., Site]
) -> None:
    other = make_site(empty=True)
    name = left(other, "temporary", beside(other, "temp"))
    with nothing_changes(site):
        assert recover(site) == []
    assert found(other) == [(DROPPED, f'the temporary database "{name}"')]


def test_f33_leftovers_of_a_database_with_a_very_long_name_are_found(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(name="ü" * 31, empty=True)
    name, oid = left(site, "temporary", beside(site, "temp")), site.oid
    assert found(site) == [(DROPPED, f'the temporary database "{name}"')]
    assert site.oid == oid


# -- what is not ours ------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["temp", "swap"])
@pytest.mark.allow_left_behind("*")
def test_an_unmarked_database_under_a_derived_name_is_never_dropped(site: Site, role: str) -> None:
    name = create(site, beside(site, role))
    with nothing_changes(site):
        (item,) = recover(site)
    assert (item.outcome, item.what) == (KEPT, f'the database "{name}"')
    assert "was not made by pgclone_admin" in item.why


def test_a_database_that_somebody_renamed_is_theirs(site: Site) -> None:
    left(site, "temporary", beside(site, "temp"))
    site.server.admin(
        sql.SQL("ALTER DATABASE {} RENAME TO mine_now").format(sql.Identifier(beside(site, "temp")))
    )
    with nothing_changes(site):
        (item,) = recover(site)
    assert (item.outcome, item.what) == (KEPT, 'the database "mine_now"')
    assert "another name" in item.why


@pytest.mark.allow_left_behind("*")
def test_a_database_that_the_settings_name_is_never_dropped(site: Site) -> None:
    name = left(site, "temporary", beside(site, "temp"))
    with nothing_changes(site):
        assert found(site, protected=frozenset({name})) == [
            (KEPT, f'the temporary database "{name}"')
        ]


def test_the_live_database_itself_is_never_dropped_whatever_its_comment_says(site: Site) -> None:
    with connected(site.server) as server, server.transaction() as cursor:
        set_comment(cursor, site.name, mark(site.name, of=site.name).comment())
    with nothing_changes(site):
        assert recover(site, protected=frozenset()) == []


@pytest.mark.allow_left_behind("*")
def test_what_cannot_be_dropped_is_told(site: Site) -> None:
    name = beside(site, "temp")
    create(site, name, owner="postgres")
    site.server.admin(
        sql.SQL("COMMENT ON DATABASE {} IS {}").format(
            sql.Identifier(name), sql.Literal(mark(name, of=site.name).comment())
        )
    )
    with nothing_changes(site):
        (item,) = recover(site)
    assert (item.outcome, item.what) == (FAILED, f'the temporary database "{name}"')
    assert "must be owner" in item.why


# -- beside others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("exclusive", [True, False], ids=["restore", "dump"])
def test_beside_a_running_restore_or_dump_its_databases_are_left_alone(
    site: Site, *, exclusive: bool, dry_run: bool
) -> None:
    name = left(site, "temporary", beside(site, "temp"))
    new = create(site, new_database_name())
    with locked(site, exclusive=exclusive), nothing_changes(site):
        items = recover(site, dry_run=dry_run)
    assert [(item.outcome, item.what) for item in items] == [
        (KEPT, f'the databases of "{site.name}"'),
        (KEPT, f'the new database "{new}"'),
    ]
    assert all("is running" in item.why for item in items)
    assert {what for _outcome, what in found(site)} == {
        f'the temporary database "{name}"',
        f'the new database "{new}"',
    }


def test_f65_a_dry_run_tells_the_same_and_changes_nothing(site: Site) -> None:
    left(site, "temporary", beside(site, "temp"))
    left(site, "parked", beside(site, "swap"), becomes="pre")
    left(site, "held", beside(site, "held"), days=8)
    create(site, new_database_name())
    with nothing_changes(site):
        foretold = recover(site, dry_run=True)
    assert [item.outcome for item in foretold] == [DROPPED, FINISHED, DROPPED, DROPPED]
    assert recover(site) == foretold
    assert recover(site) == []


def test_a_dry_run_turns_no_dump_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    left(site, "temporary", beside(site, "temp"))

    class Dumping(recovery.Server):
        def databases(self) -> list[recovery.Database]:
            with connected(site.server) as other:
                take_lock(other, site.name, exclusive=False)
            return super().databases()

    monkeypatch.setattr(recovery, "Server", Dumping)
    assert [item.outcome for item in recover(site, dry_run=True)] == [DROPPED]
    monkeypatch.undo()
    recover(site)


# -- databases that never got a name of their own --------------------------------------------------


def test_a_new_database_without_a_mark_is_dropped_at_the_second_look(site: Site) -> None:
    name = create(site, new_database_name())
    started = time.monotonic()
    assert found(site, second_look=0.3) == [(DROPPED, f'the new database "{name}"')]
    assert time.monotonic() - started > 0.3
    assert site.server.oid(name) is None


def test_the_proof_of_a_plan_that_died_is_dropped(site: Site) -> None:
    name = left(site, "temporary", new_database_name())
    assert found(site) == [(DROPPED, f'the new database "{name}"')]
    assert site.server.oid(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "pgclone_new_",
        "pgclone_new_0123456789abcde",
        "pgclone_new_0123456789abcdef0",
        "pgclone_new_0123456789abcdeg",
        "pgclone_new_0123456789ABCDEF",
        "my_pgclone_new_0123456789abcdef",
    ],
)
@pytest.mark.allow_left_behind("*")
def test_what_only_looks_like_a_new_database_is_left_alone(site: Site, name: str) -> None:
    create(site, name)
    with nothing_changes(site):
        assert recover(site) == []


@pytest.mark.allow_left_behind("*")
def test_a_new_database_that_somebody_uses_or_owns_or_describes_is_left_alone(site: Site) -> None:
    used, owned, described = (new_database_name() for _ in range(3))
    create(site, used)
    create(site, owned, owner="other")
    create(site, described)
    site.server.admin(f"COMMENT ON DATABASE {described} IS 'of the accountants'")
    with site.server.held_session(used), nothing_changes(site):
        assert recover(site) == []


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Does something between the two looks at new databases."""

    def do(action: Callable[[], object]) -> None:
        class Clock:
            @staticmethod
            def sleep(_seconds: float) -> None:
                action()

        monkeypatch.setattr(recovery, "time", Clock)

    return do


def test_a_new_database_that_is_marked_meanwhile_belongs_to_somebody_who_lives(
    site: Site, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    name = create(site, new_database_name())

    def settle() -> None:
        with connected(site.server) as server:
            mark_and_rename(server, name, mark("look", of=site.name, kind="beside"))

    meanwhile(settle)
    assert recover(site) == []
    assert site.server.oid("look") is not None


@pytest.mark.allow_left_behind("*")
def test_the_proof_of_a_plan_that_lives_is_left_alone(
    site: Site, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    name = create(site, new_database_name())

    def mark_it() -> None:
        with connected(site.server) as server, server.transaction() as cursor:
            set_comment(cursor, name, mark(name, of=site.name).comment())

    meanwhile(mark_it)
    assert recover(site) == []
    assert site.server.oid(name) is not None


@pytest.mark.allow_left_behind("*")
def test_a_new_database_that_is_described_meanwhile_is_left_alone(
    site: Site, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    name = create(site, new_database_name())
    meanwhile(lambda: site.server.admin(f"COMMENT ON DATABASE {name} IS 'mine'"))
    assert recover(site) == []
    assert site.server.oid(name) is not None


@pytest.mark.allow_left_behind("*")
def test_between_the_looks_dumps_are_not_turned_away_and_then_nothing_is_dropped(
    site: Site, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    name = create(site, new_database_name())
    with contextlib.ExitStack() as stack:
        meanwhile(lambda: stack.enter_context(locked(site, exclusive=False)))
        assert found(site) == [(KEPT, f'the new database "{name}"')]
    assert site.server.oid(name) is not None


# -- sessions --------------------------------------------------------------------------------------


def test_a_session_of_pg_dump_in_the_live_database_is_told_and_left_alone(site: Site) -> None:
    with contextlib.closing(site.connect(application_name="pg_dump")) as connection:
        (item,) = recover(site)
        assert connection.cursor().execute("SELECT 1") is None
    assert (item.outcome, "pg_dump" in item.what) == (KEPT, True)


# -- the command -----------------------------------------------------------------------------------

KEY = "here/default/none/2026-01-01-00-00-00-000000.dump"


def partial_file(root: Path, *, days: float = 2) -> Path:
    path = root / f"{KEY}.partial-0123456789abcdef"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PGDMP")
    moment = time.time() - days * 86_400
    os.utime(path, (moment, moment))
    return path


def test_f65_the_command_tells_each_thing_in_a_line_and_a_dry_run_the_same(project) -> None:
    name = left(project, "temporary", beside(project, "temp"))
    held = left(project, "held", beside(project, "held"))
    path = partial_file(project.storage_root)

    dry = project.pgclone("recover", "--dry-run").ok()
    assert path.exists()
    assert project.server.oid(name) is not None
    done = project.pgclone("recover").ok()

    assert [line.partition('":')[0] for line in done.lines] == [
        f'kept the held database "{held}',
        f'dropped the temporary database "{name}',
        f'removed the partial file "{path.relative_to(project.storage_root)}',
    ]
    assert [line.split(": ", 1)[1] for line in dry.lines] == [
        line.split(": ", 1)[1] for line in done.lines
    ]
    assert dry.lines[1].startswith("would drop ")
    assert not path.exists()
    assert project.server.oid(name) is None


def test_the_command_says_when_nothing_was_left(project) -> None:
    assert project.pgclone("recover").ok().lines == ["nothing was left behind"]
    assert project.pgclone("recover", "--json").ok().json() == {"dry_run": False, "found": []}


def test_held_databases_are_kept_for_the_days_of_the_setting(project) -> None:
    held = left(project, "held", beside(project, "held"), days=2)
    project.settings["PGCLONE_TEMPORARY_DAYS"] = 3
    assert project.pgclone("recover", "--json").ok().json()["found"][0]["outcome"] == "kept"
    project.settings["PGCLONE_TEMPORARY_DAYS"] = 1
    assert project.pgclone("recover", "--json").ok().json()["found"][0]["outcome"] == "dropped"
    assert project.server.oid(held) is None


def test_files_are_looked_at_when_there_is_no_server(project) -> None:
    path = partial_file(project.storage_root)
    database = {**project.dsn_dict(), "PORT": "1"}
    failed = project.pgclone("recover", "--json", database=database).failed(1)
    assert [item["outcome"] for item in failed.json()["found"]] == ["failed", "removed"]
    assert not path.exists()


def test_an_unknown_alias_is_an_error(project) -> None:
    failed = project.pgclone("recover", "-d", "nowhere").failed(1)
    assert failed.stderr.startswith('error: there is no database "nowhere"')


def test_old_uploads_of_dumps_are_aborted_and_no_others(project, s3_bucket) -> None:
    settings = s3_bucket.settings("dumps/")
    for key in (f"dumps/{KEY}", KEY, f"media/{KEY}", "dumps/holiday.mov"):
        s3_bucket.client.create_multipart_upload(Bucket=s3_bucket.name, Key=key)
    s3_bucket.put(f"dumps/{KEY}.json", b"{}")

    # The server of the tests says of every upload that it was begun in 2010.
    young = project.pgclone("recover", "--older-than", "800000", settings=settings).ok()
    assert young.lines == ["nothing was left behind"]
    assert len(s3_bucket.open_uploads()) == 4
    dry = project.pgclone("recover", "--dry-run", settings=settings).ok()
    assert len(s3_bucket.open_uploads()) == 4
    done = project.pgclone("recover", settings=settings).ok()

    assert [line.split(":")[0] for line in done.lines] == [f'aborted the unfinished upload "{KEY}"']
    assert [line.split(":")[0] for line in dry.lines] == [
        f'would abort the unfinished upload "{KEY}"'
    ]
    assert s3_bucket.open_uploads() == ["dumps/holiday.mov", KEY, f"media/{KEY}"]
    assert s3_bucket.keys() == [f"dumps/{KEY}.json"]
    for upload in s3_bucket.client.list_multipart_uploads(Bucket=s3_bucket.name)["Uploads"]:
        s3_bucket.client.abort_multipart_upload(
            Bucket=s3_bucket.name, Key=upload["Key"], UploadId=upload["UploadId"]
        )


def test_an_old_upload_that_still_gets_parts_is_left_alone(project, s3_bucket) -> None:
    settings = s3_bucket.settings("dumps/")
    at = {"Bucket": s3_bucket.name, "Key": f"dumps/{KEY}"}
    upload = s3_bucket.client.create_multipart_upload(**at)["UploadId"]
    # The server of the tests says of every upload that it was begun in 2010, but not of its parts.
    s3_bucket.client.upload_part(**at, UploadId=upload, PartNumber=1, Body=b"PGDMP")
    done = project.pgclone("recover", settings=settings).ok()
    assert done.lines == ["nothing was left behind"]
    assert s3_bucket.open_uploads() == [f"dumps/{KEY}"]
    s3_bucket.client.abort_multipart_upload(**at, UploadId=upload)


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_was_stored_of_a_dump_that_runs_for_long_is_kept(project, dry_run: bool) -> None:
    path = partial_file(project.storage_root)
    of_another = Path(str(path).replace("/default/", "/other/"))
    of_another.parent.mkdir(parents=True)
    os.link(path, of_another)
    arguments = ["--dry-run"] * dry_run
    with locked(project, exclusive=False):
        done = project.pgclone("recover", "--json", *arguments).ok().json()["found"]
    told = {item["what"]: (item["outcome"], item["why"]) for item in done}
    assert told[f'the partial file "{path.relative_to(project.storage_root)}"'] == (
        "kept",
        'a dump or a restore of the database "default" is running',
    )
    name = of_another.relative_to(project.storage_root)
    assert told[f'the partial file "{name}"'][0] == "removed"
    assert (path.exists(), of_another.exists()) == (True, dry_run)

    project.pgclone("recover").ok()
    assert not path.exists()


# -- after real deaths -----------------------------------------------------------------------------


def is_unlocked(site: Site) -> bool:
    with connected(site.server) as server:
        return not is_locked(server, site.name)


def is_waiting(site: Site, program: str) -> bool:
    """Whether a session of the program waits for a lock."""
    rows = site.server.admin(
        "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
        " WHERE NOT l.granted AND a.application_name = %s",
        (program,),
    )
    return bool(rows)


def test_f29_after_the_death_of_a_restore_recover_leaves_nothing(project) -> None:
    key = project.pgclone("dump").ok().lines[0]
    databases, oid = project.server.databases(), project.oid
    running = project.start_pgclone("restore", key, "--pre-swap-hook", "hang_hook")
    wait_until((project.folder / "hook-hangs").exists)
    beside_it = project.pgclone("recover", "--older-than", "0").ok()
    assert "is running" in beside_it.lines[0]
    assert project.server.databases() == databases | {beside(project, "temp")}

    running.signal(signal.SIGKILL)
    running.wait()
    wait_until(lambda: is_unlocked(project))
    done = project.pgclone("recover", "--older-than", "0").ok()

    assert [line.split('"')[0] for line in done.lines] == ["dropped the temporary database "]
    assert project.server.databases() == databases
    assert project.oid == oid
    project.pgclone("restore", key).ok()


def test_what_a_failed_hook_and_a_held_restore_left_is_kept_for_its_days(project) -> None:
    key = project.pgclone("dump").ok().lines[0]
    databases = project.server.databases()
    project.pgclone("restore", key, "--hold").ok()
    project.pgclone("restore", key, "--pre-swap-hook", "failing_hook").failed(1)

    kept = project.pgclone("recover", "--json").ok().json()["found"]
    assert [(item["outcome"], item["what"]) for item in kept] == [
        ("kept", f'the held database "{beside(project, "held")}"'),
        ("kept", f'the failed database "{beside(project, "temp")}"'),
    ]

    project.settings["PGCLONE_TEMPORARY_DAYS"] = 0
    done = project.pgclone("recover", "--json").ok().json()["found"]
    assert [item["outcome"] for item in done] == ["dropped", "dropped"]
    assert project.server.databases() == databases


def passfiles() -> list[str]:
    return [path.name for path in Path(tempfile.gettempdir()).glob(f"pgclone-*{PASSFILE}")]


def test_f14_after_the_death_of_a_dump_recover_removes_what_it_left(project) -> None:
    with project.server.table_locked(project.name, '"MyTable"'):
        running = project.start_pgclone("dump")
        wait_until(lambda: is_waiting(project, "pg_dump"))
        (child,) = [p for p in processes.children() if p.name() == "pg_dump"]
        running.signal(signal.SIGKILL)
        running.wait()
        wait_until(lambda: is_unlocked(project))
        assert len(passfiles()) == 1
        young = project.pgclone("recover").ok()
        assert len(passfiles()) == 1
        done = project.pgclone("recover", "--older-than", "0").ok()

    assert [line.split("(")[0] for line in young.lines] == ["kept the session app "]
    assert [line.split('"')[0].split("(")[0] for line in done.lines] == [
        "kept the session app ",
        "removed the temporary file ",
    ]
    assert passfiles() == []
    assert processes.wait_gone(child.pid)
    assert project.files() == []


def test_a_copy_that_was_left_half_way_is_no_copy_and_is_dropped(project) -> None:
    """The one that it was to replace is still there."""
    older = left(project, "copy", "half")
    oid, databases = project.server.oid(older), project.server.databases()
    with project.server.table_locked(project.name, '"MyTable"'):
        running = project.start_pgclone("copy", ":half")
        wait_until(lambda: is_waiting(project, "pg_dump"))
        (child,) = [p for p in processes.children() if p.name() == "pg_dump"]
        running.signal(signal.SIGKILL)
        running.wait()
        wait_until(lambda: is_unlocked(project))
    assert processes.wait_gone(child.pid)
    assert project.server.oid("half") == oid
    (new,) = project.server.databases() - databases
    wait_until(lambda: not project.server.sessions(new))

    done = project.pgclone("recover", "--older-than", "0").ok()

    assert done.lines[0].startswith(f'dropped the new database "{new}": ')
    assert all(line.startswith("removed the temporary file ") for line in done.lines[1:])
    assert project.server.databases() == databases
