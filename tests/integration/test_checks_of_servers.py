"""What ``manage.py check --deploy --database`` finds, which looks at servers and storages."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.checks import run_checks
from django.test import override_settings
from django.utils import timezone

from pgclone_admin.models import Dump, Status

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

OF_DATABASES = {f"pgclone_admin.{name}" for name in ("W008", "W009", "E009", "E010", "E011")}


def found(databases=("default",)):
    messages = [
        each
        for each in run_checks(databases=databases, include_deployment_checks=True)
        if each.id in OF_DATABASES
    ]
    return {each.id.rpartition(".")[2]: str(each.msg) for each in messages}


def test_what_is_right_is_right(office):
    assert found() == {}
    assert office.files() == []


def test_migrate_is_stopped_by_nothing_that_only_dumps_need(office, tmp_path):
    with override_settings(PGCLONE_BIN_DIR=str(tmp_path)):
        assert not [each for each in run_checks(databases=["default"]) if each.id in OF_DATABASES]


def test_a_role_that_may_do_everything_is_a_warning(office, use_database):
    use_database(office, user="postgres")
    ((identifier, message),) = found().items()
    assert identifier == "W008"
    assert 'the database "default" is used as a superuser' in message


def test_a_missing_program_is_an_error(office, tmp_path):
    with override_settings(PGCLONE_BIN_DIR=str(tmp_path)):
        assert set(found()) == {"E010"}
        assert found(databases=None) == {}


def test_a_program_that_is_older_than_the_server_is_an_error(office, servers):
    older = [major for major in servers.majors() if major < office.server.major]
    if not older:
        pytest.skip("there is no older version on this machine")
    with override_settings(PGCLONE_BIN_DIR=str(servers.get(older[0]).bin_dir)):
        assert set(found()) == {"E010"}


def test_a_storage_that_cannot_be_written_to_is_an_error(office, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with override_settings(PGCLONE_STORAGE_LOCATION=f"{tmp_path}/file/"):
        assert set(found()) == {"E011"}
        assert found(databases=None) == {}
        with override_settings(PGCLONE_ALLOW_DUMP=False):
            assert found() == {}
    nightly = {"nightly": {"storage_location": f"{tmp_path}/file/"}}
    with override_settings(PGCLONE_CONFIGS=nightly):
        assert set(found()) == {"E011"}


@pytest.mark.parametrize(
    "configs",
    [{"a": {"reversible": "yes"}}, {"a": {"reversable": True}}, {"none": {}}, [1]],
    ids=str,
)
def test_a_wrong_configuration_is_told_by_the_check_that_is_for_it(office, configs):
    with override_settings(PGCLONE_CONFIGS=configs):
        told = run_checks(databases=["default"], include_deployment_checks=True)
    ids = {each.id for each in told}
    assert ids & {"pgclone_admin.E003", "pgclone_admin.E004"}
    assert not ids & OF_DATABASES


def test_a_server_that_cannot_be_reached_is_an_error(office):
    with override_settings(PGCLONE_CONNECTIONS={"default": {"PORT": "1"}}):
        assert set(found()) == {"E009"}


def test_f46_a_run_that_has_taken_longer_than_retry_is_a_warning(office):
    ended = timezone.now()
    Dump.objects.create(
        status=Status.SUCCEEDED,
        location="x",
        started_at=ended - timedelta(seconds=500),
        finished_at=ended,
    )
    ((identifier, message),) = found().items()
    assert identifier == "W009"
    assert message.startswith("a run has taken 500 s, and tasks are delivered again after 60 s")
