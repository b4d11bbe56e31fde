"""From what is written down to hooks that are ready to run, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import ConfigurationError, UsageError
from ..settings import HookSpec, settings
from ..site_settings import base_dir
from .anonymize import Anonymization
from .anonymizing import AnonymizeHook
from .base import Labels, Stage, shown_path
from .command import CommandHook, command_line, load_command
from .parameters import Parameter, declared, refuse_unknown, values_for
from .pum import PumHooks, pum_hooks, read_pum
from .python import PythonHook, load_python
from .spec import kind_of, name_of, normalized, shortened
from .sql import SqlHook, load_sql

TransactionalHook = SqlHook | PythonHook | AnonymizeHook
AnyHook = CommandHook | TransactionalHook

ON_LIVE = (Stage.PRE_DUMP, Stage.POST_SWAP)
"""Stages whose hooks work on a live database."""


def load_hooks(
    specs: Sequence[HookSpec],
    *,
    stage: Stage = Stage.PRE_SWAP,
    params: Mapping[str, Any] | None = None,
    for_a_look: bool = False,
) -> list[AnyHook]:
    """The hooks of one list, checked: files exist, classes load, parameters fit.

    ``params`` are values of parameters, of which each hook takes those that it declares; they may
    be incomplete ``for_a_look``, which is not followed by a run. Raises
    :class:`~pgclone_admin.core.errors.UnknownHook`, :class:`ConfigurationError` or
    :class:`UsageError`; nothing has been run then.
    """
    loader = _Loader(stage, params or {}, for_a_look=for_a_look)
    before, hooks, after = [], [], []
    for spec in map(normalized, specs):
        if isinstance(spec, Mapping) and kind_of(spec) in ("pum", "migration_hooks"):
            found = _read_pum(spec)
            before += loader.of_pum(found, found.pre, spec)
            after += loader.of_pum(found, found.post, spec)
        else:
            hooks.append(loader.load(spec))
    ready = list(_around_migrate(hooks, before, after))
    if len([hook for hook in ready if isinstance(hook, AnonymizeHook)]) > 1:
        raise ConfigurationError(
            "more than one hook of a list anonymizes", hint="Put all of their rules into one."
        )
    return ready


def parameters_of(spec: HookSpec) -> tuple[Parameter, ...]:
    """What a hook declares, also while values are missing; nothing where that cannot be read."""
    spec = normalized(spec)
    if isinstance(spec, str):
        return ()
    try:
        if kind_of(spec) in ("pum", "migration_hooks"):
            return _read_pum(spec).parameters
        return declared(spec.get("parameters") or [], name_of(spec))
    except UsageError:
        return ()


def check_params(names: Sequence[str], hooks: Sequence[AnyHook]) -> None:
    """:class:`UsageError` for a parameter that somebody has given and no hook declares."""
    refuse_unknown(names, [parameter for hook in hooks for parameter in hook.parameters])


def _around_migrate(
    hooks: list[AnyHook], before: list[AnyHook], after: list[AnyHook]
) -> Iterator[AnyHook]:
    """PUM's hooks directly before the first ``migrate`` and after the last, else at the end."""
    places = [n for n, h in enumerate(hooks) if isinstance(h, CommandHook) and h.is_migrate]
    first, last = (places[0], places[-1] + 1) if places else (len(hooks), len(hooks))
    yield from hooks[:first]
    yield from before
    yield from hooks[first:last]
    yield from after
    yield from hooks[last:]


def _read_pum(spec: Mapping[str, Any]) -> PumHooks:
    where = f'the hook "{name_of(spec)}"'
    if "pum" in spec:
        return read_pum(base_dir() / str(spec["pum"]), where)
    return pum_hooks(spec, base_dir() / str(spec.get("base") or ""), where)


