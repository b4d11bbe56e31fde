"""The overview, for templates."""

from __future__ import annotations

from typing import Any

from django import template

from ..admin.overview import Overview, overview_of

register = template.Library()


@register.simple_tag(takes_context=True)
def pgclone_overview(context: Any) -> Overview:
    return overview_of(context["request"])
