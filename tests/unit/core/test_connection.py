"""How a database is reached by this process and by its children."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgclone_admin.core.connection import ENVIRONMENT_VARIABLES, OWN_OPTIONS, ConnectionParams
from pgclone_admin.core.errors import ConfigurationError, ServerUnavailable
from tests.support import CANARY, ROOT
from tests.support.postgres import PostgresServer, free_port
from tests.unit import PROPERTY
from tests.unit.login_server import REFUSAL, LoginServer

TLS_OPTIONS = {
    "channel_binding": "require",
    "sslcert": "/etc/tls/client.crt",
    "sslcertmode": "require",
    "sslcrl": "/etc/tls/revoked.crl",
    "sslcrldir": "/etc/tls/revoked",
    "sslkey": "/etc/tls/client.key",
    "ssl_max_protocol_version": "TLSv1.3",
    "ssl_min_protocol_version": "TLSv1.2",
    "sslmode": "verify-full",
    "sslnegotiation": "direct",
    "sslrootcert": "/etc/tls/ca.crt",
    "sslsni": "1",
}

HOSTILE_ENVIRONMENT = {
    "PGSERVICE": "evil",
    "PGSERVICEFILE": "/tmp/evil.conf",
    "PGHOSTADDR": "192.0.2.1",
    "PGHOST": "evil.example.org",
    "PGPORT": "1",
    "PGUSER": "evil",
    "PGDATABASE": "evil",
    "PGPASSWORD": "evil",
    "PGOPTIONS": "-c session_authorization=evil",
    "PGPASSFILE": "/tmp/evil.pgpass",
    "PGSSLMODE": "disable",
    "PGSSLROOTCERT": "/tmp/evil.crt",
    "PGTARGETSESSIONATTRS": "any",
    "LD_PRELOAD": "/tmp/evil.so",
    "LD_LIBRARY_PATH": "/tmp/evil",
}


def params(**changes: object) -> ConnectionParams:
    fields = {
        "dbname": "shop",
        "host": "db.example.org",
        "port": "5433",
        "user": "app",
        "password": CANARY,
    }
    return ConnectionParams(**{**fields, **changes})  # type: ignore[arg-type]


# -- what it is made of ---------------------------------------------------------------------------


def test_f54_the_password_is_in_no_repr() -> None:
    assert CANARY not in repr(params())
    assert CANARY not in str(params())
    assert CANARY not in f"{params().with_dbname('x').with_role('y')!r}"


def test_another_database_of_the_same_server_keeps_everything_else() -> None:
    one = params(options={"sslmode": "require"}, role="owner")
    other = one.with_dbname("shop__temp")
    assert other == params(dbname="shop__temp", options={"sslmode": "require"}, role="owner")
    assert one.dbname == "shop"


@pytest.mark.parametrize("field", ["dbname", "host", "port", "user", "password"])
def test_f50_a_nul_character_is_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match="NUL"):
        params(**{field: "a\0b"})


@pytest.mark.parametrize("password", ["a\nb", "a\r"])
def test_a_password_that_would_end_its_line_of_the_passfile_is_refused(password: str) -> None:
    with pytest.raises(ConfigurationError, match="line break") as caught:
        params(password=password)
    assert password not in caught.value.message


def test_an_option_that_no_child_could_be_given_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be handed to pg_dump: dbname, krb$"):
        params(options={"sslmode": "require", "krb": "x", "dbname": "evil"})


def test_an_option_of_this_process_s_own_connections_is_used_and_not_given_to_children(
    pg: PostgresServer,
) -> None:
    ours = pg.params("postgres", options={"tcp_user_timeout": "20000"})
    with ours.session() as connection, ours.child_environment() as environment:
        assert connection.get_dsn_parameters()["tcp_user_timeout"] == "20000"
        assert not [value for value in environment.values() if "20000" in value]


@pytest.mark.parametrize("option", [*ENVIRONMENT_VARIABLES, *sorted(OWN_OPTIONS)])
def test_every_option_of_libpq_that_a_child_can_be_given_is_taken(option: str) -> None:
    assert params(options={option: "1"}).options == {option: "1"}


@pytest.mark.parametrize(
    ("host", "port", "where"),
    [
        ("db.example.org", "5433", "db.example.org:5433"),
        ("10.0.0.1", "", "10.0.0.1:5432"),
        ("/var/run/postgresql", "", "the unix socket /var/run/postgresql"),
        ("", "5433", "the unix socket directory of libpq"),
    ],
)
def test_a_server_is_named_for_people(host: str, port: str, where: str) -> None:
    assert params(host=host, port=port).where == where


# -- the environment of a child -------------------------------------------------------------------


def test_f55_the_environment_of_a_child_is_built_from_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in HOSTILE_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with params(password=None).child_environment() as environment:
        assert environment == {
            "PGHOST": "db.example.org",
            "PGPORT": "5433",
            "PGUSER": "app",
            "PGDATABASE": "shop",
        }


@pytest.mark.parametrize("option", TLS_OPTIONS)
def test_f55_every_tls_setting_of_the_alias_is_forwarded(option: str) -> None:
    value = TLS_OPTIONS[option]
    with params(options={option: value}, password=None).child_environment() as environment:
        assert environment["PG" + option.upper().replace("_", "")] == value


def test_f55_all_tls_settings_are_forwarded_together() -> None:
    with params(options=TLS_OPTIONS, password=None).child_environment() as environment:
        assert set(TLS_OPTIONS.values()) <= set(environment.values())
        assert len(environment) == 4 + len(TLS_OPTIONS)


class _Option(ctypes.Structure):
    """``PQconninfoOption`` of libpq-fe.h."""

    _fields_ = (
        ("keyword", ctypes.c_char_p),
        ("envvar", ctypes.c_char_p),
        ("compiled", ctypes.c_char_p),
        ("val", ctypes.c_char_p),
        ("label", ctypes.c_char_p),
        ("dispchar", ctypes.c_char_p),
        ("dispsize", ctypes.c_int),
    )


@pytest.fixture
def libpq_options() -> Iterator[dict[str, str]]:
    """Each option of the libpq that psycopg2 was built with, and its environment variable."""
    libraries = Path(psycopg2.__file__).parent.parent.glob("psycopg2_binary.libs/libpq-*")
    path = next(iter(sorted(libraries)), None)
    if path is None:
        pytest.skip("psycopg2 was built here, without a libpq of its own")
    defaults = ctypes.CDLL(str(path)).PQconndefaults
    defaults.restype = ctypes.POINTER(_Option)
    options = {}
    for option in defaults():
        if option.keyword is None:
            break
        if option.envvar:
            options[option.keyword.decode()] = option.envvar.decode()
    return options


def test_f55_the_variables_are_those_of_libpq(libpq_options: dict[str, str]) -> None:
    own = {"host", "port", "user", "password", "dbname"}
    assert set(libpq_options) - own <= set(ENVIRONMENT_VARIABLES)
    both = set(libpq_options) & set(ENVIRONMENT_VARIABLES)
    assert len(both) > 20
    assert {name: ENVIRONMENT_VARIABLES[name] for name in both} == {
        name: libpq_options[name] for name in both
    }


def test_keepalives_stay_with_this_process() -> None:
    with params(options={"keepalives_idle": "5"}, password=None).child_environment() as environment:
        assert set(environment) == {"PGHOST", "PGPORT", "PGUSER", "PGDATABASE"}


def test_what_is_left_to_libpq_is_not_set_for_a_child_but_the_database_always_is() -> None:
    bare = ConnectionParams(dbname="shop")
    with bare.child_environment() as environment:
        assert environment == {"PGDATABASE": "shop"}


@pytest.mark.parametrize(
    "name",
    [
        "--file=/tmp/x",
        "host=evil dbname=x",
        "postgresql://evil/x",
        "$(id)",
        "a;b",
        '"',
        "a\nb",
        " ",
    ],
)
def test_f50_a_name_of_a_database_reaches_a_child_unchanged(name: str) -> None:
    with params(dbname=name, password=None).child_environment() as environment:
        assert environment["PGDATABASE"] == name


# -- the passfile ---------------------------------------------------------------------------------


def test_f54_the_password_travels_in_a_file_of_this_user_that_is_removed() -> None:
    with params().child_environment() as environment:
        passfile = Path(environment["PGPASSFILE"])
        status = passfile.stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_uid == os.getuid()
        assert passfile.read_text() == f"*:*:*:*:{CANARY}\n"
        assert CANARY not in "".join([*environment, *environment.values()])
    assert not passfile.exists()


def test_f54_the_passfile_is_removed_when_the_block_fails() -> None:
    seen: list[Path] = []

    def fail() -> None:
        with params().child_environment() as environment:
            seen.append(Path(environment["PGPASSFILE"]))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not seen[0].exists()


@pytest.mark.parametrize("password", [None, ""])
def test_without_a_password_there_is_no_passfile(password: str | None) -> None:
    with params(password=password).child_environment() as environment:
        assert "PGPASSFILE" not in environment


passwords = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n") | st.sampled_from("\\:#*\"' "),
    min_size=1,
    max_size=60,
)


def password_of_line(line: str) -> str:
    """What libpq's passwordFromFile takes from a line that fits any server."""
    prefix = "*:*:*:*:"
    assert line.startswith(prefix)
    rest = iter(line.removeprefix(prefix).removesuffix("\n"))
    password = ""
    for char in rest:
        if char == ":":
            break
        password += next(rest, char) if char == "\\" else char
    return password


