"""The way from a configuration to the restore that it means."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe

from ..core.errors import DumpNotFound, PgcloneError
from ..core.names import LocalKey
from ..core.refusals import refusing
from ..databases import live_name
from ..models import Configuration, Dump
from ..options import Arguments, resolve
from ..services.actors import RESTORE
from ..services.allowed import refusal
from ..services.keys import resolve_key
from ..services.local_databases import local_databases
from ..services.restores import wanted_key
from ..store import DumpStore
from . import formats
from .local_form import id_of
from .restore_source import CONFIG
from .shared import BaseAdmin, link_to, require, tell

PAGE = "pgclone_admin_configuration_to_restore"


def may_restore(request: HttpRequest) -> bool:
    user: Any = request.user
    return user.has_perm(RESTORE) and refusal("restore") is None


def restore_link(name: str) -> str | None:
    """The address of the restore that a configuration with a ``dump_key`` means."""
    page = link_to(PAGE)
    return None if page is None else f"{page}?{urlencode({CONFIG: name})}"


class ConfigurationRestores(BaseAdmin):
    """Adds that page to the admin of configurations."""

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(require_safe(self.restore_view))
        return [path("restore/", view, name=PAGE), *super().get_urls()]

    def get_list_display(self, request: HttpRequest) -> Any:
        listed = super().get_list_display(request)
        return [*listed, "restore_cell"] if may_restore(request) else listed

    @admin.display(description=gettext_lazy("actions"))
    def restore_cell(self, row: Configuration) -> str:
        url = restore_link(row.name) if row.dump_key else None
        return (
            formats.NOTHING
            if url is None
            else format_html('<a href="{}">{}</a>', url, _("Restore…"))
        )

    def restore_view(self, request: HttpRequest) -> HttpResponse:
        """Leads to the page of a restore of what the ``dump_key`` of a configuration means now."""
        require(request, RESTORE)
        config = request.GET.get(CONFIG, "")
        try:
            with refusing():
                page = _page_of(config)
        except PgcloneError as error:
            tell(request, error)
            sees_them = self.has_view_permission(request)
            page = link_to("pgclone_admin_configuration_changelist") if sees_them else None
        return HttpResponseRedirect(page or link_to("index") or "/")


def _page_of(config: str) -> str | None:
    options = resolve(Arguments(config=config), verb="restore")
    store = DumpStore(options.storage_location)
    key = resolve_key(wanted_key(options), store).key
    query = urlencode({CONFIG: config})
    if isinstance(key, LocalKey):
        name = key.database_name(live_name(options.database))
        local = local_databases(options.database).filter(name=name).first()
        if local is None:
            raise DumpNotFound(
                f'there is no local database "{name}"',
                hint="See what there is in the list of local databases.",
            )
        page = link_to("pgclone_admin_localdatabase_restore", quote(id_of(local)))
    else:
        dump = Dump.objects.filter(location=options.storage_location, key=str(key)).first()
        if dump is None:
            raise DumpNotFound(
                f'the dump "{key}" is not in the list of dumps',
                hint="Refresh the list of dumps, then try again.",
            )
        page = link_to("pgclone_admin_dump_restore", dump.pk)
    return None if page is None else f"{page}?{query}"
