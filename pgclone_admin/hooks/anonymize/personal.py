"""Fields that look as if they held something personal, and that a map says nothing of."""

from __future__ import annotations

import re
from collections.abc import Iterator

from django.apps import apps
from django.db.models import EmailField, GenericIPAddressField, Model

from .engine import Anonymization
from .rules import AnyField, is_login_password

_WORDS = re.compile(
    r"(^|_)(e?mail|phone|mobile|fax|(first|last|middle|full|given|family|maiden|sur)_?name|surname|nick_?name"
    r"|username|address|street|post_?code|zip_?code|birth(day|date)?|born|iban|bic|ssn|passport"
    r"|password|ip|ip_?addr(ess)?|user_?agent)($|_)"
)

_PEOPLE = re.compile(
    r"(person|people|user|customer|client|contact|patient|employee|member|author|subscriber|guest"
    r"|student|teacher|applicant)$"
)
"""Models whose "name" is that of somebody."""

_NO_VALUES = {"BooleanField", "DurationField"}


def unanonymized_fields(anonymization: Anonymization) -> list[str]:
    """Such as "shop.Customer.phone", sorted. A map mentions a field also by the rule "keep"."""
    mentioned = {
        f"{table.label}.{each.name}" for table in anonymization.tables for each in table.fields
    }
    return sorted(set(_personal()) - mentioned)


def _personal() -> Iterator[str]:
    for model in apps.get_models(include_auto_created=True):
        if model._meta.proxy or not model._meta.managed:
            continue
        for each in model._meta.local_concrete_fields:
            if looks_personal(model, each):
                yield f"{model._meta.label}.{each.name}"


def looks_personal(model: type[Model], each: AnyField) -> bool:
    if each.is_relation or each.primary_key or each.choices or getattr(each, "generated", False):
        return False
    if isinstance(each, EmailField | GenericIPAddressField) or is_login_password(each):
        return True
    if each.get_internal_type() in _NO_VALUES:
        return False
    if each.name == "name":
        return _PEOPLE.search(model._meta.model_name or "") is not None
    return _WORDS.search(each.name) is not None
