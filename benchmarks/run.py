"""The command line of the benchmark; see docs/performance.md for what it measures."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from platform import python_version

from tests.support import processes
from tests.support.postgres import available
from tests.support.s3 import Bucket, S3Server

from . import dataset, objects, report, swaps
from .cases import GROUPS, OURS, PEER, RAW_DUMP, RAW_JOBS, RAW_PIPE, ROOT, SOURCE, Bench
from .measure import CommandFailed, Outcome
from .servers import BenchmarkServer

BYTES_AT_SCALE_1 = 1_300_000_000

DOCUMENTED_SERVER = 15
"""The major version whose tables have the plain names in the documentation."""

MEMORY_SCALES = (0.15, 1.5)
"""About 0.2 GB and ten times as much."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark",
        description="Measures dumps and restores against other tools and PostgreSQL's programs.",
    )
    majors = list(available())
    parser.add_argument(
        "--server",
        type=int,
        choices=majors,
        default=DOCUMENTED_SERVER if DOCUMENTED_SERVER in majors else majors[0],
        help="major version of PostgreSQL (default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="1, the default, is about 1.3 GB in the server; on"
        " little data the start of Python hides the rest",
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each case (default: 3)")
    parser.add_argument(
        "--only",
        default=",".join(GROUPS),
        help=f"some of {', '.join(GROUPS)}, separated by commas; 'none' with one of the next",
    )
    parser.add_argument(
        "--memory", action="store_true", help="measure memory, too, on 0.2 and on 2 GB"
    )
    parser.add_argument(
        "--swap",
        action="store_true",
        help="measure swaps under load, too (with --only none: alone)",
    )
    parser.add_argument(
        "--objects",
        action="store_true",
        help="measure 20,000 tables and 200,000 large objects, too (with --only none: alone)",
    )
    parser.add_argument(
        "--no-dbbackup",
        dest="dbbackup",
        action="store_false",
        help="leave django-dbbackup out of dump-file and restore-file",
    )
    parser.add_argument(
        "--fsync",
        choices=["on", "off"],
        default="on",
        help="the server's setting (default: on)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        help="seconds that a run may wait, and be repeated, for want of a moment in which other"
        " processes leave the processors alone (default: 0)",
    )
    parser.add_argument("--folder", type=Path, help="where the scratch folder is made")
    parser.add_argument("--note", default="", help="a sentence about the machine for the report")
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/performance.md"
    )
    parser.add_argument(
        "--peer-python",
        type=Path,
        default=ROOT / ".venv-benchmark-peer" / "bin" / "python",
        help=argparse.SUPPRESS,
    )
    options = parser.parse_args(argv)
    options.groups = [] if options.only == "none" else options.only.split(",")
    for group in options.groups:
        if group not in GROUPS:
            parser.error(f"--only takes {', '.join(GROUPS)}, not {group}")
    if options.rounds < 1 or options.scale < 0.01:
        parser.error("--rounds has to be at least 1, --scale at least 0.01")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    # As Ctrl-C does: everything that was started is ended, everything that was made is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with scratch_folder(options) as folder:
            return benchmark(options, folder)
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return 1


