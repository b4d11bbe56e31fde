"""Scripted stand-ins for pg_dump and pg_restore, and recorders around the real ones.

A fake is a Python program run by this interpreter without ``site`` and without ``PYTHON*``
variables, so it works in the nearly empty environment that the product gives its children.

>>> fakes = FakePrograms(tmp_path)                                    # doctest: +SKIP
>>> fakes.pg_dump(print_file(archive, 1000), kill_self("KILL"))       # doctest: +SKIP
>>> settings = {"PGCLONE_BIN_DIR": str(fakes.path)}                   # doctest: +SKIP
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .postgres import version_of

Step = dict[str, Any]

_PROGRAM = r"""
import json, os, signal, sys, time

NAME = {name!r}
VERSION = {version!r}
STEPS = json.loads({steps!r})
CALLS = {calls!r}

if len(sys.argv) == 2 and sys.argv[1] in ("--version", "-V"):
    print(NAME + " (PostgreSQL) " + VERSION)
    sys.exit(0)

if CALLS:
    passfile = os.environ.get("PGPASSFILE", "")
    mode = oct(os.stat(passfile).st_mode & 0o777) if os.path.exists(passfile) else ""
    target = os.path.join(CALLS, "%020d-%d.json" % (time.time_ns(), os.getpid()))
    with open(target + "~", "w") as file:
        json.dump({{
            "program": NAME, "argv": sys.argv, "environ": dict(os.environ), "cwd": os.getcwd(),
            "pid": os.getpid(), "passfile_mode": mode,
        }}, file)
    os.rename(target + "~", target)


def put(descriptor, data):
    while data:
        data = data[os.write(descriptor, data[: 1 << 20]):]


for step in STEPS:
    (kind, value), = step.items()
    if kind == "print":
        with open(value["path"], "rb") as file:
            left = value["count"]
            while left is None or left > 0:
                chunk = file.read(1 << 20 if left is None else min(1 << 20, left))
                if not chunk:
                    break
                left = None if left is None else left - len(chunk)
                put(1, chunk)
    elif kind == "stderr":
        put(2, value.encode())
    elif kind == "flood":
        line = b"pg_dump: warning: " + b"x" * 81 + b"\n"
        for _ in range(value):
            put(2, line * 10000)
    elif kind == "sleep":
        until = time.monotonic() + value
        while time.monotonic() < until:
            time.sleep(max(0, min(1, until - time.monotonic())))
    elif kind == "ignore":
        signal.signal(getattr(signal, "SIG" + value), signal.SIG_IGN)
    elif kind == "read":
        left = value
        while left is None or left > 0:
            chunk = os.read(0, 1 << 20 if left is None else min(1 << 20, left))
            if not chunk:
                break
            left = None if left is None else left - len(chunk)
    elif kind == "fork":
        if os.fork() == 0:
            time.sleep(value)
            os._exit(0)
    elif kind == "touch":
        with open(value, "w") as file:
            file.write(str(os.getpid()))
    elif kind == "wait":
        while not os.path.exists(value):
            time.sleep(0.01)
    elif kind == "kill":
        os.kill(os.getpid(), getattr(signal, "SIG" + value))
        time.sleep(60)
    elif kind == "exit":
        os._exit(value)
    elif kind == "exec":
        os.execv(value, [value, *sys.argv[1:]])
    else:
        raise SystemExit("unknown step " + kind)
