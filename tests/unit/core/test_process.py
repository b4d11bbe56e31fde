"""One client program: its pipes, its error output, its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgclone_admin.core.errors import (
    KilledBySignal,
    LockTimeout,
    ProcessFailed,
    ProgramMissing,
)
from pgclone_admin.core.process import LONGEST_LINE, STDERR_TAIL, Child, first_error, scrubbed
from pgclone_admin.core.programs import Command
from tests.support import CANARY, ROOT, processes
from tests.support.fake_programs import (
    exit_with,
    ignore_signal,
    kill_self,
    leave_grandchild,
    sleep,
    stderr,
    touch,
    write_program,
)
from tests.unit.helpers import wait_for_file

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def python(code: str, *, environment: dict[str, str] | None = None) -> Command:
    """A program that is this Python code."""
    return Command((sys.executable, "-S", "-E", "-c", code), environment or {})


# -- the end --------------------------------------------------------------------------------------


def test_a_program_that_succeeds_is_finished_without_a_word() -> None:
    with Child(python("print('x')"), stdout=subprocess.PIPE) as child:
        assert child.stdout.read() == b"x\n"
        child.finish()
        assert child.wait() == 0


def test_an_exit_status_is_never_ignored() -> None:
    code = "import sys; print('pg_dump: error: no such thing', file=sys.stderr); sys.exit(3)"
    with (
        Child(python(code)) as child,
        pytest.raises(ProcessFailed) as caught,
    ):
        child.finish()
    assert caught.value.code == "process_failed"
    assert caught.value.message.endswith(" failed with exit status 3: no such thing")


def test_a_program_that_gives_no_reason_fails_too() -> None:
    with (
        Child(python("raise SystemExit(1)")) as child,
        pytest.raises(ProcessFailed, match="failed with exit status 1: it gave no reason"),
    ):
        child.finish()


@pytest.mark.parametrize(("name", "number"), [("KILL", 9), ("TERM", 15), ("HUP", 1)])
def test_f01_a_program_that_was_killed_says_by_which_signal(
    tmp_path: Path, name: str, number: int
) -> None:
    path = write_program(tmp_path, "pg_dump", kill_self(name))
    with (
        Child(Command((str(path),))) as child,
        pytest.raises(KilledBySignal, match=f"pg_dump was killed by SIG{name}") as caught,
    ):
        child.finish()
    assert caught.value.signal == number


def test_f06_a_lock_that_was_not_granted_is_an_error_of_its_own(tmp_path: Path) -> None:
    said = (
        "pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout\n"
        "pg_dump: detail: Query was: LOCK TABLE public.a IN ACCESS SHARE MODE\n"
    )
    path = write_program(tmp_path, "pg_dump", stderr(said), exit_with(1))
    with Child(Command((str(path),))) as child, pytest.raises(LockTimeout) as caught:
        child.finish()
    assert caught.value.code == "lock_timeout"
    assert caught.value.hint


@pytest.mark.parametrize("content", [None, "#!/nowhere/interpreter\n", "\x7fELF?"])
def test_f08_a_program_that_cannot_be_started_is_a_sentence(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "pg_dump"
    if content is not None:
        path.write_text(content)
        path.chmod(0o755)
    with pytest.raises(ProgramMissing, match=r"^pg_dump cannot be started: [A-Z][a-z ]+"):
        Child(Command((str(path),)))


def test_f08_a_program_that_may_not_be_executed_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "pg_dump"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o644)
    with pytest.raises(ProgramMissing, match="pg_dump cannot be started: Permission denied"):
        Child(Command((str(path),)))


def test_f09_standard_input_is_closed_unless_it_is_asked_for() -> None:
    code = "import sys; sys.exit(len(sys.stdin.read()))"
    with Child(python(code)) as child:
        child.finish()


# -- its surroundings -----------------------------------------------------------------------------


def test_f55_a_child_sees_nothing_of_the_environment_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hostile = {
        "PGSERVICE": "evil",
        "PGHOSTADDR": "192.0.2.1",
        "PGOPTIONS": "-c role=evil",
        "PGPASSFILE": "/tmp/evil",
        "PGPASSWORD": "evil",
        "LD_PRELOAD": "/tmp/evil.so",
        "LD_LIBRARY_PATH": "/tmp",
        "HOME": "/tmp/evil",
        "DATABASE_URL": "postgres://evil",
        "AWS_SECRET_ACCESS_KEY": "evil",
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    with Child(python(code, environment={"PGHOST": "db"}), stdout=subprocess.PIPE) as child:
        seen = json.loads(child.stdout.read())
        child.finish()
    assert seen == {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "PGHOST": "db"}


def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    arguments = ["$(id)", "a;b", "`id`", "a b", "", "*", '"', "--file=x\ny"]
    command = Command(
        (sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *arguments)
    )
    with Child(command, stdout=subprocess.PIPE) as child:
        assert json.loads(child.stdout.read()) == arguments
        child.finish()


def test_a_program_has_a_process_group_of_its_own() -> None:
    code = "import os; print(os.getpgrp(), os.getsid(0), os.getpid())"
    with Child(python(code), stdout=subprocess.PIPE) as child:
        group, session, pid = child.stdout.read().split()
        child.finish()
    assert group == session == pid
    assert int(group) != os.getpgrp()


# -- its error output -----------------------------------------------------------------------------


def test_only_the_last_of_the_error_output_is_kept() -> None:
    code = "import sys\nfor n in range(10_000): print('line', n, file=sys.stderr)"
    with Child(python(code)) as child:
        child.finish()
        tail = child.stderr_tail
    assert len(tail) <= STDERR_TAIL
    lines = tail.splitlines()
    assert lines[-1] == "line 9999"
    assert lines == [f"line {n}" for n in range(10_000 - len(lines), 10_000)]
    assert len(lines) > 500


def test_a_line_without_an_end_is_given_on_in_pieces() -> None:
    seen: list[str] = []
    code = f"import sys; sys.stderr.write('x' * {5 * LONGEST_LINE} + 'end')"
    with Child(python(code), on_line=seen.append) as child:
        child.finish()
        assert len(child.stderr_tail) <= STDERR_TAIL
    assert "".join(seen) == "x" * (5 * LONGEST_LINE) + "end"
    assert max(map(len, seen)) <= 2 * LONGEST_LINE


def test_every_line_is_given_on_as_it_comes() -> None:
    seen: list[str] = []
    code = "import sys; sys.stderr.write('one\\n\\ntwo\\nthree')"
    with Child(python(code), on_line=seen.append) as child:
        child.finish()
    assert seen == ["one", "", "two", "three"]


def test_error_output_that_is_no_text_does_no_harm() -> None:
    with Child(python("import os; os.write(2, b'a\\xff\\xfeb\\n')")) as child:
        child.finish()
        assert child.stderr_tail == "a\ufffd\ufffdb"


def test_f54_a_secret_is_blotted_out_of_tail_and_error() -> None:
    code = f"import sys; sys.exit('pg_dump: error: the password {CANARY} is wrong ({CANARY})')"
    command = Command((sys.executable, "-c", code), secrets=(CANARY, "wrong"))
    with (
        Child(command) as child,
        pytest.raises(ProcessFailed, match=r"the password \*\*\* is \*\*\* \(\*\*\*\)") as caught,
    ):
        child.finish()
    assert CANARY not in child.stderr_tail + repr(caught.value)


def test_who_reads_the_lines_gets_them_as_they_are() -> None:
    # pg_restore names commands there that are repeated: a password may be a word of them.
    seen: list[str] = []
    code = "import sys; sys.exit('Command was: GRANT SELECT ON a TO app;')"
    with Child(
        Command((sys.executable, "-c", code), secrets=("app",)), on_line=seen.append
    ) as child:
        child.wait()
        assert child.stderr_tail == "Command was: GRANT SELECT ON a TO ***;"
    assert seen == ["Command was: GRANT SELECT ON a TO app;"]


FLOODS = {
    "50 MB of lines": (50, "b'pg_dump: warning: ' + b'x' * 81 + b'\\n'"),
    "50 MB without a line break": (50, "b'x' * 100"),
    "5 million empty lines": (5, "b'\\n' * 100"),
}

MEASURE = """
import resource, subprocess, sys, threading
from pgclone_admin.core.process import Child
from pgclone_admin.core.programs import Command

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

