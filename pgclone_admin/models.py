"""What the site remembers: configurations, dumps, restores, and the local databases there are.

These tables are kept: a restore of the database they lie in leaves them as they are. So rows name
people by their username, never by a foreign key, and nothing here does any work when it is saved or
deleted: that is what services are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import MD5, Cast
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .core.marks import Mark
from .core.names import LocalKey
from .core.progress import Phase


class Status(models.TextChoices):
    QUEUED = "queued", _("queued")
    RUNNING = "running", _("running")
    SUCCEEDED = "succeeded", _("succeeded")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")
    LOST = "lost", _("lost")
    MISSING = "missing", _("missing")


ACTIVE = (Status.QUEUED, Status.RUNNING)

TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.LOST}),
    # Only dumps: a file can go from its storage, and come back.
    Status.SUCCEEDED: frozenset({Status.MISSING}),
    Status.MISSING: frozenset({Status.SUCCEEDED}),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
    # It was not heard of for a while, and has done its work all the same.
    Status.LOST: frozenset({Status.SUCCEEDED}),
}
"""Every change of status that there is."""


def without_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, without the values of hook parameters: what is in them may be nobody's
    business."""
    left = dict(options)
    if "arguments" in left:
        left["arguments"] = without_values(left["arguments"])
    if left.get("hook_params"):
        left["hook_params"] = dict.fromkeys(left["hook_params"])
    return left


SILENT_AFTER = timedelta(seconds=60)
"""A run that has told nothing for so long has no worker any more."""

SILENT_WHILE_QUIET = timedelta(minutes=15)
"""The same for phases in which a run does not use the database that it is recorded in."""

QUIET_PHASES = (Phase.SWAPPING, Phase.COPYING)


class Run(models.Model):
    """One piece of work of a worker, from its request to its end."""

    status = models.CharField(max_length=12, choices=Status, default=Status.QUEUED)
    requested_by = models.CharField(max_length=150, blank=True)
    """A username; what the system or the command line asked for says so instead."""
    requested_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    heard_at = models.DateTimeField(null=True, blank=True)
    """When its worker last told something."""
    worker = models.CharField(max_length=255, blank=True)
    """Host and process, for people."""
    process = models.CharField(max_length=100, blank=True)
    """The same process, told from every other that has or had its number."""
    cancel_requested = models.BooleanField(default=False)
    phase = models.CharField(max_length=40, blank=True)
    bytes_done = models.BigIntegerField(default=0)
    bytes_total = models.BigIntegerField(null=True, blank=True)
    options = models.JSONField(default=dict, blank=True)
    """What was asked for."""
    error_code = models.CharField(max_length=40, blank=True)
    error = models.TextField(blank=True)
    hint = models.TextField(blank=True)

    class Meta:
        abstract = True

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def is_silent(self) -> bool:
        """Whether it is running without having been heard of."""
        heard = self.heard_at or self.started_at
        return (
            self.status == Status.RUNNING
            and heard is not None
            and timezone.now() - heard > self.may_be_silent
        )

    @property
    def may_be_silent(self) -> timedelta:
        """How long it may tell nothing in the phase it is in."""
        return SILENT_WHILE_QUIET if self.phase in QUIET_PHASES else SILENT_AFTER

    @property
    def seconds(self) -> float | None:
        """How long it has taken, or takes already."""
        if self.started_at is None:
            return None
        return ((self.finished_at or timezone.now()) - self.started_at).total_seconds()

    def move(self, to: Status, *, provided: Q | None = None, **fields: Any) -> bool:
        """Changes the status in the database, if it is one that leads there and ``provided`` holds.

        ``False`` when somebody else was first; nothing is changed then. Of two that try, one
        succeeds. What is over has no values of parameters any more.
        """
        if to not in ACTIVE:
            fields.setdefault("options", without_values(self.options))
        sources = [status for status, targets in TRANSITIONS.items() if to in targets]
        rows = type(self)._base_manager.filter(provided or Q(), pk=self.pk, status__in=sources)
        moved = rows.update(status=to, **fields) == 1
        if moved:
            self.refresh_from_db()
        return moved


