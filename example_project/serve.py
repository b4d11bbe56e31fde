"""The shop with its admin and a worker, until somebody has seen enough."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MANAGE = Path(__file__).with_name("manage.py")

LOGIN = "admin"

STARTS_WITHIN = 30.0
"""Seconds."""

STOPS_WITHIN = 20.0
"""Seconds; the worker finishes what it is at."""


class DidNotServe(Exception):
    """The site or its worker has ended by itself, or has not begun."""


class Site:
    """The site on a port of this machine and a ``qcluster``, with an account to log in."""

    def __init__(self, environment: dict[str, str], port: int = 0) -> None:
        self.port = port
        """0 until it runs, where any free one will do."""
        self.password = secrets.token_urlsafe(9)
        self._has_account = False
        self._environment = environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/admin/"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Both processes, for the length of the block."""
        self.make_account()
        self.port = self.port or _free_port()
        try:
            self._start("the worker", "qcluster")
            self._start("the site", "runserver", "--noreload", f"127.0.0.1:{self.port}")
            self._wait_until_it_answers()
            yield
        finally:
            self._stop()

    def wait(self) -> None:
        """Returns never, unless a process ends: :class:`DidNotServe`."""
        while True:
            self._check()
            time.sleep(0.5)

    def make_account(self) -> None:
        """The account to log in with; also before, so that a dump has it."""
        if self._has_account:
            return
        self._has_account = True
        subprocess.run(  # noqa: S603 - our own manage.py
            [sys.executable, MANAGE, "createsuperuser", "--noinput", "--verbosity=0"],
            env={
                **self._environment,
                "DJANGO_SUPERUSER_USERNAME": LOGIN,
                "DJANGO_SUPERUSER_EMAIL": "admin@example.com",
                "DJANGO_SUPERUSER_PASSWORD": self.password,
            },
            check=True,
        )

    def _start(self, name: str, *arguments: str) -> None:
        self._processes[name] = subprocess.Popen(  # noqa: S603 - our own manage.py
            [sys.executable, MANAGE, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is ours to pass on, to the main process alone
        )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            self._check()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            if time.monotonic() > deadline:
                raise DidNotServe("the site does not answer")
            time.sleep(0.1)

    def _check(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise DidNotServe(f"{name} has ended with status {process.returncode}")

    def _stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
