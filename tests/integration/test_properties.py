"""What a database has besides its contents comes along with a swap."""

from __future__ import annotations

import contextlib

import pytest

from pgclone_admin.core.errors import NotCarried, PermissionMissing
from pgclone_admin.core.names import derived_name
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.core.properties import Properties, carry, split_list_setting
from pgclone_admin.core.restore import swap_held

from .operations import connected, copy, request, restore, take, unchanged

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


def carried(source, target, *, user="app"):
    """Carries the properties and returns those of both databases, without their comments."""
    with connected(source.server, user=user) as server, server.transaction() as cursor:
        carry(cursor, server.existing(source.name), server.existing(target.name), target.name)
    return comparable(source), comparable(target)


def comparable(site):
    properties = site.database_properties()
    del properties["comment"]
    return properties


@pytest.fixture
def pair(any_pg, make_site):
    """Two empty databases without properties of their own."""
    return [make_site(any_pg, empty=True, properties=False) for _ in range(2)]


def alter(site, *statements):
    """Runs statements as a superuser; ``{db}`` is the quoted name of the database."""
    for statement in statements:
        site.server.admin(statement.replace("{db}", '"' + site.name.replace('"', '""') + '"'))


SETTINGS = [
    'SET search_path = "schéma 2", public, "$user", "it\'s", "a,b", "quo""te"',
    "SET temp_tablespaces = ''",
    "SET DateStyle = 'ISO, DMY'",
    "SET TimeZone = 'Europe/Berlin'",
    "SET application_name = 'it''s \"mine\" \\ = x'",
    "SET work_mem = '7MB'",
    "SET statement_timeout = 0",
    "SET default_transaction_read_only = on",
]


@pytest.mark.parametrize(
    "whose", ["DATABASE {db}", "ROLE app IN DATABASE {db}"], ids=["database", "role"]
)
def test_every_kind_of_setting_is_the_same_after(pair, whose):
    source, target = pair
    for setting in SETTINGS:
        alter(source, f"ALTER {whose} {setting}")
    alter(target, f"ALTER {whose} SET work_mem = '99MB'", f"ALTER {whose} SET jit = off")
    before, after = carried(source, target)
    assert after == before
    assert len(after["settings"]["" if whose.startswith("DATABASE") else "app"]) == len(SETTINGS)


@pytest.mark.parametrize("value", ["''", "DEFAULT", '"$user"'])
def test_a_search_path_of_nothing_or_little_stays_as_it_is(make_site, value):
    source, target = [make_site(empty=True, properties=False) for _ in range(2)]
    alter(source, "ALTER DATABASE {db} SET search_path = public")
    alter(source, f"ALTER DATABASE {{db}} SET search_path TO {value}")
    before, after = carried(source, target)
    assert after == before


def test_a_quoted_search_path_stays_a_list_of_names(pair):
    source, target = pair
    source.run('CREATE SCHEMA "a,b"; CREATE SCHEMA "quo""te"')
    target.run('CREATE SCHEMA "a,b"; CREATE SCHEMA "quo""te"')
    alter(source, 'ALTER DATABASE {db} SET search_path = "a,b", "quo""te", public')
    carried(source, target)
    assert target.run("SELECT current_schemas(false)") == [(["a,b", 'quo"te', "public"],)]
    assert target.run("SELECT current_schemas(false)") == source.run(
        "SELECT current_schemas(false)"
    )


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        ('"$user", public', ["$user", "public"]),
        ('"schéma 2", public', ["schéma 2", "public"]),
        ('"a,b","c""d"', ["a,b", 'c"d']),
        ('""', [""]),
        ("", [""]),
        ("  a ,  b  ", ["a", "b"]),
        ("single", ["single"]),
        ('"with \\ backslash"', ["with \\ backslash"]),
    ],
)
def test_the_stored_value_of_a_list_is_read_as_the_server_reads_it(stored, names):
    assert split_list_setting(stored) == names


