"""What local databases are, and what can be asked of one."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db import DEFAULT_DB_ALIAS
from django.utils.translation import gettext, gettext_lazy

from ..core.errors import PgcloneError
from ..core.marks import MarkKind
from ..databases import live_name, replaceable_aliases
from ..models import LocalDatabase
from ..services import recovery
from ..services.local_databases import alias_of
from ..services.restores import local_target
from . import formats
from .focus import FocusingForm

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


def kind_of(row: LocalDatabase) -> str:
    mark = row.mark
    said = str(KINDS.get(mark.kind, mark.kind)) if mark else formats.NOTHING
    if mark is None or alias_of(row) is not None:
        return said
    return gettext("%(what)s, of another site (%(of)s)") % {"what": said, "of": mark.of}


def kept_until(row: LocalDatabase) -> str:
    """Until when it is kept, where it is not for good; else an empty text."""
    until = recovery.kept_until(row.mark) if row.mark else None
    if until is None:
        return ""
    return gettext("kept until %(time)s, then dropped by the next “Clean up”") % {
        "time": formats.absolute(until)
    }


def size_of(row: LocalDatabase) -> str:
    return formats.size(getattr(row, "size", None))


def age_of(row: LocalDatabase) -> str:
    return formats.ago(row.mark.made if row.mark else None)


def made_from(row: LocalDatabase) -> str:
    mark = row.mark
    return (mark.source if mark else "") or formats.NOTHING


def facts_of(row: LocalDatabase) -> list[tuple[str, Any]]:
    """What its pages say of it: labels and texts."""
    until = kept_until(row)
    return [
        (gettext("Key"), str(row.key)),
        (gettext("Database"), row.name),
        (gettext("What it is"), formats.capitalized(kind_of(row))),
        (gettext("Size"), size_of(row)),
        (gettext("Made"), age_of(row)),
        (gettext("Made from"), made_from(row)),
        *([(gettext("How long"), formats.capitalized(until))] if until else []),
    ]


class CopyForm(FocusingForm):
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
