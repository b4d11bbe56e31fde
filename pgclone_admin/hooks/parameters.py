"""Typed parameters of SQL and Python hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..core.errors import ConfigurationError, UsageError

TYPES = ("boolean", "integer", "text", "decimal", "path")

KEYS = {"name", "type", "default", "values", "description", "app_only"}
"""``app_only`` is PUM's: which versions of a data model may change it. Here nothing does."""

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

Value = bool | int | str | Decimal | Path | None


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A value that a hook asks for; ``values``, where there are any, are all that are allowed."""

    name: str
    type: str = "text"
    default: Value = None
    is_required: bool = False
    values: tuple[Value, ...] = ()
    description: str = ""

    @classmethod
    def parse(cls, declared: Any, where: str, *, has_default: bool = False) -> Parameter:
        """Reads a declaration; without a ``default`` a value is needed, unless ``has_default``,
        when it is NULL.

        :class:`ConfigurationError` for anything that is none.
        """
        if not isinstance(declared, Mapping) or not isinstance(declared.get("name"), str):
            raise ConfigurationError(
                f"a parameter of {where} cannot be read",
                hint='It is a mapping with "name", and perhaps "type", "default" and "values".',
            )
        name = declared["name"]
        where = f'the parameter "{name}" of {where}'
        if not name.isidentifier() or not name.isascii():
            raise ConfigurationError(
                f"{where} has a name that cannot be used",
                hint="It consists of letters, digits and underscores.",
            )
        if unknown := sorted(set(map(str, declared)) - KEYS):
            raise ConfigurationError(
                f"{where} has a key that is not known: {', '.join(unknown)}",
                hint=f"Known: {', '.join(sorted(KEYS))}.",
            )
        kind = declared.get("type", "text")
        if kind not in TYPES:
            raise ConfigurationError(
                f"{where} has the type {kind!r}", hint=f"Types: {', '.join(TYPES)}."
            )
        allowed = declared.get("values") or []
        if not isinstance(allowed, list | tuple):
            raise ConfigurationError(f'"values" of {where} has to be a list')
        bare = cls(name=name, type=kind)
        values = tuple(bare.value_of(value) for value in allowed)
        parameter = cls(
            name=name,
            type=kind,
            is_required="default" not in declared and not has_default,
            values=values,
            description=str(declared.get("description") or ""),
        )
        default = declared.get("default")
        if default is None:
            return parameter
        return cls(**{**vars(parameter), "default": parameter.value_of(default)})

    def value_of(self, given: Any) -> Value:
        """The value that ``given`` means, which may be a text as people type it.

        :class:`UsageError` for what has another type or is not allowed.
        """
        try:
            value: Value = _READ[self.type](given)
        except (ValueError, TypeError, InvalidOperation) as error:
            raise UsageError(
                # Not the value: it may be a password of the settings.
                f'the value of the parameter "{self.name}" cannot be used',
                hint=f"It is of type {self.type}.",
            ) from error
        if self.values and value not in self.values:
            allowed = ", ".join(str(each) for each in self.values)
            raise UsageError(
                f'the value of the parameter "{self.name}" is not allowed',
                hint=f"Allowed: {allowed}.",
            )
        return value


def _boolean(given: Any) -> bool:
    if isinstance(given, bool):
        return given
    word = str(given).strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise ValueError(given)


def _integer(given: Any) -> int:
    if isinstance(given, bool) or (isinstance(given, float) and not given.is_integer()):
        raise ValueError(given)
    return int(given)


def _decimal(given: Any) -> Decimal:
    if isinstance(given, bool):
        raise TypeError(given)
    number = Decimal(str(given).strip())
    if not math.isfinite(number):
        raise ValueError(given)
    return number


def _text(given: Any) -> str:
    if not isinstance(given, str | int | float | Decimal | Path) or isinstance(given, bool):
        raise TypeError(given)
    text = str(given)
    if "\0" in text:
        raise ValueError(given)
    return text


_READ: Mapping[str, Callable[[Any], Value]] = {
    "boolean": _boolean,
    "integer": _integer,
    "decimal": _decimal,
    "text": _text,
    "path": lambda given: Path(_text(given)),
}


def declared(value: Any, where: str, *, has_default: bool = False) -> tuple[Parameter, ...]:
    """The parameters in a list of declarations; each name once."""
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f'"parameters" of {where} has to be a list')
    parameters = tuple(Parameter.parse(each, where, has_default=has_default) for each in value)
    names = [parameter.name for parameter in parameters]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{where} declares a parameter twice")
    return parameters


def values_for(
    parameters: Iterable[Parameter], given: Mapping[str, Any], *, may_lack: bool = False
) -> dict[str, Value]:
    """The value of each parameter: the given one, else its default.

    :class:`UsageError` for one that cannot be used or is missing, unless it ``may_lack``.
    """
    values: dict[str, Value] = {}
    for parameter in parameters:
        raw = given.get(parameter.name)
        if raw is not None:
            values[parameter.name] = parameter.value_of(raw)
        elif parameter.is_required and not may_lack:
            raise UsageError(
                f'the parameter "{parameter.name}" has no value',
                hint="Give it one: in the form of the admin, with --hook-param NAME VALUE, in "
                "hook_params of the configuration, or in PGCLONE_HOOK_PARAMS. Nothing was changed.",
            )
        else:
            values[parameter.name] = parameter.default
    return values


def refuse_unknown(names: Sequence[str], parameters: Iterable[Parameter]) -> None:
    """:class:`UsageError` for a name that no hook declares: it was meant for something."""
    known = sorted({parameter.name for parameter in parameters})
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=3) or known
            raise UsageError(
                f'no hook of this run has a parameter "{name}"',
                hint=f"There is: {', '.join(close)}." if close else "None of them has any.",
            )
