"""The marks on databases that were made here: only those are ever dropped or overwritten."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2 import sql

from pgclone_admin.core.marks import (
    MARK_PREFIX,
    Database,
    Mark,
    new_database_name,
    option,
    options_like,
)
from tests.unit import PROPERTY, any_text, names


def mark(**changes: str) -> Mark:
    fields = {"name": "shop__temp", "kind": "temporary", "of": "shop"}
    return Mark.new(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_mark_is_read_from_the_comment_that_it_makes() -> None:
    one = mark(source="prod/default/none/x.dump", becomes="pre")
    assert one.comment().startswith("pgclone_admin {")
    assert Mark.read(one.comment(), "shop__temp") == one


def test_a_mark_says_when_it_was_made() -> None:
    made_at = datetime.fromisoformat(mark().made_at)
    assert made_at.tzinfo is not None
    assert abs(datetime.now(UTC) - made_at) < timedelta(seconds=5)


def test_f33_a_mark_holds_for_the_name_it_names_only() -> None:
    # A database that somebody has renamed is theirs.
    assert Mark.read(mark().comment(), "shop") is None
    assert Mark.read(mark().comment(), "shop__temp ") is None


def changed(**changes: Any) -> str:
    values = json.loads(mark().comment().removeprefix(MARK_PREFIX))
    return MARK_PREFIX + json.dumps({**values, **changes})


@pytest.mark.parametrize(
    "comment",
    [
        None,
        "",
        "The shop",
        "pgclone_admin",
        "pgclone_admin ",
        "pgclone_admin made this",
        "pgclone_admin []",
        "pgclone_admin 5",
        "pgclone_admin {}",
        'pgclone_admin {"name": "shop__temp"}',
        "pgclone_admin " + "[" * 100_000,
        " " + mark().comment(),
        mark().comment().replace("pgclone_admin", "Pgclone_admin"),
        mark().comment()[:-1],
        mark().comment() + " and more",
        changed(another_field=1),
        changed(name=None),
        changed(name=["shop__temp"]),
    ],
)
def test_f33_any_other_comment_is_no_mark(comment: str | None) -> None:
    assert Mark.read(comment, "shop__temp") is None


@PROPERTY
@given(name=names, source=any_text)
def test_any_name_can_be_marked(name: str, source: str) -> None:
    one = mark(name=name, of=name, source=source)
    assert Mark.read(one.comment(), name) == one


@PROPERTY
@given(comment=any_text | st.text().map(lambda text: MARK_PREFIX + text))
def test_f33_no_text_by_chance_is_a_mark(comment: str) -> None:
    assert Mark.read(comment, "shop__temp") is None


def test_a_new_database_has_a_name_of_ours_that_nobody_else_has() -> None:
    made = {new_database_name() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"pgclone_new_[0-9a-f]{16}", name) for name in made)


@pytest.mark.parametrize("column", ["daticulocale", "datlocale"], ids=["16", "17 and newer"])
def test_a_database_is_made_with_the_icu_rules_of_its_model(column: str) -> None:
    model = Database(
        oid=1,
        name="shop",
        owner="app",
        is_template=False,
        allows_connections=True,
        connection_limit=-1,
        comment=None,
        tablespace="pg_default",
        encoding="UTF8",
        row={
            "datcollate": "C",
            "datctype": "C",
            "datlocprovider": "i",
            column: "de-DE",
            "daticurules": "&a < 'z'",
        },
    )
    options = options_like(model)
    assert option("LOCALE_PROVIDER", sql.SQL("icu")) in options
    assert option("ICU_LOCALE", sql.Literal("de-DE")) in options
    assert option("ICU_RULES", sql.Literal("&a < 'z'")) in options
