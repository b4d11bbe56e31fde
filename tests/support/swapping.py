"""A process that swaps databases, and stops where it is told to: ``python -m
tests.support.swapping``.

Each line that it reads asks for one swap (see `Swapper.swap`). Stopping at a step it writes who its
sessions are and waits for a line; so a test can end a session, or the process, exactly there.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import psycopg2

from . import ROOT

STEPS = (
    "before the copy",
    "after the copy",
    "waiting for the locks",
    "holding the locks",
    "in the delta",
    "after the delta",
    "the rename waits",
    "the others are gone",
    "approved",
    "let go",
    "renamed",
    "committed",
)
"""In their order. At "waiting for the locks" the process says so and goes on."""

DECIDED = STEPS.index("committed")

KEPT = ("kept_queue", "kept_login", "kept_line")


class Swapper:
    """The process, as a test has it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.swapping"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
        )

    def __enter__(self) -> Swapper:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL; for a process that has ended already nothing but closing its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def start(
        self,
        params: Any,
        live: str,
        temporary: str,
        *,
        stop_at: str = "",
        patience: float = 20.0,
        tables: Sequence[str] = KEPT,
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        """Has the temporary database take the place of the live one."""
        fields = ("dbname", "host", "port", "user", "password")
        self._write(
            {
                "params": {name: getattr(params, name) for name in fields},
                "live": live,
                "temporary": temporary,
                "stop_at": stop_at,
                "patience": patience,
                "tables": list(tables),
                "conditions": dict(conditions or {}),
            }
        )

    def read(self) -> dict[str, Any]:
        """What it says next: ``at`` and ``pids``, or what came of the swap."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process that swaps has ended"
        said: dict[str, Any] = json.loads(line)
        return said

    def go(self) -> None:
        """Lets it go on."""
        self._write({})

    def _write(self, message: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()


# -- in the process ------------------------------------------------------------------------------


def say(message: object) -> None:
    print(json.dumps(message), flush=True)


class Stops:
    """Wraps the methods of a swap so that each step is known when it is reached."""

    def __init__(self) -> None:
        self.stop_at = ""
        self._pids: dict[str, int] = {}
        self._locked = False
        self.seconds: dict[str, float] = {}
        """How long each part of the last attempt took, from the lock on."""
        self._lock = threading.Lock()
        self._wrap()

    def prepare(self, stop_at: str) -> None:
        self.stop_at, self._pids, self._locked = stop_at, {}, False
        self.seconds = {}

    def reach(self, step: str) -> None:
        with self._lock:
            if step != self.stop_at:
                return
            self.stop_at = ""
        say({"at": step, "pids": self._pids})
        if step != "waiting for the locks":
            sys.stdin.readline()

    def _wrap(self) -> None:
        # Imported in the process alone: the tests of the tests need no product.
        from pgclone_admin.core import carrier as carrier_module  # noqa: PLC0415 - see above
        from pgclone_admin.core import swap as swap_module  # noqa: PLC0415
        from pgclone_admin.core import swapper as swapper_module  # noqa: PLC0415
        from pgclone_admin.core.carrier import Carrier  # noqa: PLC0415
        from pgclone_admin.core.keeper import Keeper  # noqa: PLC0415

        def note(name: str, connection: Any) -> None:
            self._pids[name] = connection.info.backend_pid

        def note_limits(connection: Any) -> None:
            note("swapper" if "terminator" in self._pids else "terminator", connection)

        def copy_begins(_carrier: Any, live: Any, *_others: Any, **_limits: Any) -> None:
            note("keeper", live)
            self.reach("before the copy")

        def lock_begins(keeper: Any, live: Any) -> None:
            note("keeper", live)
            self.reach("waiting for the locks")

        def catch_up_begins(*_arguments: Any, locked: bool = False, **_others: Any) -> None:
            self._locked = locked
            if locked:
                self.seconds = {}

        def timed(owner: Any, name: str, part: str) -> None:
            original = getattr(owner, name)

            def wrapped(*arguments: Any, **keywords: Any) -> Any:
                started = time.monotonic()
                try:
                    return original(*arguments, **keywords)
                finally:
                    if self._locked:
                        passed = time.monotonic() - started
                        self.seconds[part] = self.seconds.get(part, 0.0) + passed

            setattr(owner, name, wrapped)

        timed(carrier_module, "pipe", "reading what is new")
        timed(Carrier, "_first_candidates", "reading what may be gone, meanwhile")
        timed(Carrier, "_delete_missing", "deleting what is gone")
        timed(Carrier, "_take_over", "writing what is new")
        timed(swapper_module.Swapper, "_rename", "renaming")
        timed(Carrier, "catch_up", "the changes in all")

        def in_catch_up(*_arguments: Any) -> None:
            if self._locked:
                self.reach("in the delta")

        wrap(swap_module, "remove_session_limits", before=note_limits)
        wrap(Carrier, "copy", before=copy_begins, after=lambda *_: self.reach("after the copy"))
        wrap(
            Keeper,
            "_lock",
            before=lock_begins,
            after=lambda *_: self.reach("holding the locks"),
        )
        wrap(Carrier, "catch_up", before=catch_up_begins)
        wrap(Carrier, "_set_sequences", before=in_catch_up)
        wrap(Keeper, "hold", after=lambda *_: self.reach("after the delta"))
        wrap(
            swap_module,
            "has_locked",
            after=lambda result, *_: self.reach("the rename waits") if result else None,
        )
        wrap(Keeper, "is_alive", before=lambda *_: self.reach("the others are gone"))
        wrap(swapper_module.Swapper, "approve", after=lambda *_: self.reach("approved"))
        wrap(
            Keeper,
            "leave",
            after=lambda _result, keeper: self.reach("let go") if self._approved else None,
        )
        wrap(swapper_module.Swapper, "__init__", before=self._begin_attempt)
        wrap(swapper_module.Swapper, "_rename", after=lambda *_: self.reach("renamed"))
        wrap(swapper_module.Swapper, "run", after=lambda *_: self.reach("committed"))

    _attempt: Any = None

    def _begin_attempt(self, attempt: Any, *_arguments: Any, **_others: Any) -> None:
        self._attempt = attempt

    @property
    def _approved(self) -> bool:
        attempt = self._attempt
        return attempt is not None and attempt.is_decided and attempt._refusal is None


def wrap(
    owner: Any,
    name: str,
    *,
    before: Callable[..., object] | None = None,
    after: Callable[..., object] | None = None,
) -> None:
    """``before`` gets the arguments, ``after`` the result and the arguments."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        if before is not None:
            before(*arguments, **keywords)
        result = original(*arguments, **keywords)
        if after is not None:
            after(result, *arguments)
        return result

    setattr(owner, name, wrapped)


def main() -> None:
    from pgclone_admin.core.connection import ConnectionParams  # noqa: PLC0415
    from pgclone_admin.core.errors import PgcloneError  # noqa: PLC0415
    from pgclone_admin.core.kept import Keeping, KeptName  # noqa: PLC0415
    from pgclone_admin.core.locks import check_lock, take_lock  # noqa: PLC0415
    from pgclone_admin.core.marks import Mark  # noqa: PLC0415
    from pgclone_admin.core.names import TableName, derived_name  # noqa: PLC0415
    from pgclone_admin.core.progress import SilentReporter  # noqa: PLC0415
    from pgclone_admin.core.server import Server  # noqa: PLC0415
    from pgclone_admin.core.swap import SwapRequest, swap  # noqa: PLC0415

    stops = Stops()
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if not asked:
            continue  # the step was not reached before it was let go
        live = asked["live"]
        reporter = SilentReporter()
        answer: dict[str, Any] = {"swapped": False}
        try:
            with Server.connected(ConnectionParams(**asked["params"])) as server:
                take_lock(server, live, exclusive=True)
                stops.prepare(asked["stop_at"])
                result = swap(
                    SwapRequest(
                        maintenance=server.params,
                        live=server.existing(live),
                        temporary=server.existing(asked["temporary"]),
                        parked=Mark.new(name=derived_name(live, "swap"), kind="parked", of=live),
                        keeping=Keeping(
                            tables=[
                                KeptName(
                                    table=TableName("public", name),
                                    condition=asked["conditions"].get(name, "true"),
                                )
                                for name in asked["tables"]
                            ]
                        ),
                        patience=asked["patience"],
                    ),
                    reporter,
                    check_lock=partial(check_lock, server),
                )
            answer = {
                "swapped": True,
                "seconds": result.seconds,
                "kept_seconds": result.kept_seconds,
                "attempts": result.attempts,
                "parts": stops.seconds,
            }
        except PgcloneError as error:
            answer |= {"error": error.code, "message": str(error)}
        except psycopg2.Error as error:
            answer |= {"error": "psycopg2", "message": str(error)}
        answer["notes"] = reporter.notes
        say(answer)


if __name__ == "__main__":
    main()
