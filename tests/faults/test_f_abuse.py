"""Hostile names, keys, links and environments; secrets that must stay secret (F50 to F55)."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg2 import sql

from pgclone_admin.core.dump import Content, DumpRequest
from pgclone_admin.core.errors import (
    Conflict,
    InvalidName,
    PgcloneError,
    ProcessFailed,
    RestoreFailed,
    ServerUnavailable,
    StorageError,
)
from pgclone_admin.core.names import DumpKey
from pgclone_admin.core.programs import Codec
from pgclone_admin.core.target import RestoreRequest
from pgclone_admin.services.keys import resolve_key
from pgclone_admin.store import DumpStore
from tests.support import CANARY, S3_CANARY
from tests.support.cutting_proxy import CuttingProxy
from tests.support.django_project import Completed, Project
from tests.support.fake_programs import (
    Call,
    FakePrograms,
    RecordingBinDir,
    exit_with,
    read_input,
    stderr,
)
from tests.support.invariants import Checker, passfiles
from tests.support.places import (
    ALIAS,
    KINDS,
    LABELS,
    FilesPlace,
    Place,
    dump,
    maintenance,
    make_place,
    restore,
    storage_settings,
    unchanged,
)
from tests.support.postgres import PASSWORDS, PostgresServer
from tests.support.s3 import Bucket
from tests.support.sites import Site

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("nothing_left_behind")]

Recorder = Callable[[PostgresServer], RecordingBinDir]


# -- F50: names of databases ----------------------------------------------------------------------


class Decoy:
    """A port on which nothing may ever call."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._socket = socket.create_server((host, port))
        self._socket.settimeout(0.1)
        self.port = int(self._socket.getsockname()[1])

    def callers(self) -> int:
        """How many have called so far; they wait in the kernel until they are counted."""
        count = 0
        with contextlib.suppress(TimeoutError):
            while True:
                self._socket.accept()[0].close()
                count += 1
        return count

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def decoy() -> Iterator[Decoy]:
    decoy = Decoy()
    yield decoy
    decoy.close()


@pytest.fixture
def owned() -> Iterator[Path]:
    """A file that an attack would make; its path is short enough for a database name."""
    with tempfile.TemporaryDirectory(prefix="o", dir="/tmp") as folder:
        path = Path(folder) / "x"
        yield path


HOSTILE_NAMES = {
    "an option": "--file={owned}",
    "a short option": "-f{owned}",
    "a connection string": "host=127.0.0.1 port={port} dbname=x",
    "a connection string of one": "port={port}",
    "a URI": "postgresql://app@127.0.0.1:{port}/x",
    "a short URI": "postgres://127.0.0.1:{port}",
    "a substitution": "$(touch {owned})",
    "an old substitution": "`touch {owned}`",
    "two commands": "a;touch {owned}",
    "a pipe": "a|touch {owned}",
    "more SQL": '"; DROP DATABASE postgres; --',
    "a quote": '"',
    "two quotes": '""',
    "an apostrophe": "'",
    "a backslash": "\\",
    "a new line": "one\ntouch {owned}",
    "a carriage return": "one\rtwo",
    "a pattern": "%s{}*?[a]",
    "only dashes": "--",
    "a parameter": "dbname=",
    "one of its own": "x__temp",
}


