"""What is done with several dumps at once."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..core.errors import PgcloneError
from ..models import Dump
from ..services import actors, dump_care, requests
from .dump_deletion import LAST_GOOD, deletable
from .shared import MOST_LINES, ReadingAdmin, actor_of, tell

MOST_SELECTED = 200
"""Dumps that are done something with in one request: each takes an answer of its storage or of the
queue, and a field of the form that confirms it."""


class BulkActions(ReadingAdmin):
    """Adds the actions of the list of dumps."""

    def has_dump_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(actors.DUMP)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(actors.DELETE)

    @admin.action(description=gettext_lazy("Verify selected dumps"), permissions=["dump"])
    def verify_selected(self, request: HttpRequest, queryset: QuerySet[Dump]) -> None:
        if _are_too_many(request, queryset):
            return
        queued, skipped = 0, []
        for dump in queryset:
            try:
                requests.request_verification(actor_of(request), dump)
                queued += 1
            except PgcloneError as error:
                skipped.append(f"{dump}: {error.message}")
        if queued:
            said = ngettext(
                "%(n)s verification is queued.", "%(n)s verifications are queued.", queued
            )
            messages.info(request, said % {"n": queued})
        for text in skipped[:MOST_LINES]:
            messages.warning(request, _("Not verified: %(dump)s") % {"dump": text})
        if len(skipped) > MOST_LINES:
            rest = len(skipped) - MOST_LINES
            said = ngettext("Nor is %(n)s more.", "Nor are %(n)s more.", rest)
            messages.warning(request, said % {"n": rest})

    @admin.action(description=gettext_lazy("Delete selected dumps…"), permissions=["delete"])
    def delete_selected(
        self, request: HttpRequest, queryset: QuerySet[Dump]
    ) -> HttpResponse | None:
        if _are_too_many(request, queryset):
            return None
        if not request.POST.get("post"):
            rows = deletable(queryset)
            return self.page(
                request,
                "delete_confirmation.html",
                title=_("Delete dumps"),
                rows=rows,
                can_delete=any(not row["refused"] for row in rows),
                action_checkbox_name=helpers.ACTION_CHECKBOX_NAME,
            )
        deleted = 0
        meant = request.POST.getlist(LAST_GOOD)
        # The oldest first: what is refused as the last good one is the newest then.
        for dump in queryset.order_by(F("taken_at").asc(nulls_first=True), "pk"):
            try:
                is_meant = str(dump.pk) in meant
                dump_care.delete_dump(actor_of(request), dump, although_last=is_meant)
                deleted += 1
            except PgcloneError as error:
                tell(request, error)
        if deleted:
            said = ngettext("%(n)s dump was deleted.", "%(n)s dumps were deleted.", deleted)
            messages.success(request, said % {"n": deleted})
        return None


def _are_too_many(request: HttpRequest, queryset: QuerySet[Dump]) -> bool:
    count = queryset.count()
    if count <= MOST_SELECTED:
        return False
    said = _("%(n)s dumps are selected. Select at most %(most)s at a time. Nothing was done.")
    messages.error(request, said % {"n": count, "most": MOST_SELECTED})
    return True
