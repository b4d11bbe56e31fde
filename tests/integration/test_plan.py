"""A plan tells what a restore would do, and changes nothing."""

from __future__ import annotations

import re
import signal

import pytest

from pgclone_admin.core.locks import take_lock
from pgclone_admin.core.programs import choose_program, open_flaws
from pgclone_admin.core.server import Server
from tests.support.places import no_database_is_made
from tests.support.processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]


def planned(project, *arguments, status=0, **options):
    """The plan as JSON."""
    completed = project.pgclone("restore", *arguments, "--plan", "--json", **options)
    assert completed.returncode == status, completed
    return completed.json()


def codes(plan):
    return [obstacle["code"] for obstacle in plan["obstacles"]]


def test_a_plan_tells_what_is_replaced_and_changes_nothing(project):
    key = project.pgclone("dump").ok().lines[0]
    oid, databases, files = project.oid, project.server.databases(), project.files()

    with project.server.held_session(project.name):
        plan = planned(project, key, "--reversible")

    assert (plan["key"], plan["database"], plan["replaces"]) == (key, project.name, True)
    assert plan["sessions"] == 1
    assert plan["keeps"] == [":pre", ":post"]
    assert [hook["name"] for hook in plan["hooks"]] == ["migrate"]
    # Those of this app, whose tables the project does not have yet.
    assert plan["migrations"][0] == "pgclone_admin.0001_initial"
    assert {name.partition(".")[0] for name in plan["migrations"]} == {"pgclone_admin"}
    assert plan["unknown_migrations"] == []
    assert plan["restored_size"] > 1_000_000
    assert plan["entries"]["TABLE"] == plan["entries"]["TABLE DATA"] > 5
    assert plan["entries"]["INDEX"] > 3
    assert (plan["tablespace"], plan["tablespaces"]) == ("pg_default", [])
    assert plan["left_out"] == []
    assert codes(plan) == []
    assert (project.oid, project.server.databases(), project.files()) == (oid, databases, files)


def test_a_plan_as_text_says_so(project):
    key = project.pgclone("dump").ok().lines[0]

    lines = project.pgclone("restore", key, "--plan").ok().lines

    assert lines[0].startswith("restore     " + key)
    assert any(line.startswith("replaces    the live database of ") for line in lines)
    assert any(re.match(r"holds       .*TABLE DATA \d+, ", line) for line in lines)
    needs = next(line for line in lines if line.startswith("needs "))
    beside = next(line for line in lines if line.startswith("beside "))
    size = r"\d+\.\d MB"
    assert re.fullmatch(
        f"needs       about {size} on the disk of the server: temporary {size}", needs
    )
    assert re.fullmatch(f"beside      live {size}; {size} in all, until the end", beside)
    assert lines[-1].strip() == "nothing stands in the way"


def test_a_plan_adds_up_what_there_will_be_on_the_disk(project):
    key = project.pgclone("dump").ok().lines[0]
    project.pgclone("restore", key, "--reversible").ok()
    project.run("CREATE TABLE more AS SELECT repeat('x', 900) FROM generate_series(1, 3000)")

    plan = planned(project, key, "--reversible")

    size = project.server.admin("SELECT pg_database_size(%s)", (project.name,))[0][0]
    new = plan["restored_size"]
    space = {(each["name"], each["is_new"]): each["size"] for each in plan["space"]}
    older = [space.pop((copy, False)) for copy in (":pre", ":post")]
    live = space[("live", False)]
    assert space == {("live", False): live, ("temporary", True): new, (":post", True): new}
    # Autovacuum may add some pages between two looks.
    assert live == pytest.approx(size, abs=500_000)
    assert all(each > 1_000_000 for each in older)
    assert plan["needed_size"] == 2 * new
    assert plan["peak_size"] == live + sum(older) + 2 * new
    assert planned(project, key)["needed_size"] == new
    # An undo makes a copy of what it restores, and no other.
    undone = planned(project, ":pre")
    assert undone["needed_size"] == undone["restored_size"] == pytest.approx(older[0], abs=500_000)


def test_a_plan_of_a_dump_without_a_manifest_says_what_it_cannot_tell(project):
    key = project.pgclone("dump").ok().lines[0]
    (project.storage_root / f"{key}.json").unlink()

    plan = planned(project, key)
    shown = project.pgclone("restore", key, "--plan").ok().stdout

    assert plan["needed_size"] is plan["peak_size"] is None
    assert plan["entries"]["TABLE"] > 5
    assert "needs       room that cannot be told" in shown


