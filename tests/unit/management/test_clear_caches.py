"""The command that forgets what was cached of the old database."""

from __future__ import annotations

import io

import pytest
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.test import override_settings

MEMORY = "django.core.cache.backends.locmem.LocMemCache"
CACHES = {
    "default": {"BACKEND": MEMORY, "LOCATION": "one"},
    "pages": {"BACKEND": MEMORY, "LOCATION": "two"},
}


def fill() -> None:
    for alias in CACHES:
        caches[alias].set("key", "of the old database")


def filled() -> list[str]:
    return [alias for alias in CACHES if caches[alias].get("key")]


@override_settings(CACHES=CACHES)
def test_without_a_name_every_cache_is_cleared() -> None:
    fill()
    said = io.StringIO()
    call_command("clear_caches", stdout=said)
    assert filled() == []
    assert said.getvalue() == "cleared the cache default\ncleared the cache pages\n"


@override_settings(CACHES=CACHES)
def test_only_the_caches_that_are_named_are_cleared() -> None:
    fill()
    call_command("clear_caches", "pages", stdout=io.StringIO())
    assert filled() == ["default"]


@override_settings(CACHES=CACHES)
def test_a_cache_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(CommandError, match='there is no cache "page" in CACHES'):
        call_command("clear_caches", "page")
