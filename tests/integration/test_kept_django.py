"""Logins, queue and history of a Django site outlive its restores."""

from __future__ import annotations

import json

import pytest

from tests.support.sites import fingerprint

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

SESSIONS = "django.contrib.sessions"
QUEUE = "django_q"
TABLES = ("django_q_ormq", "django_q_schedule", "django_q_task", "django_session")
CANARY = "a row that no dump may hold"


def with_settings(make):
    def make_site(*apps):
        project = make(apps=apps or (SESSIONS, QUEUE))
        project.settings |= {
            "ALLOWED_HOSTS": ["testserver"],
            "MIDDLEWARE": [
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
            ],
            "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
            "ROOT_URLCONF": "tests.project.urls",
            "Q_CLUSTER": {"orm": "default", "timeout": 30, "retry": 60},
        }
        return project

    return make_site


@pytest.fixture
def make_django_site(make_quick):
    return with_settings(make_quick)


@pytest.fixture
def django_site(make_django_site):
    return make_django_site()


def dump(project, **options):
    return project.pgclone("dump", **options).ok().lines[0]


def manifest(project, key):
    return json.loads((project.storage_root / f"{key}.json").read_text())


def rows(project, dbname=None):
    """What the kept tables hold."""
    return {
        table: project.run(f"SELECT t::text FROM {table} AS t ORDER BY 1", dbname=dbname)
        for table in TABLES
    }


NO_ROWS = {table: [] for table in TABLES}


def fill(project, text=CANARY, count=3):
    """Rows in every kept table, as a site has them that is at work."""
    project.run(
        """
        INSERT INTO django_session
        VALUES (left(gen_random_uuid()::text, 36), %(text)s, 'infinity');
        INSERT INTO django_q_ormq (key, payload, lock)
        SELECT %(text)s, 'payload ' || i, now() FROM generate_series(1, %(count)s) AS i;
        INSERT INTO django_q_schedule (name, func, schedule_type, repeats)
        VALUES (%(text)s, 'math.sqrt', 'D', -1);
        INSERT INTO django_q_task (id, name, func, started, stopped, success, attempt_count)
        VALUES (md5(random()::text), %(text)s, 'math.sqrt', now(), now(), true, 1);
        """,
        params={"text": text, "count": count},
    )


def log_in(project, *names, **options):
    """Session keys by name."""
    return project.manage("logins", *names, **options).ok().json()


def who(project, *keys, **options):
    """Who is logged in with these session keys, as the site itself sees it."""
    known = project.manage("logins", "--keys", *keys, **options).ok().json()
    return [known[key] for key in keys]


def contents(project):
    """All there is, but when which migration was applied, and what that is numbered."""
    found = fingerprint(project.server, project.name)
    for section in ("rows", "sequences"):
        found[section] = [line for line in found[section] if "django_migrations" not in line]
    return found


def sessions(project):
    return {row[0] for row in project.run("SELECT session_key FROM django_session")}


# -- dumps -----------------------------------------------------------------------------------------


def test_a_dump_has_the_definitions_of_kept_tables_and_none_of_their_rows(django_site):
    fill(django_site)
    key = dump(django_site)
    assert manifest(django_site, key)["kept"] == [f"public.{table}" for table in TABLES]
    archive = django_site.pgclone("cat", key).ok().output
    text = django_site.server.archive_as_sql(archive)
    for table in TABLES:
        assert f"CREATE TABLE public.{table} (" in text
        assert f"COPY public.{table} (" not in text
        assert f"ALTER TABLE ONLY public.{table}\n    ADD CONSTRAINT" in text
    assert CANARY not in text
    assert "COPY public.people_person (" in text


def test_what_is_kept_is_not_called_excluded(django_site):
    key = dump(django_site, settings={"PGCLONE_EXCLUDE": ["people.Secret"]})
    assert manifest(django_site, key)["excluded"] == ["public.my.tab ü"]