class Dump(Run):
    """One dump: the work of making it, and what is known of the file since."""

    location = models.CharField(max_length=500)
    key = models.CharField(max_length=1024, blank=True)
    """Empty until there is a file."""
    instance = models.CharField(max_length=255, blank=True)
    database = models.CharField(max_length=255, blank=True)
    """The alias."""
    config = models.CharField(_("configuration"), max_length=255, blank=True)
    taken_at = models.DateTimeField(null=True, blank=True)
    size = models.BigIntegerField(null=True, blank=True)
    """Bytes that are stored."""
    manifest = models.JSONField(null=True, blank=True)
    """``None`` where there is none."""
    verified_at = models.DateTimeField(null=True, blank=True)
    drilled_at = models.DateTimeField(null=True, blank=True)
    is_pinned = models.BooleanField(_("pinned"), default=False)

    class Meta:
        ordering = ("-taken_at", "-pk")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["location", "key"], condition=~Q(key=""), name="pgclone_dump_key"
            ),
            # A click that was meant once makes one dump.
            models.UniqueConstraint(
                "location",
                "instance",
                "database",
                "config",
                MD5(Cast("options", models.TextField())),
                condition=Q(status=Status.QUEUED),
                name="pgclone_one_queued_dump",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["-taken_at", "-id"], name="pgclone_dump_newest"),
            models.Index(fields=["status", "-taken_at"], name="pgclone_dump_status"),
            models.Index(fields=["database", "config", "-taken_at"], name="pgclone_dump_database"),
        ]
        default_permissions = ("view", "delete")
        permissions: ClassVar = [
            ("create_dump", _("Can take, import and verify dumps")),
            ("download_dump", _("Can download dumps")),
        ]

    def __str__(self) -> str:
        return self.key or str(_("dump of %(database)s") % {"database": self.database})

    @property
    def is_foreign(self) -> bool:
        """Whether it was made by somebody else: its contents are not trusted."""
        return self.manifest is None or self.manifest.get("origin") != "pgclone"


class Kind(models.TextChoices):
    RESTORE = "restore", _("restore")
    SWAP = "swap", _("swap of a held restore")
    DRILL = "drill", _("drill")
    VERIFY = "verify", _("verification")
    COPY = "copy", _("copy")
    DROP = "drop", _("drop")


REPLACING = (Kind.RESTORE, Kind.SWAP)


class RestoreRun(Run):
    """One piece of work on databases: a restore, a drill, a copy, ..."""

    kind = models.CharField(max_length=10, choices=Kind, default=Kind.RESTORE)
    key = models.CharField(max_length=1024, blank=True)
    """The dump key, or the local key (``:pre``), that it begins with."""
    location = models.CharField(max_length=500, blank=True)
    database = models.CharField(max_length=255)
    """The alias."""
    target = models.CharField(max_length=63)
    """The name of the database that is made or replaced."""
    live_oid = models.BigIntegerField(null=True, blank=True)
    """The database that was confirmed: what was live then, 0 where there was none, and what is to
    be dropped. No other one is replaced or dropped. Of a command: what was live when it began."""
    system_identifier = models.CharField(max_length=20, blank=True)
    """The server that it is on."""
    result = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ("-requested_at", "-pk")
        constraints: ClassVar = [
            models.UniqueConstraint(
                # Two servers may each have a database of that name.
                fields=["target", "system_identifier"],
                # Not "in": the server rewrites that when a dump is restored, and the kept table
                # would be another one than the site's.
                condition=(Q(status=Status.QUEUED) | Q(status=Status.RUNNING))
                & (Q(kind=Kind.RESTORE) | Q(kind=Kind.SWAP)),
                name="pgclone_one_restore",
                violation_error_message=_("A restore of this database is queued or running."),
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["-requested_at", "-id"], name="pgclone_run_newest"),
            models.Index(fields=["status", "-requested_at"], name="pgclone_run_status"),
        ]
        default_permissions = ("view",)
        permissions: ClassVar = [
            ("restore_database", _("Can restore databases")),
            ("copy_database", _("Can copy and drop local databases")),
            ("cancel_run", _("Can cancel what others have begun")),
        ]
        verbose_name = _("restore run")

    def __str__(self) -> str:
        both = " → ".join(filter(None, [self.key, self.target]))
        return f"{self.get_kind_display()} {both}"