@pytest.fixture(params=HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
def hostile(request: pytest.FixtureRequest, decoy: Decoy, owned: Path) -> str:
    name: str = request.param
    return name.replace("{owned}", str(owned)).replace("{port}", str(decoy.port))


def all_words(calls: list[Call]) -> str:
    return "\n".join(" ".join(call.argv) for call in calls)


def test_f50_a_database_of_any_name_is_taken_literally(
    *,
    hostile: str,
    make_site: Callable[..., Site],
    recorder: Recorder,
    storage_root: Path,
    decoy: Decoy,
    owned: Path,
    nothing_left_behind: Checker,
) -> None:
    if hostile == "x__temp":
        nothing_left_behind.allow("x__temp")  # it is the live one here
    site = make_site(name=hostile)
    programs = recorder(site.server)
    options: dict[str, Any] = {"program_directories": [str(programs.path)]}
    before, properties = site.fingerprint(), site.database_properties()
    store = DumpStore(str(storage_root))
    manifest = dump(site, store, **options)
    site.run("TRUNCATE order_line")
    result = restore(site, manifest.key, store, reversible=True, **options)
    assert result.database == hostile
    assert site.fingerprint() == before
    assert site.database_properties() == properties
    assert manifest.source_database == hostile

    dumped, restored = programs.calls("pg_dump"), programs.calls("pg_restore")
    assert {call.environ["PGDATABASE"] for call in dumped} == {hostile}
    assert all("__temp" in call.environ["PGDATABASE"] for call in restored)
    words = all_words(programs.calls())
    assert str(owned) not in words
    assert str(decoy.port) not in words
    if len(hostile) > 3 and hostile != "dbname=":  # which every pg_restore is given, empty
        assert hostile not in words
    assert decoy.callers() == 0
    assert not owned.exists()


def test_f50_the_decoy_and_the_file_would_notice(site: Site, decoy: Decoy, owned: Path) -> None:
    """A bare pg_dump with such a name as its argument does what the name says."""
    program = site.server.program("pg_dump")
    environment = {**site.server.psql_env(site.name), "PGCONNECT_TIMEOUT": "2"}
    for name in (f"host=127.0.0.1 port={decoy.port}", f"--file={owned}"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [program, "-Fc", name], env=environment, capture_output=True, timeout=4, check=False
            )
    assert decoy.callers() > 0
    assert owned.exists()


@pytest.mark.parametrize("kind", ["an option", "a connection string", "a URI", "a new line"])
def test_f50_the_commands_take_such_a_name_literally(
    *,
    kind: str,
    make_project: Callable[..., Project],
    recorder: Recorder,
    decoy: Decoy,
    owned: Path,
) -> None:
    name = HOSTILE_NAMES[kind].replace("{owned}", str(owned)).replace("{port}", str(decoy.port))
    project = make_project(name=name)
    project.settings["PGCLONE_BIN_DIR"] = str(recorder(project.server).path)
    people = project.people()
    (key,) = project.pgclone("dump").ok().lines
    project.add_person("later")
    project.pgclone("restore", key, "--reversible").ok()
    assert project.people() == people
    project.pgclone("copy", ":aside").ok()
    assert ":aside" in project.pgclone("ls", "--local").ok().lines
    project.pgclone("restore", ":pre").ok()
    assert project.people() == [*people, "later"]
    assert decoy.callers() == 0
    assert not owned.exists()


def test_f50_a_name_with_a_nul_character_is_refused(project: Project) -> None:
    for command in (("dump",), ("restore", "here/default"), ("copy", ":x"), ("ls", "--local")):
        done = project.pgclone(*command, database=project.databases(NAME="a\0b")).failed()
        assert "NUL" in done.stderr
        assert done.stdout == ""
    assert project.files() == []


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32])
def test_f50_a_name_that_the_server_would_cut_is_refused(project: Project, name: str) -> None:
    before = project.server.databases()
    done = project.pgclone("dump", database=project.databases(NAME=name)).failed()
    assert "error: " in done.stderr
    assert project.files() == []
    assert project.server.databases() == before


def test_f50_an_alias_of_any_name_stays_inside_the_storage_location(project: Project) -> None:
    alias = "../../$(id)"
    databases = {"default": project.dsn_dict(), alias: project.dsn_dict()}
    (key,) = project.pgclone("dump", "-d", alias, database=databases).ok().lines
    assert key.startswith("here/________id_/none/")
    assert project.files() == [key, f"{key}.json"]
    project.pgclone("restore", key, "-d", alias, database=databases).ok()


# -- F51: options that nobody offers --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["-e", "--file={owned}"], {}, "unrecognized arguments"),
        (["-e=--file={owned}"], {}, "there is no model"),
        (["-e", "people.Note --file={owned}"], {}, "there is no model"),
        (["-e", "people.*"], {}, "there is no model"),
        (["--pre-dump-hook", "migrate --fake"], {}, "there is no management command"),
        (["--pre-dump-hook", "/bin/sh"], {}, "there is no management command"),
        (["-c", "x"], {"options": ["--file={owned}"]}, '"options" of the configuration "x"'),
        (["-c", "x"], {"pg_dump": "--file={owned}"}, '"pg_dump" of the configuration "x"'),
        (["-c", "x"], {"exclude": ["--file={owned}"]}, "there is no model"),
        (["-c", "x"], {"pre_dump_hooks": [["sh", "-c", "id"]]}, "has to be a list of hooks"),
        (["-c", "--file={owned}"], {}, "expected one argument"),
        (["--fil={owned}"], {}, "unrecognized arguments"),
        (["-j", "8"], {}, "unrecognized arguments"),
    ],
)
def test_f51_no_option_reaches_pg_dump_by_another_name(
    *,
    project: Project,
    recorder: Recorder,
    owned: Path,
    arguments: list[str],
    settings: dict[str, Any],
    said: str,
) -> None:
    programs = recorder(project.server)

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{owned}", str(owned))
        return [filled(item) for item in value]

    done = project.pgclone(
        "dump",
        *filled(arguments),
        settings={
            "PGCLONE_BIN_DIR": str(programs.path),
            "PGCLONE_CONFIGS": {"x": {key: filled(value) for key, value in settings.items()}},
        },
    )
    assert done.returncode in (1, 2), str(done)
    assert said in done.stderr
    assert programs.calls() == []
    assert project.files() == []
    assert not owned.exists()