@PROPERTY
@given(password=passwords)
@example("\\")
@example(":\\:")
@example("# no comment")
def test_f54_the_passfile_holds_any_password(password: str) -> None:
    with params(password=password).child_environment() as environment:
        content = Path(environment["PGPASSFILE"]).read_bytes().decode()
    assert content.count("\n") == 1
    assert password_of_line(content) == password


@pytest.mark.parametrize(
    "password", [CANARY, "a:b", "a\\b", "\\", "ends\\", ":", "\\:", "#x", "p w", "üß€", "'\"$`"]
)
def test_f54_libpq_reads_the_password_from_the_passfile(password: str) -> None:
    with (
        LoginServer() as server,
        params(host="127.0.0.1", port=server.port, password=password).child_environment() as child,
        pytest.raises(psycopg2.OperationalError, match=REFUSAL),
    ):
        psycopg2.connect(
            host=child["PGHOST"],
            port=child["PGPORT"],
            user=child["PGUSER"],
            dbname=child["PGDATABASE"],
            passfile=child["PGPASSFILE"],
        )
    assert {login.password for login in server.logins} == {password}


def test_the_passfile_is_utf8_in_any_locale() -> None:
    # As psycopg2 sends the password of this process, whatever the locale is.
    code = """
from pgclone_admin.core.connection import ConnectionParams
with ConnectionParams(dbname="shop", password="\\u00fc").child_environment() as environment:
    print(open(environment["PGPASSFILE"], "rb").read().hex())
"""
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **ascii_only},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert bytes.fromhex(answer.stdout.decode()) == "*:*:*:*:ü\n".encode()


