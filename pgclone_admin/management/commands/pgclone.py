"""``manage.py pgclone``: ls, dump, restore, swap, copy, cat, import, refresh, recover,
doctor."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, cast

import psycopg2
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...core.errors import PgcloneError, UsageError
from ...core.findings import Level
from ...core.recovery import Outcome
from ...core.refusals import refused
from ...core.target import RestoreResult
from ...options import Options, resolve
from ...services import archives, doctor, imports, listing, lost, restores
from ...services.declared import declared_locations
from .. import recorded
from ..arguments import VERBS, add_django_options, given_arguments, take_key_from_values
from ..care_text import finding_lines, recovered_line, summary_line
from ..console import ConsoleReporter, cancel_on_signals
from ..listing_text import described_dump, described_local, dump_lines, local_lines
from ..plan_text import plan_lines

FAILED = 1

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

READER_GONE = 141
"""Exit status when the reader of the output has closed its pipe, as shells have it."""


class Command(BaseCommand):
    help = "Dumps, lists, restores and copies the PostgreSQL databases of this site."
    # The database may be the very thing that is broken.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
        for name, summary, add in VERBS:
            verb = verbs.add_parser(name, help=summary, description=summary)
            add(verb)
            add_django_options(verb)

    def run_from_argv(self, argv: list[str]) -> None:
        """As Django's, but with the sentence of an error and its hint instead of its class."""
        try:
            super().run_from_argv(argv)
        except _Failure as failure:
            self.stderr.write(f"error: {failure.error.message}")
            if failure.error.hint:
                self.stderr.write(f"hint: {failure.error.hint}", lambda text: text)
            for note in getattr(failure.error, "__notes__", ()):
                self.stderr.write(f"note: {note}", lambda text: text)
            sys.exit(failure.status)

    def handle(self, *args: Any, **options: Any) -> None:
        # The wrapper ends every write with a line break, which a bar must not have.
        reporter = ConsoleReporter(cast(TextIO, self.stderr._out))
        try:
            with cancel_on_signals(reporter):
                getattr(self, f"_{options['verb']}")(options, reporter)
        except BrokenPipeError:
            # The reader has seen enough. Python would flush the closed pipe once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(READER_GONE)
        except KeyboardInterrupt:
            reporter.close()
            self.stderr.write("cancelled")
            sys.exit(INTERRUPTED)
        except (PgcloneError, psycopg2.Error) as raised:
            reporter.close()
            if options["traceback"]:
                raise
            error = raised if isinstance(raised, PgcloneError) else refused(raised)
            if getattr(self, "_called_from_command_line", False):
                # A signal is one also where a hook or a driver has made another error of it.
                status = INTERRUPTED if reporter.is_to_end() else FAILED
                raise _Failure(error, status) from raised
            raise CommandError(" ".join(filter(None, [f"{error}.", error.hint]))) from raised
        finally:
            reporter.close()

    # -- the verbs

    def _ls(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        options = resolve(given_arguments(given), verb="")
        if given["local"]:
            self._ls_local(options, given)
            return
        entries = listing.list_dumps(options, given["dump_key"] or options.dump_key)
        for part in ("instance", "database", "config"):
            if given[f"{part}s"]:
                names = sorted({name for e in entries if (name := getattr(e.key, part))})
                self._print(names, given["json"])
                return
        if given["json"]:
            self._print_json([described_dump(entry) for entry in entries])
        elif given["long"]:
            self._print(dump_lines(entries))
        else:
            self._print(entry.key.text for entry in entries)

    def _ls_local(self, options: Options, given: dict[str, Any]) -> None:
        entries = listing.list_local(options)
        if given["json"]:
            self._print_json([described_local(entry) for entry in entries])
        elif given["long"]:
            self._print(local_lines(entries))
        else:
            self._print(str(entry.key) for entry in entries)

    def _dump(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        arguments = given_arguments(given)
        options = resolve(arguments, verb="dump")
        manifest = recorded.dump(options, arguments, reporter)
        reporter.close()
        if given["json"]:
            self._print_json(dataclasses.asdict(manifest))
        else:
            self._print([manifest.key])

    def _restore(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        take_key_from_values(given)
        arguments = given_arguments(given)
        options = resolve(arguments, verb="restore")
        variant = restores.Variant(
            beside=given["to"],
            hold=given["hold"],
            trust_foreign=given["trust"],
            ignore_standbys=given["ignore_standbys"],
            lose_settings=given["lose_settings"],
        )
        if given["plan"]:
            self._plan(options, variant, given)
            return
        restored = recorded.restore(options, arguments, variant, reporter)
        reporter.close()
        self._tell_of_swap(restored.result, reporter)
        if given["json"]:
            self._print_json({"key": str(restored.key), **_result(restored)})
        else:
            self._print([str(restored.key)])

    def _swap(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        arguments = given_arguments(given)
        options = resolve(arguments, verb="restore")
        variant = restores.Variant(
            ignore_standbys=given["ignore_standbys"], lose_settings=given["lose_settings"]
        )
        restored = recorded.swap(options, arguments, variant, reporter)
        reporter.close()
        self._tell_of_swap(restored.result, reporter)
        if given["json"]:
            self._print_json(_result(restored))
        else:
            self._print([restored.result.database])

    @staticmethod
    def _tell_of_swap(result: RestoreResult, reporter: ConsoleReporter) -> None:
        if result.swap is not None:
            reporter.note(f"clients waited {result.swap.seconds:.2f} s for the swap")
            if result.swap.attempts > 1:
                reporter.note(f"{result.swap.attempts} attempts were needed")

    def _plan(self, options: Options, variant: restores.Variant, given: dict[str, Any]) -> None:
        plan = restores.plan_restore(options, variant=variant)
        if given["json"]:
            self._print_json(dataclasses.asdict(plan))
        else:
            self._print(plan_lines(plan))
        if plan.obstacles:
            sys.exit(1)

    def _copy(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        arguments = given_arguments(given)
        options = resolve(arguments, verb="")
        result = recorded.copy(
            options,
            arguments,
            given["dump_key"],
            reporter,
            end_sessions=given["end_sessions"],
            lose_settings=given["lose_settings"],
        )
        reporter.close()
        how = "piped, no session was ended" if result.piped else "copied by the server"
        reporter.note(f"{how}, in {result.seconds:.1f} s")
        if given["json"]:
            self._print_json(
                {
                    "key": given["dump_key"],
                    "database": result.database.name,
                    "piped": result.piped,
                    "seconds": result.seconds,
                }
            )
        else:
            self._print([given["dump_key"]])

    def _cat(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        options = resolve(given_arguments(given), verb="restore")
        if sys.stdout.isatty():
            raise UsageError(
                "an archive is not written to a terminal",
                hint="Send it to a file or to pg_restore: pgclone cat KEY > file.dump",
            )
        archives.write_archive(options, given["dump_key"], sys.stdout.buffer, reporter)
        sys.stdout.flush()

    def _import(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        options = resolve(given_arguments(given), verb="")
        manifest = imports.import_archive(
            options, Path(given["file"]), reporter, instance=given["instance"]
        )
        reporter.close()
        if given["json"]:
            self._print_json(dataclasses.asdict(manifest))
        else:
            self._print([manifest.key])

    def _refresh(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        arguments = given_arguments(given)
        locations = declared_locations()
        if arguments.storage_location or arguments.config:
            locations = [resolve(arguments, verb="").storage_location]
        found, failures = [], []
        for location in locations:
            try:
                refreshed = recorded.refresh(location)
            except PgcloneError as error:
                # One that cannot be reached keeps nobody from the others.
                failures.append(error)
                continue
            counts = {
                "new": refreshed.added,
                "missing": refreshed.missing,
                "there again": refreshed.returned,
            }
            found.append({"location": location, **counts})
            if not given["json"]:
                said = ", ".join(f"{number} {what}" for what, number in counts.items())
                self._print([f"{location}: {said}"])
        if given["json"]:
            self._print_json(found)
        if failures:
            *others, last = failures
            for other in others:
                reporter.warn(other.message)
            raise last

    def _recover(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        options = resolve(given_arguments(given), verb="")
        dry_run = given["dry_run"]
        done = []
        for item in chain(
            lost.sweep_for_command(recorded.at_the_command_line(), dry_run=dry_run),
            recorded.recover(options, older_than=given["older_than"], dry_run=dry_run),
        ):
            done.append(item)
            if not given["json"]:
                self._print([recovered_line(item, dry_run=dry_run)])
        if given["json"]:
            found = [dataclasses.asdict(item) for item in done]
            self._print_json({"dry_run": dry_run, "found": found})
        elif not done:
            self._print(["nothing was left behind"])
        if any(item.outcome is Outcome.FAILED for item in done):
            sys.exit(1)

    def _doctor(self, given: dict[str, Any], reporter: ConsoleReporter) -> None:
        options = resolve(given_arguments(given), verb="")
        findings = []
        for finding in doctor.examine(options):
            findings.append(finding)
            if not given["json"]:
                self._print(finding_lines(finding))
        if given["json"]:
            self._print_json([dataclasses.asdict(finding) for finding in findings])
        else:
            self._print([summary_line(findings)])
        if any(finding.level is Level.PROBLEM for finding in findings):
            sys.exit(1)

    # -- output

    def _print(self, lines: Iterable[str], as_json: bool = False) -> None:
        if as_json:
            self._print_json(list(lines))
            return
        for line in lines:
            self.stdout.write(line)

    def _print_json(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str))


class _Failure(Exception):
    """Carries an error of ours past Django's own handling of errors."""

    def __init__(self, error: PgcloneError, status: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.status = status


def _result(restored: restores.Restored) -> dict[str, Any]:
    result, swap = restored.result, restored.result.swap
    return {
        "database": result.database,
        "swap_seconds": None if swap is None else swap.seconds,
        "kept_seconds": None if swap is None else swap.kept_seconds,
        "attempts": None if swap is None else swap.attempts,
        "lost_settings": [] if swap is None else [each.name for each in swap.lost_settings],
        "left_out": result.report.left_out,
        "skipped_grants": result.report.skipped_grants,
        "lost_owners": [str(lost) for lost in result.report.lost_owners],
        "unchecked_foreign_keys": result.report.unchecked_foreign_keys,
        "tolerated": result.report.tolerated,
        "hooks": [dataclasses.asdict(hook) for hook in restored.hooks],
    }