@pytest.mark.parametrize("value", ["zstd --file=/tmp/x", "gzip:9 -f x", "zstd:-1", "lz4", "9", ""])
def test_f51_the_compression_is_one_of_a_few_words(project: Project, value: str) -> None:
    done = project.pgclone("dump", settings={"PGCLONE_COMPRESSION": value}).failed()
    assert "PGCLONE_COMPRESSION cannot be" in done.stderr
    assert project.files() == []


# -- F52: keys ------------------------------------------------------------------------------------

OUTSIDE = "here/default/none/2026-01-02-03-04-05-000006.dump"

HOSTILE_KEYS = [
    f"../{OUTSIDE}",
    f"../../{OUTSIDE}",
    f"../../../{OUTSIDE}",
    f"x/../../{OUTSIDE}",
    f"here/default/none/../../../../{OUTSIDE}",
    "here/default/none/..",
    f"..\\{OUTSIDE}",
    f"%2e%2e/{OUTSIDE}",
    f"%2E%2E%2F{OUTSIDE}",
    f"..%2f{OUTSIDE}",
    f"..%5c{OUTSIDE}",
    f"/{OUTSIDE}",
    f"//{OUTSIDE}",
    "/etc/passwd",
    "C:/windows/x.dump",
    "s3://bucket/x.dump",
    "file:///etc/passwd",
    f"here/default/none/./{OUTSIDE}",
    f"{OUTSIDE}\0",
    f"\0/{OUTSIDE}",
    f"{OUTSIDE}\n",
    f"\u202e/{OUTSIDE}",
    "x" * 5000,
    "a/" * 600 + "x.dump",
    "..",
    ".",
    "/",
    "",
]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    """A location inside a storage that holds a dump of somebody else beside it, at each level."""
    place = make_place(request.param, request)
    top = place.prefix.removesuffix("deep/er/")
    for folder in ("", "deep/", "deep/er2/", "deep/er-", "x/"):
        place.raw_put(f"{top}{folder}{OUTSIDE}", b"PGDMP of somebody else")
        place.raw_put(f"{top}{folder}{OUTSIDE}.json", b"{}")
    return place


def some_content() -> Content:
    class Some:
        size = 0
        complete = True

        def read(self, size: int = -1, /) -> bytes:
            return b""

        def abandon(self) -> None:
            """Nothing here ever waits."""

    return Some()


def test_f52_a_key_out_of_the_location_reads_writes_and_deletes_nothing(place: Place) -> None:
    before = place.outside()
    assert len(before) == 10
    store = place.store
    for text in HOSTILE_KEYS:
        with pytest.raises(InvalidName):
            DumpKey.parse(text)
        with pytest.raises(PgcloneError):
            resolve_key(text, store)
    assert store.entries() == []
    assert place.outside() == before
    assert place.names() == []


# A path of no folder at all is nobody's way out; the storages say themselves what they make of it.
FORGED_KEYS = [text for text in HOSTILE_KEYS if ".." in text.split("/") or text.startswith("/")]


@pytest.mark.parametrize("text", FORGED_KEYS)
def test_f52_not_even_a_key_that_was_never_checked_leads_out(place: Place, text: str) -> None:
    before = place.outside()
    store, forged = place.store, DumpKey(text)
    for attempt in (
        lambda: store.open(forged).read(10),
        lambda: store.size(forged),
        lambda: store.manifest(forged),
        lambda: store.delete(forged),
        lambda: store.save(forged, some_content(), source_size=1),
    ):
        with pytest.raises(InvalidName):
            attempt()
    assert place.outside() == before
    assert place.names() == []


def test_f52_dumps_of_other_locations_are_not_listed(place: Place) -> None:
    assert place.store.entries() == []
    place.put(OUTSIDE, b"PGDMP")
    assert [entry.key.text for entry in place.store.entries()] == [OUTSIDE]
    for prefix in ("../", "..", "/", "er2/"):
        assert place.store.entries(prefix) == []