flood = r'''
import os
chunk = ({line}) * 10_000
for _ in range({megabytes}):
    data = memoryview(chunk)
    while data:
        data = data[os.write(2, data):]
print("done")
'''
# The same path once, small, so that what is loaded on the way does not count.
with Child(Command((sys.executable, "-S", "-c", "print()")), stdout=subprocess.PIPE) as child:
    child.stdout.read()
    child.finish()
before = used()
with Child(Command((sys.executable, "-S", "-c", flood)), stdout=subprocess.PIPE) as child:
    output = child.stdout.read()
    child.finish()
    print(output.decode().strip(), len(child.stderr_tail), used() - before)
"""


@pytest.mark.parametrize("kind", FLOODS)
def test_f05_a_flood_of_error_output_neither_blocks_nor_is_kept(kind: str) -> None:
    amount, line = FLOODS[kind]
    # In a process of its own, whose memory nothing else has used before.
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            MEASURE.replace("{line}", line).replace("{megabytes}", str(amount)),
        ],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=120,
        text=True,
    )
    output, tail, grown = answer.stdout.split()
    assert output == "done"
    assert int(tail) <= STDERR_TAIL
    assert int(grown) < 16


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ""),
        ("\n  \n", ""),
        ("pg_dump: last\n", "pg_dump: last"),
        ("pg_dump: warning: w\npg_dump: error: first\npg_dump: error: second", "first"),
        ("psql: FATAL:  no such role", "no such role"),
        ("pg_restore: while X\nERROR:  broken\nlast", "broken"),
    ],
)
def test_the_first_error_is_the_reason(text: str, reason: str) -> None:
    assert first_error(text) == reason


# -- ending it ------------------------------------------------------------------------------------


def test_a_program_is_asked_to_end_before_it_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    path = write_program(tmp_path, "pg_dump", touch(started), sleep())
    with Child(Command((str(path),))) as child:
        wait_for_file(started)
        child.terminate()
        with pytest.raises(KilledBySignal) as caught:
            child.finish()
    assert caught.value.signal == 15


def test_a_program_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    path = write_program(tmp_path, "pg_dump", ignore_signal("TERM"), touch(started), sleep())
    with Child(Command((str(path),))) as child:
        wait_for_file(started)
        child.terminate(grace=0.1)
        with pytest.raises(KilledBySignal) as caught:
            child.finish()
    assert caught.value.signal == 9


def test_no_program_outlives_its_block(tmp_path: Path) -> None:
    started = tmp_path / "started"
    path = write_program(tmp_path, "pg_dump", touch(started), sleep())

    def fail() -> None:
        with Child(Command((str(path),)), stdout=subprocess.PIPE):
            wait_for_file(started)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not processes.is_running(int(started.read_text()))


def test_a_program_that_was_ended_can_be_ended_again() -> None:
    with Child(python("pass")) as child:
        child.finish()
        child.terminate()
        child.terminate()


@pytest.mark.parametrize("end", ["finish", "terminate"])
def test_what_a_program_has_started_ends_with_it(tmp_path: Path, end: str) -> None:
    # It holds the error output open: nobody may wait for it.
    path = write_program(tmp_path, "pg_restore", leave_grandchild(60))
    begun = time.monotonic()
    with Child(Command((str(path),))) as child:
        if end == "finish":
            child.finish()
    assert time.monotonic() - begun < 10


def test_a_reader_that_has_gone_does_not_break_the_end_of_the_block() -> None:
    code = "import os; os.close(0); print(os.getpid(), flush=True)"
    with Child(python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.read()
        with pytest.raises(BrokenPipeError):
            child.stdin.write(b"x")
        child.finish()


def test_of_two_secrets_of_which_one_begins_with_the_other_nothing_is_left():
    for secrets in (["sesame", "sesame-open"], ["sesame-open", "sesame"]):
        assert scrubbed("password sesame-open or sesame", secrets) == "password *** or ***"
