"""Which dump a person means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from pgclone_admin.core.errors import AmbiguousKey, DumpNotFound, InvalidName
from pgclone_admin.core.names import DumpKey, LocalKey
from pgclone_admin.options import Arguments, Options, resolve
from pgclone_admin.services.keys import Resolved, resolve_key
from pgclone_admin.services.listing import list_dumps
from pgclone_admin.store import DumpStore
from tests.unit import PROPERTY, any_text
from tests.unit.helpers import SetDatabases, three_aliases


def key(where: str, day: int = 1) -> str:
    """The key of a dump taken on this day of January; ``where`` has one or three parts."""
    moment = f"2026-01-{day:02}-00-00-00-000000"
    return f"{where}/{moment}.dump" if "/" in where else f"{where}/{moment}.default.dump"


class Dumps:
    """A storage location in which some keys are taken."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def have(self, *keys: str) -> None:
        for text in keys:
            path = self.root / text
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"PGDMP")
            # What has no time in its key has that of its file.
            moment = 1_000_000_000 + len(list(self.root.rglob("*")))
            os.utime(path, (moment, moment))

    def resolve(self, text: str) -> Resolved:
        return resolve_key(text, DumpStore(str(self.root)))

    def listed(self, text: str | None) -> list[str]:
        options: Options = resolve(Arguments(storage_location=str(self.root)), verb="")
        return [entry.key.text for entry in list_dumps(options, text)]


@pytest.fixture
def dumps(storage_root: Path) -> Dumps:
    return Dumps(storage_root)


# -- one dump -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [(":pre", "pre"), (":previous", "pre"), (":current", "post"), (":shop copy", "shop copy")],
)
def test_a_local_key_is_read_before_any_storage_is_asked(text: str, name: str) -> None:
    store: DumpStore = None  # type: ignore[assignment] - it is not asked
    assert resolve_key(text, store) == Resolved(LocalKey(name))


def test_a_local_key_that_no_database_can_have_is_refused() -> None:
    with pytest.raises(InvalidName):
        resolve_key(":", None)  # type: ignore[arg-type] - it is not asked


def test_a_whole_key_is_that_dump_without_a_word(dumps: Dumps) -> None:
    dumps.have(key("prod/default/none", 1), key("prod/default/none", 2))
    assert dumps.resolve(key("prod/default/none", 1)) == Resolved(
        DumpKey.parse(key("prod/default/none", 1))
    )


@pytest.mark.parametrize(
    "text",
    [
        "prod",
        "prod/",
        "prod/default",
        "prod/default/",
        "prod/default/nightly",
        "prod/default/nightly/",
    ],
)
def test_a_prefix_of_whole_parts_is_its_newest_dump_and_says_so(dumps: Dumps, text: str) -> None:
    newest = key("prod/default/nightly", 5)
    dumps.have(key("prod/default/nightly", 3), newest, key("prod/default/nightly", 4))
    resolved = dumps.resolve(text)
    assert resolved.key == DumpKey.parse(newest)
    assert resolved.explanation == f'the newest of 3 dumps that match "{text}" is {newest}'


def test_a_prefix_may_span_configurations(dumps: Dumps) -> None:
    dumps.have(key("prod/default/zero", 1), key("prod/default/alpha", 2))
    assert str(dumps.resolve("prod/default").key) == key("prod/default/alpha", 2)
    assert str(dumps.resolve("prod/default/zero").key) == key("prod/default/zero", 1)


@pytest.mark.parametrize(
    "text",
    [
        "pro",
        "prod/def",
        "prod/default/night",
        "prod/default/nightly/2026-01-01",
        "default/nightly",
        "rod",
        "PROD",
        "nightly",
        "/",
        "//",
        "prod//default",
        "",
        "*",
        "prod/*",
        "[p]rod",
        "prod%",
        "../prod",
    ],
)
def test_f62_parts_of_parts_match_nothing(dumps: Dumps, text: str) -> None:
    dumps.have(key("prod/default/nightly"))
    with pytest.raises(DumpNotFound, match=r"^no dump in .* matches") as caught:
        dumps.resolve(text)
    assert caught.value.hint == "See what there is with: pgclone ls"