@pytest.mark.parametrize(
    "key", [f"../{OUTSIDE}", f"/{OUTSIDE}", "%2e%2e/x", "/etc/passwd", "a\\b", "x" * 5000]
)
def test_f52_the_commands_refuse_such_keys(project: Project, key: str) -> None:
    outside = project.storage_root.parent / OUTSIDE
    outside.parent.mkdir(parents=True)
    content = project.archive()
    outside.write_bytes(content)
    with unchanged(project):
        for command in (("restore", key), ("restore", key, "--to", ":beside"), ("cat", key)):
            done = project.pgclone(*command).failed()
            assert "error: " in done.stderr
            assert done.output == b""
        assert project.pgclone("ls", key).ok().stdout == ""
    assert outside.read_bytes() == content
    assert project.files() == []


def test_f52_labels_of_new_dumps_cannot_lead_out_of_the_location(
    project: Project, tmp_path: Path
) -> None:
    hostile = "../../../out\\side/\n$(id)"
    settings = {"PGCLONE_CONFIGS": {hostile: {"instance": f"/{hostile}"}}}
    (one,) = project.pgclone("dump", "-c", hostile, settings=settings).ok().lines
    (two,) = project.pgclone("dump", "-i", hostile).ok().lines
    file = tmp_path / "archive"
    file.write_bytes(project.archive())
    (three,) = project.pgclone("import", str(file), "-i", hostile).ok().lines
    expected = sorted([one, two, three])
    assert [name for name in project.files() if name.endswith(".dump")] == expected
    for key in expected:
        assert ".." not in key
        assert key.count("/") == 3
    assert set(project.pgclone("ls").ok().lines) == set(expected)


# -- F53: links -----------------------------------------------------------------------------------


@pytest.fixture(params=["files", "alias of files"])
def linked(request: pytest.FixtureRequest) -> FilesPlace:
    """A location in which ``here`` leads to a folder beside the storage."""
    place = make_place(request.param, request)
    assert isinstance(place, FilesPlace)
    beside = place.root.parent / "beside"
    (beside / OUTSIDE).parent.mkdir(parents=True)
    (beside / OUTSIDE).write_bytes(b"PGDMP of somebody else")
    (beside / f"{OUTSIDE}.json").write_bytes(b"{}")
    place.path("").mkdir(parents=True)
    place.path("here").symlink_to(beside / "here")
    return place


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_f53_a_folder_that_is_a_link_does_not_lead_out_of_the_location(
    linked: FilesPlace,
) -> None:
    beside = linked.root.parent / "beside"
    before = tree(beside)
    store, key = linked.store, DumpKey.parse(OUTSIDE)
    new = DumpKey.parse(OUTSIDE.replace("000006", "000007"))
    assert store.entries() == []
    for attempt in (
        lambda: store.open(key).read(10),
        lambda: store.size(key),
        lambda: store.manifest(key),
        lambda: store.delete(key),
        lambda: store.save(new, some_content(), source_size=1),
    ):
        with pytest.raises(InvalidName, match="symbolic link"):
            attempt()
    assert tree(beside) == before


def test_f53_a_dump_that_is_a_link_is_not_followed(linked: FilesPlace) -> None:
    beside = linked.root.parent / "beside"
    before = tree(beside)
    linked.path("here").unlink()
    for name in (OUTSIDE, f"{OUTSIDE}.json"):
        linked.path(name).parent.mkdir(parents=True, exist_ok=True)
        linked.path(name).symlink_to(beside / name)
    store, key = linked.store, DumpKey.parse(OUTSIDE)
    assert store.entries() == []
    with pytest.raises(PgcloneError):
        store.open(key).read(10)
    with pytest.raises(PgcloneError):
        store.size(key)
    with pytest.raises(Conflict):
        store.save(key, some_content(), source_size=1)
    store.delete(key)
    assert tree(beside) == before


def test_f53_nothing_is_written_through_a_link_that_leads_nowhere_yet(
    linked: FilesPlace,
) -> None:
    beside = linked.root.parent / "beside"
    before = tree(beside)
    linked.path("here").unlink()
    linked.path(OUTSIDE).parent.mkdir(parents=True)
    linked.path(OUTSIDE).symlink_to(beside / "made by the attack")
    with pytest.raises(Conflict):
        linked.store.save(DumpKey.parse(OUTSIDE), some_content(), source_size=1)
    assert tree(beside) == before