class RunEvent(models.Model):
    """Something that was said or done in a run: its log, and who did what.

    What people did outlives the row that they did it to.
    """

    class Level(models.TextChoices):
        PHASE = "phase", _("phase")
        NOTE = "note", _("note")
        WARNING = "warning", _("warning")
        AUDIT = "audit", _("action")

    dump = models.ForeignKey(Dump, models.CASCADE, null=True, blank=True, related_name="events")
    run = models.ForeignKey(
        RestoreRun, models.CASCADE, null=True, blank=True, related_name="events"
    )
    about = models.TextField(blank=True)
    """What it was done to, where there is no row: a dump that was deleted, a storage location."""
    at = models.DateTimeField(default=timezone.now)
    level = models.CharField(max_length=8, choices=Level, default=Level.NOTE)
    text = models.TextField()
    person = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ("at", "pk")
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(dump__isnull=False, run__isnull=True, about="")
                | Q(dump__isnull=True, run__isnull=False, about="")
                | (Q(dump__isnull=True, run__isnull=True) & ~Q(about="")),
                name="pgclone_event_of_one",
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["-at", "-id"], condition=Q(level="audit"), name="pgclone_event_actions"
            ),
        ]
        default_permissions = ("view",)
        # As its rows are in the admin, where the log is on the page of its run.
        verbose_name = _("action")

    def __str__(self) -> str:
        return self.text


class Configuration(models.Model):
    """A named set of options, beside those in the settings; empty means "as the settings say"."""

    name = models.SlugField(max_length=60, unique=True)
    database = models.CharField(max_length=255, blank=True)
    instance = models.CharField(max_length=255, blank=True)
    storage_location = models.CharField(max_length=500, blank=True)
    dump_key = models.CharField(
        max_length=1024, blank=True, help_text=_("What to restore when nothing else is named.")
    )
    exclude = models.JSONField(
        null=True, blank=True, help_text=_("Models whose rows dumps leave out: app_label.Model")
    )
    pre_dump_hooks = models.JSONField(null=True, blank=True)
    pre_swap_hooks = models.JSONField(null=True, blank=True)
    post_swap_hooks = models.JSONField(null=True, blank=True)
    hook_params = models.JSONField(
        _("hook parameters"),
        null=True,
        blank=True,
        help_text=_("Values of the parameters that hooks declare."),
    )
    require_anonymized = models.BooleanField(
        default=False,
        help_text=_(
            "Refuses a restore without a hook that anonymizes, and a dump of a database that was "
            "not anonymized."
        ),
    )
    reversible = models.BooleanField(null=True, blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def as_options(self) -> dict[str, Any]:
        """The options that it sets, under the keys that configurations in the settings have."""
        values = {field.name: getattr(self, field.name) for field in self._meta.concrete_fields}
        return {
            name: value
            for name, value in values.items()
            if name not in {"id", "name"}
            and value not in ("", None)
            # What is not required is left to the settings, which may require it.
            and not (name == "require_anonymized" and value is False)
        }


class LocalDatabase(models.Model):
    """A database of the server, by the catalog.

    Which were made here is told by ``services.local_databases``, with their comments and sizes.
    """

    oid = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=63, db_column="datname")
    owner_oid = models.BigIntegerField(db_column="datdba")

    class Meta:
        managed = False
        db_table = "pg_database"
        ordering = ("name",)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name

    @property
    def mark(self) -> Mark | None:
        return Mark.read(getattr(self, "comment", None), self.name)

    @property
    def key(self) -> LocalKey:
        mark = self.mark
        return LocalKey(self.name) if mark is None else LocalKey.of_database(self.name, mark.of)