class _Loader:
    def __init__(self, stage: Stage, params: Mapping[str, Any], *, for_a_look: bool) -> None:
        self._stage = stage
        self._params = params
        self._for_a_look = for_a_look

    def load(self, spec: HookSpec) -> AnyHook:
        if isinstance(spec, str):
            return load_command(spec, Labels(name=spec, source=spec, timeout=settings.hook_timeout))
        kind = kind_of(spec)
        if kind == "command":
            return self._command(spec)
        if kind == "anonymize":
            return self._anonymize(spec)
        return self._scripted(
            spec,
            base=base_dir(),
            parameters=declared(spec.get("parameters") or [], f'the hook "{name_of(spec)}"'),
            name=name_of(spec),
        )

    def of_pum(
        self, found: PumHooks, hooks: Sequence[Mapping[str, Any]], spec: Mapping[str, Any]
    ) -> list[AnyHook]:
        """Files lie beside the configuration, and braces are always those of parameters."""
        return [
            self._scripted(
                {**{k: spec[k] for k in ("timeout", "anonymizes") if k in spec}, **hook},
                base=found.base,
                parameters=found.parameters,
                name=f"{name_of(spec)}: {hook.get('file') or name_of(hook)}",
                is_template=True,
            )
            for hook in hooks
        ]

    def _command(self, spec: Mapping[str, Any]) -> CommandHook:
        args, options = spec.get("args") or [], spec.get("options") or {}
        name = name_of(spec)
        if not isinstance(args, list | tuple) or not isinstance(options, Mapping):
            raise ConfigurationError(
                f'the hook "{name}" cannot be read', hint='"args" is a list, "options" a mapping.'
            )
        command = str(spec["command"])
        labels = self._labels(spec, source=command_line(command, args, options))
        return load_command(command, labels, args, options)

    def _anonymize(self, spec: Mapping[str, Any]) -> AnonymizeHook:
        name = name_of(spec)
        if self._stage in ON_LIVE:
            raise ConfigurationError(
                f'the hook "{name}" would change the live database',
                hint="Name it among the pre-swap hooks, which run on a temporary database.",
            )
        rules = spec["anonymize"]
        if not isinstance(rules, Mapping):
            raise ConfigurationError(f'"anonymize" of the hook "{name}" has to be a mapping')
        anonymization = Anonymization.parse(rules, seed=str(spec.get("seed") or ""))
        source = f"{len(anonymization.fields)} fields"
        return AnonymizeHook(anonymization, self._labels(spec, source=source, anonymizes=True))

    def _scripted(
        self,
        spec: Mapping[str, Any],
        *,
        base: Path,
        parameters: tuple[Parameter, ...],
        name: str,
        is_template: bool = False,
    ) -> TransactionalHook:
        """A hook of SQL or Python."""
        try:
            values = values_for(parameters, self._params, may_lack=self._for_a_look)
        except UsageError as error:
            error.add_note(f'for the hook "{name}"')
            raise
        is_template = is_template or bool(parameters)
        if "code" in spec:
            code = str(spec["code"])
            return load_sql(
                code,
                self._labels(spec, source=shortened(code), name=name),
                parameters=parameters,
                values=values,
                is_template=is_template,
            )
        path = (base / str(spec["file"])).resolve()
        labels = self._labels(spec, source=shown_path(path, base_dir().resolve()), name=name)
        if not path.is_file():
            raise ConfigurationError(
                f'the file of the hook "{name}" does not exist', hint=f"It would be {path}."
            )
        if path.suffix == ".py":
            return load_python(
                path, base, labels, parameters=parameters, values=values, is_template=is_template
            )
        if path.suffix == ".sql":
            return load_sql(
                _text(path, name),
                labels,
                parameters=parameters,
                values=values,
                is_template=is_template,
                path=path,
            )
        raise ConfigurationError(
            f'the file of the hook "{name}" is neither SQL nor Python',
            hint="Its name ends in .sql or .py.",
        )

    def _labels(
        self,
        spec: Mapping[str, Any],
        *,
        source: str,
        name: str | None = None,
        anonymizes: bool = False,
    ) -> Labels:
        name = name or name_of(spec)
        if spec.get("anonymizes") and self._stage in ON_LIVE:
            raise ConfigurationError(
                f'the hook "{name}" would anonymize the live database',
                hint="Name it among the pre-swap hooks, which run on a temporary database.",
            )
        timeout = spec.get("timeout", settings.hook_timeout)
        if timeout is not None and (isinstance(timeout, bool) or not _is_positive(timeout)):
            raise ConfigurationError(
                f'"timeout" of the hook "{name}" is a number of seconds above 0'
            )
        return Labels(
            name=name,
            source=source,
            timeout=None if timeout is None else float(timeout),
            anonymizes=anonymizes or spec.get("anonymizes") is True,
        )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f'the file of the hook "{name}" cannot be read: {error}'
        ) from error
