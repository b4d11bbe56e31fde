"""What a person chooses before a restore, and what they type to confirm it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..core.errors import NotCarried, PgcloneError, StandbyUnreached
from ..databases import live_name, replaceable_aliases
from ..plan import Plan
from ..services.accounts import Staff, has_accounts, staff_among, staff_of
from ..services.actors import is_superuser
from ..services.restores import Variant, local_target
from ..settings import settings
from .focus import FocusingForm
from .hook_form import HookForm, usual_hooks
from .restore_source import BESIDE, CONFIG, HOLD, MADE_WITH, OVER, Source


class OfferedNames(forms.MultipleChoiceField):
    """Names that a page has offered, which may offer others by now."""

    def __init__(self, **about: Any) -> None:
        super().__init__(required=False, widget=forms.CheckboxSelectMultiple, **about)

    def valid_value(self, value: str) -> bool:
        return True


class AcceptingForm(HookForm):
    """What the plan asks a person to accept; shown once it asks."""

    lose_settings = OfferedNames(label=_("Accept that these settings and grants are lost"))
    ignore_standbys = forms.BooleanField(
        label=_("Accept that sessions on standbys go on reading what is replaced"), required=False
    )

    ASKED_BY: ClassVar[Mapping[str, str]] = {
        NotCarried.code: "lose_settings",
        StandbyUnreached.code: "ignore_standbys",
    }
    """Which field accepts what an obstacle of this code tells."""

    def ask(self, plan: Plan | None = None) -> None:
        """Shows what was accepted, and what would have to be accepted for this plan."""
        asked = [] if plan is None else [self.ASKED_BY.get(each.code) for each in plan.obstacles]
        for name in self.ASKED_BY.values():
            # The one that is bound already, if there is one.
            field: Any = self.fields.pop(name, None) or copy.deepcopy(self.base_fields[name])
            accepted = field.widget.value_from_datadict(self.data, self.files, name)
            if name == "lose_settings":
                losses = {*accepted, *(plan.lost_settings if plan is not None else [])}
                field.choices = [(loss, loss) for loss in sorted(losses)]
            if accepted or name in asked:
                self.fields[name] = field

    def accepted(self) -> dict[str, Any]:
        """What was accepted, under the names of :class:`~pgclone_admin.services.restores.Variant`;
        beside what the settings accept."""
        losses = self.cleaned_data.get("lose_settings")
        return {
            "ignore_standbys": self.cleaned_data.get("ignore_standbys", False),
            "lose_settings": [*settings.lose_settings, *losses] if losses else None,
        }


class RestoreForm(AcceptingForm):
    """Every choice; always bound, so that the plan is one of what is shown."""

    LISTS: ClassVar = {"hooks": "pre_swap_hooks", "post_swap_hooks": "post_swap_hooks"}

    database = forms.ChoiceField(label=_("Database"))
    config = forms.ChoiceField(
        label=_("Configuration"),
        required=False,
        help_text=_(
            "When it is changed, “Show the plan” chooses the hooks and the rest as it says. What "
            "it requires is required."
        ),
    )
    made_with = forms.CharField(required=False, widget=forms.HiddenInput)
    what = forms.ChoiceField(
        label=_("What to do"),
        choices=[
            (OVER, _("Replace the live database")),
            (BESIDE, _("Make another database beside it, under a name")),
            (HOLD, _("Build it and hold it, to be swapped in later")),
        ],
        widget=forms.RadioSelect,
    )
    beside = forms.CharField(
        label=_("Name of the other database"), required=False, max_length=63, strip=True
    )
    hooks = forms.MultipleChoiceField(
        label=_("Hooks"), required=False, widget=forms.CheckboxSelectMultiple
    )
    post_swap_hooks = forms.MultipleChoiceField(
        label=_("Hooks after the swap"), required=False, widget=forms.CheckboxSelectMultiple
    )
    reversible = forms.BooleanField(
        label=_("Keep what is live now as :pre, and what is restored as :post"), required=False
    )
    accounts = forms.MultipleChoiceField(
        label=_("Accounts of staff to carry over"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )
    more_accounts = forms.CharField(
        label=_("Other usernames"),
        required=False,
        max_length=10_000,
        help_text=_("One on each line, or separated by commas."),
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
    )
    trust_foreign = forms.BooleanField(
        label=_("Trust this dump, which was made by somebody else"), required=False
    )

    def __init__(self, data: Mapping[str, Any], *, source: Source, user: Any, **more: Any) -> None:
        super().__init__(data, **more)
        self.source = source
        choices = [] if source.is_local else replaceable_aliases()
        if source.alias not in choices:
            # Its server does not answer now: the plan says so.
            choices = [source.alias, *choices]
        database: Any = self.fields["database"]
        database.choices = [(alias, _database_label(alias)) for alias in choices]
        if len(choices) == 1:
            database.widget = forms.HiddenInput()
        config: Any = self.fields[CONFIG]
        config.choices = [(name, name or _("none: as the settings say")) for name in source.configs]
        config.required = "" not in source.configs
        if [*source.configs] in ([], [""]):
            del self.fields[CONFIG], self.fields[MADE_WITH]
        what: Any = self.fields["what"]
        held = gettext("Build it and hold it for %(days)s days, to be swapped in later")
        held_for = held % {"days": settings.temporary_days}
        what.choices = [(key, held_for if key == HOLD else said) for key, said in what.choices]
        self.add_hooks()
        given = data.get("database")
        alias = given if given in choices else source.alias
        self._offer_accounts(staff_of(alias, user.get_username()), user)
        if source.is_local:
            del self.fields["reversible"]
        if not (source.is_foreign and is_superuser(user)):
            del self.fields["trust_foreign"]
        self.ask()

    def _offer_accounts(self, staff: Staff, user: Any) -> None:
        accounts: Any = self.fields["accounts"]
        accounts.choices = [(name, name) for name in staff.offered]
        if not staff.offered:
            del self.fields["accounts"]
        if not staff.has_others:
            del self.fields["more_accounts"]
        self.offers_own_account = user.get_username() in staff.offered

    @property
    def other_accounts(self) -> forms.BoundField | None:
        """The field for accounts that are not offered, where there are such."""
        return self["more_accounts"] if "more_accounts" in self.fields else None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        alias = cleaned.get("database")
        if alias is None:
            return cleaned
        if cleaned.get("what") == BESIDE:
            self._clean_beside(cleaned.get("beside", ""), alias)
        if typed := cleaned.get("more_accounts"):
            others = self._clean_others(typed, alias)
            cleaned["accounts"] = list(dict.fromkeys([*cleaned.get("accounts", []), *others]))
        if cleaned.get("accounts") and not has_accounts(alias):
            self.add_error("accounts", gettext("The accounts are not in this database."))
        return cleaned

    def _clean_others(self, typed: str, alias: str) -> list[str]:
        lines = [line.strip() for line in typed.splitlines()]
        split = {line: [part.strip() for part in line.split(",")] for line in lines}
        staff = staff_among(alias, {*lines, *(part for parts in split.values() for part in parts)})
        # A name may hold a comma itself.
        meant = [name for line in lines for name in ([line] if line in staff else split[line])]
        if unknown := [name for name in meant if name and name not in staff]:
            self.add_error(
                "more_accounts",
                ValidationError(
                    gettext("Not among the active staff: %(names)s."),
                    params={"names": ", ".join(unknown)},
                ),
            )
        return [name for name in meant if name in staff]

    def _clean_beside(self, name: str, alias: str) -> None:
        if not name:
            self.add_error("beside", gettext("Give it a name."))
            return
        try:
            local_target(f":{name.removeprefix(':')}", live_name(alias))
        except PgcloneError as error:
            self.add_error("beside", ValidationError("%(text)s", params={"text": error.message}))

    # -- what was chosen

    @property
    def alias(self) -> str:
        return str(self.cleaned_data["database"])

    def given(self) -> dict[str, Any]:
        """The arguments of the restore."""
        is_held = self.cleaned_data["what"] == HOLD
        given: dict[str, Any] = {
            "dump_key": self.source.key,
            "database": self.alias,
            "pre_swap_hooks": [],
            # Both are asked for when what is held is swapped in.
            "reversible": self.cleaned_data.get("reversible", False) and not is_held,
            **self.chosen_hooks(**{"post_swap_hooks": []} if is_held else {}),
        }
        if self.source.location is not None:
            given["storage_location"] = self.source.location
        if config := self.cleaned_data.get(CONFIG, self.source.config):
            given["config"] = config
        return given

    def variant(self) -> Variant:
        chosen = self.cleaned_data
        name = chosen.get("beside", "").removeprefix(":")
        return Variant(
            beside=f":{name}" if chosen["what"] == BESIDE else None,
            replaces_beside=False,
            hold=chosen["what"] == HOLD,
            trust_foreign=chosen.get("trust_foreign", False),
            accounts=chosen.get("accounts", []),
            **self.accepted(),
        )


class SwapForm(AcceptingForm):
    """What is chosen when a held restore is swapped in.

    What one of a local copy replaces is kept in any case, so there is no choice.
    """

    LISTS: ClassVar = {"post_swap_hooks": "post_swap_hooks"}

    reversible = forms.BooleanField(
        label=_("Keep what is live now as :pre, and what is swapped in as :post"),
        required=False,
        help_text=_("Otherwise there is no way back: what is live now is dropped."),
    )
    post_swap_hooks = forms.MultipleChoiceField(
        label=_("Hooks after the swap"), required=False, widget=forms.CheckboxSelectMultiple
    )

    def __init__(
        self, data: Mapping[str, Any] | None, *, is_local: bool, reversible: bool = False
    ) -> None:
        """``reversible``: whether that was chosen when it was restored."""
        usual = usual_hooks("post_swap_hooks", settings.post_swap_hooks)
        reversible = reversible or settings.reversible
        super().__init__(data, initial={"reversible": reversible, "post_swap_hooks": usual})
        if is_local:
            del self.fields["reversible"]
        self.add_hooks()
        self.ask()

    def given(self) -> dict[str, Any]:
        return {"reversible": self.cleaned_data.get("reversible", False), **self.chosen_hooks()}

    def variant(self) -> Variant:
        return Variant(**self.accepted())


def _database_label(alias: str) -> str:
    name = live_name(alias)
    return name if name == alias else f"{name} ({alias})"


class ConfirmForm(FocusingForm):
    """The name of the database that is replaced, typed by the person who replaces it."""

    confirm_name = forms.CharField(
        strip=True,
        max_length=63,
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "autocapitalize": "off", "spellcheck": "false"}
        ),
    )
    confirm_oid = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, name: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self.name = name
        self.fields["confirm_name"].label = gettext(
            'Type the name of the database, "%(name)s", to confirm'
        ) % {"name": name}

    @classmethod
    def of(cls, live: str, oid: int | None) -> ConfirmForm:
        """The form that has nothing typed in it yet; ``None`` where there is no database so far."""
        return cls(name=live, initial={"confirm_oid": oid or 0})

    def clean_confirm_name(self) -> str:
        typed = str(self.cleaned_data["confirm_name"])
        if typed != self.name:
            raise ValidationError(
                gettext("This is not the name of the database. Nothing was done.")
            )
        return typed
