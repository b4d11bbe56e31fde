"""Rules: what becomes of the values of one field, and which field takes which rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from django.contrib.auth.hashers import get_hashers
from django.core.exceptions import ValidationError
from django.db.models import Field, JSONField, UniqueConstraint

from ...core.errors import ConfigurationError
from .fakes import AREA_CODES, DOMAIN

KEEP = "keep"
WITH_A_VALUE = ("constant", "password", "sql")
FAKES = ("email", "first_name", "last_name", "name", "phone", "text", "username")
PLAIN = (KEEP, "null", "hash", "password", *FAKES)

HEX_DIGITS = 16
"""64 bits: of ten million rows no two get the same, but for one chance in 400,000."""

PASSWORD_LENGTH = 100
"""Characters that the longest password made here needs, with some to spare."""

_TEXT_TYPES = {"CharField", "TextField", "SlugField", "FileField", "FilePathField"}
_UNIQUE = {KEEP, "null", "hash", "email", "username", "sql"}
_NEEDED = {"email": HEX_DIGITS + len(f"@{DOMAIN}"), "phone": len(f"+1{AREA_CODES[0]}5550100")}

AnyField: TypeAlias = "Field[Any, Any]"


@dataclass(frozen=True)
class Rule:
    """``value`` is that of ``{"constant": value}``, ``{"sql": value}``, ``{"password": value}``."""

    kind: str
    value: Any = field(default=None, repr=False)

    @classmethod
    def parse(cls, given: Any, where: str) -> Rule:
        """Reads a rule as it stands in a map. ``where`` names the field in errors."""
        if given is None:
            return cls("null")
        if isinstance(given, str) and given in PLAIN:
            return cls(given)
        if isinstance(given, Mapping) and len(given) == 1:
            kind, value = next(iter(given.items()))
            if kind == "constant":
                return cls(kind, value)
            if kind in WITH_A_VALUE and isinstance(value, str) and value.strip():
                return cls(kind, value)
        raise ConfigurationError(
            f"{where} has no rule that is known: {_shown(given)}",
            hint=f'A rule is one of {", ".join(PLAIN)}, or {{"constant": ...}}, {{"sql": "..."}}, '
            '{"password": "..."}. Nothing was changed.',
        )

    @property
    def described(self) -> Any:
        """What a digest is made of. A password is no part of it: it could be guessed from it."""
        if self.kind == "password" and self.value is not None:
            return {self.kind: "..."}
        return {self.kind: self.value} if self.kind in {"constant", "sql"} else self.kind


def _shown(given: Any) -> str:
    """Without what could be a password."""
    if isinstance(given, Mapping):
        return "{" + ", ".join(f"{key!r}: ..." for key in given) + "}"
    return repr(given)


def check(rule: Rule, target: AnyField, *, seed: str) -> None:
    """:class:`ConfigurationError` where the field cannot take the rule."""
    if rule.kind == KEEP:
        return
    for reason in (_identity, _password, _kind, _length, _unique, _hash):
        if sentence := reason(rule, target, seed):
            raise ConfigurationError(
                f'{label_of(target)} cannot be given the rule "{rule.kind}": {sentence}',
                hint="Nothing was changed. docs/anonymizing.md says which field takes which rule.",
            )
    if rule.kind == "constant":
        _check_constant(rule, target)


def label_of(target: AnyField) -> str:
    return f"{target.model._meta.label}.{target.name}"


def is_unique(target: AnyField) -> bool:
    """Whether no two rows may have the same, as the model says."""
    if target.unique:
        return True
    for constraint in target.model._meta.constraints:
        if isinstance(constraint, UniqueConstraint) and (
            tuple(constraint.fields) == (target.name,) or _only_of(constraint, target.name)
        ):
            return True
    return any(tuple(names) == (target.name,) for names in target.model._meta.unique_together)


def _only_of(constraint: UniqueConstraint, name: str) -> bool:
    """Whether the constraint is one over expressions such as Lower(name)."""
    used = {
        each.name
        for expression in constraint.expressions
        for each in (expression.flatten() if hasattr(expression, "flatten") else [expression])
        if hasattr(each, "name") and isinstance(each.name, str)
    }
    return used == {name}


def is_login_password(target: AnyField) -> bool:
    # Imported late: a model cannot be imported before the apps are ready, and hooks may be.
    from django.contrib.auth.base_user import AbstractBaseUser  # noqa: PLC0415

    return issubclass(target.model, AbstractBaseUser) and target.name == "password"


def _is_text(target: AnyField) -> bool:
    return target.get_internal_type() in _TEXT_TYPES


def _identity(rule: Rule, target: AnyField, _seed: str) -> str | None:
    if getattr(target, "generated", False):
        return "the database computes it from other columns"
    options = target.model._meta
    if target.primary_key or target in options.pk_fields:
        return "it is the primary key"
    if any(
        target in getattr(relation.field, "foreign_related_fields", ())
        for relation in options.get_fields(include_hidden=True)
        if relation.auto_created and not relation.concrete and hasattr(relation, "field")
    ):
        return "foreign keys of other tables refer to it"
    if target.is_relation and rule.kind not in {"null", "sql"}:
        return 'it is a foreign key, which takes "keep", "null" and "sql"'
    return None


def _password(rule: Rule, target: AnyField, _seed: str) -> str | None:
    if is_login_password(target) and rule.kind != "password":
        return 'two users could get the same password; it takes "password" and "keep"'
    if rule.kind != "password" or rule.value is None:
        return None
    if not any(hasher.algorithm == "pbkdf2_sha256" for hasher in get_hashers()):
        return "PASSWORD_HASHERS has no PBKDF2PasswordHasher, which a known password needs"
    return None


def _kind(rule: Rule, target: AnyField, _seed: str) -> str | None:
    if rule.kind == "null":
        return None if target.null else "it cannot be NULL"
    if rule.kind in {"constant", "sql"}:
        return None
    if not _is_text(target):
        return "it is no text"
    return "it is one of several choices" if target.choices else None


def _length(rule: Rule, target: AnyField, _seed: str) -> str | None:
    needed = PASSWORD_LENGTH if rule.kind == "password" else _NEEDED.get(rule.kind, 0)
    if target.max_length is not None and target.max_length < needed:
        return f"it has room for {target.max_length} characters, and {needed} are needed"
    return None


def _unique(rule: Rule, target: AnyField, _seed: str) -> str | None:
    if not is_unique(target):
        return None
    if rule.kind not in {*_UNIQUE, "password"}:
        return "it is unique, and two rows would get the same"
    limit = target.max_length
    if rule.kind in {"hash", "username"} and limit is not None and limit < HEX_DIGITS:
        return f"it is unique, and {limit} characters are too few to be different in each row"
    return None


def _hash(rule: Rule, _target: AnyField, seed: str) -> str | None:
    if rule.kind == "hash" and not seed:
        return "it needs a seed, as without one anybody could find the values by trying"
    return None


def _check_constant(rule: Rule, target: AnyField) -> None:
    where = label_of(target)
    hint = "Nothing was changed. Give a value that the field could have."
    if rule.value is None and not target.null:
        raise ConfigurationError(f"{where} cannot be NULL", hint=hint)
    if rule.value is None:
        return
    try:
        value = target.to_python(rule.value)
        target.run_validators(value)
        if target.choices and value not in dict(target.flatchoices):
            raise ValidationError(f"{value!r} is none of its choices")
        if rule.value == "" and not _is_text(target):
            raise ValidationError("an empty text is no value of it")
    except (ValidationError, TypeError, ValueError) as error:
        reason = "; ".join(error.messages) if isinstance(error, ValidationError) else str(error)
        raise ConfigurationError(
            f"{where} cannot be the constant {rule.value!r}: {reason}", hint=hint
        ) from error


def as_text(value: Any, target: AnyField) -> str | None:
    """A constant as text that PostgreSQL reads as a value of the column."""
    if value is None:
        return None
    if isinstance(target, JSONField):
        return json.dumps(value, cls=target.encoder)
    value = target.get_prep_value(target.to_python(value))
    if isinstance(value, bytes | memoryview):
        return "\\x" + bytes(value).hex()
    return _array(value) if isinstance(value, list | tuple) else str(value)


def _array(values: Any) -> str:
    def element(value: Any) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, list | tuple):
            return _array(value)
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "{" + ",".join(map(element, values)) + "}"