def test_a_plan_names_migrations_that_will_run(make_project):
    project = make_project(upto="0001")
    key = project.pgclone("dump").ok().lines[0]

    plan = planned(project, key)

    assert [name for name in plan["migrations"] if name.startswith("people.")]
    assert plan["unknown_migrations"] == []


def test_a_plan_names_migrations_that_this_code_does_not_know(project):
    project.run(
        "INSERT INTO django_migrations (app, name, applied) VALUES ('people', '0099_newer', now())"
    )
    key = project.pgclone("dump").ok().lines[0]

    plan = planned(project, key)

    assert plan["unknown_migrations"] == ["people.0099_newer"]
    (told,) = [warning for warning in plan["warnings"] if "does not know" in warning]
    assert "(people.0099_newer)" in told
    # Whoever restores without having looked at a plan is told the same, and once.
    warned = project.pgclone("restore", key).ok().stderr
    assert warned.count(told) == 1


def test_migrations_of_an_app_whose_tables_are_kept_are_told_of_by_neither_plan_nor_restore(
    project,
):
    project.run(
        "INSERT INTO django_migrations (app, name, applied) VALUES ('people', '0099_newer', now())"
    )
    key = project.pgclone("dump").ok().lines[0]
    project.run("DELETE FROM django_migrations WHERE name = '0099_newer'")
    project.settings["PGCLONE_KEEP_APPS"] = ["people"]

    plan = planned(project, key)
    said = project.pgclone("restore", key).ok().stderr

    assert plan["unknown_migrations"] == []
    assert "does not know" not in said


def test_a_restore_warns_of_what_its_plan_warns_of_before_it_loads_anything(project):
    project.server.run("CREATE PUBLICATION everything FOR ALL TABLES", project.name)
    key = project.pgclone("dump").ok().lines[0]
    (project.storage_root / f"{key}.json").unlink()
    project.settings["PGCLONE_MAX_DISK_BYTES"] = 10**12

    plan = planned(project, key)
    said = project.pgclone("restore", key).ok().stderr

    assert any("how large the dump is" in warning for warning in plan["warnings"])
    for warning in plan["warnings"]:
        assert said.count(warning) == 1, warning
    assert plan["left_out"] == ["PUBLICATION everything"]
    left_out = said.index("left out, as this role cannot create it here: PUBLICATION everything")
    assert left_out < said.index("analyzing")
    assert said.count("PUBLICATION everything") == 1


def test_a_plan_of_a_local_copy_looks_for_its_migrations(project):
    project.pgclone("copy", ":older").ok()
    project.run("DELETE FROM django_migrations WHERE app = 'people'", dbname="older")
    project.run(
        "INSERT INTO django_migrations (app, name, applied) VALUES ('people', '0099_newer', now())",
        dbname="older",
    )

    without = planned(project, ":older", "--pre-swap-hook")
    shown = project.pgclone("restore", ":older", "--pre-swap-hook", "--plan").ok().stdout
    migrating = planned(project, ":older")

    lacking = without["missing_migrations"]
    assert {"people.0001_initial"} <= {*lacking}
    assert (without["migrations"], migrating["migrations"]) == (None, lacking)
    assert without["unknown_migrations"] == ["people.0099_newer"]
    told = (
        f"{len(lacking)} migrations of this code are not in it, and the hook migrate is not chosen"
    )
    assert [told in " ".join(plan["warnings"]) for plan in (without, migrating)] == [True, False]
    assert "it has 1 migration that this code does not know" in " ".join(migrating["warnings"])
    assert "not applied people.0001_initial" in shown


def test_a_plan_of_a_dump_warns_of_migrations_that_do_not_run(make_project):
    project = make_project(upto="0001")
    key = project.pgclone("dump").ok().lines[0]

    told = " ".join(planned(project, key, "--pre-swap-hook")["warnings"])

    assert "migrations of this code are not in it, and the hook migrate is not chosen" in told
    assert "migrations of this code" not in " ".join(
        planned(project, key, "--pre-swap-hook", "--to", ":look")["warnings"]
    )


def test_a_plan_lists_every_obstacle_and_fails(project):
    key = project.pgclone("dump").ok().lines[0]
    project.server.run(f'CREATE DATABASE "{project.name}__pre"')
    (project.storage_root / key).write_bytes(b"PGDMP" + b"x" * 50)

    plan = planned(project, key, "--reversible", status=1)

    assert codes(plan)[:2] == ["database_protected", "integrity_error"]
    assert all(obstacle["message"] for obstacle in plan["obstacles"])


