"""The pages of configurations: those of the admin are edited, those of the settings are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django import forms
from django.apps import apps
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..core.errors import PgcloneError
from ..core.names import LocalKey, check_relative_path
from ..databases import replaceable_aliases
from ..hooks.spec import name_of
from ..models import Configuration
from ..options import (
    HOOK_LISTS,
    NO_CONFIGURATION,
    configuration_names,
    configurations_of_settings,
)
from ..services.actors import Actor, is_superuser
from ..services.audit import audit_without_row
from ..services.declared import declared_locations, declared_parameters, hook_names
from ..settings import HookSpec
from ..storage import open_backend
from .configuration_fields import AS_SETTINGS, NONE, LinesField, PairsField, ReversibleSelect
from .configuration_restore import ConfigurationRestores, may_restore, restore_link
from .formats import NOTHING, capitalized

if TYPE_CHECKING:
    ConfigurationBase = admin.ModelAdmin[Configuration]
    ConfigurationForms = forms.ModelForm[Configuration]
else:
    ConfigurationBase = admin.ModelAdmin
    ConfigurationForms = forms.ModelForm


class ConfigurationForm(ConfigurationForms):
    database = forms.ChoiceField(label=gettext_lazy("Database"), required=False)
    exclude = LinesField(label=gettext_lazy("Exclude"), required=False)
    pre_dump_hooks = LinesField(label=gettext_lazy("Pre-dump hooks"), required=False)
    pre_swap_hooks = LinesField(label=gettext_lazy("Pre-swap hooks"), required=False)
    post_swap_hooks = LinesField(label=gettext_lazy("Post-swap hooks"), required=False)
    hook_params = PairsField(label=gettext_lazy("Hook parameters"), required=False)

    may_choose_location = False
    """Whether the person may name a storage location that the settings do not."""

    class Meta:
        model = Configuration
        fields = "__all__"
        widgets = {"reversible": ReversibleSelect}  # noqa: RUF012 - as Django wants it

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if "name" not in self.fields:
            return  # a page that is only read
        database: Any = self.fields["database"]
        own = [self.instance.database] if self.instance.database else []
        names = list(dict.fromkeys([*replaceable_aliases(), *own]))
        database.choices = [("", AS_SETTINGS), *((name, name) for name in names)]
        self.fields["name"].help_text = _("What follows -c, and stands in the keys of its dumps.")
        self.fields["exclude"].help_text = _(
            "Models whose rows dumps leave out, one on each line: app_label.Model. "
            "Empty: as the settings say. “none”: no model."
        )
        parameters = ", ".join(declared_parameters()) or _("none")
        self.fields["hook_params"].help_text = _(
            "name = value, one on each line. Hooks declare: %(parameters)s."
        ) % {"parameters": parameters}
        for option in HOOK_LISTS:
            declared = ", ".join(hook_names(option)) or _("none")
            self.fields[option].help_text = _(
                "Hooks in their order, one on each line. The settings declare: %(hooks)s. "
                "Empty: as the settings say. “none”: no hook."
            ) % {"hooks": declared}
        self.fields["storage_location"].help_text = _("The settings name: %(locations)s") % {
            "locations": ", ".join(declared_locations())
        }

    def clean_name(self) -> str:
        name = str(self.cleaned_data["name"])
        if name == NO_CONFIGURATION:
            raise ValidationError(
                _("“%(name)s” stands in the keys of dumps that were made without a configuration."),
                params={"name": name},
            )
        if name in configuration_names():
            raise ValidationError(
                _("The settings have a configuration with this name, which would be the one used.")
            )
        return name

    def clean_exclude(self) -> list[str] | None:
        labels: list[str] | None = self.cleaned_data["exclude"]
        unknown = [label for label in labels or [] if not _is_model(label)]
        if unknown:
            raise ValidationError(
                _("There is no model %(names)s."), params={"names": ", ".join(unknown)}
            )
        return labels

    def clean_pre_dump_hooks(self) -> list[str] | None:
        return self._hooks("pre_dump_hooks")

    def clean_pre_swap_hooks(self) -> list[str] | None:
        return self._hooks("pre_swap_hooks")

    def clean_post_swap_hooks(self) -> list[str] | None:
        return self._hooks("post_swap_hooks")

    def clean_hook_params(self) -> dict[str, str] | None:
        given: dict[str, str] | None = self.cleaned_data["hook_params"]
        known = declared_parameters()
        if others := [name for name in given or {} if name not in known]:
            raise ValidationError(
                _("No hook that the settings declare has a parameter %(names)s."),
                params={"names": ", ".join(others)},
            )
        for name, value in (given or {}).items():
            _try(partial(known[name].value_of, value))
        return given

    def _hooks(self, option: str) -> list[str] | None:
        names: list[str] | None = self.cleaned_data[option]
        declared = hook_names(option)
        if others := [name for name in names or [] if name not in declared]:
            raise ValidationError(
                _(
                    "Not declared as hooks here: %(names)s. Name them in %(setting)s, or in a "
                    "configuration of the settings."
                ),
                params={"names": ", ".join(others), "setting": f"PGCLONE_{option.upper()}"},
            )
        return names

    def clean_storage_location(self) -> str:
        location = str(self.cleaned_data["storage_location"])
        if not location:
            return location
        _try(lambda: open_backend(location, lambda _text: None))
        is_known = location in {*declared_locations(), self.instance.storage_location}
        if not is_known and not self.may_choose_location:
            raise ValidationError(_("Only a superuser can name a place that the settings do not."))
        return location

    def clean_dump_key(self) -> str:
        text = str(self.cleaned_data["dump_key"])
        if text.startswith(":"):
            _try(lambda: LocalKey.parse(text))
        elif text:
            _try(lambda: check_relative_path(text.rstrip("/")))
        return text


def _try(look: Callable[[], Any]) -> None:
    try:
        look()
    except PgcloneError as error:
        text = " ".join(filter(None, [f"{capitalized(error.message)}.", error.hint]))
        raise ValidationError("%(text)s", params={"text": text}) from error


def _is_model(label: str) -> bool:
    try:
        apps.get_model(label)
    except (LookupError, ValueError):
        return False
    return True


@admin.register(Configuration)
class ConfigurationAdmin(ConfigurationRestores, ConfigurationBase):
    form = ConfigurationForm
    list_display = (
        "name",
        "database_cell",
        "exclude_cell",
        "dump_hooks",
        "swap_hooks",
        "reversible_cell",
    )
    search_fields = ("name", "database")
    fieldsets = (
        (None, {"fields": ("name", "database", "instance", "storage_location")}),
        (gettext_lazy("Dumps"), {"fields": ("exclude", "pre_dump_hooks")}),
        (
            gettext_lazy("Restores"),
            {"fields": ("dump_key", "pre_swap_hooks", "post_swap_hooks", "reversible")},
        ),
        (gettext_lazy("Hooks"), {"fields": ("hook_params", "require_anonymized")}),
    )

    readonly_fields = ("parameter_names",)

    class Media:
        css = {"all": ("pgclone_admin/pgclone.css", "pgclone_admin/plan.css")}  # noqa: RUF012 - as Django wants it

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Who may not change a configuration is not shown its values, which may be passwords."""
        if obj is None or self.has_change_permission(request, obj):
            return self.fieldsets
        *others, (title, _options) = self.fieldsets
        return [*others, (title, {"fields": ("parameter_names", "require_anonymized")})]

    @admin.display(description=gettext_lazy("hook parameters"))
    def parameter_names(self, row: Configuration) -> str:
        return NOTHING if row.hook_params is None else _shown(row.hook_params)

    @admin.display(description=gettext_lazy("database"), ordering="database")
    def database_cell(self, row: Configuration) -> str:
        return row.database or NOTHING

    @admin.display(description=gettext_lazy("exclude"))
    def exclude_cell(self, row: Configuration) -> str:
        return listed(row.exclude)

    @admin.display(description=gettext_lazy("pre-dump hooks"))
    def dump_hooks(self, row: Configuration) -> str:
        return listed(row.pre_dump_hooks)

    @admin.display(description=gettext_lazy("pre-swap hooks"))
    def swap_hooks(self, row: Configuration) -> str:
        return listed(row.pre_swap_hooks)

    @admin.display(description=gettext_lazy("reversible"), ordering="reversible")
    def reversible_cell(self, row: Configuration) -> str:
        return NOTHING if row.reversible is None else _shown(row.reversible)

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> type[Any]:
        form = super().get_form(request, obj, change, **kwargs)
        return type(form.__name__, (form,), {"may_choose_location": is_superuser(request.user)})

    # -- what people do to them, written down where a restore leaves it

    def save_model(self, request: HttpRequest, obj: Configuration, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        # Not the values: a password may be among them.
        fields = ", ".join(form.changed_data)
        if not change:
            _audit(request, obj.name, f"added, with: {fields}")
        elif fields:
            _audit(request, form.initial["name"], f"changed: {fields}")

    def delete_model(self, request: HttpRequest, obj: Configuration) -> None:
        super().delete_model(request, obj)
        _audit(request, obj.name, "deleted")

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Configuration]) -> None:
        names = list(queryset.values_list("name", flat=True))
        super().delete_queryset(request, queryset)
        for name in names:
            _audit(request, name, "deleted")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context: dict[str, Any] = {"title": capitalized(str(self.opts.verbose_name_plural))}
        try:
            context["configurations_of_settings"] = [
                (
                    name,
                    [(option, _shown(value)) for option, value in sorted(options.items())],
                    restore_link(name)
                    if options.get("dump_key") and may_restore(request)
                    else None,
                )
                for name, options in sorted(configurations_of_settings())
            ]
        except PgcloneError as error:
            context["problem_of_settings"] = error.message
        response = super().changelist_view(request, {**context, **(extra_context or {})})
        assert isinstance(response, HttpResponse)
        return response


def _audit(request: HttpRequest, name: str, what: str) -> None:
    audit_without_row(f'configuration "{name}"', Actor.of(request.user), what)


def listed(entries: Sequence[HookSpec] | None) -> str:
    """A list as one text; nothing where the settings decide."""
    if entries is None:
        return NOTHING
    return ", ".join(name_of(entry) for entry in entries) or NONE


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, Mapping):
        # Not the values: a password may be among them.
        return ", ".join(value) or NONE
    return listed(value) if isinstance(value, list) else str(value)
