"""Dump keys, local keys, names of databases."""

from __future__ import annotations

import ntpath
import posixpath
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import unquote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pgclone_admin.core.errors import InvalidName
from pgclone_admin.core.names import (
    DumpKey,
    LocalKey,
    TableName,
    check_database_name,
    derived_name,
    quote_identifier,
    sanitized,
)
from tests.unit import PROPERTY, any_text, names

MOMENT = datetime(2026, 11, 21, 5, 4, 3, 21, tzinfo=UTC)
KEY = "prod/default/nightly/2026-11-21-05-04-03-000021.dump"
VERSION_1_KEY = "shop_prod/2021_03_01_12_30_00_000007.default.dump"

ROLES = ("temp", "swap", "pre", "post", "undo")

# -- dump keys ------------------------------------------------------------------------------------


def new_key(**changes: object) -> DumpKey:
    parts = {"instance": "prod", "database": "default", "config": "nightly", "taken_at": MOMENT}
    return DumpKey.new(**{**parts, **changes})  # type: ignore[arg-type]


def test_a_new_key_has_instance_database_configuration_and_time_in_utc() -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    assert new_key().text == KEY
    assert new_key(taken_at=MOMENT.astimezone(east)).text == KEY


def test_a_key_of_today_tells_all_its_parts() -> None:
    key = DumpKey.parse(KEY)
    assert (key.instance, key.database, key.config) == ("prod", "default", "nightly")
    assert key.taken_at == MOMENT
    assert key.is_standard
    assert str(key) == KEY
    assert key == new_key()


@pytest.mark.parametrize(
    "text", [VERSION_1_KEY, VERSION_1_KEY.replace("2021_03_01_12_30_00_", "2021-03-01-12-30-00-")]
)
def test_a_key_of_version_1_tells_database_configuration_and_time_but_no_instance(
    text: str,
) -> None:
    key = DumpKey.parse(text)
    assert (key.instance, key.database, key.config) == (None, "shop_prod", "default")
    assert key.taken_at == datetime(2021, 3, 1, 12, 30, 0, 7, tzinfo=UTC)
    assert key.is_standard


def test_a_configuration_of_version_1_may_hold_dots() -> None:
    key = DumpKey.parse("shop/2021-03-01-12-30-00-000007.no.users.dump")
    assert key.config == "no.users"


@pytest.mark.parametrize(
    "text",
    [
        "by-hand.dump",
        "some/folder/by hand.dump",
        "prod/default/nightly/2026-13-01-00-00-00-000000.dump",
        "prod/default/nightly/2026-02-30-00-00-00-000000.dump",
        "prod/default/nightly/2026-11-21-05-04-03-000021.dump.json",
        "prod/default/nightly/2026-11-21.dump",
        "prod/default/2026-11-21-05-04-03-000021.dump",
        "a/prod/default/nightly/2026-11-21-05-04-03-000021.dump",
        "2021-03-01-12-30-00-000007.default.dump",
        "shop/2021-03-01-12-30-00-000007.dump",
        "shop/2021_03_01-12_30_00_000007.default.dump",
        "shop/2021_13_01_12_30_00_000007.default.dump",
        "prod/default/nightly/2026_11_21_05_04_03_000021.dump",
    ],
)
def test_a_key_made_by_hand_is_read_but_tells_nothing(text: str) -> None:
    key = DumpKey.parse(text)
    assert key.text == text
    assert not key.is_standard
    assert (key.instance, key.database, key.config, key.taken_at) == (None, None, None, None)


def test_the_manifest_lies_beside_the_dump() -> None:
    assert DumpKey.parse(KEY).manifest_name == KEY + ".json"


@pytest.mark.parametrize("part", ["instance", "database", "config"])
def test_a_part_of_a_new_key_cannot_be_empty(part: str) -> None:
    with pytest.raises(InvalidName, match=f"the {part} of a dump key cannot be empty"):
        new_key(**{part: ""})


@pytest.mark.parametrize(
    ("given_part", "written"),
    [
        ("web-1.example.org", "web-1_example_org"),
        ("../..", "_____"),
        ("a/b", "a_b"),
        ("ü ñ", "___"),
        ("A_z-9", "A_z-9"),
    ],
)
def test_parts_of_new_keys_are_written_in_the_characters_of_django_pgclone(
    given_part: str, written: str
) -> None:
    assert sanitized(given_part) == written
    assert new_key(instance=given_part).instance == written