@contextlib.contextmanager
def scratch_folder(options: argparse.Namespace) -> Iterator[Path]:
    """A folder for everything, if there is room for it; it is removed in the end."""
    scale = options.scale if options.groups else 0.0
    # The source, a restored copy, the live database it replaces, the write-ahead log and dumps.
    need = BYTES_AT_SCALE_1 * (4 * scale + 3 * sum(MEMORY_SCALES) * options.memory) + 5e9
    parent = options.folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(parent).free
    if free < need:
        raise SystemExit(
            f"error: {need / 1e9:.0f} GB of disk are needed, {free / 1e9:.0f} GB are free\n"
            "hint: name another folder (--folder), or take a smaller --scale"
        )
    folder = Path(tempfile.mkdtemp(prefix="pgclone-benchmark-", dir=parent))
    processes.register_folder(folder)
    folder.chmod(0o755)  # the server runs as a user of its own
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def benchmark(options: argparse.Namespace, folder: Path) -> int:
    with (
        BenchmarkServer(options.server, folder / "server", fsync=options.fsync == "on") as server,
        S3Server() as s3,
    ):
        bucket = Bucket(s3.endpoint_url)
        sections: dict[str, str] = {}
        goals: list[report.Goal] = []
        if options.groups:
            assert s3.process is not None
            bench = Bench(
                server,
                folder,
                bucket,
                options.peer_python,
                servers=(server.pid, s3.process.pid),
                patience=options.patience,
                with_dbbackup=options.dbbackup,
            )
            timing, reached = measure_times(options, bench)
            sections |= timing
            goals += reached
        if options.memory:
            section, reached = measure_memory(options, server, bucket, folder)
            sections["memory"] = section
            goals += reached
        if options.objects:
            sections["objects"] = measure_objects(options, server, bucket, folder)
        if options.swap:
            section, reached = measure_swaps(options, server)
            sections["swap"] = section
            goals += reached
    for name, section in sections.items():
        print(f"\n## {report.TITLES[name]}\n\n{section}")
    print("\n## Goals\n")
    for goal in goals:
        print(f"- {goal}")
    if options.write_docs:
        suffix = "" if options.server == DOCUMENTED_SERVER else f" on {options.server}"
        report.write_docs(
            ROOT / "docs" / "performance.md",
            {f"{name}{suffix}": section for name, section in sections.items()},
        )
    return 0


def measure_times(
    options: argparse.Namespace, bench: Bench
) -> tuple[dict[str, str], list[report.Goal]]:
    """Runs the groups that were asked for; returns their sections and how they compare."""
    if not options.peer_python.exists():
        raise SystemExit("error: the peers are not installed; start this by scripts/benchmark")
    server = bench.server
    say(f"PostgreSQL {server.version}, fsync {options.fsync}: building scale {options.scale} ...")
    started = time.monotonic()
    dataset.build(server, SOURCE, options.scale)
    bench.migrate(OURS, PEER)
    expected = dataset.facts(server, SOURCE)
    bench.expected = expected
    size = dataset.size(server, SOURCE)
    share = dataset.share_of_events(server, SOURCE)
    say(f"{size / 1e6:.0f} MB in {time.monotonic() - started:.0f} s, audit_event {share:.0%} of it")
    sections, goals = {}, []
    for group in options.groups:
        results = measure_group(bench, group, options.rounds)
        caption = (
            f"PostgreSQL {server.version} with fsync {options.fsync}; {size / 1e6:.0f} MB in the"
            f" server, {expected.indexes} indexes, {expected.constraints} constraints;"
            f" {report.rounds(options.rounds)}; {report.machine()}.{note(options)}\n"
            f"{versions(options)}"
        )
        sections[group] = f"{caption}\n\n{report.timing_table(group, results)}"
        goals += report.timing_goals(group, results)
    server.drop(SOURCE)
    return sections, goals


def measure_group(
    bench: Bench, group: str, rounds: int, *, labels: Collection[str] | None = None
) -> dict[str, list[Outcome]]:
    """All cases of a group in turn, or those of these labels, ``rounds`` times.

    Each round begins with another case, so that none always follows the same one.
    """
    cases = [case for case in bench.cases(group) if labels is None or case.label in labels]
    results: dict[str, list[Outcome]] = {case.label: [] for case in cases}
    with bench.arranged(group):
        for number in range(rounds):
            turn = number % len(cases)
            for case in cases[turn:] + cases[:turn]:
                outcome = case.measure(bench)
                results[case.label].append(outcome)
                say(
                    f"{group} {number + 1}/{rounds} {case.label}: {outcome.seconds:.2f} s,"
                    f" CPU {outcome.cpu:.2f} s, {outcome.size / 1e6:.0f} MB,"
                    f" others {outcome.others:.0%}"
                )
    kind, place = group.split("-")
    if kind == "dump":
        bench.verify_dumps(place)
    return results


