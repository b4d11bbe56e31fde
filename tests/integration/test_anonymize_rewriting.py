"""Tables that are written anew with made-up values: when not, and that all else is as it was."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from pgclone_admin.core.errors import HookFailed
from pgclone_admin.hooks.anonymize import Anonymization
from tests.support.sites import Site

from .test_anonymize import RAW, clinic, column, files_with, fill, make_clinic

__all__ = ["clinic", "make_clinic"]

pytestmark = pytest.mark.integration

FIELDS = {
    "first_name": "first_name",
    "email": "email",
    "nickname": "username",
    "notes": "text",
    "doctor": "null",
    "state": {"constant": "well"},
}

ADORNED = """
ALTER TABLE clinic_patient DROP COLUMN card;
ALTER TABLE clinic_patient ALTER nickname TYPE varchar(30) COLLATE "C";
ALTER TABLE clinic_patient ALTER notes SET STORAGE EXTERNAL, ALTER first_name SET STORAGE MAIN,
    ALTER nickname SET STORAGE PLAIN, ALTER notes SET COMPRESSION pglz,
    ALTER email SET STATISTICS 321, ALTER email SET (n_distinct = -0.5),
    ALTER first_name SET DEFAULT 'né',
    ADD CONSTRAINT calm CHECK (first_name <> 'x') NOT VALID,
    ADD CONSTRAINT "No two" UNIQUE (nickname, email) DEFERRABLE INITIALLY DEFERRED,
    ADD CONSTRAINT apart EXCLUDE (email WITH =) WHERE (email <> ''),
    SET (fillfactor = 70, toast.autovacuum_enabled = false);
CREATE INDEX shouting ON clinic_patient (upper(first_name) varchar_pattern_ops, state DESC)
    INCLUDE (email) WITH (fillfactor = 50) WHERE state <> 'x';
CREATE UNIQUE INDEX known ON clinic_patient (email);
ALTER TABLE clinic_patient CLUSTER ON clinic_patient_nickname_key,
    REPLICA IDENTITY USING INDEX known;
