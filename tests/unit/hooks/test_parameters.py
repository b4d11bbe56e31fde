"""Typed parameters: what they take, what they refuse."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pgclone_admin.core.errors import ConfigurationError, UsageError
from pgclone_admin.hooks.parameters import Parameter, declared, refuse_unknown, values_for


def parameter(**declaration: Any) -> Parameter:
    return Parameter.parse({"name": "p", **declaration}, "the hook")


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("boolean", True, True),
        ("boolean", "TRUE", True),
        ("boolean", "yes", True),
        ("boolean", "1", True),
        ("boolean", "off", False),
        ("boolean", 0, False),
        ("integer", "2056", 2056),
        ("integer", -1, -1),
        ("integer", 2.0, 2),
        ("text", "it's {x} \\ ü", "it's {x} \\ ü"),
        ("text", 5, "5"),
        ("text", "", ""),
        ("decimal", "1.10", Decimal("1.10")),
        ("decimal", 0.1, Decimal("0.1")),
        ("path", "a/b.sql", Path("a/b.sql")),
    ],
)
def test_a_value_is_what_its_text_means(kind: str, given: Any, value: Any) -> None:
    found = parameter(type=kind).value_of(given)
    assert found == value
    assert type(found) is type(value) or isinstance(found, Path)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("boolean", "maybe"),
        ("boolean", 2),
        ("integer", "2.5"),
        ("integer", 2.5),
        ("integer", True),
        ("integer", ""),
        ("decimal", "NaN"),
        ("decimal", "Infinity"),
        ("decimal", "1,5"),
        ("decimal", True),
        ("text", True),
        ("text", ["a"]),
        ("text", "a\0b"),
        ("path", None),
    ],
)
def test_a_value_of_another_type_is_refused(kind: str, given: Any) -> None:
    with pytest.raises(UsageError, match=r'^the value of the parameter "p" cannot') as caught:
        parameter(type=kind).value_of(given)
    assert caught.value.hint == f"It is of type {kind}."


def test_only_allowed_values_are_taken_whatever_they_are_written_as() -> None:
    limited = parameter(type="integer", values=[2056, "21781"], default="2056")
    assert limited.default == 2056
    assert limited.value_of("21781") == 21781
    with pytest.raises(UsageError) as caught:
        limited.value_of("4326")
    assert caught.value.hint == "Allowed: 2056, 21781."


@pytest.mark.parametrize(
    "declaration",
    [
        {"type": "float"},
        {"type": "integer", "default": "many"},
        {"type": "integer", "default": 3, "values": [1, 2]},
        {"values": "abc"},
        {"name": "not a name"},
        {"name": "ü"},
        {"name": 5},
        {"required": True},
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(declaration: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        parameter(**declaration)


@pytest.mark.parametrize("value", ["p", {"name": "p"}, [{"name": "p"}, {"name": "p"}], ["p"]])
def test_a_list_of_declarations_is_one(value: Any) -> None:
    with pytest.raises(ConfigurationError):
        declared(value, "the hook")


def test_a_value_that_is_missing_is_its_default_or_an_error() -> None:
    parameters = declared([{"name": "a", "default": "x"}, {"name": "b", "default": None}], "it")
    assert values_for(parameters, {}) == {"a": "x", "b": None}
    assert values_for(parameters, {"a": None, "b": "y", "c": 1}) == {"a": "x", "b": "y"}
    with pytest.raises(UsageError, match=r'^the parameter "c" has no value'):
        values_for(declared([{"name": "c"}], "it"), {})
    # PUM's are NULL then.
    assert values_for(declared([{"name": "c"}], "it", has_default=True), {}) == {"c": None}


def test_names_that_nobody_declares_are_refused_with_those_that_are_close() -> None:
    parameters = declared([{"name": "srid"}, {"name": "schema"}], "it")
    refuse_unknown(["srid"], parameters)
    with pytest.raises(UsageError) as caught:
        refuse_unknown(["SRID"], parameters)
    assert caught.value.message == 'no hook of this run has a parameter "SRID"'
    assert caught.value.hint == "There is: schema, srid."
