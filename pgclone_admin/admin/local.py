"""The pages of local databases: what restores and copies have left on the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import DEFAULT_DB_ALIAS
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_safe

from ..core.errors import Conflict, PgcloneError
from ..core.marks import LOCAL_COPIES, MarkKind
from ..databases import live_name, maintenance_params
from ..models import LocalDatabase
from ..options import Arguments, resolve
from ..plan import Plan
from ..services import requests
from ..services.accounts import Outlook, outlook_of_local
from ..services.actors import COPY, RESTORE
from ..services.allowed import refusal
from ..services.copies import DROPPABLE
from ..services.local_databases import alias_of, local_databases, server_aliases
from ..services.restores import Variant, plan_of_swap
from ..settings import settings
from . import formats
from .hook_form import usual_hooks
from .local_form import KINDS, CopyForm, id_of
from .restore import Outlooks, RestorePages, live_oid, status_of
from .restore_form import ConfirmForm, Source, SwapForm
from .shared import actor_of, link_to, require


class ServerFilter(admin.SimpleListFilter):
    """Which server the list is of, where the site has databases on several."""

    title = gettext_lazy("server")
    parameter_name = "server"

    @classmethod
    def chosen(cls, request: HttpRequest) -> str:
        """An alias of a database on that server."""
        aliases = server_aliases() or [DEFAULT_DB_ALIAS]
        given = request.GET.get(cls.parameter_name)
        return given if given in aliases else aliases[0]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(alias, alias) for alias in server_aliases()]

    def has_output(self) -> bool:
        return len(self.lookup_choices) > 1

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset

    def choices(self, changelist: Any) -> Iterator[Any]:
        chosen = self.value() or self.lookup_choices[0][0]
        for alias, label in self.lookup_choices:
            address = changelist.get_query_string({self.parameter_name: alias})
            yield {"selected": alias == chosen, "query_string": address, "display": label}


@admin.register(LocalDatabase)
class LocalDatabaseAdmin(RestorePages):
    list_display = ("key_cell", "buttons", "kind_cell", "size_cell", "age", "made_from")
    list_display_links = None
    list_filter = (ServerFilter,)
    ordering = ("name",)
    actions = None
    list_per_page = 100
    show_full_result_count = False
    restore_title = gettext_lazy("Revert")

    # -- who may see them

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        user: Any = request.user
        return bool(
            super().has_view_permission(request, obj)
            or user.has_perm(RESTORE)
            or user.has_perm(COPY)
        )

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    # -- which they are

    def get_queryset(self, request: HttpRequest) -> QuerySet[LocalDatabase]:
        return local_databases(ServerFilter.chosen(request))

    def id_of(self, row: LocalDatabase) -> str:
        return id_of(row)

    def find(self, request: HttpRequest, object_id: str) -> LocalDatabase:
        alias, _dash, oid = unquote(object_id).rpartition("-")
        if alias not in ("", *server_aliases()) or not oid.isdecimal():
            raise Http404
        row = local_databases(alias or DEFAULT_DB_ALIAS).filter(pk=oid).first()
        if row is None:
            raise Http404
        return row

    # -- the list

    @admin.display(description=gettext_lazy("key"), ordering="name")
    def key_cell(self, row: LocalDatabase) -> SafeString:
        key = format_html("<code>{}</code>", row.key)
        if str(row.key) == f":{row.name}":
            return key
        return format_html('{}<br><span class="quiet">{}</span>', key, row.name)

    @admin.display(description=gettext_lazy("what it is"))
    def kind_cell(self, row: LocalDatabase) -> str:
        mark = row.mark
        said = str(KINDS.get(mark.kind, mark.kind)) if mark else formats.NOTHING
        if mark is None or alias_of(row) is not None:
            return said
        return _("%(what)s, of another site (%(of)s)") % {"what": said, "of": mark.of}

    @admin.display(description=gettext_lazy("size"), ordering="size")
    def size_cell(self, row: LocalDatabase) -> str:
        return formats.size(getattr(row, "size", None))

    @admin.display(description=gettext_lazy("age"))
    def age(self, row: LocalDatabase) -> str:
        mark = row.mark
        return formats.ago(datetime.fromisoformat(mark.made_at)) if mark else formats.NOTHING

    @admin.display(description=gettext_lazy("made from"))
    def made_from(self, row: LocalDatabase) -> str:
        mark = row.mark
        return (mark.source if mark else "") or formats.NOTHING

    @admin.display(description="")
    def buttons(self, row: LocalDatabase) -> SafeString:
        return format_html(
            '<div class="pgclone-links">{}</div>',
            format_html_join("", '<a href="{}">{}</a>', self._links(row)),
        )

    def _links(self, row: LocalDatabase) -> list[tuple[str, str]]:
        """Addresses and labels of what the person may do, who was remembered with the row."""
        may = getattr(row, "pages", ())
        return [
            (self.own_url(page, id_of(row)), label)
            for page, label in self._possible(row)
            if page in may
        ]

    def _possible(self, row: LocalDatabase) -> list[tuple[str, str]]:
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

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        user: Any = request.user
        try:
            local_databases(ServerFilter.chosen(request))
        except PgcloneError as error:
            return self._page(request, "unreachable.html", title=_("Local databases"), error=error)
        response = super().changelist_view(
            request,
            {
                "title": _("Local databases"),
                "subtitle": None,
                "may_copy": user.has_perm(COPY) and refusal("copy") is None,
                "copy_url": link_to(self.url_name("copy")),
                "refusals": [said for verb in ("restore", "copy") if (said := refusal(verb))],
                "server": maintenance_params(ServerFilter.chosen(request)).where,
                **(extra_context or {}),
            },
        )
        shown = getattr(response, "context_data", None) or {}
        for row in getattr(shown.get("cl"), "result_list", ()):
            row.pages = self._pages(request)
        assert isinstance(response, HttpResponse)
        return response

    def _pages(self, request: HttpRequest) -> set[str]:
        user: Any = request.user
        pages = set()
        if user.has_perm(RESTORE) and refusal("restore") is None:
            pages |= {"restore", "swap"}
        if user.has_perm(COPY):
            pages.add("drop")
        return pages

    # -- the pages

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

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of one database; nothing on it can be edited."""
        return require_safe(self._show)(request, object_id)

    def _show(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.read(request, object_id)
        row.pages = self._pages(request)
        return self.page(
            request,
            "change_form.html",
            title=_("Local database"),
            subtitle=row.name,
            original=row,
            facts=self._facts(row),
            links=self._links(row),
        )

    def _facts(self, row: LocalDatabase) -> list[tuple[str, Any]]:
        return [
            (_("Key"), str(row.key)),
            (_("Database"), row.name),
            (_("What it is"), formats.capitalized(self.kind_cell(row))),
            (_("Size"), self.size_cell(row)),
            (_("Made"), self.age(row)),
            (_("Made from"), self.made_from(row)),
        ]

    def source_of(self, row: LocalDatabase) -> tuple[Source, Outlooks]:
        mark, alias = row.mark, alias_of(row)
        if mark is None or alias is None or mark.kind not in LOCAL_COPIES:
            raise Conflict(
                f'the database "{row.name}" is none to go back to',
                hint="Choose another one from the list of local databases.",
            )

        def outlook(user: Any, alias: str) -> Outlook:
            return outlook_of_local(user, alias, row.name)

        # Going back runs no hooks on what is gone back to, unless somebody asks for them.
        source = Source(
            key=str(row.key),
            location=None,
            alias=alias,
            hooks=[],
            post_swap_hooks=usual_hooks("post_swap_hooks", settings.post_swap_hooks),
            reversible=False,
        )
        return source, outlook

    def copy_view(self, request: HttpRequest) -> HttpResponse:
        """Asks for a name, and queues a copy of a live database."""
        require(request, COPY)
        form = CopyForm(request.POST or None)
        error, refused = None, refusal("copy")
        if request.method == "POST" and refused is None and form.is_valid():
            try:
                alias = form.cleaned_data["database"]
                run = requests.request_copy(actor_of(request), alias, form.key)
            except PgcloneError as failure:
                error = failure
            else:
                self.says(request, run, _("Copy #%(pk)s is queued.") % {"pk": run.pk})
                return self.after(request, run)
        status = 200 if refused is None or request.method != "POST" else 403
        return self._page(
            request,
            "copy.html",
            title=_("Copy a database"),
            form=form,
            error=error,
            refusal=refused,
            status=status,
        )

    def drop_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks, and queues the end of a database."""
        require(request, COPY)
        row = self._row_for(request, object_id, "drop")
        error = None
        if request.method == "POST":
            try:
                run = requests.request_drop(
                    actor_of(request), alias_of(row) or "", row.name, confirmed_oid=row.oid
                )
            except PgcloneError as failure:
                error = failure
            else:
                self.says(request, run, _("Drop #%(pk)s is queued.") % {"pk": run.pk})
                return self.after(request, run)
        return self._page(
            request,
            "drop.html",
            title=_("Drop a local database"),
            subtitle=row.name,
            original=row,
            is_below=True,
            facts=self._facts(row),
            error=error,
        )

    def swap_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks for the name of the live database, and queues the swap of the one that is held."""
        require(request, RESTORE)
        row = self._row_for(request, object_id, "swap")
        alias = alias_of(row) or ""
        live = live_name(alias)
        plan: Plan | None = None
        error: PgcloneError | None = None
        data = request.POST if request.method == "POST" else None
        confirm, form = ConfirmForm(data, name=live), SwapForm(data)
        try:
            if not form.is_bound:
                plan = _plan_of_swap(alias, {}, Variant(), prove=False)
            elif form.is_valid() and confirm.is_valid():
                given, variant = form.given(), form.variant()
                plan = _plan_of_swap(alias, given, variant, prove=True)
                if not plan.obstacles:
                    run = requests.request_swap(
                        actor_of(request),
                        alias,
                        given,
                        variant=variant,
                        confirmed_oid=confirm.cleaned_data["confirm_oid"],
                    )
                    self.says(request, run, _("Swap #%(pk)s is queued.") % {"pk": run.pk})
                    return self.after(request, run)
        except PgcloneError as failure:
            error = failure
        if plan is not None:
            form.ask(plan)
        if error is not None or not confirm.is_bound:
            try:
                confirm = ConfirmForm(
                    name=live, initial={"confirm_oid": live_oid(alias, live) or 0}
                )
            except PgcloneError as failure:
                error = error or failure
        return self._page(
            request,
            "swap.html",
            title=_("Swap in a held restore"),
            subtitle=row.name,
            original=row,
            is_below=True,
            facts=self._facts(row),
            live=live,
            plan=plan,
            form=form,
            confirm=confirm,
            error=error,
            refusal=refusal("restore"),
            outlook=outlook_of_local(request.user, alias, row.name),
        )

    def _row_for(self, request: HttpRequest, object_id: str, page: str) -> LocalDatabase:
        """The database, where the page exists for it."""
        row: LocalDatabase = self.find(request, object_id)
        if page not in {name for name, _label in self._possible(row)}:
            raise Http404
        return row

    def _page(self, request: HttpRequest, template: str, **context: Any) -> HttpResponse:
        error: PgcloneError | None = context.get("error")
        status = context.pop("status", None) or (200 if error is None else status_of(error))
        response = self.page(
            request,
            template,
            error_text=error and formats.capitalized(error.message),
            **context,
        )
        response.status_code = status
        return response

    def delete_view(self, request: HttpRequest, *args: Any, **more: Any) -> HttpResponse:
        raise PermissionDenied

    def history_view(self, request: HttpRequest, *args: Any, **more: Any) -> HttpResponse:
        raise PermissionDenied


def _plan_of_swap(alias: str, given: dict[str, Any], variant: Variant, *, prove: bool) -> Plan:
    options = resolve(Arguments(**{**given, "database": alias}), verb="restore")
    return plan_of_swap(options, variant=variant, prove=prove)
