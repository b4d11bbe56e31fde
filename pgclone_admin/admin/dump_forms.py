"""What people can say when they take a dump or bring an archive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.db import connections
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..models import Configuration
from ..settings import settings


class DumpNowForm(forms.Form):
    """Choices among what the settings and the configurations declare; nothing is typed."""

    database = forms.ChoiceField(label=gettext_lazy("Database"), required=False)
    config = forms.ChoiceField(label=gettext_lazy("Configuration"), required=False)
    instance = forms.ChoiceField(
        label=gettext_lazy("Instance"),
        required=False,
        help_text=gettext_lazy("The label of where the dump was made, the beginning of its key."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        declared = declared_configurations()
        instances = {settings.instance, *_values(declared, "instance")}
        says = _("as the configuration says, else %(value)s")
        self._offer("database", says % {"value": settings.database}, databases())
        self._offer("config", _("none: everything, as the settings say"), sorted(declared))
        self._offer("instance", says % {"value": settings.instance}, sorted(instances))

    def _offer(self, name: str, empty: str, values: list[str]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", empty), *((value, value) for value in values)]

    @property
    def given(self) -> dict[str, str]:
        return {name: value for name, value in self.cleaned_data.items() if value}


class ImportForm(forms.Form):
    archive = forms.FileField(
        label=gettext_lazy("Archive"),
        help_text=gettext_lazy("A file in the custom format of pg_dump; it may be compressed."),
    )
    database = forms.ChoiceField(
        label=gettext_lazy("Database"),
        help_text=gettext_lazy("The database of this site that the archive is of."),
    )
    instance = forms.SlugField(
        label=gettext_lazy("Instance"),
        required=False,
        max_length=60,
        help_text=gettext_lazy("A label of where it was made; “imported” when left empty."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["database"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(alias, alias) for alias in databases()]
        field.initial = settings.database


def databases() -> list[str]:
    """The aliases that can be dumped."""
    return [alias for alias in connections if connections[alias].vendor == "postgresql"]


def declared_configurations() -> dict[str, Mapping[str, Any]]:
    """Every configuration that a dump can name: those of the settings, and those of the admin."""
    stored = {each.name: each.as_options() for each in Configuration.objects.all()}
    return {**stored, **settings.dump_configs, **settings.configs}


def _values(declared: Mapping[str, Mapping[str, Any]], option: str) -> set[str]:
    return {str(options[option]) for options in declared.values() if options.get(option)}
