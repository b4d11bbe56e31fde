"""The pages of dumps: what there is, taking one, taking one in, and what can be done with one."""

from __future__ import annotations

import time
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import BadRequest
from django.db.models.functions import Coalesce
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.urls import path
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from ..core.errors import PgcloneError
from ..models import Dump, RestoreRun, Status
from ..services import actors, dump_care, imports, requests
from ..services.allowed import refusal
from ..services.declared import declared_locations
from ..services.downloads import Form, open_download
from ..services.refresh import refresh
from . import formats
from .dump_bulk import BulkActions
from .dump_deletion import LAST_GOOD, deletable
from .dump_facts import contents_of, facts_of
from .dump_files import on_disk, streamed
from .dump_forms import DumpNowForm, ImportForm
from .progress import problem_of, progress_of
from .restore import DumpRestorePage
from .shared import actor_of, link_to, require, tell

RUNS_SHOWN = 10

REFRESH_SECONDS = 15.0
"""How long a refresh may read manifests: web servers wait for 30 seconds or more."""

FORM = ["GET", "HEAD", "POST"]

BREAK = SafeString("<br>")

WHEN = Coalesce("taken_at", "requested_at")


@admin.register(Dump)
class DumpAdmin(BulkActions, DumpRestorePage):
    list_display = (
        "status_cell",
        "dump_cell",
        "taken_cell",
        "size_cell",
        "proof_cell",
    )
    list_display_links = ("dump_cell",)
    list_filter = (
        "status",
        ("instance", admin.AllValuesFieldListFilter),
        ("database", admin.AllValuesFieldListFilter),
        ("config", admin.AllValuesFieldListFilter),
        ("location", admin.AllValuesFieldListFilter),
    )
    search_fields = ("key", "instance", "database", "config", "requested_by", "error")
    date_hierarchy = "taken_at"
    ordering = (WHEN.desc(), "-pk")
    actions = ("verify_selected", "cancel_selected", "delete_selected")
    list_per_page = 50

    # -- the list

    @admin.display(description=gettext_lazy("status"), ordering="status")
    def status_cell(self, dump: Dump) -> SafeString:
        badge = formats.badge(dump)
        return formats.two_lines(badge, _("pinned")) if dump.is_pinned else badge

    @admin.display(description=gettext_lazy("dump"), ordering="database")
    def dump_cell(self, dump: Dump) -> SafeString:
        parts = filter(None, [dump.database, dump.config])
        return formats.two_lines(" / ".join(parts) or dump.key, dump.instance)

    @admin.display(description=gettext_lazy("taken (by)"), ordering=WHEN)
    def taken_cell(self, dump: Dump) -> SafeString:
        when = formats.ago(dump.taken_at or dump.requested_at)
        return formats.two_lines(when, dump.requested_by)

    @admin.display(description=gettext_lazy("size, duration"), ordering="size")
    def size_cell(self, dump: Dump) -> SafeString:
        seconds = dump.seconds
        took = "" if seconds is None else formats.duration(seconds)
        return formats.two_lines(formats.size(dump.size), took)

    @admin.display(description=gettext_lazy("proof"), ordering="verified_at")
    def proof_cell(self, dump: Dump) -> str:
        """That it can be read to its end, and that it restores."""
        lines = [
            format_html(said, formats.ago(moment))
            for said, moment in (
                (_("verified {}"), dump.verified_at),
                (_("drilled {}"), dump.drilled_at),
            )
            if moment is not None
        ]
        return format_html_join(BREAK, "{}", ((line,) for line in lines)) or formats.NOTHING

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context: dict[str, Any] = {
            "may_dump": request.user.has_perm(actors.DUMP),
            "may_refresh": any(map(request.user.has_perm, actors.REFRESH)),
            "refusal": refusal("dump"),
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    # -- the pages

    def get_urls(self) -> list[Any]:
        name = self.url_name
        view = self.admin_site.admin_view
        one = "<path:object_id>"
        return [
            path(
                "dump-now/", view(require_http_methods(FORM)(self.create_view)), name=name("create")
            ),
            path(
                "import/", view(require_http_methods(FORM)(self.import_view)), name=name("import")
            ),
            path("refresh/", view(require_POST(self.refresh_view)), name=name("refresh")),
            *self.run_urls(),
            path(f"{one}/verify/", self.posting(actors.DUMP, self._verify), name=name("verify")),
            path(f"{one}/drill/", self.posting(actors.RESTORE, self._drill), name=name("drill")),
            path(f"{one}/pin/", self.posting(actors.DELETE, self._pin), name=name("pin")),
            path(
                f"{one}/download/",
                self.posting(actors.DOWNLOAD, self._download),
                name=name("download"),
            ),
            *super().get_urls(),
        ]

    def create_view(self, request: HttpRequest) -> HttpResponse:
        """*Dump now*: a small form, and a dump that is queued."""
        require(request, actors.DUMP)
        form = DumpNowForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                dump = requests.request_dump(actor_of(request), form.given)
            except PgcloneError as error:
                form.add_error(None, formats.sentences(error))
            else:
                self.says(request, dump, _("Dump #%(pk)s is queued.") % {"pk": dump.pk})
                return self.after(request, dump)
        return self.page(
            request, "create.html", title=_("Dump now"), form=form, refusal=refusal("dump")
        )

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """*Import*: an archive from the disk of the person becomes a foreign dump."""
        require(request, actors.DUMP)
        is_post = request.method == "POST"
        form = ImportForm(request.POST, request.FILES) if is_post else ImportForm()
        if form.is_valid():
            given = {name: form.cleaned_data[name] or None for name in ("database", "instance")}
            try:
                with on_disk(form.cleaned_data["archive"]) as file:
                    dump = imports.import_dump(actor_of(request), given, file)
            except PgcloneError as error:
                if (found := _imported(error)) is not None:
                    self.says(request, found, _("This archive was imported already."))
                    return self.after(request, found)
                form.add_error("archive", formats.sentences(error))
            else:
                self.says(request, dump, _("The archive was imported."))
                return self.after(request, dump)
        return self.page(
            request,
            "import.html",
            title=_("Import an archive"),
            form=form,
            refusal=refusal("dump"),
        )

    def refresh_view(self, request: HttpRequest) -> HttpResponse:
        """Brings the list in line with the storage locations."""
        require(request, *actors.REFRESH)
        deadline = time.monotonic() + REFRESH_SECONDS
        for location in declared_locations():
            left = max(0.0, deadline - time.monotonic())
            try:
                found = refresh(actor_of(request), location, time_limit=left)
            except PgcloneError as error:
                tell(request, error)
                continue
            said = _("%(location)s: %(added)s new, %(missing)s missing, %(returned)s there again.")
            messages.success(request, said % {"location": location, **vars(found)})
            if found.left:
                said = _(
                    "%(location)s: %(left)s more are still to be read. Press Refresh again to go "
                    "on, or read all of them with “manage.py pgclone refresh”."
                )
                messages.warning(request, said % {"location": location, **vars(found)})
        return self.after(request)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of one dump; nothing on it can be edited."""
        return require_safe(self._show)(request, object_id)

    def _show(self, request: HttpRequest, object_id: str) -> HttpResponse:
        dump = self.read(request, object_id)
        progress = progress_of(dump)
        is_good = dump.status == Status.SUCCEEDED and bool(dump.key)
        may = {
            verb: request.user.has_perm(permission)
            for verb, permission in (
                ("dump", actors.DUMP),
                ("restore", actors.RESTORE),
                ("download", actors.DOWNLOAD),
                ("delete", actors.DELETE),
            )
        }
        return self.page(
            request,
            "change_form.html",
            title=_("Dump of %(database)s") % {"database": dump.database or dump.key},
            subtitle=dump.key,
            original=dump,
            progress=progress,
            problem=problem_of(dump),
            progress_url=self.own_url("progress", dump.pk),
            log_url=self.own_url("log", dump.pk),
            facts=facts_of(dump),
            contents=contents_of(dump),
            runs=self._runs_of(request, dump),
            is_good=is_good,
            may=may,
            buttons=self.buttons_of(request, progress, _("Cancel this dump")),
            refusal=refusal("restore"),
            restore_url=link_to("pgclone_admin_dump_restore", dump.pk),
        )

    def _runs_of(
        self, request: HttpRequest, dump: Dump
    ) -> list[tuple[RestoreRun, SafeString, str]]:
        if not dump.key or not request.user.has_perm("pgclone_admin.view_restorerun"):
            return []
        runs = RestoreRun.objects.filter(location=dump.location, key=dump.key)[:RUNS_SHOWN]
        return [(run, formats.badge(run), formats.ago(run.requested_at)) for run in runs]

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Asks, and then lets the service delete the file and the row."""
        require(request, actors.DELETE)
        if request.method == "POST" and self.get_object(request, unquote(object_id)) is None:
            # The second of two clicks.
            messages.info(request, _("The dump is not there any more."))
            return self.after(request)
        dump = self.find(request, object_id)
        if request.method == "POST":
            try:
                is_meant = str(dump.pk) in request.POST.getlist(LAST_GOOD)
                dump_care.delete_dump(actor_of(request), dump, although_last=is_meant)
            except PgcloneError as error:
                tell(request, error)
                return self.after(request, dump)
            messages.success(request, _("The dump “%(dump)s” was deleted.") % {"dump": dump})
            return self.after(request)
        if request.method not in FORM:
            return HttpResponseNotAllowed(FORM)
        (row,) = deletable(Dump.objects.filter(pk=dump.pk))
        return self.page(
            request,
            "delete_confirmation.html",
            title=_("Delete a dump"),
            original=dump,
            is_below=True,
            rows=[row],
            can_delete=not row["refused"],
        )

    # -- what is done with one dump

    def _verify(self, request: HttpRequest, dump: Dump) -> RestoreRun:
        run = requests.request_verification(actor_of(request), dump)
        self.says(request, run, _("Verification #%(pk)s is queued.") % {"pk": run.pk})
        return run

    def _drill(self, request: HttpRequest, dump: Dump) -> RestoreRun:
        run = requests.request_drill(actor_of(request), dump)
        self.says(request, run, _("Drill #%(pk)s is queued.") % {"pk": run.pk})
        return run

    def _pin(self, request: HttpRequest, dump: Dump) -> None:
        pinned = request.POST.get("pinned") == "1"
        dump_care.pin_dump(actor_of(request), dump, pinned=pinned)
        messages.success(
            request,
            _("The dump is pinned: nobody deletes it.")
            if pinned
            else _("It is not pinned any more."),
        )

    def _download(self, request: HttpRequest, dump: Dump) -> HttpResponseBase:
        try:
            form = Form(request.POST.get("form", ""))
        except ValueError as error:
            raise BadRequest("form") from error
        download = open_download(actor_of(request), dump, form)
        if download.link is not None:
            return HttpResponseRedirect(download.link)
        return streamed(request, download)


def _imported(error: PgcloneError) -> Dump | None:
    """What the first of two clicks has imported."""
    if not isinstance(error, imports.ImportedAlready):
        return None
    return Dump.objects.filter(location=error.location, key=error.key).first()
