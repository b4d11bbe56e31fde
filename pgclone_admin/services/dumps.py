"""Makes dumps."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial

from django.apps import apps
from django.db import connections
from django.db.models import Model

from .. import __version__
from ..core.dump import DumpLabels, DumpRequest, take_dump
from ..core.errors import UnknownModel
from ..core.manifest import Manifest
from ..core.programs import LOCK_WAIT_TIMEOUT
from ..core.progress import Reporter
from ..databases import live_name, maintenance_params, site_tables
from ..hooks import AnyHook, Stage, check_params, load_hooks, run_hooks
from ..identity import user_of_process
from ..kept import kept_names
from ..options import Options
from ..settings import settings
from ..store import DumpStore
from .allowed import require_allowed
from .anonymity import require_anonymized


def create_dump(options: Options, reporter: Reporter, *, taken_by: str | None = None) -> Manifest:
    """Dumps a database of this site into its storage location.

    ``taken_by`` is who has asked for it, by default the user of this process.
    """
    hooks = ready_hooks(options)
    live = live_name(options.database)
    store = DumpStore(options.storage_location, reporter.note)
    request = DumpRequest(
        live=live,
        maintenance=maintenance_params(options.database),
        labels=DumpLabels(
            instance=options.instance,
            database=options.database,
            config=options.config,
            app_version=__version__,
            taken_by=user_of_process() if taken_by is None else taken_by,
            host=socket.gethostname(),
        ),
        codec=settings.compression,
        exclude=_tables(options.database, options.exclude),
        kept=kept_names(options.database),
        look_up=partial(site_tables, options.database),
        program_directories=settings.bin_dirs,
        lock_wait_timeout=settings.lock_timeout or LOCK_WAIT_TIMEOUT,
        statement_timeout=settings.statement_timeout,
        stall_timeout=settings.stall_timeout,
    )

    def pre_dump_hooks() -> Sequence[str]:
        run_hooks(hooks, alias=options.database, name=live, reporter=reporter)
        if options.require_anonymized:
            require_anonymized(options.database, live)
        return [hook.labels.name for hook in hooks]

    return take_dump(request, store, reporter, pre_dump_hooks=pre_dump_hooks)


def ready_hooks(options: Options) -> list[AnyHook]:
    """The hooks of a dump that can be made, as far as that can be told before.

    :class:`~pgclone_admin.core.errors.NotAllowed` where the settings forbid dumps, what
    :func:`~pgclone_admin.databases.live_name`, :func:`~pgclone_admin.hooks.load_hooks` and
    :func:`~pgclone_admin.hooks.check_params` raise, and
    :class:`~pgclone_admin.core.errors.NotAnonymized` where that is required.
    """
    require_allowed("dump")
    hooks = load_hooks(options.pre_dump_hooks, stage=Stage.PRE_DUMP, params=options.hook_params)
    check_params(options.given_params, hooks)
    live = live_name(options.database)
    if options.require_anonymized:
        require_anonymized(options.database, live)
    return hooks


def excluded_models(labels: Sequence[str]) -> list[type[Model]]:
    """The models with these labels; :class:`UnknownModel` for no model."""
    models = []
    for label in labels:
        try:
            models.append(apps.get_model(label))
        except (LookupError, ValueError) as error:
            raise UnknownModel(
                f'there is no model "{label}" to exclude',
                hint="A model is named app_label.ModelName. Nothing was dumped.",
            ) from error
    return models


def _tables(alias: str, labels: Sequence[str]) -> list[str]:
    """The tables of models, quoted as Django quotes them."""
    quote = connections[alias].ops.quote_name
    return [quote(model._meta.db_table) for model in excluded_models(labels)]