def test_a_plan_proves_that_a_new_database_can_be_entered(own_pg, make_project):
    server = own_pg()
    project = make_project(server)
    key = project.pgclone("dump").ok().lines[0]
    rules = server.path / "data" / "pg_hba.conf"
    kept = rules.read_text()
    rules.write_text(
        f"host {project.name},postgres app 127.0.0.1/32 scram-sha-256\n"
        "host all app 127.0.0.1/32 reject\n" + kept
    )
    server.run("SELECT pg_reload_conf()")

    plan = planned(project, key, status=1)

    assert codes(plan) == ["preflight"]
    message = "a new database can be created, but not connected to"
    assert plan["obstacles"][0]["message"].startswith(message)
    assert "pg_hba.conf" in plan["obstacles"][0]["hint"]


def test_a_logical_slot_of_the_live_database_stops_a_restore(project):
    key = project.pgclone("dump").ok().lines[0]
    with project.server.connect(project.name) as connection:
        connection.cursor().execute(
            "SELECT pg_create_logical_replication_slot('plan_test', 'pgoutput')"
        )
    connection.close()
    try:
        failed = project.pgclone("restore", key).failed(1)
        plan = planned(project, key, status=1)
    finally:
        project.server.run("SELECT pg_drop_replication_slot('plan_test')", dbname=project.name)

    assert "logical replication slots: plan_test" in failed.stderr
    assert codes(plan) == ["conflict"]


def test_a_session_that_cannot_be_ended_stops_a_restore_before_anything_is_made(project):
    key = project.pgclone("dump").ok().lines[0]
    with project.server.held_session(project.name, user="other"):
        plan = planned(project, key, status=1)
        with no_database_is_made(project.server):
            failed = project.pgclone("restore", key).failed(1)

    assert codes(plan) == ["too_busy"]
    assert 'the role "app" may not end sessions that are connected: other (' in failed.stderr
    assert plan["obstacles"][0]["hint"].startswith("Nothing was changed. As a superuser: GRANT")


def test_a_plan_beside_replaces_nothing(project):
    key = project.pgclone("dump").ok().lines[0]

    plan = planned(project, key, "--to", ":look")

    assert (plan["database"], plan["replaces"], plan["keeps"]) == ("look", False, [])


def test_what_is_made_beside_takes_the_place_of_its_like_alone(project):
    key = project.pgclone("dump").ok().lines[0]
    project.pgclone("restore", key, "--to", ":look").ok()
    project.pgclone("copy", ":whole").ok()

    plan = planned(project, key, "--to", ":look")
    assert (plan["drops"], codes(plan)) == ([":look"], [])
    assert codes(planned(project, key, "--to", ":whole", status=1)) == ["database_protected"]

    before = project.server.oid("whole"), project.server.oid("look")
    assert 'there is a database "whole" already' in (
        project.pgclone("restore", key, "--to", ":whole").failed(1).stderr
    )
    assert 'there is a database "look" already' in project.pgclone("copy", ":look").failed(1).stderr
    assert (project.server.oid("whole"), project.server.oid("look")) == before
    project.pgclone("copy", ":whole").ok()
    project.pgclone("restore", key, "--to", ":look").ok()
    assert project.server.oid("whole") != before[0]
    assert project.server.oid("look") != before[1]


def test_a_plan_tells_of_the_work_that_would_keep_the_restore_away(project):
    key = project.pgclone("dump").ok().lines[0]
    assert not [w for w in planned(project, key)["warnings"] if "is running" in w]
    with Server.connected(project.server.params("postgres", "app")) as server:
        take_lock(server, project.name, exclusive=False)
        (told,) = [w for w in planned(project, key)["warnings"] if "is running" in w]
    assert told.startswith(f'a dump, a copy or a restore of the database "{project.name}"')


def test_a_plan_of_an_undo_keeps_what_it_restores(project):
    key = project.pgclone("dump").ok().lines[0]
    project.pgclone("restore", key, "--reversible").ok()

    plan = planned(project, ":pre")

    assert plan["keeps"] == [":pre", ":undo"]
    assert codes(plan) == []


def test_a_plan_without_reversible_says_which_copies_are_dropped(project):
    key = project.pgclone("dump").ok().lines[0]
    project.pgclone("restore", key, "--reversible").ok()

    assert planned(project, key)["drops"] == [":pre", ":post"]


