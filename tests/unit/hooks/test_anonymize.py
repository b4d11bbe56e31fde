"""A map to anonymize by: what it says, what is refused, and what it forgets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.db.models import F, UniqueConstraint
from django.db.models.functions import Upper
from django.test import override_settings

from pgclone_admin.core.errors import ConfigurationError, UnknownModel
from pgclone_admin.hooks.anonymize import Anonymization, unanonymized_fields


@pytest.fixture(autouse=True)
def _clinic() -> Iterator[None]:
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "tests.project.clinic"]):
        yield


def parse(mapping: Any, seed: str = "salt") -> Anonymization:
    return Anonymization.parse(mapping, seed=seed)


def refusal(mapping: Any, seed: str = "salt") -> str:
    with pytest.raises(ConfigurationError) as raised:
        parse(mapping, seed)
    assert "Nothing was changed" in (raised.value.hint or "")
    return raised.value.message


# -- what it says ---------------------------------------------------------------------------------


def test_both_forms_of_a_map_say_the_same():
    flat = parse({"clinic.Patient.email": "email", "clinic.Patient.born": None})
    nested = parse({"clinic.patient": {"born": "null", "email": "email"}})
    assert flat == nested
    assert flat.fields == ("clinic.Patient.born", "clinic.Patient.email")
    assert flat.digest == nested.digest


def test_the_digest_hangs_on_the_rules_and_not_on_the_seed_or_a_password():
    first = parse({"clinic.Patient.email": "email"}, "one").digest
    assert first == parse({"clinic.Patient.email": "email"}, "two").digest
    assert first != parse({"clinic.Patient.email": "hash"}, "one").digest
    assert first != parse({"clinic.Patient": {"email": "email", "name": "keep"}}).digest
    constants = [parse({"clinic.Patient.name": {"constant": c}}).digest for c in "ab"]
    assert constants[0] != constants[1]
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.PBKDF2PasswordHasher"]):
        known = [parse({"clinic.Account.password": {"password": p}}) for p in ("one-x", "two-x")]
    assert known[0].digest == known[1].digest
    assert "one-x" not in repr(known[0])


def test_an_inherited_field_lies_in_the_table_of_its_own_model():
    found = parse({"clinic.Inpatient": {"email": "email", "bed": {"constant": "12"}}})
    assert [(table.label, table.table) for table in found.tables] == [
        ("clinic.Inpatient", '"clinic_inpatient"'),
        ("clinic.Patient", '"clinic_patient"'),
    ]
    assert found.tables[0].key == ("patient_ptr_id",)


def test_a_proxy_stands_for_its_model():
    assert parse({"clinic.Stranger.email": "email"}).fields == ("clinic.Patient.email",)


def test_a_table_is_named_as_django_names_it(monkeypatch):
    options = apps.get_model("clinic.Visit")._meta
    for name, quoted in {
        "Big visit": '"Big visit"',
        'a"b': '"a""b"',
        '"other"."visit"': '"other"."visit"',
    }.items():
        monkeypatch.setattr(options, "db_table", name)
        assert parse({"clinic.Visit.visitor": "name"}).tables[0].table == quoted


def test_a_composite_primary_key_is_known():
    assert parse({"clinic.Visit.visitor": "name"}).tables[0].key == ("ward", "number")


def test_a_field_that_is_kept_is_not_among_those_that_change():
    found = parse({"clinic.Patient": {"email": "email", "phone": "keep"}})
    assert found.fields == ("clinic.Patient.email",)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["clinic.Patent.email", "nowhere.Patient.email", "clinic.Pat"])
def test_what_is_no_model_is_refused(label):
    with pytest.raises(UnknownModel, match="there is no model"):
        parse({label: {"email": "email"} if label.count(".") == 1 else "email"})


def test_a_model_that_is_nearly_right_is_proposed():
    with pytest.raises(UnknownModel) as raised:
        parse({"clinic.Patent.email": "email"})
    assert "clinic.Patient" in (raised.value.hint or "")


def test_a_model_that_is_swapped_is_refused(monkeypatch):
    monkeypatch.setattr(apps.get_model("auth.User")._meta, "swappable", "AUTH_USER_MODEL")
    with override_settings(AUTH_USER_MODEL="clinic.Account"), pytest.raises(UnknownModel) as raised:
        parse({"auth.User.email": "email"})
    assert "clinic.Account" in raised.value.message


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({}, "changes nothing"),
        ({"clinic.Patient.email": "keep"}, "changes nothing"),
        (["clinic.Patient.email"], "is no mapping"),
        ({"clinic": "email"}, "neither a model nor a field"),
        ({"clinic.Patient": "email"}, "no fields with rules"),
        ({"clinic.Patient.mail": "email"}, 'has no field "mail"'),
        ({"clinic.Patient.friends": "null"}, "no column of its own"),
        ({"clinic.Visit.pk": "null"}, "no column of its own"),
        ({"clinic.Patient.email": "mail"}, "no rule that is known: 'mail'"),
        ({"clinic.Patient.email": {"sql": 1}}, "no rule that is known"),
        ({"clinic.Patient.email": {"sql": " "}}, "no rule that is known"),
        ({"clinic.Patient.email": {"email": True}}, "no rule that is known"),
        ({"clinic.Patient.email": 7}, "no rule that is known"),
        (
            {"clinic.Patient": {"email": "email"}, "clinic.Inpatient.email": "hash"},
            "clinic.Patient.email has two rules",
        ),
    ],
)
def test_what_is_no_map_is_refused(mapping, said):
    assert said in refusal(mapping)


def test_a_password_is_not_shown_in_a_refusal():
    assert "geheim" not in refusal({"clinic.Patient.email": {"passwort": "geheim"}})


@pytest.mark.parametrize(
    ("field", "rule", "said"),
    [
        ("Patient.id", {"constant": 1}, "primary key"),
        ("Visit.ward", "hash", "primary key"),
        ("Inpatient.patient_ptr", "null", "primary key"),
        ("Doctor.badge", "hash", "foreign keys of other tables refer to it"),
        ("Patient.shouted", "last_name", "computes it"),
        ("Patient.doctor", "hash", "foreign key"),
        ("Patient.badge", {"constant": "x"}, "foreign key"),
        ("Patient.last_name", "null", "cannot be NULL"),
        ("Patient.last_name", {"constant": None}, "cannot be NULL"),
        ("Patient.weight", "text", "no text"),
        ("Patient.weight", "hash", "no text"),
        ("Patient.allergies", "text", "no text"),
        ("Patient.history", "hash", "no text"),
        ("Patient.born", "password", "no text"),
        ("Patient.state", "name", "choices"),
        ("Patient.state", {"constant": "dead"}, "none of its choices"),
        ("Patient.weight", {"constant": "much"}, "integer"),
        ("Patient.weight", {"constant": 2**40}, "less than"),
        ("Patient.name", {"constant": "longer than nine"}, "at most 9"),
        ("Patient.born", {"constant": ""}, "cannot be the constant"),
        ("Inpatient.bed", {"constant": "1"}, "at least 2"),
        ("Patient.name", "email", "room for 9 characters, and 32 are needed"),
        ("Patient.name", "phone", "room for 9 characters"),
        ("Patient.email", "name", "unique"),
        ("Patient.email", {"constant": "a@example.com"}, "unique"),
        ("Patient.nickname", "text", "unique"),
        ("Sample.e_mail", "first_name", "unique"),
        ("Account.password", {"constant": "x"}, "the same password"),
        ("Account.password", "hash", "the same password"),
        ("Account.password", {"sql": "'!'"}, "the same password"),
        ("Account.password", {"password": "x"}, "PBKDF2PasswordHasher"),
        ("Patient.nickname", "password", "room for 30 characters"),
    ],
)
def test_a_rule_that_a_field_cannot_take_is_refused(field, rule, said):
    message = refusal({f"clinic.{field}": rule})
    assert message.startswith(f"clinic.{field} ")
    assert said in message


@pytest.mark.parametrize("expression", [F("visitor"), F("visitor").desc(), Upper(F("visitor"))])
def test_a_constraint_makes_a_field_unique_however_it_is_written(monkeypatch, expression):
    constraint = UniqueConstraint(expression, name="one")
    monkeypatch.setattr(apps.get_model("clinic.Visit")._meta, "constraints", [constraint])
    assert "it is unique" in refusal({"clinic.Visit.visitor": "name"})
    both = UniqueConstraint(expression, "number", name="both")
    monkeypatch.setattr(apps.get_model("clinic.Visit")._meta, "constraints", [both])
    assert parse({"clinic.Visit.visitor": "name"}).fields == ("clinic.Visit.visitor",)


def test_a_kept_table_is_refused_as_its_rows_are_not_those_of_the_dump():
    assert "running site" in refusal({"sessions.Session.session_data": "text"})


def test_a_hash_without_a_seed_is_refused():
    assert "needs a seed" in refusal({"clinic.Patient.card": "hash"}, seed="")


def test_too_short_a_unique_field_is_refused(monkeypatch):
    field = apps.get_model("clinic.Patient")._meta.get_field("nickname")
    monkeypatch.setattr(field, "max_length", 12)
    for rule in ("hash", "username"):
        assert "12 characters are too few" in refusal({"clinic.Patient.nickname": rule})


# -- what it forgets ------------------------------------------------------------------------------


def test_fields_that_look_personal_and_are_not_mentioned_are_told():
    found = unanonymized_fields(
        parse({"clinic.Patient": {"email": "email", "phone": "keep", "born": "null"}})
    )
    ours = [name for name in found if name.startswith("clinic.")]
    assert ours == [
        "clinic.Account.address",
        "clinic.Account.password",
        "clinic.Patient.first_name",
        "clinic.Patient.last_name",
        "clinic.Patient.name",
        "clinic.Patient.nickname",
        "clinic.Sample.e_mail",
    ]
    assert [name for name in found if name.startswith("auth.")] == [
        "auth.User.email",
        "auth.User.first_name",
        "auth.User.last_name",
        "auth.User.password",
        "auth.User.username",
    ]


def test_what_is_called_a_name_is_personal_only_of_a_person():
    found = unanonymized_fields(parse({"clinic.Patient.email": "email"}))
    assert "people.Person.name" in found
    assert "auth.Group.name" not in found
    assert "auth.Permission.codename" not in found