CREATE STATISTICS several (mcv) ON first_name, state FROM clinic_patient;
COMMENT ON COLUMN clinic_patient.email IS 'where to write';
COMMENT ON INDEX shouting IS 'loud';
COMMENT ON CONSTRAINT "No two" ON clinic_patient IS 'pairs';
COMMENT ON CONSTRAINT calm ON clinic_patient IS 'no x';
COMMENT ON STATISTICS several IS 'both';
GRANT SELECT (email, nickname), UPDATE (notes) ON clinic_patient TO reader;
GRANT SELECT ON clinic_patient TO reader WITH GRANT OPTION;
"""


def run(site: Site, mapping: dict[str, Any]) -> set[str]:
    """Anonymizes; the names of tables that were written anew."""
    anonymization = Anonymization.parse(mapping, seed="salt")
    with contextlib.closing(site.connect(autocommit=False)) as connection:
        changed = anonymization.run(connection, note=lambda _text: None, check=lambda: None)
        connection.commit()
    with contextlib.closing(site.connect()) as connection:
        anonymization.finish(connection, rewritten=changed.rewritten)
    return {name.name for name in changed.rewritten}


def all_but_rows(site: Site) -> dict[str, list[str]]:
    found = site.fingerprint().without("rows")
    return {
        section: [line for line in lines if "pgclone_anonymized" not in line]
        for section, lines in found.items()
    }


@pytest.fixture
def plain(make_clinic, any_pg) -> Site:
    """On each server, and without the generated column that needs an UPDATE."""
    site = make_clinic(any_pg)
    fill(site, 300)
    site.run("ALTER TABLE clinic_patient DROP COLUMN shouted")
    return site


def test_all_but_the_rows_is_as_it_was(plain):
    plain.run(ADORNED)
    before = all_but_rows(plain)
    assert run(plain, {"clinic.Patient": FIELDS}) == {"clinic_patient"}
    assert all_but_rows(plain) == before
    assert RAW not in "".join(column(plain, "first_name") + column(plain, "email"))


@pytest.mark.parametrize(
    "mark",
    [
        "ALTER STATISTICS several SET STATISTICS 77",
        "ALTER INDEX shouting ALTER COLUMN 1 SET STATISTICS 55",
        "ALTER STATISTICS several OWNER TO other",
        "ALTER TABLE clinic_patient DISABLE TRIGGER ALL",
    ],
)
def test_marks_of_the_tables_belongings_are_as_they_were(plain, mark):
    plain.run(ADORNED)
    plain.run(mark, user="postgres")
    before = all_but_rows(plain)
    assert run(plain, {"clinic.Patient": FIELDS}) == set()
    assert all_but_rows(plain) == before
    assert RAW not in "".join(column(plain, "first_name"))


def test_partitions_are_written_anew_and_each_stays_as_it_was(make_clinic, any_pg):
    site = make_clinic(any_pg)
    site.run(
        """
        ALTER TABLE clinic_measurement ADD note text;
        ALTER TABLE clinic_measurement_low ALTER person SET STORAGE EXTERNAL;
        ALTER TABLE ONLY clinic_measurement ALTER person SET STORAGE MAIN;
        ALTER TABLE clinic_measurement ALTER person DROP NOT NULL;
        CREATE TABLE turned (note text, extra integer, id integer, person varchar(60));
        ALTER TABLE turned DROP COLUMN extra;
        ALTER TABLE clinic_measurement ATTACH PARTITION turned FOR VALUES FROM (-9) TO (0);
        CREATE INDEX who ON clinic_measurement (person);
        CREATE STATISTICS several ON id, person FROM clinic_measurement_low;
        """
    )
    site.run(
        f"INSERT INTO clinic_measurement SELECT i, '{RAW}' || i FROM generate_series(-9, 30) AS i"
    )
    before = all_but_rows(site)
    made = {"clinic.Measurement": {"person": "username"}}
    assert run(site, made) == {"clinic_measurement_low", "Clinic high", "turned"}
    assert all_but_rows(site) == before
    assert site.run(
        "SELECT count(DISTINCT person) FROM clinic_measurement WHERE person LIKE 'user-%'"
    ) == [(40,)]


def test_a_partition_keeps_the_name_of_its_constraint(make_clinic, any_pg):
    site = make_clinic(any_pg)
    site.run("CREATE TABLE late (id integer, person varchar(60) NOT NULL)")
    site.run(
        "ALTER TABLE clinic_measurement ATTACH PARTITION late FOR VALUES FROM (-9) TO (0);"
        f"INSERT INTO clinic_measurement VALUES (-1, '{RAW}'), (1, '{RAW}')"
    )
    before = all_but_rows(site)
    run(site, {"clinic.Measurement.person": "name"})
    assert all_but_rows(site) == before
    assert files_with(site, RAW) == []


def test_expressions_see_the_old_row(plain):
    plain.run("UPDATE clinic_patient SET first_name = 'a' || id, name = 'b' || id")
    swapped = {"first_name": {"sql": "name"}, "name": {"sql": "clinic_patient.first_name"}}
    assert run(plain, {"clinic.Patient": swapped}) == {"clinic_patient"}
    assert plain.run("SELECT first_name, name FROM clinic_patient WHERE id = 7") == [("b7", "a7")]


def test_constraints_are_checked(plain):
    for rules, told in (
        ({"email": {"sql": "'same'"}}, "clinic_patient_email_key"),
        ({"weight": {"sql": "-1"}}, "clinic_weight"),
        ({"badge": {"sql": "'D9'"}}, "foreign key"),
        ({"weight": {"sql": "NULL"}}, "null"),
        ({"name": {"sql": "email"}}, "error 22001"),
    ):
        with pytest.raises(HookFailed, match=told) as raised:
            run(plain, {"clinic.Patient": {**rules, "phone": "phone"}})
        assert RAW not in f"{raised.value.message} {raised.value.hint}"
    assert RAW in column(plain, "phone")[1]


def test_a_table_that_was_not_written_anew_is_vacuumed(plain):
    plain.run("UPDATE clinic_patient SET notes = ''")
    plain.run("UPDATE clinic_patient SET notes = 'stays'")
    file = plain.run("SELECT pg_relation_filenode('clinic_patient')")
    assert run(plain, {"clinic.Patient.notes": {"sql": "notes"}}) == set()
    assert plain.run("SELECT pg_relation_filenode('clinic_patient')") != file


def test_a_table_that_was_written_anew_is_not_vacuumed(plain):
    anonymization = Anonymization.parse({"clinic.Patient.email": "email"})
    with contextlib.closing(plain.connect(autocommit=False)) as connection:
        changed = anonymization.run(connection, note=print, check=lambda: None)
        connection.commit()
        file = plain.run("SELECT pg_relation_filenode('clinic_patient')")
        connection.autocommit = True
        anonymization.finish(connection, rewritten=changed.rewritten)
    assert plain.run("SELECT pg_relation_filenode('clinic_patient')") == file
    assert plain.run(
        "SELECT count(*) FROM pg_stats WHERE tablename = 'clinic_patient' AND attname = 'email'"
    ) == [(1,)]


def test_a_subquery_is_an_update(plain):
    rule = {"sql": "(SELECT badge FROM clinic_doctor ORDER BY badge LIMIT 1)"}
    assert run(plain, {"clinic.Patient.phone": rule, "clinic.Patient.email": "email"}) == set()
    assert set(column(plain, "phone")) == {"D1"}


def test_a_cancelled_statement_is_not_tried_again(plain):
    plain.run("CREATE SEQUENCE tried")
    rule = {"sql": "nextval('tried') || pg_sleep(5)::text"}
    anonymization = Anonymization.parse({"clinic.Patient.phone": rule})
    with contextlib.closing(plain.connect(autocommit=False)) as connection:
        connection.cursor().execute("SET statement_timeout = '300ms'")
        with pytest.raises(HookFailed, match="timeout"):
            anonymization.run(connection, note=print, check=lambda: None)
    assert plain.run("SELECT last_value FROM tried") == [(1,)]


def test_a_key_of_partitions_is_updated_and_rows_move(make_clinic, any_pg):
    site = make_clinic(any_pg)
    site.run(
        """
        DROP TABLE clinic_measurement;
        CREATE TABLE clinic_measurement (id integer, person varchar(60)) PARTITION BY LIST (person);
        CREATE TABLE old PARTITION OF clinic_measurement FOR VALUES IN ('rawcanary');
        CREATE TABLE new PARTITION OF clinic_measurement DEFAULT;
        INSERT INTO clinic_measurement SELECT i, 'rawcanary' FROM generate_series(1, 9) AS i;
        """
    )
    assert run(site, {"clinic.Measurement.person": {"sql": "'p' || id"}}) == set()
    assert site.run("SELECT count(*) FROM new") == [(9,)]
    assert files_with(site, RAW) == []


def test_what_inherits_is_changed_as_its_parent(plain):
    plain.run(
        """
        CREATE TABLE held (extra text) INHERITS (clinic_account);
        ALTER TABLE held ALTER address SET STATISTICS 9, ALTER login SET STORAGE MAIN;
        INSERT INTO clinic_account (login, password) VALUES ('rawcanary1', 'x');
        INSERT INTO held (id, login, password) VALUES (7, 'rawcanary2', 'x');
        """
    )
    before = all_but_rows(plain)
    mapping = {"clinic.Account": {"login": "username", "password": "password"}}
    assert run(plain, mapping) == {"clinic_account", "held"}
    assert all_but_rows(plain) == before
    assert plain.run("SELECT count(*) FROM clinic_account WHERE login LIKE 'user-%'") == [(2,)]
    assert plain.run("SELECT count(DISTINCT password) FROM clinic_account") == [(2,)]


def test_a_table_that_was_updated_by_an_earlier_hook_holds_nothing_raw(plain):
    plain.run("UPDATE clinic_patient SET notes = '', phone = ''")
    plain.run("ANALYZE")
    assert any(files_with(plain, RAW))
    everything = {
        **dict.fromkeys(("first_name", "last_name", "name", "phone", "card", "notes"), "text"),
        "email": "email",
        "nickname": "username",
        "allergies": {"constant": []},
        "history": {"constant": {}},
    }
    assert run(plain, {"clinic.Patient": everything}) == {"clinic_patient"}
    assert files_with(plain, RAW) == []


# -- where PostgreSQL does not write a table anew -------------------------------------------------

OBSTACLES = {
    "a view": "CREATE VIEW seen AS SELECT email FROM clinic_patient",
    "a rule": "CREATE RULE no AS ON DELETE TO clinic_patient"
    " WHERE OLD.email = 'x' DO INSTEAD NOTHING",
    "a policy": "CREATE POLICY seen ON clinic_patient USING (email <> '')",
    "a generated column": "ALTER TABLE clinic_patient ADD g text"
    " GENERATED ALWAYS AS (lower(email)) STORED",
    "a condition of a trigger": "CREATE TRIGGER t BEFORE UPDATE ON clinic_patient FOR EACH ROW"
    " WHEN (OLD.email <> '') EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "a column of a trigger": "CREATE TRIGGER t BEFORE UPDATE OF email ON clinic_patient"
    " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "a function": "CREATE FUNCTION mail() RETURNS text BEGIN ATOMIC"
    " SELECT max(email) FROM clinic_patient; END",
    "a type that a table has": "CREATE TABLE whole (patient clinic_patient)",
    "a condition of a publication": "CREATE PUBLICATION p FOR TABLE clinic_patient"
    " WHERE (email <> ''); ALTER TABLE clinic_patient REPLICA IDENTITY FULL",
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_table_whose_column_something_hangs_on_is_updated(plain, obstacle):
    plain.run(OBSTACLES[obstacle])
    before = all_but_rows(plain)
    mapping = {"clinic.Patient": {"email": "email", "nickname": {"sql": "'n' || id"}}}
    assert run(plain, mapping) == set()
    assert all_but_rows(plain) == before
    assert all(email.endswith("@example.invalid") for email in column(plain, "email"))
    assert column(plain, "nickname")[6] == "n7"
    assert not any("@real.example" in found for found in files_with(plain, "@real.example"))