def measure_objects(
    options: argparse.Namespace, server: BenchmarkServer, bucket: Bucket, folder: Path
) -> str:
    """Dumps to a file and restores from it of very many objects, beside PostgreSQL's programs."""
    caption = (
        f"PostgreSQL {server.version} with fsync {options.fsync}; {report.rounds(options.rounds)};"
        f" {report.machine()}.{note(options)}\n"
        f"Python {python_version()}; {_listed(our_versions())}."
    )
    parts = [caption]
    for many in objects.of_scale(options.scale):
        say(f"making {many.count:,} {many.what} ...")
        many.build(server)
        place = folder / many.name
        place.mkdir()
        bench = Bench(
            server,
            place,
            bucket,
            options.peer_python,
            servers=(server.pid,),
            patience=options.patience,
            source=many.name,
            facts=objects.facts,
            with_dbbackup=False,
        )
        bench.migrate(OURS)
        bench.expected = objects.facts(server, many.name)
        for group, raw in (("dump-file", (RAW_DUMP,)), ("restore-file", (RAW_PIPE, RAW_JOBS))):
            results = measure_group(bench, group, options.rounds, labels={OURS, *raw})
            table = report.timing_table(group, results)
            verb = "Dumps" if group == "dump-file" else "Restores"
            parts.append(f"{verb} of {many.count:,} {many.what}:\n\n{table}")
        server.drop(many.name)
    return "\n\n".join(parts)


def measure_memory(
    options: argparse.Namespace, server: BenchmarkServer, bucket: Bucket, folder: Path
) -> tuple[str, list[report.Goal]]:
    """Dumps to S3 and restores from it at two sizes; the highest use of all rounds counts."""
    uses: list[report.MemoryUse] = []
    for number, scale in enumerate(MEMORY_SCALES):
        name = f"memory_{number}"
        say(f"building scale {scale} ...")
        dataset.build(server, name, scale)
        bench = Bench(server, folder, bucket, options.peer_python)
        size = dataset.size(server, name) / 1e6
        for work in ("dump", "restore"):
            uses.append(probe_memory(bench, work, name, size, options.rounds))
            say(f"{work} of {size:.0f} MB: {uses[-1].above:.0f} MB above the loaded process")
        for stored in bucket.keys():  # noqa: SIM118 - a bucket is no mapping
            bucket.delete(stored)
        server.drop(name)
    uses.sort(key=lambda use: use.work)
    caption = (
        f"PostgreSQL {server.version}; to S3 and from it; {report.machine()}. {versions(options)}"
    )
    return f"{caption}\n\n{report.memory_table(uses)}", report.memory_goals(uses)


def probe_memory(bench: Bench, work: str, name: str, size: float, rounds: int) -> report.MemoryUse:
    target = "restored_for_memory"
    key = bench.probe("pgclone", "dump", dbname=name).printed if work == "restore" else ""
    loaded, highest, client = [], [], []
    for _ in range(rounds):
        if work == "dump":
            measured = bench.probe("pgclone", "dump", dbname=name)
        else:
            bench.server.create_empty(target)
            measured = bench.probe("pgclone", "restore", key, "--pre-swap-hook", dbname=target)
            bench.server.drop(target)
        loaded.append(measured.loaded)
        highest.append(measured.highest)
        client.append(measured.client)
    return report.MemoryUse(work, size, min(loaded), max(highest), max(client))


def measure_swaps(
    options: argparse.Namespace, server: BenchmarkServer
) -> tuple[str, list[report.Goal]]:
    """Swaps under clients that write, and what they waited for and lost."""
    results = swaps.measure(server)
    caption = (
        f"PostgreSQL {server.version} with fsync {options.fsync}; {report.machine()}."
        f"{note(options)}"
    )
    return swaps.section(results, caption), swaps.goals(results)


def versions(options: argparse.Namespace) -> str:
    """What was compared, by version."""
    peers = {}
    if options.groups:
        peers = installed(options.peer_python, "django-pgclone", "Django", "awscli")
        if options.dbbackup:
            peers |= installed(options.peer_python, "django-dbbackup")
    text = f"Python {python_version()}; {_listed(our_versions())}"
    return f"{text}; beside it {_listed(peers)}." if peers else f"{text}."


def our_versions() -> dict[str, str]:
    return installed(Path(sys.executable), "pgclone-admin", "Django", "zstandard", "boto3")


def _listed(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def installed(python: Path, *packages: str) -> dict[str, str]:
    """Versions of packages in an environment."""
    script = "import sys, importlib.metadata as m\nfor n in sys.argv[1:]: print(m.version(n))"
    done = subprocess.run(
        [str(python), "-c", script, *packages], capture_output=True, text=True, check=True
    )
    return dict(zip(packages, done.stdout.split(), strict=True))


def note(options: argparse.Namespace) -> str:
    return f" {options.note}" if options.note else ""


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
