"""Choosing hooks: by their names, with fields for the parameters that they declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..core.errors import PgcloneError
from ..hooks.parameters import Parameter
from ..options import declared_hooks
from ..services.declared import declared_parameters, hook_names, in_declared_order
from ..settings import HookSpec
from .focus import FocusingForm

PARAMETER = "param-"
"""What the names of the fields of parameters begin with."""


class HookForm(FocusingForm):
    """Hooks that are chosen by their names, and fields for the parameters that they declare."""

    LISTS: ClassVar[Mapping[str, str]] = {}
    """Which field chooses from which list of the settings."""

    parameters: Mapping[str, Parameter]

    def add_hooks(self) -> None:
        for field, option in self.LISTS.items():
            hooks: Any = self.fields[field]
            hooks.choices = [(name, name) for name in hook_names(option)]
            if not hooks.choices:
                del self.fields[field]
        self.parameters = {
            f"{PARAMETER}{name}": parameter
            for option in self.LISTS.values()
            for name, parameter in declared_parameters(option).items()
        }
        order = [*self.fields]
        after = max((order.index(field) + 1 for field in self.LISTS if field in order), default=0)
        self.fields |= {name: _field_of(each) for name, each in self.parameters.items()}
        self.order_fields([*order[:after], *self.parameters])

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = self.cleaned_data
        for name, parameter in self.parameters.items():
            if cleaned.get(name):
                try:
                    parameter.value_of(cleaned[name])
                except PgcloneError as error:
                    self.add_error(
                        name, ValidationError("%(text)s", params={"text": error.hint or error})
                    )
        return cleaned

    def chosen_hooks(self, **fixed: Sequence[HookSpec]) -> dict[str, Any]:
        """The arguments that say which hooks run, and with what; lists that are ``fixed`` are not
        a matter of choice."""
        chosen = {
            option: in_declared_order(option, self.cleaned_data[field])
            for field, option in self.LISTS.items()
            if field in self.cleaned_data
        }
        given: dict[str, Any] = chosen | fixed
        return given | self.params_of(given)

    def params_of(self, hooks: Mapping[str, Sequence[HookSpec]]) -> dict[str, Any]:
        """The argument that says with what these hooks run, which stand under their option."""
        asked: dict[str, Any] = {}
        for option in self.LISTS.values():
            asked |= declared_parameters(option, hooks.get(option, []))
        filled = {name: self.cleaned_data.get(f"{PARAMETER}{name}") for name in asked}
        params = {name: str(value) for name, value in filled.items() if value}
        return {"hook_params": params} if params else {}


def _field_of(parameter: Parameter) -> forms.Field:
    """Empty means "as the settings and the configuration say"."""
    default = "" if parameter.default is None else str(parameter.default)
    usually = default and gettext("Usually: %s") % default
    description = parameter.description
    if usually and description and not description.endswith((".", "!", "?", ":")):
        description += "."
    texts = filter(None, [description, usually])
    about: dict[str, Any] = {
        "label": gettext("Parameter %s") % parameter.name,
        "help_text": " ".join(texts),
        "required": False,
    }
    values = [str(value) for value in parameter.values]
    if parameter.type == "boolean":
        values = ["true", "false"]
    if values:
        choices = [("", _("as the settings say")), *((value, value) for value in values)]
        return forms.ChoiceField(choices=choices, **about)
    return forms.CharField(max_length=1_000, strip=False, **about)


def usual_hooks(option: str, hooks: Sequence[HookSpec]) -> list[str]:
    """Names of those of a list that are declared."""
    return declared_hooks(option).names_of(hooks)
