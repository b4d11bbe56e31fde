"""Configurations that require anonymized data: what they refuse, and what they leave nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from pgclone_admin.core.errors import (
    ConfigurationError,
    HookFailed,
    NotAnonymized,
    UnknownDatabase,
)
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.options import Arguments, resolve
from pgclone_admin.services.dumps import create_dump
from pgclone_admin.services.restores import Restored, Variant, plan_restore, restore, swap

from .operations import unchanged

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("nothing_left_behind")]

ANONYMIZE = {
    "anonymize": {"people.Person": {"name": "name", "nickname": {"constant": "somebody"}}},
    "seed": "test",
}


@pytest.fixture
def here(project, use_database, settings):
    """The people project, with a configuration that requires anonymized data."""
    use_database(project)
    for name, value in project.settings.items():
        setattr(settings, name, value)
    configure(settings, pre_swap_hooks=["migrate", ANONYMIZE])
    return project


def configure(settings: Any, **options: Any) -> None:
    settings.PGCLONE_CONFIGS = {"local": {"require_anonymized": True, **options}}


def dump(config: str | None = None, **arguments: Any) -> Any:
    options = resolve(Arguments(config=config, **arguments), verb="dump")
    return create_dump(options, SilentReporter())


def restored(key: str, *, variant: Variant | None = None, **arguments: Any) -> Restored:
    given: Mapping[str, Any] = {"config": "local", "dump_key": key, **arguments}
    options = resolve(Arguments(**given), verb="restore")
    return restore(options, SilentReporter(), variant=variant or Variant())


def raw_people(here: Any) -> list[str]:
    """Databases of the server that hold a name of the raw data."""
    found = []
    for name in here.server.databases():
        if not name.startswith(here.name):
            continue
        if here.run("SELECT to_regclass('people_person')", dbname=name)[0][0] is None:
            continue
        if any("Ada" in person for person in here.people(name)):
            found.append(name)
    return found


def test_a_restore_leaves_no_raw_row_in_any_local_copy(here):
    key = dump().key
    here.run("UPDATE people_person SET name = 'live', nickname = ''")
    done = restored(key, reversible=True)
    assert raw_people(here) == []
    assert {f"{here.name}__pre", f"{here.name}__post"} <= set(here.server.databases())
    assert here.run("SELECT DISTINCT nickname FROM people_person") == [("somebody",)]
    assert here.fingerprint(f"{here.name}__post") == here.fingerprint()
    (result,) = [hook for hook in done.hooks if hook.kind == "anonymize"]
    assert result.changed == {"people.Person": 3}


def test_a_restore_without_an_anonymizing_hook_is_refused_before_anything(here, settings):
    key = dump().key
    for hooks in (["migrate"], []):
        configure(settings, pre_swap_hooks=hooks)
        with unchanged(here), pytest.raises(NotAnonymized):
            restored(key)
    with unchanged(here), pytest.raises(NotAnonymized):
        restored(key, pre_swap_hooks=["migrate"])
    settings.PGCLONE_REQUIRE_ANONYMIZED = True
    with unchanged(here), pytest.raises(NotAnonymized):
        restored(key, config=None)
    with pytest.raises(NotAnonymized):
        plan_restore(resolve(Arguments(dump_key=key), verb="restore"))


@pytest.mark.parametrize("place", ["before", "same transaction", "after"])
def test_what_was_not_anonymized_is_not_kept_when_a_hook_fails(
    here, settings, nothing_left_behind, place
):
    """And what was is kept for a look at it, as after any other hook."""
    key = dump().key
    temporary = f"{here.name}__temp"
    broken = {"code": "SELECT nonsense"}
    hooks = {
        "before": [broken, "migrate", ANONYMIZE],
        "same transaction": ["migrate", ANONYMIZE, broken],
        "after": [ANONYMIZE, "migrate", broken],
    }[place]
    configure(settings, pre_swap_hooks=hooks)
    here.run("UPDATE people_person SET name = 'live'")
    made = [temporary] if place == "after" else []
    if made:
        nothing_left_behind.allow(temporary)
    with unchanged(here, made=made), pytest.raises(HookFailed) as raised:
        restored(key)
    assert raw_people(here) == []
    assert (temporary in here.server.databases()) == (place == "after")
    assert raised.value.may_be_kept == (place == "after")


def test_evidence_that_a_later_hook_takes_away_is_missed(here, settings):
    key = dump().key
    configure(settings, pre_swap_hooks=[ANONYMIZE, {"code": "DROP TABLE pgclone_anonymized"}])
    with unchanged(here), pytest.raises(HookFailed, match="no hook has anonymized it"):
        restored(key)


def test_a_hook_of_the_project_can_say_that_it_anonymizes(here, settings):
    key = dump().key
    own = {"code": "UPDATE people_person SET name = 'x'", "anonymizes": True}
    configure(settings, pre_swap_hooks=["migrate", own])
    restored(key)
    assert here.run("SELECT DISTINCT name FROM people_person") == [("x",)]
    assert dump("local").anonymized == ()
    configure(settings, pre_swap_hooks=[{"command": "good_hook", "anonymizes": True}])
    restored(key)
    assert here.run("SELECT digest FROM pgclone_anonymized") == [("good_hook",)]


def test_a_dump_is_refused_unless_the_database_was_anonymized(here):
    raw = dump()
    assert raw.anonymized is None
    files = here.files()
    with pytest.raises(NotAnonymized) as raised:
        dump("local")
    assert "is not" in raised.value.message
    assert here.files() == files
    restored(raw.key)
    manifest = dump("local")
    assert manifest.anonymized == ("people.Person.name", "people.Person.nickname")
    # A raw dump takes the evidence away again.
    options = resolve(Arguments(dump_key=raw.key), verb="restore")
    restore(options, SilentReporter())
    with pytest.raises(NotAnonymized):
        dump("local")


def test_a_hook_before_a_dump_cannot_take_the_evidence_away(here):
    restored(dump().key)
    with pytest.raises(NotAnonymized):
        dump("local", pre_dump_hooks=[{"code": "DROP TABLE pgclone_anonymized"}])


@pytest.mark.parametrize("option", ["pre_dump_hooks", "post_swap_hooks"])
def test_an_anonymizing_hook_is_refused_where_it_would_change_the_live_database(here, option):
    key = dump().key
    ask = dump if option == "pre_dump_hooks" else partial(restored, key)
    with unchanged(here), pytest.raises(ConfigurationError, match="would change the live database"):
        ask(**{option: [ANONYMIZE]})


def test_what_is_held_and_what_is_gone_back_to_has_to_be_anonymized_too(here, settings):
    """Also when it was made before anybody required it."""
    key = dump().key
    raw = resolve(Arguments(dump_key=key), verb="restore")
    restore(raw, SilentReporter(), variant=Variant(hold=True))
    settings.PGCLONE_REQUIRE_ANONYMIZED = True
    with pytest.raises(UnknownDatabase):
        restored(":nowhere", pre_swap_hooks=[])
    with pytest.raises(NotAnonymized):
        swap(resolve(Arguments(), verb="restore"), SilentReporter())

    restored(key, reversible=True)
    restored(":post", pre_swap_hooks=[])
    with unchanged(here), pytest.raises(NotAnonymized):
        restored(":pre", pre_swap_hooks=[])
    restored(":pre")
    assert {f"{here.name}__pre", f"{here.name}__held"} >= set(raw_people(here))


def test_the_same_seed_makes_the_same_people(here):
    key = dump().key
    restored(key)
    first = here.people()
    restored(key)
    assert here.people() == first
    assert not {"Ada Lovelace", "Grace Hopper"} & set(first)


def test_the_plan_names_the_anonymizing_hook(here):
    options = resolve(Arguments(config="local", dump_key=dump().key), verb="restore")
    hooks = [(hook.name, hook.kind, hook.source) for hook in plan_restore(options).hooks]
    assert hooks[1] == ("anonymize (local)", "anonymize", "2 fields")
