"""The JSON beside every dump."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core.errors import IntegrityError
from pgclone_admin.core.manifest import FORMAT_VERSION, Manifest
from tests.unit import PROPERTY

KEY = "prod/default/none/2026-11-21-05-04-03-000021.dump"


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "key": KEY,
        "size": 1234,
        "sha256": "a" * 64,
        "codec": "zstd",
        "taken_at": "2026-11-21T05:04:03+00:00",
        "instance": "prod",
        "database": "default",
        "config": "none",
        "origin": "pgclone",
        "app_version": "0.1.0",
    }
    return Manifest(**{**fields, **changes})


FULL = manifest(
    source_database='Der "Laden" ü',
    source_size=10**12,
    server_version="18.4",
    program_version="18.4",
    encoding="UTF8",
    extensions=(("plpgsql", "1.0"), ("postgis", "3.5")),
    migrations=(("auth", "0001_initial"),),
    excluded=('public.my.tab "ü"',),
    hooks=("anonymize",),
    taken_by="deploy",
    host="web-1",
)


def test_what_is_written_is_read_back() -> None:
    assert Manifest.from_json(FULL.to_json()) == FULL
    assert Manifest.from_json(manifest().to_json()) == manifest()


def test_every_field_is_written_with_the_version_of_the_format() -> None:
    written = json.loads(FULL.to_json())
    assert written.pop("format") == FORMAT_VERSION == 1
    assert set(written) == {field.name for field in dataclasses.fields(Manifest)}


def test_it_can_be_read_by_people() -> None:
    text = FULL.to_json().decode()
    assert '"source_database": "Der \\"Laden\\" ü"' in text
    assert len(text.splitlines()) > 20


@pytest.mark.parametrize(
    ("origin", "foreign"), [("pgclone", False), ("imported", True), ("", True)]
)
def test_what_was_not_made_here_is_foreign(origin: str, foreign: bool) -> None:
    assert manifest(origin=origin).is_foreign is foreign


def changed(**changes: Any) -> bytes:
    return json.dumps({**json.loads(FULL.to_json()), **changes}).encode()


def without(name: str) -> bytes:
    values = json.loads(FULL.to_json())
    del values[name]
    return json.dumps(values).encode()


def test_what_a_later_version_adds_is_left_aside() -> None:
    assert Manifest.from_json(changed(kept_tables=["x"], pinned=True)) == FULL


@pytest.mark.parametrize("name", ["source_database", "source_size", "migrations", "hooks"])
def test_what_an_earlier_version_did_not_write_has_its_default(name: str) -> None:
    read = Manifest.from_json(without(name))
    assert getattr(read, name) == getattr(manifest(), name)


BROKEN = {
    "empty": b"",
    "cut short": FULL.to_json()[:-20],
    "no JSON": b"<html>503</html>",
    "no text": b"\xff\xfe\x00",
    "a list": b"[1]",
    "a number": b"7",
    "no format": without("format"),
    "a format that is no number": changed(format="1"),
    "a newer format": changed(format=FORMAT_VERSION + 1),
    "no key": without("key"),
    "no size": without("size"),
    "no digest": without("sha256"),
    "a size that is no number": changed(size="1234"),
    "a digest that is too short": changed(sha256="abc"),
    "a digest that is no text": changed(sha256=17),
    "nested without end": b"[" * 100_000,
    "nested in a field": b'{"format": 1, "hooks": ' + b"[" * 900 + b"]" * 900 + b"}",
    "a number without end": b'{"format": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_manifest_that_cannot_be_read_is_an_error_and_not_a_missing_one(kind: str) -> None:
    with pytest.raises(IntegrityError, match="the manifest of the dump cannot be read: ") as caught:
        Manifest.from_json(BROKEN[kind])
    assert caught.value.hint


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@PROPERTY
@given(
    st.dictionaries(
        st.sampled_from(["format", *(field.name for field in dataclasses.fields(Manifest))]),
        values,
    )
)
def test_any_json_is_a_manifest_or_an_integrity_error(changes: dict[str, Any]) -> None:
    try:
        read = Manifest.from_json(changed(**changes))
    except IntegrityError:
        return
    assert isinstance(read.size, int)
    assert len(read.sha256) == 64


@PROPERTY
@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        Manifest.from_json(data)
