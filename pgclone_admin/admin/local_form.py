"""What local databases are, and what can be asked of one."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db import DEFAULT_DB_ALIAS
from django.utils.translation import gettext_lazy

from ..core.errors import PgcloneError
from ..core.marks import MarkKind
from ..databases import live_name, replaceable_aliases
from ..models import LocalDatabase
from ..services.restores import local_target
from . import formats

KINDS: dict[str, object] = {
    MarkKind.PRE: gettext_lazy("what was live before a restore"),
    MarkKind.POST: gettext_lazy("what a restore has made"),
    MarkKind.UNDO: gettext_lazy("what was live before going back"),
    MarkKind.HELD: gettext_lazy("held, to be swapped in"),
    MarkKind.COPY: gettext_lazy("copy"),
    MarkKind.BESIDE: gettext_lazy("restored beside the live one"),
    MarkKind.TEMPORARY: gettext_lazy("being built, or left by a run that died"),
    MarkKind.FAILED: gettext_lazy("kept after a hook failed"),
    MarkKind.PARKED: gettext_lazy("replaced by a swap that was not finished"),
}


def id_of(row: LocalDatabase) -> str:
    """What stands for it in the addresses of its pages: the server too, where it is another one."""
    server = row._state.db
    return str(row.pk) if server in (None, DEFAULT_DB_ALIAS) else f"{server}-{row.pk}"


class CopyForm(forms.Form):
    """Which database is copied, and under which name."""

    database = forms.ChoiceField(label=gettext_lazy("Database"))
    name = forms.CharField(
        label=gettext_lazy("Name of the copy"),
        max_length=63,
        help_text=gettext_lazy("The name of a database that does not exist yet."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        database: Any = self.fields["database"]
        database.choices = [(alias, alias) for alias in replaceable_aliases()]
        if len(database.choices) == 1:
            database.widget = forms.HiddenInput()
            database.initial = database.choices[0][0]

    def clean(self) -> dict[str, Any]:
        name, alias = self.cleaned_data.get("name"), self.cleaned_data.get("database")
        if name and alias:
            try:
                local_target(self.key, live_name(alias))
            except PgcloneError as error:
                self.add_error("name", formats.capitalized(error.message))
        return self.cleaned_data

    @property
    def key(self) -> str:
        return ":" + str(self.cleaned_data["name"]).removeprefix(":")
