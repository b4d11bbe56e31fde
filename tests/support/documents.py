"""The pages of the documentation, and what they name."""

from __future__ import annotations

import re

from . import ROOT

PAGES = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}


def named(text: str, name: str) -> bool:
    """Whether the text names it as code, and not only as a part of something longer."""
    return re.search(rf"`[^`\n]*(?<![\w-]){re.escape(name)}(?![\w-])[^`\n]*`", text) is not None


def names_of_others() -> str:
    """The tables of what other tools have."""
    return PAGES["migrating.md"].partition("## Everything, name by name")[2]