def test_a_new_key_that_is_too_long_for_s3_is_refused() -> None:
    with pytest.raises(InvalidName, match="at most 1024 bytes"):
        new_key(instance="i" * 1000)


@PROPERTY
@given(
    instance=any_text,
    database=any_text,
    config=any_text,
    taken_at=st.datetimes(
        min_value=datetime(1000, 1, 1),  # noqa: DTZ001 - hypothesis adds it
        timezones=st.just(UTC),
    ),
)
def test_every_new_key_is_read_back_as_it_was_written(
    instance: str, database: str, config: str, taken_at: datetime
) -> None:
    key = DumpKey.new(instance=instance, database=database, config=config, taken_at=taken_at)
    assert DumpKey.parse(key.text) == key
    assert key.is_standard
    assert key.taken_at == taken_at
    assert (key.instance, key.database, key.config) == (
        sanitized(instance),
        sanitized(database),
        sanitized(config),
    )
    assert key.text.count("/") == 3
    assert key.text.isascii()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "../../x",
        "../2021-03-01-12-30-00-000007.default.dump",
        "prod/../../x.dump",
        "prod/default/none/..",
        "/etc/passwd",
        "//host/share",
        "prod//default",
        "prod/default/",
        "./prod",
        "prod/./default",
        "..\\..\\x",
        "prod\\default",
        "C:/x",
        "c:x",
        "%2e%2e/%2e%2e/x",
        "%2E%2E/x",
        "prod%2fdefault",
        "prod%5cdefault",
        "prod%00",
        "prod/default\0.dump",
        "prod/default\n.dump",
        "prod/\x1b[2K.dump",
        "prod/\u202edump",
        "prod/\ud800.dump",
        "k" * 1025,
        "ü" * 513,
    ],
)
def test_f52_a_key_that_could_leave_its_location_is_refused(text: str) -> None:
    with pytest.raises(InvalidName) as caught:
        DumpKey.parse(text)
    assert caught.value.code == "invalid_name"
    # What is shown to a person holds nothing that a terminal would act on.
    assert caught.value.message.isprintable()


hostile_text = st.lists(
    st.sampled_from(
        ["..", ".", "/", "\\", "%2e", "%2F", "%5c", "%", "\0", "C:", ":", "~", " ", "-", "\n", "é"]
    )
    | st.text(st.characters(), max_size=5),
    min_size=1,
    max_size=40,
).map("".join)

ROOT = "/srv/dumps"


@PROPERTY
@given(text=any_text | hostile_text)
@example("a/..")
@example("a/%2e%2e/b")
@example("prod/default/none/2026-11-21-05-04-03-000021.dump")
def test_f52_no_key_that_is_accepted_leaves_the_root(text: str) -> None:
    try:
        key = DumpKey.parse(text)
    except InvalidName:
        return
    assert key.text == text
    for spelling in (text, unquote(text)):
        assert posixpath.normpath(posixpath.join(ROOT, spelling)) == f"{ROOT}/{spelling}"
        inside = ntpath.normpath(ntpath.join(r"D:\dumps", spelling))
        assert inside.startswith("D:\\dumps\\")
        assert "\0" not in spelling
    assert len(key.manifest_name.encode()) <= 1024 + len(".json")


# -- local keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "database"),
    [
        (":pre", "shop__pre"),
        (":post", "shop__post"),
        (":undo", "shop__undo"),
        (":previous", "shop__pre"),
        (":current", "shop__post"),
        (":shop_before_migration", "shop_before_migration"),
        (":Odd \"name\" = 'x' -", "Odd \"name\" = 'x' -"),
        (":--file=x", "--file=x"),
        ("::x", ":x"),
        (":" + "n" * 63, "n" * 63),
    ],
)
def test_a_local_key_names_a_database_beside_the_live_one(text: str, database: str) -> None:
    assert LocalKey.parse(text).database_name("shop") == database


@pytest.mark.parametrize(
    "text", ["pre", "", ":", ":a\0b", ":" + "n" * 64, ":" + "ü" * 32, ":\udcff"]
)
def test_a_local_key_that_no_database_can_have_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        LocalKey.parse(text)


@PROPERTY
@given(text=any_text)
def test_any_text_is_a_local_key_or_an_invalid_name(text: str) -> None:
    try:
        key = LocalKey.parse(":" + text)
    except InvalidName:
        return
    assert LocalKey.parse(str(key)) == key
    assert 1 <= len(key.database_name("shop").encode()) <= 63


