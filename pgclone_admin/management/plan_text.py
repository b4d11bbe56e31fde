"""A plan as people read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from ..core.older_copies import LocalCopy
from ..core.space import Space
from ..plan import Plan
from .console import human_age, human_size

LABEL_WIDTH = 12
SHOWN_MIGRATIONS = 20


def plan_lines(plan: Plan) -> Iterator[str]:
    """What would happen, then what should be known, then what stands in the way."""
    yield _line("restore", plan.key + _of_dump(plan))
    yield _line("to", f'the database "{plan.database}" on {plan.server}')
    yield from _effect(plan)
    if plan.entries:
        yield _line("holds", plan.holds)
    yield from _hooks(plan)
    yield from _migrations(plan)
    yield from _lists(plan)
    for warning in plan.warnings:
        yield _line("warning", warning)
    for obstacle in plan.obstacles:
        yield _line("stopped by", obstacle.message)
        if obstacle.hint:
            yield _line("", obstacle.hint)
    if not plan.obstacles:
        yield _line("", "nothing stands in the way")


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}".rstrip()


def _of_dump(plan: Plan) -> str:
    facts = _size_and_age(plan.dump_size, plan.taken_at)
    if plan.taken_from:
        facts.append(f"of {plan.taken_from}")
    return f" ({', '.join(facts)})" if facts else ""


def _size_and_age(size: int | None, since: datetime | None) -> list[str]:
    facts = []
    if size is not None:
        facts.append(human_size(size))
    if since is not None:
        facts.append(f"{human_age((datetime.now(UTC) - since).total_seconds())} old")
    return facts


def _copy(copy: LocalCopy, *, kept: Iterable[str]) -> str:
    facts = ", ".join(_size_and_age(copy.size, copy.made_at))
    text = f"{copy.key} ({facts})" if facts else copy.key
    return f"{text}, whose name is taken" if copy.key in kept else text


def _effect(plan: Plan) -> Iterator[str]:
    if plan.replaces:
        size = "" if plan.live_size is None else f" of {human_size(plan.live_size)}"
        when = 'at "pgclone swap", ' if plan.held else ""
        yield _line(
            "replaces", f"{when}the live database{size}; {plan.sessions} sessions are ended"
        )
    else:
        yield _line("replaces", "nothing")
    yield from _space(plan)
    if plan.keeps:
        yield _line("keeps", f"{', '.join(plan.keeps)} to go back to")
    elif plan.held:
        yield _line("keeps", '"pgclone swap" decides whether there is something to go back to')
    elif plan.replaces:
        yield _line("keeps", "nothing to go back to; --reversible would")
    for number, copy in enumerate(plan.dropped):
        yield _line("drops" if number == 0 else "", _copy(copy, kept=plan.keeps))
    if plan.kept:
        yield _line("stay", f"{', '.join(plan.kept)}: as they are, with their rows")


def _space(plan: Plan) -> Iterator[str]:
    if plan.needed_size is None or plan.peak_size is None:
        yield _line("needs", "room that cannot be told: the dump does not say how large it becomes")
        return
    where = "" if plan.tablespace == "pg_default" else f', in its tablespace "{plan.tablespace}"'
    made = _sizes(space for space in plan.space if space.is_new)
    yield _line(
        "needs", f"about {human_size(plan.needed_size)} on the disk of the server{where}: {made}"
    )
    if there := _sizes(space for space in plan.space if not space.is_new):
        yield _line("beside", f"{there}; {human_size(plan.peak_size)} in all, until the end")
    if plan.tablespaces:
        yield _line("tablespaces", ", ".join(plan.tablespaces))


def _sizes(spaces: Iterable[Space]) -> str:
    return ", ".join(f"{space.name} {human_size(space.size)}" for space in spaces)


def _hooks(plan: Plan) -> Iterator[str]:
    for stage, label in (("pre_swap", "hooks"), ("post_swap", "afterwards")):
        hooks = [hook for hook in plan.hooks if hook.stage == stage]
        if not hooks and stage == "pre_swap":
            yield _line(label, "none")
        for number, hook in enumerate(hooks):
            what = hook.kind if hook.source in ("", hook.name) else f"{hook.kind}, {hook.source}"
            yield _line(label if number == 0 else "", f"{hook.name} ({what})")


def _migrations(plan: Plan) -> Iterator[str]:
    missing, label = plan.missing_migrations, "migrations"
    if missing is None:
        return
    if not plan.runs_migrations:
        label = "not applied"
    elif not missing:
        yield _line(label, "none to run")
    for number, migration in enumerate(missing[:SHOWN_MIGRATIONS]):
        yield _line(label if number == 0 else "", migration)
    if (rest := len(missing) - SHOWN_MIGRATIONS) > 0:
        yield _line("", f"and {rest} more")


def _lists(plan: Plan) -> Iterator[str]:
    lists = {
        "unknown": plan.unknown_migrations,
        "left out": plan.left_out,
        "owners": plan.lost_owners,
        "lost": plan.lost_settings,
    }
    for label, names in lists.items():
        for number, name in enumerate(names):
            yield _line(label if number == 0 else "", name)