def test_f53_a_location_that_is_itself_a_link_works(
    site: Site, storage_root: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(storage_root)
    store = DumpStore(str(link))
    manifest = dump(site, store)
    assert (storage_root / manifest.key).is_file()
    assert [entry.key.text for entry in store.entries()] == [manifest.key]
    restore(site, manifest.key, store)


def test_f53_the_command_does_not_restore_through_a_link(project: Project, tmp_path: Path) -> None:
    secret = tmp_path / "secret.dump"
    secret.write_bytes(project.archive())
    link = project.storage_root / OUTSIDE
    link.parent.mkdir(parents=True)
    link.symlink_to(secret)
    assert project.pgclone("ls").ok().stdout == ""
    with unchanged(project):
        project.pgclone("restore", OUTSIDE).failed()
        done = project.pgclone("cat", OUTSIDE).failed()
        assert done.output == b""


def test_f53_dumps_and_manifests_are_for_their_owner_alone(project: Project) -> None:
    before = os.umask(0)
    try:
        (key,) = project.pgclone("dump").ok().lines
    finally:
        os.umask(before)
    for name in (key, f"{key}.json"):
        assert (project.storage_root / name).stat().st_mode & 0o777 == 0o600


# -- F54: secrets ---------------------------------------------------------------------------------

SECRETS = (CANARY, S3_CANARY, PASSWORDS["postgres"])


def tells_no_secret(done: Completed) -> None:
    for secret in SECRETS:
        assert secret not in done.stdout
        assert secret not in done.stderr
        assert secret not in " ".join(done.args)


@pytest.fixture
def watched(project: Project, recorder: Recorder) -> Iterator[RecordingBinDir]:
    """The project with recorded programs; at the end nothing anywhere may hold a secret."""
    programs = recorder(project.server)
    project.settings["PGCLONE_BIN_DIR"] = str(programs.path)
    before = passfiles()
    yield programs
    for call in programs.calls():
        for secret in SECRETS:
            assert secret not in " ".join(call.argv)
            assert secret not in str(call.environ)
        assert call.passfile_mode in ("", "0o600")
    for path in project.storage_root.rglob("*"):
        if path.is_file():
            assert not any(secret.encode() in path.read_bytes() for secret in SECRETS)
    assert passfiles() == before


FAILING_DUMPS: dict[str, Callable[[Project], tuple[tuple[str, ...], dict[str, Any]]]] = {
    "a hook that tells it": lambda project: (("--pre-dump-hook", "leaky_hook"), {}),
    "a table of somebody else": lambda project: (
        (),
        {"setup": "CREATE TABLE theirs (id int); ALTER TABLE theirs OWNER TO postgres"},
    ),
    "a database that is not there": lambda project: (
        (),
        {"database": project.databases(NAME="not_there")},
    ),
    "a server that is not there": lambda project: ((), {"database": project.databases(PORT="1")}),
    "a wrong user": lambda project: ((), {"database": project.databases(USER="nobody")}),
    "a storage that is not there": lambda project: (("-s", "/proc/none/"), {}),
    "an option that libpq does not know": lambda project: (
        (),
        {"database": project.databases(OPTIONS={"sslmod": "require"})},
    ),
}


@pytest.mark.parametrize("flags", [(), ("--traceback",)], ids=["plain", "traceback"])
@pytest.mark.parametrize("case", FAILING_DUMPS)
def test_f54_a_failing_dump_tells_no_secret(
    project: Project, watched: RecordingBinDir, case: str, flags: tuple[str, ...]
) -> None:
    arguments, options = FAILING_DUMPS[case](project)
    if setup := options.pop("setup", None):
        project.run(setup, "postgres")
    done = project.pgclone("dump", *flags, *arguments, **options)
    assert done.returncode == 1, str(done)
    assert ("Traceback" in done.stderr) == bool(flags)
    tells_no_secret(done)
    assert project.files() == []


FAILING_RESTORES = {
    "a hook that tells it": ("--pre-swap-hook", "leaky_hook"),
    "a dump that was cut": (),
    "a dump that cannot be restored": (),
    "a server that is not there": (),
}
TOLD = {"a hook that tells it", "a dump that cannot be restored"}
"""Failures in which somebody says the password, who is not to be heard."""


@pytest.mark.parametrize("flags", [(), ("--traceback",)], ids=["plain", "traceback"])
@pytest.mark.parametrize("case", FAILING_RESTORES)
def test_f54_a_failing_restore_tells_no_secret(
    *,
    project: Project,
    watched: RecordingBinDir,
    case: str,
    flags: tuple[str, ...],
    nothing_left_behind: Checker,
) -> None:
    nothing_left_behind.allow(f"{project.name}__temp")  # of a failed hook, for a look at it
    options: dict[str, Any] = {}
    if case == "a dump that cannot be restored":
        start, end = CANARY[:9], CANARY[9:]  # so that the dump itself does not hold it
        project.run(
            "CREATE FUNCTION ok(text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';"
            "CREATE TABLE odd (value text CHECK (ok(value))); INSERT INTO odd VALUES ('x');"
            "CREATE OR REPLACE FUNCTION ok(text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS"
            f" 'BEGIN RAISE EXCEPTION ''it knows %'', ''{start}'' || ''{end}''; END'"
        )
    (key,) = project.pgclone("dump").ok().lines
    path = project.storage_root / key
    match case:
        case "a dump that was cut":
            path.write_bytes(path.read_bytes()[:-100])
        case "a server that is not there":
            options["database"] = project.databases(PORT="1")
    with unchanged(project):
        done = project.pgclone("restore", *flags, key, *FAILING_RESTORES[case], **options)
    assert done.returncode == 1, str(done)
    assert ("Traceback" in done.stderr) == bool(flags)
    assert ("***" in done.stderr) == (case in TOLD)
    tells_no_secret(done)


def everything_told(error: BaseException) -> str:
    """What any log, page or mail could show of an error."""
    told: list[str] = []
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        each = queue.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        told += [str(each), repr(each), *map(str, getattr(each, "__notes__", ()))]
        told += [str(getattr(each, "hint", "")), str(vars(each)), repr(each.args)]
        queue += [each.__cause__, each.__context__]
    told += traceback.format_exception(error)
    return "\n".join(told)


def test_f54_no_exception_holds_the_password(
    site: Site, storage_root: Path, fakes: FakePrograms
) -> None:
    store = DumpStore(str(storage_root))
    key = dump(site, store).key
    fakes.pg_dump(
        stderr(f"pg_dump: error: connection to postgresql://app:{CANARY}@h/x failed\n"),
        exit_with(1),
    )
    fakes.pg_restore(
        read_input(1000),
        stderr(f"pg_restore: error: could not: password={CANARY}\nCommand was: {CANARY}\n"),
        exit_with(1),
    )
    programs = {"program_directories": [str(fakes.path)]}
    with pytest.raises(ProcessFailed) as dumped:
        dump(site, store, **programs)
    with pytest.raises(RestoreFailed) as restored:
        restore(site, key, store, **programs)
    with pytest.raises(ServerUnavailable) as refused:
        dump(site, store, maintenance=maintenance(site, user="nobody", password=CANARY))
    for caught in (dumped, restored, refused):
        assert CANARY not in everything_told(caught.value)
    assert "***" in str(dumped.value)


def test_f54_no_repr_shows_a_secret(site: Site, s3_bucket: Bucket, settings: Any) -> None:
    for name, value in s3_bucket.settings().items():
        setattr(settings, name, value)
    params = maintenance(site)
    assert params.password == CANARY
    store = DumpStore(s3_bucket.location())
    shown = [
        params,
        DumpRequest(live="x", maintenance=params, labels=LABELS, codec=Codec("none")),
        RestoreRequest(live="x", maintenance=params),
        store,
        store._backend,
    ]
    for each in shown:
        for text in (repr(each), str(each)):
            assert CANARY not in text
            assert S3_CANARY not in text


@pytest.mark.parametrize("flags", [(), ("--traceback",)], ids=["plain", "traceback"])
@pytest.mark.parametrize("problem", ["bucket", "server", "option", "upload"])
def test_f54_a_storage_that_fails_tells_no_key_of_s3(
    *,
    project: Project,
    watched: RecordingBinDir,
    s3_bucket: Bucket,
    s3_proxy: CuttingProxy,
    problem: str,
    flags: tuple[str, ...],
) -> None:
    chosen = s3_bucket.settings(endpoint_url=s3_proxy.endpoint_url)
    match problem:
        case "bucket":
            chosen["PGCLONE_STORAGE_LOCATION"] = "s3://no-such-bucket-here/"
        case "server":
            chosen["PGCLONE_S3_ENDPOINT_URL"] = "http://127.0.0.1:9"
        case "option":
            chosen["PGCLONE_S3_CONFIG"] = {**chosen["PGCLONE_S3_CONFIG"], "AWS_REGION_": "x"}
        case "upload":
            s3_proxy.fail("PutObject", status=403)
    for verb in (("dump",), ("restore", "here/default")):
        done = project.pgclone(*verb, *flags, settings=chosen, env={"AWS_MAX_ATTEMPTS": "1"})
        assert done.returncode == 1, str(done)
        assert ("Traceback" in done.stderr) == bool(flags)
        tells_no_secret(done)
    assert s3_bucket.keys() == []


def test_f54_a_storage_that_says_its_password_is_not_quoted(project: Project) -> None:
    """``FTPStorage`` puts all that it logs in with into its error."""
    canary = "c@nary-of/ftp#1"
    options = {"location": f"ftp://keeper:{canary}@127.0.0.1:9/dumps"}
    chosen = {
        **storage_settings("storages.backends.ftp.FTPStorage", **options),
        "PGCLONE_STORAGE_LOCATION": f"storages:{ALIAS}/",
    }
    for arguments in (("ls",), ("ls", "--traceback"), ("dump",), ("restore", "here/default")):
        done = project.pgclone(*arguments, settings=chosen)
        assert done.returncode == 1, str(done)
        assert "'passwd': '***'" in done.stderr
        assert canary not in done.stdout + done.stderr


def test_f54_a_manifest_holds_no_secret_and_no_uri(
    project: Project, watched: RecordingBinDir
) -> None:
    (key,) = project.pgclone("dump").ok().lines
    manifest = (project.storage_root / f"{key}.json").read_text()
    for text in (*SECRETS, "postgresql://", "passfile", "password", str(project.server.port)):
        assert text not in manifest


def test_f54_nobody_can_read_the_password_from_the_process_list(
    site: Site, storage_root: Path, recorder: Recorder
) -> None:
    programs = recorder(site.server)
    store = DumpStore(str(storage_root))
    options: dict[str, Any] = {"program_directories": [str(programs.path)]}
    key = dump(site, store, **options).key
    restore(site, key, store, reversible=True, **options)
    calls = programs.calls()
    assert {call.program for call in calls} == {"pg_dump", "pg_restore"}
    for secret in SECRETS:
        assert programs.in_argv(secret) == []
    for call in calls:
        assert "PGPASSWORD" not in call.environ
        assert call.passfile_mode == "0o600"
        assert not Path(call.environ["PGPASSFILE"]).exists()


# -- F55: the environment -------------------------------------------------------------------------

CHILD_VARIABLES = {
    "LC_ALL",
    "PATH",
    "PGDATABASE",
    "PGHOST",
    "PGPASSFILE",
    "PGPORT",
    "PGUSER",
}


@pytest.fixture
def services(tmp_path: Path) -> Path:
    path = tmp_path / "services.conf"
    path.write_text("[evil]\nhost=127.0.0.2\nuser=postgres\ndbname=evil\n")
    return path


HOSTILE_ENVIRONMENT = {
    "PGSERVICE": "evil",
    "PGSERVICEFILE": "{services}",
    "PGHOST": "127.0.0.2",
    "PGHOSTADDR": "127.0.0.2",
    "PGPORT": "1",
    "PGDATABASE": "evil",
    "PGUSER": "postgres",
    "PGPASSWORD": "wrong",
    "PGPASSFILE": "/nowhere/passfile",
    "PGOPTIONS": "-c statement_timeout=50 -c lock_timeout=50",
    "PGCLIENTENCODING": "LATIN1",
    "PGAPPNAME": "evil",
    "PGTZ": "America/Caracas",
    "PGDATESTYLE": "german",
    "LD_PRELOAD": "/nowhere/evil.so",
    "LD_LIBRARY_PATH": "/nowhere",
    "LC_ALL": "de_DE.UTF-8",
    "LANGUAGE": "de",
    "IFS": "x",
    "PERL5LIB": "/nowhere",
}


def test_f55_a_hostile_environment_reaches_no_child_and_no_other_server(
    project: Project, recorder: Recorder, services: Path
) -> None:
    programs = recorder(project.server)
    project.settings["PGCLONE_BIN_DIR"] = str(programs.path)
    environment = {
        name: value.replace("{services}", str(services))
        for name, value in HOSTILE_ENVIRONMENT.items()
    }
    decoy = Decoy("127.0.0.2", project.server.port)
    try:
        before = project.fingerprint()
        (key,) = project.pgclone("dump", env=environment).ok().lines
        project.run('TRUNCATE "MyTable"')
        project.pgclone("restore", key, "--pre-swap-hook", env=environment).ok()
        project.pgclone("copy", ":aside", env=environment).ok()
        project.pgclone("ls", "--local", env=environment).ok()
        assert decoy.callers() == 0
    finally:
        decoy.close()
    assert project.fingerprint() == before
    calls = programs.calls()
    assert {call.program for call in calls} == {"pg_dump", "pg_restore"}
    for call in calls:
        extra = {"PGOPTIONS"} if call.program == "pg_restore" else set()
        assert set(call.environ) <= CHILD_VARIABLES | extra
        for value in call.environ.values():
            assert "evil" not in value
            assert "nowhere" not in value
        assert call.environ["LC_ALL"] == "C"
        assert call.environ["PATH"] == "/usr/bin:/bin"
        assert call.environ["PGHOST"] == "127.0.0.1"
        assert call.environ["PGPORT"] == str(project.server.port)
        assert call.environ["PGUSER"] == "app"


@pytest.mark.parametrize(
    ("name", "value"),
    [item for item in HOSTILE_ENVIRONMENT.items() if item[0].startswith("PG")],
)
def test_f55_no_single_variable_of_libpq_changes_a_dump(
    *,
    project: Project,
    recorder: Recorder,
    services: Path,
    name: str,
    value: str,
) -> None:
    programs = recorder(project.server)
    project.settings["PGCLONE_BIN_DIR"] = str(programs.path)
    environment = {name: value.replace("{services}", str(services))}
    if name == "PGSERVICE":
        environment["PGSERVICEFILE"] = str(services)
    (key,) = project.pgclone("dump", env=environment).ok().lines
    (call,) = programs.calls("pg_dump")
    assert set(call.environ) <= CHILD_VARIABLES
    assert call.environ["PGDATABASE"] == project.name
    assert (project.storage_root / key).stat().st_size > 1000


def test_f55_every_tls_setting_of_the_alias_reaches_the_programs(
    project: Project, recorder: Recorder, tmp_path: Path
) -> None:
    programs = recorder(project.server)
    project.settings["PGCLONE_BIN_DIR"] = str(programs.path)
    options = {
        "sslmode": "allow",
        "sslrootcert": str(tmp_path / "ca.pem"),
        "sslcert": str(tmp_path / "client.pem"),
        "sslkey": str(tmp_path / "client.key"),
        "sslcrl": str(tmp_path / "crl.pem"),
        "ssl_min_protocol_version": "TLSv1.2",
        "channel_binding": "prefer",
        "target_session_attrs": "read-write",
        "connect_timeout": 7,
    }
    database = project.databases(OPTIONS=options)
    (key,) = project.pgclone("dump", database=database).ok().lines
    project.pgclone("restore", key, database=database).ok()
    for call in programs.calls():
        assert call.environ["PGSSLMODE"] == "allow"
        assert call.environ["PGSSLROOTCERT"] == options["sslrootcert"]
        assert call.environ["PGSSLCERT"] == options["sslcert"]
        assert call.environ["PGSSLKEY"] == options["sslkey"]
        assert call.environ["PGSSLCRL"] == options["sslcrl"]
        assert call.environ["PGSSLMINPROTOCOLVERSION"] == "TLSv1.2"
        assert call.environ["PGCHANNELBINDING"] == "prefer"
        assert call.environ["PGTARGETSESSIONATTRS"] == "read-write"
        assert call.environ["PGCONNECT_TIMEOUT"] == "7"


def test_f55_a_demand_for_tls_is_not_dropped_on_the_way_to_the_programs(
    site: Site, storage_root: Path, recorder: Recorder
) -> None:
    """A child that tried without TLS would get through to this server, which has none."""
    programs = recorder(site.server)
    params = maintenance(site, options={"sslmode": "require"})
    with pytest.raises((ServerUnavailable, ProcessFailed, StorageError), match="SSL"):
        dump(
            site,
            DumpStore(str(storage_root)),
            maintenance=params,
            program_directories=[str(programs.path)],
        )
    assert programs.calls() == []


@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout", "transaction_timeout"])
def test_f55_limits_of_the_role_do_not_end_a_dump_or_a_restore(
    site: Site, storage_root: Path, limit: str
) -> None:
    if not site.run("SELECT 1 FROM pg_settings WHERE name = %s", params=(limit,)):
        pytest.skip(f"this server has no {limit}")
    # A question that takes longer than the limit, as it does for a large database.
    site.run(
        "CREATE SCHEMA slow; CREATE FUNCTION slow.pg_database_size(name) RETURNS bigint"
        " LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(0.2); RETURN pg_catalog.pg_database_size($1); END'"
    )
    name = sql.Identifier(site.name)
    site.run(sql.SQL("ALTER DATABASE {} SET search_path = slow, pg_catalog, public").format(name))
    site.run(
        sql.SQL("ALTER ROLE app IN DATABASE {} SET {} = '100ms'").format(
            name, sql.Identifier(limit)
        ),
        "postgres",
    )
    store = DumpStore(str(storage_root))
    before = site.database_properties()
    key = dump(site, store).key
    restore(site, key, store, reversible=True)
    assert site.database_properties() == before