def test_f62_a_name_that_begins_another_does_not_match_it(dumps: Dumps) -> None:
    dumps.have(key("app/default/none", 1), key("app_prod/default/none", 9), key("app.x/a/b", 9))
    dumps.have(key("app-2/default/none", 9), key("myapp/default/none", 9))
    assert str(dumps.resolve("app").key) == key("app/default/none", 1)
    assert dumps.listed("app") == [key("app/default/none", 1)]


def test_f62_databases_of_version_1_are_told_apart_too(dumps: Dumps) -> None:
    dumps.have(key("app", 1), key("app_prod", 9))
    assert str(dumps.resolve("app").key) == key("app", 1)
    assert dumps.listed("app") == [key("app", 1)]


# -- several instances and databases --------------------------------------------------------------


def test_f64_newest_is_by_time_and_not_by_the_order_of_the_keys(dumps: Dumps) -> None:
    newest = key("prod/default/aaa", 28)
    dumps.have(newest, key("prod/default/zzz", 1), key("prod/default/mmm", 2))
    assert str(dumps.resolve("prod").key) == newest
    assert dumps.listed("prod")[0] == newest


def test_f64_newest_is_by_time_across_keys_of_both_versions(dumps: Dumps) -> None:
    dumps.have(key("zzz", 2), key("aaa/default/none", 3), key("mmm/default/none", 1))
    assert dumps.listed(None) == [
        key("aaa/default/none", 3),
        key("zzz", 2),
        key("mmm/default/none", 1),
    ]


@pytest.mark.parametrize(
    ("keys", "text", "choices"),
    [
        (
            [key("prod/default/none"), key("prod/reporting/none")],
            "prod",
            "prod/default, prod/reporting",
        ),
        # "app" is an instance here and a database of version 1 there.
        ([key("app", 1), key("app/default/none", 2)], "app", "app, app/default"),
    ],
)
def test_f64_a_prefix_of_several_databases_is_an_error_that_lists_them(
    dumps: Dumps, keys: list[str], text: str, choices: str
) -> None:
    dumps.have(*keys)
    with pytest.raises(AmbiguousKey, match=f'^"{text}" matches dumps of several') as caught:
        dumps.resolve(text)
    assert caught.value.hint == f"Choose one of them: {choices}"


def test_f64_an_alias_with_dumps_of_several_instances_is_an_error_that_lists_them(
    dumps: Dumps,
) -> None:
    dumps.have(key("prod/default/none", 1), key("staging/default/none", 2))
    with pytest.raises(AmbiguousKey) as caught:
        dumps.resolve("default")
    assert caught.value.code == "ambiguous_key"
    assert caught.value.hint == "Choose one of them: prod/default, staging/default"
    assert str(dumps.resolve("prod/default").key) == key("prod/default/none", 1)


def test_f64_of_many_choices_some_are_listed_and_the_rest_counted(dumps: Dumps) -> None:
    dumps.have(*(key(f"host{n:02}/default/none") for n in range(13)))
    with pytest.raises(AmbiguousKey) as caught:
        dumps.resolve("default")
    assert caught.value.hint is not None
    assert caught.value.hint.endswith(", host09/default and 3 more")


# -- names of databases ---------------------------------------------------------------------------


@pytest.fixture
def aliases(set_databases: SetDatabases) -> Iterator[None]:
    set_databases(three_aliases())
    return


@pytest.mark.usefixtures("aliases")
def test_an_alias_is_its_newest_dump_from_the_one_instance_that_has_any(dumps: Dumps) -> None:
    newest = key("prod/reporting/none", 3)
    dumps.have(newest, key("prod/reporting/nightly", 2), key("prod/default/none", 9))
    resolved = dumps.resolve("reporting")
    assert str(resolved.key) == newest
    assert resolved.explanation == f'the newest of 2 dumps that match "reporting" is {newest}'
    assert dumps.listed("reporting") == [newest, key("prod/reporting/nightly", 2)]


@pytest.mark.usefixtures("aliases")
def test_what_is_no_alias_here_is_not_looked_for_in_the_middle_of_keys(dumps: Dumps) -> None:
    dumps.have(key("prod/archive/none"))
    with pytest.raises(DumpNotFound):
        dumps.resolve("archive")
    assert dumps.listed("archive") == []


def test_an_alias_is_found_as_its_keys_are_written(
    dumps: Dumps, set_databases: SetDatabases
) -> None:
    set_databases({**three_aliases(), "the reports": three_aliases()["reporting"]})
    dumps.have(key("prod/the_reports/none"))
    assert str(dumps.resolve("the reports").key) == key("prod/the_reports/none")


