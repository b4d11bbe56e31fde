"""The pages of restore runs: what was done to databases, and what is being done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST, require_safe

from ..core.errors import PgcloneError
from ..core.marks import MarkKind
from ..core.restore import NOT_NOW
from ..databases import replaceable_alias
from ..models import REPLACING, Dump, Kind, LocalDatabase, RestoreRun, Status
from ..services import actors, lost
from ..services.local_databases import alias_of, local_databases
from ..settings import settings
from . import formats
from .dump_facts import Facts, known, listing
from .local_form import id_of
from .progress import problem_of, progress_of
from .shared import ReadingAdmin, actor_of, link_to, require, tell, tell_recovered

UNDO_PAGE = "pgclone_admin_localdatabase_restore"
SWAP_PAGE = "pgclone_admin_localdatabase_swap"


class StatusOfRunFilter(admin.ChoicesFieldListFilter):
    """Without what only a dump can be."""

    def choices(self, changelist: Any) -> Iterator[Any]:
        missing = Status.MISSING.label
        return (each for each in super().choices(changelist) if each["display"] != missing)


@admin.register(RestoreRun)
class RestoreRunAdmin(ReadingAdmin):
    list_display = ("status_cell", "what", "source", "asked")
    list_display_links = ("what",)
    list_filter = (
        ("status", StatusOfRunFilter),
        "kind",
        ("database", admin.AllValuesFieldListFilter),
        ("target", admin.AllValuesFieldListFilter),
    )
    search_fields = ("key", "target", "requested_by", "error")
    date_hierarchy = "requested_at"
    ordering = ("-requested_at", "-pk")
    actions = ("cancel_selected",)
    list_per_page = 50

    # -- the list

    @admin.display(description=gettext_lazy("status, duration"), ordering="status")
    def status_cell(self, run: RestoreRun) -> SafeString:
        took = "" if run.seconds is None else formats.duration(run.seconds)
        return formats.two_lines(formats.badge(run), took)

    @admin.display(description=gettext_lazy("what"), ordering="kind")
    def what(self, run: RestoreRun) -> str:
        return formats.capitalized(run.get_kind_display())

    @admin.display(description=gettext_lazy("from and to"), ordering="key")
    def source(self, run: RestoreRun) -> SafeString:
        return formats.two_lines(run.key or formats.NOTHING, run.target and f"→ {run.target}")

    @admin.display(description=gettext_lazy("requested (by)"), ordering="requested_at")
    def asked(self, run: RestoreRun) -> SafeString:
        return formats.two_lines(formats.ago(run.requested_at), run.requested_by)

    # -- the pages

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(require_POST(self.clean_up_view))
        return [
            path("clean-up/", view, name=self.url_name("clean_up")),
            *self.run_urls(),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may = {
            "may_clean_up": request.user.has_perm(actors.CANCEL),
            "kept_days": settings.temporary_days,
        }
        return super().changelist_view(request, {**may, **(extra_context or {})})

    def clean_up_view(self, request: HttpRequest) -> HttpResponse:
        """What ``pgclone recover`` does: gives up what is lost, and cleans up."""
        require(request, actors.CANCEL)
        try:
            tell_recovered(request, lost.sweep_site(actor_of(request)))
        except PgcloneError as error:
            tell(request, error)
        return self.after(request)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of one run; nothing on it can be edited."""
        return require_safe(self._show)(request, object_id)

    def _show(self, request: HttpRequest, object_id: str) -> HttpResponse:
        run: RestoreRun = self.read(request, object_id)
        may_restore = request.user.has_perm(actors.RESTORE)
        progress = progress_of(run)
        cancel = _("Cancel this %(kind)s") % {"kind": run.get_kind_display()}
        return self.page(
            request,
            "change_form.html",
            title=formats.capitalized(f"{run.get_kind_display()} #{run.pk}"),
            subtitle=" → ".join(filter(None, [run.key, run.target])),
            original=run,
            progress=progress,
            problem=problem_of(run),
            progress_url=self.own_url("progress", run.pk),
            log_url=self.own_url("log", run.pk),
            facts=facts_of(run),
            result=result_of(run),
            dump=dump_of(run) if request.user.has_perm("pgclone_admin.view_dump") else None,
            undo=undo_of(run) if may_restore else None,
            held=held_of(run) if may_restore else None,
            buttons=self.buttons_of(request, progress, cancel),
        )


def dump_of(run: RestoreRun) -> Dump | None:
    if not run.location:
        return None
    return Dump.objects.filter(location=run.location, key=run.key).first()


