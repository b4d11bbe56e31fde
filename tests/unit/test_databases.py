"""From an alias of DATABASES to the connection that this app uses."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections
from django.test import override_settings

from pgclone_admin.core.connection import ConnectionParams
from pgclone_admin.core.errors import ConfigurationError, InvalidName, UnknownDatabase
from pgclone_admin.databases import (
    is_on_same_server,
    live_name,
    maintenance_params,
    protected_names,
    replaceable_aliases,
    secrets,
    standby_candidates,
)
from pgclone_admin.routing import configure
from tests.unit.core.test_connection import TLS_OPTIONS
from tests.unit.helpers import SetDatabases, alias_settings, three_aliases


@pytest.fixture(autouse=True)
def databases(set_databases: SetDatabases) -> None:
    set_databases(three_aliases())


def become(set_databases: SetDatabases, **changes: Any) -> None:
    """Makes ``default`` another database."""
    set_databases(three_aliases(**changes))


# -- which database -------------------------------------------------------------------------------


def test_an_alias_is_its_database() -> None:
    assert live_name("default") == "live"
    assert live_name("reporting") == "reports"


def test_in_a_test_run_it_is_the_database_of_the_test_run() -> None:
    connections["default"].settings_dict["NAME"] = "test_live"
    assert live_name("default") == "test_live"


def test_an_unknown_alias_is_an_error_that_names_the_known_ones() -> None:
    for ask in (live_name, maintenance_params):
        with pytest.raises(UnknownDatabase, match='no database "dfault" in DATABASES') as caught:
            ask("dfault")
        assert caught.value.hint == "There is: default, other, reporting."


def test_another_engine_is_refused(set_databases: SetDatabases) -> None:
    set_databases(
        {
            "default": alias_settings("live"),
            "cache": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        }
    )
    with pytest.raises(UnknownDatabase, match='"cache" is not a PostgreSQL database'):
        live_name("cache")


def test_the_maintenance_database_itself_is_refused(set_databases: SetDatabases) -> None:
    become(set_databases, NAME="postgres")
    with pytest.raises(ConfigurationError, match="is the maintenance database itself"):
        live_name("default")
    with override_settings(PGCLONE_CONN_DB="maintenance"):
        assert live_name("default") == "postgres"


def test_a_database_without_a_name_is_refused(set_databases: SetDatabases) -> None:
    become(set_databases, NAME="", OPTIONS={"service": "shop"})
    with pytest.raises(ConfigurationError, match="has no NAME in DATABASES"):
        live_name("default")


@pytest.mark.parametrize("name", ["n" * 64, "a\0b"])
def test_f33_f50_a_name_that_the_server_would_cut_is_refused(
    set_databases: SetDatabases, name: str
) -> None:
    become(set_databases, NAME=name)
    with pytest.raises(InvalidName):
        live_name("default")


@pytest.mark.parametrize(
    "name", ["n" * 63, "--file=/tmp/x", "host=evil dbname=x", "postgresql://evil/x", "$(id)", '"']
)
def test_f50_any_other_name_is_taken_as_it_is(set_databases: SetDatabases, name: str) -> None:
    become(set_databases, NAME=name)
    assert live_name("default") == name
    assert name in protected_names()


# -- how it is reached ----------------------------------------------------------------------------


def test_maintenance_goes_to_its_own_database_on_the_server_of_the_alias() -> None:
    assert maintenance_params("default") == ConnectionParams(
        dbname="postgres", host="127.0.0.1", port="1", user="app", password="secret"
    )
    with override_settings(PGCLONE_CONN_DB="maintenance"):
        assert maintenance_params("other").dbname == "maintenance"
        assert maintenance_params("other").host == "192.0.2.1"


def test_what_the_settings_leave_open_stays_open(set_databases: SetDatabases) -> None:
    become(set_databases, HOST="", PORT=None, USER="", PASSWORD="")
    assert maintenance_params("default") == ConnectionParams(dbname="postgres")


def test_a_port_may_be_a_number(set_databases: SetDatabases) -> None:
    become(set_databases, PORT=5433)
    assert maintenance_params("default").port == "5433"


@pytest.mark.parametrize("way", [configure, lambda databases: databases])
def test_f55_every_tls_setting_of_the_alias_reaches_the_children(
    set_databases: SetDatabases, way: Any
) -> None:
    set_databases(way(three_aliases(OPTIONS={**TLS_OPTIONS, "connect_timeout": 10})))
    params = maintenance_params("default")
    assert params.options == {**TLS_OPTIONS, "connect_timeout": "10"}
    with params.child_environment() as environment:
        assert set(TLS_OPTIONS.values()) <= set(environment.values())
        assert environment["PGCONNECT_TIMEOUT"] == "10"


def test_options_of_django_itself_are_left_aside(set_databases: SetDatabases) -> None:
    own = {"isolation_level": 2, "server_side_binding": True, "pool": True, "sslmode": None}
    become(set_databases, OPTIONS={**own, "sslrootcert": "/ca.crt"})
    assert maintenance_params("default").options == {"sslrootcert": "/ca.crt"}


def test_a_role_that_django_takes_is_taken_here_too(set_databases: SetDatabases) -> None:
    become(set_databases, OPTIONS={"assume_role": "owner"})
    params = maintenance_params("default")
    assert (params.role, params.options) == ("owner", {})


def test_an_option_that_cannot_be_handed_on_is_refused(set_databases: SetDatabases) -> None:
    become(set_databases, OPTIONS={"sslmod": "require"})
    with pytest.raises(ConfigurationError, match="sslmod"):
        maintenance_params("default")


def test_maintenance_may_have_a_connection_of_its_own() -> None:
    own = {"default": {"HOST": "10.0.0.9", "PORT": 6000, "USER": "admin", "PASSWORD": "other"}}
    with override_settings(PGCLONE_CONNECTIONS=own):
        assert maintenance_params("default") == ConnectionParams(
            dbname="postgres", host="10.0.0.9", port="6000", user="admin", password="other"
        )
        assert maintenance_params("reporting").user == "app"


def test_what_it_does_not_name_is_that_of_the_alias(set_databases: SetDatabases) -> None:
    become(set_databases, OPTIONS={"sslmode": "require", "sslrootcert": "/a.crt"})
    own = {"default": {"USER": "admin", "OPTIONS": {"sslrootcert": "/b.crt"}}}
    with override_settings(PGCLONE_CONNECTIONS=own):
        params = maintenance_params("default")
    assert (params.user, params.password, params.host) == ("admin", "secret", "127.0.0.1")
    assert params.options == {"sslmode": "require", "sslrootcert": "/b.crt"}


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"NAME": "evil"}, 'PGCLONE_CONNECTIONS["default"] cannot be used: NAME'),
        ({"HOST": "x", "host": "y"}, 'PGCLONE_CONNECTIONS["default"] cannot be used: host'),
        ("postgres://evil", 'PGCLONE_CONNECTIONS["default"] cannot be used'),
    ],
)
def test_f51_a_connection_of_its_own_may_not_say_anything_else(own: Any, said: str) -> None:
    with (
        override_settings(PGCLONE_CONNECTIONS={"default": own}),
        pytest.raises(ConfigurationError) as caught,
    ):
        maintenance_params("default")
    assert caught.value.message == said
    assert "evil" not in caught.value.message


# -- what is never dropped ------------------------------------------------------------------------


# -- standbys -------------------------------------------------------------------------------------


def test_a_standby_may_be_what_has_the_same_name_on_another_server(
    set_databases: SetDatabases,
) -> None:
    set_databases(
        {
            **three_aliases(),
            "replica": alias_settings("live", HOST="192.0.2.7", USER="reader"),
            "the same replica": alias_settings("live", HOST="192.0.2.7"),
            "on another port": alias_settings("live", PORT=2),
            "by another role": alias_settings("live", USER="other"),
            "cache": {"ENGINE": "django.db.backends.sqlite3", "NAME": "live"},
        }
    )
    found = {(params.host, params.port): params for params in standby_candidates("default")}
    assert set(found) == {("192.0.2.7", "1"), ("127.0.0.1", "2")}
    assert {params.dbname for params in found.values()} == {"postgres"}
    assert len(standby_candidates("default")) == 2
    assert standby_candidates("reporting") == []


def test_a_standby_may_have_a_connection_of_its_own(set_databases: SetDatabases) -> None:
    set_databases({**three_aliases(), "replica": alias_settings("live", HOST="192.0.2.7")})
    with override_settings(
        PGCLONE_CONNECTIONS={"replica": {"USER": "maintenance", "HOST": "192.0.2.8"}},
        PGCLONE_CONN_DB="maintenance_db",
    ):
        (found,) = standby_candidates("default")
    assert (found.host, found.user, found.dbname) == ("192.0.2.8", "maintenance", "maintenance_db")


# -- what is protected -----------------------------------------------------------------------------


def test_every_database_of_the_settings_is_protected() -> None:
    assert protected_names() == {
        "live",
        "reports",
        "elsewhere",
        "postgres",
        "template0",
        "template1",
    }
    with override_settings(PGCLONE_CONN_DB="maintenance"):
        assert "maintenance" in protected_names()


def test_in_a_test_run_its_own_databases_are_protected_too() -> None:
    connections["default"].settings_dict["NAME"] = "test_live"
    assert "test_live" in protected_names()


def test_an_address_tells_which_databases_are_on_one_server(set_databases: SetDatabases) -> None:
    here, there = alias_settings("live", HOST="h", PORT=5432), alias_settings("live", HOST="other")
    set_databases({"default": here, "same": alias_settings("x", HOST="h", PORT="5432"), "t": there})
    assert is_on_same_server("same", "default")
    assert not is_on_same_server("t", "default")


def test_f54_secrets_of_storages_are_known_wherever_they_are_set() -> None:
    options = {
        "sftp": {"host": "there", "params": {"password": "one", "passphrase": "two", "port": 22}},
        "ftp": {"location": "ftp://me:three@four@host:21/"},
        "quoted": {"location": "ftp://me:fi%20ve@host:21/"},
    }
    aliases = {name: {"BACKEND": "nobody", "OPTIONS": each} for name, each in options.items()}
    with override_settings(
        STORAGES=aliases,
        SFTP_STORAGE_PARAMS={"password": "six"},
        AWS_SECRET_ACCESS_KEY="seven",
        AWS_STORAGE_BUCKET_NAME="eight",
        PGCLONE_S3_CONFIG={"AWS_SESSION_TOKEN": "nine"},
    ):
        found = secrets()
    assert found >= {"one", "two", "three@four", "fi ve", "six", "seven", "nine"}
    assert found.isdisjoint({"there", "me", "eight"})


def test_a_database_that_several_aliases_mean_is_replaced_by_one_of_them(
    set_databases: SetDatabases,
) -> None:
    set_databases(
        {
            "owner": alias_settings("live", USER="owner"),
            **three_aliases(HOST="localhost", PORT="5432"),
            "again": alias_settings("live", HOST="127.0.0.1", PORT=""),
            "mirror": alias_settings("mirrored", TEST={"MIRROR": "default"}),
        }
    )
    assert "default" in replaceable_aliases()
    assert not {"again", "mirror"} & set(replaceable_aliases())