# -- connections of this process ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["shop", "--file=/tmp/x", "host=evil dbname=x", "postgresql://evil/x", "$(id)", "a'b\\"]
)
def test_f50_this_process_asks_the_named_server_for_the_literal_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    with LoginServer() as server:
        here = params(
            host="127.0.0.1", port=server.port, dbname=name, options={"sslmode": "disable"}
        )
        with pytest.raises(ServerUnavailable, match=REFUSAL):
            here.connect()
    (login,) = server.logins
    assert (login.startup["database"], login.startup["user"]) == (name, "app")
    assert login.password == CANARY


def test_f54_a_server_that_is_down_is_a_sentence_without_the_password() -> None:
    down = params(host="127.0.0.1", port=str(free_port()))
    with pytest.raises(ServerUnavailable) as caught:
        down.connect()
    error = caught.value
    assert error.message.startswith(
        f'cannot connect to the database "shop" on 127.0.0.1:{down.port}: '
    )
    assert "Connection refused" in error.message
    assert error.hint is not None
    assert CANARY not in repr(error) + error.message + error.hint + str(error.__cause__)


def test_what_is_left_to_libpq_is_the_same_for_children(
    pg: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", str(pg.socket_dir))
    monkeypatch.setenv("PGPORT", str(pg.port))
    monkeypatch.setenv("PGUSER", "app")
    monkeypatch.setenv("PGPASSWORD", CANARY)
    bare = ConnectionParams(dbname="postgres")
    with bare.session() as connection:
        resolved = bare.resolved(connection)
        assert connection.autocommit
    assert connection.closed
    assert resolved == pg.params("postgres", socket=True)


def test_what_the_settings_name_is_kept(pg: PostgresServer) -> None:
    named = pg.params("postgres", options={"sslmode": "prefer", "keepalives_idle": "5"})
    with named.session() as connection:
        assert named.resolved(connection) == named


@pytest.fixture
def service(pg: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A service of libpq that names another database."""
    name = pg.fresh_name("named_by_service")
    pg.create_database(name)
    file = tmp_path / "services.conf"
    file.write_text(
        f"[shop]\nhost={pg.host}\nport={pg.port}\nuser=app\npassword={CANARY}\n"
        f"dbname={name}\napplication_name=of the service\nsslmode=allow\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    return "shop"


def test_a_service_of_libpq_tells_the_server_but_never_the_database(
    pg: PostgresServer, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the documentation of Django has it: OPTIONS = {"service": ...} and no HOST.
    named = ConnectionParams(dbname="postgres", options={"service": service, "keepalives": "0"})
    with named.session() as connection:
        assert connection.info.dbname == "postgres"
        resolved = named.resolved(connection)
    assert (resolved.host, resolved.port, resolved.user) == (pg.host, str(pg.port), "app")
    assert resolved.password == CANARY
    assert resolved.options["sslmode"] == "allow"
    assert resolved.options["keepalives"] == "0"
    # For libpq a service comes before PGDATABASE: a pg_restore would write into the live database.
    with resolved.child_environment() as environment:
        assert not {"PGSERVICE", "PGSERVICEFILE"} & set(environment)
        answer = subprocess.run(
            [pg.program("pg_dump"), "--schema-only", "--create", "--no-password"],
            env=environment,
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert b"DATABASE postgres" in answer.stdout
        assert b"named_by_service" not in answer.stdout
        assert environment["PGAPPNAME"] == "of the service"


def test_a_child_is_never_told_a_service() -> None:
    named = params(options={"service": "shop", "servicefile": "/etc/services.conf"})
    with named.child_environment() as environment:
        assert not {"PGSERVICE", "PGSERVICEFILE"} & set(environment)
