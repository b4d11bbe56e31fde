"""The pages on which a local database is copied, swapped in or dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from ..core.errors import Conflict, PgcloneError
from ..core.marks import LOCAL_COPIES, MarkKind
from ..core.refusals import refusing
from ..databases import live_name
from ..models import LocalDatabase, RestoreRun
from ..options import Arguments, resolve
from ..plan import Plan
from ..services import requests
from ..services.accounts import Outlook, outlook_of_local
from ..services.actors import COPY, RESTORE, Actor
from ..services.allowed import refusal
from ..services.copies import DROPPABLE
from ..services.local_databases import alias_of, server_aliases
from ..services.restores import Variant, plan_of_swap
from ..settings import settings
from . import formats
from .hook_form import usual_hooks
from .local_form import CopyForm, facts_of
from .plan_view import dropped_copies, lacking_migrations, lost_copies, way_back
from .restore import Outlooks, RestorePages, status_of
from .restore_form import ConfirmForm, SwapForm
from .restore_source import Source, Usual, choices_of_configurations
from .shared import actor_of, require

SERVER = "server"
"""The parameter of the list that says which server it is of."""


def reaching(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """The view of a page about a server; where that does not do what the page needs, the page says
    so."""

    @wraps(view)
    def reached(self: LocalPages, request: HttpRequest, *args: Any, **more: Any) -> HttpResponse:
        try:
            with refusing():
                return view(self, request, *args, **more)
        except PgcloneError as error:
            return self.unreachable(request, error)

    return reached


def possible(row: LocalDatabase) -> list[tuple[str, str]]:
    """What can be done with a database: page and label."""
    mark = row.mark
    if mark is None or alias_of(row) is None:
        return []
    found = []
    if mark.kind in LOCAL_COPIES:
        found.append(("restore", _("Revert…")))
    if mark.kind == MarkKind.HELD:
        found.append(("swap", _("Swap in…")))
    if mark.kind in DROPPABLE:
        found.append(("drop", _("Drop…")))
    return found


@dataclass
class AskedSwap:
    """One visit of the page of a swap, as far as it has come."""

    alias: str
    live: str
    form: SwapForm
    confirm: ConfirmForm
    plan: Plan | None = None
    error: PgcloneError | None = None

    @classmethod
    def of(cls, request: HttpRequest, alias: str, row: LocalDatabase) -> AskedSwap:
        mark, live = row.mark, live_name(alias)
        data = request.POST if request.method == "POST" else None
        form = SwapForm(
            data,
            is_local=mark is not None and mark.source.startswith(":"),
            reversible=mark is not None and mark.becomes == MarkKind.PRE,
        )
        return cls(alias, live, form, ConfirmForm(data, name=live))

    def look(self) -> None:
        """Makes the plan, and what has to be typed to confirm it; what stands in the way of that is
        the error."""
        try:
            with refusing():
                # In this order: the plan is of this database or of a later one, which is refused.
                self._confirm_anew()
                self._make_plan({}, Variant(), prove=False)
        except PgcloneError as error:
            self.error = error

    def confirmed(self, actor: Actor) -> RestoreRun | None:
        """The run, when the right name was typed and nothing stands in its way."""
        if not (self.form.is_valid() and self.confirm.is_valid()):
            return None
        given, variant = self.form.given(), self.form.variant()
        try:
            with refusing():
                plan = self._make_plan(given, variant, prove=True)
                if plan.obstacles:
                    return None  # the page tells them
                return requests.request_swap(
                    actor,
                    self.alias,
                    given,
                    variant=variant,
                    confirmed_oid=self.confirm.cleaned_data["confirm_oid"],
                )
        except PgcloneError as error:
            self.error = error
            with contextlib.suppress(PgcloneError), refusing():  # there is one to be told already
                self._confirm_anew()
            return None

    def _confirm_anew(self) -> None:
        oid, _server = requests.live_identity(self.alias)
        self.confirm = ConfirmForm.of(self.live, oid)

    def _make_plan(self, given: dict[str, Any], variant: Variant, *, prove: bool) -> Plan:
        options = resolve(Arguments(**{**given, "database": self.alias}), verb="restore")
        self.plan = plan_of_swap(options, variant=variant, prove=prove)
        self.form.ask(self.plan)
        return self.plan


class LocalPages(RestorePages):
    """Adds these pages to the admin of local databases."""

    restore_title = gettext_lazy("Revert")

    def get_urls(self) -> list[Any]:
        def page(view: Callable[..., HttpResponse]) -> Any:
            return self.admin_site.admin_view(require_http_methods(["GET", "HEAD", "POST"])(view))

        one = "<path:object_id>"
        return [
            path("copy/", page(self.copy_view), name=self.url_name("copy")),
            path(f"{one}/swap/", page(self.swap_view), name=self.url_name("swap")),
            path(f"{one}/drop/", page(self.drop_view), name=self.url_name("drop")),
            *super().get_urls(),
        ]

    def unreachable(self, request: HttpRequest, error: PgcloneError) -> HttpResponse:
        """The page of a server that cannot be asked, with a way to the lists of the others."""
        aliases = server_aliases()
        address = self.own_url("changelist")
        return self.error_page(
            request,
            "unreachable.html",
            title=_("Cannot be shown now"),
            error=error,
            servers=[(alias, f"{address}?{urlencode({SERVER: alias})}") for alias in aliases]
            if len(aliases) > 1
            else [],
        )

    @reaching
    def restore_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return super().restore_view(request, object_id)

    def source_of(self, row: LocalDatabase) -> tuple[Source, Outlooks]:
        mark, alias = row.mark, alias_of(row)
        if mark is None or alias is None or mark.kind not in LOCAL_COPIES:
            raise Conflict(
                f'the database "{row.name}" cannot be reverted to',
                hint="Choose another one from the list of local databases.",
            )

        def outlook(user: Any, alias: str) -> Outlook:
            return outlook_of_local(user, alias, row.name)

        # Going back runs no hooks on what is gone back to, unless somebody asks for them.
        source = Source(
            key=str(row.key),
            location=None,
            alias=alias,
            usual=Usual(
                hooks=[],
                post_swap_hooks=usual_hooks("post_swap_hooks", settings.post_swap_hooks),
                reversible=False,
            ),
            configs=choices_of_configurations("", is_required=False),
        )
        return source, outlook

    def copy_view(self, request: HttpRequest) -> HttpResponse:
        """Asks for a name, and queues a copy of a live database."""
        require(request, COPY)
        form = CopyForm(request.POST or None)
        error, refused = None, refusal("copy")
        if request.method == "POST" and refused is None and form.is_valid():
            try:
                with refusing():
                    alias = form.cleaned_data["database"]
                    run = requests.request_copy(actor_of(request), alias, form.key)
            except PgcloneError as failure:
                error = failure
            else:
                self.says(request, run, _("Copy #%(pk)s is queued.") % {"pk": run.pk})
                return self.after(request, run)
        status = 200 if refused is None or request.method != "POST" else 403
        return self.error_page(
            request,
            "copy.html",
            title=_("Copy a database"),
            form=form,
            error=error,
            refusal=refused,
            status=status,
        )

    @reaching
    def drop_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks, and queues the end of a database."""
        require(request, COPY)
        row = self._row_for(request, object_id, "drop")
        error = None
        if request.method == "POST":
            try:
                with refusing():
                    run = requests.request_drop(
                        actor_of(request), alias_of(row) or "", row.name, confirmed_oid=row.oid
                    )
            except PgcloneError as failure:
                error = failure
            else:
                self.says(request, run, _("Drop #%(pk)s is queued.") % {"pk": run.pk})
                return self.after(request, run)
        return self.error_page(
            request,
            "drop.html",
            title=_("Drop a local database"),
            subtitle=row.name,
            original=row,
            is_below=True,
            facts=facts_of(row),
            error=error,
        )

    @reaching
    def swap_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks for the name of the live database, and queues the swap of the one that is held."""
        require(request, RESTORE)
        row = self._row_for(request, object_id, "swap")
        asked = AskedSwap.of(request, alias_of(row) or "", row)
        if request.method != "POST":
            asked.look()
        elif (run := asked.confirmed(actor_of(request))) is not None:
            self.says(request, run, _("Swap #%(pk)s is queued.") % {"pk": run.pk})
            return self.after(request, run)
        return self.error_page(
            request,
            "swap.html",
            title=_("Swap in a held restore"),
            subtitle=row.name,
            original=row,
            is_below=True,
            facts=facts_of(row),
            live=asked.live,
            plan=asked.plan,
            dropped=dropped_copies(asked.plan) if asked.plan and asked.plan.dropped else "",
            migrations=list(lacking_migrations(asked.plan)) if asked.plan else [],
            back=way_back(asked.plan) if asked.plan and ":undo" in asked.plan.keeps else "",
            lost=lost_copies(asked.plan) if asked.plan else "",
            form=asked.form,
            confirm=asked.confirm,
            error=asked.error,
            refusal=refusal("restore"),
            outlook=outlook_of_local(request.user, asked.alias, row.name),
        )

    def _row_for(self, request: HttpRequest, object_id: str, page: str) -> LocalDatabase:
        """The database, where the page exists for it."""
        row: LocalDatabase = self.find(request, object_id)
        if page not in {name for name, _label in possible(row)}:
            raise Http404
        return row

    def error_page(
        self, request: HttpRequest, template: str, *, status: int | None = None, **context: Any
    ) -> HttpResponse:
        """A page that says what stands in the way, with the status of that; ``error`` may be
        ``None``."""
        error: PgcloneError | None = context.get("error")
        response = self.page(
            request,
            template,
            error_text=error and formats.capitalized(error.message),
            **context,
        )
        response.status_code = status or (200 if error is None else status_of(error))
        return response