def undo_of(run: RestoreRun) -> tuple[str, str] | None:
    """The local key of what was live before a restore, and the page to go back to it.

    Told by its oid: whatever was restored since, it is that database or none.
    """
    if run.status != Status.SUCCEEDED or run.kind not in REPLACING or not run.live_oid:
        return None
    for database in _marked(run, MarkKind.PRE, MarkKind.UNDO):
        if database.oid == run.live_oid and (url := link_to(UNDO_PAGE, id_of(database))):
            return str(database.key), url
    return None


def held_of(run: RestoreRun) -> str | None:
    """The page to swap in what a restore has made that was held, as long as it is."""
    if run.kind != Kind.RESTORE or run.started_at is None or run.finished_at is None:
        return None
    was_asked_for = (run.options.get("variant") or {}).get("hold")
    if not was_asked_for and run.error_code not in {error.code for error in NOT_NOW}:
        return None
    made_within = run.started_at - timedelta(seconds=1), run.finished_at
    for database in _marked(run, MarkKind.HELD):
        mark = database.mark
        if mark is None or mark.source != run.key or mark.made is None:
            continue
        if made_within[0] <= mark.made <= made_within[1]:
            return link_to(SWAP_PAGE, id_of(database))
    return None


def _marked(run: RestoreRun, *kinds: MarkKind) -> list[LocalDatabase]:
    """Databases of these kinds on the server of the run, as far as that can be told."""
    try:
        # Under the alias that the pages of local databases know: another one may be gone by then.
        alias = replaceable_alias(run.database)
        if alias is None:
            return []
        return [
            database
            for database in local_databases(alias)
            if database.mark is not None
            and database.mark.kind in kinds
            and alias_of(database) is not None
        ]
    except PgcloneError:
        return []


def facts_of(run: RestoreRun) -> Facts:
    facts: Facts = [
        (_("From"), run.key or formats.NOTHING),
        (_("To the database"), run.target or formats.NOTHING),
        (_("Alias"), run.database),
        (_("Requested by"), run.requested_by or formats.NOTHING),
        (_("Requested"), formats.ago(run.requested_at)),
        (_("Started"), formats.ago(run.started_at)),
        (_("Finished"), formats.ago(run.finished_at)),
        (_("Worker"), run.worker or formats.NOTHING),
    ]
    given = {**(run.options.get("arguments") or {}), **(run.options.get("variant") or {})}
    for name, label in (
        ("config", _("Configuration")),
        ("pre_swap_hooks", _("Hooks")),
        ("post_swap_hooks", _("Hooks after the swap")),
        ("hook_params", _("Parameters")),
        ("reversible", _("Reversible")),
        ("beside", _("Beside, as")),
        ("hold", _("Stops before the swap")),
        ("accounts", _("Accounts carried over")),
        ("trust_foreign", _("A foreign dump is trusted")),
        ("ignore_standbys", _("Sessions on standbys are ignored")),
        ("lose_settings", _("Settings and grants that may be lost")),
    ):
        if given.get(name) not in (None, "", False, []):
            facts.append((label, _said(given[name])))
    return known(facts)


def _said(value: Any) -> Any:
    if value is True:
        return _("yes")
    if isinstance(value, Mapping):
        # Parameters by name: a password may be among their values.
        return listing([str(name) for name in value])
    return listing([str(item) for item in value]) if isinstance(value, list) else str(value)


LEFT_OUT = {
    "left_out": gettext_lazy("Left out"),
    "skipped_grants": gettext_lazy("Grants to roles that are not here"),
    "lost_owners": gettext_lazy("Objects whose owners could not be given to them"),
    "unchecked_foreign_keys": gettext_lazy("Foreign keys that were made without a check"),
    "tolerated": gettext_lazy("Errors that the settings tolerate"),
}


def result_of(run: RestoreRun) -> Facts:
    """What came of it."""
    result = run.result
    if not isinstance(result, dict):
        return []
    facts: Facts = []
    if result.get("database"):
        facts.append((_("Database"), str(result["database"])))
    swap = result.get("swap")
    if isinstance(swap, Mapping):
        facts.append((_("Clients waited at most"), _seconds(swap.get("seconds"))))
        facts.append(
            (_("Writers to kept tables waited at most"), _seconds(swap.get("kept_seconds")))
        )
        attempts = swap.get("attempts")
        if isinstance(attempts, int):
            said = ngettext("%(n)s attempt", "%(n)s attempts", attempts) % {"n": attempts}
            facts.append((_("The swap needed"), said))
    elif run.kind == Kind.COPY:
        facts.append((_("Copied in"), _seconds(result.get("seconds"))))
    for name, label in LEFT_OUT.items():
        items = result.get(name)
        if isinstance(items, list) and items:
            facts.append((str(label), listing([str(item) for item in items])))
    return facts


def _seconds(value: Any) -> str:
    if not isinstance(value, int | float):
        return formats.NOTHING
    return _("%(n)s s") % {"n": f"{value:.2f}"}