GRANTS = {
    "none ever said": [],
    "nobody but the owner": ["REVOKE ALL ON DATABASE {db} FROM PUBLIC"],
    "public may less": ["REVOKE TEMPORARY ON DATABASE {db} FROM PUBLIC"],
    "public may more": ["GRANT CREATE ON DATABASE {db} TO PUBLIC"],
    "with grant option": [
        "GRANT CONNECT, CREATE ON DATABASE {db} TO reader WITH GRANT OPTION",
        "GRANT TEMPORARY ON DATABASE {db} TO other",
    ],
    "the owner has less": ["REVOKE CREATE ON DATABASE {db} FROM app"],
    "nobody at all": ["REVOKE ALL ON DATABASE {db} FROM PUBLIC, app"],
    "said and taken back": [
        "GRANT CREATE ON DATABASE {db} TO reader",
        "REVOKE CREATE ON DATABASE {db} FROM reader",
    ],
}


@pytest.mark.parametrize("of_target", ["none ever said", "with grant option", "nobody at all"])
@pytest.mark.parametrize("of_source", GRANTS)
def test_grants_are_the_same_after_whatever_was_there(make_site, of_source, of_target):
    source, target = [make_site(empty=True, properties=False) for _ in range(2)]
    alter(source, *GRANTS[of_source])
    alter(target, *GRANTS[of_target])
    before, after = carried(source, target)
    assert after == before


@pytest.mark.parametrize("limit", [-1, 0, 1, 60])
def test_the_connection_limit_is_the_same_after(make_site, limit):
    source, target = [make_site(empty=True, properties=False) for _ in range(2)]
    alter(source, f"ALTER DATABASE {{db}} CONNECTION LIMIT {limit}")
    alter(target, "ALTER DATABASE {db} CONNECTION LIMIT 7")
    before, after = carried(source, target)
    assert after == before
    assert after["connection_limit"] == limit


def test_carrying_twice_changes_nothing_more(make_site):
    source, target = make_site(empty=True), make_site(empty=True, properties=False)
    assert carried(source, target) == carried(source, target)


def test_grants_never_said_are_told_from_the_same_grants_said(make_site):
    said, unsaid = [make_site(empty=True, properties=False) for _ in range(2)]
    alter(said, "GRANT CONNECT ON DATABASE {db} TO PUBLIC")
    with connected(said.server) as server, server.transaction() as cursor:
        assert Properties.read(cursor, server.existing(unsaid.name)).grants is None
        assert Properties.read(cursor, server.existing(said.name)).grants == frozenset(
            {
                (None, "CONNECT", False),
                (None, "TEMPORARY", False),
                ("app", "CREATE", False),
                ("app", "CONNECT", False),
                ("app", "TEMPORARY", False),
            }
        )


# -- what may not be carried -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER DATABASE {db} SET log_statement = 'all'",
        "ALTER ROLE reader IN DATABASE {db} SET work_mem = '8MB'",
        "ALTER ROLE app IN DATABASE {db} SET log_min_duration_statement = 100",
        "ALTER DATABASE {db} SET myapp.tenant = 'one'",
    ],
)
def test_a_setting_beyond_the_role_is_refused_before_anything_is_loaded(
    make_site, storage_root, statement
):
    site = make_site()
    key = take(site, storage_root)
    alter(site, statement)
    with unchanged(site), pytest.raises(PermissionMissing) as raised:
        restore(site, key, storage_root, hooks=fail)
    assert raised.value.code == "not_carried"
    assert f'of the database "{site.name}" cannot be carried over' in raised.value.message
    assert "PGCLONE_CONNECTIONS" in raised.value.hint


BEYOND = [
    "ALTER DATABASE {db} SET log_statement = 'all'",
    "ALTER DATABASE {db} SET log_duration = on",
    "ALTER ROLE reader IN DATABASE {db} SET work_mem = '8MB'",
]
NAMES = ["log_duration", "log_statement", "reader:work_mem"]


def lost_in(reporter, database):
    """Names of what the warnings say was lost of the database."""
    told = f' of the database "{database}" is not carried over: permission denied'
    return sorted(text.partition(told)[0] for text in reporter.warnings if told in text)


