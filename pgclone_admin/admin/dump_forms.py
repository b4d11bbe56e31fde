"""What people can say when they take a dump or bring an archive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.db import connections
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..core.errors import PgcloneError
from ..models import Configuration
from ..options import Arguments, resolve
from ..settings import settings
from .focus import FocusingForm
from .hook_form import HookForm, usual_hooks

PRE_DUMP = "pre_dump_hooks"


class DumpNowForm(HookForm):
    """Choices among what the settings and the configurations declare.

    Which hooks are usual depends on the configuration that is chosen beside them. So they are
    chosen only by who says so, and otherwise left to it.
    """

    LISTS: ClassVar = {PRE_DUMP: PRE_DUMP}

    database = forms.ChoiceField(label=gettext_lazy("Database"), required=False)
    config = forms.ChoiceField(label=gettext_lazy("Configuration"), required=False)
    instance = forms.ChoiceField(
        label=gettext_lazy("Instance"),
        required=False,
        help_text=gettext_lazy("The label of where the dump was made, the beginning of its key."),
    )
    choose_hooks = forms.BooleanField(label=gettext_lazy("Choose hooks"), required=False)
    pre_dump_hooks = forms.MultipleChoiceField(
        label=gettext_lazy("Hooks before the dump"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("These run, on the live database, and no others."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_hooks()
        declared = declared_configurations()
        instances = {settings.instance, *_values(declared, "instance")}
        says = _("as the configuration says, else %(value)s")
        self._offer("database", says % {"value": settings.database}, databases())
        self._offer("config", _("none: everything, as the settings say"), sorted(declared))
        self._offer("instance", says % {"value": settings.instance}, sorted(instances))
        if PRE_DUMP in self.fields:
            self.fields["choose_hooks"].help_text = _usually(["", *sorted(declared)])
        else:
            del self.fields["choose_hooks"]

    def _offer(self, name: str, empty: str, values: list[str]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", empty), *((value, value) for value in values)]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if cleaned.get(PRE_DUMP) and not cleaned["choose_hooks"]:
            said = _("Tick “%(label)s” too, or none of these.")
            self.add_error(PRE_DUMP, said % {"label": self.fields["choose_hooks"].label})
        return cleaned

    @property
    def given(self) -> dict[str, Any]:
        """The arguments of the dump."""
        chosen = self.cleaned_data
        given = {name: chosen[name] for name in ("database", "config", "instance") if chosen[name]}
        if chosen.get("choose_hooks"):
            return given | self.chosen_hooks()
        return given | self.params_of({PRE_DUMP: _usual(chosen["config"])})


class ImportForm(FocusingForm):
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


def _usual(config: str) -> list[str]:
    """Names of the hooks of a configuration, or of the settings without one."""
    options = resolve(Arguments(config=config or None), verb="dump")
    return usual_hooks(PRE_DUMP, options.pre_dump_hooks)


def _usually(configs: list[str]) -> str:
    """Which hooks run when nobody chooses any."""
    said = []
    for config in configs:
        try:
            names = ", ".join(_usual(config)) or _("none")
        except PgcloneError:
            continue  # whoever dumps with it is told
        if config:
            names = _("with “%(config)s”: %(hooks)s") % {"config": config, "hooks": names}
        said.append(names)
    return _("Otherwise those run that are usual: %(hooks)s.") % {"hooks": "; ".join(said)}


def databases() -> list[str]:
    """The aliases that can be dumped."""
    return [alias for alias in connections if connections[alias].vendor == "postgresql"]


def declared_configurations() -> dict[str, Mapping[str, Any]]:
    """Every configuration that a dump can name: those of the settings, and those of the admin."""
    stored = {each.name: each.as_options() for each in Configuration.objects.all()}
    return {**stored, **settings.dump_configs, **settings.configs}


def _values(declared: Mapping[str, Mapping[str, Any]], option: str) -> set[str]:
    return {str(options[option]) for options in declared.values() if options.get(option)}
