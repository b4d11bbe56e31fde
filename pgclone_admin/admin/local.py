"""The list of local databases and the page of one: what restores and copies have left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import DEFAULT_DB_ALIAS
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from ..databases import maintenance_params, replaceable_aliases
from ..models import LocalDatabase
from ..services.actors import COPY, RESTORE
from ..services.allowed import refusal
from ..services.local_databases import local_databases, server_aliases
from . import formats
from .local_form import age_of, facts_of, id_of, kept_until, kind_of, made_from, size_of
from .local_pages import SERVER, LocalPages, possible, reaching
from .shared import link_to


class ServerFilter(admin.SimpleListFilter):
    """Which server the list is of, where the site has databases on several."""

    title = gettext_lazy("server")
    parameter_name = SERVER

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
class LocalDatabaseAdmin(LocalPages):
    list_display = ("key_cell", "buttons", "kind_cell", "size_cell", "age", "made_from")
    list_display_links = None
    list_filter = (ServerFilter,)
    ordering = ("name",)
    actions = None
    list_per_page = 100
    show_full_result_count = False

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
        # Of any database of the site: another alias for the same server may see more there.
        if alias not in ("", *replaceable_aliases()) or not oid.isdecimal():
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
        until = kept_until(row)
        return formats.two_lines(kind_of(row), until) if until else kind_of(row)

    @admin.display(description=gettext_lazy("size"), ordering="size")
    def size_cell(self, row: LocalDatabase) -> str:
        return size_of(row)

    @admin.display(description=gettext_lazy("age"))
    def age(self, row: LocalDatabase) -> str:
        return age_of(row)

    @admin.display(description=gettext_lazy("made from"))
    def made_from(self, row: LocalDatabase) -> str:
        return made_from(row)

    @admin.display(description=gettext_lazy("actions"))
    def buttons(self, row: LocalDatabase) -> SafeString:
        return format_html(
            '<div class="pgclone-links">{}</div>',
            format_html_join(
                "",
                '<a href="{}" aria-label="{} {}">{}</a>',
                ((url, label, row.key, label) for url, label in self._links(row)),
            ),
        )

    def _links(self, row: LocalDatabase) -> list[tuple[str, str]]:
        """Addresses and labels of what the person may do, who was remembered with the row."""
        may = getattr(row, "pages", ())
        return [
            (self.own_url(page, id_of(row)), label) for page, label in possible(row) if page in may
        ]

    @reaching
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        user: Any = request.user
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

    # -- the page of one

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The page of one database; nothing on it can be edited."""
        return require_safe(self._show)(request, object_id)

    @reaching
    def _show(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.read(request, object_id)
        row.pages = self._pages(request)
        return self.page(
            request,
            "change_form.html",
            title=_("Local database"),
            subtitle=row.name,
            original=row,
            facts=facts_of(row),
            links=self._links(row),
        )

    def delete_view(self, request: HttpRequest, *args: Any, **more: Any) -> HttpResponse:
        raise PermissionDenied

    def history_view(self, request: HttpRequest, *args: Any, **more: Any) -> HttpResponse:
        raise PermissionDenied