def without_what_is_lost(site):
    properties = site.database_properties()
    settings = {
        whose: [each for each in listed if not each.startswith("log_")]
        for whose, listed in properties["settings"].items()
        if whose != "reader"
    }
    return {**properties, "settings": {whose: each for whose, each in settings.items() if each}}


def test_everything_that_cannot_be_carried_is_named_at_once(make_site, storage_root):
    site = make_site()
    key = take(site, storage_root)
    alter(site, *BEYOND)
    with unchanged(site), pytest.raises(PermissionMissing) as raised:
        restore(site, key, storage_root, hooks=fail, lose_settings=["log_statement", "work_mem"])
    assert "log_duration (permission denied" in raised.value.message
    assert "reader:work_mem (permission denied" in raised.value.message
    assert "log_statement" not in raised.value.message
    assert "--lose-settings log_duration reader:work_mem or" in raised.value.hint
    assert "PGCLONE_LOSE_SETTINGS" in raised.value.hint


def test_what_may_be_lost_is_lost_and_told_and_the_rest_is_carried(any_pg, make_site, storage_root):
    site = make_site(any_pg)
    key = take(site, storage_root)
    alter(site, *BEYOND)
    kept = without_what_is_lost(site)
    reporter = SilentReporter()
    # What can be carried is, whoever would do without it.
    lose = [*NAMES, "search_path"]
    result = restore(
        site, key, storage_root, reversible=True, reporter=reporter, lose_settings=lose
    )
    assert site.database_properties() == kept
    assert "search_path" in str(kept["settings"])
    assert sorted(each.name for each in result.swap.lost_settings) == NAMES
    assert lost_in(reporter, site.name) == NAMES
    for copy_of_it in ("pre", "post"):
        assert site.server.oid(derived_name(site.name, copy_of_it)) is not None

    pre = derived_name(site.name, "pre")
    with unchanged(site), pytest.raises(PermissionMissing, match="log_duration"):
        restore(site, ":pre", hooks=fail)
    restore(site, ":pre", reporter=reporter, lose_settings=NAMES)
    assert lost_in(reporter, pre) == NAMES
    assert site.database_properties() == kept


def test_what_was_set_while_the_restore_ran_is_not_lost_unasked(make_site, storage_root):
    site = make_site()
    key = take(site, storage_root)
    alter(site, BEYOND[0])
    oid = site.oid
    with pytest.raises(PermissionMissing, match="log_duration") as raised:
        restore(
            site,
            key,
            storage_root,
            hooks=lambda _temporary: alter(site, BEYOND[1]),
            lose_settings=["log_statement"],
        )
    assert site.oid == oid
    assert "What was restored is held: swap it in later" in raised.value.hint
    held = derived_name(site.name, "held")
    assert {each for each in site.server.databases() if each.startswith(site.name)} == {
        site.name,
        held,
    }
    oid = site.server.oid(held)
    swap_held(request(site, lose_settings=["log_statement", "log_duration"]), SilentReporter())
    assert site.oid == oid


@pytest.mark.parametrize("piped", [True, False], ids=["piped", "by the server"])
def test_a_copy_may_lack_what_cannot_be_carried(make_site, piped):
    site = make_site()
    alter(site, *BEYOND)
    reporter = SilentReporter()
    with contextlib.ExitStack() as stack:
        if piped:
            stack.enter_context(site.server.held_session(site.name))
        with unchanged(site), pytest.raises(PermissionMissing, match="log_duration"):
            copy(site, ":poorer")
        copy(site, ":poorer", reporter=reporter, lose_settings=NAMES)
    assert lost_in(reporter, site.name) == NAMES
    assert site.database_properties("poorer")["settings"] == without_what_is_lost(site)["settings"]


