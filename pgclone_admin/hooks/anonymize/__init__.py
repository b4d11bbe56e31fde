"""The anonymizing hook: no personal data on a developer's machine.

A map says which fields become what, see docs/anonymizing.md::

    anonymization = Anonymization.parse({"auth.User.email": "email"}, seed="...")
    counts = anonymization.run(connection, note=..., check=...)   # in a transaction
    connection.commit()
    anonymization.finish(connection)                              # in autocommit
"""

from __future__ import annotations

from .engine import Anonymization
from .mapping import FieldChange, TableChange
from .personal import unanonymized_fields

__all__ = [
    "Anonymization",
    "FieldChange",
    "TableChange",
    "unanonymized_fields",
]
