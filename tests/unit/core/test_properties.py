"""Settings of a database whose value is a list of names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core.properties import split_list_setting
from tests.unit import PROPERTY, names


@pytest.mark.parametrize(
    ("stored", "items"),
    [
        ("public", ["public"]),
        ('"$user", public', ["$user", "public"]),
        ('"schéma 2", public', ["schéma 2", "public"]),
        ("a,b", ["a", "b"]),
        ("a , b", ["a", "b"]),
        ('"a, b", c', ["a, b", "c"]),
        ('"a""b"', ['a"b']),
        ('"a"", ""b"', ['a", "b']),
        ('""', [""]),
        ("", [""]),
        ('"", public', ["", "public"]),
        ("$libdir/one, $libdir/two", ["$libdir/one", "$libdir/two"]),
    ],
)
def test_a_list_is_split_as_the_server_splits_it(stored: str, items: list[str]) -> None:
    assert split_list_setting(stored) == items


def quoted(name: str) -> str:
    """As quote_identifier of the server, which leaves plain names as they are."""
    plain = name.isascii() and name.replace("_", "a").isalnum() and name.islower()
    return name if plain and not name[0].isdigit() else '"' + name.replace('"', '""') + '"'


@PROPERTY
@given(st.lists(names | st.text("ab\", $'\\", min_size=1, max_size=6), min_size=1, max_size=6))
def test_any_names_come_out_of_the_list_that_the_server_makes_of_them(items: list[str]) -> None:
    assert split_list_setting(", ".join(map(quoted, items))) == items