def test_only_the_names_of_today_are_reserved() -> None:
    reserved = {t for t in ("pre", "post", "undo", "temp", "swap", "x") if LocalKey(t).is_reserved}
    assert reserved == {"pre", "post", "undo"}


@pytest.mark.parametrize("live", ["shop", "s" * 60, "ü" * 31])
@pytest.mark.parametrize("role", ["pre", "post", "undo"])
def test_the_key_of_a_database_leads_back_to_it(live: str, role: str) -> None:
    key = LocalKey.of_database(derived_name(live, role), live)
    assert str(key) == f":{role}"
    assert key.database_name(live) == derived_name(live, role)


def test_the_derived_database_of_another_live_one_has_its_own_name_as_key() -> None:
    assert str(LocalKey.of_database("other__pre", "shop")) == ":other__pre"


# -- names of databases ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a\0", "n" * 64, "€" * 22, "\ud800"])
def test_a_name_that_the_server_would_refuse_or_cut_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_database_name(name)


@pytest.mark.parametrize("name", ["n" * 63, "€" * 21, " ", "--file=x", "a=b", '"', "a;b", "\n"])
def test_any_other_name_is_taken_as_it_is(name: str) -> None:
    check_database_name(name)


def test_a_derived_name_is_the_plain_one_where_that_fits() -> None:
    assert derived_name("shop", "temp") == "shop__temp"
    assert derived_name("n" * 57, "temp") == "n" * 57 + "__temp"


def test_f33_a_name_that_would_be_cut_is_shortened_with_a_hash() -> None:
    live = "n" * 63
    short = derived_name(live, "temp")
    assert len(short) == 63
    assert short.startswith("n" * 40)
    assert short.endswith("__temp")
    assert short != live
    # Another host and another run have to find the same database.
    assert short == derived_name(live, "temp")


@PROPERTY
@given(name=names, role=st.sampled_from(ROLES))
@example(name="n" * 63, role="temp")
@example(name="ü" * 31, role="undo")
@example(name="a" + "€" * 20 + "ab", role="post")
def test_f33_a_derived_name_fits_and_is_never_the_live_name(name: str, role: str) -> None:
    derived = derived_name(name, role)
    assert len(derived.encode()) <= 63
    assert derived != name
    # What the server would make of it, were it longer.
    assert derived.encode()[:63] != name.encode()
    assert derived.endswith(f"__{role}")


@PROPERTY
@given(one=names, other=names, role=st.sampled_from(ROLES))
def test_f33_databases_with_different_names_have_different_derived_names(
    one: str, other: str, role: str
) -> None:
    assume(one != other)
    assert derived_name(one, role) != derived_name(other, role)


@PROPERTY
@given(
    stem=st.text("abcü€", min_size=10, max_size=30).filter(lambda s: len(s.encode()) <= 60),
    ends=st.lists(st.text("xyz0_", min_size=3, max_size=3), min_size=2, max_size=6, unique=True),
    role=st.sampled_from(ROLES),
)
def test_f33_long_names_that_differ_at_their_end_alone_stay_apart(
    stem: str, ends: list[str], role: str
) -> None:
    long = [stem + "f" * (60 - len(stem.encode())) + end for end in ends]
    assert {len(name.encode()) for name in long} == {63}
    assert len({derived_name(name, role) for name in long}) == len(long)


def test_the_derived_names_of_one_database_differ_from_each_other() -> None:
    for live in ("shop", "n" * 63):
        assert len({derived_name(live, role) for role in ROLES}) == len(ROLES)


# -- quoting --------------------------------------------------------------------------------------


def read_identifier(text: str) -> tuple[str, str]:
    """The name in the quoted identifier that ``text`` begins with, and what follows."""
    assert text[0] == '"'
    name, position = "", 1
    while True:
        if text[position] != '"':
            name += text[position]
            position += 1
        elif text[position : position + 2] == '""':
            name += '"'
            position += 2
        else:
            return name, text[position + 1 :]


@PROPERTY
@given(name=any_text)
@example('"; DROP DATABASE live; --')
@example('""')
def test_a_quoted_identifier_holds_the_name_and_nothing_follows_it(name: str) -> None:
    assert read_identifier(quote_identifier(name)) == (name, "")


def test_a_table_is_quoted_in_both_parts() -> None:
    table = TableName("my schema", 'My"Table')
    assert table.quoted == '"my schema"."My""Table"'
    assert str(table) == 'my schema.My"Table'
