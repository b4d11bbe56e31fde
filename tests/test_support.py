"""The test infrastructure itself: each fixture does what `tests.conftest` says of it."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import psycopg2
import pytest
from botocore.exceptions import ClientError, IncompleteReadError
from django.conf import settings as django_settings
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.db import connection as django_connection
from storages.backends.s3 import S3Storage

from .support import CANARY, ROOT, S3_ACCESS_KEY, S3_CANARY, SECRET_ROW, invariants, processes
from .support import fake_programs as fake
from .support.postgres import PASSWORDS, available
from .support.s3 import client
from .support.storages import StorageBroke

# -- servers --------------------------------------------------------------------------------------


def test_every_server_has_the_roles_and_speaks_over_tcp_and_socket(any_pg):
    assert any_pg.version.startswith(str(any_pg.major))
    roles = any_pg.run(
        "SELECT rolname, rolcanlogin, rolcreatedb, rolsuper FROM pg_roles"
        " WHERE rolname IN ('app', 'reader', 'other', 'postgres') ORDER BY 1"
    )
    assert roles == [
        ("app", True, True, False),
        ("other", True, False, False),
        ("postgres", True, True, True),
        ("reader", False, False, False),
    ]
    for socket in (False, True):
        with contextlib.closing(any_pg.connect("postgres", "app", socket=socket)) as connection:
            address = "inet_server_addr()" if not socket else "'' || (inet_server_addr() IS NULL)"
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT {address}")
                assert cursor.fetchone() == ("127.0.0.1" if not socket else "true",)


def test_passwords_are_asked_for_everywhere(pg):
    for host in (pg.host, str(pg.socket_dir)):
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(
                host=host, port=pg.port, user="app", password="wrong", dbname="postgres"
            )
    assert PASSWORDS["app"] == CANARY


def test_the_settings_trade_safety_for_speed(any_pg):
    names = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum", "max_connections")
    assert [any_pg.run(f"SHOW {name}")[0][0] for name in names] == [
        "off",
        "off",
        "off",
        "on",
        "100",
    ]


def test_servers_do_not_run_as_root(pg):
    assert processes.psutil.Process(pg.process.pid).uids().real != 0


def test_the_versions_promised_are_the_fixtures(pg, pg18, pg16):
    assert pg is pg18
    assert (pg18.major, pg16.major) == (18, 16)
    assert {18, 16} <= set(available())


def test_pg15_is_there_or_skipped(pg15):
    assert pg15.major == 15


def test_helpers_describe_the_server_for_others(pg, site):
    entry = site.dsn_dict()
    assert entry["NAME"] == site.name
    assert entry["PASSWORD"] == CANARY
    shown = subprocess.run(
        [pg.program("psql"), "-XAtc", "SELECT current_user, current_database()"],
        env=pg.psql_env(site.name, socket=True),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.strip() == f"app|{site.name}"
    assert pg.oid(site.name) == site.oid
    assert pg.oid("no such database") is None
    assert site.name in pg.databases()
    assert "ünique" in pg.comment(site.name)
    pytest.importorskip("pgclone_admin.core.connection")
    parameters = site.params(socket=True)
    assert (parameters.host, parameters.dbname) == (str(pg.socket_dir), site.name)
    assert CANARY not in repr(parameters)


def test_an_own_server_can_be_killed_and_comes_back(own_pg):
    server = own_pg()
    server.create_database("kept")
    port, pid = server.port, server.process.pid
    server.kill()
    assert not processes.is_running(pid)
    server.start()
    assert server.port == port
    assert "kept" in server.databases()
    os.kill(server.process.pid, signal.SIGKILL)
    assert processes.wait_gone(server.process.pid)
    server.start()
    assert "kept" in server.databases()
    path = server.path
    server.destroy()
    assert not path.exists()


def told_before_it_was_ended(script, how):
    """The words of the first line that a process of the tests has printed."""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        told = process.stdout.readline().split()
        process.send_signal(how)
        process.wait(timeout=30)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_server_survives_the_test_process(how):
    """Whatever ends the run, the lifeline or atexit ends the server and removes its data."""
    script = textwrap.dedent(
        """
        import time
        from tests.support.postgres import PostgresServer, available
        major, folder = next(iter(available().items()))
        server = PostgresServer(folder, major)
        server.create()
        print(server.process.pid, server.path, flush=True)
        time.sleep(600)
        """
    )
    pid, path = told_before_it_was_ended(script, how)
    assert processes.wait_gone(int(pid), 15)
    until = time.monotonic() + 10
    while Path(path).exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(path).exists()


@pytest.mark.slow
def test_no_command_and_nothing_below_it_survives_the_test_process():
    script = textwrap.dedent(
        """
        import subprocess, time
        from tests.support.processes import register_group
        command = subprocess.Popen(
            ["sh", "-c", "trap '' INT QUIT; sleep 600 & echo $!; wait"],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )
        register_group(command.pid)
        print(command.pid, command.stdout.readline(), flush=True)
        time.sleep(600)
        """
    )
    pids = [int(pid) for pid in told_before_it_was_ended(script, signal.SIGKILL)]
    assert len(pids) == 2
    assert all(processes.wait_gone(pid, 15) for pid in pids)


# -- databases ------------------------------------------------------------------------------------


def test_a_site_holds_what_a_dump_must_carry(site):
    found = site.fingerprint()
    assert sum(found.rows.values()) > 5000
    assert {'public."MyTable"', 'public."my.tab"', '"schéma 2"."tāble"'} <= set(found.rows)
    assert {"public.sales", 'public."orders rest"', "public.orders_2025"} <= set(found.rows)
    assert len(found["large objects"]) == 3
    assert len(found["triggers"]) == 1
    assert len(found["policies"]) == 1
    assert len(found["default privileges"]) == 2
    assert any("PARTITION BY" in line or "RANGE" in line for line in found["relations"])
    assert site.run(
        'SELECT count(*) FROM "MyTable" WHERE "Mixed Case" = %s', params=(SECRET_ROW,)
    ) == [(1,)]
    properties = site.database_properties()
    assert properties["owner"] == "app"
    assert properties["connection_limit"] == 60
    assert properties["settings"] == {
        "": ['search_path="schéma 2", public', "statement_timeout=300s"],
        "app": ["work_mem=7MB"],
    }
    assert "reader CONNECT f" in properties["acl"]


def test_two_sites_are_equal_and_a_bare_restore_of_one_too(any_pg, make_site):
    first, second = make_site(any_pg), make_site(any_pg, 'we"ird = näme')
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint().digest == second.fingerprint().digest
    assert first.database_properties() == second.database_properties()
    archive = first.archive()
    assert SECRET_ROW in any_pg.archive_as_sql(archive)
    bare = make_site(any_pg, empty=True, properties=False)
    subprocess.run(
        [any_pg.program("pg_restore"), "-d", bare.name, "--exit-on-error"],
        env=any_pg.psql_env(bare.name),
        input=archive,
        check=True,
    )
    assert bare.fingerprint() == first.fingerprint()
    assert bare.database_properties() != first.database_properties()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE product SET price = 0 WHERE id = 7",
        "DELETE FROM order_line WHERE id = 5",
        "GRANT SELECT ON sales TO other",
        "COMMENT ON TABLE product IS 'x'",
        "SELECT lo_put((SELECT content FROM document WHERE id = 2), 5, 'x')",
        "SELECT nextval('product_id_seq')",
        "ALTER TABLE product DISABLE TRIGGER product_changed",
        "DROP INDEX orders_customer_idx",
        "ALTER TYPE order_state ADD VALUE 'lost'",
        'REVOKE USAGE ON SCHEMA "schéma 2" FROM reader',
        "REFRESH MATERIALIZED VIEW sales WITH NO DATA",
        "CREATE RULE quiet AS ON DELETE TO product DO INSTEAD NOTHING",
        "CREATE STATISTICS related ON id, price FROM product",
        "ALTER TABLE product ALTER COLUMN price SET STATISTICS 200",
        "ALTER SEQUENCE product_id_seq OWNED BY NONE",
        "CREATE COLLATION plain (provider = libc, locale = 'C')",
        "CREATE TEXT SEARCH CONFIGURATION plainly (COPY = simple)",
        'CREATE CAST (order_state AS "schéma 2"."Size") WITH INOUT',
    ],
)
def test_a_fingerprint_sees_every_change(site, change):
    before = site.fingerprint()
    site.run(change)
    assert site.fingerprint() != before


def test_a_fingerprint_ignores_row_order_and_dropped_columns(site):
    before = site.fingerprint()
    site.run("CREATE TABLE copied AS TABLE product")
    site.run("ALTER TABLE product ADD COLUMN gone integer")
    site.run("ALTER TABLE product DROP COLUMN gone")
    site.run("DROP TABLE copied")
    site.run(
        "BEGIN; ALTER TABLE product DISABLE TRIGGER USER;"
        " UPDATE product SET title = title WHERE id < 50;"
        " ALTER TABLE product ENABLE TRIGGER USER; COMMIT"
    )
    assert site.fingerprint() == before


def test_a_site_can_have_a_locale_of_its_own(pg, make_site):
    assert make_site(pg, extra="LOCALE 'C'").database_properties()["collate"] == "C"


_seen: list[str] = []


def test_databases_of_a_test_are_dropped_1(pg, make_site):
    name = make_site().name
    pg.run(f'CREATE DATABASE "{name}__temp"')
    pg.run('CREATE DATABASE "a template" IS_TEMPLATE true ALLOW_CONNECTIONS false')
    _seen.extend([name, f"{name}__temp", "a template"])


def test_databases_of_a_test_are_dropped_2(pg):
    assert _seen
    assert not pg.databases() & set(_seen)


def test_sessions_and_locks_can_be_held(pg, site):
    with pg.held_session(site.name):
        assert pg.sessions(site.name) == 1
    with (
        pg.table_locked(site.name, '"MyTable"'),
        pytest.raises(psycopg2.errors.LockNotAvailable),
    ):
        site.run('SET lock_timeout = 50; SELECT * FROM "MyTable"')


@pytest.mark.filterwarnings("error")
def test_django_in_this_process_can_use_a_site(use_database, site):
    use_database(site)
    with django_connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), current_user")
        assert cursor.fetchone() == (site.name, "app")


# -- Django as a process --------------------------------------------------------------------------


def test_manage_runs_with_a_clean_environment(manage, site, monkeypatch):
    monkeypatch.setenv("PGSERVICE", "evil")
    done = manage("where_am_i", database=site, plain=True, without_app=True).ok()
    assert done.stdout == f"{site.name}\n"
    assert done.lines == [site.name]
    failed = manage("failing_hook", database=site.dsn_dict(), without_app=True)
    assert failed.returncode == 1
    assert manage("no_such_command", without_app=True).failed(1).stderr.startswith("Unknown")


def test_manage_passes_settings_environment_and_input(manage):
    shown = manage(
        "shell",
        "--no-imports",
        settings={"PGCLONE_INSTANCE": "unit"},
        env={"EXTRA": "yes", "HOME": None},
        input="import os; from django.conf import settings as s\n"
        "print(s.PGCLONE_INSTANCE, os.environ['EXTRA'], 'HOME' in os.environ)\n",
        without_app=True,
    )
    if "unrecognized arguments" in shown.stderr:  # before Django 5.2
        pytest.skip("this Django's shell has no --no-imports")
    assert shown.ok().stdout.strip() == "unit yes False"


def test_manage_can_be_started_and_signalled(manage, project, nothing_left_behind):
    running = project.start("hang_hook", "--query", without_app=True)
    mark = project.folder / "hook-hangs"
    until = time.monotonic() + 30
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert project.server.sessions(project.name) == 1
    running.signal(signal.SIGTERM)
    assert running.wait(30).returncode == -signal.SIGTERM


def test_a_command_that_hangs_is_ended(manage):
    with pytest.raises(subprocess.TimeoutExpired):
        manage("hang_hook", without_app=True, timeout=1.5)
    assert processes.leftovers() == []


def test_a_project_has_people_notes_and_secrets(project):
    assert len(project.people()) == 3
    assert len(project.notes()) == 3
    assert project.migrations() == ["0001_initial", "0002_person_nickname"]
    assert project.run('SELECT DISTINCT value FROM "my.tab ü"') == [(SECRET_ROW,)]
    project.add_person("Somebody")
    assert project.people()[-1] == "Somebody"
    assert project.files() == []
    assert project.storage_root.is_dir()


def test_an_old_project_needs_migrate(make_project):
    project = make_project(upto="0001", name="old = 'one'")
    assert project.migrations() == ["0001_initial"]
    project.manage("migrate", "--verbosity=0", without_app=True).ok()
    assert project.migrations() == ["0001_initial", "0002_person_nickname"]
    assert project.run("SELECT nickname FROM people_person ORDER BY id LIMIT 1") == [("ada",)]


def test_the_migrations_are_complete(project):
    project.manage("makemigrations", "--check", "--dry-run", "people", without_app=True).ok()


def test_a_project_may_be_reached_by_socket(project):
    project.socket = True
    assert project.databases()["default"]["HOST"] == str(project.server.socket_dir)
    assert project.manage("where_am_i", without_app=True).ok().lines == [project.name]


def test_hooks_do_what_they_are_called(project):
    project.manage("good_hook", "--text", "hello", without_app=True).ok()
    assert project.notes()[-1] == f"hello in {project.name}"
    project.manage("failing_hook", without_app=True).failed(1)
    assert project.people() == []
    leak = project.manage("leaky_hook", without_app=True)
    assert CANARY in leak.stdout
    assert CANARY in leak.stderr


# -- S3 -------------------------------------------------------------------------------------------


def test_a_bucket_stores_lists_and_gives_back(s3_bucket, nothing_left_behind):
    assert s3_bucket.keys() == []
    s3_bucket.put("a/b c ü.dump", b"abc")
    assert s3_bucket.keys() == s3_bucket.keys("a/") == ["a/b c ü.dump"]
    assert s3_bucket.body("a/b c ü.dump") == b"abc"
    s3_bucket.delete("a/b c ü.dump")
    assert s3_bucket.keys() == []
    settings = s3_bucket.settings("some/prefix/")
    assert settings["PGCLONE_STORAGE_LOCATION"] == f"s3://{s3_bucket.name}/some/prefix/"
    assert settings["PGCLONE_S3_CONFIG"]["AWS_ACCESS_KEY_ID"] == S3_ACCESS_KEY
    assert settings["PGCLONE_S3_CONFIG"]["AWS_SECRET_ACCESS_KEY"] == S3_CANARY


def test_django_storages_reaches_the_bucket(s3_bucket):
    storage = S3Storage(**s3_bucket.storage_options(location="in/"))
    assert storage.save("x.dump", ContentFile(b"content")) == "x.dump"
    assert s3_bucket.keys() == ["in/x.dump"]


def test_an_open_upload_is_seen(s3_bucket):
    s3_bucket.client.create_multipart_upload(Bucket=s3_bucket.name, Key="half")
    assert s3_bucket.open_uploads() == ["half"]


@pytest.fixture
def proxied(s3_proxy):
    with contextlib.closing(client(s3_proxy.endpoint_url)) as connection:
        yield connection


def test_the_proxy_forwards(s3_bucket, s3_proxy, proxied):
    content = os.urandom(9_000_000)
    proxied.upload_fileobj(io.BytesIO(content), s3_bucket.name, "ü 1")
    assert s3_bucket.body("ü 1") == content
    with contextlib.closing(proxied.get_object(Bucket=s3_bucket.name, Key="ü 1")["Body"]) as body:
        assert body.read() == content
    assert proxied.head_object(Bucket=s3_bucket.name, Key="ü 1")["ContentLength"] == 9_000_000
    assert len(s3_proxy.seen("UploadPart")) == 2
    assert [r.status for r in s3_proxy.seen("CompleteMultipartUpload")] == [200]


def test_the_proxy_cuts_downloads(s3_bucket, s3_proxy, proxied):
    content = os.urandom(3_000_000)
    s3_bucket.put("big", content)
    s3_proxy.cut_gets(after=1_000_000)
    got = bytearray()

    def download(**options):
        answer = proxied.get_object(Bucket=s3_bucket.name, Key="big", **options)
        with contextlib.closing(answer["Body"]) as body:
            while chunk := body.read(64 * 1024):
                got.extend(chunk)

    with pytest.raises(IncompleteReadError):
        download()
    assert 900_000 < len(got) <= 1_000_000
    have = len(got)
    download(Range=f"bytes={have}-")
    assert bytes(got) == content
    assert [r.cut for r in s3_proxy.seen("GetObject")] == [True, False]
    assert s3_proxy.seen("GetObject")[1].range == f"bytes={have}-"


@pytest.mark.parametrize("fault", [{"status": 503}, {"drop": True}])
def test_the_proxy_fails_a_part(s3_bucket, s3_proxy, proxied, fault, nothing_left_behind):
    s3_proxy.fail_part(2, **fault)
    with pytest.raises(Exception, match=r"ServiceUnavailable|Connection"):
        proxied.upload_fileobj(io.BytesIO(bytes(20_000_000)), s3_bucket.name, "x")
    assert s3_bucket.keys() == []
    s3_proxy.clear()
    proxied.upload_fileobj(io.BytesIO(bytes(20_000_000)), s3_bucket.name, "x")
    assert s3_bucket.keys() == ["x"]


def test_the_proxy_fails_other_operations_and_holds_them(s3_bucket, s3_proxy, proxied):
    s3_proxy.fail("ListObjectsV2", status=403, times=1)
    with pytest.raises(ClientError):
        proxied.list_objects_v2(Bucket=s3_bucket.name)
    assert proxied.list_objects_v2(Bucket=s3_bucket.name)["KeyCount"] == 0
    held = s3_proxy.hold("ListObjectsV2")
    held.set()
    assert proxied.list_objects_v2(Bucket=s3_bucket.name)["KeyCount"] == 0
    assert len(s3_proxy.seen("ListObjectsV2")) == 3


# -- programs -------------------------------------------------------------------------------------


def run(path, *arguments, **options):
    return subprocess.run(
        [str(path), *arguments],
        env={"PGDATABASE": "x"},
        capture_output=True,
        check=False,
        timeout=60,
        **options,
    )


def test_a_fake_tells_its_version(fakes):
    assert run(fakes.path / "pg_dump", "--version").stdout == b"pg_dump (PostgreSQL) 18.4\n"
    fakes.pg_restore(version="14.1")
    assert run(fakes.path / "pg_restore", "--version").stdout.endswith(b"14.1\n")
    assert fakes.calls() == []


def test_fakes_do_as_scripted(fakes, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    content = source.read_bytes()
    for steps, status, output in [
        ([fake.print_file(source), fake.exit_with(1)], 1, content),
        ([fake.print_file(source, 1000), fake.kill_self("KILL")], -9, content[:1000]),
        ([fake.print_file(source)], 0, content),
        ([fake.stderr("no rights\n"), fake.exit_with(1)], 1, b""),
        ([fake.kill_self("TERM")], -15, b""),
    ]:
        program = fakes.pg_dump(*steps)
        done = run(program, "-Fc")
        assert (done.returncode, done.stdout) == (status, output)
    assert [call.arguments for call in fakes.calls("pg_dump")] == [["-Fc"]] * 5
    assert fakes.calls()[0].environ["PGDATABASE"] == "x"


def test_a_fake_floods_and_reads(fakes):
    flooding = run(fakes.pg_dump(fake.flood_stderr(5)))
    assert 4_900_000 < len(flooding.stderr) < 5_200_000
    assert run(fakes.path / "pg_restore", input=bytes(500_000)).returncode == 0
    assert run(fakes.path / "psql").returncode == 99
    assert len(fakes.calls("psql")) == 1


def test_a_fake_ignores_the_polite_signal(fakes, tmp_path):
    mark = tmp_path / "mark"
    program = fakes.pg_dump(fake.ignore_signal("TERM"), fake.touch(mark), fake.sleep(60))
    with subprocess.Popen([program]) as process:
        while not mark.exists():
            time.sleep(0.01)
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.kill()


def test_a_fake_may_leave_a_grandchild_in_its_group(fakes, nothing_left_behind):
    program = fakes.pg_dump(fake.leave_grandchild(600), fake.sleep(600))
    with subprocess.Popen([program], start_new_session=True) as process:
        until = time.monotonic() + 10
        while not processes.psutil.Process(process.pid).children() and time.monotonic() < until:
            time.sleep(0.01)
        assert len(processes.children()) == 2
        os.killpg(process.pid, signal.SIGKILL)


def test_a_real_program_can_stand_beside_a_fake_one(fakes, pg, site):
    fakes.real("pg_dump", pg.bin_dir)
    done = subprocess.run(
        [fakes.path / "pg_dump", "-Fc"],
        env=pg.psql_env(site.name),
        capture_output=True,
        check=True,
    )
    fakes.pg_restore(fake.read_input(5), fake.exit_with(3))
    assert done.stdout.startswith(b"PGDMP")
    assert run(fakes.path / "pg_restore", input=done.stdout[:1000]).returncode == 3
    assert [call.program for call in fakes.calls()] == ["pg_dump", "pg_restore"]


def test_a_recorder_sees_arguments_and_environment(recorder, pg, site):
    recorded = recorder(pg)
    done = subprocess.run(
        [recorded.path / "pg_dump", "-Fc", "--schema-only"],
        env=pg.psql_env(site.name),
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith(b"PGDMP")
    (call,) = recorded.calls()
    assert call.arguments == ["-Fc", "--schema-only"]
    assert call.environ["PGPASSWORD"] == CANARY
    assert recorded.in_argv(CANARY) == []
    assert recorded.in_argv("--schema-only") == [call]
    shown = run(recorded.path / "pg_dump", "--version").stdout.decode()
    assert shown.startswith(f"pg_dump (PostgreSQL) {pg.version}")


# -- the storage in memory ------------------------------------------------------------------------


def test_the_storage_stores(faulty):
    storage = faulty.storage
    assert storage.save("a/b.dump", io.BytesIO(b"abc")) == "a/b.dump"
    assert storage.exists("a/b.dump")
    assert storage.size("a/b.dump") == 3
    assert storage.listdir("") == (["a"], [])
    assert storage.listdir("a") == ([], ["b.dump"])
    with storage.open("a/b.dump") as file:
        assert faulty.open_handles == 1
        assert file.read() == b"abc"
    assert faulty.open_handles == 0
    assert storage.get_modified_time("a/b.dump").year >= 2025
    storage.delete("a/b.dump")
    assert not storage.exists("a/b.dump")
    with pytest.raises(FileNotFoundError):
        storage.open("a/b.dump")


def test_the_storage_fails_where_told(faulty):
    storage = faulty.storage
    faulty.save_fails_at = 100_000
    source = io.BytesIO(bytes(300_000))
    with pytest.raises(OSError, match="No space left") as failure:
        storage.save("x", source)
    assert failure.value.errno == errno.ENOSPC
    assert source.tell() == 100_000
    assert not storage.exists("x")
    faulty.error = StorageBroke("boom")
    faulty.keep_partial = True
    with pytest.raises(StorageBroke):
        storage.save("x", io.BytesIO(bytes(300_000)))
    assert storage.size("x") == 100_000
    faulty.fails.add("delete")
    with pytest.raises(StorageBroke):
        storage.delete("x")


def test_the_storage_lies(faulty):
    storage = faulty.storage
    faulty.size_lie = 5
    faulty.rename = "other"
    assert storage.save("x", io.BytesIO(b"abc")) == "other"
    assert storage.size("other") == 8
    faulty.rename, faulty.short_by = None, 1
    storage.save("y", io.BytesIO(b"abc"))
    assert faulty.objects["y"] == b"ab"
    faulty.flip_bit("y", 0)
    assert faulty.objects["y"] == b"`b"


def test_the_storage_stalls_until_told(faulty):
    faulty.stall_at = 10
    thread = threading.Thread(target=faulty.storage.save, args=("x", io.BytesIO(bytes(20))))
    thread.start()
    assert faulty.stalled.wait(10)
    assert not faulty.storage.exists("x")
    faulty.go_on.set()
    thread.join(10)
    assert faulty.storage.size("x") == 20


def test_the_storage_breaks_while_reading_and_publishes_on_close_as_s3_does(faulty):
    storage = faulty.storage
    faulty.put("x", bytes(1000))
    faulty.read_fails_at = 600
    faulty.error = StorageBroke("gone")
    with storage.open("x") as file:
        assert len(file.read(600)) == 600
        with pytest.raises(StorageBroke):
            file.read(1)

    def fail_half_way():
        with storage.open("y", "wb") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert faulty.objects["y"] == b"half"


def test_the_storage_works_as_an_alias(faulty, settings):
    settings.STORAGES = {**settings.STORAGES, "odd": faulty.alias_config}
    assert storages["odd"].box is faulty


# -- checks ---------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(invariants, "PATIENCE", 0.2)


def test_a_clean_test_passes_the_check(nothing_left_behind, site, s3_bucket, storage_root):
    nothing_left_behind.check()


def test_the_check_finds_a_child_and_a_forgotten_one(nothing_left_behind, impatient):
    process = subprocess.Popen(["sleep", "600"])
    with pytest.raises(AssertionError, match="sleep 600"):
        nothing_left_behind.check()
    process.kill()
    with pytest.raises(AssertionError, match="zombie"):
        nothing_left_behind.check()
    process.wait()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a subreaper")
def test_the_check_finds_the_orphan_of_a_killed_parent(nothing_left_behind, impatient):
    subprocess.run(["sh", "-c", "sleep 601 & exit 0"], check=True)
    with pytest.raises(AssertionError, match="sleep 601"):
        nothing_left_behind.check()
    nothing_left_behind.clean()
    nothing_left_behind.check()
    subprocess.run(["sh", "-c", "sleep 0.05 & exit 0"], check=True)
    time.sleep(0.2)
    nothing_left_behind.check()  # a dead orphan is nobody's fault


def test_the_check_finds_files(nothing_left_behind, impatient, storage_root):
    partial = storage_root / "here" / "x.dump.partial-abc"
    partial.parent.mkdir()
    partial.touch()
    passfile = Path(tempfile.gettempdir()) / "pgclone-abc"
    passfile.touch()
    with pytest.raises(AssertionError, match=r"(?s)partial-abc.*pgclone-abc"):
        nothing_left_behind.check()
    partial.unlink()
    passfile.unlink()


def test_the_check_finds_an_open_upload(nothing_left_behind, impatient, s3_bucket):
    answer = s3_bucket.client.create_multipart_upload(Bucket=s3_bucket.name, Key="half")
    with pytest.raises(AssertionError, match="open upload of 'half'"):
        nothing_left_behind.check()
    s3_bucket.client.abort_multipart_upload(
        Bucket=s3_bucket.name, Key="half", UploadId=answer["UploadId"]
    )


def test_the_check_finds_databases_and_locks(nothing_left_behind, impatient, pg):
    for name in ("pgclone_new_1", "x__temp", "x__swap", "y__swap_0a1b2c3d"):
        pg.create_database(name)
        with pytest.raises(AssertionError, match=name):
            nothing_left_behind.check()
        pg.drop_database(name)
    for name in ("x__pre", "x__temporary"):
        pg.create_database(name)
    nothing_left_behind.check()
    with pg.held_session("postgres") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(1)")
        with pytest.raises(AssertionError, match="advisory lock in 'postgres'"):
            nothing_left_behind.check()


@pytest.mark.allow_left_behind("kept__temp")
def test_a_test_may_leave_a_database_on_purpose(nothing_left_behind, impatient, pg):
    pg.create_database("kept__temp")
    nothing_left_behind.allow("other__*")
    pg.create_database("other__swap")
    nothing_left_behind.check()


def test_a_warning_that_is_expected_passes(logged_warnings):
    logging.getLogger("pgclone_admin.core").warning("careful")
    assert [record.getMessage() for record in logged_warnings] == ["careful"]


@pytest.mark.xfail(strict=True, raises=AssertionError)
def test_a_warning_that_nobody_expects_fails():
    logging.getLogger("pgclone_admin.core").warning("careful")


@pytest.mark.xfail(strict=True, raises=AssertionError)
def test_the_check_runs_by_itself_after_the_test(nothing_left_behind, impatient, pg):
    pg.create_database("x__temp")


def test_the_environment_is_clean():
    left = [name for name in os.environ if name.startswith(("PG", "AWS_ACC", "AWS_SEC"))]
    assert left == []
    assert Path(os.environ["TMPDIR"]) == Path(tempfile.gettempdir())


def test_the_database_of_the_settings_is_out_of_reach():
    assert django_settings.DATABASES["default"]["PORT"] == "1"
    assert "pgclone_admin" in django_settings.INSTALLED_APPS