def test_a_database_name_of_version_1_is_its_newest_dump(dumps: Dumps) -> None:
    dumps.have(key("shop_prod", 1), key("shop_prod", 3), key("shop_prod", 2), key("other", 9))
    assert str(dumps.resolve("shop_prod").key) == key("shop_prod", 3)


@pytest.mark.usefixtures("aliases")
def test_an_alias_says_nothing_about_dumps_of_version_1(dumps: Dumps) -> None:
    # There the first part was the name of the database, not an alias.
    dumps.have(key("shop_prod", 1))
    with pytest.raises(DumpNotFound):
        dumps.resolve("default")


@pytest.mark.parametrize(
    "keys",
    [
        # An instance with the name of an alias.
        [key("reporting/default/none", 1), key("prod/reporting/none", 2)],
        # A database of version 1 with the name of an alias.
        [key("reporting", 1), key("prod/reporting/none", 2)],
    ],
)
@pytest.mark.usefixtures("aliases")
def test_f64_a_name_that_can_be_read_in_two_ways_is_an_error_that_lists_the_choices(
    dumps: Dumps, keys: list[str]
) -> None:
    dumps.have(*keys)
    with pytest.raises(AmbiguousKey) as caught:
        dumps.resolve("reporting")
    assert caught.value.message == (
        '"reporting" can be read as the beginning of a dump key and as the alias of a database'
    )
    assert caught.value.hint is not None
    assert "prod/reporting" in caught.value.hint
    assert str(dumps.resolve("prod/reporting").key) == keys[1]


@pytest.mark.usefixtures("aliases")
def test_two_ways_that_mean_the_same_dumps_are_no_riddle(dumps: Dumps) -> None:
    dumps.have(key("reporting/reporting/none", 1), key("reporting/reporting/none", 2))
    assert str(dumps.resolve("reporting").key) == key("reporting/reporting/none", 2)


# -- keys by hand ---------------------------------------------------------------------------------


def test_keys_by_hand_count_where_they_are_not_validated(dumps: Dumps) -> None:
    dumps.have("by hand/one.dump", "by hand/two.dump")
    with pytest.raises(DumpNotFound):
        dumps.resolve("by hand/one.dump")
    with override_settings(PGCLONE_VALIDATE_DUMP_KEYS=False):
        assert str(dumps.resolve("by hand/one.dump").key) == "by hand/one.dump"
        assert dumps.listed("by hand") == ["by hand/two.dump", "by hand/one.dump"]
        # They do not say whether they are dumps of one database.
        with pytest.raises(AmbiguousKey):
            dumps.resolve("by hand")


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "/etc/passwd", "..\\x", "%2e%2e/x", "prod\0", "x" * 5000]
)
def test_f52_a_key_out_of_the_location_is_no_dump(dumps: Dumps, text: str) -> None:
    dumps.have(key("prod/default/none"))
    with pytest.raises(DumpNotFound):
        dumps.resolve(text)


@PROPERTY
@given(text=any_text | st.text("prodefault/none.", min_size=1, max_size=30))
def test_f52_any_text_is_a_dump_a_local_copy_or_a_clear_error(dumps: Dumps, text: str) -> None:
    dumps.have(key("prod/default/none"))
    try:
        resolved = dumps.resolve(text)
    except (DumpNotFound, InvalidName):
        return
    assert isinstance(resolved.key, LocalKey) or str(resolved.key) == key("prod/default/none")


# -- listing --------------------------------------------------------------------------------------


def test_a_list_may_span_what_a_restore_may_not(dumps: Dumps) -> None:
    dumps.have(key("prod/default/none", 1), key("staging/default/none", 2))
    both = [key("staging/default/none", 2), key("prod/default/none", 1)]
    assert dumps.listed("default") == both
    assert dumps.listed(None) == both
    assert dumps.listed("") == both


def test_a_whole_key_lists_itself(dumps: Dumps) -> None:
    dumps.have(key("prod/default/none", 1), key("prod/default/none", 2))
    assert dumps.listed(key("prod/default/none", 1)) == [key("prod/default/none", 1)]


@pytest.mark.parametrize("text", ["nothing", "pro", "../", ":pre"])
def test_what_matches_nothing_lists_nothing(dumps: Dumps, text: str) -> None:
    dumps.have(key("prod/default/none"))
    assert dumps.listed(text) == []