def test_a_plan_tells_which_copies_the_next_ones_take_the_place_of(project):
    key = project.pgclone("dump").ok().lines[0]
    assert planned(project, key, "--reversible")["drops"] == []
    project.pgclone("restore", key, "--reversible").ok()
    project.pgclone("restore", ":pre").ok()

    plan = planned(project, key, "--reversible")
    shown = project.pgclone("restore", key, "--reversible", "--plan").ok().stdout

    assert (plan["keeps"], plan["drops"]) == ([":pre", ":post"], [":pre", ":post"])
    older, _post = plan["dropped"]
    assert (older["key"], older["database"]) == (":pre", f"{project.name}__pre")
    assert older["size"] > 1_000_000
    assert older["made_at"]
    assert re.search(
        r"drops       :pre \(\d+\.\d MB, \d+ \w+ old\), whose name is taken\n +:post \(", shown
    )
    for local in (":pre", ":undo"):
        plan = planned(project, local)
        assert plan["drops"] == [":undo"]
        assert plan["keeps"] == ([":pre", ":undo"] if local == ":pre" else [":undo"])
    assert planned(project, key, "--hold")["drops"] == []
    assert planned(project, key, "--to", ":look")["drops"] == []


def test_a_plan_tells_that_what_a_hook_has_failed_on_is_dropped(project):
    key = project.pgclone("dump").ok().lines[0]
    failing = ("--pre-swap-hook", "failing_hook")
    assert planned(project, key, *failing)["drops"] == []
    project.pgclone("restore", key, *failing).failed()

    temporary = f":{project.name}__temp"
    for arguments in ((), ("--hold",), ("--to", ":look"), ("--reversible",)):
        assert planned(project, key, *arguments)["drops"] == [temporary]
    project.pgclone("restore", key, "--to", ":look").ok()
    assert planned(project, key)["drops"] == []


def test_a_plan_leaves_out_what_another_restore_builds_just_now(project):
    key = project.pgclone("dump").ok().lines[0]
    running = project.start_pgclone("restore", key, "--pre-swap-hook", "hang_hook")
    wait_until((project.folder / "hook-hangs").exists, 30)
    plan = planned(project, key)
    running.signal(signal.SIGINT)
    running.wait(20)
    assert plan["drops"] == []
    assert any("is running" in warning for warning in plan["warnings"])


@pytest.mark.parametrize(
    "arguments", [["KEY", "--reversible"], ["KEY"], [":pre"], ["KEY", "--hold"]]
)
def test_what_a_plan_says_is_dropped_is_what_is_dropped(project, arguments):
    key = project.pgclone("dump").ok().lines[0]
    project.pgclone("restore", key, "--reversible").ok()
    project.pgclone("restore", ":pre").ok()
    project.pgclone("restore", key, "--hold").ok()
    arguments = [key if each == "KEY" else each for each in arguments]
    oids = {name: project.server.oid(name) for name in project.server.databases()}
    dropped = {copy["database"] for copy in planned(project, *arguments)["dropped"]}

    project.pgclone("restore", *arguments).ok()

    left = {project.server.oid(name) for name in project.server.databases()}
    gone = {name for name, oid in oids.items() if oid not in left}
    assert gone - {project.name} == dropped


def test_a_prepared_transaction_stops_a_restore(project):
    key = project.pgclone("dump").ok().lines[0]
    project.server.run(
        "BEGIN; CREATE TABLE half (id integer); PREPARE TRANSACTION 'plan test'",
        dbname=project.name,
        user="app",
    )
    try:
        failed = project.pgclone("restore", key).failed(1)
    finally:
        project.server.run("ROLLBACK PREPARED 'plan test'", dbname=project.name, user="app")

    assert "prepared transactions: plan test" in failed.stderr


def test_f42_a_plan_warns_of_a_dump_from_elsewhere_where_pg_restore_has_a_known_flaw(project):
    key = project.pgclone("dump").ok().lines[0]
    assert not any("can run code" in warning for warning in planned(project, key)["warnings"])
    (project.storage_root / f"{key}.json").unlink()

    warnings = planned(project, key)["warnings"]

    program = choose_program(
        "pg_restore", server_major=project.server.major, directories=[str(project.server.bin_dir)]
    )
    told = [warning for warning in warnings if "can run code on this machine" in warning]
    assert [all(flaw in text for flaw in open_flaws(program)) for text in told] == (
        [True] if open_flaws(program) else []
    )
