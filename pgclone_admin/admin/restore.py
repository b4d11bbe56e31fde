"""The page on which a restore is planned and confirmed, of a dump and of a local database alike.

What is chosen stands in the address, so looking at a plan is reading; where hooks have parameters
it is posted, as a value may be a password. Confirming posts the very choices that the plan was made
of, with the oid of the database that it spoke of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from django.urls import path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from ..core.errors import Conflict, NotAllowed, PgcloneError
from ..core.refusals import refusing
from ..databases import live_name
from ..models import Dump, RestoreRun, Status
from ..options import Arguments, resolve
from ..plan import Obstacle, Plan
from ..services import requests
from ..services.accounts import Outlook, Stay, outlook_of_dump
from ..services.actors import RESTORE
from ..services.allowed import require_allowed
from ..services.declared import usual_alias, usual_options
from ..services.restores import plan_restore
from . import formats
from .plan_view import Shown, shown
from .restore_form import ConfirmForm, RestoreForm
from .restore_source import BESIDE, HOLD, OVER, Source, Usual, choices_of_configurations
from .shared import ReadingAdmin, actor_of, require

LOOKED = "looked"
"""Says that the choices are those of a person, who wants to see their plan."""

STATUSES: dict[type[PgcloneError], int] = {Conflict: 409, NotAllowed: 403}

Outlooks = Callable[[Any, str], Outlook]
"""What a restore means for a person, by the alias of the database."""


@dataclass
class Asked:
    """One visit of the page, as far as it has come."""

    form: RestoreForm
    confirm: ConfirmForm | None = None
    plan: Shown | None = None
    obstacles: list[Obstacle] = field(default_factory=list)
    active: RestoreRun | None = None
    error: PgcloneError | None = None

    @property
    def may_begin(self) -> bool:
        return self.plan is not None and not self.obstacles and self.active is None


class RestorePages(ReadingAdmin):
    """Adds the page of a restore to the admin of what can be restored."""

    class Media:
        css = {"all": ("pgclone_admin/plan.css",)}  # noqa: RUF012 - as Django wants it

    restore_title: Any = gettext_lazy("Restore")

    def source_of(self, row: Any) -> tuple[Source, Outlooks]:
        """What is restored; raises :class:`PgcloneError` where nothing can be."""
        raise NotImplementedError

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(
            require_http_methods(["GET", "HEAD", "POST"])(self.restore_view)
        )
        return [
            path("<path:object_id>/restore/", view, name=self.url_name("restore")),
            *super().get_urls(),
        ]

    def restore_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Shows the choices and their plan, or makes the run when that is confirmed."""
        require(request, RESTORE)
        row = self.find(request, object_id)
        try:
            require_allowed("restore")
            source, outlook = self.source_of(row)
            data, is_anew = _data(request, source)
            form = RestoreForm(data, source=source, user=request.user)
        except PgcloneError as error:
            return self._restore_page(request, row, None, error, status=status_of(error))
        asked = Asked(form)
        if form.is_valid():
            confirms = request.method == "POST" and LOOKED not in request.POST and not is_anew
            if confirms and (run := self._confirmed(request, asked)) is not None:
                self.says(request, run, _("Run #%(pk)s is queued.") % {"pk": run.pk})
                return self.after(request, run)
            _look(asked, request, outlook, prove=confirms)
        status = 200 if asked.error is None else status_of(asked.error)
        return self._restore_page(request, row, asked, asked.error, status=status)

    def _confirmed(self, request: HttpRequest, asked: Asked) -> RestoreRun | None:
        """The run, when the right name was typed for the database that was shown."""
        form = asked.form
        confirmed_oid = None
        if form.cleaned_data["what"] == OVER:
            asked.confirm = ConfirmForm(request.POST, name=live_name(form.alias))
            if not asked.confirm.is_valid():
                return None
            confirmed_oid = asked.confirm.cleaned_data["confirm_oid"]
        try:
            with refusing():
                if _plan_of(form, prove=True).obstacles:
                    return None  # the page tells them
                return requests.request_restore(
                    actor_of(request),
                    form.given(),
                    variant=form.variant(),
                    confirmed_oid=confirmed_oid,
                )
        except PgcloneError as error:
            asked.error = error
            return None

    def _restore_page(
        self,
        request: HttpRequest,
        row: Any,
        asked: Asked | None,
        error: PgcloneError | None,
        *,
        status: int,
    ) -> HttpResponse:
        hidden = None
        if asked is not None:
            hidden = RestoreForm(
                asked.form.data, source=asked.form.source, user=request.user, auto_id=False
            )
        response = self.page(
            request,
            "restore.html",
            title=self.restore_title,
            subtitle=str(row),
            original=row,
            is_below=True,
            asked=asked,
            plan=asked and asked.plan,
            hidden=hidden,
            error=error,
            error_text=error and formats.capitalized(error.message),
            run_url=self._run_url(request, asked.active) if asked and asked.active else None,
            active_badge=asked and asked.active and formats.badge(asked.active),
        )
        response.status_code = status
        return response

    def _run_url(self, request: HttpRequest, run: RestoreRun) -> str | None:
        target = self.admin_site._registry.get(RestoreRun)
        if isinstance(target, ReadingAdmin) and target.has_view_permission(request):
            return target.own_url("change", run.pk)
        return None


