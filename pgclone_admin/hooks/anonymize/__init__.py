"""The anonymizing hook: no personal data on a developer's machine.

A map says which fields become what, see docs/anonymizing.md::

    anonymization = Anonymization.parse({"auth.User.email": "email"}, seed="...")
    changed = anonymization.run(connection, note=..., check=...)   # in a transaction
    connection.commit()
    anonymization.finish(connection, rewritten=changed.rewritten)  # in autocommit
"""

from __future__ import annotations

from .engine import Anonymization, Changed
from .mapping import FieldChange, TableChange
from .personal import unanonymized_fields

__all__ = [
    "Anonymization",
    "Changed",
    "FieldChange",
    "TableChange",
    "unanonymized_fields",
]
