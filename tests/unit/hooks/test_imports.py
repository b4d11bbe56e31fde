"""Python hooks that are loaded in several threads of a process, as a web server has them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pgclone_admin.core.errors import Cancelled, Conflict
from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.hooks import imports, load_hooks
from pgclone_admin.hooks.base import Output

WORKING = """
    from pgclone_admin.hooks import HookBase

    class Hook(HookBase):
        def run_hook(self, connection):
            connection()
            from words import WORD
            assert WORD == "{word}", WORD
    """

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, settings: Any) -> Write:
    """``write("one")``: a hook in a folder of that name, with a module ``words`` beside it."""
    settings.BASE_DIR = tmp_path

    def write(folder: str, text: str = WORKING) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "words.py").write_text(f"WORD = '{folder}'\n")
        (tmp_path / folder / "hook.py").write_text(dedent(text).format(word=folder))
        return f"{folder}/hook.py"

    return write


@contextmanager
def at_work(file: str) -> Iterator[Future[None]]:
    """Within the block the hook runs in another thread; it has not imported its module yet."""
    began, may_go_on = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        assert may_go_on.wait(30)

    with ThreadPoolExecutor() as pool:
        running = pool.submit(run, file, wait)
        assert began.wait(30)
        try:
            yield running
        finally:
            may_go_on.set()
    running.result()


def run(file: str, connection: Callable[[], None], check: Callable[[], None] = int) -> None:
    """A hook is given this in place of a connection, and calls it."""
    (hook,) = load_hooks([file])
    hook.run_in(connection, Output(SilentReporter(), ()), check)  # type: ignore[union-attr]


def test_hooks_with_modules_of_one_name_load_in_threads_at_the_same_time(write: Write) -> None:
    text = 'import words\nassert words.WORD == "{word}", words.WORD\n' + dedent(WORKING)
    files = [write(folder, text) for folder in ("one", "two")]
    before = list(sys.path), set(sys.modules)

    def load_often(file: str) -> None:
        for _ in range(100):
            load_hooks([file])

    with ThreadPoolExecutor() as pool:
        for loading in [pool.submit(load_often, file) for file in files]:
            loading.result()
    assert list(sys.path) == before[0]
    assert {name for name in set(sys.modules) - before[1] if "hook" in name or "words" in name} == (
        set()
    )


def test_a_hook_at_work_imports_what_lies_beside_it_however_late(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no other can be loaded meanwhile; who wants to look at one is told."""
    one, two = write("one"), write("two")
    monkeypatch.setattr(imports, "PATIENCE", 0.3)
    with at_work(one), pytest.raises(Conflict, match="a hook is at work in another thread"):
        load_hooks([two])
    load_hooks([two])


def test_a_look_waits_for_a_hook_that_ends_soon(write: Write) -> None:
    one, two = write("one"), write("two")
    with ThreadPoolExecutor() as pool:
        with at_work(one) as running:
            looking = pool.submit(load_hooks, [two])
        assert [hook.labels.name for hook in looking.result()] == [two]
        assert running.done()


def test_a_hook_that_waits_for_another_is_cancelled_all_the_same(write: Write) -> None:
    def cancel() -> None:
        raise Cancelled

    one, (two,) = write("one"), load_hooks([write("two")])
    with at_work(one), pytest.raises(Cancelled):
        two.run_in(int, Output(SilentReporter(), ()), cancel)  # type: ignore[union-attr]


def test_a_hook_may_run_hooks_itself(write: Write) -> None:
    one, two = write("one"), write("two")
    run(one, lambda: run(two, lambda: None))
