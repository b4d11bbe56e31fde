"""Fields of configurations: lists, pairs, and what the settings decide."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

NONE = "none"
"""A line that stands for a list without entries; without any line the settings decide."""

AS_SETTINGS = gettext_lazy("as the settings say")


class LinesField(forms.CharField):
    """A list of texts, one on each line."""

    widget = forms.Textarea(attrs={"rows": 4, "cols": 60, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, list):
            return "\n".join(str(item) for item in value) or NONE
        return value

    def to_python(self, value: Any) -> Any:
        if isinstance(value, list) or value is None:
            return value
        lines = list(dict.fromkeys(line.strip() for line in str(value).splitlines()))
        entries = [line for line in lines if line]
        return [] if entries == [NONE] else entries or None

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(self.to_python(data) != initial)


class PairsField(forms.CharField):
    """Names and values, one pair on each line: ``name = value``."""

    widget = forms.Textarea(attrs={"rows": 3, "cols": 60, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return "\n".join(f"{name} = {given}" for name, given in value.items())
        return value

    def to_python(self, value: Any) -> Any:
        if isinstance(value, dict) or value is None:
            return value
        pairs: dict[str, str] = {}
        for line in filter(None, (line.strip() for line in str(value).splitlines())):
            name, equals, given = (part.strip() for part in line.partition("="))
            if not equals or not name:
                raise ValidationError(
                    _("“%(line)s” is no pair: name = value"), params={"line": line}
                )
            pairs[name] = given
        return pairs or None

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != initial)
        except ValidationError:
            return True


class ReversibleSelect(forms.NullBooleanSelect):
    def __init__(self) -> None:
        super().__init__()
        self.choices = [
            ("unknown", AS_SETTINGS),
            ("true", gettext_lazy("yes")),
            ("false", gettext_lazy("no")),
        ]