@pytest.mark.parametrize(
    ("kept_apps", "kept"),
    [([], []), (["sessions"], ["django_session"]), (["people"], ["MyTable", "my.tab ü"])],
)
def test_other_apps_can_be_kept_or_none(django_site, kept_apps, kept):
    """Rows that are not kept come back from the dump, the others stay what they are."""
    project = django_site
    project.settings["PGCLONE_KEEP_APPS"] = kept_apps
    fill(project, "dumped")
    project.run("""INSERT INTO "MyTable" (text) VALUES ('dumped')""")
    key = dump(project)
    named = {"public.people_person"} if "people" in kept_apps else set()
    assert set(manifest(project, key)["kept"]) == {f"public.{table}" for table in kept} | named
    dumped = rows(project)
    project.run("TRUNCATE django_session, django_q_ormq, django_q_task, django_q_schedule")
    project.run("""DELETE FROM "MyTable" WHERE text = 'dumped'""")
    fill(project, "today")
    today = rows(project)
    notes = project.notes()

    project.pgclone("restore", key).ok()

    expected = {table: today if table in kept else dumped for table in TABLES}
    assert rows(project) == {table: expected[table][table] for table in TABLES}
    assert project.notes() == (notes if "people" in kept_apps else [*notes, "dumped"])


def test_an_app_that_is_not_installed_cannot_be_kept(django_site):
    project = django_site
    project.settings["PGCLONE_KEEP_APPS"] = [SESSIONS, "sessions"]
    checked = project.manage("check").failed()
    assert "(pgclone_admin.E003)" in checked.stderr
    assert "names apps that are not installed: django.contrib.sessions" in checked.stderr
    refused = project.pgclone("dump").failed()
    assert "names apps that are not installed: django.contrib.sessions" in refused.stderr
    assert project.files() == []


def test_an_app_with_relations_to_other_apps_cannot_be_kept(django_site):
    """Told by the system checks, and by a restore that is tried all the same."""
    project = django_site
    key = dump(project)
    project.settings["PGCLONE_KEEP_APPS"] = ["auth"]
    checked = project.manage("check").failed()
    assert "(pgclone_admin.E005)" in checked.stderr
    assert "auth.Permission.content_type" in checked.stderr
    oid = project.oid
    refused = project.pgclone("restore", key).failed()
    assert "kept tables have foreign keys from or to other tables" in refused.stderr
    assert "auth_permission_content_type" in refused.stderr
    plan = project.pgclone("restore", key, "--plan", "--json").failed().json()
    assert [obstacle["code"] for obstacle in plan["obstacles"]] == ["conflict"]
    assert project.oid == oid


# -- restores --------------------------------------------------------------------------------------


def test_a_restore_keeps_logins_queue_results_and_schedules(django_site):
    project = django_site
    before_the_dump = log_in(project, "ada", "grace")
    key = dump(project)
    project.add_person("after the dump")
    fill(project)
    project.run("DELETE FROM django_q_ormq WHERE id = (SELECT max(id) FROM django_q_ormq)")
    later = log_in(project, "ada")
    before = rows(project)
    (last,) = project.run("SELECT last_value FROM django_q_ormq_id_seq")[0]

    restored = project.pgclone("restore", key, "--json").ok().json()

    assert restored["kept_seconds"] > 0
    assert "after the dump" not in project.people()
    assert rows(project) == before
    keys = [*before_the_dump.values(), *later.values()]
    assert who(project, *keys) == ["ada", "grace", "ada"]
    # An acknowledgement goes by number: no row may get one that another row has had.
    fill(project, count=1)
    assert project.run("SELECT max(id) FROM django_q_ormq") == [(last + 1,)]
    project.manage("migrate", "--check").ok()


def test_sessions_that_have_expired_stay_behind(django_site):
    project = django_site
    key = dump(project)
    project.run(
        "INSERT INTO django_session VALUES ('old', '', now() - interval '1 s'),"
        " ('valid', '', now() + interval '1 day')"
    )
    project.pgclone("restore", key).ok()
    assert sessions(project) == {"valid"}


