"""Leads the keyboard to what is wrong in a form."""

from __future__ import annotations

from typing import Any

from django import forms


class FocusingForm(forms.Form):
    """A form whose first wrong field has the keyboard when it is shown again."""

    def add_error(self, field: str | None, error: Any) -> None:
        super().add_error(field, error)
        is_first = True
        for name, each in self.fields.items():
            each.widget.attrs.pop("autofocus", None)
            if is_first and name in self.errors and not each.widget.is_hidden:
                each.widget.attrs["autofocus"] = True
                is_first = False
