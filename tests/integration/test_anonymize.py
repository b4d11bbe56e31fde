"""Anonymizing on a real server: what every rule makes, and that nothing raw is left anywhere."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth.hashers import check_password, is_password_usable
from django.db import connection as django_connection
from django.test import override_settings

from pgclone_admin.core.errors import ConfigurationError, HookFailed, PermissionMissing
from pgclone_admin.core.evidence import Evidence
from pgclone_admin.core.evidence import read as evidence
from pgclone_admin.hooks.anonymize import Anonymization, fakes
from tests.support.sites import Site

pytestmark = pytest.mark.integration

RAW = "rawcanary"
"""Part of every personal value of the tests."""

MEASUREMENTS = """
CREATE TABLE clinic_measurement (id integer, person varchar(60) NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE clinic_measurement_low PARTITION OF clinic_measurement FOR VALUES FROM (0) TO (10);
CREATE TABLE "Clinic high" PARTITION OF clinic_measurement FOR VALUES FROM (10) TO (1000000);
"""


@pytest.fixture
def make_clinic(make_site, use_database) -> Iterator[Callable[..., Site]]:
    """A database with the tables of ``tests.project.clinic``, empty."""

    def make(server: Any = None) -> Site:
        site = make_site(server, empty=True)
        use_database(site)
        with django_connection.schema_editor() as editor:
            for model in apps.get_app_config("clinic").get_models():
                if model._meta.managed and not model._meta.proxy:
                    editor.create_model(model)
        site.run(MEASUREMENTS)
        return site

    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "tests.project.clinic"]):
        yield make


@pytest.fixture
def clinic(make_clinic) -> Site:
    return make_clinic()


def fill(site: Site, count: int = 50, *, longest_note: int = 299) -> None:
    """Patients with numbers from 1, each of them with a raw value in every text."""
    notes = longest_note + 1
    site.run(
        f"""
        INSERT INTO clinic_doctor (badge) VALUES ('D1'), ('D2');
        INSERT INTO clinic_patient (first_name, last_name, name, email, phone, nickname, card,
                                    notes, born, doctor_id, badge_id, allergies, history)
        SELECT '{RAW}' || i, '{RAW}' || i, 'rawcan' || i % 99, '{RAW}' || i || '@real.example',
               CASE WHEN i % 2 = 0 THEN '{RAW}' || i ELSE '' END, '{RAW}' || i,
               '{RAW}' || i % 7, repeat('{RAW} ', i % {notes}), date '1980-01-01' + i % 9000,
               1, 'D2',
               ARRAY['{RAW}', 'nuts'], jsonb_build_object('was', '{RAW}')
          FROM generate_series(1, {count}) AS i
        """
    )


def anonymize(
    site: Site, mapping: dict[str, Any], *, seed: str = "salt", finish: bool = False
) -> dict[str, int]:
    anonymization = Anonymization.parse(mapping, seed=seed)
    with contextlib.closing(site.connect(autocommit=False)) as connection:
        changed = anonymization.run(connection, note=lambda _text: None, check=lambda: None)
        connection.commit()
    if finish:
        with contextlib.closing(site.connect()) as connection:
            anonymization.finish(connection, rewritten=changed.rewritten)
    return changed.counts


def column(site: Site, name: str, table: str = "clinic_patient", key: str = "id") -> list[Any]:
    return [row[0] for row in site.run(f'SELECT "{name}" FROM "{table}" ORDER BY {key}')]


PATIENT: dict[str, Any] = {
    "first_name": "first_name",
    "last_name": "last_name",
    "name": "name",
    "email": "email",
    "phone": "phone",
    "nickname": "username",
    "card": "hash",
    "notes": "text",
    "born": "null",
    "state": {"constant": "well"},
    "weight": {"sql": "weight + id -- kilograms"},
    "allergies": {"constant": ["it's", 'a "quoted", one', None]},
    "history": {"constant": {"is": "it's\\ 100% gone"}},
    "token": {"sql": "gen_random_uuid()"},
    "doctor": "null",
    "badge": {"sql": "'D1'"},
    "seen_at": "keep",
}


# -- what every rule makes ------------------------------------------------------------------------


def test_every_rule_makes_what_it_promises(make_clinic, any_pg):
    site = make_clinic(any_pg)
    fill(site)
    seen_at = column(site, "seen_at")
    old_notes = column(site, "notes")
    assert anonymize(site, {"clinic.Patient": PATIENT}) == {"clinic.Patient": 50}

    assert set(column(site, "first_name")) <= set(fakes.FIRST_NAMES)
    assert len(set(column(site, "first_name"))) > 15
    assert set(column(site, "last_name")) <= set(fakes.LAST_NAMES)
    assert column(site, "shouted") == [name.upper() for name in column(site, "last_name")]
    assert all(1 < len(name) <= 9 for name in column(site, "name"))
    assert all(re.fullmatch(r"[0-9a-f]{16}@example\.invalid", e) for e in column(site, "email"))
    assert all(
        re.fullmatch(r"\+1\d{3}55501\d\d" if number % 2 == 0 else "", phone)
        for number, phone in enumerate(column(site, "phone"), 1)
    )
    assert all(re.fullmatch(r"user-[0-9a-f]{16}", name) for name in column(site, "nickname"))
    cards = column(site, "card")
    assert all(re.fullmatch(r"[0-9a-f]{40}", card) for card in cards)
    assert cards[:7] == cards[7:14]
    assert len(set(cards)) == 7
    assert [len(note) for note in column(site, "notes")] == [len(note) for note in old_notes]
    assert column(site, "notes")[10].split()[0] in {"Lorem", "Ut", "Duis", "Excepteur"}
    assert set(column(site, "born")) == {None}
    assert set(column(site, "state")) == {"well"}
    assert column(site, "weight") == [70 + number for number in range(1, 51)]
    assert column(site, "allergies")[0] == ["it's", 'a "quoted", one', None]
    assert column(site, "history")[0] == {"is": "it's\\ 100% gone"}
    assert len(set(column(site, "token"))) == 50
    assert set(column(site, "doctor_id")) == {None}
    assert set(column(site, "badge_id")) == {"D1"}
    assert column(site, "seen_at") == seen_at
    assert RAW not in str(site.run("SELECT p::text FROM clinic_patient p"))


def test_constants_of_every_type_are_what_the_model_reads(clinic):
    site = clinic
    fill(site, 1)
    anonymize(
        site,
        {
            "clinic.Patient": {
                "born": {"constant": "1970-02-01"},
                "weight": {"constant": 50},
                "seen_at": {"constant": "2020-01-02T03:04:05+00:00"},
                "history": {"constant": None},
                "allergies": {"constant": []},
                "phone": {"constant": ""},
            }
            | {"history": {"constant": [1, None]}}
        },
    )
    patient = apps.get_model("clinic.Patient").objects.get()
    assert (str(patient.born), patient.weight, patient.phone) == ("1970-02-01", 50, "")
    assert patient.seen_at.isoformat() == "2020-01-02T03:04:05+00:00"
    assert (patient.history, patient.allergies) == ([1, None], [])


def test_what_was_not_given_stays_empty(clinic):
    fill(clinic, 3)
    clinic.run("INSERT INTO \"Clinic Sämple\" VALUES (gen_random_uuid(), NULL, 'a@b.example')")
    clinic.run("UPDATE clinic_patient SET phone = '', notes = '', card = ''")
    rules = {"phone": "phone", "notes": "text", "card": "hash"}
    anonymize(clinic, {"clinic.Patient": rules, "clinic.Sample.giver": "name"})
    assert clinic.run("SELECT DISTINCT phone, notes, card FROM clinic_patient") == [("", "", "")]
    assert column(clinic, "Who's it", "Clinic Sämple") == [None]


def test_the_same_seed_makes_the_same_and_another_seed_another(make_clinic):
    made = []
    for seed in ("one", "one", "two"):
        site = make_clinic()
        fill(site, 20)
        changed = {name: PATIENT[name] for name in ("name", "email", "phone", "card", "notes")}
        anonymize(site, {"clinic.Patient": changed}, seed=seed)
        made.append([column(site, name) for name in changed])
    assert made[0] == made[1]
    for one, two in zip(made[1], made[2], strict=True):
        assert one != two


def test_a_row_gets_the_same_whatever_else_is_in_the_table(clinic):
    fill(clinic, 20)
    anonymize(clinic, {"clinic.Patient": {"email": "email", "name": "name"}})
    before = clinic.run("SELECT email, name FROM clinic_patient WHERE id = 17")
    clinic.run("DELETE FROM clinic_patient WHERE id < 10")
    clinic.run("VACUUM FULL clinic_patient")
    anonymize(clinic, {"clinic.Patient": {"name": "name", "email": "email", "phone": "phone"}})
    assert clinic.run("SELECT email, name FROM clinic_patient WHERE id = 17") == before


def test_unique_fields_stay_unique_in_100000_rows(clinic):
    fill(clinic, 100_000, longest_note=0)
    unique = {"email": "email", "nickname": "username"}
    assert anonymize(clinic, {"clinic.Patient": unique}) == {"clinic.Patient": 100_000}
    assert clinic.run(
        "SELECT count(DISTINCT email), count(DISTINCT nickname) FROM clinic_patient"
    ) == [(100_000, 100_000)]
    # Again, over what was made.
    anonymize(clinic, {"clinic.Patient": unique})


# -- passwords ------------------------------------------------------------------------------------


def test_no_two_users_get_the_same_password(clinic):
    clinic.run(
        "INSERT INTO clinic_account (login, password)"
        f" SELECT 'u' || i, '{RAW}' FROM generate_series(1, 1000) AS i"
    )
    anonymize(clinic, {"clinic.Account.password": "password"})
    made = column(clinic, "password", "clinic_account")
    assert len(set(made)) == 1000
    assert all(re.fullmatch(r"![0-9a-f]{40}", password) for password in made)
    assert not any(map(is_password_usable, made))


@pytest.mark.parametrize("password", ["letmein 100% it's ü", "long " * 20])
def test_a_known_password_has_another_hash_for_each_user_and_logs_everyone_in(clinic, password):
    hasher = "django.contrib.auth.hashers.PBKDF2PasswordHasher"
    clinic.run(
        "INSERT INTO clinic_account (login, password)"
        f" SELECT 'u' || i, '{RAW}' FROM generate_series(1, 1000) AS i"
    )
    with override_settings(PASSWORD_HASHERS=[hasher]):
        anonymize(clinic, {"clinic.Account.password": {"password": password}})
        made = column(clinic, "password", "clinic_account")
        assert len(set(made)) == 1000
        assert len({each.split("$")[2] for each in made}) == 1000
        for each in made[:5]:
            assert check_password(password, each)
            assert not check_password("another", each)


# -- tables of every shape ------------------------------------------------------------------------


def test_names_in_quotes_uuids_and_composite_keys(clinic):
    clinic.run(
        f"INSERT INTO \"Clinic Sämple\" SELECT gen_random_uuid(), '{RAW}', '{RAW}' || i"
        " FROM generate_series(1, 9) AS i"
    )
    clinic.run(
        f"INSERT INTO clinic_visit SELECT 'w' || i % 3, i, '{RAW}' FROM generate_series(1, 9) AS i"
    )
    assert anonymize(
        clinic,
        {"clinic.Sample": {"giver": "name", "e_mail": "email"}, "clinic.Visit.visitor": "name"},
        finish=True,
    ) == {"clinic.Sample": 9, "clinic.Visit": 9}
    assert len(set(column(clinic, "E-Mail {x}", "Clinic Sämple"))) == 9
    assert len(set(column(clinic, "visitor", "clinic_visit", "number"))) > 6
    assert RAW not in str(clinic.run('SELECT s::text FROM "Clinic Sämple" s'))


def test_an_inherited_field_is_changed_in_the_table_of_its_model(clinic):
    fill(clinic, 5)
    clinic.run(f"INSERT INTO clinic_inpatient SELECT id, '{RAW}' FROM clinic_patient WHERE id > 3")
    assert anonymize(
        clinic, {"clinic.Inpatient": {"first_name": "first_name", "bed": {"sql": "'b'"}}}
    ) == {"clinic.Inpatient": 2, "clinic.Patient": 5}
    assert set(column(clinic, "first_name")) <= set(fakes.FIRST_NAMES)
    assert column(clinic, "bed", "clinic_inpatient", "1") == ["b", "b"]


def test_a_partitioned_table_is_changed_in_all_its_partitions(clinic):
    clinic.run(
        "INSERT INTO clinic_measurement"
        f" SELECT i, '{RAW}' || i FROM generate_series(1, 30) AS i; ANALYZE"
    )
    counts = anonymize(clinic, {"clinic.Measurement.person": "name"}, finish=True)
    assert counts == {"clinic.Measurement": 30}
    assert RAW not in "".join(column(clinic, "person", "clinic_measurement"))
    assert RAW not in str(clinic.run("SELECT s::text FROM pg_stats s"))


# -- what does not take part ----------------------------------------------------------------------

NOISE = """
CREATE TABLE noise (what text);
CREATE FUNCTION make_noise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO noise VALUES (to_jsonb(OLD)::text); RETURN NEW; END $$;
CREATE TRIGGER loud AFTER UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION make_noise();
CREATE TRIGGER "Always" BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION make_noise();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER "Always";
CREATE TRIGGER replica AFTER UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION make_noise();
ALTER TABLE {table} ENABLE REPLICA TRIGGER replica;
CREATE TRIGGER silent AFTER UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION make_noise();
ALTER TABLE {table} DISABLE TRIGGER silent;
"""

STATES = """
SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT ev_class::regclass::text, rulename, ev_enabled FROM pg_rewrite
 WHERE ev_class >= 16384
UNION ALL SELECT oid::regclass::text, relrowsecurity::text, relforcerowsecurity::text::"char"
  FROM pg_class WHERE relname LIKE '%linic%' ORDER BY 1, 2, 3
"""


def test_no_trigger_fires_and_each_is_as_it_was(clinic):
    fill(clinic, 5)
    clinic.run(NOISE.format(table="clinic_patient"))
    before = clinic.run(STATES)
    assert anonymize(clinic, {"clinic.Patient.email": "email"}) == {"clinic.Patient": 5}
    assert clinic.run("SELECT count(*) FROM noise") == [(0,)]
    assert clinic.run(STATES) == before
    clinic.run("UPDATE clinic_patient SET phone = 'x'")
    assert clinic.run("SELECT count(*) FROM noise") == [(10,)]


@pytest.mark.parametrize("where", ["clinic_measurement", '"Clinic high"'])
def test_no_trigger_of_a_partition_fires_and_each_is_as_it_was(make_clinic, any_pg, where):
    site = make_clinic(any_pg)
    site.run(f"INSERT INTO clinic_measurement SELECT i, '{RAW}' FROM generate_series(1, 30) i")
    site.run(NOISE.format(table=where))
    before = site.run(STATES)
    anonymize(site, {"clinic.Measurement.person": "name"})
    assert site.run("SELECT count(*) FROM noise") == [(0,)]
    assert site.run(STATES) == before


def test_no_rule_and_no_policy_keeps_a_row_from_being_changed(clinic):
    fill(clinic, 5)
    clinic.run(
        """
        CREATE TABLE noise (what text);
        CREATE RULE loud AS ON UPDATE TO clinic_patient
            DO INSTEAD INSERT INTO noise VALUES (OLD.email);
        ALTER TABLE clinic_patient ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY later ON clinic_patient USING (id > 2);
        """
    )
    before = clinic.run(STATES)
    assert anonymize(clinic, {"clinic.Patient.email": "email"}) == {"clinic.Patient": 5}
    assert clinic.run("SELECT count(*) FROM noise") == [(0,)]
    assert clinic.run(STATES) == before
    assert RAW not in str(clinic.run("SELECT email FROM clinic_patient", user="postgres"))


def test_a_foreign_key_that_waits_for_the_commit_is_in_nobodys_way(clinic):
    fill(clinic, 5)
    clinic.run(NOISE.format(table="clinic_patient"))
    anonymization = Anonymization.parse({"clinic.Patient.doctor": {"sql": "2"}})
    with contextlib.closing(clinic.connect(autocommit=False)) as connection:
        connection.cursor().execute("UPDATE clinic_patient SET doctor_id = 2 WHERE id = 3")
        anonymization.run(connection, note=lambda _text: None, check=lambda: None)
        connection.commit()
    assert set(column(clinic, "doctor_id")) == {2}


# -- errors ---------------------------------------------------------------------------------------


def test_nothing_is_changed_when_a_later_step_of_the_transaction_fails(clinic):
    fill(clinic, 5)
    clinic.run(NOISE.format(table="clinic_patient"))
    states, emails = clinic.run(STATES), column(clinic, "email")
    anonymization = Anonymization.parse({"clinic.Patient.email": "email"})
    with contextlib.closing(clinic.connect(autocommit=False)) as connection:
        anonymization.run(connection, note=lambda _text: None, check=lambda: None)
        with pytest.raises(psycopg2.Error):
            connection.cursor().execute("SELECT 1 / 0")
        connection.rollback()
    assert (clinic.run(STATES), column(clinic, "email")) == (states, emails)
    assert read_evidence(clinic) is None


def test_an_error_of_the_server_tells_no_value(clinic):
    fill(clinic, 5)
    for rule in ({"sql": "email::integer"}, {"sql": "email || repeat('x', 300)"}):
        with pytest.raises(HookFailed, match="error 22") as raised:
            anonymize(clinic, {"clinic.Patient.email": rule})
        assert "clinic.Patient could not be anonymized" in raised.value.message
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__
        assert RAW not in f"{raised.value.message} {raised.value.hint}"
    with pytest.raises(HookFailed, match="clinic_weight"):
        anonymize(clinic, {"clinic.Patient.weight": {"constant": -1}})
    with pytest.raises(HookFailed, match="clinic_patient_email_key"):
        anonymize(clinic, {"clinic.Patient.email": {"sql": "'same'"}})
    assert RAW in column(clinic, "email")[0]


def test_a_table_or_column_that_the_dump_does_not_have_is_refused_before_anything_changes(clinic):
    fill(clinic, 5)
    clinic.run("DROP TABLE clinic_visit; ALTER TABLE clinic_doctor DROP badge CASCADE")
    clinic.run("ALTER TABLE clinic_account DROP address")
    for missing in ({"clinic.Visit.visitor": "name"}, {"clinic.Account.address": None}):
        with pytest.raises(ConfigurationError, match="cannot be anonymized") as raised:
            anonymize(clinic, {"clinic.Patient.email": "email", **missing})
        assert "migrate" in (raised.value.hint or "")
    assert RAW in column(clinic, "email")[0]


def test_a_view_and_a_table_of_another_owner_are_refused(clinic):
    clinic.run("DROP TABLE clinic_visit; CREATE VIEW clinic_visit AS SELECT 1 AS visitor")
    with pytest.raises(ConfigurationError, match="is no table"):
        anonymize(clinic, {"clinic.Visit.visitor": "name"})
    clinic.run("ALTER TABLE clinic_doctor OWNER TO postgres", user="postgres")
    clinic.run("ALTER TABLE clinic_patient OWNER TO postgres", user="postgres")
    clinic.run("GRANT ALL ON clinic_patient TO app", user="postgres")
    with pytest.raises(PermissionMissing, match="does not own"):
        anonymize(clinic, {"clinic.Patient.email": "email"})


def test_it_works_in_a_transaction_and_finishes_outside_of_one(clinic):
    anonymization = Anonymization.parse({"clinic.Patient.email": "email"})
    with contextlib.closing(clinic.connect()) as connection:
        with pytest.raises(ValueError, match="transaction"):
            anonymization.run(connection, note=print, check=lambda: None)
        connection.autocommit = False
        with pytest.raises(ValueError, match="transaction"):
            anonymization.finish(connection)


def test_it_can_be_cancelled_between_two_tables(clinic):
    anonymization = Anonymization.parse(
        {"clinic.Patient.email": "email", "clinic.Visit.visitor": "name"}
    )
    calls = itertools.count()

    def check() -> None:
        if next(calls):
            raise InterruptedError

    notes: list[str] = []
    with (
        contextlib.closing(clinic.connect(autocommit=False)) as connection,
        pytest.raises(InterruptedError),
    ):
        anonymization.run(connection, note=notes.append, check=check)
    assert notes == ["clinic.Patient: 0 rows, email"]


def test_each_table_is_told_with_its_rows_and_fields(clinic):
    fill(clinic, 1234)
    anonymization = Anonymization.parse({"clinic.Patient": {"name": "name", "email": "email"}})
    notes: list[str] = []
    with contextlib.closing(clinic.connect(autocommit=False)) as connection:
        anonymization.run(connection, note=notes.append, check=lambda: None)
    assert notes == ["clinic.Patient: 1,234 rows, email, name"]


# -- the evidence ---------------------------------------------------------------------------------


def read_evidence(site: Site, dbname: str | None = None) -> Evidence | None:
    with contextlib.closing(site.server.connect(dbname or site.name, "app")) as connection:
        return evidence(connection.cursor())


def test_the_evidence_says_what_was_done_and_travels_with_copies(clinic):
    assert read_evidence(clinic) is None
    first = Anonymization.parse({"clinic.Patient.email": "email"})
    anonymize(clinic, {"clinic.Patient.email": "email"})
    found = read_evidence(clinic)
    assert found is not None
    assert (found.digest, found.fields) == (first.digest, ("clinic.Patient.email",))
    django_connection.close()
    copy = clinic.server.create_database(f"{clinic.name}_copy", template=clinic.name)
    assert read_evidence(clinic, copy) == found

    anonymize(clinic, {"clinic.Patient": {"email": "email", "name": "name"}})
    again = read_evidence(clinic)
    assert again is not None
    assert again.fields == ("clinic.Patient.email", "clinic.Patient.name")
    assert again.at > found.at
    with django_connection.cursor() as cursor:
        assert evidence(cursor) == again
    assert clinic.run("SELECT obj_description('pgclone_anonymized'::regclass) LIKE '%raw rows%'")[
        0
    ] == (True,)


def test_the_evidence_lies_where_django_keeps_its_tables(clinic):
    clinic.run('CREATE SCHEMA "Other"; CREATE TABLE "Other".django_migrations ()')
    clinic.run(f'ALTER DATABASE {clinic.name} SET search_path = public, "Other"')
    anonymize(clinic, {"clinic.Patient.email": "email"})
    assert clinic.run('SELECT count(*) FROM "Other".pgclone_anonymized') == [(1,)]
    assert read_evidence(clinic) is not None


def test_a_table_that_only_has_the_name_is_no_evidence(clinic):
    clinic.run("CREATE TABLE pgclone_anonymized (at date)")
    assert read_evidence(clinic) is None
    clinic.run("DROP TABLE pgclone_anonymized")
    anonymize(clinic, {"clinic.Patient.email": "email"})
    clinic.run("DELETE FROM pgclone_anonymized")
    assert read_evidence(clinic) is None


# -- nothing raw is left --------------------------------------------------------------------------


def files_with(site: Site, what: str, dbname: str | None = None) -> list[str]:
    """The files of a database in which the bytes stand."""
    name = dbname or site.name
    site.server.admin("CHECKPOINT")
    folder = site.server.data_dir / "base" / str(site.server.oid(name))
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and what.encode() in path.read_bytes()
    )


def test_nothing_raw_is_left_in_any_file_of_the_database_or_a_copy(make_clinic, any_pg):
    site = make_clinic(any_pg)
    # Uncompressed, so that it can be found.
    site.run("ALTER TABLE clinic_patient ALTER notes SET STORAGE EXTERNAL")
    fill(site, 2000)
    site.run(f"UPDATE clinic_patient SET notes = repeat('{RAW} ', 1000) WHERE id % 50 = 0")
    site.run("CREATE STATISTICS several (mcv) ON card, doctor_id FROM clinic_patient")
    site.run("CREATE INDEX ON clinic_patient (upper(first_name))")
    site.run("CREATE VIEW everyone AS SELECT * FROM clinic_patient")
    site.run("CREATE MATERIALIZED VIEW a_later AS SELECT 1 AS one WITH NO DATA")
    site.run("CREATE MATERIALIZED VIEW z_first AS SELECT first_name AS who FROM everyone")
    site.run("CREATE MATERIALIZED VIEW a_second AS SELECT who, count(*) FROM z_first GROUP BY who")
    site.run("ANALYZE")
    where = """SELECT pg_relation_filenode(x)::text FROM unnest(ARRAY['clinic_patient',
        'clinic_patient_email_key', 'z_first', 'a_second', 'pg_catalog.pg_statistic',
        'pg_catalog.pg_statistic_ext_data']::regclass[]) x UNION ALL
        SELECT pg_relation_filenode(reltoastrelid)::text FROM pg_class
         WHERE oid = 'clinic_patient'::regclass"""
    expected = {row[0] for row in site.run(where)}
    assert len(expected) == 7
    assert expected <= set(files_with(site, RAW))

    mapping = {"clinic.Patient": {**PATIENT, "phone": "phone"}}
    anonymization = Anonymization.parse(mapping, seed="salt")
    with contextlib.closing(site.connect(autocommit=False)) as connection:
        anonymization.run(connection, note=lambda _text: None, check=lambda: None)
        connection.commit()
    # A plain VACUUM leaves the bytes of dead rows, which every copy would have.
    site.run("VACUUM (ANALYZE) clinic_patient")
    assert expected & set(files_with(site, RAW)) >= {
        row[0] for row in site.run("SELECT pg_relation_filenode('clinic_patient')::text")
    }
    with contextlib.closing(site.connect()) as connection:
        anonymization.finish(connection)

    assert files_with(site, RAW) == []
    assert RAW.upper() not in str(site.run("SELECT s::text FROM pg_statistic s", user="postgres"))
    django_connection.close()
    copy = site.server.create_database(f"{site.name}_copy", template=site.name)
    assert files_with(site, RAW, copy) == []
    assert site.run(
        "SELECT count(*) FROM pg_stats WHERE tablename IN ('clinic_patient', 'z_first')"
    )[0][0] > len(PATIENT)


def test_who_may_not_remove_what_is_left_is_told(clinic):
    fill(clinic, 5)
    clinic.run(f"ALTER DATABASE {clinic.name} OWNER TO other", user="postgres")
    clinic.run(f"GRANT CONNECT ON DATABASE {clinic.name} TO app", user="postgres")
    clinic.run("GRANT CREATE ON SCHEMA public TO app", user="postgres")
    with pytest.raises(PermissionMissing, match="pg_statistic"):
        anonymize(clinic, {"clinic.Patient.email": "email"}, finish=True)