@pytest.mark.parametrize("others", [0, 9], ids=["most people differ", "most people are the same"])
def test_who_is_somebody_else_in_the_restored_database_is_logged_out(django_site, others):
    project = django_site
    users = [f"user {number}" for number in range(others)]
    project.run(
        "INSERT INTO auth_user (username, password, is_superuser, first_name, last_name, email,"
        " is_staff, is_active, date_joined)"
        " SELECT name, '', false, '', '', '', false, true, now() FROM unnest(%s::text[]) AS name",
        params=(users,),
    )
    keys = log_in(project, "ada", "grace", "bob", "deleted")
    key = dump(project)
    keys |= log_in(project, "new")
    project.run("INSERT INTO django_session VALUES ('anonymous', '', 'infinity')")
    # Bob's number is Eve's today, and the dump brings Bob back.
    project.run("UPDATE auth_user SET username = 'eve' WHERE username = 'bob'")
    project.run("DELETE FROM auth_user WHERE username = 'deleted'")
    assert who(project, *keys.values()) == ["ada", "grace", "eve", "", "new"]

    project.pgclone("restore", key).ok()

    assert sessions(project) == {keys["ada"], keys["grace"], "anonymous"}
    assert who(project, *keys.values()) == ["ada", "grace", "", "", ""]


def test_where_the_restored_database_has_no_users_only_nobody_stays_logged_in(django_site):
    """A dump of other code, restored without the migrations that would make it that of this one."""
    project = django_site
    key = log_in(project, "ada")["ada"]
    project.run("INSERT INTO django_session VALUES ('anonymous', '', 'infinity')")
    project.run("ALTER TABLE auth_user RENAME username TO login")
    other = dump(project)
    project.run("ALTER TABLE auth_user RENAME login TO username")
    assert who(project, key) == ["ada"]
    project.pgclone("restore", other, "--pre-swap-hook").ok()
    assert sessions(project) == {"anonymous"}


@pytest.mark.parametrize("model", ["Account", "Customer"])
def test_users_of_another_model_are_told_apart_by_its_name_field(make_project, model):
    project = with_settings(make_project)(SESSIONS, "tests.project.accounts")
    project.settings |= {"AUTH_USER_MODEL": f"accounts.{model}"}
    keys = log_in(project, "ada@example.org", "bob@example.org")
    key = dump(project)
    project.run("""UPDATE "the Accounts" SET "e-mail" = 'eve@x' WHERE "e-mail" LIKE 'bob%'""")

    project.pgclone("restore", key).ok()

    assert sessions(project) == {keys["ada@example.org"]}
    assert who(project, *keys.values()) == ["ada@example.org", ""]


@pytest.mark.parametrize("hooks", [[], ["--pre-swap-hook"]], ids=["migrate", "no hooks"])
def test_a_dump_that_does_not_know_a_kept_app_yet_gets_its_tables(make_django_site, hooks):
    project = make_django_site(SESSIONS)
    key = dump(project)
    project.apps = [SESSIONS, QUEUE]
    project.manage("migrate", "--verbosity=0").ok()
    fill(project)
    before = rows(project)
    whole = contents(project)

    project.pgclone("restore", key, *hooks).ok()

    assert rows(project) == before
    # Content types and permissions are data, which migrate brings; the run has a row of its own.
    unlike = ["rows", "sequences"]
    assert contents(project).without(*unlike) == whole.without(*unlike)
    project.manage("migrate", "--check").ok()


BEFORE = "0013"


def test_a_dump_from_before_a_migration_of_a_kept_app_gets_the_tables_of_today(django_site):
    project = django_site
    project.manage("migrate", "--verbosity=0", "django_q", BEFORE).ok()
    key = dump(project)
    project.manage("migrate", "--verbosity=0").ok()
    fill(project)
    before = rows(project)
    assert project.run("SELECT cluster FROM django_q_task") == [(None,)]

    project.pgclone("restore", key).ok()

    assert rows(project) == before
    project.manage("migrate", "--check").ok()


def test_a_migration_of_a_kept_app_that_the_live_database_lacks_has_to_come_first(django_site):
    project = django_site
    key = dump(project)
    project.manage("migrate", "--verbosity=0", "django_q", BEFORE).ok()
    oid, databases = project.oid, project.server.databases()

    refused = project.pgclone("restore", key).failed()

    assert "public.django_q_task" in refused.stderr
    assert "hint: The live database was not touched. Run migrate on it first" in refused.stderr
    assert (project.oid, project.server.databases()) == (oid, databases)

    project.manage("migrate", "--verbosity=0").ok()
    fill(project)
    before = rows(project)
    project.pgclone("restore", key).ok()
    assert rows(project) == before


