"""A map of fields and rules, read with Django's models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model

from ...core.errors import ConfigurationError, UnknownModel
from ...core.names import quote_identifier
from ...settings import settings
from .rules import KEEP, AnyField, Rule, as_text, check, label_of

HINT = "A map says {model.field: rule} or {model: {field: rule}}. Nothing was changed."


@dataclass(frozen=True)
class FieldChange:
    """What becomes of one column. ``constant`` is the text that PostgreSQL reads, or None."""

    name: str
    column: str
    rule: Rule
    max_length: int | None = None
    constant: str | None = None


@dataclass(frozen=True)
class TableChange:
    """What becomes of one table: ``table`` is its quoted SQL name, ``key`` its primary key."""

    label: str
    table: str
    key: tuple[str, ...]
    fields: tuple[FieldChange, ...]

    @property
    def changed(self) -> tuple[FieldChange, ...]:
        """Without the fields that are kept."""
        return tuple(change for change in self.fields if change.rule.kind != KEEP)


def read(mapping: Mapping[str, Any], *, seed: str) -> tuple[TableChange, ...]:
    """The changes of each table, in the order of their labels."""
    found: dict[type[Model], dict[str, FieldChange]] = {}
    for model, name, given in _entries(mapping):
        target = _field(model, name)
        where = label_of(target)
        if target.model._meta.app_label in settings.keep_apps:
            raise ConfigurationError(
                f"{where} cannot be anonymized: its rows are those of the running site",
                hint="No dump has rows of the apps in PGCLONE_KEEP_APPS, and a restore leaves them "
                "as they are. Nothing was changed.",
            )
        rule = Rule.parse(given, where)
        check(rule, target, seed=seed)
        # A field that is inherited lies in the table of the model that it comes from.
        changes = found.setdefault(target.model, {})
        if target.name in changes:
            raise ConfigurationError(f"{where} has two rules", hint=HINT)
        constant = as_text(rule.value, target) if rule.kind == "constant" else None
        changes[target.name] = FieldChange(
            target.name, column_of(target), rule, target.max_length, constant
        )
    tables = [_table(model, changes) for model, changes in found.items()]
    if not any(table.changed for table in tables):
        raise ConfigurationError("the map to anonymize by changes nothing", hint=HINT)
    return tuple(sorted(tables, key=lambda table: table.label))


def digest(tables: Sequence[TableChange]) -> str:
    """The same for the same fields with the same rules, in whichever order and form."""
    described = [
        [f"{table.label}.{change.name}", change.rule.described]
        for table in tables
        for change in table.fields
    ]
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _entries(mapping: Mapping[str, Any]) -> Iterator[tuple[type[Model], str, Any]]:
    if not isinstance(mapping, Mapping):
        raise ConfigurationError("the map to anonymize by is no mapping", hint=HINT)
    for key, given in mapping.items():
        parts = str(key).split(".")
        if len(parts) == 3:
            yield _model(".".join(parts[:2])), parts[2], given
        elif len(parts) != 2:
            raise ConfigurationError(f'"{key}" is neither a model nor a field', hint=HINT)
        elif not isinstance(given, Mapping):
            raise ConfigurationError(f'"{key}" has no fields with rules', hint=HINT)
        else:
            for name, rule in given.items():
                yield _model(str(key)), str(name), rule


def _model(label: str) -> type[Model]:
    try:
        model = apps.get_model(label)
    except (LookupError, ValueError) as error:
        known = {each._meta.label for each in apps.get_models(include_auto_created=True)}
        raise UnknownModel(
            f'there is no model "{label}" to anonymize',
            hint="A model is named app_label.ModelName."
            + _close(label, known)
            + " Nothing was changed.",
        ) from error
    if model._meta.swapped:
        raise UnknownModel(
            f'the model "{label}" is not in use here: it is swapped for {model._meta.swapped}',
            hint=f"Write {model._meta.swapped}. Nothing was changed.",
        )
    return model


def _field(model: type[Model], name: str) -> AnyField:
    options = model._meta
    own = {each.name: each for each in options.concrete_fields if each.column}
    try:
        found = options.get_field(name)
    except FieldDoesNotExist:
        raise ConfigurationError(
            f'{options.label} has no field "{name}" to anonymize',
            hint=f"Its fields are {', '.join(sorted(own))}. Nothing was changed.",
        ) from None
    if found.name not in own:
        raise ConfigurationError(
            f"{options.label}.{name} has no column of its own",
            hint="What lies in another table is named by the model of that table, such as the "
            "`through` model of a ManyToManyField. Nothing was changed.",
        )
    target = own[found.name]
    # Of a proxy, the model that it stands for.
    concrete = target.model._meta.concrete_model
    return concrete._meta.get_field(target.name)  # type: ignore[union-attr,return-value]


def column_of(target: AnyField) -> str:
    assert target.column is not None
    return target.column


def _close(label: str, known: set[str]) -> str:
    close = get_close_matches(label, sorted(known), n=3)
    return f" Close to it: {', '.join(close)}." if close else ""


def _table(model: type[Model], changes: Mapping[str, FieldChange]) -> TableChange:
    options = model._meta
    name = options.db_table
    # As Django does: a name in quotes stays as it is, '"schema"."table"' for one.
    quoted = name if name.startswith('"') and name.endswith('"') else quote_identifier(name)
    return TableChange(
        label=options.label,
        table=quoted,
        key=tuple(column_of(each) for each in options.pk_fields),
        fields=tuple(changes[field] for field in sorted(changes)),
    )