def test_the_plan_lists_what_cannot_be_carried_and_how_to_do_without(project):
    key = project.pgclone("dump").ok().lines[0]
    alter(project, *BEYOND)
    databases = project.server.databases()

    plan = project.pgclone("restore", key, "--plan", "--json").failed().json()
    assert plan["lost_settings"] == NAMES
    (obstacle,) = plan["obstacles"]
    assert obstacle["code"] == "not_carried"
    assert all(name in obstacle["message"] for name in NAMES)
    assert f"--lose-settings {' '.join(NAMES)} or PGCLONE_LOSE_SETTINGS" in obstacle["hint"]
    text = project.pgclone("restore", key, "--plan").failed().stdout
    assert "stopped by  settings or grants of the database" in text
    assert "lost        log_duration\n            log_statement\n" in text
    refused = project.pgclone("restore", key).failed()
    assert f"--lose-settings {' '.join(NAMES)}" in refused.stderr
    assert project.server.databases() == databases

    plan = project.pgclone("restore", key, "--plan", "--json", "--lose-settings", *NAMES).ok()
    assert plan.json()["lost_settings"] == NAMES
    assert len([text for text in plan.json()["warnings"] if "is not carried over" in text]) == 3


def test_settings_are_lost_by_flag_or_setting_in_a_restore_and_in_a_later_swap(project):
    key = project.pgclone("dump").ok().lines[0]
    alter(project, *BEYOND)
    project.settings["PGCLONE_LOSE_SETTINGS"] = NAMES
    project.pgclone("restore", "--hold", "--lose-settings", *NAMES, key).ok()
    oid = project.oid
    assert "log_duration" in project.pgclone("swap", "--lose-settings").failed().stderr
    assert project.oid == oid
    done = project.pgclone("swap", "--json").ok()
    assert done.json()["lost_settings"] == NAMES
    assert done.stderr.count("is not carried over") == 3
    assert project.oid != oid
    assert "log_" not in str(project.database_properties()["settings"])


def fail(_temporary):
    raise AssertionError("the hooks ran")


def test_a_superuser_carries_what_only_a_superuser_may_set(make_site, storage_root):
    site = make_site()
    alter(
        site,
        "ALTER DATABASE {db} SET log_statement = 'all'",
        "ALTER ROLE reader IN DATABASE {db} SET work_mem = '8MB'",
        "ALTER ROLE app IN DATABASE {db} SET log_min_duration_statement = 100",
        'ALTER DATABASE {db} SET "MyApp"."Mixed" = \'one "two", three\'',
    )
    properties = site.database_properties()
    key = take(site, storage_root, user="postgres")
    restore(site, key, storage_root, user="postgres")
    assert site.database_properties() == properties


# -- through whole operations ----------------------------------------------------------------------


def test_properties_changed_while_the_restore_runs_are_those_after_it(make_site, storage_root):
    site = make_site()
    key = take(site, storage_root)

    def change(_temporary):
        alter(
            site,
            "ALTER DATABASE {db} SET work_mem = '11MB'",
            "ALTER DATABASE {db} RESET statement_timeout",
            "ALTER DATABASE {db} CONNECTION LIMIT 33",
            "GRANT CREATE ON DATABASE {db} TO reader",
            "COMMENT ON DATABASE {db} IS 'changed meanwhile'",
        )

    restore(site, key, storage_root, hooks=change)
    properties = site.database_properties()
    assert properties["settings"][""] == ['search_path="schéma 2", public', "work_mem=11MB"]
    assert properties["connection_limit"] == 33
    assert properties["comment"] == "changed meanwhile"
    assert "reader CREATE" in " ".join(properties["acl"])


def test_the_settings_hold_while_the_archive_is_loaded_and_hooks_run(make_site, storage_root):
    site = make_site()
    key = take(site, storage_root)
    seen = []

    def look(name):
        seen.append(site.run("SHOW search_path", dbname=name))
        seen.append(site.run("SHOW work_mem", dbname=name))

    restore(site, key, storage_root, hooks=look)
    assert seen == [[('"schéma 2", public',)], [("7MB",)]]


def test_a_site_that_is_closed_for_a_while_can_be_restored_and_stays_closed(
    make_site, storage_root
):
    site = make_site()
    key = take(site, storage_root)
    alter(
        site,
        "ALTER DATABASE {db} CONNECTION LIMIT 0",
        "ALTER DATABASE {db} SET default_transaction_read_only = on",
    )
    properties = site.database_properties()

    def write(temporary):
        site.run("CREATE TABLE written (id integer)", dbname=temporary)

    restore(site, key, storage_root, reversible=True, hooks=write)

    assert site.database_properties() == properties
    assert site.run("SELECT count(*) FROM written", user="postgres") == [(0,)]