os._exit(0)
"""


def print_file(path: Path | str, count: int | None = None) -> Step:
    """Print the first ``count`` bytes of a file, by default all of it."""
    return {"print": {"path": str(path), "count": count}}


def stderr(text: str) -> Step:
    return {"stderr": text}


def flood_stderr(megabytes: int) -> Step:
    return {"flood": megabytes}


def sleep(seconds: float = 600) -> Step:
    return {"sleep": seconds}


def ignore_signal(name: str = "TERM") -> Step:
    return {"ignore": name}


def read_input(count: int | None = None) -> Step:
    """Read ``count`` bytes from standard input, by default to its end."""
    return {"read": count}


def leave_grandchild(seconds: float = 600) -> Step:
    """Start a child that keeps the pipes open; it should be ended with the process group."""
    return {"fork": seconds}


def touch(path: Path | str) -> Step:
    """Write the own pid to a file: the mark that a test waits for."""
    return {"touch": str(path)}


def wait_for(path: Path | str) -> Step:
    """Wait until a file exists."""
    return {"wait": str(path)}


def kill_self(signal_name: str = "KILL") -> Step:
    return {"kill": signal_name}


def exit_with(status: int) -> Step:
    return {"exit": status}


def run_real(path: Path | str) -> Step:
    """Become another program, with the same arguments."""
    return {"exec": str(path)}


def write_program(
    directory: Path,
    name: str,
    *steps: Step,
    version: str = "18.4",
    calls: Path | None = None,
) -> Path:
    """Write one fake. It exits 0 after its last step, and records itself below ``calls``."""
    directory.mkdir(parents=True, exist_ok=True)
    source = _PROGRAM.format(
        name=name,
        version=version,
        steps=json.dumps(steps),
        calls=str(calls) if calls is not None else "",
    )
    path = directory / name
    interpreter = f"#!{sys.executable} -SE"
    if len(interpreter) < 120 and " " not in sys.executable:
        path.write_text(interpreter + "\n" + source, encoding="utf-8")
    else:  # the kernel would cut such a first line
        script = directory / f".{name}.py"
        script.write_text(source, encoding="utf-8")
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{script}" "$@"\n')
    path.chmod(0o755)
    return path


@dataclass(frozen=True)
class Call:
    """One start of a program."""

    program: str
    argv: list[str]
    environ: dict[str, str]
    cwd: str
    pid: int
    passfile_mode: str

    @property
    def arguments(self) -> list[str]:
        return self.argv[1:]


class _Recorder:
    """A folder of programs that writes down how each was started."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "bin"
        self.calls_path = directory / "calls"
        self.path.mkdir(parents=True, exist_ok=True)
        self.calls_path.mkdir(parents=True, exist_ok=True)

    def calls(self, program: str | None = None) -> list[Call]:
        """The starts so far, oldest first; questions for the version are not among them."""
        found = [
            Call(**json.loads(path.read_text())) for path in sorted(self.calls_path.glob("*.json"))
        ]
        return [call for call in found if program in (None, call.program)]

    def forget(self) -> None:
        for path in self.calls_path.glob("*.json"):
            path.unlink()

    def in_argv(self, text: str) -> list[Call]:
        """Calls in whose arguments ``text`` occurs (there must be none for a password)."""
        return [call for call in self.calls() if any(text in part for part in call.argv)]


class FakePrograms(_Recorder):
    """A folder of fakes, recorded. psql is there too, and only to be seen if it is started."""

    def __init__(self, directory: Path, version: str = "18.4") -> None:
        super().__init__(directory)
        self.version = version
        self.pg_dump()
        self.pg_restore(read_input())
        self.write("psql", exit_with(99))

    def write(self, name: str, *steps: Step, version: str | None = None) -> Path:
        return write_program(
            self.path, name, *steps, version=version or self.version, calls=self.calls_path
        )

    def pg_dump(self, *steps: Step, version: str | None = None) -> Path:
        """Replace pg_dump by a fake that does these steps and then exits 0."""
        return self.write("pg_dump", *steps, version=version)

    def pg_restore(self, *steps: Step, version: str | None = None) -> Path:
        return self.write("pg_restore", *steps, version=version)

    def real(self, name: str, real_bin_dir: Path) -> Path:
        """Use the real program under this name, beside a fake one."""
        program = real_bin_dir / name
        return self.write(name, run_real(program), version=version_of(program))


class RecordingBinDir(_Recorder):
    """The real programs, each start of which is written down first."""

    def __init__(self, real_bin_dir: Path | str, directory: Path) -> None:
        super().__init__(directory)
        for name in ("pg_dump", "pg_restore", "pg_dumpall", "psql"):
            program = Path(real_bin_dir) / name
            if program.exists():
                write_program(
                    self.path,
                    name,
                    run_real(program),
                    version=version_of(program),
                    calls=self.calls_path,
                )


def recording_bin_dir(real_bin_dir: Path | str, directory: Path) -> RecordingBinDir:
    """Wrappers around the programs in ``real_bin_dir``, to be used as PGCLONE_BIN_DIR."""
    return RecordingBinDir(real_bin_dir, directory)