def test_a_restore_without_hooks_keeps_the_tables_of_a_site_that_is_not_migrated(django_site):
    project = django_site
    key = dump(project)
    project.manage("migrate", "--verbosity=0", "django_q", BEFORE).ok()
    project.run("INSERT INTO django_q_ormq (key, payload, lock) VALUES ('k', 'p', now())")

    project.pgclone("restore", key, "--pre-swap-hook").ok()

    assert project.run("SELECT key FROM django_q_ormq") == [("k",)]
    assert project.manage("migrate", "--check").returncode == 1
    project.manage("migrate", "--verbosity=0").ok()


# -- copies ----------------------------------------------------------------------------------------


def test_copies_made_by_a_restore_hold_no_row_of_kept_tables(django_site):
    project = django_site
    fill(project)
    key = dump(project)
    project.pgclone("restore", key, "--to", ":look").ok()
    assert rows(project, "look") == NO_ROWS
    project.pgclone("restore", key, "--reversible").ok()
    assert rows(project, f"{project.name}__post") == NO_ROWS
    # As it was, and nobody but the owner may enter it.
    assert rows(project, f"{project.name}__pre") == rows(project) != NO_ROWS


def test_going_back_keeps_the_rows_of_today_and_does_so_again(django_site):
    project = django_site
    fill(project, "first")
    key = dump(project)
    project.add_person("before the restore")
    project.pgclone("restore", key, "--reversible").ok()
    restored_people = project.people()
    fill(project, "second")
    today = rows(project)

    project.pgclone("restore", ":pre").ok()
    assert rows(project) == today
    assert "before the restore" in project.people()

    fill(project, "third")
    today = rows(project)
    project.pgclone("restore", ":undo").ok()
    assert rows(project) == today
    assert project.people() == restored_people


# -- plans -----------------------------------------------------------------------------------------


def test_a_plan_tells_what_stays_as_it_is(django_site):
    project = django_site
    key = dump(project)
    names = [f"public.{table}" for table in TABLES]
    plan = project.pgclone("restore", key, "--plan", "--json").ok().json()
    assert plan["kept"] == names
    lines = project.pgclone("restore", key, "--plan").ok().lines
    assert f"stay        {', '.join(names)}: as they are, with their rows" in lines
    beside = project.pgclone("restore", key, "--plan", "--to", ":look").ok()
    assert not any(line.startswith("stay") for line in beside.lines)
    project.settings["PGCLONE_KEEP_APPS"] = []
    lines = project.pgclone("restore", key, "--plan").ok().lines
    assert not any(line.startswith("stay") for line in lines)


# -- several databases -----------------------------------------------------------------------------


def test_tables_are_kept_in_the_database_that_the_routers_say_has_them(make_django_site):
    """The other database has tables of these names as well, which nobody uses."""
    default, other = make_django_site(), make_django_site()
    options = {
        "database": {**default.databases(), "other": other.dsn_dict()},
        "settings": {
            "DATABASE_ROUTERS": ["tests.project.routers.ByLabel"],
            "TEST_ROUTES": {"sessions": "other", "django_q": "other", "people": "default"},
            "Q_CLUSTER": {"orm": "other"},
        },
    }
    fill(default, "in default")
    fill(other, "in other")
    of_default = dump(default, **options)
    of_other = default.pgclone("dump", "-d", "other", **options).ok().lines[0]
    assert manifest(default, of_default)["kept"] == []
    assert manifest(default, of_other)["kept"] == [f"public.{table}" for table in TABLES]
    in_default, in_other = rows(default), rows(other)
    fill(default, "later")
    fill(other, "later")
    today = rows(other)
    assert today != in_other

    default.pgclone("restore", of_default, **options).ok()
    assert rows(default) == in_default
    assert rows(other) == today

    default.pgclone("restore", of_other, "-d", "other", **options).ok()
    assert rows(other) == today
    assert rows(default) == in_default