def test_going_back_to_pre_keeps_the_properties_of_the_live_database(make_site, storage_root):
    """They belong to the site that runs, not to the data."""
    site = make_site()
    key = take(site, storage_root)
    restore(site, key, storage_root, reversible=True)
    alter(site, "ALTER DATABASE {db} SET work_mem = '12MB'", "COMMENT ON DATABASE {db} IS 'new'")
    properties = site.database_properties()
    restore(site, ":pre")
    assert site.database_properties() == properties
    assert (
        site.database_properties(derived_name(site.name, "undo"))["settings"]
        == properties["settings"]
    )


@pytest.mark.parametrize("comment", [None, "", "x", "pgclone_admin is great", "ü 'quoted' \\"])
def test_the_comment_of_the_live_database_stays(make_site, storage_root, comment):
    site = make_site(empty=True)
    with connected(site.server) as server:
        server.execute(f'COMMENT ON DATABASE "{site.name}" IS %s', [comment])
    before = site.server.comment(site.name)
    key = take(site, storage_root)
    restore(site, key, storage_root)
    assert site.server.comment(site.name) == before


def test_a_database_that_takes_no_connections_is_copied_by_the_server(make_site):
    site = make_site(empty=True)
    alter(site, "ALTER DATABASE {db} CONNECTION LIMIT 0")
    result = copy(site, ":closed")
    assert not result.piped
    assert site.database_properties("closed")["connection_limit"] == 0


def test_a_security_label_that_cannot_be_carried_is_named(make_site, storage_root):
    site = make_site(empty=True, properties=False)
    key = take(site, storage_root)
    site.server.admin("SET allow_system_table_mods = on")
    site.server.admin(
        "INSERT INTO pg_shseclabel VALUES (%s, 'pg_database'::regclass, 'its provider', 'secret')",
        (site.oid,),
    )
    site.server.admin("RESET allow_system_table_mods")
    name = "SECURITY LABEL its provider"

    with unchanged(site), pytest.raises(NotCarried, match=name):
        restore(site, key, storage_root, user="postgres")
    result = restore(site, key, storage_root, user="postgres", lose_settings=[name])

    assert [each.name for each in result.swap.lost_settings] == [name]


def test_a_grant_that_another_role_has_passed_on_becomes_the_owners(pair):
    source, target = pair
    alter(
        source,
        "GRANT CONNECT ON DATABASE {db} TO other WITH GRANT OPTION",
        "SET ROLE other",
        "GRANT CONNECT ON DATABASE {db} TO reader",
        "RESET ROLE",
    )
    carried(source, target)
    assert target.run(
        "SELECT grantor::regrole::text FROM pg_database, aclexplode(datacl)"
        " WHERE datname = current_database() AND grantee = 'reader'::regrole"
    ) == [("app",)]


# -- where nothing is loaded before a swap ---------------------------------------------------------


def lives(session):
    with session.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchall() == [(1,)]


@pytest.mark.parametrize("held", [False, True], ids=["a local copy", "what is held"])
def test_nobody_is_sent_away_for_a_swap_that_could_not_carry_a_setting(
    make_site, storage_root, held
):
    site = make_site(empty=True)
    if held:
        restore(site, take(site, storage_root), storage_root, hold=True)
    else:
        copy(site, ":look")
    alter(site, "ALTER DATABASE {db} SET log_statement = 'all'")

    def swap(*lost):
        if held:
            swap_held(request(site, lose_settings=lost), SilentReporter())
        else:
            restore(site, ":look", lose_settings=lost)

    with unchanged(site), site.server.held_session(site.name) as session:
        with pytest.raises(PermissionMissing, match="log_statement") as raised:
            swap()
        assert lives(session)
    assert "--lose-settings log_statement" in raised.value.hint
    swap("log_statement")
    assert "log_statement" not in str(site.database_properties()["settings"])
