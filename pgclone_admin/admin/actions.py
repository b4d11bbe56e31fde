"""The list of who did what, also to what is not there any more."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from ..models import RunEvent
from . import formats
from .shared import ReadingAdmin, link_to


@admin.register(RunEvent)
class ActionAdmin(ReadingAdmin):
    """Only a list: what else is in the log of a run is on the page of the run."""

    list_display = ("when", "person", "what", "subject")
    list_display_links = None
    search_fields = ("person", "text", "about", "dump__key", "run__key", "run__target")
    date_hierarchy = "at"
    ordering = ("-at", "-pk")
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[RunEvent]:
        actions = super().get_queryset(request).filter(level=RunEvent.Level.AUDIT)
        shown = ("dump__key", "dump__database", "run__kind", "run__key", "run__target")
        return actions.select_related("dump", "run").only(
            "about", "at", "level", "text", "person", *shown
        )

    @admin.display(description=gettext_lazy("when"), ordering="at")
    def when(self, event: RunEvent) -> SafeString:
        return formats.two_lines(formats.absolute(event.at), formats.ago(event.at))

    @admin.display(description=gettext_lazy("what"), ordering="text")
    def what(self, event: RunEvent) -> str:
        return event.text

    @admin.display(description=gettext_lazy("to what"))
    def subject(self, event: RunEvent) -> str:
        row = event.dump or event.run
        if row is None:
            return event.about
        url = link_to(f"pgclone_admin_{row._meta.model_name}_change", row.pk)
        return str(row) if url is None else format_html('<a href="{}">{}</a>', url, row)

    def get_urls(self) -> list[Any]:
        of_list = self.url_name("changelist")
        return [pattern for pattern in super().get_urls() if pattern.name == of_list]
