"""A plan as a page shows it: facts, what happens step by step, and how to come back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import get_text_list
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from ..core.older_copies import LocalCopy
from ..core.space import Space
from ..plan import Plan, PlannedHook
from ..services.accounts import Outlook, Stay
from ..settings import settings
from . import formats

LISTED = 6
"""Names that stand in the page; more are folded."""


@dataclass(frozen=True)
class Fact:
    """A line of the plan: a label, a text, and names that belong to it."""

    label: str
    text: Any = ""
    names: Sequence[str] = ()
    hint: str = ""

    @property
    def is_folded(self) -> bool:
        return len(self.names) > LISTED


@dataclass
class Shown:
    """A plan in words; every text is still to be escaped."""

    button: str
    is_danger: bool
    """Whether the button replaces a live database."""
    source: list[Fact] = field(default_factory=list)
    target: list[Fact] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    details: list[Fact] = field(default_factory=list)
    back: str = ""
    """What can be undone afterwards, and how."""
    is_lost: bool = False
    """Whether nothing can be undone."""
    lost: str = ""
    """Which older local databases nobody can come back to afterwards."""
    account: Outlook | None = None
    is_held: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def is_account_safe(self) -> bool:
        return self.account is None or self.account.stay is Stay.YES


def shown(
    plan: Plan,
    *,
    live: str,
    is_held: bool,
    is_local: bool,
    accounts: Sequence[str],
    outlook: Outlook | None,
) -> Shown:
    """``live`` is the live database of the alias, also where another one is made beside it."""
    replaces = plan.replaces and not is_held
    return Shown(
        button=_button(plan, replaces=replaces, is_held=is_held),
        is_danger=replaces,
        source=list(_source(plan, is_local=is_local)),
        target=list(_target(plan)),
        steps=list(_steps(plan, live, replaces=replaces, is_held=is_held, accounts=accounts)),
        details=list(_details(plan)),
        back=way_back(plan, is_held=is_held),
        is_lost=replaces and not plan.keeps,
        lost=lost_copies(plan),
        account=outlook,
        is_held=is_held,
        warnings=[formats.capitalized(warning) for warning in plan.warnings],
    )


def _button(plan: Plan, *, replaces: bool, is_held: bool) -> str:
    name = {"name": plan.database}
    if replaces:
        return _("Replace database %(name)s") % name
    if is_held:
        return _("Build and hold a restore of %(name)s") % name
    return _("Make database %(name)s") % name


def _source(plan: Plan, *, is_local: bool) -> Iterator[Fact]:
    yield Fact(_("Local database") if is_local else _("Dump"), plan.key)
    if plan.taken_at is not None:
        yield Fact(_("Taken"), formats.ago(plan.taken_at), hint=formats.absolute(plan.taken_at))
    if plan.taken_from:
        yield Fact(_("Of"), plan.taken_from)
    if plan.dump_size is not None:
        yield Fact(_("Size"), formats.size(plan.dump_size), hint=_("as stored"))
    if plan.restored_size is not None:
        yield Fact(_("Becomes"), formats.size(plan.restored_size), hint=_("on the disk"))


def _target(plan: Plan) -> Iterator[Fact]:
    yield Fact(_("Database"), plan.database)
    yield Fact(_("Server"), plan.server)
    if plan.replaces:
        yield Fact(_("Size"), formats.size(plan.live_size), hint=_("now"))
        yield Fact(_("Sessions"), str(plan.sessions), hint=_("now"))
    else:
        yield Fact(_("Replaces"), _("nothing"))


def _steps(
    plan: Plan, live: str, *, replaces: bool, is_held: bool, accounts: Sequence[str]
) -> Iterator[str]:
    if plan.replaces:
        yield _("A new database is built beside “%(live)s”, which stays in use.") % {"live": live}
    else:
        yield _("A new database is built; nothing else is touched.")
    before = [hook.name for hook in plan.hooks if hook.stage == "pre_swap"]
    if before:
        yield _("Hooks run on it: %(hooks)s.") % {"hooks": ", ".join(before)}
    else:
        yield _("No hook runs on it.")
    if accounts:
        yield _("Accounts are carried over to it: %(names)s.") % {"names": ", ".join(accounts)}
    if is_held:
        yield _("It is held. “%(live)s” is replaced when somebody swaps it in.") % {"live": live}
    elif replaces:
        yield ngettext(
            "It takes the place of “%(live)s” at once; %(count)s session is ended and connects "
            "again.",
            "It takes the place of “%(live)s” at once; %(count)s sessions are ended and connect "
            "again.",
            plan.sessions,
        ) % {"live": live, "count": plan.sessions}
    else:
        yield _("It gets the name “%(name)s”.") % {"name": plan.database}
    after = [hook.name for hook in plan.hooks if hook.stage == "post_swap"]
    if replaces and after:
        yield _("Hooks run after that: %(hooks)s.") % {"hooks": ", ".join(after)}
    if plan.dropped:
        yield dropped_copies(plan)


def dropped_copies(plan: Plan) -> SafeString:
    """A sentence that names the older local databases that are dropped, with size and age."""
    named = format_html_join(", ", "{}", ((_one_copy(copy),) for copy in plan.dropped))
    return format_html(_("Older local databases are dropped: {}."), named)


def _one_copy(copy: LocalCopy) -> SafeString:
    facts = [formats.size(copy.size)] if copy.size is not None else []
    facts += [formats.ago(copy.made_at)] if copy.made_at is not None else []
    if not facts:
        return format_html("{}", copy.key)
    return format_html("{} ({})", copy.key, format_html_join(", ", "{}", ((f,) for f in facts)))


def lost_copies(plan: Plan) -> str:
    """What nobody can come back to, since it is dropped; an empty text for nothing."""
    if not plan.drops:
        return ""
    return _("What is in %(keys)s now is gone for good then, whatever was kept there.") % {
        "keys": get_text_list(plan.drops, _("and"))
    }


def _details(plan: Plan) -> Iterator[Fact]:
    if plan.hooks:
        yield Fact(_("Hooks"), _("in this order"), [_one_hook(hook) for hook in plan.hooks])
    yield from migration_facts(plan)
    yield _space(plan)
    if plan.kept:
        yield Fact(_("Stay as they are"), _("tables of the running site"), plan.kept)
    if plan.left_out:
        yield Fact(_("Left out"), _("cannot be made here by this role"), plan.left_out)
    if plan.lost_owners:
        what = _("cannot be given to their owners here, and belong to that of the database")
        yield Fact(_("Owners"), what, plan.lost_owners)
    if plan.entries:
        yield Fact(_("Holds"), plan.holds)


def migration_facts(plan: Plan) -> Iterator[Fact]:
    """Which migrations run, and which do not although they should be known."""
    label = _("Migrations that run")
    if plan.migrations:
        yield Fact(label, str(len(plan.migrations)), plan.migrations)
    elif plan.migrations is not None:
        yield Fact(label, _("none: it is up to date"))
    elif plan.runs_migrations:
        yield Fact(label, _("those that it lacks; which ones cannot be told before"))
    else:
        yield Fact(label, _("none: the hook migrate is not chosen"))
        if plan.missing_migrations:
            missing = plan.missing_migrations
            yield Fact(_("Migrations of this code that it lacks"), str(len(missing)), missing)
    if plan.unknown_migrations:
        yield Fact(
            _("Migrations that this code does not know"),
            str(len(plan.unknown_migrations)),
            plan.unknown_migrations,
        )


def lacking_migrations(plan: Plan) -> Iterator[Fact]:
    """The same where no hook can run any more: nothing unless something is lacking or unknown."""
    if plan.missing_migrations or plan.unknown_migrations:
        yield from migration_facts(plan)


def _space(plan: Plan) -> Fact:
    label = _("Disk")
    if plan.needed_size is None or plan.peak_size is None:
        return Fact(label, _("what it needs cannot be told: the dump does not say how large it is"))
    text = _("%(needed)s more are needed on the server; %(peak)s in all for a while") % {
        "needed": formats.size(plan.needed_size),
        "peak": formats.size(plan.peak_size),
    }
    return Fact(label, text, [_one_space(space) for space in plan.space])


KINDS = {
    "command": gettext_lazy("management command"),
    "sql": gettext_lazy("SQL"),
    "python": gettext_lazy("Python"),
    "anonymize": gettext_lazy("anonymizing"),
}


def _one_hook(hook: PlannedHook) -> str:
    what = str(KINDS[hook.kind])
    if hook.source not in ("", hook.name):
        what = f"{what}: {hook.source}"
    when = _(", after the swap") if hook.stage == "post_swap" else ""
    return f"{hook.name} ({what}{when})"


def _one_space(space: Space) -> str:
    size = formats.size(space.size)
    return f"{space.name} {size} ({_('new')})" if space.is_new else f"{space.name} {size}"


def way_back(plan: Plan, *, is_held: bool = False) -> str:
    """What can be undone afterwards, and how."""
    if is_held:
        return _(
            "Nothing is replaced yet, and the held database can be dropped at any time. When it "
            "has not been swapped in after %(days)s days, the next “Clean up” drops it. What is "
            "kept to come back to, and what runs after the swap, is asked when it is swapped in."
        ) % {"days": settings.temporary_days}
    if not plan.replaces:
        return _("Nothing is replaced. The new database can be dropped at any time.")
    if ":undo" in plan.keeps:
        return _(
            "What is live now is kept as :undo. To come back, revert to it under Local databases."
        )
    if ":pre" in plan.keeps:
        return _(
            "What is live now is kept as :pre. To come back, revert to it under Local databases."
        )
    return _(
        "There is no way back: what is live now is dropped. Keep it as :pre, or take a dump first."
    )