class DumpRestorePage(RestorePages):
    """The restore of a dump."""

    def source_of(self, row: Dump) -> tuple[Source, Outlooks]:
        if not row.key or row.status != Status.SUCCEEDED:
            raise Conflict(
                "this dump has no file that could be restored", hint="Choose another dump."
            )
        config, options = usual_options(row.config)
        source = Source(
            key=row.key,
            location=row.location,
            alias=usual_alias(row.database),
            # Its database is that of the dump.
            usual=replace(Usual.of(options), alias=None),
            config=config or "",
            configs=choices_of_configurations(config or "", is_required=options.require_anonymized),
            is_foreign=row.is_foreign,
        )

        def outlook(user: Any, alias: str) -> Outlook:
            return outlook_of_dump(user, alias, row.manifest, row.taken_at)

        return source, outlook


def _data(request: HttpRequest, source: Source) -> tuple[QueryDict, bool]:
    """What is chosen, and whether it is not what the person has chosen but what is usual."""
    given = request.POST if request.method == "POST" else request.GET
    if request.method == "POST" or LOOKED in given:
        return source.filled(given)
    return source.begun(given), True


def _look(asked: Asked, request: HttpRequest, outlook: Outlooks, *, prove: bool) -> None:
    """Makes the plan of what was chosen, and what has to be typed to confirm it.

    Who only looks proves nothing: that would make a database on the server, however often.
    """
    form = asked.form
    try:
        with refusing():
            live = live_name(form.alias)
            # Before the plan, which is then of this database or of a later one, which is refused.
            oid, server = requests.live_identity(form.alias)
            plan = _plan_of(form, prove=prove)
    except PgcloneError as error:
        asked.obstacles.append(Obstacle(error.code, error.message, error.hint))
        return
    asked.obstacles += plan.obstacles
    form.ask(plan)
    what, accounts = form.cleaned_data["what"], form.cleaned_data.get("accounts", [])
    if what != BESIDE:
        asked.active = requests.replacing(live, server)
    asked.plan = shown(
        plan,
        live=live,
        is_held=what == HOLD,
        is_local=form.source.is_local,
        accounts=accounts,
        outlook=_outlook(outlook, request, form.alias, accounts) if plan.replaces else None,
    )
    if what != OVER:
        return
    if asked.confirm is None or asked.error is not None:
        asked.confirm = ConfirmForm.of(live, oid)
    elif str(oid or 0) != asked.confirm.data.get("confirm_oid"):
        # The plan speaks of another database than the one before: it has to be read again.
        asked.confirm = ConfirmForm.of(live, oid)
        asked.error = Conflict(
            f'the database "{live}" is another one than when you saw the plan',
            hint="Nothing was changed. Read the plan below again.",
        )


def _plan_of(form: RestoreForm, *, prove: bool) -> Plan:
    options = resolve(Arguments(**form.given()), verb="restore")
    return plan_restore(options, variant=form.variant(), prove=prove)


def _outlook(outlooks: Outlooks, request: HttpRequest, alias: str, carried: list[str]) -> Outlook:
    if request.user.get_username() in carried:
        return Outlook(
            Stay.YES,
            _("Your account is carried over, with its password: you can log in as now."),
        )
    return outlooks(request.user, alias)


def status_of(error: PgcloneError) -> int:
    return next((code for kind, code in STATUSES.items() if isinstance(error, kind)), 400)
