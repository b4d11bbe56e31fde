"""What a person is told and asked before dumps are deleted."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from ..models import Dump, Status
from . import formats

LAST_GOOD = "last_good"
"""The field that has the number of each dump that is deleted although it is the last good one."""

Group = tuple[str, str, str]


def deletable(dumps: QuerySet[Dump]) -> list[dict[str, Any]]:
    """The dumps, and what speaks against deleting each of them."""
    chosen = list(dumps)
    refused = {dump.pk: text for dump in chosen if (text := _refusal(dump))}
    doomed = {dump.pk for dump in chosen} - set(refused)
    good = _good_of({_group(dump) for dump in chosen})
    newest = {pks[0] for pks in good.values()}
    # The others of a group go first: of those that are chosen the newest would be left alone.
    last = {pks[0] for pks in good.values() if doomed.issuperset(pks)}
    return [
        {
            "dump": dump,
            "badge": formats.badge(dump),
            "size": formats.size(dump.size),
            "taken": formats.ago(dump.taken_at),
            "refused": refused.get(dump.pk, ""),
            "is_newest": dump.pk in newest,
            "last_of": " / ".join(filter(None, _group(dump))) if dump.pk in last else "",
        }
        for dump in chosen
    ]


def _refusal(dump: Dump) -> str:
    if dump.is_active:
        return _("It is being made: cancel it first.")
    return _("It is pinned: unpin it first.") if dump.is_pinned else ""


def _group(dump: Dump) -> Group:
    return dump.instance, dump.database, dump.config


def _good_of(groups: set[Group]) -> dict[Group, list[int]]:
    """The good dumps of each group, newest first."""
    found: dict[Group, list[int]] = defaultdict(list)
    good = Dump.objects.filter(
        status=Status.SUCCEEDED, database__in={database for _instance, database, _config in groups}
    )
    rows = good.order_by("-taken_at", "-pk").values_list("instance", "database", "config", "pk")
    for *group, pk in rows.iterator():
        if (key := tuple(group)) in groups:
            found[key].append(pk)
    return found
